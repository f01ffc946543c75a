"""The protocol between judging and the model: a request goes in, the tokens of its completion come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from safeguard_streams.errors import SafeguardError
from safeguard_streams.policies.vocabulary import Effort
from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.inference.dialects.interface import Prompt, Token


class InferenceError(SafeguardError):
    """The backend refused or failed this one request."""


class Progress(msgspec.Struct):
    """What a backend notes about a request.

    waiting: it is at no server, because all are full or away. lost: seconds at servers that turned out not to work.
    """

    waiting: bool = False
    lost: float = 0.0


class Constraint(msgspec.Struct, frozen=True):
    """What an output must be. A backend uses the form that it understands.

    pattern: a regular expression of all that follows the tokens that stand written.
    schema: a JSON schema of the whole final message.
    """

    pattern: str
    schema: Mapping[str, Any]


class InferenceRequest(msgspec.Struct, frozen=True):
    """One user message to be judged under a policy text.

    user: the user message as token ids.
    max_tokens: the longest completion, in tokens.
    temperature: 0 samples greedily.
    rank: 0 is served first.
    written: tokens of the answer that stand already; the completion goes on from there.
    constraint: what the output must be, if it is not free.
    scored: whether to return log-probabilities. A backend for which they are cheap returns them unasked.
    near: the `source` of a completion with the same prompt, whose prefix cache has most of it.
    rendered: the prompt of a model with another dialect than gpt-oss, instead of policy text and user message.
    """

    policy_text: str
    effort: Effort
    user: Sequence[int]
    max_tokens: int
    temperature: float = 0.0
    rank: int = 0
    progress: Progress = msgspec.field(default_factory=Progress)
    written: Sequence[int] = ()
    constraint: Constraint | None = None
    scored: bool = False
    near: str = ""
    rendered: Prompt | None = None

    @property
    def prompt(self) -> list[int]:
        """The whole prompt as token ids in the harmony format; of a rendered one, its text in tokens of gpt-oss."""
        if self.rendered is not None:
            return harmony.encode_text(self.rendered.text)
        return [*harmony.render_tokens(self.policy_text, self.effort, self.user), *self.written]

    @property
    def pattern(self) -> str | None:
        """What the completion must match. A completion that begins with the model's reasoning is free."""
        return self.constraint.pattern if self.constraint and self.written else None

    @property
    def stop_tokens(self) -> list[int]:
        """Tokens that end the completion. What must match a pattern is a final message, which calls no tool."""
        return [harmony.RETURN] if self.pattern else harmony.stop_tokens()


class Completion(msgspec.Struct, frozen=True):
    """The model's output for one request.

    tokens: ids after the prompt, including the stop token. The prompt has opened the analysis.
    prompt_tokens, cached_tokens: sizes of the prompt, and of its part that came from the prefix cache.
    logprobs: for each token the natural logarithms of the decision tokens' probabilities, where the backend returned
        them. Entries of other tokens may be among them.
    source: the server that answered; empty for a model in this process.
    labels: of a model with another dialect, the tokens that it wrote, in its own vocabulary.
    """

    tokens: Sequence[int]
    prompt_tokens: int
    cached_tokens: int
    logprobs: Sequence[Mapping[int, float]] = ()
    source: str = ""
    labels: Sequence[Token] = ()


class InferenceBackend(Protocol):
    """A model that is loaded and ready to generate."""

    @property
    def model(self) -> str:
        """The model's name as verdicts show it."""

    @property
    def revision(self) -> str | None:
        """Which weights the model has, beside its name; None where that is unknown, or differs between servers."""

    @property
    def max_model_tokens(self) -> int:
        """Maximum length of a prompt and its completion together, in tokens."""

    @property
    def concurrency(self) -> int:
        """Number of requests that the backend serves at once without losing throughput."""

    @property
    def cache_tokens(self) -> int | None:
        """Number of tokens that fit the KV cache, all requests together; None if the backend does not report it."""

    @property
    def healthy(self) -> bool:
        """Whether the backend accepts requests now."""

    @property
    def continues(self) -> bool:
        """Whether a request may go on from `written` tokens. False for servers that render the prompt themselves."""

    async def generate(self, request: InferenceRequest) -> Completion:
        """Run one request.

        Raises InferenceError when this request failed, and DependencyError when the backend is gone.
        """

    async def close(self) -> None:
        """Stop the backend and end its processes."""
