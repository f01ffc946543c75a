"""safeguard replay."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import orjson
import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from safeguard_streams.bus import kafka
from safeguard_streams.cli import replay_status
from safeguard_streams.cli.options import (
    Bootstrap,
    By,
    Json,
    Library,
    Why,
    changed_by,
    extra,
    fit_for_release,
)
from safeguard_streams.cli.output import console, say
from safeguard_streams.cli.reading import shown_reading
from safeguard_streams.cli.texts import Texts
from safeguard_streams.contract.records import Decision, Direction, Replay
from safeguard_streams.errors import ConfigurationError, SafeguardError
from safeguard_streams.policies.files import LIBRARY
from safeguard_streams.releases import model_notice
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.replay import jobs, promotion
from safeguard_streams.replay import status as following
from safeguard_streams.replay.promotion import Prepared
from safeguard_streams.replay.status import ReplayStatus
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.counts import counted
from safeguard_streams.runtime.durations import moment
from safeguard_streams.runtime.process import Stop, configure_logging

if TYPE_CHECKING:
    from safeguard_streams.prefilter.classifier import Classifier
    from safeguard_streams.replay.estimate import Estimate

app = typer.Typer(no_args_is_help=True, help="Replays: judge past content again by another version of a policy.")

T = TypeVar("T")
ReplayId = Annotated[str, typer.Argument(metavar="REPLAY", help="Id of a replay, or its first characters.")]
PolicyOption = Annotated[str | None, typer.Option("--policy", help="Policy of the replay; required if it has several.")]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait until all is judged. Ctrl-C ends the wait, and judging goes on.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Skip the confirmation.")]


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
    surface: Annotated[
        list[str] | None, typer.Option(help="Only content of this surface, whatever its case; repeatable.")
    ] = None,
    language: Annotated[list[str] | None, typer.Option(help="Only content in this language; repeatable.")] = None,
    author: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Only content of this author; repeatable.")
    ] = None,
    decision: Annotated[
        list[str] | None,
        typer.Option(help="Only content with this earlier decision: violates, safe or undetermined; repeatable."),
    ] = None,
    why: Why = "",
    by: By = None,
    wait: Wait = False,
    yes: Yes = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Judge past content by another version of a policy. The replay covers everything that this version or the one in
    force escalates. Its verdicts go to moderation.replays, which enforcement never reads.

    Shows an estimate of the judgements, their tokens and their time, and asks for confirmation. The end is fixed at the
    start. After Ctrl-C or a crash, continue with: safeguard replay resume.
    """
    decisions = _decisions(decision or [])
    bounds = moment(since, "--since") if since else None, moment(until, "--until") if until else None
    requested = fit_for_release(policies, library)
    current = settings.load(bootstrap=bootstrap)
    request = jobs.ReplayRequest(
        policies=requested,
        since=bounds[0],
        until=bounds[1],
        first=first,
        last=last,
        sample=sample,
        noise=noise,
        surfaces=tuple(surface or ()),
        languages=tuple(language or ()),
        decisions=decisions,
        authors=tuple(author or ()),
    )
    classifier = _classifier(current)

    async def plan() -> tuple[Replay, Estimate]:
        from safeguard_streams.replay import estimate

        if notice := await model_notice.unlearned(current, requested):
            say(notice, error=True)
        return await estimate.plan(current, request, changed_by(why, by), classifier)

    with shown_reading():
        replay, estimated = _run_async(current, plan())
    replay_status.show_estimate(estimated, current.background_share)
    if not yes and not typer.confirm("start the replay?", err=True):
        raise typer.Exit(1)
    asyncio.run(jobs.create(current, replay))
    _run(current, replay, classifier, wait=wait, as_json=as_json, more={"estimate": msgspec.to_builtins(estimated)})


def _run_async(current: settings.Settings, work: Coroutine[Any, Any, T]) -> T:
    """Do the first work of a command on a broker. Raises BusError soon if none answers."""

    async def connected() -> T:
        try:
            await kafka.wait_for_broker(current, timeout=kafka.COMMAND_SECONDS)
        except SafeguardError:
            work.close()
            raise
        return await work

    return asyncio.run(connected())


def _classifier(current: settings.Settings) -> Classifier:
    """The prefilter's model. Raises ConfigurationError where its libraries are not installed."""
    with extra("prefilter"):
        from safeguard_streams.prefilter.classifier import SHIPPED, Classifier
    configure_logging("WARNING")
    return Classifier(current.prefilter_model or SHIPPED)


def _run(
    current: settings.Settings,
    replay: Replay,
    classifier: Classifier | None,
    *,
    wait: bool,
    as_json: bool,
    more: dict[str, Any] | None = None,
) -> None:
    """Run a replay with a progress bar until its items are escalated or, with wait, judged. Then show what it is doing.

    classifier: None where no item is left to escalate. more: further keys of the JSON. Exits with status 1 if it was to
    wait and the replay is not judged.
    """
    versions = ", ".join(f"{one.policy_id} {one.version}" for one in replay.policies)
    say(f"replay {replay.replay_id}: {counted(replay.total, 'event')} under {versions}", error=True)

    async def work() -> ReplayStatus:
        with Stop() as stop, _progress() as bar:
            if classifier is not None:
                await _escalate(current, replay, classifier, stop.event, bar)
            if wait and not stop.event.is_set():
                return await _follow(current, replay, stop.event, bar)
        with kafka.watched(kafka.Reading()):
            return (await following.statuses(current, replay.replay_id))[0]

    status = asyncio.run(work())
    if as_json:
        print(orjson.dumps({**replay_status.as_json(status), **(more or {})}).decode())
    else:
        replay_status.show_outcome(status, waited=wait)
    if wait and status.state not in following.JUDGED:
        raise typer.Exit(1)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console(stderr=True))


async def _escalate(
    current: settings.Settings, replay: Replay, classifier: Classifier, stop: asyncio.Event, bar: Progress
) -> None:
    from safeguard_streams.replay import runner

    task = bar.add_task("escalating", total=replay.total)
    await runner.run(current, replay, classifier, stop, lambda done: bar.update(task, completed=done))


async def _follow(current: settings.Settings, replay: Replay, stop: asyncio.Event, bar: Progress) -> ReplayStatus:
    say(f"waiting until replay {replay.replay_id} is judged; Ctrl-C ends the wait, and judging goes on", error=True)
    task = bar.add_task("judging", total=None)

    def show(status: ReplayStatus) -> None:
        counts = status.counts
        bar.update(
            task,
            description=f"{status.state}, {counts.done:,} of {counts.escalated:,}",
            total=counts.escalated or None,
            completed=counts.done,
        )

    return await following.wait(current, replay, stop, show)


@app.command("list")
def list_(bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """List all replays, oldest first: what each is doing, and how far it has come."""
    current = settings.load(bootstrap=bootstrap)
    with shown_reading():
        statuses = _run_async(current, following.statuses(current))
    if as_json:
        print(orjson.dumps([replay_status.as_json(status) for status in statuses]).decode())
    else:
        replay_status.show_list(statuses)


@app.command("show")
def show(replay_id: ReplayId, wait: Wait = False, bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """Show one replay: its progress, what it selects, who started it, and who promoted or reverted it, and why."""
    current = settings.load(bootstrap=bootstrap)
    if wait:
        _wait(current, replay_id)
    with shown_reading():
        (status,) = _run_async(current, following.statuses(current, replay_id))
    if as_json:
        print(orjson.dumps(replay_status.as_json(status)).decode())
    else:
        replay_status.show(status)
    if wait and status.state not in following.JUDGED:
        raise typer.Exit(1)


def _wait(current: settings.Settings, replay_id: str) -> None:
    """Show the progress of a replay that other processes run, until it is judged or the command is stopped."""

    async def work() -> None:
        replay = await jobs.find(current, replay_id)
        with Stop() as stop, _progress() as bar:
            await _follow(current, replay, stop.event, bar)

    _run_async(current, work())


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
    texts: Texts = True,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Show what a replay changes: flips each way and the noise floor, by rule and language, with examples and cost.
    Users who may read content.events also see the examples' texts; auditors, who may read moderation.rationales, also
    see their rationales.
    """
    with extra("all-cpu"):
        from safeguard_streams.cli import replay_tables
        from safeguard_streams.replay import diff, page
    current = settings.load(bootstrap=bootstrap)

    async def work() -> tuple[Replay, diff.Diff]:
        replay = await jobs.find(current, replay_id)
        return replay, await diff.compute(current, replay, jobs.policy_of(replay, policy), parquet, texts=texts)

    with shown_reading() as reading:
        replay, result = _run_async(current, work())
    if html is not None:
        html.write_text(page.render(result, replay), encoding="utf-8")
    if as_json:
        print(orjson.dumps({**msgspec.to_builtins(result), "left_out": reading.left_out.total()}).decode())
        return
    replay_tables.show_diff(result, texts=texts)


@app.command("promote")
def promote(
    replay_id: ReplayId,
    policy: PolicyOption = None,
    budget: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Refuse if more than this share of the compared items flips.")
    ] = promotion.BUDGET,
    why: Why = "",
    by: By = None,
    yes: Yes = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Publish a replay's changed decisions: one verdict on moderation.verdicts for each flip, which supersedes the one
    before. Shows the numbers and asks for confirmation. Undo with: safeguard replay revert.
    """
    who = changed_by(why, by)
    current = settings.load(bootstrap=bootstrap)
    prepared = _prepare(current, replay_id, policy, "promote")
    prepared.plan.require_within(budget, prepared.status.replay.replay_id)
    _publish(current, prepared, who, yes=yes, as_json=as_json)


@app.command("revert")
def revert(
    replay_id: ReplayId,
    policy: PolicyOption = None,
    why: Why = "",
    by: By = None,
    yes: Yes = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Undo a promotion: supersede each promoted verdict by the one that stood before it. Content that was judged again
    since then keeps its newer verdict.
    """
    who = changed_by(why, by)
    current = settings.load(bootstrap=bootstrap)
    _publish(current, _prepare(current, replay_id, policy, "revert"), who, yes=yes, as_json=as_json)


def _prepare(current: settings.Settings, replay_id: str, policy: str | None, direction: Direction) -> Prepared:
    """Plan a promotion or a reversion, and show its numbers on standard error."""
    with extra("all-cpu"):
        import duckdb  # noqa: F401  (the plan needs it: said before anything is read)
    with shown_reading():
        prepared = _run_async(current, promotion.prepare(current, replay_id, policy, direction))
    replay_status.show_plan(prepared)
    return prepared


def _publish(current: settings.Settings, prepared: Prepared, who: ChangedBy, *, yes: bool, as_json: bool) -> None:
    """Confirm and write the superseding verdicts of a plan."""
    replay, policy, plan = prepared.status.replay, prepared.policy, prepared.plan
    verb = "publish" if plan.direction == "promote" else "take back"
    question = f"{verb} {counted(len(plan.changes), 'verdict')} under {policy.policy_id}?"
    if plan.changes and not yes and not typer.confirm(question, err=True):
        raise typer.Exit(1)
    written = 0
    if plan.changes:
        with Progress(TextColumn("writing"), BarColumn(), TaskProgressColumn(), console=console(stderr=True)) as bar:
            task = bar.add_task("", total=len(plan.changes))

            def on_progress(done: int, of: int) -> None:
                bar.update(task, completed=done, total=of)

            written = asyncio.run(promotion.publish(current, replay, policy, plan, who, on_progress))
    if as_json:
        print(orjson.dumps({**replay_status.plan_as_json(plan, replay, policy), "written": written}).decode())
    else:
        replay_status.show_written(plan, written)


@app.command("pause")
def pause(replay_id: ReplayId, bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """Pause a replay, whichever process runs it: no further item is escalated, and none begins to be judged. Items that
    a reasoning worker has already read are still judged.
    """
    _change(replay_id, jobs.pause, bootstrap, as_json=as_json)


@app.command("cancel")
def cancel(replay_id: ReplayId, bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """End a replay permanently. Waiting escalations get undetermined verdicts without a call to the model."""
    _change(replay_id, jobs.cancel, bootstrap, as_json=as_json)


_Change = Callable[[settings.Settings, Replay], Awaitable[Replay]]


def _change(replay_id: str, change: _Change, bootstrap: str | None, *, as_json: bool) -> None:
    """Change a replay that is not over, and show what it is doing then."""
    current = settings.load(bootstrap=bootstrap)

    with kafka.watched(kafka.Reading()):
        status = _run_async(current, following.change(current, replay_id, change))
    if as_json:
        print(orjson.dumps(replay_status.as_json(status)).decode())
    else:
        replay_status.show_outcome(status)


@app.command("resume")
def resume(replay_id: ReplayId, wait: Wait = False, bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """Resume a replay that was paused, stopped or killed, from its last commit."""
    current = settings.load(bootstrap=bootstrap)

    async def work() -> Replay:
        return await jobs.resume(current, await jobs.find(current, replay_id))

    replay = _run_async(current, work())
    classifier = None if replay.escalated_at else _classifier(current)
    _run(current, replay, classifier, wait=wait, as_json=as_json)
