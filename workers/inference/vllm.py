"""vLLM in this process: AsyncLLM with token ids in and out."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import psutil

from safeguard_streams.errors import ConfigurationError, DependencyError
from safeguard_streams.runtime.process import in_thread
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.workers.inference import harmony, preflight, revision, vllm_arguments
from safeguard_streams.workers.inference.harmony import ONE, ZERO
from safeguard_streams.workers.inference.interface import Completion, InferenceError, InferenceRequest
from safeguard_streams.workers.inference.stall import StallDetector

log = logging.getLogger(__name__)


class VllmBackend:
    """Start with `await VllmBackend.start(settings)`; it takes most of a minute on a CPU.

    On a CPU, every completion has log-probabilities at its decision tokens, requested or not: see `vllm_decisions`.
    """

    continues = True

    def __init__(self, llm: Any, model: str, model_revision: str, concurrency: int, cores: list[Any]) -> None:
        from vllm import envs

        from safeguard_streams.workers.inference.vllm_stats import observed

        config = llm.vllm_config
        self._observed = contextlib.ExitStack()
        self._observed.enter_context(observed(cores, model))
        self._llm = llm
        self._ids = itertools.count()
        self._stalls = StallDetector(lambda: sum(core.steps for core in cores), envs.VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS)
        self._watching = asyncio.create_task(self._stalls.watch())
        self.model = model
        self.revision: str | None = model_revision
        self.max_model_tokens: int = config.model_config.max_model_len
        self.concurrency = concurrency
        # Not the number of blocks: where layers have different windows, a token takes blocks of several groups.
        self.cache_tokens: int | None = config.cache_config.kv_cache_size_tokens
        self._noted = bool(config.model_config.logits_processors)

    @property
    def healthy(self) -> bool:
        return not self._llm.errored and not self._stalls.stalled

    @classmethod
    async def start(cls, settings: Settings) -> VllmBackend:
        """Load the model. Raises ConfigurationError when that fails, with what to do."""
        return cls(*await in_thread(partial(_load, settings)))

    async def generate(self, request: InferenceRequest) -> Completion:
        name = f"judge-{next(self._ids)}"
        async with self._in_time():
            parameters = sampling(request, name if self._noted else None)
            final = await self._last_output(request.prompt, parameters, name)
            output = final.outputs[0]
            logprobs = await self._decisions(name, output.token_ids) if self._noted else _positions(output.logprobs)
        return Completion(
            tokens=list(output.token_ids),
            prompt_tokens=len(final.prompt_token_ids),
            cached_tokens=final.num_cached_tokens or 0,
            logprobs=list(logprobs),
        )

    @contextlib.asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """Await vLLM in this context, whose errors become this project's."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            async with self._stalls.awaited():
                yield
        except InferenceError:
            raise
        except TimeoutError as error:
            raise DependencyError(
                f"the inference backend hangs (vLLM took no step for {self._stalls.limit} s): check the GPU with "
                "nvidia-smi and restart the worker; if steps take so long, raise VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"
            ) from error
        except EngineDeadError as error:
            raise DependencyError("the inference backend died (vLLM): restart the worker") from error
        except Exception as error:
            raise InferenceError(f"vLLM failed this request: {type(error).__name__}") from error

    async def _last_output(self, prompt: list[int], parameters: Any, name: str) -> Any:
        """The whole output for one prompt, which is the only one with this kind of output."""
        final: Any = None
        async for final in self._llm.generate({"prompt_token_ids": prompt}, parameters, name):  # noqa: B007
            pass
        if final is None:
            raise InferenceError("vLLM gave no output for this request")
        return final

    async def _decisions(self, name: str, tokens: Sequence[int]) -> list[Mapping[int, float]]:
        """The log-probabilities at each token of an output that may be a decision; empty where they were not kept."""
        positions = [position for position, token in enumerate(tokens) if token in {ZERO, ONE}]
        noted, *_ = await self._llm.collective_rpc("take_decision_logits", args=(name, positions))
        if None in noted:
            return []
        logprobs: list[Mapping[int, float]] = [{} for _ in tokens]
        for position, logits in zip(positions, noted, strict=True):
            logprobs[position] = _between(*logits)
        return logprobs

    async def close(self) -> None:
        self._watching.cancel()
        self._observed.close()
        self._llm.shutdown()


def _load(settings: Settings) -> tuple[Any, str, str, int, list[Any]]:
    """The arguments of VllmBackend."""
    preflight.check_harmony()
    harmony.check_vocabulary()
    vllm_arguments.set_defaults(vllm_arguments.QUIET)
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.usage.usage_lib import UsageContext
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
        vllm_arguments.set_defaults(vllm_arguments.ON_CPU)
        preflight.check_memory(folder, psutil.virtual_memory().total, 1.0, 1, "machine")
    else:
        preflight.check_gpu(preflight.facts_of_gpu(current_platform))
        total = current_platform.get_device_total_memory()
        preflight.check_memory(folder, total, settings.gpu_memory, settings.tensor_parallel, "GPU")
    concurrency = settings.max_in_flight or vllm_arguments.default_concurrency(current_platform)
    device = "CPU" if on_cpu else current_platform.get_device_name()
    log.info("model loading started model=%s device=%s in_flight=%d", name, device, concurrency)
    cores: list[VllmStats] = []

    def new_core(config: Any, number: int = 0) -> VllmStats:
        cores.append(VllmStats(config, number))
        return cores[-1]

    try:
        llm = AsyncLLM.from_engine_args(
            AsyncEngineArgs(**vllm_arguments.engine_arguments(settings, folder, concurrency, on_cpu=on_cpu)),
            usage_context=UsageContext.OPENAI_API_SERVER,  # the defaults for a device, as `vllm serve` has them
            stat_loggers=[new_core],
        )
    except Exception as error:
        raise ConfigurationError(f"vLLM could not load {settings.model}, see its messages above: {error}") from error
    return llm, name, revision.of_folder(folder), concurrency, cores


def sampling(request: InferenceRequest, noted: str | None = None) -> Any:
    """vLLM's parameters of one request. noted: the name under which its decisions are noted, if they are."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    return SamplingParams(
        temperature=request.temperature,
        max_tokens=request.max_tokens,
        detokenize=False,
        stop_token_ids=request.stop_tokens,
        # In each step in which one request asks for them, vLLM computes them for the whole batch.
        logprob_token_ids=[ZERO, ONE] if request.scored and not noted else None,
        extra_args={vllm_arguments.NOTED: noted} if noted else None,
        structured_outputs=StructuredOutputsParams(regex=request.pattern) if request.pattern else None,
        flat_logprobs=True,  # a few lists instead of objects for each token
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _positions(flat: Any) -> Iterator[Mapping[int, float]]:
    """The logarithms of vLLM's FlatLogprobs by token, for each token of an output."""
    if flat is not None:
        for start, end in zip(flat.start_indices, flat.end_indices, strict=True):
            yield dict(zip(flat.token_ids[start:end], flat.logprobs[start:end], strict=True))


def _between(zero: float, one: float) -> Mapping[int, float]:
    """The log-probabilities of the decision tokens, as if there were no others. zero, one: their logits."""
    return {ZERO: -_softplus(one - zero), ONE: -_softplus(zero - one)}


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
