"""What was done about one content item, from its actions in the order in which enforcement wrote them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from safeguard_streams.contract.records import EVERY_POLICY, Action, Enforced

RESTRICTIONS: tuple[Enforced, ...] = ("label", "limit", "remove")
NO_POLICY = ""  # of a person's decision that cites none
OVERTURNED = "overturned"
BY_PERSON = ("upheld", OVERTURNED)  # outcomes of appeals that a person decided


class Measure(msgspec.Struct, frozen=True):
    """A restriction that was put on an item. automated: no person decided it or released it."""

    at: datetime
    policy_id: str
    action: Enforced
    automated: bool


class Check(msgspec.Struct, frozen=True):
    """A person decided about an item on which a violating verdict had led to an action. policy_id: the verdict's.

    restricted: what had followed was a restriction. allowed: the person allowed the item.
    """

    at: datetime
    policy_id: str
    restricted: bool
    allowed: bool


class Change(msgspec.Struct, frozen=True):
    """What stood on an item from a time on. automated: no person decided that. decided: it is a person's decision."""

    at: datetime
    effective: Enforced
    automated: bool
    decided: bool


class Appealed(msgspec.Struct, frozen=True):
    """An appeal: what it names, and by whom it was made."""

    appeal_id: str
    appellant: str
    created_at: datetime
    action_id: str | None = None
    verdict_id: str | None = None


class AppealEnd(msgspec.Struct, frozen=True):
    """How an appeal ended. action: what it names, if that is in the export."""

    appeal: Appealed
    at: datetime
    outcome: str
    action: Action | None


class History(msgspec.Struct):
    """All that happened to an item."""

    measures: list[Measure] = []
    checks: list[Check] = []
    changes: list[Change] = []
    ends: list[AppealEnd] = []


def history(actions: Iterable[Action], appeals: Sequence[Appealed]) -> History:
    """The history of an item. appeals: those about it.

    Only the agent's records count, each action_id once: what a moderator wrote has a sequence once the agent followed
    it. Actions of dry runs, those that were held or overridden, and messages that say again what stands, did nothing.
    """
    fold = _Fold({one.appeal_id: one for one in appeals})
    for action in actions:
        followed = action.sequence is not None and not action.dry_run
        if followed and action.state == "applied" and action.action_id not in fold.seen and not _says_again(action):
            fold.take(action)
    return fold.end()


def _says_again(action: Action) -> bool:
    """Whether an action only tells the platform again what stands, after a message that it had not accepted."""
    return action.policy_id == EVERY_POLICY and action.verdict_id is None and action.outcome is None


class _Fold:
    def __init__(self, appeals: dict[str, Appealed]) -> None:
        self.seen: dict[str, Action] = {}
        self._appeals = appeals
        self._standing: dict[str, Action] = {}  # by policy: the last action that followed a verdict
        self._checks: dict[str, dict[str, Check]] = {}  # by action that was checked, then by decision
        self._history = History()

    def take(self, action: Action) -> None:
        self.seen[action.action_id] = action
        outcome = action.outcome
        if action.withdraws is not None:
            for by_decision in self._checks.values():
                by_decision.pop(action.withdraws, None)
        elif action.human or outcome in BY_PERSON:
            self._check(action)
        elif outcome is None:
            self._standing[action.policy_id or NO_POLICY] = action
        if outcome is not None:
            self._end_appeal(action, outcome)
        if action.withdraws is None and action.action in RESTRICTIONS and action.action != action.previous:
            policy = action.policy_id or action.cited_policy or NO_POLICY
            self._history.measures.append(Measure(action.acted_at, policy, action.action, action.by is None))
        decided = action.human and action.withdraws is None
        now = Change(action.acted_at, action.effective or action.action, action.by is None, decided)
        self._history.changes.append(now)

    def _check(self, decision: Action) -> None:
        """A person decided about what the verdicts had led to. Who sends an item to review leaves that to others."""
        if decision.action == "review":
            return
        for policy_id, standing in self._standing.items():
            if standing.decision == "violates":
                restricted, allowed = standing.action in RESTRICTIONS, decision.action == "allow"
                check = Check(decision.acted_at, policy_id, restricted, allowed)
                self._checks.setdefault(standing.action_id, {})[decision.action_id] = check

    def _end_appeal(self, action: Action, outcome: str) -> None:
        appeal = self._appeals.get(action.appeal_id or "")
        if appeal is not None:
            self._history.ends.append(AppealEnd(appeal, action.acted_at, outcome, self._named(appeal)))

    def _named(self, appeal: Appealed) -> Action | None:
        """The action that an appeal names, or the first that followed the verdict that it names."""
        if appeal.action_id is not None:
            return self.seen.get(appeal.action_id)
        followed = (one for one in self.seen.values() if one.verdict_id is not None)
        return next((one for one in followed if one.verdict_id == appeal.verdict_id), None)

    def end(self) -> History:
        """The history, with the last decision about each action that was not withdrawn."""
        self._history.checks = [[*one.values()][-1] for one in self._checks.values() if one]
        return self._history
