"""safeguard demo."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Annotated, Any

import typer

from safeguard_streams.cli.options import Bootstrap, Json
from safeguard_streams.cli.output import console
from safeguard_streams.errors import ConfigurationError


def demo(
    events: Annotated[
        str | None, typer.Option(metavar="FILE", help="Publish these JSON lines instead; - for standard input.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Publish only the first COUNT events.")] = None,
    rate: Annotated[float, typer.Option(min=0.1, help="Events per second.")] = 40.0,
    keep: Annotated[
        bool, typer.Option("--keep", help="Serve the console afterwards, and keep all running until Ctrl-C.")
    ] = False,
    faults: Annotated[
        bool,
        typer.Option("--faults/--no-faults", help="Kill a prefilter and a reasoner at work, restart both, and count."),
    ] = True,
    replay: Annotated[
        bool,
        typer.Option(
            "--replay",
            help="Add an act: the policy on hate becomes lenient, past content is judged again and compared, and posts "
            "removed for mere insults are restored.",
        ),
    ] = False,
    bootstrap: Bootstrap = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="DIR_OR_NAME", help="Reasoning model; default 'small', the one in the package."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the whole pipeline on this machine on texts that people had labelled.

    Starts Apache Kafka where Java and Maven are installed, else the embedded broker. Starts the prefilter, the reasoner
    and enforcement, publishes events, kills two processes at work, and counts the answers. Shows how many labelled
    texts were found, and some of them from text to action. Exits with status 0 only if every event was answered, and
    on Kafka exactly once.
    """
    try:
        from safeguard_streams.demo.run import Demo, Options
        from safeguard_streams.demo.show import WIDTH
    except ImportError as error:
        raise ConfigurationError(
            f"{error.name} is not installed here: pip install 'safeguard-streams[demo]'"
        ) from error
    options = Options(events, count, rate, keep, bootstrap, model, faults, replay, as_json)
    wide = console(stderr=as_json)
    wide.width = WIDTH

    async def work() -> int:
        running = asyncio.current_task()
        assert running is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, running.cancel)
        demo = Demo(options, wide)
        try:
            await demo.run()
        except asyncio.CancelledError:
            if demo.summary is None:
                print("interrupted; all processes are stopped", file=sys.stderr)
                return 130
        return 0 if demo.summary is not None and _complete(demo.summary) else 1

    raise typer.Exit(asyncio.run(work()))


def _complete(summary: dict[str, Any]) -> bool:
    """Whether every event was answered, on Kafka exactly once, and enforcement acted on every promoted verdict."""
    second_act = summary.get("replay", {"followed": 0, "due": 0})
    again = summary["duplicates"] if summary["transactional"] else 0
    return not summary["unanswered"] and not again and second_act["followed"] == second_act["due"]
