"""Starting a replay: a form, an estimate of its cost with a question, and the start, which happens once."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, get_args
from urllib.parse import urlencode

import msgspec
from sqlalchemy import Connection, func, select
from starlette.requests import Request
from starlette.responses import Response

from safeguard_streams.console.schema import policy_changes, policy_releases
from safeguard_streams.console.web import rendering, replay_work
from safeguard_streams.console.web.console import Console
from safeguard_streams.console.web.guard import NotFoundError, Page, RefusedError, back
from safeguard_streams.console.web.pages.replays import replay_url, run_key
from safeguard_streams.console.web.replay_steps import Wanted
from safeguard_streams.console.web.replay_work import Asked
from safeguard_streams.console.web.writing import asked, log_access, transaction
from safeguard_streams.contract.records import Decision, Replay, decode, encode, now
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.releases.people import checked
from safeguard_streams.runtime.durations import moment

_FRESH = timedelta(hours=1)
_KEY = re.compile(r"[0-9a-f]{32}")
_OUT_OF_DATE = "This form is out of date. Load the page once more, and repeat."
_IN_PLACE = {"in-force": "in force", "shadow": "in shadow"}


class Version(NamedTuple):
    """A released version of a policy. place: in force, in shadow, or when it was."""

    policy_id: str
    version: str
    place: str


def form(request: Request) -> Response:
    """What to judge again, and by which version."""
    console: Console = request.app.state.console
    with console.engine.connect() as connection:
        versions = _versions(connection)
    return rendering.page(
        request, "replay_start.html", versions=versions, decisions=get_args(Decision), key=uuid.uuid4().hex
    )


def _versions(connection: Connection) -> Sequence[Version]:
    """All versions that were released, by policy: those in force and in shadow first, then the newest."""
    has, was = policy_releases.c, policy_changes.c
    placed = connection.execute(
        select(has.policy_id, has.version, has.place).where(has.place.in_(_IN_PLACE)).order_by(has.policy_id, has.place)
    )
    found = {(one.policy_id, one.version): Version(one.policy_id, one.version, _IN_PLACE[one.place]) for one in placed}
    at = func.max(was.changed_at).label("at")
    older = connection.execute(
        select(was.policy_id, was.version, at)
        .where(was.document.is_not(None))
        .group_by(was.policy_id, was.version)
        .order_by(was.policy_id, at.desc())
    )
    for one in older:
        place = f"of {one.at:%Y-%m-%d %H:%M} UTC"
        found.setdefault((one.policy_id, one.version), Version(one.policy_id, one.version, place))
    return sorted(found.values(), key=lambda one: one.policy_id)


def estimate(request: Request) -> Response:
    """Begin to estimate what a replay would cost. A form that comes twice is one estimate."""
    console: Console = request.app.state.console
    key, wanted = asked(request, "key"), _wanted(request)
    if not _KEY.fullmatch(key):
        raise RefusedError(_OUT_OF_DATE)
    given = msgspec.to_builtins(wanted)
    with transaction(console.engine) as connection:
        if replay_work.begin(connection, Asked(key, "estimate", request.state.by, given=given)):
            about = {"version": wanted.version}
            log_access(connection, request, "estimate replay", wanted.policy_id, about)
    console.replay_workers.wake()
    return back(request, "/replays/estimate?" + urlencode({"key": key}))


def estimated(request: Request) -> Response:
    """The estimate, live until it is there, and the question whether to start."""
    console: Console = request.app.state.console
    with console.engine.connect() as connection:
        work = _estimate(connection, asked(request, "key"))
        run = replay_work.find(connection, run_key(work.result["replay_id"])) if work.result else None
    begun = run is not None and not run.error
    template = "replay_estimate_live.html" if rendering.is_partial(request) else "replay_estimate.html"
    return rendering.page(request, template, work=work, wanted=msgspec.convert(work.given, Wanted), begun=begun)


def start(request: Request) -> Response:
    """Start the replay that was estimated, once. Its id and its bounds are those of the estimate."""
    console: Console = request.app.state.console
    with transaction(console.engine) as connection:
        work = _estimate(connection, asked(request, "key"))
        if work.ended_at is None or not work.result:
            raise RefusedError("There is no estimate yet. Go back, and wait for it.")
        replay_id, by = work.result["replay_id"], request.state.by
        if now() - work.ended_at > _FRESH and replay_work.find(connection, run_key(replay_id)) is None:
            raise RefusedError("This estimate is too old: other versions may be in force now. Ask for a new one.")
        planned = msgspec.structs.replace(decode(work.result["replay"].encode(), Replay), created_by=by)
        given = {"replay": encode(planned).decode(), "estimate": work.key}
        if replay_work.begin(connection, Asked(run_key(replay_id), "run", by, replay_id, given=given)):
            log_access(connection, request, "start replay", replay_id, {"policy": work.given["policy_id"]})
    console.replay_workers.wake()
    return back(request, replay_url(replay_id))


def _estimate(connection: Connection, key: str) -> replay_work.Found:
    work = replay_work.find(connection, key)
    if work is None or work.kind != "estimate":
        raise NotFoundError("There is no such estimate.")
    return work


def _wanted(request: Request) -> Wanted:
    policy_id, _, version = asked(request, "release").rpartition("@")
    if not policy_id:
        raise RefusedError("Choose a policy and a version.")
    try:
        decisions = msgspec.convert(request.state.form.getlist("decision"), tuple[Decision, ...])
    except msgspec.ValidationError:
        raise RefusedError("Choose earlier decisions among violates, safe and undetermined.") from None
    person = checked(ChangedBy(asked(request, "why"), request.state.by))
    return Wanted(
        policy_id,
        version,
        person.why,
        since=_moment(request, "since"),
        until=_moment(request, "until"),
        first=_offset(request, "first"),
        last=_offset(request, "last"),
        sample=_share(request, "sample", 0.0001),
        noise=_share(request, "noise", 0.0),
        surfaces=_names(request, "surfaces"),
        languages=_names(request, "languages"),
        decisions=decisions,
        authors=_names(request, "authors"),
    )


def _moment(request: Request, name: str) -> datetime | None:
    text = asked(request, name).strip()
    return moment(text, name) if text else None


def _offset(request: Request, name: str) -> int | None:
    text = asked(request, name).strip()
    if text and not re.fullmatch(r"[0-9]{1,18}", text):
        raise RefusedError(f"{name}: write an offset, a whole number from 0.")
    return int(text) if text else None


def _share(request: Request, name: str, least: float) -> float:
    """A share that people write in percent."""
    try:
        share = float(asked(request, name)) / 100
    except ValueError:
        share = -1.0
    if not least <= share <= 1:
        raise RefusedError(f"{name}: write a share from {100 * least:g} to 100%.")
    return share


def _names(request: Request, name: str) -> tuple[str, ...]:
    return tuple(one for one in (part.strip() for part in asked(request, name).split(",")) if one)


PAGES = (
    Page("replay_form", "GET", "/replays/new", "replay", form),
    Page("replay_estimate", "POST", "/replays/estimate", "replay", estimate),
    Page("replay_estimated", "GET", "/replays/estimate", "replay", estimated),
    Page("replay_start", "POST", "/replays/start", "replay", start),
)
