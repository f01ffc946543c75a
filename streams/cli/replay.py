"""safeguard replay."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated

import msgspec
import orjson
import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from safeguard_streams.bus import kafka
from safeguard_streams.cli.options import (
    Bootstrap,
    By,
    Json,
    Library,
    Why,
    changed_by,
    fit_for_release,
    needs_extra,
    show_rows,
)
from safeguard_streams.cli.output import console, say
from safeguard_streams.cli.reading import shown_reading
from safeguard_streams.contract.records import Decision, Replay, ReplayState
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.files import LIBRARY
from safeguard_streams.releases import model_notice
from safeguard_streams.replay import jobs, promotion
from safeguard_streams.replay.promotion import Direction
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.durations import moment
from safeguard_streams.runtime.process import Stop, configure_logging

app = typer.Typer(no_args_is_help=True, help="Replays: judge past content again by another version of a policy.")

ReplayId = Annotated[str, typer.Argument(metavar="REPLAY", help="Id of a replay, or its first characters.")]
PolicyOption = Annotated[str | None, typer.Option("--policy", help="Policy of the replay; required if it has several.")]


def _decisions(given: list[str]) -> tuple[Decision, ...]:
    try:
        return msgspec.convert(given, tuple[Decision, ...])
    except msgspec.ValidationError:
        raise ConfigurationError(f"--decision: violates, safe or undetermined, not {', '.join(given)}") from None


@app.command("start")
def start(
    policies: Annotated[
        list[str],
        typer.Argument(metavar="POLICY...", help="Policies to judge by: ids in the library, or policy.md files."),
    ],
    library: Library = LIBRARY,
    since: Annotated[
        str | None,
        typer.Option(help="Start at events written at this time: 2026-01-31T12:00:00Z, or 7d for seven days ago."),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Stop before events written at this time.")] = None,
    first: Annotated[int | None, typer.Option(min=0, help="First offset to replay in each partition.")] = None,
    last: Annotated[int | None, typer.Option(min=0, help="Last offset to replay in each partition.")] = None,
    sample: Annotated[
        float, typer.Option(min=0.0001, max=1.0, help="Share of content to replay, drawn by a hash of its id.")
    ] = 1.0,
    noise: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Share of replayed content that the version in force judges again, to measure the noise floor.",
        ),
    ] = 0.1,
    surface: Annotated[list[str] | None, typer.Option(help="Only content of this surface; repeatable.")] = None,
    language: Annotated[list[str] | None, typer.Option(help="Only content in this language; repeatable.")] = None,
    decision: Annotated[
        list[str] | None,
        typer.Option(help="Only content with this earlier decision: violates, safe or undetermined; repeatable."),
    ] = None,
    why: Why = "",
    by: By = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Judge past content by another version of a policy. The replay covers everything that this version or the one in
    force escalates. Its verdicts go to moderation.replays, which enforcement never reads.

    The end is fixed at the start. After Ctrl-C or a crash, continue with: safeguard replay resume.
    """
    requested = fit_for_release(policies, library)
    current = settings.load(bootstrap=bootstrap)
    request = jobs.ReplayRequest(
        policies=requested,
        since=moment(since, "--since") if since else None,
        until=moment(until, "--until") if until else None,
        first=first,
        last=last,
        sample=sample,
        noise=noise,
        surfaces=tuple(surface or ()),
        languages=tuple(language or ()),
        decisions=_decisions(decision or []),
    )

    async def create() -> Replay:
        await kafka.wait_for_broker(current, timeout=10)
        if notice := await model_notice.unlearned(current, requested):
            say(notice, error=True)
        return await jobs.create(current, request, changed_by(why, by))

    _run(current, asyncio.run(create()), as_json=as_json)


def _run(current: settings.Settings, replay: Replay, *, as_json: bool) -> None:
    """Run a replay with a progress bar until it ends or is stopped."""
    try:
        from safeguard_streams.prefilter.classifier import SHIPPED, Classifier
        from safeguard_streams.replay import runner
    except ImportError as error:
        raise needs_extra(error, "prefilter") from error
    configure_logging("WARNING")
    out = console(stderr=True)
    versions = ", ".join(f"{one.policy_id} {one.version}" for one in replay.policies)
    say(f"replay {replay.replay_id}: {replay.total:,} events under {versions}", error=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())

    async def work() -> str:
        with Stop() as stop, Progress(*columns, console=out) as progress:
            task = progress.add_task("escalating", total=replay.total)
            started, first = time.monotonic(), -1

            def on_progress(done: int) -> None:
                nonlocal first
                first = done if first < 0 else first
                rate = (done - first) / max(0.1, time.monotonic() - started)
                progress.update(task, completed=done, description=f"escalating, {rate:,.0f} events/s")

            classifier = Classifier(current.prefilter_model or SHIPPED)
            return await runner.run(current, replay, classifier, stop.event, on_progress)

    state = asyncio.run(work())
    if as_json:
        print(orjson.dumps({"replay_id": replay.replay_id, "state": state, "events": replay.total}).decode())
    elif state == "running":
        say(f"replay {replay.replay_id} stopped; continue with: safeguard replay resume {replay.replay_id}")
    else:
        say(f"replay {replay.replay_id} is {state}; see: safeguard replay status {replay.replay_id}")


@app.command("status")
def status(
    replay_id: Annotated[str | None, typer.Argument(metavar="[REPLAY]", help="Only this replay.")] = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Show the progress of replays: events read, escalated and judged."""
    with shown_reading():
        statuses = asyncio.run(jobs.statuses(settings.load(bootstrap=bootstrap), replay_id))
    rows = [
        {
            "replay": replay.replay_id,
            "state": replay.state,
            "policies": ", ".join(f"{one.policy_id} {one.version}" for one in replay.policies),
            "read": read,
            "of": replay.total,
            "escalated": counts.escalated,
            "judged": counts.judged,
            "by": replay.created_by,
            "why": replay.why,
        }
        for replay, read, counts in statuses
    ]
    show_rows(rows, "no replays", as_json=as_json)


@app.command("diff")
def diff(
    replay_id: ReplayId,
    policy: PolicyOption = None,
    parquet: Annotated[
        Path | None,
        typer.Option(help="Also write one row for each compared item to this file: ids, decisions, rules, no texts."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Also write a page with charts to this file, for decision makers.")
    ] = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Show what a replay changes: flips each way and the noise floor, by rule and language, with examples and cost.
    Users who may read moderation.rationales (auditors) also see the examples' rationales.
    """
    try:
        from safeguard_streams.cli import replay_tables
        from safeguard_streams.replay import diff, page
    except ImportError as error:
        raise needs_extra(error, "all-cpu") from error
    current = settings.load(bootstrap=bootstrap)

    async def work() -> tuple[Replay, diff.Diff]:
        replay = await jobs.find(current, replay_id)
        return replay, await diff.compute(current, replay, jobs.policy_of(replay, policy), parquet)

    with shown_reading() as reading:
        replay, result = asyncio.run(work())
    if html is not None:
        html.write_text(page.render(result, replay), encoding="utf-8")
    if as_json:
        print(orjson.dumps({**msgspec.to_builtins(result), "left_out": reading.left_out.total()}).decode())
        return
    replay_tables.show_diff(result)


@app.command("promote")
def promote(
    replay_id: ReplayId,
    policy: PolicyOption = None,
    budget: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Refuse if more than this share of the compared items flips.")
    ] = 0.05,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Publish a replay's changed decisions: one verdict on moderation.verdicts for each flip, which supersedes the one
    before. Shows the numbers and asks for confirmation. Undo with: safeguard replay revert.
    """
    _publish(replay_id, policy, "promote", budget, bootstrap, yes=yes)


@app.command("revert")
def revert(
    replay_id: ReplayId,
    policy: PolicyOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Undo a promotion: supersede each promoted verdict by the one that stood before it. Content that was judged again
    since then keeps its newer verdict.
    """
    _publish(replay_id, policy, "revert", None, bootstrap, yes=yes)


def _publish(
    replay_id: str, policy: str | None, direction: Direction, budget: float | None, bootstrap: str | None, *, yes: bool
) -> None:
    """Preview, confirm and write the superseding verdicts of a replay."""
    current = settings.load(bootstrap=bootstrap)
    replay = asyncio.run(jobs.find(current, replay_id))
    if replay.state != "escalated":
        raise ConfigurationError(f"replay {replay.replay_id} is {replay.state}: wait until it ends")
    chosen = jobs.policy_of(replay, policy)
    with shown_reading():
        plan = asyncio.run(promotion.plan(current, replay, chosen, direction))
    say(f"content items that become violating: {plan.count('violates'):,}")
    say(f"content items that become safe: {plan.count('safe'):,}")
    say(f"content items compared: {plan.compared:,}")
    if not plan.changes:
        print("there is nothing to write")
        return
    flips = plan.share.value
    if budget is not None and flips is not None and flips > budget:
        raise ConfigurationError(
            f"{flips:.1%} of the compared items would flip, more than the budget of {budget:.1%}: check "
            f"safeguard replay diff {replay.replay_id}, and raise --budget if this is intended"
        )
    verb = "publish" if direction == "promote" else "take back"
    if not yes and not typer.confirm(f"{verb} {len(plan.changes):,} verdicts under {chosen.policy_id}?"):
        raise typer.Exit(1)
    with Progress(TextColumn("writing"), BarColumn(), TaskProgressColumn(), console=console(stderr=True)) as progress:
        task = progress.add_task("", total=len(plan.changes))

        def on_progress(done: int, of: int) -> None:
            progress.update(task, completed=done, total=of)

        written = asyncio.run(promotion.publish(current, replay, chosen, plan, direction, on_progress))
    say(f"wrote {written:,} superseding verdicts to moderation.verdicts")
    if written < len(plan.changes):
        say(f"left {len(plan.changes) - written:,} content items as they are: they changed since the numbers above")


@app.command("pause")
def pause(replay_id: ReplayId, bootstrap: Bootstrap = None) -> None:
    """Pause a replay, whichever process runs it. Content that is already escalated will still be judged."""
    _set_state(replay_id, "paused", bootstrap)


@app.command("cancel")
def cancel(replay_id: ReplayId, bootstrap: Bootstrap = None) -> None:
    """End a replay permanently. Waiting escalations get undetermined verdicts without a call to the model."""
    _set_state(replay_id, "cancelled", bootstrap)


def _set_state(replay_id: str, state: ReplayState, bootstrap: str | None) -> None:
    replay = asyncio.run(_change(settings.load(bootstrap=bootstrap), replay_id, state))
    say(f"replay {replay.replay_id} is {state}")


async def _change(current: settings.Settings, replay_id: str, state: ReplayState) -> Replay:
    return await jobs.set_state(current, await jobs.find(current, replay_id), state)


@app.command("resume")
def resume(replay_id: ReplayId, bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """Resume a replay that was paused, stopped or killed, from its last commit."""
    current = settings.load(bootstrap=bootstrap)
    _run(current, asyncio.run(_change(current, replay_id, "running")), as_json=as_json)
