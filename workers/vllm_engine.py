"""vLLM in this process: AsyncLLM with token ids on both sides."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from streams.errors import ConfigurationError, DependencyError
from streams.settings import Settings
from workers.inference import Completion, InferenceError
from workers.parse import ONE, ZERO
from workers.prompt import encoding
from workers.small.weights import expand

log = logging.getLogger(__name__)

SMALL = "small"


def resolve_model(model: str) -> tuple[str, str]:
    """What to load, and the name that verdicts give: 'small', a folder, or a hub name."""
    if model == SMALL:
        folder = expand()
        return str(folder), folder.name
    if Path(model).is_dir():
        return model, Path(model).name
    if Path(model).exists() or model.startswith((".", "/")):
        raise ConfigurationError(f"{model}: no such model folder; give a folder with config.json, or a hub name")
    return model, model


def _environment() -> None:
    """Defaults for vLLM that a deployment may still override."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB, on a CPU only


class VllmEngine:
    """Start with `await VllmEngine.start(settings)`; it takes most of a minute on a CPU."""

    def __init__(self, engine: Any, model: str, longest: int, stops: list[int]) -> None:
        self._engine = engine
        self._stops = stops
        self._ids = itertools.count()
        self.model = model
        self.longest = longest

    @classmethod
    async def start(cls, settings: Settings) -> VllmEngine:
        """Load the model. Raises ConfigurationError when it cannot be loaded."""
        return await asyncio.to_thread(cls._start, settings)

    @classmethod
    def _start(cls, settings: Settings) -> VllmEngine:
        path, name = resolve_model(settings.model)
        _environment()
        if Path(path).is_dir():
            os.environ.setdefault("HF_HUB_OFFLINE", "1")
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.platforms import current_platform
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise ConfigurationError(
                f"{error.name} is not installed here: pip install 'safeguard-streams[gpu]' (or [cpu])"
            ) from error
        on_cpu = current_platform.is_cpu()
        log.info("loading %s on the %s", name, "CPU" if on_cpu else current_platform.device_name)
        arguments = AsyncEngineArgs(
            model=path,
            skip_tokenizer_init=True,  # prompts are rendered to token ids here, outputs parsed from them
            max_model_len=settings.max_model_len,
            max_num_seqs=settings.in_flight,
            enable_prefix_caching=True,  # a policy's text is computed once, not for every content
            enforce_eager=on_cpu,  # compiling takes minutes on a CPU and gains nothing for a small model
            disable_log_stats=True,
        )
        try:
            engine = AsyncLLM.from_engine_args(arguments)
        except Exception as error:
            raise ConfigurationError(f"{settings.model}: vLLM could not start it: {error}") from error
        return cls(engine, name, settings.max_model_len, encoding().stop_tokens_for_assistant_actions())

    async def generate(self, prompt: Sequence[int], most: int) -> Completion:
        from vllm import SamplingParams
        from vllm.v1.engine.exceptions import EngineDeadError

        sampling = SamplingParams(
            temperature=0.0,
            max_tokens=most,
            detokenize=False,
            stop_token_ids=self._stops,
            logprob_token_ids=[ZERO, ONE],
        )
        final: Any = None
        try:
            async for final in self._engine.generate(  # noqa: B007  (the last one is whole)
                {"prompt_token_ids": list(prompt)}, sampling, f"judge-{next(self._ids)}"
            ):
                pass
        except EngineDeadError as error:
            raise DependencyError("the inference engine died; start the worker again") from error
        except Exception as error:
            raise InferenceError(f"the engine failed this request: {type(error).__name__}") from error
        said = final.outputs[0]
        return Completion(
            tokens=list(said.token_ids),
            prompt_tokens=len(final.prompt_token_ids),
            cached_tokens=final.num_cached_tokens or 0,
            logprobs=[{t: entry.logprob for t, entry in position.items()} for position in said.logprobs or ()],
        )

    async def close(self) -> None:
        self._engine.shutdown()
