"""safeguard verdicts."""

from __future__ import annotations

import asyncio
import contextlib
import textwrap
from typing import Annotated, get_args

import typer

from safeguard_streams.bus import kafka
from safeguard_streams.cli.options import Bootstrap, Json, check_content_id
from safeguard_streams.cli.output import console, plain, say
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Decision, Verdict, encode, in_utc
from safeguard_streams.errors import ConfigurationError, ForbiddenError
from safeguard_streams.operations import tail as tailing
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.durations import moment
from safeguard_streams.runtime.process import Stop, run_until_first

app = typer.Typer(no_args_is_help=True, help="Follow verdicts.")
_ONE_LINE = 150  # columns that a verdict needs on one line; in a narrower terminal it takes two or more
_HEADER = f"{'time':<20} {'decision':<12} {'score':<5} {'policy':<18} {'rules':<8}"


@app.command("tail")
def tail(
    last: Annotated[
        int | None, typer.Option("--last", "-n", min=0, help="Begin with the last N verdicts that fit the filters.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Begin with verdicts written at this time: 2026-01-31T12:00:00Z, or 2h for two hours ago."),
    ] = None,
    from_beginning: Annotated[
        bool, typer.Option(help="Begin with the oldest verdict instead of the next one.")
    ] = False,
    stop_at_end: Annotated[
        bool,
        typer.Option("--exit", help="End at the end of the topic; without -n and --since, begin with the oldest."),
    ] = False,
    content: Annotated[str | None, typer.Option(metavar="ID", help="Only verdicts on this content item.")] = None,
    policy: Annotated[str | None, typer.Option(help="Only verdicts under this policy.")] = None,
    rule: Annotated[str | None, typer.Option(help="Only verdicts that cite this rule.")] = None,
    decision: Annotated[str | None, typer.Option(help="Only this decision: violates, safe or undetermined.")] = None,
    author: Annotated[str | None, typer.Option(metavar="ID", help="Only verdicts on items of this author.")] = None,
    surface: Annotated[
        str | None, typer.Option(help="Only the reasoner's verdicts on this surface, whatever its case.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Only the reasoner's verdicts in this language: en covers en-US.")
    ] = None,
    cleared: Annotated[bool, typer.Option(help="Include verdicts of items that the prefilter cleared.")] = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Follow verdicts as they are published, until Ctrl-C."""
    check_content_id(content)
    start = tailing.Start(last is None and (from_beginning or stop_at_end or since is not None), last)
    if from_beginning and (last is not None or since is not None):
        raise ConfigurationError("--from-beginning shows every verdict: leave out -n and --since")
    wanted = tailing.VerdictFilter(
        policy,
        rule,
        _decision(decision),
        content,
        moment(since, "--since") if since is not None else None,
        author,
        surface,
        language,
    )
    current = settings.load(bootstrap=bootstrap)
    names = [topics.VERDICTS, topics.CLEARED] if cleared else [topics.VERDICTS]
    lines = None if as_json else _Lines()

    async def follow() -> None:
        await kafka.wait_for_broker(current, timeout=kafka.COMMAND_SECONDS)
        with contextlib.suppress(ForbiddenError):  # a user who may read verdicts only
            await tailing.check_names(current, wanted)
        if lines:
            lines.show_header()
        verdicts = tailing.tail(current, names, wanted, start, follow=not stop_at_end)
        async with contextlib.aclosing(verdicts):
            async for verdict in verdicts:
                if lines:
                    lines.show(verdict)
                else:
                    print(encode(verdict).decode(), flush=True)

    async def work() -> None:
        with Stop() as stop:
            await run_until_first(follow(), stop.event.wait())

    with kafka.watched(kafka.Reading()) as reading:
        asyncio.run(work())
    if left_out := str(reading):
        say(left_out, error=True)


def _decision(given: str | None) -> Decision | None:
    """Raises ConfigurationError for a word that is no decision."""
    for decision in get_args(Decision):
        if given == decision:
            known: Decision = decision
            return known
    if given is not None:
        raise ConfigurationError(f"--decision: violates, safe or undetermined, not {given}")
    return None


class _Lines:
    """Prints verdicts below a header: on one line each or, in a narrow terminal, on lines that keep ids whole."""

    def __init__(self) -> None:
        self._width = console().width
        self._wide = self._width >= _ONE_LINE

    def show_header(self) -> None:
        item = "content item  reason"
        _print([f"{_HEADER} {item}"] if self._wide else [_HEADER.rstrip(), f"  {item}"])

    def show(self, verdict: Verdict) -> None:
        score = "" if verdict.score is None else f"{verdict.score:.2f}"
        rules = ",".join(verdict.rule_ids)
        at = in_utc(verdict.decided_at)
        judged = plain(f"{at:%Y-%m-%dT%H:%M:%SZ} {verdict.decision:<12} {score:<5} {verdict.policy_id:<18} {rules:<8}")
        constrained = "(constrained)" if verdict.answer == "constrained" else ""
        item = plain(f"{verdict.content_id}  {verdict.reason or ''} {constrained}".rstrip())
        if self._wide:
            lines = [f"{judged} {item}"]
        else:
            wrapped = textwrap.wrap(item, self._width - 2, break_long_words=False, break_on_hyphens=False)
            lines = [judged.rstrip(), *(f"  {part}" for part in wrapped)]
        _print(lines)


def _print(lines: list[str]) -> None:
    print("\n".join(lines), flush=True)
