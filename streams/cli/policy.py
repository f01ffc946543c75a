"""safeguard policy."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, TypedDict

import msgspec
import orjson
import typer

from safeguard_streams.bus import kafka
from safeguard_streams.cli import model_tables, policy_authoring, policy_gate, policy_import, policy_show
from safeguard_streams.cli import policy_tables as tables
from safeguard_streams.cli.options import (
    Bootstrap,
    By,
    Json,
    Library,
    Why,
    changed_by,
    check_all,
    one_of,
    show_rows,
)
from safeguard_streams.cli.output import say
from safeguard_streams.cli.reading import shown_reading
from safeguard_streams.cli.texts import Texts
from safeguard_streams.contract.records import PolicyRelease
from safeguard_streams.errors import ConfigurationError, choices
from safeguard_streams.policies.check import Checked, require
from safeguard_streams.policies.files import LIBRARY, load_library
from safeguard_streams.quality import model_comparison, shadow_comparison
from safeguard_streams.releases import model_notice, operator
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.durations import moment

app = typer.Typer(no_args_is_help=True, help="Write, check, test, release, compare and roll back policies.")
app.command("new")(policy_authoring.new)
app.command("import")(policy_import.import_file)
app.command("gate")(policy_gate.gate)
app.command("show")(policy_show.show)
app.add_typer(policy_authoring.golden_app, name="golden")

PolicyId = Annotated[str, typer.Argument(metavar="ID", help="Id of a released policy.")]


def _history(current: settings.Settings) -> operator.ReleaseHistory:
    async def read() -> operator.ReleaseHistory:
        await kafka.wait_for_broker(current, timeout=kafka.COMMAND_SECONDS)
        return await operator.history(current)

    return asyncio.run(read())


@app.command("list")
def show(
    library: Library = LIBRARY,
    bootstrap: Bootstrap = None,
    released: Annotated[
        bool, typer.Option("--released", help="List the policies in force and their shadows, from Kafka.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the policies of the library, or the released ones."""
    if released:
        current = _history(settings.load(bootstrap=bootstrap))
        rows = [tables.release_row(r) for r in [*current.in_force.values(), *current.shadows.values()]]
    else:
        rows = [tables.policy_row(policy) for policy in load_library(library).values()]
    show_rows(rows, "no policies", as_json=as_json)


@app.command("check")
def check(
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID]...", help="Ids in the library, or policy.md files; default: the whole library."),
    ] = None,
    library: Library = LIBRARY,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings too.")] = False,
    as_json: Json = False,
) -> None:
    """Check the form, length in tokens, rules, examples, gate and golden set of policies.

    Prints every problem with its file and line, and the version of each policy without errors.
    """
    results = policy_gate.with_coverage(check_all(ids or [], library), settings.load().prefilter_model)
    if as_json:
        print(msgspec.json.encode([result.report() for result in results]).decode())
    else:
        tables.print_checks(results)
    if any(result.failed(strict=strict) for result in results):
        raise typer.Exit(1)


@app.command("release")
def release(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of policies in the library, or policy.md files.")
    ] = None,
    all_new: Annotated[
        bool, typer.Option("--all-new", help="Release the policies of the library that were never released before.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and release nothing.")] = False,
    library: Library = LIBRARY,
    why: Why = "",
    by: By = None,
    shadow: Annotated[
        float | None,
        typer.Option(
            min=0.0001,
            max=1.0,
            help="Share of content to judge under it beside the version in force, for comparison only. The verdicts go "
            "to moderation.replays, which enforcement never reads.",
        ),
    ] = None,
    golden: Annotated[
        bool,
        typer.Option(
            "--golden/--no-golden",
            help="Learn a golden gate from the golden set, and run it in shadow beside the gate. Needs the extra "
            "encoder; without it, none is learned.",
        ),
    ] = True,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Release policies to moderation.policies. Running prefilters and reasoning workers apply them without a restart.

    First shows how each policy differs from its version in force. Releases nothing unless every policy passes the
    check. A policy that is in force already is unchanged and gets no new revision.
    """
    if bool(ids) == all_new:
        raise _names_or_all_new(library)
    checked = check_all(ids or [], library)
    policies = require(checked)
    who = changed_by(why, by)
    current = settings.load(bootstrap=bootstrap)
    planned: list[operator.PlannedRelease] = []

    def review(plan: Sequence[operator.PlannedRelease]) -> None:
        planned.extend(plan)
        if not as_json:
            tables.print_plan(plan, shadow=shadow is not None)

    async def read() -> operator.ReleaseHistory:
        await kafka.wait_for_broker(current, timeout=kafka.COMMAND_SECONDS)
        if notice := await model_notice.unlearned(current, policies):
            say(notice, error=True)
        return await operator.history(current)

    before = asyncio.run(read())
    wanted = operator.plan_releases(before, policies, shadow=shadow, only_new=all_new)
    # Outside an event loop, which would hold Ctrl-C back until all gates are learned.
    gates = _golden_gates(checked, wanted, before, current.prefilter_model, learn=golden and shadow is None)
    how = _How(shadow=shadow, only_new=all_new, golden=gates)
    released: list[PolicyRelease] = []
    if dry_run:
        review(operator.plan_releases(before, policies, **how))
    else:
        released = asyncio.run(operator.release(current, policies, who, **how, review=review))
    if as_json:
        print(orjson.dumps(tables.release_rows(planned, released)).decode())
        return
    tables.print_released(released, shadow)
    if all_new and not planned:
        say("nothing to release: every policy of the library was released before")
    if dry_run and not all(one.unchanged for one in planned):
        say("dry run: nothing was released")


class _How(TypedDict):
    """How policies are released: see operator.plan_releases."""

    shadow: float | None
    only_new: bool
    golden: Mapping[str, str | None]


def _golden_gates(
    checked: Sequence[Checked],
    wanted: Sequence[operator.PlannedRelease],
    before: operator.ReleaseHistory,
    model: Path | None,
    *,
    learn: bool,
) -> Mapping[str, str | None]:
    """The golden gates of the policies that are to be released."""
    ids = {one.policy.id for one in wanted}
    if not learn:
        return dict.fromkeys(ids)
    named = [one for one in checked if one.policy and one.policy.id in ids]
    return policy_gate.golden_for_release(named, before.in_force, model) if named else {}


def _names_or_all_new(library: Path) -> ConfigurationError:
    available = ", ".join(sorted(path.parent.name for path in library.glob("*/policy.md"))) or "none"
    return ConfigurationError(
        f"name the policies to release, or give --all-new for those that were never released; {library} has {available}"
    )


@app.command("rollback")
def rollback(
    policy_id: PolicyId,
    to: Annotated[str | None, typer.Option(help="Revision or version to return to; default: the previous one.")] = None,
    why: Why = "",
    by: By = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Release an earlier version again, as a new revision."""
    current, who = settings.load(bootstrap=bootstrap), changed_by(why, by)

    async def work() -> PolicyRelease:
        await kafka.wait_for_broker(current, timeout=kafka.COMMAND_SECONDS)
        return await operator.rollback(current, policy_id, to, who)

    record = asyncio.run(work())
    if as_json:
        done = {"id": record.policy_id, "version": record.version, "revision": record.revision}
        print(orjson.dumps(done).decode())
        return
    say(f"rolled back {record.policy_id} to version {record.version}, now revision {record.revision}")


@app.command("retire")
def retire(
    policy_id: PolicyId,
    shadow: Annotated[bool, typer.Option("--shadow", help="End only its shadow.")] = False,
    why: Why = "",
    by: By = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Take a policy and its shadow out of force. Its pending escalations get undetermined verdicts."""
    current, who = settings.load(bootstrap=bootstrap), changed_by(why, by)

    async def work() -> None:
        await kafka.wait_for_broker(current, timeout=kafka.COMMAND_SECONDS)
        await operator.retire(current, policy_id, who, shadow=shadow)

    asyncio.run(work())
    if as_json:
        print(orjson.dumps({"id": policy_id, "action": "end-shadow" if shadow else "retire"}).decode())
        return
    say(f"ended the shadow of {policy_id}" if shadow else f"retired {policy_id}")


@app.command("history")
def history(
    policy_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Show only this policy.")] = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Show all policy changes with their author and reason, oldest first."""
    changes = _history(settings.load(bootstrap=bootstrap)).changes
    rows = [tables.change_row(change) for change in changes if policy_id in (None, change.policy_id)]
    if policy_id and not rows:
        known = choices(policy_id, (change.policy_id for change in changes))
        raise ConfigurationError(f"policy {policy_id!r} has no history{known}")
    if as_json:
        print(orjson.dumps(rows).decode())
        return
    for row in rows:
        say(tables.change_line(row))
    if not rows:
        say("no changes")


@app.command("compare")
def compare(
    policy_id: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="Id of a released policy; with --by model the default is all policies."),
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            parser=one_of("comparison", ("version", "model")),
            metavar="[version|model]",
            help="version compares a shadow with the version in force, model a canary with the live model.",
        ),
    ] = "version",
    version: Annotated[
        str | None, typer.Option(help="Version of the shadow; default: the one that judged last.")
    ] = None,
    canary: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the canary; default: the one that judged last.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Read verdicts written from this time on: 2026-01-31T12:00:00Z, or 7d for seven days ago."),
    ] = None,
    texts: Texts = True,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Compare a policy's shadow with the version in force, or a canary's model with the live one.

    Both are compared by their verdicts on the same content. Examples of items that they judge differently come with
    their texts, for users who may read content.events.
    """
    if by == "version" and policy_id is None:
        raise typer.BadParameter("name a policy, or compare models with --by model", param_hint="ID")
    for option, value, other in (("--canary", canary, "version"), ("--version", version, "model")):
        if value is not None and by == other:
            raise typer.BadParameter(f"has no use with --by {other}", param_hint=option)
    start = moment(since, "--since") if since else None
    current = settings.load(bootstrap=bootstrap)
    if policy_id is None or by == "model":
        compared: msgspec.Struct = _compare_models(current, policy_id, canary, start, texts=texts)
    else:
        compared = _compare_versions(current, policy_id, version, start, texts=texts)
    if as_json:
        print(msgspec.json.encode(compared).decode())
    elif isinstance(compared, model_comparison.ModelComparison):
        model_tables.print_comparison(compared, texts=texts)
    elif isinstance(compared, shadow_comparison.Comparison):
        tables.print_comparison(compared, texts=texts)


def _compare_versions(
    current: settings.Settings, policy_id: str, version: str | None, since: datetime | None, *, texts: bool
) -> shadow_comparison.Comparison:
    with shown_reading():
        comparison = asyncio.run(shadow_comparison.from_kafka(current, policy_id, version, since, texts=texts))
    if not comparison.shadow_version:
        _history(current).require_known(policy_id)
        command = f"safeguard policy release {policy_id} --shadow 0.05"
        raise ConfigurationError(f"no shadow of {policy_id} has judged anything yet; start one with: {command}")
    return comparison


def _compare_models(
    current: settings.Settings, policy_id: str | None, canary: str | None, since: datetime | None, *, texts: bool
) -> model_comparison.ModelComparison:
    with shown_reading():
        comparison = asyncio.run(model_comparison.from_kafka(current, policy_id, canary, since, texts=texts))
    if comparison is None:
        if policy_id is not None:
            _history(current).require_known(policy_id)
        command = "safeguard reason canary --server URL --share 0.02"
        raise ConfigurationError(f"no canary has judged anything yet; start one with: {command}")
    return comparison
