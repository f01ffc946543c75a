"""The form of answers as grammars made from policies, for outputs that the model may write in no other form.

A grammar allows the rules of the decided side only, in the policy's order. It is written for the rest of a final
message whose first tokens stand already, up to the first decision; the decision is then the next token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

from safeguard_streams.contract.records import Confidence
from safeguard_streams.policies.document import ANSWER_FIELDS, Policy
from safeguard_streams.policies.vocabulary import Side
from safeguard_streams.workers.inference.interface import Constraint

MAX_TOKENS = 256  # of an output by such a grammar, for each policy
MAX_COMBINED = 40  # rules; the grammar grows with their square, and takes xgrammar 0.3 s for 50 and 11 s for 100
_MAX_WORDS = 30  # of a reason
# A bound on characters instead of words would take a server 20 s to compile.
_WORD = r'[^\x00-\x20"\\\x7f-\xa0]+'
_REASON = rf'"{_WORD}( {_WORD}){{0,{_MAX_WORDS - 1}}}"'
_CONFIDENCES = get_args(Confidence)
_DECISION = '{"violation":'
_NUMBERED: Mapping[int, Side] = {1: "violates", 0: "safe"}


def opening(policies: Sequence[Policy]) -> str:
    """The first characters of a final message, up to the first decision."""
    return _DECISION if len(policies) == 1 else f"{{{json.dumps(policies[0].id)}:{_DECISION}"


def constraint(policies: Sequence[Policy]) -> Constraint:
    """The form of a final message under one policy, or under the policies of a bundle."""
    if len(policies) == 1:
        return Constraint(_pattern(policies[0]), _schema(policies[0]))
    first, *others = policies
    parts = [_pattern(first), *(f"{re.escape(json.dumps(p.id))}:{re.escape(_DECISION)}{_pattern(p)}" for p in others)]
    return Constraint(
        ",".join(parts) + r"\}",
        {
            "type": "object",
            "properties": {policy.id: _schema(policy) for policy in policies},
            "required": [policy.id for policy in policies],
            "additionalProperties": False,
        },
    )


class _Side(NamedTuple):
    """A decision as the model writes it, and the rules that may stand with it."""

    decision: int | str
    rules: Sequence[str]


def _sides(policy: Policy) -> list[_Side]:
    words: Mapping[Any, Side] = policy.judging.output or _NUMBERED
    return [_Side(word, policy.violating if side == "violates" else policy.safe) for word, side in words.items()]


def _pattern(policy: Policy) -> str:
    """The rest of a policy's object after `"violation":`."""
    fields = ANSWER_FIELDS[policy.judging.answer]
    rest = "".join(f',"{name}":{value}' for name, value in _VALUES.items() if name in fields)
    rules = "rule_ids" in fields
    sides = (
        re.escape(json.dumps(side.decision)) + (rf',"rule_ids":\[({_some_of(side.rules)})\]' if rules else "")
        for side in _sides(policy)
    )
    return rf"({'|'.join(sides)}){rest}\}}"


_VALUES = {"confidence": f'"({"|".join(_CONFIDENCES)})"', "reason": _REASON}


def _some_of(rules: Sequence[str]) -> str:
    """At least one of the rules, each at most once. Of more than MAX_COMBINED rules, exactly one."""
    quoted = [f'"{re.escape(rule)}"' for rule in rules]
    if len(quoted) > MAX_COMBINED:
        return "|".join(quoted)
    return "|".join(
        first + "".join(f"(,{later})?" for later in quoted[number + 1 :]) for number, first in enumerate(quoted)
    )


def _schema(policy: Policy) -> dict[str, Any]:
    """A policy's object. Lengths are left open, because servers take long to compile them."""
    return {"anyOf": [_side_schema(policy, side) for side in _sides(policy)]}


def _side_schema(policy: Policy, side: _Side) -> dict[str, Any]:
    values: dict[str, Any] = {
        "violation": {"enum": [side.decision]},
        "rule_ids": {"type": "array", "items": {"type": "string", "enum": list(side.rules)}, "minItems": 1},
        "confidence": {"type": "string", "enum": list(_CONFIDENCES)},
        "reason": {"type": "string"},
    }
    fields = ANSWER_FIELDS[policy.judging.answer]
    return {
        "type": "object",
        "properties": {name: values[name] for name in fields},
        "required": list(fields),
        "additionalProperties": False,
    }
