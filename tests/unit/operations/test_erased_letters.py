"""Dead letters about erased items: an erasure finds them, and a retry leaves them where they are."""

import json
from datetime import UTC, datetime

import pytest

from safeguard_streams.bus import kafka
from safeguard_streams.bus.dead_letters import dead_letter
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import DeadLetter, ErasureRequest, decode, encode
from safeguard_streams.errors import RecordError
from safeguard_streams.operations import requeueing
from safeguard_streams.operations.erasure import _dead_letter
from safeguard_streams.releases.erasures import ErasureList, content_ids
from safeguard_streams.runtime.memory_broker import StoredRecord
from safeguard_streams.runtime.settings import Settings

ERASED_AT = datetime(2026, 1, 1, tzinfo=UTC)
MS = int(ERASED_AT.timestamp() * 1000)
VALUES = {
    "event": {"content_id": "é/1", "text": "words"},
    "escalation": {"event": {"content_id": "é/1", "text": "words"}, "policy_id": "hate"},
    "input": {"verdict": {"content_id": "é/1"}},
    "requeued input": {"action": {"content_id": "é/1"}, "requeued": True},
}


def letter(value, key=b"author", timestamp=MS):
    record = StoredRecord(topics.EVENTS, 0, 0, timestamp, key, value, [])
    made = dead_letter(record, RecordError("text", "is missing"), stage="prefilter", attempts=1)
    return StoredRecord(topics.DEAD_LETTERS, 0, 5, MS + 10_000, made.key, made.value, made.headers)


def candidate(record):
    erasures = ErasureList()
    erasures.take(StoredRecord(topics.ERASURES, 0, 0, MS, None, encode(ErasureRequest("é/1", ERASED_AT, "ann"))))
    return requeueing._candidate(Settings(), record, decode(record.value, DeadLetter), erasures)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_record_about_an_erased_item_is_not_requeued(value):
    assert content_ids(json.dumps(value).encode()) == {"é/1"}
    kept = candidate(letter(json.dumps(value).encode()))
    assert isinstance(kept, requeueing.KeptLetter)
    assert "erased" in kept.why


def test_a_broken_record_with_the_items_key_is_not_requeued():
    assert isinstance(candidate(letter(b'{"text": "wor', key="é/1".encode())), requeueing.KeptLetter)


@pytest.mark.parametrize("stated", ["é/1", "\\u00e9\\/1"])
def test_a_broken_record_that_states_the_items_id_is_not_requeued(stated):
    """Nor does the prefilter write another dead letter for it."""
    broken = f'{{"text": "words", "content_id" : "{stated}", "created_at": "20'.encode()
    assert isinstance(candidate(letter(broken)), requeueing.KeptLetter)
    assert isinstance(candidate(letter(broken, timestamp=MS + 1)), requeueing._Candidate)
    erasures = ErasureList()
    erasures.take(StoredRecord(topics.ERASURES, 0, 0, MS, None, encode(ErasureRequest("é/1", ERASED_AT, "ann"))))
    events = [StoredRecord(topics.EVENTS, 0, n, MS, b"author", value, []) for n, value in enumerate((broken, b'{"x'))]
    assert erasures.kept(events) == events[1:]


@pytest.mark.parametrize(
    ("value", "timestamp"),
    [(VALUES["event"], MS + 1), ({"content_id": "c2", "text": "é/1"}, MS), ([], MS)],
)
def test_other_items_and_new_content_are_requeued(value, timestamp):
    assert isinstance(candidate(letter(json.dumps(value).encode(), timestamp=timestamp)), requeueing._Candidate)


NOTATIONS = [
    "é/1".encode(),
    b"\\u00E9\\/1",
    b"\\u00e9\\u002f1",
    b"\\u00E9/1",
]


@pytest.mark.parametrize("notation", NOTATIONS)
@pytest.mark.parametrize("ending", [b'"}', b""])
def test_an_erasure_finds_the_id_in_every_notation(notation, ending):
    """Whole records and records that end in the middle."""
    found = _dead_letter(
        letter(b'{"text": "words", "content_id": "' + notation + ending).value, "é/1", kafka.Mention("é/1")
    )
    assert found is not None
    assert found.text


def test_an_id_in_a_text_is_not_the_records_id():
    value = letter(json.dumps({"content_id": "c2", "text": "see é/1"}).encode()).value
    assert _dead_letter(value, "é/1", kafka.Mention("é/1")) is None


def test_an_id_outside_of_the_basic_plane_is_found_in_a_broken_record():
    value = letter(b'{"content_id": "\\ud83d\\ude00", ').value
    assert _dead_letter(value, "\U0001f600", kafka.Mention("\U0001f600")) is not None


def test_letters_that_hold_no_base64_are_left_out():
    broken = encode(DeadLetter(decode(letter(b"{}").value, DeadLetter).origin, "s", "e", "r", 1, ERASED_AT, value="$"))
    assert _dead_letter(broken, "é/1", kafka.Mention("é/1")) is None
