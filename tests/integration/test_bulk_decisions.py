"""Decisions about many items at once: the numbers first, what is done is not done again, unknown ids at the end."""

import asyncio
import json
from datetime import UTC, datetime

import msgspec
import pytest
from typer.testing import CliRunner

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.cli import app
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Action, ContentEvent, PolicyStanding, Standing, encode
from safeguard_streams.enforcement import bulk, decisions, moderators
from safeguard_streams.releases.operator import ChangedBy
from tests.conftest import enforcing, until
from tests.integration.test_decisions import ODD, RULES, judge, stands, written

embedded = pytest.mark.parametrize("broker_address", ["embedded"], indirect=True)
ANN = ChangedBy("spam wave", "ann")


@pytest.fixture
def command(broker, monkeypatch, tmp_path):
    """Invokes a command with a file of these ids."""
    monkeypatch.setenv("SAFEGUARD_BOOTSTRAP", broker.bootstrap)
    monkeypatch.setenv("SAFEGUARD_PREFIX", broker.prefix)
    monkeypatch.setattr(moderators, "FOLLOW_SECONDS", 0.2)

    async def invoke(ids, *words, **more):
        path = tmp_path / "ids.txt"
        path.write_bytes("\r\n".join(ids).encode("utf-8-sig"))
        words = ["enforce", *words, "--file", str(path), "--by", "ann", "--why", "spam wave"]
        return await asyncio.to_thread(CliRunner().invoke, app, words, **more)

    return invoke


async def human(current):
    return [one async for _, one in moderators.actions(current) if one.human and one.sequence is None]


@embedded
async def test_many_are_decided_about_and_taken_back_once(broker, command):
    await kafka_bus.create_topics(broker)
    await judge(broker, "c1", "c2", ODD)
    async with kafka_bus.producer(broker) as producer:  # c3 was published and never judged, under a key of its own
        await producer.send_and_wait(
            broker.prefix + topics.EVENTS, encode(ContentEvent("c3", "kind", datetime.now(UTC))), key=b"k", partition=1
        )
    ids = ["c1", ODD, "c3", "c1"]
    shown = await command(ids, "decide", "label", "--dry-run")
    assert "decide label: 3 items to write" in shown.stderr
    assert "nothing was written" in shown.stdout
    assert (await command(ids, "decide", "label", input="n\n")).exit_code == 1
    assert await human(broker) == []
    async with enforcing(broker, RULES):
        await until(lambda: stands(broker, "c1", "remove"))
        assert (await command(ids, "decide", "label", input="y\n")).exit_code == 0
        again = await command(ids, "decide", "label", "--yes", "--json")
        assert json.loads(again.stdout) == {"planned": 0, "written": 0, "already": 3, "left": []}
        await until(lambda: stands(broker, "c3", "label"))
        await until(lambda: stands(broker, ODD, "label"))
        again = await command([*ids, "c2", "no such", "c9"], "decide", "label", "--yes")
        assert again.exit_code == 1
        assert "decide label: 1 item to write" in again.stderr
        assert "with this decision already: 3" in again.stderr
        assert "unknown: 2" in again.stderr
        assert "left out: no such\nleft out: c9\n" in again.stderr
        assert len(await human(broker)) == 4
        await until(lambda: stands(broker, "c2", "label"))
        for attempt in range(2):
            back = await command([*ids, "c2"], "undecide", "--yes", "--json")
            assert json.loads(back.stdout)["written"] == (0 if attempt else 4)
            assert back.exit_code == 0
        await until(lambda: stands(broker, "c2", "remove"))
        await until(lambda: stands(broker, "c3", "allow"))
        never = await command(["c4"], "undecide", "--yes")
        assert (never.exit_code, "without a decision in force: 1" in never.stderr) == (1, True)
        # The same request after the withdrawal is another decision, with an id that no receiver has seen.
        assert (await command(ids, "decide", "label", "--yes")).exit_code == 0
        await until(lambda: stands(broker, "c1", "label"))
    asked, followed = await written(broker, "c1")
    assert [one.effective for one in followed] == ["label", "remove", "label"]
    assert len({one.action_id for one in asked}) == 3


@pytest.mark.slow
@embedded
async def test_a_record_still_on_its_way_is_followed_once(broker):
    """The killed command's records arrive after the repeated command has looked for them."""
    await kafka_bus.create_topics(broker)
    await judge(broker, "c1", "c2")
    async with enforcing(broker, RULES):
        await until(lambda: stands(broker, "c1", "remove"))
        await until(lambda: stands(broker, "c2", "remove"))
        first = await bulk.plan_decisions(broker, ["c1", "c2"], "label", ANN)
        second = await bulk.plan_decisions(broker, ["c2", "c1"], "label", ANN)
        assert {one.action_id for _, one in first.records} == {one.action_id for _, one in second.records}
        for plan in (first, second):
            await bulk.carry_out(broker, plan, lambda _: None)
        await until(lambda: stands(broker, "c1", "label"))
        await until(lambda: stands(broker, "c2", "label"))
        await decisions.decide(broker, "c1", "limit", ChangedBy("", "ben"))
        await until(lambda: stands(broker, "c1", "limit"))
    _, followed = await written(broker, "c1")
    assert [one.effective for one in followed] == ["label", "limit"]


@pytest.mark.slow
@embedded
async def test_a_decision_on_an_earlier_text_or_of_another_person_is_no_same_decision(broker):
    await kafka_bus.create_topics(broker)
    await judge(broker, "c1")
    async with enforcing(broker, RULES):
        await until(lambda: stands(broker, "c1", "remove"))
        await decisions.decide(broker, "c1", "label", ANN)
        await until(lambda: stands(broker, "c1", "label"))
        assert (await bulk.plan_decisions(broker, ["c1"], "label", ANN)).done == 1
        for who, any_text in ((ChangedBy("spam wave", "ben"), False), (ChangedBy("", "ann"), False), (ANN, True)):
            assert len((await bulk.plan_decisions(broker, ["c1"], "label", who, any_text=any_text)).records) == 1
        await judge(broker, "c1", text="edited")
        await until(lambda: stands(broker, "c1", "remove"))
    plan = await bulk.plan_decisions(broker, ["c1"], "label", ANN)
    assert [one.content_sha256 for _, one in plan.records] == ["edited"]


@pytest.mark.slow
@embedded
async def test_held_actions_on_some_items_are_released(broker, command):
    await kafka_bus.create_topics(broker)
    when = datetime.now(UTC)
    async with kafka_bus.producer(broker) as producer:
        for name in ("c1", "c2", "c3"):
            held = Action(f"a-{name}", name, "remove", when, policy_id="hate", verdict_id="v", state="held", rule="r")
            standing = Standing(name, "allow", 2, (PolicyStanding("hate", ("v",), held=held),))
            await producer.send_and_wait(broker.prefix + topics.STANDING, encode(standing), key=name.encode())
    shown = await command(["c2", "c3", "c9"], "release", "hate", "--dry-run")
    assert (shown.exit_code, "release under hate: remove 2" in shown.stderr) == (1, True)
    assert "left out: c9" in shown.stderr
    assert "nothing was written" in shown.stdout
    async with enforcing(broker, RULES):
        done = json.loads((await command(["c2", "c3"], "release", "hate", "--yes", "--json")).stdout)
        assert done["released"] + done["pending"] == 2
        await until(lambda: stands(broker, "c2", "remove"))
        await until(lambda: stands(broker, "c3", "remove"))
        again = await command(["c2", "c3"], "release", "hate", "--yes", "--json")
        assert (again.exit_code, json.loads(again.stdout)["released"], json.loads(again.stdout)["left"]) == (0, 0, [])
    assert [one.action.content_id for one in await moderators.held(broker)] == ["c1"]


@pytest.mark.slow
@embedded
async def test_a_hundred_thousand_ids(broker):
    """Each topic is read once, and the records are written in parts."""
    await kafka_bus.create_topics(broker)
    ids = [f"post-{number}" for number in range(100_000)]
    standing = Standing("", "remove", 2, (PolicyStanding("hate", ("v",), "remove", "a"),), content_sha256="sha")
    async with kafka_bus.producer(broker) as producer:
        for name in ids[::5]:
            one = msgspec.structs.replace(standing, content_id=name)
            await producer.send(broker.prefix + topics.STANDING, encode(one), key=name.encode())
    parts = []
    plan = await bulk.plan_decisions(broker, ids, "allow", ANN)
    assert (len(plan.records), len(plan.left), plan.left[0]) == (20_000, 80_000, ids[1])
    await bulk.carry_out(broker, plan, parts.append)
    assert (parts[-1], len(parts)) == (20_000, 10)
    again = await bulk.plan_decisions(broker, ids, "allow", ANN)
    assert (again.records, again.done) == ([], 20_000)
