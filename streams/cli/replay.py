"""safeguard replay."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import orjson
import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from safeguard_streams.bus import kafka
from safeguard_streams.cli.options import (
    Bootstrap,
    By,
    Json,
    Library,
    Why,
    changed_by,
    console,
    fit_for_release,
    needs_extra,
    show_rows,
)
from safeguard_streams.contract.records import Decision, Replay, Replayed, ReplayState
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.files import LIBRARY
from safeguard_streams.replay import jobs, runner
from safeguard_streams.replay import promotion as promoting
from safeguard_streams.replay.promotion import Direction
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.durations import span
from safeguard_streams.runtime.process import Stop, configure_logging

app = typer.Typer(no_args_is_help=True, help="Content of the past, judged again by another version of a policy.")

ReplayId = Annotated[str, typer.Argument(metavar="REPLAY", help="Id of a replay, or the beginning of it.")]


def _moment(given: str | None, option: str) -> datetime | None:
    """A moment as RFC 3339, or so long ago, as in 7d."""
    if given is None:
        return None
    ago = span(given)
    if ago is not None:
        return datetime.now(UTC) - ago
    try:
        found = datetime.fromisoformat(given)
    except ValueError:
        raise ConfigurationError(
            f"{option}: write a time as 2026-01-31T12:00:00Z, or so long ago as 7d, 12h, 30m"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _decisions(given: list[str]) -> tuple[Decision, ...]:
    try:
        return msgspec.convert(given, tuple[Decision, ...])
    except msgspec.ValidationError:
        raise ConfigurationError(f"--decision: violates, safe or undetermined, not {', '.join(given)}") from None


@app.command("start")
def start(
    policies: Annotated[
        list[str],
        typer.Argument(metavar="POLICY...", help="Policies to judge by: ids of the library, or policy.md files."),
    ],
    library: Library = LIBRARY,
    since: Annotated[
        str | None,
        typer.Option(help="From events written at this time on: 2026-01-31T12:00:00Z, or 7d for seven days ago."),
    ] = None,
    until: Annotated[str | None, typer.Option(help="To events written before this time.")] = None,
    first: Annotated[int | None, typer.Option(min=0, help="First offset, in each partition.")] = None,
    last: Annotated[int | None, typer.Option(min=0, help="Last offset, in each partition.")] = None,
    sample: Annotated[
        float, typer.Option(min=0.0001, max=1.0, help="Share of the content, by a hash of its id.")
    ] = 1.0,
    noise: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Share that the version in force judges again: flips between equal texts mean nothing.",
        ),
    ] = 0.1,
    surface: Annotated[
        list[str] | None, typer.Option(help="Only content of this surface; may be given several times.")
    ] = None,
    language: Annotated[list[str] | None, typer.Option(help="Only content in this language; likewise.")] = None,
    decision: Annotated[
        list[str] | None,
        typer.Option(help="Only content that was judged so before: violates, safe or undetermined; likewise."),
    ] = None,
    why: Why = "",
    by: By = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Judge content of the past by a version of a policy that need not be in force: what the version in force or the new one
    would escalate goes through the replay lane, its verdicts to moderation.replays, where no enforcement reads.

    The end is fixed now. Ctrl-C leaves it where it is, and so does a crash: go on with replay resume.
    """
    wanted = fit_for_release(policies, library)
    current = settings.load(bootstrap=bootstrap)
    chosen = jobs.ReplayRequest(
        wanted,
        _moment(since, "--since"),
        _moment(until, "--until"),
        first,
        last,
        sample,
        noise,
        tuple(surface or ()),
        tuple(language or ()),
        _decisions(decision or []),
    )

    async def create() -> Replay:
        await kafka.wait_for_broker(current, timeout=10)
        return await jobs.create(current, chosen, changed_by(why, by))

    _run(current, asyncio.run(create()), as_json=as_json)


def _run(current: settings.Settings, job: Replay, *, as_json: bool) -> None:
    try:
        from safeguard_streams.prefilter.classifier import SHIPPED, Classifier
    except ImportError as error:
        raise needs_extra(error, "prefilter") from error
    configure_logging("WARNING")
    out = console(stderr=True)
    versions = ", ".join(f"{one.policy_id} {one.version}" for one in job.policies)
    out.print(f"replay {job.replay_id}: {job.total:,} events under {versions}", highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())

    async def work() -> str:
        with Stop() as stop, Progress(*columns, console=out) as progress:
            task = progress.add_task("escalating", total=job.total)
            begun, before = time.monotonic(), -1

            def on_progress(done: int) -> None:
                nonlocal before
                before = done if before < 0 else before
                rate = (done - before) / max(0.1, time.monotonic() - begun)
                progress.update(task, completed=done, description=f"escalating, {rate:,.0f} events/s")

            classifier = Classifier(current.prefilter_model or SHIPPED)
            return await runner.run(current, job, classifier, stop.event, on_progress)

    state = asyncio.run(work())
    if as_json:
        print(orjson.dumps({"replay_id": job.replay_id, "state": state, "events": job.total}).decode())
    elif state == "running":
        print(f"replay {job.replay_id} stopped; go on with: safeguard replay resume {job.replay_id}")
    else:
        print(f"replay {job.replay_id} is {state}; see: safeguard replay status {job.replay_id}")


@app.command("status")
def status(
    replay_id: Annotated[str | None, typer.Argument(metavar="[REPLAY]", help="Only this replay.")] = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """How far replays are: events read, escalated, judged."""
    current = settings.load(bootstrap=bootstrap)

    async def work() -> list[dict[str, Any]]:
        known = await jobs.read_all(current)
        chosen = [await jobs.find(current, replay_id)] if replay_id else list(known.values())
        counts = await jobs.counts(current, {job.replay_id for job in chosen})
        return [
            {
                "replay": job.replay_id,
                "state": job.state,
                "policies": ", ".join(f"{one.policy_id} {one.version}" for one in job.policies),
                "read": await jobs.progress(current, job),
                "of": job.total,
                "escalated": counts[job.replay_id][0],
                "judged": counts[job.replay_id][1],
                "by": job.created_by,
                "why": job.why,
            }
            for job in chosen
        ]

    show_rows(asyncio.run(work()), "no replays", as_json=as_json)


@app.command("diff")
def diff(
    replay_id: ReplayId,
    policy: Annotated[str | None, typer.Option(help="Which of the replay's policies, if it has several.")] = None,
    parquet: Annotated[
        Path | None, typer.Option(help="Also write the joined contents to this file: ids, decisions, rules, no texts.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Also write a page with charts to this file, for those who decide about it.")
    ] = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """What a replay changes: flips each way beside the noise floor, by rule and language, with examples and their rationales,
    and what it cost. Rationales are shown to those who may read moderation.rationales: auditors.
    """
    try:
        from safeguard_streams.replay import diff, page
    except ImportError as error:
        raise needs_extra(error, "all-cpu") from error
    current = settings.load(bootstrap=bootstrap)

    async def work() -> tuple[Replay, diff.Diff]:
        job = await jobs.find(current, replay_id)
        return job, await diff.compute(current, job, jobs.policy_of(job, policy), parquet)

    job, found = asyncio.run(work())
    if html is not None:
        html.write_text(page.page(found, job), encoding="utf-8")
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    before = f"version {found.before_version}" if found.before_version else "not in force before"
    print(f"replay {found.replay_id}: {found.policy_id}, {before}, now judged by {found.version}")
    print(
        f"about {found.events:,} events, {found.wanted:,} wanted by either version, {found.waiting:,} not judged yet, "
        f"{found.unknown:,} without a verdict before, {found.compared:,} compared"
    )
    table = Table("", "contents", "of", "share (95 % interval)", box=None)
    for name, one in (
        ("flip to violates", found.to_violates),
        ("flip to safe", found.to_safe),
        ("noise floor: flips between equal versions", found.noise),
        ("violating before, of all events", found.before),
        ("violating after, of all events", found.after),
    ):
        table.add_row(name, f"{one.count:,}", f"{one.of:,}", str(one))
    console().print(table)
    if found.by_gate:
        print(f"{found.by_gate:,} of the flips to safe are content that the new gate would not send to the model")
    kinds = ("violates", "safe", "undetermined", "cleared")
    matrix = Table("before \\ after", *kinds, box=None)
    for name, row in found.decisions.items():
        matrix.add_row(name, *(f"{row.get(kind, 0):,}" for kind in kinds))
    console().print(matrix)
    for title, sides in (("rule", found.rules), ("language", found.languages)):
        by = Table(title, "to violates", "to safe", "compared", box=None)
        for name, side in sides.items():
            by.add_row(name or "not said", f"{side.to_violates:,}", f"{side.to_safe:,}", f"{side.compared:,}")
        console().print(by)
    examples = Table("content", "before", "after", "rationale before", "rationale after", box=None)
    for flip in found.examples:
        sides_of = ((flip.before, flip.rules_before), (flip.after, flip.rules_after))
        words = [" ".join([decision, *rules]) for decision, rules in sides_of]
        examples.add_row(flip.content_id, *words, escape(flip.rationale_before), escape(flip.rationale_after))
    console().print(examples)
    spent = found.tokens
    print(
        f"cost: {spent.prompt:,} prompt tokens ({spent.cached:,} cached), {spent.completion:,} completion tokens, "
        f"{found.seconds:,.1f} s of judgements"
    )


@app.command("promote")
def promote(
    replay_id: ReplayId,
    policy: Annotated[str | None, typer.Option(help="Which of the replay's policies, if it has several.")] = None,
    budget: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Refuse when more than this share of what was compared flips.")
    ] = 0.05,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Make a replay's decisions count: for each content that flips, a verdict on moderation.verdicts that supersedes the one
    before. Shows the numbers and asks first; can be undone by replay revert.
    """
    _publish(replay_id, policy, "promote", budget, bootstrap, yes=yes)


@app.command("revert")
def revert(
    replay_id: ReplayId,
    policy: Annotated[str | None, typer.Option(help="Which of the replay's policies, if it has several.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Take back what was promoted: each verdict is superseded by the one that stood before. Content that was judged again
    since is left alone.
    """
    _publish(replay_id, policy, "revert", None, bootstrap, yes=yes)


def _publish(
    replay_id: str, policy: str | None, way: Direction, budget: float | None, bootstrap: str | None, *, yes: bool
) -> None:
    current = settings.load(bootstrap=bootstrap)

    async def look() -> tuple[Replay, Replayed, promoting.PromotionPlan]:
        job = await jobs.find(current, replay_id)
        chosen = jobs.policy_of(job, policy)
        return job, chosen, await promoting.plan(current, job, chosen, way)

    job, chosen, found = asyncio.run(look())
    if job.state != "escalated":
        raise ConfigurationError(f"replay {job.replay_id} is {job.state}: let it come to its end first")
    for name, count in promoting.preview(found):
        print(f"{name}: {count:,}")
    if not found.changes:
        print("nothing is to be written")
        return
    flips = found.share
    if budget is not None and flips.value is not None and flips.value > budget:
        raise ConfigurationError(
            f"{flips.value:.1%} of what was compared would flip, more than the budget of {budget:.1%}: look at "
            f"safeguard replay diff {job.replay_id}, and raise --budget if that is meant"
        )
    verb = "publish" if way == "promote" else "take back"
    if not yes and not typer.confirm(f"{verb} {len(found.changes):,} verdicts under {chosen.policy_id}?"):
        raise typer.Exit(1)
    with Progress(TextColumn("writing"), BarColumn(), TaskProgressColumn(), console=console(stderr=True)) as progress:
        task = progress.add_task("", total=len(found.changes))

        def on_progress(done: int, of: int) -> None:
            progress.update(task, completed=done, total=of)

        written = asyncio.run(promoting.publish(current, job, chosen, way, on_progress))
    print(f"{written:,} superseding verdicts are on moderation.verdicts")


@app.command("pause")
def pause(replay_id: ReplayId, bootstrap: Bootstrap = None) -> None:
    """Stop a replay where it is, whoever runs it; what is escalated already will be judged."""
    _set(replay_id, "paused", bootstrap)


@app.command("cancel")
def cancel(replay_id: ReplayId, bootstrap: Bootstrap = None) -> None:
    """End a replay for good; what was escalated and is not judged yet is answered undetermined, without asking the model."""
    _set(replay_id, "cancelled", bootstrap)


def _set(replay_id: str, state: ReplayState, bootstrap: str | None) -> None:
    current = settings.load(bootstrap=bootstrap)

    async def work() -> Replay:
        return await jobs.set_state(current, await jobs.find(current, replay_id), state)

    print(f"replay {asyncio.run(work()).replay_id} is {state}")


@app.command("resume")
def resume(replay_id: ReplayId, bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """Go on with a replay that was paused, stopped or killed, from its last commit."""
    current = settings.load(bootstrap=bootstrap)

    async def work() -> Replay:
        return await jobs.set_state(current, await jobs.find(current, replay_id), "running")

    _run(current, asyncio.run(work()), as_json=as_json)
