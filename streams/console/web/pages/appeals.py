"""Deciding an appeal, as somebody who has not decided about the item before."""

from __future__ import annotations

from typing import NamedTuple, get_args

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from safeguard_streams.console.web import item_facts, rendering
from safeguard_streams.console.web.claims import Queue
from safeguard_streams.console.web.console import Console
from safeguard_streams.console.web.guard import BarredError, NotFoundError, Page, RefusedError, back
from safeguard_streams.console.web.pages.decisions import Decided, known_item, record, require_rule
from safeguard_streams.console.web.pages.queue import item_url, lease_of
from safeguard_streams.console.web.writing import asked, asked_item, transaction
from safeguard_streams.contract.records import AppealStanding, Enforced, Standing
from safeguard_streams.enforcement import appeal_outcomes
from safeguard_streams.enforcement.appeal_outcomes import Outcome
from safeguard_streams.enforcement.appeals import objection
from safeguard_streams.enforcement.decisions import Cited, write_once
from safeguard_streams.enforcement.places import KnownItem, locate
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.releases.people import checked

_NOT_YOU = "You decided about this item before. Somebody else decides its appeal. Nothing was written."


class _Asked(NamedTuple):
    """What a form says. action: what is to stand after an appeal that is overturned."""

    content_id: str
    appeal_id: str
    outcome: Outcome
    action: Enforced | None
    rule: str
    why: str
    content_sha256: str


async def decide(request: Request) -> Response:
    """Write the outcome of an appeal, and go to the next item."""
    wanted = _read(request)
    console: Console = request.app.state.console
    facts = await run_in_threadpool(_hold, request, wanted)
    place = known_item(facts)
    known = place if isinstance(place, KnownItem) else await locate(console.settings, place)
    cited = Cited(facts.policy_id, wanted.rule or None)
    moderator = checked(ChangedBy(wanted.why, request.state.by))
    standing = _standing(facts, known)
    outcome = appeal_outcomes.outcome_of(
        standing, wanted.appeal_id, wanted.outcome, moderator, action=wanted.action, cited=cited
    )
    if problem := objection(outcome, standing):
        raise RefusedError(f"Nothing was written: {problem}.")
    written = await write_once(console.settings, known.partition, outcome)
    decided = Decided(facts.content_id, written.action, wanted.rule, wanted.why, "", wanted.content_sha256, "")
    following = await run_in_threadpool(record, request, decided, facts, written.action_id, unseen=False)
    text = f"{rendering.line(facts.content_id)}: the appeal is {wanted.outcome}."
    return back(request, item_url(following) if following else "/queue", text)


def _read(request: Request) -> _Asked:
    try:
        outcome = msgspec.convert(asked(request, "outcome"), Outcome)
        action = msgspec.convert(asked(request, "action") or None, Enforced | None)
    except msgspec.ValidationError:
        raise RefusedError(f"Choose what to do: {' or '.join(get_args(Outcome))}.") from None
    names = ("appeal_id", "rule", "why", "content_sha256")
    appeal_id, rule, why, sha = (asked(request, name).strip() for name in names)
    if not why:
        raise RefusedError("Give a reason. The appellant has a right to it.")
    require_rule(rule)
    overturned = action if outcome == "overturned" else None
    return _Asked(asked_item(request), appeal_id, outcome, overturned, rule, why, sha)


def _hold(request: Request, wanted: _Asked) -> item_facts.Facts:
    """Claim the item for the time of the decision. Refuses somebody who decided about it before."""
    console: Console = request.app.state.console
    with transaction(console.engine) as connection:
        facts = item_facts.load(connection, wanted.content_id)
        if facts is None:
            raise NotFoundError("The console knows no item of this id.")
        if facts.bars(request.state.by):
            raise BarredError(_NOT_YOU)
        appeal = next((one for one in facts.appeals if one.appeal_id == wanted.appeal_id), None)
        if appeal is None or appeal.state != "open":
            state = appeal.state if appeal is not None else "not known"
            raise RefusedError(f"This appeal is {state}. Nothing was written.")
        if facts.item is not None and (facts.item.content_sha256 or "") != wanted.content_sha256:
            raise RefusedError("The item has another text by now. Load the page once more, and read it first.")
        queue = Queue(connection, lease_of(console))
        if any(one.state == "open" for one in facts.waiting) and not queue.claim(facts.content_id, request.state.by):
            holder = queue.holder(facts.content_id)
            if holder != request.state.by:
                raise RefusedError(f"{holder or 'Somebody else'} works on this item. Nothing was written.")
        return facts


def _standing(facts: item_facts.Facts, known: KnownItem) -> Standing:
    """What stands on the item, as far as the database tells: the agent checks the outcome once more."""
    effective: Enforced = facts.item.effective if facts.item is not None else "allow"
    appeals = tuple(
        AppealStanding(one.appeal_id, one.appellant, "open", one.opened_at, one.due_at, one.action, "")
        for one in facts.open_appeals
    )
    before = tuple(one for row in facts.open_appeals for one in row.not_by)
    return Standing(
        facts.content_id,
        effective,
        0,
        content_sha256=known.content_sha256,
        origin=known.origin,
        author_id=known.author_id,
        appeals=appeals,
        deciders=before,
    )


PAGES = (Page("decide_appeal", "POST", "/appeals", "decide", decide),)
