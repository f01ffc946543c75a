"""What the worker asks of an inference engine: token ids in, token ids out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from streams.errors import SafeguardError


class InferenceError(SafeguardError):
    """The engine refused or failed this one request."""


class Completion(msgspec.Struct, frozen=True):
    """One completion. tokens are ids after the prompt, the stop token included; logprobs, where the engine gave them,
    has for each of them the natural logarithms of the label tokens' probabilities, and perhaps of others'."""

    tokens: Sequence[int]
    prompt_tokens: int
    cached_tokens: int
    logprobs: Sequence[Mapping[int, float]] = ()


class Inference(Protocol):
    """An engine that is ready to generate."""

    @property
    def model(self) -> str:
        """The name that verdicts give."""

    @property
    def longest(self) -> int:
        """Most tokens of a prompt and its completion together."""

    async def generate(self, prompt: Sequence[int], most: int) -> Completion:
        """Complete a prompt with at most `most` tokens, greedily. Raises InferenceError for this request,
        DependencyError when the engine is gone."""

    async def close(self) -> None:
        """End the engine and its processes."""
