"""How well people agree with each other, with the model and with golden sets: the figures of the Quality page.

A person counts once for each text and policy, with what they decided last. Decisions that were taken back, and those
that pass the item on, say nothing. Golden items have figures of their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from itertools import chain, combinations
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, exists, select

from safeguard_streams.console.labels import standing
from safeguard_streams.console.schema import actions, reviews, verdicts
from safeguard_streams.contract.records import EVERY_POLICY
from safeguard_streams.quality import agreement
from safeguard_streams.quality.agreement import Agreement
from safeguard_streams.quality.proportions import Proportion, proportion

_PAIRS = 30  # of people, who have the most items in common
AnyRow = Row[Any]
Text = tuple[str, str | None, str]  # item, its text, policy
Sides = list[list[list[AnyRow]]]  # blind and seen: for each text, what people said last


class WithModel(NamedTuple):
    """Agreement with the model: of people who decided before they saw its verdict, and of those who saw it."""

    policy_id: str
    rule: str
    blind: Agreement
    seen: Agreement


class Pair(NamedTuple):
    """Agreement of two people."""

    first: str
    second: str
    agreement: Agreement


class Golden(NamedTuple):
    """How many golden items of a policy somebody judged as the golden set does."""

    who: str
    policy_id: str
    right: Proportion


class Week(NamedTuple):
    """The decisions of a week: how many, and the shares that agree."""

    begins: date
    decisions: int
    blind: Proportion
    seen: Proportion
    golden: Proportion


class Dispute(NamedTuple):
    """A decision, and a second look that says otherwise."""

    content_id: str
    policy_id: str
    first: AnyRow
    second: AnyRow


def load(
    connection: Connection, since: datetime, policy_id: str = "", judged_by: str | None = None
) -> Sequence[AnyRow]:
    """Decisions since a time that were not taken back, oldest first, each with the verdict on its item.

    policy_id: only those under this policy. judged_by: only those about items that this person judged, too.
    """
    withdrawn = exists().where(actions.c.content_id == reviews.c.content_id, actions.c.withdraws == reviews.c.action_id)
    said = verdicts.c.decision.label("said"), verdicts.c.rule_ids
    query = select(reviews, *said).outerjoin(verdicts, verdicts.c.verdict_id == reviews.c.verdict_id)
    query = query.where(reviews.c.at >= since, ~withdrawn)
    if policy_id:
        query = query.where(reviews.c.policy_id == policy_id)
    if judged_by is not None:
        own = reviews.alias("own")
        judged = select(own.c.content_id).where(own.c.who == judged_by, own.c.at >= since)
        query = query.where(reviews.c.content_id.in_(judged))
    return connection.execute(query.order_by(reviews.c.at, reviews.c.id)).all()


def among_people(rows: Iterable[AnyRow]) -> list[tuple[str, Agreement]]:
    """Agreement of people who did not know what others had decided: under all policies, and under each."""
    texts = _by_text(row for row in rows if not row.golden and (row.blind or not row.second))
    policies = sorted({policy_id for _, _, policy_id in texts})
    said = {text: [row.decision for row in people.values()] for text, people in texts.items()}
    by_policy = [
        (name, agreement.alpha(ratings for text, ratings in said.items() if text[2] == name)) for name in policies
    ]
    return [(EVERY_POLICY, agreement.alpha(said.values())), *by_policy]


def pairs(rows: Iterable[AnyRow]) -> list[Pair]:
    """Agreement of each two people who judged the same items, those with the most items first."""
    common: dict[tuple[str, str], list[list[agreement.Pair]]] = defaultdict(list)
    for people in _by_text(row for row in rows if not row.golden and (row.blind or not row.second)).values():
        for first, second in combinations(sorted(people), 2):
            common[first, second].append([(people[first].decision, people[second].decision)])
    most = sorted(common.items(), key=lambda one: (-len(one[1]), one[0]))[:_PAIRS]
    return [Pair(*names, agreement.kappa(items)) for names, items in most]


def with_colleagues(rows: Iterable[AnyRow], who: str) -> Proportion:
    """The share of decisions of colleagues, on items that somebody judged too, that are the same as theirs."""
    same = [
        said.decision == people[who].decision
        for people in _by_text(row for row in rows if not row.golden and (row.blind or not row.second)).values()
        for name, said in people.items()
        if who in people and name != who
    ]
    return proportion(sum(same), len(same))


def with_model(rows: Iterable[AnyRow]) -> list[WithModel]:
    """Agreement with the model by policy, that of all policies first."""

    def of(name: str, sides: Sides) -> WithModel:
        return WithModel(name, "", *_kappas(sides, lambda row: (row.decision, row.said)))

    policies = _sides(rows)
    whole = [list(chain.from_iterable(side)) for side in zip(*policies.values(), strict=True)] or [[], []]
    return [of(EVERY_POLICY, whole), *(of(name, policies[name]) for name in sorted(policies) if name != EVERY_POLICY)]


def by_rule(rows: Iterable[AnyRow]) -> list[WithModel]:
    """The same for each rule that people or the model cite: whether it is violated.

    A person who says that an item violates, and cites no rule, says nothing about any of them.
    """

    def of(policy_id: str, rule: str) -> WithModel:
        both = _kappas(policies[policy_id], lambda row: (str(rule in _by_person(row)), str(rule in _by_model(row))))
        return WithModel(policy_id, rule, *both)

    policies = _sides(row for row in rows if row.decision != "violates" or row.rule)
    cited = {
        name: {rule for side in sides for said in side for row in said for rule in _by_person(row) | _by_model(row)}
        for name, sides in policies.items()
    }
    return [of(policy_id, rule) for policy_id in sorted(cited) for rule in sorted(cited[policy_id])]


def _sides(rows: Iterable[AnyRow]) -> dict[str, Sides]:
    """By policy, what people said about texts that the model decided: those who decided blind, and the others."""
    judged = [row for row in rows if not row.golden and row.said in ("violates", "safe")]
    policies: dict[str, Sides] = defaultdict(lambda: [[], []])
    for number, blind in enumerate((True, False)):
        for (_, _, policy_id), people in _by_text(row for row in judged if row.blind is blind).items():
            policies[policy_id][number].append(list(people.values()))
    return policies


def _kappas(sides: Sides, pair: Callable[[AnyRow], agreement.Pair]) -> tuple[Agreement, Agreement]:
    blind, seen = (agreement.kappa([[pair(row) for row in said] for said in side]) for side in sides)
    return blind, seen


def _by_person(row: AnyRow) -> set[str]:
    return {row.rule} if row.decision == "violates" and row.rule else set()


def _by_model(row: AnyRow) -> set[str]:
    return set(row.rule_ids) if row.said == "violates" else set()


def golden(rows: Iterable[AnyRow]) -> list[Golden]:
    """How often each person judged golden items of each policy as the golden set does."""
    right: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for row in _golden(rows):
        right[row.who, row.policy_id].append(row.decision == row.expected)
    return [Golden(*key, proportion(sum(right[key]), len(right[key]))) for key in sorted(right)]


def _golden(rows: Iterable[AnyRow]) -> Sequence[AnyRow]:
    """What people said about golden texts when they first got them: afterwards, they know the answer."""
    first: dict[tuple[str, str, str | None], AnyRow] = {}
    for row in rows:
        if row.golden:
            first.setdefault((row.who, row.policy_id, row.content_sha256), row)
    return list(first.values())


def weeks(rows: Iterable[AnyRow]) -> list[Week]:
    """The figures of each week with a decision, newest first."""
    by_week: dict[date, list[AnyRow]] = defaultdict(list)
    for row in rows:
        day = row.at.date()
        by_week[day - timedelta(days=day.weekday())].append(row)
    return [_week(begins, by_week[begins]) for begins in sorted(by_week, reverse=True)]


def _week(begins: date, rows: Sequence[AnyRow]) -> Week:
    def same(blind: bool) -> Proportion:
        judged = [row for row in rows if not row.golden and row.blind is blind and row.decision != "undetermined"]
        compared = [row.decision == row.said for row in judged if row.said in ("violates", "safe")]
        return proportion(sum(compared), len(compared))

    right = [row.decision == row.expected for row in _golden(rows)]
    return Week(begins, len(rows), same(True), same(False), proportion(sum(right), len(right)))


def disputes(rows: Iterable[AnyRow]) -> list[Dispute]:
    """Decisions that a second look does not share, and that nobody settled since, newest first."""
    texts: Mapping[Text, list[AnyRow]] = _grouped(row for row in rows if not row.golden)
    found = []
    for (content_id, _, policy_id), said in texts.items():
        first, others = standing(said)
        found += [Dispute(content_id, policy_id, first, others[-1])] if others else []
    return sorted(found, key=lambda one: one.second.at, reverse=True)


def _grouped(rows: Iterable[AnyRow]) -> dict[Text, list[AnyRow]]:
    """Determined decisions by text and policy, oldest first."""
    texts: dict[Text, list[AnyRow]] = defaultdict(list)
    for row in rows:
        if row.decision != "undetermined":
            texts[row.content_id, row.content_sha256, row.policy_id].append(row)
    return texts


def _by_text(rows: Iterable[AnyRow]) -> dict[Text, dict[str, AnyRow]]:
    """What each person decided last about each text under each policy."""
    return {text: {row.who: row for row in said} for text, said in _grouped(rows).items()}
