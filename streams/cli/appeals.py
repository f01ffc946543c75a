"""safeguard appeals."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, get_args

import msgspec
import orjson
import typer

from safeguard_streams.bus import kafka
from safeguard_streams.cli.options import (
    Bootstrap,
    By,
    Json,
    changed_by,
    check_content_id,
    one_of,
    show_rows,
)
from safeguard_streams.cli.output import say
from safeguard_streams.cli.reading import shown_reading
from safeguard_streams.cli.texts import Labelled, Texts, show_item
from safeguard_streams.client.event_files import Line, LineProblem, lines_of, named
from safeguard_streams.client.publisher import ReadyRecord, ready_appeal, ready_appeal_line, send_ready
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Appeal, Appellant, Enforced, now
from safeguard_streams.enforcement import appeal_figures, appeal_outcomes
from safeguard_streams.enforcement.appeal_outcomes import ListedAppeal, Outcome
from safeguard_streams.enforcement.decisions import Cited
from safeguard_streams.enforcement.places import locate
from safeguard_streams.errors import ConfigurationError, RecordError
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.counts import counted
from safeguard_streams.runtime.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Take appeals in, look at them, and decide them as a second person.")
AppealId = Annotated[str, typer.Argument(metavar="APPEAL_ID", help="Id of an appeal.")]
_SHOWN = 10  # lines that messages explain at most


@app.command("publish")
def publish(
    file: Annotated[str, typer.Argument(help="JSON lines, one appeal each; - for standard input.")],
    check: Annotated[
        bool, typer.Option("--check", help="Check the file without publishing it; needs no broker.")
    ] = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Publish appeals to moderation.appeals. Exit with status 1, and publish nothing, if some lines are no appeals.

    An appeal holds content_id, appellant (author or notifier), created_at, action_id or verdict_id, and optionally
    appeal_id, reason, new_context, language and origin.
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
        print(orjson.dumps({"published": published, "appeals": len(ready), "invalid": problems}).decode())
    else:
        say(f"published {counted(len(ready), 'appeal')}" if send else counted(len(ready), "appeal"))
    for one in invalid[:_SHOWN]:
        say(f"line {one.line.number}: no appeal: {one.reason}", error=True)
    if invalid:
        count = counted(len(lines), "line is no appeal", "lines are no appeals")
        say(f"{len(invalid):,} of {count}: {named([one.line for one in invalid])}. Nothing was published", error=True)
        raise typer.Exit(1)


def _checked(lines: Sequence[Line]) -> tuple[list[ReadyRecord], list[LineProblem]]:
    ready, invalid = [], []
    for line in lines:
        try:
            ready.append(ready_appeal_line(line.value))
        except RecordError as error:
            invalid.append(LineProblem(line, str(error)))
    return ready, invalid


@app.command("add")
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
    await _send(current, [ready_appeal(appeal)._replace(partition=known.partition)])
    return appeal


async def _send(current: Settings, ready: Sequence[ReadyRecord]) -> None:
    async with kafka.producer(current) as producer:
        await send_ready(producer, current.prefix + topics.APPEALS, ready)


@app.command("list")
def show_all(
    every: Annotated[bool, typer.Option("--all/--open", help="List all appeals, or those that are open.")] = False,
    texts: Texts = True,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """List appeals, the first due first, with what the appellants say; --json prints a line for each.

    Of an item, all open appeals are known, and the last that ended.
    """
    current = settings.load(bootstrap=bootstrap)
    with shown_reading():
        found = asyncio.run(appeal_outcomes.listed(current, only_open=not every, words=texts))
    if as_json:
        for one in found:
            print(msgspec.json.encode(one).decode())
        return
    if not found:
        say("no appeals" if every else "no appeals are open")
    elif texts:
        for one in found:
            _show(one)
    else:
        show_rows([_row(one) for one in found], "", as_json=False)
    if found and not every:
        say()
        say("decide: safeguard appeals decide APPEAL_ID --uphold|--overturn --reason REASON")


@app.command("show")
def show(appeal_id: AppealId, bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """Show one appeal: what the appellant says, its deadline, and who decided before and may not decide it."""
    current = settings.load(bootstrap=bootstrap)
    with shown_reading():
        found = asyncio.run(appeal_outcomes.shown(current, appeal_id))
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    _show(found)
    say()
    say(f"read the item: safeguard content show {found.content_id}")


def _row(one: ListedAppeal) -> dict[str, Any]:
    state = "overdue" if one.overdue else one.state
    return {
        "appeal": one.appeal_id,
        "item": one.content_id,
        "by_the": one.appellant,
        "state": f"{state}, by {one.by}" if one.by else state,
        "in_effect": one.in_effect,
        "due": one.due_at.isoformat(timespec="seconds"),
    }


def _show(one: ListedAppeal) -> None:
    row = _row(one)
    lines = [Labelled(key.replace("_", " "), str(row[key])) for key in ("item", "by_the", "state", "in_effect", "due")]
    said = (("says", one.reason), ("adds", one.new_context), ("not by", ", ".join(one.not_by)))
    show_item(one.appeal_id, [*lines, *(Labelled(label, text) for label, text in said if text)])


@app.command("decide")
def decide(
    appeal_id: AppealId,
    uphold: Annotated[
        bool | None,
        typer.Option("--uphold/--overturn", help="Leave what stands as it is, or reverse it.", show_default=False),
    ] = None,
    action: Annotated[
        str | None,
        typer.Option(
            parser=one_of("action", get_args(Enforced)),
            metavar="|".join(get_args(Enforced)),
            help="What is to stand after --overturn; default: allow, for an author's appeal.",
        ),
    ] = None,
    reason: Annotated[str, typer.Option(help="Reason, for the history.")] = "",
    policy: Annotated[str | None, typer.Option(help="Policy that the decision cites.")] = None,
    rule: Annotated[str | None, typer.Option(help="Rule of that policy.")] = None,
    by: By = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Decide an appeal, as somebody who has not decided about the item before.

    The agent refuses the outcome of anybody else, however it is written. It tells people apart by the name of --by.
    Exit with status 1 if somebody else decided the appeal at the same moment.
    """
    if uphold is None:
        raise ConfigurationError("say --uphold or --overturn")
    if uphold and action is not None:
        raise ConfigurationError("--action goes with --overturn")
    if not reason.strip():
        raise ConfigurationError("--reason: give one; the appellant has a right to it")
    moderator, outcome = changed_by(reason, by), _outcome(uphold=uphold)
    chosen: Enforced | None = next((one for one in get_args(Enforced) if one == action), None)
    current = settings.load(bootstrap=bootstrap)
    with shown_reading():
        done = asyncio.run(
            appeal_outcomes.decide(current, appeal_id, outcome, moderator, action=chosen, cited=Cited(policy, rule))
        )
    if as_json:
        print(msgspec.json.encode(done).decode())
    elif done.state == "open":
        say(f"{appeal_id}: {outcome}, written; the enforcement agent has not followed it yet")
    else:
        say(f"{appeal_id}: {done.state} by {done.by or 'the agent'}")
    if done.state not in ("open", outcome) or (done.by is not None and done.by != moderator.by):
        raise typer.Exit(1)


def _outcome(*, uphold: bool) -> Outcome:
    return "upheld" if uphold else "overturned"


@app.command("summary")
def summary(
    appellant: Annotated[
        str | None,
        typer.Option(
            parser=one_of("appellant", get_args(Appellant)),
            metavar="|".join(get_args(Appellant)),
            help="Count only appeals of authors, or of notifiers.",
        ),
    ] = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Count appeals: open, overdue, decided; the share overturned with its 95% interval; the median time."""
    current = settings.load(bootstrap=bootstrap)
    with shown_reading():
        found = asyncio.run(appeal_outcomes.listed(current, only_open=False, words=False))
    counts = appeal_figures.summed([one for one in found if appellant in (None, one.appellant)])
    if as_json:
        print(msgspec.json.encode(counts).decode())
        return
    say(f"open: {counts.open:,}, of which overdue: {counts.overdue:,}")
    say(f"decided: {counts.decided:,}; moot: {counts.moot:,}; refused: {counts.refused:,}")
    say(f"overturned: {counts.reversed}")
    say("median time to a decision: " + ("-" if counts.hours is None else f"{counts.hours:.1f} hours"))
