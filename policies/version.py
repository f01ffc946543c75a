"""The version of a policy: a hash over everything in its document that decides about content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import msgspec

from safeguard_streams.policies.document import AppliesTo, Gate, Judging
from safeguard_streams.policies.vocabulary import Effort

_RECORDS = {"calibration", "accepted_misses"}  # fields of a gate that decide nothing


def version_of(
    text: str, rules: Iterable[str], effort: Effort, judging: Judging, gate: Gate, applies_to: AppliesTo
) -> str:
    """12 hex digits: equal for documents that escalate and judge all content in the same way."""
    decides = what_decides(text, rules, effort, judging, gate, applies_to)
    # Unlike other encoders, this one also takes half of a surrogate pair, which YAML can write.
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]


def what_decides(
    text: str, rules: Iterable[str], effort: Effort, judging: Judging, gate: Gate, applies_to: AppliesTo
) -> dict[str, Any]:
    """Everything in a document that decides about content, as JSON has it.

    Title, owner, names of rules, the records of how a threshold or a score map was fitted, and misses that an author
    accepts decide nothing.
    """
    judged = msgspec.to_builtins(judging)
    (judged["score_map"] or {}).pop("fitted", None)
    gated = {name: value for name, value in msgspec.to_builtins(gate).items() if name not in _RECORDS}
    for fields, defaults in (
        (judged, {"output": None, "answer": "full"}),
        (gated, {"general": 0.0, "threshold_with_encoder": None}),
    ):
        for name, default in defaults.items():
            if fields[name] == default:
                del fields[name]  # documents without the field decide as before it came, and keep their versions
    return {
        "text": text,
        "rules": sorted(rules),
        "effort": effort,
        "judging": judged,
        "gate": gated,
        "applies_to": msgspec.to_builtins(applies_to),
    }
