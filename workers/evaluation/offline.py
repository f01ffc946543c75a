"""Labelled texts judged through an engine, without Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from safeguard_streams.cli.options import console
from safeguard_streams.policies.document import Policy
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.workers.app import start_engine
from safeguard_streams.workers.inference.interface import Inference
from safeguard_streams.workers.judging import instructions
from safeguard_streams.workers.judging.judgement import Judgement
from safeguard_streams.workers.judging.reasoner import InferenceBudget, Reasoner


class Measurement:
    """An engine that is up, for as many policies and texts as there are."""

    def __init__(self, inference: Inference, longest_answer: int) -> None:
        self.model = inference.model
        self._slots = asyncio.Semaphore(inference.slots)
        self._reasoner = Reasoner(inference, InferenceBudget(longest_answer=longest_answer))

    async def judge(self, policy: Policy, texts: Sequence[str], title: str = "judging") -> list[Judgement]:
        """What the model says of each text under a policy, many at once, with a bar of progress on standard error."""
        wanted = instructions.of(policy, [policy])
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
