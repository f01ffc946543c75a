"""Replays: what was judged again, how far it is, and how its verdicts differ from those before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, and_, func, select
from starlette.requests import Request
from starlette.responses import Response

from safeguard_streams.console.schema import replay_progress, replay_verdicts, replays, verdicts
from safeguard_streams.console.web import blind, rendering
from safeguard_streams.console.web.console import Console
from safeguard_streams.console.web.guard import NotFoundError, Page
from safeguard_streams.console.web.writing import asked

_ROWS = 100
_FLIPS = 50


class Compared(NamedTuple):
    """How a replay's verdicts under a policy differ: counts by the decisions before and after, and the first flips."""

    policy_id: str
    changes: Sequence[Any]
    flips: Sequence[Any]


def show_all(request: Request) -> Response:
    """All replays, newest first."""
    console: Console = request.app.state.console
    with console.engine.connect() as connection:
        rows = connection.execute(select(replays).order_by(replays.c.created_at.desc()).limit(_ROWS)).all()
        progress = _progress(connection, [one.replay_id for one in rows])
    return rendering.page(request, "replays.html", rows=rows, progress=progress, offsets=_offsets)


def show(request: Request) -> Response:
    """One replay: its progress, and its verdicts by policy version and decision."""
    console: Console = request.app.state.console
    replay_id = asked(request, "id")
    with console.engine.connect() as connection:
        found = connection.execute(select(replays).where(replays.c.replay_id == replay_id)).first()
        if found is None:
            raise NotFoundError("There is no replay of this id.")
        progress = _progress(connection, [replay_id]).get(replay_id)
        counts = connection.execute(
            select(
                replay_verdicts.c.policy_id,
                replay_verdicts.c.policy_version,
                replay_verdicts.c.decision,
                func.count().label("verdicts"),
            )
            .where(replay_verdicts.c.replay_id == replay_id)
            .group_by(replay_verdicts.c.policy_id, replay_verdicts.c.policy_version, replay_verdicts.c.decision)
            .order_by(replay_verdicts.c.policy_id, replay_verdicts.c.policy_version, replay_verdicts.c.decision)
        ).all()
        compared = [_compared(connection, replay_id, policy) for policy in found.policies]
        flipped = [row.content_id for one in compared for row in one.flips]
        unseen = blind.among(connection, request.scope["person"], flipped, console.settings.console_blind_share)
    return rendering.page(
        request,
        "replay.html",
        replay=found,
        progress=progress,
        counts=counts,
        offsets=_offsets,
        compared=compared,
        unseen=unseen,
    )


def _compared(connection: Connection, replay_id: str, policy: Mapping[str, Any]) -> Compared:
    """The replay's verdicts under the new version of a policy, beside those that were made under the version before."""
    new, old = replay_verdicts.c, verdicts.c
    both = replay_verdicts.join(verdicts, and_(old.content_id == new.content_id, old.policy_id == new.policy_id))
    of_both = and_(
        new.replay_id == replay_id,
        new.policy_id == policy["policy_id"],
        new.policy_version == policy["version"],
        old.policy_version == policy.get("before_version"),
    )
    pair = (old.decision.label("before"), new.decision.label("after"))
    changes = connection.execute(
        select(*pair, func.count().label("items"))
        .select_from(both)
        .where(of_both)
        .group_by(old.decision, new.decision)
        .order_by(old.decision, new.decision)
    ).all()
    flips = connection.execute(
        select(new.content_id, *pair, old.rule_ids.label("rules_before"), new.rule_ids.label("rules_after"))
        .select_from(both)
        .where(of_both, old.decision != new.decision)
        .order_by(new.content_id)
        .limit(_FLIPS)
    ).all()
    return Compared(policy["policy_id"], changes, flips)


def _progress(connection: Any, replay_ids: list[str]) -> dict[str, Row[Any]]:
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


def _offsets(replay: Row[Any], progress: Row[Any] | None) -> float | None:
    """The share of its events that a replay has read; None before it has begun."""
    begin, end = sum(replay.starts.values()), sum(replay.ends.values())
    if replay.state == "escalated" or end == begin:
        return 1.0
    return None if progress is None else min(1.0, max(0.0, (int(progress.position) - begin) / (end - begin)))


PAGES = (
    Page("replays", "GET", "/replays", "look", show_all),
    Page("replay", "GET", "/replay", "look", show),
)
