"""safeguard reports."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, get_args

import orjson
import typer

from safeguard_streams.bus import kafka
from safeguard_streams.cli.options import Bootstrap, Json, check_content_id, one_of
from safeguard_streams.cli.output import say
from safeguard_streams.cli.reading import shown_reading
from safeguard_streams.client.event_files import Line, LineProblem, lines_of, named
from safeguard_streams.client.publisher import ReadyRecord, ready_line, ready_report, send_ready
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import ContentReport, Reporter, now
from safeguard_streams.errors import RecordError
from safeguard_streams.releases.texts import newest_event
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.counts import counted
from safeguard_streams.runtime.durations import moment
from safeguard_streams.runtime.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Report content items: the model judges them whatever the gates say.")
_SHOWN = 10  # lines that messages explain at most


@app.command("publish")
def publish(
    file: Annotated[str, typer.Argument(help="JSON lines, one report each; - for standard input.")],
    check: Annotated[
        bool, typer.Option("--check", help="Check the file without publishing it; needs no broker.")
    ] = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Publish reports to content.reports. Exit with status 1, and publish nothing, if some lines are no reports.

    A report holds the event as it was published: report_id, event, reporter (user, trusted_flagger or authority),
    reported_at, and optionally reason, policies and origin.
    """
    current = settings.load(bootstrap=bootstrap)
    lines = lines_of(file)
    ready, invalid = _checked(lines)
    send = not check and not invalid
    if send:
        asyncio.run(_send(current, ready))
    if as_json:
        problems = [{"line": one.line.number, "reason": one.reason} for one in invalid]
        published = len(ready) if send else 0
        print(orjson.dumps({"published": published, "reports": len(ready), "invalid": problems}).decode())
    else:
        say(f"published {counted(len(ready), 'report')}" if send else counted(len(ready), "report"))
    for one in invalid[:_SHOWN]:
        say(f"line {one.line.number}: no report: {one.reason}", error=True)
    if invalid:
        count = counted(len(lines), "line is no report", "lines are no reports")
        say(f"{len(invalid):,} of {count}: {named([one.line for one in invalid])}. Nothing was published", error=True)
        raise typer.Exit(1)


def _checked(lines: Sequence[Line]) -> tuple[list[ReadyRecord], list[LineProblem]]:
    ready, invalid = [], []
    for line in lines:
        try:
            ready.append(ready_line(line.value))
        except RecordError as error:
            invalid.append(LineProblem(line, str(error)))
    return ready, invalid


@app.command("add")
def add(
    content: Annotated[str, typer.Argument(metavar="CONTENT_ID", help="Id of a content item on content.events.")],
    reason: Annotated[str, typer.Option(help="What the reporter says. Moderators see it, the model does not.")] = "",
    reporter: Annotated[
        str,
        typer.Option(
            parser=one_of("reporter", get_args(Reporter)),
            metavar="|".join(get_args(Reporter)),
            help="Who reports the item.",
        ),
    ] = "user",
    policy: Annotated[
        list[str] | None, typer.Option(help="Judge under this policy; repeatable; default: all that cover the item.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Look for events written since then: 2026-01-31T12:00:00Z, or 7d for seven days ago."),
    ] = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Report a content item by its id. Finds its newest text on content.events, and reports that.

    Reads the partition that the id hashes to, and all others only if it holds no text of the item.
    """
    check_content_id(content)
    start = moment(since, "--since") if since else None
    current = settings.load(bootstrap=bootstrap)
    with shown_reading():
        report = asyncio.run(_add(current, content, start, (reporter, reason, policy or ())))
    if as_json:
        print(orjson.dumps({"report_id": report.report_id, "origin": report.origin}).decode())
    else:
        say(f"reported {content}, whose text is at {report.origin}, as {report.report_id}")


async def _add(
    current: Settings, content_id: str, since: datetime | None, said: tuple[str, str, Sequence[str]]
) -> ContentReport:
    await kafka.wait_for_broker(current, timeout=kafka.COMMAND_SECONDS)
    event, origin = await newest_event(current, content_id, since)
    kind: Reporter = next(one for one in get_args(Reporter) if one == said[0])
    report = ContentReport(uuid.uuid4().hex, event, kind, now(), said[1], tuple(said[2]), origin)
    await _send(current, [ready_report(report)])
    return report


async def _send(current: Settings, ready: Sequence[ReadyRecord]) -> None:
    async with kafka.producer(current) as producer:
        await send_ready(producer, current.prefix + topics.REPORTS, ready)
