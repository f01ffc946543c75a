"""The accounts of a partition: records and bytes, from polled to known to be committed."""

import time

from safeguard_streams.bus.backlog import Backlog
from safeguard_streams.bus.interface import Committed, Output
from safeguard_streams.bus.watermark import SPAN, pack, unpack
from safeguard_streams.runtime.memory_broker import StoredRecord

ALL = 2**40


def records(*offsets, value=b"12345", timestamp=1000, key=None, headers=()):
    return [StoredRecord("source", 0, offset, timestamp, key, value, headers) for offset in offsets]


def opened(offset=0, metadata=""):
    backlog = Backlog()
    backlog.start_at(Committed(offset, metadata))
    return backlog


def offsets(work):
    return [record.offset for record in work.records] if work else []


def place(commit):
    """The position and the completed set that a commit writes."""
    offset, metadata = commit.position
    return offset, unpack(offset, metadata)


def done(backlog, count=1, outputs=()):
    for _ in range(count):
        backlog.finish(backlog.begin(1, ALL), outputs)


def test_records_and_bytes_are_counted_until_their_commit_is_known():
    backlog = opened()
    backlog.add(records(0, 1, 2, 3))
    backlog.add(records(4, value=None, key=b"key", headers=[("a", b"bc"), ("d", None)]))
    assert (backlog.waiting, backlog.records, backlog.size) == (5, 5, 27)
    slow, work = backlog.begin(1, ALL), backlog.begin(2, ALL)
    assert (offsets(slow), offsets(work)) == ([0], [1, 2])
    assert (backlog.waiting, backlog.under_way, backlog.records, backlog.size) == (2, 2, 5, 27)
    backlog.finish(work, [Output("sink", b"k", b"1234567", [("e", b"f")])])
    assert (backlog.under_way, backlog.has_done, backlog.output_size) == (1, True, 10)
    commit = backlog.collect(ALL, ALL)
    assert (commit.works, commit.position, commit.records) == ([work], Committed(0, pack(0, {1, 2})), 2)
    assert not backlog.has_done
    assert (backlog.records, backlog.size, backlog.output_size) == (5, 27, 10), "its outcome is unknown"
    backlog.committed(commit)
    assert (backlog.records, backlog.size, backlog.output_size) == (3, 17, 0), "a slow record holds back none of these"
    backlog.finish(slow, [])
    commit = backlog.collect(ALL, ALL)
    assert commit.position == Committed(3, "")
    backlog.committed(commit)
    assert backlog.records == 2
    assert not backlog.idle
    done(backlog, 2)
    backlog.committed(backlog.collect(ALL, ALL))
    assert backlog.idle
    assert (backlog.size, backlog.position) == (0, 5)


def test_a_commit_that_did_not_take_place_moves_nothing_and_is_tried_in_parts():
    backlog = opened()
    backlog.add(records(*range(4)))
    done(backlog, 4, [Output("sink", None, b"12345678")])
    whole = backlog.collect(ALL, ALL)
    assert (whole.position, whole.output_size) == (Committed(4, ""), 32)
    assert (backlog.position, backlog.lag(10)) == (0, 10), "the position says what is committed"
    backlog.put_back(whole)
    first = backlog.collect(2, ALL)
    assert (first.works, first.position) == (whole.works[:2], Committed(2, ""))
    backlog.committed(first)
    assert backlog.lag(10) == 8
    second = backlog.collect(ALL, 10)
    assert second.works == whole.works[2:3], "bounded by bytes"
    backlog.committed(second)
    assert backlog.collect(ALL, 1).works == whole.works[3:], "one in any case"


def test_batches_are_bounded_by_bytes_but_hold_one_record_in_any_case():
    backlog = opened()
    backlog.add(records(0, 1, 2, value=b"x" * 10) + records(3, value=b"x" * 100) + records(4))
    assert [offsets(backlog.begin(10, 20)) for _ in range(4)] == [[0, 1], [2], [3], [4]]


def test_records_that_an_earlier_owner_finished_are_not_taken_again():
    backlog = opened(10, pack(10, {11, 13}))
    backlog.add(records(8, 9, 10, 11, 12, 13))
    assert offsets(backlog.begin(100, ALL)) == [10, 12]
    assert backlog.records == 2
    assert backlog.size == 10
    backlog.add(records(14))
    backlog = opened(20)
    backlog.add(records(18, 19))
    assert backlog.begin(100, ALL) is None
    assert backlog.idle


def test_records_that_are_delivered_twice_are_taken_once():
    backlog = opened()
    backlog.add(records(0, 1, 2))
    work = backlog.begin(2, ALL)
    backlog.add(records(0, 1, 2, 3))
    backlog.add(records(1, 3))
    assert not backlog.rewound(records(0))
    assert (offsets(work), offsets(backlog.begin(10, ALL)), backlog.records) == ([0, 1], [2, 3], 4)


def test_a_record_too_far_ahead_of_the_watermark_blocks():
    backlog = opened()
    backlog.add(records(0, SPAN))
    assert not backlog.blocked
    slow = backlog.begin(1, ALL)
    assert backlog.blocked
    assert backlog.begin(100, ALL) is None
    backlog.finish(slow, [])
    assert backlog.blocked, "until the commit is known"
    backlog.committed(backlog.collect(ALL, ALL))
    assert not backlog.blocked


def test_a_batch_spans_no_more_than_the_completed_set():
    backlog = opened()
    backlog.add(records(5, SPAN, SPAN + 4, SPAN + 5))
    assert offsets(backlog.begin(10, ALL)) == [5, SPAN, SPAN + 4]


def test_after_a_reset_the_same_offsets_are_other_records_and_what_is_in_hand_is_finished():
    backlog = opened(7)
    backlog.add(records(7, 8, 9))
    under_way = backlog.begin(1, ALL)
    done(backlog)
    backlog.reset(3)
    assert not backlog.idle
    commit = backlog.collect(ALL, ALL)
    assert (offsets(commit.works[0]), place(commit)) == ([8], (3, set())), "the position in the new log"
    backlog.committed(commit)
    backlog.add(records(3, 4))
    assert offsets(backlog.begin(10, ALL)) == [9], "it waited, and never comes again"
    backlog.finish(under_way, [])
    new = backlog.begin(10, ALL)
    assert offsets(new) == [3, 4]
    commit = backlog.collect(ALL, ALL)
    assert place(commit) == (3, set())
    backlog.committed(commit)
    backlog.finish(new, [])
    assert place(backlog.collect(ALL, ALL)) == (5, set())


def test_a_reset_is_to_be_committed_before_any_record_arrives_and_outlives_the_opening():
    backlog = Backlog()
    backlog.reset(3)
    backlog.start_at(Committed(100, pack(100, {102})))
    assert not backlog.idle
    commit = backlog.collect(ALL, ALL)
    assert (commit.works, place(commit)) == ([], (3, set()))
    backlog.put_back(commit)
    assert backlog.has_done
    backlog.committed(backlog.collect(ALL, ALL))
    assert backlog.idle
    assert backlog.rewound(records(2))


def test_dropping_leaves_what_is_under_way():
    backlog = opened()
    backlog.add(records(0, 1, 2))
    done(backlog, 1, [Output("sink", None, b"123")])
    work = backlog.begin(1, ALL)
    backlog.drop_waiting()
    assert (backlog.waiting, backlog.records, backlog.size) == (0, 2, 10)
    assert backlog.has_done
    backlog.drop()
    assert not backlog.has_done
    backlog.abandon(work)
    assert (backlog.records, backlog.size, backlog.output_size) == (0, 0, 0)


def test_age_is_that_of_the_oldest_record_in_hand():
    moment = time.time()
    backlog = opened()
    assert backlog.age == 0
    backlog.add(records(0, timestamp=int((moment - 50) * 1000)))
    backlog.add(records(1, timestamp=int((moment - 20) * 1000)))
    assert 50 <= backlog.age < 55
    done(backlog)
    assert 50 <= backlog.age < 55
    commit = backlog.collect(ALL, ALL)
    assert 50 <= backlog.age < 55, "its commit is under way"
    backlog.committed(commit)
    assert 20 <= backlog.age < 25


def test_lag_counts_what_is_not_committed_to_the_end_of_the_partition_where_it_is_known():
    backlog = opened(5)
    backlog.add(records(5, 6, 7))
    assert backlog.lag(None) == 3
    assert backlog.lag(12) == 7
    assert backlog.lag(3) == 0
    backlog.begin(1, ALL)
    done(backlog)
    assert backlog.lag(12) == 7
    backlog.committed(backlog.collect(ALL, ALL))
    assert backlog.lag(12) == 6, "what is committed ahead of a slow record is done"


def test_a_position_that_moves_over_what_an_earlier_owner_did_while_a_commit_is_under_way_is_due():
    backlog = opened(1, pack(1, {2, 3, 4}))
    backlog.add(records(1, 2, 3, 4))
    done(backlog)
    commit = backlog.collect(ALL, ALL)
    assert commit.position == Committed(2, pack(2, {2, 3, 4}))
    assert backlog.begin(ALL, ALL) is None, "an earlier owner has done them"
    backlog.committed(commit)
    assert not backlog.idle
    assert backlog.collect(ALL, ALL).position == Committed(5, "")
