"""What operators see and do while a replay runs: the estimate, its states, waiting, pausing, typing errors."""

import asyncio
import contextlib
import json
import signal
from datetime import UTC, datetime

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.bus.dead_letters import dead_letter
from safeguard_streams.cli import app
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import ErasureRequest, Escalation, Tokens, Verdict, decode, encode
from safeguard_streams.errors import ConfigurationError, RecordError
from safeguard_streams.policies.files import load_library
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.releases import operator
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.replay import estimate, jobs, promotion, runner, status
from safeguard_streams.replay.jobs import ReplayRequest
from safeguard_streams.workers.app import Worker
from tests.conftest import TIMEOUT, own_topics, until
from tests.integration.test_replay import (
    NAME,
    NEW,
    OLD,
    ScriptedModel,
    created,
    escalated,
    event,
    judged_before,
    publish,
    running,
)


@pytest.fixture
async def embedded(embedded_address):
    """Settings for the embedded broker, with topics of this test's own and OLD in force."""
    current = own_topics(embedded_address)
    await kafka_bus.create_topics(current)
    await operator.release(current, [OLD], ChangedBy("test"))
    return current


@pytest.fixture
def command(embedded, monkeypatch, tmp_path):
    """Runs `safeguard replay` with some words. NEW is the policy new.md."""
    monkeypatch.setenv("SAFEGUARD_BOOTSTRAP", embedded.bootstrap)
    monkeypatch.setenv("SAFEGUARD_PREFIX", embedded.prefix)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new.md").write_text(NEW.document)

    async def run(*words, answer=""):
        return await asyncio.to_thread(CliRunner().invoke, app, ["replay", *words], input=answer)

    return run


async def write(current, topic, *records):
    async with kafka_bus.producer(current) as producer:
        for record in records:
            await producer.send_and_wait(current.prefix + topic, encode(record), key=b"k", partition=0)


async def judge(current, made, *, count=None, decision="violates"):
    """Verdicts on the first of a replay's escalations."""
    verdicts = [
        msgspec.structs.replace(
            judged_before(int(one.event.content_id[1:]), decision),
            verdict_id=f"{one.replay_id}-{one.event.content_id}",
            policy_version=one.policy_version,
            lane="replay",
            replay_id=one.replay_id,
            prefilter=one.prefilter,
            decided_at=datetime.now(UTC),
        )
        for one in await escalated(current)
        if one.replay_id == made.replay_id
    ]
    await write(current, topics.REPLAYS, *verdicts[:count])


async def state(current, made):
    (found,) = await status.statuses(current, made.replay_id)
    return found.state


@pytest.mark.slow
async def test_a_replay_passes_through_its_states_and_its_record_says_who_changed_it(embedded, command):
    await publish(embedded, 40)
    made = await created(embedded, ReplayRequest([NEW], noise=0.0), ChangedBy("why it is", "ann"))
    assert await state(embedded, made) == "escalating"
    assert await runner.run(embedded, made, Classifier(), asyncio.Event()) == "escalated"
    assert await state(embedded, made) == "judging"
    await judge(embedded, made, count=12)
    shown = json.loads((await command("show", made.replay_id, "--json")).stdout)
    assert (shown["state"], shown["judged"], shown["escalated"]) == ("judging", 12, 30)
    await judge(embedded, msgspec.structs.replace(made), count=None)
    assert await state(embedded, made) == "judged"
    assert "is judged: nothing is left to pause" in str((await command("pause", made.replay_id)).exception)

    async def flips():
        found = json.loads((await command("diff", made.replay_id, "--json")).stdout)
        return [found[name] for name in ("compared", "unknown", "edited", "judged_since")], found["to_violates"][
            "count"
        ]

    before = await flips()
    assert before == ([10, 20, 0, 0], 10)
    words = ["--yes", "--by", "bob", "--why", "approved", "--json"]
    promoted = json.loads((await command("promote", made.replay_id, "--budget", "1", *words)).stdout)
    assert (promoted["direction"], promoted["to_violates"], promoted["to_safe"]) == ("promote", 10, 0)
    assert promoted["written"] == promoted["planned"] == 10, "the items that the old gates let pass"
    assert promoted["left_out"] == {"edited": 0, "judged_since": 0, "undetermined": 0, "unknown": 20, "erased": 0}
    assert await state(embedded, made) == "promoted"
    assert await flips() == before, "a diff tells what was promoted"
    for refused in ("pause", "cancel"):
        assert "was promoted" in str((await command(refused, made.replay_id)).exception)
    reverted = await command("revert", made.replay_id, "--yes", "--by", "cyd", "--why", "too strict")
    assert "become violating again: 0" in reverted.stderr
    assert "become safe again: 10" in reverted.stderr
    assert await state(embedded, made) == "reverted"
    (row,) = json.loads((await command("list", "--json")).stdout)
    assert [(one["direction"], one["by"], one["why"], one["verdicts"]) for one in row["publications"]] == [
        ("promote", "bob", "approved", 10),
        ("revert", "cyd", "too strict", 10),
    ]
    text = (await command("show", made.replay_id)).stdout
    for part in ("by ann: why it is", "by bob: approved", "by cyd: too strict", made.replay_id, NEW.version):
        assert part in " ".join(text.split()), text


@pytest.mark.slow
async def test_a_plan_is_not_written_for_a_replay_that_was_paused_nor_for_an_item_that_was_erased_meanwhile(embedded):
    await publish(embedded, 40)
    made = await created(embedded, ReplayRequest([NEW], noise=0.0), ChangedBy("test"))
    await runner.run(embedded, made, Classifier(), asyncio.Event())
    await judge(embedded, made)
    made = await jobs.find(embedded, made.replay_id)
    planned = await promotion.plan(embedded, made, made.policies[0], "promote")
    assert len(planned.changes) == 10

    async def promoted():
        await promotion.publish(embedded, made, made.policies[0], planned, ChangedBy("test"))
        read = kafka_bus.read_decoded(embedded, [topics.VERDICTS], Verdict)
        return {verdict.content_id async for _, verdict in read}

    await jobs.pause(embedded, made)
    with pytest.raises(ConfigurationError, match="is paused meanwhile"):
        await promoted()
    await jobs.resume(embedded, made)  # which is refused once the record notes a promotion
    erased = planned.changes[3].after.content_id
    await write(embedded, topics.ERASURES, ErasureRequest(erased, datetime.now(UTC), "ann"))
    assert await promoted() == {change.after.content_id for change in planned.changes} - {erased}


@pytest.mark.slow
async def test_an_escalation_that_became_a_dead_letter_is_not_waited_for(embedded, command):
    await publish(embedded, 8)
    made = await created(embedded, ReplayRequest([NEW], noise=0.0), ChangedBy("test"))
    await runner.run(embedded, made, Classifier(), asyncio.Event())
    await judge(embedded, made, count=5)
    assert await state(embedded, made) == "judging"
    lane = [record async for record in kafka_bus.read_all(embedded, [topics.ESCALATIONS_REPLAY])]
    judged = {v.content_id async for _, v in kafka_bus.read_decoded(embedded, [topics.REPLAYS], Verdict)}
    (failed,) = [one for one in lane if decode(one.value, Escalation).event.content_id not in judged]
    letter = dead_letter(failed, RecordError("event", "is odd"), stage="reasoner", attempts=1)
    async with kafka_bus.producer(embedded) as producer:
        for value in (b"no letter", letter.value):
            await producer.send_and_wait(embedded.prefix + topics.DEAD_LETTERS, value, key=b"k", partition=0)
    assert await state(embedded, made) == "judged"
    assert "5 of 6 judged, 1 in the dead letters" in (await command("show", made.replay_id)).stdout
    await judge(embedded, made)  # it was requeued, and all are judged once more
    (found,) = await status.statuses(embedded, made.replay_id)
    assert (found.state, found.counts.failed) == ("judged", 0)


@pytest.mark.slow
async def test_an_estimate_tells_what_a_replay_escalates_and_costs(embedded):
    await publish(embedded, 400)
    no_judgement = await estimated(embedded, ReplayRequest([NEW], noise=1.0))
    assert (no_judgement.events, no_judgement.looked_at, no_judgement.judgements) == (401, 401, 500)
    assert (no_judgement.cost, no_judgement.gpu_seconds) == (None, None)
    assert (await estimated(embedded, ReplayRequest([NEW], noise=0.0))).judgements == 300
    assert (await estimated(embedded, ReplayRequest([NEW], noise=0.0, sample=0.5))).judgements == 150
    judged = judged_before(0, "safe")
    latency = {"reasoner": 3000.0}
    other = msgspec.structs.replace(judged, policy_id="other", tokens=Tokens(10, 0, 10), latency=latency)
    await write(embedded, topics.VERDICTS, judged, other)
    of_another = await estimated(embedded, ReplayRequest([NEW], noise=0.0))
    assert (of_another.cost.policies, of_another.cost.measured) == (("other",), 1)
    for tokens, milliseconds in ((Tokens(900, 0, 100), 1000.0), (Tokens(1100, 500, 300), 2000.0)):
        await write(
            embedded,
            topics.VERDICTS,
            msgspec.structs.replace(judged, tokens=tokens, latency={"reasoner": milliseconds}),
        )
    found = await estimated(embedded.model_copy(update={"max_in_flight": 4}), ReplayRequest([NEW], noise=0.0))
    assert (found.cost.policies, found.cost.measured, found.cost.concurrency) == ((NAME,), 2, 4)
    assert (found.prompt_tokens, found.completion_tokens) == (300 * 1000, 300 * 200)
    assert found.gpu_seconds == pytest.approx(300 * 1.5 / 4)


async def estimated(current, request):
    return await estimate.estimate(current, await jobs.plan(current, request, ChangedBy("test")), Classifier(), {})


@pytest.mark.slow
async def test_an_estimate_looks_at_a_sample_of_many_events(embedded, monkeypatch):
    monkeypatch.setattr(estimate, "SAMPLE", 200)
    await publish(embedded, 3000)
    found = await estimated(embedded, ReplayRequest([NEW], noise=0.0))
    assert found.events == 3001
    assert 200 <= found.looked_at <= 300
    assert found.judgements == pytest.approx(2250, rel=0.15)


@pytest.mark.slow
async def test_a_filter_that_matches_no_event_is_named_with_what_there_is(embedded, monkeypatch):
    monkeypatch.setattr(estimate, "SAMPLE", 4)
    async with kafka_bus.producer(embedded) as producer:
        for number in range(60):
            surface = "wiki" if number == 50 else "Chat" if number % 2 else "mail"
            value = encode(event(number, surface=surface, language="de" if number != 50 else None))
            await producer.send_and_wait(embedded.prefix + topics.EVENTS, value, key=b"k", partition=0)
    with pytest.raises(ConfigurationError, match="--surface: no event .* has 'nosuch'; there are: .*(Chat|mail)"):
        await estimated(embedded, ReplayRequest([NEW], surfaces=("mail", "nosuch")))
    with pytest.raises(ConfigurationError, match="--language: no event .* has 'fr'; there are: de"):
        await estimated(embedded, ReplayRequest([NEW], languages=("fr",)))
    assert (await estimated(embedded, ReplayRequest([NEW], surfaces=("CHAT", "wiki"), languages=("DE",)))).events == 60


@pytest.mark.slow
async def test_start_asks_unless_told_not_to_and_waits_if_told_to(embedded, command):
    await publish(embedded, 20)
    asked = await command("start", "new.md", "--noise", "0", answer="n\n")
    assert asked.exit_code == 1
    assert "about 15, 0.714 per event" in asked.stderr
    assert "the gates on 21 of the events" in asked.stderr
    assert "start the replay? [y/N]" in asked.stderr
    assert (await command("start", "new.md", "--noise", "0")).exit_code == 1, "there is no answer"
    assert await jobs.read_all(embedded) == {}
    code, output, _ = await called(embedded, "start", "new.md", "--noise", "0", "--json", answer="y\n")
    shown = json.loads(output)
    assert (code, shown["state"], shown["estimate"]["judgements"]) == (0, "judging", 15)
    (made,) = (await jobs.read_all(embedded)).values()
    assert made.escalated_at is not None
    waiting = asyncio.create_task(called(embedded, "show", made.replay_id, "--wait", "--json"))
    await asyncio.sleep(5)
    assert not waiting.done()
    await judge(embedded, made)
    code, output, _ = await waiting
    assert (code, json.loads(output)["state"]) == (0, "judged")


async def called(settings, *words, answer=""):
    """A command in a process of its own, which signals reach: its status and what it prints."""
    with running(settings, *words) as process:
        output, errors = await asyncio.to_thread(process.communicate, answer, timeout=TIMEOUT)
        return process.returncode, output, errors


async def test_wrong_arguments_are_refused_before_anything_is_read(command, monkeypatch):
    monkeypatch.setenv("SAFEGUARD_BOOTSTRAP", "127.0.0.1:1")  # where nothing answers
    for words, message in (
        (["start", "new.md", "--decision", "violatess"], "--decision: violates, safe or undetermined, not violatess"),
        (["start", "new.md", "--since", "yesterday"], "--since: write a time such as"),
        (["start", "nosuch"], "no policy 'nosuch'"),
    ):
        async with asyncio.timeout(TIMEOUT):
            assert message in str((await command(*words)).exception)
    for words in (["start", "new.md", "--sample", "2"], ["start", "new.md", "--first", "-1"]):
        assert (await command(*words)).exit_code == 2


@pytest.mark.slow
async def test_without_a_broker_a_command_says_so_soon(command, monkeypatch):
    monkeypatch.setenv("SAFEGUARD_BOOTSTRAP", "127.0.0.1:1")
    for words in (["list"], ["pause", "x"]):
        assert "no Kafka broker answers at 127.0.0.1:1" in str((await command(*words)).exception), words


@pytest.mark.slow
async def test_unknown_names_say_what_there_is(embedded, command):
    await publish(embedded, 4)
    made = await created(embedded, ReplayRequest([NEW], noise=0.0), ChangedBy("test"))
    for name in ("show", "diff", "promote", "revert", "pause", "resume", "cancel"):
        refused = await command(name, "nosuch")
        assert f"there is no replay 'nosuch'; there are: {made.replay_id}" in str(refused.exception), name
    for name in ("diff", "promote", "revert"):
        refused = await command(name, made.replay_id, "--policy", "nosuch")
        assert f"has no policy 'nosuch'; it has: {NAME}" in str(refused.exception), name


@pytest.mark.slow
async def test_lists_keep_ids_and_versions_whole_at_80_columns(embedded, command, monkeypatch):
    await publish(embedded, 4)
    both = [NEW, load_library()["hate-harassment"]]
    made = await created(embedded, ReplayRequest(both, noise=0.0), ChangedBy("reason " * 30))
    monkeypatch.setattr("safeguard_streams.cli.replay_status.console", lambda: Console(width=80))
    for words in (["list"], ["show", made.replay_id]):
        shown = (await command(*words)).stdout
        lines = shown.splitlines()
        assert max(map(len, lines)) <= 80, shown
        for whole in (made.replay_id, "0 of 5 read", *(f"{one.id} {one.version}" for one in both)):
            assert any(whole in line for line in lines), (whole, shown)


@contextlib.asynccontextmanager
async def reasoner(current, model):
    """A reasoning worker in this process."""

    async def start(_):
        return model

    stop = asyncio.Event()
    running_worker = asyncio.create_task(Worker(current, start).run(stop))
    try:
        yield
    finally:
        stop.set()
        await running_worker


class Slow(ScriptedModel):
    """Answers after a moment, few at a time."""

    concurrency = 2

    async def generate(self, question):
        await asyncio.sleep(0.1)
        return await super().generate(question)


@pytest.mark.slow
async def test_pausing_a_replay_pauses_its_judging_on_every_broker(broker):
    await kafka_bus.create_topics(broker)
    await operator.release(broker, [OLD], ChangedBy("test"))
    await publish(broker, 300)
    made = await created(broker, ReplayRequest([NEW], noise=0.0), ChangedBy("test"))
    assert await runner.run(broker, made, Classifier(), asyncio.Event()) == "escalated"

    async def judged():
        return (await status.counts(broker, made)).judged

    async with reasoner(broker, Slow()):
        await until(judged)
        await jobs.pause(broker, made)
        await settled(judged)
        stopped = await judged()
        assert 0 < stopped < 225
        assert await state(broker, made) == "paused"
        live = decode((await lane_of(broker))[0].value, Escalation)
        live = msgspec.structs.replace(live, lane="live", replay_id=None, policy_version=OLD.version, policy_revision=1)
        await write(broker, topics.ESCALATIONS, live)

        async def answered():
            return [v async for _, v in kafka_bus.read_decoded(broker, [topics.VERDICTS], Verdict)]

        assert (await until(answered))[0].lane == "live", "live content is judged meanwhile"
        assert await judged() == stopped
    async with reasoner(broker, Slow()):
        await asyncio.sleep(2)
        assert await judged() == stopped, "a worker that starts later knows of the pause"
        assert (await jobs.resume(broker, made)).state == "escalated"
        found = await asyncio.wait_for(status.wait(broker, made, asyncio.Event(), lambda _: None), TIMEOUT)
    assert (found.state, found.counts.judged, found.counts.escalated) == ("judged", 225, 225)


async def settled(measure):
    """Wait until a number has not changed for two seconds: what a worker had read is finished then."""
    last, since = None, 0.0
    async with asyncio.timeout(TIMEOUT):
        while True:
            value, now = await measure(), asyncio.get_running_loop().time()
            if value != last:
                last, since = value, now
            elif now - since > 2:
                return
            await asyncio.sleep(0.2)


async def lane_of(current):
    return [record async for record in kafka_bus.read_all(current, [topics.ESCALATIONS_REPLAY])]


@pytest.mark.slow
async def test_ctrl_c_ends_the_wait_and_not_the_replay(embedded, command):
    await publish(embedded, 20)
    _, output, _ = await called(embedded, "start", "new.md", "--noise", "0", "--yes", "--json")
    name = json.loads(output)["replay_id"]
    for words in (["show", name, "--wait"], ["start", "new.md", "--noise", "0", "--yes", "--wait"]):
        with running(embedded, *words) as process:
            await asyncio.to_thread(_read_until, process.stderr, "waiting until replay")
            process.send_signal(signal.SIGINT)
            output, errors = await asyncio.to_thread(process.communicate, timeout=TIMEOUT)
        assert process.returncode == 1
        assert "Traceback" not in errors
        assert "0 of 15 judged" in output
    assert "goes on without this command: 0 of 15 judged\nfollow it with: safeguard replay show" in output
    assert {one.state for one in (await jobs.read_all(embedded)).values()} == {"escalated"}


def _read_until(stream, text):
    for line in stream:
        if text in line:
            return
    raise AssertionError(f"ended without {text!r}")
