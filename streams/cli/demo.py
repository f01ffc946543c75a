"""safeguard demo."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Annotated, Any

import typer

from safeguard_streams.cli.options import Bootstrap, Json, console
from safeguard_streams.errors import ConfigurationError, SafeguardError


def demo(
    events: Annotated[
        str | None, typer.Option(metavar="FILE", help="JSON lines of your own; - for standard input.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Publish only so many events.")] = None,
    rate: Annotated[float, typer.Option(min=0.1, help="Events per second.")] = 40.0,
    keep: Annotated[bool, typer.Option("--keep", help="Stay up after the summary, until Ctrl-C.")] = False,
    replay: Annotated[
        bool,
        typer.Option(
            "--replay",
            help="A second act: enforcement follows the verdicts, the policy on hate becomes lenient, the past is judged again "
            "and compared, and what was removed for mere insults comes back.",
        ),
    ] = False,
    bootstrap: Bootstrap = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="DIR_OR_NAME", help="Reasoning model; default 'small', the one in the package."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the whole pipeline on this machine and show what becomes of real texts.

    Starts the embedded broker (or uses --bootstrap), creates the topics, releases the policies, starts
    'safeguard prefilter run' and 'safeguard reason run', publishes events and follows their verdicts.
    Exit status 0 only if every event was answered.
    """
    try:
        from safeguard_streams.demo.run import Demo, Options
        from safeguard_streams.infra.brokers import BrokerError
    except ImportError as error:
        raise ConfigurationError(
            f"{error.name} is not installed here: pip install 'safeguard-streams[demo]'"
        ) from error
    options = Options(events, count, rate, keep, bootstrap, model, replay, as_json)

    async def work() -> int:
        running = asyncio.current_task()
        assert running is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, running.cancel)
        run = Demo(
            options,
            lambda line: print(line, file=sys.stderr if as_json else sys.stdout, flush=True),
            console(stderr=as_json),
        )
        try:
            await run.run()
        except asyncio.CancelledError:
            if run.summary is None:
                print("interrupted; everything is stopped", file=sys.stderr)
                return 130
        return 0 if run.summary is not None and _whole(run.summary) else 1

    try:
        status = asyncio.run(work())
    except BrokerError as error:
        raise SafeguardError(str(error)) from error
    raise typer.Exit(status)


def _whole(summary: dict[str, Any]) -> bool:
    """Whether every event was answered, and every promoted verdict followed."""
    second = summary.get("replay", {"followed": 0, "due": 0})
    return not summary["unanswered"] and second["followed"] == second["due"]
