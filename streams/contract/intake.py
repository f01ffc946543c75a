"""Reads what platforms send, content events above all, whose bytes it keeps.

Content must not escape moderation because a part of it is no character, nor must an appeal or a person's decision be
lost for that. Such parts are replaced by U+FFFD in the bytes themselves, and everything else stays as it came: numbers,
order of keys, fields that no stage knows.
"""

from __future__ import annotations

import codecs
import re
from itertools import accumulate

import msgspec

from safeguard_streams.contract import limits
from safeguard_streams.contract.records import ContentEvent, ContentReport, Id, T, decode, field_error
from safeguard_streams.errors import RecordError

_BOM = b"\xef\xbb\xbf"
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
# True wherever _ESCAPE would find a half, and in few other places: that is slower where a text has many escapes.
# It begins with a backslash, which `re` finds 20 times as fast as a choice that begins with something else.
_SUSPECT = re.compile(
    rb"\\(?:u[dD][89abAB]..(?!\\u[dD][c-fC-F])|u[dD][c-fC-F](?<!\\u[dD][89abAB]..\\u[dD].)|\\u[dD][89a-fA-F])",
    re.DOTALL,
)
# Every escape is a match, so that the backslash of one is never taken for the beginning of another.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u(?P<half>[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
# Surrogates in UTF-8, as Java's modified UTF-8 and CESU-8 write them: pairs first, then what is left over.
_ENCODED_SURROGATES = re.compile(rb"\xed[\xa0-\xaf][\x80-\xbf]\xed[\xb0-\xbf][\x80-\xbf]|\xed[\xa0-\xbf][\x80-\xbf]")
_PAIR_BYTES = 6
_PIECE = 2**20  # bytes; noise takes 30 ms
# Brackets as signed bytes: 1 for one that opens, -1 for one that closes.
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))
_BACKSLASH, _LIST = b"\\["  # as numbers, which are found faster


_NO_ATTRIBUTES = msgspec.Raw(b"{}")


class _Sent(ContentEvent, frozen=True, gc=False):
    """An event whose attributes stay bytes, because no stage reads them and their cost has no bound."""

    attributes: msgspec.Raw = _NO_ATTRIBUTES  # type: ignore[assignment]  # bytes, not a dict


class Received(msgspec.Struct, frozen=True, gc=False):
    """An event. json: the bytes that its producer sent, with its attributes; repaired: whether these were mended."""

    event: ContentEvent
    json: bytes
    repaired: bool


class _SentReport(ContentReport, frozen=True, gc=False):
    """A report whose event stays bytes, because the intake reads and repairs it as one of content.events."""

    event: msgspec.Raw  # type: ignore[assignment]  # bytes, not an event


class ReceivedReport(msgspec.Struct, frozen=True, gc=False):
    """A report and its event. The report's own `event` is what its producer sent, in bytes: read `received` instead."""

    report: ContentReport
    received: Received


class _Identity(msgspec.Struct, frozen=True, gc=False):
    content_id: Id


_events = msgspec.json.Decoder(_Sent)
_reports = msgspec.json.Decoder(_SentReport)
_identities = msgspec.json.Decoder(_Identity)


def read_event(value: bytes | None) -> Received:
    """Read one event.

    Raises RecordError with the path of the field at fault, or `record` if it is too large or no JSON object. The
    message quotes nothing of the content.
    """
    if value is None:
        raise RecordError("record", "is empty; send a JSON object")
    json = sent = value.removeprefix(_BOM)
    if (_BACKSLASH in json or not json.isascii()) and len(json) <= limits.EVENT_BYTES:
        json = _repaired(json)
    if len(json) > limits.EVENT_BYTES:
        repaired = f", and {len(json):,} with U+FFFD for what is no character" if json != sent else ""
        raise RecordError("record", f"has {len(sent):,} bytes{repaired}; an event may have {limits.EVENT_BYTES:,}")
    event = _read(json, _events)
    if event.attributes is not _NO_ATTRIBUTES:
        _check_attributes(event.attributes)
    if (_LIST in json or json.rfind(b"{")) and _depth(json) > limits.NESTING:
        raise _too_deep()
    return Received(event, json, json != sent)


def read_report(value: bytes | None) -> ReceivedReport:
    """Read one report, and its event as `read_event` does. Raises RecordError with the path of the field at fault."""
    if value is None:
        raise RecordError("record", "is empty; send a JSON object")
    sent = value.removeprefix(_BOM)
    if len(sent) > limits.ESCALATION_BYTES:
        raise RecordError("record", f"has {len(sent):,} bytes; a report may have {limits.ESCALATION_BYTES:,}")
    json = _repaired(sent)
    report = _read(json, _reports)
    try:
        received = read_event(bytes(memoryview(report.event)))
    except RecordError as error:
        field = "event" if error.field == "record" else f"event.{error.field}"
        raise RecordError(field, str(error).partition(": ")[2]) from None
    return ReceivedReport(report, msgspec.structs.replace(received, repaired=received.repaired or json != sent))


def _read(json: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """What JSON holds. Raises RecordError that names the field at fault, or `record`, and quotes nothing of it."""
    try:
        return decoder.decode(json)
    except msgspec.ValidationError as error:
        raise field_error(str(error)) from None
    except msgspec.DecodeError as error:
        raise RecordError("record", f"is not JSON in UTF-8: {error}") from None
    except RecursionError:
        raise _too_deep() from None


def decode_sent(value: bytes | None, kind: type[T]) -> T:
    """A record that a platform's own code may write, as `decode` reads it, with U+FFFD for what is no character."""
    try:
        return decode(value, kind)
    except RecordError:
        mended = value if value is None else _repaired(value.removeprefix(_BOM))
        if mended == value:
            raise
        return decode(mended, kind)


def content_id_of(value: bytes) -> str | None:
    """The content_id that `read_event` reads, also of an event that is otherwise invalid. None if there is none."""
    try:
        return _identities.decode(_repaired(value.removeprefix(_BOM))).content_id
    except (msgspec.MsgspecError, RecursionError):
        return None


def _check_attributes(attributes: msgspec.Raw) -> None:
    sent = bytes(memoryview(attributes)[: limits.ATTRIBUTES_BYTES + 1])
    if not sent.startswith((b"{", b"null")):
        raise RecordError("attributes", "expected `object`")
    if len(sent) > limits.ATTRIBUTES_BYTES:
        raise RecordError("attributes", f"has more than {limits.ATTRIBUTES_BYTES:,} bytes")


def _too_deep() -> RecordError:
    return RecordError("record", f"is nested too deeply; at most {limits.NESTING} levels")


def _depth(json: bytes) -> int:
    """How many lists and objects of valid JSON are inside each other, if these may be more than NESTING."""
    if json.count(b"[") + json.count(b"{") <= limits.NESTING:
        return 0
    steps = memoryview(_STRING.sub(b"", json).translate(_STEPS, _NO_BRACKETS)).cast("b")
    return max(accumulate(steps), default=0)


def _repaired(json: bytes) -> bytes:
    """The same bytes, with those that are no characters replaced by U+FFFD."""
    try:
        json.decode()
    except UnicodeDecodeError:
        json = _replaced(_ENCODED_SURROGATES.sub(_character, json)).encode()
    if _BACKSLASH in json and b"\\u" in json and _SUSPECT.search(json):
        json = _ESCAPE.sub(_without_half, json)
    return json


def _replaced(raw: bytes) -> str:
    """The text of bytes, with U+FFFD for what is no character. Other threads run between the pieces."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces = [decoder.decode(raw[start : start + _PIECE]) for start in range(0, len(raw), _PIECE)]
    return "".join(pieces) + decoder.decode(b"", final=True)


def _character(surrogates: re.Match[bytes]) -> bytes:
    if len(surrogates[0]) < _PAIR_BYTES:
        return "\ufffd".encode()
    return surrogates[0].decode("utf-8", "surrogatepass").encode("utf-16", "surrogatepass").decode("utf-16").encode()


def _without_half(escape: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if escape["half"] else escape[0]
