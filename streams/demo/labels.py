"""What people had labelled, beside what the pipeline decided: how much was found, and how much was flagged wrongly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import orjson

from safeguard_streams.contract.records import EVERY_POLICY, Verdict
from safeguard_streams.quality.proportions import Proportion, proportion

_ATTRIBUTES = ("source", "labelled_for", "violates", "rule")


class LabelledEvent(msgspec.Struct, frozen=True):
    """A published text. violates: what people had labelled it under labelled_for; None where nobody had.

    rule: the policy's rule that fits the label, of a violating text.
    """

    content_id: str
    text: str
    source: str = ""
    labelled_for: str = ""
    violates: bool | None = None
    rule: str = ""

    def label_under(self, policy_id: str) -> bool | None:
        """The label under a policy; an everyday text is labelled harmless under all."""
        return self.violates if self.labelled_for in {policy_id, EVERY_POLICY} else None


class LabelFigures(msgspec.Struct, frozen=True):
    """One policy: of the texts labelled violating, those found; of the texts labelled harmless, those left alone.

    right_rule: of the texts found whose rule is known, those found under it.
    missed_by_gate: texts that the prefilter cleared; missed_by_model: texts that the model did not call violating.
    """

    found: Proportion
    right_rule: Proportion
    left_alone: Proportion
    missed_by_gate: int
    missed_by_model: int


def read(lines: Iterable[bytes]) -> dict[str, LabelledEvent]:
    """The events of these lines by content_id; lines that are no events are left out."""
    events = {}
    for line in lines:
        try:
            event: dict[str, Any] = orjson.loads(line)
            attributes = event.get("attributes") or {}
            known = {name: attributes[name] for name in _ATTRIBUTES if name in attributes}
            read_ = msgspec.convert({"content_id": event["content_id"], "text": event["text"], **known}, LabelledEvent)
        except (orjson.JSONDecodeError, msgspec.ValidationError, KeyError, AttributeError, TypeError):
            continue
        events[read_.content_id] = read_
    return events


def figures(events: Mapping[str, LabelledEvent], verdicts: Sequence[Verdict]) -> dict[str, LabelFigures]:
    """The figures by policy, of the policies that any event is labelled for. The last verdict on a text counts."""
    decided = {(verdict.content_id, verdict.policy_id): verdict for verdict in verdicts}
    policies = sorted({event.labelled_for for event in events.values()} - {"", EVERY_POLICY})
    return {policy_id: _figures(policy_id, events.values(), decided) for policy_id in policies}


def total(by_policy: Iterable[LabelFigures]) -> LabelFigures:
    """The figures of all policies together. A harmless text counts once for each policy."""
    figures_ = list(by_policy)
    return LabelFigures(
        _sum(one.found for one in figures_),
        _sum(one.right_rule for one in figures_),
        _sum(one.left_alone for one in figures_),
        sum(one.missed_by_gate for one in figures_),
        sum(one.missed_by_model for one in figures_),
    )


def for_the_right_reason(event: LabelledEvent, verdict: Verdict) -> bool:
    """Whether a verdict is as people had labelled the text, and a violating one names the rule that fits the label."""
    label = event.label_under(verdict.policy_id)
    if label is None or verdict.decision != ("violates" if label else "safe"):
        return False
    return not (label and event.rule) or event.rule in verdict.rule_ids


def _sum(shares: Iterable[Proportion]) -> Proportion:
    counted = list(shares)
    return proportion(sum(one.count for one in counted), sum(one.of for one in counted))


def _figures(
    policy_id: str, events: Iterable[LabelledEvent], decided: Mapping[tuple[str, str], Verdict]
) -> LabelFigures:
    labelled = [(event, decided.get((event.content_id, policy_id))) for event in events]
    violating = [(event, verdict) for event, verdict in labelled if event.label_under(policy_id) is True]
    harmless = [verdict for event, verdict in labelled if event.label_under(policy_id) is False]
    found = [(event, verdict) for event, verdict in violating if verdict and verdict.decision == "violates"]
    ruled = [for_the_right_reason(event, verdict) for event, verdict in found if event.rule]
    flagged = sum(verdict is not None and verdict.decision == "violates" for verdict in harmless)
    gate = sum(verdict is None for _, verdict in violating)
    return LabelFigures(
        proportion(len(found), len(violating)),
        proportion(sum(ruled), len(ruled)),
        proportion(len(harmless) - flagged, len(harmless)),
        gate,
        len(violating) - len(found) - gate,
    )
