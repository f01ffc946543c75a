"""What users write, as a type checker sees it. `test_typing` runs mypy --strict on this file; nothing runs it."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import assert_type

from safeguard_streams import (
    Action,
    BusError,
    ContentEvent,
    FollowedVerdict,
    ItemVerdicts,
    MemoryBroker,
    Message,
    PolicyVerdict,
    Publisher,
    Resolver,
    SafeguardError,
    StandingVerdict,
    Verdict,
    Verdicts,
    decode,
    encode,
)


async def publish() -> None:
    event = ContentEvent("c1", "text", datetime.now(UTC), context=(Message("user", "earlier"),))
    async with Publisher("127.0.0.1:9092", prefix="eu.", security_protocol="SSL") as publisher:
        assert_type(publisher, Publisher)
        assert_type(await publisher.publish(event), None)
        await publisher.publish_many([event, event])


async def follow() -> AsyncIterator[str]:
    async with Verdicts(MemoryBroker(partitions=2), "group") as verdicts:
        async for followed in verdicts:
            assert_type(followed, FollowedVerdict)
            assert_type(followed.verdict, Verdict)
            assert_type(followed.replaces, str | None)
            assert_type(followed.verdict.score, float | None)
            assert_type(followed.verdict.rule_ids, tuple[str, ...])
            yield followed.verdict.content_id
            await verdicts.commit()


def consume(value: bytes) -> None:
    try:
        verdict = decode(value, Verdict)
    except BusError as error:
        assert_type(error, BusError)
        caught: SafeguardError = error
        raise caught from None
    assert_type(verdict, Verdict)
    assert_type(encode(verdict), bytes)
    item = ItemVerdicts(verdict.content_id).after(verdict)
    assert_type(item.violated, tuple[str, ...])
    assert_type(item.policies, dict[str, PolicyVerdict])
    assert_type(decode(encode(item), ItemVerdicts), ItemVerdicts)
    assert_type(Resolver(window=10).resolve([verdict]), list[StandingVerdict])
    assert_type(decode(value, Action).state in {"applied", "held"}, bool)
    Publisher(42)  # type: ignore[arg-type]  # an address or a MemoryBroker
    ContentEvent("c1", "text")  # type: ignore[call-arg]  # created_at is missing
