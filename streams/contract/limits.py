"""Bounds of what enters. What is larger is refused, or judged in part, before any stage works on it.

Kafka bounds compressed batches only: 58 kB of gzip may hold an event of 28 MiB. These limits therefore hold for
decompressed records. The reference page `Limits` is generated from TABLE.
"""

from __future__ import annotations

from typing import NamedTuple

KiB = 2**10
MiB = 2**20

EVENT_BYTES = 12 * MiB  # of an event's value
# An escalation is the event's own bytes and what the prefilter adds: ids, the reason, the policy, the trace.
ESCALATION_BYTES = 14 * MiB
# A dead letter holds a record in base64, which is longer by a third.
DEAD_LETTER_BYTES = 20 * MiB
ID_CHARACTERS = 512
LABEL_CHARACTERS = 512  # of author, surface and language
EVENT_POLICIES = 256  # that an event may name
ATTRIBUTES_BYTES = 1 * MiB  # as JSON
NESTING = 100  # lists and objects inside each other
TRACE_HEADER_BYTES = 1 * KiB

# The prefilter. Lengths of texts are in characters.
JUDGED_IN_FULL = 128 * KiB  # longest text of which the classifier reads every word
JUDGED_AT_ENDS = 32 * KiB  # of a longer text: its beginning, and its end
JUDGED_BETWEEN = 64 * KiB  # of a longer text: spread evenly between the two
JUDGED_SAMPLE = 2 * KiB  # length of one of these samples
SECTION = 128 * KiB  # terms and patterns are searched in sections of a longer text
SECTION_OVERLAP = 4 * KiB  # of two neighbouring sections: longest match that is found for certain
DECISION_BYTES = 64 * KiB  # events that are decided at a time; a larger event is decided alone


class Limit(NamedTuple):
    """One row of the reference page. past: what happens past the limit; by: who enforces it."""

    what: str
    value: int
    unit: str
    past: str
    by: str


_DEAD_LETTER = "the event becomes a dead letter that names the field"
_INTAKE = "prefilter, replay, `Publisher`"

TABLE: tuple[Limit, ...] = (
    Limit("an event's value after decompression", EVENT_BYTES, "bytes", "the event becomes a dead letter", _INTAKE),
    Limit("`content_id`", ID_CHARACTERS, "characters", _DEAD_LETTER, _INTAKE),
    Limit("`author_id`, `surface`, `language`", LABEL_CHARACTERS, "characters each", _DEAD_LETTER, _INTAKE),
    Limit("`policies`", EVENT_POLICIES, "names", _DEAD_LETTER, _INTAKE),
    Limit("`attributes`", ATTRIBUTES_BYTES, "bytes of JSON", _DEAD_LETTER, _INTAKE),
    Limit("lists and objects inside each other", NESTING, "levels", "the event becomes a dead letter", _INTAKE),
    Limit(
        "`traceparent`, `tracestate`", TRACE_HEADER_BYTES, "bytes each", "the header is not passed on", "every stage"
    ),
    Limit(
        "text that the classifier reads in full",
        JUDGED_IN_FULL,
        "characters",
        "the classifier reads the beginning, the end and samples between them; `prefilter.truncated` says so",
        "prefilter",
    ),
    Limit(
        "text in which terms and patterns are searched at once",
        SECTION,
        "characters",
        f"they are searched in sections that overlap by {SECTION_OVERLAP:,} characters",
        "prefilter",
    ),
    Limit("events that are decided at once", DECISION_BYTES, "bytes", "the batch is decided in parts", "prefilter"),
    Limit("an escalation", ESCALATION_BYTES, "bytes", "the broker refuses it; an event's limit leaves room", "topics"),
    Limit("a dead letter", DEAD_LETTER_BYTES, "bytes", "its value is left out", "every stage"),
)
