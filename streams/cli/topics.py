"""safeguard topics."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import orjson
import typer

from safeguard_streams.bus import kafka
from safeguard_streams.cli.options import Bootstrap, Json, one_of
from safeguard_streams.cli.output import Table, console, say
from safeguard_streams.contract import asyncapi as described
from safeguard_streams.contract import topics as catalogue
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.operations import acls as access_lists
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.counts import counted

app = typer.Typer(no_args_is_help=True, help="Manage the pipeline's topics.")


@app.command("create")
def create(bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """Create missing topics.

    Existing topics stay as they are, except that their largest record size is raised to what this version needs.
    moderation.actions gets the retention of SAFEGUARD_ACTIONS_RETENTION_DAYS, if that is set.
    """
    created = asyncio.run(kafka.create_topics(settings.load(bootstrap=bootstrap)))
    if as_json:
        print(orjson.dumps(created).decode())
    else:
        for name, new in created.items():
            say(f"{'created' if new else 'exists '} {name}")


@app.command("list")
def show(as_json: Json = False) -> None:
    """List the topics: names, keys, records, retention."""
    current = settings.load()
    rows = [
        {
            "topic": current.prefix + topic.name,
            "key": topic.key,
            "record": topic.record.__name__,
            "partitions": topic.partitions or current.partitions,
            **topic.config,
        }
        for topic in current.catalogue
    ]
    if as_json:
        print(orjson.dumps(rows).decode())
        return
    table = Table("topic", "key", "record", "partitions", "cleanup", "retention, days", box=None)
    for topic, row in zip(current.catalogue, rows, strict=True):
        days = "" if "delete" not in topic.cleanup or topic.retention < 0 else str(topic.retention // catalogue.DAY)
        shown = [str(row[column]) for column in ("topic", "key", "record", "partitions")]
        table.add_row(*shown, topic.cleanup, days)
    console().print(table)


@app.command("asyncapi")
def asyncapi() -> None:
    """Print topics and records as an AsyncAPI 3 document, for code in other languages."""
    print(orjson.dumps(described.document(), option=orjson.OPT_INDENT_2).decode())


@app.command("acls")
def acls(
    role: Annotated[
        str | None,
        typer.Argument(
            parser=one_of("role", list(access_lists.ROLES)),
            metavar="ROLE",
            help=f"Only this role: {', '.join(access_lists.ROLES)}.",
        ),
    ] = None,
    principal: Annotated[
        str | None,
        typer.Option(
            help="Principal that gets the role, such as User:prefilter-1; default: User: and the role's name."
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(help="Consumer group of the role consumer, in full; default: all that begin with consumer."),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Write them to the broker; needs a user who may alter access lists.")
    ] = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Print or apply the access lists of each role, as commands for Kafka's own tool or as JSON."""
    if group is not None and role != "consumer":
        raise ConfigurationError("--group: only the role consumer has a group of its choice")
    if principal is not None and not all(principal.partition(":")):
        raise ConfigurationError("--principal: write its type and its name, such as User:prefilter-1")
    current = settings.load(bootstrap=bootstrap)
    bindings = [
        binding
        for name in ([role] if role else access_lists.ROLES)
        for binding in access_lists.bindings(name, principal or f"User:{name}", current.prefix, group)
    ]
    if apply:
        asyncio.run(access_lists.allow(current, bindings))
        done = counted(len(bindings), "access list written", "access lists written")
        say(orjson.dumps({"written": len(bindings)}).decode() if as_json else done)
    elif as_json:
        print(orjson.dumps([msgspec.to_builtins(binding) for binding in bindings]).decode())
    else:
        if current.security_protocol != "PLAINTEXT":
            say(
                f"# {access_lists.ADMIN_PROPERTIES}: security.protocol and credentials of an administrator",
                error=True,
            )
        for binding in bindings:
            say(binding.command(current))
