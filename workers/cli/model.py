"""The commands of `safeguard model`: whether the configured model works, and a server for trials."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from safeguard_streams.cli.options import Json, extra
from safeguard_streams.cli.output import Table, console, say
from safeguard_streams.runtime.process import Stop
from safeguard_streams.workers.cli.reason import Model, Servers, settings_for

if TYPE_CHECKING:
    from safeguard_streams.workers.evaluation.model_check import Checked, Report

app = typer.Typer(no_args_is_help=True, help="The model that judges: check the configured one, serve a scripted one.")


@app.command("check")
def check(model: Model = None, server: Servers = None, as_json: Json = False) -> None:
    """Check that the configured model can be reached, answers in the required form and has enough context.

    Says which way to a model is configured, judges one golden text of the package, and prints time and tokens. A
    server that does not report its context length also gets one long prompt. Names what to do about each problem, and
    exits with status 1 if one rules out judging.
    """
    current = settings_for(model, server)
    with extra("reasoner-remote"):
        from safeguard_streams.workers.evaluation import model_check
    report = asyncio.run(model_check.check(current, lambda step: say(step, error=True)))
    if as_json:
        print(msgspec.json.encode(report).decode())
    else:
        _print_report(report, current.model)
    if not report.ready:
        raise typer.Exit(1)


def _print_report(report: Report, model: str) -> None:
    ways = {
        "small model": "the small model of the package, in this process",
        "own GPU": f"{model} in this process, on your own GPU",
        "server": "inference servers",
        "hosted": "a hosted model",
    }
    key = ""
    if report.way in ("server", "hosted"):
        key = ", with the API key of SAFEGUARD_API_KEY" if report.api_key else ", without an API key"
    say(f"configured: {ways[report.way]}{key}")
    if report.host:
        say(f"content is sent to {report.host}, which seems to be outside your network")
    for checked in report.checked:
        _print_checked(checked)
    ready = "ready for trials, not for judging content" if report.stand_in else "ready to judge"
    say(ready if report.ready else "not ready")


def _print_checked(checked: Checked) -> None:
    if checked.url:
        say(checked.url)
    table = Table("check", "result", "what was found, and what to do", box=None)
    for one in checked.checks:
        table.add_row(one.name, one.outcome, one.detail)
        if one.to_do:
            table.add_row("", "", f"-> {one.to_do}")
    console().print(table)
    if checked.tokens is not None:
        tokens = checked.tokens
        cached = f" ({tokens.cached:,} cached)" if tokens.cached else ""
        say(
            f"the judgement took {checked.seconds:.2f} s; {tokens.prompt:,} prompt tokens{cached}, "
            f"{tokens.completion:,} completion tokens"
        )


@app.command("scripted")
def scripted(
    rules: Annotated[
        Path,
        typer.Argument(
            metavar="RULES", help='TOML file of lines RULE = ["word", "two words"]; the first rule found decides.'
        ),
    ],
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to listen on.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Serve answers in gpt-oss's form by a list of words, to try a policy's whole way without a GPU.

    It is no model: its figures are those of the list. Content with none of the words is safe. SIGTERM or Ctrl-C stops
    it.
    """
    with extra("reasoner-remote"):
        from safeguard_streams.workers.inference.script import Script
        from safeguard_streams.workers.inference.scripted import ScriptedServer
    script = Script.load(rules)

    async def serve() -> None:
        with Stop() as stop:
            async with ScriptedServer(script).running(host, port) as url:
                say(f"answers by the words of {', '.join(script.rules)} at {url}")
                say(f"use it: export SAFEGUARD_SERVERS={url}")
                sys.stdout.flush()
                await stop.event.wait()

    asyncio.run(serve())
