import json
import pickle
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard_streams.bus.dead_letters import dead_letter
from safeguard_streams.contract import asyncapi
from safeguard_streams.contract.records import (
    ContentEvent,
    DeadLetter,
    Verdict,
    carried,
    decode,
    encode,
    in_utc,
    milliseconds_since,
    verdict_id,
)
from safeguard_streams.errors import RecordError
from safeguard_streams.runtime.memory_broker import StoredRecord

GOOD = {"content_id": "a", "text": "hello", "created_at": "2026-01-02T03:04:05Z"}


def bad(change, drop=()):
    return json.dumps({k: v for k, v in {**GOOD, **change}.items() if k not in drop}).encode()


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (bad({}, ["text"]), "text"),
        (bad({}, ["content_id"]), "content_id"),
        (bad({}, ["created_at"]), "created_at"),
        (bad({"text": 5}), "text"),
        (bad({"text": None}), "text"),
        (bad({"content_id": ""}), "content_id"),
        (bad({"content_id": "x" * 513}), "content_id"),
        (bad({"created_at": "yesterday"}), "created_at"),
        (bad({"created_at": 1700000000}), "created_at"),
        (bad({"context": [{"role": "user"}]}), "context[0].text"),
        (bad({"context": "earlier"}), "context"),
        (bad({"policies": [1]}), "policies[0]"),
        (bad({"attributes": []}), "attributes"),
        (b"not json", "record"),
        (b"", "record"),
        (None, "record"),
        (b"[]", "record"),
        (b"\xff\xfe", "record"),
        (b'{"content_id":"a","text":"\\ud800","created_at":"2026-01-02T03:04:05Z"}', "record"),
        (b"[" * 100_000, "record"),
        (b'{"content_id":"a","text":"\\ud800","created_at":"2026-01-02T03:04:05Z","x":1E400}', "record"),
        (b'{"content_id":"a","text":"t","created_at":"2026-01-02T03:04:05Z","x":NaN,"y":1E400}', "record"),
    ],
)
def test_a_record_at_fault_is_refused_by_the_name_of_its_field(value, field):
    with pytest.raises(RecordError) as caught:
        decode(value, ContentEvent)
    assert caught.value.field == field
    assert str(caught.value).startswith(field)
    assert "hello" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"latency": {"queue": 1.5}}, "latency[...]"),
        ({"score": 1.5}, "score"),
        (
            {"prefilter": {"gate": "label", "golden": {"name": "g", "score": 1.5, "threshold": 0.5}}},
            "prefilter.golden.score",
        ),
        ({"canary": {"name": "c", "share": 1.5}}, "canary.share"),
    ],
)
@pytest.mark.parametrize("number", ["1e400", "-1E999", "9" * 400])
def test_a_number_that_cannot_be_written_again_is_at_fault(change, field, number):
    verdict = encode(Verdict("v", "c", "s", "p", "1", "safe", "reasoner", "live", "m", datetime.now(UTC)))
    value = json.dumps({**json.loads(verdict), **change}).replace("1.5", number).encode()
    with pytest.raises(RecordError) as caught:
        decode(value, Verdict)
    assert caught.value.field == field


def test_numbers_of_any_size_may_be_in_attributes_and_in_unknown_fields():
    value = bad({"attributes": {"n": [1.5]}, "newer": 1.5}).replace(b"1.5", b"1e400")
    assert decode(value, ContentEvent).attributes == {"n": [float("inf")]}


def test_a_value_of_the_record_is_not_in_the_error():
    value = encode(Verdict("v", "c", "s", "p", "1", "a secret", "reasoner", "live", "m", datetime.now(UTC)))
    with pytest.raises(RecordError) as caught:
        decode(value, Verdict)
    assert str(caught.value) == "decision: is not one of the values that the field takes"


def test_an_error_crosses_processes():
    error = pickle.loads(pickle.dumps(RecordError("text", "is missing")))
    assert (str(error), error.field) == ("text: is missing", "text")


def test_unknown_fields_and_odd_texts_are_accepted():
    event = decode(bad({"text": "\x00 \u200b \U0001f600", "new_field": {"x": 1}}), ContentEvent)
    assert event.text == "\x00 \u200b \U0001f600"
    assert decode(bad({"text": ""}), ContentEvent).text == ""


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(value):
    try:
        decode(value, ContentEvent)
    except RecordError as error:
        assert error.field


def test_a_verdict_survives_the_journey_and_leaves_defaults_out():
    verdict = Verdict("v", "c", "s", "p", "1", "violates", "reasoner", "live", "m", datetime.now(UTC), ("A1",), 0.5)
    assert decode(encode(verdict), Verdict) == verdict
    assert b"supersedes" not in encode(verdict)


def test_verdict_ids_are_equal_only_for_equal_parts():
    assert verdict_id("a", "b") == verdict_id("a", "b")
    assert verdict_id("a", "b") != verdict_id("ab", "")
    assert len(verdict_id("a")) == 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0001-01-01T00:00:00+14:00", datetime.min.replace(tzinfo=UTC)),
        ("9999-12-31T23:59:59-14:00", datetime.max.replace(tzinfo=UTC)),
        ("2026-01-01T00:00:00+01:00", datetime(2025, 12, 31, 23, tzinfo=UTC)),
        ("2026-01-01T00:00:00", datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_any_time_has_one_in_utc(text, expected):
    assert in_utc(datetime.fromisoformat(text)) == expected


def test_a_time_without_an_offset_is_utc():
    assert milliseconds_since(datetime(2026, 1, 1), datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC)) == 1000.0  # noqa: DTZ001  (a time without a zone is what is tested)
    assert milliseconds_since(datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)) == 0.0


@pytest.mark.parametrize(("microseconds", "expected"), [(0, 0.0), (49, 0.0), (50, 0.1), (218_272, 218.3), (-50, 0.0)])
def test_elapsed_milliseconds_have_one_digit(microseconds, expected):
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert milliseconds_since(start, start + timedelta(microseconds=microseconds)) == expected


def test_a_dead_letter_holds_the_record_whole_and_counts_earlier_tries():
    headers = [("traceparent", b"00-1"), ("safeguard-tries", b"2")]
    record = StoredRecord("content.events", 3, 42, 1700000000000, b"\x00key", b"\xff\x00raw", headers)
    output = dead_letter(record, RecordError("text", "is missing"), stage="prefilter", attempts=1)
    letter = decode(output.value, DeadLetter)
    assert letter.original() == (b"\x00key", b"\xff\x00raw", headers)
    assert (letter.origin.topic, letter.origin.partition, letter.origin.offset) == ("content.events", 3, 42)
    assert letter.attempts == 3
    assert letter.field == "text"
    assert carried(output.headers) == [("traceparent", b"00-1")]


def test_every_field_of_every_record_is_described():
    """In the code, and so in the AsyncAPI document and the reference."""
    schemas = asyncapi.document()["components"]["schemas"]
    for name, schema in schemas.items():
        for field, about in schema.get("properties", {}).items():
            assert len(about.get("description", "").split()) >= 3, f"{name}.{field}"
