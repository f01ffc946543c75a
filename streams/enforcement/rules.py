"""Rules of enforcement: a TOML file, from verdicts to actions.

The first rule that fits decides. Where none fits, what violates and what is undetermined goes to review, and what is safe is
allowed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import Annotated, get_args

import msgspec

from safeguard_streams.contract.records import Confidence, Decision, Enforced, Verdict
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.runtime.durations import span

SHIPPED = Path(str(files("safeguard_streams.policies") / "enforcement.toml"))
Proportion = Annotated[float, msgspec.Meta(ge=0, le=1)]
_SEVERITY: tuple[Enforced, ...] = get_args(Enforced)


def severity(action: Enforced) -> int:
    """0 for allow, the more the more it takes from who published the content."""
    return _SEVERITY.index(action)


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rule. Conditions that are left out fit everything; a verdict without a score fits no min_score."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    action: Enforced
    decision: Decision = "violates"
    policies: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    min_score: Proportion | None = None
    confidence: tuple[Confidence, ...] = ()
    surfaces: tuple[str, ...] = ()

    def fits(self, verdict: Verdict) -> bool:
        return (
            verdict.decision == self.decision
            and (not self.policies or verdict.policy_id in self.policies)
            and (not self.rules or not set(self.rules).isdisjoint(verdict.rule_ids))
            and (self.min_score is None or (verdict.score is not None and verdict.score >= self.min_score))
            and (not self.confidence or verdict.confidence in self.confidence)
            and (not self.surfaces or verdict.surface in self.surfaces)
        )


class Cap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Most changes under a policy in any window of this length, as in 15m or 1h."""

    max_actions: Annotated[int, msgspec.Meta(ge=1)] = 1000
    window: Annotated[str, msgspec.Meta(pattern=r"^[1-9]\d*[smhd]$")] = "1h"

    @property
    def length(self) -> timedelta:
        return span(self.window) or timedelta()

    def of_partition(self, partition: int, partitions: int) -> int:
        """A partition's share of the cap; those of all partitions sum up to it, so that it holds without them asking each
        other.
        """
        return self.max_actions // partitions + (partition < self.max_actions % partitions)


class Webhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where actions are delivered; an answer that takes longer than timeout, in seconds, is not waited for."""

    url: Annotated[str, msgspec.Meta(pattern=r"^https?://")]
    timeout: Annotated[float, msgspec.Meta(gt=0)] = 10.0


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole file: [[rule]], [cap], [caps.POLICY], [webhook]."""

    rule: tuple[Rule, ...] = ()
    cap: Cap = Cap()
    caps: Mapping[str, Cap] = {}
    webhook: Webhook | None = None

    def decide(self, verdict: Verdict) -> tuple[Enforced, str]:
        """The action for a verdict, and the name of the rule that chose it."""
        for rule in self.rule:
            if rule.fits(verdict):
                return rule.action, rule.name
        return ("allow" if verdict.decision == "safe" else "review"), f"{verdict.decision}, no rule fits"

    def cap_of(self, policy_id: str) -> Cap:
        return self.caps.get(policy_id, self.cap)

    @property
    def policies(self) -> set[str]:
        """Ids of all policies that the file names."""
        return {policy for rule in self.rule for policy in rule.policies} | set(self.caps)


def load(path: Path) -> Rules:
    """Read a file of rules. Raises ConfigurationError that names the place and what is wrong with it."""
    try:
        rules = msgspec.convert(tomllib.loads(path.read_text()), Rules)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    names = [rule.name for rule in rules.rule]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError(f"{path}: actions name the rule that chose them, and two rules are {twice[0]!r}")
    return rules
