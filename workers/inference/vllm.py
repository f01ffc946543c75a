"""vLLM in this process: AsyncLLM with token ids on both sides."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
from collections.abc import Mapping
from typing import Any

import psutil

from safeguard_streams.errors import ConfigurationError, DependencyError
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.workers.inference import preflight
from safeguard_streams.workers.inference.interface import Completion, InferenceError, Question
from safeguard_streams.workers.judging import prompt
from safeguard_streams.workers.judging.parse import ONE, ZERO

log = logging.getLogger(__name__)

CPU_SLOTS, GPU_SLOTS = 8, 64  # more at once make each slower
CPU_BLOCK = 32  # tokens of the prefix cache's unit; the default of 128 would leave much of a policy uncached


# Defaults for vLLM that a deployment may still override.
QUIET = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # standard output is for what a command was asked for
    "VLLM_NO_USAGE_STATS": "1",
}
ON_CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    # With this, the engine's process computes by itself. A second process for that would be waited for by spinning, which
    # takes a core from the model and from everything else on the machine.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # One core is left to the worker and, on a machine for trying things, the broker: threads that compute together wait for
    # the one that was interrupted.
    "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) - 1)),
}


def _set_defaults(environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        os.environ.setdefault(name, value)


class VllmEngine:
    """Start with `await VllmEngine.start(settings)`; it takes most of a minute on a CPU."""

    def __init__(self, engine: Any, model: str, longest: int, slots: int, stats: list[Any]) -> None:
        from safeguard_streams.workers.inference.vllm_stats import observed

        self._observed = contextlib.ExitStack()
        self._observed.enter_context(observed(stats, model))
        cache = engine.vllm_config.cache_config
        self._engine = engine
        self._ids = itertools.count()
        self.model = model
        self.longest = longest
        self.slots = slots
        self.capacity: int | None = (cache.num_gpu_blocks or 0) * cache.block_size or None

    @property
    def healthy(self) -> bool:
        return not self._engine.errored

    @classmethod
    async def start(cls, settings: Settings) -> VllmEngine:
        """Load the model. Raises ConfigurationError when it cannot be loaded, with what to do."""
        return await asyncio.to_thread(cls._start, settings)

    @classmethod
    def _start(cls, settings: Settings) -> VllmEngine:
        prompt.check_vocabulary()
        _set_defaults(QUIET)
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.platforms import current_platform
            from vllm.v1.engine.async_llm import AsyncLLM

            from safeguard_streams.workers.inference.vllm_stats import EngineStats
        except ImportError as error:
            raise ConfigurationError(
                f"{error.name} is not installed here: pip install 'safeguard-streams[gpu]' (or [cpu])"
            ) from error
        preflight.check_platform(current_platform)
        folder, name = preflight.locate(settings.model)
        on_cpu = current_platform.is_cpu()
        if on_cpu:
            _set_defaults(ON_CPU)
            preflight.check_memory(folder, psutil.virtual_memory().total, 1.0, 1, "machine")
        else:
            total = current_platform.get_device_total_memory()
            preflight.check_memory(folder, total, settings.gpu_memory, settings.tensor_parallel, "GPU")
        slots = settings.max_in_flight or (CPU_SLOTS if on_cpu else GPU_SLOTS)
        log.info("loading %s on the %s", name, "CPU" if on_cpu else current_platform.get_device_name())
        arguments = AsyncEngineArgs(
            model=str(folder),
            skip_tokenizer_init=True,  # prompts are rendered to token ids here, outputs parsed from them
            max_model_len=settings.max_model_len,
            max_num_seqs=slots,
            enable_prefix_caching=True,  # a policy's text is computed once, not for every content
            disable_log_stats=True,  # its own are lines in the log; EngineStats takes the figures
            # On a CPU compiling takes minutes and gains nothing for a small model.
            **(
                {"enforce_eager": True, "block_size": CPU_BLOCK, "distributed_executor_backend": "uni"}
                if on_cpu
                else {
                    "gpu_memory_utilization": settings.gpu_memory,
                    "tensor_parallel_size": settings.tensor_parallel,
                }
            ),
        )
        stats: list[EngineStats] = []

        def figures(config: Any, number: int = 0) -> EngineStats:
            stats.append(EngineStats(config, number))
            return stats[-1]

        try:
            engine = AsyncLLM.from_engine_args(arguments, stat_loggers=[figures])
        except Exception as error:
            raise ConfigurationError(
                f"{settings.model}: vLLM could not start it, for the reason above: {error}"
            ) from error
        return cls(engine, name, settings.max_model_len, slots, stats)

    async def generate(self, question: Question) -> Completion:
        from vllm import SamplingParams
        from vllm.v1.engine.exceptions import EngineDeadError

        sampling = SamplingParams(
            temperature=question.temperature,
            max_tokens=question.most,
            detokenize=False,
            stop_token_ids=prompt.stop_tokens(),
            logprob_token_ids=[ZERO, ONE],
        )
        final: Any = None
        try:
            async for final in self._engine.generate(  # noqa: B007  (the last one is whole)
                {"prompt_token_ids": question.prompt}, sampling, f"judge-{next(self._ids)}"
            ):
                pass
        except EngineDeadError as error:
            raise DependencyError("the inference engine died; start the worker again") from error
        except Exception as error:
            raise InferenceError(f"the engine failed this question: {type(error).__name__}") from error
        said = final.outputs[0]
        return Completion(
            tokens=list(said.token_ids),
            prompt_tokens=len(final.prompt_token_ids),
            cached_tokens=final.num_cached_tokens or 0,
            logprobs=[{t: entry.logprob for t, entry in position.items()} for position in said.logprobs or ()],
        )

    async def close(self) -> None:
        self._observed.close()
        self._engine.shutdown()
