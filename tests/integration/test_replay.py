"""Replays: the selection, exactly one escalation for each event despite kills, and the operator's commands."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.bus.engine import Limits
from safeguard_streams.cli import app
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    EVERY_POLICY,
    ContentEvent,
    ErasureRequest,
    Escalation,
    Replay,
    Replayed,
    Verdict,
    content_sha256,
    decode,
    encode,
)
from safeguard_streams.enforcement import moderators
from safeguard_streams.enforcement.rules import EnforcementRule, EnforcementRules
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.files import load_library, with_changes
from safeguard_streams.policies.parsing import parse
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.releases import operator
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.replay import jobs, promotion, runner
from safeguard_streams.replay.jobs import ReplayRequest
from safeguard_streams.replay.selection import ReplaySelector
from safeguard_streams.runtime.memory_broker import StoredRecord
from safeguard_streams.workers.judging.judge import Judge
from safeguard_streams.workers.judging.reasoner import InferenceBudget
from tests.conftest import TIMEOUT, enforcing, feed_of, standing_on
from tests.groups import forget
from tests.stand_in_model import StandIn, completion

SAFEGUARD = Path(sys.executable).with_name("safeguard")
NAME = "fraud-spam"
WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def version(word, **gate):
    """The fraud policy with a changed text and this gate only."""
    nothing = dict.fromkeys(("harms", "general", "threshold", "sample", "calibration"))
    document = with_changes(load_library()[NAME].document, "gate", **{**nothing, **gate})
    return parse(document.replace("Judge what", f"{word} what"))


OLD, NEW = version("Judge", terms=["old", "both"]), version("Weigh", terms=["new", "both"])
OTHER = load_library()["self-harm"]
TEXTS = ("old", "new", "both", "neither")


def event(number, **more):
    return ContentEvent(f"c{number}", f"{TEXTS[number % 4]} {number}", WHEN, **more)


def job(**more):
    known = {"sample": 1.0, "noise": 0.0, "surfaces": (), "languages": (), "decisions": ()} | more
    replayed = Replayed(NAME, NEW.version, NEW.document, None, OLD.version, OLD.document)
    policies = known.pop("policies", (replayed,))
    return Replay("r1", policies, {"0": 10}, {"0": 50}, "running", WHEN, "test", **known)


async def chosen(events, earlier=(), **more):
    records = [StoredRecord(topics.EVENTS, 0, n, 0, f"c{n}".encode(), encode(e)) for n, e in enumerate(events)]
    outputs = (await ReplaySelector(job(**more), Classifier(), dict(earlier))(records)).outputs
    assert {o.topic for o in outputs} <= {topics.ESCALATIONS_REPLAY}
    return [decode(o.value, Escalation) for o in outputs]


async def test_the_new_version_judges_what_either_version_escalates_within_the_bounds():
    found = await chosen([event(n) for n in range(100)])
    assert {e.event.content_id for e in found} == {f"c{n}" for n in range(10, 50) if n % 4 != 3}
    assert {(e.lane, e.replay_id, e.policy_version) for e in found} == {("replay", "r1", NEW.version)}
    gates = {(e.event.text.split()[0], e.prefilter.gate, e.prefilter.live) for e in found}
    assert gates == {("old", "live", True), ("new", "terms", False), ("both", "terms", True)}


async def test_the_current_version_judges_its_share_for_noise():
    found = Counter(e.policy_version for e in await chosen([event(n) for n in range(50)], noise=1.0))
    assert found == {NEW.version: 30, OLD.version: 20}


async def test_a_version_compared_with_itself_judges_each_content_item_once():
    same = Replayed(NAME, NEW.version, NEW.document, None, NEW.version, NEW.document)
    found = await chosen([event(n) for n in range(50)], noise=1.0, policies=(same,))
    assert set(Counter(e.event.content_id for e in found).values()) == {1}


async def test_samples_and_filters_select():
    events = [event(n, surface="chat" if n % 8 < 4 else "mail", language="de") for n in range(50)]
    assert {e.event.surface for e in await chosen(events, surfaces=("Mail ",))} == {"mail"}
    assert {e.event.surface for e in await chosen(events, surfaces=("MAIL",))} == {"mail"}, "whatever the case"
    assert await chosen([event(n) for n in range(50)], surfaces=("mail",)) == [], "they name no surface"
    assert await chosen(events, languages=("fr",)) == []
    assert 5 < len(await chosen([event(n) for n in range(50)], sample=0.5)) < 25
    earlier = {(f"c{n}", NAME): "violates" if n < 20 else "safe" for n in range(50)}
    ids = {e.event.content_id for e in await chosen([event(n) for n in range(50)], earlier, decisions=("violates",))}
    assert ids == {f"c{n}" for n in range(10, 20) if n % 4 != 3}


async def created(settings, request, changed_by):
    """A replay that was written and has not begun."""
    replay = await jobs.plan(settings, request, changed_by)
    await jobs.create(settings, replay)
    return replay


async def publish(settings, count):
    async with kafka_bus.producer(settings) as producer:
        for number in range(count):
            await producer.send(settings.prefix + topics.EVENTS, key=f"c{number}".encode(), value=encode(event(number)))
        await producer.send(settings.prefix + topics.EVENTS, key=b"broken", value=b"no event")
        await producer.flush()


async def escalated(settings):
    return [decode(r.value, Escalation) async for r in kafka_bus.read_all(settings, [topics.ESCALATIONS_REPLAY])]


@contextlib.contextmanager
def running(settings, *words):
    environment = {**os.environ, "SAFEGUARD_BOOTSTRAP": settings.bootstrap, "SAFEGUARD_PREFIX": settings.prefix}
    environment["SAFEGUARD_SESSION_TIMEOUT_MS"] = str(settings.session_timeout_ms)
    command = [SAFEGUARD, "replay", *words]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def wait_until_some(settings, least, process):
    deadline = time.monotonic() + TIMEOUT
    while len(found := await escalated(settings)) < least:
        assert process.poll() is None, process.stderr.read()[-2000:]
        assert time.monotonic() < deadline
    return len(found)


@pytest.mark.slow
async def test_a_replay_that_is_killed_twice_escalates_each_event_once(kafka, tmp_path):
    count = 40_000
    await kafka_bus.create_topics(kafka)
    await operator.release(kafka, [OLD], ChangedBy("test"))
    await publish(kafka, count)
    policy = tmp_path / "policy.md"
    policy.write_text(NEW.document)
    killed = []
    words = ["start", str(policy), "--noise", "0.5", "--why", "test", "--yes"]
    for _ in range(2):
        with running(kafka, *words) as process:
            killed.append(await wait_until_some(kafka, 1 + (killed[-1] if killed else 0), process))
            process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait)
        words = ["resume", next(iter(await jobs.read_all(kafka)))]
    with running(kafka, *words, "--json") as process:
        output, errors = await asyncio.to_thread(process.communicate, timeout=TIMEOUT)
    assert process.returncode == 0, errors
    shown = json.loads(output)
    assert shown["state"] == "judging"
    assert (shown["items"], shown["unreadable"], shown["escalated"]) == (count, 1, len(await escalated(kafka)))
    found = Counter((e.event.content_id, e.policy_version) for e in await escalated(kafka))
    assert set(found.values()) == {1}
    assert {content for content, v in found if v == NEW.version} == {f"c{n}" for n in range(count) if n % 4 != 3}
    again = {content for content, v in found if v == OLD.version}
    assert len(again) == pytest.approx(count / 4, rel=0.1)
    assert killed[0] < killed[1] < len(found), "it was killed in the middle"
    (only,) = (await jobs.read_all(kafka)).values()
    assert (only.state, only.why) == ("escalated", "test")
    assert await jobs.progress(kafka, only) == only.total == count + 1


@pytest.mark.slow
async def test_the_versions_of_a_replay_reach_the_reasoner_and_change_nothing_in_force(broker):
    await kafka_bus.create_topics(broker)
    await operator.release(broker, [OLD], ChangedBy("test"))
    await publish(broker, 10)
    made = await created(broker, ReplayRequest([NEW]), ChangedBy("test"))
    feed = await feed_of(broker)
    assert {name: r.policy.version for name, r in feed.policies.released.items()} == {NAME: OLD.version}
    for each in (OLD, NEW):
        found = await feed.wait_for(f"{NAME}.replay.{each.version}".encode(), 0)
        assert found.policy.document == each.document
    assert (await operator.history(broker)).in_force[NAME].version == OLD.version
    assert made.total == 11


@pytest.mark.slow
async def test_any_process_can_pause_resume_and_cancel_a_replay(kafka):
    await kafka_bus.create_topics(kafka)
    await publish(kafka, 20)
    with pytest.raises(ConfigurationError, match="no event lies between these bounds"):
        await created(kafka, ReplayRequest([NEW], first=1000), ChangedBy("test"))
    made = await created(kafka, ReplayRequest([NEW], first=2, last=5), ChangedBy("test"))
    assert all(end - made.starts[partition] <= 4 for partition, end in made.ends.items())
    await jobs.pause(kafka, made)
    stop = asyncio.Event()
    assert await runner.run(kafka, made, Classifier(), stop) == "paused"
    # So few events may all be escalated before the runner notices the pause.
    assert (await jobs.resume(kafka, made)).state in ("running", "escalated")
    assert await runner.run(kafka, made, Classifier(), stop) == "escalated"
    assert (await jobs.pause(kafka, made)).state == "paused"
    assert (await jobs.finish(kafka, made)).state == "paused", "a runner that ends late changes nothing"
    assert (await jobs.resume(kafka, made)).state == "escalated", "nothing is left to escalate"
    with pytest.raises(ConfigurationError, match=f"no replay 'nonsense'; there are: {made.replay_id}"):
        await jobs.find(kafka, "nonsense")
    assert made.policies[0].before_version is None, "the policy was never in force"
    other = await created(kafka, ReplayRequest([NEW]), ChangedBy("test"))
    await jobs.cancel(kafka, other)
    assert await runner.run(kafka, other, Classifier(), stop) == "cancelled"
    with pytest.raises(ConfigurationError, match="is cancelled: start another one"):
        await jobs.resume(kafka, other)
    with pytest.raises(ConfigurationError, match="2 replays begin with '2', name one: "):
        await jobs.find(kafka, "2")


class ScriptedModel(StandIn):
    """Answers at once, as its argument says."""

    async def generate(self, question):
        violates = "Weigh what" in question.policy_text
        final = {"violation": int(violates), "rule_ids": ["FS1" if violates else "FS4"], "confidence": "high"}
        return completion("So.", json.dumps({**final, "reason": "Because."}))

    async def close(self):
        pass


@pytest.mark.slow
async def test_a_replay_is_judged_by_its_versions_whatever_is_in_force_and_its_state_is_shown(
    broker, monkeypatch, tmp_path
):
    await kafka_bus.create_topics(broker)
    await operator.release(broker, [OLD], ChangedBy("test"))
    await publish(broker, 12)
    made = await created(broker, ReplayRequest([NEW], noise=1.0), ChangedBy("why it is", "ann"))
    assert await runner.run(broker, made, Classifier(), asyncio.Event()) == "escalated"
    await operator.release(broker, [OTHER], ChangedBy("test"))
    await operator.retire(broker, NAME, ChangedBy("test"))
    feed = await feed_of(broker)
    judge = Judge(ScriptedModel(), feed, InferenceBudget(500))
    async with kafka_bus.producer(broker) as producer:
        for number in (n for n in range(12) if n % 4 in (0, 2)):
            live = judged_before(number, "safe")
            await producer.send_and_wait(broker.prefix + topics.VERDICTS, value=encode(live), key=f"c{number}".encode())
        async for record in kafka_bus.read_all(broker, [topics.ESCALATIONS_REPLAY]):
            for output in await judge.judge(record):
                await producer.send_and_wait(broker.prefix + output.topic, value=output.value, key=output.key)
    verdicts = [decode(r.value, Verdict) async for r in kafka_bus.read_all(broker, [topics.REPLAYS])]
    said = Counter((v.policy_version, v.decision, v.lane, v.replay_id) for v in verdicts)
    assert said == {
        (NEW.version, "violates", "replay", made.replay_id): 9,
        (OLD.version, "safe", "replay", made.replay_id): 6,
    }
    monkeypatch.setenv("SAFEGUARD_BOOTSTRAP", broker.bootstrap)
    monkeypatch.setenv("SAFEGUARD_PREFIX", broker.prefix)
    shown = await asyncio.to_thread(CliRunner().invoke, app, ["replay", "show", made.replay_id[:15], "--json"])
    row = json.loads(shown.stdout)
    assert (row["state"], row["read"], row["events"], row["escalated"], row["judged"]) == ("judged", 13, 13, 15, 15)
    assert (row["items"], row["unreadable"]) == (12, 1)
    assert (row["created_by"], row["why"]) == ("ann", "why it is")
    words = ["replay", "diff", made.replay_id, "--json", "--parquet", str(tmp_path / "pairs.parquet")]
    words += ["--html", str(tmp_path / "page.html")]
    found = json.loads((await asyncio.to_thread(CliRunner().invoke, app, words)).stdout)
    assert found["decisions"] == {"cleared": {"violates": 3}, "safe": {"cleared": 3, "violates": 3}}
    assert (found["to_violates"]["count"], found["to_safe"]["count"], found["compared"]) == (9, 0, 9)
    assert found["to_violates_past_gate"] == 3, "the new version calls them violating, and its gate lets them pass"
    assert (found["noise"]["count"], found["noise"]["of"]) == (0, 3), "both gates escalate three"
    assert (found["events"], found["unreadable"], found["violating_after"]["of"]) == (12, 1, 12)
    assert {flip["rationale_after"] for flip in found["examples"]} == {"So."}
    assert {flip["content_id"]: flip["text"] for flip in found["examples"]} == {
        f"c{number}": f"{TEXTS[number % 4]} {number}" for number in range(12) if number % 4 != 3
    }
    assert (tmp_path / "pairs.parquet").stat().st_size > 500
    assert "9</b>become violating" in (tmp_path / "page.html").read_text()
    assert '<pre dir="auto">both 2</pre>' in (tmp_path / "page.html").read_text()
    shown = (await asyncio.to_thread(CliRunner().invoke, app, words[:3])).stdout
    assert "noise floor" in shown
    assert "flip to violates" in shown
    assert "c2\n  text        both 2\n  before      safe FS4" in shown
    shown = (await asyncio.to_thread(CliRunner().invoke, app, [*words[:3], "--no-texts"])).stdout
    assert "c2\n  before      safe FS4" in shown
    assert "both 2" not in shown


def judged_before(number, decision, since=WHEN):
    rules = ("FS1",) if decision == "violates" else ("FS4",)
    return Verdict(
        f"live-{number}",
        f"c{number}",
        content_sha256(event(number).text),
        NAME,
        OLD.version,
        decision,
        "reasoner",
        "live",
        "m",
        since,
        rules,
    )


REMOVING = EnforcementRules((EnforcementRule("all", "remove"),))


@pytest.fixture
async def stack():
    async with contextlib.AsyncExitStack() as opened:
        yield opened


def last_decisions(verdicts):
    return {v.content_id: v.decision for v in verdicts}


async def judge_replayed_items(kafka):
    """Judge each replayed escalation under the new version; three of four items also get an earlier live verdict."""
    feed = await feed_of(kafka)
    judge = Judge(ScriptedModel(), feed, InferenceBudget(500))
    async with kafka_bus.producer(kafka) as producer:
        async for record in kafka_bus.read_all(kafka, [topics.ESCALATIONS_REPLAY]):
            number = int(record.key[1:])
            if number % 4 != 1:  # the gates of the version before let those pass
                later = datetime.now(UTC) + timedelta(minutes=30)  # which the clocks of two hosts allow
                since = later if number == 38 else WHEN  # c38 was judged again meanwhile
                live = judged_before(number, "violates" if number % 8 == 0 else "safe", since)
                topic = kafka.prefix + topics.VERDICTS
                await producer.send_and_wait(topic, value=encode(live), key=record.key, partition=record.partition)
            verdict, *_ = await judge.judge(record)
            topic = kafka.prefix + topics.REPLAYS
            await producer.send_and_wait(topic, value=verdict.value, key=record.key, partition=record.partition)


@pytest.mark.slow
async def test_flips_are_promoted_once_despite_failures_and_reverted(kafka, monkeypatch, stack):
    await kafka_bus.create_topics(kafka)
    await operator.release(kafka, [OLD], ChangedBy("test"))
    await publish(kafka, 40)
    monkeypatch.setenv("SAFEGUARD_BOOTSTRAP", kafka.bootstrap)
    monkeypatch.setenv("SAFEGUARD_PREFIX", kafka.prefix)

    async def command(*words):
        return await asyncio.to_thread(CliRunner().invoke, app, ["replay", *words])

    async def verdicts():
        return [decode(r.value, Verdict) async for r in kafka_bus.read_all(kafka, [topics.VERDICTS])]

    made = await created(kafka, ReplayRequest([NEW], noise=0.0), ChangedBy("test"))
    assert "is escalating: wait until it ends" in str((await command("promote", made.replay_id)).exception)
    assert await runner.run(kafka, made, Classifier(), asyncio.Event()) == "escalated"
    await judge_replayed_items(kafka)
    before = last_decisions(await verdicts())
    assert Counter(before.values()) == {"safe": 15, "violates": 5}
    enforced = await stack.enter_async_context(enforcing(kafka, REMOVING))
    assert await removed(enforced, kafka, 5) == {
        content for content, decision in before.items() if decision == "violates"
    }

    refused = await command("promote", made.replay_id, "--yes")
    assert "more than the budget of 5.0%" in str(refused.exception)
    assert (await command("promote", made.replay_id, "--budget", "1")).exit_code == 1, "nobody said yes"
    assert len(await verdicts()) == 20
    monkeypatch.setattr(promotion, "CHUNK", 4)

    def dies(done, of):
        raise RuntimeError

    planned = await promotion.plan(kafka, made, made.policies[0], "promote")
    with pytest.raises(RuntimeError):
        await promotion.publish(kafka, made, made.policies[0], planned, ChangedBy("first", "ann"), dies)
    assert len(await verdicts()) == 24, "it died after one chunk"
    assert (
        "20 superseding verdicts"
        in (
            await command("promote", made.replay_id, "--budget", "1", "--yes", "--by", "bob", "--why", "the rest")
        ).stdout
    )
    found = await verdicts()
    assert len({v.verdict_id for v in found}) == len(found) == 44
    assert Counter(last_decisions(found).values()) == {"violates": 29, "safe": 1}
    assert last_decisions(found)["c38"] == "safe", "its newer verdict stands"
    assert len(await removed(enforced, kafka, 29)) == 29
    superseded = {v.content_id: v.supersedes for v in found if v.policy_version == NEW.version}
    assert all(
        supersedes == (f"live-{content[1:]}" if content in before else None)
        for content, supersedes in superseded.items()
    )
    assert "there is nothing to write" in (await command("promote", made.replay_id, "--budget", "1", "--yes")).stdout

    newer = Verdict(
        "newer", "c2", "sha", NAME, NEW.version, "safe", "reasoner", "live", "m", datetime.now(UTC), ("FS4",)
    )
    partition = next(iter([p async for p in _partition_of(kafka, b"c2")]))
    async with kafka_bus.producer(kafka) as producer:
        topic = kafka.prefix + topics.VERDICTS
        await producer.send_and_wait(topic, value=encode(newer), key=b"c2", partition=partition)
    reverted = await command("revert", made.replay_id, "--yes", "--by", "cyd", "--why", "too strict")
    assert "23 superseding verdicts" in reverted.stdout
    after = last_decisions(await verdicts())
    cleared = {f"c{n}": "safe" for n in range(40) if n % 4 == 1}
    assert after == {**before, **cleared}, "as before, and c2 as it was judged since"
    assert await removed(enforced, kafka, 5) == {
        content for content, decision in before.items() if decision == "violates"
    }
    changes = Counter(a.action for _, a in [one async for one in moderators.actions(kafka)] if a.changes)
    assert changes == {"remove": 29, "allow": 24}, "each flip was done once and taken back once"
    assert "there is nothing to write" in (await command("revert", made.replay_id, "--yes")).stdout
    assert await publications(kafka, made) == [
        ("promote", "ann", "first", 24),
        ("promote", "bob", "the rest", 20),
        ("revert", "cyd", "too strict", 23),
    ]


async def publications(settings, replay):
    """Who promoted and reverted a replay, why, and how many verdicts, as its record tells."""
    noted = (await jobs.find(settings, replay.replay_id)).publications
    return [(one.direction, one.by, one.why, one.verdicts) for one in noted]


def replayed_verdict(number, replay, decision="violates"):
    live = judged_before(number, decision)
    after = {"verdict_id": f"r{number}", "policy_version": NEW.version, "lane": "replay", "replay_id": replay.replay_id}
    return msgspec.structs.replace(live, **after, decided_at=datetime.now(UTC))


def edited(content_id):
    """That a newer text of an item was cleared."""
    when = datetime.now(UTC)
    return Verdict(f"e-{content_id}", content_id, "newer", EVERY_POLICY, "1", "safe", "prefilter", "live", "m", when)


@pytest.mark.slow
async def test_what_was_shown_is_published_and_nothing_that_came_later(kafka):
    await kafka_bus.create_topics(kafka)
    replay = msgspec.structs.replace(job(), state="escalated", created_at=datetime.now(UTC))
    await jobs.create(kafka, replay)
    policy = replay.policies[0]

    async def write(topic, *verdicts):
        async with kafka_bus.producer(kafka) as producer:
            for one in verdicts:
                value = encode(one) if isinstance(one, Verdict) else one
                await producer.send_and_wait(kafka.prefix + topic, value, key=b"k", partition=0)

    await write(topics.VERDICTS, b"hello", None, *(judged_before(n, "safe") for n in range(10)))
    await write(topics.REPLAYS, None, b"{}", *(replayed_verdict(n, replay) for n in range(5)))
    await write(topics.CLEARED, edited("c0"))
    planned = await promotion.plan(kafka, replay, policy, "promote")
    assert len(planned.changes) == 4, "not the item whose newer text was cleared"
    await write(topics.CLEARED, edited("c2"))
    await write(topics.REPLAYS, *(replayed_verdict(n, replay) for n in range(5, 10)))
    await write(topics.VERDICTS, judged_before(1, "safe", datetime.now(UTC)))  # judged again meanwhile
    assert await promotion.publish(kafka, replay, policy, planned, ChangedBy("test")) == 2
    assert await promotion.publish(kafka, replay, policy, planned, ChangedBy("test")) == 0, "the same plan again"
    read = kafka_bus.read_decoded(kafka, [topics.VERDICTS], Verdict)
    assert {v.content_id async for _, v in read if v.policy_version == NEW.version} == {"c3", "c4"}
    assert len((await promotion.plan(kafka, replay, policy, "promote")).changes) == 5, "those that came later"
    async with kafka_bus.producer(kafka) as producer:
        request = ErasureRequest("c9", datetime.now(UTC), "ann")
        await producer.send_and_wait(kafka.prefix + topics.ERASURES, encode(request), key=b"c9")
    changes = (await promotion.plan(kafka, replay, policy, "promote")).changes
    assert sorted(one.after.content_id for one in changes) == ["c5", "c6", "c7", "c8"], "nothing of an erased item"


class SlowSelector(ReplaySelector):
    """Takes long enough that a replay can be paused in the middle."""

    async def __call__(self, records):
        await asyncio.sleep(0.1)
        return await super().__call__(records)


@pytest.mark.slow
async def test_a_paused_replay_resumes_where_it_was_when_kafka_forgot_its_position(kafka):
    await kafka_bus.create_topics(kafka)
    await publish(kafka, 2000)
    made = await created(kafka, ReplayRequest([NEW], noise=0.0), ChangedBy("test"))
    stop, read = asyncio.Event(), []

    def until_some(done):
        read.append(done)
        if done:
            stop.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "Limits", lambda **_: Limits(max_batch=20, max_in_flight=1, max_poll_records=20))
        patch.setattr(runner, "ReplaySelector", SlowSelector)
        assert await runner.run(kafka, made, Classifier(), stop, until_some) == "running"
    committed = await jobs.progress(kafka, made)
    assert 0 < committed < made.total
    await forget(kafka, jobs.group(made))
    assert await jobs.progress(kafka, made) == committed
    assert await runner.run(kafka, made, Classifier(), asyncio.Event()) == "escalated"
    found = Counter(e.event.content_id for e in await escalated(kafka))
    assert found == dict.fromkeys((f"c{n}" for n in range(2000) if n % 4 in (1, 2)), 1)


@pytest.mark.slow
async def test_a_replay_is_committed_when_no_event_is_left(kafka):
    await kafka_bus.create_topics(kafka)
    await publish(kafka, 50)
    made = await created(kafka, ReplayRequest([NEW], noise=0.0), ChangedBy("test"))
    assert not await jobs.is_committed(kafka, made)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner.Engine, "run", _ends_at_once)
        assert await runner.run(kafka, made, Classifier(), asyncio.Event()) == "running"
    assert await runner.run(kafka, made, Classifier(), asyncio.Event()) == "escalated"
    assert await jobs.is_committed(kafka, made)
    assert len(await escalated(kafka)) == 25


async def _ends_at_once(self, stop, until):
    return frozenset(until)


async def removed(agent, current, count):
    """The ids of the removed content items, once there are `count` and the agent is ready."""
    async with asyncio.timeout(TIMEOUT):
        while len(found := await standing_on(current)) != count or not agent.state()["ready"]:
            await asyncio.sleep(0.2)
    assert set(found.values()) <= {"remove"}
    return set(found)


async def _partition_of(broker, key):
    async for record in kafka_bus.read_all(broker, [topics.REPLAYS]):
        if record.key == key:
            yield record.partition
