"""Puts other files into pages, between two comments that a reader of the Markdown does not see.

`<!-- include: PATH -->` and `<!-- included -->` enclose what the Markdown shows by itself, such as a link to the file.
The site shows the file there, or its part between `<!-- part: NAME -->` and `<!-- end of part -->` with PATH#NAME. Code
is shown as code.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
_INCLUDE = re.compile(r"<!-- include: (\S+?)(?:#(\w+))? -->\n.*?<!-- included -->\n", re.DOTALL)


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    del page, config, files  # mkdocs passes them by name
    return _INCLUDE.sub(lambda found: _shown(found[1], found[2]), markdown)


def _shown(path: str, part: str | None) -> str:
    try:
        text = (ROOT / path).read_text(encoding="utf-8")
    except OSError as error:
        raise PluginError(f"{path} is to be included and cannot be read: {error.strerror}") from error
    if part is not None:
        found = re.search(rf"<!-- part: {part} -->\n(.*?)<!-- end of part -->\n", text, re.DOTALL)
        if found is None:
            raise PluginError(f"{path} has no part {part!r}, which is to be included")
        text = found[1]
    language = {".py": "python", ".java": "java"}.get(Path(path).suffix)
    return text if language is None else f"```{language}\n{text}```\n"
