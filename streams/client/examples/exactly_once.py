"""Act on verdicts exactly once: write a record to Kafka and the offset in one transaction.

python exactly_once.py 127.0.0.1:9092 my-enforcement my.removals

Several policies judge an item, and one that finds it safe restores nothing that violates another. Each record therefore
holds the verdicts of all policies, and a new process begins with what the topic holds. Let Kafka compact the topic.
"""

import asyncio
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from safeguard_streams import ItemVerdicts, Verdicts, decode, encode


async def main(bootstrap: str, group: str, topic: str) -> None:
    # Run one process per group: a second one under the same transactional id fences this one.
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=group)
    await producer.start()
    try:
        items = await restored(bootstrap, topic)
        async with Verdicts(bootstrap, group) as verdicts:
            async for followed in verdicts:
                content_id = followed.verdict.content_id
                item = items.get(content_id, ItemVerdicts(content_id)).after(followed.verdict)
                async with producer.transaction():
                    headers = [("removed", b"yes" if item.violated else b"no")]
                    await producer.send(topic, encode(item), key=content_id.encode(), headers=headers)
                    await producer.send_offsets_to_transaction(verdicts.positions, group)
                items[content_id] = item
    finally:
        await producer.stop()


async def restored(bootstrap: str, topic: str) -> dict[str, ItemVerdicts]:
    """What earlier processes wrote. The start of the producer ended their transactions."""
    options = {"bootstrap_servers": bootstrap, "isolation_level": "read_committed", "auto_offset_reset": "earliest"}
    items = {}
    async with AIOKafkaConsumer(topic, **options) as consumer:
        ends = await consumer.end_offsets(consumer.assignment())
        for partition, end in ends.items():
            while await consumer.position(partition) < end:
                for record in (await consumer.getmany(partition, timeout_ms=200)).get(partition, ()):
                    item = decode(record.value, ItemVerdicts)
                    items[item.content_id] = item
    return items


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
