"""Text as the prefilter sees it: one form for many spellings.

Works on many texts at once, as the lines of one string: what nearly every text needs costs a few calls for all of
them, and what few texts need is found by comparing arrays of characters and done for those alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from string import ascii_lowercase, ascii_uppercase
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]

# Characters without width, directional marks, variation selectors, controls other than white space, and the combining
# marks of Latin, Greek and Cyrillic (those of other scripts are letters in their own right).
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\U000e0000-\U000e0fff\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"
    "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
)
_BREAKS = re.compile("[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_ADDRESS = re.compile(r"(?:https?://|www\.)\S+")
_MENTION = re.compile(r"(?<!\w)@\w+")
_SPACED = re.compile(r"(?<![^\W_])[^\W\d_]([^\w]|_)[^\W\d_](?:\1[^\W\d_])+(?![^\W_])")
_RUN = re.compile(r"(.)\1{3,}")
_LONGEST = (
    60  # characters without a space; more are broken up, after marks if there are any, so that windows stay small
)
_MARK = re.compile(r"([^\w\s]|_)(?=\S)")
_LONG = re.compile(rf"(\S{{{_LONGEST}}})(?=\S)")
_TOKEN = re.compile(r"<(?:url|user)>|[^\W_]+|[^\w\s]|_")

_LATIN_LINE = 0.9  # share of ASCII from which a line is taken for Latin, its homoglyphs replaced
_LEET = str.maketrans("013457890@$!+|", "oieastbgoasiti")
_LEET_WORD = re.compile(r"(?!\d+[a-z]{1,2}$)(?=.*[a-z])(?=.*[\d@$!+|])[a-z\d@$!+|]{3,}")
_AROUND = ".,!?;:'\"()[]"
_STRETCHED = re.compile(r"([^\W\d_])\1{2,}")
_INSIDE = re.compile(r"(?<=[a-z0-9])[.*_~^=+|]+(?=[a-z0-9])")


class Views(NamedTuple):
    """Texts made ready for gates.

    folded: a line for each text, for patterns.
    lines: a line for each text, its words found and repaired, then some more with their disguise taken off.
    text: for each of `lines`, the number of the text that it is a view of.
    """

    folded: list[str]
    lines: list[str]
    text: NDArray[np.intp]


def read(texts: Sequence[str]) -> Views:
    """Fold the texts, repair their words, and add a view without disguise where there seems to be one."""
    folded = fold([text if text.isprintable() else _BREAKS.sub(" ", text) for text in texts])
    lines, disguised = _repair(folded)
    numbers = list(range(len(lines)))
    for i in disguised:
        unmasked = _unmask(lines[i])
        if unmasked != lines[i]:
            lines.append(unmasked)
            numbers.append(i)
    return Views(folded, lines, np.array(numbers, dtype=np.intp))


def words(line: str) -> list[str]:
    """Words and marks of a line, or of a part of it that begins and ends at a space."""
    return _TOKEN.findall(line)


def tokens(text: str) -> list[str]:
    """Words and marks of one text, without the view that takes disguise off."""
    (line,), _ = _repair(fold([_BREAKS.sub(" ", text)]))
    return words(line)


# ---------------------------------------------------------------------------------------------------------- folding


def fold(lines: Sequence[str]) -> list[str]:
    """Compatibility forms and case folded, what is not seen out, homoglyphs to Latin; idempotent."""
    folded = "\n".join(lines).lower().split("\n")
    odd = [i for i, line in enumerate(folded) if not (line.isascii() and line.isprintable())]
    if odd:
        text = "\n".join(lines[i] for i in odd)
        for i, line in zip(odd, _fold(text).split("\n"), strict=True):
            folded[i] = line
    return folded


def _fold(text: str) -> str:
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return _in_latin(unicodedata.normalize("NFC", _UNSEEN.sub("", text)))


@cache
def _skeleton() -> dict[int, str]:
    """Letters of other scripts, and enclosed ones, that look like a Latin letter: code point to that letter."""
    from confusable_homoglyphs.confusables import confusables_data

    table: dict[int, str] = {}
    for shape in (
        ascii_lowercase + ascii_uppercase
    ):  # what looks like a small letter is that, whatever its capital is like
        for entry in confusables_data.get(shape, ()):
            folded = unicodedata.normalize("NFKC", entry["c"]).casefold()
            if len(folded) == 1 and not folded.isascii() and folded.isalpha():
                table.setdefault(ord(folded), shape.lower())
    for first in (0x1F150, 0x1F170, 0x1F1E6):  # negative circled, negative squared, regional indicators
        table |= {first + i: chr(ord("a") + i) for i in range(26)}
    return table


@cache
def _is_homoglyph() -> Flags:
    """By code point; the last entry stands for all above it."""
    table = np.zeros(max(_skeleton()) + 2, dtype=bool)
    table[list(_skeleton())] = True
    return table


def _in_latin(text: str) -> str:
    """Homoglyphs replaced in lines that are Latin but for them; in other lines, in words that mix them with Latin."""
    points = codes(text)
    table = _is_homoglyph()
    found = table[np.minimum(points, len(table) - 1)]
    if not found.any():
        return text
    lines = text.split("\n")
    for i in _lines_of(np.flatnonzero(found), points):
        line = lines[i]
        replaced = line.translate(_skeleton())
        if len(replaced.encode("ascii", "ignore")) >= _LATIN_LINE * len(replaced):
            lines[i] = replaced
        elif not line.isascii():
            lines[i] = _WORD.sub(_mixed_word, line)
    return "\n".join(lines)


_WORD = re.compile(r"[^\W_]*[a-z][^\W_]*")


def _mixed_word(word: re.Match[str]) -> str:
    return word[0] if word[0].isascii() else word[0].translate(_skeleton())


# ------------------------------------------------------------------------------------------------- words and disguise

_LETTER, _LEETISH, _INNER = 1, 2, 4


def _classes() -> NDArray[np.uint8]:
    """What an ASCII character may be part of; the last entry stands for all others."""
    table = np.zeros(129, dtype=np.uint8)
    for code in range(128):
        char = chr(code)
        table[code] |= _LETTER * char.isalpha() | _LEETISH * (code in _LEET) | _INNER * (char in "._*~^=+|")
    return table


_CLASSES = _classes()


def codes(text: str) -> NDArray[np.uint32]:
    """Code points of a text."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _lines_of(places: NDArray[np.intp], points: NDArray[np.uint32]) -> list[int]:
    """Numbers of the lines that hold these places, in order."""
    numbers: list[int] = np.unique(np.searchsorted(np.flatnonzero(points == ord("\n")), places)).tolist()
    return numbers


def _repair(folded: Sequence[str]) -> tuple[list[str], list[int]]:
    """Lines with addresses and mentions masked, spaced letters joined, runs cut to three, spaces where there are none
    for long; and the numbers of those that seem disguised.
    """
    lines = list(folded)
    for i, line in enumerate(lines):
        if "http" in line or "www." in line or "@" in line:
            lines[i] = _MENTION.sub("<user>", _ADDRESS.sub("<url>", line))
    points = codes("\n".join(lines) + "\n" * 4)  # so that each line's last character has four after it
    kinds = _CLASSES[np.minimum(points, 128)]
    letter, leet, inner = (kinds & kind > 0 for kind in (_LETTER, _LEETISH, _INNER))
    word = letter | (points > 127)
    same = points[1:] == points[:-1]
    lone = word.copy()
    lone[1:] &= ~word[:-1]
    lone[:-1] &= ~word[1:]
    spaced = lone[:-4] & lone[2:-2] & lone[4:]
    runs = same[:-3] & same[1:-2] & same[2:-1]
    gaps = np.flatnonzero((points == ord(" ")) | (points == ord("\n")))
    long = gaps[np.diff(gaps, prepend=-1) > _LONGEST + 1]
    for i in _lines_of(np.flatnonzero(spaced), points):
        lines[i] = _SPACED.sub(lambda found: found[0].replace(found[1], ""), lines[i])
    for i in _lines_of(np.flatnonzero(runs), points):
        lines[i] = _RUN.sub(r"\1\1\1", lines[i])
    for i in _lines_of(long, points):
        lines[i] = _LONG.sub(r"\1 ", _MARK.sub(r"\1 ", lines[i]))
    inside = letter[:-2] & (leet | inner)[1:-1] & (letter | leet)[2:] | leet[:-2] & letter[1:-1] & letter[2:]
    stretched = letter[:-2] & same[:-1] & same[1:]
    return lines, _lines_of(np.flatnonzero(inside | stretched), points)


def _unmask(line: str) -> str:
    """Leetspeak read as letters, stretched letters once, marks inside words out."""
    return " ".join([word if word.isalpha() else _bare(word) for word in _STRETCHED.sub(r"\1", line).split(" ")])


def _bare(word: str) -> str:
    word = _INSIDE.sub("", word)
    core = word.strip(_AROUND)
    return word.replace(core, core.translate(_LEET)) if not core.isalpha() and _LEET_WORD.fullmatch(core) else word
