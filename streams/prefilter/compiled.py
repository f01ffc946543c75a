"""The policies in force, compiled for batches, with a fallback for releases whose gates do not compile."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from safeguard_streams.contract.records import SHADOW, ContentEvent
from safeguard_streams.policies.document import Policy, in_languages, on_surface
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.encoder.encoder import Encoder
from safeguard_streams.prefilter.encoder.vector_terms import uses_vectors
from safeguard_streams.prefilter.fingerprint import fingerprint
from safeguard_streams.prefilter.gates import Gates
from safeguard_streams.prefilter.golden import GoldenShadows
from safeguard_streams.prefilter.normalise import Flags
from safeguard_streams.prefilter.sampling import hashed
from safeguard_streams.releases.feed import PolicySet, Released
from safeguard_streams.runtime import metrics

log = logging.getLogger(__name__)


class CompiledShadow(NamedTuple):
    """The column of a shadow, and that of the version in force or None where there is none."""

    column: int
    live_column: int | None
    released: Released


class CompiledPolicies:
    """The policies in force, ready for batches. Columns are the policies in force, followed by the shadows.

    live: number of policies in force; released, fingerprints: the release and the gate's fingerprint of each column.
    everything, samples [columns]: those parts of the gates. seeds [columns], shadow_seeds [shadows]: for draws.
    encoder: makes the vectors that the gates' second stage needs, if it is at hand. golden: the golden gates in shadow.
    scored_by [columns]: the name in results of what scores: golden where a golden gate is in force, else label.
    """

    def __init__(self, policies: PolicySet, classifier: Classifier, encoder: Encoder | None = None) -> None:
        self.policies = policies
        self.version = policies.version
        in_force = list(policies.released)
        self.live = len(in_force)
        self.released = [*policies.released.values(), *policies.shadows.values()]
        self.shadows = [
            CompiledShadow(column, in_force.index(name) if name in policies.released else None, released)
            for column, (name, released) in enumerate(policies.shadows.items(), self.live)
        ]
        self.encoder = encoder
        encoder_name = encoder.name if encoder else None
        self.gates = Gates([r.policy for r in self.released], classifier, encoder_name)
        self.fingerprints = [fingerprint(r.policy, classifier.name, encoder_name) for r in self.released]
        self.golden = GoldenShadows(self.released[: self.live], classifier, encoder_name)
        self.scored_by = ["golden" if _by_golden(r.policy, encoder_name) else "label" for r in self.released]
        self.everything = np.array([r.policy.gate.everything for r in self.released], dtype=bool)
        self.samples = np.array([r.policy.gate.sample for r in self.released], dtype=np.float64)
        scopes = [r.policy.applies_to for r in self.released]
        self._surfaces = {surface for scope in scopes for surface in scope.surfaces}
        self._languages = [language for scope in scopes for language in scope.languages]
        self.seeds = np.array([hashed(r.policy.id) for r in self.released], dtype=np.uint64)
        self.shadow_seeds = np.array([hashed(f"{name}{SHADOW}") for name in policies.shadows], dtype=np.uint64)

    def covers(self, events: Sequence[ContentEvent]) -> Flags:
        """[events, columns]: whether a policy covers an event, by surface, language and the policies that it names."""
        kinds = [(event.surface, event.language, event.policies) for event in events]
        self._count_unknown(Counter(kinds))
        rows = {
            (surface, language, requested): [
                (not requested or r.policy.id in requested) and r.policy.applies(surface, language)
                for r in self.released
            ]
            for surface, language, requested in set(kinds)
        }
        return np.array([rows[kind] for kind in kinds], dtype=bool)

    def _count_unknown(self, kinds: Mapping[tuple[str | None, str | None, object], int]) -> None:
        for (surface, language, _), events in kinds.items():
            if not on_surface(surface, self._surfaces):
                metrics.UNKNOWN_SCOPE.add(events, {"field": "surface", "value": _bounded(str(surface))})
            if not in_languages(language, self._languages):
                metrics.UNKNOWN_SCOPE.add(events, {"field": "language", "value": _bounded(str(language))})


_MAX_VALUES = 20  # of a metric's attribute, in the life of a process; all further ones count as "other"
_LABEL = re.compile(r"[\w.-]{1,40}\Z")
_values: set[str] = set()


def _bounded(value: str) -> str:
    """The value as a metric's attribute. Producers choose it, hence the bound on their number and form."""
    if value not in _values and (len(_values) >= _MAX_VALUES or not _LABEL.match(value)):
        return "other"
    _values.add(value)
    return value


def _by_golden(policy: Policy, encoder: str | None) -> bool:
    own = policy.distilled
    return own is not None and own.origin == "golden" and own.uses(encoder)


def use_vectors(policies: PolicySet) -> bool:
    """Whether vectors add to the score of some policy's gate, or a golden gate in shadow needs them."""
    released = [*policies.released.values(), *policies.shadows.values()]
    return any(uses_vectors(r.policy, Encoder.name) or _golden_shadow(r) for r in released)


def _golden_shadow(released: Released) -> bool:
    golden = released.golden
    return released.policy.distilled is None and golden is not None and golden.weights.encoder == Encoder.name


def compile_policies(
    policies: PolicySet, former: PolicySet, classifier: Classifier, encoder: Encoder | None
) -> CompiledPolicies:
    """Compile the policies. A release whose gate does not compile is logged, and its former release is used if any."""
    try:
        return CompiledPolicies(policies, classifier, encoder)
    except Exception:  # compiling each gate alone finds the failing one
        usable = PolicySet(
            _usable(policies.released, former.released, classifier, encoder),
            _usable(policies.shadows, former.shadows, classifier, encoder),
        )
        return CompiledPolicies(usable, classifier, encoder)


def _usable(
    releases: Mapping[str, Released], former: Mapping[str, Released], classifier: Classifier, encoder: Encoder | None
) -> dict[str, Released]:
    usable: dict[str, Released] = {}
    for name, released in releases.items():
        try:
            Gates([released.policy], classifier, encoder.name if encoder else None)
        except Exception as error:  # no release may end the process
            log.error(  # noqa: TRY400  (no traceback: patterns and terms may quote content)
                "release rejected, its gate does not compile policy=%s revision=%d error=%s",
                name,
                released.revision,
                type(error).__name__,
            )
            if name in former:
                usable[name] = former[name]
        else:
            usable[name] = released
    return usable
