"""What waits for a person, and claims on it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from urllib.parse import urlencode

from sqlalchemy import Connection, func, literal_column, select
from starlette.requests import Request
from starlette.responses import Response

from safeguard_streams.console import native
from safeguard_streams.console.schema import appeals, items, reports, review_items
from safeguard_streams.console.web import blind, checks, harms, rendering, sessions
from safeguard_streams.console.web.claims import REPORTED, Queue, matching
from safeguard_streams.console.web.console import Console
from safeguard_streams.console.web.guard import Page, RefusedError, back
from safeguard_streams.console.web.roles import Person
from safeguard_streams.console.web.writing import asked, asked_item, log_access, transaction
from safeguard_streams.contract.records import now

_ROWS = 50
_MOST_WITH_FILTERS = 1_500  # bytes of a session: room for what pages say once
FILTERS = ("policy", "language", "cause", "author")


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
    open_ones = review_items.c.state == literal_column("'open'")  # as the indexes of the queue have it
    reported = select(func.count()).where(reports.c.content_id == review_items.c.content_id).scalar_subquery()
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
            select(review_items, items.c.language, reported.label("reported"), due.label("due"))
            .outerjoin(items, items.c.content_id == review_items.c.content_id)
            .where(open_ones, *matching(filters))
            .order_by(review_items.c.priority.desc(), review_items.c.since, review_items.c.content_id)
            .limit(_ROWS)
        ).all()
        today = harms.today(connection, request.state.by)
        avoided = harms.avoided(connection, request.state.by)
        ids = [one.content_id for one in rows]
        unseen = blind.among(connection, request.scope["person"], ids, console.settings.console_blind_share)
        lease = lease_of(console)
        held = checks.held(connection, request.state.by, lease) or Queue(connection, lease).held_by(request.state.by)
    return rendering.page(
        request,
        "queue.html",
        groups=groups,
        rows=[one for one in rows if one.content_id not in unseen or not _tells(filters)],
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


def _tells(filters: Mapping[str, str]) -> bool:
    """Whether filters tell of an item what nobody is told who decides about it blind."""
    return bool(filters.get("author")) or filters.get("cause") == REPORTED


def claim(request: Request) -> Response:
    """Claim an item, or the next one, and go to its page."""
    console: Console = request.app.state.console
    wanted = asked_item(request)
    filters = {name: asked(request, name) for name in FILTERS}
    with transaction(console.engine) as connection:
        if wanted:
            claimed: str | None = _claim(connection, lease_of(console), wanted, request.state.by)
        else:
            sessions.keep(
                request, "queue", {name: value for name, value in filters.items() if value}, _MOST_WITH_FILTERS
            )
            claimed = next_item(connection, console, request.scope["person"], filters)
        if claimed is not None:
            log_access(connection, request, "claim", claimed)
    if claimed is None:
        return back(request, "/queue", "Nothing is free in this part of the queue.")
    return back(request, item_url(claimed))


def _claim(connection: Connection, lease: timedelta, content_id: str, by: str) -> str:
    """Claim this item for somebody. Raises RefusedError where others hold it, or this person has seen enough today."""
    queue = Queue(connection, lease)
    full = harms.full_today(connection, by)
    if full and not harms.was_revealed(connection, by, content_id):
        named = queue.waits_under(content_id, list(full))
        if named is not None:
            raise RefusedError(harms.full(full[named]))
    if not queue.claim(content_id, by):
        holder = queue.holder(content_id)
        raise RefusedError(f"{holder} works on this item." if holder else "This item does not wait any more.")
    return content_id


def next_item(connection: Connection, console: Console, person: Person, filters: Mapping[str, str]) -> str | None:
    """Hand somebody the item that they hold and have not decided, or else the next one of the queue, or a check.

    They get nothing of a harm that they asked not to see today, or of which they have seen enough. Who asks for the
    items of an author, or for reported ones, gets none to decide blind, and no check: the model decides without both.
    """
    by = person.name
    native.alone(connection, f"next item of {by}")  # the same request may come twice at once
    lease, without = lease_of(console), harms.left_to_others(connection, by)
    queue = Queue(connection, lease)
    held = checks.held(connection, by, lease, without) or queue.held_by(by)
    if held is not None:
        if not queue.waits_under(held, without) or harms.was_revealed(connection, by, held):
            return held
        queue.give_back(held, by)
    free = queue.free(by, filters, without)
    if _tells(filters):
        unseen = blind.among(connection, person, free, console.settings.console_blind_share)
        return queue.claim_first([one for one in free if one not in unseen], by)
    drawn = checks.draw(connection, console.settings, by, filters, without) if free else None
    return drawn or queue.claim_first(free, by)


def avoid(request: Request) -> Response:
    """Claim no more items of a harm today, and give the present one back."""
    console: Console = request.app.state.console
    content_id, harm, by = asked_item(request), asked(request, "harm"), request.state.by
    if not 0 < len(harm) <= harms.LONGEST_HARM:
        raise RefusedError(f"Name a harm in at most {harms.LONGEST_HARM} characters.")
    with transaction(console.engine) as connection:
        harms.avoid(connection, by, harm)
        _end(connection, console, content_id, by)
        log_access(connection, request, "avoid", harm)
    return back(
        request, "/queue", f"You get no more items about {rendering.line(harm)} today. This one is back in the queue."
    )


def _end(connection: Connection, console: Console, content_id: str, by: str) -> None:
    Queue(connection, lease_of(console)).give_back(content_id, by)
    checks.give_back(connection, by, content_id)


def give_back(request: Request) -> Response:
    """End a claim, so that others get the item."""
    console: Console = request.app.state.console
    content_id = asked_item(request)
    with transaction(console.engine) as connection:
        _end(connection, console, content_id, request.state.by)
        log_access(connection, request, "give back", content_id)
    return back(request, "/queue", "The item is back in the queue.")


PAGES = (
    Page("queue", "GET", "/queue", "items", show),
    Page("claim", "POST", "/claims", "decide", claim),
    Page("avoid", "POST", "/claims/avoid", "decide", avoid),
    Page("give_back", "POST", "/claims/end", "decide", give_back),
)
