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
    keep: Annotated[bool, typer.Option("--keep", help="Keep running after the summary, until Ctrl-C.")] = False,
    replay: Annotated[
        bool,
        typer.Option(
            "--replay",
            help="Add a second act: enforcement acts on the verdicts, the policy on hate becomes lenient, past content "
            "is judged again and compared, and posts removed for mere insults are restored.",
        ),
    ] = False,
    bootstrap: Bootstrap = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="DIR_OR_NAME", help="Reasoning model; default 'small', the one in the package."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the whole pipeline on this machine on real texts.

    Starts the embedded broker (or uses --bootstrap), creates the topics, releases the policies, starts
    'safeguard prefilter run' and 'safeguard reason run', publishes events and follows their verdicts.
    Exits with status 0 only if every event was answered.
    """
    try:
        from safeguard_streams.demo.run import Demo, Options
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
        demo = Demo(
            options,
            lambda line: print(line, file=sys.stderr if as_json else sys.stdout, flush=True),
            console(stderr=as_json),
        )
        try:
            await demo.run()
        except asyncio.CancelledError:
            if demo.summary is None:
                print("interrupted; all processes are stopped", file=sys.stderr)
                return 130
        return 0 if demo.summary is not None and _complete(demo.summary) else 1

    raise typer.Exit(asyncio.run(work()))


def _complete(summary: dict[str, Any]) -> bool:
    """Whether every event was answered, and enforcement acted on every promoted verdict."""
    second_act = summary.get("replay", {"followed": 0, "due": 0})
    return not summary["unanswered"] and second_act["followed"] == second_act["due"]
