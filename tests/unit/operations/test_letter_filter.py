"""Which dead letters a filter accepts."""

from datetime import UTC, datetime, timedelta

from safeguard_streams.authors import posts, rates, transform
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import DeadLetter, Origin
from safeguard_streams.operations.cluster import QUEUES
from safeguard_streams.operations.dead_letters import READ_BY, FoundLetter, LetterFilter, LetterPlace
from safeguard_streams.operations.requeueing import _ONLY_ORIGINALS
from safeguard_streams.runtime.memory_broker import StoredRecord

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
RECORD = StoredRecord(topics.DEAD_LETTERS, 0, 0, 0, None, None)


def test_a_time_without_an_offset_is_utc():
    """Every role may write dead letters, and thus times without an offset."""
    letter = DeadLetter(Origin(topics.EVENTS, 0, 0, 0), "prefilter", "RecordError", "why", 1, NOON.replace(tzinfo=None))
    found = FoundLetter(LetterPlace("0@0", 0), RECORD, letter, None)
    for since, accepted in ((NOON, True), (NOON + timedelta(seconds=1), False)):
        assert LetterFilter(since=since).accepts(found) == accepted


def test_each_stage_about_authors_is_known_to_those_who_retry_and_who_look_at_what_waits():
    read = {
        transform.STAGE: topics.STRIKES,
        transform.DELIVERING: topics.AUTHOR_ACTIONS,
        posts.STAGE: topics.EVENTS,
        rates.STAGE: topics.AUTHOR_POSTS,
    }
    known = {stage: one for stage, (one, *_) in READ_BY.items() if stage.startswith("authors")}
    assert known == {stage: one for stage, one in read.items() if stage != posts.STAGE}, "an event is the prefilter's"
    assert {one.group: one.topic for one in QUEUES if one.stage == "authors"} == read
    assert topics.AUTHOR_POSTS in _ONLY_ORIGINALS, "nobody else writes posts"
