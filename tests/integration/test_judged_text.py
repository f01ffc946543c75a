"""The text of a judged item on a broker: that of the verdict, whatever it was edited to, and none of an erased item."""

from datetime import UTC, datetime, timedelta

import pytest

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    ContentEvent,
    ErasureRequest,
    Verdict,
    content_sha256,
    encode,
    now,
)
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.quality.judged_text import judged_text

pytestmark = pytest.mark.slow
WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def verdict(content_id, text, policy_id="p", origin=None, minute=0, decision="safe"):
    decided_at = WHEN + timedelta(minutes=minute)
    sha = content_sha256(text)
    return Verdict(
        *(f"{content_id}{minute}", content_id, sha, policy_id, "1", decision, "reasoner", "live", "m", decided_at),
        origin=origin,
    )


async def test_the_text_is_that_of_the_last_verdict(broker):
    await kafka.create_topics(broker)
    async with kafka.producer(broker) as producer:

        async def send(topic, record):
            value = record if isinstance(record, bytes | None) else encode(record)
            return await producer.send_and_wait(broker.prefix + topic, value=value, key=b"k")

        places = {}
        for content_id, text in [
            *(("a", "first"), ("b", "other"), ("a", "second"), ("a", "third")),
            *(("never-judged", "old"), ("never-judged", "new"), ("gone", "what stands")),
        ]:
            at = await send(topics.EVENTS, ContentEvent(content_id, text, WHEN))
            places[text] = f"{at.partition}@{at.offset}"
        for value in (b"no event", None, b'{"content_id": "a"}'):
            await send(topics.EVENTS, value)
        for one in (
            verdict("a", "first", minute=1, origin=places["first"]),
            verdict("a", "second", minute=3, origin=places["second"], decision="violates"),
            verdict("a", "third", policy_id="another", minute=4, origin=places["third"]),
            verdict("b", "other", origin="99@7"),
            verdict("gone", "what was judged", origin=places["other"]),
        ):
            await send(topics.VERDICTS, one)

    found = await judged_text(broker, "p", "a")
    assert (found.event.text, found.verdict.decision) == ("second", "violates")
    assert (await judged_text(broker, "another", "a")).event.text == "third"
    assert (await judged_text(broker, "p", "b")).event.text == "other", "a place of another cluster is passed over"
    unjudged = await judged_text(broker, "p", "never-judged")
    assert (unjudged.event.text, unjudged.verdict) == ("new", None)
    with pytest.raises(ConfigurationError, match="holds not the text that was judged of 'gone'"):
        await judged_text(broker, "p", "gone")
    with pytest.raises(ConfigurationError, match="holds no text of 'nosuch': check the id"):
        await judged_text(broker, "p", "nosuch")

    async with kafka.producer(broker) as producer:
        await producer.send_and_wait(
            broker.prefix + topics.ERASURES, value=encode(ErasureRequest("a", now(), "ann")), key=b"a"
        )
    with pytest.raises(ConfigurationError, match="may be erased"):
        await judged_text(broker, "p", "a")
