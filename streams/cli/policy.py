"""safeguard policy."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.table import Table

from policies.document import LIBRARY, load, load_library
from streams import kafka, policy_feed, settings
from streams.cli.options import Bootstrap, Json, Library, console
from streams.errors import ConfigurationError

app = typer.Typer(no_args_is_help=True, help="Written policies.")


@app.command("list")
def show(
    library: Library = LIBRARY, bootstrap: Bootstrap = None, released: bool = False, as_json: Json = False
) -> None:
    """Policies of the library or, with --released, those in force on moderation.policies."""
    if released:
        releases = asyncio.run(policy_feed.current(settings.load(bootstrap=bootstrap)))
        rows = [
            {"id": r.policy_id, "version": r.version, "revision": r.revision, "by": r.released_by, "why": r.why}
            for r in releases.values()
        ]
    else:
        rows = [
            {"id": p.id, "version": p.version, "title": p.title, "owner": p.owner, "rules": ", ".join(p.rules)}
            for p in load_library(library).values()
        ]
    if as_json:
        print(orjson.dumps(rows).decode())
        return
    table = Table(*(rows[0] if rows else ["no policies"]), box=None)
    for row in rows:
        table.add_row(*map(str, row.values()))
    console().print(table)


@app.command("check")
def check(
    files: Annotated[list[Path] | None, typer.Argument(help="policy.md files; by default all of the library.")] = None,
    library: Library = LIBRARY,
) -> None:
    """Check policy documents: front matter, rules, gate. Prints the version of each that is right."""
    for path in files or sorted(library.glob("*/policy.md")):
        policy = load(path)
        print(f"{path}: {policy.id} {policy.version}")


@app.command("release")
def release(
    ids: Annotated[list[str] | None, typer.Argument(help="Policies of the library; by default all.")] = None,
    library: Library = LIBRARY,
    why: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    bootstrap: Bootstrap = None,
) -> None:
    """Release policies to moderation.policies: prefilters and reasoning workers take them at once, without a restart."""
    known = load_library(library)
    unknown = sorted(set(ids or []) - set(known))
    if unknown:
        raise ConfigurationError(f"no policy {', '.join(unknown)} in {library}; there are: {', '.join(known)}")
    current = settings.load(bootstrap=bootstrap)

    async def work() -> None:
        await kafka.wait_for_broker(current, patience=10)
        for record in await policy_feed.release(current, [known[name] for name in ids or known], why):
            print(f"released {record.policy_id} version {record.version} revision {record.revision}")

    asyncio.run(work())
