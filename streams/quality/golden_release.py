"""The golden gates that a release puts in shadow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from safeguard_streams.contract.records import PolicyRelease
from safeguard_streams.errors import SafeguardError
from safeguard_streams.policies import golden, golden_gates
from safeguard_streams.policies.check import Checked
from safeguard_streams.prefilter.classifier import SHIPPED, Classifier
from safeguard_streams.prefilter.encoder.encoder import Encoder
from safeguard_streams.quality.golden_corpus import corpus
from safeguard_streams.quality.golden_gate import learn, shared_vectors


class GoldenReleases(NamedTuple):
    """Golden gates by policy id, as JSON, or None for a policy that gets none. notices tell why those get none."""

    gates: dict[str, str | None]
    notices: list[str]


def golden_releases(
    checked: Sequence[Checked], standing: Mapping[str, PolicyRelease], model: Path | None = None
) -> GoldenReleases:
    """Learn a golden gate for each policy. One of the same version and the same texts is taken as it stands.

    standing: the releases in force, by policy id. model: the prefilters' fastText model, if not that of the package:
    prefilters with another one ignore the gates. Raises ConfigurationError when the extra `encoder` is needed and not
    installed.
    """
    classifier = Classifier(model or SHIPPED)
    result = GoldenReleases({}, [])
    for one in checked:
        policy = one.policy
        assert policy is not None, "it was checked for release"
        try:
            texts = corpus(policy, golden.load(Path(one.path).with_name(golden.NAME)))
        except SafeguardError as error:
            result.gates[policy.id] = None
            result.notices.append(f"no golden gate was learned: {error}")
            continue
        release = standing.get(policy.id)
        # The threshold depends on terms and patterns, which the version covers and the name does not.
        gate = golden_gates.intact(release.golden) if release and release.version == policy.version else None
        if gate is None or gate.name != texts.name(policy, classifier.name, Encoder.name):
            gate = learn(policy, texts, classifier, shared_vectors()).gate
        result.gates[policy.id] = golden_gates.write(gate)
    return result
