"""What a golden gate is learned from: a policy's golden set, examples and rules, and texts that should pass."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies import golden
from safeguard_streams.policies.check import violating_texts
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import LIBRARY
from safeguard_streams.policies.golden import Golden, canonical
from safeguard_streams.quality import benign_bank

RECIPE = "1"  # part of a gate's name: another recipe learns another gate from the same texts
MIN_VIOLATING = 10


class Corpus(msgspec.Struct, frozen=True):
    """Texts by kind. A text of several kinds counts as the first of them.

    violating, safe: golden texts; shown: the policy's violating examples and rules; benign: texts of the bank.
    others: golden texts of the library's other policies.
    """

    violating: list[str]
    safe: list[str]
    shown: list[str]
    benign: list[str]
    others: list[str]

    @property
    def texts(self) -> list[str]:
        """All texts, kind by kind."""
        return [text for kind in self.__struct_fields__ for text in getattr(self, kind)]

    def rows(self, kind: str) -> NDArray[np.intp]:
        """The numbers of a kind's texts in `texts`."""
        kinds = self.__struct_fields__
        start = sum(len(getattr(self, before)) for before in kinds[: kinds.index(kind)])
        return np.arange(start, start + len(getattr(self, kind)))

    def name(self, policy: Policy, classifier: str, encoder: str) -> str:
        """The name of the gate that is learned from this: equal for equal texts, scores and models."""
        parts = [RECIPE, policy.id, classifier, encoder, f"{policy.gate.general:g}", *policy.gate.harms]
        parts += [f"{kind}\0{text}" for kind in self.__struct_fields__ for text in getattr(self, kind)]
        return hashlib.sha256("\1".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def corpus(policy: Policy, rows: Sequence[Golden]) -> Corpus:
    """The texts for a policy with this golden set.

    Raises ConfigurationError when the gate has a classifier of its own, or when too few texts violate.
    """
    if policy.distilled is not None:
        learned_from = "golden set" if policy.distilled.origin == "golden" else "verdicts"
        raise ConfigurationError(
            f"{policy.id}: its gate has a classifier already, learned from its {learned_from}; "
            "learn the next one from verdicts: safeguard prefilter distill"
        )
    violating = [row.text for row in rows if row.decision == "violates"]
    safe = [row.text for row in rows if row.decision == "safe"]
    if len(violating) < MIN_VIOLATING or not safe:
        raise ConfigurationError(
            f"{policy.id}: {len(violating)} violating and {len(safe)} safe golden texts: too few to learn from; "
            f"at least {MIN_VIOLATING} must violate and one be safe. Add some: safeguard policy golden add"
        )
    others = [
        row.text
        for path in sorted(LIBRARY.glob(f"*/{golden.NAME}"))
        if path.parent.name != policy.id
        for row in golden.load(path)
    ]
    seen: set[str] = set()
    bank = [benign.text for benign in benign_bank.load()]
    return Corpus(*[_unseen(kind, seen) for kind in (violating, safe, violating_texts(policy.document), bank, others)])


def _unseen(texts: Sequence[str], seen: set[str]) -> list[str]:
    kept = []
    for text in texts:
        form = canonical(text)
        if form not in seen:
            seen.add(form)
            kept.append(text)
    return kept
