"""Statements of reasons about accounts: why an account is restricted, and that such a statement holds no longer.

A restriction is to limit the visibility of what an author publishes, or to suspend the account (Article 17(1) of the
Digital Services Act). To warn an author and to review an account restrict nothing. A restriction rests on a person's
decision, or on the threshold that the author's strikes pass. When an action changes the restriction or what it rests
on, the statement about it is withdrawn, and another one is issued if the account is still restricted. What stands
against the author names the statement that holds, so the next owner of a partition knows it.

The words are those of the policies' notes and of `statement_texts`. Nothing here reads a text, a verdict's reason, a
rationale, or what a person wrote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from safeguard_streams.bus.interface import Output
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    AccountStated,
    AuthorAction,
    AuthorDecision,
    AuthorEnforced,
    AuthorStanding,
    AuthorStatement,
    Automation,
    Reporter,
    StatementOfReasons,
    Strike,
    aware,
    encode,
    schema_header,
    verdict_id,
)
from safeguard_streams.enforcement.author_rules import ACCOUNT_RESTRICTIONS
from safeguard_streams.enforcement.policy_words import KnownPolicies, PolicyVersion
from safeguard_streams.enforcement.rules import EnforcementRules
from safeguard_streams.enforcement.statement_texts import Sentences, language_for, sentences
from safeguard_streams.enforcement.statements import Ground, contested, in_force_where, learn
from safeguard_streams.policies.document import primary_language
from safeguard_streams.runtime.settings import Settings

_HEADERS = [schema_header(StatementOfReasons)]
_START = datetime.fromtimestamp(0, UTC)


class Restriction(NamedTuple):
    """What restricts an account: a person's decision, or else the threshold with a name."""

    action: AuthorEnforced
    decision: AuthorDecision | None
    rule: str | None

    @property
    def rests_on(self) -> tuple[AuthorEnforced, str]:
        """Equal for restrictions of one account that one statement explains."""
        return self.action, f"decision {self.decision.decision_id}" if self.decision else f"threshold {self.rule}"


def restriction_of(standing: AuthorStanding) -> Restriction | None:
    """What restricts an account; None if nothing does."""
    if standing.action not in ACCOUNT_RESTRICTIONS:
        return None
    return Restriction(standing.action, standing.decision, standing.rule)


class Stated(NamedTuple):
    """What stands with its statement, the action with what it says of statements, and the records to write."""

    standing: AuthorStanding
    action: AuthorAction | None
    outputs: Sequence[Output]


class AccountStatements:
    """Issues and withdraws the statements about accounts, as actions change what stands against their authors."""

    def __init__(self, settings: Settings, rules: EnforcementRules, policies: KnownPolicies) -> None:
        self._settings = settings
        self._rules = rules
        self._policies = policies

    async def prepare(self, entries: Iterable[Strike], standings: Iterable[AuthorStanding]) -> None:
        """Learn the words of the policies that strikes name.

        Raises DependencyError where they could be there and cannot be read.
        """
        strikes = [*entries, *(strike for standing in standings for strike in standing.strikes)]
        await learn(
            self._policies,
            self._settings,
            {
                PolicyVersion(strike.policy_id, strike.policy_version or "")
                for strike in strikes
                if strike.policy_id and (strike.policy_version or strike.verdict_id is None)
            },
        )

    def follow(self, before: AuthorStanding, after: AuthorStanding, action: AuthorAction | None) -> Stated:
        """What follows for an account from the action of one record, which changed what stands on the author."""
        was, restricted = restriction_of(before), restriction_of(after)
        unchanged = was and restricted and was.rests_on == restricted.rests_on
        if action is None or unchanged or (was is None and restricted is None):
            return Stated(after, action, ())
        issued = self._issued(after, restricted, action) if restricted else None
        ended = self._withdrawn(before.statement, action, replaced=issued is not None) if before.statement else None
        said = msgspec.structs.replace(
            action,
            statement=issued and AuthorStatement(issued.statement_id, issued.language, issued.text),
            ends_statement=ended and ended.statement_id,
        )
        holds = issued and AccountStated(issued.statement_id, issued.language)
        key = after.author_id.encode()
        outputs = [
            Output(topics.STATEMENTS, key, encode(one), _HEADERS, by_key=True)
            for one in (ended, issued)
            if one is not None
        ]
        return Stated(msgspec.structs.replace(after, statement=holds), said, outputs)

    def _issued(self, standing: AuthorStanding, restriction: Restriction, by: AuthorAction) -> StatementOfReasons:
        rules, clock = self._rules.statements, standing.clock or _START
        rule = None if restriction.decision else restriction.rule
        strikes = self._rules.authors.counted(rule, standing.strikes, clock)
        language = language_for(_language(strikes), rules.language)
        said, grounds = sentences(language), _grounds(self._policies, strikes, language)
        decided = _automation(restriction, strikes)
        ends_at = None
        if restriction.decision is None:
            ends_at = self._rules.authors.ends(restriction.action, standing.strikes, clock)
        facts = "\n".join(_facts(said, strikes, decided))
        first, categories = next(iter(grounds), Ground()), list(dict.fromkeys(one.category for one in grounds))
        created = [aware(one.about.created_at) for one in strikes if one.about and one.about.created_at]
        return StatementOfReasons(
            statement_id=verdict_id("statement", by.action_id, standing.author_id),
            state="issued",
            action_id=by.action_id,
            stated_at=by.acted_at,
            language=language,
            text="\n".join(self._lines(said, restriction, grounds, facts, ends_at)),
            author_id=standing.author_id,
            account_action=restriction.action,
            ends_at=ends_at,
            strike_ids=tuple(one.strike_id for one in strikes),
            territory=rules.territory,
            policy_id=first.policy_id,
            policy_version=first.version,
            rule_ids=first.rules,
            ground="; ".join(one.name for one in grounds if one.name) or None,
            explanation=" ".join(dict.fromkeys(one.explanation for one in grounds if one.explanation)) or None,
            law=next((one.law for one in grounds if one.law), None),
            terms=rules.terms or None,
            facts=facts,
            reporter=_reporter(strikes[-1]) if strikes else None,
            automated_detection="automated" in map(_source, strikes),
            automated_decision=decided,
            category=first.category,
            keyword=first.keyword,
            more_categories=tuple(categories[1:]),
            content_language=_language(strikes),
            content_created_at=max(created, default=None),
        )

    def _withdrawn(self, stated: AccountStated, by: AuthorAction, *, replaced: bool) -> StatementOfReasons:
        said = sentences(language_for(stated.language, self._rules.statements.language))
        return StatementOfReasons(
            statement_id=stated.statement_id,
            state="withdrawn",
            action_id=by.action_id,
            stated_at=by.acted_at,
            language=stated.language,
            text=said.account.replaced if replaced else said.account.lifted,
            author_id=by.author_id,
        )

    def _lines(
        self, said: Sentences, restriction: Restriction, grounds: Sequence[Ground], facts: str, ends_at: datetime | None
    ) -> Iterator[str]:
        """The statement as its author reads it: what, how long, where, why, on which facts, and what they can do."""
        account = said.account
        how_long = account.until.format(date=said.day(ends_at)) if ends_at else said.duration
        yield f"{account.action[restriction.action]} {how_long} {in_force_where(said, self._rules.statements)}"
        for one in grounds or (Ground(),):
            yield _sentence(said, one)
            if one.explanation:
                yield one.explanation
        yield facts
        yield from contested(said, self._rules.statements, "" if restriction.decision else account.contents)


def _grounds(known: KnownPolicies, strikes: Sequence[Strike], language: str) -> list[Ground]:
    """What the strikes are about, policy by policy, the one that weighs most first. Rules in the order of strikes.

    The words are those of a policy's newest version among the strikes, and for rules that it lacks those of their own.
    A policy that only a person cites and nobody ever released is that person's own words, and no ground.
    """
    newest = {one.policy_id: one.policy_version for one in strikes if one.policy_id and one.policy_version}
    weights: Counter[PolicyVersion] = Counter()
    rules: dict[PolicyVersion, dict[str, None]] = {}
    for strike in strikes:
        if strike.policy_id:
            version = PolicyVersion(strike.policy_id, newest.get(strike.policy_id) or "")
            words = known[version]
            if words is None and strike.verdict_id is None:
                continue
            if words is not None and strike.policy_version and not words.rules.keys() >= set(strike.rule_ids):
                version = PolicyVersion(strike.policy_id, strike.policy_version)
            weights[version] += strike.weight
            rules.setdefault(version, {}).update(dict.fromkeys(strike.rule_ids))
    return [Ground.of(known, version, tuple(rules[version]), language) for version, _ in weights.most_common()]


def _sentence(said: Sentences, ground: Ground) -> str:
    if ground.name is None:
        return said.account.uncited
    if ground.law:
        return said.account.illegal.format(law=ground.law, ground=ground.name)
    return said.account.ground.format(ground=ground.name)


def _facts(said: Sentences, strikes: Sequence[Strike], decided: Automation) -> Iterator[str]:
    """On how many violations a decision rests, how they were found, and who decided."""
    if strikes:
        days = {"first": said.day(strikes[0].at), "last": said.day(strikes[-1].at)}
        counted = said.account.violations if len(strikes) > 1 else said.account.violation
        yield counted.format(count=len(strikes), **days)
    yield " ".join(
        [*(said.account.found[name] for name in dict.fromkeys(map(_source, strikes))), said.account.decided[decided]]
    )


def _automation(restriction: Restriction, strikes: Sequence[Strike]) -> Automation:
    """Whether automated means decided about the account. The strikes advise a person who decides about it."""
    if restriction.decision is None:
        return "fully"
    return "partially" if strikes else "not"


def _source(strike: Strike) -> str:
    """How the content of a strike was found, as `Sentences.found` names it. A strike for a rate alone has an origin."""
    return _reporter(strike) or ("automated" if strike.verdict_id or strike.origin else "initiative")


def _reporter(strike: Strike) -> Reporter | None:
    return strike.about.reporter if strike.about else None


def _language(strikes: Sequence[Strike]) -> str | None:
    """The language of most of the content, of several the one of the newest; None if none is known."""
    tags = [strike.about.language for strike in reversed(strikes) if strike.about]
    common = Counter(filter(None, map(primary_language, tags))).most_common(1)
    return common[0][0] if common else None
