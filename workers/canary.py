"""A canary: another model judges a share of live content beside the live workers, for comparison only.

It is a process and a consumer group of its own. It may fall behind, fail or end, and no live content waits for it. Its
verdicts go to moderation.replays, on a lane that nothing but a comparison reads. A canary begins with the live content
that comes next. Started again under its name, it resumes where it stopped.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Never

import msgspec

from safeguard_streams.bus.engine import Engine
from safeguard_streams.bus.interface import Output, Record
from safeguard_streams.bus.kafka import begin_at_end
from safeguard_streams.bus.transform import stateless
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Canary, Escalation, decode
from safeguard_streams.errors import DependencyError, RecordError
from safeguard_streams.prefilter.sampling import is_drawn
from safeguard_streams.quality.model_comparison import DRAW
from safeguard_streams.runtime.process import run_until_first
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.workers.app import StartBackend, Worker, start_backend
from safeguard_streams.workers.inference.interface import InferenceBackend
from safeguard_streams.workers.judging.arrangement import arranged
from safeguard_streams.workers.judging.judge import Judge

log = logging.getLogger(__name__)

STAGE = "canary"
REPORT_SECONDS = 15.0
LONGEST_NAME = 100  # characters


class CanaryPlan(msgspec.Struct, frozen=True):
    """What a canary is to do. name: default, that of the model and its revision. time: None runs until stopped."""

    share: float
    name: str | None = None
    time: timedelta | None = None


class CanaryCounts(msgspec.Struct):
    """Escalations since the start of the process: read, judged, and failed for a reason that no retry mends."""

    read: int = 0
    judged: int = 0
    failed: int = 0


class CanaryTransform:
    """Judges the escalations that are drawn.

    It leaves what it cannot read or judge to the live workers, and writes no dead letter about it: a record that is
    requeued would go to the live workers again.
    """

    def __init__(self, judge: Judge, canary: Canary) -> None:
        self.counts = CanaryCounts()
        self._judge = judge
        self._canary = canary

    async def __call__(self, records: Sequence[Record]) -> list[Output]:
        return [output for record in records for output in await self._judged(record)]

    async def _judged(self, record: Record) -> list[Output]:
        self.counts.read += 1
        if not self._is_drawn(record):
            return []
        try:
            outputs = await self._judge.judge(record)
        except DependencyError:
            raise
        except Exception as error:
            self.counts.failed += 1
            log.error(  # noqa: TRY400  (its text may quote content)
                "judgement failed, left out partition=%d offset=%d error=%s",
                *(record.partition, record.offset, type(error).__name__),
            )
            return []
        self.counts.judged += bool(outputs)
        return outputs

    def _is_drawn(self, record: Record) -> bool:
        """Whether the canary judges an escalation: by its item, hence under all policies or none."""
        try:
            event = decode(record.value, Escalation).event
        except RecordError:
            return False
        return is_drawn(event.content_id, DRAW, self._canary.share)


class CanaryWorker(Worker):
    """Judges the share of live content that is drawn, under the policies in force, at their own effort."""

    stage = STAGE

    def __init__(self, settings: Settings, plan: CanaryPlan, start: StartBackend = start_backend) -> None:
        alone = {"lanes": ("live",), "effort_by_lag": {}, "first_servers": ""}
        super().__init__(settings.model_copy(update=alone), start)
        self.canary: Canary | None = None
        self.counts = CanaryCounts()
        self._plan = plan

    def state(self) -> dict[str, Any]:
        """The body of /health/ready."""
        about = msgspec.to_builtins(self.canary) if self.canary else None
        return {**super().state(), "canary": about, **msgspec.to_builtins(self.counts)}

    def _new_judge(self, backend: InferenceBackend) -> Judge:
        self.canary = Canary(self._plan.name or name_of(backend.model, backend.revision), self._plan.share)
        log.info("canary started name=%s share=%g", self.canary.name, self.canary.share)
        arrange = arranged(self.settings, backend, None)
        return Judge(backend, self.feed, self._budget(backend), self.erasures.erased, arrange, self.canary)

    @property
    def _group(self) -> str:
        assert self.canary is not None, "its judge was made"
        return topics.CANARY_GROUP + self.canary.name

    async def _set_positions(self) -> None:
        await begin_at_end(self.settings, self._group, topics.ESCALATIONS)

    def _engines(self, backend: InferenceBackend, judge: Judge) -> list[Engine]:
        assert self.canary is not None, "its judge was made"
        transform = CanaryTransform(judge, self.canary)
        self.counts = transform.counts
        bus = self._member(topics.ESCALATIONS, self._group)
        return [Engine(bus, stateless(transform), stage=STAGE, limits=self._limits(backend))]

    async def _run_engines(self, stop: asyncio.Event) -> None:
        await run_until_first(super()._run_engines(stop), self._report(), self._end(stop))
        self._log_counts("canary ended")

    async def _report(self) -> Never:
        """Log what was done whenever it has changed."""
        logged = -1
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            if self.counts.read != logged:
                logged = self.counts.read
                self._log_counts("canary in progress")

    def _log_counts(self, event: str) -> None:
        counts = self.counts
        log.info("%s read=%d judged=%d failed=%d", event, counts.read, counts.judged, counts.failed)

    async def _end(self, stop: asyncio.Event) -> None:
        """Stop when the time is over, and let what is under way end."""
        if self._plan.time is not None:
            await asyncio.sleep(self._plan.time.total_seconds())
            log.info("the time of the canary is over")
            stop.set()
        await asyncio.Event().wait()


def name_of(model: str, revision: str | None) -> str:
    """The name of a model's canary: another model, or other weights under its name, begin another canary."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{model}@{revision}" if revision else model)
    return name[-LONGEST_NAME:].strip("-.") or "model"
