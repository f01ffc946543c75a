"""`safeguard policy import`: a policy that was written elsewhere for gpt-oss-safeguard, with its golden set in CSV."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from safeguard_streams.cli import policy_tables
from safeguard_streams.cli.options import Json
from safeguard_streams.cli.output import Table, console, plain, say
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies import golden as golden_sets
from safeguard_streams.policies.check import Checked, CheckReport, check
from safeguard_streams.policies.importing import importer
from safeguard_streams.policies.importing.importer import Imported, ImportedRule
from safeguard_streams.policies.importing.outline import LeftOut
from safeguard_streams.policies.importing.settle import Question


class _Report(msgspec.Struct, frozen=True):
    """The result for programs. assumed: the default answers that nobody confirmed."""

    file: str
    golden_file: str | None
    golden: int
    rules: tuple[ImportedRule, ...]
    changes: tuple[str, ...]
    assumed: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    golden_notes: tuple[str, ...]
    check: CheckReport


class _Answers:
    """Answers to questions: a person's on a terminal, or else the defaults, which are kept for the report."""

    def __init__(self, *, asks: bool, assumes: bool) -> None:
        self._asks = asks
        self._assumes = assumes
        self.assumed: list[str] = []

    def __call__(self, question: Question) -> str:
        if self._assumes:
            self.assumed.append(question.assumed)
            return question.default
        if not self._asks:
            raise ConfigurationError(
                f"{question.text} Answer on a terminal, or take the safest answer to every question with --yes"
            )
        choices = f" ({', '.join(question.choices)})" if question.choices else ""
        while True:
            answer = str(typer.prompt(plain(question.text) + choices, default=question.default)).strip()
            if not question.choices or answer in question.choices:
                return answer


def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The policy's text: plain, Markdown or HTML.")],
    golden: Annotated[Path | None, typer.Option(help="Labelled texts as CSV, for golden.jsonl.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The policy's folder, whose name is its id.", show_default="by the title, here"
        ),
    ] = None,
    keep_words: Annotated[
        bool, typer.Option("--keep-words", help="Let the model answer in the policy's own words, not by 1 or 0.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Take the safest answer to every question, and name it.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace files that exist.")] = False,
    as_json: Json = False,
) -> None:
    """Turn a policy for gpt-oss-safeguard into this package's form, with its rules, sub-rules and golden set.

    Keeps the text. On a terminal, asks what the text leaves open. Shows what it changed, assumed and left out, and
    checks the result: exit status 1 if that has errors.
    """
    source = importer.read(file)
    folder = out or Path(source.id)
    paths = [folder / "policy.md", *([folder / golden_sets.NAME] if golden else [])]
    terminal = _terminal() and not as_json
    _require_free(paths, replace=replace, asks=terminal and not yes)
    answers = _Answers(asks=terminal, assumes=yes)
    policy_id = folder.resolve().name
    imported = importer.import_policy(source, policy_id, golden, answers, keep_words=keep_words)
    _write(paths, imported)
    checked = check(paths[0], named_by_folder=True)
    if as_json:
        print(msgspec.json.encode(_report(paths, imported, checked, answers.assumed)).decode())
    else:
        _show(paths, imported, checked, answers.assumed)
    if checked.errors:
        raise typer.Exit(1)


def _terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _require_free(paths: list[Path], *, replace: bool, asks: bool) -> None:
    """Raises ConfigurationError when there are such files already, unless they may be replaced."""
    there = [str(path) for path in paths if path.exists()]
    if not there or replace:
        return
    if not asks or not typer.confirm(f"Replace {plain(' and '.join(there))}?", default=False):
        raise ConfigurationError(f"{' and '.join(there)}: exists already; choose another --out, or add --replace")


def _write(paths: list[Path], imported: Imported) -> None:
    """Write the policy and its golden set. A file that exists is replaced whole, or stays as it is."""
    rows = (json.dumps(msgspec.to_builtins(row), ensure_ascii=False) + "\n" for row in imported.golden)
    texts = [imported.document, "".join(rows)]
    try:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, texts, strict=False):
            beside = path.with_name(f".{path.name}.{os.getpid()}")
            beside.write_bytes(text.encode("utf-8", "replace"))
            beside.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{paths[0].parent}: cannot be written: {error.strerror}") from error


def _report(paths: list[Path], imported: Imported, checked: Checked, assumed: list[str]) -> _Report:
    return _Report(
        file=str(paths[0]),
        golden_file=str(paths[1]) if len(paths) > 1 else None,
        golden=len(imported.golden),
        rules=imported.rules,
        changes=imported.changes,
        assumed=tuple(assumed),
        left_out=imported.left_out,
        golden_notes=imported.golden_notes,
        check=checked.report(),
    )


def _show(paths: list[Path], imported: Imported, checked: Checked, assumed: list[str]) -> None:
    say(f"wrote {' and '.join(map(str, paths))}")
    table = Table("rule", "side", "name", box=None)
    for rule in imported.rules:
        table.add_row(f"{'  ' if rule.id != rule.level else ''}{rule.id}", rule.side, rule.name)
    console().print(table)
    left_out = [f"line {line.line}: {line.why}" for line in imported.left_out]
    for title, lines in (
        ("changed", imported.changes),
        ("assumed; correct what is wrong", assumed),
        ("left out of the text", left_out),
        ("golden set", imported.golden_notes),
    ):
        if lines:
            say(f"{title}:")
        for line in lines:
            say(f"  {line}")
    policy_tables.print_checks([checked])
    say(f"next: read {paths[0]}, then: safeguard policy test {paths[0]}")
