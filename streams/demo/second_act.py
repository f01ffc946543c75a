"""The demo's second act: the policy on hate tolerates mere profanity, and posts removed for it are restored.

Each step is a command that an operator would type. Between the steps, it waits for the reasoner and for enforcement.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Action, Replay, Verdict
from safeguard_streams.demo.tally import Tally
from safeguard_streams.enforcement import moderators
from safeguard_streams.errors import SafeguardError
from safeguard_streams.replay import jobs, status
from safeguard_streams.runtime.settings import Settings

POLICY = "hate-harassment"
LENIENT = Path(str(files("safeguard_streams.demo") / "lenient" / "policy.md"))
PAGE = Path("safeguard-replay.html")
TIMEOUT = 180.0  # seconds without progress
PROGRESS_SECONDS = 3.0  # between two lines of progress
WHY = "insults and profanity are tolerated from today on"


class Progress(NamedTuple):
    """How many of the expected records exist."""

    done: int
    total: int


class SecondAct:
    """One run. say prints a line of progress; out is the file descriptor for the output of the commands."""

    def __init__(self, settings: Settings, tally: Tally, say: Callable[[str], None], command: str, out: int) -> None:
        self.settings = settings
        self.tally = tally
        self.say = say
        self._command = command
        self._out = out
        self._environment = {
            **os.environ,
            "SAFEGUARD_BOOTSTRAP": settings.bootstrap,
            "SAFEGUARD_SESSION_TIMEOUT_MS": str(settings.session_timeout_ms),
        }

    async def run(self) -> dict[str, Any]:
        """Replay, compare, promote, and wait for enforcement. Raises SafeguardError when a step fails."""
        due = {v.verdict_id for v in self.tally.verdicts if v.decision != "safe"}
        await self._until("enforcement has acted on the verdicts", lambda: self._followed(due))
        before = await self._actions_in_force()
        self.say(f"enforcement has acted on {len(before)} content items: {_counts(before)}")
        await self._safeguard("replay", "start", str(LENIENT), "--noise", "0.2", "--why", WHY, "--yes")
        job = list((await jobs.read_all(self.settings)).values())[-1]
        await self._until("the replay is judged", lambda: self._judged(job))
        await self._safeguard("replay", "diff", job.replay_id, "--html", str(PAGE))
        self.say(f"this comparison with charts: {PAGE}")
        await self._safeguard("policy", "release", str(LENIENT), "--why", WHY)
        await self._safeguard("replay", "promote", job.replay_id, "--yes", "--budget", "1")
        promoted = [v async for v in self._verdicts() if v.replay_id == job.replay_id]
        due = {v.verdict_id for v in promoted if v.decision == "violates" or v.content_id in before}
        await self._until("enforcement has acted on the superseding verdicts", lambda: self._followed(due))
        after = await self._actions_in_force()
        actions = [action for action in await self._actions() if action.verdict_id in due]
        reversals = [a for a in actions if a.action == "allow" and a.changes]
        self.say(f"enforcement has reversed {len(reversals)} actions; now in force: {_counts(after)}")
        return {
            "replay_id": job.replay_id,
            "promoted": len(promoted),
            "to_safe": sum(v.decision == "safe" for v in promoted),
            "to_violates": sum(v.decision == "violates" for v in promoted),
            "followed": len({a.verdict_id for a in actions}),
            "due": len(due),
            "reversed": len(reversals),
            "standing_before": dict(Counter(before.values())),
            "standing_after": dict(Counter(after.values())),
        }

    async def _safeguard(self, *words: str) -> None:
        """Print a command and run it. Raises SafeguardError when it fails."""
        self.say(f"\n$ safeguard {' '.join(words)}")
        process = await asyncio.create_subprocess_exec(
            self._command, *words, env=self._environment, stdin=asyncio.subprocess.DEVNULL, stdout=self._out
        )
        try:
            status = await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        if status:
            raise SafeguardError(f"safeguard {words[0]} {words[1]} ended with status {status}")

    async def _until(self, what: str, measure: Callable[[], Awaitable[Progress]]) -> None:
        """Wait until everything expected exists, and report progress. Raises SafeguardError when progress stops."""
        progressed = reported = time.monotonic()
        last = -1
        while True:
            done, total = await measure()
            if done >= total:
                return
            if done > last:
                last, progressed = done, time.monotonic()
            if time.monotonic() - progressed > TIMEOUT:
                raise SafeguardError(f"no progress for {TIMEOUT:.0f} s while waiting until {what}: {done} of {total}")
            if time.monotonic() - reported > PROGRESS_SECONDS:
                reported = time.monotonic()
                self.say(f"waiting until {what}: {done} of {total}")
            await asyncio.sleep(0.5)

    async def _actions(self) -> list[Action]:
        return [action async for _, action in moderators.actions(self.settings)]

    async def _followed(self, due: set[str]) -> Progress:
        followed = {action.verdict_id for action in await self._actions() if action.verdict_id}
        return Progress(len(due & followed), len(due))

    async def _judged(self, job: Replay) -> Progress:
        counts = await status.counts(self.settings, job)
        return Progress(counts.done, counts.escalated)

    async def _verdicts(self) -> AsyncIterator[Verdict]:
        async for _, verdict in kafka.read_decoded(self.settings, [topics.VERDICTS], Verdict):
            yield verdict

    async def _actions_in_force(self) -> dict[str, str]:
        """The actions in force on this run's content items, by content_id."""
        items = {verdict.content_id for verdict in self.tally.verdicts}
        in_force = await moderators.standing(self.settings)
        return {content_id: action for content_id, action in in_force.items() if content_id in items}


def _counts(actions: dict[str, str]) -> str:
    counts = Counter(actions.values())
    return ", ".join(f"{action} {count}" for action, count in sorted(counts.items())) or "nothing"
