"""The enforcement state of one partition: what stands on its content items, as moderation.standing records it.

Only items on which something stands take memory. Nothing stands on any other item, and it is allowed.
"""

from __future__ import annotations

import heapq
import math
import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from functools import lru_cache

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Partition, Record
from safeguard_streams.client.recent_ids import RecentIds
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Action,
    Enforced,
    EnforcementInput,
    Grounds,
    Standing,
    Verdict,
    aware,
    came_later,
    now,
)
from safeguard_streams.enforcement import texts
from safeguard_streams.enforcement.appeal_inputs import was_refused
from safeguard_streams.enforcement.rules import Cap
from safeguard_streams.enforcement.signing import Signer
from safeguard_streams.enforcement.standing import as_in_effect
from safeguard_streams.enforcement.statements import with_facts
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.runtime.settings import Settings

RestoreState = Callable[[Partition], Awaitable["EnforcementState"]]
MAX_SEEN_VERDICTS = 100_000
MAX_ALLOWED = 20_000  # allowed items whose newest text is known
REPEATED = timedelta(hours=1)  # how long a moderator's request is recognised when it is written again, at least
RECENT_TEXTS = timedelta(minutes=15)  # how far back a restore looks for them


class EnforcementState:
    """What stands on the content items of one partition. partitions is the number of partitions of the topic.

    seen_verdicts: ids of the last verdicts, those on allowed items included. The newest texts of the last allowed items
    are known, too. A late verdict on an earlier text of such an item then has no effect.
    """

    def __init__(self, partitions: int = 1) -> None:
        self.partitions = partitions
        self.seen_verdicts = RecentIds(MAX_SEEN_VERDICTS)
        self._decisions = RecentIds(MAX_SEEN_VERDICTS)
        self._standings: dict[str, Standing] = {}
        self._allowed: OrderedDict[str, Standing] = OrderedDict()  # by content id
        self._held: Counter[str] = Counter()  # by policy id
        self._appealed: set[str] = set()  # items with open appeals
        self._kept: list[tuple[float, str]] = []  # a heap of seconds since 1970 and content ids: when to look at them
        self._looked_at: dict[str, float] = {}  # by content id: the one of these times that counts
        self._changes: dict[str, deque[datetime]] = {}  # by policy id
        self._alerts: dict[str, datetime] = {}  # by policy id

    def __getitem__(self, content_id: str) -> Standing:
        """What stands on an item, also where that is nothing."""
        standing = self._standings.get(content_id)
        if standing is None:
            standing = self._allowed.get(content_id) or Standing(content_id, "allow", self.partitions)
        return standing

    def __len__(self) -> int:
        """The number of items on which something stands."""
        return len(self._standings)

    def put(self, standing: Standing) -> None:
        """Replace what stands on an item."""
        self.drop(standing.content_id)
        if standing.kept_until is not None:
            self._look_at(standing.content_id, aware(standing.kept_until))
        self._allowed.pop(standing.content_id, None)
        if standing.empty and standing.content_sha256 is not None:
            self._allowed[standing.content_id] = Standing(
                standing.content_id,
                "allow",
                self.partitions,
                content_sha256=standing.content_sha256,
                origin=standing.origin,
                author_id=standing.author_id,
                about=standing.about,
            )
            if len(self._allowed) > MAX_ALLOWED:
                self._allowed.popitem(last=False)
        elif not standing.empty:
            _share_strings(standing)
            self._standings[standing.content_id] = standing
            self._held.update(_held_policies(standing))
            if any(one.state == "open" for one in standing.appeals):
                self._appealed.add(standing.content_id)

    def drop(self, content_id: str) -> None:
        """Forget an item: nothing stands on it any more."""
        earlier = self._standings.pop(content_id, None)
        self._appealed.discard(content_id)
        if earlier is not None:
            self._held.subtract(_held_policies(earlier))

    def forgotten(self, moment: datetime, most: int) -> list[str]:
        """Forget items on which nothing stands and of which nothing is to be remembered any more; their ids."""
        ids: list[str] = []
        while self._kept and self._kept[0][0] <= moment.timestamp() and len(ids) < most:
            time, content_id = heapq.heappop(self._kept)
            if self._looked_at.get(content_id) != time:
                continue
            del self._looked_at[content_id]
            until = self[content_id].kept_until
            if until is not None and aware(until) <= moment:
                self.drop(content_id)
                ids.append(content_id)
            elif until is not None:
                self._look_at(content_id, aware(until))
        return ids

    def _look_at(self, content_id: str, until: datetime) -> None:
        """Look whether an item is to be forgotten at a time; not twice where that was to be sooner."""
        time = until.timestamp()
        if time < self._looked_at.get(content_id, math.inf):
            self._looked_at[content_id] = time
            heapq.heappush(self._kept, (time, content_id))

    def keep_decisions(self) -> None:
        """Forget what stands under policies, so that only moderators' decisions are left."""
        for standing in list(self._standings.values()):
            self.put(msgspec.structs.replace(standing, policies=()))

    def add_decision(self, action: Action) -> bool:
        """Add a moderator's decision to those that were followed. Returns whether it is new."""
        return self._decisions.add(f"{action.action_id} {action.content_id}")

    def count(self, action: Action) -> None:
        """Count the agent's own action towards the cap of its policy, and its alert."""
        if action.policy_id is None or action.releases:  # a release is a moderator's choice
            return
        if action.alert:
            self._alerts[action.policy_id] = aware(action.acted_at)
        if action.changes:
            self._changes.setdefault(action.policy_id, deque()).append(aware(action.acted_at))

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
        return +self._held

    def overdue(self, moment: datetime) -> Counter[bool]:
        """The number of open appeals, by whether their deadline has passed."""
        waiting = [one for name in list(self._appealed) for one in self[name].appeals if one.state == "open"]
        return Counter(one.due_at <= moment for one in waiting)

    def restricted(self) -> dict[str, Enforced]:
        """The action in effect on each content item that is not simply allowed, by content id."""
        return {name: one.effective for name, one in self._standings.items() if one.effective != "allow"}

    @classmethod
    async def restore(
        cls, settings: Settings, partition: int, partitions: int, window: timedelta, signer: Signer | None = None
    ) -> EnforcementState:
        """Read what stands in a partition, what the agent did within `window`, which caps count, and the newest texts
        of the last inputs. signer: knows what the agent did; without one, each record with a sequence counts.

        Raises ConfigurationError when the records are of another number of partitions.
        """
        state, since = await cls._read(settings, partition, partitions), now() - max(window, REPEATED)
        async for record, action in kafka.read_decoded(settings, [topics.ACTIONS], Action, partition, since=since):
            if signer is None or signer.signed(partition, record.value, record.headers):
                state.add_recent(action)
        recent = kafka.read_decoded(
            settings, [topics.ENFORCEMENT], EnforcementInput, partition, since=now() - RECENT_TEXTS
        )
        async for _, one in recent:
            if one.verdict is not None:
                state.add_text(one.verdict)
        return state

    @classmethod
    async def of_decisions(cls, settings: Settings, partition: int, partitions: int) -> EnforcementState:
        """Read moderators' decisions alone: where a dry run begins, whatever another agent did.

        Raises ConfigurationError when the records are of another number of partitions.
        """
        state = await cls._read(settings, partition, partitions)
        state.keep_decisions()
        return state

    @classmethod
    async def _read(cls, settings: Settings, partition: int, partitions: int) -> EnforcementState:
        state = cls(partitions)
        async for record in kafka.read_all(settings, [topics.STANDING], partition):
            state.add(record, kafka.decoded_or_left_out(settings, record, Standing))
        for standing in state._standings.values():  # of each item the newest record: `repartition` replaces others
            check_partitions(standing, partitions)
        return state

    def add(self, record: Record, standing: Standing | None) -> None:
        """Add a record of moderation.standing, in topic order; `standing` is its content, if it has any."""
        if standing is not None:
            self.put(as_in_effect(standing))
        elif record.value is None and record.key is not None:
            self.drop(record.key.decode("utf-8", "replace"))

    def add_text(self, verdict: Verdict) -> None:
        """Take the text of a verdict as the newest one of an item on which nothing stands, if it is."""
        known = self[verdict.content_id]
        if known.empty and came_later(verdict.origin, known.origin) is not False:
            self.put(with_facts(known, texts.with_text(known, verdict), verdict))

    def add_recent(self, action: Action) -> None:
        """Add an action of moderation.actions within a cap's window, in topic order."""
        if action.sequence is None or action.dry_run or was_refused(action):
            return
        if action.human and action.withdraws is None:
            self.add_decision(action)
        self.count(action)
        if action.verdict_id is not None and action.releases is None:
            self.seen_verdicts.add(action.verdict_id)


def check_partitions(standing: Standing, partitions: int) -> None:
    """Raise ConfigurationError for a record that was written when the topics had another number of partitions."""
    if standing.partitions != partitions:
        raise ConfigurationError(
            f"{topics.STANDING} was written with {standing.partitions} partitions, and its topics now have "
            f"{partitions}, so that verdicts no longer meet what stands on their items: stop all agents and run "
            "`safeguard enforce repartition`"
        )


def _held_policies(standing: Standing) -> Iterable[str]:
    """The policies under which an action waits; none waits on a text that a moderator decided about."""
    return [policy.policy_id for policy in standing.policies if policy.held] if standing.in_force is None else ()


@lru_cache(maxsize=10_000)
def _shared(grounds: Grounds) -> Grounds:
    """One of all equal grounds: they differ by policy version and cited rules only."""
    return grounds


def _share_strings(standing: Standing) -> None:
    """Let the records of millions of items share ids and names, and those of one item its text's hash and origin."""
    for policy in standing.policies:
        msgspec.structs.force_setattr(policy, "policy_id", sys.intern(policy.policy_id))
        if policy.grounds is not None:
            msgspec.structs.force_setattr(policy, "grounds", _shared(policy.grounds))
        if policy.rule is not None:
            msgspec.structs.force_setattr(policy, "rule", sys.intern(policy.rule))
        if policy.violation is not None and policy.violation.about == standing.about:
            msgspec.structs.force_setattr(policy.violation, "about", standing.about)
        for name in ("content_sha256", "origin"):
            if getattr(policy, name) == getattr(standing, name):
                msgspec.structs.force_setattr(policy, name, getattr(standing, name))
