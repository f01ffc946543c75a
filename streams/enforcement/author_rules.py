"""What the enforcement rules say about authors: what a violation weighs, and what follows from the strikes that add up.

[authors]
expires = "90d"
[[authors.strike]]      # the first that matches a violation gives its strike
[[authors.rate]]        # gives a strike to who publishes too much in a time
[[authors.threshold]]   # the severest of those that are passed stands on the author
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Annotated, NamedTuple, get_args

import msgspec

from safeguard_streams.contract.limits import RATE_POSTS, RATE_SECONDS, STRIKE_WEIGHT
from safeguard_streams.contract.records import Action, AuthorEnforced, Strike
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.vocabulary import SEVERITIES, Severity, is_within
from safeguard_streams.runtime.durations import span

Span = Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]{0,3}[smhd]\Z")]  # at most 9999d
Name = Annotated[str, msgspec.Meta(min_length=1)]
Weight = Annotated[int, msgspec.Meta(ge=1, le=STRIKE_WEIGHT)]
MIN_CHARACTERS = 10  # of similar texts, unless a rate says otherwise
AUTHOR_ACTIONS: tuple[AuthorEnforced, ...] = get_args(AuthorEnforced)
ACCOUNT_RESTRICTIONS: frozenset[AuthorEnforced] = frozenset({"limit", "suspend"})  # those that owe a statement


def duration(text: str) -> timedelta:
    """The duration that a file of rules names."""
    return span(text) or timedelta()


def is_severe(violation: Severity | None, least: Severity) -> bool:
    return violation is not None and SEVERITIES.index(violation) >= SEVERITIES.index(least)


def is_young(account_age: int | None, most: Span | None) -> bool:
    """Whether an account is as young as a condition asks, if one does. One of unknown age is not."""
    return most is None or (account_age is not None and account_age <= duration(most).total_seconds())


class StrikeRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a violation weighs. An omitted condition matches every violation; a rule with sub-rules stands for these."""

    name: Name
    weight: Weight = 1
    policies: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    min_severity: Severity | None = None
    max_account_age: Span | None = None
    expires: Span | None = None

    def matches(self, action: Action) -> bool:
        """Whether the verdict or the decision that an action follows is such a violation."""
        policy_id = action.cited_policy if action.human else action.policy_id
        return (
            (not self.policies or policy_id in self.policies)
            and (not self.rules or any(is_within(cited, rule) for cited in action.rule_ids for rule in self.rules))
            and (self.min_severity is None or is_severe(action.severity, self.min_severity))
            and is_young(action.account_age, self.max_account_age)
        )


class Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A strike for so many items that an author publishes within a time. Each item counts towards one strike.

    similar: whether only items count that differ by little from the newest one, and have so many characters.
    max_account_age: of the author when the newest item was created.
    """

    name: Name
    posts: Annotated[int, msgspec.Meta(ge=2, le=RATE_POSTS)]
    within: Span
    similar: bool = True
    min_characters: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    max_account_age: Span | None = None
    weight: Weight = 1
    expires: Span | None = None

    def __post_init__(self) -> None:
        if duration(self.within).total_seconds() > RATE_SECONDS:
            raise ValueError("within: a rate counts a day at most, 1d")
        if self.min_characters is not None and not self.similar:
            raise ValueError("min_characters: goes with similar = true, where short texts are often the same")

    @property
    def least_characters(self) -> int:
        return self.min_characters or MIN_CHARACTERS


class StrikeCount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Strikes of an author that weigh so much together: under these policies, no older than `within`.

    given_by: names of what gave them, strikes or rates of the file.
    """

    weight: Annotated[int, msgspec.Meta(ge=1, le=10**6)] = 1
    within: Span | None = None
    policies: tuple[str, ...] = ()
    given_by: tuple[str, ...] = ()

    def passed(self, strikes: Iterable[Strike], moment: datetime) -> bool:
        """Whether the strikes that count at a moment weigh enough."""
        return self.weight <= sum(strike.weight for strike in self.counted(strikes, moment))

    def counted(self, strikes: Iterable[Strike], moment: datetime) -> list[Strike]:
        """The strikes that count at a moment: given, not expired, under these policies and in the window."""
        first = moment - duration(self.within) if self.within else None
        return [
            strike
            for strike in strikes
            if counts(strike, moment) and self._is_meant(strike) and (first is None or strike.at > first)
        ]

    def leaves(self, strike: Strike) -> datetime | None:
        """When a strike leaves the window, if it is ever counted in one."""
        return strike.at + duration(self.within) if self.within and self._is_meant(strike) else None

    def _is_meant(self, strike: Strike) -> bool:
        return (not self.policies or strike.policy_id in self.policies) and (
            not self.given_by or strike.rule in self.given_by
        )


class Threshold(StrikeCount, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What follows for an author whose strikes weigh so much. Of several, the severest stands."""

    name: Name
    action: AuthorEnforced

    def __post_init__(self) -> None:
        if self.action == "none":
            raise ValueError("action: choose warn, review, limit or suspend; without a threshold, none stands")


class Stands(NamedTuple):
    """What stands on an author by the thresholds, and the name of the one that says so, if one is passed.

    rank: higher for what is severer, then for a higher weight.
    """

    action: AuthorEnforced = "none"
    rule: str | None = None
    rank: tuple[int, int] = (0, 0)


class AuthorRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section [authors] of a file of enforcement rules. Without it, no strike is given."""

    expires: Span = "90d"
    strike: tuple[StrikeRule, ...] = ()
    rate: tuple[Rate, ...] = ()
    threshold: tuple[Threshold, ...] = ()

    def strike_rule(self, action: Action) -> StrikeRule | None:
        """The first rule that matches the violation that an action follows."""
        return next((rule for rule in self.strike if rule.matches(action)), None)

    @property
    def gives_strikes(self) -> bool:
        return bool(self.strike or self.rate)

    @property
    def givers(self) -> set[str]:
        """The names of what gives strikes."""
        return {one.name for one in self.strike} | {one.name for one in self.rate}

    @property
    def digest(self) -> str:
        """16 hex digits that differ where the thresholds do."""
        return _digest(self.threshold)

    def lifetime(self, rule: StrikeRule | Rate) -> timedelta:
        return duration(rule.expires or self.expires)

    def stands(self, strikes: Sequence[Strike], moment: datetime) -> Stands:
        """What stands on an author with these strikes at a moment."""
        passed = [_stands(one) for one in self.threshold if one.passed(strikes, moment)]
        return max(passed, key=lambda one: one.rank, default=Stands())

    def rank_of(self, rule: str | None) -> tuple[int, int]:
        """The rank of the threshold with a name; the lowest if there is none."""
        return next((_stands(one).rank for one in self.threshold if one.name == rule), Stands().rank)

    def counted(self, rule: str | None, strikes: Iterable[Strike], moment: datetime) -> list[Strike]:
        """The strikes that the threshold with a name counts at a moment; all that count if there is none."""
        threshold = next((one for one in self.threshold if one.name == rule), StrikeCount())
        return threshold.counted(strikes, moment)

    def due(self, strikes: Iterable[Strike], moment: datetime) -> datetime | None:
        """When the next strike expires or leaves a window after a moment."""
        return min(self._changes(strikes, moment), default=None)

    def ends(self, action: AuthorEnforced, strikes: Sequence[Strike], moment: datetime) -> datetime | None:
        """When an action, or a severer one, no longer stands if no strike is added; None if nothing ends it.

        Without new strikes, what stands never becomes severer, so the times can be bisected.
        """
        least, times = AUTHOR_ACTIONS.index(action), sorted(self._changes(strikes, moment))
        ended = bisect_left(times, True, key=lambda time: self.stands(strikes, time).rank[0] < least)
        return times[ended] if ended < len(times) else None

    def _changes(self, strikes: Iterable[Strike], moment: datetime) -> set[datetime]:
        """The times after a moment at which a strike expires or leaves a window."""
        times: set[datetime | None] = set()
        for strike in strikes:
            times.add(strike.expires_at)
            if strike.state == "given":
                times.update(one.leaves(strike) for one in self.threshold)
        return {time for time in times if time is not None and time > moment}

    @property
    def policies(self) -> set[str]:
        """Ids of all policies that the section names."""
        named = [one.policies for one in self.strike] + [one.policies for one in self.threshold]
        return {policy for policies in named for policy in policies}

    def problems(self, known: Mapping[str, Policy]) -> Iterator[str]:
        """What the section names that does not exist, and what in it can never have an effect."""
        cited = {rule_id for policy in known.values() for rule_id in policy.rules}
        for rule in self.strike:
            for rule_id in sorted(set(rule.rules) - cited):
                yield f"authors: strike {rule.name!r}: no policy has a rule {rule_id!r}"
        named = {
            "strike or rate": [*(one.name for one in self.strike), *(one.name for one in self.rate)],
            "threshold": [one.name for one in self.threshold],
        }
        for kind, listed in named.items():
            for name in sorted({name for name in listed if listed.count(name) > 1}):
                yield f"authors: two of kind {kind} are named {name!r}: give each its own name"
        for threshold in self.threshold:
            yield from (f"authors: threshold {threshold.name!r}: {one}" for one in self.unknown_givers(threshold))
        if self.threshold and not self.gives_strikes:
            yield "authors: no strike is ever given: add [[authors.strike]] or [[authors.rate]]"

    def unknown_givers(self, count: StrikeCount) -> Iterator[str]:
        """What a count of strikes names and the section does not have."""
        for name in sorted(set(count.given_by) - self.givers):
            yield f"nothing named {name!r} gives strikes; there are: {', '.join(sorted(self.givers)) or 'none'}"


@lru_cache(maxsize=4)
def _digest(thresholds: tuple[Threshold, ...]) -> str:
    return hashlib.sha256(msgspec.json.encode(thresholds)).hexdigest()[:16]


def _stands(threshold: Threshold) -> Stands:
    return Stands(threshold.action, threshold.name, (AUTHOR_ACTIONS.index(threshold.action), threshold.weight))


def counts(strike: Strike, moment: datetime) -> bool:
    """Whether a strike is given and has not expired."""
    return strike.state == "given" and strike.expires_at is not None and strike.expires_at > moment
