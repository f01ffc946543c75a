"""From the bytes of a file to text: encodings, line ends, and HTML."""

from __future__ import annotations

import codecs
import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.parsing import MAX_CHARACTERS

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HTML = re.compile(r"<(?:!doctype html|html|body|p|div|ul|ol|li|h[1-6]|table|tr)\b[^>]*>", re.IGNORECASE)
_BLOCKS = frozenset({"p", "div", "section", "article", "ul", "ol", "table", "tr", "br", "pre", "blockquote", "header"})
_HEADINGS = {f"h{level}": f"{'#' * level} " for level in range(1, 7)}
_JOINERS = "\u200c\u200d"  # parts of words in some scripts, and of emoji
_UNSEEN = frozenset({"script", "style", "head", "template"})


def read(path: Path, limit: int) -> str:
    """The text of a file, with newlines as line ends.

    Raises ConfigurationError if it is no text, or has more than `limit` bytes.
    """
    try:
        with path.open("rb") as file:
            found = file.read(limit + 1)  # a pipe or a device does not tell its size
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    if len(found) > limit:
        raise ConfigurationError(f"{path}: has more than {limit:,} bytes, which is the limit")
    text = decoded(found, str(path)).replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise ConfigurationError(f"{path}: is empty")
    return text


def decoded(found: bytes, origin: str) -> str:
    """Text in UTF-8, UTF-16 or UTF-32, or else Windows-1252. Raises ConfigurationError for anything else."""
    encoding = next((name for mark, name in _MARKS if found.startswith(mark)), None) or _unmarked(found)
    try:
        text = found.decode(encoding)
    except UnicodeDecodeError:
        raise ConfigurationError(f"{origin}: is not text: export it as text, Markdown or CSV in UTF-8") from None
    if any(unicodedata.category(char) == "Cc" and char not in "\t\n\r\f\v" for char in set(text)):
        raise ConfigurationError(f"{origin}: is not text: export it as text, Markdown or CSV in UTF-8")
    return text


def _unmarked(found: bytes) -> str:
    """The encoding of bytes without a byte-order mark."""
    for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros = found[first::2].count(0)
        if zeros and zeros > len(found) // 5 and not found[1 - first :: 2].count(0):
            return name
    try:
        found.decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


class PolicyText(NamedTuple):
    """The text of a policy's file. was_html: Markdown stands for the tags now. hidden: characters that were removed."""

    text: str
    was_html: bool
    hidden: int


def policy_text(path: Path) -> PolicyText:
    """The text of a policy's file, without characters that nobody can see, which could say what nobody approved."""
    text = read(path, 4 * MAX_CHARACTERS).replace("\f", "\n").replace("\v", "\n")
    is_html = len(_HTML.findall(text)) > 1
    if is_html:
        parser = _Markdown()
        parser.feed(text)
        parser.close()
        text = parser.text
    if len(text) > MAX_CHARACTERS:
        raise ConfigurationError(f"{path}: has {len(text):,} characters; a policy may have {MAX_CHARACTERS:,}")
    seen = "".join(c for c in text if c in _JOINERS or unicodedata.category(c) != "Cf")
    return PolicyText(seen, is_html, len(text) - len(seen))


class _Markdown(HTMLParser):
    """The text of a page, its headings, lists and tables as Markdown."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._lists = 0
        self._unseen = 0

    @property
    def text(self) -> str:
        lines = (line.rstrip() for line in "".join(self._parts).split("\n"))
        return "\n".join(lines)

    def handle_starttag(self, tag: str, _: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN:
            self._unseen += 1
        elif tag in _HEADINGS:
            self._parts.append(f"\n{_HEADINGS[tag]}")
        elif tag == "li":
            self._parts.append(f"\n{'  ' * max(0, self._lists - 1)}- ")
        elif tag in {"td", "th"}:
            self._parts.append("| ")
        elif tag in _BLOCKS:
            self._lists += tag in {"ul", "ol"}
            self._parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in _UNSEEN:
            self._unseen = max(0, self._unseen - 1)
        elif tag == "tr":
            self._parts.append("|\n")
        elif tag in _BLOCKS or tag in _HEADINGS:
            self._lists -= tag in {"ul", "ol"}
            self._parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self._parts.append(re.sub(r"\s+", " ", data))
