"""The reference pages, written from the code itself whenever the site is built."""

import html
import inspect
import json
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

import msgspec
import panels as charts
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.testing import CliRunner

import safeguard_streams
from safeguard_streams.cli import app
from safeguard_streams.contract import asyncapi, topics
from safeguard_streams.contract import limits as bounds
from safeguard_streams.operations import dashboards
from safeguard_streams.runtime.settings import Settings

DAY = 86_400_000
_GUIDES_FIRST = "---\nsearch: {boost: 0.1}\n---\n"  # the search names a guide before the pages that list everything
_CONVENTIONS = """\
These conventions hold for every command:

- `-h` and `--help` explain a command. `safeguard --version` shows the version.
- `--json` prints one JSON document, or one per line while a command follows a topic. Keys are in snake_case. They are
  stable: a new version may add keys, and renames none. Tables have the same names, with spaces, for people.
- Results go to standard output. Progress, warnings and errors go to standard error.
- A table keeps ids and times whole. In a narrow terminal, each row becomes a block of lines. In a pipe or file, each
  row is one line.
- The exit status is 0 for success, 1 for an error and 2 for a wrong option or argument. After Ctrl-C it is 130. It is
  0 for commands that run until Ctrl-C, such as `safeguard prefilter run`.
- `eval "$(safeguard completion bash)"` makes bash complete commands and options with Tab. zsh, fish and PowerShell have
  a script too."""


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    pages = {"commands.md": commands(), "settings.md": settings(), "topics.md": catalogue(), "metrics.md": metrics()}
    pages |= {"api.md": api(), "limits.md": limits()}
    pages = {name: _GUIDES_FIRST + text for name, text in pages.items()} | {"dashboards.md": panels()}
    pages["asyncapi.json"] = json.dumps(asyncapi.document(), indent=2)
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}", content=text))
    return files


def commands() -> str:
    """Every command with its help text."""
    runner = CliRunner(env={"COLUMNS": "80", "TERMINAL_WIDTH": "80", "NO_COLOR": "1"})
    parts = [f"# Commands\n\n{_CONVENTIONS}\n"]
    for words in _leaves(typer.main.get_command(app), []):
        shown = runner.invoke(app, [*words, "--help"], prog_name="safeguard")
        assert shown.exit_code == 0, shown.output
        lines = "\n".join(line.rstrip() for line in shown.stdout.strip().splitlines())
        parts.append(f"## safeguard {' '.join(words)}\n\n```text\n{lines}\n```\n")
    return "\n".join(parts)


def _leaves(command: Any, words: list[str]) -> Iterator[list[str]]:
    under = getattr(command, "commands", None)
    if under is None:
        yield words
        return
    for name, child in under.items():
        yield from _leaves(child, [*words, name])


def settings() -> str:
    """Every setting with its default."""
    rows = ["| variable | what it is | values | default |", "| --- | --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        value = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        default = "" if value in (None, "", {}) else f"`{value}`"
        rows.append(f"| `SAFEGUARD_{name.upper()}` | {field.description} | {_values(field.annotation)} | {default} |")
    about = (
        "An environment variable overrides the TOML file (`SAFEGUARD_CONFIG`, default `./safeguard.toml`), whose names "
        "are in lower case and without the prefix. The TOML file overrides the files in the folder of secrets "
        "(`SAFEGUARD_SECRETS`, default `/run/secrets`): one file for each setting, such as `safeguard_password`."
    )
    return f"# Settings\n\n{about}\n\n" + "\n".join(rows) + "\n"


def _values(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(kind))
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return _values(next(part for part in typing.get_args(kind) if part is not type(None)))
    named = {str: "text", int: "number", float: "number", bool: "true, false"}
    return named.get(kind, {"Path": "path", "SecretStr": "secret"}.get(getattr(kind, "__name__", ""), "JSON"))


def api() -> str:
    """The public face: what `from safeguard_streams import ...` offers, from the docstrings."""
    parts = ["# Python API", (inspect.getdoc(safeguard_streams) or "").partition("\n\n")[2]]
    for title, module in (
        ("Clients", ("client.", "runtime.")),
        ("Records", ("contract.",)),
        ("Errors", ("errors",)),
    ):
        parts.append(f"## {title}")
        for name in safeguard_streams.__all__:
            member = getattr(safeguard_streams, name)
            if member.__module__.removeprefix("safeguard_streams.").startswith(module):
                parts.append(f"### {name}\n\n{_signature(member)}{inspect.getdoc(member)}")
                parts += [f"- `{_call(key, value)}`: {_first(value)}" for key, value in _methods(member)]
    return "\n\n".join(parts) + "\n"


def _signature(member: Any) -> str:
    """A function's or a client's signature as code; a record's fields are on the page of topics."""
    if isinstance(member, type) and issubclass(member, msgspec.Struct):
        fields = f"Fields: [{member.__name__}](topics.md#{member.__name__.lower()}).\n\n"
        return fields if member.__module__.endswith("records") else ""
    if isinstance(member, type) and issubclass(member, Exception):
        return ""
    return f"```python\n{_plain(member)}\n```\n\n"


def _plain(member: Any) -> str:
    """Name and signature; annotations lose the quotes that postponed evaluation leaves around them."""
    return member.__name__ + re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(member)))


def _methods(member: Any) -> list[tuple[str, Any]]:
    if not isinstance(member, type) or issubclass(member, Exception):
        return []
    return [
        (name, value)
        for name, value in vars(member).items()
        if not name.startswith("_")
        and inspect.getdoc(value)
        and (inspect.isfunction(value) or isinstance(value, property))
        and not name.startswith("on_")
    ]


def _call(name: str, value: Any) -> str:
    return name if isinstance(value, property) else _plain(value).replace("(self, ", "(").replace("(self)", "()")


def _first(value: Any) -> str:
    return " ".join((inspect.getdoc(value) or "").split())


def catalogue() -> str:
    """The topics, and the fields of their records."""
    document = asyncapi.document()
    rows = ["| topic | record | key | kept |", "| --- | --- | --- | --- |"]
    for topic in topics.CATALOGUE:
        name = topic.record.__name__
        kept = f"{topic.retention // DAY} days" if topic.retention > 0 else "without limit"
        kept = kept if "delete" in topic.cleanup else "the last record of each key"
        rows.append(f"| `{topic.name}` | [{name}](#{name.lower()}) | {topic.key} | {kept} |")
    parts = [f"# Topics and records\n\n{document['info']['description']}", "\n".join(rows)]
    parts.append("For programs, as an AsyncAPI document: [asyncapi.json](asyncapi.json).")
    for name, schema in document["components"]["schemas"].items():
        if "properties" in schema:
            parts.append(f"## {name}\n\n{schema['description']}")
            fields = ["| field | what it is | type | required |", "| --- | --- | --- | --- |"]
            for field, about in schema["properties"].items():
                required = "yes" if field in schema.get("required", ()) else ""
                fields.append(f"| `{field}` | {about.get('description', '')} | {_kind(about)} | {required} |")
            parts.append("\n".join(fields))
    return "\n\n".join(parts) + "\n"


def limits() -> str:
    """What bounds the records, and what happens past each bound."""
    rows = ["| what | limit | past it | enforced by |", "| --- | --- | --- | --- |"]
    rows += [f"| {one.what} | {one.value:,} {one.unit} | {one.past} | {one.by} |" for one in bounds.TABLE]
    about = (
        "Content never waits behind a record that is too large. Each stage bounds what enters before it works on it. "
        "`max.message.bytes` of Kafka bounds compressed batches only, hence these limits hold after decompression."
    )
    largest = ["| topic | bytes of a compressed batch |", "| --- | --- |"]
    largest += [f"| `{topic.name}` | {topic.largest:,} |" for topic in topics.CATALOGUE]
    return f"# Limits\n\n{about}\n\n" + "\n".join(rows) + "\n\n## Topics\n\n" + "\n".join(largest) + "\n"


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_kind(part) for part in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        parts = schema.get("prefixItems")  # a tuple
        return f"({', '.join(map(_kind, parts))})" if parts else "list of " + _kind(schema.get("items") or {})
    return str(schema.get("format") or schema.get("type", "any"))


def metrics() -> str:
    return dashboards.documents()["METRICS.md"].decode()


def panels() -> str:
    """The Grafana dashboards, with a picture of each panel and what it shows."""
    about = (
        "The Grafana dashboards of `infra/telemetry/dashboards` show the [metrics](metrics.md). The compose file "
        "starts Grafana with them; elsewhere, import the JSON files. One more dashboard shows the "
        "[runbook](../guides/runbook.md), with a panel for each alert.\n\n"
        "These are not screenshots of Grafana. `docs/panels.py` ran the pipeline of `safeguard demo` with the small "
        "model, published the demo's texts, and drew what Prometheus answered to each panel's own queries. *No data* "
        "stands for what that run did not have, such as dead letters or a webhook."
    )
    parts = [f"# Dashboards\n\n{about}"]
    for name, document in dashboards.documents().items():
        board = json.loads(document) if name.startswith("dashboards/") else {"panels": ()}
        if figures := [_figure(name, panel) for panel in board["panels"] if panel.get("targets")]:
            parts.append(f"## {board['title'].removeprefix('Safeguard: ').capitalize()}\n\nThe file `{name}`.")
            parts.append("\n".join(['<div class="panels">', *figures, "</div>"]))
    return "\n\n".join(parts) + "\n"


def _figure(board: str, panel: dict[str, Any]) -> str:
    """A panel's picture and what it shows. A new panel has no picture yet."""
    name, title = charts.file_name(board, panel["title"]), html.escape(panel["title"])
    picture = f'<img src="../panels/{name}" alt="{title}" loading="lazy">' if (charts.PICTURES / name).exists() else ""
    about = re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(panel["description"]))
    return f"<figure>{picture}<figcaption><b>{title}.</b> {about}</figcaption></figure>"
