"""What differs between two versions of a policy: what decides about content, and what only readers see."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.version import what_decides

_SCORED = {"gate.harms", "gate.general", "gate.distilled"}


class ChangedField(msgspec.Struct, frozen=True):
    """A field of the front matter, as in gate.threshold, with both values. None: the field is not set."""

    field: str
    before: Any
    after: Any

    def __str__(self) -> str:
        if isinstance(self.before, list | tuple) and isinstance(self.after, list | tuple):
            return f"{self.field}: {_changed_items(self.before, self.after)}"
        return f"{self.field}: {_value(self.before)} -> {_value(self.after)}"


class Difference(msgspec.Struct, frozen=True):
    """The difference between two versions of a policy.

    decides: fields that decide about content. text: a unified diff of the text that the model reads. Versions differ
    exactly if one of these is not empty. describes: fields that only readers see, such as the title. enforces: fields
    that only enforcement goes by: severities, notes and statements of rules.
    """

    decides: tuple[ChangedField, ...]
    text: tuple[str, ...]
    describes: tuple[ChangedField, ...]
    enforces: tuple[ChangedField, ...]

    @property
    def rescores(self) -> bool:
        """Whether the gate gives other scores than before."""
        return not _SCORED.isdisjoint(change.field for change in self.decides)


def difference(before: Policy, after: Policy) -> Difference:
    """What differs between two versions of a policy."""
    text = difflib.unified_diff(before.text.split("\n"), after.text.split("\n"), n=0, lineterm="")
    return Difference(
        decides=tuple(_changes(_deciding(before), _deciding(after))),
        text=tuple(text)[2:],  # the two lines of a header name files
        describes=tuple(_changes(_describing(before), _describing(after))),
        enforces=tuple(_changes(_enforcing(before), _enforcing(after))),
    )


def _deciding(policy: Policy) -> dict[str, Any]:
    decides = what_decides(policy.text, policy.rules, policy.effort, policy.judging, policy.gate, policy.applies_to)
    del decides["text"]
    return dict(_flat(decides))


def _describing(policy: Policy) -> dict[str, Any]:
    fitted = policy.judging.score_map.fitted if policy.judging.score_map else None
    described = {
        "title": policy.title,
        "owner": policy.owner,
        "rules": policy.rules,
        "gate.calibration": policy.gate.calibration,
        "gate.accepted_misses": msgspec.to_builtins(policy.gate.accepted_misses),
        "judging.score_map.fitted": fitted,
    }
    return dict(_flat(described))


def _enforcing(policy: Policy) -> dict[str, Any]:
    statements = msgspec.to_builtins(policy.statements)
    return dict(_flat({"severity": policy.severity, "notes": policy.notes, "statements": statements}))


def _flat(fields: Mapping[str, Any], inside: str = "") -> Iterator[tuple[str, Any]]:
    """The fields that are set, by their paths."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{inside}{name}.")
        elif value is not None:
            yield f"{inside}{name}", value


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[ChangedField]:
    for field in dict.fromkeys([*before, *after]):
        if before.get(field) != after.get(field):
            yield ChangedField(field, before.get(field), after.get(field))


def _value(value: Any) -> str:
    if value is None:
        return "not set"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)


def _changed_items(before: Any, after: Any) -> str:
    removed = [str(item) for item in before if item not in after]
    added = [str(item) for item in after if item not in before]
    parts = [f"{what} {', '.join(items)}" for what, items in (("added", added), ("removed", removed)) if items]
    return "; ".join(parts) or "in another order, or repeated"
