"""Policies in files: ID/policy.md, and beside it golden.jsonl and perhaps distilled.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml

from safeguard_streams.errors import PolicyError
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.parsing import FRONT, parse

LIBRARY = Path(__file__).parent / "library"


def read(path: Path) -> tuple[str, str | None]:
    """The texts of policy.md and of distilled.json, if there is one. Raises PolicyError when they cannot be read."""
    try:
        document = path.read_text(encoding="utf-8-sig")
        label = path.with_name("distilled.json")
        return document, label.read_text(encoding="utf-8") if label.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path}: cannot be read: {error}") from error


def load(path: Path) -> Policy:
    """Read policy.md; raises PolicyError, also when the file cannot be read."""
    document, distilled = read(path)
    return parse(document, str(path), distilled)


def load_library(folder: Path = LIBRARY) -> dict[str, Policy]:
    """All policies of a library folder (ID/policy.md), by id."""
    policies = [load(path) for path in sorted(folder.glob("*/policy.md"))]
    if not policies:
        raise PolicyError(f"{folder}: no ID/policy.md in it")
    for policy, path in zip(policies, sorted(folder.glob("*/policy.md")), strict=True):
        if policy.id != path.parent.name:
            raise PolicyError(f"{path}: id is {policy.id!r} but the folder is {path.parent.name!r}")
    return {policy.id: policy for policy in policies}


def with_changes(document: str, section: Literal["gate", "judging"], **changes: Any) -> str:
    """The document with these fields of its gate or judging set, or taken out where they are None; all else stays as it is."""
    found = FRONT.match(document)
    assert found is not None, "the document was parsed before"
    front = yaml.compose(found[1], Loader=yaml.SafeLoader)
    assert isinstance(front, yaml.MappingNode)
    fields = {**(yaml.safe_load(found[1]).get(section) or {}), **changes}
    kept = {name: setting for name, setting in fields.items() if setting is not None}
    written = yaml.safe_dump({section: kept}, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    start = end = found.end(1)  # a section that is not there yet comes last
    for key, value in front.value:
        if key.value == section:
            start, end = found.start(1) + key.start_mark.index, found.start(1) + value.end_mark.index
    return document[:start] + written.rstrip("\n") + "\n" + document[end:].lstrip("\n")
