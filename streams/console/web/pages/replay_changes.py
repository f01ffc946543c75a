"""What people do about a replay: pause, resume and cancel it, compare its verdicts, promote them, and take them back.

Each is done by the same functions as the commands `safeguard replay`. A request that comes twice is done once: a state
is left as it is where it is the wanted one, and a plan is published under its own id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode

import msgspec
from sqlalchemy import Connection, Row, select
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from safeguard_streams.console import native
from safeguard_streams.console.schema import replays
from safeguard_streams.console.web import rendering, replay_work
from safeguard_streams.console.web.console import Console
from safeguard_streams.console.web.guard import NotFoundError, Page, RefusedError, back
from safeguard_streams.console.web.pages.replays import compare_key, replay_url, run_key
from safeguard_streams.console.web.replay_work import Asked
from safeguard_streams.console.web.writing import asked, log_access, logged, transaction
from safeguard_streams.contract.records import Direction, Replay
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.releases.people import checked
from safeguard_streams.replay import jobs, promotion, status
from safeguard_streams.runtime.settings import Settings

T = TypeVar("T")
_OUT_OF_DATE = "These numbers are out of date. Look at the new ones, and decide."


class Change(NamedTuple):
    """What somebody may do to a replay: the function, the states that it leads to, and the message then."""

    function: Callable[[Settings, Replay], Awaitable[Replay]]
    states: tuple[str, ...]
    said: str


_CHANGES = {
    "pause": Change(
        jobs.pause, ("paused",), "The replay is paused. No further item is escalated or begins to be judged."
    ),
    "resume": Change(jobs.resume, ("running", "escalated"), "The replay goes on."),
    "cancel": Change(jobs.cancel, ("cancelled",), "The replay is cancelled, for good."),
}


async def change(request: Request) -> Response:
    """Pause, resume or cancel a replay. One that is running and that no process escalates goes on here."""
    console: Console = request.app.state.console
    replay_id, wanted = asked(request, "id"), asked(request, "change")
    if wanted not in _CHANGES:
        raise RefusedError("Choose what to do: pause, resume or cancel.")
    chosen = _CHANGES[wanted]

    async def work() -> Replay:
        replay = await jobs.find(console.settings, replay_id)
        if replay.replay_id != replay_id:
            raise NotFoundError("There is no replay of this id.")
        if replay.state in chosen.states:
            return replay
        changed = (await status.change(console.settings, replay_id, chosen.function)).replay
        logged(request, f"{wanted} replay", replay_id)
        return changed

    replay = await _apart(work())
    if replay.state == "running":
        await run_in_threadpool(_run, request, replay_id)
    return back(request, replay_url(replay_id), chosen.said)


async def _apart(work: Coroutine[Any, Any, T]) -> T:
    """Wait for work in a thread with a loop of its own: reading all records of a replay would keep pages waiting."""
    return await run_in_threadpool(asyncio.run, work)


def _run(request: Request, replay_id: str) -> None:
    console: Console = request.app.state.console
    with transaction(console.engine) as connection:
        replay_work.begin(connection, Asked(run_key(replay_id), "run", request.state.by, replay_id), again=True)
    console.replay_workers.wake()


def compare(request: Request) -> Response:
    """Begin to compare a replay's verdicts under a policy with those before."""
    console: Console = request.app.state.console
    replay_id, policy_id = asked(request, "id"), asked(request, "policy")
    with transaction(console.engine) as connection:
        _require(connection, replay_id, policy_id)
        wanted = Asked(compare_key(replay_id, policy_id), "compare", request.state.by, replay_id, policy_id)
        if replay_work.begin(connection, wanted, again=True):
            log_access(connection, request, "compare replay", replay_id, {"policy": policy_id})
    console.replay_workers.wake()
    return back(request, replay_url(replay_id))


def plan(request: Request) -> Response:
    """Begin to count what a promotion or a reversion would write."""
    console: Console = request.app.state.console
    replay_id, policy_id, direction = _asked(request)
    with transaction(console.engine) as connection:
        _require(connection, replay_id, policy_id)
        native.alone(connection, run_key(replay_id))  # nobody publishes the numbers that this replaces
        key, given = _plan_key(replay_id, policy_id, direction), {"direction": direction}
        wanted = Asked(key, "plan", request.state.by, replay_id, policy_id, given)
        replay_work.begin(connection, wanted, again=True)
    console.replay_workers.wake()
    return back(request, _plan_url(replay_id, policy_id, direction))


def planned(request: Request) -> Response:
    """What would be written, live until it is counted, with the question whether to; then how far the writing is."""
    console: Console = request.app.state.console
    replay_id, policy_id, direction = _asked(request)
    with console.engine.connect() as connection:
        replay = _require(connection, replay_id, policy_id)
        work = replay_work.find(connection, _plan_key(replay_id, policy_id, direction))
        shown = work.result if work is not None and work.ended_at is not None and not work.error else None
        published = replay_work.find(connection, _publish_key(shown["plan"])) if shown else None
    return rendering.page(
        request,
        "replay_plan_live.html" if rendering.is_partial(request) else "replay_plan.html",
        replay=replay,
        policy_id=policy_id,
        direction=direction,
        work=work,
        plan=shown,
        published=published,
        budget=100 * promotion.BUDGET,
    )


def publish(request: Request) -> Response:
    """Begin to write what a plan showed, once."""
    console: Console = request.app.state.console
    replay_id, policy_id, direction = _asked(request)
    why = checked(ChangedBy(asked(request, "why"), request.state.by)).why
    budget = _budget(request) if direction == "promote" else None
    key = _publish_key(asked(request, "plan"))
    with transaction(console.engine) as connection:
        _require(connection, replay_id, policy_id)
        native.alone(connection, run_key(replay_id))
        of, begun = key, replay_work.find(connection, key)
        if begun is not None and _of(begun) != (replay_id, policy_id, direction):
            raise RefusedError(_OUT_OF_DATE)
        if begun is None:
            of = _plan_key(replay_id, policy_id, direction)
            _check_plan(replay_work.find(connection, of), asked(request, "plan"), budget)
            if replay_work.under_way(connection, replay_id, "publish"):
                raise RefusedError("Verdicts of this replay are being written. Wait until that is done.")
        given = {"direction": direction, "why": why, "budget": budget}
        shown = replay_work.judgements(connection, of)
        wanted = Asked(key, "publish", request.state.by, replay_id, policy_id, given, shown)
        if replay_work.begin(connection, wanted):
            about = {"policy": policy_id, "verdicts": len(shown)}
            log_access(connection, request, f"{direction} replay", replay_id, about)
    console.replay_workers.wake()
    return back(request, _plan_url(replay_id, policy_id, direction))


def _check_plan(work: Row[Any] | None, plan_id: str, budget: float | None) -> None:
    """Refuse to publish anything but what was shown, and more than the budget allows."""
    if work is None or work.ended_at is None or not work.result or work.result["plan"] != plan_id:
        raise RefusedError(_OUT_OF_DATE)
    share = work.result["share"]["value"]
    if budget is not None and share is not None and share > budget:
        raise RefusedError(
            f"{share:.1%} of the compared items would flip, more than the budget of {budget:.1%}. Look at what the "
            "replay changes, and raise the budget if this is intended."
        )


def _of(work: Row[Any]) -> tuple[str, str, Direction]:
    return work.replay_id, work.policy_id, work.given["direction"]


def _budget(request: Request) -> float:
    try:
        budget = float(asked(request, "budget")) / 100
    except ValueError:
        budget = -1.0
    if not 0 <= budget <= 1:
        raise RefusedError("Write the budget as a share from 0 to 100%.")
    return budget


def _asked(request: Request) -> tuple[str, str, Direction]:
    try:
        direction: Direction = msgspec.convert(asked(request, "direction"), Direction)
    except msgspec.ValidationError:
        raise RefusedError("Choose what to do: promote or revert.") from None
    return asked(request, "id"), asked(request, "policy"), direction


def _plan_key(replay_id: str, policy_id: str, direction: Direction) -> str:
    return f"plan {direction} {replay_id} {policy_id}"


def _publish_key(plan_id: str) -> str:
    return f"publish {plan_id}"


def _plan_url(replay_id: str, policy_id: str, direction: Direction) -> str:
    return "/replay/plan?" + urlencode({"id": replay_id, "policy": policy_id, "direction": direction})


def _require(connection: Connection, replay_id: str, policy_id: str) -> Row[Any]:
    """A replay that has a policy. Raises NotFoundError where there is none."""
    found = connection.execute(select(replays).where(replays.c.replay_id == replay_id)).first()
    if found is None or policy_id not in {one["policy_id"] for one in found.policies}:
        raise NotFoundError("There is no replay of this id with this policy.")
    return found


PAGES = (
    Page("replay_change", "POST", "/replay/change", "replay", change),
    Page("replay_compare", "POST", "/replay/compare", "replay", compare),
    Page("replay_plan", "POST", "/replay/plan", "promote", plan),
    Page("replay_planned", "GET", "/replay/plan", "promote", planned),
    Page("replay_publish", "POST", "/replay/publish", "promote", publish),
)
