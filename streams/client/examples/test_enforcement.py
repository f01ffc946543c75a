"""Tests a service that publishes content and follows verdicts, without Kafka. Run it with pytest."""

import asyncio
from datetime import UTC, datetime

from safeguard_streams import ContentEvent, ItemVerdicts, MemoryBroker, Publisher, Verdict, Verdicts


async def hide_violating(verdicts: Verdicts, hidden: dict[str, ItemVerdicts], count: int) -> None:
    """The code under test: hides an item while it violates any policy. Several policies judge an item."""
    async for followed in verdicts:
        content_id = followed.verdict.content_id
        item = hidden.get(content_id, ItemVerdicts(content_id)).after(followed.verdict)
        if item.violated:
            hidden[content_id] = item
        else:
            hidden.pop(content_id, None)
        await verdicts.commit()
        count -= 1
        if not count:
            return


def verdict(verdict_id: str, content_id: str, decision: str, policy_id: str = "hate-harassment") -> Verdict:
    """A verdict as the reasoner writes it."""
    return Verdict(
        verdict_id=verdict_id,
        content_id=content_id,
        content_sha256="0" * 64,
        policy_id=policy_id,
        policy_version="3f2a9c",
        decision=decision,  # type: ignore[arg-type]  # a test may pass any of the three
        stage="reasoner",
        lane="live",
        model="gpt-oss-safeguard-20b",
        decided_at=datetime.now(UTC),
    )


def test_a_violating_item_is_hidden_until_a_newer_verdict_clears_it() -> None:
    async def scenario() -> None:
        broker, hidden = MemoryBroker(), dict[str, ItemVerdicts]()
        broker.add_verdict(verdict("v1", "c1", "violates"))
        broker.add_verdict(verdict("v2", "c2", "violates"))
        async with Verdicts(broker, "my-service") as verdicts:
            await hide_violating(verdicts, hidden, count=2)
        assert hidden.keys() == {"c1", "c2"}
        broker.add_verdict(verdict("v3", "c1", "safe"))
        broker.add_verdict(verdict("v4", "c2", "safe", policy_id="fraud-spam"))
        async with Verdicts(broker, "my-service") as verdicts:  # resumes after the last commit
            await hide_violating(verdicts, hidden, count=2)
        assert hidden.keys() == {"c2"}, "that another policy finds it safe is no reason to show it"

    asyncio.run(scenario())


def test_the_service_publishes_what_its_users_write() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        async with Publisher(broker) as publisher:
            await publisher.publish(ContentEvent(content_id="c1", text="hello", created_at=datetime.now(UTC)))
        assert [event.text for event in broker.events()] == ["hello"]

    asyncio.run(scenario())
