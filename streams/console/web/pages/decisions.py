"""Deciding about an item, and taking that back. Both are records; the database learns of them from the topic.

A form carries a key, which makes the record's id. A request that comes twice is one decision, and its label is kept
once.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, select
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from safeguard_streams.console import native
from safeguard_streams.console.schema import audit_log, reviews
from safeguard_streams.console.web import blind, checks, golden_items, item_facts, rendering, sessions
from safeguard_streams.console.web.claims import Queue
from safeguard_streams.console.web.console import Console
from safeguard_streams.console.web.guard import BarredError, NotFoundError, Page, RefusedError, back
from safeguard_streams.console.web.pages.queue import item_url, lease_of, next_item
from safeguard_streams.console.web.writing import asked, asked_item, log_access, logged, transaction
from safeguard_streams.contract.records import Decision, Enforced, now, origin_of
from safeguard_streams.enforcement import decisions
from safeguard_streams.enforcement.decisions import Cited
from safeguard_streams.enforcement.places import KnownItem
from safeguard_streams.policies.vocabulary import RULE_ID
from safeguard_streams.releases.operator import ChangedBy

_MOST_WITH_UNDO = 2_000  # bytes of a session: room for a message
_RULE = re.compile(RULE_ID)
_KEY = re.compile(r"[0-9a-f]{32}")


class Decided(NamedTuple):
    """What a form says."""

    content_id: str
    action: Enforced
    rule: str
    why: str
    key: str
    content_sha256: str
    last_word: str


async def decide(request: Request) -> Response:
    """Write a decision, and go to the next item."""
    decided = _read(request)
    console: Console = request.app.state.console
    if (checked := await run_in_threadpool(_check, request, decided)) is not None:
        return checked
    held = await run_in_threadpool(_hold, request, decided)
    if isinstance(held, Response):
        return held
    unseen, facts = held
    written = await decisions.decide(
        console.settings,
        known_item(facts),
        decided.action,
        ChangedBy(decided.why, request.state.by),
        cited=Cited(facts.policy_id, decided.rule or None),
        key=decided.key,
    )
    following = await run_in_threadpool(record, request, decided, facts, written.action_id, unseen=unseen)
    request.session.pop("undo_author", None)  # one decision is the last
    sessions.keep(request, "undo", [decided.content_id, written.action_id], _MOST_WITH_UNDO)
    text = f"{rendering.line(decided.content_id)}: {decided.action}." + (f" {_verdict_said(facts)}" if unseen else "")
    return back(request, item_url(following) if following else "/queue", text)


async def undo(request: Request) -> Response:
    """Take the decision about an item back: what the verdicts say stands again."""
    console: Console = request.app.state.console
    content_id, decision_id = asked_item(request), asked(request, "decision")
    facts = await run_in_threadpool(_known, request, content_id)
    _check_bar(request, facts)
    person = ChangedBy(asked(request, "why").strip() or "undone in the console", request.state.by)
    if decision_id:
        await decisions.undo(console.settings, known_item(facts), decision_id, person)
    else:
        await decisions.undecide(console.settings, known_item(facts), person)
    await run_in_threadpool(logged, request, "undo", content_id, {"decision": decision_id})
    return back(request, item_url(content_id), "Undone. What the verdicts say stands again.")


def known_item(facts: item_facts.Facts) -> str | KnownItem:
    """The item with the text that the page shows, so that nobody has to look it up; its id where no place is known."""
    item = facts.item
    if item is None or item.event_partition is None:
        return facts.content_id
    origin = origin_of(item.event_partition, item.event_offset)
    return KnownItem(facts.content_id, item.event_partition, item.content_sha256, origin, item.author_id)


def _known(request: Request, content_id: str) -> item_facts.Facts:
    """The facts of an item. Refuses one that this person is to decide about first."""
    console: Console = request.app.state.console
    with console.engine.connect() as connection:
        share = console.settings.console_blind_share
        facts, is_blind = blind.load(connection, request.scope["person"], content_id, share)
    if facts is None:
        raise NotFoundError("The console knows no item of this id.")
    if is_blind:
        raise RefusedError("Decide about this item first. Nothing was written.")
    return facts


def _read(request: Request) -> Decided:
    try:
        action = msgspec.convert(asked(request, "action"), Enforced)
    except msgspec.ValidationError:
        raise RefusedError("Choose what to do: allow, label, limit, remove or escalate.") from None
    content_id = asked_item(request)  # as it is: an id may begin with a blank
    fields = ("rule", "why", "key", "content_sha256", "last_word")
    rule, why, key, sha, last_word = (asked(request, name).strip() for name in fields)
    if not why:
        raise RefusedError("Give a reason. Others will read it.")
    require_rule(rule)
    if not _KEY.fullmatch(key):
        raise RefusedError("This form is out of date. Load the page once more, and repeat.")
    return Decided(content_id, action, rule, why, key, sha, last_word)


def require_rule(rule: str) -> None:
    """Refuse what is no id of a rule: authors read it in their statement of reasons."""
    if rule and not _RULE.fullmatch(rule):
        raise RefusedError("Choose a rule of the policy, or none.")


def _check(request: Request, decided: Decided) -> Response | None:
    """Keep the decision as a label, where the item is a check: nothing follows it. None where it is none."""
    console: Console = request.app.state.console
    by = request.state.by
    with transaction(console.engine) as connection:
        native.alone(connection, decided.key)  # the same request may come twice at once
        check = checks.find(connection, by, decided.content_id)
        if check is None or check.key not in (None, decided.key):
            return None
        if check.key is None and not checks.is_there(connection, check):
            checks.give_back(connection, by, decided.content_id)
            return back(request, "/queue", "That item has another text by now, or is erased. Nothing was written.")
        if checks.judge(connection, check, decided.key, **_said(decided)):
            log_access(connection, request, "decide", decided.content_id, {"action": decided.action, "check": "second"})
        told = checks.told(connection, check)
        following = _next(connection, request)
    return back(request, item_url(following) if following else "/queue", told)


def _said(decided: Decided) -> dict[str, Any]:
    """A decision as columns of a review."""
    return {"decision": _label(decided.action), "rule": decided.rule or None, "action": decided.action}


def _golden(connection: Connection, request: Request, decided: Decided) -> Response | None:
    """Keep the decision as a label, where the item is a golden one: nothing follows it. None where it is none."""
    by = request.state.by
    item = golden_items.find(connection, decided.content_id)
    if item is not None:
        golden_items.judge(connection, item, by, decided.key, **_said(decided))
        log_access(connection, request, "decide", decided.content_id, {"action": decided.action, "check": "golden"})
    else:
        item = golden_items.judged_by(connection, decided.content_id, by, decided.key)
    if item is None:
        return None
    following = _next(connection, request)
    told = golden_items.told(item, _label(decided.action))
    return back(request, item_url(following) if following else "/queue", told)


def _next(connection: Connection, request: Request) -> str | None:
    """Claim the next item."""
    filters = dict(request.session.get("queue", {}))
    following = next_item(connection, request.app.state.console, request.scope["person"], filters)
    if following is not None:
        log_access(connection, request, "claim", following)
    return following


def _hold(request: Request, decided: Decided) -> Response | tuple[bool, item_facts.Facts]:
    """Claim the item for the time of the decision, and find whether the person decides blind.

    A golden item is refused for the same reasons as any other one, and then ends here, with what its person is told.
    """
    console: Console = request.app.state.console
    by = request.state.by
    with transaction(console.engine) as connection:
        native.alone(connection, decided.key)  # the same request may come twice at once
        facts = item_facts.load(connection, decided.content_id)
        if facts is None:
            if (golden := _golden(connection, request, decided)) is not None:
                return golden
            raise NotFoundError("The console knows no item of this id.")
        if facts.item is not None and (facts.item.content_sha256 or "") != decided.content_sha256:
            raise RefusedError("The item has another text by now. Go back, load the page once more, and read it first.")
        _check_bar(request, facts)
        _check_last_word(facts, decided)
        queue = Queue(connection, lease_of(console))
        share = console.settings.console_blind_share
        unseen = blind.among(connection, request.scope["person"], [facts.content_id], share)
        waits = any(one.state == "open" for one in facts.waiting)
        if waits and not queue.claim(facts.content_id, by):
            holder = queue.holder(facts.content_id)
            if holder != by:  # the same request, under way, has the row of the claim
                raise RefusedError(f"{holder or 'Somebody else'} works on this item. Nothing was written.")
        return _golden(connection, request, decided) or (bool(unseen), facts)


def _check_bar(request: Request, facts: item_facts.Facts) -> None:
    """Refuse what the enforcement agent would not follow: somebody who decided before, while an appeal is open."""
    if facts.bars(request.state.by):
        raise BarredError("You decided about this item before. While its appeal is open, somebody else decides.")


def _check_last_word(facts: item_facts.Facts, decided: Decided) -> None:
    """Refuse to override what a colleague wrote after the page was loaded. The same request again is no other."""
    word = facts.last_word
    if word is None or word.action_id in (decided.last_word, decisions.id_of(decided.key, facts.content_id)):
        return
    done = "took a decision back" if word.withdraws else f"decided {word.action}"
    raise RefusedError(f"{word.by or 'Somebody'} {done} meanwhile. Nothing was written. Load the page once more.")


def record(request: Request, decided: Decided, facts: item_facts.Facts, action_id: str, *, unseen: bool) -> str | None:
    """Keep the decision as a label, once, and claim the next item."""
    console: Console = request.app.state.console
    by, judged = request.state.by, facts.judged
    with transaction(console.engine) as connection:
        queue = Queue(connection, lease_of(console))
        native.alone(connection, action_id)  # the same request may come twice at once
        if not _is_logged(connection, facts.content_id, action_id):
            queue.claim(facts.content_id, by)
            log_access(
                connection,
                request,
                "decide",
                decided.content_id,
                {"action": decided.action, "action_id": action_id, "blind": unseen},
            )
            connection.execute(
                reviews.insert().values(
                    who=by,
                    content_id=facts.content_id,
                    policy_id=facts.policy_id or "*",
                    content_sha256=facts.item.content_sha256 if facts.item is not None else None,
                    decision=_label(decided.action),
                    rule=decided.rule or None,
                    action=decided.action,
                    verdict_id=judged.verdict_id if judged is not None else None,
                    blind=unseen,
                    golden=False,
                    second=any(one.policy_id is None and one.by not in (None, by) for one in facts.actions),
                    at=now(),
                    action_id=action_id,
                )
            )
        return _next(connection, request)


def _is_logged(connection: Any, about: str, action_id: str) -> bool:
    """Whether a decision about an item is in the audit log already."""
    written = select(audit_log.c.details).where(audit_log.c.object == about, audit_log.c.action == "decide")
    return any(one.get("action_id") == action_id for one in connection.execute(written).scalars())


def _label(action: Enforced) -> Decision:
    """What a decision says about the text: that it violates, or not; a colleague's turn says neither."""
    return "safe" if action == "allow" else "undetermined" if action == "review" else "violates"


def _verdict_said(facts: item_facts.Facts) -> str:
    judged = facts.judged
    if judged is None:
        return "No verdict says anything about it."
    rules = ", ".join(judged.rule_ids)
    return f"You decided before you saw the verdict: {judged.decision}{', ' + rules if rules else ''}."


PAGES = (
    Page("decide", "POST", "/decisions", "decide", decide),
    Page("undo", "POST", "/decisions/undo", "decide", undo),
)
