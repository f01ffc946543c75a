"""Policies in files: ID/policy.md, with golden.jsonl and an optional distilled.json beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from safeguard_streams.errors import PolicyError
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.parsing import parse
from safeguard_streams.policies.reading import FRONT

LIBRARY = Path(__file__).parent / "library"


class PolicyFiles(NamedTuple):
    """The texts of policy.md and of distilled.json; the latter is None if there is no such file."""

    document: str
    distilled: str | None


def read(path: Path) -> PolicyFiles:
    """Read policy.md and the distilled.json beside it. Raises PolicyError when a file cannot be read."""
    try:
        document = path.read_text(encoding="utf-8-sig")
        distilled = path.with_name("distilled.json")
        return PolicyFiles(document, distilled.read_text(encoding="utf-8") if distilled.is_file() else None)
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PolicyError(f"{path}: cannot be read: byte {error.start + 1} is not UTF-8; save it in UTF-8") from error


def write_document(path: Path, document: str) -> None:
    """Write policy.md. Raises PolicyError when it cannot be written."""
    try:
        path.write_text(document, encoding="utf-8")
    except OSError as error:
        raise PolicyError(f"{path}: cannot be written: {error.strerror}") from error


def create(path: Path, document: str) -> None:
    """Write a new policy.md and its folder. Raises PolicyError when there is one, or when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(document)
    except FileExistsError:
        raise PolicyError(f"{path}: exists already; choose another id, or edit this file") from None
    except OSError as error:
        raise PolicyError(f"{path}: cannot be written: {error.strerror}") from error


def load(path: Path) -> Policy:
    """Read and parse policy.md. Raises PolicyError, including when the file cannot be read."""
    document, distilled = read(path)
    return parse(document, str(path), distilled)


def documents(folder: Path) -> list[Path]:
    """The files ID/policy.md of a library folder, in the order of their ids. Raises PolicyError when there are none."""
    paths = sorted(folder.glob("*/policy.md"))
    if not paths:
        problem = "contains no ID/policy.md" if folder.is_dir() else "is no folder; name one that holds ID/policy.md"
        raise PolicyError(f"{folder}: {problem}")
    return paths


def load_library(folder: Path = LIBRARY) -> dict[str, Policy]:
    """All policies of a library folder (ID/policy.md), by id."""
    paths = documents(folder)
    policies = [load(path) for path in paths]
    for policy, path in zip(policies, paths, strict=True):
        if policy.id != path.parent.name:
            raise PolicyError(f"{path}: id is {policy.id!r} but the folder is {path.parent.name!r}")
    return {policy.id: policy for policy in policies}


def with_changes(document: str, section: Literal["gate", "judging"], **changes: Any) -> str:
    """Set fields of a document's gate or judging section, and remove those given as None.

    The document must have been parsed before. All other text stays unchanged.
    """
    match = FRONT.match(document)
    assert match is not None, "the document was parsed before"
    front = yaml.compose(match[1], Loader=yaml.SafeLoader)
    assert isinstance(front, yaml.MappingNode)
    fields = {**(yaml.safe_load(match[1]).get(section) or {}), **changes}
    kept = {name: setting for name, setting in fields.items() if setting is not None}
    written = yaml.safe_dump({section: kept}, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    start = end = match.end(1)  # a new section goes last
    for key, value in front.value:
        if key.value == section:
            start, end = match.start(1) + key.start_mark.index, match.start(1) + value.end_mark.index
    return document[:start] + written.rstrip("\n") + "\n" + document[end:].lstrip("\n")
