"""The pure ledger: an author's standing after each record of moderation.strikes, and the action that follows.

Time comes from the records alone. An author's clock is the latest time of the author's strikes, and a record of state
`aged` moves it on when nobody writes. What stands is therefore a function of the log: another process that reads the
same records ends in the same state.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from safeguard_streams.contract.limits import AUTHOR_STRIKES
from safeguard_streams.contract.records import (
    AuthorAction,
    AuthorDecision,
    AuthorStanding,
    Strike,
    aware,
    now,
    origin_of,
    verdict_id,
)
from safeguard_streams.enforcement.author_rules import ACCOUNT_RESTRICTIONS, AuthorRules, counts
from safeguard_streams.releases.people import made_plain

MAX_DECIDED = 16  # ids of decisions, to recognise one that is written again
AGENT = ("given", "taken-back", "aged")  # records whose time is that of an agent: a person's clock moves no other
_ABOUT_STRIKES = ("given", "taken-back", "forgiven")
AT_FIRST = datetime.fromtimestamp(0, UTC)  # the clock of an author without strikes


class Place(NamedTuple):
    """Where a record of moderation.strikes stands."""

    partition: int
    offset: int


def undo_id(author_id: str, decision_id: str) -> str:
    """The id of the record that takes a decision about an author back."""
    return verdict_id(author_id, decision_id, "undecided")


class Step(NamedTuple):
    """An author's standing after a record, and the action that follows from it, if one does."""

    standing: AuthorStanding
    action: AuthorAction | None


def follow(standing: AuthorStanding, entry: Strike, rules: AuthorRules, place: Place) -> Step:
    """Follow one record about an author."""
    before, clock = standing, standing.clock or AT_FIRST
    if entry.state in AGENT:
        clock = max(clock, aware(entry.at))
    if entry.state == "forgotten":
        standing = AuthorStanding(standing.author_id, standing.partitions, action=before.action)
    standing = _with_decision(standing, entry)
    strikes = _kept(_with_strike(standing.strikes, entry), clock)
    stands, decided = rules.stands(strikes, clock), standing.decision
    after = msgspec.structs.replace(
        standing,
        strikes=strikes,
        weight=sum(one.weight for one in strikes if counts(one, clock)),
        action=decided.action if decided else stands.action,
        rule=None if decided else stands.rule,
        clock=clock if strikes else None,
        due=rules.due(strikes, clock),
        thresholds=rules.digest,
    )
    if not _is_action(before, after, raised=stands.rank > rules.rank_of(before.rule)):
        return Step(after, None)
    action = _action(before, after, entry, place)
    return Step(msgspec.structs.replace(after, since=action.acted_at, sequence=action.sequence), action)


def _with_strike(strikes: tuple[Strike, ...], entry: Strike) -> tuple[Strike, ...]:
    """An author's strikes after a record about one of them. What a person forgave stays forgiven."""
    known = next((one for one in strikes if one.strike_id == entry.strike_id), None)
    if known is not None and known.state == "forgiven":
        return strikes
    if entry.state == "given":
        return (*(one for one in strikes if one is not known), _given(entry, known))
    if known is None or entry.state not in ("taken-back", "forgiven"):
        return strikes
    by = {} if entry.state == "taken-back" else {"by": entry.by and made_plain(entry.by), "why": made_plain(entry.why)}
    changed = msgspec.structs.replace(known, state=entry.state, **by)
    return tuple(changed if one is known else one for one in strikes)


def _given(entry: Strike, known: Strike | None) -> Strike:
    """A strike as it is kept, without what its id and its verdict tell.

    One that was known keeps its age: to be judged again makes it no younger.
    """
    at, expires_at = aware(entry.at), aware(entry.expires_at or entry.at)
    first = min(at, known.at) if known else at
    return msgspec.structs.replace(
        entry, at=first, expires_at=expires_at - (at - first), content_sha256=None, action_id=None
    )


def _kept(strikes: Iterable[Strike], clock: datetime) -> tuple[Strike, ...]:
    """The strikes that have not expired, oldest first, at most AUTHOR_STRIKES of them."""
    alive = [one for one in strikes if one.expires_at is not None and one.expires_at > clock]
    return tuple(sorted(alive, key=lambda one: (one.at, one.strike_id))[-AUTHOR_STRIKES:])


def _with_decision(standing: AuthorStanding, entry: Strike) -> AuthorStanding:
    """What a person decided about the author, once for each record id, or the end of that.

    The end of a decision that another one replaced meanwhile ends nothing.
    """
    if entry.state not in ("decided", "undecided") or entry.strike_id in standing.decided:
        return standing
    present = standing.decision
    replaced = [one for one in standing.decided if present is not None and one != present.decision_id]
    is_late = entry.state == "undecided" and entry.strike_id in {undo_id(entry.author_id, one) for one in replaced}
    decision = present if is_late else None
    if entry.state == "decided" and entry.action is not None:
        by, why = entry.by and made_plain(entry.by), made_plain(entry.why)
        decision = AuthorDecision(entry.action, entry.strike_id, aware(entry.at), by, why)
    decided = (entry.strike_id, *standing.decided)[:MAX_DECIDED]
    return msgspec.structs.replace(standing, decision=decision, decided=decided)


def _is_action(before: AuthorStanding, after: AuthorStanding, raised: bool) -> bool:
    """Whether an action follows: something else stands, a person decided, or a higher threshold is passed.

    A person's decision that ends is an action, too, if the strikes restrict the account as it did: the statement of
    reasons is another one then.
    """
    if after.action != before.action:
        return True
    if after.decision is not None:
        return after.decision != before.decision
    return raised if before.decision is None else after.action in ACCOUNT_RESTRICTIONS


def _action(before: AuthorStanding, after: AuthorStanding, entry: Strike, place: Place) -> AuthorAction:
    """The action that follows a record. Its id comes from the place of the record, which no other record has."""
    return AuthorAction(
        verdict_id(before.author_id, origin_of(*place), "author action"),
        before.author_id,
        after.action,
        before.action,
        now(),
        place.offset,
        after.weight,
        after.rule,
        entry.strike_id if entry.state in _ABOUT_STRIKES else None,
        entry.verdict_id,
        entry.content_id,
        entry.by and made_plain(entry.by),
        made_plain(entry.why),
    )
