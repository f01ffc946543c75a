"""Harm heads: what a text's vector says of each harm, and of any harm. One linear map, which ships with the package."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection
from functools import cache, cached_property
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SHIPPED = Path(__file__).with_name("harms.json")
STEPS = 127  # of the largest weight of a head


class HarmHeads(msgspec.Struct, frozen=True, dict=True):
    """Linear maps from vectors of one encoder to logits.

    The heads are those of the harms, in their order, and then the head of any harm. weights: int8 [heads, numbers of a
    vector], in base64, in units of each head; bias [heads]. least, most [heads]: what each head usually gives.
    """

    encoder: str
    harms: tuple[str, ...]
    units: tuple[float, ...]
    bias: tuple[float, ...]
    least: tuple[float, ...]
    most: tuple[float, ...]
    weights: str

    @classmethod
    def of(cls, encoder: str, harms: Collection[str], weights: Floats, bias: Floats, ranges: Floats) -> HarmHeads:
        """Heads with these weights [numbers of a vector, heads], biases [heads] and ranges [least and most, heads]."""
        units = np.maximum(np.abs(weights).max(axis=0) / STEPS, 1e-9)
        packed = np.rint(weights / units).astype(np.int8).T
        each, biases, least, most = (tuple(np.round(values, 6).tolist()) for values in (units, bias, *ranges))
        coded = base64.b64encode(packed.tobytes()).decode()
        return cls(encoder, tuple(harms), each, biases, least, most, coded)

    @cached_property
    def name(self) -> str:
        """12 hex digits, equal for heads that give equal logits."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:12]

    @cached_property
    def table(self) -> Floats:
        """Weights by place in the vector [numbers of a vector, heads]."""
        packed = np.frombuffer(base64.b64decode(self.weights), dtype=np.int8).reshape(len(self.units), -1)
        return np.asarray(packed.T * np.array(self.units))

    def logits(self, vectors: NDArray[np.float32]) -> Floats:
        """The logit of each head for each vector [vectors, heads]."""
        return np.asarray(vectors.astype(np.float64) @ self.table + np.array(self.bias))


class HarmTerm:
    """What the heads add to the logit of a gate: the largest of its harms, and any harm by its share `general`."""

    def __init__(self, heads: HarmHeads, harms: Collection[str], general: float) -> None:
        self._heads, self._general = heads, general
        self._columns = [number for number, name in enumerate(heads.harms) if name in harms] or [-1]
        self.least = float(self._mixed(np.array([heads.least]))[0])
        self.most = float(self._mixed(np.array([heads.most]))[0])

    def added(self, vectors: NDArray[np.float32]) -> Floats:
        """What each vector adds [vectors]."""
        return self._mixed(self._heads.logits(vectors))

    def _mixed(self, logits: Floats) -> Floats:
        own = logits[:, self._columns].max(axis=1)
        return np.asarray((1 - self._general) * own + self._general * logits[:, -1])


@cache
def shipped() -> HarmHeads:
    """The heads of the package."""
    return msgspec.json.decode(SHIPPED.read_bytes(), type=HarmHeads)
