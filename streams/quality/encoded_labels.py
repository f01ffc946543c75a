"""What log odds and the encoder's vectors add to a distilled classifier.

    python -m safeguard_streams.quality.encoded_labels FOLDER [SET...]

For each set of labelled texts, some rows train three classifiers, and others measure them. The first sees letter groups
alone. The second also sees log odds, as that of `safeguard prefilter distill` does, and the third vectors as well.
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
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.encoder.encoder import Encoder
from safeguard_streams.quality.distillation import Features, fit
from safeguard_streams.quality.evaluation import Flags
from safeguard_streams.quality.paired import Paired, markdown, mean, paired

SIZES = (200, 800)  # labels
SPLITS = 1  # of each set
MIN_TESTED, MAX_TESTED = 200, 1500  # texts of a set, by which the classifiers are measured
SEEN = ("letters", "letters and log odds", "letters, log odds and vectors")


def general(policy: Policy) -> Policy:
    """The policy with a gate that scores any harm."""
    return msgspec.structs.replace(policy, distilled=None, gate=msgspec.structs.replace(policy.gate, harms=()))


def compare(name: str, features: Features, violates: Flags, labels: int, seed: int) -> Paired:
    """Compare the three classifiers on one random split."""
    order = np.random.default_rng(seed).permutation(len(violates))
    train, test = order[:labels], order[labels : labels + MAX_TESTED]
    weights = np.ones(len(violates))
    scores = []
    for seen, vectors in ((features.without_odds(), False), (features, False), (features, True)):
        scores.append(fit(seen, train, violates, weights, seed, vectors=vectors).scores(seen, test))
    return paired(name, scores, violates[test], seed)


def measure(sets: dict[str, list[Labelled]], labels: int, encoder: Encoder, classifier: Classifier) -> Iterator[Paired]:
    """The comparison on each set that is large enough, as the mean over its splits."""
    policy = general(load_library()["hate-harassment"])
    for name, rows in sets.items():
        chosen = np.random.default_rng(0).permutation(len(rows))[: max(SIZES) + MAX_TESTED].tolist()
        if len(chosen) < labels + MIN_TESTED:
            continue
        features = Features(policy, classifier, [rows[number].text for number in chosen], encoder)
        violates = np.array([rows[number].violates for number in chosen])
        yield mean(name, [compare(name, features, violates, labels, seed) for seed in range(SPLITS)])


def read_sets(folder: Path, names: Sequence[str] = ()) -> dict[str, list[Labelled]]:
    """The sets of a folder that have both kinds of texts, by name; by default all."""
    paths = [path for path in labelled.files(folder) if not names or path.name.split(".")[0] in names]
    sets = {path.name.split(".")[0]: list(labelled.read(path)) for path in paths}
    return {name: rows for name, rows in sets.items() if len({row.violates for row in rows}) == 2}


def main() -> None:
    """Print a table for each number of labels; further arguments name some of the sets."""
    folder, *names = sys.argv[1:]
    sets, encoder, classifier = read_sets(Path(folder), names), Encoder(), Classifier()
    for labels in SIZES:
        found = list(measure(sets, labels, encoder, classifier))
        print(f"\n{labels} labels:\n")
        print("\n".join(markdown(SEEN, [*found, *([mean("mean", found)] if found else [])])), flush=True)


if __name__ == "__main__":
    main()
