"""safeguard policy."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from safeguard_streams.bus import kafka
from safeguard_streams.cli import policy_tables as tables
from safeguard_streams.cli.options import Bootstrap, By, Json, Library, Why, changed_by, fit_for_release, show_rows
from safeguard_streams.cli.output import say
from safeguard_streams.cli.reading import shown_reading
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies import check as checking
from safeguard_streams.policies.files import LIBRARY, load_library
from safeguard_streams.quality import shadow_comparison
from safeguard_streams.releases import model_notice, operator
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.durations import moment

app = typer.Typer(no_args_is_help=True, help="Check, test, release, compare and roll back policies.")

PolicyId = Annotated[str, typer.Argument(metavar="ID", help="Id of a released policy.")]


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
        current = asyncio.run(operator.history(settings.load(bootstrap=bootstrap)))
        rows = [tables.release_row(r) for r in [*current.in_force.values(), *current.shadows.values()]]
    else:
        rows = [tables.policy_row(policy) for policy in load_library(library).values()]
    show_rows(rows, "no policies", as_json=as_json)


@app.command("check")
def check(
    files: Annotated[list[Path] | None, typer.Argument(help="policy.md files; default: the whole library.")] = None,
    library: Library = LIBRARY,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings too.")] = False,
    as_json: Json = False,
) -> None:
    """Check the form, length in tokens, rules, examples, gate and golden set of policies.

    Prints every problem with its file and line, and the version of each policy without errors.
    """
    results = [checking.check(path) for path in files] if files else checking.check_library(library)
    if as_json:
        print(msgspec.json.encode([result.report() for result in results]).decode())
    else:
        tables.print_checks(results)
    if any(result.failed(strict=strict) for result in results):
        raise typer.Exit(1)


@app.command("release")
def release(
    ids: Annotated[
        list[str] | None, typer.Argument(help="Ids of policies in the library, or policy.md files; default: all.")
    ] = None,
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
    bootstrap: Bootstrap = None,
) -> None:
    """Release policies to moderation.policies. Running prefilters and reasoning workers apply them without a restart.

    Releases nothing unless every policy passes the check.
    """
    policies = fit_for_release(ids or [], library)
    current = settings.load(bootstrap=bootstrap)

    async def work() -> None:
        await kafka.wait_for_broker(current, timeout=10)
        if notice := await model_notice.unlearned(current, policies):
            say(notice, error=True)
        for record in await operator.release(current, policies, changed_by(why, by), shadow=shadow):
            how = "" if shadow is None else f" as a shadow on {shadow:.2%} of content"
            say(f"released {record.policy_id} version {record.version} revision {record.revision}{how}")

    asyncio.run(work())


@app.command("rollback")
def rollback(
    policy_id: PolicyId,
    to: Annotated[str | None, typer.Option(help="Revision or version to return to; default: the previous one.")] = None,
    why: Why = "",
    by: By = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Release an earlier version again, as a new revision."""
    current = settings.load(bootstrap=bootstrap)
    record = asyncio.run(operator.rollback(current, policy_id, to, changed_by(why, by)))
    say(f"rolled back {record.policy_id} to version {record.version}, now revision {record.revision}")


@app.command("retire")
def retire(
    policy_id: PolicyId,
    shadow: Annotated[bool, typer.Option("--shadow", help="End only its shadow.")] = False,
    why: Why = "",
    by: By = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Take a policy and its shadow out of force. Its pending escalations get undetermined verdicts."""
    asyncio.run(operator.retire(settings.load(bootstrap=bootstrap), policy_id, changed_by(why, by), shadow=shadow))
    say(f"ended the shadow of {policy_id}" if shadow else f"retired {policy_id}")


@app.command("history")
def history(
    policy_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Show only this policy.")] = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Show all policy changes with their author and reason, oldest first."""
    changes = asyncio.run(operator.history(settings.load(bootstrap=bootstrap))).changes
    rows = [tables.change_row(change) for change in changes if policy_id in (None, change.policy_id)]
    if policy_id and not rows:
        ids = ", ".join(sorted({change.policy_id for change in changes})) or "none yet"
        raise ConfigurationError(f"policy {policy_id!r} has no history; policies with a history: {ids}")
    show_rows(rows, "no changes", as_json=as_json)


@app.command("compare")
def compare(
    policy_id: PolicyId,
    version: Annotated[
        str | None, typer.Option(help="Version of the shadow; default: the one that judged last.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Read verdicts written from this time on: 2026-01-31T12:00:00Z, or 7d for seven days ago."),
    ] = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Compare a policy's shadow with the version in force, by their verdicts on the same content."""
    start = moment(since, "--since") if since else None
    with shown_reading():
        comparison = asyncio.run(
            shadow_comparison.from_kafka(settings.load(bootstrap=bootstrap), policy_id, version, start)
        )
    if not comparison.shadow_version:
        command = f"safeguard policy release {policy_id} --shadow 0.05"
        raise ConfigurationError(f"no shadow of {policy_id} has judged anything yet; start one with: {command}")
    if as_json:
        print(msgspec.json.encode(comparison).decode())
    else:
        tables.print_comparison(comparison)
