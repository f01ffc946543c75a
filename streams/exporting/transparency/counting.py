"""Counts the figures of a year from an export, one content item after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, get_args

import msgspec

from safeguard_streams.contract.records import Action, Appeal, Decision, Reporter, aware, now
from safeguard_streams.exporting.transparency.automated import Verdicts, read_verdicts
from safeguard_streams.exporting.transparency.figures import (
    ACCOUNT_ACTIONS,
    APPEAL_OUTCOMES,
    MEANS,
    Appeals,
    Figures,
    Means,
    Measures,
    Notices,
    Statements,
    means_of,
    median_hours,
)
from safeguard_streams.exporting.transparency.history import (
    BY_PERSON,
    OVERTURNED,
    RESTRICTIONS,
    Appealed,
    AppealEnd,
    Check,
    History,
    Measure,
    history,
)
from safeguard_streams.exporting.transparency.notices import OUTCOMES, Notice, NoticeOutcome, in_time, outcome_of
from safeguard_streams.exporting.transparency.source import Source
from safeguard_streams.quality.proportions import Proportion, proportion

SOURCES = ("reports", "verdicts", "actions", "appeals", "statements")
APPELLANTS = ("author", "notifier")
_ACTION = (  # what a history reads of an action, which is not its words
    *("action_id", "content_id", "action", "acted_at", "by", "state", "effective", "previous", "verdict_id"),
    *("policy_id", "decision", "dry_run", "sequence", "withdraws", "cited_policy", "appeal_id", "outcome"),
)


class _Counted(msgspec.Struct):
    """What is collected while the items pass: of a year, except the ends of appeals."""

    year: int
    measures: list[tuple[Measure, bool]] = []  # and whether the item had been reported
    checks: list[Check] = []
    ends: list[AppealEnd] = []
    notices: list[tuple[Notice, NoticeOutcome]] = []

    def take(self, past: History, reports: Sequence[Notice], verdicts: Verdicts) -> None:
        """Add what happened to an item."""
        judgements = verdicts.judgements.get(reports[0].content_id, ()) if reports else ()
        reports = in_time(reports, judgements)
        for one in past.measures:
            if one.at.year == self.year:
                self.measures.append((one, any(notice.at <= one.at for notice in reports)))
        self.checks += [one for one in past.checks if one.at.year == self.year]
        self.ends += past.ends
        for notice in reports:
            if notice.at.year == self.year:
                self.notices.append((notice, outcome_of(notice, past, judgements)))


def count(source: Source, year: int) -> Figures:
    """Count a year's figures. Raises ConfigurationError where the export cannot be read."""
    covered = {kind: source.coverage(kind) for kind in SOURCES}
    acted, reported, appealed, stated = (
        covered[kind] is not None for kind in ("actions", "reports", "appeals", "statements")
    )
    notices, appeals = _notices(source), _appeals(source)
    verdicts = read_verdicts(source, year, notices)
    counted = _passed(source, _Counted(year), notices, appeals, verdicts)
    notice_figures = {name: _of_reporter(name, counted.notices) for name in get_args(Reporter)}
    orders = notice_figures.pop("authority")
    means = _MeansCount(counted, verdicts if covered["verdicts"] else None, appeals=appealed)
    return Figures(
        year=year,
        counted_at=now(),
        records=covered,
        orders=orders if reported else None,
        notices=notice_figures if reported else None,
        measures=_measures(one for one, _ in counted.measures) if acted else None,
        own_initiative=_measures(one for one, told in counted.measures if not told) if acted and reported else None,
        after_notices=_measures(one for one, told in counted.measures if told) if acted and reported else None,
        means={policy: means.of(policy) for policy in means.policies} if acted else None,
        all_means=means.of(None) if acted else None,
        appeals=_of_appellants(appeals, counted) if acted and appealed else None,
        statements=_statements(source, year) if stated else None,
    )


# ---------------------------------------------------------------------- reading


def _notices(source: Source) -> dict[str, list[Notice]]:
    """The reports of each item, each once."""
    found: dict[str, dict[str, Notice]] = {}
    for row in source.rows("reports", ("report_id", "event.content_id", "reporter", "reported_at")):
        notice = Notice(row["report_id"], row["event"]["content_id"], row["reporter"], row["reported_at"])
        found.setdefault(notice.content_id, {}).setdefault(notice.report_id, notice)
    return {content_id: list(reports.values()) for content_id, reports in found.items()}


def _appeals(source: Source) -> dict[str, list[Appealed]]:
    """The appeals of each item, each once."""
    found: dict[str, dict[str, Appealed]] = {}
    for row in source.rows(
        "appeals", ("content_id", "appellant", "created_at", "appeal_id", "action_id", "verdict_id")
    ):
        one = msgspec.convert(row, Appeal)
        appeal = Appealed(one.identity, one.appellant, aware(one.created_at), one.action_id, one.verdict_id)
        found.setdefault(one.content_id, {}).setdefault(appeal.appeal_id, appeal)
    return {content_id: list(appeals.values()) for content_id, appeals in found.items()}


def _passed(
    source: Source,
    counted: _Counted,
    notices: dict[str, list[Notice]],
    appeals: dict[str, list[Appealed]],
    verdicts: Verdicts,
) -> _Counted:
    """Let all items pass: those that have actions, and then the other reported ones."""
    waiting = dict(notices)
    for content_id, rows in groupby(source.sorted_rows("actions", _ACTION), _item):
        past = history((_action(row) for row in rows), appeals.get(content_id, ()))
        counted.take(past, waiting.pop(content_id, ()), verdicts)
    for reports in waiting.values():
        counted.take(History(), reports, verdicts)
    return counted


def _item(row: dict[str, Any]) -> str:
    content_id: str = row["content_id"]
    return content_id


def _action(row: dict[str, Any]) -> Action:
    return msgspec.convert(row, Action)


# ---------------------------------------------------------------------- counting


def _of_reporter(reporter: str, notices: Sequence[tuple[Notice, NoticeOutcome]]) -> Notices:
    of_kind = [(notice, end) for notice, end in notices if notice.reporter == reporter]
    outcomes = Counter(end.outcome for _, end in of_kind)
    means = Counter(means_of(end.automated) for _, end in of_kind if end.automated is not None)
    decided = [(notice.at, end.at) for notice, end in of_kind if end.at is not None]
    restricted = [(notice.at, end.at) for notice, end in of_kind if end.at is not None and end.outcome == "restricted"]
    return Notices(
        received=len(of_kind),
        items=len({notice.content_id for notice, _ in of_kind}),
        outcomes={name: outcomes[name] for name in OUTCOMES},
        decided_by={name: means[name] for name in MEANS},
        median_hours_to_decision=median_hours(decided),
        median_hours_to_restriction=median_hours(restricted),
    )


def _measures(measures: Iterable[Measure]) -> Measures:
    means: Counter[str] = Counter()
    policies: dict[str, Counter[str]] = {}
    months: list[Counter[str]] = [Counter() for _ in range(12)]
    for one in measures:
        name = means_of(one.automated)
        means[name] += 1
        months[one.at.month - 1][name] += 1
        policies.setdefault(one.policy_id, Counter())[one.action] += 1
    return Measures(
        total=means.total(),
        by_means={name: means[name] for name in MEANS},
        by_policy={
            policy: {name: policies[policy][name] for name in RESTRICTIONS}
            for policy in sorted(policies, key=lambda name: (-policies[name].total(), name))
        },
        by_month=[{name: month[name] for name in MEANS} for month in months],
    )


class _MeansCount:
    """The automated means of each policy, and of all together."""

    def __init__(self, counted: _Counted, verdicts: Verdicts | None, *, appeals: bool) -> None:
        self._counted, self._verdicts, self._appeals = counted, verdicts, appeals
        policies = {one.policy_id for one, _ in counted.measures if one.automated}
        policies |= {one.policy_id for one in counted.checks} | set(verdicts.decisions if verdicts else ())
        self.policies = sorted(policies)

    def of(self, policy: str | None) -> Means:
        """Those of one policy or, with None, of all, for which there is no estimate of recall."""
        checks = [one for one in self._counted.checks if policy in (None, one.policy_id)]
        restricted = [one for one in checks if one.restricted]
        automated = [one for one, _ in self._counted.measures if one.automated and policy in (None, one.policy_id)]
        return Means(
            verdicts=self._decisions(policy),
            restrictions=len(automated),
            overruled=proportion(sum(one.allowed for one in checks), len(checks)),
            reversed=proportion(sum(one.allowed for one in restricted), len(restricted)),
            appeals_overturned=self._overturned(policy) if self._appeals else None,
            recall=self._verdicts.recall.get(policy) if self._verdicts and policy is not None else None,
        )

    def _decisions(self, policy: str | None) -> dict[str, int] | None:
        if self._verdicts is None:
            return None
        by_policy = self._verdicts.decisions
        return {
            name: sum(counts[name] for one, counts in by_policy.items() if policy in (None, one))
            for name in get_args(Decision)
        }

    def _overturned(self, policy: str | None) -> Proportion:
        """Of authors' appeals against automated restrictions."""
        ends = [
            end
            for end in self._counted.ends
            if end.at.year == self._counted.year
            and end.appeal.appellant == "author"
            and end.action is not None
            and end.action.by is None
            and policy in (None, end.action.policy_id)
        ]
        return _overturned(ends)


def _of_appellants(appeals: dict[str, list[Appealed]], counted: _Counted) -> dict[str, Appeals]:
    all_appeals = [one for of_item in appeals.values() for one in of_item]
    return {name: _of_appellant(name, all_appeals, counted) for name in APPELLANTS}


def _of_appellant(appellant: str, appeals: Sequence[Appealed], counted: _Counted) -> Appeals:
    ends = [one for one in counted.ends if one.appeal.appellant == appellant]
    ended = {one.appeal.appeal_id for one in ends}
    received = [one for one in appeals if one.appellant == appellant and one.created_at.year == counted.year]
    of_year = [one for one in ends if one.at.year == counted.year]
    outcomes = Counter(one.outcome for one in of_year)
    decided = [one for one in of_year if one.outcome in BY_PERSON]
    return Appeals(
        received=len(received),
        ended=len(of_year),
        open=sum(one.appeal_id not in ended for one in received),
        outcomes={name: outcomes[name] for name in APPEAL_OUTCOMES},
        overturned=_overturned(of_year),
        median_hours_to_outcome=median_hours([(one.appeal.created_at, one.at) for one in decided]),
        median_hours_from_action_to_outcome=median_hours(
            [(one.action.acted_at, one.at) for one in decided if one.action is not None]
        ),
    )


def _overturned(ends: Sequence[AppealEnd]) -> Proportion:
    """The share of the appeals that a person decided."""
    decided = [one for one in ends if one.outcome in BY_PERSON]
    return proportion(sum(one.outcome == OVERTURNED for one in decided), len(decided))


def _statements(source: Source, year: int) -> Statements:
    """The statements of reasons of a year: a statement and its withdrawal are records with one id."""
    columns = ("statement_id", "state", "stated_at", "category", "reporter", "law", "account_action")
    seen: set[tuple[str, str]] = set()
    categories: dict[str, Counter[str]] = {}
    grounds: Counter[str] = Counter()
    accounts: Counter[str | None] = Counter()
    for row in source.rows("statements", columns):
        record = row["statement_id"], row["state"]
        if row["stated_at"].year != year or record in seen:
            continue
        seen.add(record)
        if row["state"] == "issued":
            found = "own_initiative" if row["reporter"] is None else "after_notice"
            categories.setdefault(row["category"] or "", Counter())[found] += 1
            grounds["terms" if row["law"] is None else "law"] += 1
            accounts[row.get("account_action")] += 1  # earlier exports lack the column
    return Statements(
        issued=grounds.total(),
        withdrawn=len(seen) - grounds.total(),
        by_category={
            name: {found: counts[found] for found in ("own_initiative", "after_notice")}
            for name, counts in sorted(categories.items(), key=lambda item: (-item[1].total(), item[0]))
        },
        by_ground={name: grounds[name] for name in ("law", "terms")},
        accounts={name: accounts[name] for name in ACCOUNT_ACTIONS},
    )
