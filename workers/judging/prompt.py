"""User messages: the content with its context in front, cut into windows when it is long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class ContextMessage(Protocol):
    @property
    def role(self) -> str: ...
    @property
    def text(self) -> str: ...


class Windows(msgspec.Struct, frozen=True):
    """User messages, in tokens, that cover one content item. truncated: a part of the content is in none of them."""

    messages: Sequence[Sequence[int]]
    truncated: bool


def quoted_context(context: Sequence[ContextMessage]) -> str:
    """The text in front of the content. Every line of the context is quoted, so that it cannot pose as the content."""
    if not context:
        return ""
    quoted = "\n".join(f"> {line}" for m in context for line in f"{m.role}: {m.text}".splitlines())
    return f"Conversation so far, for context only:\n{quoted}\n\nContent to judge:\n"


def user_message(text: str, context: Sequence[ContextMessage] = ()) -> str:
    """The content after its context."""
    return quoted_context(context) + text


def windows(context: Sequence[int], content: Sequence[int], max_tokens: int, max_windows: int) -> Windows:
    """Cut content into user messages of at most `max_tokens` that overlap by an eighth; each repeats the context.

    Content that needs more than `max_windows` is sampled: the windows spread evenly from its beginning to its end.
    A context longer than half of `max_tokens` is dropped.
    """
    if len(context) + len(content) <= max_tokens:
        return Windows([[*context, *content]], truncated=False)
    if len(context) > max_tokens // 2:
        context = ()
    width = max_tokens - len(context)
    stride = width - width // 8
    count = 1 + max(0, -(-(len(content) - width) // stride))
    last = max(0, len(content) - width)
    starts = [min(n * stride, last) for n in range(count)]
    if count > max_windows:
        # Both ends are always judged: otherwise authors could hide a violation at one of them.
        starts = [round(n * last / (max_windows - 1)) for n in range(max_windows)]
    return Windows([[*context, *content[start : start + width]] for start in starts], truncated=count > max_windows)
