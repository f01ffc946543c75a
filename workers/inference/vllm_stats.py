"""Metrics of vLLM in this process: requests that run and wait, and KV cache usage. vLLM reports after each step."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase

from safeguard_streams.runtime import metrics


class VllmStats(StatLoggerBase):
    """The latest figures of one of vLLM's engine cores, which reports them after each step. `steps` counts them."""

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:  # noqa: ARG002  (the signature is the library's)
        self.running = self.waiting = self.steps = 0
        self.cache_usage = 0.0

    def record(self, scheduler_stats: Any, *_: Any, **__: Any) -> None:
        self.steps += 1
        if scheduler_stats is not None:
            self.running = scheduler_stats.num_running_reqs
            self.waiting = scheduler_stats.num_waiting_reqs
            self.cache_usage = scheduler_stats.kv_cache_usage

    def log_engine_initialized(self) -> None:
        return


def observed(cores: list[VllmStats], model: str) -> AbstractContextManager[None]:
    """Report the gauges of all cores together while the context is open."""
    attributes = {"gen_ai.request.model": model}
    return metrics.observed(
        {
            metrics.INFERENCE_RUNNING: lambda: [(sum(core.running for core in cores), attributes)],
            metrics.INFERENCE_WAITING: lambda: [(sum(core.waiting for core in cores), attributes)],
            metrics.INFERENCE_CACHE: lambda: [(max([0.0, *(core.cache_usage for core in cores)]), attributes)],
        }
    )
