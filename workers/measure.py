"""Labelled texts judged through an engine, without Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from policies.document import Policy
from streams.cli.options import console
from streams.settings import Settings
from workers import brief
from workers.app import start_engine
from workers.inference import Inference
from workers.judgement import Judgement
from workers.reasoner import Economy, Reasoner


class Measurement:
    """An engine that is up, for as many policies and texts as there are."""

    def __init__(self, inference: Inference, longest_answer: int) -> None:
        self.model = inference.model
        self._slots = asyncio.Semaphore(inference.slots)
        self._reasoner = Reasoner(inference, Economy(longest_answer=longest_answer))

    async def judge(self, policy: Policy, texts: Sequence[str], title: str = "judging") -> list[Judgement]:
        """What the model says of each text under a policy, many at once, with a bar of progress on standard error."""
        wanted = brief.of(policy, [policy])
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console(stderr=True)) as progress:
            task = progress.add_task(title, total=len(texts))

            async def one(text: str) -> Judgement:
                async with self._slots:
                    judgement = await self._reasoner.judge(wanted, wanted.effort, text)
                progress.advance(task)
                return judgement

            return list(await asyncio.gather(*map(one, texts)))


@contextlib.asynccontextmanager
async def measurement(current: Settings) -> AsyncIterator[Measurement]:
    """Start the engine that the settings name, and end it after."""
    # What is measured is read by people: a worker's log has vLLM's warnings.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    out = console(stderr=True)
    out.print(f"starting {current.servers or current.model}; a model takes most of a minute on a CPU", highlight=False)
    engine = await start_engine(current)
    try:
        yield Measurement(engine, current.max_tokens)
    finally:
        await engine.close()
