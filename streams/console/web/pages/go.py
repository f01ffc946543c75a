"""Going to whatever an id or a URL of this console names."""

from __future__ import annotations

from collections.abc import Callable, Collection
from urllib.parse import SplitResult, urlencode, urlsplit

from sqlalchemy import Connection, select
from starlette.requests import Request
from starlette.responses import Response

from safeguard_streams.console.schema import (
    actions,
    author_standings,
    items,
    policy_changes,
    policy_releases,
    replay_verdicts,
    replays,
    strikes,
    verdicts,
)
from safeguard_streams.console.web import blind
from safeguard_streams.console.web.console import Console
from safeguard_streams.console.web.guard import NotFoundError, Page, back
from safeguard_streams.console.web.pages.queue import item_url
from safeguard_streams.console.web.writing import asked


def go(request: Request) -> Response:
    """The page of an item, a verdict, an action, a policy, a replay or an author, by its id, or of a copied URL."""
    console: Console = request.app.state.console
    wanted = asked(request, "to").strip()
    parts = _split(wanted)
    own = {request.url.netloc, urlsplit(console.settings.console_url).netloc}
    if parts.scheme in ("http", "https") and parts.netloc in own:
        path = parts.path if parts.path.startswith("/") and not parts.path.startswith("//") else "/"
        return back(request, path + (f"?{parts.query}" if parts.query else ""))
    with console.engine.connect() as connection:
        share = console.settings.console_blind_share
        url = _url(connection, wanted, lambda item: blind.among(connection, request.scope["person"], [item], share))
    if url is None:
        raise NotFoundError("The console knows no item, verdict, action, policy, replay or author of this id.")
    return back(request, url)


def _split(wanted: str) -> SplitResult:
    try:
        return urlsplit(wanted)
    except ValueError:  # an id may look like a URL and be none, as http://[ is
        return urlsplit("")


def _url(connection: Connection, wanted: str, unseen: Callable[[str], Collection[str]]) -> str | None:
    """Where an id leads. unseen: tells whether somebody is to decide about an item first. No verdict and no action then
    leads there: that it has one is more than its page says.
    """
    for column in (items.c.content_id, verdicts.c.content_id):
        if connection.execute(select(column).where(column == wanted).limit(1)).first() is not None:
            return item_url(wanted)
    by_key = ((verdicts, "verdict_id"), (replay_verdicts, "verdict_id"), (actions, "action_id"))
    for table, key in by_key:
        found = connection.execute(select(table.c.content_id).where(table.c[key] == wanted)).scalar()
        if found is not None:
            return None if unseen(str(found)) else item_url(str(found))
    for column, path in (
        (policy_releases.c.policy_id, "/policy"),
        (policy_changes.c.policy_id, "/policy"),
        (replays.c.replay_id, "/replay"),
        (author_standings.c.author_id, "/author"),
        (strikes.c.author_id, "/author"),
        (items.c.author_id, "/author"),
    ):
        if connection.execute(select(column).where(column == wanted).limit(1)).first() is not None:
            return f"{path}?" + urlencode({"id": wanted})
    return None


PAGES = (Page("go", "POST", "/go", "look", go),)
