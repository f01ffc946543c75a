"""The flips of a replay: a list, and a worklist in which one person at a time says which of two verdicts is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec
from sqlalchemy import Connection, Row, select
from starlette.requests import Request
from starlette.responses import Response

from safeguard_streams.console.schema import items, replay_verdicts, replays, verdicts
from safeguard_streams.console.web import blind, harms, policy_text, rendering, replay_work
from safeguard_streams.console.web.console import Console
from safeguard_streams.console.web.flips import Answer, Worklist
from safeguard_streams.console.web.guard import NotFoundError, Page, RefusedError, back
from safeguard_streams.console.web.harms import expose, harm_of
from safeguard_streams.console.web.pages.queue import lease_of
from safeguard_streams.console.web.pages.replays import compare_key
from safeguard_streams.console.web.policy_text import PolicyText, Rule
from safeguard_streams.console.web.writing import asked, asked_item, log_access, transaction

_ROWS = 50
_NO_FLIP = (
    "There is no such flip for you: its item was erased, a later comparison no longer finds it, or you are to decide "
    "about the item in the queue first."
)
_ANSWERS = {"new": "the new verdict is right", "old": "the old verdict is right", "unsure": "not sure"}


class Side(NamedTuple):
    """One verdict of a flip. rules: those that it cites, with what they say where the version is known."""

    version: str | None
    decision: str
    rules: Sequence[tuple[str, Rule | None]]
    reason: str | None


def show_all(request: Request) -> Response:
    """All flips in the order of the worklist, and what people said about them."""
    console: Console = request.app.state.console
    replay_id, policy_id = asked(request, "id"), asked(request, "policy")
    after = asked(request, "after")
    with console.engine.connect() as connection:
        _replayed(connection, replay_id, policy_id)
        worklist = Worklist(connection, replay_id, policy_id, lease_of(console))
        rows = worklist.page(int(after[:9]) if after.isdecimal() else -1, _ROWS + 1)
        ids = [one.content_id for one in rows]
        unseen = blind.among(connection, request.scope["person"], ids, console.settings.console_blind_share)
        size, answered = worklist.size()
        agreement = worklist.agreement() if answered else ()
    of = {"id": replay_id, "policy": policy_id}
    more = "/replay/flips?" + urlencode({**of, "after": rows[_ROWS - 1].place}) if len(rows) > _ROWS else None
    return rendering.page(
        request,
        "replay_flips.html",
        of=of,
        rows=[one for one in rows[:_ROWS] if one.content_id not in unseen],
        size=size,
        answered=answered,
        agreement=agreement,
        following=more,
        answers=_ANSWERS,
    )


def claim(request: Request) -> Response:
    """Claim the next flip, and go to it."""
    replay_id, policy_id = asked(request, "id"), asked(request, "policy")
    console: Console = request.app.state.console
    with transaction(console.engine) as connection:
        _replayed(connection, replay_id, policy_id)
        url = _claim_next(connection, request, replay_id, policy_id)
    return back(request, url or _list_url(replay_id, policy_id), None if url else "No flip waits for you.")


def show(request: Request) -> Response:
    """One flip: both verdicts, and the text behind the veil."""
    return _page(request, asked(request, "item"), revealed=False)


def reveal(request: Request) -> Response:
    """The same with its text. Counts as an exposure to the policy's harm, and stands in the audit log."""
    console: Console = request.app.state.console
    content_id, policy_id = asked_item(request), asked(request, "policy")
    with transaction(console.engine) as connection:
        worklist = Worklist(connection, asked(request, "id"), policy_id, lease_of(console))
        if worklist.find(content_id) is None:
            raise NotFoundError(_NO_FLIP)
        _require_decided(connection, request, content_id)
        expose(connection, request.state.by, _harm(connection, policy_id), content_id)
        log_access(connection, request, "reveal", content_id, {"policy": policy_id})
    return _page(request, content_id, revealed=True)


def answer(request: Request) -> Response:
    """Keep what a person says about a flip, and go to the next one."""
    console: Console = request.app.state.console
    replay_id, policy_id, content_id = asked(request, "id"), asked(request, "policy"), asked_item(request)
    by = request.state.by
    try:
        said: Answer = msgspec.convert(asked(request, "answer"), Answer)
    except msgspec.ValidationError:
        raise RefusedError("Say which verdict is right: the new one, the old one, or that you are not sure.") from None
    with transaction(console.engine) as connection:
        worklist = Worklist(connection, replay_id, policy_id, lease_of(console))
        row = worklist.take(content_id, by)
        if row is None:
            raise NotFoundError(_NO_FLIP)
        _require_decided(connection, request, content_id)
        if other := worklist.others(row, by):
            raise RefusedError(
                f"{rendering.line(other, 60)} works on this flip, or has answered it. Nothing was written."
            )
        if row.verdict_after != asked(request, "verdict"):
            raise RefusedError("The replay has another verdict by now. Load the page once more, and read it first.")
        if worklist.answer(row, said, by):
            about = {"replay": replay_id, "policy": policy_id, "answer": said}
            log_access(connection, request, "answer flip", content_id, about)
            replay_work.touch(connection, compare_key(replay_id, policy_id))
        url = _claim_next(connection, request, replay_id, policy_id)
    text = f"{rendering.line(content_id, 60)}: {_ANSWERS[said]}." + ("" if url else " No other flip waits for you.")
    return back(request, url or _list_url(replay_id, policy_id), text)


def _claim_next(connection: Connection, request: Request, replay_id: str, policy_id: str) -> str | None:
    """Claim the next flip for a person, unless they asked not to see its harm today; the URL of its page."""
    console: Console = request.app.state.console
    person = request.scope["person"]
    if _harm(connection, policy_id) in harms.avoided(connection, person.name):
        return None
    worklist = Worklist(connection, replay_id, policy_id, lease_of(console))
    row = worklist.next(person, console.settings.console_blind_share)
    if row is None:
        return None
    log_access(connection, request, "claim flip", row.content_id, {"replay": replay_id, "policy": policy_id})
    return _flip_url(replay_id, policy_id, row.content_id)


def _page(request: Request, content_id: str, *, revealed: bool) -> Response:
    console: Console = request.app.state.console
    replay_id, policy_id, by = asked(request, "id"), asked(request, "policy"), request.state.by
    with console.engine.connect() as connection:
        replayed = _replayed(connection, replay_id, policy_id)
        worklist = Worklist(connection, replay_id, policy_id, lease_of(console))
        row = worklist.find(content_id)
        if row is None:
            raise NotFoundError(_NO_FLIP)
        _require_decided(connection, request, content_id)
        other = worklist.others(row, by)
        item = connection.execute(select(items).where(items.c.content_id == content_id)).first()
        last, (size, answered) = worklist.last_of(by), worklist.size()
        sides = _sides(connection, row, replayed)
        harm = _harm(connection, policy_id)
    return rendering.page(
        request,
        "replay_flip.html",
        of={"id": replay_id, "policy": policy_id},
        flip=row,
        old=sides[0],
        new=sides[1],
        other=other,
        item=item,
        same_text=item is not None and item.content_sha256 == row.content_sha256,
        harm=harm,
        last=last if last != content_id else None,
        size=size,
        answered=answered,
        answers=_ANSWERS,
        revealed=revealed,
        whole=asked(request, "whole") == "1",
        shown=rendering.SHOWN,
    )


def _require_decided(connection: Connection, request: Request, content_id: str) -> None:
    """Refuse an item that a person is to decide about before they see any verdict, as one that has no flip."""
    share = request.app.state.console.settings.console_blind_share
    if blind.among(connection, request.scope["person"], [content_id], share):
        raise NotFoundError(_NO_FLIP)


def _sides(connection: Connection, row: Row[Any], replayed: dict[str, Any]) -> tuple[Side, Side]:
    """The verdict before and the replay's."""
    old = connection.execute(
        select(verdicts.c.policy_version, verdicts.c.reason).where(verdicts.c.verdict_id == row.verdict_before)
    ).first()
    new = connection.execute(
        select(replay_verdicts.c.reason).where(replay_verdicts.c.verdict_id == row.verdict_after)
    ).first()
    version = old.policy_version if old is not None else replayed.get("before_version")
    texts = [policy_text.version(connection, row.policy_id, one) for one in (version, replayed["version"])]
    return (
        Side(version, row.before, _cited(row.rules_before, texts[0]), old.reason if old is not None else None),
        Side(
            replayed["version"], row.after, _cited(row.rules_after, texts[1]), new.reason if new is not None else None
        ),
    )


def _cited(rules: Sequence[str], text: PolicyText | None) -> list[tuple[str, Rule | None]]:
    return [(name, text.rule(name) if text is not None else None) for name in rules]


def _harm(connection: Connection, policy_id: str) -> str:
    return harm_of(policy_id, policy_text.version(connection, policy_id, None))


def _replayed(connection: Connection, replay_id: str, policy_id: str) -> dict[str, Any]:
    """The versions of a policy in a replay. Raises NotFoundError where there are none."""
    found = connection.execute(select(replays.c.policies).where(replays.c.replay_id == replay_id)).scalar()
    for one in found or ():
        if one["policy_id"] == policy_id:
            return dict(one)
    raise NotFoundError("There is no replay of this id with this policy.")


def _list_url(replay_id: str, policy_id: str) -> str:
    return "/replay/flips?" + urlencode({"id": replay_id, "policy": policy_id})


def _flip_url(replay_id: str, policy_id: str, content_id: str) -> str:
    return "/replay/flip?" + urlencode({"id": replay_id, "policy": policy_id, "item": content_id})


PAGES = (
    Page("replay_flips", "GET", "/replay/flips", "items", show_all),
    Page("flip_claim", "POST", "/replay/flips/next", "flips", claim),
    Page("flip", "GET", "/replay/flip", "flips", show),
    Page("flip_reveal", "POST", "/replay/flip/text", "flips", reveal),
    Page("flip_answer", "POST", "/replay/flip", "flips", answer),
)
