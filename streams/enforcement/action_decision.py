"""The pure decision which action follows a verdict, and whether it is applied, held above a cap, or overridden."""

from __future__ import annotations

import msgspec

from safeguard_streams.contract.records import ActionState, PolicyStanding, Standing, Verdict
from safeguard_streams.enforcement.rules import Cap, RuleChoice, severity


class Situation(msgspec.Struct, frozen=True):
    """All that the action for a verdict depends on.

    chosen: what the rules choose for the verdict. standing: what stands under its policy. overruled: why the verdict
    has no effect; empty if it has one. share: the changes that the cap allows this partition. cap_reached: one more
    change would exceed them. alerted: an alert was raised within the cap's window.
    """

    verdict: Verdict
    chosen: RuleChoice
    standing: PolicyStanding
    overruled: str
    cap: Cap
    share: int
    cap_reached: bool
    alerted: bool


class ActionDecision(msgspec.Struct, frozen=True):
    """The action for a verdict, the rule that chose it, and whether it is applied, held or overridden, and why."""

    chosen: RuleChoice
    state: ActionState
    why: str = ""
    alert: bool = False


def decide_action(situation: Situation) -> ActionDecision | None:
    """Decide what follows a verdict; None where it allows content that is already allowed."""
    chosen, previous = _keep_standing(situation), situation.standing.action
    if chosen.action == previous == "allow" and situation.standing.held is None:
        return None
    if situation.overruled:
        return ActionDecision(chosen, "overridden", situation.overruled)
    if chosen.action != previous and situation.cap_reached:
        return ActionDecision(chosen, "held", situation.cap.above(situation.share), alert=not situation.alerted)
    return ActionDecision(chosen, "applied")


def _keep_standing(situation: Situation) -> RuleChoice:
    """What the rules choose. An undetermined verdict says nothing about the content, so it reverses nothing."""
    chosen, standing = situation.chosen, situation.standing.action
    if situation.verdict.decision == "undetermined" and severity(standing) > severity(chosen.action):
        return RuleChoice(standing, f"{chosen.rule}; the standing action is kept")
    return chosen


def overruled(standing: Standing, *, earlier: bool) -> str:
    """Why a verdict has no effect on an item; empty if it has one. earlier: it is about a text the item had before."""
    if standing.in_force is not None:
        return f"a moderator decided: {standing.in_force.action}"
    return "it is about an earlier text" if earlier else ""
