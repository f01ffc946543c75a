"""The accounts of a partition: records and bytes, from polled to committed."""

import asyncio
import time

from safeguard_streams.bus.backlog import Backlog
from safeguard_streams.bus.interface import Committed
from safeguard_streams.bus.watermark import SPAN, pack
from safeguard_streams.runtime.memory_broker import StoredRecord


def records(*offsets, value=b"12345", timestamp=1000):
    return [StoredRecord("source", 0, offset, timestamp, None, value) for offset in offsets]


def opened(offset=0, metadata=""):
    backlog = Backlog()
    backlog.start_at(Committed(offset, metadata))
    return backlog


async def call():
    task = asyncio.create_task(asyncio.sleep(0))
    await task
    return task


async def test_records_and_bytes_are_counted_on_their_way():
    backlog = opened()
    backlog.add(records(0, 1, 2, 3))
    backlog.add(records(4, value=None))
    assert (backlog.waiting, backlog.waiting_bytes, backlog.unfinished) == (5, 20, 5)
    batch = backlog.next_batch(3)
    assert [record.offset for record in batch] == [0, 1, 2]
    assert (backlog.waiting, backlog.waiting_bytes, backlog.unfinished) == (2, 5, 5)
    task = await call()
    backlog.begin(task, batch)
    assert list(backlog.calls) == [task]
    backlog.finish(batch[1:], ["output"])
    backlog.end(task)
    assert not backlog.calls
    assert backlog.has_finished
    assert backlog.unfinished == 5, "a finished record counts until it is committed"
    (finished,) = backlog.collect()
    assert (finished.offsets, finished.outputs, finished.oldest) == ([1, 2], ["output"], 1000)
    assert backlog.to_commit == Committed(0, pack(0, {1, 2}))
    backlog.finish(batch[:1], [])
    backlog.collect()
    assert backlog.to_commit == Committed(3, "")
    assert backlog.unfinished == 2
    assert not backlog.idle


async def test_records_that_an_earlier_owner_finished_are_not_taken_again():
    backlog = opened(10, pack(10, {11, 13}))
    backlog.add(records(8, 9, 10, 11, 12, 13))
    assert [record.offset for record in backlog.next_batch(100)] == [10, 12]


async def test_what_was_not_committed_is_collected_again_in_its_order():
    backlog = opened()
    backlog.add(records(0, 1))
    for record in backlog.next_batch(2):
        backlog.finish([record], [])
    first = backlog.collect()
    backlog.put_back(first)
    backlog.add(records(2))
    backlog.finish(backlog.next_batch(1), [])
    assert [finished.offsets for finished in backlog.collect()] == [[0], [1], [2]]
    assert backlog.to_commit == Committed(3, "")


async def test_a_record_too_far_ahead_of_the_watermark_blocks():
    backlog = opened()
    backlog.add(records(0, SPAN))
    assert not backlog.blocked
    (slow,) = backlog.next_batch(1)
    assert backlog.blocked
    assert backlog.next_batch(100) == []
    backlog.finish([slow], [])
    backlog.collect()
    assert not backlog.blocked


async def test_dropping_leaves_the_rest_in_hand():
    backlog = opened()
    backlog.add(records(0, 1, 2))
    backlog.finish(backlog.next_batch(1), [])
    backlog.drop_waiting()
    assert (backlog.waiting, backlog.waiting_bytes) == (0, 0)
    assert backlog.has_finished
    backlog.drop_finished()
    assert not backlog.has_finished


async def test_age_is_that_of_the_oldest_record_under_way_or_finished_and_else_of_the_first_that_waits():
    moment = time.time()
    backlog = opened()
    assert backlog.age == 0
    backlog.add(records(0, timestamp=int((moment - 50) * 1000)))
    backlog.add(records(1, timestamp=int((moment - 20) * 1000)))
    assert 50 <= backlog.age < 55
    task = await call()
    backlog.begin(task, backlog.next_batch(1))
    assert 50 <= backlog.age < 55
    backlog.end(task)
    assert 20 <= backlog.age < 25


def test_lag_is_counted_to_the_end_of_the_partition_where_it_is_known():
    backlog = opened(5)
    backlog.add(records(5, 6))
    assert backlog.lag(None) == 2
    assert backlog.lag(12) == 7
    assert backlog.lag(3) == 0
