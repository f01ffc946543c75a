"""safeguard broker."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Annotated

import orjson
import typer

from safeguard_streams.cli.options import Json
from safeguard_streams.cli.output import say
from safeguard_streams.errors import BusError
from safeguard_streams.infra import brokers
from safeguard_streams.runtime.ports import check_port
from safeguard_streams.runtime.process import Stop, run_until_first

_LOOK_SECONDS = 1.0
_HOST = "127.0.0.1"
_DEFAULT = 9092


def broker(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 for any free one.")] = _DEFAULT,
    as_json: Json = False,
) -> None:
    """Run the embedded broker until Ctrl-C, to try the pipeline without Kafka.

    It speaks Kafka's protocol on 127.0.0.1, keeps all data in memory, and has no transactions. Its data is lost when it
    ends. On the default port, the other commands need no --bootstrap.
    """
    check_port(_HOST, port)
    with brokers.embedded(port) as address:
        if as_json:
            print(orjson.dumps({"bootstrap": address}).decode(), flush=True)
        else:
            option = "" if port == _DEFAULT else f" --bootstrap {address}"
            say(f"embedded broker: {address}; it keeps all data in memory and loses it when it ends")
            say(f"next, in another terminal: safeguard topics create{option}")
            say("Ctrl-C ends it")
            sys.stdout.flush()
        asyncio.run(_serve(address))
    say("the broker has ended, and its data is gone", error=True)


async def _serve(address: str) -> None:
    with Stop() as stop:
        await run_until_first(_watch(address), stop.event.wait())


async def _watch(address: str) -> None:
    """Return never. Raises BusError when nothing listens any more."""
    host, _, port = address.rpartition(":")
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        try:
            with socket.create_connection((host, int(port)), timeout=_LOOK_SECONDS):
                pass
        except OSError:
            raise BusError(f"the embedded broker at {address} has ended by itself; start it again") from None
