"""What `safeguard replay` prints about the state of replays, about plans and about estimates."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from safeguard_streams.cli.output import Table, console, say
from safeguard_streams.contract.records import Replay, Replayed
from safeguard_streams.replay.pairs import Outcome
from safeguard_streams.replay.promotion import PromotionPlan
from safeguard_streams.replay.status import ReplayStatus
from safeguard_streams.runtime.counts import counted

if TYPE_CHECKING:
    from safeguard_streams.replay.estimate import Estimate, JudgementCost, Source

LEFT_OUT: dict[Outcome, str] = {
    "edited": "because a newer text was judged or cleared since",
    "judged_since": "because of a newer verdict",
    "undetermined": "because the replay reached no decision",
    "unknown": "because the earlier verdict no longer exists",
    "erased": "because of an erasure",
}
_UNITS = ((86_400, "days"), (3600, "h"), (60, "min"), (1, "s"))


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
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC by {by}" + (f": {why}" if why else "")


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


def not_publishable(replay: Replay) -> str:
    """Why a replay's verdicts cannot be promoted or reverted, and what to do."""
    name = replay.replay_id
    if replay.state == "cancelled":
        return f"replay {name} is cancelled: start another one"
    if replay.state == "paused":
        return f"replay {name} is paused: resume it first, with: safeguard replay resume {name}"
    return f"replay {name} is escalating: wait until it ends, or continue it with: safeguard replay resume {name}"


def show_plan(plan: PromotionPlan, status: ReplayStatus) -> None:
    """The numbers of a promotion or a reversion, on standard error."""
    again = "" if plan.direction == "promote" else " again"
    lines = {
        f"content items that become violating{again}": plan.count("violates"),
        f"content items that become safe{again}": plan.count("safe"),
    }
    if plan.direction == "promote":
        lines["content items compared"] = plan.compared
        lines |= {f"left out, {why}": plan.outcomes.get(outcome, 0) for outcome, why in LEFT_OUT.items()}
        lines["judgements still to come, to be promoted later"] = status.counts.escalated - status.counts.done
    else:
        lines["content items that become undetermined again"] = plan.count("undetermined")
        lines["content items that were promoted"] = plan.compared
        lines["of these, reverted already or judged again since"] = plan.compared - len(plan.changes)
    for name, count in lines.items():
        if count or not name.startswith("left out"):
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
    rows = [
        ("events", f"{estimate.events:,} between the bounds"),
        ("judgements", f"about {estimate.judgements:,}, {_per_event(estimate)}"),
    ]
    cost = estimate.cost
    if cost is None:
        rows.append(("cost", "unknown: moderation.verdicts holds no judgement to measure"))
    else:
        alone = estimate.gpu_seconds or 0.0
        beside = f", {_span(alone / background_share)} beside live content" if background_share else ""
        rows += [
            (
                "tokens",
                f"about {estimate.prompt_tokens or 0:,} in prompts and {estimate.completion_tokens or 0:,} written",
            ),
            ("GPU time", f"about {_span(alone)} of {_workers(cost)}{beside}"),
        ]
    rows.append(("from", _basis(estimate)))
    table = Table(box=None, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for row in rows:
        table.add_row(*row)
    console(stderr=True).print(table)


_CONCURRENCY: dict[Source, str] = {
    "settings": "SAFEGUARD_MAX_IN_FLIGHT here",
    "measured": "the most at one moment on all busy workers",
    "default": "assumed: the default of one worker",
}


def _per_event(estimate: Estimate) -> str:
    return f"{estimate.escalated:.3g} per event, both versions together"


def _workers(cost: JudgementCost) -> str:
    return "all reasoning workers" if cost.source == "measured" else "one reasoning worker"


def _basis(estimate: Estimate) -> str:
    parts = [f"the gates on {estimate.looked_at:,} of the events"]
    cost = estimate.cost
    if cost is not None:
        parts += [
            f"the newest {counted(cost.measured, 'judgement')} under {', '.join(cost.policies)}",
            f"{cost.prompt_tokens:,.0f} + {cost.completion_tokens:,.0f} tokens and {cost.seconds:.2f} s for each",
            f"{counted(cost.concurrency, 'judgement')} at a time ({_CONCURRENCY[cost.source]})",
        ]
    return "; ".join(parts)


def _span(seconds: float) -> str:
    """A duration in its largest unit that it fills twice."""
    unit, name = next((one for one in _UNITS if seconds >= 2 * one[0]), _UNITS[-1])
    return f"{seconds / unit:,.0f} {name}"
