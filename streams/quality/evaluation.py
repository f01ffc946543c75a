"""How well scores rank violating texts above the rest: tables with bootstrap intervals, and curves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from safeguard_streams.policies import labelled
from safeguard_streams.policies.labelled import Labelled
from safeguard_streams.prefilter.classifier import Floats
from safeguard_streams.quality.copies import Indices, resamples
from safeguard_streams.quality.scoring import Score
from safeguard_streams.quality.weighted import Estimate

SHARES = (0.05, 0.10, 0.20, 0.30, 0.50)  # escalated, for which recall is reported
RECALLS = (0.90, 0.95, 0.99)  # for which the escalated share is reported
RESAMPLES = 200
POINTS = 201  # of a curve in a plot

Flags = NDArray[np.bool_]


class Figures(msgspec.Struct, frozen=True):
    """Figures of one set of texts, all 0 to 1.

    recall is by escalated share, escalated by the recall to reach. They are empty, and roc_auc and average_precision
    are None, in a set where all texts violate or none does.
    """

    name: str
    rows: int
    violating: int
    roc_auc: Estimate | None
    average_precision: Estimate | None
    recall: dict[str, Estimate]
    escalated: dict[str, Estimate]


class ScoredSet(msgspec.Struct, frozen=True):
    """A named set of texts: their scores, which of them violate, and how many texts each stands for [texts].

    copies [texts]: the group of each text's copies, which intervals take together; None where no text is a copy.
    """

    name: str
    scores: Floats
    violates: Flags
    weights: Floats
    copies: Indices | None = None

    @property
    def groups(self) -> Indices:
        """The group of each text [texts]: its copies, or the text alone."""
        return np.arange(len(self.scores)) if self.copies is None else self.copies


class Evaluation(msgspec.Struct, frozen=True):
    """Figures of several sets, and of each harm over all of them."""

    scored: list[ScoredSet]
    sets: list[Figures]
    harms: list[Figures]


def recall_at(scores: Floats, violates: Flags, weights: Floats, share: float) -> float:
    """The share of violating texts among this share of texts with the highest scores, both by weight.

    Texts of equal score count in part, which makes their order irrelevant.
    """
    order = np.argsort(-scores, kind="stable")
    take = share * weights.sum()
    last = min(len(scores) - 1, int(np.searchsorted(np.cumsum(weights[order]), take - 1e-9)))
    edge = scores[order[last]]
    above, level = scores > edge, scores == edge
    part = (take - weights[above].sum()) / weights[level].sum()
    found = weights[above & violates].sum() + part * weights[level & violates].sum()
    return float(found / weights[violates].sum())


def escalated_for(scores: Floats, violates: Flags, weights: Floats, recall: float) -> float:
    """The share of texts, by weight, that reach the threshold for this recall."""
    return float(weights[scores >= threshold_for(scores, violates, weights, recall)].sum() / weights.sum())


def threshold_for(scores: Floats, violates: Flags, weights: Floats, recall: float) -> float:
    """The highest threshold that at least this share of the violating texts, by weight, reaches."""
    order = np.argsort(-scores[violates], kind="stable")
    reached = np.cumsum(weights[violates][order])
    return float(scores[violates][order][np.searchsorted(reached, recall * reached[-1] - 1e-9)])


def _roc_auc(scores: Floats, violates: Flags, weights: Floats) -> float:
    return float(roc_auc_score(violates, scores, sample_weight=weights))


def _average_precision(scores: Floats, violates: Flags, weights: Floats) -> float:
    return float(average_precision_score(violates, scores, sample_weight=weights))


def figures(one: ScoredSet, seed: int = 0) -> Figures:
    """All figures of a set, with percentile bootstrap intervals over its texts."""
    scores, violates, weights = one.scores, one.violates, one.weights
    picks = [np.repeat(np.arange(len(scores)), times.astype(int)) for times in resamples(one.groups, RESAMPLES, seed)]

    def estimate(measure: Callable[[Floats, Flags, Floats], float]) -> Estimate:
        values = [
            measure(scores[p], violates[p], weights[p]) for p in picks if violates[p].any() and not violates[p].all()
        ]
        low, high = np.percentile(values, [2.5, 97.5]) if values else (0.0, 1.0)
        return Estimate(*(round(float(x), 4) for x in (measure(scores, violates, weights), low, high)))

    both_sides = bool(violates.any() and not violates.all())
    return Figures(
        name=one.name,
        rows=len(scores),
        violating=int(violates.sum()),
        roc_auc=estimate(_roc_auc) if both_sides else None,
        average_precision=estimate(_average_precision) if both_sides else None,
        recall={f"{share:.0%}": estimate(partial(recall_at, share=share)) for share in SHARES if both_sides},
        escalated={
            f"{recall:.2f}": estimate(partial(escalated_for, recall=recall)) for recall in RECALLS if both_sides
        },
    )


def scored_sets(rows: Iterable[Labelled], score: Score) -> list[ScoredSet]:
    """The rows of each source, by its name, with their scores."""
    by_source: dict[str, list[Labelled]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row)
    return [_scored(name, group, score) for name, group in sorted(by_source.items())]


def _scored(name: str, rows: Sequence[Labelled], score: Score) -> ScoredSet:
    return _unweighted(name, score([row.text for row in rows]), np.array([row.violates for row in rows]))


def _unweighted(name: str, scores: Floats, violates: Flags) -> ScoredSet:
    return ScoredSet(name, scores, violates, np.ones(len(scores)))


def by_set(rows: Iterable[Labelled], score: Score) -> list[Figures]:
    """Figures of each source in the rows."""
    return [figures(one) for one in scored_sets(rows, score)]


def by_harm(rows: Sequence[Labelled], scores: Floats) -> list[Figures]:
    """Figures of each harm in the rows, against all rows that do not violate. scores: [rows]."""
    violates = np.array([row.violates for row in rows], dtype=bool)
    harms = np.array([row.harm for row in rows], dtype=object)
    measured = []
    for harm in sorted({row.harm for row in rows if row.violates and row.harm}):
        chosen = ~violates | (harms == harm)
        measured.append(figures(_unweighted(harm, scores[chosen], violates[chosen])))
    return measured


def evaluate_folder(folder: Path, score: Score, on_progress: Callable[[str], None] = lambda step: None) -> Evaluation:
    """Score the labelled texts of a folder's files. on_progress gets each step's name."""
    rows: list[Labelled] = []
    scored = []
    sets = []
    for path in labelled.files(folder):
        on_progress(path.name)
        group = list(labelled.read(path))
        rows += group
        one = _scored(group[0].source, group, score)
        scored.append(one)
        sets.append(figures(one))
    on_progress("harms")
    return Evaluation(scored, sets, by_harm(rows, np.concatenate([one.scores for one in scored])))


def mean_roc_auc(table: Sequence[Figures]) -> float:
    """Mean over the sets that have violating and other texts."""
    known = [row.roc_auc.value for row in table if row.roc_auc]
    return sum(known) / len(known) if known else float("nan")


def table_lines(table: Sequence[Figures]) -> list[str]:
    """A Markdown table. ROC-AUC has its interval; the other figures have none."""
    names = ["set", "rows", "violating", "ROC-AUC", "average precision"]
    names += [f"recall at {share:.0%}" for share in SHARES]
    names += [f"escalated for {recall:.2f}" for recall in RECALLS]
    lines = [f"| {' | '.join(names)} |", "| --- |" + " ---: |" * (len(names) - 1)]
    for row in table:
        cells = [row.name, f"{row.rows:,}", f"{row.violating:,}", str(row.roc_auc or "")]
        cells.append(f"{row.average_precision.value:.3f}" if row.average_precision else "")
        cells += [f"{e.value:.3f}" for e in (*row.recall.values(), *row.escalated.values())]
        cells += [""] * (len(names) - len(cells))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def markdown(table: Sequence[Figures]) -> list[str]:
    """The table in Markdown, and the mean ROC-AUC below it."""
    mean = f"Mean ROC-AUC over sets with violating and other texts: {mean_roc_auc(table):.3f}."
    return [*table_lines(table), "", mean]


def plot(sets: Sequence[ScoredSet], path: Path, title: str) -> None:
    """Draw recall against the share escalated, one line for each set, as SVG or PNG by the file's suffix."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 6), layout="constrained")
    axes = figure.subplots()
    for one in sets:
        if one.violates.any() and not one.violates.all():
            order = np.argsort(-one.scores, kind="stable")
            weights = one.weights[order]
            recall, escalated = (np.append(0, np.cumsum(w) / w.sum()) for w in (weights * one.violates[order], weights))
            shares = np.linspace(0, 1, POINTS)
            axes.plot(shares, np.interp(shares, escalated, recall), label=one.name, linewidth=1.3)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="by chance")
    axes.set(xlabel="share escalated", ylabel="recall", title=title, xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small", ncols=2 if len(sets) > 8 else 1)
    with rc_context({"svg.hashsalt": "safeguard"}):  # equal curves give an equal file
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
