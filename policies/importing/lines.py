"""What one line of a policy is: a heading, a bullet, the start of a rule, a quoted example, or text."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from safeguard_streams.policies.importing.ids import WRITTEN

_MARKER = re.compile(r"(?:[-*+•◦▪‣–·]|\d{1,3}[.)]|\(?[a-z][.)])\s+")
_HEADING = re.compile(r"(#{1,6})\s+(.+?)\s*#*\Z")
_BOLD = re.compile(r"(\*\*|__)(.+?)\1:?\Z")
_RULER = re.compile(r"[=\-_*~#\s]{3,}\Z")
_SIGNS = frozenset({"So", "Sk", "Cf", "Mn"})  # emoji and what belongs to them
_MARKS = "`^"  # of Markdown
_STARTS = re.compile(rf"[\"'`*_#\[(]*({WRITTEN})[\]`*_]*(.*)\Z", re.DOTALL)
_IN_BRACKETS = re.compile(rf"(.{{1,80}}?)\s*\(#?({WRITTEN})\b\s*[–—:-]*\s*([^()]*)\)\s*:?\s*(.*)\Z")
_SEPARATOR = re.compile(r"[\s:.)–—=>-]*(?:[:.)–—>]|\s-|-\s)[\s:.)–—=>*_-]*|\s*(?=[(\"“'‘])|\s+(?=[^\W\d_a-z])")
_EXAMPLE = re.compile(r"[\"“”](.+)[\"“”]\s*(?:->|→|=>|⇒|:|=)\s*(\S.*)\Z")
_CELLS = re.compile(r"(?<!\\)\|")
_RULE_OF_TABLE = re.compile(r"[\s|:-]+\Z")
_QUOTED = re.compile(r"(?:\A|[–—:-]\s+)[“\"]([^“”\"]{8,300})[”\"]\s*(?:\([^()]*\))?\s*\Z")
_SECTION_WORDS = 5


class Start(NamedTuple):
    """A rule's beginning: the id as written, and the rest of the line.

    separated: whether a sign parts the two, or brackets hold the id: H1 Headings may be a rule, and H1: Headings is.
    """

    written: str
    text: str
    separated: bool


class Heading(NamedTuple):
    """level: 1 to 6; headings that are not Markdown's have 4 when bold, and 2 otherwise."""

    level: int
    text: str


class Read(NamedTuple):
    """A line without its marks. depth: of its indentation. bullet: whether it had one."""

    text: str
    depth: int
    bullet: bool
    heading: Heading | None


def is_ruler(line: str) -> bool:
    """Whether a line only separates what is above it from what is below."""
    return bool(_RULER.match(line)) and len(line.strip()) > 2


def without_signs(text: str) -> str:
    """Text without emoji and blanks at its beginning."""
    kept = 0
    while kept < len(text) and (text[kept].isspace() or _is_sign(text[kept])):
        kept += 1
    return text[kept:]


def _is_sign(char: str) -> bool:
    return unicodedata.category(char) in _SIGNS and char not in _MARKS


def read(line: str) -> Read:
    """A line without bullets, emphasis around it and signs in front of it."""
    stripped = line.expandtabs(4)
    depth = len(stripped) - len(stripped.lstrip())
    text = without_signs(stripped).strip()
    if heading := _HEADING.match(text):
        level, title = len(heading[1]), unwrapped(without_signs(heading[2]))
        return Read(title, depth, bullet=False, heading=Heading(level, title))
    marker = _MARKER.match(text)
    text = without_signs(text[marker.end() :]) if marker else text
    bold = _BOLD.match(text)
    plain = unwrapped(text)
    heading_found = None
    if not marker and ((bold and len(plain) <= 80 and not plain.endswith(".")) or _is_capitals(plain)):
        heading_found = Heading(4 if bold else 2, plain.rstrip(":"))
    elif not marker and plain.endswith(":") and len(plain.split()) <= _SECTION_WORDS:
        heading_found = Heading(5, plain.rstrip(":"))
    return Read(plain if bold else text, depth, bool(marker), heading_found)


def unwrapped(text: str) -> str:
    """Text without the emphasis around it or around its first words."""
    text = re.sub(r"(\*\*|__)(.+?)\1", r"\2", text)
    return text.strip().strip("`").strip()


def _is_capitals(text: str) -> bool:
    letters = [c for c in text if c.isalpha()]
    return len(letters) > 3 and len(text) <= 60 and text.upper() == text and not re.search(r"[\"“”.!?|]", text)


def start(line: Read) -> Start | None:
    """The beginning of a rule, if the line is one: SP2.a Cold promotion, or Likely spam (SP2 - Medium)."""
    text = unwrapped(line.text) if line.text.startswith(("**", "__")) else line.text
    if found := _STARTS.match(text):
        separator = _SEPARATOR.match(found[2])
        if not found[2] or separator:
            signs = separator[0].strip() if separator else ""
            return Start(found[1], (found[2][separator.end() :] if separator else "").strip(), bool(signs))
    if line.bullet and not line.heading:
        return None
    if (found := _IN_BRACKETS.match(text)) and not re.search(r"[.\"“]", found[1]):
        detail = f" ({found[3].strip()})" if found[3].strip() else ""
        return Start(found[2], f"{found[1].strip()}{detail}{': ' if found[4] else ''}{found[4]}", separated=True)
    return None


def example(text: str) -> tuple[str, str] | None:
    """The quoted text of an example and its label, if a line is one."""
    found = _EXAMPLE.match(text.rstrip())
    return (found[1].strip(), found[2]) if found else None


def cells(line: str) -> list[str] | None:
    """The cells of a table's row; none for the row that only draws a line. None for any other line."""
    text = line.strip()
    if not (text.startswith("|") and text.count("|") > 2):
        return None
    if _RULE_OF_TABLE.match(text):
        return []
    return [unwrapped(cell.replace("\\|", "|").strip()) for cell in _CELLS.split(text.strip("|"))]


def quoted(text: str) -> str | None:
    """The quotation that a rule or an example consists of, or ends with, if it is long enough to be content.

    A quotation within a sentence may say the opposite: content such as "..." excepted.
    """
    found = _QUOTED.search(text)
    return found[1].strip() if found and "[" not in found[1] else None
