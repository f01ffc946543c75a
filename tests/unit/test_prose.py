"""Documentation, docstrings, comments, help texts, errors and log lines keep to the project's vocabulary."""

import ast
import gc
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MARKDOWN = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "infra/telemetry").glob("*.md")),
]
PYTHON = sorted(
    path
    for folder in ("streams", "workers", "policies", "infra", "docs", "tests")
    for path in (ROOT / folder).rglob("*.py")
    if not any(parent.is_symlink() for parent in path.parents)  # streams/workers leads to workers/
)
BANNED = {
    r"\ba content\b(?!\.| items?\b| events?\b)": "content is uncountable: a content item",
    r"\bcontents\b": "content is uncountable: content items",
    r"\blikewise\b": "say the same again, or leave it out",
    r"\banew\b": "again",
    r"\bwhoever\b": "name the actor",
    r"\bof itself\b": "automatically, or its own",
    r"\bis said\b": "name who says it, or what is written where",
    r"\bfor ever\b": "forever, or indefinitely",
    r"\bin place of\b": "instead of",
    r"\d %(?!\w)": "no space before %",
}
# (path, a part of the line): why it stays
ALLOWED = {
    ("tests/unit/test_prose.py", ""): "names the words that it looks for",
}
LOGGING = {"debug", "info", "warning", "error", "exception", "critical"}


def strings(node: ast.AST) -> Iterator[tuple[int, str]]:
    """The string literals below a node, with their lines."""
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.lineno, part.value


def prose_of_python(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of comments, docstrings, help texts and descriptions, errors and log lines."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False):
                yield from strings(node.body[0])
        elif isinstance(node, ast.keyword) and node.arg in {"help", "description"}:
            yield from strings(node.value)
        elif isinstance(node, ast.Raise) and node.exc is not None:
            yield from strings(node.exc)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOGGING:
            yield from (part for argument in node.args for part in strings(argument))


def hits(path: Path) -> Iterator[str]:
    """file:line for each banned word, with what to write."""
    source = path.read_text(encoding="utf-8")
    name = str(path.relative_to(ROOT))
    parts = prose_of_python(source) if path.suffix == ".py" else [(1, source)]
    lines = source.splitlines()
    for start, text in parts:
        for pattern, advice in BANNED.items():
            for match in re.finditer(pattern.replace(" ", r"\s"), text, re.IGNORECASE):
                line = start + text.count("\n", 0, match.start())
                if not any(name == file and part in lines[line - 1] for file, part in ALLOWED):
                    yield f"{name}:{line}: {' '.join(match[0].split())!r}: {advice}"


@pytest.mark.parametrize("kind", ["Markdown", "Python"])
def test_the_prose_keeps_to_the_vocabulary(kind):
    # CPython 3.11 fails where a finalizer parses within ast.parse, as traceback does for what earlier tests left.
    gc.collect()
    found = [hit for path in (MARKDOWN if kind == "Markdown" else PYTHON) for hit in hits(path)]
    assert not found, f"{len(found)}\n" + "\n".join(dict.fromkeys(found))


def test_the_check_reads_all_kinds_of_prose():
    source = '''"""A docstring with
    a content."""
# likewise
option(help="anew")
log.info("of itself")
raise ValueError(f"for {x} ever, {y} in place of z")
ignored = "contents"
'''
    assert sorted(prose_of_python(source)) == [
        (1, "A docstring with\n    a content."),
        (3, "# likewise"),
        (4, "anew"),
        (5, "of itself"),
        (6, " ever, "),
        (6, " in place of z"),
        (6, "for "),
    ]
    assert re.search(next(iter(BANNED)), "of a content.") is None
    assert re.search(next(iter(BANNED)), "of a content, whole")
