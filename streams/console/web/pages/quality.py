"""How well people decide: agreement with each other, with the model and with golden sets, and their labels."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import chain
from typing import NamedTuple

from sqlalchemy import Connection, select
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from safeguard_streams.console import labels
from safeguard_streams.console.schema import reviews
from safeguard_streams.console.web import blind, judgements, rendering
from safeguard_streams.console.web.console import Console
from safeguard_streams.console.web.guard import Page, RefusedError
from safeguard_streams.console.web.writing import asked, logged
from safeguard_streams.contract.records import now
from safeguard_streams.errors import PolicyError
from safeguard_streams.quality.agreement import ENOUGH
from safeguard_streams.runtime.durations import moment

DAYS = (30, 90, 365)
_USUAL = 90
_DISPUTES = 50
_LOOKED_UP = 1000  # items in one statement


class Period(NamedTuple):
    """The days that figures are about."""

    days: int
    since: datetime


def period(request: Request) -> Period:
    """The period that a URL names."""
    given = asked(request, "days")
    days = int(given) if given in map(str, DAYS) else _USUAL
    return Period(days, now() - timedelta(days=days))


def show(request: Request) -> Response:
    """The figures of a period, of one policy or of all."""
    console: Console = request.app.state.console
    shown, policy_id = period(request), asked(request, "policy")
    with console.engine.connect() as connection:
        rows = judgements.load(connection, shown.since, policy_id)
        disputes = judgements.disputes(rows)
        ids = [one.content_id for one in disputes]
        unseen = blind.among(connection, request.scope["person"], ids, console.settings.console_blind_share)
        known = labels.policies(connection)
    return rendering.page(
        request,
        "quality.html",
        period=shown,
        all_days=DAYS,
        policy_id=policy_id,
        policies=sorted({*known, *([policy_id] if policy_id else [])}),
        rows=rows,
        people=judgements.among_people(rows),
        pairs=judgements.pairs(rows),
        models=judgements.with_model(rows),
        rules=judgements.by_rule(rows),
        golden=judgements.golden(rows),
        weeks=judgements.weeks(rows),
        disputes=[one for one in disputes if one.content_id not in unseen][:_DISPUTES],
        enough=ENOUGH,
    )


def export(request: Request) -> Response:
    """What people decided under a policy as a file of labels, as `safeguard console labels` writes it. Leaves out what
    this person is to decide blind.
    """
    console: Console = request.app.state.console
    policy_id, since = asked(request, "policy"), asked(request, "since").strip()
    flags = {name: asked(request, name) == "1" for name in ("blind_only", "as_golden")}
    wanted = labels.Wanted(policy_id, moment(since, "since") if since else None, **flags)

    def parts() -> Iterator[bytes]:
        with console.engine.connect() as connection:
            yield from labels.lines(connection, wanted, labels.Counts(), _unseen(connection, request, policy_id))

    lines = parts()
    try:
        first = next(lines, b"")
    except PolicyError as error:
        raise RefusedError(str(error)) from None
    logged(request, "export", f"labels of {policy_id}", {"fields": sorted(name for name, on in flags.items() if on)})
    name = "golden.jsonl" if wanted.as_golden else "labels.jsonl"
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(chain([first], lines), media_type="application/x-ndjson", headers=headers)


def _unseen(connection: Connection, request: Request, policy_id: str) -> frozenset[str]:
    """The items that somebody decided under a policy, and about which this person is to decide blind."""
    person, share = request.scope["person"], request.app.state.console.settings.console_blind_share
    if not person.may("decide"):
        return frozenset()
    decided = select(reviews.c.content_id).where(reviews.c.policy_id == policy_id).distinct()
    ids = connection.execute(decided).scalars().all()
    parts = (ids[start : start + _LOOKED_UP] for start in range(0, len(ids), _LOOKED_UP))
    return frozenset().union(*(blind.among(connection, person, part, share) for part in parts))


PAGES = (
    Page("quality", "GET", "/quality", "quality", show),
    Page("labels", "GET", "/quality/labels", "export", export),
)
