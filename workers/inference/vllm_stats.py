"""What vLLM in this process says of itself: questions under way and waiting, and how full its cache is."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase

from safeguard_streams.runtime import metrics


class EngineStats(StatLoggerBase):
    """The last figures, as the engine gives them after each step."""

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:  # noqa: ARG002  (the signature is the library's)
        self.running = self.waiting = 0
        self.cache = 0.0

    def record(self, scheduler_stats: Any, *_: Any, **__: Any) -> None:
        if scheduler_stats is not None:
            self.running = scheduler_stats.num_running_reqs
            self.waiting = scheduler_stats.num_waiting_reqs
            self.cache = scheduler_stats.kv_cache_usage

    def log_engine_initialized(self) -> None:
        return


def observed(stats: list[EngineStats], model: str) -> AbstractContextManager[None]:
    """The gauges of an engine, all its parts together."""
    attributes = {"gen_ai.request.model": model}
    return metrics.observed(
        {
            metrics.ENGINE_RUNNING: lambda: [(sum(one.running for one in stats), attributes)],
            metrics.ENGINE_WAITING: lambda: [(sum(one.waiting for one in stats), attributes)],
            metrics.ENGINE_CACHE: lambda: [(max([0.0, *(one.cache for one in stats)]), attributes)],
        }
    )
