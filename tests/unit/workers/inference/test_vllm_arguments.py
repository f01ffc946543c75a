"""vLLM's arguments by device and memory."""

import os
from pathlib import Path

import pytest

from safeguard_streams.runtime import settings
from safeguard_streams.workers.inference import vllm_arguments
from safeguard_streams.workers.inference.vllm_arguments import GIB, engine_arguments, gpu_concurrency


@pytest.mark.parametrize(
    ("memory", "requests"),
    [
        (15.99, 32),  # 16 GB
        (22.5, 64),  # L4
        (24.0, 64),
        (31.8, 128),  # 32 GB
        (47.5, 128),  # L40S
        (79.2, 256),  # H100
        (178.4, 256),  # B200
    ],
)
def test_a_card_with_more_memory_has_more_requests_in_flight(memory, requests):
    assert gpu_concurrency(int(memory * GIB)) == requests


def test_the_boundaries_belong_to_the_larger_card():
    assert [gpu_concurrency(n * GIB - 1) for n in (20, 30, 60)] == [32, 64, 128]
    assert [gpu_concurrency(n * GIB) for n in (20, 30, 60)] == [64, 128, 256]


@pytest.mark.parametrize(("concurrency", "captured"), [(1, 8), (32, 256), (128, 1024), (256, 2048), (1000, 2048)])
def test_graphs_cover_at_least_every_request_and_at_most_what_the_makers_recommend(concurrency, captured):
    arguments = engine_arguments(settings.load(), Path("m"), concurrency, on_cpu=False)
    assert arguments["max_cudagraph_capture_size"] == captured >= concurrency
    assert arguments["max_num_seqs"] == concurrency


def test_a_cpu_has_neither_graphs_nor_a_share_of_its_memory():
    arguments = engine_arguments(settings.load(), Path("m"), 8, on_cpu=True)
    assert not arguments.keys() & {"max_cudagraph_capture_size", "gpu_memory_utilization", "tensor_parallel_size"}
    assert arguments["enforce_eager"]


def test_the_environment_of_the_deployment_comes_first(monkeypatch):
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "fork")
    monkeypatch.delenv("VLLM_LOGGING_LEVEL", raising=False)
    before = {**os.environ}
    try:
        vllm_arguments.set_defaults(vllm_arguments.QUIET)
        assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "fork"
        assert os.environ["VLLM_LOGGING_LEVEL"] == "WARNING"
    finally:
        os.environ.clear()
        os.environ.update(before)
