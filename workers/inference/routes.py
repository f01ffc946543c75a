"""The two ways to ask an OpenAI-compatible server: what is sent, and how its answer becomes a completion.

completions  token ids both ways, as vLLM's server offers them: the same prompt and the same strict parsing as in process
chat         texts both ways (Ollama, LM Studio, hosted models): the server renders the prompt and takes its output apart,
             so what it says is put back into the harmony format here, and parsed as strictly
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from safeguard_streams.workers.inference.interface import Completion, Question
from safeguard_streams.workers.judging import prompt
from safeguard_streams.workers.judging.parse import ONE, RETURN, ZERO, labels_at

TOP = 5  # likeliest tokens that are asked for where the labels cannot be named
_REASONING = ("reasoning", "reasoning_content", "thinking")  # as different servers call it
_LABEL = re.compile(r'"violation"\s*:\s*\Z')
_LABELS = {"0": ZERO, "1": ONE}


class NoTokenIds(Exception):
    """The server answers in text although token ids were asked for."""


class Route(Protocol):
    """path is below the server's base URL."""

    path: str

    def body(self, model: str, question: Question) -> dict[str, Any]:
        """The request."""

    def without_logprobs(self) -> Route | None:
        """The same for a server that gives no log-probabilities; None where there is no such thing."""

    def read(self, response: Any) -> Completion:
        """The answer. Raises KeyError, TypeError, IndexError, AttributeError or ValueError where it has not the form of one."""


class Completions:
    """vLLM's completions route with token ids."""

    path = "completions"

    def body(self, model: str, question: Question) -> dict[str, Any]:
        return {
            "model": model,
            "prompt": question.prompt,
            "max_tokens": question.most,
            "temperature": question.temperature,
            "stop_token_ids": prompt.stop_tokens(),
            "skip_special_tokens": False,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            # A server that does not know the second of these gives the likeliest tokens in place of the labels.
            "logprobs": TOP,
            "logprob_token_ids": [ZERO, ONE],
        }

    def without_logprobs(self) -> Route | None:
        return None

    def read(self, response: Any) -> Completion:
        choice = response["choices"][0]
        if choice.get("token_ids") is None:
            raise NoTokenIds
        given = choice.get("logprobs") or {}
        logprobs = [
            {int(name.removeprefix("token_id:")): float(logprob) for name, logprob in (top or {}).items()}
            for top in given.get("top_logprobs") or ()
        ]
        return Completion([int(token) for token in choice["token_ids"]], *_usage(response), logprobs)


class Chat:
    """The chat route; `scored` with log-probabilities, which some servers refuse to give."""

    path = "chat/completions"

    def __init__(self, *, scored: bool = True) -> None:
        self._scored = scored

    def body(self, model: str, question: Question) -> dict[str, Any]:
        return {
            "model": model,
            "messages": [
                # The templates of these models make the developer message of it, after a system message of their own.
                {"role": "system", "content": question.policy_text},
                {"role": "user", "content": prompt.decode(question.user)},
            ],
            "max_tokens": question.most,
            "temperature": question.temperature,
            "reasoning_effort": question.effort,
            **({"logprobs": True, "top_logprobs": TOP} if self._scored else {}),
        }

    def without_logprobs(self) -> Route | None:
        return Chat(scored=False) if self._scored else None

    def read(self, response: Any) -> Completion:
        choice = response["choices"][0]
        message = choice["message"]
        reasoning = next((message[name] for name in _REASONING if message.get(name)), "")
        final = message.get("content") or ""
        tokens: list[int] = []
        if reasoning:
            tokens += prompt.markup("<|channel|>analysis<|message|>")
            tokens += [*prompt.encode(reasoning), *prompt.markup("<|end|><|start|>assistant")]
        if message.get("tool_calls"):
            tokens += prompt.markup("<|channel|>commentary<|message|><|end|><|start|>assistant")
        tokens += prompt.markup("<|channel|>final<|message|>")
        start = len(tokens)
        tokens += prompt.encode(final)
        labels = list(labels_at(tokens[start:]))
        said = list(_labels_of((choice.get("logprobs") or {}).get("content") or (), len(labels)))
        if choice.get("finish_reason") == "stop":
            tokens.append(RETURN)
        found = dict(zip((start + at for at in labels), said, strict=False))
        return Completion(tokens, *_usage(response), [found.get(at, {}) for at in range(len(tokens))])


def _labels_of(entries: Sequence[Mapping[str, Any]], count: int) -> Iterable[dict[int, float]]:
    """The log-probabilities of 0 and 1 at the last `count` places where a label stands in the text of all tokens."""
    text, found = "", []
    for entry in entries:
        if entry["token"] in _LABELS and _LABEL.search(text):
            tops = {top["token"]: float(top["logprob"]) for top in (*(entry.get("top_logprobs") or ()), entry)}
            found.append({_LABELS[token]: logprob for token, logprob in tops.items() if token in _LABELS})
        text = (text + entry["token"])[-100:]
    return found[len(found) - count :] if len(found) >= count else ()


def _usage(response: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens of the prompt, and how many of them came from the server's cache; 0 where it does not say."""
    usage = response.get("usage") or {}
    return int(usage.get("prompt_tokens") or 0), int(
        (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    )
