"""Distilled classifiers: weights of letter groups, learned from one policy's verdicts, small enough to ship with it.

A second set of weights may travel with them, for prefilters that have the sentence encoder.
"""

from __future__ import annotations

import base64
import zlib
from functools import cached_property
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from safeguard_streams.errors import PolicyError

Floats = NDArray[np.float64]

BUCKETS = 2**16
VECTOR = 512  # numbers of a text's vector
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


def log_odds(probability: Floats, least: float = 1e-6) -> Floats:
    """Logit, bounded by that of the least probability: by default to +-14."""
    p = np.clip(probability, least, 1 - least)
    return np.asarray(np.log(p / (1 - p)))


class VectorWeights(msgspec.Struct, frozen=True):
    """Weights that were learned together with those of a text's vector [512], whose product with it joins the sum.

    encoder: name of the encoder that made the vectors. vector: int8 [512], in base64, in units of `vector_unit`.
    least, most: what a vector usually adds. The other fields are as in DistilledClassifier.
    """

    encoder: str
    trust: tuple[float, float]
    bias: float
    unit: float
    weights: str
    vector_unit: float
    vector: str
    least: float
    most: float

    @property
    def vector_table(self) -> Floats:
        """Weights by place in the vector."""
        return np.frombuffer(base64.b64decode(self.vector), dtype=np.int8).astype(np.float64) * self.vector_unit


class DistilledClassifier(msgspec.Struct, frozen=True, dict=True, omit_defaults=True):
    """P(violates) = sigmoid(a * logit(P(harms)) + b * logit(P(any harm)) + sum of weights / sqrt(group count) + bias).

    policy_id: the policy whose verdicts trained it; rows: how many texts that were.
    classifier: name of the fastText model that it was trained with and needs.
    harms: the gate's harms; empty means all. trust: (a, b).
    weights: int8 [BUCKETS], compressed with zlib and encoded in base64, in units of `unit`.
    with_vectors: the weights to use where the encoder is installed.
    origin: what it was learned from, the policy's verdicts or its golden set.
    """

    policy_id: str
    classifier: str
    harms: tuple[str, ...]
    trust: tuple[float, float]
    bias: float
    unit: float
    weights: str
    rows: int
    with_vectors: VectorWeights | None = None
    origin: Literal["verdicts", "golden"] = "verdicts"

    @property
    def encoder(self) -> str | None:
        """The name of the encoder for whose vectors there are weights."""
        return self.with_vectors.encoder if self.with_vectors else None

    def uses(self, encoder: str | None) -> bool:
        """Whether there are weights for the vectors of this encoder."""
        return encoder is not None and self.encoder == encoder

    def beside(self, encoder: str | None) -> DistilledClassifier:
        """The classifier with the weights for a prefilter that has this encoder, or none.

        Vectors of another encoder mean other things: its prefilters use letter groups and log odds.
        """
        other = self.with_vectors
        if other is None or other.encoder != encoder:
            return self
        return msgspec.structs.replace(self, trust=other.trust, bias=other.bias, unit=other.unit, weights=other.weights)

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
        check(classifier)
    except (msgspec.MsgspecError, ValueError, zlib.error) as error:
        raise PolicyError(
            f"{origin}: not a distilled classifier; make one with safeguard prefilter distill: {error}"
        ) from error
    return classifier


def check(classifier: DistilledClassifier) -> None:
    """Raise ValueError or zlib.error when a set of weights cannot be unpacked, or has not as many as it must."""
    other = classifier.with_vectors
    for weights in (classifier, classifier.beside(other.encoder if other else None)):
        if weights.table.size != BUCKETS:
            raise ValueError(f"has {weights.table.size} weights, not {BUCKETS}")
    if other and other.vector_table.size != VECTOR:
        raise ValueError(f"has {other.vector_table.size} weights of the vector, not {VECTOR}")


def write(weights: Floats, with_vectors: VectorWeights | None = None, **fields: Any) -> bytes:
    """JSON of a DistilledClassifier with these weights [BUCKETS]."""
    packed, unit = _packed(weights)
    return msgspec.json.encode(
        DistilledClassifier(weights=_compressed(packed), unit=unit, with_vectors=with_vectors, **fields)
    )


def vector_weights(weights: Floats, vector: Floats, **fields: Any) -> VectorWeights:
    """VectorWeights with these weights of letter groups [BUCKETS] and of the vector [512]."""
    packed, unit = _packed(weights)
    of_vector, vector_unit = _packed(vector)
    encoded = base64.b64encode(of_vector).decode()
    return VectorWeights(weights=_compressed(packed), unit=unit, vector=encoded, vector_unit=vector_unit, **fields)


def shifted(value: bytes, wanted: float, own: float) -> bytes:
    """The JSON with the second set of weights shifted such that the logit `own` becomes `wanted`."""
    classifier = read(value)
    assert classifier.with_vectors is not None
    other = msgspec.structs.replace(classifier.with_vectors, bias=classifier.with_vectors.bias + wanted - own)
    return msgspec.json.encode(msgspec.structs.replace(classifier, with_vectors=other))


def without_vectors(value: bytes) -> bytes:
    """The JSON without the second set of weights."""
    return msgspec.json.encode(msgspec.structs.replace(read(value), with_vectors=None))


def _packed(weights: Floats) -> tuple[bytes, float]:
    """Weights in int8, and their unit."""
    unit = max(float(np.abs(weights).max()) / 127, 1e-9)
    return np.rint(weights / unit).astype(np.int8).tobytes(), unit


def _compressed(packed: bytes) -> str:
    return base64.b64encode(zlib.compress(packed, 9)).decode()
