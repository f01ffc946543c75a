"""Act on verdicts exactly once: write a record to Kafka and the offset in one transaction.

python exactly_once.py 127.0.0.1:9092 my-enforcement my.removals
"""

import asyncio
import json
import sys

from aiokafka import AIOKafkaProducer

from safeguard_streams import Verdicts


async def main(bootstrap: str, group: str, topic: str) -> None:
    # Run one process per group: a second one under the same transactional id fences this one.
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=group)
    await producer.start()
    try:
        async with Verdicts(bootstrap, group) as verdicts:
            async for followed in verdicts:
                verdict = followed.verdict
                async with producer.transaction():
                    removal = {"content_id": verdict.content_id, "removed": verdict.decision == "violates"}
                    await producer.send(topic, json.dumps(removal).encode(), key=verdict.content_id.encode())
                    await producer.send_offsets_to_transaction(verdicts.positions, group)
    finally:
        await producer.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
