"""Which events are erased: those of an erased item that were written by then, whatever their bytes and times are."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from safeguard_streams.contract import topics
from safeguard_streams.contract.records import ErasureRequest, encode
from safeguard_streams.releases.erasures import ErasureList
from safeguard_streams.runtime.memory_broker import StoredRecord

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
MS = int(WHEN.timestamp() * 1000)


def request(content_id, at=WHEN):
    value = encode(ErasureRequest(content_id, at, "ann"))
    return StoredRecord(topics.ERASURES, 0, 0, MS, content_id.encode(), value)


def event(value, timestamp=MS - 1):
    return StoredRecord(topics.EVENTS, 0, 0, timestamp, None, value)


def erased_items(*requests, **more):
    erasures = ErasureList(**more)
    for one in requests:
        erasures.take(one)
    return erasures


@pytest.mark.parametrize(
    ("timestamp", "erased"),
    [
        (MS - 1, True),
        (MS, True),
        (MS + 1, False),  # new content under the old id
        (-1, True),
        (0, True),
        (MS // 1000, True),  # seconds
        (MS * 1000, True),  # microseconds: when it was written is unknown
        pytest.param(int(time.time() * 1000), False, id="now"),
    ],
)
def test_events_that_were_written_by_then_are_erased(timestamp, erased):
    erasures = erased_items(request("c1"))
    assert erasures.erased("c1", timestamp) is erased
    assert not erasures.erased("c2", timestamp)


def test_a_time_without_an_offset_is_utc_wherever_the_process_runs(monkeypatch):
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    time.tzset()
    try:
        erasures = erased_items(request("c1", WHEN.replace(tzinfo=None)))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert erasures.erased("c1", MS)
    assert not erasures.erased("c1", MS + 1)


def test_the_last_erasure_counts_and_a_tombstone_ends_it():
    forgotten = []
    erasures = erased_items(request("c1"), request("c1", WHEN - timedelta(days=1)), on_erased=forgotten.append)
    assert erasures.erased("c1", MS)
    assert forgotten == ["c1", "c1"]
    for broken in (b"hello", b"{}", None):
        erasures.take(StoredRecord(topics.ERASURES, 0, 0, MS, b"other", broken))
    assert erasures.erased("c1", MS)
    erasures.take(StoredRecord(topics.ERASURES, 0, 0, MS, b"c1", None))
    assert not erasures.erased("c1", MS)


@pytest.mark.parametrize("content_id", ["c1", "ключ", 'a "b" \\', "🙂"])
def test_events_are_known_by_the_id_in_their_value(content_id):
    whole = encode(ErasureRequest(content_id, WHEN, "x"))  # any record with a content_id
    body = whole[:-1] + b', "text": "a \xff text", "created_at": "2026-01-01T00:00:00Z"}'  # not UTF-8: repaired
    other = encode(ErasureRequest("other", WHEN, "x"))
    records = [event(whole), event(body), event(other), event(b"hello"), event(None), event(whole, MS + 5)]
    assert erased_items(request(content_id)).kept(records) == [records[i] for i in (2, 3, 4, 5)]
    assert ErasureList().kept(records) == records


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_an_erasure_of_any_time_ends_no_stage(moment):
    value = b'{"content_id": "c1", "erased_by": "ann", "erased_at": "' + moment.encode() + b'"}'
    erasures = ErasureList()
    erasures.take(StoredRecord(topics.ERASURES, 0, 0, MS, b"c1", value))
    assert erasures.erased("c1", MS) == moment.startswith("9999")
