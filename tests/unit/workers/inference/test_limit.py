"""The learned limit: against models of a server whose throughput rises to a capacity."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard_streams.workers.inference.limit import LEAST, MOST, START, Limit


def learned(capacity, answers, *, limit=None, noise=lambda number: 0.0):
    """The limit after so many answers of a server that serves up to `capacity` requests at once at full speed."""
    limit, now = limit or Limit(), 0.0
    for number in range(answers):
        at_once = min(limit.value, capacity)
        now += 1.0 / at_once  # each takes a second while there is room
        limit.answered(round(300 * (1 + noise(number))), now, full=True)
    return limit


@pytest.mark.parametrize("capacity", [100, 200, 400])
def test_it_rises_to_what_the_server_serves_and_hardly_further(capacity):
    limit = learned(capacity, 20_000)
    assert 0.8 * capacity <= limit.value <= 1.6 * capacity


def test_it_stays_within_its_bounds():
    assert learned(10_000, 50_000).value == MOST
    limit = Limit()
    for _ in range(1000):
        limit.refused()
        learned(1, 3 * limit.value, limit=limit)
        assert limit.value <= START
        limit.refused()
    assert limit.value >= LEAST


def test_refusals_of_one_burst_count_once():
    limit = Limit()
    for _ in range(64):
        limit.refused()
    assert limit.value == int(0.7 * START)
    learned(1000, START, limit=limit)
    limit.refused()
    assert limit.value == int(0.7 * int(0.7 * START))


def test_answers_below_the_limit_show_nothing():
    limit = Limit()
    for number in range(10_000):
        limit.answered(300, number / 1000, full=False)
    assert limit.value == START


def test_a_fixed_limit_stays():
    limit = Limit(7)
    learned(1000, 10_000, limit=limit)
    limit.refused()
    assert limit.value == 7


@given(st.lists(st.tuples(st.integers(0, 4096), st.floats(0, 10), st.booleans(), st.booleans()), max_size=400))
def test_no_sequence_of_answers_and_refusals_leaves_the_bounds(events):
    limit, now = Limit(), 0.0
    for tokens, passed, full, refused in events:
        now += passed
        if refused:
            limit.refused()
        limit.answered(tokens, now, full=full)
        assert LEAST <= limit.value <= MOST
