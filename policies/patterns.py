"""Patterns of gates: RE2 expressions, searched for in the text as sent and in its folded forms."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import re2

from safeguard_streams.policies.document import pattern_options
from safeguard_streams.policies.folding import plain, sent

_PATTERN_MEMORY = 256 * 2**20  # bytes for RE2's automaton of all patterns; RE2 rebuilds it when it is full
_BEYOND_ASCII = re.compile(r"\\[pPx]|\[\^|[^\x00-\x7f]-|-[^\x00-\x7f]")
_BOUNDARY = re.compile(r"\\[bB]")
_FIRST_BOUNDARY = re.compile(r"\\b(?=[^\W_]|\(\?:[^\W_]|\\p|\[)")
_LAST_BOUNDARY = re.compile(r"(?<=[\w)\]}?*+])(?<!\\b)\\b\Z")
_INNER_BOUNDARY = re.compile(r"\\[bB](?:\(\?:|\(|\[)*[^\x00-\x7f]|[^\x00-\x7f][)\]?*+]*\\[bB]")
_BEFORE_WORD = r"(?:^|[^\p{L}\p{M}\p{N}_])"
_AFTER_WORD = r"(?:$|[^\p{L}\p{M}\p{N}_])"


class Patterns:
    """RE2 patterns, found in one pass over each form of each text."""

    def __init__(self, patterns: Sequence[str]) -> None:
        patterns = [unicodedata.normalize("NFC", pattern) for pattern in patterns]  # as texts are
        self._folded = _compiled([(number, _folded(pattern)) for number, pattern in enumerate(patterns)])
        # RE2's word boundaries know ASCII letters alone: next to any other letter they would be inside words.
        seen = [(number, _bounded(pattern)) for number, pattern in enumerate(patterns) if _sees_sent(pattern)]
        self._sent = _compiled(seen)
        self._seen_as_sent = _characters([pattern for _, pattern in seen])

    def find(self, texts: Sequence[str], plain_lines: Sequence[str], latin: Sequence[str]) -> list[tuple[int, int]]:
        """The texts and patterns, by number, that match. The texts come with their plain form, and in Latin letters."""
        found: list[tuple[int, int]] = []
        for match, numbers in self._folded:
            for text, hits in enumerate(map(match, latin)):
                if hits:
                    found += [(text, numbers[hit]) for hit in hits]
            for text, line in enumerate(plain_lines):
                if line is not latin[text] and line != latin[text]:
                    found += [(text, numbers[hit]) for hit in match(line) or ()]
        for match, numbers in self._sent:
            for text, line in enumerate(texts):
                if not line.isascii() and self._seen_as_sent.search(line):
                    found += [(text, numbers[hit]) for hit in match(sent(line)) or ()]
        return found


class _Matching(NamedTuple):
    """match: from a line to the places of the matching ones in `numbers`; numbers: of the patterns in the set."""

    match: Callable[[str], Sequence[int] | None]
    numbers: list[int]


def _compiled(patterns: Sequence[tuple[int, str]]) -> list[_Matching]:
    """Sets of patterns, given by number: one or, where RE2 has not enough memory for all of them, several."""
    if not patterns:
        return []
    options: Any = pattern_options()
    options.max_mem = _PATTERN_MEMORY
    matching = re2.Set.SearchSet(options)
    try:
        for _, pattern in patterns:
            matching.Add(pattern)
        matching.Compile()
    except re2.error:
        if len(patterns) == 1:
            raise
        half = len(patterns) // 2
        return [*_compiled(patterns[:half]), *_compiled(patterns[half:])]
    return [_Matching(matching.Match, [number for number, _ in patterns])]


def _sees_sent(pattern: str) -> bool:
    """Whether a text as sent can match what its folded forms do not."""
    return not pattern.isascii() or bool(_BEYOND_ASCII.search(pattern) and not _BOUNDARY.search(pattern))


def _characters(patterns: Sequence[str]) -> re.Pattern[str]:
    """What a text that is not ASCII must hold in order to match one of the patterns as sent."""
    if any(_BEYOND_ASCII.search(pattern.replace(_BEFORE_WORD, "").replace(_AFTER_WORD, "")) for pattern in patterns):
        return re.compile("")
    text = "".join(patterns)
    forms = "".join((text, text.lower(), text.upper(), unicodedata.normalize("NFD", text)))
    return re.compile(f"[{''.join(re.escape(char) for char in sorted(set(forms)) if not char.isascii()) or 'x'}]")


def _bounded(pattern: str) -> str:
    """A pattern with characters beyond ASCII, whose first and last word boundaries know the letters of all scripts."""
    if pattern.isascii():
        return pattern
    first = _FIRST_BOUNDARY.match(pattern)
    pattern = _BEFORE_WORD + pattern[first.end() :] if first else pattern
    return _LAST_BOUNDARY.sub(lambda _: _AFTER_WORD, pattern)


def inner_boundary(pattern: str) -> bool:
    """Whether a word boundary is left that stands beside a letter beyond ASCII, where RE2 sees none."""
    return bool(_INNER_BOUNDARY.search(_bounded(pattern)))


def _folded(pattern: str) -> str:
    """A pattern whose letters are folded as texts are. A range of characters stays, because its ends mean more.

    A character that no folded text holds is left out inside a word, where readers do not see it, and stays elsewhere.
    """
    bounded = _bounded(pattern)
    ranges = bool(re.search(r"[^\x00-\x7f]-|-[^\x00-\x7f]", bounded))
    parts = _PARTS.findall(bounded)
    folded: list[str] = []
    for part, after in zip(parts, [*parts[1:], ""], strict=True):
        if part in _APOSTROPHES:
            folded.append(_OUTSIDE_CLASS)
        elif part.isascii() or ranges:
            folded.append(part)
        elif len(part) > 1:
            folded.append("".join(_folded_letter(char) or char for char in part))
        elif letter := _folded_letter(part, several=True):
            folded.append(letter)
        elif after in _QUANTIFIERS or not _belongs(part, folded[-1] if folded else ""):
            folded.append(part)
    return "".join(folded)


def _belongs(unseen: str, before: str) -> bool:
    """Whether an unseen character belongs to a word: it follows a letter or, being a mark, a class or a group."""
    return (len(before) == 1 and before.isalnum()) or (unicodedata.combining(unseen) > 0 and before[-1:] in {")", "]"})


_APOSTROPHES = "'\u2018\u2019\u02bc"
_OUTSIDE_CLASS = f"[{_APOSTROPHES}]"
_PARTS = re.compile(r"\\.|\[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*\]?|.", re.DOTALL)  # a class is one part
_QUANTIFIERS = ("*", "+", "?", "{")


def _folded_letter(char: str, *, several: bool = False) -> str:
    """several: whether it may become a group of letters, which a class of characters cannot hold."""
    if char in _APOSTROPHES:
        return char
    folded = plain(char)
    if several and len(folded) > 1 and folded.isalnum():
        return f"(?:{folded})"
    return folded if not folded or (len(folded) == 1 and folded.isalnum()) else char
