"""A label distilled for one policy from its own verdicts: weights of letter groups, small enough to travel with it."""

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
SHORTEST, LONGEST = 2, 5  # characters of a group


def groups(word: str) -> list[int]:
    """Buckets of a word and of its groups of 2 to 5 letters, its beginning and end marked."""
    marked = f"<{word}>"
    found = [zlib.crc32(word.encode("utf-8", "surrogatepass")) % BUCKETS]
    raw = [marked[i : i + length] for length in range(SHORTEST, LONGEST + 1) for i in range(len(marked) - length + 1)]
    return found + [zlib.crc32(group.encode("utf-8", "surrogatepass")) % BUCKETS for group in raw]


def log_odds(probability: Floats) -> Floats:
    """Logit, bounded to +-14."""
    p = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(p / (1 - p)))


class Distilled(msgspec.Struct, frozen=True, dict=True):
    """P(violates) = sigmoid(a * logit(P(labels)) + b * logit(P(any harm)) + sum of weights / sqrt(count of groups) + bias).

    trust is (a, b). classifier names the fastText model beside which it was distilled; labels are the gate's harms (all,
    when empty). weights: int8 [BUCKETS] in zlib and base64, in units of `unit`.
    """

    policy_id: str
    classifier: str
    labels: tuple[str, ...]
    trust: tuple[float, float]
    bias: float
    unit: float
    weights: str
    rows: int

    @cached_property
    def table(self) -> Floats:
        """Weights by bucket."""
        # Bounded: a few kilobytes could unpack to gigabytes.
        unpacked = zlib.decompressobj().decompress(base64.b64decode(self.weights), BUCKETS + 1)
        packed = np.frombuffer(unpacked, dtype=np.int8)
        return packed.astype(np.float64) * self.unit

    def sum(self, word: str) -> float:
        """Sum of the weights of a word's groups."""
        return float(self.table[groups(word)].sum())

    def probability(self, labels: Floats, any_harm: Floats, own: Floats) -> Floats:
        """P(violates) from the probabilities of the labels and of any harm, and the label's own logit, bias included."""
        logit = self.trust[0] * log_odds(labels) + self.trust[1] * log_odds(any_harm) + own
        return np.asarray(1 / (1 + np.exp(-logit)))

    @staticmethod
    def features(word: str) -> int:
        """How many groups a word has."""
        return len(groups(word))


def read(value: bytes | str, origin: str = "distilled label") -> Distilled:
    """Raises PolicyError when it is none."""
    try:
        found = msgspec.json.decode(value, type=Distilled)
        size = found.table.size
    except (msgspec.MsgspecError, ValueError, zlib.error) as error:
        raise PolicyError(
            f"{origin}: not a distilled label; make it with safeguard prefilter distill: {error}"
        ) from error
    if size != BUCKETS:
        raise PolicyError(f"{origin}: has {size} weights, not {BUCKETS}")
    return found


def write(weights: Floats, **fields: Any) -> bytes:
    """JSON of a Distilled with these weights [BUCKETS]."""
    unit = max(float(np.abs(weights).max()) / 127, 1e-9)
    packed = base64.b64encode(zlib.compress(np.rint(weights / unit).astype(np.int8).tobytes(), 9)).decode()
    return msgspec.json.encode(Distilled(weights=packed, unit=unit, **fields))
