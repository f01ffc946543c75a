"""Whether a golden gate in shadow is better than the present gate, by live labels; and its taking into force."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np

from safeguard_streams.contract.records import GoldenScore
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies import golden_gates
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.golden_gates import GoldenGate
from safeguard_streams.prefilter.classifier import Floats
from safeguard_streams.quality import verdict_labels
from safeguard_streams.quality.distillation import with_classifier
from safeguard_streams.quality.evaluation import Flags, ScoredSet
from safeguard_streams.quality.gate_choice import Choice, compare, standard_error
from safeguard_streams.quality.gate_taking import written
from safeguard_streams.quality.threshold import CERTAIN, MIN_VIOLATING, Calibration, calibrate
from safeguard_streams.quality.verdict_labels import LabeledItem, Labels
from safeguard_streams.quality.weighted import Estimate, share, total
from safeguard_streams.releases import operator
from safeguard_streams.runtime.settings import Settings

MATCHED = 2.0  # a score above all


class LiveSide(msgspec.Struct, frozen=True):
    """A gate on live content, at its own threshold: its recall, and the share of content that it escalates.

    recall is None where no label violates.
    """

    recall: Estimate | None
    escalated: Estimate


class LiveComparison(msgspec.Struct, frozen=True):
    """Both gates on the judged items that have a score of the golden gate, weighted by how they were drawn.

    choice compares what they escalate for the target recall. proposed: the threshold that would reach it, set with a
    margin for the number of labels, and what to expect of it. Both are None where labels are too few, and why says so.
    """

    policy_id: str
    version: str
    name: str
    labels: int
    violating: int
    present: LiveSide
    golden: LiveSide
    choice: Choice | None = None
    proposed: Calibration | None = None
    why: str = ""
    left_out: str = ""

    @property
    def better(self) -> bool:
        """Whether the golden gate is better, beyond chance."""
        return self.choice is not None and self.choice.more_labels == 0 and self.choice.escalated.value < 0


def from_labels(labels: Labels, policy_id: str, target_recall: float) -> LiveComparison:
    """Compare on the items that the newest golden gate scored. Raises ConfigurationError when there are none."""
    named = [(row, golden.name) for row in labels.rows if (golden := _golden(row)) is not None]
    if not named:
        raise ConfigurationError(
            f"{policy_id}: no verdict has a score of a golden gate yet: release the policy with one, run prefilters "
            "with the extra encoder, and wait for verdicts"
        )
    newest = named[-1][1]
    rows = [row for row, name in named if name == newest]
    scored = _Scored(rows)
    comparison = LiveComparison(
        policy_id=policy_id,
        version=labels.version,
        name=newest,
        labels=len(rows),
        violating=int(scored.violates.sum()),
        present=scored.side(scored.escalated_now),
        golden=scored.side(scored.golden >= scored.thresholds),
        left_out=labels.left_out,
    )
    try:
        return scored.with_choice(comparison, target_recall)
    except ConfigurationError as error:
        return msgspec.structs.replace(comparison, why=str(error))


def _golden(row: LabeledItem) -> GoldenScore | None:
    return row.prefilter.golden if row.prefilter else None


class _Scored:
    """Judged items as arrays [items]: whether they violate, their weights, and both gates' scores."""

    def __init__(self, rows: Sequence[LabeledItem]) -> None:
        results = [(row, row.prefilter, golden) for row in rows if row.prefilter and (golden := _golden(row))]
        self.violates: Flags = np.array([row.violates for row in rows], dtype=bool)
        self.weights: Floats = np.array([row.weight / golden.rate for row, _, golden in results])
        self.certain: Flags = np.array([result.gate == "terms" for _, result, _ in results], dtype=bool)
        self.escalated_now: Flags = np.array([not row.drawn for row in rows], dtype=bool)
        scores = [MATCHED if result.gate in CERTAIN else result.score or 0.0 for _, result, _ in results]
        self.present: Floats = np.array(scores)
        self.golden = np.where(self.certain, MATCHED, [golden.score for _, _, golden in results])
        self.thresholds = np.array([golden.threshold for _, _, golden in results])

    def side(self, escalated: Flags) -> LiveSide:
        everything = np.ones(len(self.weights), dtype=bool)
        of_violating, of_everything = self._share(escalated, self.violates), self._share(escalated, everything)
        return LiveSide(of_violating if self.violates.any() else None, of_everything)

    def _share(self, taken: Flags, of: Flags) -> Estimate:
        def part(where: Flags) -> Estimate:
            return total(self.weights[where & of], float(self.weights[where].max(initial=0.0)))

        estimate = share(part(taken), part(~taken)) or Estimate(0.0, 0.0, 1.0)
        return Estimate(*(round(figure, 4) for figure in msgspec.structs.astuple(estimate)))

    def with_choice(self, comparison: LiveComparison, target_recall: float) -> LiveComparison:
        """Raises ConfigurationError where the labels are too few for it."""
        violating = comparison.violating
        if violating < MIN_VIOLATING or violating == len(self.weights):
            raise ConfigurationError(
                f"{violating} of {len(self.weights)} labels violate: a comparison needs at least {MIN_VIOLATING} "
                "that do, and some that do not: wait for more verdicts, or raise the policy's sample"
            )
        golden, present = (
            ScoredSet(name, scores, self.violates, self.weights)
            for name, scores in (("golden gate", self.golden), ("present gate", self.present))
        )
        aimed = min(1.0, target_recall + standard_error(target_recall, self.violates, self.weights))
        return msgspec.structs.replace(
            comparison,
            choice=compare(golden, present, target_recall),
            proposed=calibrate(np.minimum(self.golden, 1), self.violates, aimed, self.weights, self.certain),
        )


async def from_kafka(
    settings: Settings, policy_id: str, target_recall: float, since: datetime | None = None
) -> LiveComparison:
    """Compare on the verdicts that are on moderation.verdicts now."""
    return from_labels(await verdict_labels.from_kafka(settings, policy_id, since=since), policy_id, target_recall)


async def released(settings: Settings, policy: Policy, comparison: LiveComparison) -> GoldenGate:
    """The golden gate that was compared, from the history of releases.

    Raises ConfigurationError when it is gone, or when the policy at hand is not the version that was judged by.
    """
    if policy.version != comparison.version:
        raise ConfigurationError(
            f"{policy.id}: the file has version {policy.version}, and the verdicts are by {comparison.version}: "
            "take the file of the version in force"
        )
    for release in reversed((await operator.history(settings)).releases(policy.id)):
        gate = golden_gates.intact(release.golden)
        if gate is not None and gate.name == comparison.name:
            return gate
    raise ConfigurationError(f"{policy.id}: no release has the golden gate {comparison.name}: release the policy again")


def take_into_force(policy: Policy, gate: GoldenGate, comparison: LiveComparison, folder: Path) -> list[Path]:
    """Write policy.md and distilled.json with the golden gate in force at the proposed threshold. Returns their paths.

    Raises ConfigurationError while live labels do not say that it is better, or when the folder cannot be written.
    """
    if not comparison.better or comparison.proposed is None:
        reason = comparison.choice.verdict if comparison.choice else comparison.why
        raise ConfigurationError(f"{policy.id}: live labels do not say that the golden gate is better: {reason}")
    threshold = comparison.proposed.threshold
    content = msgspec.json.encode(gate.in_force(policy.gate, threshold))
    with written(folder, with_classifier(policy, content, threshold)) as path:
        return [path.with_name("distilled.json"), path]
