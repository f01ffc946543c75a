"""A record's timestamp may be anything; an age is a plausible number of seconds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard_streams.bus.backlog import Backlog
from safeguard_streams.bus.timestamps import age
from safeguard_streams.runtime.memory_broker import StoredRecord

NOW = 1_795_000_000.0


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [
        (1_794_999_990_000, 10.0),
        (1_795_000_060_000, 0.0),  # a clock that is ahead
        (-1, 0.0),  # no timestamp
        (0, 0.0),
        (1_795_000_000, 0.0),  # seconds
        (1_795_000_000_000_000, 0.0),  # microseconds
        (2**63 - 1, 0.0),
        (-(2**63), 0.0),
    ],
)
def test_ages(timestamp, expected):
    assert age(timestamp, NOW) == expected


@given(st.integers(-(2**63), 2**63 - 1))
def test_no_age_is_longer_than_kafka_exists(timestamp):
    assert 0 <= age(timestamp, NOW) <= 17 * 366 * 86_400


@pytest.mark.parametrize("timestamp", [-1, 0, 1_795_000_000, 2**63 - 1])
def test_a_backlog_has_no_age_by_a_timestamp_that_cannot_be_one(timestamp):
    backlog = Backlog()
    backlog.add([StoredRecord("t", 0, 0, timestamp, None, b"")])
    assert backlog.age == 0
