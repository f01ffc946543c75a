"""What stands on contents: the sum of the actions of one partition of moderation.actions, in their order.

Only what is restricted, waits for a person or was decided by one is kept: a content that is not here is allowed.
"""

from __future__ import annotations

import contextlib
from collections import deque
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
MOST_SEEN = 100_000  # verdicts


class Entry(msgspec.Struct, frozen=True):
    """An action that stands or is held."""

    action: Enforced
    action_id: str


NOTHING = Entry("allow", "")


class Standing(msgspec.Struct):
    """What one policy's last verdict led to: what was applied, and what waits for a person instead, if anything."""

    applied: Entry = NOTHING
    held: Entry | None = None


class EnforcementState:
    """One partition. dry_run: the ledger of a trial, which knows its own actions and those of people. restored: the offset
    before which all actions are in it from the start.
    """

    def __init__(self, *, dry_run: bool = False) -> None:
        self.people: dict[str, Enforced] = {}
        self.seen = RecentIds(MOST_SEEN)
        self.restored = 0
        self._dry_run = dry_run
        self._contents: dict[str, dict[str, Standing]] = {}
        self._changes: dict[str, deque[datetime]] = {}
        self._alerts: dict[str, datetime] = {}

    def take(self, action: Action) -> None:
        """Add an action, in the order of the topic; what concerns another ledger changes nothing."""
        if action.human:
            self.people[action.content_id] = action.action
            return
        if action.dry_run != self._dry_run or action.policy_id is None:
            return
        if action.verdict_id is not None:
            self.seen.add(action.verdict_id)
        if action.state == "overridden":
            return
        of_content = self._contents.setdefault(action.content_id, {})
        standing = of_content.setdefault(action.policy_id, Standing())
        if action.releases is None or (standing.held and standing.held.action_id == action.releases):
            self._put(standing, action)
        if standing == Standing():
            del of_content[action.policy_id]
        if not of_content:
            del self._contents[action.content_id]

    def _put(self, standing: Standing, action: Action) -> None:
        entry = Entry(action.action, action.action_id)
        policy = action.policy_id or ""
        if action.state == "held":
            standing.held = entry
            if action.alert:
                self._alerts[policy] = action.acted_at
            return
        # That nothing restricts a content needs no entry, and a release was a person's choice: it counts for no cap.
        standing.applied, standing.held = (NOTHING if entry.action == "allow" else entry), None
        if action.changes and action.releases is None:
            self._changes.setdefault(policy, deque()).append(action.acted_at)

    @classmethod
    async def restore(cls, settings: Settings, partition: int, *, dry_run: bool = False) -> EnforcementState:
        """Read all that a partition holds now."""
        standing_state = cls(dry_run=dry_run)
        async for record in kafka.read_all(settings, [topics.ACTIONS], partition):
            standing_state.restored = record.offset + 1
            with contextlib.suppress(RecordError):  # it is among the dead letters
                if not was_requeued(record):
                    standing_state.take(decode(record.value, Action))
        return standing_state

    def standing(self, content_id: str, policy_id: str) -> Standing:
        return self._contents.get(content_id, {}).get(policy_id, Standing())

    def effective(self, content_id: str, policy_id: str = "", instead: Enforced = "allow") -> Enforced:
        """What stands on a content: a person's decision, or else the severest of its policies' actions; `instead` is in the
        place of what this policy had.
        """
        if content_id in self.people:
            return self.people[content_id]
        others = self._contents.get(content_id, {}).items()
        return max([instead, *(one.applied.action for name, one in others if name != policy_id)], key=severity)

    def above(self, policy_id: str, cap: Cap, most: int, moment: datetime) -> bool:
        """Whether one more change under a policy would be above its cap; `most` is this partition's share of it."""
        changes = self._changes.get(policy_id, deque())
        while changes and moment - changes[0] >= cap.length:
            changes.popleft()
        return len(changes) >= most

    def alerted(self, policy_id: str, cap: Cap, moment: datetime) -> bool:
        """Whether an alert was raised within the window."""
        last = self._alerts.get(policy_id)
        return last is not None and moment - last < cap.length

    def held(self) -> dict[str, int]:
        """Actions that wait for a person, by policy."""
        found: dict[str, int] = {}
        for content, of_content in self._contents.items():
            for policy, standing in of_content.items():
                if standing.held and content not in self.people:
                    found[policy] = found.get(policy, 0) + 1
        return found

    def restricted(self) -> dict[str, Enforced]:
        """What stands on each content that is not simply allowed."""
        found = {content: self.effective(content) for content in {*self._contents, *self.people}}
        return {content: action for content, action in found.items() if action != "allow"}
