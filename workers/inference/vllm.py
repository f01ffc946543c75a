"""vLLM in this process: AsyncLLM with token ids in and out."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import psutil

from safeguard_streams.errors import ConfigurationError, DependencyError
from safeguard_streams.runtime.process import in_thread
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.workers.inference import harmony, preflight
from safeguard_streams.workers.inference.harmony import ONE, ZERO
from safeguard_streams.workers.inference.interface import Completion, InferenceError, InferenceRequest

log = logging.getLogger(__name__)

CPU_CONCURRENCY, GPU_CONCURRENCY = 8, 64  # requests at once; more make each slower
TEST_TIMEOUT = 30.0  # seconds for a request of one token, after another timed out
CPU_BLOCK = 32  # tokens in a block of the prefix cache; the default of 128 would leave much of a policy uncached

# Defaults of vLLM's environment variables. A deployment may override each.
QUIET = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # standard output is for the results of a command
    "VLLM_NO_USAGE_STATS": "1",
}
ON_CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    # vLLM then computes in its own process. Its front end would wait for a second process by spinning, which takes a
    # core from the model and from everything else on the machine.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # One core is left to the worker and, on a machine for trials, to the broker. Threads that compute together wait
    # for the one that was interrupted.
    "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) - 1)),
}


def _set_defaults(environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        os.environ.setdefault(name, value)


class VllmBackend:
    """Start with `await VllmBackend.start(settings)`; it takes most of a minute on a CPU."""

    def __init__(self, llm: Any, model: str, settings: Settings, concurrency: int, stats: list[Any]) -> None:
        from safeguard_streams.workers.inference.vllm_stats import observed

        self._observed = contextlib.ExitStack()
        self._observed.enter_context(observed(stats, model))
        cache = llm.vllm_config.cache_config
        self._llm = llm
        self._ids = itertools.count()
        self._timeout = settings.inference_timeout
        self.model = model
        self.max_model_tokens = settings.max_model_len
        self.concurrency = concurrency
        self.cache_tokens: int | None = (cache.num_gpu_blocks or 0) * cache.block_size or None

    @property
    def healthy(self) -> bool:
        return not self._llm.errored

    @classmethod
    async def start(cls, settings: Settings) -> VllmBackend:
        """Load the model. Raises ConfigurationError when that fails, with what to do."""
        return await in_thread(partial(cls._start, settings))

    @classmethod
    def _start(cls, settings: Settings) -> VllmBackend:
        harmony.check_vocabulary()
        _set_defaults(QUIET)
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.platforms import current_platform
            from vllm.v1.engine.async_llm import AsyncLLM

            from safeguard_streams.workers.inference.vllm_stats import VllmStats
        except ImportError as error:
            raise ConfigurationError(
                f"{error.name} is not installed: pip install 'safeguard-streams[gpu]' (or [cpu])"
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
        concurrency = settings.max_in_flight or (CPU_CONCURRENCY if on_cpu else GPU_CONCURRENCY)
        device = "CPU" if on_cpu else current_platform.get_device_name()
        log.info("model loading started model=%s device=%s", name, device)
        arguments = AsyncEngineArgs(
            model=str(folder),
            skip_tokenizer_init=True,  # this project renders prompts to token ids and parses outputs from them
            max_model_len=settings.max_model_len,
            max_num_seqs=concurrency,
            enable_prefix_caching=True,  # a policy's text is computed once, not for every content item
            disable_log_stats=True,  # VllmStats takes the figures instead of lines in the log
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
        stats: list[VllmStats] = []

        def new_stats(config: Any, number: int = 0) -> VllmStats:
            stats.append(VllmStats(config, number))
            return stats[-1]

        try:
            llm = AsyncLLM.from_engine_args(arguments, stat_loggers=[new_stats])
        except Exception as error:
            raise ConfigurationError(
                f"vLLM could not load {settings.model}, see its messages above: {error}"
            ) from error
        return cls(llm, name, settings, concurrency, stats)

    async def generate(self, request: InferenceRequest) -> Completion:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._generate(request)
        except TimeoutError as error:
            await self._require_answer(request)
            raise InferenceError(f"vLLM did not finish this request within {self._timeout:.0f} s") from error

    async def _require_answer(self, request: InferenceRequest) -> None:
        """Ask for one token, after a request timed out. Raises DependencyError when the engine hangs."""
        test = InferenceRequest(request.policy_text, request.effort, (), max_tokens=1)
        try:
            async with asyncio.timeout(TEST_TIMEOUT):
                await self._generate(test)
        except TimeoutError as error:
            raise DependencyError("the inference backend hangs (vLLM): restart the worker") from error

    async def _generate(self, request: InferenceRequest) -> Completion:
        from vllm import SamplingParams
        from vllm.v1.engine.exceptions import EngineDeadError

        sampling = SamplingParams(
            temperature=request.temperature,
            max_tokens=request.max_tokens,
            detokenize=False,
            stop_token_ids=harmony.stop_tokens(),
            logprob_token_ids=[ZERO, ONE],
        )
        final: Any = None
        try:
            async for final in self._llm.generate(  # noqa: B007  (only the last output is complete)
                {"prompt_token_ids": request.prompt}, sampling, f"judge-{next(self._ids)}"
            ):
                pass
        except EngineDeadError as error:
            raise DependencyError("the inference backend died (vLLM): restart the worker") from error
        except Exception as error:
            raise InferenceError(f"vLLM failed this request: {type(error).__name__}") from error
        if final is None:
            raise InferenceError("vLLM gave no output for this request")
        output = final.outputs[0]
        return Completion(
            tokens=list(output.token_ids),
            prompt_tokens=len(final.prompt_token_ids),
            cached_tokens=final.num_cached_tokens or 0,
            logprobs=[
                {token: entry.logprob for token, entry in position.items()} for position in output.logprobs or ()
            ],
        )

    async def close(self) -> None:
        self._observed.close()
        self._llm.shutdown()
