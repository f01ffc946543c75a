"""Training of the prefilter's classifier."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fasttext
import numpy as np
from numpy.typing import NDArray

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies import labelled
from safeguard_streams.policies.labelled import Labelled
from safeguard_streams.prefilter.classifier import NONE
from safeguard_streams.prefilter.normalise import tokens

RECIPE: dict[str, Any] = {
    "lr": 0.5,
    "epoch": 4,
    "dim": 16,  # of each of the two models that are put side by side
    "wordNgrams": 1,
    "minn": 3,
    "maxn": 5,
    "minCount": 8,
    "bucket": 45_000,
    "loss": "softmax",
    "thread": 1,  # more threads would make each training differ
}
"""What the shipped model is trained with."""

FULL: dict[str, Any] = RECIPE | {"minCount": 3, "bucket": 500_000}
"""A model without regard to size, which the shipped one is compared with."""

FEWEST_OF_A_SIDE = 15  # rows, for a source to have labels of its own
OWN_SHARE = 0.5  # of what tells one harm from the others, in the averaged labels
AVERAGED_WEIGHT = 1.5  # of the averaged labels beside those of all rows alike
_LABEL = "__label__"

Matrix = NDArray[np.float32]


def read_folder(
    folder: Path, progress: Callable[[str], None] = lambda line: None
) -> tuple[list[Labelled], list[Labelled]]:
    """All rows of a folder: those to train on, and those that are kept from all training."""
    train: list[Labelled] = []
    held: list[Labelled] = []
    for path in labelled.files(folder):
        before = len(train), len(held)
        for row in labelled.read(path):
            (held if labelled.held_out(row.text) else train).append(row)
        progress(f"{path.name}: {len(train) - before[0]} rows to train on, {len(held) - before[1]} held out")
    return train, held


def fit(rows: Sequence[Labelled], out: Path, seed: int = 0, recipe: dict[str, Any] = RECIPE) -> None:
    """Train on the rows and write the model; equal rows, seed and recipe give an equal model.

    Two models in one. The first learns the harms from all rows alike. In the second each source has labels of its own
    while training, so that what tells sources apart is not taken for what tells harm apart; afterwards the directions
    that lead from none to harm are averaged over the sources (those that have only one side share theirs). Side by
    side, their logits add up. Raises ConfigurationError when there is nothing to tell apart.
    """
    if len({row.harm for row in rows}) < 2 or NONE not in {row.harm for row in rows}:
        raise ConfigurationError("training needs rows of at least one harm and rows that violate nothing")
    sides = Counter((row.source, row.violates) for row in rows)
    both = {row.source for row in rows if min(sides[row.source, True], sides[row.source, False]) >= FEWEST_OF_A_SIDE}
    order = np.random.default_rng(seed).permutation(len(rows))
    texts = [" ".join(tokens(row.text)) for row in rows]
    counts: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        lines, names = Path(folder) / "sources.txt", Path(folder) / "harms.txt"
        with lines.open("w", encoding="utf-8") as by_source, names.open("w", encoding="utf-8") as plain:
            for i in order:
                if texts[i]:
                    source = rows[i].source if rows[i].source in both else "rest"
                    counts[rows[i].harm, source] += 1
                    by_source.write(f"{_LABEL}{rows[i].harm}@{source} {texts[i]}\n")
                    plain.write(f"{_LABEL}{rows[i].harm} {texts[i]}\n")
        harms = _train(names, Path(folder) / "harms.bin", recipe | {"seed": seed})
        sources = _train(lines, Path(folder) / "sources.bin", recipe | {"seed": seed})
        # Untrained, with room for both: what fastText writes a model of.
        both_sides = recipe | {"seed": seed, "epoch": 1, "lr": 0.0, "dim": 2 * recipe["dim"]}
        model = _train(names, Path(folder) / "model.bin", both_sides)
        inputs = [_inputs(part, model) for part in (harms, sources)]
        outputs = [_outputs(harms, model), _averaged(sources, counts, model)]
        model.set_matrices(np.concatenate(inputs, axis=1), np.concatenate(outputs, axis=1))
        model.save_model(str(out))


def _train(lines: Path, out: Path, arguments: dict[str, Any]) -> Any:
    """Train in a process of its own, whose memory is fresh: with one thread fastText sets only a tenth of its matrix, and
    takes the rest as the allocator hands it out.
    """
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", "safeguard_streams.quality.training", str(lines), str(out), json.dumps(arguments)]
    subprocess.run(command, check=True, env=environment)
    return fasttext.load_model(str(out))


def _inputs(part: Any, model: Any) -> Matrix:
    """The part's input rows in the order of the model's words."""
    rows: Matrix = part.get_input_matrix().astype(np.float32)
    known = {word: i for i, word in enumerate(part.get_words())}
    words = rows[[known[word] for word in model.get_words()]]
    return np.concatenate([words, rows[len(known) :]])


def _outputs(part: Any, model: Any) -> Matrix:
    """The part's output rows in the order of the model's labels."""
    rows = dict(zip(part.get_labels(), part.get_output_matrix(), strict=True))
    return np.array([rows[label] for label in model.get_labels()], dtype=np.float32)


def _averaged(part: Any, counts: Counter[tuple[str, str]], model: Any) -> Matrix:
    """Output rows for the model's labels, from the part's labels HARM@SOURCE, that occur so often."""
    outputs = dict(zip(part.get_labels(), part.get_output_matrix(), strict=True))
    harms = sorted({harm for harm, _ in counts} - {NONE})
    towards, apart = [], {harm: [np.zeros(part.get_dimension())] for harm in harms}
    for source in sorted({source for _, source in counts}):
        there = {harm: outputs[f"{_LABEL}{harm}@{source}"] for harm in harms if counts[harm, source]}
        if there and counts[NONE, source]:
            weights = [counts[harm, source] for harm in there]
            mean = np.average(list(there.values()), axis=0, weights=weights)
            towards.append(mean - outputs[f"{_LABEL}{NONE}@{source}"])
        for harm, output in there.items():
            if len(there) > 1:
                apart[harm].append(output - np.mean(list(there.values()), axis=0))
    rows = {NONE: np.zeros(part.get_dimension())}
    for harm in harms:
        own = np.mean(apart[harm][1:] or apart[harm], axis=0)
        rows[harm] = AVERAGED_WEIGHT * (np.mean(towards, axis=0) + OWN_SHARE * own)
    return np.array([rows[label.removeprefix(_LABEL)] for label in model.get_labels()], dtype=np.float32)


if __name__ == "__main__":
    fasttext.train_supervised(sys.argv[1], **json.loads(sys.argv[3]), verbose=0).save_model(sys.argv[2])
