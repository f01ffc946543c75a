"""What a replay changes: its verdicts joined with those that were given before, in DuckDB.

A content's decision before is that of its last verdict, or `cleared` where the gates of the version before let it pass, or
`unknown` where they did not and no verdict is there (any more). Its decision after is that of the replay's verdict, or
`cleared` where the gates of the new version would let it pass. Only content that either version wants was replayed: all
other is cleared by both.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Escalation, Rationale, Replay, Replayed, Tokens, Verdict, decode
from safeguard_streams.errors import ForbiddenError, RecordError
from safeguard_streams.quality.proportions import Proportion, proportion
from safeguard_streams.runtime.settings import Settings

MOST_EXAMPLES = 20
_ESCALATED = {
    "content_id": "VARCHAR",
    "version": "VARCHAR",
    "language": "VARCHAR",
    "surface": "VARCHAR",
    "gate": "VARCHAR",
    "live": "BOOLEAN",
}
_JUDGED = {
    "verdict_id": "VARCHAR",
    "content_id": "VARCHAR",
    "version": "VARCHAR",
    "decision": "VARCHAR",
    "rules": "VARCHAR[]",
    "score": "DOUBLE",
    "reason": "VARCHAR",
    "decided_at": "TIMESTAMPTZ",
    "prompt": "BIGINT",
    "cached": "BIGINT",
    "completion": "BIGINT",
    "seconds": "DOUBLE",
}  # fmt: skip
_PAIRS = """
CREATE TABLE last_before AS SELECT * FROM earlier QUALIFY row_number() OVER (PARTITION BY content_id ORDER BY decided_at DESC) = 1;
CREATE TABLE last_after AS SELECT * FROM replayed WHERE version = $new
    QUALIFY row_number() OVER (PARTITION BY content_id ORDER BY decided_at DESC) = 1;
CREATE TABLE wanted AS SELECT * FROM escalated WHERE version = $new QUALIFY row_number() OVER (PARTITION BY content_id) = 1;
CREATE TABLE pairs AS
    SELECT w.content_id, coalesce(w.language, '') AS language, coalesce(w.surface, '') AS surface,
        CASE WHEN NOT w.live THEN 'cleared' ELSE coalesce(b.decision, 'unknown') END AS before,
        CASE WHEN w.gate = 'live' THEN 'cleared' ELSE a.decision END AS after,
        a.decision AS text_after,
        CASE WHEN w.live THEN b.version END AS version_before,
        CASE WHEN w.live THEN b.rules ELSE [] END AS rules_before, a.rules AS rules_after,
        CASE WHEN w.live THEN b.reason END AS reason_before, a.reason AS reason_after, a.score AS score_after,
        CASE WHEN w.live THEN b.verdict_id END AS verdict_before, a.verdict_id AS verdict_after
    FROM wanted w JOIN last_after a USING (content_id) LEFT JOIN last_before b USING (content_id);
ALTER TABLE pairs ADD COLUMN flip VARCHAR;
UPDATE pairs SET flip = CASE
    WHEN after = 'violates' AND before IN ('safe', 'cleared', 'undetermined') THEN 'to_violates'
    WHEN before = 'violates' AND after IN ('safe', 'cleared', 'undetermined') THEN 'to_safe' END;
CREATE TABLE again AS SELECT r.content_id, r.decision AS decision, b.decision AS before
    FROM (SELECT * FROM replayed WHERE version = $old
          QUALIFY row_number() OVER (PARTITION BY content_id ORDER BY decided_at DESC) = 1) r
    JOIN (SELECT * FROM last_before WHERE version = $old) b USING (content_id);
"""


class Flip(msgspec.Struct, frozen=True):
    """One content whose decision changes. Rationales are the model's analyses, for those who may read them."""

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


class Side(msgspec.Struct, frozen=True):
    """Flips each way of some content, and how much of it was compared."""

    to_violates: int
    to_safe: int
    compared: int


class Diff(msgspec.Struct, frozen=True):
    """One policy of a replay.

    events: contents that the bounds and the sample hold, about. wanted: those that either version's gates want. waiting: not
    judged yet. unknown: the version in force wanted them, and their verdicts are not there. compared: all others.
    decisions: contents by their decisions before and after. noise: of the contents that the version in force judged again,
    those whose decision differs. before and after: violating contents of all events. seconds: of the reasoner, all
    judgements together; tokens likewise.
    """

    replay_id: str
    policy_id: str
    version: str
    before_version: str | None
    events: int
    wanted: int
    waiting: int
    unknown: int
    compared: int
    decisions: dict[str, dict[str, int]]
    to_violates: Proportion
    to_safe: Proportion
    by_gate: int
    noise: Proportion
    before: Proportion
    after: Proportion
    rules: dict[str, Side]
    languages: dict[str, Side]
    versions_before: dict[str, int]
    tokens: Tokens
    seconds: float
    examples: list[Flip]


async def compute(settings: Settings, replay: Replay, policy: Replayed, parquet: Path | None = None) -> Diff:
    """Read the topics, join, count. parquet: where the joined contents are written, one row each."""
    with joined(
        policy,
        [e async for e in _read(settings, topics.ESCALATIONS_REPLAY, Escalation, replay, policy)],
        [v async for v in _read(settings, topics.REPLAYS, Verdict, replay, policy)],
        [v async for v in _read(settings, topics.VERDICTS, Verdict, None, policy)],
    ) as db:
        if parquet is not None:
            db.table("pairs").write_parquet(str(parquet))
        flips = _rows(
            db, "SELECT * FROM pairs WHERE flip IS NOT NULL ORDER BY hash(content_id) LIMIT $1", MOST_EXAMPLES
        )
        rationales = await _rationales(settings, {row[k] for row in flips for k in ("verdict_before", "verdict_after")})
        return count(db, replay, policy, [_flip(row, rationales) for row in flips])


@contextlib.contextmanager
def joined(
    policy: Replayed, escalated: Iterable[Escalation], replayed: Iterable[Verdict], earlier: Iterable[Verdict]
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database whose table `pairs` has a row for each content that a replay judged: its decisions before and after."""
    with tempfile.TemporaryDirectory(prefix="safeguard-diff-") as name, duckdb.connect() as db:
        folder = Path(name)
        db.execute("SET TimeZone = 'UTC'")
        _load(db, folder, "escalated", _ESCALATED, map(_escalated, escalated))
        _load(db, folder, "replayed", _JUDGED, map(_judged, replayed))
        _load(db, folder, "earlier", _JUDGED, map(_judged, earlier))
        values = {"new": policy.version, "old": policy.before_version or ""}
        for statement in filter(str.strip, _PAIRS.split(";\n")):
            db.execute(statement, {key: value for key, value in values.items() if f"${key}" in statement})
        yield db


async def _read(settings: Settings, topic: str, kind: type[Any], replay: Replay | None, policy: Replayed) -> Any:
    async for record in kafka.read_all(settings, [topic]):
        with contextlib.suppress(RecordError):
            found = decode(record.value, kind)
            if found.policy_id == policy.policy_id and (replay is None or found.replay_id == replay.replay_id):
                yield found


def _escalated(e: Escalation) -> dict[str, Any]:
    return {
        "content_id": e.event.content_id,
        "version": e.policy_version,
        "language": e.event.language,
        "surface": e.event.surface,
        "gate": e.prefilter.gate,
        "live": bool(e.prefilter.live),
    }


def _judged(v: Verdict) -> dict[str, Any]:
    tokens = v.tokens or Tokens()
    return {
        "verdict_id": v.verdict_id,
        "content_id": v.content_id,
        "version": v.policy_version,
        "decision": v.decision,
        "rules": v.rule_ids,
        "score": v.score,
        "reason": v.reason,
        "decided_at": v.decided_at,
        "prompt": tokens.prompt,
        "cached": tokens.cached,
        "completion": tokens.completion,
        "seconds": v.latency.get("reasoner", 0.0) / 1000,
    }


def _load(
    db: duckdb.DuckDBPyConnection, folder: Path, table: str, columns: dict[str, str], rows: Iterable[Any]
) -> None:
    path = folder / f"{table}.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    declared = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    db.execute(f"CREATE TABLE {table} ({declared})")
    if path.stat().st_size:
        names = "{" + ", ".join(f"{name}: '{kind}'" for name, kind in columns.items()) + "}"
        db.execute(
            f"INSERT INTO {table} SELECT {', '.join(columns)} FROM read_json($1, columns = {names}, "  # noqa: S608  (names of this module)
            "format = 'newline_delimited', maximum_object_size = 33554432)",
            [str(path)],
        )


def _rows(db: duckdb.DuckDBPyConnection, query: str, *parameters: Any) -> list[dict[str, Any]]:
    found = db.execute(query, list(parameters))
    names = [column[0] for column in found.description or ()]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


async def _rationales(settings: Settings, wanted: set[str | None]) -> dict[str, str]:
    """The model's analyses by verdict; none where the user may not read them."""
    found: dict[str, str] = {}
    with contextlib.suppress(ForbiddenError):
        await _add_rationales(settings, wanted, found)
    return found


async def _add_rationales(settings: Settings, wanted: set[str | None], found: dict[str, str]) -> None:
    async for record in kafka.read_all(settings, [topics.RATIONALES]):
        name = (record.key or b"").decode(errors="replace")
        if name in wanted:
            found.pop(name, None)
            if record.value is not None:  # a tombstone erases
                with contextlib.suppress(RecordError):
                    found[name] = decode(record.value, Rationale).attempts[-1].analysis


def _flip(row: dict[str, Any], rationales: dict[str, str]) -> Flip:
    return Flip(
        row["content_id"],
        row["language"],
        row["before"],
        row["after"],
        tuple(row["rules_before"] or ()),
        tuple(row["rules_after"] or ()),
        row["reason_before"],
        row["reason_after"],
        rationales.get(row["verdict_before"], ""),
        rationales.get(row["verdict_after"], ""),
    )


def count(db: duckdb.DuckDBPyConnection, replay: Replay, policy: Replayed, examples: list[Flip]) -> Diff:
    """All figures, from the tables of `joined`."""
    (totals,) = _rows(
        db,
        """SELECT count(*) AS judged, count(*) FILTER (before = 'unknown') AS unknown, count(*) FILTER (flip = 'to_violates') AS to_violates,
        count(*) FILTER (flip = 'to_safe') AS to_safe, count(*) FILTER (flip = 'to_safe' AND after = 'cleared') AS by_gate,
        count(*) FILTER (before = 'violates') AS before, count(*) FILTER (after = 'violates' AND before <> 'unknown') AS after FROM pairs""",
    )
    (cost,) = _rows(
        db,
        "SELECT coalesce(sum(prompt), 0) AS p, coalesce(sum(cached), 0) AS c, coalesce(sum(completion), 0) AS o, "
        "coalesce(sum(seconds), 0) AS s FROM replayed",
    )
    (noise,) = _rows(db, "SELECT count(*) AS n, count(*) FILTER (decision <> before) AS d FROM again")
    (wanted,) = _rows(db, "SELECT count(*) AS n FROM wanted")
    decisions: dict[str, dict[str, int]] = {}
    for row in _rows(db, "SELECT before, after, count(*) AS n FROM pairs GROUP BY ALL ORDER BY ALL"):
        decisions.setdefault(row["before"], {})[row["after"]] = row["n"]
    compared = totals["judged"] - totals["unknown"]
    events = max(round(replay.total * replay.sample), wanted["n"])
    return Diff(
        replay_id=replay.replay_id,
        policy_id=policy.policy_id,
        version=policy.version,
        before_version=policy.before_version,
        events=events,
        wanted=wanted["n"],
        waiting=wanted["n"] - totals["judged"],
        unknown=totals["unknown"],
        compared=compared,
        decisions=decisions,
        to_violates=proportion(totals["to_violates"], compared),
        to_safe=proportion(totals["to_safe"], compared),
        by_gate=totals["by_gate"],
        noise=proportion(noise["d"], noise["n"]),
        before=proportion(totals["before"], events),
        after=proportion(totals["after"], events),
        rules=dict(_sides(db, "unnest(list_distinct(list_concat(rules_before, rules_after)))")),
        languages=dict(_sides(db, "language")),
        versions_before={
            row["v"]: row["n"]
            for row in _rows(
                db,
                "SELECT version_before AS v, count(*) AS n FROM pairs WHERE v IS NOT NULL GROUP BY ALL ORDER BY n DESC",
            )
        },
        tokens=Tokens(cost["p"], cost["c"], cost["o"]),
        seconds=round(cost["s"], 1),
        examples=examples,
    )


def _sides(db: duckdb.DuckDBPyConnection, of: str) -> Iterator[tuple[str, Side]]:
    # `of` is an expression of this module.
    query = f"""SELECT name, count(*) FILTER (flip = 'to_violates') AS v, count(*) FILTER (flip = 'to_safe') AS s, count(*) AS n
        FROM (SELECT {of} AS name, flip FROM pairs WHERE before <> 'unknown') GROUP BY name ORDER BY v + s DESC, name"""  # noqa: S608
    for row in _rows(db, query):
        yield row["name"], Side(row["v"], row["s"], row["n"])
