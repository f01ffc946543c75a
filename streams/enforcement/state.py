"""The enforcement state of one partition: what its actions on moderation.actions add up to, in topic order.

A state keeps only content items that are restricted, held or decided by a moderator. Any other item is allowed.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from datetime import datetime

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.dead_letters import was_requeued
from safeguard_streams.bus.interface import Partition
from safeguard_streams.client.recent_ids import RecentIds
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Action, Enforced, decode
from safeguard_streams.enforcement.rules import Cap, severity
from safeguard_streams.errors import RecordError
from safeguard_streams.runtime.settings import Settings

RestoreState = Callable[[Partition], Awaitable["EnforcementState"]]
MAX_SEEN_VERDICTS = 100_000


class ActionRef(msgspec.Struct, frozen=True):
    """An action that stands or is held, and the id of its record."""

    action: Enforced
    action_id: str


ALLOWED = ActionRef("allow", "")


class PolicyStanding(msgspec.Struct):
    """The result of one policy's last verdict: the action applied, and the one held instead, if any."""

    applied: ActionRef = ALLOWED
    held: ActionRef | None = None


class EnforcementState:
    """What stands on the content items of one partition.

    dry_run: the state of a dry run, which includes the dry run's own actions and moderators' decisions. decisions: what
    moderators decided, by content id. restored: the offset after the last record that `restore` read.
    """

    def __init__(self, *, dry_run: bool = False) -> None:
        self.decisions: dict[str, Enforced] = {}
        self.seen_verdicts = RecentIds(MAX_SEEN_VERDICTS)
        self.restored = 0
        self._dry_run = dry_run
        self._standings: dict[str, dict[str, PolicyStanding]] = {}  # by content id and policy id
        self._changes: dict[str, deque[datetime]] = {}  # by policy id
        self._alerts: dict[str, datetime] = {}  # by policy id

    def apply(self, action: Action) -> None:
        """Add an action, in topic order. The state of a dry run ignores other agents' actions; other states ignore dry
        runs.
        """
        if action.human:
            self.decisions[action.content_id] = action.action
            return
        if action.dry_run != self._dry_run or action.policy_id is None:
            return
        if action.verdict_id is not None:
            self.seen_verdicts.add(action.verdict_id)
        if action.state == "overridden":
            return
        by_policy = self._standings.setdefault(action.content_id, {})
        standing = by_policy.setdefault(action.policy_id, PolicyStanding())
        if action.releases is None or (standing.held and standing.held.action_id == action.releases):
            self._update(standing, action)
        if standing == PolicyStanding():
            del by_policy[action.policy_id]
        if not by_policy:
            del self._standings[action.content_id]

    def _update(self, standing: PolicyStanding, action: Action) -> None:
        latest = ActionRef(action.action, action.action_id)
        policy_id = action.policy_id or ""
        if action.state == "held":
            standing.held = latest
            if action.alert:
                self._alerts[policy_id] = action.acted_at
            return
        standing.applied, standing.held = (ALLOWED if latest.action == "allow" else latest), None
        if action.changes and action.releases is None:  # a release is a moderator's choice and counts towards no cap
            self._changes.setdefault(policy_id, deque()).append(action.acted_at)

    @classmethod
    async def restore(cls, settings: Settings, partition: int, *, dry_run: bool = False) -> EnforcementState:
        """Read all actions that the partition holds now."""
        state = cls(dry_run=dry_run)
        async for record in kafka.read_all(settings, [topics.ACTIONS], partition):
            state.restored = record.offset + 1
            with contextlib.suppress(RecordError):  # it is among the dead letters
                if not was_requeued(record):
                    state.apply(decode(record.value, Action))
        return state

    def standing(self, content_id: str, policy_id: str) -> PolicyStanding:
        return self._standings.get(content_id, {}).get(policy_id, PolicyStanding())

    def effective(self, content_id: str, policy_id: str = "", replacement: Enforced = "allow") -> Enforced:
        """What stands on a content item: a moderator's decision, or else the most severe action of its policies, where
        `replacement` replaces the action of policy_id.
        """
        if content_id in self.decisions:
            return self.decisions[content_id]
        others = self._standings.get(content_id, {}).items()
        actions = [standing.applied.action for other_id, standing in others if other_id != policy_id]
        return max([replacement, *actions], key=severity)

    def cap_reached(self, policy_id: str, cap: Cap, max_changes: int, moment: datetime) -> bool:
        """Whether one more change under a policy would exceed max_changes, this partition's share of its cap."""
        changes = self._changes.get(policy_id, deque())
        while changes and moment - changes[0] >= cap.length:
            changes.popleft()
        return len(changes) >= max_changes

    def alerted(self, policy_id: str, cap: Cap, moment: datetime) -> bool:
        """Whether an alert was raised within the cap's window."""
        last = self._alerts.get(policy_id)
        return last is not None and moment - last < cap.length

    def held(self) -> Counter[str]:
        """The number of actions that wait for a moderator, by policy id."""
        return Counter(
            policy_id
            for content_id, by_policy in self._standings.items()
            if content_id not in self.decisions
            for policy_id, standing in by_policy.items()
            if standing.held
        )

    def restricted(self) -> dict[str, Enforced]:
        """What stands on each content item that is not simply allowed, by content id."""
        effective = {content_id: self.effective(content_id) for content_id in {*self._standings, *self.decisions}}
        return {content_id: action for content_id, action in effective.items() if action != "allow"}
