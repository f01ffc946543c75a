"""safeguard verdicts."""

from __future__ import annotations

import asyncio
from typing import Annotated, get_args

import typer

from safeguard_streams.bus import kafka
from safeguard_streams.cli.options import Bootstrap, Json
from safeguard_streams.cli.output import plain, say
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Decision, Verdict, encode
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.process import Stop, run_until_first

app = typer.Typer(no_args_is_help=True, help="Follow verdicts.")


@app.command("tail")
def tail(
    policy: Annotated[str | None, typer.Option(help="Only verdicts under this policy.")] = None,
    decision: Annotated[str | None, typer.Option(help="Only this decision: violates, safe or undetermined.")] = None,
    from_beginning: Annotated[
        bool, typer.Option(help="Start with the oldest verdict instead of the next one.")
    ] = False,
    cleared: Annotated[bool, typer.Option(help="Include verdicts of items that the prefilter cleared.")] = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Follow verdicts as they are published, until Ctrl-C."""
    current = settings.load(bootstrap=bootstrap)
    if decision not in {None, *get_args(Decision)}:
        raise ConfigurationError(f"--decision: violates, safe or undetermined, not {decision}")
    names = [topics.VERDICTS, topics.CLEARED] if cleared else [topics.VERDICTS]

    async def follow() -> None:
        await kafka.wait_for_broker(current, timeout=10)
        async with kafka.reader(current, names, from_end=not from_beginning) as consumer:
            async for record in consumer:
                verdict = kafka.decoded_or_left_out(current, record, Verdict)
                if verdict is None or policy not in {None, verdict.policy_id}:
                    continue
                if decision not in {None, verdict.decision}:
                    continue
                print(encode(verdict).decode() if as_json else plain(line(verdict)), flush=True)

    async def work() -> None:
        with Stop() as stop:
            await run_until_first(follow(), stop.event.wait())

    with kafka.watched(kafka.Reading()) as reading:
        asyncio.run(work())
    if left_out := str(reading):
        say(left_out, error=True)


def line(verdict: Verdict) -> str:
    """A verdict as one line of text."""
    score = "" if verdict.score is None else f"{verdict.score:.2f}"
    rules = ",".join(verdict.rule_ids)
    moment = verdict.decided_at.isoformat(timespec="milliseconds")
    decision = f"{verdict.decision:<12} {verdict.policy_id:<18} {rules:<8} {score:<4}"
    return f"{moment} {decision} {verdict.content_id}  {verdict.reason or ''}"
