"""Whether the configured model can be reached, answers in the required form, and has room for policies and content."""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Awaitable, Callable
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from safeguard_streams.contract.records import Tokens
from safeguard_streams.errors import SafeguardError
from safeguard_streams.policies import golden as golden_sets
from safeguard_streams.policies import small_model
from safeguard_streams.policies.files import LIBRARY, load_library
from safeguard_streams.policies.golden import Golden
from safeguard_streams.runtime.server_urls import urls_of
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.workers.inference import direct, harmony, scripted
from safeguard_streams.workers.inference.interface import Completion, InferenceError, InferenceRequest
from safeguard_streams.workers.judging import prompt
from safeguard_streams.workers.judging.judgement import score_of
from safeguard_streams.workers.judging.parse import Malformed, MalformedReason, parse
from safeguard_streams.workers.judging.reasoner import MIN_WINDOW_TOKENS

Way = Literal["small model", "own GPU", "server", "hosted"]
Outcome = Literal["ok", "warning", "failed"]
Generate = Callable[[InferenceRequest], Awaitable[Completion]]

POLICY, RULE = "fraud-spam", "FS2"  # whose golden text is judged: a lure, which any model that works finds
_FORM = "it does not keep to the output form of the policies: use gpt-oss-safeguard-20b or -120b"
_ALTERED = "the server changes the model's output: update it, or use its other route (SAFEGUARD_ROUTE)"
_TO_DO: dict[MalformedReason, str] = {
    "cut_off": "the answer was cut off: raise SAFEGUARD_MAX_TOKENS, or the server's own limit on answers",
    "no_analysis": "the server hides the model's reasoning: let it return the reasoning, or use another server",
    "channel": "the server makes the model call tools: turn them off",
    "structure": _ALTERED,
    "no_final": _ALTERED,
    "several_finals": _ALTERED,
    "not_text": _ALTERED,
    "not_json": _FORM,
    "fields": _FORM,
    "unknown_rule": _FORM,
    "contradiction": _FORM,
    "echo": _FORM,
}
_RAISE_CONTEXT = (
    "raise the server's context length (vLLM --max-model-len, llama.cpp -c, OLLAMA_CONTEXT_LENGTH), or lower "
    "SAFEGUARD_MAX_MODEL_LEN to it"
)
# What to do about a request that failed, by a part of the message; the first that fits.
_ADVICE = {
    "tokens of the prompt": _RAISE_CONTEXT,
    "timeout": "if the server is only slow, raise SAFEGUARD_INFERENCE_TIMEOUT",
    "HTTP 402": "add credit at the provider",
    "HTTP 429": "wait, or ask the provider for a higher limit",
    "HTTP 4": "the server's words above say what it does not accept",
    "": "see the server's log",
}
_FILLER = "The bread from the market is lovely this week. "
_MARGIN = 256  # tokens that a server's own template may add to a prompt


class Check(msgspec.Struct, frozen=True):
    """One result. detail: what was found. to_do: what to change, for a warning or a failure."""

    name: str
    outcome: Outcome
    detail: str
    to_do: str = ""


class Checked(msgspec.Struct, frozen=True):
    """The checks of one server, or of the model in this process, whose url is None.

    seconds, tokens: of the judgement of a golden text; None if there was none.
    """

    url: str | None
    checks: tuple[Check, ...]
    model: str | None = None
    seconds: float | None = None
    tokens: Tokens | None = None

    @property
    def ready(self) -> bool:
        return not any(check.outcome == "failed" for check in self.checks)


class Report(msgspec.Struct, frozen=True):
    """The configured way to a model, and its checks.

    host: where content goes, for a hosted model.
    stand_in: whether what answers is no model for judging.
    """

    way: Way
    api_key: bool
    host: str | None
    checked: tuple[Checked, ...]
    ready: bool
    stand_in: bool


def way_of(settings: Settings) -> Way:
    """Which of the ways to a model the settings configure."""
    if not settings.servers:
        return "small model" if small_model.is_small(settings.model) else "own GPU"
    public = any(_public(url) for url in urls_of(settings.servers))
    return "hosted" if public and settings.api_key else "server"


def _public(url: str) -> bool:
    """Whether a URL leads to a host outside the operator's network, as far as its name tells."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host and not host.endswith((".local", ".internal", ".lan", ".svc", ".localhost"))


async def check(settings: Settings, on_step: Callable[[str], None]) -> Report:
    """Check each configured server, or the model in this process. `on_step` is told what is waited for."""
    way = way_of(settings)
    if settings.servers:
        checked = [await _check_server(settings, url, on_step) for url in urls_of(settings.servers)]
    else:
        checked = [await _check_local(settings, on_step)]
    hosts = [urlsplit(url).hostname for url in urls_of(settings.servers) if way == "hosted" and _public(url)]
    return Report(
        way,
        api_key=settings.api_key is not None,
        host=next(iter(hosts), None),
        checked=tuple(checked),
        ready=all(one.ready for one in checked),
        stand_in=any(one.model is not None and _is_stand_in(one.model) for one in checked),
    )


def _is_stand_in(model: str) -> bool:
    return small_model.is_small(model) or model == scripted.MODEL


async def _check_local(settings: Settings, on_step: Callable[[str], None]) -> Checked:
    on_step(f"loading {settings.model}, which takes a minute or more")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from safeguard_streams.workers.inference.vllm import VllmBackend

    started = time.monotonic()
    try:
        backend = await VllmBackend.start(settings)
    except SafeguardError as error:
        return Checked(None, (Check("load", "failed", str(error)),))
    try:
        checks = [Check("load", "ok", f"vLLM loaded it in {time.monotonic() - started:.0f} s"), _name(backend.model)]
        checks.append(_room(backend.max_model_tokens, settings))
        found = Checked(None, tuple(checks), backend.model)
        return await _judged(found, backend.generate, backend.max_model_tokens, settings)
    finally:
        await backend.close()


async def _check_server(settings: Settings, url: str, on_step: Callable[[str], None]) -> Checked:
    on_step(f"connecting to {url}")
    started = time.monotonic()
    try:
        async with direct.reach(settings, url) as server:
            reached = f"in {time.monotonic() - started:.2f} s; {_ROUTES[server.route]}"
            found = Checked(url, (Check("reach", "ok", reached), _name(server.model)), server.model)
            on_step(f"judging a golden text of {POLICY} with {server.model}")
            found = await _judged(found, server.generate, server.context or settings.max_model_len, settings)
            if not found.ready:
                return found
            if server.context is None:
                on_step(f"sending a prompt of {settings.max_model_len:,} tokens")
                room = await _probed_room(settings, server.generate)
            else:
                room = _room(server.context, settings)
            return msgspec.structs.replace(found, checks=(*found.checks, room))
    except SafeguardError as error:
        return Checked(url, (Check("reach", "failed", str(error)),))


_ROUTES = {
    "completions": "route completions, with token ids",
    "chat/completions": "route chat, where the server renders the prompt",
}


def _name(model: str) -> Check:
    if small_model.is_small(model):
        detail = f"{model} has learned the policies of the package alone: for trying the pipeline, not for judging"
        return Check("model", "warning", detail, "for real verdicts, use gpt-oss-safeguard-20b or -120b")
    if model == scripted.MODEL:
        return Check("model", "warning", "a scripted server answers by a list of words: for trials and tests only")
    if "gpt-oss-safeguard" in model.lower():
        return Check("model", "ok", model)
    trained = "is gpt-oss without the training on policies" if "gpt-oss" in model.lower() else "is no gpt-oss-safeguard"
    return Check("model", "warning", f"{model} {trained}", "measure it first: safeguard policy test POLICY")


def _room(context: int, settings: Settings) -> Check:
    """The room for content, reckoned as the reasoner does."""
    longest = max(len(harmony.render_tokens(policy.text, "high", ())) for policy in load_library().values())
    room = context - longest - min(settings.max_tokens, context // 4)
    detail = f"{context:,} tokens: {max(0, room):,} for content, beside the longest policy of the package and an answer"
    if room < MIN_WINDOW_TOKENS:
        return Check("context", "failed", detail, _RAISE_CONTEXT)
    return Check("context", "ok", detail)


async def _probed_room(settings: Settings, generate: Generate) -> Check:
    """The room where the server does not report its context: a prompt of the whole length must arrive whole."""
    policy = load_library()[POLICY]
    room = settings.max_model_len - len(harmony.render_tokens(policy.text, policy.effort, ())) - _MARGIN
    filler = harmony.encode_text(_FILLER * (room // 8))[: max(0, room)]
    try:
        completion = await generate(InferenceRequest(policy.text, policy.effort, filler, max_tokens=16))
    except SafeguardError as error:
        return Check("context", "failed", f"a prompt near {settings.max_model_len:,} tokens: {error}", _RAISE_CONTEXT)
    if not completion.prompt_tokens:
        detail = "the server does not report how many tokens it read"
        return Check("context", "warning", detail, f"make sure that it reads {settings.max_model_len:,} tokens")
    probed = f"; a prompt of {completion.prompt_tokens:,} arrived whole"
    found = _room(settings.max_model_len, settings)
    return msgspec.structs.replace(found, detail=found.detail + probed)


def _golden_text() -> Golden:
    """The first clear violation of the rule in the policy's golden set."""
    texts = golden_sets.load(LIBRARY / POLICY / golden_sets.NAME)
    return next(text for text in texts if text.kind == "clear" and text.rule == RULE)


async def _judged(found: Checked, generate: Generate, context: int, settings: Settings) -> Checked:
    """With the checks of one judgement: its form, its decision and its score. context: of the model, in tokens."""
    policy, text = load_library()[POLICY], _golden_text()
    user = harmony.encode_text(prompt.user_message(text.text))
    left = context - len(harmony.render_tokens(policy.text, policy.effort, user))
    request = InferenceRequest(policy.text, policy.effort, user, max(1, min(settings.max_tokens, left)), scored=True)
    started = time.monotonic()
    try:
        completion = await generate(request)
    except InferenceError as error:
        return _with(found, Check("answer", "failed", str(error), _advice(str(error))))
    found = msgspec.structs.replace(
        found,
        seconds=round(time.monotonic() - started, 2),
        tokens=Tokens(completion.prompt_tokens, completion.cached_tokens, len(completion.tokens)),
    )
    try:
        answer = parse(completion.tokens, [policy]).answers[policy.id]
    except Malformed as malformed:
        return _with(found, Check("answer", "failed", f"rejected: {malformed.reason}", _TO_DO[malformed.reason]))
    decision = "violates" if answer.violates else "safe"
    judged = f"a golden text of {policy.id} was judged {decision} {answer.rule_ids[0]}"
    if decision == text.decision:
        checks = [Check("answer", "ok", f"{judged}, as labelled")]
    else:
        measure = f"one text says little; measure more: safeguard policy test {policy.id}"
        checks = [Check("answer", "warning", f"{judged}, but is labelled {text.decision} {text.rule}", measure)]
    score = score_of(completion, answer)
    if score is None:
        missing = "no log-probabilities: verdicts will have no score"
        checks.append(Check("score", "warning", missing, "for scores, use vLLM, or a server that returns logprobs"))
    else:
        checks.append(Check("score", "ok", f"{score:.2f}, from the probability of the decision's token"))
    return _with(found, *checks)


def _advice(problem: str) -> str:
    return next(advice for part, advice in _ADVICE.items() if part in problem)


def _with(found: Checked, *checks: Check) -> Checked:
    return msgspec.structs.replace(found, checks=(*found.checks, *checks))
