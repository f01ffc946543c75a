"""Worked examples: a text, the gate that escalated it, the rule, the rationale and the action.

All but the last are right answers for the right reason. How often answers are right is another question: see `labels`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from safeguard_streams.contract.records import Action, Decision, Rationale, Verdict
from safeguard_streams.demo.labels import LabelledEvent, for_the_right_reason


class Role(NamedTuple):
    """What an example shows. prefer: tame texts among the demo's own, by number; without them, a short text."""

    title: str
    policy_id: str
    label: bool
    decision: Decision
    prefer: tuple[str, ...]


ROLES = (
    Role("A lure, found", "fraud-spam", True, "violates", ("0790", "1006", "0319", "1299")),
    Role("An attempt on an assistant, found", "prompt-injection", True, "violates", ("0620", "0553", "1302")),
    Role("Abuse, found", "hate-harassment", True, "violates", ("0133", "0691", "0536", "0109")),
    Role(
        "Suspicious to the classifier, harmless to the model",
        "hate-harassment",
        False,
        "safe",
        ("0614", "0905", "0214", "0659", "1026", "0011"),
    ),
    Role(
        "A mistake: people call it harmless, the model flags it",
        "hate-harassment",
        False,
        "violates",
        ("1160", "0882", "0152", "0383"),
    ),
)
_LENGTHS = range(40, 160)  # characters of a text that reads well as an example


class Example(NamedTuple):
    """One example; rationale and action are None where there is none."""

    title: str
    event: LabelledEvent
    verdict: Verdict
    rationale: Rationale | None
    action: Action | None


def choose(
    events: Mapping[str, LabelledEvent],
    verdicts: Sequence[Verdict],
    rationales: Mapping[str, Rationale],
    actions: Mapping[str, Action],
) -> list[Example]:
    """One example of each role that occurs, and of each text only one. actions: by verdict_id."""
    found: list[Example] = []
    for role in ROLES:
        taken = {example.event.content_id for example in found}
        candidates = [v for v in _fitting(role, events, verdicts) if v.content_id not in taken]
        if candidates:
            best = min(candidates, key=lambda verdict: _rank(role, events[verdict.content_id]))
            event = events[best.content_id]
            found.append(
                Example(role.title, event, best, rationales.get(best.verdict_id), actions.get(best.verdict_id))
            )
    return found


def _fitting(role: Role, events: Mapping[str, LabelledEvent], verdicts: Sequence[Verdict]) -> Iterator[Verdict]:
    for verdict in verdicts:
        event = events.get(verdict.content_id)
        if event is not None and (verdict.policy_id, verdict.decision) == (role.policy_id, role.decision):
            mistake = role.decision != ("violates" if role.label else "safe")
            if event.label_under(role.policy_id) is role.label and (mistake or for_the_right_reason(event, verdict)):
                yield verdict


def _rank(role: Role, event: LabelledEvent) -> tuple[int, bool, int, str]:
    """Preferred texts first, then texts that read well, the shortest first."""
    number = event.content_id.split("-")[1] if event.content_id.startswith("demo-") else ""
    preferred = role.prefer.index(number) if number in role.prefer else len(role.prefer)
    return preferred, len(event.text) not in _LENGTHS, len(event.text), event.content_id
