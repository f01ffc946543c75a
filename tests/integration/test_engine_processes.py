"""vLLM in several processes, as on GPUs: an engine core, and workers that it starts."""

import asyncio
import contextlib

import psutil
import pytest

from safeguard_streams.errors import DependencyError
from safeguard_streams.policies.files import load_library
from safeguard_streams.runtime import settings
from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.inference.interface import InferenceRequest
from safeguard_streams.workers.inference.vllm import VllmBackend
from safeguard_streams.workers.judging.parse import parse

pytestmark = [pytest.mark.slow, pytest.mark.model]
POLICY = load_library()["fraud-spam"]


def named(part):
    return [
        process for process in psutil.Process().children(recursive=True) if part in "".join(process.cmdline() or [""])
    ]


async def judge(backend, text):
    request = InferenceRequest(POLICY.text, POLICY.effort, harmony.encode_text(text), 256)
    return parse((await backend.generate(request)).tokens, [POLICY]).answers[POLICY.id]


async def test_the_death_of_the_engine_core_ends_requests_in_progress_and_later_ones(monkeypatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    backend = await VllmBackend.start(settings.load(max_model_len=4096))
    started = psutil.Process().children(recursive=True)
    try:
        (core,), workers = named("EngineCore"), named("Worker")
        assert workers, "the core does not compute itself"
        assert {worker.ppid() for worker in workers} == {core.pid}
        assert (await judge(backend, "WINNER!! Claim your 900 pound prize now, call 0906")).violates
        core.suspend()  # the requests are in progress for certain when it dies
        judging = [asyncio.create_task(judge(backend, f"text {number}")) for number in range(20)]
        await asyncio.sleep(0)
        core.kill()
        results = await asyncio.gather(*judging, return_exceptions=True)
        assert {type(result) for result in results} == {DependencyError}
        assert {str(result) for result in results} == {"the inference backend died (vLLM): restart the worker"}
        with pytest.raises(DependencyError):
            await judge(backend, "later")
        assert not backend.healthy
    finally:
        await backend.close()
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
