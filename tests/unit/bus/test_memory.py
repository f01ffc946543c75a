"""The bus in memory."""

import asyncio

from safeguard_streams.bus.interface import Partition
from safeguard_streams.bus.memory import MemoryBus
from safeguard_streams.runtime.memory_broker import MemoryBroker


class Nobody:
    def assigned(self, partitions):
        pass

    async def revoked(self, partitions):
        pass


async def test_a_seek_during_a_poll_returns_no_record_twice_and_passes_over_none():
    broker = MemoryBroker()
    for number in range(3):
        broker.append("source", str(number).encode())
    bus, first = MemoryBus(broker, ["source"]), Partition("source", 0)
    await bus.start(Nobody())
    polling = asyncio.create_task(bus.poll(0.1, 10))
    await asyncio.sleep(0)
    bus.seek(first, 1)
    polled = [*(await polling).get(first, ()), *(await bus.poll(0.1, 10)).get(first, ())]
    assert [record.offset for record in polled] == [1, 2]
