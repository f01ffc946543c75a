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
from safeguard_streams.cli.record_files import CheckOnly, RecordKind, publish_all_or_none, send_records
from safeguard_streams.client.publisher import ready_line, ready_report
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import ContentReport, Reporter, now
from safeguard_streams.releases.texts import newest_event
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.durations import moment
from safeguard_streams.runtime.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Report content items: the model judges them whatever the gates say.")
_REPORTS = RecordKind("report", topics.REPORTS, ready_line)


@app.command("publish")
def publish(
    file: Annotated[str, typer.Argument(help="JSON lines, one report each; - for standard input.")],
    check: CheckOnly = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Publish reports to content.reports. Exit with status 1, and publish nothing, if some lines are no reports.

    A report holds the event as it was published: report_id, event, reporter (user, trusted_flagger or authority),
    reported_at, and optionally reason, policies and origin.
    """
    publish_all_or_none(file, _REPORTS, check=check, bootstrap=bootstrap, as_json=as_json)


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
    await send_records(current, _REPORTS, [ready_report(report)])
    return report
