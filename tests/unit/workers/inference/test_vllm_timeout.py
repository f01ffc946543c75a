"""A model in this process that does not answer: one slow request fails alone, and a hung engine ends the worker."""

import asyncio

import pytest

from safeguard_streams.errors import DependencyError
from safeguard_streams.workers.inference import vllm
from safeguard_streams.workers.inference.interface import Completion, InferenceError, InferenceRequest
from safeguard_streams.workers.inference.vllm import VllmBackend

REQUEST = InferenceRequest("policy", "low", [1, 2, 3], 200)


class Slow(VllmBackend):
    """Never ends a request of more than `longest` tokens."""

    def __init__(self, longest):
        self._timeout = 0.05
        self.longest = longest
        self.ended = 0

    async def _generate(self, request):
        try:
            if request.max_tokens > self.longest:
                await asyncio.Event().wait()
        finally:
            self.ended += 1
        return Completion([1], 3, 0)


async def test_a_request_in_time_is_answered():
    assert (await Slow(1000).generate(REQUEST)).tokens == [1]


async def test_a_slow_request_fails_alone_and_is_ended():
    backend = Slow(1)
    with pytest.raises(InferenceError, match="did not finish this request"):
        await backend.generate(REQUEST)
    assert backend.ended == 2, "the slow one, and one of one token that shows that the engine works"


async def test_an_engine_that_hangs_ends_the_worker(monkeypatch):
    monkeypatch.setattr(vllm, "TEST_TIMEOUT", 0.05)
    with pytest.raises(DependencyError, match="hangs .vLLM.: restart the worker"):
        await Slow(0).generate(REQUEST)
