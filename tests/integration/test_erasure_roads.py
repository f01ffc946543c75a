"""An item that is erased while every stage has work on it: afterwards nothing writes a word of it, by any road."""

import asyncio
import base64
import contextlib
import json
import os
from datetime import UTC, datetime

import pytest

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import ContentEvent, Verdict, encode
from safeguard_streams.enforcement import decisions
from safeguard_streams.enforcement.rules import SHIPPED, load
from safeguard_streams.infra import brokers
from safeguard_streams.operations import erasure, requeueing
from safeguard_streams.operations.dead_letters import LetterFilter
from safeguard_streams.policies.files import load_library
from safeguard_streams.policies.harmony import encoding
from safeguard_streams.policies.parsing import parse
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.releases import operator
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.replay import jobs, runner
from safeguard_streams.workers.app import Worker
from tests.conftest import enforcing, until
from tests.faults.processes import BIN, Process
from tests.stand_in_model import StandIn, completion

pytestmark = pytest.mark.slow
WORD = "Zyxomma"
TEXT = f"I want to kill myself tonight, {WORD}"
ANN = ChangedBy(why=f"has {WORD} in it", by="ann")
ITEM = "item/7q"
POLICY = "self-harm"


class QuotingModel(StandIn):
    """A stand-in for the model whose rationale and reason quote the content. It answers while `open` is set."""

    concurrency = 64

    def __init__(self):
        self.open = asyncio.Event()
        self.asked = 0

    async def generate(self, question):
        self.asked += 1
        await self.open.wait()
        quoted = WORD if WORD in encoding().decode(list(question.user)) else "nothing"
        final = json.dumps({"violation": 1, "rule_ids": ["SH3"], "confidence": "high", "reason": f"It says {quoted}."})
        return completion(f"It says {quoted}.", final, len(question.prompt))


@contextlib.asynccontextmanager
async def judging(current, model):
    """A reasoning worker in this process."""

    async def start(_):
        return model

    stop = asyncio.Event()
    worker = Worker(current, start)
    running = asyncio.create_task(worker.run(stop))
    try:
        yield worker
    finally:
        stop.set()
        await running


async def publish(current, *events, key=b"author-7"):
    async with kafka_bus.producer(current) as producer:
        for value in events:
            await producer.send_and_wait(current.prefix + topics.EVENTS, value, key=key)


def event(name, text=TEXT):
    return encode(ContentEvent(name, text, datetime.now(UTC)))


async def replay(current, classifier):
    changed = [policy for name, policy in load_library().items() if name == POLICY]
    made = await jobs.plan(current, jobs.ReplayRequest(changed, noise=0.0), ChangedBy("test"))
    await jobs.create(current, made)
    assert await runner.run(current, made, classifier, asyncio.Event()) == "escalated"


async def verdicts(current, topic, name):
    return [v async for _, v in kafka_bus.read_decoded(current, [topic], Verdict) if v.content_id == name]


async def dead_letters(current):
    return [record async for record in kafka_bus.read_all(current, [topics.DEAD_LETTERS])]


async def records(current):
    """All records, by topic, with their place."""
    names = [topic.name for topic in topics.CATALOGUE]
    return [
        (record.topic.removeprefix(current.prefix), record.partition, record.offset, record.key, record.value)
        async for record in kafka_bus.read_all(current, names)
    ]


def has_word(record):
    encoded = base64.b64encode(f"xx{TEXT}".encode())[4:-4], base64.b64encode(f"x{TEXT}".encode())[4:-4]
    words = (WORD.encode(), base64.b64encode(TEXT.encode())[:-4], *encoded)  # in dead letters, at any alignment
    return any(word in part for word in words for part in record[3:] if part is not None)


@pytest.mark.parametrize("broker_address", ["kafka"], indirect=True)
async def test_no_road_leads_past_an_erasure(broker, tmp_path):
    await kafka_bus.create_topics(broker)
    policy = load_library()[POLICY]
    await operator.release(broker, [policy], ChangedBy("test"))
    edited = parse(policy.document.replace("\n## ", "\nA line more.\n\n## ", 1))
    await operator.release(broker, [edited], ChangedBy("test"), shadow=1.0)
    environment = {
        **os.environ,
        "SAFEGUARD_BOOTSTRAP": broker.bootstrap,
        "SAFEGUARD_PREFIX": broker.prefix,
        "OTEL_SDK_DISABLED": "true",
        "SAFEGUARD_PREFILTER_PORT": str(brokers.free_port()),
    }
    classifier = Classifier()
    rules = load(SHIPPED)
    model = QuotingModel()
    model.open.set()
    prefilter = Process("prefilter", [BIN / "safeguard", "prefilter", "run"], environment, tmp_path)
    try:
        async with judging(broker, model) as worker, enforcing(broker, rules) as agent:
            # It has been judged live and in shadow, acted upon, decided by a person, replayed, and edited.
            await publish(broker, event(ITEM))
            await until(lambda: verdicts(broker, topics.VERDICTS, ITEM))
            await decisions.decide(broker, ITEM, "remove", ANN)
            await replay(broker, classifier)
            await until(lambda: verdicts(broker, topics.REPLAYS, ITEM))
            # The model now holds what it is asked: of the edit, of a replay, and of a dead letter to come.
            model.open.clear()
            asked = model.asked
            await publish(broker, event(ITEM, f"{TEXT}, edited"), key=None)
            await until(lambda: model.asked > asked)
            await publish(broker, event(ITEM, f"{TEXT}, late")[:-1])  # broken: a dead letter with the words
            await until(lambda: dead_letters(broker))

            erased = await erasure.erase(broker, ITEM, ANN, erasure.Search())
            await until(lambda: agent._erasures.erased_at(ITEM) is not None)  # it knows of it without a webhook, too
            before = {record[:3] for record in await records(broker)}
            model.open.set()
            await replay(broker, classifier)
            planned = await requeueing.plan(broker, LetterFilter())
            await requeueing.requeue(broker, planned, ANN)
            prefilter.kill()
            prefilter.start()
            asked = model.asked
            await publish(broker, event("y", "I want to kill myself tonight"))
            await until(lambda: verdicts(broker, topics.VERDICTS, "y"))
            assert worker.judge is not None
    finally:
        prefilter.kill()
    everything = await records(broker)
    new = [record[:3] for record in everything if record[:3] not in before and has_word(record)]
    assert not new, [record for record in everything if record[:3] in new]
    named = {place.topic for place in erased.remains}
    kept = {record[0] for record in everything if has_word(record)}
    last = {record[3]: record for record in everything if record[0] == topics.RATIONALES}
    assert not any(has_word(record) for record in last.values())
    assert kept - {topics.RATIONALES} <= named, kept
    assert {topics.EVENTS, topics.ESCALATIONS, topics.DEAD_LETTERS, topics.ACTIONS} <= kept, "each road was there"
