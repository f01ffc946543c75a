"""Distilled classifiers: weights of letter groups, learned from one policy's verdicts, small enough to ship with it."""

from __future__ import annotations

import base64
import zlib
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from safeguard_streams.errors import PolicyError

Floats = NDArray[np.float64]

BUCKETS = 2**16
MIN_GROUP, MAX_GROUP = 2, 5  # characters


def groups(word: str) -> list[int]:
    """Buckets of a word and of its groups of 2 to 5 letters. Marks for the word's start and end count as letters."""
    marked = f"<{word}>"
    letters = [
        marked[start : start + length]
        for length in range(MIN_GROUP, MAX_GROUP + 1)
        for start in range(len(marked) - length + 1)
    ]
    return [zlib.crc32(part.encode("utf-8", "surrogatepass")) % BUCKETS for part in (word, *letters)]


def log_odds(probability: Floats) -> Floats:
    """Logit, bounded to +-14."""
    p = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(p / (1 - p)))


class DistilledClassifier(msgspec.Struct, frozen=True, dict=True):
    """P(violates) = sigmoid(a * logit(P(harms)) + b * logit(P(any harm)) + sum of weights / sqrt(group count) + bias).

    policy_id: the policy whose verdicts trained it; rows: how many texts that were.
    classifier: name of the fastText model that it was trained with and needs.
    harms: the gate's harms; empty means all. trust: (a, b).
    weights: int8 [BUCKETS], compressed with zlib and encoded in base64, in units of `unit`.
    """

    policy_id: str
    classifier: str
    harms: tuple[str, ...]
    trust: tuple[float, float]
    bias: float
    unit: float
    weights: str
    rows: int

    @cached_property
    def table(self) -> Floats:
        """Weights by bucket."""
        # Bounded, because a few kilobytes could unpack to gigabytes.
        unpacked = zlib.decompressobj().decompress(base64.b64decode(self.weights), BUCKETS + 1)
        packed = np.frombuffer(unpacked, dtype=np.int8)
        return packed.astype(np.float64) * self.unit

    def sum(self, word: str) -> float:
        """Sum of the weights of a word's groups."""
        return float(self.table[groups(word)].sum())

    def probability(self, harms: Floats, any_harm: Floats, own: Floats) -> Floats:
        """P(violates) from P(harms), P(any harm), and this classifier's own logit with the bias included."""
        logit = self.trust[0] * log_odds(harms) + self.trust[1] * log_odds(any_harm) + own
        return np.asarray(1 / (1 + np.exp(-logit)))

    @staticmethod
    def features(word: str) -> int:
        """Number of groups of a word."""
        return len(groups(word))


def read(value: bytes | str, origin: str = "distilled classifier") -> DistilledClassifier:
    """Decode the JSON of distilled.json. Raises PolicyError when it does not hold a distilled classifier."""
    try:
        classifier = msgspec.json.decode(value, type=DistilledClassifier)
        size = classifier.table.size
    except (msgspec.MsgspecError, ValueError, zlib.error) as error:
        raise PolicyError(
            f"{origin}: not a distilled classifier; make one with safeguard prefilter distill: {error}"
        ) from error
    if size != BUCKETS:
        raise PolicyError(f"{origin}: has {size} weights, not {BUCKETS}")
    return classifier


def write(weights: Floats, **fields: Any) -> bytes:
    """JSON of a DistilledClassifier with these weights [BUCKETS]."""
    unit = max(float(np.abs(weights).max()) / 127, 1e-9)
    packed = base64.b64encode(zlib.compress(np.rint(weights / unit).astype(np.int8).tobytes(), 9)).decode()
    return msgspec.json.encode(DistilledClassifier(weights=packed, unit=unit, **fields))
