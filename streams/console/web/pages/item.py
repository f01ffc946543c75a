"""One content item: behind a veil at first, with all that was decided about it and why."""

from __future__ import annotations

import uuid

from sqlalchemy import Connection, select
from starlette.requests import Request
from starlette.responses import Response

from safeguard_streams.console.schema import rationales, verdicts
from safeguard_streams.console.web import blind, checks, harms, rendering
from safeguard_streams.console.web.claims import Queue
from safeguard_streams.console.web.console import Console
from safeguard_streams.console.web.guard import NotFoundError, Page
from safeguard_streams.console.web.item_facts import Facts
from safeguard_streams.console.web.pages.queue import lease_of
from safeguard_streams.console.web.writing import asked, asked_item, log_access, transaction
from safeguard_streams.enforcement.rules import severity

_UNKNOWN = "The console knows no item of this id. It may not be projected yet, or was never escalated."


def show(request: Request) -> Response:
    """The item, its text behind the veil."""
    return _page(request, asked(request, "id"), revealed=False)


def reveal(request: Request) -> Response:
    """The same with its text. Counts as an exposure to the policy's harm, and stands in the audit log."""
    console: Console = request.app.state.console
    content_id = asked_item(request)
    with transaction(console.engine) as connection:
        facts, _ = _known(connection, request, content_id)
        harms.expose(connection, request.state.by, _harm(facts), content_id)
        log_access(connection, request, "reveal", content_id, {"policy": facts.policy_id})
    return _page(request, content_id, revealed=True)


def _known(connection: Connection, request: Request, content_id: str) -> tuple[Facts, bool]:
    """What this person may know of an item, and whether they decide about it blind."""
    share = request.app.state.console.settings.console_blind_share
    facts, is_blind = blind.load(connection, request.scope["person"], content_id, share)
    if facts is None:
        raise NotFoundError(_UNKNOWN)
    return facts, is_blind


def _harm(facts: Facts) -> str:
    policy_id = facts.policy_id
    return harms.harm_of(policy_id, facts.policies.get((policy_id, None))) if policy_id else "unknown"


def _page(request: Request, content_id: str, *, revealed: bool) -> Response:
    console: Console = request.app.state.console
    with console.engine.connect() as connection:
        by = request.state.by
        facts, is_blind = _known(connection, request, content_id)
        handed = checks.held(connection, by, lease_of(console)) == facts.content_id
        holder = by if handed else Queue(connection, lease_of(console)).holder(facts.content_id)
        exposure = harms.of_today(connection, by, _harm(facts))
        seen = harms.was_revealed(connection, by, facts.content_id)
        display = harms.display(connection, by)
        ids = [one.content_id for one in facts.others]
        unseen = blind.among(connection, request.scope["person"], ids, console.settings.console_blind_share)
    policy = facts.policies.get((facts.policy_id or "", None))
    judged = facts.judged
    judged_by = facts.policies.get((judged.policy_id, judged.policy_version)) if judged is not None else None
    rules = judged.rule_ids if judged is not None else []
    return rendering.page(
        request,
        "item.html",
        facts=facts,
        item=facts.item,
        judged=judged,
        policy=judged_by or policy,
        cited=[(name, judged_by.rule(name) if judged_by else None) for name in rules],
        harm=exposure.harm,
        enough=harms.full(exposure) if exposure.is_full and not seen else "",
        display=display,
        holder=holder,
        blind=is_blind,
        barred=facts.bars(request.state.by),
        unseen=unseen,
        waits=any(one.state == "open" for one in facts.waiting),
        revealed=revealed,
        whole=asked(request, "whole") == "1",
        shown=rendering.SHOWN,
        key=uuid.uuid4().hex,
        choices=("allow", "label", "limit", "remove", "review"),
        severity=severity,
    )


def rationale(request: Request) -> Response:
    """What the model wrote, for auditors. That somebody read it stands in the audit log."""
    console: Console = request.app.state.console
    verdict_id = asked(request, "verdict")
    with transaction(console.engine) as connection:
        found = connection.execute(select(rationales).where(rationales.c.verdict_id == verdict_id)).first()
        share = console.settings.console_blind_share
        if found is None or blind.among(connection, request.scope["person"], [found.content_id], share):
            raise NotFoundError(
                "There is no rationale of this verdict for you: it was erased, is too old, or never was, or you are to "
                "decide about its item first."
            )
        verdict = connection.execute(select(verdicts).where(verdicts.c.verdict_id == verdict_id)).first()
        log_access(connection, request, "rationale", verdict_id, {"item": found.content_id})
    return rendering.page(request, "rationale.html", rationale=found, verdict=verdict)


PAGES = (
    Page("item", "GET", "/item", "items", show),
    Page("reveal", "POST", "/item/text", "reveal", reveal),
    Page("rationale", "GET", "/rationale", "rationale", rationale),
)
