"""What one model expects of a prompt, and how its answer is read: the protocol `Dialect`.

The dialects here are of models that answer at once, in one token or a few. Their prompts are text, because each model
has its own vocabulary, and the server that has the model encodes them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import msgspec

MAX_LOGPROB = 0.001  # log-probabilities are at most 0; this is the error of a server's arithmetic
# Control tokens in the notations of Gemma, Llama, Qwen and Mistral. Some tokenisers find them in ordinary text.
_CONTROL = re.compile(
    r"<(?=\|)|\|(?=>)"
    r"|<(?=/?(?:bos|eos|pad|unk|mask|s|think|turn|(?:start|end)_of_(?:turn|image)|unused\d+)\|?>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_\w+|ARGS|CALL_ID|THINK|IMG\w*|PREFIX|MIDDLE|SUFFIX)\])"
)


class MalformedLabel(Exception):
    """The model wrote something else than its published form of an answer."""


class ChatPrompt(msgspec.Struct, frozen=True):
    """Messages by role, for the chat template of the model's maker, which the server has."""

    messages: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """All that the messages say."""
        return "\n".join(text for _, text in self.messages)


class TextPrompt(msgspec.Struct, frozen=True):
    """The whole prompt. The server adds only what every text of the model begins with."""

    text: str


Prompt = ChatPrompt | TextPrompt


class Label(msgspec.Struct, frozen=True):
    """An answer. classes: those of the guard's own that it named; empty for a judge that follows a policy."""

    violates: bool
    classes: tuple[str, ...] = ()


class Token(msgspec.Struct, frozen=True):
    """A token that the model wrote. likeliest: natural logarithms of the probabilities of tokens at its place."""

    text: str
    likeliest: Mapping[str, float]


class Dialect(Protocol):
    """The published form of one family of models.

    models: what the names of these models contain.
    classes: those of a guard with fixed classes; empty for a judge that follows a policy.
    max_tokens: where an answer stops at the latest. The model's own end token stops it before.
    imitation: text that could pose as a part of the prompt, such as the heading of the answer.
    """

    name: str
    models: re.Pattern[str]
    classes: tuple[str, ...]
    max_tokens: int
    imitation: re.Pattern[str]

    def render(self, policy: str, content: str, classes: Collection[str] = ()) -> Sequence[Prompt]:
        """The prompts for one content item. Several are about a class of the guard each.

        classes: those of interest, for a guard that is asked about each class; empty for all.
        """

    def parse(self, text: str) -> Label:
        """The answer that a completion states. Raises MalformedLabel for any other text."""

    def score(self, tokens: Sequence[Token]) -> float | None:
        """The probability of violating, 0 to 1, at the label's place; None where there are no log-probabilities."""


def without_control_tokens(text: str) -> str:
    """Text in which nothing has the form of a control token: a space parts it."""
    return _CONTROL.sub(lambda found: f"{found[0]} ", text)


def share(likeliest: Mapping[str, float], sides: Callable[[str], bool | None]) -> float | None:
    """The probability of the violating side as a share of both sides, 0 to 1.

    sides: whether a token is of the violating side; None for a token of neither.
    If one side is not among the likeliest tokens, it has the remaining probability. None if neither is.
    """
    sums: dict[bool, float] = {}
    for text, logprob in likeliest.items():
        side = sides(text)
        if side is not None and is_logprob(logprob):
            sums[side] = sums.get(side, 0.0) + math.exp(min(0.0, logprob))
    if not sums:
        return None
    violating, safe = sums.get(True), sums.get(False)
    if violating is None or safe is None:
        return round(max(0.0, 1.0 - safe) if safe is not None else min(1.0, violating or 0.0), 4)
    return round(violating / (violating + safe), 4) if violating + safe > 0 else None


def is_logprob(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value <= MAX_LOGPROB


def beginning(labels: Mapping[str, bool]) -> Callable[[str], bool | None]:
    """The side of a token that a label begins with. A token that labels of both sides begin with is of neither."""

    def side(token: str) -> bool | None:
        begun = token.strip()
        sides = {violates for label, violates in labels.items() if begun and label.startswith(begun)}
        return sides.pop() if len(sides) == 1 else None

    return side


class OneWord:
    """A dialect whose whole answer is one of two words. labels: whether each word says that content violates."""

    labels: Mapping[str, bool]
    max_tokens = 1

    def parse(self, text: str) -> Label:
        if text.strip() not in self.labels:
            raise MalformedLabel
        return Label(self.labels[text.strip()])

    def score(self, tokens: Sequence[Token]) -> float | None:
        token = first_written(tokens)
        return share(token.likeliest, beginning(self.labels)) if token else None


def first_written(tokens: Sequence[Token]) -> Token | None:
    """The first token that is more than white space."""
    return next((token for token in tokens if token.text.strip()), None)
