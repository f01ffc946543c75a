"""The route to a server whose model has another dialect than gpt-oss: text goes out, and a label comes back.

The server encodes the prompt. Its tokens are thus unknown here, and log-probabilities are read by the tokens' texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.inference.dialects.interface import (
    ChatPrompt,
    Dialect,
    MalformedLabel,
    Prompt,
    Token,
    is_logprob,
)
from safeguard_streams.workers.inference.interface import Completion, InferenceRequest
from safeguard_streams.workers.inference.routes import MAX_ANSWER, SHARE_READ, Route, usage_of

# What every server allows: OpenAI's own limits of the two routes.
_LIKELIEST_BY_TEXT, _LIKELIEST_BY_CHAT = 5, 20


def label_request(dialect: Dialect, prompt: Prompt, rank: int = 0) -> InferenceRequest:
    """A request for the label that a prompt of the dialect asks for."""
    return InferenceRequest("", "low", (), dialect.max_tokens, rank=rank, rendered=prompt, scored=True)


class Labels:
    """Chat or text completions, whichever the dialect's prompts are for. test_request: has nobody's content."""

    continues = False

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        prompt = dialect.render("The label applies to insults.", "Well?")[0]
        self.test_request = label_request(dialect, prompt)
        self._chat = isinstance(prompt, ChatPrompt)
        self.path = "chat/completions" if self._chat else "completions"

    def problem(self, completion: Completion) -> str:
        """Why the answer to the test request rules the model out; empty if it does not."""
        try:
            self.dialect.parse(harmony.decode_tokens(completion.tokens))
        except MalformedLabel:
            return f"its answer is none of the dialect {self.dialect.name}"
        return "" if self.dialect.score(completion.labels) is not None else "it returns no log-probabilities of labels"

    def body(self, model: str, request: InferenceRequest) -> dict[str, Any]:
        prompt = request.rendered
        assert prompt is not None, "this route takes rendered prompts only"
        common = {"model": model, "max_tokens": request.max_tokens, "temperature": request.temperature}
        if isinstance(prompt, ChatPrompt):
            messages = [{"role": role, "content": text} for role, text in prompt.messages]
            return {**common, "messages": messages, "logprobs": True, "top_logprobs": _LIKELIEST_BY_CHAT}
        return {**common, "prompt": prompt.text, "logprobs": _LIKELIEST_BY_TEXT}

    def without_logprobs(self) -> Route | None:
        return None

    def least_read(self, sent: int, left_out: int | None) -> float:
        # It counts by its own vocabulary. What its template adds to the test request, it adds to each prompt.
        return sent * SHARE_READ + max(0, -(left_out or 0))

    def read(self, response: Any) -> Completion:
        choice = response["choices"][0]
        text = choice["message"].get("content") or "" if self._chat else choice["text"]
        if len(text) > MAX_ANSWER:
            raise ValueError("too long")
        usage = usage_of(response)
        tokens = harmony.encode_text(text)
        return Completion(tokens, usage.prompt, usage.cached, labels=tuple(_labels(choice.get("logprobs") or {})))


def _labels(logprobs: Mapping[str, Any]) -> Iterator[Token]:
    """The tokens of an answer, in the form of the chat route or in that of the older completions route."""
    if logprobs.get("content") is not None:
        for entry in logprobs["content"]:
            tops = [*(entry.get("top_logprobs") or ()), entry]
            yield Token(_text(entry["token"]), _valid({top["token"]: top["logprob"] for top in tops}))
        return
    for text, top in zip(logprobs.get("tokens") or (), logprobs.get("top_logprobs") or (), strict=False):
        yield Token(_text(text), _valid(top or {}))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _valid(likeliest: Mapping[Any, Any]) -> dict[str, float]:
    return {text: float(value) for text, value in likeliest.items() if isinstance(text, str) and is_logprob(value)}
