"""Tests a service that publishes content and follows verdicts, without Kafka. Run it with pytest."""

import asyncio
from datetime import UTC, datetime

from safeguard_streams import ContentEvent, MemoryBroker, Publisher, Verdict, Verdicts


async def hide_violating(verdicts: Verdicts, hidden: set[str], count: int) -> None:
    """The code under test: hides an item that violates a policy, and shows it again when a newer verdict says safe."""
    async for followed in verdicts:
        verdict = followed.verdict
        if verdict.decision == "violates":
            hidden.add(verdict.content_id)
        elif verdict.decision == "safe":
            hidden.discard(verdict.content_id)
        await verdicts.commit()
        count -= 1
        if not count:
            return


def verdict(verdict_id: str, content_id: str, decision: str) -> Verdict:
    """A verdict as the reasoner writes it."""
    return Verdict(
        verdict_id=verdict_id,
        content_id=content_id,
        content_sha256="0" * 64,
        policy_id="hate-harassment",
        policy_version="3f2a9c",
        decision=decision,  # type: ignore[arg-type]  # a test may pass any of the three
        stage="reasoner",
        lane="live",
        model="gpt-oss-safeguard-20b",
        decided_at=datetime.now(UTC),
    )


def test_a_violating_item_is_hidden_until_a_newer_verdict_clears_it() -> None:
    async def scenario() -> None:
        broker, hidden = MemoryBroker(), set[str]()
        broker.add_verdict(verdict("v1", "c1", "violates"))
        broker.add_verdict(verdict("v2", "c2", "violates"))
        async with Verdicts(broker, "my-service") as verdicts:
            await hide_violating(verdicts, hidden, count=2)
        assert hidden == {"c1", "c2"}
        broker.add_verdict(verdict("v3", "c1", "safe"))
        async with Verdicts(broker, "my-service") as verdicts:  # resumes after the last commit
            await hide_violating(verdicts, hidden, count=1)
        assert hidden == {"c2"}

    asyncio.run(scenario())


def test_the_service_publishes_what_its_users_write() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        async with Publisher(broker) as publisher:
            await publisher.publish(ContentEvent(content_id="c1", text="hello", created_at=datetime.now(UTC)))
        assert [event.text for event in broker.events()] == ["hello"]

    asyncio.run(scenario())
