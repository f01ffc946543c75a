"""Replays: what was judged again, how far it is, and what it changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

from sqlalchemy import Connection, Row, func, select
from starlette.requests import Request
from starlette.responses import Response

from safeguard_streams.console.schema import replay_progress, replay_verdicts, replays
from safeguard_streams.console.web import policy_text, rendering, replay_work
from safeguard_streams.console.web.console import Console
from safeguard_streams.console.web.flips import Agreement, Worklist
from safeguard_streams.console.web.guard import NotFoundError, Page
from safeguard_streams.console.web.pages.queue import lease_of
from safeguard_streams.console.web.writing import asked

_ROWS = 100
_LANGUAGES = 12  # of a chart


class Chart(NamedTuple):
    """Flips each way by rule or language, most first. scale: the number that fills half of a bar. more: rows left out.

    lines: what a rule says, by its id.
    """

    title: str
    rows: Sequence[tuple[str, Mapping[str, int]]]
    scale: int
    more: int
    lines: Mapping[str, str]


class Compared(NamedTuple):
    """What a replay changes under a policy: the work that finds it, with its last result, and the worklist."""

    policy_id: str
    version: str
    before_version: str | None
    work: Row[Any] | None
    charts: Sequence[Chart]
    flips: int
    answered: int
    agreement: Sequence[Agreement]
    promoted: bool


def replay_url(replay_id: str) -> str:
    """The page of a replay."""
    return "/replay?" + urlencode({"id": replay_id})


def run_key(replay_id: str) -> str:
    """The key of the work that escalates a replay's items."""
    return f"run {replay_id}"


def compare_key(replay_id: str, policy_id: str) -> str:
    """The key of the work that compares a replay's verdicts under a policy."""
    return f"compare {replay_id} {policy_id}"


def show_all(request: Request) -> Response:
    """All replays, newest first."""
    console: Console = request.app.state.console
    with console.engine.connect() as connection:
        rows = connection.execute(select(replays).order_by(replays.c.created_at.desc()).limit(_ROWS)).all()
        names = [one.replay_id for one in rows]
        progress, judged = _progress(connection, names), _judged(connection, names)
    states = {one.replay_id: _state(one, progress.get(one.replay_id), judged.get(one.replay_id, 0)) for one in rows}
    return rendering.page(
        request, "replays.html", rows=rows, progress=progress, judged=judged, states=states, read=_share_read
    )


def show(request: Request) -> Response:
    """One replay: its progress, its verdicts, what it changes, and what can be done about it. Parts of it are live."""
    console: Console = request.app.state.console
    replay_id = asked(request, "id")
    with console.engine.connect() as connection:
        found = connection.execute(select(replays).where(replays.c.replay_id == replay_id)).first()
        work = replay_work.find(connection, run_key(replay_id))
        if found is None and work is None:
            raise NotFoundError("There is no replay of this id.")
        progress = _progress(connection, [replay_id]).get(replay_id)
        counts = _counts(connection, replay_id)
        compared = [_compared(connection, console, found, one) for one in found.policies] if found is not None else []
    judged = sum(one.verdicts for one in counts)
    return rendering.page(
        request,
        "replay_live.html" if rendering.is_partial(request) else "replay.html",
        replay_id=replay_id,
        replay=found,
        work=work,
        state=_state(found, progress, judged) if found else "starting",
        progress=progress,
        judged=judged,
        read=_share_read(found, progress) if found else 0.0,
        counts=counts,
        compared=compared,
    )


def _compared(connection: Connection, console: Console, replay: Row[Any], policy: Mapping[str, Any]) -> Compared:
    policy_id, before = policy["policy_id"], policy.get("before_version")
    worklist = Worklist(connection, replay.replay_id, policy_id, lease_of(console))
    size, answered = worklist.size()
    work = replay_work.find(connection, compare_key(replay.replay_id, policy_id))
    lines = _rule_lines(connection, policy_id, before) | _rule_lines(connection, policy_id, policy["version"])
    done = [one["direction"] for one in replay.publications if one["policy_id"] == policy_id]
    return Compared(
        policy_id,
        policy["version"],
        before,
        work,
        _charts(work.result["diff"], lines) if work is not None and work.result else (),
        size,
        answered,
        worklist.agreement() if answered else (),
        bool(done) and done[-1] == "promote",
    )


def _charts(diff: Mapping[str, Any], lines: Mapping[str, str]) -> list[Chart]:
    """The groups in which items flip."""
    return [
        Chart(title, rows[:most], max(max(one["to_safe"], one["to_violates"]) for _, one in rows), len(rows[most:]), of)
        for title, groups, most, of in (
            ("Rule", diff["rules"], len(diff["rules"]), lines),
            ("Language", diff["languages"], _LANGUAGES, {}),
        )
        if (rows := [(name, one) for name, one in groups.items() if one["to_safe"] + one["to_violates"]])
    ]


def _rule_lines(connection: Connection, policy_id: str, version: str | None) -> dict[str, str]:
    """The line of each rule of a policy version by its id; none where the console has no such version."""
    text = policy_text.version(connection, policy_id, version) if version else None
    return {rule.rule_id: rule.summary for rule in text.rules} if text else {}


def _counts(connection: Connection, replay_id: str) -> Sequence[Any]:
    said = replay_verdicts.c
    groups = (said.policy_id, said.policy_version, said.decision)
    counted = select(*groups, func.count().label("verdicts")).where(said.replay_id == replay_id)
    return connection.execute(counted.group_by(*groups).order_by(*groups)).all()


def _judged(connection: Connection, replay_ids: Sequence[str]) -> dict[str, int]:
    said = replay_verdicts.c.replay_id
    rows = connection.execute(select(said, func.count()).where(said.in_(replay_ids)).group_by(said))
    return {str(replay_id): int(count) for replay_id, count in rows}


def _progress(connection: Connection, replay_ids: Sequence[str]) -> dict[str, Any]:
    columns = replay_progress.c
    rows = connection.execute(
        select(
            columns.replay_id,
            func.sum(columns.position).label("position"),
            func.sum(columns["items"]).label("covered"),
            func.sum(columns.escalated).label("escalated"),
        )
        .where(columns.replay_id.in_(replay_ids))
        .group_by(columns.replay_id)
    )
    return {row.replay_id: row for row in rows}


def _share_read(replay: Row[Any], progress: Row[Any] | None) -> float:
    """The share of its events that a replay has read."""
    begin, end = sum(replay.starts.values()), sum(replay.ends.values())
    if replay.escalated_at is not None or end == begin:
        return 1.0
    return 0.0 if progress is None else min(1.0, max(0.0, (int(progress.position) - begin) / (end - begin)))


def _state(replay: Row[Any], progress: Row[Any] | None, judged: int) -> str:
    """What a replay is doing, as `safeguard replay list` names it."""
    if replay.state in ("paused", "cancelled"):
        return str(replay.state)
    if replay.publications:
        last = {one["policy_id"]: one["direction"] for one in replay.publications}
        return "promoted" if "promote" in last.values() else "reverted"
    if replay.escalated_at is None:
        return "escalating"
    return "judging" if progress is not None and judged < int(progress.escalated) else "judged"


PAGES = (
    Page("replays", "GET", "/replays", "look", show_all),
    Page("replay", "GET", "/replay", "look", show),
)
