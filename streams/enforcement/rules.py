"""Enforcement rules: a TOML file that maps verdicts to actions.

The first rule that matches decides. Where no rule matches, violating and undetermined content goes to review, and safe
content is allowed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args
from urllib.parse import urlsplit

import msgspec

from safeguard_streams.contract.records import Confidence, Decision, Enforced, Strike, Verdict, now
from safeguard_streams.enforcement.author_rules import (
    AUTHOR_ACTIONS,
    AuthorRules,
    Span,
    StrikeCount,
    duration,
    is_severe,
    is_young,
)
from safeguard_streams.enforcement.statement_rules import StatementRules
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.document import Policy, is_surface
from safeguard_streams.policies.vocabulary import SEVERITIES, Severity, is_within

SHIPPED = Path(str(files("safeguard_streams.policies") / "enforcement.toml"))
MinScore = Annotated[float, msgspec.Meta(ge=0, le=1)]
_SEVERITY: tuple[Enforced, ...] = get_args(Enforced)


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def severity(action: Enforced) -> int:
    """The rank of an action: 0 for allow, higher for actions that restrict the content more."""
    return _SEVERITY.index(action)


class RuleChoice(NamedTuple):
    """The action that the rules choose for a verdict, and the name of the rule that chose it."""

    action: Enforced
    rule: str


class EnforcementRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rule. An omitted condition matches every verdict.

    A verdict without a score matches no min_score, one without a severity no min_severity, one without a surface no
    surfaces, and one without an author no authors and no strikes. An account of unknown age matches no max_account_age.
    Surfaces are compared as in the scope of a policy: case and blanks around them do not matter. Authors are compared
    exactly. A rule with sub-rules stands for these, too. strikes: those that the author has from earlier verdicts, as
    far as the ledger has followed them. refer: whether to write what the rule matches to moderation.referrals, with its
    text.
    """

    name: Annotated[str, msgspec.Meta(min_length=1)]
    action: Enforced
    decision: Decision = "violates"
    policies: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    min_score: MinScore | None = None
    confidence: tuple[Confidence, ...] = ()
    surfaces: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()
    min_severity: Severity | None = None
    max_account_age: Span | None = None
    strikes: StrikeCount | None = None
    refer: bool = False

    def __post_init__(self) -> None:
        if self.refer and self.action == "allow":
            raise ValueError("refer: goes with an action other than allow")

    def problems(self, known: Mapping[str, Policy]) -> Iterator[str]:
        """What the rule names and no policy that it applies to has. Unknown policies are a problem of the file."""
        applied = [known[policy_id] for policy_id in self.policies or sorted(known) if policy_id in known]
        if not applied:
            return
        cited = sorted({rule_id for policy in applied for rule_id in policy.rules})
        for rule_id in sorted(set(self.rules) - set(cited)):
            policies = ", ".join(policy.id for policy in applied)
            yield f"{rule_id!r} is not a rule of {policies}; there are: {_list(cited)}"
        scopes = [policy.applies_to.surfaces for policy in applied]
        surfaces = sorted({surface for scope in scopes for surface in scope})
        if all(scopes):  # a policy without surfaces covers those that nobody listed, too
            for surface in self.surfaces:
                if not is_surface(surface, surfaces):
                    yield f"no policy of the rule covers the surface {surface!r}; they cover: {_list(surfaces)}"

    def matches(self, verdict: Verdict, strikes: Sequence[Strike] = ()) -> bool:
        """Whether the rule decides about a verdict. strikes: those of its author."""
        return self.may_match(verdict) and (self.strikes is None or self.strikes.passed(strikes, now()))

    def may_match(self, verdict: Verdict) -> bool:
        """Whether the rule matches a verdict, its condition about strikes aside."""
        return (
            verdict.decision == self.decision
            and (not self.policies or verdict.policy_id in self.policies)
            and (not self.rules or any(is_within(cited, rule) for cited in verdict.rule_ids for rule in self.rules))
            and (self.min_score is None or (verdict.score is not None and verdict.score >= self.min_score))
            and (not self.confidence or verdict.confidence in self.confidence)
            and (not self.surfaces or is_surface(verdict.surface, self.surfaces))
            and (not self.authors or verdict.author_id in self.authors)
            and (self.min_severity is None or is_severe(verdict.severity, self.min_severity))
            and is_young(verdict.account_age, self.max_account_age)
        )


class Cap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The maximum number of changes under a policy in any window of this length, as in 15m or 1h."""

    max_actions: Annotated[int, msgspec.Meta(ge=1, le=10**9)] = 1000
    window: Span = "1h"

    @property
    def length(self) -> timedelta:
        return duration(self.window)

    def partition_share(self, partition: int, partitions: int) -> int:
        """The changes that one of `partitions` partitions may make. The shares add up to max_actions, so the cap holds
        although partitions never ask each other.
        """
        return self.max_actions // partitions + (partition < self.max_actions % partitions)

    def above(self, share: int) -> str:
        """What to say about a change above a partition's share of the cap."""
        if share == self.max_actions:
            return f"above the cap of {self.max_actions} in {self.window}"
        return f"above this partition's share of the cap, {share} of {self.max_actions} in {self.window}"


class Webhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The URL that receives actions, and how patient its sender is.

    timeout: seconds that the receiver has to respond. A message becomes a dead letter when it was tried for
    `retry_for`, or after `max_attempts` failures while the receiver accepted other messages.
    """

    url: Annotated[str, msgspec.Meta(pattern=r"^https?://", max_length=2048)]
    timeout: Annotated[float, msgspec.Meta(gt=0, le=300)] = 10.0
    retry_for: Span = "24h"
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=10**6)] = 20

    def __post_init__(self) -> None:
        problem = _url_problem(self.url)
        if problem:
            raise ValueError(f"url: {problem}")

    @property
    def patience(self) -> timedelta:
        return duration(self.retry_for)

    @property
    def origin(self) -> str:
        """Scheme and host, for traces and logs: the path may hold a token."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"


def _url_problem(url: str) -> str | None:
    """What is wrong with a webhook's URL, without quoting it: it may hold a secret."""
    if " " in url or not url.isprintable():
        return "remove the spaces and control characters"
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")  # what DNS cannot have
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        return "use http:// or https:// with a host"
    if "@" in parts.netloc:
        return "remove user and password; set SAFEGUARD_WEBHOOK_AUTHORIZATION to send an Authorization header"
    if "?" in url or "#" in url:
        return (
            "remove what follows the path, because logs show queries; set SAFEGUARD_WEBHOOK_AUTHORIZATION to send a "
            "token"
        )
    return None


class Appeals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long people have to decide an appeal, and how long the agent remembers who decided about an item on which
    nothing stands any more, both in days.
    """

    days: Annotated[float, msgspec.Meta(gt=0, le=366)] = 14.0
    remember_days: Annotated[float, msgspec.Meta(gt=0, le=3660)] = 365.0


class EnforcementRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole file: [[rule]], [cap], [caps.POLICY], [webhook], [statements], [appeals], [authors]."""

    rule: tuple[EnforcementRule, ...] = ()
    cap: Cap = Cap()
    caps: Mapping[str, Cap] = {}
    webhook: Webhook | None = None
    statements: StatementRules = StatementRules()
    appeals: Appeals = Appeals()
    authors: AuthorRules = AuthorRules()

    def choose(self, verdict: Verdict, strikes: Sequence[Strike] = ()) -> RuleChoice:
        """The action for a verdict, by the first rule that matches it. strikes: those of its author."""
        for rule in self.rule:
            if rule.matches(verdict, strikes):
                return RuleChoice(rule.action, rule.name)
        return RuleChoice("allow" if verdict.decision == "safe" else "review", f"{verdict.decision}, no rule matches")

    def refers(self, name: str) -> bool:
        """Whether a rule of this name refers what it matches to the authorities' hook, moderation.referrals."""
        return any(rule.refer for rule in self.rule if rule.name == name)

    def may_refer(self, verdict: Verdict) -> bool:
        """Whether a rule that refers may decide about a verdict, for some strikes of its author."""
        for rule in self.rule:
            if rule.may_match(verdict):
                if rule.refer:
                    return True
                if rule.strikes is None:
                    return False
        return False

    def cap_of(self, policy_id: str) -> Cap:
        return self.caps.get(policy_id, self.cap)

    @property
    def longest_window(self) -> timedelta:
        """How far back caps count."""
        return max(cap.length for cap in (self.cap, *self.caps.values()))

    @property
    def policies(self) -> set[str]:
        """Ids of all policies that the file names."""
        counted = {policy for rule in self.rule if rule.strikes for policy in rule.strikes.policies}
        named = {policy for rule in self.rule for policy in rule.policies}
        return named | counted | set(self.caps) | self.authors.policies

    @property
    def look_at_strikes(self) -> bool:
        """Whether a rule about content looks at the strikes of its author."""
        return any(rule.strikes is not None for rule in self.rule)

    def problems(self, known: Mapping[str, Policy]) -> list[str]:
        """The policies, rules of policies and surfaces that the file names and that do not exist, one problem each."""
        found = [
            f"no policy {policy_id!r}; there are: {', '.join(sorted(known))}"
            for policy_id in sorted(self.policies - set(known))
        ]
        for rule in self.rule:
            found += [f"rule {rule.name!r}: {problem}" for problem in rule.problems(known)]
            if rule.strikes is not None and self.authors.gives_strikes:
                found += [f"rule {rule.name!r}: {problem}" for problem in self.authors.unknown_givers(rule.strikes)]
        found += self.authors.problems(known)
        if self.look_at_strikes and not self.authors.gives_strikes:
            found.append("a rule looks at strikes, and none is ever given: add [[authors.strike]] or [[authors.rate]]")
        return found


_CHOICES = {
    "action": get_args(Enforced),
    "decision": get_args(Decision),
    "confidence": get_args(Confidence),
    "min_severity": SEVERITIES,
}
_ENTRY = re.compile(r"`\$\.(authors\.)?(rule|strike|rate|threshold)\[(\d+)\][.`]")
_FIELD = re.compile(rf"\.({'|'.join(_CHOICES)})(\[[0-9]+\])?`$")


def _allowed(message: str) -> str:
    """What a field takes, for an error of msgspec about a value that it does not take."""
    field = _FIELD.search(message)
    if field is None or not message.startswith("Invalid enum"):
        return ""
    of_authors = field[1] == "action" and ".threshold[" in message
    return f"; choose from: {', '.join(AUTHOR_ACTIONS[1:] if of_authors else _CHOICES[field[1]])}"


def _named(message: str, loaded: Mapping[str, Any]) -> str:
    """The name of the rule, strike, rate or threshold that an error of msgspec numbers from 0; empty if it has none."""
    place = _ENTRY.search(message)
    if place is None:
        return ""
    table = loaded.get("authors", {}) if place[1] else loaded
    entry = table[place[2]][int(place[3])]
    name = entry.get("name") if isinstance(entry, dict) else None
    return f" ({place[2]} {name!r})" if isinstance(name, str) else ""


def load(path: Path) -> EnforcementRules:
    """Read a file of enforcement rules. Raises ConfigurationError that names the place and the problem."""
    loaded: dict[str, Any] = {}
    try:
        loaded = tomllib.loads(path.read_text("utf-8-sig"))
        rules = msgspec.convert(loaded, EnforcementRules)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{path}: {error}{_named(str(error), loaded)}{_allowed(str(error))}") from error
    except (ValueError, RecursionError) as error:  # also for bytes that are no UTF-8, and endless numbers
        raise ConfigurationError(f"{path}: not TOML in UTF-8: {error}") from error
    names = [rule.name for rule in rules.rule]
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise ConfigurationError(
            f"{path}: two rules are named {duplicates[0]!r}: give each its own name, because an action names its rule"
        )
    return rules
