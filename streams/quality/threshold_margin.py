"""Whether a distilled classifier's threshold reaches its recall on texts that it was not set from.

    python -m safeguard_streams.quality.threshold_margin FOLDER [SET...]

For each set of labelled texts, some rows train a classifier as `safeguard prefilter distill` does and set its
threshold, with the margin and without. Other rows tell the recall.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from safeguard_streams.policies import labelled
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import load_library
from safeguard_streams.policies.labelled import Labelled
from safeguard_streams.prefilter.classifier import Classifier, Floats
from safeguard_streams.prefilter.encoder.encoder import Encoder
from safeguard_streams.quality.distillation import Features, learn
from safeguard_streams.quality.encoded_labels import MAX_TESTED, MIN_TESTED, general
from safeguard_streams.quality.evaluation import Flags
from safeguard_streams.quality.gate_choice import aimed_recall
from safeguard_streams.quality.paired import TARGET_RECALL
from safeguard_streams.quality.threshold import reaching

SIZES, SPLITS = (200, 800), 3
Z = 1.96  # 95%


class Reached(msgspec.Struct, frozen=True):
    """The recall that a threshold reaches on other texts, and the share that it escalates: without margin, and with."""

    name: str
    labels: int
    vectors: bool
    recall: tuple[float, float]
    escalated: tuple[float, float]


def reached(name: str, parts: Sequence[Features], truths: Sequence[Flags], seed: int, *, vectors: bool) -> Reached:
    """Train on the first part, and measure on the second."""
    (train, test), (seen, unseen) = parts, truths
    weights = np.ones(len(seen))
    learned = learn(train, seen, weights, seed, vectors=vectors)
    scores = learned.model.scores(test, np.arange(len(unseen)))
    targets = (TARGET_RECALL, aimed_recall(TARGET_RECALL, seen, weights))
    taken = [scores >= reaching(learned.unseen, seen, target, weights) for target in targets]
    return Reached(
        name,
        len(seen),
        vectors,
        (float(taken[0][unseen].mean()), float(taken[1][unseen].mean())),
        (float(taken[0].mean()), float(taken[1].mean())),
    )


def measure(
    sets: dict[str, list[Labelled]], policy: Policy, classifier: Classifier, encoder: Encoder | None
) -> Iterator[Reached]:
    """What thresholds reach on all sets that are large enough, with vectors if there is an encoder."""
    for name, rows in sets.items():
        for size in SIZES:
            for seed in range(SPLITS if len(rows) >= size + MIN_TESTED else 0):
                order = np.random.default_rng(seed).permutation(len(rows)).tolist()
                chosen = [[rows[n] for n in part] for part in (order[:size], order[size : size + MAX_TESTED])]
                truths = [np.array([row.violates for row in part]) for part in chosen]
                features = [Features(policy, classifier, [row.text for row in part], encoder) for part in chosen]
                for vectors in (False, True) if encoder else (False,):
                    yield reached(name, features, truths, seed, vectors=vectors)


def interval(values: Floats) -> str:
    """A mean with its 95% interval, over sets and splits."""
    half = Z * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{values.mean():.3f} ({values.mean() - half:.3f}-{values.mean() + half:.3f})"


def line(results: Sequence[Reached], name: str) -> str:
    """A row of a table in Markdown: means over splits, or over sets and splits."""
    cells = [
        interval(np.array([getattr(one, f)[n] for one in results])) for n in (0, 1) for f in ("recall", "escalated")
    ]
    return f"| {name} | {results[0].labels} | {'yes' if results[0].vectors else 'no'} | {' | '.join(cells)} |"


def main() -> None:
    """Print a table for the sets of a folder that have both kinds of texts; further arguments name some of them."""
    folder, *names = sys.argv[1:]
    paths = [path for path in labelled.files(Path(folder)) if not names or path.name.split(".")[0] in names]
    sets = {path.name.split(".")[0]: list(labelled.read(path)) for path in paths}
    sets = {name: rows for name, rows in sets.items() if len({row.violates for row in rows}) == 2}
    print("| set | labels | vectors | recall without margin | escalated | recall with margin | escalated |")
    print("|" + " --- |" * 7, flush=True)
    found: list[Reached] = []
    for one in measure(sets, general(load_library()["hate-harassment"]), Classifier(), Encoder()):
        found.append(one)
        print(line([one], one.name), flush=True)
    for size in SIZES:
        for vectors in (False, True):
            chosen = [one for one in found if (one.labels, one.vectors) == (size, vectors)]
            if chosen:
                print(line(chosen, "mean"), flush=True)


if __name__ == "__main__":
    main()
