"""Times as people write them, from the ordinary to the absurd."""

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.runtime.durations import moment, span

NOW = datetime(2026, 6, 1, tzinfo=UTC)
EPOCH = datetime.fromtimestamp(0, UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7d", NOW - timedelta(days=7)),
        ("30s", NOW - timedelta(seconds=30)),
        ("0m", NOW),
        ("99999999999d", EPOCH),
        ("999999999999999h", EPOCH),
        ("30000d", EPOCH),
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:00:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("0001-01-01", EPOCH),
        ("2026-01-31T12:00:00.123456Z", datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)),
    ],
)
def test_a_moment(text, expected):
    assert moment(text, "--since", NOW) == expected


@pytest.mark.parametrize(
    "text", ["", "7", "d", "7w", "-7d", "7d ", "٧d", "2026-13-01", "0001-01-01T00:00:00+14:00", "9" * 99 + "d"]
)
def test_what_is_no_moment_is_named_or_everything(text):
    try:
        assert moment(text, "--since", NOW) == EPOCH
    except ConfigurationError as error:
        assert str(error).startswith("--since: write a time")


@given(st.text(max_size=30) | st.from_regex(r"[0-9]{1,40}[smhd]", fullmatch=True))
def test_no_text_raises_anything_else(text):
    assert span(text) is None or span(text) >= timedelta()
    with contextlib.suppress(ConfigurationError):
        assert moment(text, "--since", NOW).tzinfo is not None
