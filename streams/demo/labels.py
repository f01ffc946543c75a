"""What people had labelled, beside what the pipeline decided: how much was found, and how much was flagged wrongly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import orjson

from safeguard_streams.contract.records import EVERY_POLICY, Verdict
from safeguard_streams.quality.proportions import Proportion, proportion


class LabelledEvent(msgspec.Struct, frozen=True):
    """A published text. violates: what people had labelled it under labelled_for; None where nobody had."""

    content_id: str
    text: str
    source: str = ""
    labelled_for: str = ""
    violates: bool | None = None

    def label_under(self, policy_id: str) -> bool | None:
        """The label under a policy; an everyday text is labelled harmless under all."""
        return self.violates if self.labelled_for in {policy_id, EVERY_POLICY} else None


class LabelFigures(msgspec.Struct, frozen=True):
    """One policy: of the texts labelled violating, those found; of the texts labelled harmless, those flagged.

    missed_by_gate: texts that the prefilter cleared; missed_by_model: texts that the model did not call violating.
    """

    found: Proportion
    flagged: Proportion
    missed_by_gate: int
    missed_by_model: int


def read(lines: Iterable[bytes]) -> dict[str, LabelledEvent]:
    """The events of these lines by content_id; lines that are no events are left out."""
    events = {}
    for line in lines:
        try:
            event: dict[str, Any] = orjson.loads(line)
            attributes = event.get("attributes") or {}
            known = {name: attributes[name] for name in ("source", "labelled_for", "violates") if name in attributes}
            read_ = msgspec.convert({"content_id": event["content_id"], "text": event["text"], **known}, LabelledEvent)
        except (orjson.JSONDecodeError, msgspec.ValidationError, KeyError, AttributeError, TypeError):
            continue
        events[read_.content_id] = read_
    return events


def figures(events: Mapping[str, LabelledEvent], verdicts: Sequence[Verdict]) -> dict[str, LabelFigures]:
    """The figures by policy, of the policies that any event is labelled for. The last verdict on a text counts."""
    decided = {(verdict.content_id, verdict.policy_id): verdict.decision for verdict in verdicts}
    policies = sorted({event.labelled_for for event in events.values()} - {"", EVERY_POLICY})
    return {policy_id: _figures(policy_id, events.values(), decided) for policy_id in policies}


def _figures(policy_id: str, events: Iterable[LabelledEvent], decided: Mapping[tuple[str, str], str]) -> LabelFigures:
    labelled = [(event.label_under(policy_id), decided.get((event.content_id, policy_id))) for event in events]
    violating = [decision for label, decision in labelled if label is True]
    harmless = [decision for label, decision in labelled if label is False]
    return LabelFigures(
        proportion(violating.count("violates"), len(violating)),
        proportion(harmless.count("violates"), len(harmless)),
        violating.count(None),
        sum(decision in {"safe", "undetermined"} for decision in violating),
    )
