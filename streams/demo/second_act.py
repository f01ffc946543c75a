"""The demo's second act: the policy on hate tolerates mere profanity, and posts removed for it are restored.

Each step is a command that an operator would type. Between the steps, it waits for the reasoner and for enforcement.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Replay, Verdict
from safeguard_streams.demo import pipeline
from safeguard_streams.demo.enforced import Progress, actions_for, counted, followed, until
from safeguard_streams.demo.tally import Tally
from safeguard_streams.enforcement import moderators
from safeguard_streams.errors import SafeguardError
from safeguard_streams.replay import jobs, status
from safeguard_streams.runtime.settings import Settings

POLICY = "hate-harassment"
LENIENT = Path(str(files("safeguard_streams.demo") / "lenient" / "policy.md"))
PAGE = Path("safeguard-replay.html")
WHY = "insults and profanity are tolerated from today on"


class SecondAct:
    """One run. say prints a line of progress; out is the file descriptor for the output of the commands."""

    def __init__(self, settings: Settings, tally: Tally, say: Callable[[str], None], out: int) -> None:
        self.settings = settings
        self.tally = tally
        self.say = say
        self._out = out

    async def run(self) -> dict[str, Any]:
        """Replay, compare, promote, and wait for enforcement, which has acted on all verdicts before.

        Raises SafeguardError when a step fails.
        """
        before = await self._actions_in_force()
        self.say(f"enforcement has acted on {len(before)} content items: {counted(before)}")
        await self._safeguard("replay", "start", str(LENIENT), "--noise", "0.2", "--why", WHY, "--yes")
        job = list((await jobs.read_all(self.settings)).values())[-1]
        await until("the replay is judged", lambda: self._judged(job), self.say)
        await self._safeguard("replay", "diff", job.replay_id, "--html", str(PAGE))
        self.say(f"this comparison with charts: {PAGE}")
        await self._safeguard("policy", "release", str(LENIENT), "--why", WHY)
        await self._safeguard("replay", "promote", job.replay_id, "--yes", "--budget", "1")
        promoted = [v async for v in self._verdicts() if v.replay_id == job.replay_id]
        due = {v.verdict_id for v in promoted if v.decision == "violates" or v.content_id in before}
        await until("enforcement has acted on the superseding verdicts", lambda: followed(self.settings, due), self.say)
        after = await self._actions_in_force()
        actions = (await actions_for(self.settings, due)).values()
        reversals = [a for a in actions if a.action == "allow" and a.changes]
        self.say(f"enforcement has reversed {len(reversals)} actions; now in force: {counted(after)}")
        return {
            "replay_id": job.replay_id,
            "promoted": len(promoted),
            "to_safe": sum(v.decision == "safe" for v in promoted),
            "to_violates": sum(v.decision == "violates" for v in promoted),
            "followed": len(actions),
            "due": len(due),
            "reversed": len(reversals),
            "standing_before": dict(Counter(before.values())),
            "standing_after": dict(Counter(after.values())),
        }

    async def _safeguard(self, *words: str) -> None:
        """Print a command and run it. Raises SafeguardError when it fails."""
        self.say(f"\n$ safeguard {' '.join(words)}")
        process = await asyncio.create_subprocess_exec(
            pipeline.command(),
            *words,
            env=pipeline.environment(self.settings),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=self._out,
        )
        try:
            status = await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        if status:
            raise SafeguardError(f"safeguard {words[0]} {words[1]} ended with status {status}")

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
