"""What a replay changes: its verdicts joined with the earlier ones, in DuckDB.

The decision before is that of the content item's last verdict. It is `cleared` where the old version's gates let the
item pass, and `unknown` where they escalated it and its verdict no longer exists. The decision after is that of the
replay's verdict, or `cleared` where the new version's gates let the item pass. A replay judges only what either
version's gates escalate; both versions clear all other content.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Escalation, Rationale, Replay, Replayed, Tokens, Verdict, decode
from safeguard_streams.errors import ForbiddenError, RecordError
from safeguard_streams.quality.proportions import Proportion, proportion
from safeguard_streams.runtime.settings import Settings

MAX_EXAMPLES = 20
_SQL = files("safeguard_streams.replay") / "sql"
OfPolicy = TypeVar("OfPolicy", Escalation, Verdict)
Row = TypeVar("Row")


class ReplayFlip(msgspec.Struct, frozen=True):
    """One content item whose decision changes.

    The rationales are the model's analyses, and empty for users who may not read moderation.rationales.
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


class FlipCounts(msgspec.Struct, frozen=True):
    """Content items of one rule or language: those that flip either way, and all that were compared."""

    to_violates: int
    to_safe: int
    compared: int


class Diff(msgspec.Struct, frozen=True):
    """What a replay changes under one policy. Counts are of content items.

    events estimates the content between the bounds and in the sample. escalated: by either version's gates. waiting:
    not judged yet. unknown: escalated by the version in force, with no verdict left. compared: all other judged items.
    decisions: items by decision before, then after. to_safe_by_gate: flips to safe because the new gates let the item
    pass. noise: the share of the compared items that would flip if the version before judged them again; its counts are
    those of the items that it did judge twice, and of their decisions that differ. violating_before and
    violating_after: violating items among all events. seconds and tokens: the reasoner's, all verdicts together.
    """

    replay_id: str
    policy_id: str
    version: str
    before_version: str | None
    events: int
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


async def compute(settings: Settings, replay: Replay, policy: Replayed, parquet: Path | None = None) -> Diff:
    """Read the topics, join and count. parquet: a file to write the joined items to, one row each, without texts."""
    with joined(
        policy,
        [e async for e in _read(settings, topics.ESCALATIONS_REPLAY, Escalation, policy, replay)],
        [v async for v in _read(settings, topics.REPLAYS, Verdict, policy, replay)],
        [v async for v in _read(settings, topics.VERDICTS, Verdict, policy)],
    ) as db:
        if parquet is not None:
            db.table("pairs").write_parquet(str(parquet))
        examples = _query(db, "examples", _FlipRow, max_examples=MAX_EXAMPLES)
        verdicts = {name for one in examples for name in (one.verdict_before, one.verdict_after) if name}
        rationales = await _rationales(settings, verdicts)
        return count(db, replay, policy, [_flip(one, rationales) for one in examples])


async def _read(
    settings: Settings, topic: str, kind: type[OfPolicy], policy: Replayed, replay: Replay | None = None
) -> AsyncIterator[OfPolicy]:
    """The readable records of a topic under one policy and, where given, of one replay."""
    async for record in kafka.read_all(settings, [topic]):
        with contextlib.suppress(RecordError):
            one = decode(record.value, kind)
            if one.policy_id == policy.policy_id and (replay is None or one.replay_id == replay.replay_id):
                yield one


@contextlib.contextmanager
def joined(
    policy: Replayed, escalated: Iterable[Escalation], replayed: Iterable[Verdict], earlier: Iterable[Verdict]
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with a table `pairs`: one row for each content item that the replay judged, with both decisions."""
    with tempfile.TemporaryDirectory(prefix="safeguard-diff-") as name, duckdb.connect() as db:
        folder = Path(name)
        db.execute(_sql("tables"))
        _load(db, folder / "escalations.jsonl", map(_escalation_row, escalated))
        _load(db, folder / "replayed.jsonl", map(_verdict_row, replayed))
        _load(db, folder / "earlier.jsonl", map(_verdict_row, earlier))
        db.execute("SET VARIABLE new_version = $version", {"version": policy.version})
        db.execute("SET VARIABLE old_version = $version", {"version": policy.before_version or ""})
        db.execute(_sql("pairs"))
        yield db


class _EscalationRow(msgspec.Struct):
    content_id: str
    version: str
    language: str | None
    surface: str | None
    gate: str
    live: bool


class _VerdictRow(msgspec.Struct):
    verdict_id: str
    content_id: str
    content_sha256: str
    version: str
    decision: str
    rules: tuple[str, ...]
    reason: str | None
    score: float | None
    decided_at: datetime
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    seconds: float


def _escalation_row(escalation: Escalation) -> _EscalationRow:
    event, result = escalation.event, escalation.prefilter
    return _EscalationRow(
        content_id=event.content_id,
        version=escalation.policy_version,
        language=event.language,
        surface=event.surface,
        gate=result.gate,
        live=bool(result.live),
    )


def _verdict_row(verdict: Verdict) -> _VerdictRow:
    tokens = verdict.tokens or Tokens()
    return _VerdictRow(
        verdict_id=verdict.verdict_id,
        content_id=verdict.content_id,
        content_sha256=verdict.content_sha256,
        version=verdict.policy_version,
        decision=verdict.decision,
        rules=verdict.rule_ids,
        reason=verdict.reason,
        score=verdict.score,
        decided_at=verdict.decided_at,
        prompt_tokens=tokens.prompt,
        cached_tokens=tokens.cached,
        completion_tokens=tokens.completion,
        seconds=verdict.latency.get("reasoner", 0.0) / 1000,
    )


def _load(db: duckdb.DuckDBPyConnection, path: Path, rows: Iterable[_EscalationRow | _VerdictRow]) -> None:
    """Load rows into the table that the file is named after."""
    path.write_bytes(msgspec.json.Encoder().encode_lines(rows))
    if path.stat().st_size:
        db.execute(f"COPY {path.stem} FROM $path (FORMAT json)", {"path": str(path)})


def _sql(name: str) -> str:
    return (_SQL / f"{name}.sql").read_text(encoding="utf-8")


def _query(db: duckdb.DuckDBPyConnection, name: str, kind: type[Row], **parameters: Any) -> list[Row]:
    """The result of a query in sql/, one struct for each row."""
    result = db.execute(_sql(name), parameters)
    columns = [column[0] for column in result.description or ()]
    return [msgspec.convert(dict(zip(columns, row, strict=True)), kind) for row in result.fetchall()]


class _FlipRow(msgspec.Struct):
    content_id: str
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
    escalated: int
    judged: int
    unknown: int
    to_violates: int
    to_safe: int
    to_safe_by_gate: int
    violating_before: int
    violating_after: int
    noisy: int
    judged_twice: int
    disagreeing: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    seconds: float


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


def count(db: duckdb.DuckDBPyConnection, replay: Replay, policy: Replayed, examples: list[ReplayFlip]) -> Diff:
    """All figures, from the tables of `joined`."""
    (totals,) = _query(db, "totals", _Totals)
    decisions: dict[str, dict[str, int]] = {}
    for row in _query(db, "decisions", _DecisionCount):
        decisions.setdefault(row.before, {})[row.after] = row.items
    groups: dict[str, dict[str, FlipCounts]] = {"rule": {}, "language": {}}
    for group in _query(db, "groups", _GroupCounts):
        groups[group.kind][group.name] = FlipCounts(group.to_violates, group.to_safe, group.compared)
    compared = totals.judged - totals.unknown
    events = max(round(replay.total * replay.sample), totals.escalated)
    return Diff(
        replay_id=replay.replay_id,
        policy_id=policy.policy_id,
        version=policy.version,
        before_version=policy.before_version,
        events=events,
        escalated=totals.escalated,
        waiting=totals.escalated - totals.judged,
        unknown=totals.unknown,
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
    )


def _flip(example: _FlipRow, rationales: dict[str, str]) -> ReplayFlip:
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
    )


async def _rationales(settings: Settings, verdicts: set[str]) -> dict[str, str]:
    """The model's analyses by verdict id. Empty where the user may not read them."""
    analyses: dict[str, str] = {}
    with contextlib.suppress(ForbiddenError):
        async for record in kafka.read_all(settings, [topics.RATIONALES]):
            name = (record.key or b"").decode(errors="replace")
            if name in verdicts:
                analyses.pop(name, None)
                if record.value is not None:  # a tombstone erases
                    with contextlib.suppress(RecordError):
                        analyses[name] = decode(record.value, Rationale).attempts[-1].analysis
    return analyses
