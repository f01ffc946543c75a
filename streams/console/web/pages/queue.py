"""What waits for a person, and claims on it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from urllib.parse import urlencode

from sqlalchemy import Connection, func, select
from starlette.requests import Request
from starlette.responses import Response

from safeguard_streams.console.schema import appeals, items, review_items
from safeguard_streams.console.web import blind, harms, rendering
from safeguard_streams.console.web.claims import Queue, matching
from safeguard_streams.console.web.console import Console
from safeguard_streams.console.web.guard import Page, RefusedError, back
from safeguard_streams.console.web.writing import asked, asked_item, log_access, transaction
from safeguard_streams.contract.records import now

_ROWS = 50
_LONGEST_FILTER = 200  # characters that a session keeps; a cookie holds 4,096 bytes
FILTERS = ("policy", "language", "cause")


def lease_of(console: Console) -> timedelta:
    """How long a claim runs."""
    return timedelta(minutes=console.settings.console_claim_minutes)


def item_url(content_id: str) -> str:
    """The page of an item."""
    return "/item?" + urlencode({"id": content_id})


def show(request: Request) -> Response:
    """The queue: how much waits under each policy and since when, and its first items."""
    console: Console = request.app.state.console
    filters = {name: asked(request, name) for name in FILTERS}
    open_ones = review_items.c.state == "open"
    waiting_appeal = (appeals.c.content_id == review_items.c.content_id, appeals.c.state == "open")
    due = select(func.min(appeals.c.due_at)).where(*waiting_appeal).scalar_subquery()
    with console.engine.connect() as connection:
        groups = connection.execute(
            select(
                review_items.c.policy_id,
                review_items.c.cause,
                func.count().label("waiting"),
                func.min(review_items.c.since).label("oldest"),
            )
            .where(open_ones)
            .group_by(review_items.c.policy_id, review_items.c.cause)
            .order_by(review_items.c.policy_id, review_items.c.cause)
        ).all()
        rows = connection.execute(
            select(review_items, items.c.language, due.label("due"))
            .outerjoin(items, items.c.content_id == review_items.c.content_id)
            .where(open_ones, *matching(filters))
            .order_by(review_items.c.priority.desc(), review_items.c.since, review_items.c.content_id)
            .limit(_ROWS)
        ).all()
        today = harms.exposures_today(connection, request.state.by)
        avoided = harms.avoided(connection, request.state.by)
        ids = [one.content_id for one in rows]
        unseen = blind.among(connection, request.scope["person"], ids, console.settings.console_blind_share)
        held = Queue(connection, lease_of(console)).held_by(request.state.by)
    return rendering.page(
        request,
        "queue.html",
        groups=groups,
        rows=rows,
        filters=filters,
        held=held,
        unseen=unseen,
        today=today,
        avoided=avoided,
        waiting=sum(one.waiting for one in groups),
        most=_ROWS,
        languages=sorted({one.language for one in rows if one.language} | ({filters["language"]} - {""})),
        at=now(),
    )


def claim(request: Request) -> Response:
    """Claim an item, or the next one, and go to its page."""
    console: Console = request.app.state.console
    wanted = asked_item(request)
    filters = {name: asked(request, name) for name in FILTERS}
    with transaction(console.engine) as connection:
        queue = Queue(connection, lease_of(console))
        if wanted:
            if not queue.claim(wanted, request.state.by):
                holder = queue.holder(wanted)
                raise RefusedError(f"{holder} works on this item." if holder else "This item does not wait any more.")
            claimed: str | None = wanted
        else:
            request.session["queue"] = {name: value[:_LONGEST_FILTER] for name, value in filters.items()}
            claimed = next_item(connection, queue, request.state.by, filters)
        if claimed is not None:
            log_access(connection, request, "claim", claimed)
    if claimed is None:
        return back(request, "/queue", "Nothing is free in this part of the queue.")
    return back(request, item_url(claimed))


def next_item(connection: Connection, queue: Queue, by: str, filters: Mapping[str, str]) -> str | None:
    """Claim the next item for somebody, of no harm that they asked not to see today."""
    return queue.next(by, filters, without=harms.policies_of(connection, harms.avoided(connection, by)))


def avoid(request: Request) -> Response:
    """Claim no more items of a harm today, and give the present one back."""
    console: Console = request.app.state.console
    content_id, harm, by = asked_item(request), asked(request, "harm"), request.state.by
    with transaction(console.engine) as connection:
        harms.avoid(connection, by, harm)
        Queue(connection, lease_of(console)).give_back(content_id, by)
        log_access(connection, request, "avoid", harm)
    return back(
        request, "/queue", f"You get no more items about {rendering.line(harm)} today. This one is back in the queue."
    )


def give_back(request: Request) -> Response:
    """End a claim, so that others get the item."""
    console: Console = request.app.state.console
    content_id = asked_item(request)
    with transaction(console.engine) as connection:
        Queue(connection, lease_of(console)).give_back(content_id, request.state.by)
        log_access(connection, request, "give back", content_id)
    return back(request, "/queue", "The item is back in the queue.")


PAGES = (
    Page("queue", "GET", "/queue", "items", show),
    Page("claim", "POST", "/claims", "decide", claim),
    Page("avoid", "POST", "/claims/avoid", "decide", avoid),
    Page("give_back", "POST", "/claims/end", "decide", give_back),
)
