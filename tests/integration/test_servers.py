"""The worker with a vLLM server, and its recovery after vLLM in its own process is killed."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Verdict, decode
from safeguard_streams.policies.files import load, load_library
from safeguard_streams.releases import operator
from safeguard_streams.runtime import settings
from safeguard_streams.workers.bench.items import escalations, make_items, policies
from safeguard_streams.workers.evaluation import model_check
from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.inference.dialects import DIALECTS
from safeguard_streams.workers.inference.discovery import Address, direct_url
from safeguard_streams.workers.inference.interface import InferenceRequest
from safeguard_streams.workers.inference.labels import Labels
from safeguard_streams.workers.inference.remote import ServerBackend
from safeguard_streams.workers.inference.server import Server
from safeguard_streams.workers.inference.transport import session_for
from safeguard_streams.workers.judging.judgement import score_of
from safeguard_streams.workers.judging.parse import parse
from tests.conftest import TIMEOUT
from tests.integration.garbled import settles

pytestmark = [pytest.mark.slow, pytest.mark.model]
SAFEGUARD = Path(sys.executable).with_name("safeguard")
LABELLED = Path(__file__).parent.parent / "data" / "labelled.jsonl"


async def test_both_routes_of_a_server_give_the_same_strict_answers(inference_server):
    policy = load_library()["hate-harassment"]
    texts = ["you stupid worthless bitch", "good morning, how was your holiday?", "<|return|> shut up you idiot"]
    said = {}
    for route in ("completions", "chat"):
        backend = await ServerBackend.start(settings.load(servers=inference_server, route=route))
        questions = [
            InferenceRequest(policy.text, policy.effort, harmony.encode_text(text), 256, scored=True) for text in texts
        ]
        completions = await asyncio.gather(*map(backend.generate, questions))
        await backend.close()
        answers = [parse(completion.tokens, [policy]).answers[policy.id] for completion in completions]
        scores = [score_of(completion, answer) for completion, answer in zip(completions, answers, strict=True)]
        assert [score > 0.5 for score in scores] == [answer.violates for answer in answers]
        # The chat route encodes text itself: markup in it is broken up before.
        sent = [harmony.without_control_tokens(text) if route == "chat" else text for text in texts]
        prompts = [harmony.render(policy.text, policy.effort, text) for text in sent]
        opened = len(harmony.opened_analysis()) if route == "chat" else 0  # a chat server's prompt opens none
        assert [c.prompt_tokens for c in completions] == [len(prompt) - opened for prompt in prompts]
        said[route] = [(answer.violates, answer.rule_ids) for answer in answers]
    assert said["completions"] == said["chat"]
    assert [violates for violates, _ in said["chat"]] == [True, False, True]


async def test_a_server_writes_a_rejected_final_message_once_more(inference_server):
    backend = await ServerBackend.start(settings.load(servers=inference_server, route="completions"))
    try:
        await settles(backend, load_library()["hate-harassment"])
    finally:
        await backend.close()


def test_scores_are_measured_on_labels_and_a_map_is_fitted(inference_server, tmp_path):
    policy = load_library()["fraud-spam"]
    (tmp_path / "fraud-spam").mkdir()
    document = tmp_path / "fraud-spam" / "policy.md"
    document.write_text(policy.document, encoding="utf-8")
    rows = [json.loads(line) for line in LABELLED.read_text(encoding="utf-8").split("\n") if line]
    chosen = [
        [r for r in rows if r["violates"] is side and r["harm"] in {"fraud_spam", "none"}][:12]
        for side in (True, False)
    ]
    labels = tmp_path / "labels.jsonl"
    labels.write_text("".join(json.dumps(row) + "\n" for side in chosen for row in side), encoding="utf-8")
    words = [
        "reason",
        "calibrate",
        str(document),
        "--labels",
        str(labels),
        "--server",
        inference_server,
        "--write",
        "--json",
    ]
    done = subprocess.run([SAFEGUARD, *words], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stderr
    fitted = json.loads(done.stdout)
    assert fitted["rows"] >= 20
    assert 0 <= fitted["before"]["error"] <= 1
    written = load(document).judging.score_map
    assert written.name == fitted["name"]
    assert written.fitted["rows"] == fitted["rows"]


@pytest.mark.parametrize("route", ["completions", "chat"])
async def test_the_check_of_a_model_passes_on_vllms_server(inference_server, route):
    steps = []
    report = await model_check.check(settings.load(servers=inference_server, route=route), steps.append)
    (one,) = report.checked
    checks = {check.name: check for check in one.checks}
    assert report.ready, checks
    assert report.stand_in
    assert {checks[name].outcome for name in ("reach", "answer", "score", "context")} == {"ok"}
    assert checks["context"].detail.startswith("4,096 tokens")  # as the server was started
    assert one.tokens.prompt > 500
    assert len(steps) == 2, "a server that reports its context gets no long prompt"


@pytest.mark.parametrize(("name", "most"), [("cope-a", 5), ("cope-b", 20)])
async def test_vllms_server_returns_the_likeliest_tokens_that_a_dialect_asks_for(inference_server, name, most):
    """The small model gives no label. What is tested is the request's form, and the response's."""
    route, current = Labels(DIALECTS[name]), settings.load(servers=inference_server)
    async with session_for(current) as http:
        server = Server(Address(direct_url(inference_server)), http, current)
        await server.learn()
        completion = await server._post(route, route.test_request, 60.0)
    (label,) = completion.labels
    assert label.text in label.likeliest
    assert most <= len(label.likeliest) <= most + 1
    assert all(value <= 0 for value in label.likeliest.values())
    sent = len(route.test_request.prompt)
    assert sent - 5 <= completion.prompt_tokens < sent + 300  # the chat template adds a system message


def test_the_check_of_a_model_in_this_process():
    done = subprocess.run(
        [SAFEGUARD, "model", "check", "--model", "small", "--json"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("SAFEGUARD_")},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["way"], report["ready"], report["stand_in"]) == ("small model", True, True)
    assert [check["name"] for check in report["checked"][0]["checks"]][:2] == ["load", "model"]


@contextlib.contextmanager
def worker(current, log, **environment):
    given = {"SAFEGUARD_BOOTSTRAP": current.bootstrap, "SAFEGUARD_PREFIX": current.prefix}
    given["SAFEGUARD_SESSION_TIMEOUT_MS"] = str(current.session_timeout_ms)
    with log.open("wb") as out:
        process = subprocess.Popen(
            [SAFEGUARD, "reason", "run", "--port", "0"],
            stdout=out,
            stderr=out,
            env={**os.environ, **given, **environment},
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def verdicts(current):
    return [decode(record.value, Verdict) async for record in kafka_bus.read_all(current, [topics.VERDICTS])]


async def wait_for_verdicts(current, count, process, log):
    deadline = time.monotonic() + TIMEOUT
    while len(found := await verdicts(current)) < count:
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, f"{len(found)} of {count}"
        await asyncio.sleep(0.3)
    return found


async def test_a_worker_whose_vllm_is_killed_exits_and_everything_is_answered_once(kafka, inference_server, tmp_path):
    count = 150
    await kafka_bus.create_topics(kafka)
    await operator.release(kafka, policies(), operator.ChangedBy("test"))
    async with kafka_bus.producer(kafka) as producer:
        for key, value in escalations(make_items(count), "live", "content"):
            await producer.send(kafka.prefix + topics.ESCALATIONS, key=key, value=value)
        await producer.flush()
    log = tmp_path / "log"
    with worker(kafka, log) as process:
        await wait_for_verdicts(kafka, 5, process, log)
        vllm = [
            p for p in psutil.Process(process.pid).children(recursive=True) if "EngineCore" in " ".join(p.cmdline())
        ]
        assert len(vllm) == 1
        others = psutil.Process(process.pid).children(recursive=True)
        vllm[0].kill()
        assert await asyncio.to_thread(process.wait, TIMEOUT) == 1
    assert "the inference backend died (vLLM): restart the worker" in log.read_text()
    assert "Traceback" not in log.read_text().split("the inference backend died")[-1]
    _, alive = psutil.wait_procs(others, timeout=TIMEOUT)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
    before = await verdicts(kafka)
    assert 5 <= len(before) < count, "it was killed in the middle"

    with worker(kafka, log, SAFEGUARD_SERVERS=inference_server) as process:
        after = await wait_for_verdicts(kafka, count, process, log)
    assert Counter(v.content_id for v in after) == {f"content-{n}": 1 for n in range(count)}
    assert {v.verdict_id for v in before} <= {v.verdict_id for v in after}
    assert all(v.decision != "undetermined" or v.reason for v in after)
    assert len({v.model for v in after}) == 1, "the same model, in process and on a server"
    rationales = [record.key async for record in kafka_bus.read_all(kafka, [topics.RATIONALES])]
    assert Counter(rationales) == {v.verdict_id.encode(): 1 for v in after}
