"""A parsed policy: its front matter for machines, and the text that the model reads."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal

import msgspec
import re2

from safeguard_streams.policies.distilled import DistilledClassifier
from safeguard_streams.policies.statements import RuleStatement
from safeguard_streams.policies.vocabulary import (
    DEFAULT_SEVERITY,
    SEVERITIES,
    Effort,
    Harm,
    Severity,
    Side,
    rules_above,
)

MAX_SAMPLES = 25
AnswerForm = Literal["full", "rules", "label"]
# The fields of the JSON object in which the model answers.
ANSWER_FIELDS: dict[AnswerForm, tuple[str, ...]] = {
    "full": ("violation", "rule_ids", "confidence", "reason"),
    "rules": ("violation", "rule_ids"),
    "label": ("violation",),
}
SCORE_BOUND = 0.001  # scores are clipped to [SCORE_BOUND, 1 - SCORE_BOUND], because most of them are nearly 0 or 1


class AppliesTo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content that a policy covers. An empty list covers all.

    languages: ranges of RFC 4647, as `en` or `pt-BR`: en covers en-US.
    """

    surfaces: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()


class AcceptedMisses(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Violating golden texts that a gate may miss, a number of them, and the reason."""

    texts: Annotated[int, msgspec.Meta(ge=1)]
    reason: Annotated[str, msgspec.Meta(min_length=1)]


class Gate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Conditions that escalate content to the reasoner. Any one of them is enough.

    harms and threshold: escalate when the summed probability of these harms, 0 to 1, reaches the threshold in the
        text's worst window.
    general: share, 0 to 1, that the log odds of any harm have in the score. The log odds of the gate's harms have the
        rest. Without it, any harm has no part in the score.
    threshold_with_encoder: the threshold where the extra `encoder` is installed. With it, the encoder's harm heads add
        to the score. Without it, they don't.
    terms: words or phrases, found whole and in the disguises that the guide lists; addresses, found exactly.
    patterns: regular expressions in RE2's syntax, searched for in the text as sent and folded, case ignored.
    distilled: first 12 hex digits of the sha256 of distilled.json beside policy.md. Its classifier's probability then
        replaces that of the harms in the comparison with the threshold.
    calibration: how the threshold was chosen and what to expect of it, for readers.
    sample: share of all other content, 0 to 1, drawn by a hash of its id.
    everything: escalate all content.
    accepted_misses: how many violating golden texts the gate may miss, and why its author accepts that.
    """

    harms: tuple[Harm, ...] = ()
    threshold: float = 1.0
    general: float = 0.0
    threshold_with_encoder: float | None = None
    terms: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    distilled: str | None = None
    calibration: dict[str, Any] | None = None
    sample: float = 0.0
    everything: bool = False
    accepted_misses: AcceptedMisses | None = None


class ScoreMap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Maps the model's score to the probability of a violation: a line through both log odds (Platt scaling).

    fitted: the data of the fit and its results, for readers.
    """

    slope: float
    intercept: float
    fitted: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The name in verdicts: 12 hex digits, equal for equal maps."""
        return hashlib.sha256(f"{self.slope!r} {self.intercept!r}".encode()).hexdigest()[:12]

    def apply(self, score: float) -> float:
        """The probability, 0 to 1, for a score, 0 to 1. Scores are first clipped to SCORE_BOUND and 1 - SCORE_BOUND."""
        clipped = min(1 - SCORE_BOUND, max(SCORE_BOUND, score))
        return round(1 / (1 + math.exp(-self.intercept - self.slope * math.log(clipped / (1 - clipped)))), 4)


class Judging(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the reasoner judges content under a policy.

    bundle: policies with the same bundle name are judged together, in one call.
    samples: judgements of each content item, sampled at temperature 1. With 1, the single most likely answer is taken.
    agreement: share of the samples that must agree, 0 to 1. With less agreement the verdict is undetermined.
    score_map: applied to the score; fitted by `safeguard reason calibrate`.
    output: the policy's own words for the decision, as in {INVALID: violates, VALID: safe}. Without it, the model
        answers 1 for violates and 0 for safe. Verdicts of a policy with its own words have no score.
    answer: what the model writes after its reasoning: the decision with its rules, confidence and reason (full), with
        its rules, or alone (label). The section Output of the text asks for the same.
    """

    bundle: str | None = None
    samples: int = 1
    agreement: float = 0.5
    score_map: ScoreMap | None = None
    output: dict[str, Side] | None = None
    answer: AnswerForm = "full"

    def violates(self, answered: int | str) -> bool | None:
        """What the model's word for the decision means; None for a word that the policy does not have."""
        if self.output is None:
            return bool(answered) if answered in {0, 1} else None
        side = self.output.get(str(answered))
        return None if side is None or isinstance(answered, int) else side == "violates"

    @property
    def words(self) -> str:
        """The words for the decision as a JSON object's form shows them: 0 or 1, or the policy's own."""
        return " or ".join(f'"{word}"' for word in self.output) if self.output else "0 or 1"


class Policy(msgspec.Struct, frozen=True):
    """A policy that was parsed and found consistent.

    text: what the model reads; version: 12 hex digits of a hash over everything that decides, see version_of.
    violating and safe: the rule ids of the VIOLATES and SAFE sections, in order.
    document and distilled_file: the texts of policy.md and distilled.json.
    severity: of violating rules, as the front matter names it; a rule above stands for those below it.
    notes: what enforcement may say about a violating rule, in plain words.
    statements: what statements of reasons say beside that, by violating rule. The model sees none of the three.
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
    distilled: DistilledClassifier | None = None
    distilled_file: str | None = None
    severity: dict[str, Severity] = {}
    notes: dict[str, str] = {}
    statements: dict[str, RuleStatement] = {}

    def severity_of(self, rule: str) -> Severity:
        """The severity of a violating rule: its own, that of the nearest rule above it, or the default."""
        return next((self.severity[name] for name in rules_above(rule) if name in self.severity), DEFAULT_SEVERITY)

    def severity_of_violation(self, cited: Collection[str]) -> Severity:
        """The highest severity of the cited rules. Where none is cited, what is certain: the lowest of the policy."""
        rules = [rule for rule in cited if rule in self.violating]
        worst = max if rules else min
        return worst(map(self.severity_of, rules or self.violating), key=SEVERITIES.index)

    def applies(self, surface: str | None, language: str | None) -> bool:
        """Whether the policy covers this content. Content without a surface or language is never exempt."""
        scope = self.applies_to
        return on_surface(surface, scope.surfaces) and in_languages(language, scope.languages)


def on_surface(surface: str | None, surfaces: Collection[str]) -> bool:
    """Whether a policy of these surfaces covers content. True where there are none, and where content names none."""
    return not surfaces or not (surface or "").strip() or is_surface(surface, surfaces)


def is_surface(surface: str | None, surfaces: Collection[str]) -> bool:
    """Whether a surface is one of these, whatever its case and the blanks around it."""
    return (surface or "").strip().casefold() in {name.strip().casefold() for name in surfaces}


_PRIMARY = re.compile(r"[a-z]{2,3}(?:-|\Z)")
# Undetermined, multiple, none, uncoded; private use; and codes of no language, which detectors write for unknown.
_NOT_A_LANGUAGE = re.compile(r"(?:und|mul|zxx|mis|q[a-t][a-z]|un|unk|xx|xxx|zz)(?:-|\Z)")


def _normal(tag: str | None) -> str:
    return (tag or "").strip().replace("_", "-").lower()


def primary_language(tag: str | None) -> str | None:
    """The language of a tag without script and region; None where it names no language: missing, und, or no tag."""
    language = _PRIMARY.match(_normal(tag))
    return None if language is None or _NOT_A_LANGUAGE.match(_normal(tag)) else language[0].rstrip("-")


def in_languages(language: str | None, ranges: Sequence[str]) -> bool:
    """Whether a language tag is in one of the ranges, by RFC 4647's basic filtering: en covers en-US and EN.

    True where there are no ranges, and where the tag names no language: it is missing, empty, und, or no tag at all.
    """
    if not ranges or primary_language(language) is None:
        return True
    tag = _normal(language)
    return any(wanted == "*" or f"{tag}-".startswith(f"{wanted}-") for wanted in map(str.lower, ranges))


def pattern_options() -> Any:
    """RE2 options for a gate's patterns."""
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    return options
