"""The words of policies that statements of reasons use, by version, followed on moderation.policies.

A verdict names the version that judged it. That version may have been replaced since, so versions that the topic no
longer holds are read from moderation.policies.history.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import PolicyChange, PolicyRelease, decode
from safeguard_streams.errors import PolicyError, RecordError
from safeguard_streams.policies import statements
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.parsing import parse
from safeguard_streams.policies.statements import RuleStatement
from safeguard_streams.policies.vocabulary import SEVERITIES, Severity, rules_above
from safeguard_streams.releases.people import made_plain
from safeguard_streams.runtime.settings import Settings

log = logging.getLogger(__name__)


class PolicyVersion(NamedTuple):
    """A version of a policy."""

    policy_id: str
    version: str


class PolicyWords(msgspec.Struct, frozen=True):
    """The title of a policy, and the names, notes, codes and severities of its rules. least: the lowest of these."""

    title: str
    rules: Mapping[str, str]
    notes: Mapping[str, str]
    statements: Mapping[str, RuleStatement]
    severities: Mapping[str, Severity] = {}
    least: Severity | None = None

    @classmethod
    def of(cls, policy: Policy) -> PolicyWords:
        names = {rule: made_plain(policy.rules[rule]) for rule in policy.violating}
        severities = {rule: policy.severity_of(rule) for rule in policy.violating}
        least = policy.severity_of_violation(())
        return cls(made_plain(policy.title), names, policy.notes, policy.statements, severities, least)

    def severity(self, cited: Iterable[str]) -> Severity | None:
        """The highest severity of the cited rules or, where none is cited, the lowest of the policy."""
        found = [self.severities[rule] for rule in cited if rule in self.severities]
        return max(found, key=SEVERITIES.index, default=self.least)

    def name(self, rule: str) -> str:
        """A rule as statements name it, as in HH1: Attacks people."""
        return f"{rule}: {self.rules[rule]}" if rule in self.rules else rule

    def note(self, rule: str, language: str) -> str | None:
        """What a rule says in plain words, in a language if the policy has it, or else in the policy's own."""
        translated = statements.of_rule(self.statements, rule).notes.get(language)
        own = next((self.notes[name] for name in rules_above(rule) if name in self.notes), None)
        return translated or own or self.rules.get(rule)


class KnownPolicies:
    """The words of the policies' versions, as far as they were needed. A broken release is logged and left out."""

    def __init__(self) -> None:
        self._words: dict[PolicyVersion, PolicyWords] = {}
        self._newest: dict[str, PolicyWords] = {}
        self._missing: set[PolicyVersion] = set()

    def __getitem__(self, wanted: tuple[str, str | None]) -> PolicyWords | None:
        """The words of a version or, if it is not known, of the one in force last."""
        policy_id, version = wanted
        return self._words.get(PolicyVersion(policy_id, version or "")) or self._newest.get(policy_id)

    def add(self, policy: Policy, *, in_force: bool = True) -> None:
        """Add a version of a policy, which replaces the earlier words of that version."""
        words = PolicyWords.of(policy)
        self._words[PolicyVersion(policy.id, policy.version)] = words
        if in_force:
            self._newest[policy.id] = words

    def take(self, record: Record) -> None:
        """Apply one record of moderation.policies. Never raises. What ended keeps its words: verdicts may follow."""
        if record.value is None:
            return
        try:
            release = decode(record.value, PolicyRelease)
            policy = parse(release.document, f"release of {release.policy_id}", release.distilled)
            self.add(policy, in_force=release.shadow is None and not release.replay)
        except (RecordError, PolicyError) as error:
            log.error("record of moderation.policies ignored error=%s", error)  # noqa: TRY400  (the message suffices)
        self._missing.clear()

    def _knows(self, wanted: PolicyVersion) -> bool:
        return wanted in self._words or (not wanted.version and wanted.policy_id in self._newest)

    async def follow(self, settings: Settings, caught_up: asyncio.Event) -> None:
        """Read moderation.policies from its beginning until cancelled. Sets `caught_up` at the ends found at first."""
        await kafka.follow(settings, topics.POLICIES, self.take, caught_up)

    async def fetch(self, settings: Settings, wanted: Iterable[PolicyVersion]) -> None:
        """Read the versions that are not known from the history. Those that it lacks are not looked for again until
        another release comes. Without a version, the last one that was in force is wanted.
        """
        missing = {one for one in wanted if not self._knows(one)} - self._missing
        if not missing:
            return
        released: dict[PolicyVersion, PolicyRelease] = {}
        async for _, change in kafka.read_decoded(settings, [topics.POLICIES_HISTORY], PolicyChange):
            if change.release is not None:
                version = PolicyVersion(change.release.policy_id, change.release.version)
                if version in missing:
                    released[version] = change.release
                last = PolicyVersion(change.release.policy_id, "")
                if last in missing and change.release.shadow is None:
                    released[last] = change.release
        for version, release in released.items():
            try:
                policy = parse(release.document, f"release of {release.policy_id}", release.distilled)
            except PolicyError as error:
                log.error("release ignored policy=%s error=%s", version.policy_id, error)  # noqa: TRY400 - no fault here
                continue
            if version.version:
                self._words[version] = PolicyWords.of(policy)
            else:  # retired, and perhaps released again meanwhile
                self._newest.setdefault(version.policy_id, PolicyWords.of(policy))
        self._missing |= {one for one in missing if not self._knows(one)}
