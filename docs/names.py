"""Keeps names in running text whole: a browser would break `--from-now` and `content-1` after a hyphen."""

from __future__ import annotations

import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

LONGEST = 34  # characters, which fit a line of a telephone
_CODE = re.compile(r"(?<!<pre>)<code>([^<]*)</code>")
_NAME = re.compile(r"\S+-\S*")


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    del page, config, files  # mkdocs passes them by name
    return _CODE.sub(lambda code: f"<code>{_NAME.sub(_whole, code[1])}</code>", html)


def _whole(name: re.Match[str]) -> str:
    return f'<span class="name">{name[0]}</span>' if len(name[0]) <= LONGEST else name[0]
