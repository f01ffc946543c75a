"""What each input of the agent means for the appeals of its item: pure functions that the transform calls."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from safeguard_streams.contract.records import Action, EnforcementInput, Standing
from safeguard_streams.enforcement import appeals
from safeguard_streams.releases.people import made_plain

_NOT_FOLLOWED = "not followed: "


def objection(one: EnforcementInput, standing: Standing) -> str:
    """Why a moderator's record is not followed, because of an appeal; empty if it may be, and for other inputs."""
    action = one.action
    if action is None or action.sequence is not None or _is_repeated_outcome(action, standing):
        return ""
    return appeals.objection(action, standing)


def _is_repeated_outcome(action: Action, standing: Standing) -> bool:
    """Whether a record is an outcome that was followed before. Any other record may bear its id, written by hand."""
    return action.outcome is not None and appeals.is_repeated(action, standing)


def not_followed(action: Action, standing: Standing, sequence: int, why: str) -> Action:
    """A moderator's record that is not followed, as the history of its item shows it."""
    return msgspec.structs.replace(
        action,
        by=action.by and made_plain(action.by),
        why=f"{_NOT_FOLLOWED}{why}",
        state="overridden",
        effective=standing.effective,
        previous=standing.effective,
        sequence=sequence,
    )


def was_refused(action: Action) -> bool:
    """Whether an action is the record of one that was not followed. Written again later, that may be followed."""
    return action.state == "overridden" and action.why.startswith(_NOT_FOLLOWED)


def refusal(action: Action) -> str:
    """Why the agent did not follow what a moderator wrote; empty for any other action."""
    return action.why.removeprefix(_NOT_FOLLOWED) if was_refused(action) else ""


def followed(
    one: EnforcementInput, actions: Sequence[Action], standing: Standing, days: float, sequence: int
) -> tuple[Standing, list[Action]]:
    """What stands once an input and its actions were followed, and the records of the appeals that ended by it.

    days: how long people have to decide an appeal.
    """
    ended: list[Action] = []
    if one.appeal is not None:
        standing, ended = appeals.opened(one.appeal, standing, days, sequence)
    cause = _persons(one, actions)
    if cause is not None:
        standing = appeals.remembered(standing, cause)
        if cause.outcome is not None:
            standing, ended = appeals.decided(cause, standing)
    if appeals.open_appeals(standing):
        standing, settled = appeals.settled(standing, cause, sequence)
        ended = [*ended, *settled]
    return standing, ended


def _persons(one: EnforcementInput, actions: Sequence[Action]) -> Action | None:
    """The record of a person that was followed now. One that is only sent again was followed before."""
    if one.action is None or one.action.sequence is not None:
        return None
    return next((action for action in actions if action.state == "applied" and action.by is not None), None)
