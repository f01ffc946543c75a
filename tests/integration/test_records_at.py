"""Records at known places, such as the texts of a queue of reviews: the right ones, in few requests."""

import random

import pytest

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.contract import topics
from safeguard_streams.runtime.aiokafka_patch import StrictConsumer

RECORDS = 3000


@pytest.mark.parametrize("wanted", ["all", "every third", "few", "none there"])
async def test_places_close_together_are_read_without_a_request_for_each(broker, wanted, monkeypatch):
    """`enforce review --json` reads thousands of texts: one request for each would take minutes."""
    await kafka_bus.create_topics(broker)
    async with kafka_bus.producer(broker) as client:
        name = broker.prefix + topics.EVENTS
        futures = [await client.send(name, b"%d" % n, partition=n % 2) for n in range(RECORDS)]
        placed = [await future for future in futures]
    values = {(one.partition, one.offset): b"%d" % n for n, one in enumerate(placed)}
    draw = random.Random(wanted)
    chosen = {
        "all": list(values),
        "every third": sorted(values)[::3],
        "few": [*draw.sample(sorted(values), 5), (0, RECORDS * 10), (99, 0)],
        "none there": [(0, RECORDS * 10), (1, 10**17)],
    }[wanted]
    draw.shuffle(chosen)
    sought = []
    seek = StrictConsumer.seek

    def counted(consumer, *place):
        sought.append(place)
        seek(consumer, *place)

    monkeypatch.setattr(StrictConsumer, "seek", counted)
    found = await kafka_bus.records_at(broker, topics.EVENTS, [*chosen, *chosen[:3]])
    assert {place: record.value for place, record in found.items()} == {
        place: values[place] for place in chosen if place in values
    }
    assert len(sought) <= 10
