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
from safeguard_streams.workers.inference.harmony import ONE, RETURN, ZERO, decision_positions
from safeguard_streams.workers.inference.interface import Completion, InferenceRequest

TOP_LOGPROBS = 5  # likeliest tokens to return, for servers that cannot return the decision tokens by id
_REASONING = ("reasoning", "reasoning_content", "thinking")  # field names of different servers
_BEFORE_DECISION = re.compile(r'"violation"\s*:\s*\Z')
_DECISIONS = {"0": ZERO, "1": ONE}


class NoTokenIds(Exception):
    """The server answered in text although the request asked for token ids."""


class Route(Protocol):
    """path is relative to the server's base URL."""

    path: str

    def body(self, model: str, request: InferenceRequest) -> dict[str, Any]:
        """The JSON body of a request."""

    def without_logprobs(self) -> Route | None:
        """The same route without log-probabilities, for servers that reject them; None if there is no such variant."""

    def read(self, response: Any) -> Completion:
        """The completion in a response.

        Raises KeyError, TypeError, IndexError, AttributeError or ValueError when the response is malformed.
        """


class Completions:
    """vLLM's completions route with token ids."""

    path = "completions"

    def body(self, model: str, request: InferenceRequest) -> dict[str, Any]:
        return {
            "model": model,
            "prompt": request.prompt,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "stop_token_ids": harmony.stop_tokens(),
            "skip_special_tokens": False,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            # Servers that do not support logprob_token_ids return the likeliest tokens instead.
            "logprobs": TOP_LOGPROBS,
            "logprob_token_ids": [ZERO, ONE],
        }

    def without_logprobs(self) -> Route | None:
        return None

    def read(self, response: Any) -> Completion:
        choice = response["choices"][0]
        if choice.get("token_ids") is None:
            raise NoTokenIds
        usage = _usage(response)
        logprobs = [
            {int(name.removeprefix("token_id:")): float(logprob) for name, logprob in (top or {}).items()}
            for top in (choice.get("logprobs") or {}).get("top_logprobs") or ()
        ]
        return Completion([int(token) for token in choice["token_ids"]], usage.prompt, usage.cached, logprobs)


class Chat:
    """The chat route. scored: ask for log-probabilities, which some servers refuse."""

    path = "chat/completions"

    def __init__(self, *, scored: bool = True) -> None:
        self._scored = scored

    def body(self, model: str, request: InferenceRequest) -> dict[str, Any]:
        return {
            "model": model,
            "messages": [
                # The chat templates of these models render it as the developer message, after their own system message.
                {"role": "system", "content": request.policy_text},
                {"role": "user", "content": harmony.decode_tokens(request.user)},
            ],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "reasoning_effort": request.effort,
            **({"logprobs": True, "top_logprobs": TOP_LOGPROBS} if self._scored else {}),
        }

    def without_logprobs(self) -> Route | None:
        return Chat(scored=False) if self._scored else None

    def read(self, response: Any) -> Completion:
        choice = response["choices"][0]
        message = choice["message"]
        before_final = _before_final(message)
        final = harmony.encode_text(message.get("content") or "")
        tokens = [*before_final, *final]
        if choice.get("finish_reason") == "stop":
            tokens.append(RETURN)
        positions = [len(before_final) + position for position in decision_positions(final)]
        entries = (choice.get("logprobs") or {}).get("content") or ()
        by_position = dict(zip(positions, _decision_logprobs(entries, len(positions)), strict=False))
        usage = _usage(response)
        return Completion(
            tokens, usage.prompt, usage.cached, [by_position.get(position, {}) for position in range(len(tokens))]
        )


def _before_final(message: Mapping[str, Any]) -> list[int]:
    """The tokens in front of the final message's text: the analysis, and a tool call, which the parser rejects."""
    tokens: list[int] = []
    reasoning = next((message[name] for name in _REASONING if message.get(name)), "")
    if reasoning:
        tokens += harmony.encode_markup("<|channel|>analysis<|message|>")
        tokens += [*harmony.encode_text(reasoning), *harmony.encode_markup("<|end|><|start|>assistant")]
    if message.get("tool_calls"):
        tokens += harmony.encode_markup("<|channel|>commentary<|message|><|end|><|start|>assistant")
    return tokens + harmony.encode_markup("<|channel|>final<|message|>")


def _decision_logprobs(entries: Sequence[Mapping[str, Any]], count: int) -> Sequence[Mapping[int, float]]:
    """The log-probabilities of 0 and 1 at the last `count` decisions in the server's tokens; empty if there are fewer.

    The last ones count, because the reasoning, which comes first, may quote the output form.
    """
    text, decisions = "", []
    for entry in entries:
        if entry["token"] in _DECISIONS and _BEFORE_DECISION.search(text):
            tops = {top["token"]: float(top["logprob"]) for top in (*(entry.get("top_logprobs") or ()), entry)}
            decisions.append({_DECISIONS[token]: logprob for token, logprob in tops.items() if token in _DECISIONS})
        text = (text + entry["token"])[-100:]
    return decisions[len(decisions) - count :] if len(decisions) >= count else ()


class _Usage(msgspec.Struct, frozen=True):
    """Tokens of the prompt, and of its part that came from the server's cache; 0 where the server reports none."""

    prompt: int
    cached: int


def _usage(response: Mapping[str, Any]) -> _Usage:
    usage = response.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    return _Usage(int(usage.get("prompt_tokens") or 0), int(details.get("cached_tokens") or 0))
