"""Text as the prefilter sees it: one form for many spellings.

Works on many texts at once, as the lines of one string. Steps that nearly every text needs are a few calls for all of
them. The texts that need a rarer step are found by comparing arrays of characters, and only they take it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from safeguard_streams.policies.folding import (
    decomposed,
    in_order,
    latin_look_alikes,
    one_line,
    plain_from,
    removes_more,
)
from safeguard_streams.policies.folding import plain as plain_line

Flags = NDArray[np.bool_]

# Characters without width, directional marks, variation selectors, controls other than white space, and the combining
# marks of Latin, Greek and Cyrillic. Combining marks of other scripts are letters in their own right.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\U000e0000-\U000e0fff\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"
    "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
)
_ADDRESS = re.compile(r"(?:https?://|www\.)\S+")
_MENTION = re.compile(r"(?<!\w)@\w+")
_SPACED = re.compile(r"(?<![^\W_])[^\W\d_]([^\w]|_)[^\W\d_](?:\1[^\W\d_])+(?![^\W_])")
_RUN = re.compile(r"(.)\1{3,}")
_MAX_PIECE = 60  # characters without a space; longer pieces are split, after marks if there are any
_MARK = re.compile(r"([^\w\s]|_)(?=\S)")
_LONG = re.compile(rf"(\S{{{_MAX_PIECE}}})(?=\S)")
_TOKEN = re.compile(r"<(?:url|user)>|[^\W_]+|[^\w\s]|_")

_LATIN_LINE = 0.9  # share of ASCII, 0 to 1, at which a line counts as Latin and its homoglyphs are replaced
_LEET = str.maketrans("013457890@$!+|", "oieastbgoasiti")
_LEET_WORD = re.compile(r"(?!\d+[a-z]{1,2}$)(?=.*[a-z])(?=.*[\d@$!+|])[a-z\d@$!+|]{3,}")
_AROUND = ".,!?;:'\"()[]"
_STRETCHED = re.compile(r"([^\W\d_])\1{2,}")
_INSIDE = re.compile(r"(?<=[a-z0-9])[.*_~^=+|]+(?=[a-z0-9])")


class Folded(NamedTuple):
    """One line for each text: in its plain form, and in Latin letters where theirs look Latin."""

    plain: list[str]
    latin: list[str]


class Views(NamedTuple):
    """Texts prepared for the gates.

    folded: one line for each text, for terms and patterns.
    lines: one line for each text with its words repaired, followed by extra lines with the disguise removed.
    text: for each of `lines`, the number of its text.
    """

    folded: Folded
    lines: list[str]
    text: NDArray[np.intp]


def read(texts: Sequence[str]) -> Views:
    """Fold the texts, repair their words, and add an undisguised view of each text that seems disguised."""
    folded = fold(texts)
    lines, disguised = _repair(folded.latin)
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
    """Words and marks of one text, without its undisguised view."""
    (line,) = _repair(fold([text]).latin).lines
    return words(line)


# ---------------------------------------------------------------------------------------------------------- folding


def fold(texts: Sequence[str]) -> Folded:
    """Fold compatibility forms and case, remove invisible characters, replace homoglyphs by Latin. Idempotent."""
    lines = [text if text.isprintable() else one_line(text) for text in texts]
    joined = "\n".join(lines)
    latin = joined.lower().split("\n")
    plain = latin.copy()
    odd = [i for i, line in enumerate(latin) if not (line.isascii() and line.isprintable())]
    if odd:
        apart = decomposed("\n".join(lines[i] for i in odd))
        seen = in_order("NFC", _INVISIBLE.sub("", apart))
        visible = [unicodedata.normalize("NFC", line) for line in seen.split("\n")]
        for i, line, in_latin in zip(odd, visible, _in_latin(visible), strict=True):
            plain[i], latin[i] = line, in_latin
        more = removes_more(_INVISIBLE)
        if more.search(apart):
            for i, line in zip(odd, apart.split("\n"), strict=True):
                plain[i] = plain_from(line) if more.search(line) else plain[i]
    if "&#" in joined:
        for i, line in enumerate(lines):
            plain[i] = plain_line(line) if "&#" in line else plain[i]
    return Folded(plain, latin)


@cache
def _is_homoglyph() -> Flags:
    """By code point. The last entry stands for all higher ones."""
    table = np.zeros(max(latin_look_alikes()) + 2, dtype=bool)
    table[list(latin_look_alikes())] = True
    return table


def _in_latin(lines: Sequence[str]) -> list[str]:
    """Replace homoglyphs: everywhere in lines that are otherwise Latin, elsewhere in words that mix them with Latin."""
    lines = list(lines)
    points = codes("\n".join(lines))
    table = _is_homoglyph()
    homoglyphs = table[np.minimum(points, len(table) - 1)]
    for i in _lines_of(np.flatnonzero(homoglyphs), points):
        line = lines[i]
        replaced = line.translate(latin_look_alikes())
        if len(replaced.encode("ascii", "ignore")) >= _LATIN_LINE * len(replaced):
            lines[i] = replaced
        elif not line.isascii():
            lines[i] = _WORD.sub(_mixed_word, line)
    return lines


# A word with a letter from a to z. Tried only where a word begins, and only once, because words may be long.
_WORD = re.compile(r"(?<![^\W_])(?=[^\W_a-z]*+[a-z])[^\W_]++")


def _mixed_word(word: re.Match[str]) -> str:
    return word[0] if word[0].isascii() else word[0].translate(latin_look_alikes())


# ------------------------------------------------------------------------------------------------- words and disguise

_LETTER, _LEETISH, _INNER = 1, 2, 4


def _classes() -> NDArray[np.uint8]:
    """Roles of each ASCII character, as bits. The last entry stands for all other characters."""
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
    """Numbers of the lines that contain these places, in order."""
    numbers: list[int] = np.unique(np.searchsorted(np.flatnonzero(points == ord("\n")), places)).tolist()
    return numbers


class _Repaired(NamedTuple):
    """Repaired lines, and the numbers of those that seem disguised."""

    lines: list[str]
    disguised: list[int]


def _repair(folded: Sequence[str]) -> _Repaired:
    """Mask addresses and mentions, join spaced-out letters, cut runs to three characters, and split long pieces."""
    lines = [_mask(line) if "http" in line or "www." in line or "@" in line else line for line in folded]
    # Four characters follow the last one of each line, which the masks below look at.
    points = codes("\n".join(lines) + "\n" * 4)
    roles = _CLASSES[np.minimum(points, 128)]
    letter = roles & _LETTER > 0
    repeated = points[1:] == points[:-1]

    spaced = _lines_of(np.flatnonzero(_spaced_letters(letter | (points > 127))), points)
    for i in spaced:
        lines[i] = _SPACED.sub(lambda match: match[0].replace(match[1], ""), lines[i])
    for i in _lines_of(np.flatnonzero(_runs(repeated)), points):
        lines[i] = _RUN.sub(r"\1\1\1", lines[i])
    joined_long = [i for i in spaced if max(map(len, lines[i].split(" "))) > _MAX_PIECE]
    for i in {*_lines_of(_ends_of_long_pieces(points), points), *joined_long}:
        lines[i] = _LONG.sub(r"\1 ", _MARK.sub(r"\1 ", lines[i]))
    disguised = np.flatnonzero(_marked_words(letter, roles) | _stretched_letters(letter, repeated))
    return _Repaired(lines, _lines_of(disguised, points))


def _mask(line: str) -> str:
    return _MENTION.sub("<user>", _ADDRESS.sub("<url>", line))


# Each mask below is true where its pattern begins. It is shorter than the text by the pattern's length less one.


def _spaced_letters(letter: Flags) -> Flags:
    """Three single letters, one character apart."""
    single = letter.copy()
    single[1:] &= ~letter[:-1]
    single[:-1] &= ~letter[1:]
    return single[:-4] & single[2:-2] & single[4:]


def _runs(repeated: Flags) -> Flags:
    """Four equal characters."""
    return repeated[:-3] & repeated[1:-2] & repeated[2:-1]


def _ends_of_long_pieces(points: NDArray[np.uint32]) -> NDArray[np.intp]:
    """Places where a piece longer than _MAX_PIECE ends."""
    gaps = np.flatnonzero((points == ord(" ")) | (points == ord("\n")))
    return gaps[np.diff(gaps, prepend=-1) > _MAX_PIECE + 1]


def _marked_words(letter: Flags, roles: NDArray[np.uint8]) -> Flags:
    """A letter, then leetspeak or a mark inside a word; or leetspeak before two letters."""
    leet, inner = roles & _LEETISH > 0, roles & _INNER > 0
    inside = letter[:-2] & (leet | inner)[1:-1] & (letter | leet)[2:]
    return inside | leet[:-2] & letter[1:-1] & letter[2:]


def _stretched_letters(letter: Flags, repeated: Flags) -> Flags:
    """A letter three times."""
    return letter[:-2] & repeated[:-1] & repeated[1:]


def _unmask(line: str) -> str:
    """Read leetspeak as letters, stretched letters once, and remove marks inside words."""
    words = _STRETCHED.sub(r"\1", line).split(" ")
    return " ".join([word if word.isalpha() or word.strip(_AROUND).isalpha() else _bare(word) for word in words])


def _bare(word: str) -> str:
    word = _INSIDE.sub("", word)
    core = word.strip(_AROUND)
    return word.replace(core, core.translate(_LEET)) if not core.isalpha() and _LEET_WORD.fullmatch(core) else word
