"""The next rung of each policy's gate: what it would save, or what is missing before that can be said.

A gate is proposed where it escalates less for the target recall than the gate in force, beyond chance, on verdicts that
neither saw: a distilled classifier is measured by cross-validation, and one in force on what was judged after it was
released. A threshold is proposed where live recall is off its target beyond chance. All else needs more labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from safeguard_streams.prefilter.classifier import Floats
from safeguard_streams.prefilter.encoder.files import NAME
from safeguard_streams.prefilter.fingerprint import fingerprint
from safeguard_streams.quality import gate_recall
from safeguard_streams.quality.copies import Indices, originals, together
from safeguard_streams.quality.distillation import MIN_ROWS, MIN_ROWS_PER_SIDE
from safeguard_streams.quality.evaluation import Flags, ScoredSet
from safeguard_streams.quality.gate_candidates import LabelledTexts, Scorers, candidates, present_gate
from safeguard_streams.quality.gate_choice import Choice, compare, counting_as, labels_to_resolve
from safeguard_streams.quality.gate_cost import DAY, GpuCost
from safeguard_streams.quality.gate_evidence import Evidence
from safeguard_streams.quality.gate_recall import GateRecall
from safeguard_streams.quality.gate_rungs import WORDS, Gate, MeasuredGate, Rung, rung_of
from safeguard_streams.quality.verdict_labels import LabeledItem
from safeguard_streams.runtime.counts import counted

_RATES = "raise gate.sample, or SAFEGUARD_AUDIT_RATE_NEAR and SAFEGUARD_AUDIT_RATE_FAR"
Action = Literal["take", "collect", "keep", "compare"]


class LabelCount(msgspec.Struct, frozen=True):
    """Verdicts that can be labels: by side, and those whose texts are still there.

    usable: of those with texts, the ones that the gate in force cannot have been made of, and violating of them.
    counting_as: as how many labels of equal weight and different texts the violating ones of these count.
    a_day: verdicts a day.
    """

    violating: int
    safe: int
    undetermined: int
    with_text: int
    usable: int
    usable_violating: int
    counting_as: float
    a_day: float | None


class Shortfall(msgspec.Struct, frozen=True):
    """How many more labels are missing, and why; None where their number cannot be told."""

    more: int | None
    why: str


_NO_ENCODER = Shortfall(
    None,
    "its prefilters use vectors, without which its gate cannot be measured: pip install 'safeguard-streams[encoder]'",
)


class Advice(msgspec.Struct, frozen=True):
    """What to do about one policy's gate.

    action: take the proposed gate, collect labels, keep the gate as it is, or compare the shadow that runs.
    vectors: whether the prefilters use the gate's weights for vectors; None where no verdict tells.
    saved_gpu_hours_a_day: by the proposed gate; below 0 where it costs more. days: until the missing labels are there,
    at the rate of now.
    """

    policy_id: str
    version: str
    revision: int
    target_recall: float
    rung: Rung
    vectors: bool | None
    shadow: str | None
    action: Action
    why: str
    live: GateRecall | None
    labels: LabelCount
    cost: GpuCost | None
    gpu_hours_a_day: float | None
    present: MeasuredGate | None = None
    proposed: MeasuredGate | None = None
    choices: list[Choice] = []
    more_labels: int | None = None
    days: float | None = None
    saved_gpu_hours_a_day: float | None = None
    notes: list[str] = []

    @property
    def lowers(self) -> str:
        """Why the proposed gate may lower live recall below the target, in words; empty where it does not."""
        if self.proposed is None or self.proposed.recall.low >= self.target_recall:
            return ""
        now = self.live.low if self.live is not None and self.live.recall is not None else None
        if now is not None and self.proposed.recall.low >= now:
            return ""
        known = "which is not known now" if now is None else f"which is {now:.3f} now"
        return (
            f"the lower bound of recall, {known}, would be {self.proposed.recall.low:.3f}: "
            f"below the target of {self.target_recall:g}"
        )


class Advised(NamedTuple):
    """The advice, the gate that it proposes, and the scores behind its curves."""

    advice: Advice
    gate: Gate | None = None
    scored: Sequence[ScoredSet] = ()


def advise(evidence: Evidence, scorers: Scorers, cost: GpuCost | None, target_recall: float) -> Advised:
    """The next rung for one policy."""
    state, rows = evidence.state, evidence.learned
    vectors = _vectors_in_use(evidence, scorers.classifier.name)
    unseen = np.array([_is_unseen(row, evidence) for row in rows], dtype=bool)
    labels = LabelledTexts.of(rows)
    base = Advice(
        policy_id=state.policy.id,
        version=state.policy.version,
        revision=state.release.revision,
        target_recall=target_recall,
        rung=rung_of(state.policy, encoder=vectors is not False),
        vectors=vectors,
        shadow=state.shadow.version if state.shadow else None,
        action="collect",
        why="",
        live=gate_recall.from_labels(evidence.live) if evidence.live.rows else None,
        labels=_count(evidence, labels, unseen),
        cost=cost,
        gpu_hours_a_day=cost.gpu_hours_a_day if cost else None,
        notes=_notes(evidence),
    )
    blind = _NO_ENCODER if vectors and scorers.encoder is None else None
    if short := blind or _shortfall(evidence, labels, unseen, target_recall):
        return Advised(_comparing(base) if base.shadow else _collecting(base, short))
    present = present_gate(state.policy, labels, scorers, vectors=bool(vectors))
    here = present.on(unseen)
    base = msgspec.structs.replace(base, present=here.measured())
    if state.shadow is not None:
        return Advised(_comparing(base), scored=_curves(base, here))
    found = candidates(state, present, rows, scorers, target_recall)
    retuned = [gate.on(unseen) for gate in found.retuned]
    base = msgspec.structs.replace(base, notes=[*_mixed(evidence), *found.notes])
    return _with_choice(base, here, retuned[0] if retuned else None, [gate.on(unseen) for gate in found.gates])


def _is_unseen(row: LabeledItem, evidence: Evidence) -> bool:
    since = evidence.state.unseen_from
    return since is None or (row.decided_at is not None and row.decided_at > since)


def _vectors_in_use(evidence: Evidence, classifier: str) -> bool | None:
    """Whether the prefilters use weights for vectors, by the fingerprint of the last verdict."""
    policy = evidence.state.policy
    if policy.distilled is None or not policy.distilled.uses(NAME):
        return False
    last = evidence.live.rows[-1].prefilter if evidence.live.rows else None
    known = {fingerprint(policy, classifier, NAME): True, fingerprint(policy, classifier): False}
    return known.get(last.fingerprint or "") if last else None


def _count(evidence: Evidence, labels: LabelledTexts, unseen: Flags) -> LabelCount:
    violating = sum(row.violates for row in evidence.labels.rows)
    chosen = labels.violates & unseen
    usage = evidence.usage
    return LabelCount(
        violating=violating,
        safe=len(evidence.labels.rows) - violating,
        undetermined=evidence.labels.undetermined,
        with_text=len(evidence.learned),
        usable=int(unseen.sum()),
        usable_violating=int(chosen.sum()),
        counting_as=round(counting_as(together(labels.weights[chosen], labels.groups[chosen])), 1),
        a_day=usage.judged / usage.span * DAY if usage.span else None,
    )


def _shortfall(evidence: Evidence, labels: LabelledTexts, unseen: Flags, target_recall: float) -> Shortfall | None:
    """What is missing before gates can be compared; None where nothing is."""
    rows = int(unseen.sum())
    if not evidence.labels.rows:
        return Shortfall(MIN_ROWS, f"the reasoner has judged nothing under this text of the policy yet: {_needed()}")
    if not evidence.learned:
        judged = counted(len(evidence.labels.rows), "verdict")
        return Shortfall(
            MIN_ROWS, f"content.escalations no longer holds the texts of its {judged}: keep it longer, or wait"
        )
    if rung_of(evidence.state.policy) != "everything" and not any(row.drawn for row in evidence.learned):
        return Shortfall(
            None,
            f"all of {counted(len(evidence.learned), 'label')} are of content that the gate escalates, which tells "
            f"nothing of the rest: {_RATES}",
        )
    different = len(originals(labels.groups[unseen]))
    if different < MIN_ROWS:
        of = _but_copies(rows, different)
        after = ", judged after its classifier was released" if evidence.state.unseen_from else ""
        more = math.ceil((MIN_ROWS - different) * (rows / different if rows else 1))  # of which as many are copies
        return Shortfall(more, f"{counted(rows, 'label')}{of}{after}: {_needed()}")
    for side, chosen in (("violating", labels.violates & unseen), ("safe", ~labels.violates & unseen)):
        if short := _side_short(side, labels.weights[chosen], labels.groups[chosen], rows):
            return short
    groups = labels.groups[unseen]
    violates = labels.violates[unseen][originals(groups)]
    return _unresolved(target_recall, violates, together(labels.weights[unseen], groups))


def _unresolved(target_recall: float, violates: Flags, weights: Floats) -> Shortfall | None:
    more = labels_to_resolve(target_recall, violates, weights)
    if not more:
        return None
    missed = (1 - target_recall) * weights[violates].sum()
    return Shortfall(
        more,
        f"one drawn label stands for {weights.max():,.0f} items, and a gate may miss {missed:,.0f} violating ones for "
        f"recall {target_recall:g}: {_RATES}. A rate of {min(1.0, 1 / missed):.2g} would do",
    )


def _needed() -> str:
    return f"{MIN_ROWS} are needed, {MIN_ROWS_PER_SIDE} of each side"


def _but_copies(labels: int, different: int) -> str:
    """How many different texts labels have, in words, if some are copies."""
    return "" if different == labels else f" of {counted(different, 'different text')}"


def _side_short(side: str, of_labels: Floats, groups: Indices, rows: int) -> Shortfall | None:
    """What one side is short of. Unequal weights and copies count as fewer labels."""
    weights = together(of_labels, groups)
    labels, different, worth = len(groups), len(weights), counting_as(weights)
    if worth >= MIN_ROWS_PER_SIDE:
        return None
    if not labels:
        return Shortfall(None, f"none of {counted(rows, 'label')} is {side}: {_needed()}")
    more = math.ceil(rows * (MIN_ROWS_PER_SIDE / worth - 1))
    of = _but_copies(labels, different)
    if different < MIN_ROWS_PER_SIDE:
        return Shortfall(more, f"{labels} of {counted(rows, 'label')} {_is(labels)} {side}{of}: {_needed()}")
    return Shortfall(
        more,
        f"its {labels:,} {side} labels{of} count as {worth:.0f}, because one stands for up to {weights.max():,.0f} "
        f"items: {_needed()}; {_RATES}",
    )


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


def _notes(evidence: Evidence) -> list[str]:
    """What a policy with too few labels can have without any, and that its prefilters differ."""
    state, notes = evidence.state, _mixed(evidence)
    if state.golden is not None:
        notes.append("its golden gate runs in shadow, and is compared with the others once there are labels")
    elif rung_of(state.policy) in ("terms", "label"):
        notes.append(f"a golden gate needs no labels: see safeguard policy gate {state.policy.id}")
    return notes


def _mixed(evidence: Evidence) -> list[str]:
    """That verdicts under one version are of gates that score differently, if so."""
    others = evidence.live.other_gates
    if not others:
        return []
    left_out = f"{counted(others, 'verdict')} whose scores do not compare with the last one's"
    differ = "its prefilters differ, or differed: live recall and cost leave out"
    return [f"{differ} {left_out}. Give all of them the same model, and the extra encoder or not"]


def _collecting(advice: Advice, short: Shortfall) -> Advice:
    rate = advice.labels.a_day
    days = short.more / rate if short.more is not None and rate else None
    return msgspec.structs.replace(advice, action="collect", why=short.why, more_labels=short.more, days=days)


def _comparing(advice: Advice) -> Advice:
    why = f"a shadow runs, version {advice.shadow}: see safeguard policy compare {advice.policy_id}"
    return msgspec.structs.replace(advice, action="compare", why=why)


def _with_choice(advice: Advice, present: Gate, retuned: Gate | None, gates: Sequence[Gate]) -> Advised:
    """Walk up the ladder: each gate that is better than the best before it, beyond chance, is the best."""
    best, choices = present, []
    for gate in gates:
        choice = compare(gate.scored, best.scored, advice.target_recall)
        choices.append(choice)
        if choice.better:
            best = gate
    advice = msgspec.structs.replace(advice, choices=choices)
    if best is not present:
        against = compare(best.scored, present.scored, advice.target_recall)
        return Advised(_taking(advice, best, _better(best, present, against)), best, _curves(advice, present, best))
    if retuned is not None and (why := _off_target(advice, retuned)):
        return Advised(_taking(advice, retuned, why), retuned, _curves(advice, present))
    return Advised(_keeping(advice), scored=_curves(advice, present))


def _curves(advice: Advice, *gates: Gate) -> list[ScoredSet]:
    """The scores of gates that have a curve, named for a plot of several policies."""
    return [
        msgspec.structs.replace(gate.scored, name=f"{advice.policy_id}: {WORDS[gate.rung]}")
        for gate in gates
        if gate.scores_texts
    ]


def _better(best: Gate, present: Gate, choice: Choice) -> str:
    name = WORDS[best.rung] + (" again, from more labels" if best.rung == present.rung else "")
    value = best.curve_at(choice.target_recall)
    said = f"{name}: escalates {value:.1%} of content for recall {choice.target_recall:g}"
    if not present.scores_texts:
        return said if present.rung == "everything" else f"{said}, which terms alone do not reach"
    return f"{said}, the gate in force {value - choice.escalated.value:.1%}: better, beyond chance"


def _off_target(advice: Advice, retuned: Gate) -> str:
    """Why the gate in force needs another threshold, if live recall is off its target beyond chance."""
    live, target = advice.live, advice.target_recall
    if live is None or live.recall is None or not live.enough:
        return ""
    if live.high < target:
        return f"live recall is below {target:g} beyond chance: lower the threshold to {retuned.threshold:g}"
    assert advice.present is not None
    saves = retuned.measured().escalated.value < advice.present.escalated.value
    if live.low > target and saves:
        return f"live recall is above {target:g} beyond chance: raise the threshold to {retuned.threshold:g}"
    return ""


def _taking(advice: Advice, gate: Gate, why: str) -> Advice:
    proposed = gate.measured()
    assert advice.present is not None
    fewer = advice.present.escalated.value - proposed.escalated.value
    saved = advice.cost.hours(advice.cost.items_a_day * fewer) if advice.cost else None
    return msgspec.structs.replace(advice, action="take", why=why, proposed=proposed, saved_gpu_hours_a_day=saved)


def _keeping(advice: Advice) -> Advice:
    """No gate is better yet: collect the labels that would settle it, if any number would."""
    open_choices = [choice for choice in advice.choices if choice.more_labels]
    if not open_choices:
        return msgspec.structs.replace(advice, action="keep", why="no other gate is better")
    nearest = min(open_choices, key=lambda choice: choice.more_labels or 0)
    why = f"undecided between {nearest.name} and {nearest.than}, which more labels would settle"
    return _collecting(advice, Shortfall(nearest.more_labels, why))
