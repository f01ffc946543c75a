"""Appeals as the agent follows them: which it opens, who may decide them, and when they end.

An appeal is a part of what stands on its item. It ends once: by a person's outcome, or because what it names stands no
more. Nobody who decided about the item before decides its appeal, however the record was written: the agent does not
follow such a record. While an appeal is open, these people change nothing else about the item, because that would
decide the appeal as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import msgspec

from safeguard_streams.contract.records import (
    EVERY_POLICY,
    Action,
    Appeal,
    AppealOutcome,
    AppealStanding,
    PolicyStanding,
    Standing,
    aware,
    came_later,
    now,
    verdict_id,
)
from safeguard_streams.enforcement.rules import severity
from safeguard_streams.policies.folding import is_invisible, normalized
from safeguard_streams.releases.people import LONGEST_NAME, made_plain
from safeguard_streams.runtime import metrics

MAX_OPEN = 16  # appeals of one item; what comes beyond is refused, and answered by the outcome of these
MAX_ENDED = 8  # appeals of one item that a person decided, and as many that ended otherwise, the newest
MAX_DECIDERS = 256  # names that are remembered of one item, the newest
UNKNOWN_DAYS = 30.0  # how long appeals are remembered about an item of which nothing else is
BY_PERSON: tuple[AppealOutcome, ...] = ("upheld", "overturned")
NOT_BEFORE = "somebody who decided about the item before may not decide its appeal, or change anything while it is open"


def person(name: str | None) -> str:
    """The form in which names of people are compared: neither case nor width, blanks or hidden characters matter.

    U+FFFD stands for hidden characters in names that were made plain. U+2800 is a blank.
    """
    folded = normalized("NFKC", (name or "").replace("\ufffd", "").replace("\u2800", " ")).casefold()
    seen = "".join(one for one in folded if not is_invisible(one))
    return " ".join(seen.split())[:LONGEST_NAME]


def deciders(standing: Standing) -> frozenset[str]:
    """Who decided about an item before, as `person` writes names."""
    decisions = [one for one in (standing.decision, *standing.replaced) if one is not None]
    return frozenset(map(person, [*standing.deciders, *(one.by for one in decisions if one.by)]))


def may_decide(standing: Standing, by: str | None) -> bool:
    """Whether somebody may decide the appeals of an item."""
    return bool(person(by)) and person(by) not in deciders(standing)


def open_appeals(standing: Standing) -> list[AppealStanding]:
    """The appeals of an item that wait for a person, the first due first."""
    return sorted((one for one in standing.appeals if one.state == "open"), key=lambda one: one.due_at)


def remembered(standing: Standing, action: Action) -> Standing:
    """What stands after a moderator's record was followed: its author decided about the item."""
    if action.by is None or person(action.by) in map(person, standing.deciders):
        return standing
    name = action.by if len(action.by) <= LONGEST_NAME else person(action.by)
    return msgspec.structs.replace(standing, deciders=(*standing.deciders, name)[-MAX_DECIDERS:])


def kept(before: Standing, after: Standing, days: float) -> Standing:
    """What stands after an input, with the time at which the agent forgets the item if nothing stands on it.

    An appeal can come later, also about what stands no more, and nobody decides it who decided before. days: how long
    who decided is remembered. Appeals about an item of which no person ever decided anything are remembered for
    UNKNOWN_DAYS at most, because anybody may appeal anything.
    """
    if after.stands or after.empty:
        return after if after.kept_until is None else msgspec.structs.replace(after, kept_until=None)
    same = (before.deciders, before.appeals) == (after.deciders, after.appeals)
    if same and after.kept_until is not None:
        return after
    known = after.deciders or any(one.state in BY_PERSON for one in after.appeals)
    until = _later(now(), timedelta(days=days if known else min(days, UNKNOWN_DAYS)))
    return msgspec.structs.replace(after, kept_until=until)


# ---------------------------------------------------------------------- opening


def opened(appeal: Appeal, standing: Standing, days: float, sequence: int) -> tuple[Standing, list[Action]]:
    """What stands once an appeal was read, and the record of its end where it ends at once.

    The same appeal again changes nothing.
    """
    if any(one.appeal_id == appeal.identity for one in standing.appeals):
        return standing, []
    moment = now()
    made = min(aware(appeal.created_at), moment)
    entry = AppealStanding(
        appeal.identity,
        appeal.appellant,
        "open",
        made,
        _later(made, timedelta(days=days)),
        standing.effective,
        _grounds(standing),
    )
    standing = _with(standing, entry)
    ended = _ended_at_once(appeal, standing)
    metrics.APPEALS.add(1, {"appellant": appeal.appellant, "outcome": "opened"})
    if ended is None:
        return standing, []
    outcome, why = ended
    return _end(standing, entry, outcome, why, sequence)


def _ended_at_once(appeal: Appeal, standing: Standing) -> tuple[AppealOutcome, str] | None:
    """Why no person is to decide an appeal; None if one is."""
    if appeal.appellant == "author" and not _stands(appeal, standing):
        return "moot", "what the appeal names does not stand, or does not stand any more"
    if appeal.appellant == "notifier" and _settled(appeal.appellant, standing):
        return "moot", "the severest action stands on the item already"
    for one in standing.appeals:
        decided = one.state in BY_PERSON and one.appellant == appeal.appellant
        if decided and one.grounds == _grounds(standing):
            return "refused", f"an appeal of the same was {one.state} before, and nothing has changed since"
    if len(open_appeals(standing)) > MAX_OPEN:
        return "refused", f"{MAX_OPEN} appeals of the item are open, and their outcome holds for this one"
    return None


def _stands(appeal: Appeal, standing: Standing) -> bool:
    """Whether what an author's appeal names is in effect, or led to what is."""
    decided = standing.in_force
    led = [policy for policy in standing.policies if _led_to(appeal, policy)]
    if decided is None:
        return any(policy.action != "allow" for policy in led)
    named = {one.action_id for one in (decided, *standing.replaced)}
    return decided.action != "allow" and (bool(led) or appeal.action_id in named)


def _led_to(appeal: Appeal, policy: PolicyStanding) -> bool:
    """Whether an appeal names what stands under a policy: its action, one of its last verdicts, or an action of these.

    A verdict that repeats an action has an action of its own, of which the platform never learns.
    """
    if appeal.verdict_id in policy.verdict_ids:
        return True
    actions = [verdict_id(one, "action") for one in policy.verdict_ids]
    return appeal.action_id in {policy.action_id, *actions, *(verdict_id(one, "release") for one in actions)} - {None}


def _grounds(standing: Standing) -> str:
    """What is in effect on an item, and on which text: another text, action or decision is something else."""
    decided = standing.in_force
    said = sorted(f"{one.policy_id} {one.action}" for one in standing.policies if one.action != "allow")
    return verdict_id("grounds", standing.content_sha256 or "", *([decided.action_id] if decided else said))


# ---------------------------------------------------------------------- people


def objection(action: Action, standing: Standing) -> str:
    """Why the agent does not follow a record that a moderator wrote; empty if it may."""
    if problem := _no_record_of_a_person(action):
        return problem
    if action.outcome is None and action.appeal_id is None:
        refused = open_appeals(standing) and _would_change(action, standing) and not may_decide(standing, action.by)
        return NOT_BEFORE if refused else ""
    if action.outcome not in BY_PERSON:
        return "a person upholds or overturns an appeal: write that as its outcome"
    appeal = next((one for one in standing.appeals if one.appeal_id == action.appeal_id), None)
    if appeal is None or appeal.state != "open":
        return f"the appeal is {appeal.state}" if appeal else "no appeal of this id is known about the item"
    if not may_decide(standing, action.by):
        return NOT_BEFORE
    return _no_reversal(appeal, action, standing) if action.outcome == "overturned" else ""


def _no_record_of_a_person(action: Action) -> str:
    """Why a record is none that a moderator writes; empty if it is one."""
    if not person(action.by):
        return "it names nobody: write who decided, as by"
    if not action.human and None is action.releases is action.withdraws is action.outcome:
        return "it names a policy, as the agent's own records do: leave policy_id out of a decision"
    return ""


def _no_reversal(appeal: AppealStanding, action: Action, standing: Standing) -> str:
    """Why a decision does not overturn what is appealed; empty if it does."""
    same_text = None in (action.content_sha256, standing.content_sha256) or (
        action.content_sha256 == standing.content_sha256
    )
    if not same_text and not action.any_text and came_later(action.origin, standing.origin) is not True:
        return "the item has another text by now: read that first"
    milder = severity(action.action) < severity(standing.effective)
    harsher = severity(action.action) > severity(standing.effective)
    if appeal.appellant == "author" and not milder:
        return f"to overturn an author's appeal, choose an action milder than {standing.effective}"
    if appeal.appellant == "notifier" and not harsher:
        return f"to overturn a notifier's appeal, choose an action harsher than {standing.effective}"
    return ""


def is_repeated(action: Action, standing: Standing) -> bool:
    """Whether a record is the outcome that ended its appeal, written once more."""
    return any(one.outcome_id == action.action_id for one in standing.appeals)


def _would_change(action: Action, standing: Standing) -> bool:
    """Whether a moderator's record would change what stands. One that comes again does not."""
    if action.withdraws is not None:
        return standing.decision is not None and standing.decision.action_id == action.withdraws
    if action.releases is not None:
        return any(one.held is not None and one.held.action_id == action.releases for one in standing.policies)
    known = {one.action_id for one in (standing.decision, *standing.replaced) if one is not None}
    return action.action_id not in known


def overturned_texts(action: Action, standing: Standing, text: str | None) -> tuple[str, ...]:
    """The earlier texts of which a record says that nothing was wrong about them: it overturns an appeal to allow.

    text: the one that the record is about itself.
    """
    if action.outcome != "overturned" or action.action != "allow":
        return ()
    restricted = {policy.content_sha256 for policy in standing.policies if policy.action != "allow"}
    return tuple(sorted(one for one in restricted if one is not None and one != text))


def as_decision(action: Action) -> Action:
    """The record of an overturned appeal as what it is, a decision about the item, whatever else a hand wrote in it."""
    return msgspec.structs.replace(action, policy_id=None, withdraws=None, releases=None)


def upheld(action: Action, standing: Standing, sequence: int) -> Action:
    """The record that an appeal was upheld: what stands stays as it is, and no decision is added."""
    return msgspec.structs.replace(
        unchanged(standing, action.action_id, sequence),
        acted_at=action.acted_at,
        by=action.by and made_plain(action.by),
        why=made_plain(action.why),
        rule_ids=action.rule_ids,
        cited_policy=action.cited_policy,
        appeal_id=action.appeal_id,
        outcome="upheld",
    )


def decided(followed: Action, standing: Standing) -> tuple[Standing, list[Action]]:
    """What stands once an outcome was followed, and the records of the ends of other appeals.

    The outcome holds for each open appeal of the item by the same kind of appellant.
    """
    outcome, sequence = followed.outcome, followed.sequence
    assert outcome is not None
    assert sequence is not None
    chosen = next(one for one in standing.appeals if one.appeal_id == followed.appeal_id)
    standing = _with(remembered(standing, followed), _closed(chosen, standing, outcome, followed))
    _count(chosen.appellant, outcome)
    actions: list[Action] = []
    for one in open_appeals(standing):
        if one.appellant == chosen.appellant:
            why = f"decided with the appeal {chosen.appeal_id}"
            standing, ended = _end(standing, one, outcome, why, sequence, followed.by)
            actions += ended
    return standing, actions


# ---------------------------------------------------------------------- ending


def settled(standing: Standing, cause: Action | None, sequence: int) -> tuple[Standing, list[Action]]:
    """The ends of the appeals of which nothing is left to decide, after an input was followed.

    cause: the moderator's record that was followed. A person's decision that gives an appellant all that was asked for
    overturns what was appealed; otherwise the appeal is moot.
    """
    actions: list[Action] = []
    for one in open_appeals(standing):
        if _settled(one.appellant, standing):
            by = cause.by if cause is not None else None
            outcome: AppealOutcome = "overturned" if by else "moot"
            why = "a moderator decided about the item" if by else "what the appeal is about stands no more"
            standing, ended = _end(standing, one, outcome, why, sequence, by)
            actions += ended
    return standing, actions


def _settled(appellant: str, standing: Standing) -> bool:
    """Whether an appellant could gain nothing more: nothing restricts the item, or the severest action does."""
    return standing.effective == ("allow" if appellant == "author" else "remove")


def _end(
    standing: Standing,
    appeal: AppealStanding,
    outcome: AppealOutcome,
    why: str,
    sequence: int,
    by: str | None = None,
) -> tuple[Standing, list[Action]]:
    """End an appeal by a record of the agent's own."""
    action = msgspec.structs.replace(
        unchanged(standing, verdict_id("appeal", appeal.appeal_id, standing.content_id, "ended"), sequence),
        by=by,
        why=why,
        appeal_id=appeal.appeal_id,
        outcome=outcome,
    )
    _count(appeal.appellant, outcome)
    return _with(standing, _closed(appeal, standing, outcome, action)), [action]


def unchanged(standing: Standing, action_id: str, sequence: int) -> Action:
    """A record of the agent that says what stands, and changes nothing of it."""
    return Action(
        action_id,
        standing.content_id,
        standing.effective,
        now(),
        effective=standing.effective,
        previous=standing.effective,
        policy_id=EVERY_POLICY,
        sequence=sequence,
        content_sha256=standing.content_sha256,
        origin=standing.origin,
        author_id=standing.author_id,
    )


def _closed(appeal: AppealStanding, standing: Standing, outcome: AppealOutcome, action: Action) -> AppealStanding:
    return msgspec.structs.replace(
        appeal,
        state=outcome,
        grounds=_grounds(standing),
        closed_at=aware(action.acted_at),
        by=action.by,
        outcome_id=action.action_id,
    )


def _with(standing: Standing, appeal: AppealStanding) -> Standing:
    """What stands with an appeal in its present state, in the order in which appeals ended or came."""
    others = [one for one in standing.appeals if one.appeal_id != appeal.appeal_id]
    return msgspec.structs.replace(standing, appeals=tuple(_kept([*others, appeal])))


def _kept(appeals: Sequence[AppealStanding]) -> Iterator[AppealStanding]:
    """All open appeals, and the newest of those that ended, apart by whether a person decided them."""
    for number, one in enumerate(appeals):
        alike = [other for other in appeals[number + 1 :] if _kind(other) == _kind(one)]
        if one.state == "open" or len(alike) < MAX_ENDED:
            yield one


def _kind(appeal: AppealStanding) -> str:
    return "decided" if appeal.state in BY_PERSON else appeal.state if appeal.state == "open" else "ended"


def _later(moment: datetime, span: timedelta) -> datetime:
    """A time so much later, or the time itself at the end of the calendar."""
    try:
        return moment + span
    except OverflowError:
        return moment


def _count(appellant: str, outcome: AppealOutcome) -> None:
    metrics.APPEALS.add(1, {"appellant": appellant, "outcome": outcome})
