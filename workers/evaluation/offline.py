"""Labelled texts judged through an inference backend, without Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, cast

import msgspec

from safeguard_streams.policies import small_model
from safeguard_streams.policies.document import Policy
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.workers.app import start_backend
from safeguard_streams.workers.evaluation.interface import OnProgress
from safeguard_streams.workers.inference.interface import Completion, InferenceBackend, InferenceRequest
from safeguard_streams.workers.judging.arrangement import arranged, start_first
from safeguard_streams.workers.judging.instructions import Instructions, instructions_for
from safeguard_streams.workers.judging.judgement import Judgement
from safeguard_streams.workers.judging.reasoner import InferenceBudget, Reasoner
from safeguard_streams.workers.judging.stages import Judging


class OfflineJudge:
    """Judges texts with a backend that is running."""

    def __init__(
        self,
        backend: InferenceBackend,
        max_answer_tokens: int,
        on_progress: OnProgress,
        arrange: Callable[[Reasoner], Judging] = lambda reasoner: reasoner,
    ) -> None:
        self.model = backend.model
        self._slots = asyncio.Semaphore(backend.concurrency)
        self._judging = arrange(Reasoner(backend, InferenceBudget(max_answer_tokens=max_answer_tokens)))
        self._on_progress = on_progress

    async def judge(self, policy: Policy, texts: Sequence[str], title: str = "judging") -> list[Judgement]:
        """A judgement of each text under a policy, in the order of the texts. `title` is passed to on_progress."""
        instructions = instructions_for(policy, [policy])
        judged = 0
        self._on_progress(title, judged, len(texts))

        async def judge_one(text: str) -> Judgement:
            nonlocal judged
            judgement = await self.judge_text(instructions, text)
            judged += 1
            self._on_progress(title, judged, len(texts))
            return judgement

        return list(await asyncio.gather(*map(judge_one, texts)))

    async def judge_text(self, instructions: Instructions, text: str) -> Judgement:
        """A judgement of one text, under a policy or a bundle. Waits while the backend has enough to do."""
        async with self._slots:
            return await self._judging.judge(instructions, instructions.effort, text)


class _AtTemperature:
    """A backend that samples every request at one temperature, and is in all else the given one."""

    def __init__(self, backend: InferenceBackend, temperature: float) -> None:
        self._backend = backend
        self._temperature = temperature

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def generate(self, request: InferenceRequest) -> Completion:
        """Run one request at the temperature."""
        return await self._backend.generate(msgspec.structs.replace(request, temperature=self._temperature))


@contextlib.asynccontextmanager
async def offline_judge(
    settings: Settings, on_progress: OnProgress, policies: Sequence[Policy], temperature: float | None = None
) -> AsyncIterator[OfflineJudge]:
    """Start the backend that the settings name, to judge by these policies, and close it afterwards.

    temperature: of every request; None for the policies' own.
    Raises ConfigurationError when the model is the small one and has not learned one of them: before it is loaded or,
    on a server, before it judges.
    """
    if not settings.servers:
        small_model.require_learned(settings.model, policies)
    # People read the output of an evaluation; vLLM's warnings are for a worker's log.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    backend, first = await start_backend(settings), None
    try:
        small_model.require_learned(backend.model, policies)
        sampling = backend if temperature is None else cast("InferenceBackend", _AtTemperature(backend, temperature))
        first = await start_first(settings)
        arrange = arranged(settings, backend, first)
        judge = OfflineJudge(sampling, settings.max_tokens, on_progress, arrange)
        if first is not None:
            judge.model = f"{first.model}, then {backend.model}"
        yield judge
    finally:
        for started in (backend, first):
            if started is not None:
                await started.close()
