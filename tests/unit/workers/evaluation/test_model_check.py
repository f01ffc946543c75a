"""The check of a model: each way, what it finds wrong and advises, and what it never prints."""

import asyncio
import contextlib
import json
import re
from pathlib import Path

import pytest
from aiohttp import web
from typer.testing import CliRunner

from safeguard_streams.cli import app
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies import small_model
from safeguard_streams.runtime import settings
from safeguard_streams.workers.evaluation import model_check
from safeguard_streams.workers.inference import harmony, scripted
from safeguard_streams.workers.inference.interface import Completion
from safeguard_streams.workers.inference.script import Answer, Script
from safeguard_streams.workers.inference.scripted import ScriptedServer
from safeguard_streams.workers.inference.vllm import VllmBackend

KEY = "sk-very-secret-0123456789"
SCRIPT = Script({"FS2": ["cash prize"]})
NAME = "openai/gpt-oss-safeguard-20b"


class Faulty(ScriptedServer):
    """A scripted server whose responses a function changes: it gets the path and the body to respond with."""

    def __init__(self, change=lambda path, body: body, **more):
        super().__init__(SCRIPT, **{"model": NAME, **more})
        self.change = change

    def _respond(self, kind, choice, prompt, written):
        body = json.loads(super()._respond(kind, choice, prompt, written).body)
        changed = self.change(kind, body)
        return (
            web.json_response(changed[1], status=changed[0])
            if isinstance(changed, tuple)
            else web.json_response(changed)
        )


async def checked(server, **more):
    """The report, the checks of its only server by name, and the steps that were announced."""
    steps = []
    async with server.running() as url:
        report = await model_check.check(settings.load(servers=url, **more), steps.append)
    (one,) = report.checked
    return report, {check.name: check for check in one.checks}, steps


def outcomes(checks):
    return {name: check.outcome for name, check in checks.items()}


OK = dict.fromkeys(("reach", "model", "answer", "score", "context"), "ok")


async def test_a_server_with_the_right_model_is_ready():
    report, checks, steps = await checked(Faulty())
    assert (report.way, report.ready, report.api_key, report.host) == ("server", True, False, None)
    assert outcomes(checks) == OK
    assert "violates FS2, as labelled" in checks["answer"].detail
    assert "token ids" in checks["reach"].detail
    (one,) = report.checked
    assert one.model == NAME
    assert one.tokens.prompt > 500
    assert one.tokens.completion > 20
    assert len(steps) == 2


async def test_a_chat_server_proves_its_context_by_a_prompt_of_the_whole_length():
    server = Faulty(owner="library")
    _, checks, _ = await checked(server)
    assert outcomes(checks) == OK
    read = int(re.search(r"a prompt of ([\d,]+) arrived whole", checks["context"].detail)[1].replace(",", ""))
    assert 0.95 * 16_384 < read < 16_384
    assert len(server.asked) == 3, "a test request, the judgement, and the prompt"


def cut(limit):
    """A server that reads at most so many tokens, and says nothing of it."""

    def change(_, body):
        body["usage"]["prompt_tokens"] = min(limit, body["usage"]["prompt_tokens"])
        return body

    return change


def refuse(status, message, when=lambda body: True):
    return lambda _, body: (status, {"error": {"message": message}}) if when(body) else body


def chosen(**changes):
    def change(_, body):
        body["choices"][0] |= changes
        return body

    return change


def without_usage(_, body):
    return {name: value for name, value in body.items() if name != "usage"}


def without_reasoning(_, body):
    del body["choices"][0]["message"]["reasoning"]
    return body


def is_long(body):
    return body["usage"]["prompt_tokens"] > 4096


CHATTY = {"reasoning": "x", "content": "It is fine."}
FAULTS = [
    (cut(4096), "library", {"context": "failed"}, r"read 4096 of \d+ tokens.*OLLAMA_CONTEXT_LENGTH"),
    (refuse(400, "too long", is_long), "library", {"context": "failed"}, "HTTP 400.*too long.*SAFEGUARD_MAX_MODEL_LEN"),
    (without_usage, "library", {"context": "warning"}, "does not report how many tokens"),
    (without_reasoning, "library", {"answer": "failed"}, "no_analysis.*hides the model's reasoning"),
    (chosen(finish_reason="length"), "library", {"answer": "failed"}, "cut_off.*SAFEGUARD_MAX_TOKENS"),
    (chosen(message=CHATTY), "library", {"answer": "failed"}, "not_json.*gpt-oss-safeguard-20b"),
    (chosen(logprobs=None), "library", {"score": "warning"}, "no score"),
    (chosen(logprobs=None), "vllm", {"score": "warning"}, "no score"),
    (chosen(token_ids=None), "vllm", {"reach": "failed"}, "vLLM 0.10.2 or newer"),
    (refuse(402, "pay"), "library", {"answer": "failed"}, "HTTP 402: the account has no credit add credit"),
    (refuse(429, "slow"), "library", {"answer": "failed"}, "HTTP 429: too many requests.*higher limit"),
    (refuse(500, "broken"), "library", {"answer": "failed"}, "HTTP 500 see the server's log"),
    (refuse(400, "no such field: reasoning_effort"), "library", {"answer": "failed"}, "reasoning_effort.*words above"),
    (refuse(403, "no"), "library", {"reach": "failed"}, "set SAFEGUARD_API_KEY"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "owner", "wrong", "said"), FAULTS)
async def test_each_fault_is_found_with_what_to_do(change, owner, wrong, said):
    report, checks, _ = await checked(Faulty(change, owner=owner))
    found = {name: outcome for name, outcome in outcomes(checks).items() if outcome != "ok"}
    assert found == wrong
    assert report.ready is ("failed" not in wrong.values())
    (check,) = (checks[name] for name in wrong)
    assert re.search(said, f"{check.detail} {check.to_do}"), check


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (small_model.learned().model, "the policies of the package alone"),
        (scripted.MODEL, "list of words"),
        ("openai/gpt-oss-20b", "without the training on policies"),
        ("llama-guard", "is no gpt-oss-safeguard"),
    ],
)
async def test_another_model_can_be_used_and_is_named(model, said):
    report, checks, _ = await checked(Faulty(model=model))
    assert report.ready
    assert report.stand_in is (model in (small_model.learned().model, scripted.MODEL))
    assert (checks["model"].outcome, said in checks["model"].detail) == ("warning", True)


async def test_a_context_that_is_too_short_for_the_policies_is_a_failure():
    for server, more in ((Faulty(context=1000), {}), (Faulty(), {"max_model_len": 1000})):
        report, checks, _ = await checked(server, **more)
        assert not report.ready
        assert outcomes(checks) == {**OK, "context": "failed"}
        assert "1,000 tokens" in checks["context"].detail


async def test_a_judgement_against_the_label_is_a_warning_only():
    class Contrary(Script):
        def answer(self, instructions, message):
            final = {"violation": 0, "rule_ids": ["FS4"], "confidence": "high", "reason": "Fine."}
            return Answer("It is fine.", json.dumps(final))

    server = ScriptedServer(Contrary({"FS1": ["x"]}), model=NAME)
    report, checks, _ = await checked(server)
    assert report.ready
    assert checks["answer"].outcome == "warning"
    assert "labelled violates FS2" in checks["answer"].detail


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("form", [[], ["--json"]])
async def test_the_key_is_printed_nowhere(status, form):
    """Not even where the server repeats it."""
    server = Faulty(refuse(400, f"key {KEY} is not allowed here", lambda _: status == 400), api_key=KEY)
    run = CliRunner(env={"SAFEGUARD_API_KEY": KEY})
    async with server.running() as url:
        result = await asyncio.to_thread(run.invoke, app, ["model", "check", "--server", url, *form])
    assert result.exit_code == (0 if status == 200 else 1), result.output
    assert "is not allowed here" in result.output or status == 200
    assert KEY not in result.output
    assert KEY[3:] not in result.output


@pytest.mark.parametrize(
    ("given", "way"),
    [
        ({"model": "small"}, "small model"),
        ({"model": NAME}, "own GPU"),
        ({"servers": "http://gpu-1:8000/v1"}, "server"),
        ({"servers": "http://10.0.0.5:8000/v1", "api_key": KEY}, "server"),
        ({"servers": "https://llm.internal/v1", "api_key": KEY}, "server"),
        ({"servers": "https://api.example.com/v1"}, "server"),
        ({"servers": "https://api.example.com/v1", "api_key": KEY}, "hosted"),
        ({"servers": "http://[2606:4700::1]:8000/v1", "api_key": KEY}, "hosted"),
    ],
)
def test_the_configured_way_is_known_from_the_settings(given, way):
    assert model_check.way_of(settings.load(**given)) == way


async def test_a_server_that_is_not_there_is_said_at_once():
    report, checks, _ = await checked(Away())
    assert not report.ready
    assert "no inference server answers" in checks["reach"].detail


class Away:
    @contextlib.asynccontextmanager
    async def running(self):
        yield "http://127.0.0.1:1/v1"


async def test_a_hosted_model_is_named_with_the_host_that_content_goes_to(monkeypatch):
    monkeypatch.setattr(model_check, "_public", lambda url: True)
    report, _, _ = await checked(Faulty(api_key=KEY), api_key=KEY)
    assert (report.way, report.host, report.api_key) == ("hosted", "127.0.0.1", True)
    report, _, _ = await checked(Faulty())
    assert (report.way, report.host, report.api_key) == ("server", None, False)


async def test_a_server_that_is_too_slow_is_given_up():
    class Slow(ScriptedServer):
        async def _completions(self, request):
            await asyncio.sleep(60)

    report, checks, _ = await checked(Slow(SCRIPT, model=NAME), inference_timeout=0.2)
    assert not report.ready
    assert checks["answer"].detail == "timeout"
    assert "SAFEGUARD_INFERENCE_TIMEOUT" in checks["answer"].to_do


class Local:
    """A model in this process."""

    model = NAME
    max_model_tokens = 16_384

    def __init__(self):
        self.closed = False

    async def generate(self, request):
        said = SCRIPT.answer(request.policy_text, harmony.decode_tokens(request.user))
        return Completion(said.tokens, len(request.prompt), 0)

    async def close(self):
        self.closed = True


async def test_a_model_in_this_process_is_loaded_asked_and_closed(monkeypatch):
    local = Local()

    async def start(_):
        return local

    monkeypatch.setattr(VllmBackend, "start", start)
    report = await model_check.check(settings.load(model=NAME), lambda _: None)
    (one,) = report.checked
    found = {check.name: check.outcome for check in one.checks}
    assert found == {"load": "ok", "model": "ok", "answer": "ok", "context": "ok", "score": "warning"}
    assert (report.way, report.ready, one.url, local.closed) == ("own GPU", True, None, True)


async def test_a_model_that_cannot_be_loaded_says_what_to_do(monkeypatch):
    async def start(_):
        raise ConfigurationError("vLLM sees no GPU: check nvidia-smi")

    monkeypatch.setattr(VllmBackend, "start", start)
    report = await model_check.check(settings.load(model=NAME), lambda _: None)
    (one,) = report.checked
    assert not report.ready
    assert one.checks[0].detail == "vLLM sees no GPU: check nvidia-smi"


async def test_the_guide_shows_what_the_command_prints():
    guide = (Path(__file__).parents[4] / "docs/guides/model.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"<!-- sample: model check -->\n```text\n(.*?)```\n", guide, re.DOTALL)
    async with Faulty().running() as url:
        printed = await asyncio.to_thread(CliRunner().invoke, app, ["model", "check", "--server", url])
    output = printed.stdout.replace(url, "http://gpu-1:8000/v1")
    assert without_times(output) == without_times(shown)


def without_times(output):
    return re.sub(r"\d+\.\d\d s", "N s", " ".join(output.split()))
