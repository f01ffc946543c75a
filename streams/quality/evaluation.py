"""How well scores rank violating texts first: tables with bootstrap intervals, and curves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from safeguard_streams.policies.labelled import Labelled

ESCALATED = (0.05, 0.10, 0.20, 0.30, 0.50)
RECALLS = (0.90, 0.95, 0.99)
RESAMPLES = 200
POINTS = 201  # of a curve that is drawn

Floats = NDArray[np.float64]
Score = Callable[[Sequence[str]], Floats]


class Estimate(msgspec.Struct, frozen=True):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"


class Figures(msgspec.Struct, frozen=True):
    """One set, or one label of it. recall is by share escalated, escalated by recall wanted; all 0 to 1.

    roc_auc is None where only one side is there.
    """

    name: str
    rows: int
    violating: int
    roc_auc: Estimate | None
    average_precision: Estimate | None
    recall: dict[str, Estimate]
    escalated: dict[str, Estimate]


def recall_at(scores: Floats, violates: NDArray[np.bool_], share: float) -> float:
    """Share of the violating texts among the `share` of texts with the highest scores; texts of equal score are taken
    in part, so that their order does not matter.
    """
    take = share * len(scores)
    edge = np.sort(scores)[::-1][min(len(scores) - 1, max(0, int(np.ceil(take)) - 1))]
    above, level = scores > edge, scores == edge
    part = (take - above.sum()) / level.sum()
    return float((violates[above].sum() + part * violates[level].sum()) / violates.sum())


def escalated_for(scores: Floats, violates: NDArray[np.bool_], recall: float) -> float:
    """Share of texts whose score reaches the threshold that catches this share of the violating ones."""
    return float((scores >= threshold_for(scores, violates, recall)).mean())


def threshold_for(scores: Floats, violates: NDArray[np.bool_], recall: float) -> float:
    """The highest threshold that at least this share of the violating texts reaches."""
    ranked = np.sort(scores[violates])[::-1]
    return float(ranked[int(np.ceil(recall * len(ranked) - 1e-9)) - 1])


def figures(name: str, scores: Floats, violates: NDArray[np.bool_], seed: int = 0) -> Figures:
    """All figures of a set, with percentile bootstrap intervals over its texts."""
    draw = np.random.default_rng(seed)
    picks = [draw.integers(0, len(scores), len(scores)) for _ in range(RESAMPLES)]

    def estimate(measure: Callable[[Floats, NDArray[np.bool_]], float]) -> Estimate:
        values = [measure(scores[p], violates[p]) for p in picks if violates[p].any() and not violates[p].all()]
        low, high = np.percentile(values, [2.5, 97.5]) if values else (0.0, 1.0)
        return Estimate(*(round(float(x), 4) for x in (measure(scores, violates), low, high)))

    both = bool(violates.any() and not violates.all())
    return Figures(
        name,
        len(scores),
        int(violates.sum()),
        estimate(lambda s, y: float(roc_auc_score(y, s))) if both else None,
        estimate(lambda s, y: float(average_precision_score(y, s))) if both else None,
        {f"{e:.0%}": estimate(lambda s, y, e=e: recall_at(s, y, e)) for e in ESCALATED if both},  # type: ignore[misc]  # mypy infers no lambda with a default
        {f"{r:.2f}": estimate(lambda s, y, r=r: escalated_for(s, y, r)) for r in RECALLS if both},  # type: ignore[misc]  # mypy infers no lambda with a default
    )


def by_set(rows: Iterable[Labelled], score: Score) -> list[Figures]:
    """Figures of each source in the rows."""
    return [figures(name, *group) for name, group in groups(rows, score, lambda row: row.source)]


def by_label(rows: Sequence[Labelled], score: Score) -> list[Figures]:
    """Figures of each harm that rows name, against all rows that violate nothing."""
    harms = sorted({row.harm for row in rows if row.violates and row.harm})
    found = []
    for harm in harms:
        chosen = [row for row in rows if not row.violates or row.harm == harm]
        found += [figures(harm, *group) for _, group in groups(chosen, score, lambda _: harm)]  # noqa: B023  (called before the next turn)
    return found


def groups(
    rows: Iterable[Labelled], score: Score, of: Callable[[Labelled], str]
) -> list[tuple[str, tuple[Floats, NDArray[np.bool_]]]]:
    """Scores and truth of the rows, by a name for each."""
    by_name: dict[str, list[Labelled]] = {}
    for row in rows:
        by_name.setdefault(of(row), []).append(row)
    return [
        (name, (score([row.text for row in group]), np.array([row.violates for row in group])))
        for name, group in sorted(by_name.items())
    ]


def mean_roc_auc(table: Sequence[Figures]) -> float:
    """Mean over the sets that have both sides."""
    known = [row.roc_auc.value for row in table if row.roc_auc]
    return sum(known) / len(known) if known else float("nan")


def markdown(table: Sequence[Figures]) -> list[str]:
    """A table in Markdown: figures with intervals for ROC-AUC, plain for the rest."""
    names = [
        "set", "rows", "violating", "ROC-AUC", "average precision",
        *(f"recall at {e:.0%}" for e in ESCALATED), *(f"escalated for {r:.2f}" for r in RECALLS),
    ]  # fmt: skip
    lines = [f"| {' | '.join(names)} |", "| --- |" + " ---: |" * (len(names) - 1)]
    for row in table:
        cells = [row.name, f"{row.rows:,}", f"{row.violating:,}", str(row.roc_auc or "")]
        cells.append(f"{row.average_precision.value:.3f}" if row.average_precision else "")
        cells += [f"{e.value:.3f}" for e in (*row.recall.values(), *row.escalated.values())]
        cells += [""] * (len(names) - len(cells))
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", f"Mean ROC-AUC over sets with both sides: {mean_roc_auc(table):.3f}."]


def plot(curves: dict[str, tuple[Floats, NDArray[np.bool_]]], path: Path, title: str) -> None:
    """Recall against the share escalated, a line for each name, as SVG or PNG by the file's ending."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 6), layout="constrained")
    axes = figure.subplots()
    for name, (scores, violates) in curves.items():
        if violates.any() and not violates.all():
            order = np.argsort(-scores, kind="stable")
            recall = np.append(0, np.cumsum(violates[order]) / violates.sum())
            shares = np.linspace(0, 1, POINTS)
            axes.plot(shares, np.interp(shares, np.linspace(0, 1, len(recall)), recall), label=name, linewidth=1.3)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="by chance")
    axes.set(xlabel="share escalated", ylabel="recall", title=title, xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small", ncols=2 if len(curves) > 8 else 1)
    with rc_context({"svg.hashsalt": "safeguard"}):  # equal curves give an equal file
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
