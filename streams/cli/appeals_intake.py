"""`safeguard appeals publish` and `add`: appeals from a platform, by file or one by one."""

from __future__ import annotations

import asyncio
from typing import Annotated, get_args

import msgspec
import orjson
import typer

from safeguard_streams.bus import kafka
from safeguard_streams.cli.options import Bootstrap, Json, check_content_id, one_of
from safeguard_streams.cli.output import say
from safeguard_streams.cli.reading import shown_reading
from safeguard_streams.cli.record_files import CheckOnly, RecordKind, publish_all_or_none, send_records
from safeguard_streams.client.publisher import ready_appeal, ready_appeal_line
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Appeal, Appellant, now
from safeguard_streams.enforcement.places import locate
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.settings import Settings

_APPEALS = RecordKind("appeal", topics.APPEALS, ready_appeal_line)


def publish(
    file: Annotated[str, typer.Argument(help="JSON lines, one appeal each; - for standard input.")],
    check: CheckOnly = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Publish appeals to moderation.appeals. Exit with status 1, and publish nothing, if some lines are no appeals.

    An appeal holds content_id, appellant (author or notifier), created_at, action_id or verdict_id, and optionally
    appeal_id, reason, new_context, language and origin.
    """
    publish_all_or_none(file, _APPEALS, check=check, bootstrap=bootstrap, as_json=as_json)


def add(
    content: Annotated[str, typer.Argument(metavar="CONTENT_ID", help="Id of a content item.")],
    action: Annotated[str | None, typer.Option("--action-id", help="Action that is appealed.")] = None,
    verdict: Annotated[str | None, typer.Option("--verdict-id", help="Verdict that is appealed.")] = None,
    appellant: Annotated[
        str,
        typer.Option(
            parser=one_of("appellant", get_args(Appellant)),
            metavar="|".join(get_args(Appellant)),
            help="Who appeals: the item's author, or a notifier whose report changed nothing.",
        ),
    ] = "author",
    reason: Annotated[str, typer.Option(help="What the appellant says, for moderators.")] = "",
    new_context: Annotated[str, typer.Option(help="What the decision did not know, for moderators.")] = "",
    language: Annotated[str | None, typer.Option(metavar="TAG", help="Language of the appeal, as in en.")] = None,
    appeal_id: Annotated[
        str, typer.Option("--appeal-id", help="Your id of the appeal; default: one made of the rest.")
    ] = "",
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Appeal an action or a verdict about a content item, as the platform does for an appellant.

    Finds the partition of the item's records. Name the action, the verdict, or both.
    """
    check_content_id(content)
    if action is None and verdict is None:
        raise ConfigurationError("name what is appealed by --action-id or --verdict-id; see: safeguard enforce show")
    said = (appeal_id, action, verdict, reason, new_context, language)
    kind: Appellant = next(one for one in get_args(Appellant) if one == appellant)
    appeal = Appeal(content, kind, now(), *said)
    ready_appeal(appeal)  # what is too long is refused before anything is read
    current = settings.load(bootstrap=bootstrap)
    with shown_reading():
        placed = asyncio.run(_add(current, appeal))
    if as_json:
        print(orjson.dumps({"appeal_id": placed.identity, "content_id": content}).decode())
    else:
        say(f"the appeal of {content} is published as {placed.identity}")


async def _add(current: Settings, appeal: Appeal) -> Appeal:
    await kafka.wait_for_broker(current, timeout=kafka.COMMAND_SECONDS)
    known = await locate(current, appeal.content_id)
    appeal = msgspec.structs.replace(appeal, origin=known.origin)
    await send_records(current, _APPEALS, [ready_appeal(appeal)._replace(partition=known.partition)])
    return appeal
