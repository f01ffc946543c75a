"""What `safeguard replay` prints about the state of replays, about plans and about estimates."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from safeguard_streams.cli.output import Table, console, say
from safeguard_streams.contract.records import Replay, Replayed, in_utc
from safeguard_streams.replay import estimate_text
from safeguard_streams.replay.promotion import LEFT_OUT, Prepared, PromotionPlan
from safeguard_streams.replay.status import ReplayStatus
from safeguard_streams.runtime.counts import counted

if TYPE_CHECKING:
    from safeguard_streams.replay.estimate import Estimate


def as_json(status: ReplayStatus) -> dict[str, Any]:
    """A replay for programs."""
    replay, counts = status.replay, status.counts
    return {
        "replay_id": replay.replay_id,
        "state": status.state,
        "policies": [
            {"policy_id": one.policy_id, "version": one.version, "before_version": one.before_version}
            for one in replay.policies
        ],
        "events": replay.total,
        "read": status.read,
        "items": status.items,
        "unreadable": status.unreadable,
        "escalated": counts.escalated,
        "judged": counts.judged,
        "failed": counts.failed,
        "created_at": replay.created_at,
        "created_by": replay.created_by,
        "why": replay.why,
        "sample": replay.sample,
        "noise": replay.noise,
        "surfaces": replay.surfaces,
        "languages": replay.languages,
        "authors": replay.authors,
        "decisions": replay.decisions,
        "publications": msgspec.to_builtins(replay.publications),
    }


def _progress(status: ReplayStatus) -> str:
    counts = status.counts
    if status.replay.escalated_at is None:
        return f"{status.read:,} of {status.replay.total:,} read"
    return f"{counts.judged:,} of {counts.escalated:,} judged"


def show_list(statuses: Sequence[ReplayStatus]) -> None:
    """All replays, one row for each policy."""
    if not statuses:
        say("no replays; start one with: safeguard replay start POLICY")
        return
    table = Table(box=None)
    for name in ("replay", "state", "progress"):
        table.add_column(name, no_wrap=True)
    table.add_column("policies")
    for status in statuses:
        first, *others = (f"{one.policy_id} {one.version}" for one in status.replay.policies)
        table.add_row(status.replay.replay_id, status.state, _progress(status), first)
        for other in others:
            table.add_row("", "", "", other)
    console().print(table)


def show(status: ReplayStatus) -> None:
    """One replay in full."""
    replay, counts = status.replay, status.counts
    table = Table(box=None, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    table.add_row("replay", replay.replay_id)
    table.add_row("state", f"{status.state}: {_progress(status)}" + _failed(status))
    for one in replay.policies:
        before = f", compared with {one.before_version}" if one.before_version else ", not in force before"
        table.add_row("policy", f"{one.policy_id} {one.version}{before}")
    unreadable = f"; dead letters: {status.unreadable:,}" if status.unreadable else ""
    table.add_row("events", f"{status.read:,} of {replay.total:,} read; covered: {status.items:,}{unreadable}")
    table.add_row("escalated", f"{counted(counts.escalated, 'judgement')}, both versions together")
    table.add_row("selection", _selection(replay))
    table.add_row("started", _by(replay.created_at, replay.created_by, replay.why))
    for publication in replay.publications:
        done = "promoted" if publication.direction == "promote" else "reverted"
        what = f"({publication.policy_id}, {counted(publication.verdicts, 'verdict')})"
        table.add_row(done, f"{_by(publication.at, publication.by, publication.why)} {what}")
    console().print(table)


def _failed(status: ReplayStatus) -> str:
    failed = status.counts.failed
    return f", {failed:,} in the dead letters" if failed else ""


def _selection(replay: Replay) -> str:
    kinds = (
        *(("surface", replay.surfaces), ("language", replay.languages)),
        *(("author", replay.authors), ("decision", replay.decisions)),
    )
    chosen = [f"{kind} {', '.join(names)}" for kind, names in kinds if names]
    return "; ".join([f"{100 * replay.sample:.4g}% of the content", f"noise {100 * replay.noise:.4g}%", *chosen])


def _by(at: datetime, by: str, why: str) -> str:
    return f"{in_utc(at):%Y-%m-%d %H:%M:%S} UTC by {by}" + (f": {why}" if why else "")


def show_outcome(status: ReplayStatus, *, waited: bool = False) -> None:
    """What a replay is doing now, and which command comes next. waited: the command was to wait until it is judged."""
    name = status.replay.replay_id
    doing, following = {
        "escalating": ("is stopped", f"continue with: safeguard replay resume {name}"),
        "judging": (
            "goes on without this command" if waited else "is being judged",
            f"follow it with: safeguard replay show {name} --wait",
        ),
        "paused": ("is paused", f"continue with: safeguard replay resume {name}"),
        "judged": ("is judged", f"compare with: safeguard replay diff {name}"),
    }.get(status.state, (f"is {status.state}", ""))
    say(f"replay {name} {doing}: {_progress(status)}{_failed(status)}")
    if following:
        say(following)


def show_plan(prepared: Prepared) -> None:
    """The numbers of a promotion or a reversion, on standard error."""
    for name, count in prepared.figures.items():
        say(f"{name}: {count:,}", error=True)


def plan_as_json(plan: PromotionPlan, replay: Replay, policy: Replayed) -> dict[str, Any]:
    """A plan for programs."""
    return {
        "replay_id": replay.replay_id,
        "policy_id": policy.policy_id,
        "direction": plan.direction,
        "to_violates": plan.count("violates"),
        "to_safe": plan.count("safe"),
        "to_undetermined": plan.count("undetermined"),
        "compared": plan.compared,
        "planned": len(plan.changes),
        "left_out": {outcome: plan.outcomes.get(outcome, 0) for outcome in LEFT_OUT},
    }


def show_written(plan: PromotionPlan, written: int) -> None:
    """What a promotion or a reversion has written."""
    if not plan.changes:
        say("there is nothing to write")
        return
    say(f"wrote {counted(written, 'superseding verdict')} to moderation.verdicts")
    if written < len(plan.changes):
        left = counted(len(plan.changes) - written, "content item as it is: it", "content items as they are: they")
        say(f"left {left} changed since the numbers above")


def show_estimate(estimate: Estimate, background_share: float) -> None:
    """An estimate and what it was computed from, on standard error."""
    table = Table(box=None, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for row in estimate_text.rows(estimate, background_share):
        table.add_row(*row)
    console(stderr=True).print(table)
