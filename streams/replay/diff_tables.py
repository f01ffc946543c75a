"""The records that a diff or a promotion joins, in DuckDB: on disk, with the queries in `sql/`.

`pairs.Pair` decides what becomes of each item, one item after the other, from the rows of a query. Memory holds a hash
of each item that the replay escalated, and is bounded otherwise.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import duckdb
import msgspec
import numpy as np

from safeguard_streams.contract.records import (
    Decision,
    Escalation,
    PrefilterResult,
    Replayed,
    Tokens,
    Verdict,
    aware,
    content_sha256,
    decode,
    encode,
)
from safeguard_streams.releases.erasures import Erased, is_about_erased, never, without_words
from safeguard_streams.replay.pairs import UNKNOWN_TIME, Outcome, Pair, passed_on_at

CHUNK = 50_000  # rows
MEMORY = "1GB"  # of the database; what exceeds it is on disk
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)  # that Python knows in UTC
_SQL = files("safeguard_streams.replay") / "sql"


class DiffTables:
    """The records that a diff or a promotion joins, in a database. The replay's own come first."""

    def __init__(self, db: duckdb.DuckDBPyConnection, folder: Path, *, whole: bool) -> None:
        self._db = db
        self._folder = folder
        self._whole = whole
        self._rows: dict[str, list[_Row]] = {}
        self._items = _Items()
        self._numbers = itertools.count()

    def escalated(self, escalation: Escalation) -> None:
        """Take an escalation of the replay."""
        self._items.add(escalation.event.content_id)
        self._add("escalations", _escalation_row(self._next(), escalation))

    def replayed(self, verdict: Verdict, erased: Erased = never, partition: int = 0) -> None:
        """Take a verdict of the replay, and the partition that holds its item."""
        self._items.add(verdict.content_id)
        self._add("replayed", _verdict_row(self._next(), verdict, erased, partition, whole=self._whole))

    def judged(self, verdict: Verdict, erased: Erased = never) -> None:
        """Take a verdict on moderation.verdicts or moderation.cleared, in the order of each.

        It is kept only if the replay escalated its item.
        """
        if verdict.content_id in self._items:
            self._add("judged", _verdict_row(self._next(), verdict, erased, whole=self._whole))

    def join(self, policy: Replayed) -> duckdb.DuckDBPyConnection:
        """Make a table `pairs`: one row for each content item that is compared, with both decisions."""
        for content_id, pair in self.pairs(policy):
            before, after = (one.seq if isinstance(one, _LoadedVerdict) else None for one in (pair.before, pair.after))
            self._add("outcomes", _OutcomeRow(content_id, pair.newest_text, pair.outcome, before, after))
        self._load("outcomes")
        self._db.execute("SET VARIABLE old_version = $version", {"version": policy.before_version or ""})
        self._db.execute(sql("pairs"))
        return self._db

    def pairs(self, policy: Replayed) -> Iterator[tuple[str, Pair]]:
        """Each item with all that is known of it. Its verdicts hold only what a pair looks at."""
        for table in ("escalations", "replayed", "judged"):
            self._load(table)
        with self._db.cursor() as reading:
            reading.execute(sql("histories"), {"version": policy.version})
            rows = (_HistoryRow(*row) for some in iter(lambda: reading.fetchmany(CHUNK), []) for row in some)
            for content_id, history in itertools.groupby(rows, lambda row: row.content_id):
                pair = Pair()
                for row in history:
                    row.add_to(pair)
                yield content_id, pair

    def complete(self, pairs: Sequence[Pair]) -> None:
        """Replace the verdicts on the newest texts of pairs by the whole ones."""
        for start in range(0, len(pairs), CHUNK):
            self._complete(pairs[start : start + CHUNK])

    def _complete(self, pairs: Sequence[Pair]) -> None:
        loaded = [one for pair in pairs for one in (pair.before, pair.after) if isinstance(one, _LoadedVerdict)]
        rows = self._db.execute(sql("whole"), {"seqs": [one.seq for one in loaded]}).fetchall()
        found = {seq: decode(record.encode(), Verdict) for seq, record in rows}

        def whole(one: Verdict) -> Verdict:
            return found[one.seq] if isinstance(one, _LoadedVerdict) else one

        for pair in pairs:
            pair.replace(whole)

    def _next(self) -> int:
        return next(self._numbers)

    def _add(self, table: str, row: _Row) -> None:
        rows = self._rows.setdefault(table, [])
        rows.append(row)
        if len(rows) >= CHUNK:
            self._load(table)

    def _load(self, table: str) -> None:
        """Move the rows in hand into a table, by way of a file."""
        rows = self._rows.pop(table, [])
        if not rows:
            return
        path = self._folder / f"{table}.jsonl"
        path.write_bytes(msgspec.json.Encoder().encode_lines(rows))
        self._db.execute(f"COPY {table} FROM $path (FORMAT json)", {"path": str(path)})
        path.unlink()


class _Items:
    """Content items, by hashes of their ids. An item that has the hash of another one passes for it.

    All are added before the first look-up, which sorts them.
    """

    def __init__(self) -> None:
        self._hashes = array("q")
        self._sorted = True

    def add(self, content_id: str) -> None:
        self._hashes.append(hash(content_id))
        self._sorted = False

    def __contains__(self, content_id: str) -> bool:
        if not self._sorted:
            self._hashes = array("q", np.unique(np.frombuffer(self._hashes, np.int64)).tobytes())
            self._sorted = True
        wanted = hash(content_id)
        place = bisect.bisect_left(self._hashes, wanted)
        return place < len(self._hashes) and self._hashes[place] == wanted


@contextlib.contextmanager
def tables(*, whole: bool = False) -> Iterator[DiffTables]:
    """Empty tables in a database on disk, which is deleted at the end. whole: whether to keep verdicts as they are."""
    with tempfile.TemporaryDirectory(prefix="safeguard-diff-") as name:
        folder = Path(name)
        with duckdb.connect(folder / "diff.duckdb", config={"memory_limit": MEMORY, "temp_directory": name}) as db:
            db.execute(sql("tables"))
            yield DiffTables(db, folder, whole=whole)


class _EscalationRow(msgspec.Struct):
    seq: int
    content_id: str
    content_sha256: str
    version: str
    language: str | None
    surface: str | None
    origin: str | None
    passed_on_at: float | None


class _VerdictRow(msgspec.Struct):
    seq: int
    verdict_id: str
    content_id: str
    content_sha256: str
    policy_id: str
    version: str
    decision: str
    rules: tuple[str, ...]
    reason: str | None
    score: float | None
    decided_at: datetime
    passed_on_at: float | None
    gate: str | None
    live: bool
    erased: bool
    replay_id: str | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    seconds: float
    origin: str | None
    partition: int
    record: str | None


class _OutcomeRow(msgspec.Struct):
    content_id: str
    content_sha256: str
    outcome: Outcome
    before_seq: int | None
    after_seq: int | None


_Row = _EscalationRow | _VerdictRow | _OutcomeRow


class _LoadedVerdict(Verdict, frozen=True, kw_only=True):
    """What a pair looks at in a verdict, with the number of its row."""

    seq: int


class _HistoryRow(NamedTuple):
    """One thing that is known of an item. step: 0 for the replay's escalations, 1 for its verdicts, 2 for others."""

    content_id: str
    step: int
    seq: int
    content_sha256: str
    origin: str | None
    passed_on_at: float | None
    verdict_id: str
    policy_id: str
    decision: Decision
    decided_us: int
    replay_id: str | None
    live: bool
    erased: bool
    partition: int

    def add_to(self, pair: Pair) -> None:
        at = UNKNOWN_TIME if self.passed_on_at is None else self.passed_on_at
        if self.step == 0:
            pair.escalated(self.content_sha256, self.origin, at)
        elif self.step == 1:
            pair.partition = self.partition
            pair.replayed(self._verdict(), at, erased=self.erased)
        else:
            pair.add(self._verdict(), at)

    def _verdict(self) -> _LoadedVerdict:
        return _LoadedVerdict(
            self.verdict_id,
            self.content_id,
            self.content_sha256,
            self.policy_id,
            policy_version="",
            decision=self.decision,
            stage="reasoner",
            lane="replay",
            model="",
            decided_at=_EPOCH + timedelta(microseconds=self.decided_us),
            prefilter=PrefilterResult("", live=self.live),
            replay_id=self.replay_id,
            origin=self.origin,
            seq=self.seq,
        )


def _escalation_row(seq: int, escalation: Escalation) -> _EscalationRow:
    event = escalation.event
    return _EscalationRow(
        seq=seq,
        content_id=event.content_id,
        content_sha256=content_sha256(event.text),
        version=escalation.policy_version,
        language=event.language,
        surface=event.surface,
        origin=escalation.origin,
        passed_on_at=aware(escalation.escalated_at).timestamp(),
    )


def _verdict_row(seq: int, verdict: Verdict, erased: Erased, partition: int = 0, *, whole: bool) -> _VerdictRow:
    verdict, tokens = without_words(verdict, erased), verdict.tokens or Tokens()
    at, result, gone = passed_on_at(verdict), verdict.prefilter, is_about_erased(verdict, erased)
    return _VerdictRow(
        seq=seq,
        verdict_id=verdict.verdict_id,
        content_id=verdict.content_id,
        content_sha256=verdict.content_sha256,
        policy_id=verdict.policy_id,
        version=verdict.policy_version,
        decision=verdict.decision,
        rules=verdict.rule_ids,
        reason=verdict.reason,
        score=verdict.score,
        decided_at=min(max(aware(verdict.decided_at), _FIRST), _LAST),
        passed_on_at=None if at == UNKNOWN_TIME else at,
        gate=result.gate if result else None,
        live=bool(result and result.live),
        erased=gone,
        replay_id=verdict.replay_id,
        prompt_tokens=tokens.prompt,
        cached_tokens=tokens.cached,
        completion_tokens=tokens.completion,
        seconds=verdict.latency.get("reasoner", 0.0) / 1000,
        origin=verdict.origin,
        partition=partition,
        record=encode(verdict).decode() if whole and not gone else None,
    )


def sql(name: str) -> str:
    """A query in sql/."""
    return (_SQL / f"{name}.sql").read_text(encoding="utf-8")
