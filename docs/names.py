"""Keeps names whole, in text and in commands: a browser breaks `--from-now` and `gpt-oss-safeguard` after a hyphen."""

from __future__ import annotations

import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

LONGEST = 34  # characters, which fit a line of a telephone
_TAG = re.compile(r"(<[^>]*>)")
_IN_CODE = re.compile(r"\S+-\S*")
_IN_BLOCK = re.compile(r"(?<!\S)\S*-\S*")
_IN_PROSE = re.compile(r"\b(?:safeguard-streams|gpt-oss(?:-safeguard)?(?:-\d+b)?)\b")


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    del page, config, files  # mkdocs passes them by name
    inside: list[str] = []  # the elements around a text

    def shown(part: str) -> str:
        if part.startswith("</"):
            if inside[-1:] == [part[2:-1]]:
                inside.pop()
        elif found := re.match(r"<(pre|code)\b", part):
            inside.append(found[1])
        elif not part.startswith("<") and "pre" in inside:
            return _IN_BLOCK.sub(_option, part)
        elif not part.startswith("<"):
            return (_IN_CODE if "code" in inside else _IN_PROSE).sub(_whole, part)
        return part

    return "".join(map(shown, _TAG.split(html)))


def _whole(name: re.Match[str]) -> str:
    return f'<span class="name">{name[0]}</span>' if len(name[0]) <= LONGEST else name[0]


def _option(word: re.Match[str]) -> str:
    return f'<span class="option">{word[0]}</span>' if len(word[0]) <= LONGEST else word[0]
