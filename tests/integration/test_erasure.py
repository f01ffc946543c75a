"""An erased item is named wherever it is, whatever its records are keyed by, and no stage works on it any more."""

import asyncio
import json
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.bus.dead_letters import dead_letter
from safeguard_streams.cli import app
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Action,
    Appeal,
    Attempt,
    ContentEvent,
    ContentReport,
    EnforcementInput,
    ErasureRequest,
    Escalation,
    ModeratorDecision,
    PrefilterResult,
    Rationale,
    Referral,
    ReportedText,
    Standing,
    StatementOfReasons,
    Verdict,
    encode,
)
from safeguard_streams.errors import RecordError
from safeguard_streams.policies.files import load_library
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.releases import operator
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.replay import jobs, runner
from safeguard_streams.runtime.memory_broker import StoredRecord

pytestmark = pytest.mark.slow
WHEN = datetime(2026, 1, 1, tzinfo=UTC)
CONTENT = 'ключ "1"'
_NAMED = (topics.CLEARED, topics.VERDICTS, topics.REPLAYS, topics.ENFORCEMENT, topics.STANDING, topics.STATEMENTS)


def records_about(content):
    """Records of every topic about an item, keyed by anything."""
    event = ContentEvent(content, "the text", WHEN, "u1")
    escalation = Escalation(event, "hate", "1", 1, PrefilterResult("label"), "live", WHEN)
    broken = StoredRecord("content.events", 0, 1, 0, b"k", encode(event)[:-9], [])
    letter = dead_letter(broken, RecordError("record", "is not JSON"), stage="prefilter", attempts=1)
    yield topics.EVENTS, None, encode(event)
    yield topics.EVENTS, b"author-7", json.dumps({"content_id": content, "text": "b", "created_at": str(WHEN)}).encode()
    yield topics.REPORTS, b"k", encode(ContentReport("r1", event, "user", WHEN, "they say so"))
    yield topics.REPORTED, b"hash", encode(ReportedText(content, "sha", "hate", "1", 1, "r1", WHEN))
    for lane in topics.LANES.values():
        yield lane, b"k", encode(escalation)
    yield topics.CLEARED, b"k", encode(_verdict("clear", content, reason=None))
    yield topics.VERDICTS, b"k", encode(_verdict("v1", content))
    yield topics.REPLAYS, b"k", encode(_verdict("r1", content))
    yield topics.ACTIONS, b"k", encode(Action("a1", content, "remove", WHEN, by="ann", why="said that", reason="said"))
    yield topics.ENFORCEMENT, b"k", encode(EnforcementInput(_verdict("v1", content)))
    decision = ModeratorDecision("remove", "a1", WHEN, "ann", "said that")
    yield topics.STANDING, b"k", encode(Standing(content, "remove", 2, decision=decision, author_id="u1"))
    said = StatementOfReasons("s1", "issued", "a1", WHEN, "en", "It was removed.", content_id=content, author_id="u1")
    yield topics.STATEMENTS, b"k", encode(said)
    yield topics.APPEALS, b"k", encode(Appeal(content, "author", WHEN, verdict_id="v1", reason="not what they said"))
    referral = Referral(f"ref {content}", content, "hate", "1", "v1", "r", "a1", "remove", WHEN, "sha", text="the text")
    yield topics.REFERRALS, referral.referral_id.encode(), encode(referral)
    yield topics.DEAD_LETTERS, b"k", letter.value
    for name in ("v1", "r1", "old-replay"):
        rationale = Rationale(name, content, "hate", "1", "m", (Attempt("analysis", "final"),), WHEN)
        yield topics.RATIONALES, name.encode(), encode(rationale)


def _verdict(name, content, *, reason="It says so."):
    return Verdict(
        *(name, content, "sha", "hate", "1", "violates", "reasoner", "live", "m", WHEN), reason=reason, author_id="u1"
    )


async def write(current, records):
    async with kafka_bus.producer(current) as producer:
        for topic, key, value in records:
            await producer.send_and_wait(current.prefix + topic, value, key=key, partition=1)


@pytest.mark.parametrize("broker_address", ["kafka"], indirect=True)
async def test_every_place_is_named_and_rationales_are_erased(broker, monkeypatch):
    await kafka_bus.create_topics(broker)
    others = [(topic, key, value) for topic, key, value in records_about("another item") if topic != topics.RATIONALES]
    await write(broker, others)
    foreign = [(topic, b"k", value) for topic in (topics.EVENTS, topics.VERDICTS) for value in (None, b"hello", b"{}")]
    await write(broker, [*foreign, *records_about(CONTENT)])
    monkeypatch.setenv("SAFEGUARD_BOOTSTRAP", broker.bootstrap)
    monkeypatch.setenv("SAFEGUARD_PREFIX", broker.prefix)
    words = ["erase", CONTENT, "--json", "--by", "ann"]
    done = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert done.exit_code == 0, done.exception
    result = json.loads(done.stdout)
    assert "records of content.events" in done.stderr, "it says what it reads"
    remains = {one["topic"]: (one["records"], one["text"], one["quotes"]) for one in result["remains"]}
    named = {one["topic"] for one in result["remains"] if one["author"]}
    assert named == {*_NAMED, topics.EVENTS, topics.REPORTS, *topics.LANES.values(), topics.DEAD_LETTERS}
    assert remains == {
        topics.EVENTS: (2, True, []),
        topics.REPORTS: (1, True, ["reason"]),
        topics.REPORTED: (1, False, []),
        **dict.fromkeys(topics.LANES.values(), (1, True, [])),
        topics.CLEARED: (1, False, []),
        topics.VERDICTS: (1, False, ["reason"]),
        topics.REPLAYS: (1, False, ["reason"]),
        topics.ENFORCEMENT: (1, False, ["reason"]),
        topics.STANDING: (1, False, ["why"]),
        topics.ACTIONS: (1, False, ["reason", "why"]),
        topics.STATEMENTS: (1, False, []),
        topics.APPEALS: (1, False, ["reason"]),
        topics.DEAD_LETTERS: (1, True, []),
    }
    assert [one["topic"] for one in result["remains"] if one["until"] is None] == [topics.STANDING]
    assert (result["rationales"], result["all_rationales"]) == (3, True)
    assert [(one["referral_id"], one["text"], one["author"]) for one in result["held"]] == [
        (f"ref {CONTENT}", True, False)
    ]
    assert any("webhook" in place for place in result["elsewhere"])
    last = {r.key: r.value async for r in kafka_bus.read_all(broker, [topics.RATIONALES])}
    assert last == dict.fromkeys((b"v1", b"r1", b"old-replay"))
    table = await kafka_bus.read_table(broker, topics.ERASURES, ErasureRequest)
    assert [(one.content_id, one.erased_by) for one in table.values()] == [(CONTENT, "ann")]
    shown = await asyncio.to_thread(CliRunner().invoke, app, ["erase", CONTENT, "--since", "1h", "--by-key"])
    assert "not searched:" in shown.stdout


@pytest.mark.parametrize("broker_address", ["kafka"], indirect=True)
async def test_a_replay_leaves_erased_items_out(broker):
    await kafka_bus.create_topics(broker)
    policy = load_library()["self-harm"]
    await operator.release(broker, [policy], ChangedBy("test"))
    texts = [ContentEvent(f"c{n}", "I want to kill myself tonight", WHEN) for n in range(4)]
    await write(broker, [(topics.EVENTS, b"author", encode(event)) for event in texts])
    async with kafka_bus.producer(broker) as producer:
        value = encode(ErasureRequest("c1", datetime.now(UTC), "ann"))
        await producer.send_and_wait(broker.prefix + topics.ERASURES, value, key=b"c1")
    made = await jobs.plan(broker, jobs.ReplayRequest([policy], noise=0.0), ChangedBy("test"))
    await jobs.create(broker, made)
    assert await runner.run(broker, made, Classifier(), asyncio.Event()) == "escalated"
    read = kafka_bus.read_decoded(broker, [topics.ESCALATIONS_REPLAY], Escalation)
    assert {e.event.content_id async for _, e in read} == {"c0", "c2", "c3"}
