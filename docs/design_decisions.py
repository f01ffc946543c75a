"""Adds every package's "Design decisions" to the page design.md, from the docstrings of the packages."""

from __future__ import annotations

import ast
import inspect
from importlib.resources import files
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

ROOT = Path(str(files("safeguard_streams")))
HEADING = "## Design decisions"
# In the order in which a record travels, then the tools beside the stream.
PACKAGES = (
    "contract",
    "policies",
    "policies.importing",
    "runtime",
    "bus",
    "bus.kafka",
    "releases",
    "prefilter",
    "prefilter.encoder",
    "workers",
    "workers.judging",
    "workers.inference",
    "workers.inference.dialects",
    "workers.evaluation",
    "workers.evaluation.benchmark",
    "workers.small",
    "workers.small.sentences",
    "workers.cli",
    "workers.bench",
    "client",
    "enforcement",
    "authors",
    "replay",
    "quality",
    "operations",
    "exporting",
    "exporting.transparency",
    "console",
    "console.folding",
    "console.migrations",
    "console.migrations.versions",
    "console.web",
    "console.web.pages",
    "cli",
    "demo",
    "bench",
    "infra",
)


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    del config, files  # mkdocs passes both by name
    return markdown + "\n\n" + decisions() if page.file.src_uri == "design.md" else markdown


def decisions() -> str:
    """A section of Markdown for each package that has design decisions: its name, its summary and the decisions."""
    sections = []
    for package in PACKAGES:
        text = docstring(package)
        _, heading, reasons = text.partition(f"\n{HEADING}\n")
        if heading:
            sections.append(f"## {package}\n\n{summary(text)}\n\n{reasons.strip()}\n")
    return "\n".join(sections)


def docstring(package: str) -> str:
    """The docstring of a package, read without importing the package; empty where there is none."""
    source = ROOT.joinpath(*package.split("."), "__init__.py").read_text(encoding="utf-8")
    return inspect.cleandoc(ast.get_docstring(ast.parse(source)) or "")


def summary(text: str) -> str:
    """The first paragraph of a docstring."""
    return text.partition("\n\n")[0]
