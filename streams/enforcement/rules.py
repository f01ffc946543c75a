"""Enforcement rules: a TOML file that maps verdicts to actions.

The first rule that matches decides. Where no rule matches, violating and undetermined content goes to review, and safe
content is allowed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import Annotated, NamedTuple, get_args

import msgspec

from safeguard_streams.contract.records import Confidence, Decision, Enforced, Verdict
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.runtime.durations import span

SHIPPED = Path(str(files("safeguard_streams.policies") / "enforcement.toml"))
MinScore = Annotated[float, msgspec.Meta(ge=0, le=1)]
_SEVERITY: tuple[Enforced, ...] = get_args(Enforced)


def severity(action: Enforced) -> int:
    """The rank of an action: 0 for allow, higher for actions that restrict the content more."""
    return _SEVERITY.index(action)


class RuleChoice(NamedTuple):
    """The action that the rules choose for a verdict, and the name of the rule that chose it."""

    action: Enforced
    rule: str


class EnforcementRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rule. An omitted condition matches every verdict; a verdict without a score matches no min_score."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    action: Enforced
    decision: Decision = "violates"
    policies: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    min_score: MinScore | None = None
    confidence: tuple[Confidence, ...] = ()
    surfaces: tuple[str, ...] = ()

    def matches(self, verdict: Verdict) -> bool:
        return (
            verdict.decision == self.decision
            and (not self.policies or verdict.policy_id in self.policies)
            and (not self.rules or not set(self.rules).isdisjoint(verdict.rule_ids))
            and (self.min_score is None or (verdict.score is not None and verdict.score >= self.min_score))
            and (not self.confidence or verdict.confidence in self.confidence)
            and (not self.surfaces or verdict.surface in self.surfaces)
        )


class Cap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The maximum number of changes under a policy in any window of this length, as in 15m or 1h."""

    max_actions: Annotated[int, msgspec.Meta(ge=1)] = 1000
    window: Annotated[str, msgspec.Meta(pattern=r"^[1-9]\d*[smhd]$")] = "1h"

    @property
    def length(self) -> timedelta:
        return span(self.window) or timedelta()

    def partition_share(self, partition: int, partitions: int) -> int:
        """The changes that one of `partitions` partitions may make. The shares add up to max_actions, so the cap holds
        although partitions never ask each other.
        """
        return self.max_actions // partitions + (partition < self.max_actions % partitions)


class Webhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The URL that receives actions, and the time in seconds that it has to respond."""

    url: Annotated[str, msgspec.Meta(pattern=r"^https?://")]
    timeout: Annotated[float, msgspec.Meta(gt=0)] = 10.0


class EnforcementRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole file: [[rule]], [cap], [caps.POLICY], [webhook]."""

    rule: tuple[EnforcementRule, ...] = ()
    cap: Cap = Cap()
    caps: Mapping[str, Cap] = {}
    webhook: Webhook | None = None

    def choose(self, verdict: Verdict) -> RuleChoice:
        """The action for a verdict, by the first rule that matches it."""
        for rule in self.rule:
            if rule.matches(verdict):
                return RuleChoice(rule.action, rule.name)
        return RuleChoice("allow" if verdict.decision == "safe" else "review", f"{verdict.decision}, no rule matches")

    def cap_of(self, policy_id: str) -> Cap:
        return self.caps.get(policy_id, self.cap)

    @property
    def policies(self) -> set[str]:
        """Ids of all policies that the file names."""
        return {policy for rule in self.rule for policy in rule.policies} | set(self.caps)


def load(path: Path) -> EnforcementRules:
    """Read a file of enforcement rules. Raises ConfigurationError that names the place and the problem."""
    try:
        rules = msgspec.convert(tomllib.loads(path.read_text()), EnforcementRules)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    names = [rule.name for rule in rules.rule]
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise ConfigurationError(
            f"{path}: two rules are named {duplicates[0]!r}: give each its own name, because an action names its rule"
        )
    return rules
