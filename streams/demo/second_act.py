"""The demo's second act: the policy on hate becomes lenient on mere profanity, and what was removed for it comes back.

Each step is a command as an operator would type it; in between it waits for the reasoner and for enforcement.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Action, Replay, Verdict, decode
from safeguard_streams.demo.tally import Tally
from safeguard_streams.enforcement import moderators
from safeguard_streams.errors import SafeguardError
from safeguard_streams.replay import jobs
from safeguard_streams.runtime.settings import Settings

POLICY = "hate-harassment"
LENIENT = Path(str(files("safeguard_streams.demo") / "lenient" / "policy.md"))
PAGE = Path("safeguard-replay.html")
PATIENCE = 180.0  # seconds without any progress
WHY = "insults and profanity are tolerated from today on"


class SecondAct:
    """One run. say prints a line for people; out is where the commands' own output goes, a file descriptor."""

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
        """Judge again, compare, promote, and see enforcement follow. Raises SafeguardError when a step fails."""
        due = {v.verdict_id for v in self.tally.verdicts if v.decision != "safe"}
        await self._until("enforcement follows the verdicts", lambda: self._followed(due))
        before = await self._standing()
        self.say(f"enforcement has acted on {len(before)} contents: {_words(before)}")
        await self._safeguard("replay", "start", str(LENIENT), "--noise", "0.2", "--why", WHY)
        job = list((await jobs.read_all(self.settings)).values())[-1]
        await self._until("the replay is judged", lambda: self._judged(job))
        await self._safeguard("replay", "diff", job.replay_id, "--html", str(PAGE))
        self.say(f"the same with charts: {PAGE}")
        await self._safeguard("policy", "release", str(LENIENT), "--why", WHY)
        await self._safeguard("replay", "promote", job.replay_id, "--yes", "--budget", "1")
        promoted = [v async for v in self._verdicts() if v.replay_id == job.replay_id]
        due = {v.verdict_id for v in promoted if v.decision == "violates" or v.content_id in before}
        await self._until("enforcement follows the superseding verdicts", lambda: self._followed(due))
        after = await self._standing()
        actions = [action for action in await self._actions() if action.verdict_id in due]
        reversals = [a for a in actions if a.action == "allow" and a.changes]
        self.say(f"enforcement has taken back {len(reversals)} actions; what stands now: {_words(after)}")
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
        """A command of the command line, shown and run."""
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

    async def _until(self, what: str, measure: Callable[[], Awaitable[tuple[int, int]]]) -> None:
        """Wait until so much is done of so much; says how far it is."""
        moved = said = time.monotonic()
        last = -1
        while True:
            done, of = await measure()
            if done >= of:
                return
            if done > last:
                last, moved = done, time.monotonic()
            if time.monotonic() - moved > PATIENCE:
                raise SafeguardError(f"waited {PATIENCE:.0f} s until {what}: {done} of {of}")
            if time.monotonic() - said > 3:
                said = time.monotonic()
                self.say(f"until {what}: {done} of {of}")
            await asyncio.sleep(0.5)

    async def _actions(self) -> list[Action]:
        return [action async for _, action in moderators.actions(self.settings)]

    async def _followed(self, due: set[str]) -> tuple[int, int]:
        return len(due & {action.verdict_id for action in await self._actions() if action.verdict_id}), len(due)

    async def _judged(self, job: Replay) -> tuple[int, int]:
        escalated, judged = (await jobs.counts(self.settings, {job.replay_id}))[job.replay_id]
        return judged, escalated

    async def _verdicts(self) -> Any:
        async for record in kafka.read_all(self.settings, [topics.VERDICTS]):
            yield decode(record.value, Verdict)

    async def _standing(self) -> dict[str, str]:
        """What stands on the contents of this run."""
        contents = {verdict.content_id for verdict in self.tally.verdicts}
        found = await moderators.standing(self.settings)
        return {content: action for content, action in found.items() if content in contents}


def _words(standing: dict[str, str]) -> str:
    counts = Counter(standing.values())
    return ", ".join(f"{action} {count}" for action, count in sorted(counts.items())) or "nothing"
