"""A reading up to the end of a topic does not let the broker hold fetches: all other requests wait behind them."""

import pytest

from safeguard_streams.bus.kafka import reading
from safeguard_streams.runtime import settings


class Asked(Exception):
    """The options of a consumer that was about to be made."""


@pytest.fixture
def waits(monkeypatch):
    """How long a consumer lets the broker hold a fetch, in ms."""

    def made(*_, **options):
        raise Asked(options["fetch_max_wait_ms"])

    monkeypatch.setattr(reading, "StrictConsumer", made)

    async def of(work):
        with pytest.raises(Asked) as asked:
            await work
        return asked.value.args[0]

    return of


async def consumed(readable):
    async for _ in readable:
        pass


async def entered(context):
    async with context:
        pass


async def test_only_those_who_wait_for_records_let_the_broker_hold_their_fetches(waits):
    current = settings.load(bootstrap="127.0.0.1:1")
    assert await waits(consumed(reading.read_all(current, ["t"]))) <= 20
    assert await waits(reading.end_offsets(current, "t")) <= 20
    assert await waits(entered(reading.reader(current, ["t"]))) >= 200, (
        "many processes follow topics that rarely change"
    )
