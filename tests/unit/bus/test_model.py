"""The engine against a model: random programs of faults, in which nothing is lost and nothing is answered twice.

Two members share two partitions of a broker in memory. Commits fail before and after they take effect, or hang.
Outputs are refused. Calls are slow, fail, or are cancelled. Partitions move with and without notice, processes are
killed, stand still, and logs are cut off.

Time is virtual: it moves only when nothing can run, and then to the next timer. A program therefore runs in the same
way on any machine.
"""

import asyncio
import time
from collections import Counter
from types import SimpleNamespace
from unittest import mock

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from safeguard_streams.bus import backlog, engine, partition_worker
from safeguard_streams.bus.engine import Engine, Limits, Retry
from safeguard_streams.bus.interface import Committed, Output, Partition
from safeguard_streams.bus.memory import MemoryBus
from safeguard_streams.bus.partition_worker import WorkerState
from safeguard_streams.bus.transform import stateless
from safeguard_streams.bus.watermark import unpack
from safeguard_streams.contract import topics
from safeguard_streams.errors import BusError, FencedError, RecordError
from safeguard_streams.runtime.memory_broker import MemoryBroker

SOURCE, SINK = "source", "sink"
PARTITIONS = (Partition(SOURCE, 0), Partition(SOURCE, 1))
LARGEST = 600  # bytes of a value that a topic takes
BUFFERED, BUFFERED_BYTES, POLL, CALLS = 12, 4000, 6, 4
KINDS = ("plain", "plain", "plain", "slow", "failing", "wrong", "cancelled", "refused", "large")
FAULTS = ("fails", "answer lost", "fenced", "hangs", "answer late")
POLL_SECONDS, SETTLED = 0.001, 0.008  # the latter: seconds in which all that can happen at once has happened


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still while anything can run."""

    now = 0.0

    def time(self):
        return self.now

    def _run_once(self):
        if not self._ready and self._scheduled:
            self.now = max(self.now, self._scheduled[0].when())
        super()._run_once()


class Bus(MemoryBus):
    """A member that owns what it is given, and whose commits fail as planned."""

    def __init__(self, model):
        super().__init__(model.broker, [])
        self.model = model

    async def writer(self, partition):
        if self.model.faults and self.model.faults[0] == "writer away":
            self.model.faults.pop(0)
            raise BusError("broker away")
        writer = await super().writer(partition)
        commit, faults = writer.commit, self.model.faults

        async def faulty(*arguments):
            fault = faults.pop(0) if faults else ""
            if fault == "fails":
                raise BusError("broker away")
            if fault == "fenced":
                raise FencedError("another owner")
            if fault == "hangs":
                await asyncio.Event().wait()
            await commit(*arguments)
            if fault == "answer lost":
                raise BusError("no answer")
            if fault == "answer late":
                await asyncio.Event().wait()

        writer.commit = faulty
        return writer

    def own(self, partition):
        self._owned.add(partition)
        self._paused.discard(partition)
        self._next[partition] = self.broker.positions.get(partition, (0, ""))[0] or 0


class Member:
    """A process of the group."""

    def __init__(self, model):
        self.bus = model.bus()
        limits = Limits(
            max_batch=model.max_batch, max_in_flight=CALLS, max_buffered=BUFFERED, max_buffered_bytes=BUFFERED_BYTES,
            max_poll_records=POLL, max_batch_bytes=900, max_commit_bytes=900, commit_interval=0.0, commit_timeout=0.05,
            drain_timeout=0.01, reopen_delay=0.0,
        )  # fmt: skip
        self.engine = Engine(
            self.bus, stateless(model.process), stage="model", limits=limits, retry=Retry(2, 0.0001, 0.0001)
        )
        self.running = model.loop.create_task(self.engine.run(asyncio.Event()))

    async def kill(self):
        for worker in list(self.engine._workers.values()):
            await worker.close()
        self.engine._workers.clear()
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


class Model(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.loop = VirtualLoop()
        clock = SimpleNamespace(monotonic=self.loop.time, time=time.time, perf_counter=time.perf_counter)
        self.patches = [mock.patch.object(module, "time", clock) for module in (backlog, engine, partition_worker)]
        self.patches.append(mock.patch.object(engine, "_POLL_SECONDS", POLL_SECONDS))
        for patch in self.patches:
            patch.start()
        self.loop.run_until_complete(self.set_up())

    def bus(self):
        """The bus of a new member."""
        return Bus(self)

    async def set_up(self):
        self.broker = MemoryBroker(partitions=2, max_record_size=LARGEST)
        self.kinds = []  # of each record, whose value begins with its number
        self.failed = set()
        self.released = asyncio.Event()
        self.faults = []
        self.resets = Counter()
        self.killed = 0

    @initialize(max_batch=st.sampled_from([1, 5]))
    def start(self, max_batch):
        self.max_batch = max_batch
        self.members = [Member(self), Member(self)]
        self.owners = {}
        self.settle()
        for partition in PARTITIONS:
            self.move(partition, "with notice")

    # ------------------------------------------------------------------ the stage

    async def process(self, records):
        outputs = []
        for record in records:
            number = number_of(record)
            kind = self.kinds[number]
            if kind == "slow" and not self.released.is_set():
                await self.released.wait()
            if kind in {"failing", "cancelled"} and number not in self.failed:
                self.failed.add(number)
                raise ValueError if kind == "failing" else asyncio.CancelledError
            if kind == "wrong":
                raise RecordError("text", "is wrong")
            size = {"refused": LARGEST + 1, "large": LARGEST}.get(kind, 1)
            outputs.append(Output(SINK, str(number).encode(), b"x" * size))
        return outputs

    # ------------------------------------------------------------------ the world

    def settle(self, seconds=SETTLED):
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def known(self, partition):
        """Whether all that counts as done lies within the log. Until then a longer log would look like the old one."""
        position, metadata = self.broker.positions.get(partition, (0, ""))
        done = max(unpack(position or 0, metadata), default=-1)
        read = [member.bus._next[partition] for member in self.members if partition in member.bus._owned]
        return max(position or 0, done + 1, *read) <= self.end(partition)

    @rule(partition=st.sampled_from(PARTITIONS), kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=12))
    def publish(self, partition, kinds):
        if self.known(partition):
            for kind in kinds:
                value = f"{len(self.kinds)} ".encode().ljust(len(self.kinds) % 7 * 50)
                key = str(len(self.kinds)).encode()
                record = self.broker.append(SOURCE, value, key, partition.partition)
                self.broker.logs[partition][-1] = msgspec.structs.replace(record, timestamp=1_700_000_000_000)
                self.kinds.append(kind)
        self.settle()

    @rule(faults=st.lists(st.sampled_from([*FAULTS, "writer away"]), min_size=1, max_size=4))
    def plan_faults(self, faults):
        self.faults += faults
        self.settle()

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.06]))
    def wait(self, seconds):
        self.settle(seconds)

    @rule()
    def release_slow_calls(self):
        self.released.set()
        self.settle()
        self.released.clear()

    @precondition(lambda self: self.owners)
    @rule(partition=st.sampled_from(PARTITIONS), notice=st.sampled_from(["with notice", "without", "late"]))
    def move(self, partition, notice):
        before = self.owners.get(partition)
        after = next(member for member in self.members if member is not before)
        if before is not None and notice == "with notice":
            self.give_up(before, partition)
        self.give_up(after, partition)  # a member learns that it lost a partition before it gets it again
        self.assign(after, partition)
        self.settle()
        if before is not None and notice == "late":
            self.give_up(before, partition)

    def assign(self, member, partition):
        async def assign():
            member.bus.own(partition)
            member.engine.assigned([partition])

        self.owners[partition] = member
        self.loop.run_until_complete(assign())

    def give_up(self, member, partition):
        member.bus._owned.discard(partition)
        self.loop.run_until_complete(member.engine.revoked([partition]))

    @precondition(lambda self: self.owners)
    @rule(index=st.integers(0, 1))
    def kill(self, index):
        old = self.members[index]
        self.loop.run_until_complete(old.kill())
        self.members[index] = new = Member(self)
        self.settle(0.0)
        for partition, owner in self.owners.items():
            if owner is old:
                self.assign(new, partition)
        self.settle()

    @precondition(lambda self: self.owners)
    @rule(index=st.integers(0, 1))
    def stand_still(self, index):
        """As after SIGSTOP and SIGCONT."""
        self.members[index].engine._polled_at -= 3600
        self.settle()

    @rule(partition=st.sampled_from(PARTITIONS), back=st.integers(1, 9))
    def fetch_again(self, partition, back):
        """The bus hands out once more what it has handed out; what is paused it would only hand out later."""
        member = self.owners[partition]
        worker = member.engine._workers.get(partition)
        if worker is not None and worker.backlog.first is not None and partition not in member.bus._paused:
            member.bus.seek(partition, max(worker.backlog.first, member.bus._next[partition] - back))
        self.settle()

    @rule(partition=st.sampled_from(PARTITIONS), share=st.floats(0, 1))
    def cut_off(self, partition, share):
        if self.broker.logs[partition]:
            self.broker.truncate(SOURCE, int(share * self.end(partition)), partition.partition)
            self.resets[partition] += 1
        self.settle()

    def end(self, partition):
        return len(self.broker.logs[partition])

    # ------------------------------------------------------------------ what must hold

    def answers(self):
        return Counter(int(record.key) for topic in (SINK, topics.DEAD_LETTERS) for record in self.broker.read(topic))

    def workers(self):
        return [worker for member in self.members for worker in member.engine._workers.values()]

    @invariant()
    def nothing_is_answered_twice(self):
        if not self.resets:
            assert max(self.answers().values(), default=1) == 1

    @invariant()
    def what_is_in_hand_is_counted_and_bounded(self):
        for worker in self.workers() if self.owners else ():
            backlog = worker.backlog
            works = [*backlog._under_way, *backlog._done, *(backlog._committing.works if backlog._committing else ())]
            records = [*backlog._waiting, *(record for work in works for record in work.records)]
            assert backlog.records == len(records) <= BUFFERED + POLL
            assert (
                backlog.size
                == sum(len(record.value) + len(record.key) for record in records)
                <= BUFFERED_BYTES + POLL * 300
            )
            written = [output for work in works for output in work.outputs]
            assert backlog.output_size == sum(map(size_of, written)) <= BUFFERED_BYTES + CALLS * 5 * 1500
            assert (backlog.age > 0) == bool(records)
            assert backlog.idle <= (not records)

    @invariant()
    def lag_is_what_is_not_committed(self):
        for partition, member in self.owners.items() if self.owners else ():
            worker = member.engine._workers.get(partition)
            if worker is None or worker.state is not WorkerState.RUNNING or worker.backlog._committing:
                continue
            committed = Committed(*self.broker.positions.get(partition, (None, "")))
            known = worker.backlog.first is not None and worker.backlog.position is not None  # a writer is open
            if known and worker._committed == committed and worker.backlog.reset_to is None:
                position = committed.offset or 0
                done = position + len(unpack(position, committed.metadata))
                assert worker.lag == max(0, self.end(partition) - done)  # a log may be cut off below what is done

    def teardown(self):
        try:
            self.loop.run_until_complete(self.finish())
        finally:
            self.loop.close()
            for patch in self.patches:
                patch.stop()

    async def finish(self):
        """Without faults, everything is answered and committed."""
        self.faults.clear()
        self.released.set()
        for member in self.members:
            for partition in set(member.engine._workers) - {p for p, owner in self.owners.items() if owner is member}:
                member.bus._owned.discard(partition)
                await member.engine.revoked([partition])
        try:
            async with asyncio.timeout(60):
                while not self.finished():
                    await asyncio.sleep(0.001)
        finally:
            for member in self.members:
                await member.kill()
        answers = self.answers()
        for partition in PARTITIONS:
            numbers = {number_of(record) for record in self.broker.logs[partition]}
            assert numbers <= set(answers), "nothing is lost"
            assert all(answers[number] <= 1 + self.resets[partition] for number in numbers)

    def finished(self):
        assert not any(member.running.done() for member in self.members), "the engine ended"
        return all(
            self.broker.positions[partition][0] == self.end(partition) and not self.done_ahead(partition)
            if partition in self.broker.positions
            else not self.end(partition)
            for partition in PARTITIONS
        ) and all(worker.backlog.idle for worker in self.workers())

    def done_ahead(self, partition):
        position, metadata = self.broker.positions.get(partition, (0, ""))
        return unpack(position or 0, metadata)


def number_of(record):
    return int(record.value.split()[0])


def size_of(output):
    return len(output.value or b"") + len(output.key or b"") + sum(len(n) + len(v) for n, v in output.headers)


TestModel = Model.TestCase


def test_answers_from_before_a_reset_are_written_once_though_the_answer_of_their_commit_is_lost():
    model = Model()
    model.start(max_batch=1)
    model.publish(kinds=["slow"] * 6, partition=PARTITIONS[0])  # four take all places
    model.cut_off(partition=PARTITIONS[0], share=0.9)
    model.plan_faults(faults=["answer lost"] * 3)
    model.release_slow_calls()
    model.wait(seconds=0.06)
    model.teardown()


TestModel.settings = settings(max_examples=100, stateful_step_count=30, derandomize=True, database=None)


@pytest.mark.slow
def test_the_model_holds_for_many_more_programs():
    many = settings(max_examples=1000, stateful_step_count=50, derandomize=True, database=None)
    run_state_machine_as_test(Model, settings=many)
