"""`safeguard content show` on both brokers: what is known of an item is found, and what is not there is named."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from rich.cells import cell_len
from typer.testing import CliRunner

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.bus.dead_letters import dead_letter
from safeguard_streams.cli import app
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Action,
    Attempt,
    ContentEvent,
    ContentReport,
    ErasureRequest,
    Escalation,
    ModeratorDecision,
    PolicyStanding,
    PrefilterResult,
    Rationale,
    Standing,
    Verdict,
    content_sha256,
    encode,
    verdict_id,
)
from safeguard_streams.errors import RecordError
from safeguard_streams.operations import content, content_records
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.memory_broker import StoredRecord
from safeguard_streams.runtime.security import client_options
from tests.conftest import TIMEOUT

pytestmark = pytest.mark.slow
WHEN = datetime(2026, 1, 1, tzinfo=UTC)
NAME = 'post "é" \u202e1'
HOSTILE = "first \x1b[2Jline\nwhat stands\n  in effect   allow " + "👩\u200d💻🇩🇪" * 300
GATE = PrefilterResult("label", "hate", 0.93, 0.2)


def verdict(name, text, origin, decision="violates", policy="hate", **more):
    known = {"lane": "live", "reason": f"reason of {name}", "prefilter": GATE, "rule_ids": ("HH2",)} | more
    version = known.pop("version", "v1")
    lane = known.pop("lane")
    return Verdict(
        name, NAME, content_sha256(text), policy, version, decision, "reasoner", lane, "m", WHEN, origin=origin, **known
    )


class Writer:
    """Writes records to one partition of a deployment's topics."""

    def __init__(self, producer, current, partition):
        self.producer, self.current, self.partition = producer, current, partition

    async def __call__(self, topic, record, key=b"k"):
        value = record if record is None or isinstance(record, bytes) else encode(record)
        sent = await self.producer.send_and_wait(self.current.prefix + topic, value, key=key, partition=self.partition)
        return f"{sent.partition}@{sent.offset}"


async def write_item(write):
    """An item with two texts, and what followed from them. Returns where its texts are."""
    first = await write(topics.EVENTS, ContentEvent(NAME, HOSTILE, WHEN, author_id="u7", surface="comment"))
    second = await write(topics.EVENTS, ContentEvent(NAME, "a better text", WHEN))
    for policy in ("hate", "spam"):
        event = ContentEvent(NAME, HOSTILE, WHEN)
        await write(topics.ESCALATIONS, Escalation(event, policy, "v1", 1, GATE, "live", WHEN, origin=first))
    nearest = PrefilterResult("label", "hate", 0.12, 0.2)
    cleared = verdict("c1", "a better text", second, "safe", "*", reason=None, rule_ids=(), prefilter=nearest)
    await write(topics.CLEARED, cleared)
    await write(topics.VERDICTS, verdict("v1", HOSTILE, first))
    await write(topics.VERDICTS, verdict("v1", HOSTILE, first))  # a broker without transactions may hold it twice
    replayed = verdict("r1", HOSTILE, first, "safe", lane="replay", replay_id="R", version="v2", rule_ids=())
    await write(topics.REPLAYS, replayed)
    promoted = verdict_id("r1", "promote")
    await write(topics.VERDICTS, verdict(promoted, HOSTILE, first, "safe", supersedes="v1", version="v2", rule_ids=()))
    for name in ("v1", "r1", "gone"):
        rationale = Rationale(name, NAME, "hate", "v1", "m", (Attempt(f"because {name}", "{}"),), WHEN)
        await write(topics.RATIONALES, rationale, key=name.encode())
    await write(topics.RATIONALES, None, key=b"gone")
    decided = Action("a2", NAME, "label", WHEN, by="ann", why="satire", effective="label")
    said = ContentReport("r1", ContentEvent(NAME, "first", WHEN), "authority", WHEN, "see \x1b[2Jarticle 5", ("hate",))
    await write(topics.REPORTS, said)
    await write(topics.ACTIONS, Action("a1", NAME, "remove", WHEN, policy_id="hate", verdict_id="v1", rule="clear"))
    await write(topics.ACTIONS, decided)
    await write(topics.ACTIONS, decided)  # the agent writes it again
    decision = ModeratorDecision("label", "a2", WHEN, "ann", "satire")
    await write(topics.STANDING, Standing(NAME, "remove", 2), key=NAME.encode())
    policies = (PolicyStanding("hate", ("v1",), "remove", "a1"),)
    await write(topics.STANDING, Standing(NAME, "label", 2, policies, decision), key=NAME.encode())
    record = StoredRecord("content.events", 0, 7, 0, NAME.encode(), b'{"content_id": 1}', [])
    letter = dead_letter(record, RecordError("text", "is missing"), stage="prefilter", attempts=1)
    await write(topics.DEAD_LETTERS, letter.value)
    return first, second


async def write_others(write):
    """Records about nothing and about others, whose reasons name the item."""
    for topic in (topics.EVENTS, topics.VERDICTS, topics.ACTIONS, topics.DEAD_LETTERS):
        for value in (None, b"\xff", b"{}", encode({"why": NAME})):
            await write(topic, value)
    await write(topics.EVENTS, ContentEvent("another", f"see {NAME}", WHEN), key=NAME.encode())


@pytest.fixture
def show(broker, monkeypatch):
    monkeypatch.setenv("SAFEGUARD_BOOTSTRAP", broker.bootstrap)
    monkeypatch.setenv("SAFEGUARD_PREFIX", broker.prefix)
    monkeypatch.setenv("COLUMNS", "80")

    async def run(*words):
        return await asyncio.to_thread(CliRunner().invoke, app, ["content", "show", *words])

    return run


@pytest.fixture
async def write(broker):
    await kafka_bus.create_topics(broker)
    async with kafka_bus.producer(broker) as producer:
        yield Writer(producer, broker, kafka_bus.likely_partition(NAME, 2))


async def test_all_that_is_known_of_an_item_is_found(show, write):
    await write_others(write)
    first, second = await write_item(write)
    done = await show(NAME, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [(one["origin"], one["text"]) for one in found["texts"]] == [(first, HOSTILE), (second, "a better text")]
    assert [(one["origin"], one["prefilter"]["score"]) for one in found["cleared"]] == [(second, 0.12)]
    promoted = verdict_id("r1", "promote")
    assert [
        (
            one["verdict"]["verdict_id"],
            one["topic"],
            one["stands"],
            one["superseded_by"],
            one["rationale"]["verdict_id"],
        )
        for one in found["verdicts"]
    ] == [
        ("v1", topics.VERDICTS, False, promoted, "v1"),
        (promoted, topics.VERDICTS, True, None, "r1"),
        ("r1", topics.REPLAYS, False, None, "r1"),
    ]
    assert [(one["policy_id"], one["lane"], one["origin"]) for one in found["waiting"]] == [("spam", "live", first)]
    assert [(one["action_id"], one.get("by")) for one in found["actions"]] == [("a1", None), ("a2", "ann")]
    assert found["standing"]["effective"] == "label"
    assert [(one["stage"], one["origin"]) for one in found["dead_letters"]] == [("prefilter", "content.events[0]@7")]
    assert (found["forbidden"], found["erased_at"], found["dropped"]) == ([], None, 0)
    assert found["read_partition"] == write.partition


async def test_it_is_shown_at_80_columns_and_no_text_passes_for_a_line_of_the_command(show, write):
    first, second = await write_item(write)
    done = await show(NAME)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout
    assert lines[0] == 'post "é" \\u202e1: label is in effect'
    assert [line for line in lines if line.startswith("what stands")] == ["what stands"]
    assert max(map(cell_len, lines)) <= 80
    assert "👩\u200d💻🇩🇪" * 5 in done.stdout
    for part in (
        f"text 1 of 2 at {first}, published ",
        "text        first \\x1b[2Jline",
        "cleared     2026-01-01T00:00:00+00:00, by the gates of all policies; nearest:",
        "violates HH2 under hate v1",
        f"state       superseded by {verdict_id('r1', 'promote')}",
        "gate        hate 0.93, threshold 0.2",
        "rationale   because v1",
        "state       replay R, for comparison only",
        "action remove, 2026-01-01T00:00:00+00:00, applied",
        "moderator's decision label, 2026-01-01T00:00:00+00:00, applied; label in effect",
        "not judged yet under spam v1",
        "decided by  ann",
        "why         satire",
        "decision    label, decided by ann at 2026-01-01T00:00:00+00:00: satire",
        "reason      text: is missing",
        "reported by an authority, 2026-01-01T00:00:00+00:00\n",
        "reason      see \\x1b[2Jarticle 5",
        "report      r1",
    ):
        assert part in done.stdout, part


async def test_an_item_whose_producer_chose_another_partition_is_found(show, write):
    write.partition = 1 - write.partition
    first, _ = await write_item(write)
    done = await show(NAME, "--json")
    found = json.loads(done.stdout)
    assert found["texts"][0]["origin"] == first
    assert found["read_partition"] is None
    assert len(found["verdicts"]) == 3


async def test_both_partitions_are_read_on_request(show, write):
    await write_item(write)
    write.partition = 1 - write.partition
    await write(topics.EVENTS, ContentEvent(NAME, "elsewhere", WHEN))
    assert len(json.loads((await show(NAME, "--json")).stdout)["texts"]) == 2
    assert len(json.loads((await show(NAME, "--json", "--all-partitions")).stdout)["texts"]) == 3


async def test_topics_with_fewer_partitions_are_read_where_stages_wrote_to_them(broker):
    fewer = settings.load(bootstrap=broker.bootstrap, prefix=broker.prefix, partitions=4)
    admin = AIOKafkaAdminClient(**client_options(broker))
    async with kafka_bus.started(broker, admin, admin.close):
        await admin.create_topics([NewTopic(broker.prefix + name, 1, 1) for name in (topics.VERDICTS, topics.STANDING)])
    await kafka_bus.create_topics(fewer)
    async with kafka_bus.producer(broker) as producer:
        for number in range(4):
            write = Writer(producer, broker, number)
            name = next(f"x{n}" for n in range(99) if kafka_bus.likely_partition(f"x{n}", 4) == number)
            await write(topics.EVENTS, ContentEvent(name, "text", WHEN))
            write.partition = 0
            await write(topics.VERDICTS, msgspec.structs.replace(verdict("v", "text", f"{number}@0"), content_id=name))
            async with asyncio.timeout(TIMEOUT):
                report = await content.report(broker, name)
            assert report.read_partition == number
            assert (len(report.texts), len(report.verdicts)) == (1, 1)


async def test_what_is_past_retention_is_named(show, write):
    await write(topics.VERDICTS, verdict("v1", "lost text", "0@0"))
    done = await show(NAME)
    assert done.exit_code == 0, done.output
    assert "text at 0@0\n  no text     past retention\n" in done.stdout
    assert "reason of v1" in done.stdout


async def test_an_unknown_item_is_an_error_that_says_what_to_check(show, write):
    await write_others(write)
    done = await show("nobody")
    assert done.exit_code == 1
    assert "no record is about the content id 'nobody'" in str(done.exception)
    assert "SAFEGUARD_PREFIX" in str(done.exception)
    assert (await show("")).exit_code == 1
    assert "not 1 to" in str((await show("x" * 600)).exception)


async def test_an_erased_item_is_shown_without_words_about_it(show, write, broker):
    first, _ = await write_item(write)
    async with kafka_bus.producer(broker) as producer:
        value = encode(ErasureRequest(NAME, datetime.now(UTC) + timedelta(seconds=1), "ann"))
        await producer.send_and_wait(broker.prefix + topics.ERASURES, value, key=NAME.encode())
    done = await show(NAME)
    assert done.exit_code == 0, done.output
    assert "erased at " in done.stdout
    assert f"text 1 of 2 at {first}" in done.stdout
    assert done.stdout.count("no text     erased") == 2
    for word in ("line", "better", "reason of", "because", "satire"):
        assert word not in done.stdout, word
    assert "violates HH2 under hate v1" in done.stdout


async def test_an_erased_item_of_which_nothing_is_left_is_known(show, broker):
    await kafka_bus.create_topics(broker)
    async with kafka_bus.producer(broker) as producer:
        value = encode(ErasureRequest(NAME, datetime.now(UTC), "ann"))
        await producer.send_and_wait(broker.prefix + topics.ERASURES, value, key=NAME.encode())
    done = await show(NAME)
    assert done.exit_code == 0, done.output
    assert "erased at " in done.stdout


async def test_an_item_that_was_published_without_end_takes_bounded_memory(broker, write, monkeypatch):
    monkeypatch.setattr(content_records, "MAX_RECORDS", 3)
    for number in range(10):
        await write(topics.EVENTS, ContentEvent(NAME, f"text {number}", WHEN))
    report = await content.report(broker, NAME)
    assert [one.text for one in report.texts] == ["text 7", "text 8", "text 9"]
    assert report.dropped == 7
