"""A policy document: front matter for machines, then the text that the model reads."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import Any, Literal

import msgspec
import re2
import yaml

from policies.distilled import Distilled
from policies.distilled import read as read_distilled
from policies.errors import PolicyError

Effort = Literal["low", "medium", "high"]
EFFORTS: tuple[Effort, ...] = ("low", "medium", "high")
Harm = Literal["hate", "harassment", "sexual", "self_harm", "violence", "illicit", "fraud_spam", "injection"]

MOST_SAMPLES = 25
SURE = 0.001  # scores are no surer than that for a score map: after a chain of thought nearly all are 0 or 1
LIBRARY = Path(__file__).parent / "library"
_FRONT = re.compile(r"\A---\n(.*?\n)---\n(.*)\Z", re.DOTALL)
_RULE = re.compile(r"^- ([A-Z]{2,4}\d{1,3}): ", re.MULTILINE)
_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z")


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


class _FrontMatter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    title: str
    owner: str
    rules: dict[str, str]
    gate: Gate
    applies_to: AppliesTo = AppliesTo()
    effort: Effort = "low"
    judging: Judging = Judging()


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


def _section(text: str, name: str) -> str:
    found = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return found[1] if found else ""


def parse(document: str, origin: str = "policy", distilled: str | None = None) -> Policy:
    """Read a policy document, and the text of its distilled label if its gate has one.

    Raises PolicyError with the origin and what to change.
    """
    found = _FRONT.match(document)
    if not found:
        raise PolicyError(f"{origin}: begin with front matter between two lines of ---")
    try:
        raw: Any = yaml.safe_load(found[1])
        front = msgspec.convert(raw, _FrontMatter)
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise PolicyError(f"{origin}: front matter: {error}") from error
    if not _ID.match(front.id):
        raise PolicyError(f"{origin}: id: use lower-case words joined by hyphens, not {front.id!r}")
    for name, share in (
        ("gate.threshold", front.gate.threshold),
        ("gate.sample", front.gate.sample),
        ("judging.agreement", front.judging.agreement),
    ):
        if not 0 <= share <= 1:
            raise PolicyError(f"{origin}: {name}: must lie between 0 and 1, not {share}")
    if not 1 <= front.judging.samples <= MOST_SAMPLES:
        raise PolicyError(
            f"{origin}: judging.samples: must lie between 1 and {MOST_SAMPLES}, not {front.judging.samples}"
        )
    for pattern in front.gate.patterns:
        try:
            re2.compile(pattern, pattern_options())
        except re2.error as error:
            why = error.args[0].decode() if isinstance(error.args[0], bytes) else error
            raise PolicyError(f"{origin}: gate.patterns: {pattern!r} is no RE2 expression: {why}") from None
    label = None
    if front.gate.distilled is not None:
        if distilled is None or hashlib.sha256(distilled.encode()).hexdigest()[:12] != front.gate.distilled:
            raise PolicyError(f"{origin}: gate.distilled: distilled.json is missing or another one than the gate names")
        label = read_distilled(distilled, f"{origin}: distilled.json")
    text = found[2].strip() + "\n"
    violating, safe = (tuple(_RULE.findall(_section(text, name))) for name in ("VIOLATES", "SAFE"))
    written = [*violating, *safe]
    if not violating or not safe:
        raise PolicyError(f"{origin}: name at least one rule under ## VIOLATES and one under ## SAFE ('- ID: ...')")
    if len(set(written)) != len(written):
        raise PolicyError(f"{origin}: a rule id stands twice under VIOLATES and SAFE")
    if set(written) != set(front.rules):
        odd = ", ".join(sorted(set(written) ^ set(front.rules)))
        raise PolicyError(f"{origin}: rules of the front matter and of the text differ: {odd}")
    return Policy(
        id=front.id,
        title=front.title,
        owner=front.owner,
        rules=front.rules,
        gate=front.gate,
        applies_to=front.applies_to,
        effort=front.effort,
        judging=front.judging,
        text=text,
        version=hashlib.sha256(text.encode()).hexdigest()[:12],
        violating=violating,
        safe=safe,
        document=document,
        distilled=label,
        distilled_file=distilled if label else None,
    )


def with_changes(document: str, section: Literal["gate", "judging"], **changes: Any) -> str:
    """The document with these fields of its gate or judging set, or taken out where they are None; all else stays as it is."""
    found = _FRONT.match(document)
    assert found is not None, "the document was parsed before"
    front = yaml.compose(found[1], Loader=yaml.SafeLoader)
    assert isinstance(front, yaml.MappingNode)
    fields = {**(yaml.safe_load(found[1]).get(section) or {}), **changes}
    kept = {name: setting for name, setting in fields.items() if setting is not None}
    written = yaml.safe_dump({section: kept}, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    start = end = found.end(1)  # a section that is not there yet comes last
    for key, value in front.value:
        if key.value == section:
            start, end = found.start(1) + key.start_mark.index, found.start(1) + value.end_mark.index
    return document[:start] + written.rstrip("\n") + "\n" + document[end:].lstrip("\n")


def load(path: Path) -> Policy:
    """Read policy.md; raises PolicyError, also when the file cannot be read."""
    try:
        document = path.read_text(encoding="utf-8")
        label = path.with_name("distilled.json")
        distilled = label.read_text(encoding="utf-8") if label.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path}: cannot be read: {error}") from error
    return parse(document, str(path), distilled)


def load_library(folder: Path = LIBRARY) -> dict[str, Policy]:
    """All policies of a library folder (ID/policy.md), by id."""
    policies = [load(path) for path in sorted(folder.glob("*/policy.md"))]
    if not policies:
        raise PolicyError(f"{folder}: no ID/policy.md in it")
    for policy, path in zip(policies, sorted(folder.glob("*/policy.md")), strict=True):
        if policy.id != path.parent.name:
            raise PolicyError(f"{path}: id is {policy.id!r} but the folder is {path.parent.name!r}")
    return {policy.id: policy for policy in policies}
