"""safeguard policy."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import msgspec
import orjson
import typer
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
    show_rows,
)
from safeguard_streams.contract.records import PolicyChange
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies import check as checking
from safeguard_streams.policies.files import LIBRARY, load_library
from safeguard_streams.quality import shadow_comparison
from safeguard_streams.releases import operator
from safeguard_streams.runtime import settings

app = typer.Typer(no_args_is_help=True, help="Written policies: check, test, release, compare, roll back.")

PolicyId = Annotated[str, typer.Argument(metavar="ID", help="Id of a policy that was released.")]


@app.command("list")
def show(
    library: Library = LIBRARY, bootstrap: Bootstrap = None, released: bool = False, as_json: Json = False
) -> None:
    """Policies of the library or, with --released, those in force on moderation.policies and the shadows beside them."""
    if released:
        known = asyncio.run(operator.history(settings.load(bootstrap=bootstrap)))
        rows: list[dict[str, Any]] = [
            {
                "id": r.policy_id,
                "version": r.version,
                "revision": r.revision,
                "shadow": "" if r.shadow is None else f"{r.shadow:g}",
                "by": r.released_by,
                "why": r.why,
            }
            for r in [*known.in_force.values(), *known.shadows.values()]
        ]
    else:
        rows = [
            {"id": p.id, "version": p.version, "title": p.title, "owner": p.owner, "rules": ", ".join(p.rules)}
            for p in load_library(library).values()
        ]
    show_rows(rows, "no policies", as_json=as_json)


@app.command("check")
def check(
    files: Annotated[list[Path] | None, typer.Argument(help="policy.md files; by default all of the library.")] = None,
    library: Library = LIBRARY,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings too.")] = False,
    as_json: Json = False,
) -> None:
    """Check policies: form, length as the model counts, rules, examples, gate, golden set. Prints the version of each that
    is right; of each that is not, every problem with file and line.
    """
    found = [checking.check(path) for path in files] if files else checking.check_library(library)
    failed = [one for one in found if one.errors or (strict and one.problems)]
    if as_json:
        print(
            orjson.dumps(
                [
                    {
                        "file": one.path,
                        "id": one.policy.id if one.policy else None,
                        "version": one.policy.version if one.policy else None,
                        "tokens": one.tokens,
                        "golden": one.golden,
                        "problems": [msgspec.to_builtins(problem) for problem in one.problems],
                    }
                    for one in found
                ]
            ).decode()
        )
    else:
        for one in found:
            for problem in one.problems:
                print(problem)
            if one.policy and not one.errors:
                what = f"{one.policy.id} {one.policy.version}, {one.tokens} tokens, {one.golden} golden texts"
                print(f"{one.path}: {what}")
    if failed:
        raise typer.Exit(1)


@app.command("release")
def release(
    ids: Annotated[
        list[str] | None, typer.Argument(help="Ids of policies in the library, or policy.md files; by default all.")
    ] = None,
    library: Library = LIBRARY,
    why: Why = "",
    by: By = None,
    shadow: Annotated[
        float | None,
        typer.Option(
            min=0.0001,
            max=1.0,
            help="Judge this share of content under it beside the version in force, for comparison only: its verdicts go "
            "to moderation.replays, where no enforcement reads.",
        ),
    ] = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Release policies to moderation.policies: prefilters and reasoning workers take them at once, without a restart.
    Nothing is released unless all of them pass the check.
    """
    policies = fit_for_release(ids or [], library)
    current = settings.load(bootstrap=bootstrap)

    async def work() -> None:
        await kafka.wait_for_broker(current, timeout=10)
        for record in await operator.release(current, policies, changed_by(why, by), shadow=shadow):
            how = "" if shadow is None else f" as a shadow on {shadow:.2%} of content"
            print(f"released {record.policy_id} version {record.version} revision {record.revision}{how}")

    asyncio.run(work())


@app.command("rollback")
def rollback(
    policy_id: PolicyId,
    to: Annotated[
        str | None, typer.Option(help="Revision or version to go back to; by default what was in force before.")
    ] = None,
    why: Why = "",
    by: By = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Release a former version again, as a new revision."""
    current = settings.load(bootstrap=bootstrap)
    record = asyncio.run(operator.rollback(current, policy_id, to, changed_by(why, by)))
    print(f"rolled back {record.policy_id} to version {record.version}, now revision {record.revision}")


@app.command("retire")
def retire(
    policy_id: PolicyId,
    shadow: Annotated[bool, typer.Option("--shadow", help="End its shadow only.")] = False,
    why: Why = "",
    by: By = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Take a policy out of force, and its shadow with it. What was escalated under it and not judged yet is answered
    with an undetermined verdict.
    """
    asyncio.run(operator.retire(settings.load(bootstrap=bootstrap), policy_id, changed_by(why, by), shadow=shadow))
    print(f"ended the shadow of {policy_id}" if shadow else f"retired {policy_id}")


@app.command("history")
def history(
    policy_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Only this policy.")] = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """What was done to policies, by whom and why, oldest first."""
    known = asyncio.run(operator.history(settings.load(bootstrap=bootstrap)))
    rows = [_entry(change) for change in known.changes if policy_id in (None, change.policy_id)]
    if policy_id and not rows:
        ids = ", ".join(sorted({change.policy_id for change in known.changes})) or "none yet"
        raise ConfigurationError(f"nothing was done to a policy {policy_id!r}; there are: {ids}")
    show_rows(rows, "nothing yet", as_json=as_json)


def _entry(change: PolicyChange) -> dict[str, Any]:
    made = change.release
    return {
        "at": change.changed_at.isoformat(timespec="seconds"),
        "id": change.policy_id,
        "action": change.action,
        "revision": made.revision if made else "",
        "version": made.version if made else "",
        "shadow": "" if made is None or made.shadow is None else f"{made.shadow:g}",
        "by": change.changed_by,
        "why": change.why,
    }


@app.command("compare")
def compare(
    policy_id: PolicyId,
    version: Annotated[
        str | None, typer.Option(help="Version of the shadow; by default the one that judged last.")
    ] = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """A policy's shadow beside its version in force, by their verdicts on the same content."""
    found = asyncio.run(shadow_comparison.from_kafka(settings.load(bootstrap=bootstrap), policy_id, version))
    if not found.shadow_version:
        raise ConfigurationError(
            f"no shadow of {policy_id} has judged anything yet; begin with: safeguard policy release {policy_id} --shadow 0.05"
        )
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    print(f"{policy_id}: version {', '.join(found.live_versions) or 'in force'} beside shadow {found.shadow_version}")
    print("shares with their 95 % intervals, of the content that was drawn")
    table = Table("", "contents", "of", "share", box=None)
    for name, one in (
        ("judged by both, and alike", found.agree),
        ("safe in force, violates in the shadow", found.to_violates),
        ("violates in force, safe in the shadow", found.to_safe),
        ("undetermined in one of them", found.undetermined),
        ("violates, of what only the shadow's gates catch", found.only_shadow),
        ("violates in force, of what the shadow's gates let pass", found.only_live),
        ("violates, of all drawn: in force", found.violating[0]),
        ("violates, of all drawn: in the shadow", found.violating[1]),
    ):
        table.add_row(name, f"{one.count:,}", f"{one.of:,}", str(one))
    console().print(table)
    by_rule = Table("rule", "violating in force", "in the shadow", box=None)
    for rule, (before, after) in found.rules.items():
        by_rule.add_row(rule, f"{before:,}", f"{after:,}")
    console().print(by_rule)
    flips = Table("content", "in force", "in the shadow", "reason in force", "reason in the shadow", box=None)
    for flip in found.examples:
        words = [f"{decision} {' '.join(rules)}" for decision, rules in _said(flip)]
        flips.add_row(flip.content_id, *words, flip.live_reason or "", flip.shadow_reason or "")
    console().print(flips)
    print(f"{found.waiting:,} wait for the version in force; the shadow took {found.tokens:,} tokens")


def _said(flip: shadow_comparison.ShadowFlip) -> list[tuple[str, tuple[str, ...]]]:
    return [(flip.live, flip.live_rules), (flip.shadow, flip.shadow_rules)]
