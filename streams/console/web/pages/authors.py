"""One author: what stands on the account and why, and a person's decision about it. Accounts that wait for a review.

A decision is a record that `authors.people` writes under a key of the form, as `safeguard authors decide` does. A
request that comes twice is one decision.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote, urlencode

import msgspec
from sqlalchemy import Connection, func, literal_column, select
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from safeguard_streams.authors import people
from safeguard_streams.authors.ledger import undo_id
from safeguard_streams.console import native
from safeguard_streams.console.schema import audit_log, author_decisions, author_standings
from safeguard_streams.console.web import author_facts, blind, rendering, sessions
from safeguard_streams.console.web.author_facts import AuthorFacts
from safeguard_streams.console.web.console import Console
from safeguard_streams.console.web.guard import NotFoundError, Page, RefusedError, back
from safeguard_streams.console.web.keyset import Keyset
from safeguard_streams.console.web.writing import asked, log_access, logged, stored, transaction
from safeguard_streams.contract.records import AuthorEnforced
from safeguard_streams.enforcement.author_rules import AUTHOR_ACTIONS
from safeguard_streams.releases.operator import ChangedBy

_ROWS = 50
_LONGEST_FIRST = Keyset(author_standings.c.since, author_standings.c.author_id, newest=False)
_MOST_WITH_UNDO = 2_000  # bytes of a session: room for a message
_KEY = re.compile(r"[0-9a-f]{32}")
_DECIDE, _UNDO = "decide author", "undo author"  # in the audit log
_UNKNOWN = "The console knows no author of this id. None of their items was escalated, and no strike was given."
_BY_PERSON = "*"  # as a threshold: a person sent the account to review


def author_url(author_id: str) -> str:
    """The page of an author."""
    return "/author?" + urlencode({"id": author_id})


# ---------------------------------------------------------------- one author


def show(request: Request) -> Response:
    """What stands on an author, the strikes, what was done, and the items. That somebody looked is logged."""
    console: Console = request.app.state.console
    author_id, after = asked(request, "id"), asked(request, "after")
    with console.engine.connect() as connection:

        def unseen_of(ids: Sequence[str]) -> frozenset[str]:
            return blind.among(connection, request.scope["person"], ids, console.settings.console_blind_share)

        facts = author_facts.load(connection, author_id)
        if facts is None:
            raise NotFoundError(_UNKNOWN)
        shown = author_facts.items_page(connection, author_id, after, unseen_of)
        reported = author_facts.reports_on(connection, author_id)
        appealed = author_facts.appeals_of(connection, author_id)
        named: list[Any] = [*facts.strikes, *reported, *appealed, *(one.action for one in facts.done)]
        unseen = unseen_of([one.content_id for one in named if one.content_id])
    if not after:
        logged(request, "author", author_id)
    following = "/author?" + urlencode({"id": author_id, "after": shown.following}) if shown.following else None
    return rendering.page(
        request,
        "author.html",
        facts=facts,
        shown=shown.items,
        later=bool(after),
        following=following,
        reports=[one for one in reported if one.content_id not in unseen],
        appeals=[one for one in appealed if one.content_id not in unseen],
        unseen=unseen,
        counting=[one for one in facts.strikes if one.state == "counts"],
        choices=AUTHOR_ACTIONS,
        key=uuid.uuid4().hex,
    )


class _Asked(NamedTuple):
    """What a form says."""

    author_id: str
    action: AuthorEnforced
    why: str
    key: str
    last_word: str


async def decide(request: Request) -> Response:
    """Write what is to stand on an author, whatever the strikes say."""
    wanted = _read(request)
    console: Console = request.app.state.console
    await run_in_threadpool(_check, request, wanted)
    person = ChangedBy(wanted.why, request.state.by)
    written = await people.decide(console.settings, wanted.author_id, wanted.action, person, key=wanted.key)
    await run_in_threadpool(_log_once, request, _DECIDE, wanted.author_id, written.strike_id, {"action": wanted.action})
    request.session.pop("undo", None)  # one decision is the last
    sessions.keep(request, "undo_author", [wanted.author_id, written.strike_id], _MOST_WITH_UNDO)
    return back(request, author_url(wanted.author_id), f"{rendering.line(wanted.author_id)}: {wanted.action}.")


async def undo(request: Request) -> Response:
    """Take a decision about an author back: what the strikes say stands again."""
    console: Console = request.app.state.console
    author_id, decision_id = _asked_author(request), asked(request, "decision")
    await run_in_threadpool(_check_undo, request, author_id, decision_id)
    person = ChangedBy(asked(request, "why").strip() or "undone in the console", request.state.by)
    written = await people.undo(console.settings, author_id, decision_id, person)
    await run_in_threadpool(_log_once, request, _UNDO, author_id, written.strike_id, {"decision": decision_id})
    return back(request, author_url(author_id), "Undone. What the strikes say stands again.")


def _asked_author(request: Request) -> str:
    """The author that a form names. Forms quote ids: browsers change line breaks in what they send."""
    return stored(unquote(asked(request, "author_id")))


def _read(request: Request) -> _Asked:
    try:
        action = msgspec.convert(asked(request, "action"), AuthorEnforced)
    except msgspec.ValidationError:
        raise RefusedError(f"Choose what is to stand: {', '.join(AUTHOR_ACTIONS)}.") from None
    why, key, last_word = (asked(request, name).strip() for name in ("why", "key", "last_word"))
    if not why:
        raise RefusedError("Give a reason. Others will read it.")
    if not _KEY.fullmatch(key):
        raise RefusedError("This form is out of date. Load the page once more, and repeat.")
    return _Asked(_asked_author(request), action, why, key, last_word)


def _known(connection: Connection, author_id: str) -> AuthorFacts:
    facts = author_facts.load(connection, author_id)
    if facts is None:
        raise NotFoundError(_UNKNOWN)
    return facts


def _check(request: Request, wanted: _Asked) -> None:
    """Refuse to override what a colleague wrote after the page was loaded. The same request again is no other."""
    console: Console = request.app.state.console
    own = people.id_of(wanted.author_id, wanted.key)
    with console.engine.connect() as connection:
        facts = _known(connection, wanted.author_id)
        before = _entry(connection, _DECIDE, wanted.author_id, own)
    if before is not None and before["action"] != wanted.action:
        raise RefusedError("This form was sent before, with another action. Load the page once more, and repeat.")
    if facts.last_word not in (wanted.last_word, own) and before is None:
        raise RefusedError(_meanwhile(facts))


def _check_undo(request: Request, author_id: str, decision_id: str) -> None:
    """Refuse to take back another decision than the one that is named, which may not be projected yet."""
    console: Console = request.app.state.console
    with console.engine.connect() as connection:
        facts = _known(connection, author_id)
        is_fresh = _entry(connection, _DECIDE, author_id, decision_id) is not None
    known = {one.decision_id for one in facts.decisions}
    done = facts.last_word == undo_id(author_id, decision_id)
    if facts.decision_id == decision_id or done or (is_fresh and decision_id not in known):
        return
    if not facts.last_word:
        raise RefusedError("Nobody decided about this author. Nothing was written.")
    raise RefusedError(_meanwhile(facts))


def _meanwhile(facts: AuthorFacts) -> str:
    word = facts.decisions[0] if facts.decisions else None
    who = rendering.line(word.by, 60) if word is not None and word.by else "Somebody"
    done = "decided" if word is None else f"decided {word.action}" if word.action else "took a decision back"
    return f"{who} {done} meanwhile. Nothing was written. Load the page once more."


def _log_once(request: Request, action: str, author_id: str, record_id: str, details: dict[str, Any]) -> None:
    """Write into the audit log what somebody wrote, once however often the request comes."""
    console: Console = request.app.state.console
    with transaction(console.engine) as connection:
        native.alone(connection, record_id)
        if _entry(connection, action, author_id, record_id) is None:
            log_access(connection, request, action, author_id, {**details, "record": record_id})


def _entry(connection: Connection, action: str, author_id: str, record_id: str) -> dict[str, Any] | None:
    """What the audit log says of a record about an author."""
    written = select(audit_log.c.details).where(audit_log.c.object == author_id, audit_log.c.action == action)
    found = connection.execute(written).scalars()
    return next((dict(one) for one in found if one.get("record") == record_id), None)


# ---------------------------------------------------------------- accounts that wait


def show_waiting(request: Request) -> Response:
    """The accounts that wait for a review, those that wait longest first."""
    console: Console = request.app.state.console
    rule, after = asked(request, "rule"), asked(request, "after")
    waits = author_standings.c.action == literal_column("'review'")  # as the index has it
    query = select(author_standings).where(waits, *_sent_by(rule), _LONGEST_FIRST.after(after))
    with console.engine.connect() as connection:
        groups = connection.execute(
            select(author_standings.c.rule, func.count().label("waiting"))
            .where(waits)
            .group_by(author_standings.c.rule)
            .order_by(author_standings.c.rule)
        ).all()
        rows = connection.execute(query.order_by(*_LONGEST_FIRST.order).limit(_ROWS + 1)).all()
        answers = _answers(connection, [one.author_id for one in rows])
    answered = {
        one.author_id: answer
        for one in rows
        if (answer := answers.get(one.author_id)) is not None and author_facts.is_pending(answer, one)
    }
    following = None
    if len(rows) > _ROWS:
        last = rows[_ROWS - 1]
        place = _LONGEST_FIRST.place(last.since, last.author_id)
        following = "/accounts?" + urlencode({**({"rule": rule} if rule else {}), "after": place})
    return rendering.page(
        request,
        "accounts.html",
        rows=rows[:_ROWS],
        answered=answered,
        groups=groups,
        by_person=_BY_PERSON,
        rule=rule,
        waiting=sum(one.waiting for one in groups),
        later=bool(after),
        following=following,
    )


def _sent_by(rule: str) -> list[Any]:
    if rule == _BY_PERSON:
        return [author_standings.c.rule.is_(None)]
    return [author_standings.c.rule == rule] if rule else []


def _answers(connection: Connection, author_ids: Sequence[str]) -> dict[str, Any]:
    """The last decision about each of these authors."""
    found = select(author_decisions).where(author_decisions.c.author_id.in_(author_ids))
    rows = connection.execute(found.order_by(author_decisions.c.at, author_decisions.c.decision_id)).all()
    return {one.author_id: one for one in rows}


PAGES = (
    Page("author", "GET", "/author", "items", show),
    Page("decide_author", "POST", "/author/decisions", "decide", decide),
    Page("undo_author", "POST", "/author/decisions/undo", "decide", undo),
    Page("accounts", "GET", "/accounts", "items", show_waiting),
)
