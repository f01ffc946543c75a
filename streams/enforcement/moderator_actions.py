"""The actions that follow what moderators write: decisions, their ends, releases, and actions to be sent again."""

from __future__ import annotations

import msgspec

from safeguard_streams.contract.records import Action, ModeratorDecision, aware, came_later, newest_place, verdict_id
from safeguard_streams.enforcement import appeals, texts
from safeguard_streams.enforcement.standing import after_action, with_effective
from safeguard_streams.enforcement.state import EnforcementState
from safeguard_streams.releases.erasures import Erased, without_words
from safeguard_streams.releases.people import made_plain

MAX_REPLACED = 8  # decisions about an item that an undo can bring back, the newest


def received(action: Action, erased: Erased) -> Action:
    """A record of an action as the agent follows it. Of a moderator's record, what only an agent says is left out."""
    action = msgspec.structs.replace(without_words(action, erased), acted_at=aware(action.acted_at))
    if action.sequence is not None:
        return action
    action = msgspec.structs.replace(
        action,
        statement=None,
        ends_statement=None,
        alert=False,
        verdict_id=None if action.human else action.verdict_id,
    )
    return appeals.as_decision(action) if action.outcome == "overturned" else action


def followed(
    action: Action, state: EnforcementState, sequence: int, erased: Erased, *, requeued: bool
) -> Action | None:
    """The action that follows a moderator's record; None where nothing does. The state includes it on return.

    requeued: the record stands later in its topic than it belongs.
    """
    if action.outcome is not None and appeals.is_repeated(action, state[action.content_id]):
        return None
    if action.outcome == "upheld":
        return appeals.upheld(action, state[action.content_id], sequence)
    if action.withdraws is not None:
        return _withdrawn(action, state, sequence)
    if action.human:
        return _decided(action, state, sequence, requeued=requeued)
    return _released(action, state, sequence, erased)


def _decided(action: Action, state: EnforcementState, sequence: int, *, requeued: bool) -> Action | None:
    """A moderator's decision about an item. It overrides all verdicts on the text, and an earlier decision.

    A requeued decision stands later in its topic than it belongs, so a newer decision overrides it. One about a text
    that the item no longer has is overridden, too.
    """
    standing, at = state[action.content_id], action.acted_at
    earlier = standing.decision
    if action.action_id in {one.action_id for one in (earlier, *standing.replaced) if one is not None}:
        return None  # followed before; anybody may have written it again
    if requeued and earlier is not None and at <= earlier.at:
        return None
    if not state.add_decision(action):
        return None
    by, why = action.by and made_plain(action.by), made_plain(action.why)
    text = action.content_sha256 or standing.content_sha256
    author = standing.author_id or action.author_id
    followed = msgspec.structs.replace(
        action,
        by=by,
        why=why,
        previous=standing.effective,
        content_sha256=text,
        sequence=sequence,
        author_id=author,
    )
    edited = text != standing.content_sha256 and came_later(action.origin, standing.origin) is False
    if edited and not action.any_text:
        return msgspec.structs.replace(followed, state="overridden", effective=standing.effective)
    cited = (action.cited_policy, action.rule_ids)
    decision = ModeratorDecision(
        *(action.action, action.action_id, at, by, why, text, action.any_text, *cited),
        earlier_texts=appeals.overturned_texts(action, standing, text),
    )
    if not edited:
        same = text == standing.content_sha256
        origin = newest_place(action.origin, standing.origin, same_text=same) or standing.origin
        standing = msgspec.structs.replace(standing, content_sha256=text, origin=origin)
    replaced = (((earlier,) if earlier else ()) + standing.replaced)[:MAX_REPLACED]
    standing = msgspec.structs.replace(standing, decision=decision, replaced=replaced, author_id=author)
    state.put(with_effective(standing))
    return msgspec.structs.replace(followed, state="applied", effective=action.action)


def _withdrawn(action: Action, state: EnforcementState, sequence: int) -> Action | None:
    """The end of a moderator's decision, if it is still the last one.

    What the verdicts say stands again or, with `reinstates`, the decision that this one replaced. A decision that
    another one replaced meanwhile is over, too: no undo brings it back.
    """
    standing = state[action.content_id]
    if standing.decision is None or standing.decision.action_id != action.withdraws:
        others = tuple(one for one in standing.replaced if one.action_id != action.withdraws)
        state.put(msgspec.structs.replace(standing, replaced=others))
        return None
    replaced = standing.replaced if action.reinstates else ()
    before = replaced[0] if replaced else None
    after = with_effective(msgspec.structs.replace(standing, decision=before, replaced=replaced[1:]))
    state.put(after)
    return msgspec.structs.replace(
        action,
        action=after.effective,
        by=action.by and made_plain(action.by),
        why=made_plain(action.why),
        state="applied",
        previous=standing.effective,
        effective=after.effective,
        content_sha256=standing.decision.content_sha256,
        sequence=sequence,
        author_id=standing.author_id or action.author_id,
    )


def _released(action: Action, state: EnforcementState, sequence: int, erased: Erased) -> Action | None:
    """The release of a held action, if that action still waits: a later verdict or decision replaces it.

    It is not released for a text that the moderator never saw, unless the moderator says so.
    """
    standing = state[action.content_id]
    policy = standing.policy(action.policy_id or "")
    if standing.in_force is not None or policy.held is None or policy.held.action_id != action.releases:
        return None
    if texts.is_outdated(policy.held, standing) and not action.any_text:
        return None
    released = msgspec.structs.replace(
        without_words(policy.held, erased),
        action_id=action.action_id,
        state="applied",
        previous=policy.action,
        acted_at=action.acted_at,
        by=action.by and made_plain(action.by),
        why=made_plain(action.why),
        releases=action.releases,
        any_text=action.any_text,
        alert=False,
        sequence=sequence,
        author_id=standing.author_id or policy.held.author_id,
    )
    after = with_effective(after_action(standing, released))
    state.put(after)
    return msgspec.structs.replace(released, effective=after.effective)


def sent_again(action: Action, state: EnforcementState, sequence: int) -> Action | None:
    """An action that the receiver had not accepted, if what it says still stands; with its statement if that holds."""
    standing = state[action.content_id]
    if action.effective != standing.effective:
        return None
    holds = action.statement is not None and action.statement.statement_id == standing.statement
    return msgspec.structs.replace(action, sequence=sequence, statement=action.statement if holds else None)


def told_again(action: Action, state: EnforcementState, sequence: int) -> Action | None:
    """What stands on an item of which somebody says that the receiver had not accepted an action, if it is that.

    The record may be anybody's. The agent repeats neither its words nor an outcome, nor its id, which a receiver may
    take for that of another message.
    """
    standing = state[action.content_id]
    if action.effective != standing.effective:
        return None
    again = appeals.unchanged(standing, verdict_id(action.action_id, str(sequence), "told again"), sequence)
    return msgspec.structs.replace(again, previous=action.previous, why="sent again")
