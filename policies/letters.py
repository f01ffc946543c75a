"""The letters of texts, in one form for all that look alike, and expressions for what may stand for them."""

from __future__ import annotations

import re
import unicodedata
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from safeguard_streams.policies.folding import LEET, look_alikes, looks, members

Places = NDArray[np.intp]
Flags = NDArray[np.bool_]

LAST_LETTER = 0x32000  # no letters follow in Unicode
# Scripts written without spaces: a term may begin and end anywhere.
SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
_MARKS = ".*_~^=+|#"  # may stand inside a word of a text, as symbols beyond ASCII may
_SYMBOL_CHARACTERS = "@$!+|"
_ASCII = 128  # the entry of the tables below that stands for all characters beyond ASCII
_SYMBOLS_AT = np.array([chr(code) in _SYMBOL_CHARACTERS for code in range(_ASCII)] + [False])
_ALPHANUMERIC = np.array([chr(code).isalnum() for code in range(_ASCII)] + [False])


# ---------------------------------------------------------------------------------------------------------- characters


class _Classes(NamedTuple):
    """letter [code points]: the form of a letter or mark, a line end for itself, and 0 for all others.

    ascii, not_letters: the same for the bytes of ASCII, and the bytes that are neither.
    marks, symbols: members of a character class: marks that are letters of their scripts, and symbols beyond ASCII.
    """

    letter: NDArray[np.uint32]
    ascii: bytes
    not_letters: bytes
    marks: str
    symbols: str


@cache
def classes() -> _Classes:
    every = [chr(code) for code in range(LAST_LETTER)]
    categories = [unicodedata.category(char) for char in every]
    marks = [char for char, category in zip(every, categories, strict=True) if category in ("Mn", "Mc")]
    symbols = [char for char, category in zip(every, categories, strict=True) if category[0] == "S" and char > "\x7f"]
    letters = [char for char in every if char.isalnum()] + marks + ["\n"]
    table = np.zeros(LAST_LETTER + 1, dtype=np.uint32)
    table[codes("".join(letters))] = codes(skeleton("".join(letters)))
    forms = bytes(table[:256].tolist())  # only the first half is used
    return _Classes(
        table,
        forms,
        bytes(np.flatnonzero(table[:128] == 0).tolist()),
        members(map(ord, marks)),
        members(map(ord, symbols)),
    )


@cache
def gap() -> str:
    """An expression for what stands between words."""
    return rf"(?:(?![{classes().marks}])[\W_])++"


@cache
def maybe_gap() -> str:
    """An expression for what may stand between words."""
    return rf"(?:(?![{classes().marks}])[\W_])*+"


@cache
def inside() -> str:
    """An expression for what may stand between the letters of one word."""
    return rf"[{re.escape(_MARKS)}{classes().symbols}]*+"


@cache
def inside_word() -> re.Pattern[str]:
    """Two characters of one word."""
    letter = rf"(?:[^\W_{SPACELESS}]|[{classes().marks}])"
    return re.compile(letter * 2)


def skeleton(text: str) -> str:
    """One form for letters that look alike, digits that stand for letters, and i and l. Of equal length."""
    return looks(text).translate(_SKELETON)


_SKELETON = str.maketrans({**LEET, "l": "i"})


@cache
def _alike() -> dict[str, list[str]]:
    """By skeleton, the characters that have it."""
    table: dict[str, list[str]] = {}
    for char in sorted({*map(chr, look_alikes()), *map(chr, range(ord("a"), ord("z") + 1)), *LEET}):
        table.setdefault(skeleton(char), []).append(char)
    return table


@cache
def standing_for(letter: str) -> str:
    """An expression for a letter and its look-alikes. Two letters of one script are different, except in Latin."""
    others = [] if letter.isdigit() else _alike().get(skeleton(letter), [])
    stands = {letter} | {other for other in others if _may_stand(other, letter)}
    return f"[{''.join(re.escape(one) for one in sorted(stands))}]"


def _may_stand(other: str, letter: str) -> bool:
    if other.isdigit():
        return True
    if looks(other) != looks(letter) or (other.isascii() and letter.isascii()):
        return False
    return other.isascii() or letter.isascii() or script(other) != script(letter)


@cache
def script(char: str) -> str:
    """The script of a letter: the first word of its name."""
    return unicodedata.name(char, "").split(" ")[0] if char.isalpha() else ""


def scripts(text: str) -> set[str]:
    """The scripts of the letters of a text, by the first words of their names."""
    return {found for char in set(text) if (found := script(char))}


def codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


# ------------------------------------------------------------------------------------------------------------- letters


class Letters:
    """The letters and digits of texts, in one form for look-alikes, and where they are.

    source: the texts in their plain form, with a line end before and after each.
    points, forms [source]: code points; forms of letters, digits and line ends, and 0 for all other characters.
    folded: the forms that are not 0.
    repeated [source]: letters that `folded` leaves out, because they stretch the letter before; None if it has all.
    """

    def __init__(
        self, source: str, points: NDArray[Any], forms: NDArray[Any], folded: str, repeated: Flags | None = None
    ) -> None:
        self.source = source
        self.points = points
        self.forms = forms
        self.folded = folded
        self._repeated = repeated

    @cached_property
    def first(self) -> Places:
        """[folded] The place in `source` of the first letter that each stands for."""
        return np.flatnonzero(_kept(self.forms, self._repeated))

    def last(self, first: Places) -> Places:
        """The places of the last letters, from those of the first ones."""
        if self._repeated is None:
            return first
        others = np.flatnonzero(~self._repeated)
        return others[np.searchsorted(others, first, side="right")] - 1

    def numbers(self, places: Places) -> list[int]:
        """The number of the text that holds each of these places."""
        ends = np.flatnonzero(self.points == ord("\n"))[1:]
        return np.searchsorted(ends, places).tolist()  # type: ignore[no-any-return]  # numpy's tolist

    def inside_words(self, places: Places) -> Flags:
        """Whether a letter or digit in ASCII is at each place, and another one before it."""
        now, before = (_ALPHANUMERIC[np.minimum(self.points[at], _ASCII)] for at in (places, places - 1))
        inside: Flags = now & before
        return inside

    @cached_property
    def disguising(self) -> Places:
        """The places of symbols beside letters, for which they may stand."""
        symbols = _SYMBOLS_AT[np.minimum(self.points, _ASCII)]
        places = np.flatnonzero(symbols)
        before, after = self.forms[places - 1] > ord("\n"), self.forms[places + 1] > ord("\n")
        after |= symbols[places + 1]
        beside: Flags = (before & after) | ((self.points[places] == ord("$")) & (before | after))
        return places[beside]


def letters_of_ascii(source: str) -> Letters:
    """The letters of lines in ASCII, between line ends, at the least cost: stretched letters as they are."""
    points, known = source.encode(), classes()
    forms = np.frombuffer(points.translate(known.ascii), dtype=np.uint8)
    folded = points.translate(known.ascii, known.not_letters).decode("ascii")
    return Letters(source, np.frombuffer(points, dtype=np.uint8), forms, folded)


def letters(source: str) -> Letters:
    """The letters of lines in plain form, between line ends. A stretched letter is there once."""
    points = codes(source)
    forms = classes().letter[np.minimum(points, LAST_LETTER)]
    repeated = None
    inner = stretched(points, forms)
    if len(inner):
        repeated = np.zeros(len(points), dtype=bool)
        repeated[inner] = repeated[inner + 1] = True
    folded = forms[_kept(forms, repeated)].tobytes().decode("utf-32-le", "surrogatepass")
    return Letters(source, points, forms, folded, repeated)


def _kept(forms: NDArray[Any], repeated: Flags | None) -> Flags:
    return forms > 0 if repeated is None else (forms > 0) & ~repeated


def stretched(points: NDArray[Any], forms: NDArray[Any]) -> Places:
    """The places of letters between two equal ones. Digits are never stretched."""
    equal = points[1:] == points[:-1]
    places = np.flatnonzero(equal[1:] & equal[:-1]) + 1
    digits = (points[places] >= ord("0")) & (points[places] <= ord("9"))
    return places[(forms[places] >= ord("a")) & ~digits]
