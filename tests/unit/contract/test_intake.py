"""Events are read leniently, refused by the name of a field, and kept as the bytes that were sent."""

import json
import re
from datetime import UTC, datetime

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard_streams.contract import intake, limits
from safeguard_streams.contract.intake import content_id_of, read_event
from safeguard_streams.contract.records import (
    ContentEvent,
    Escalation,
    PrefilterResult,
    carried,
    decode,
    encode,
    milliseconds_since,
)
from safeguard_streams.errors import RecordError

GOOD = {"content_id": "a", "text": "hello", "created_at": "2026-01-02T03:04:05Z"}
SECRET = "zq7secret"


def sent(more="", text='"hello"', content_id='"a"', created_at='"2026-01-02T03:04:05Z"'):
    """An event of which each part is JSON as a producer writes it."""
    parts = (content_id, text, created_at, more)
    whole = '{"content_id":%s,"text":%s,"created_at":%s%s}' % parts
    return whole.encode("utf-8", "surrogatepass")


def escalation_of(value):
    received = read_event(value)
    event, result = msgspec.Raw(received.json), PrefilterResult("label")
    return encode(Escalation(event, "p", "v", 1, result, "live", datetime.now(UTC), origin="0@1"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (sent(text=r'"half \ud83d an emoji"'), "half \ufffd an emoji"),
        (sent(text=r'"half \ude00 an emoji"'), "half \ufffd an emoji"),
        (sent(text=r'"\ud83d\ud83d\ude00"'), "\ufffd\U0001f600"),
        (sent(text=r'"\ud83d\ude00\ude00"'), "\U0001f600\ufffd"),
        (sent(text=r'"\\ud83d\ude00"'), "\\ud83d\ufffd"),
        (sent(text=r'"\\\ud83d"'), "\\\ufffd"),
        (sent(text=r'"\uD83D\u0041"'), "\ufffdA"),
        (sent(text='"a\ud83d\ude00b"'), "a\U0001f600b"),
        (sent(text='"a\ud83db"'), "a\ufffdb"),
        (sent(text='"aXb"').replace(b"X", b"\xff"), "a\ufffdb"),
        (sent(text='"aXb"').replace(b"X", b"\xf0\x9f\x98"), "a\ufffdb"),
        (sent(text='"aXb"').replace(b"X", b"\xc0\x80"), "a\ufffd\ufffdb"),
        (sent(',"surface":"\ud83d"'), "hello"),
        (sent(r',"attributes":{"x":"\udc00"}'), "hello"),
        (sent(',"new":"X"').replace(b"X", b"\xff"), "hello"),
    ],
)
def test_what_is_no_character_is_replaced_and_said(value, text):
    received = read_event(value)
    assert (received.event.text, received.repaired) == (text, True)
    assert orjson.loads(received.json)["text"] == text
    assert decode(escalation_of(value), Escalation).event.text == text


@pytest.mark.parametrize(
    "text", ["\U0001f600", "\\ud83d", "\\\\", "", " \n\t ", "\x00", "\ufeff", "\ufffd", "\u2028", "\ud7ff\ue000"]
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_valid_texts_are_not_repaired(text, ascii_only):
    value = json.dumps({**GOOD, "text": text}, ensure_ascii=ascii_only).encode()
    received = read_event(value)
    assert (received.event.text, received.json, received.repaired) == (text, value, False)


def test_a_byte_order_mark_is_skipped():
    received = read_event(b"\xef\xbb\xbf" + sent())
    assert (received.json, received.repaired) == (sent(), False)


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-32", "utf-7", "cp500"])
def test_other_encodings_are_no_json(coding):
    with pytest.raises(RecordError, match="record: is not JSON"):
        read_event(sent().decode().encode(coding) if coding != "utf-7" else b"+AHs-" + sent())


@pytest.mark.parametrize(
    "part",
    [
        '"attributes":{"n":1e15}',
        '"attributes":{"n":1E400,"m":-1e999}',
        '"attributes":{"n":-0.0}',
        '"attributes":{"n":123456789012345678901234567890}',
        '"attributes":{"n":' + "9" * 5000 + "}",
        '"unknown":' + "9" * 309,
        '"attributes":{"n":1E400,"m":18446744073709551616,"l":-9223372036854775809}',
        '"attributes":{"n":0.1000000000000000055511151231257827}',
        '"attributes":{"a":1,"a":2},"text":"hello"',
        '"z":1,"unknown":{"deep":[[]]},"a":2',
        ' "attributes" : { "n" : 1 } ',
        r'"surface":"\u0041\/"',
        '"context":null,"policies":null,"attributes":null,"language":null,"surface":null,"author_id":null',
        '"context":[{"role":null,"text":"x"},{"text":null,"role":"user"}]',
        '"attributes":' + '{"a":' * 90 + "1" + "}" * 90,
    ],
)
def test_an_escalation_holds_the_very_bytes_and_every_stage_can_read_it(part):
    value = sent("," + part)
    escalation = escalation_of(value)
    assert value in escalation
    assert len(escalation) < len(value) + 300
    assert decode(escalation, Escalation).event.text == "hello"
    assert decode(value, ContentEvent).text == "hello"


def test_null_is_as_if_absent():
    event = decode(sent(',"context":null,"policies":null,"attributes":null,"language":null'), ContentEvent)
    assert (event.context, event.policies, event.attributes, event.language) == ((), (), {}, None)
    (message,) = read_event(sent(',"context":[{"role":null,"text":null}]')).event.context
    assert (message.role, message.text) == ("unknown", "")
    assert encode(event) == encode(decode(sent(), ContentEvent))


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (sent(text="null"), "text"),
        (sent(text="5"), "text"),
        (sent(content_id='""'), "content_id"),
        (sent(content_id="null"), "content_id"),
        (sent(content_id=json.dumps("\U0001f600" * 513)), "content_id"),
        (sent(created_at='"yesterday"'), "created_at"),
        (sent(created_at='"2016-12-31T23:59:60Z"'), "created_at"),
        (sent(created_at="1700000000"), "created_at"),
        (sent(created_at="1E400"), "created_at"),
        (sent(created_at="null"), "created_at"),
        (sent(',"language":["en"]'), "language"),
        (sent(f',"surface":"{"s" * 513}"'), "surface"),
        (sent(',"policies":[null]'), "policies[0]"),
        (sent(f',"policies":{json.dumps(["p"] * 257)}'), "policies"),
        (sent(',"context":[null]'), "context[0]"),
        (sent(',"attributes":[]'), "attributes"),
        (sent(',"attributes":"x"'), "attributes"),
        (sent(f',"attributes":{{"x":"{"y" * limits.ATTRIBUTES_BYTES}"}}'), "attributes"),
        (sent(',"attributes":{"x":' + "[" * 101 + "]" * 101 + "}"), "record"),
        (sent(',"unknown":' + "[" * 100_000 + "]" * 100_000), "record"),
        (sent(',"attributes":{"n":NaN}'), "record"),
        (b" " * limits.EVENT_BYTES + sent(), "record"),
        (sent(text='"' + "\xff" * 10 + '"').replace(b"\xc3\xbf", b"\xff" * (limits.EVENT_BYTES // 12)), "record"),
        (b"", "record"),
        (b"null", "record"),
        (b"\xef\xbb\xbf", "record"),
        (None, "record"),
    ],
)
def test_an_event_at_fault_is_refused_by_the_name_of_its_field(value, field):
    with pytest.raises(RecordError) as caught:
        read_event(value)
    assert caught.value.field == field
    assert len(str(caught.value)) < 200


def test_brackets_in_a_text_do_not_nest():
    text = '[{"' * 1000 + "\\"
    assert read_event(json.dumps({**GOOD, "text": text}).encode()).event.text == text


@pytest.mark.parametrize(
    "created_at",
    [
        "0001-01-01T00:00:00+14:00",
        "0001-01-01T00:00:00",
        "9999-12-31T23:59:59-14:00",
        "9999-12-31T23:59:59.999999Z",
        "2026-01-01t00:00:00z",
        "2026-01-01 00:00:00+0530",
        "2026-01-01T00:00:00.123456789-00:00",
    ],
)
def test_times_of_all_years_and_offsets_can_be_used(created_at):
    event = read_event(sent(created_at=json.dumps(created_at))).event
    assert milliseconds_since(event.created_at) >= 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(SECRET),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
names = sorted(ContentEvent.__struct_fields__)


def either_an_event_or_an_error_without_content(value):
    try:
        received = read_event(value)
    except RecordError as error:
        assert error.field
        assert SECRET not in str(error)
        return
    assert received.repaired or received.json == value.removeprefix(b"\xef\xbb\xbf")
    received.event.text.encode()
    received.event.content_id.encode()
    escalation = escalation_of(value)
    assert received.json in escalation
    read = decode(escalation, Escalation).event
    assert (read.content_id, read.text, read.created_at) == (
        received.event.content_id,
        received.event.text,
        received.event.created_at,
    )
    assert (read.context, read.policies, read.surface) == (
        received.event.context,
        received.event.policies,
        received.event.surface,
    )


@given(
    st.dictionaries(st.sampled_from([*names, "other"]), json_values, max_size=6),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]),
    st.booleans(),
)
def test_any_json_is_read_or_refused(fields, coding, ascii_only):
    value = json.dumps({**GOOD, **fields}, ensure_ascii=ascii_only).encode(coding, "replace")
    either_an_event_or_an_error_without_content(value)


@given(st.binary(max_size=60), st.integers(0, 90))
def test_any_bytes_inside_an_event_are_read_or_refused(junk, place):
    value = sent(r',"attributes":{"s":"\ud83d\ude00 \\ é"}')
    either_an_event_or_an_error_without_content(value[:place] + junk + value[place:])


@given(st.binary(max_size=60).filter(lambda junk: not set(junk) & {*b'"\\', *range(32)}))
def test_no_bytes_inside_a_text_take_an_event_out_of_moderation(junk):
    received = read_event(sent(text='"aXb"').replace(b"X", junk))
    assert received.event.text.startswith("a")
    assert received.event.text.endswith("b")


@given(st.binary(max_size=40) | st.text(max_size=20).map(str.encode), st.integers(1, 9))
def test_pieces_of_any_length_are_repaired_as_the_whole(junk, length):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "_PIECE", length)
        assert intake._replaced(junk) == junk.decode(errors="replace")


@given(
    st.lists(st.sampled_from(["\\ud83d", "\\ude00", "\\\\", "\\n", "u", "d83d", "\\u0041", "\ud83d", "\ude00", "é"]))
)
def test_no_order_of_halves_and_backslashes_takes_an_event_out_of_moderation(pieces):
    value = sent(text=f'"{"".join(pieces)}"')
    written = json.loads(value.decode("utf-8", "surrogatepass"))["text"]
    odd = re.compile("[\ud800-\udfff\ufffd\U0001f600]")
    assert odd.sub("", read_event(value).event.text) == odd.sub("", written)


@given(st.datetimes(), st.integers(-1439, 1439))
def test_any_time_is_read(moment, minutes):
    offset = f"{'+' if minutes >= 0 else '-'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
    event = read_event(sent(created_at=json.dumps(moment.isoformat() + offset))).event
    assert milliseconds_since(event.created_at) >= 0


def test_only_headers_of_a_trace_with_a_value_of_ordinary_length_are_passed_on():
    headers = [("traceparent", None), ("tracestate", b"x" * 1025), ("other", b"1"), ("tracestate", b"a=1")]
    assert carried(headers) == [("tracestate", b"a=1")]


@pytest.mark.parametrize(
    ("value", "content_id"),
    [
        (b'{"content_id": "c1", "text": 5}', "c1"),
        (b'\xef\xbb\xbf{"content_id": "a\\ud800"}', "a\ufffd"),
        (b'{"content_id": "\xff"}', "\ufffd"),
        (b'{"content_id": 7}', None),
        (b'{"content_id": ""}', None),
        (b"[1]", None),
        (b"[" * 5000, None),
        (b"", None),
    ],
)
def test_the_id_of_an_event_is_read_as_the_event_would_be(value, content_id):
    assert content_id_of(value) == content_id
