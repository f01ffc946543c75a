"""Trains the prefilter's fastText classifier."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
    "dim": 16,  # of each of the two models that are joined
    "wordNgrams": 1,
    "minn": 3,
    "maxn": 5,
    "minCount": 8,
    "bucket": 45_000,
    "loss": "softmax",
    "thread": 1,  # training with more threads is not reproducible
}
"""Arguments of the shipped model."""

FULL: dict[str, Any] = RECIPE | {"minCount": 3, "bucket": 500_000}
"""Arguments of a model of unrestricted size, for comparison."""

MIN_ROWS_PER_SIDE = 15  # violating and other rows, for a source to have classes of its own
OWN_SHARE = 0.5  # of what tells one harm from the others, in the averaged classes
AVERAGED_WEIGHT = 1.5  # of the averaged classes against those of all rows
_CLASS = "__label__"  # fastText's prefix of a class

Matrix = NDArray[np.float32]


class TrainingData(NamedTuple):
    """Rows to train on, and rows that are held out from all training."""

    train: list[Labelled]
    held_out: list[Labelled]


def read_folder(folder: Path, on_progress: Callable[[str], None] = lambda line: None) -> TrainingData:
    """All rows of a folder's files. on_progress gets a line for each file."""
    data = TrainingData([], [])
    for path in labelled.files(folder):
        before = len(data.train), len(data.held_out)
        for row in labelled.read(path):
            (data.held_out if labelled.held_out(row.text) else data.train).append(row)
        train, held_out = len(data.train) - before[0], len(data.held_out) - before[1]
        on_progress(f"{path.name}: {train:,} rows to train on, {held_out:,} held out")
    return data


def fit(rows: Sequence[Labelled], out: Path, seed: int = 0, recipe: dict[str, Any] = RECIPE) -> None:
    """Train on the rows and write the model to `out`. Equal rows, seed and recipe give an equal model.

    The file joins two models, whose logits add up. The first learns the harms from all rows. The second has classes of
    their own for each source while it trains, which keeps it from mistaking differences between sources for harm. Its
    directions from none to each harm are then averaged over the sources. Sources with only one side share their
    classes. Raises ConfigurationError when the rows hold no harm, or no text that violates nothing.
    """
    if len({row.harm for row in rows}) < 2 or NONE not in {row.harm for row in rows}:
        raise ConfigurationError("training needs rows of at least one harm and rows that violate nothing")
    sides = Counter((row.source, row.violates) for row in rows)
    both = {row.source for row in rows if min(sides[row.source, True], sides[row.source, False]) >= MIN_ROWS_PER_SIDE}
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
                    by_source.write(f"{_CLASS}{rows[i].harm}@{source} {texts[i]}\n")
                    plain.write(f"{_CLASS}{rows[i].harm} {texts[i]}\n")
        harms = _train(names, Path(folder) / "harms.bin", recipe | {"seed": seed})
        sources = _train(lines, Path(folder) / "sources.bin", recipe | {"seed": seed})
        # fastText writes only models of its own making: an untrained one with room for both.
        joined = recipe | {"seed": seed, "epoch": 1, "lr": 0.0, "dim": 2 * recipe["dim"]}
        model = _train(names, Path(folder) / "model.bin", joined)
        inputs = [_inputs(part, model) for part in (harms, sources)]
        outputs = [_outputs(harms, model), _averaged(sources, counts, model)]
        model.set_matrices(np.concatenate(inputs, axis=1), np.concatenate(outputs, axis=1))
        model.save_model(str(out))


def _train(lines: Path, out: Path, arguments: dict[str, Any]) -> Any:
    """Train in a new process with fresh memory.

    With one thread fastText initialises only a tenth of its matrix, and leaves the rest as the allocator returns it.
    """
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", "safeguard_streams.quality.training", str(lines), str(out), json.dumps(arguments)]
    subprocess.run(command, check=True, env=environment, start_new_session=True)  # Ctrl-C ends it through this process
    return fasttext.load_model(str(out))


def _inputs(part: Any, model: Any) -> Matrix:
    """The part's input rows, in the order of the model's words [words and buckets, dim]."""
    rows: Matrix = part.get_input_matrix().astype(np.float32)
    known = {word: i for i, word in enumerate(part.get_words())}
    words = rows[[known[word] for word in model.get_words()]]
    return np.concatenate([words, rows[len(known) :]])


def _outputs(part: Any, model: Any) -> Matrix:
    """The part's output rows, in the order of the model's classes [classes, dim]."""
    rows = dict(zip(part.get_labels(), part.get_output_matrix(), strict=True))
    return np.array([rows[label] for label in model.get_labels()], dtype=np.float32)


def _averaged(part: Any, counts: Counter[tuple[str, str]], model: Any) -> Matrix:
    """Output rows for the model's classes [classes, dim], averaged over the part's classes HARM@SOURCE.

    counts: training rows by harm and source.
    """
    outputs = dict(zip(part.get_labels(), part.get_output_matrix(), strict=True))
    harms = sorted({harm for harm, _ in counts} - {NONE})
    towards, apart = [], {harm: [np.zeros(part.get_dimension())] for harm in harms}
    for source in sorted({source for _, source in counts}):
        of_source = {harm: outputs[f"{_CLASS}{harm}@{source}"] for harm in harms if counts[harm, source]}
        if of_source and counts[NONE, source]:
            weights = [counts[harm, source] for harm in of_source]
            mean = np.average(list(of_source.values()), axis=0, weights=weights)
            towards.append(mean - outputs[f"{_CLASS}{NONE}@{source}"])
        for harm, output in of_source.items():
            if len(of_source) > 1:
                apart[harm].append(output - np.mean(list(of_source.values()), axis=0))
    rows = {NONE: np.zeros(part.get_dimension())}
    for harm in harms:
        own = np.mean(apart[harm][1:] or apart[harm], axis=0)
        rows[harm] = AVERAGED_WEIGHT * (np.mean(towards, axis=0) + OWN_SHARE * own)
    return np.array([rows[label.removeprefix(_CLASS)] for label in model.get_labels()], dtype=np.float32)


if __name__ == "__main__":
    fasttext.train_supervised(sys.argv[1], **json.loads(sys.argv[3]), verbose=0).save_model(sys.argv[2])
