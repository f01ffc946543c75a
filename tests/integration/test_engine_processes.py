"""vLLM as on GPUs: its arguments, the facts of its driver, and an engine core with workers of its own."""

import asyncio
import contextlib
import dataclasses
from pathlib import Path

import psutil
import pytest

from safeguard_streams.errors import ConfigurationError, DependencyError
from safeguard_streams.policies.files import load_library
from safeguard_streams.runtime import settings
from safeguard_streams.workers.inference import harmony, preflight
from safeguard_streams.workers.inference.interface import InferenceRequest
from safeguard_streams.workers.inference.vllm import VllmBackend
from safeguard_streams.workers.inference.vllm_arguments import engine_arguments
from safeguard_streams.workers.judging.parse import parse
from tests.conftest import descendants

pytestmark = [pytest.mark.slow, pytest.mark.model]
POLICY = load_library()["fraud-spam"]


def named(processes, part):
    return [process for process in processes if part in "".join(process.cmdline() or [""])]


async def judge(backend, text):
    request = InferenceRequest(POLICY.text, POLICY.effort, harmony.encode_text(text), 256)
    return parse((await backend.generate(request)).tokens, [POLICY]).answers[POLICY.id]


@pytest.mark.parametrize("on_cpu", [True, False])
def test_vllm_knows_every_argument(on_cpu):
    from vllm.engine.arg_utils import AsyncEngineArgs

    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    assert engine_arguments(settings.load(), Path("model"), 8, on_cpu=on_cpu).keys() <= known


class Nvidia:
    """A platform of vLLM, and its driver's library."""

    class NVMLError(Exception):
        pass

    def is_cuda(self):
        return True

    def get_device_name(self):
        return "NVIDIA L4"

    def get_device_capability(self):
        from vllm.platforms.interface import DeviceCapability

        return DeviceCapability(8, 9)

    def nvmlInit(self):  # noqa: N802  (the library's name)
        pass

    nvmlShutdown = nvmlInit  # noqa: N815  (the same)

    def nvmlSystemGetDriverVersion(self):  # noqa: N802  (the same)
        return "550.54.15"

    def nvmlSystemGetCudaDriverVersion_v2(self):  # noqa: N802  (the same)
        return 12040


@pytest.fixture
def gpu(monkeypatch):
    found = Nvidia()
    monkeypatch.setattr("vllm.utils.import_utils.import_pynvml", lambda: found)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    return found


def test_the_facts_of_a_gpu_come_from_its_driver(gpu):
    facts = preflight.facts_of_gpu(gpu)
    assert facts == ("NVIDIA L4", (8, 9), "550.54.15", (12, 4), (13, 0))
    with pytest.raises(ConfigurationError, match="driver 550.54.15 supports CUDA 12.4"):
        preflight.check_gpu(facts)


def test_a_board_without_the_drivers_library_and_another_maker_have_no_facts(gpu, monkeypatch):
    def missing():
        raise gpu.NVMLError

    gpu.nvmlInit = missing
    assert preflight.facts_of_gpu(gpu) is None
    monkeypatch.setattr("torch.version.cuda", None)
    assert preflight.facts_of_gpu(gpu) is None


async def test_the_death_of_the_engine_core_ends_requests_in_progress_and_later_ones(monkeypatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    others = descendants()  # such as the vLLM server of other tests
    backend = await VllmBackend.start(settings.load(max_model_len=4096))
    started = descendants() - others
    try:
        (core,), workers = named(started, "EngineCore"), named(started, "Worker")
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
