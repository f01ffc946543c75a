"""What the judgements under a policy cost: their number and GPU hours a day, from its verdicts."""

from __future__ import annotations

from typing import Literal

import msgspec

from safeguard_streams.quality.gate_evidence import Evidence
from safeguard_streams.runtime.settings import Settings

DAY = 86_400.0
MIN_SPAN = 600.0  # seconds: verdicts of a shorter time tell no daily rate
_CONCURRENCY, _SMALL_CONCURRENCY = 64, 8  # judgements at once, as a worker's defaults
Basis = Literal["tokens", "latency"]


class GpuCost(msgspec.Struct, frozen=True):
    """What a policy's judgements take.

    items_a_day: content items that the policy covers, estimated. judgements_a_day: of them, samples and audits
    included. gpu_seconds: of one judgement, from its completion tokens, or from its latency over `concurrency`
    judgements at once.
    """

    items_a_day: float
    judgements_a_day: float
    completion_tokens: float
    gpu_seconds: float
    basis: Basis
    concurrency: int

    @property
    def gpu_hours_a_day(self) -> float:
        """GPU hours that all of its judgements take a day."""
        return self.hours(self.judgements_a_day)

    def hours(self, judgements_a_day: float) -> float:
        """GPU hours a day for so many judgements."""
        return judgements_a_day * self.gpu_seconds / 3600


def cost_of(evidence: Evidence, settings: Settings, gpu_tokens: float | None = None) -> GpuCost | None:
    """The cost under the version in force; None where its verdicts span less than MIN_SPAN.

    gpu_tokens: completion tokens a second of one GPU, if they are known.
    """
    usage, rows = evidence.usage, evidence.live.rows
    times = [row.decided_at for row in rows if row.decided_at is not None]
    span = (max(times) - min(times)).total_seconds() if times else 0.0
    if min(usage.span, span) < MIN_SPAN:
        return None
    small = settings.model == "small" and not settings.servers
    concurrency = settings.max_in_flight or (_SMALL_CONCURRENCY if small else _CONCURRENCY)
    tokens, seconds = usage.completion_tokens / usage.judged, usage.seconds / usage.judged
    return GpuCost(
        items_a_day=sum(row.weight for row in rows) / span * DAY,
        judgements_a_day=usage.judged / usage.span * DAY,
        completion_tokens=tokens,
        gpu_seconds=tokens / gpu_tokens if gpu_tokens else seconds / concurrency,
        basis="tokens" if gpu_tokens else "latency",
        concurrency=concurrency,
    )
