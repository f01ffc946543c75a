"""Policies: what is in force, each change as a difference, and what the rules decide."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from urllib.parse import urlencode

from sqlalchemy import Row, case, func, select
from starlette.requests import Request
from starlette.responses import Response

from safeguard_streams.console.schema import policy_changes, policy_releases, verdict_rules
from safeguard_streams.console.web import policy_drafts, policy_text, rendering
from safeguard_streams.console.web.checkout import CheckoutError, InGit, checkout_of
from safeguard_streams.console.web.console import Console
from safeguard_streams.console.web.guard import NotFoundError, Page
from safeguard_streams.console.web.writing import asked
from safeguard_streams.contract.records import now

_WEEK = timedelta(days=7)
_CONTEXT = 2  # unchanged lines around a change


class DiffLine(NamedTuple):
    """A line of a difference: added, removed, or kept around them."""

    kind: str
    text: str


class Shown(NamedTuple):
    """A change, and how its document differs from the one in force before."""

    change: Row[Any]
    lines: Sequence[DiffLine]


class GitState(NamedTuple):
    """What git holds of a policy, beside what is in force. said: why it cannot be known, or takes no commit."""

    in_git: InGit | None
    said: str
    lines: Sequence[DiffLine] = ()


def policy_url(policy_id: str) -> str:
    """The page of a policy."""
    return "/policy?" + urlencode({"id": policy_id})


def show_all(request: Request) -> Response:
    """The policies in force and in shadow."""
    console: Console = request.app.state.console
    with console.engine.connect() as connection:
        releases = connection.execute(
            select(policy_releases)
            .where(policy_releases.c.place != "replay")
            .order_by(policy_releases.c.policy_id, policy_releases.c.place)
        ).all()
        writes = request.scope["person"].may("edit")
        drafts = policy_drafts.of_person(connection, request.state.by) if writes else ()
    texts = {one.key: policy_text.read(one.document) for one in releases}
    return rendering.page(request, "policies.html", releases=releases, texts=texts, drafts=drafts)


def show(request: Request) -> Response:
    """One policy: its rules with their verdicts of this week and the week before, its text, and its history."""
    console: Console = request.app.state.console
    policy_id = asked(request, "id")
    with console.engine.connect() as connection:
        releases = connection.execute(
            select(policy_releases).where(policy_releases.c.policy_id == policy_id, policy_releases.c.place != "replay")
        ).all()
        changes = connection.execute(
            select(policy_changes).where(policy_changes.c.policy_id == policy_id).order_by(policy_changes.c.changed_at)
        ).all()
        if not releases and not changes:
            raise NotFoundError("No policy of this id was ever released.")
        since = now() - _WEEK
        at = verdict_rules.c.decided_at
        counts = connection.execute(
            select(
                verdict_rules.c.rule_id,
                func.sum(case((at >= since, 1), else_=0)).label("now"),
                func.sum(case((at < since, 1), else_=0)).label("before"),
            )
            .where(verdict_rules.c.policy_id == policy_id, at >= since - _WEEK)
            .group_by(verdict_rules.c.rule_id)
        ).all()
    in_force = next((one for one in releases if one.place == "in-force"), None)
    documents = [in_force.document] if in_force is not None else [one.document for one in changes if one.document][-1:]
    document = documents[0] if documents else ""
    return rendering.page(
        request,
        "policy.html",
        policy_id=policy_id,
        in_force=in_force,
        shadow=next((one for one in releases if one.place == "shadow"), None),
        text=policy_text.read(document),
        document=document,
        counts={one.rule_id: one for one in counts},
        history=list(reversed(list(_shown(changes)))),
        earlier=_has_earlier(changes, in_force),
        git=_git_state(console, policy_id, document if in_force is not None else None),
    )


def _has_earlier(changes: Sequence[Row[Any]], in_force: Row[Any] | None) -> bool:
    """Whether there is a release to return to."""
    released = [one.document for one in changes if one.document and one.action != "shadow"]
    return any(in_force is None or document != in_force.document for document in released)


def _git_state(console: Console, policy_id: str, document: str | None) -> GitState | None:
    """None where this console writes to no folder of policies."""
    if console.settings.console_policies is None:
        return None
    checkout, without = checkout_of(console.settings)
    if checkout is None:
        return GitState(None, without)
    try:
        in_git = checkout.look(policy_id)
    except CheckoutError as error:
        return GitState(None, str(error))
    if document is None or in_git.document == document:
        return GitState(in_git, in_git.obstacle)
    lines = list(difference(document, in_git.document or ""))
    return GitState(in_git, in_git.obstacle, lines or [DiffLine("kept", "…")])


def _shown(changes: Sequence[Row[Any]]) -> Iterator[Shown]:
    """Each change with the difference to the document before it. A shadow is compared, and replaces nothing."""
    before = ""
    for change in changes:
        document = change.document or ""
        lines = list(difference(before, document)) if document else []
        yield Shown(change, lines)
        if document and change.action != "shadow":
            before = document


def difference(before: str, after: str) -> Iterator[DiffLine]:
    """The lines that differ between two texts, with those around them; none where there was no text before."""
    if not before:
        return
    kinds = {"+": "added", "-": "removed", " ": "kept"}
    compared = difflib.unified_diff(before.splitlines(), after.splitlines(), n=_CONTEXT, lineterm="")
    for line in itertools.islice(compared, 2, None):  # after the names of the files
        yield DiffLine("kept", "…") if line.startswith("@@") else DiffLine(kinds[line[0]], line)


PAGES = (
    Page("policies", "GET", "/policies", "look", show_all),
    Page("policy", "GET", "/policy", "look", show),
)
