"""What a replay changes: its verdicts joined with the earlier ones, in DuckDB.

The decision before is that of the content item's last verdict. Without one it is `cleared` where the old version's
gates let the item pass, and `unknown` where they escalated it. The decision after is that of the replay's verdict, or
`cleared` where the new version's gates let the item pass. A replay judges only what either version's gates escalate;
both versions clear all other content. What becomes of each item, and what is left out, is the rule in `pairs`: a flip
is exactly what a promotion writes.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Escalation,
    Rationale,
    Replay,
    Replayed,
    Tokens,
    Verdict,
)
from safeguard_streams.errors import ForbiddenError
from safeguard_streams.quality.proportions import Proportion, proportion
from safeguard_streams.releases.erasures import ErasureList
from safeguard_streams.releases.texts import TextPlace, texts_at
from safeguard_streams.replay import jobs
from safeguard_streams.replay.diff_tables import sql, tables
from safeguard_streams.replay.pairs import COMPARED, JUDGED, Outcome
from safeguard_streams.replay.status import ReplayStatus, ReplayWatch
from safeguard_streams.runtime.settings import Settings

MAX_EXAMPLES = 20
Row = TypeVar("Row")


class ReplayFlip(msgspec.Struct, frozen=True):
    """One content item whose decision changes.

    The rationales are the model's analyses, and empty for users who may not read moderation.rationales. text: None if
    it was not asked for, or is not there to be read.
    """

    content_id: str
    language: str
    before: str
    after: str
    rules_before: tuple[str, ...]
    rules_after: tuple[str, ...]
    reason_before: str | None
    reason_after: str | None
    rationale_before: str
    rationale_after: str
    text: str | None = None


class FlipCounts(msgspec.Struct, frozen=True):
    """Content items of one rule or language: those that flip either way, and all that were compared."""

    to_violates: int
    to_safe: int
    compared: int


class Diff(msgspec.Struct, frozen=True):
    """What a replay changes under one policy. Counts are of content items.

    events: readable events that the replay covers. unreadable: dead letters between its bounds. escalated: by either
    version's gates. waiting: not judged yet. unknown: escalated by the version in force, with no verdict left. erased,
    edited, judged_since: items that a promotion leaves out. compared: all other judged items. decisions: items by
    decision before, then after. undetermined: compared items on which the replay reached no decision, unlike before.
    to_safe_by_gate, to_violates_past_gate: flips of items that the new gates let pass. violating_past_gate: items that
    they let pass, and that violate by both verdicts. noise: the share of the compared items that would flip if the
    version before judged them again; its counts are those of the items that it did judge twice, and of their decisions
    that differ. violating_before and violating_after: violating items among all events. seconds and
    tokens: the reasoner's, all verdicts together.
    """

    replay_id: str
    policy_id: str
    version: str
    before_version: str | None
    events: int
    unreadable: int
    escalated: int
    waiting: int
    unknown: int
    compared: int
    decisions: dict[str, dict[str, int]]
    to_violates: Proportion
    to_safe: Proportion
    to_safe_by_gate: int
    noise: Proportion
    violating_before: Proportion
    violating_after: Proportion
    rules: dict[str, FlipCounts]
    languages: dict[str, FlipCounts]
    versions_before: dict[str, int]
    tokens: Tokens
    seconds: float
    examples: list[ReplayFlip]
    erased: int = 0
    edited: int = 0
    judged_since: int = 0
    undetermined: int = 0
    to_violates_past_gate: int = 0
    violating_past_gate: int = 0


async def compute(
    settings: Settings,
    replay: Replay,
    policy: Replayed,
    parquet: Path | None = None,
    *,
    texts: bool = True,
    max_examples: int = MAX_EXAMPLES,
) -> Diff:
    """Read the topics, join and count. parquet: a file to write the joined items to, one row each, without texts.
    texts: whether to read the texts of the examples.

    The rows are in a database in the folder for temporary files until the diff is computed.
    """
    since = replay.created_at - jobs.CLOCK_SKEW
    first_event = await jobs.first_event_at(settings, replay)
    erasures = ErasureList()
    await erasures.read(settings)
    with tables() as loaded:
        async for _, escalation in kafka.read_decoded(settings, [topics.ESCALATIONS_REPLAY], Escalation, since=since):
            if _belongs(escalation, policy, replay):
                loaded.escalated(escalation)
        async for _, verdict in kafka.read_decoded(settings, [topics.REPLAYS], Verdict, since=since):
            if _belongs(verdict, policy, replay):
                loaded.replayed(verdict, erasures.erased)
        async for _, verdict in kafka.read_decoded(settings, JUDGED, Verdict, since=first_event):
            loaded.judged(verdict, erasures.erased)
        db = loaded.join(policy)
        if parquet is not None:
            db.table("pairs").write_parquet(str(parquet))
        examples = _query(db, "examples", _FlipRow, max_examples=max_examples)
        verdicts = {name for one in examples for name in (one.verdict_before, one.verdict_after) if name}
        rationales = await _rationales(settings, verdicts, first_event)
        wanted = [_place(one) for one in examples if texts]
        found = await texts_at(settings, wanted, erasures.erased)
        (status,) = await ReplayWatch(settings, replay.created_at).look([replay])
        return count(db, status, policy, [_flip(one, rationales, found.get(_place(one))) for one in examples])


def _belongs(record: Escalation | Verdict, policy: Replayed, replay: Replay) -> bool:
    return (record.policy_id, record.replay_id) == (policy.policy_id, replay.replay_id)


def _query(db: duckdb.DuckDBPyConnection, name: str, kind: type[Row], **parameters: Any) -> list[Row]:
    """The result of a query in sql/, one struct for each row."""
    result = db.execute(sql(name), parameters)
    columns = [column[0] for column in result.description or ()]
    return [msgspec.convert(dict(zip(columns, row, strict=True)), kind) for row in result.fetchall()]


class _FlipRow(msgspec.Struct):
    content_id: str
    content_sha256: str
    origin: str | None
    language: str
    before: str
    after: str
    rules_before: tuple[str, ...]
    rules_after: tuple[str, ...]
    reason_before: str | None
    reason_after: str | None
    verdict_before: str | None
    verdict_after: str


class _Totals(msgspec.Struct):
    to_violates: int
    to_safe: int
    to_safe_by_gate: int
    to_violates_past_gate: int
    violating_past_gate: int
    violating_before: int
    violating_after: int
    noisy: int
    judged_twice: int
    disagreeing: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    seconds: float


class _OutcomeCount(msgspec.Struct):
    outcome: Outcome
    items: int


class _DecisionCount(msgspec.Struct):
    before: str
    after: str
    items: int


class _GroupCounts(msgspec.Struct):
    kind: str
    name: str
    to_violates: int
    to_safe: int
    compared: int


class _VersionCount(msgspec.Struct):
    version: str
    items: int


def count(db: duckdb.DuckDBPyConnection, status: ReplayStatus, policy: Replayed, examples: list[ReplayFlip]) -> Diff:
    """All figures, from the tables that were joined and the replay's own counts."""
    (totals,) = _query(db, "totals", _Totals)
    decisions: dict[str, dict[str, int]] = {}
    for row in _query(db, "decisions", _DecisionCount):
        decisions.setdefault(row.before, {})[row.after] = row.items
    groups: dict[str, dict[str, FlipCounts]] = {"rule": {}, "language": {}}
    for group in _query(db, "groups", _GroupCounts):
        groups[group.kind][group.name] = FlipCounts(group.to_violates, group.to_safe, group.compared)
    outcomes = Counter({row.outcome: row.items for row in _query(db, "outcomes", _OutcomeCount)})
    escalated, compared = outcomes.total(), sum(outcomes[one] for one in COMPARED)
    events = max(status.items, escalated)
    return Diff(
        replay_id=status.replay.replay_id,
        policy_id=policy.policy_id,
        version=policy.version,
        before_version=policy.before_version,
        events=events,
        unreadable=status.unreadable,
        escalated=escalated,
        waiting=outcomes["waiting"],
        unknown=outcomes["unknown"],
        compared=compared,
        decisions=decisions,
        to_violates=proportion(totals.to_violates, compared),
        to_safe=proportion(totals.to_safe, compared),
        to_safe_by_gate=totals.to_safe_by_gate,
        noise=proportion(totals.disagreeing, totals.judged_twice).scaled(totals.noisy, compared),
        violating_before=proportion(totals.violating_before, events),
        violating_after=proportion(totals.violating_after, events),
        rules=groups["rule"],
        languages=groups["language"],
        versions_before={row.version: row.items for row in _query(db, "versions_before", _VersionCount)},
        tokens=Tokens(totals.prompt_tokens, totals.cached_tokens, totals.completion_tokens),
        seconds=round(totals.seconds, 1),
        examples=examples,
        erased=outcomes["erased"],
        edited=outcomes["edited"],
        judged_since=outcomes["judged_since"],
        undetermined=outcomes["undetermined"],
        to_violates_past_gate=totals.to_violates_past_gate,
        violating_past_gate=totals.violating_past_gate,
    )


def _place(example: _FlipRow) -> TextPlace:
    return TextPlace(example.content_id, example.content_sha256, example.origin)


def _flip(example: _FlipRow, rationales: dict[str, str], text: str | None) -> ReplayFlip:
    return ReplayFlip(
        content_id=example.content_id,
        language=example.language,
        before=example.before,
        after=example.after,
        rules_before=example.rules_before,
        rules_after=example.rules_after,
        reason_before=example.reason_before,
        reason_after=example.reason_after,
        rationale_before=rationales.get(example.verdict_before or "", ""),
        rationale_after=rationales.get(example.verdict_after, ""),
        text=text,
    )


async def _rationales(settings: Settings, verdicts: set[str], since: datetime | None) -> dict[str, str]:
    """The model's analyses by verdict id. Empty where the user may not read them."""
    analyses: dict[str, str] = {}
    if not verdicts:
        return analyses
    with contextlib.suppress(ForbiddenError):
        async with contextlib.aclosing(kafka.read_all(settings, [topics.RATIONALES], since=since)) as records:
            async for record in records:
                name = (record.key or b"").decode(errors="replace")
                if name in verdicts:
                    analyses.pop(name, None)
                    if record.value is not None:  # a tombstone erases
                        rationale = kafka.decoded_or_left_out(settings, record, Rationale)
                        if rationale is not None and rationale.attempts:
                            analyses[name] = rationale.attempts[-1].analysis
    return analyses
