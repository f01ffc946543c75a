"""Another member of the group that takes a partition over, in tests of what the first one then does."""

from safeguard_streams.bus.interface import Output
from safeguard_streams.bus.memory import MemoryBus


async def take_over(broker, partition, count, sink="sink"):
    """Process the first records of a partition, which are numbers in order, as another member of the group."""
    writer = await MemoryBus(broker, [partition.topic]).writer(partition)
    await writer.commit([Output(sink, None, str(number).encode()) for number in range(count)], count, "")
