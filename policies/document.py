"""What a policy document says: front matter for machines, and the text that the model reads."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import msgspec
import re2

from safeguard_streams.policies.distilled import Distilled
from safeguard_streams.policies.vocabulary import Effort, Harm

MOST_SAMPLES = 25
SURE = 0.001  # scores are no surer than that for a score map: after a chain of thought nearly all are 0 or 1


class AppliesTo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which content a policy concerns; an empty list means all."""

    surfaces: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()


class Gate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What sends content to the reasoner; the gates are alternatives, any one is enough.

    labels and threshold: summed probability of these harms, 0 to 1, in the worst window of the text.
    terms: words or phrases, compared with the normalised text on word boundaries.
    patterns: regular expressions in RE2's syntax, searched for in the folded text, whatever the case.
    distilled: first 12 hex digits of the sha256 of the policy's distilled label (distilled.json beside policy.md), whose
        probability the threshold is for, instead of that of the labels.
    calibration: how the threshold was chosen and what to expect of it, for readers.
    sample: share of all other content, 0 to 1, drawn by a hash of its id.
    everything: all of it.
    """

    labels: tuple[Harm, ...] = ()
    threshold: float = 1.0
    terms: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    distilled: str | None = None
    calibration: dict[str, Any] | None = None
    sample: float = 0.0
    everything: bool = False


class ScoreMap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From the model's score to the probability of violating: a line through the log odds of both (Platt's scaling).

    fitted says on what it was fitted and what came of it, for readers.
    """

    slope: float
    intercept: float
    fitted: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """What verdicts call it: 12 hex digits, equal for equal maps."""
        return hashlib.sha256(f"{self.slope!r} {self.intercept!r}".encode()).hexdigest()[:12]

    def apply(self, score: float) -> float:
        """A score, 0 to 1, as a probability, 0 to 1. Scores nearer to 0 or 1 than SURE count as SURE."""
        kept = min(1 - SURE, max(SURE, score))
        return round(1 / (1 + math.exp(-self.intercept - self.slope * math.log(kept / (1 - kept)))), 4)


class Judging(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the reasoner asks.

    bundle: policies with the same name here are judged together, in one call.
    samples: judgements of each content, sampled at temperature 1; with 1 there is one, the likeliest.
    agreement: of several samples, the share that must agree, 0 to 1; otherwise the verdict is undetermined.
    score_map: what is applied to the score; `safeguard reason calibrate` fits it.
    """

    bundle: str | None = None
    samples: int = 1
    agreement: float = 0.5
    score_map: ScoreMap | None = None


class Policy(msgspec.Struct, frozen=True):
    """A policy that was parsed and found consistent.

    text is what the model reads; version is the first 12 hex digits of its sha256.
    violating and safe are the rule ids of the VIOLATES and SAFE sections, in order.
    """

    id: str
    title: str
    owner: str
    rules: dict[str, str]
    gate: Gate
    applies_to: AppliesTo
    effort: Effort
    judging: Judging
    text: str
    version: str
    violating: tuple[str, ...]
    safe: tuple[str, ...]
    document: str
    distilled: Distilled | None = None
    distilled_file: str | None = None

    def applies(self, surface: str | None, language: str | None) -> bool:
        """Content that does not say its surface or language is never exempt."""
        wanted = self.applies_to
        return (not wanted.surfaces or surface is None or surface in wanted.surfaces) and (
            not wanted.languages or language is None or language in wanted.languages
        )


def pattern_options() -> Any:
    """How RE2 reads a gate's patterns."""
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    return options
