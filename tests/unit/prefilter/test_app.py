"""The prefilter's process, without Kafka: it decides nothing while no policy is in force."""

import asyncio
from datetime import UTC, datetime

from safeguard_streams.contract import topics
from safeguard_streams.contract.records import PolicyRelease, encode
from safeguard_streams.policies.files import load_library
from safeguard_streams.prefilter import app
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.memory_broker import StoredRecord

EVENT = b'{"content_id":"c","text":"thank you","created_at":"2026-01-01T00:00:00Z"}'


async def test_after_the_last_policy_the_process_waits_as_at_its_start(monkeypatch):
    monkeypatch.setattr(app, "RENEWAL_INTERVAL", 0.001)
    process = app.PrefilterProcess(settings.load(bootstrap="127.0.0.1:1"), asyncio.Event())
    policy = load_library()["fraud-spam"]
    release = encode(PolicyRelease(policy.id, policy.version, 1, policy.document, datetime.now(UTC), "test"))

    async def decide(records):
        return process.prefilter.decide(records)

    monkeypatch.setattr(process.bridge, "process", decide)
    records = [StoredRecord(topics.EVENTS, 0, 0, 0, None, EVENT, [])]
    renewing = asyncio.create_task(process._renew())
    for _ in range(2):
        call = asyncio.create_task(process._process(records))
        await asyncio.wait({call}, timeout=0.05)
        assert not call.done(), "decided without a policy"
        assert not process.state()["ready"]
        assert (process.state()["stage"], process.state()["prefix"]) == ("prefilter", process.settings.prefix)
        process.feed.take(policy.id.encode(), release)
        assert [output.topic for output in await call] == [topics.CLEARED]
        process.feed.take(policy.id.encode(), None)
    renewing.cancel()
