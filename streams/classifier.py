"""The fastText classifier: a probability for each harm, of the worst window of a text."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fasttext

from streams.errors import ConfigurationError
from streams.normalise import windows

SHIPPED = Path(__file__).parent / "model" / "prefilter.ftz"
NONE = "none"
_LABEL = "__label__"
_NONE = _LABEL + NONE

log = logging.getLogger(__name__)
Scores = dict[str, float]


class Classifier:
    """A model of labels none and harms, trained by `safeguard prefilter train`."""

    def __init__(self, path: Path = SHIPPED) -> None:
        if not path.is_file():
            raise ConfigurationError(f"{path}: no such fastText model; train one: safeguard prefilter train --help")
        try:
            self._model: Any = fasttext.load_model(str(path))
        except ValueError as error:
            raise ConfigurationError(f"{path}: not a fastText model: {error}") from error
        self._labels: list[str] = self._model.get_labels()
        if _NONE not in self._labels:
            raise ConfigurationError(f"{path}: has no label {NONE!r}; train it with safeguard prefilter train")
        self._short = {label: label.removeprefix(_LABEL) for label in self._labels}
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        self.name = f"fasttext-{digest}"

    @property
    def labels(self) -> list[str]:
        """All labels but none."""
        return sorted(label.removeprefix(_LABEL) for label in self._labels if label != _NONE)

    def score(self, texts: Sequence[str]) -> list[Scores]:
        """For each text the probabilities by label, none included, of the window with the least of none."""
        flat: list[str] = []
        counts: list[int] = []
        for text in texts:
            parts = windows(text)
            flat += parts
            counts.append(len(parts))
        labels, probabilities = self._model.predict(flat, k=len(self._labels))
        scores: list[Scores] = []
        at = 0
        for count in counts:
            worst = at
            if count > 1:
                none = [
                    row[names.index(_NONE)]
                    for names, row in zip(labels[at : at + count], probabilities[at:], strict=False)
                ]
                worst = at + none.index(min(none))
            short = self._short
            scores.append({short[n]: p for n, p in zip(labels[worst], probabilities[worst].tolist(), strict=True)})
            at += count
        return scores
