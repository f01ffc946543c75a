"""Outputs that a topic refuses are the fault of one record, and commits that fail are tried again in parts."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safeguard_streams.bus.engine import Engine, Limits
from safeguard_streams.bus.interface import Committed, Output, Partition
from safeguard_streams.bus.memory import MemoryBus
from safeguard_streams.bus.transform import stateless
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import DeadLetter, decode
from safeguard_streams.errors import BusError, ConfigurationError
from safeguard_streams.runtime.memory_broker import MemoryBroker
from tests.conftest import TIMEOUT

SOURCE, SINK = "source", "sink"
FIRST = Partition(SOURCE, 0)
LIMIT = 2000


def filled(sizes):
    """A broker that takes records of LIMIT bytes. The transform below writes a value of each of these sizes."""
    broker = MemoryBroker(max_record_size=LIMIT)
    for number, size in enumerate(sizes):
        broker.append(SOURCE, f"{number} {size}".encode())
    return broker


async def widened(records):
    outputs = []
    for record in records:
        number, size = record.value.split()
        outputs.append(Output(SINK, number, b"x" * int(size)))
    return outputs


async def run(broker, transform=None, *, bus=None, **limits):
    engine = Engine(
        bus or MemoryBus(broker, [SOURCE]),
        transform or stateless(widened),
        stage="test",
        limits=Limits(**{"reopen_delay": 0.001, "commit_interval": 0.001, **limits}),
    )
    async with asyncio.timeout(TIMEOUT):
        await engine.run(asyncio.Event(), until={FIRST: len(broker.logs[FIRST])})
    return engine


def numbers(broker):
    return [int(record.key) for record in broker.read(SINK)]


def letters(broker):
    return [decode(record.value, DeadLetter) for record in broker.read(topics.DEAD_LETTERS)]


@pytest.mark.parametrize("max_batch", [1, 7, 2000])
async def test_the_record_at_fault_gets_a_dead_letter_and_the_others_pass(max_batch):
    broker = filled([10] * 57 + [LIMIT + 1] + [10] * 100 + [LIMIT * 5] * 2 + [10] * 40)
    engine = await run(broker, max_batch=max_batch, max_in_flight=16)
    assert sorted(numbers(broker)) == [n for n in range(200) if n not in {57, 158, 159}]
    if max_batch > 1:
        assert numbers(broker) == sorted(numbers(broker))
    assert sorted(letter.origin.offset for letter in letters(broker)) == [57, 158, 159]
    assert {letter.error for letter in letters(broker)} == {"OutputRefusedError"}
    assert letters(broker)[0].original()[1] == f"57 {LIMIT + 1}".encode()
    assert broker.positions[FIRST] == Committed(200, "")
    assert engine.committed == 200


async def test_a_dead_letter_that_is_refused_is_written_without_the_value():
    broker = filled([10, 10])
    broker.append(SOURCE, b"2 9999 ".ljust(LIMIT * 2))

    async def transform(records):
        return await widened(records)

    await run(broker, stateless(transform))
    (letter,) = letters(broker)
    assert (letter.origin.offset, letter.value) == (2, None)
    assert numbers(broker) == [0, 1]


async def test_a_topic_that_takes_no_dead_letter_at_all_ends_the_process_and_says_what_to_do():
    broker = filled([10])
    broker.max_record_size = 5
    with pytest.raises(ConfigurationError, match=r"moderation\.dead-letters.*max\.message\.bytes"):
        await run(broker)
    assert FIRST not in broker.positions


@settings(max_examples=15)
@given(refused=st.sets(st.integers(0, 29)), max_batch=st.sampled_from([1, 3, 30]), max_bytes=st.integers(1, 500))
def test_any_refused_records_are_told_apart(refused, max_batch, max_bytes):
    async def check():
        broker = filled([LIMIT + 1 if number in refused else 10 for number in range(30)])
        await run(broker, max_batch=max_batch, max_in_flight=8, max_commit_bytes=max_bytes)
        assert sorted(numbers(broker)) == sorted(set(range(30)) - refused)
        assert sorted(letter.origin.offset for letter in letters(broker)) == sorted(refused)

    asyncio.run(check())


class Numbered:
    """Numbers the records of a partition on, from what is committed; a repeated call would leave a gap."""

    def __init__(self, broker):
        self.broker = broker
        self.count = 0

    async def opened(self, _):
        self.count = len(self.broker.read(SINK)) + len(self.broker.read(topics.DEAD_LETTERS))

    async def process(self, records):
        outputs = []
        for record in records:
            self.count += 1
            outputs.append(Output(SINK, str(self.count).encode(), b"x" * int(record.value.split()[1])))
        return outputs

    def closed(self, _):
        self.count = -1


async def test_state_follows_what_is_committed_while_the_record_at_fault_is_looked_for():
    broker = filled([10] * 30 + [LIMIT + 1] + [10] * 30)
    await run(broker, Numbered(broker), max_batch=16)
    assert numbers(broker) == [n for n in range(1, 62) if n != 31]


class Limited(MemoryBus):
    """Commits of more than so many bytes take too long; notes the bytes of each that was tried."""

    def __init__(self, broker, most):
        super().__init__(broker, [SOURCE])
        self.most = most
        self.tried = []

    async def writer(self, partition):
        writer = await super().writer(partition)
        commit = writer.commit

        async def timed(outputs, *position):
            size = sum(len(output.value) for output in outputs)
            self.tried.append(size)
            if size > self.most:
                raise BusError("timed out")
            await commit(outputs, *position)

        writer.commit = timed
        return writer


@pytest.mark.parametrize("max_batch", [1, 50])
async def test_a_commit_that_takes_too_long_is_not_repeated_unchanged(max_batch):
    broker = filled([1000] * 50)
    bus = Limited(broker, 3500)
    await run(broker, bus=bus, max_batch=max_batch, max_in_flight=50, max_commit_bytes=3000 if max_batch > 1 else 2**30)
    assert sorted(numbers(broker)) == list(range(50))
    failed = [size for size in bus.tried if size > 3500]
    assert failed, "the first was too large"
    assert len(failed) < 30


async def test_commits_are_bounded_by_bytes():
    broker = filled([1000] * 200)
    bus = Limited(broker, 2**40)
    await run(broker, bus=bus, max_batch=1, max_in_flight=64, max_commit_bytes=10_000, max_batch_bytes=1)
    assert max(bus.tried) <= 10_000
    assert sorted(numbers(broker)) == list(range(200))


@pytest.mark.parametrize("refused", [{1}, {3, 6, 13}])
async def test_what_was_read_before_a_reset_is_told_apart_without_reading_it_again(refused):
    broker, release = filled([LIMIT + 1 if number in refused else 10 for number in range(10)]), asyncio.Event()

    async def held(records):
        await release.wait()
        return await widened(records)

    bus = MemoryBus(broker, [SOURCE])
    limits = Limits(max_batch=4, commit_interval=0.001, reopen_delay=0.001)
    engine, stop = Engine(bus, stateless(held), stage="test", limits=limits), asyncio.Event()
    running = asyncio.create_task(engine.run(stop))
    async with asyncio.timeout(TIMEOUT):
        while not engine._workers or engine._workers[FIRST].backlog.records < 10:
            await asyncio.sleep(0.001)
        broker.truncate(SOURCE, 0)
        broker.changed.set()
        while broker.positions.get(FIRST, (None, ""))[0] != 0:
            await asyncio.sleep(0.001)
        for number in range(10, 16):
            broker.append(SOURCE, f"{number} {LIMIT + 1 if number in refused else 10}".encode())
        release.set()
        while broker.positions[FIRST][0] != 6:
            await asyncio.sleep(0.001)
    stop.set()
    await running
    answered = [*numbers(broker), *(int(letter.original()[1].split()[0]) for letter in letters(broker))]
    assert sorted(answered) == list(range(16))
    assert len(letters(broker)) == len(refused & set(range(16)))
