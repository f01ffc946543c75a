"""Statements of reasons: why an author's item is restricted, and that such a statement holds no longer.

A restriction is what is in effect on an item, if that is to label, limit or remove it (Article 17(1) of the Digital
Services Act). It rests on a moderator's decision or on rules of one policy: of several policies that ask for the same,
the first. When the restriction or what it rests on changes, the statement about it is withdrawn, and another one is
issued if the item is still restricted. What stands names the statement that holds, so the next owner of a partition
knows it.

The words are those of the policy's notes and of `statement_texts`. Nothing here reads a verdict's reason, a rationale,
or what a moderator wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from safeguard_streams.bus.interface import Output
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Action,
    AuthorStatement,
    Automation,
    Enforced,
    EnforcementInput,
    ModeratorDecision,
    PolicyStanding,
    Reporter,
    Standing,
    StatementOfReasons,
    TextFacts,
    Verdict,
    aware,
    encode,
    now,
    schema_header,
    verdict_id,
)
from safeguard_streams.enforcement.policy_words import KnownPolicies, PolicyVersion, PolicyWords
from safeguard_streams.enforcement.rules import severity
from safeguard_streams.enforcement.statement_rules import StatementRules
from safeguard_streams.enforcement.statement_texts import Sentences, language_for, sentences
from safeguard_streams.errors import BusError, DependencyError, ForbiddenError
from safeguard_streams.policies import statements as rule_statements
from safeguard_streams.runtime.settings import Settings

RESTRICTIONS: frozenset[Enforced] = frozenset({"label", "limit", "remove"})
_HEADERS = [schema_header(StatementOfReasons)]
_FIRST = datetime.min.replace(tzinfo=UTC)


class Restriction(NamedTuple):
    """What restricts an item. decision: the moderator's, if it rests on one. policy: what it rests on otherwise, or
    what the moderator had before them, if a policy asked for anything.
    """

    action: Enforced
    decision: ModeratorDecision | None
    policy: PolicyStanding | None

    @property
    def rests_on(self) -> tuple[Enforced, str]:
        """Equal for restrictions of one item that one statement explains: it names the rules that are violated."""
        if self.decision is not None:
            return self.action, f"decision {self.decision.action_id}"
        if self.policy is None:
            return self.action, ""
        cited = sorted(self.policy.grounds.rule_ids) if self.policy.grounds else []
        return self.action, " ".join(["policy", self.policy.policy_id, str(_undetermined(self)), *cited])

    @property
    def reporter(self) -> Reporter | None:
        return self.policy.grounds.reporter if self.policy and self.policy.grounds else None


def restriction_of(standing: Standing) -> Restriction | None:
    """What restricts an item; None if nothing does."""
    if standing.effective not in RESTRICTIONS:
        return None
    asking = [one for one in standing.policies if one.action != "allow"]
    first = min(asking, key=lambda one: (-severity(one.action), aware(one.at or _FIRST), one.policy_id), default=None)
    return Restriction(standing.effective, standing.in_force, first)


class Stated(NamedTuple):
    """What stands with its statement, the actions with what they say of statements, and the records to write."""

    standing: Standing
    actions: Sequence[Action]
    outputs: Sequence[Output]


class Statements:
    """Issues and withdraws the statements about items, as actions change what stands on them."""

    def __init__(self, settings: Settings, rules: StatementRules, policies: KnownPolicies) -> None:
        self._settings = settings
        self._rules = rules
        self._policies = policies

    async def prepare(self, inputs: Iterable[EnforcementInput], standings: Iterable[Standing]) -> None:
        """Learn the words of the policies that follow these inputs, about items on which this stands.

        Raises DependencyError where they could be there and cannot be read.
        """
        wanted = {
            PolicyVersion(one.verdict.policy_id, one.verdict.policy_version)
            for one in inputs
            if one.verdict is not None and one.verdict.decision != "safe"
        }
        cited = [one.action.cited_policy for one in inputs if one.action is not None]
        cited += [one.cited_policy for each in standings for one in (each.decision, *each.replaced) if one is not None]
        wanted |= {PolicyVersion(name, "") for name in cited if name is not None}
        wanted |= {
            PolicyVersion(policy.policy_id, said.policy_version)
            for standing in standings
            for policy in standing.policies
            for said in (policy.grounds, policy.held)  # a held action may be released
            if said is not None and said.policy_version is not None
        }
        await learn(self._policies, self._settings, wanted)

    def graded(self, action: Action) -> Action:
        """A moderator's decision with the severity of the rules that it cites, unless the record says one."""
        words = self._policies[action.cited_policy, ""] if action.human and action.cited_policy else None
        if words is None or action.severity is not None or action.withdraws is not None or action.action == "allow":
            return action
        return msgspec.structs.replace(action, severity=words.severity(action.rule_ids))

    def follow(self, before: Standing, after: Standing, actions: Sequence[Action], verdict: Verdict | None) -> Stated:
        """What follows for an item from the actions of one input, which changed what stands on it."""
        after = with_facts(before, after, verdict)
        was, now_restricted = restriction_of(before), restriction_of(after)
        unchanged = was and now_restricted and was.rests_on == now_restricted.rests_on
        if unchanged or not actions or (was is None and now_restricted is None):
            return Stated(after, actions, ())
        by = _carrier(actions, now_restricted)
        issued = self._issued(after, now_restricted, by) if now_restricted else None
        ended = self._withdrawn(before, by, replaced=issued is not None) if before.statement else None
        said = msgspec.structs.replace(
            by,
            statement=issued and AuthorStatement(issued.statement_id, issued.language, issued.text),
            ends_statement=before.statement,
        )
        key = after.content_id.encode()
        return Stated(
            msgspec.structs.replace(after, statement=issued and issued.statement_id),
            [said if one is by else one for one in actions],
            [Output(topics.STATEMENTS, key, encode(one), _HEADERS) for one in (ended, issued) if one is not None],
        )

    def _issued(self, standing: Standing, restriction: Restriction, by: Action) -> StatementOfReasons:
        about = standing.about or TextFacts()
        language = language_for(about.language, self._rules.language)
        ground = self._ground(restriction, language)
        reporter = restriction.reporter or (about.reporter if restriction.decision else None)
        decided, detected = _automation(restriction), reporter is None and restriction.policy is not None
        said = sentences(language)
        facts = said.facts(reporter, automated=detected, decided=decided)
        return StatementOfReasons(
            statement_id=verdict_id("statement", by.action_id, standing.content_id),
            content_id=standing.content_id,
            state="issued",
            action_id=by.action_id,
            stated_at=now(),
            language=language,
            text="\n".join(self._lines(said, restriction, ground, facts)),
            author_id=by.author_id,
            action=restriction.action,
            territory=self._rules.territory,
            policy_id=ground.policy_id,
            policy_version=ground.version,
            rule_ids=ground.rules,
            ground=ground.name,
            explanation=ground.explanation,
            law=ground.law,
            terms=self._rules.terms or None,
            facts=facts,
            reporter=reporter,
            automated_detection=detected,
            automated_decision=decided,
            category=ground.category,
            keyword=ground.keyword,
            content_language=about.language,
            content_created_at=about.created_at,
            content_sha256=standing.content_sha256,
            origin=standing.origin,
        )

    def _withdrawn(self, before: Standing, by: Action, *, replaced: bool) -> StatementOfReasons:
        assert before.statement is not None
        language = language_for(before.about.language if before.about else None, self._rules.language)
        said = sentences(language)
        return StatementOfReasons(
            statement_id=before.statement,
            content_id=before.content_id,
            state="withdrawn",
            action_id=by.action_id,
            stated_at=now(),
            language=language,
            text=said.replaced if replaced else said.lifted,
            author_id=by.author_id,
        )

    def _lines(self, said: Sentences, restriction: Restriction, ground: Ground, facts: str) -> Iterator[str]:
        """The statement as its author reads it: what, how long, where, why, on which facts, and what they can do."""
        yield f"{said.action[restriction.action]} {said.duration} {in_force_where(said, self._rules)}"
        yield ground.sentence(said, undetermined=_undetermined(restriction))
        if ground.explanation:
            yield ground.explanation
        yield facts
        yield from contested(said, self._rules)

    def _ground(self, restriction: Restriction, language: str) -> Ground:
        """What the restriction rests on, in a policy's words: what the moderator cites, or else the verdict's rules.

        A policy that nobody ever released is the moderator's own words, and no ground.
        """
        decision, policy = restriction.decision, restriction.policy
        if decision is not None and decision.cited_policy is not None:
            cited = PolicyVersion(decision.cited_policy, "")
            if self._policies[cited] is not None:
                return Ground.of(self._policies, cited, decision.rule_ids, language)
        if policy is None:
            return Ground()
        grounds = policy.grounds
        version = PolicyVersion(policy.policy_id, (grounds.policy_version if grounds else None) or "")
        return Ground.of(self._policies, version, grounds.rule_ids if grounds else (), language)


class Ground(NamedTuple):
    """What a restriction rests on, in a policy's words and by the codes of its rules."""

    policy_id: str | None = None
    version: str | None = None
    rules: tuple[str, ...] = ()
    name: str | None = None
    explanation: str | None = None
    law: str | None = None
    category: str = rule_statements.OTHER_VIOLATION
    keyword: str | None = None

    @classmethod
    def of(cls, known: KnownPolicies, version: PolicyVersion, rules: Sequence[str], language: str) -> Ground:
        """The ground that rules of a policy make. A policy whose words are not known is named by its id."""
        words = known[version] or PolicyWords(version.policy_id, {}, {}, {})
        cited = tuple(rule for rule in rules if rule in words.rules or not words.rules)
        entries = [rule_statements.of_rule(words.statements, rule) for rule in cited]
        return cls(
            version.policy_id,
            version.version or None,
            cited,
            ", ".join([words.title, *map(words.name, cited)]),
            " ".join(filter(None, dict.fromkeys(words.note(rule, language) for rule in cited))) or None,
            next((one.law for one in entries if one.law), None),
            entries[0].category if entries else rule_statements.OTHER_VIOLATION,
            entries[0].keyword if entries else None,
        )

    def sentence(self, said: Sentences, *, undetermined: bool) -> str:
        if self.name is None:
            return said.uncited
        if undetermined:
            return said.undetermined.format(ground=self.name)
        return said.illegal.format(law=self.law, ground=self.name) if self.law else said.ground.format(ground=self.name)


async def learn(policies: KnownPolicies, settings: Settings, wanted: Iterable[PolicyVersion]) -> None:
    """Learn the words of versions of policies. Raises DependencyError where they could be there and cannot be read."""
    try:
        await policies.fetch(settings, wanted)
    except (BusError, ForbiddenError) as error:  # no record is at fault
        raise DependencyError(f"policies that statements of reasons name cannot be read: {error}") from error


def in_force_where(said: Sentences, rules: StatementRules) -> str:
    """Where restrictions hold, in a sentence."""
    return said.territory.format(territory=", ".join(rules.territory)) if rules.territory else said.everywhere


def contested(said: Sentences, rules: StatementRules, also: str = "") -> Iterator[str]:
    """The lines that say how to contest a decision. also: another way, in sentences."""
    contest = said.appeal.format(appeal=rules.appeal) if rules.appeal else said.appeal_unset
    others = f"{also} {said.redress}".lstrip()
    yield f"{contest} {others}" if contest.endswith(".") else f"{contest}\n{others}"
    if rules.terms:
        yield rules.terms


def with_facts(before: Standing, after: Standing, verdict: Verdict | None) -> Standing:
    """What stands, with the facts about its newest text that a verdict tells."""
    facts = before.about if after.content_sha256 == before.content_sha256 else None
    if verdict is not None and not verdict.clears and verdict.content_sha256 == after.content_sha256:
        facts = facts_of(verdict, facts or TextFacts())
    return after if facts == after.about else msgspec.structs.replace(after, about=facts)


def facts_of(verdict: Verdict, known: TextFacts) -> TextFacts:
    """What a verdict tells of its text, beside what is known of that text."""
    reporter = verdict.prefilter.reporter if verdict.prefilter else None
    return TextFacts(
        verdict.language or known.language, verdict.created_at or known.created_at, reporter or known.reporter
    )


def _carrier(actions: Sequence[Action], restriction: Restriction | None) -> Action:
    """The action that tells of a statement: the one that restricts the item, or else the last that changes anything."""
    rests_on = restriction and (restriction.decision or restriction.policy)
    own = next((one for one in actions if rests_on and one.action_id == rests_on.action_id), None)
    return own or ([one for one in actions if one.changes] or actions)[-1]


def _undetermined(restriction: Restriction) -> bool:
    return (
        restriction.decision is None
        and restriction.policy is not None
        and restriction.policy.decision == "undetermined"
    )


def _automation(restriction: Restriction) -> Automation:
    """Whether automated means decided. A moderator who decides about what a policy asks for has been advised by it."""
    if restriction.policy is None:
        return "not"
    released = restriction.policy.grounds is not None and restriction.policy.grounds.confirmed
    return "partially" if restriction.decision is not None or released else "fully"
