"""What the encoder's vectors add to a distilled classifier.

    python -m safeguard_streams.quality.encoded_labels FOLDER [SET...]

For each set of labelled texts, some rows train two classifiers, and others measure them. One sees letter groups and
log odds, as that of `safeguard prefilter distill` does. The other also sees vectors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from safeguard_streams.policies import labelled
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import load_library
from safeguard_streams.policies.labelled import Labelled
from safeguard_streams.prefilter.classifier import Classifier, Floats
from safeguard_streams.prefilter.encoder.encoder import Encoder
from safeguard_streams.quality.distillation import Features, fit
from safeguard_streams.quality.evaluation import Flags, escalated_for

TARGET_RECALL = 0.95
RESAMPLES = 500
MIN_TESTED, MAX_TESTED = 200, 1500  # texts of a set, by which the classifiers are measured

Indices = NDArray[np.intp]


class Difference(msgspec.Struct, frozen=True):
    """A figure without and with vectors, and the 95% interval of the difference."""

    without: float
    with_vectors: float
    low: float
    high: float


class Comparison(msgspec.Struct, frozen=True):
    """What the vectors add on one set, or on average over several.

    escalated: the share of texts that reach the threshold for a recall of 0.95, chosen on the same texts.
    """

    name: str
    labels: int
    tested: int
    roc_auc: Difference
    escalated: Difference


def general(policy: Policy) -> Policy:
    """The policy with a gate that scores any harm."""
    return msgspec.structs.replace(policy, distilled=None, gate=msgspec.structs.replace(policy.gate, harms=()))


def compare(name: str, features: Features, violates: Flags, labels: int, seed: int) -> tuple[Comparison, list[Floats]]:
    """Compare on one random split. Also the resampled differences, in the order of the figures."""
    order = np.random.default_rng(seed).permutation(len(violates))
    train, test = order[:labels], order[labels : labels + MAX_TESTED]
    weights = np.ones(len(violates))
    scores = [
        fit(features, train, violates, weights, seed, vectors=vectors).scores(features, test)
        for vectors in (False, True)
    ]
    drawn = np.random.default_rng(seed).integers(len(test), size=(RESAMPLES, len(test)))
    differences, resampled = [], []
    for figure in (_roc_auc, _escalated):
        values = [figure(s, violates[test]) for s in scores]
        resamples = np.array([_gain(figure, scores, violates[test], rows) for rows in drawn])
        low, high = np.percentile(resamples, [2.5, 97.5]).tolist()
        differences.append(Difference(values[0], values[1], low, high))
        resampled.append(resamples)
    return Comparison(name, labels, len(test), *differences), resampled


def _gain(figure: Callable[[Floats, Flags], float], scores: Sequence[Floats], violates: Flags, rows: Indices) -> float:
    return figure(scores[1][rows], violates[rows]) - figure(scores[0][rows], violates[rows])


def _roc_auc(scores: Floats, violates: Flags) -> float:
    return float(roc_auc_score(violates, scores))


def _escalated(scores: Floats, violates: Flags) -> float:
    return escalated_for(scores, violates, np.ones(len(scores)), TARGET_RECALL)


def mean(comparisons: Sequence[tuple[Comparison, list[Floats]]]) -> Comparison:
    """The mean over sets and splits, with the interval of the mean difference for these sets."""
    differences = []
    for number, field in enumerate(("roc_auc", "escalated")):
        each = [getattr(comparison, field) for comparison, _ in comparisons]
        low, high = np.percentile(np.mean([r[number] for _, r in comparisons], axis=0), [2.5, 97.5]).tolist()
        without, with_vectors = np.mean([(d.without, d.with_vectors) for d in each], axis=0).tolist()
        differences.append(Difference(without, with_vectors, low, high))
    tested = sum(comparison.tested for comparison, _ in comparisons)
    return Comparison("mean", comparisons[0][0].labels, tested, *differences)


def measure(
    sets: dict[str, list[Labelled]], sizes: Sequence[int], splits: int, encoder: Encoder, classifier: Classifier
) -> Iterator[Comparison]:
    """Comparisons of all sets that are large enough, by number of labels, and their means."""
    policy = general(load_library()["hate-harassment"])
    results: dict[int, list[tuple[Comparison, list[Floats]]]] = {size: [] for size in sizes}
    for name, rows in sets.items():
        chosen = np.random.default_rng(0).permutation(len(rows))[: max(sizes) + MAX_TESTED].tolist()
        features = Features(policy, classifier, [rows[number].text for number in chosen], encoder)
        violates = np.array([rows[number].violates for number in chosen])
        for size in sizes:
            for seed in range(splits if len(chosen) >= size + MIN_TESTED else 0):
                results[size].append(compare(name, features, violates, size, seed))
                yield results[size][-1][0]
    yield from (mean(of_size) for of_size in results.values() if of_size)


def line(c: Comparison) -> str:
    """A row of a table in Markdown."""
    figures = [
        f"{d.without:.3f} | {d.with_vectors:.3f} | {d.low:+.3f} to {d.high:+.3f}" for d in (c.roc_auc, c.escalated)
    ]
    return f"| {c.name} | {c.labels} | {c.tested} | {' | '.join(figures)} |"


def main() -> None:
    """Print a table for the sets of a folder that have both kinds of texts; further arguments name some of them."""
    folder, *names = sys.argv[1:]
    paths = [path for path in labelled.files(Path(folder)) if not names or path.name.split(".")[0] in names]
    sets = {path.name.split(".")[0]: list(labelled.read(path)) for path in paths}
    sets = {name: rows for name, rows in sets.items() if len({row.violates for row in rows}) == 2}
    print("| set | labels | texts | ROC-AUC | with vectors | difference | escalated | with vectors | difference |")
    print("|" + " --- |" * 9)
    for comparison in measure(sets, (200, 800), 2, Encoder(), Classifier()):
        print(line(comparison), flush=True)


if __name__ == "__main__":
    main()
