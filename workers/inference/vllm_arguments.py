"""How vLLM is set up in this process: its environment variables, and the engine's arguments by device and memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safeguard_streams.runtime.settings import Settings

GIB = 2**30
CPU_CONCURRENCY = 8  # requests at once; more make each slower
CPU_BLOCK = 32  # tokens in a block of the prefix cache; the default of 128 would leave much of a policy uncached
# Requests at once on a GPU with less than this many GiB. The card's bandwidth and its KV cache grow with its memory.
_GPU_CONCURRENCY = ((20, 32), (30, 64), (60, 128))
_MOST_GPU_CONCURRENCY = 256
# A step computes new prompts beside the running answers, and has more tokens than there are requests. At 256 requests,
# steps of up to 2,048 tokens are captured, as in vLLM's recipe for gpt-oss. Smaller cards save the graphs' memory.
_CAPTURED_TOKENS = 8  # for each request
_MOST_CAPTURED_TOKENS = 2048

# Defaults of vLLM's environment variables. A deployment may override each.
QUIET = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # standard output is for the results of a command
    "VLLM_NO_USAGE_STATS": "1",
    # A fork would copy this process's locks, which other threads may hold.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
ON_CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    # The engine core then computes in its own process. It would wait for a further process by spinning, which takes a
    # core from the model and from everything else on the machine.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # One core is left to the worker and, on a machine for trials, to the broker. Threads that compute together wait
    # for the one that was interrupted.
    "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) - 1)),
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the second takes other logits processors than NOTED_DECISIONS
}

NOTED = "noted"  # a request's extra argument for the logits processor: the name under which to note its decisions
# Scores without vLLM's log-probabilities, which take a CPU long. On a GPU they are cheap.
NOTED_DECISIONS = {
    "logits_processors": ["safeguard_streams.workers.inference.vllm_decisions:DecisionLogits"],
    "worker_extension_cls": "safeguard_streams.workers.inference.vllm_decisions.Notes",
}


def set_defaults(environment: Mapping[str, str]) -> None:
    """Set the environment variables that the deployment does not."""
    for name, value in environment.items():
        os.environ.setdefault(name, value)


def default_concurrency(platform: Any) -> int:
    """Requests at once on this device. platform: vLLM's current platform."""
    return CPU_CONCURRENCY if platform.is_cpu() else gpu_concurrency(platform.get_device_total_memory())


def gpu_concurrency(memory: int) -> int:
    """Requests at once on a GPU with this memory, in bytes."""
    for below, requests in _GPU_CONCURRENCY:
        if memory < below * GIB:
            return requests
    return _MOST_GPU_CONCURRENCY


def engine_arguments(settings: Settings, folder: Path, concurrency: int, *, on_cpu: bool) -> dict[str, Any]:
    """The arguments of vLLM's AsyncEngineArgs."""
    return {
        "model": str(folder),
        # This project renders prompts to token ids and parses outputs from them; only constraints need a tokenizer.
        "skip_tokenizer_init": not (folder / "tokenizer.json").is_file(),
        "max_model_len": settings.max_model_len,
        "max_num_seqs": concurrency,
        "enable_prefix_caching": True,  # a policy's text is computed once, not for every content item
        "disable_log_stats": True,  # VllmStats takes the figures instead of lines in the log
        **(_on_cpu() if on_cpu else _on_gpu(settings, concurrency)),
    }


def _on_cpu() -> dict[str, Any]:
    # On a CPU compiling takes minutes and gains nothing for a small model.
    return {"enforce_eager": True, "block_size": CPU_BLOCK, "distributed_executor_backend": "uni", **NOTED_DECISIONS}


def _on_gpu(settings: Settings, concurrency: int) -> dict[str, Any]:
    return {
        "gpu_memory_utilization": settings.gpu_memory,
        "tensor_parallel_size": settings.tensor_parallel,
        "max_cudagraph_capture_size": min(_CAPTURED_TOKENS * concurrency, _MOST_CAPTURED_TOKENS),
    }
