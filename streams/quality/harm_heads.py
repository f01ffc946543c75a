"""Trains the encoder's harm heads.

    python -m safeguard_streams.quality.harm_heads FOLDER [FILE]

A head is a logistic regression on vectors. While it trains, each source with texts of both kinds has an intercept of
its own, which keeps the head from mistaking differences between sources for harm. All other sources share one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.labelled import Labelled
from safeguard_streams.prefilter.classifier import NONE, Floats
from safeguard_streams.prefilter.encoder import harm_heads
from safeguard_streams.prefilter.encoder.encoder import Encoder, Vectors
from safeguard_streams.prefilter.encoder.harm_heads import HarmHeads
from safeguard_streams.prefilter.encoder.tokens import undisguised
from safeguard_streams.prefilter.normalise import read
from safeguard_streams.quality import training
from safeguard_streams.quality.scoring import BATCH

MAX_ROWS = 700  # of a source, of each side
MIN_ROWS_PER_SIDE = 15  # for a source to have an intercept of its own
SCALE = 12.0  # of the vectors, whose length is 1
INVERSE_STRENGTH = 0.01  # of the regularisation
FREE = 10.0  # column of an intercept, which makes its regularisation negligible
WEIGHT = 2.0  # of a head's logit beside fastText's log odds
RANGE = 2.0  # standard deviations from the mean: what a head usually gives

Flags = NDArray[np.bool_]


def vectors_of(
    encoder: Encoder, texts: Sequence[str], on_progress: Callable[[int], None] = lambda count: None
) -> Vectors:
    """The vectors of texts as the prefilter encodes them [texts, 512]."""
    parts = []
    for at in range(0, len(texts), BATCH):
        part = texts[at : at + BATCH]
        parts.append(encoder.encode(undisguised(read(part), range(len(part)))))
        on_progress(at + len(part))
    return np.concatenate(parts)


def chosen(rows: Sequence[Labelled], seed: int = 0) -> list[Labelled]:
    """At most MAX_ROWS rows of each source and side, drawn at random."""
    groups: dict[tuple[str, bool], list[int]] = {}
    for number in np.random.default_rng(seed).permutation(len(rows)).tolist():
        groups.setdefault((rows[number].source, rows[number].violates), []).append(number)
    return [rows[number] for group in sorted(groups) for number in sorted(groups[group][:MAX_ROWS])]


def fit(rows: Sequence[Labelled], vectors: Vectors, encoder: str) -> HarmHeads:
    """Heads for each harm of the rows, and for any harm. vectors: one for each row.

    Each source has the same weight. Raises ConfigurationError when the rows hold no harm, or nothing else.
    """
    harms = sorted({row.harm for row in rows} - {NONE})
    if not harms or all(row.violates for row in rows):
        raise ConfigurationError("training needs rows of at least one harm and rows that violate nothing")
    of = np.array([row.harm for row in rows], dtype=object)
    learned = [_fit_one(rows, vectors, of == harm) for harm in harms]
    learned.append(_fit_one(rows, vectors, of != NONE))
    weights = WEIGHT * np.array([weights for weights, _ in learned]).T
    bias = WEIGHT * np.array([bias for _, bias in learned])
    logits = vectors @ weights + bias
    mean, deviation = logits.mean(axis=0), RANGE * logits.std(axis=0)
    return HarmHeads.of(encoder, harms, weights, bias, np.array([mean - deviation, mean + deviation]))


def _fit_one(rows: Sequence[Labelled], vectors: Vectors, positive: Flags) -> tuple[Floats, float]:
    """The weights of the vector [512] and the bias of the head for these positive rows."""
    intercepts, weights = _sources(rows, positive)
    x = np.hstack([vectors * SCALE, intercepts]).astype(np.float32)
    model = LogisticRegression(C=INVERSE_STRENGTH, max_iter=200).fit(x, positive, sample_weight=weights)
    width = vectors.shape[1]
    bias = float(model.intercept_[0]) + float(np.average(intercepts @ model.coef_[0, width:], weights=weights))
    return model.coef_[0, :width] * SCALE, bias


def _sources(rows: Sequence[Labelled], positive: Flags) -> tuple[Floats, Floats]:
    """Columns that are FREE for rows of a source with an intercept [rows, sources], and weights that balance sources
    and sides [rows].
    """
    names = np.array([row.source for row in rows], dtype=object)
    both, weights = [], np.zeros(len(rows))
    for name in sorted(set(names.tolist())):
        own = names == name
        weights[own] = 1 / np.sqrt(own.sum())
        if min((own & positive).sum(), (own & ~positive).sum()) >= MIN_ROWS_PER_SIDE:
            both.append(own)
    for side in (positive, ~positive):
        weights[side] *= len(rows) / 2 / weights[side].sum()
    return FREE * np.array(both, dtype=np.float64).reshape(len(both), len(rows)).T, weights


def main() -> None:
    """Train on the rows of a folder that are not held out, and write the heads, by default those of the package."""
    folder, *out = sys.argv[1:]
    encoder = Encoder()
    rows = chosen(training.read_folder(Path(folder), print).train)
    vectors = vectors_of(
        encoder, [row.text for row in rows], lambda count: print(f"{count:,} of {len(rows):,} encoded")
    )
    path = Path(out[0]) if out else harm_heads.SHIPPED
    path.write_bytes(msgspec.json.format(msgspec.json.encode(fit(rows, vectors, encoder.name)), indent=1) + b"\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
