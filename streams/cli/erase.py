"""safeguard erase."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any

import msgspec
import orjson
import typer

from safeguard_streams.cli.options import Bootstrap, By, Json, changed_by, check_content_id, extra, show_rows
from safeguard_streams.cli.output import say
from safeguard_streams.cli.reading import shown_reading
from safeguard_streams.errors import DependencyError
from safeguard_streams.operations import erasure
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.counts import counted
from safeguard_streams.runtime.durations import moment
from safeguard_streams.runtime.settings import Settings


def _moment(until: datetime | None) -> str:
    return f"{until:%Y-%m-%d %H:%M} UTC" if until else "unknown: compacted, or odd times"


def _erase_in_console(current: Settings, content_id: str, erased_at: datetime) -> bool | None:
    """Erase an item from the console's database. None if no database is set, False if it has no tables yet."""
    if current.console_database is None:
        return None
    with extra("console"):
        from sqlalchemy.exc import DBAPIError

        from safeguard_streams.console.database import connect
        from safeguard_streams.console.erasing import erase as erase_words
    engine = connect(current)
    try:
        return erase_words(engine, content_id, erased_at)
    except DBAPIError as error:
        raise DependencyError(
            f"the item is erased on the topics, but the console's database failed ({type(error.orig).__name__}); "
            "repeat the command, or let a projector read the erasure"
        ) from None
    finally:
        engine.dispose()


def _say_referrals(result: erasure.Erasure) -> None:
    """Say what became of the item's referrals to authorities, and which a legal hold keeps."""
    if result.referrals:
        say(f"{counted(result.referrals, 'released referral was erased', 'released referrals were erased')}, too")
    for one in result.held:
        kept = " and ".join(name for name, there in (("the text", one.text), ("the author", one.author)) if there)
        say(
            f"kept: referral {one.referral_id}, under a legal hold since {one.since:%Y-%m-%d %H:%M} UTC, holds "
            f"{kept or 'neither text nor author'}; to end the hold: safeguard referrals release {one.referral_id}"
        )
    if not result.all_referrals:
        say(
            "referrals to authorities were not searched, because this user may not read moderation.referrals; one "
            "under hold keeps the text"
        )


def erase(
    content: Annotated[str, typer.Argument(metavar="CONTENT_ID", help="Id of a content item.")],
    since: Annotated[
        str | None,
        typer.Option(help="Search only records written since then: 2026-01-31T12:00:00Z, or 7d for seven days ago."),
    ] = None,
    by_key: Annotated[
        bool,
        typer.Option(
            "--by-key",
            help="Search only the partition that the id hashes to. For producers that key events by content_id and "
            "use the default partitioner.",
        ),
    ] = False,
    by: By = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Erase a content item: no stage works on its earlier events any more, and the model's rationales are erased.

    Referrals to authorities under a legal hold stay, and are named.

    Lists which other records remain, and when they expire. Kafka can erase single records only in compacted topics, and
    only rationales are in such a topic. All other records expire with the retention of their topic. Where
    SAFEGUARD_CONSOLE_DATABASE is set, the item's words are removed there, too, at once.
    """
    check_content_id(content)
    current = settings.load(bootstrap=bootstrap)
    search = erasure.Search(moment(since, "--since") if since else None, by_key)
    with shown_reading() as reading:
        result = asyncio.run(erasure.erase(current, content, changed_by("", by), search))
    in_console = _erase_in_console(current, content, result.erased_at)
    if as_json:
        found = {**msgspec.to_builtins(result), "left_out": reading.left_out.total(), "console": in_console}
        print(orjson.dumps(found).decode())
        return
    say(f"no stage works any more on what was written about the item by {result.erased_at:%Y-%m-%d %H:%M:%S} UTC")
    if in_console:
        say("the console's database holds no words about it any more")
    erased = counted(result.rationales, "rationale was erased", "rationales were erased")
    say(f"{erased}; compaction removes them from the brokers' disks by {result.by:%Y-%m-%d %H:%M} UTC")
    if not result.all_rationales:
        say(
            "rationales whose verdict has expired were not searched, because this user may not read "
            "moderation.rationales; repeat the command as a user who may read and write it"
        )
    _say_referrals(result)
    rows: list[dict[str, Any]] = [
        {
            "topic": remaining.topic,
            "records": remaining.records,
            "holds": ", ".join(name for name in ("text", "author") if getattr(remaining, name)),
            "may quote it in": ", ".join(remaining.quotes),
            "gone by": _moment(remaining.until),
        }
        for remaining in result.remains
    ]
    none = "no other records remain" if result.rationales else f"no record is about {content}: check the id"
    show_rows(rows, none, as_json=False)
    say("not searched:")
    for place in result.elsewhere:
        say(f"- {place}")
