"""What pages show of a policy document: its title, and each rule with the paragraph that the model read.

A document on a topic was checked when it was released. This reads it without that check, so that a document which a
later version of the package would refuse is still shown.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import msgspec
import yaml
from sqlalchemy import Connection, select

from safeguard_streams.console.schema import policy_changes, policy_releases

_FRONT = re.compile(r"\A---\n(.*?)\n---\n(.*)\Z", re.DOTALL)
_RULE = re.compile(r"^[-*] +([A-Za-z][\w.-]*): +(.*?)(?=^\s*$|^[-*] |^#|\Z)", re.DOTALL | re.MULTILINE)


class Rule(msgspec.Struct, frozen=True):
    """A rule: its line in the front matter, and its paragraph in the text."""

    rule_id: str
    summary: str
    paragraph: str


class PolicyText(msgspec.Struct, frozen=True):
    """A document as pages show it."""

    title: str
    owner: str
    harms: tuple[str, ...]
    rules: tuple[Rule, ...]
    text: str

    def rule(self, rule_id: str) -> Rule | None:
        """A rule by its id; None where this version has none."""
        return next((rule for rule in self.rules if rule.rule_id == rule_id), None)


@lru_cache(maxsize=256)
def read(document: str) -> PolicyText:
    """The parts of a document. What cannot be read is left out."""
    match = _FRONT.match(document.replace("\r\n", "\n"))
    front, text = _loaded(match[1] if match else ""), match[2] if match else document
    paragraphs = {found[1]: " ".join(found[2].split()) for found in _RULE.finditer(text)}
    named = front.get("rules")
    rules = named if isinstance(named, dict) else {}
    gate = front.get("gate")
    harms = gate.get("harms", ()) if isinstance(gate, dict) else ()
    return PolicyText(
        str(front.get("title", "")),
        str(front.get("owner", "")),
        tuple(map(str, harms)) if isinstance(harms, list) else (),
        tuple(Rule(str(name), str(line), paragraphs.get(str(name), str(line))) for name, line in rules.items()),
        text,
    )


def _loaded(front: str) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(front)
    except yaml.YAMLError:
        return {}
    return loaded if isinstance(loaded, dict) else {}


def version(connection: Connection, policy_id: str, wanted: str | None) -> PolicyText | None:
    """A policy's text in a version; with None, in force. None where the database has no such version."""
    release = select(policy_releases.c.document).where(policy_releases.c.policy_id == policy_id)
    if wanted is None:
        document = connection.execute(release.where(policy_releases.c.place == "in-force")).scalar()
    else:
        change = select(policy_changes.c.document).where(
            policy_changes.c.policy_id == policy_id, policy_changes.c.version == wanted
        )
        document = (
            connection.execute(release.where(policy_releases.c.version == wanted).limit(1)).scalar()
            or connection.execute(change.limit(1)).scalar()
        )
    return None if document is None else read(document)
