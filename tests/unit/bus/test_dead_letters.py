"""Any record can become a dead letter that fits its topic, and is requeued to the byte if the letter holds it all."""

import base64
import hashlib

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from safeguard_streams.bus import dead_letters, tracing
from safeguard_streams.bus.dead_letters import (
    LARGEST_LETTER,
    TRIES_HEADER,
    dead_letter,
    requeued,
    set_apart,
    was_requeued,
)
from safeguard_streams.bus.tracing import Tracing
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import DeadLetter, carried, decode
from safeguard_streams.errors import RecordError
from safeguard_streams.runtime.aiokafka_patch import UnreadableRecord
from safeguard_streams.runtime.memory_broker import StoredRecord

TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
MiB = 2**20
TIMESTAMPS = (-1, 0, 1, -(2**63), 2**63 - 1, 1_700_000_000, 1_700_000_000_000_000)


def record(headers=(), key=b"k", value=b"v", timestamp=1_700_000_000_000):
    return StoredRecord("t.content.events", 1, 2, timestamp, key, value, headers)


def letter_of(of, error=None, **more):
    output = dead_letter(of, error or RecordError("text", "is missing"), stage="s", **{"attempts": 1, **more})
    assert output.topic == topics.DEAD_LETTERS
    size = len(output.key or b"") + len(output.value) + sum(len(n) + len(v or b"") for n, v in output.headers)
    assert size <= topics.LARGEST_RECORD - 1024
    orjson.loads(output.value)
    return output, decode(output.value, DeadLetter)


def again(of):
    """The record as the topic has it after a requeue."""
    output, _ = letter_of(of)
    stored = StoredRecord("t." + output.topic, 0, 0, 0, output.key, output.value, output.headers)
    back = requeued(stored, "t.")
    assert back.topic == "content.events"
    return back


@pytest.fixture
def spans(monkeypatch):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", lambda *_: provider.get_tracer("t"))
    monkeypatch.setattr(tracing, "recording", lambda: True)
    return exporter


# ---------------------------------------------------------------------- headers of any shape

EXAMPLES = [
    [("a", None)],
    [("", b""), ("", None)],
    [("a", b"1"), ("a", b"2")],
    [("caf\udcff", b"x"), ("ok", b"y")],
    [("é\x00\n", b"\xff")],
    [("traceparent", None)],
    [("traceparent", b"")],
    [("traceparent", b"\xff" * 55)],
    [("traceparent", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01")],
    [("traceparent", TRACEPARENT), ("traceparent", None)],
    [("traceparent", None), ("traceparent", TRACEPARENT)],
    [("traceparent", TRACEPARENT), ("tracestate", b"\xff=\x00,,,=")],
    [("traceparent", TRACEPARENT), ("tracestate", None)],
    [("traceparent", TRACEPARENT), ("tracestate", b"a=" + b"x" * 100_000)],
    [("traceparent", b"x" * 100_000)],
    [("trace\udc80", None)],
    [(TRIES_HEADER, b"9" * 5000)],
    [(TRIES_HEADER, None)],
    [(TRIES_HEADER, b"-4")],
    [(TRIES_HEADER, "²".encode())],
    [(TRIES_HEADER, "٣".encode())],
    [(TRIES_HEADER, b"")],
    [(f"h{number}", b"v") for number in range(5000)],
]


@pytest.mark.parametrize("headers", EXAMPLES, ids=range(len(EXAMPLES)))
async def test_headers_of_any_shape_make_a_letter_and_a_trace(headers, spans):
    of = record(headers)
    with Tracing("s", "g", 1.0).processing([of]) as handed:
        _, letter = letter_of(handed[0])
    assert letter.attempts == 1
    assert letter.reason == "text: is missing"
    back = again(of)
    assert (back.key, back.value) == (of.key, of.value)
    assert list(back.headers) == [(n, v) for n, v in headers if n != TRIES_HEADER] + [(TRIES_HEADER, b"1")]


NAMES = st.one_of(
    st.sampled_from(["traceparent", "tracestate", TRIES_HEADER, "schema", ""]),
    st.binary(max_size=20).map(lambda data: data.decode(errors="surrogateescape")),
)
VALUES = st.one_of(
    st.none(), st.binary(max_size=60), st.sampled_from([TRACEPARENT, TRACEPARENT[:-1], b"9" * 30, b"a=b,c=d"])
)
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=6)
DATA = st.none() | st.binary(max_size=40)


@given(HEADERS, DATA, DATA, st.sampled_from(TIMESTAMPS) | st.integers(-(2**63), 2**63 - 1))
def test_any_record_is_requeued_to_the_byte(headers, key, value, timestamp):
    of = record(headers, key, value, timestamp)
    back = again(of)
    assert (back.key, back.value) == (key, value)
    assert list(back.headers)[:-1] == [(n, v) for n, v in headers if n != TRIES_HEADER]
    assert was_requeued(StoredRecord("t", 0, 0, 0, None, None, back.headers))


@given(st.lists(HEADERS, min_size=1, max_size=4), DATA)
@settings(max_examples=150)
def test_any_headers_can_be_traced(headers, key):
    provider = TracerProvider()
    records = [record(each, key) for each in headers]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "get_tracer", lambda *_: provider.get_tracer("t"))
        patch.setattr(tracing, "recording", lambda: True)
        with Tracing("s", "g", 1.0).processing(records) as handed:
            assert [(r.offset, r.key, r.value) for r in handed] == [(r.offset, r.key, r.value) for r in records]
            for each in handed:
                assert sum(len(v) for _, v in carried(each.headers)) <= 55 + 512


def test_attempts_add_up():
    _, letter = letter_of(record([(TRIES_HEADER, b"3")]), attempts=2)
    assert letter.attempts == 5


async def test_a_span_has_a_bounded_key(spans):
    with Tracing("s", "g", 1.0).processing([record(key=b"\xff" * MiB)]):
        pass
    (span,) = spans.get_finished_spans()
    assert len(span.attributes["messaging.kafka.message.key"]) == 256


# ---------------------------------------------------------------------- sizes


def test_a_value_that_does_not_fit_is_left_out_with_its_size_and_hash():
    value = bytes(16 * MiB)
    output, letter = letter_of(record(value=value))
    assert (letter.left_out, letter.value, letter.value_bytes) == (("value",), None, 16 * MiB)
    assert letter.value_sha256 == hashlib.sha256(value).hexdigest()
    assert "t.content.events[1]@2" in letter.reason
    assert (output.key, base64.b64decode(letter.key)) == (b"k", b"k")
    with pytest.raises(RecordError, match="not whole"):
        requeued(StoredRecord("d", 0, 0, 0, None, output.value), "t.")


@pytest.mark.parametrize(
    ("key", "value", "headers", "left_out"),
    [
        (bytes(18 * MiB), b"v" * 2000, [], ("value", "key")),
        (None, None, [("h", bytes(16 * MiB))], ("headers",)),
        (None, b"v", [(f"h{n}", b"v" * 100) for n in range(200_000)], ("headers",)),
        (b"k", b"v", [("\x01" * 4 * MiB, b"")], ("headers",)),
        (bytes(9 * MiB), bytes(9 * MiB), [("h", bytes(9 * MiB))], ("value", "headers", "key")),
        (None, bytes(11 * MiB), [], ()),
    ],
)
def test_what_does_not_fit_is_left_out_and_the_rest_kept(key, value, headers, left_out):
    output, letter = letter_of(record(headers, key, value))
    assert letter.left_out == left_out
    assert output.key == (None if "key" in left_out else key)
    assert all(word in letter.reason for word in left_out)


def test_a_letter_can_be_had_without_its_large_parts():
    output, letter = letter_of(record([("h", bytes(MiB))], bytes(MiB), bytes(MiB)), whole=False)
    assert letter.left_out == ("value", "headers", "key")
    assert letter.value_bytes == MiB
    assert len(output.value) < 2000
    assert letter_of(record(), whole=False)[1].left_out == ("value",)
    assert letter_of(record(value=None), whole=False)[1].left_out == ()


def test_a_letter_that_cannot_be_made_is_one_of_its_place(monkeypatch):
    def fail(*_):
        raise ValueError("quotes content")

    monkeypatch.setattr(dead_letters, "_letters", lambda *_, **__: fail())
    _, letter = letter_of(record())
    assert (letter.origin.topic, letter.origin.partition, letter.origin.offset) == ("t.content.events", 1, 2)
    assert letter.error == "RecordError"
    assert "quotes" not in letter.reason


@pytest.mark.parametrize("text", ["\ud800", "x" * 100_000, "\udcff\x00"])
def test_the_text_of_an_error_cannot_break_a_letter(text):
    _, letter = letter_of(record(), RecordError(text, text))
    assert len(letter.reason) <= 2000


def test_an_unexpected_error_is_named_by_its_type_only():
    _, letter = letter_of(record(), ValueError("secret"))
    assert letter.reason == "unexpected ValueError in s"


# ---------------------------------------------------------------------- what the bus could not read


def test_what_could_not_be_read_is_kept_and_never_requeued():
    stored = UnreadableRecord("t.content.events", 1, 3, 7, -1, b"\x00batch", "cannot be read (X at offsets 3 to 7)")
    good = [record(), record()]
    assert set_apart(good, "s") == (good, [])
    readable, (output,) = set_apart([good[0], stored, good[1]], "s")
    assert readable == good
    letter = decode(output.value, DeadLetter)
    assert (letter.unreadable, letter.origin.offset, base64.b64decode(letter.value)) == (True, 7, b"\x00batch")
    assert "3 to 7" in letter.reason
    with pytest.raises(RecordError):
        requeued(StoredRecord("d", 0, 0, 0, None, output.value), "t.")


@pytest.mark.parametrize("part", [{"value": "*"}, {"key": "a"}, {"headers": [["a", "b"]]}, {"header_names": ["a"]}])
def test_a_letter_of_others_with_broken_base64_is_refused_with_a_reason(part):
    letter = orjson.loads(letter_of(record())[0].value) | part
    with pytest.raises(RecordError):
        requeued(StoredRecord("d", 0, 0, 0, None, orjson.dumps(letter)), "t.")


def test_the_largest_letter_leaves_room_for_the_batch_around_it():
    assert LARGEST_LETTER < topics.LARGEST_RECORD
