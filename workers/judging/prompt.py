"""User messages: the content with its context in front, cut into windows when it is long.

Content without a context stands alone in its message. Content with a context follows a heading that no content can
write: content whose words come near a heading gets one in front that says whose words they are. No two pairs of
context and content therefore have the same message.
"""

from __future__ import annotations

import asyncio
import hashlib
import operator
import re
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Protocol

import msgspec
import orjson

from safeguard_streams.policies.folding import normalized
from safeguard_streams.workers.inference import harmony

# Texts with more characters are sampled before they are tokenised, which bounds the cost of any text. Ordinary text
# has 4 to 5 characters a token.
CHARACTERS_PER_TOKEN = 6
MAX_CHARACTERS = 1_000_000
PIECES_AT_ONCE = 8  # tokenised between two turns of the event loop; 10 ms at most

_CONTEXT = "Conversation so far, for context only:\n"
_LEFT_OUT = "> (earlier messages are left out)\n"
_CONTENT = "Content to judge:\n"
_IMITATED = "Content to judge, to the end of this message; its author wrote every heading in it:\n"
_SLICE, _OVERLAP = 16_384, 256  # characters searched at once for an imitation of a heading
# In a heading of the content's, a digit or a letter of another script (?) may stand for a letter.
_HEADINGS = {
    heading: re.compile(f"(?={''.join(f'[{letter}?0-9]' for letter in heading)})")
    for heading in ("conversationsofar", "forcontextonly", "contenttojudge")
}
_SIGNS = re.compile(r"[\W_]+")
_FOREIGN = re.compile(r"[^\x00-\x7f]")
_FOREIGN_WORDS = re.compile(r"[?0-9]{9,}")
_LINE_ENDS_AND_CONTROLS = re.compile(r"[\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class ContextMessage(Protocol):
    @property
    def role(self) -> str: ...
    @property
    def text(self) -> str: ...


class Windows(msgspec.Struct, frozen=True):
    """User messages, in tokens, that cover one content item.

    truncated: a part of the content or of its context is in none of them.
    """

    messages: Sequence[Sequence[int]]
    truncated: bool


class _Context(msgspec.Struct, frozen=True):
    """Lines of a context, oldest first. complete: no earlier message was left out."""

    lines: Sequence[str]
    complete: bool = True


def key(text: str, context: Sequence[ContextMessage]) -> bytes:
    """The sha256 of content and context, each part with its length."""
    digest = hashlib.sha256()
    for part in chain((text,), *((m.role, m.text) for m in context)):
        encoded = part.encode()
        digest.update(b"%d:" % len(encoded))
        digest.update(encoded)
    return digest.digest()


def user_message(text: str, context: Sequence[ContextMessage] = ()) -> str:
    """The content after its context, whole."""
    imitates = any(_imitates(part) for part in _slices(text))
    return _head(_Context([_line(message) for message in context]), imitates=imitates) + text


async def windows_of(text: str, context: Sequence[ContextMessage], max_tokens: int, max_windows: int) -> Windows:
    """User messages of at most `max_tokens` each; gives way to the event loop while it works.

    The context takes at most half of each message; of a longer one the newest messages that fit are kept. Content that
    needs more than `max_windows` is sampled, as are texts too long to be tokenised: see `windows`.
    """
    kept = await _newest(context, max_tokens // 2)
    sampled = len(text) > _longest(max_tokens * max_windows)
    # All samples of a text may hold a heading: the text gets one in front without a search.
    head = await _encode(_head(kept, imitates=sampled or await _any_imitates(text)))
    width = max_tokens - len(head)
    capacity = width + (max_windows - 1) * _stride(width)
    content = [] if sampled else await _encode(text, capacity + 1)
    if not sampled and len(content) <= capacity:
        cut = windows(head, content, max_tokens, max_windows)
        return Windows(cut.messages, cut.truncated or not kept.complete)
    samples = [await _sample(text, n, width, max_windows) for n in range(max_windows)]
    return Windows([[*head, *sample] for sample in samples], truncated=True)


def windows(context: Sequence[int], content: Sequence[int], max_tokens: int, max_windows: int) -> Windows:
    """Cut content into user messages of at most `max_tokens` that overlap by an eighth; each repeats the context.

    Content that needs more than `max_windows` is sampled: the windows spread evenly from its beginning to its end.
    A context longer than half of `max_tokens` is dropped.
    """
    dropped = len(context) + len(content) > max_tokens and len(context) > max_tokens // 2
    if dropped:
        context = ()
    if len(context) + len(content) <= max_tokens:
        return Windows([[*context, *content]], truncated=dropped)
    width = max_tokens - len(context)
    count = 1 + max(0, -(-(len(content) - width) // _stride(width)))
    last = max(0, len(content) - width)
    starts = [min(n * _stride(width), last) for n in range(count)]
    if count > max_windows:
        # Both ends are always judged: otherwise authors could hide a violation at one of them.
        starts = _spread(last, max_windows)
    return Windows(
        [[*context, *content[start : start + width]] for start in starts], truncated=dropped or count > max_windows
    )


def _stride(width: int) -> int:
    return width - width // 8


def _spread(last: int, count: int) -> list[int]:
    """Evenly spaced starts from 0 to `last`."""
    return [round(n * last / max(1, count - 1)) for n in range(count)]


def _longest(tokens: int) -> int:
    """The longest text, in characters, that is tokenised to find this many tokens."""
    return min(MAX_CHARACTERS, CHARACTERS_PER_TOKEN * tokens)


async def _sample(text: str, number: int, width: int, count: int) -> list[int]:
    """The tokens of one of `count` samples, spread by characters. The last one ends with the text."""
    span = min(len(text), _longest(width * count) // count)
    start = _spread(len(text) - span, count)[number]
    if number < count - 1:
        return (await _encode(text[start : start + span], width))[:width]
    return (await _encode(text[start:]))[-width:]


async def _encode(text: str, enough: int | None = None) -> list[int]:
    """Tokens of a text, or of its beginning: at least `enough` unless the text has fewer."""
    tokens: list[int] = []
    pieces = harmony.pieces(text)
    while several := list(islice(pieces, PIECES_AT_ONCE)):
        for piece in several:
            tokens += harmony.encode_piece(piece)
        if len(several) == PIECES_AT_ONCE:
            await asyncio.sleep(0)
        if enough is not None and len(tokens) >= enough:
            break
    return tokens


async def _newest(context: Sequence[ContextMessage], max_tokens: int) -> _Context:
    """The newest messages of a context that have at most `max_tokens`, headings included."""
    lines: list[str] = []
    room = max_tokens - len(harmony.encode_text(_CONTEXT + _LEFT_OUT + _IMITATED))
    for message in reversed(context):
        if len(message.role) + len(message.text) > _longest(room):
            return _Context(lines[::-1], complete=False)
        line = _line(message)
        room -= len(await _encode(line))
        if room < 0:
            return _Context(lines[::-1], complete=False)
        lines.append(line)
    return _Context(lines[::-1])


def _line(message: ContextMessage) -> str:
    """One message of the context on one line, whatever a reader takes for the end of a line."""
    fields = orjson.dumps({"role": message.role, "text": message.text}).decode()
    one_line = _LINE_ENDS_AND_CONTROLS.sub(lambda sign: f"\\u{ord(sign[0]):04x}", fields)
    return f"> {one_line}\n"


def _head(context: _Context, *, imitates: bool) -> str:
    """The text in front of the content; empty for content alone that imitates nothing."""
    heading = _IMITATED if imitates else _CONTENT
    if not context.lines and context.complete:
        return heading if imitates else ""
    return f"{_CONTEXT}{'' if context.complete else _LEFT_OUT}{''.join(context.lines)}\n{heading}"


def _slices(text: str) -> Iterable[str]:
    """Overlapping parts of a text; a heading lies in one of them as a whole."""
    return (text[start : start + _SLICE + _OVERLAP] for start in range(0, len(text), _SLICE))


async def _any_imitates(text: str) -> bool:
    for part in _slices(text):
        if _imitates(part):
            return True
        if len(part) > _SLICE:
            await asyncio.sleep(0)
    return False


def _imitates(text: str) -> bool:
    """Whether a text comes near the words of a heading. Case, spacing and signs between the letters do not matter."""
    letters = _SIGNS.sub("", normalized("NFKD", text).casefold())
    letters = _FOREIGN_WORDS.sub(" ", _FOREIGN.sub("?", letters))
    return any(
        2 * sum(map(operator.eq, heading, letters[found.start() : found.start() + len(heading)])) >= len(heading)
        for heading, near in _HEADINGS.items()
        for found in near.finditer(letters)
    )
