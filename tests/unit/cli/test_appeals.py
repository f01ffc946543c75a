"""`safeguard appeals`: what its commands check before they work, and what they count; without a broker."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from safeguard_streams.contract.records import Appeal, encode
from safeguard_streams.enforcement.appeal_figures import summed
from safeguard_streams.enforcement.appeal_outcomes import ListedAppeal
from safeguard_streams.errors import ConfigurationError, RecordError
from tests.unit.cli.invoking import invoke

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
GOOD = encode(Appeal("c1", "author", WHEN, verdict_id="v1", reason="a claim")).decode()


def test_a_file_of_appeals_is_checked_and_counted():
    done = invoke("appeals", "publish", "-", "--check", "--json", given=f"{GOOD}\n\n{GOOD}\n")
    assert json.loads(done.stdout) == {"published": 0, "appeals": 2, "invalid": []}
    assert invoke("appeals", "publish", "-", "--check", given=GOOD).stdout == "1 appeal\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (GOOD.replace('"author"', '"nobody"'), "appellant: is not one of the values that the field takes"),
        (GOOD.replace('"verdict_id":"v1"', '"verdict_id":null'), "action_id: is missing, and so is verdict_id"),
        (GOOD[:-1] + ',"origin":"x"}', "origin: is no place; write partition and offset, as 3@1042"),
    ],
)
def test_a_line_that_is_no_appeal_is_named_and_nothing_is_published(line, reason):
    done = invoke("appeals", "publish", "-", "--json", given=f"{GOOD}\n{line}\n")  # no broker: nothing is sent
    assert done.exit_code == 1
    printed = json.loads(done.stdout)
    ((number, why),) = [(one["line"], one["reason"]) for one in printed["invalid"]]
    assert (printed["published"], number, why.startswith(reason)) == (0, 2, True), why
    assert "a claim" not in done.stderr


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["decide", "p1"], "--uphold or --overturn"),
        (["decide", "p1", "--overturn"], "--reason"),
        (["decide", "p1", "--uphold", "--action", "label", "--reason", "x"], "--action goes with --overturn"),
        (["decide", "p1", "--uphold", "--reason", "x", "--by", "a\nb"], "--by"),
        (["add", "c1"], "--action-id or --verdict-id"),
        (["add", "c" * 600, "--verdict-id", "v"], "CONTENT_ID"),
    ],
)
def test_arguments_are_checked_before_a_broker_is_asked(words, problem):
    with pytest.raises(ConfigurationError, match=problem):
        invoke("appeals", *words)


def test_words_that_are_too_long_are_refused_without_a_broker_and_not_quoted():
    with pytest.raises(RecordError) as caught:
        invoke("appeals", "add", "c1", "--verdict-id", "v", "--reason", "secret" * 2000)
    assert caught.value.field == "reason"
    assert "secret" not in str(caught.value)


def listed(state, hours=None, *, overdue=False):
    closed = None if hours is None else WHEN + timedelta(hours=hours)
    return ListedAppeal("p", "c", "author", state, WHEN, WHEN, overdue, "remove", "remove", closed_at=closed)


def test_the_summary_counts_what_people_decided_and_no_other_end_as_reversal():
    found = [listed("overturned", 2), listed("upheld", 4), listed("upheld", 9), listed("moot", 1), listed("refused", 1)]
    counts = summed([*found, listed("open"), listed("open", overdue=True)])
    assert (counts.open, counts.overdue, counts.decided, counts.moot, counts.refused) == (2, 1, 3, 1, 1)
    assert (counts.reversed.count, counts.reversed.of, counts.reversed.value) == (1, 3, 0.3333)
    assert 0 < counts.reversed.low < 0.3333 < counts.reversed.high < 1
    assert counts.hours == 4
    empty = summed([])
    assert (empty.reversed.value, empty.hours) == (None, None)
