"""The commands `safeguard dead-letters`: list and show them, requeue the records that they hold, or discard them."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Annotated, Any

import msgspec
import orjson
import typer

from safeguard_streams.bus import kafka
from safeguard_streams.cli.options import Bootstrap, By, Json, changed_by, check_content_id
from safeguard_streams.cli.output import Table, console, say
from safeguard_streams.cli.reading import shown_reading
from safeguard_streams.contract.records import DeadLetter
from safeguard_streams.errors import ConfigurationError, RecordError
from safeguard_streams.operations import dead_letters, requeueing
from safeguard_streams.operations.dead_letters import FoundLetter, LetterFilter, LetterPlace
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.counts import counted
from safeguard_streams.runtime.durations import moment
from safeguard_streams.runtime.process import configure_logging

app = typer.Typer(no_args_is_help=True, help="Records that could not be processed.")
_SHOWN_KEPT = 20
_SHOWN_VALUE = 2000  # characters

Ids = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ID]...", help="Only these letters, by the ids that the list shows, such as 0@17."),
]
StageOption = Annotated[str | None, typer.Option("--stage", help="Only letters of this stage, such as prefilter.")]
ReasonOption = Annotated[
    str | None, typer.Option("--reason", help="Only letters whose error or reason contains this text.")
]
SinceOption = Annotated[
    str | None,
    typer.Option("--since", help="Only letters of this time or later: 2026-01-31T12:00:00Z, or 2h for two hours ago."),
]
ContentOption = Annotated[
    str | None, typer.Option("--content", metavar="ID", help="Only letters about this content item.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Skip the confirmation.")]


def _filter(
    ids: list[str] | None, stage: str | None, reason: str | None, since: str | None, content: str | None
) -> LetterFilter:
    check_content_id(content)
    after = moment(since, "--since") if since is not None else None
    return dead_letters.letter_filter(ids or (), stage=stage, reason=reason, since=after, content_id=content)


@app.command("list")
def show_all(
    state: Annotated[
        str, typer.Option(help="Only letters in this state: waiting, requeued, discarded, or all.")
    ] = "waiting",
    stage: StageOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    content: ContentOption = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """List the dead letters that wait, oldest first in each partition, and count the others.

    With --json, print one whole dead letter per line, content included.
    """
    wanted = _filter(None, stage, reason, since, content)
    shown = dead_letters.letter_filter(state=None if state == "all" else state).state
    current = settings.load(bootstrap=bootstrap)
    table = Table(box=None)
    for name in ("id", "state", "stage", "failed at"):
        table.add_column(name, no_wrap=True)
    table.add_column("attempts", justify="right")
    table.add_column("reason", overflow="fold")
    others: Counter[str] = Counter()

    async def read() -> None:
        await kafka.wait_for_broker(current, timeout=kafka.COMMAND_SECONDS)
        async for found in dead_letters.read(current, wanted):
            if shown not in {None, found.state}:
                others[found.state] += 1
            elif as_json:
                print(orjson.dumps(_keys(found)).decode())
            else:
                table.add_row(*_row(found))

    with shown_reading():
        asyncio.run(read())
    if not as_json:
        if table.row_count:
            console().print(table)
        else:
            say(f"no dead letters are {shown}" if shown else "no dead letters")
        if others:
            counts = ", ".join(f"{count:,} {name}" for name, count in sorted(others.items()))
            say(f"{counts}; see: safeguard dead-letters list --state all", error=True)


def _row(found: FoundLetter) -> list[str]:
    letter = found.letter
    moment = letter.failed_at.isoformat(timespec="seconds").replace("+00:00", "Z")
    return [found.place.id, found.state, letter.stage, moment, str(letter.attempts), letter.reason]


def _keys(found: FoundLetter) -> dict[str, Any]:
    """A letter for programs: its id, its state and what was done with it, and all of its fields."""
    handled = None if found.handled is None else msgspec.to_builtins(found.handled)
    return {
        "id": found.place.id,
        "state": found.state,
        "handled": handled,
        "content_ids": sorted(dead_letters.content_ids_of(found.letter)),
        **msgspec.to_builtins(found.letter),
    }


@app.command("show")
def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="The letter's id in the list, such as 0@17.")],
    no_texts: Annotated[bool, typer.Option("--no-texts", help="Leave the record's value out.")] = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Show one dead letter: what failed and why, what was done with it, and the record that it holds."""
    dead_letters.letter_filter([letter_id])
    current = settings.load(bootstrap=bootstrap)

    async def work() -> FoundLetter:
        await kafka.wait_for_broker(current, timeout=kafka.COMMAND_SECONDS)
        return await dead_letters.find(current, letter_id)

    found = asyncio.run(work())
    if as_json:
        print(orjson.dumps(_keys(found), option=orjson.OPT_INDENT_2).decode())
        return
    for name, value in _lines(found, with_value=not no_texts):
        say(f"{name:<13} {value}")


def _lines(found: FoundLetter, *, with_value: bool) -> list[tuple[str, object]]:
    letter = found.letter
    origin = letter.origin
    lines: list[tuple[str, object]] = [
        ("id", found.place.id),
        ("state", found.state if found.handled is None else _handled(found)),
        ("stage", letter.stage),
        ("failed at", letter.failed_at.isoformat(timespec="seconds").replace("+00:00", "Z")),
        ("attempts", letter.attempts),
        ("from", f"{origin.topic}[{origin.partition}]@{origin.offset}"),
        ("error", letter.error),
        ("field", letter.field or ""),
        ("reason", letter.reason),
        ("content items", ", ".join(sorted(dead_letters.content_ids_of(letter)))),
        ("bytes", _size(letter)),
    ]
    if with_value:
        lines.append(("value", _value(letter)))
    return [(name, value) for name, value in lines if value not in {"", None}]


def _handled(found: FoundLetter) -> str:
    handled = found.handled
    assert handled is not None
    moment = handled.handled_at.isoformat(timespec="seconds").replace("+00:00", "Z")
    return f"{handled.state} {moment} by {handled.handled_by}" + (f": {handled.why}" if handled.why else "")


def _size(letter: DeadLetter) -> int:
    return letter.value_bytes if letter.value_bytes is not None else len(letter.value or "") * 3 // 4


def _value(letter: DeadLetter) -> str:
    """The record's value as text, shortened."""
    try:
        value = letter.original().value
    except RecordError as error:
        return f"({error})"
    if value is None:
        return "(none: a tombstone)"
    text = value.decode(errors="backslashreplace")
    more = len(text) - _SHOWN_VALUE
    return text if more <= 0 else f"{text[:_SHOWN_VALUE]} ... {counted(more, 'character')} more; see --json"


@app.command("retry")
def retry(
    ids: Ids = None,
    stage: StageOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    content: ContentOption = None,
    yes: Yes = False,
    by: By = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Requeue the dead letters that wait, or some of them, to the topics that their stages read, exactly once.

    Shows the numbers and asks for confirmation, except with --json. Letters go on waiting if their record is not whole,
    if their stage does not read the topic that they name, or if their item was erased. A header counts the attempts. A
    record that fails again becomes a new dead letter.
    """
    wanted, operator = _filter(ids, stage, reason, since, content), changed_by("", by)
    current = settings.load(bootstrap=bootstrap)
    configure_logging("WARNING")

    async def work() -> requeueing.RequeuePlan:
        await kafka.wait_for_broker(current, timeout=kafka.COMMAND_SECONDS)
        return await requeueing.plan(current, wanted)

    with shown_reading() as reading:
        planned = asyncio.run(work())
    _show_plan(planned)
    if planned.letters and not (yes or as_json) and not typer.confirm(f"requeue {len(planned.letters):,}?", err=True):
        raise typer.Exit(1)
    count = asyncio.run(requeueing.requeue(current, planned, operator)) if planned.letters else 0
    if as_json:
        result = {"retried": count, "kept": planned.kept, "left_out": reading.left_out.total()}
        print(msgspec.json.encode(result).decode())
    else:
        say(f"requeued {count}")


def _show_plan(planned: requeueing.RequeuePlan) -> None:
    """Print what would be requeued, and what stays, on standard error."""
    for (stage, topic), count in sorted(planned.counts.items()):
        say(f"{counted(count, 'letter')} of {stage} to requeue to {topic}", error=True)
    for letter in planned.kept[:_SHOWN_KEPT]:
        say(f"{letter.letter} of {letter.stage} from {letter.origin} stays: {letter.why}", error=True)
    if (more := len(planned.kept) - _SHOWN_KEPT) > 0:
        say(f"{counted(more, 'more letter stays', 'more letters stay')}; see --json", error=True)


@app.command("discard")
def discard(
    why: Annotated[str, typer.Option(help="Reason, for the record.")],
    ids: Ids = None,
    stage: StageOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    content: ContentOption = None,
    every: Annotated[bool, typer.Option("--all", help="Discard all that wait, without ids or filters.")] = False,
    yes: Yes = False,
    by: By = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Give dead letters up. They stay on their topic until it expires, and the list shows who gave them up and why.

    Shows the numbers and asks for confirmation, except with --json.
    """
    wanted, operator = _filter(ids, stage, reason, since, content), changed_by(why, by)
    if not why.strip():
        raise ConfigurationError("--why is empty: say why these letters are given up")
    if (wanted == LetterFilter()) is not every:
        raise ConfigurationError("name the letters by ids or filters, or all that wait by --all alone")
    current = settings.load(bootstrap=bootstrap)
    configure_logging("WARNING")

    async def work() -> list[tuple[LetterPlace, str]]:
        await kafka.wait_for_broker(current, timeout=kafka.COMMAND_SECONDS)
        return await dead_letters.places(current, wanted)

    with shown_reading():
        found = asyncio.run(work())
    for stage_found, count in sorted(Counter(stage_of for _, stage_of in found).items()):
        say(f"{counted(count, 'letter')} of {stage_found} to discard", error=True)
    if found and not (yes or as_json) and not typer.confirm(f"discard {len(found):,}?", err=True):
        raise typer.Exit(1)
    places = [place for place, _ in found]
    count = asyncio.run(dead_letters.discard(current, places, operator)) if places else 0
    if as_json:
        print(orjson.dumps({"discarded": count}).decode())
    else:
        say(f"discarded {count}")
