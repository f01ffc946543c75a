"""An inference server that answers in gpt-oss's form by a list of words, for tests and for trying a policy's way.

It is no model. A file names words for rules; the first rule of the policy, in the file's order, one of whose words the
content has, decides. Content with none of the words is safe, under the last SAFE rule. Words are found as a gate finds
its terms, disguises included.

Both routes of a real server are there: completions with token ids, as vLLM offers it, and chat. The rules of the policy
and the fields of its answers are read from the prompt, one policy or a bundle, and thus a new version of a policy with
another rule is answered differently. Answers have an analysis, a final message and log-probabilities. They respect the
limit on tokens and structured outputs, and go on from an answer that the prompt has begun.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import orjson
from aiohttp import web
from openai_harmony import HarmonyError

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.inference.harmony import END, MESSAGE, RETURN, START, decision_positions
from safeguard_streams.workers.inference.script import Answer, Script

MODEL = "scripted"
VLLM = "vllm"  # how vLLM's server names itself
CONTEXT = 16_384  # tokens
CERTAINTY = 0.97  # the probability of the decision token


class _Refusal(Exception):
    """The request is refused with status 400."""


class _Prompt(NamedTuple):
    """A request's texts, the length of its prompt in tokens, and the tokens of the answer that the prompt has begun."""

    instructions: str
    message: str
    tokens: int
    written: Sequence[int] = ()


class _Written(NamedTuple):
    """The tokens of an answer, as far as the request's limit allows. final_at: where the final message's text begins.

    logprobs: by token id at each position.
    """

    tokens: list[int]
    final_at: int
    logprobs: list[dict[int, float]]

    @property
    def finish_reason(self) -> str:
        return "stop" if self.tokens and self.tokens[-1] == RETURN else "length"


def _write(before: Sequence[int], final: Sequence[int], written: int, limit: int) -> _Written:
    """An answer of which the first `written` tokens stand already."""
    tokens = [*before, *final, RETURN]
    logprobs = [{token: 0.0} for token in tokens]
    for position in decision_positions(final):
        other = {harmony.ZERO: harmony.ONE, harmony.ONE: harmony.ZERO}[final[position]]
        logprobs[len(before) + position] = {
            final[position]: round(math.log(CERTAINTY), 4),
            other: round(math.log(1 - CERTAINTY), 4),
        }
    return _Written(tokens[written:][:limit], len(before) - written, logprobs[written:][:limit])


def _constrained(final: str, begun: Sequence[int], pattern: Any) -> list[int]:
    """The tokens of a final message whose first ones stand already; the others match the pattern."""
    opened = harmony.decode_tokens(begun)
    rest = final.removeprefix(opened)
    if not isinstance(pattern, str) or not final.startswith(opened) or not re.fullmatch(pattern, rest):
        raise _Refusal("the structured outputs allow no answer of this server")
    return [*begun, *harmony.encode_text(rest)]


class ScriptedServer:
    """Serves a script at an OpenAI-compatible address.

    owner: how the server names itself; 'vllm' also takes token ids, 'library' (as Ollama) only chat.
    api_key: required of each request if it is set. asked: the bodies of the requests so far.
    """

    def __init__(
        self, script: Script, *, model: str = MODEL, owner: str = VLLM, api_key: str = "", context: int = CONTEXT
    ) -> None:
        self.asked: list[dict[str, Any]] = []
        self._script = script
        self._model = model
        self._owner = owner
        self._api_key = api_key
        self._context = context

    @contextlib.asynccontextmanager
    async def running(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
        """Serve for the block; yields the base URL. Port 0 is a free one. Raises ConfigurationError if it is taken."""
        app = web.Application(middlewares=[self._errors_as_json], client_max_size=64 * 2**20)
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/v1/models", self._models),
                web.post("/v1/completions", self._completions),
                web.post("/v1/chat/completions", self._chat),
            ]
        )
        runner = web.AppRunner(app, shutdown_timeout=0.5)
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, host, port).start()
            except OSError as error:
                why = os.strerror(error.errno or 0)
                raise ConfigurationError(
                    f"{host}:{port} cannot be listened on ({why}): choose another --port"
                ) from error
            yield f"http://{host}:{runner.addresses[0][1]}/v1"
        finally:
            await runner.cleanup()

    @web.middleware
    async def _errors_as_json(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self._api_key and request.headers.get("Authorization") != f"Bearer {self._api_key}":
            return _error(401, "incorrect API key")
        try:
            response: web.StreamResponse = await handler(request)
        except _Refusal as refusal:
            return _error(400, str(refusal))
        except web.HTTPException as error:
            return _error(error.status, error.reason)
        return response

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, _: web.Request) -> web.Response:
        about: dict[str, Any] = {"id": self._model, "object": "model", "owned_by": self._owner}
        if self._owner == VLLM:
            about["max_model_len"] = self._context
        return web.json_response({"object": "list", "data": [about]})

    async def _completions(self, request: web.Request) -> web.Response:
        if self._owner != VLLM:
            raise _Refusal("this server takes no prompts as token ids")
        body = await self._body(request)
        prompt = _from_tokens(body.get("prompt"))
        written = self._go_on(prompt, body)
        choice: dict[str, Any] = {
            "index": 0,
            "text": harmony.decode_tokens(written.tokens),
            "finish_reason": written.finish_reason,
            "logprobs": None,
        }
        if body.get("return_token_ids"):
            choice["token_ids"] = written.tokens
        if body.get("logprobs") is not None:
            named = [{f"token_id:{token}": value for token, value in top.items()} for top in written.logprobs]
            choice["logprobs"] = {"tokens": [next(iter(top)) for top in named], "top_logprobs": named}
        return self._respond("text_completion", choice, prompt, written)

    async def _chat(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        prompt = _from_messages(body.get("messages"), body.get("reasoning_effort", "low"))
        free = body.get("response_format") is None
        answer = self._answer(prompt, free=free)
        written = _write(answer.before_final, harmony.encode_text(answer.final), 0, self._limit(prompt, body))
        final = [token for token in written.tokens[written.final_at :] if token != RETURN]
        analysis = answer.analysis
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "reasoning": analysis, "content": harmony.decode_tokens(final)},
            "finish_reason": written.finish_reason,
            "logprobs": None,
        }
        if body.get("logprobs"):
            tops = written.logprobs[written.final_at :][: len(final)]
            choice["logprobs"] = {"content": [_chat_logprobs(top) for top in tops]}
        return self._respond("chat.completion", choice, prompt, written)

    async def _body(self, request: web.Request) -> dict[str, Any]:
        try:
            body = orjson.loads(await request.read())
        except orjson.JSONDecodeError:
            raise _Refusal("the body is not JSON") from None
        if not isinstance(body, dict):
            raise _Refusal("the body is no JSON object")
        if body.get("model", self._model) != self._model:
            raise web.HTTPNotFound(reason="this model is not served")
        if body.get("stream"):
            raise _Refusal("this server does not stream")
        self.asked.append(body)
        return body

    def _answer(self, prompt: _Prompt, *, free: bool) -> Answer:
        if free:
            return self._script.answer(prompt.instructions, prompt.message)
        answer = self._script.constrained(prompt.instructions, prompt.message)
        if answer is None:
            raise _Refusal("the instructions have no rules")
        return answer

    def _go_on(self, prompt: _Prompt, body: Mapping[str, Any]) -> _Written:
        """The rest of the answer that the prompt has begun."""
        written, limit = list(prompt.written), self._limit(prompt, body)
        outputs = body.get("structured_outputs")
        answer = self._answer(prompt, free=outputs is None)
        opened = list(harmony.opened_final())
        starts = [at for at in range(len(written)) if written[at : at + len(opened)] == opened]
        if outputs is not None and starts:
            at = starts[0] + len(opened)
            final = _constrained(answer.final, written[at:], dict(outputs).get("regex"))
            return _write(written[:at], final, len(written), limit)
        if answer.tokens[: len(written)] != written:
            raise _Refusal("this server goes on from its own answers only")
        return _write(answer.before_final, harmony.encode_text(answer.final), len(written), limit)

    def _limit(self, prompt: _Prompt, body: Mapping[str, Any]) -> int:
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or self._context - prompt.tokens
        if type(limit) is not int or prompt.tokens + limit > self._context or limit < 1:
            raise _Refusal(f"prompt and max_tokens must fit {self._context} tokens")
        return limit

    def _respond(self, kind: str, choice: dict[str, Any], prompt: _Prompt, written: _Written) -> web.Response:
        usage: dict[str, Any] = {"prompt_tokens": prompt.tokens, "completion_tokens": len(written.tokens)}
        usage["total_tokens"] = sum(usage.values())
        if prompt.written:  # what stands before the answer is the prompt of an earlier request
            usage["prompt_tokens_details"] = {"cached_tokens": prompt.tokens - len(prompt.written)}
        created = {"id": f"{MODEL}-{len(self.asked)}", "object": kind, "created": int(time.time())}
        return web.json_response({**created, "model": self._model, "choices": [choice], "usage": usage})


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status}}, status=status)


def _chat_logprobs(top: Mapping[int, float]) -> dict[str, Any]:
    entries = [{"token": harmony.decode_tokens([token]), "logprob": value} for token, value in top.items()]
    return {**entries[0], "top_logprobs": entries}


def _from_tokens(prompt: Any) -> _Prompt:
    """The texts of a prompt in harmony tokens. Markup that content imitates is no special token, and parts nothing."""
    try:
        tokens = msgspec.convert(prompt, list[int])
        messages = dict(_messages(tokens))
        message = messages["user"]
    except (msgspec.ValidationError, HarmonyError, OverflowError, KeyError):
        raise _Refusal("this server takes prompts as token ids in the harmony format") from None
    instructions = messages.get("developer", "").removeprefix("# Instructions\n\n")
    opened = list(harmony.opened_analysis())
    starts = [at for at in range(len(tokens)) if tokens[at : at + len(opened)] == opened]
    return _Prompt(instructions, message, len(tokens), tokens[starts[0] + len(opened) :] if starts else ())


def _messages(tokens: Sequence[int]) -> Iterator[tuple[str, str]]:
    """Role and text of each message of a prompt; the last one, which the model is to write, has no text."""
    at = 0
    while START in tokens[at:]:
        start = tokens.index(START, at)
        end = tokens.index(END, start) if END in tokens[start:] else len(tokens)
        if MESSAGE in tokens[start:end]:
            body = tokens.index(MESSAGE, start)
            yield harmony.decode_tokens(tokens[start + 1 : body]), harmony.decode_tokens(tokens[body + 1 : end])
        at = end


def _from_messages(messages: Any, effort: Any) -> _Prompt:
    """The texts of a chat request, whose system or developer message holds the instructions."""
    try:
        texts = {message["role"]: message["content"] for message in messages}
        instructions, message = texts.get("developer") or texts.get("system") or "", texts["user"]
        tokens = len(harmony.render(instructions, effort, message)) - len(harmony.opened_analysis())
    except (KeyError, TypeError, AttributeError):
        raise _Refusal("messages must have a system and a user message of text, and a known effort") from None
    return _Prompt(instructions, message, tokens)
