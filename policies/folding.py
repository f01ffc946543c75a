"""One form for the spellings of a text, for terms, patterns and content.

`plain` keeps scripts, spaces and punctuation. It removes what readers do not see or read past: case, compatibility
forms, invisible characters, accents, and the vowel marks of Arabic and Hebrew. Look-alike letters are compared through
`skeleton`, which maps one character to one, whatever surrounds it. Text and term therefore meet word by word.
All functions take any string, lone surrogates included, in linear time.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

_TABLE = Path(__file__).with_name("confusables.txt")
_NAMED = re.compile(
    r"LATIN (?:(?:LETTER SMALL CAPITAL|(?:SMALL|CAPITAL) LETTER TURNED) ([A-Z])"
    r"|SMALL LETTER ([A-Z]) WITH (?:DIAGONAL |MIDDLE |OBLIQUE )?(?:STROKE|TILDE|HOOK|TAIL|TOPBAR|BAR|CURL))\Z"
)
_ENCLOSED = (0x1F150, 0x1F170, 0x1F1E6)  # negative circled, negative squared, regional indicators; each from A to Z
_BEYOND = "\U00010000-\U0001f1ff\U000e0000-\U000e0fff"  # beyond plane 0, apart from most emoji
_RARE = re.compile(f"[{_BEYOND}]")
_ANY_ENCLOSED = re.compile("[\U0001f150-\U0001f1ff]")
_REFERENCE = re.compile(r"&#(?:[0-9]{1,7}|[xX][0-9a-fA-F]{1,6});?")
_BREAKS = re.compile("[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
# Default-ignorable code points whose category is not Cf (Unicode's DerivedCoreProperties), and noncharacters.
_IGNORABLE = (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0, *range(0x180B, 0x1810), *range(0xFE00, 0xFE10))
_IGNORABLE += (*range(0xFFF0, 0xFFF9), *range(0xFDD0, 0xFDF0), 0x2065)
# Classes of combining marks that are accents or vowel points. Marks of other classes are letters of their scripts.
_POINTS = range(10, 37)  # Hebrew, Arabic, Syriac
_MARKS = 30  # in a row, which Python may put in order: as many as Unicode's Stream-Safe Text Format allows (UAX #15)
_STEP = 5  # characters
_PLANE = 0x10000  # code points
_RARE_MARKS = "\U000101fd-\U0001e94a"  # from the first mark beyond plane 0 to the last
_RARE_MARK = re.compile(f"[{_RARE_MARKS}]")
_TATWEEL = "\u0640"  # lengthens Arabic words
_OVERLAY, _ACCENTS = 1, 200  # struck through; accents of these classes and above
_Apart = Literal["NFD", "NFKD"]  # forms in which letters are apart from their marks
Form = Literal["NFC", "NFKC", "NFKD"]
LEET = {"0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "7": "t", "8": "b", "9": "g"}


def plain(text: str) -> str:
    """The text as one line, without case, accents and what is invisible, and with references such as &#107; resolved.

    Idempotent, except that a resolved reference may complete another one.
    """
    line = resolved(text).lower()
    return line if line.isascii() and line.isprintable() else plain_from(decomposed(one_line(line)))


def resolved(text: str) -> str:
    """The text with numeric references resolved: &#107; is k. Those to other signs than letters and spaces stay."""
    return _REFERENCE.sub(_resolved, text) if "&#" in text else text


def one_line(text: str) -> str:
    """The text with a space for each line break."""
    return text if text.isprintable() else _BREAKS.sub(" ", text)


def decomposed(text: str) -> str:
    """Compatibility forms and case folded, and letters apart from their marks."""
    return unicodedata.normalize("NFKD", normalized("NFKD", text).casefold())  # which keeps the marks' order


def plain_from(decomposed: str) -> str:
    """The plain form of decomposed lines."""
    removed = _removed()
    text = removed.plane_0.sub("", decomposed)
    if _RARE.search(text):
        text = removed.rare.sub("", text)
    text = normalized("NFC", text)
    return text.translate(_letters()) if _ANY_ENCLOSED.search(text) else text


def sent(text: str) -> str:
    """The text as one line, as sent apart from Unicode's composition (NFC) and resolved references."""
    text = text.encode("utf-8", "replace").decode("utf-8")  # RE2 takes no lone surrogates
    return normalized("NFC", one_line(resolved(text)))


def normalized(form: Form, text: str) -> str:
    """The text in one of Unicode's normal forms, in linear time."""
    return unicodedata.normalize(form, in_order(form, text))


def in_order(form: Form, text: str) -> str:
    """The text with its long rows of combining marks in the order that they have in a normal form.

    Python puts the marks of a row in order in quadratic time: 130,000 of them would take half a minute, in which no
    other thread runs.
    """
    if text.isascii():
        return text
    apart: _Apart = "NFD" if form == "NFC" else "NFKD"
    if _sampled_rows(apart).search(text[::_STEP]):
        text = _long_rows(apart, _PLANE).sub(partial(_row_in_order, apart), text)
        if _RARE_MARK.search(text):  # a search for marks of all planes takes ten times as long
            text = _long_rows(apart, 2 * _PLANE).sub(partial(_row_in_order, apart), text)
    return text


@cache
def _sampled_rows(apart: _Apart) -> re.Pattern[str]:
    """What every _STEP-th character of a long row matches: a search that costs little in all other texts."""
    return _rows(f"{_marks(apart, _PLANE)}{_RARE_MARKS}", (_MARKS + 1) // _STEP)


@cache
def _long_rows(apart: _Apart, end: int) -> re.Pattern[str]:
    """More than _MARKS characters in a row, below a code point, that this form turns into marks with an order."""
    return _rows(_marks(apart, end), _MARKS + 1)


def _rows(marks: str, least: int) -> re.Pattern[str]:
    # `re` finds a set faster than a repetition. It looks back, so that no short row is read from each of its marks.
    return re.compile(f"[{marks}](?<![{marks}][{marks}])[{marks}]{{{least - 1},}}+")


def _marks(apart: _Apart, end: int) -> str:
    return members(code for code in range(end) if _is_mark(apart, chr(code)))


def _is_mark(apart: _Apart, char: str) -> bool:
    # Some characters are no marks and become marks: U+0F73 is two vowel signs, U+FF9E the voiced sound mark.
    return any(map(unicodedata.combining, (char, unicodedata.normalize(apart, char)[0])))


def _row_in_order(apart: _Apart, row: re.Match[str]) -> str:
    marks = "".join([unicodedata.normalize(apart, mark) for mark in row[0]])
    return "".join(sorted(marks, key=unicodedata.combining))


def _resolved(match: re.Match[str]) -> str:
    character = html.unescape(match[0] if match[0].endswith(";") else match[0] + ";")
    if character.isalnum():
        return character
    if not character or _is_removed(character):
        return ""
    return " " if character.isspace() else match[0]


def looks(text: str) -> str:
    """The text with each letter that looks Latin replaced by the Latin letter."""
    return text if text.isascii() else text.translate(look_alikes())


@cache
def latin_look_alikes() -> dict[int, str]:
    """Code points of letters that look Latin, of other scripts or enclosed, to the Latin letters."""
    table: dict[int, str] = {}
    for line in _TABLE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            letter, *others = line.split(" ")
            table |= {int(other, 16): letter for other in others}
    return table | _letters()


@cache
def look_alikes() -> dict[int, str]:
    """As `latin_look_alikes`, with small capitals, and turned and struck letters, which Unicode's names tell."""
    table = dict(latin_look_alikes())
    for code in (*range(0x0100, 0x02B0), *range(0x1D00, 0x1DC0), *range(0x2C60, 0x2C80), *range(0xA720, 0xA800), 0xF8):
        if named := _NAMED.match(unicodedata.name(chr(code), "")):
            table.setdefault(code, named[named.lastindex or 1].lower())
    return table


@cache
def _letters() -> dict[int, str]:
    return {first + i: chr(ord("a") + i) for first in _ENCLOSED for i in range(26)}


class _Removed(NamedTuple):
    """Expressions for characters that a reader does not see or reads past. One for all planes would be slow."""

    plane_0: re.Pattern[str]
    rare: re.Pattern[str]


@cache
def _removed() -> _Removed:
    plane_0, rare = (
        _class_of(codes) for codes in (range(0x10000), (*range(0x10000, 0x20000), *range(0xE0000, 0xE1000)))
    )
    return _Removed(plane_0, rare)


def is_invisible(char: str) -> bool:
    """Whether readers see nothing of a character that is no blank: a control, a selector, a filler."""
    code = ord(char)
    return code in _IGNORABLE or code >= 0xE0000 or unicodedata.category(char)[0] == "C"


@cache
def removes_more(than: re.Pattern[str]) -> re.Pattern[str]:
    """What may be in a decomposed line whose plain form is more or less than the line without what `than` matches."""
    codes = [code for code in range(0x10000) if _is_removed(chr(code)) != bool(than.match(chr(code)))]
    return re.compile(f"[{members(codes)}{_BEYOND}]")


def _class_of(codes: Iterable[int]) -> re.Pattern[str]:
    return re.compile(f"[{members(code for code in codes if _is_removed(chr(code)))}]")


def _is_removed(char: str) -> bool:
    category, code = unicodedata.category(char), ord(char)
    if code in _IGNORABLE or code >= 0xE0000 or char == _TATWEEL:
        return True
    if category == "Mn":
        combining = unicodedata.combining(char)
        return combining in _POINTS or combining >= _ACCENTS or combining == _OVERLAY
    return category in ("Cf", "Cs", "Me") or (category == "Cc" and not char.isspace())


def members(codes: Iterable[int]) -> str:
    """The inside of a character class for code points in order."""
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{re.escape(chr(first))}-{re.escape(chr(last))}" for first, last in ranges)
