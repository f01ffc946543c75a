"""The two routes of an OpenAI-compatible server: what each sends, and how its response becomes a completion.

- completions: token ids both ways, as vLLM's server offers them. Prompt and parsing are the same as in process.
- chat: text both ways (Ollama, LM Studio, hosted models). The server renders the prompt and splits its output into
  fields; this module puts them back into the harmony format, so that the same strict parser reads them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.inference.harmony import (
    ONE,
    RETURN,
    VOCABULARY,
    ZERO,
    decision_positions,
    without_control_tokens,
)
from safeguard_streams.workers.inference.interface import Completion, Constraint, InferenceRequest

TOP_LOGPROBS = 5  # likeliest tokens to return, for servers that cannot return the decision tokens by id
MAX_ANSWER = 1_000_000  # characters of a chat response; tokenising more would hold up the worker
_REASONING = ("reasoning", "reasoning_content", "thinking")  # field names of different servers
_BEFORE_DECISION = re.compile(r'"violation"\s*:\s*\Z')
_DECISIONS = {"0": ZERO, "1": ONE}
SHARE_READ = 0.75
_SHARE_READ_ALIKE, _READ_LESS = 0.99, 16
_MAX_COUNT = 2**31 - 1  # tokens; a server that reports more reports nothing
# What reading a response in another form than expected raises.
MALFORMED = (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError)


class NoTokenIds(Exception):
    """The server answered in text although the request asked for token ids."""


class Route(Protocol):
    """path is relative to the server's base URL.

    continues: whether a request may go on from tokens that stand written.
    """

    path: str
    continues: bool

    def body(self, model: str, request: InferenceRequest) -> dict[str, Any]:
        """The JSON body of a request."""

    def without_logprobs(self) -> Route | None:
        """The same route without log-probabilities, for servers that reject them; None if there is no such variant."""

    def least_read(self, sent: int, left_out: int | None) -> float:
        """Of a prompt with `sent` tokens, how many the server reads at least. One that reports fewer has cut it.

        left_out: tokens that its own template leaves out; None where it may count by another vocabulary.
        """

    def read(self, response: Any) -> Completion:
        """The completion in a response.

        Raises one of MALFORMED when the response has another form.
        """


# Servers that do not support logprob_token_ids return the likeliest tokens instead.
_SCORES = {"return_tokens_as_token_ids": True, "logprobs": TOP_LOGPROBS, "logprob_token_ids": [ZERO, ONE]}


class Completions:
    """vLLM's completions route with token ids."""

    path = "completions"
    continues = True

    def body(self, model: str, request: InferenceRequest) -> dict[str, Any]:
        return {
            "model": model,
            "prompt": request.prompt,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "stop_token_ids": request.stop_tokens,
            "skip_special_tokens": False,
            "return_token_ids": True,
            **(_SCORES if request.scored else {}),
            **({"structured_outputs": {"regex": request.pattern}} if request.pattern else {}),
        }

    def without_logprobs(self) -> Route | None:
        return None

    def least_read(self, sent: int, left_out: int | None) -> float:  # noqa: ARG002  (the server gets the very tokens)
        return sent

    def read(self, response: Any) -> Completion:
        choice = response["choices"][0]
        tokens = choice.get("token_ids")
        if tokens is None:
            raise NoTokenIds
        if not isinstance(tokens, list) or not all(type(token) is int and 0 <= token < VOCABULARY for token in tokens):
            raise ValueError("no list of ids in the vocabulary")
        usage = usage_of(response)
        return Completion(tokens, usage.prompt, usage.cached, _logprobs_by_token(choice))


class Chat:
    """The chat route. scored: ask for log-probabilities, which some servers refuse."""

    path = "chat/completions"
    continues = False

    def __init__(self, *, scored: bool = True) -> None:
        self._scored = scored

    def body(self, model: str, request: InferenceRequest) -> dict[str, Any]:
        return {
            "model": model,
            "messages": [
                # The chat templates of these models render it as the developer message, after their own system message.
                {"role": "system", "content": without_control_tokens(request.policy_text)},
                {"role": "user", "content": without_control_tokens(harmony.decode_tokens(request.user))},
            ],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "reasoning_effort": request.effort,
            **({"logprobs": True, "top_logprobs": TOP_LOGPROBS} if self._scored and request.scored else {}),
            **(_response_format(request.constraint) if request.constraint else {}),
        }

    def without_logprobs(self) -> Route | None:
        return Chat(scored=False) if self._scored else None

    def least_read(self, sent: int, left_out: int | None) -> float:
        # Most other vocabularies make more tokens. With the same one, tokens differ where a text was broken up.
        return sent * SHARE_READ if left_out is None else (sent - left_out) * _SHARE_READ_ALIKE - _READ_LESS

    def read(self, response: Any) -> Completion:
        choice = response["choices"][0]
        message = choice["message"]
        reasoning = next((message[name] for name in _REASONING if message.get(name)), "")
        content = message.get("content") or ""
        if len(reasoning) + len(content) > MAX_ANSWER:
            raise ValueError("too long")
        before_final = _before_final(reasoning, called=bool(message.get("tool_calls")))
        final = harmony.encode_text(content)
        tokens = [*before_final, *final]
        if choice.get("finish_reason") == "stop":
            tokens.append(RETURN)
        positions = [len(before_final) + position for position in decision_positions(final)]
        by_position = dict(zip(positions, _decision_logprobs(choice, len(positions)), strict=False))
        usage = usage_of(response)
        return Completion(
            tokens, usage.prompt, usage.cached, [by_position.get(position, {}) for position in range(len(tokens))]
        )


def _before_final(reasoning: str, *, called: bool) -> list[int]:
    """The tokens in front of the final message's text: the analysis, and a tool call, which the parser rejects."""
    tokens = harmony.encode_text(reasoning)
    if called:
        tokens += harmony.encode_markup("<|end|><|start|>assistant<|channel|>commentary<|message|>")
    return [*tokens, *harmony.opened_final()]


def _response_format(constraint: Constraint) -> dict[str, Any]:
    """The parameter of chat servers for structured outputs. They apply it to the message after the reasoning."""
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": constraint.schema}}}


def _decision_logprobs(choice: Mapping[str, Any], count: int) -> Sequence[Mapping[int, float]]:
    """The log-probabilities of 0 and 1 at the last `count` decisions in the server's tokens; empty if there are fewer.

    The last ones count, because the reasoning, which comes first, may quote the output form. Log-probabilities in
    another form than this are none: the answer stands without a score.
    """
    text, decisions = "", []
    try:
        for entry in (choice.get("logprobs") or {}).get("content") or ():
            if entry["token"] in _DECISIONS and _BEFORE_DECISION.search(text):
                tops = {top["token"]: top["logprob"] for top in (*(entry.get("top_logprobs") or ()), entry)}
                decisions.append(_numbers({_DECISIONS[name]: tops[name] for name in tops if name in _DECISIONS}))
            text = (text + entry["token"])[-100:]
    except MALFORMED:
        return ()
    return decisions[len(decisions) - count :] if len(decisions) >= count else ()


def _logprobs_by_token(choice: Mapping[str, Any]) -> Sequence[Mapping[int, float]]:
    """The log-probabilities at each token, by token id; empty if they have another form."""
    try:
        return [
            _numbers({int(name.removeprefix("token_id:")): logprob for name, logprob in (top or {}).items()})
            for top in (choice.get("logprobs") or {}).get("top_logprobs") or ()
        ]
    except MALFORMED:
        return ()


def _numbers(values: Mapping[int, Any]) -> dict[int, float]:
    return {token: float(value) for token, value in values.items() if _is_number(value)}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Usage(msgspec.Struct, frozen=True):
    """Tokens of the prompt, and of its part that came from the server's cache; 0 where the server reports none."""

    prompt: int
    cached: int


def usage_of(response: Mapping[str, Any]) -> Usage:
    """The sizes that a server reports."""
    usage = _mapping(response.get("usage"))
    prompt = _count(usage.get("prompt_tokens"))
    return Usage(prompt, min(prompt, _count(_mapping(usage.get("prompt_tokens_details")).get("cached_tokens"))))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int:
    return value if type(value) is int and 0 < value <= _MAX_COUNT else 0
