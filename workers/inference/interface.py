"""What the worker asks of an inference engine: a question in, the tokens of its completion out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from safeguard_streams.errors import SafeguardError
from safeguard_streams.policies.vocabulary import Effort
from safeguard_streams.workers.judging import prompt


class InferenceError(SafeguardError):
    """The engine refused or failed this one question."""


class Question(msgspec.Struct, frozen=True):
    """Content to be judged by a text of policy. user is the user message as tokens; most is the longest answer in tokens;
    temperature 0 is greedy."""

    policy_text: str
    effort: Effort
    user: Sequence[int]
    most: int
    temperature: float = 0.0

    @property
    def prompt(self) -> list[int]:
        """All of it as token ids in the harmony format."""
        return prompt.render_tokens(self.policy_text, self.effort, self.user)


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

    @property
    def slots(self) -> int:
        """Questions that it answers at once without loss."""

    @property
    def capacity(self) -> int | None:
        """Tokens that fit its cache at once, all requests together; None where it does not say."""

    @property
    def healthy(self) -> bool:
        """Whether it can be asked now."""

    async def generate(self, question: Question) -> Completion:
        """Answer a question. Raises InferenceError for this question, DependencyError when the engine is gone."""

    async def close(self) -> None:
        """End the engine and its processes."""
