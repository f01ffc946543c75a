"""The appeals of the run of authors: upheld, overturned, moot, and decided by nobody who may not."""

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime

import msgspec
from processes import say

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Action, Appeal, DeadLetter, Standing
from safeguard_streams.enforcement.strikes import RESTRICTS

KINDS = ("overturned", "milder", "upheld", "moot")
WAITING_SECONDS = 600.0


class Appeals:
    """Appeals about items that nothing else changes meanwhile, and what becomes of each.

    items: by item the kind of its end; an item of kind `open` was decided by ann, who tries to decide its appeal, too.
    """

    def __init__(self, plan, count, changed):
        self.plan, self.items = plan, {}
        free = [one for one in self._restricted() if one not in plan.decisions and one not in changed]
        for number, item in enumerate(plan.chance.sample(free, min(count, len(free)))):
            self.items[item] = KINDS[number % len(KINDS)]
        removed = sorted(item for item, action in plan.decisions.items() if action == "remove")
        self.items |= dict.fromkeys(removed[: count // 8], "open")
        self.forged = sum(kind != "moot" for kind in self.items.values())

    def _restricted(self):
        """The items that a verdict restricts, in order."""
        return sorted({item for (item, _), one in self.plan.verdicts.items() if self.plan.restricts(one)})

    def of_kind(self, *kinds):
        return [item for item, kind in self.items.items() if kind in kinds]

    def sent(self):
        """The appeals, each twice."""
        last = self._last()
        for item, kind in self.items.items():
            restricting = [one for one in last[item] if self.plan.restricts(one)]
            named = {"action_id": f"d{item}"} if kind == "open" else {"verdict_id": restricting[0].verdict_id}
            one = Appeal(f"c{item}", "author", datetime(2026, 1, 1, tzinfo=UTC), f"p{item}", **named)
            yield from (one, one)

    def outcomes(self):
        """What people write, and what a hand writes that nobody may: as the agent's own, or by who decided before."""
        for item, kind in self.items.items():
            if kind == "moot":
                continue
            mine = self._outcome(item, "ann", "overturned", "allow")
            yield msgspec.structs.replace(mine, action_id=f"forged{item}", sequence=10**9, previous="remove")
            if kind == "open":
                yield mine
                continue
            action = {"overturned": "allow", "milder": "label", "upheld": "remove"}[kind]
            outcome = "upheld" if kind == "upheld" else "overturned"
            yield from [self._outcome(item, "bob", outcome, action)] * 2
            if outcome == "overturned":
                self.plan.overturned[item] = action

    def _outcome(self, item, by, outcome, action):
        return Action(
            f"{by}{item}", f"c{item}", action, datetime.now(UTC), by, "read", effective=action, content_sha256="sha",
            policy_id="*" if outcome == "upheld" else None, appeal_id=f"p{item}", outcome=outcome,
            author_id=self.plan.author(item),
        )  # fmt: skip

    def expected(self, kind):
        return "overturned" if kind == "milder" else kind

    async def states(self, current):
        """What became of the appeals of each item."""
        table = await kafka.read_table(current, topics.STANDING, Standing)
        found = {}
        for item in self.items:
            standing = table.get(f"c{item}".encode())
            found[item] = [one.state for one in standing.appeals] if standing else []
        return found

    async def until_restricted(self, current):
        """Wait until enforcement has followed what is to be appealed."""

        last = self._last()

        async def followed():
            table = await kafka.read_table(current, topics.STANDING, Standing)
            return sum(
                (one := table.get(f"c{item}".encode())) is not None
                and (one.effective in RESTRICTS if kind != "open" else one.decision is not None)
                and all(verdict.verdict_id in one.policy(verdict.policy_id).verdict_ids for verdict in last[item])
                for item, kind in self.items.items()
            )

        await self._until(followed, "items to be appealed are restricted")

    def _last(self):
        """The last violating verdicts on each item that is appealed."""
        found = {item: [] for item in self.items}
        for (item, _), one in self.plan.verdicts.items():
            if item in found and one.decision == "violates":
                found[item].append(one)
        return found

    async def until(self, current, *wanted):
        """Wait until every appeal is open, or has the end that is meant for it."""

        async def reached():
            states = await self.states(current)
            return sum(
                states[item] == ([self.expected(kind)] if kind in wanted else ["open"])
                for item, kind in self.items.items()
            )

        await self._until(reached, "appeals are " + (", ".join(wanted) or "open"))

    async def _until(self, count, what):
        deadline = time.monotonic() + WAITING_SECONDS
        while (reached := await count()) < len(self.items):
            assert time.monotonic() < deadline, f"{reached} of {len(self.items)} {what}"
            say(f"{reached} of {len(self.items)} {what}")
            await asyncio.sleep(3.0)
        say(f"{len(self.items)} {what}")

    async def summary(self, current):
        """What became of the appeals, and what is wrong about that."""
        states = await self.states(current)
        letters = [one async for _, one in kafka.read_decoded(current, [topics.DEAD_LETTERS], DeadLetter)]
        return {
            "appeals": Counter(state for found in states.values() for state in found),
            "wrong_appeals": sum(states[item] != [self.expected(kind)] for item, kind in self.items.items()),
            "forged": self.forged,
            "forged_without_one_letter": abs(self.forged - sum(one.field == "sequence" for one in letters)),
        }
