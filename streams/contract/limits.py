"""Bounds of what enters. What is larger is refused, or judged in part, before any stage works on it.

Kafka bounds compressed batches only: 58 kB of gzip may hold an event of 28 MiB. These limits therefore hold for
decompressed records. The reference page `Limits` is generated from TABLE.
"""

from __future__ import annotations

from typing import NamedTuple

from safeguard_streams.policies.vocabulary import PATTERN_CHARACTERS

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
REPORT_CHARACTERS = 10_000  # of a report's reason
DECISION_RECORD_BYTES = 64 * KiB  # of what a moderator's tool writes
STRIKE_WEIGHT = 1_000  # of one strike
AUTHOR_STRIKES = 500  # of an author that are kept
AUTHOR_POSTS = 256  # of an author that are kept for rates
PARTITION_POSTS = 50_000  # of all authors of a partition: about 20 MB
RATE_POSTS = 128  # that a rate may ask for
RATE_SECONDS = 24 * 3600  # in which it may ask for them
SKETCHED = 2_048  # characters at a text's beginning, and at its end, that its sketch is made of
ATTRIBUTES_BYTES = 1 * MiB  # as JSON
NESTING = 100  # lists and objects inside each other
TRACEPARENT_BYTES = 55  # W3C Trace Context
TRACESTATE_BYTES = 512

# The prefilter. Lengths of texts are in characters.
JUDGED_IN_FULL = 128 * KiB  # longest text of which the classifier reads every word
JUDGED_AT_ENDS = 32 * KiB  # of a longer text: its beginning, and its end
JUDGED_BETWEEN = 64 * KiB  # of a longer text: spread evenly between the two
JUDGED_SAMPLE = 2 * KiB  # length of one of these samples
ENCODED_PASSAGES = 8  # of a text: together no more than the encoder reads in one batch
SECTION = 128 * KiB  # terms and patterns are searched in sections of a longer text
SECTION_OVERLAP = 4 * KiB  # of two neighbouring sections: longest match that is found for certain
DECISION_BYTES = 512 * KiB  # events that are decided at a time
LARGE_EVENT = 64 * KiB  # a larger event is decided alone
LARGE_MEAN = 4 * KiB  # events of a larger mean size are decided in a thread


class Limit(NamedTuple):
    """One row of the reference page. past: what happens past the limit; by: who enforces it."""

    what: str
    value: int
    unit: str
    past: str
    by: str


_DEAD_LETTER = "the event becomes a dead letter that names the field"
_REFUSED_REPORT = "the report becomes a dead letter that names the field"
_INTAKE = "prefilter, replay, `Publisher`"
_TRUNCATED = "`truncated` says so"
_FORGOTTEN = "the one used least recently is forgotten"

TABLE: tuple[Limit, ...] = (
    Limit("an event's value after decompression", EVENT_BYTES, "bytes", "the event becomes a dead letter", _INTAKE),
    Limit("`content_id`", ID_CHARACTERS, "characters", _DEAD_LETTER, _INTAKE),
    Limit("`author_id`, `surface`, `language`", LABEL_CHARACTERS, "characters each", _DEAD_LETTER, _INTAKE),
    Limit("`policies`", EVENT_POLICIES, "names", _DEAD_LETTER, _INTAKE),
    Limit("`reason` of a report", REPORT_CHARACTERS, "characters", _REFUSED_REPORT, "prefilter, `Publisher`"),
    Limit("`attributes`", ATTRIBUTES_BYTES, "bytes of JSON", _DEAD_LETTER, _INTAKE),
    Limit("lists and objects inside each other", NESTING, "levels", "the event becomes a dead letter", _INTAKE),
    Limit("`traceparent`", TRACEPARENT_BYTES, "bytes", "the header is not passed on", "every stage"),
    Limit("`tracestate`", TRACESTATE_BYTES, "bytes", "the header is not passed on", "every stage"),
    Limit(
        "text that the classifier reads in full",
        JUDGED_IN_FULL,
        "characters",
        "the classifier reads the beginning, the end and samples between them; `prefilter.truncated` says so",
        "prefilter",
    ),
    Limit(
        "passages of a text that are encoded, each of about 500 characters of English",
        ENCODED_PASSAGES,
        "passages",
        "they spread from its beginning to its end; what stands between them counts in the first stage only",
        "prefilter",
    ),
    Limit(
        "text in which terms and patterns are searched at once",
        SECTION,
        "characters",
        f"they are searched in sections that overlap by {SECTION_OVERLAP:,} characters",
        "prefilter",
    ),
    Limit("a pattern of a gate", PATTERN_CHARACTERS, "characters", "the policy is refused", "`policy check`, releases"),
    Limit("events that are decided at once", DECISION_BYTES, "bytes", "the batch is decided in parts", "prefilter"),
    Limit(
        "an event that is decided among others", LARGE_EVENT, "bytes", "it is decided alone, in a thread", "prefilter"
    ),
    Limit("an escalation", ESCALATION_BYTES, "bytes", "the broker refuses it; an event's limit leaves room", "topics"),
    Limit("a dead letter", DEAD_LETTER_BYTES, "bytes", "its value is left out", "every stage"),
    Limit("reason of a dead letter", 2_000, "characters", "it is cut", "every stage"),
    Limit("a batch of Kafka after decompression", 256 * MiB, "bytes", "it becomes one dead letter", "every stage"),
    Limit(
        "records that are done behind one that is not, in each partition",
        16_384,
        "offsets",
        "the partition's next records wait for that one",
        "every stage",
    ),
    Limit(
        "records in hand with their outputs, in each partition",
        64 * MiB,
        "bytes",
        "the partition is paused until half of them are done",
        "every stage",
    ),
    Limit("outputs of one commit", 32 * MiB, "bytes", "they are committed in parts", "every stage"),
    Limit("windows of an item", 16, "windows", f"they are samples of the text; {_TRUNCATED}", "reasoner"),
    Limit("text that is tokenised whole", 1_000_000, "characters", f"samples are tokenised; {_TRUNCATED}", "reasoner"),
    Limit("a context", 50, "percent of a window", f"older messages are left out; {_TRUNCATED}", "reasoner"),
    Limit(
        "requests for one item, `SAFEGUARD_CONTENT_TIMEOUT`",
        300,
        "seconds",
        "what is not judged by then is undetermined",
        "reasoner",
    ),
    Limit(
        "what the model writes about one item, `SAFEGUARD_CONTENT_TOKENS`",
        32_768,
        "tokens for each sample",
        "what is not judged by then is undetermined",
        "reasoner",
    ),
    Limit("one output of the model, `SAFEGUARD_MAX_TOKENS`", 4_096, "tokens", "it is malformed", "reasoner"),
    Limit("response of an inference server", 64 * MiB, "bytes", "the attempt fails", "reasoner"),
    Limit("answer by the chat route", 1_000_000, "characters", "the attempt fails", "reasoner"),
    Limit("`reason` of a verdict", 1_000, "characters", "the output is malformed", "reasoner"),
    Limit("`analysis` of a rationale", 65_536, "characters", "its middle is cut; `cut` counts", "reasoner"),
    Limit("`final` of a rationale", 16_384, "characters", "its middle is cut; `cut` counts", "reasoner"),
    Limit(
        "outputs in a rationale", 1 * MiB, "bytes of JSON", "further outputs are left out; `omitted` counts", "reasoner"
    ),
    Limit("judgements kept, `SAFEGUARD_JUDGEMENT_CACHE_SIZE`", 10_000, "judgements", _FORGOTTEN, "reasoner"),
    Limit("judgements kept, by size", 64 * MiB, "bytes", _FORGOTTEN, "reasoner"),
    Limit(
        "strikes of an author that are kept", AUTHOR_STRIKES, "strikes", "the oldest no longer count", "`authors run`"
    ),
    Limit(
        "a moderator's record on `moderation.actions`",
        DECISION_RECORD_BYTES,
        "bytes",
        "the record becomes a dead letter",
        "enforcement",
    ),
    Limit(
        "posts of an author, for rates",
        AUTHOR_POSTS,
        "posts",
        "the oldest no longer count",
        "`authors run`",
    ),
    Limit(
        "posts of all authors, for rates, in each partition",
        PARTITION_POSTS,
        "posts",
        "authors who wrote least recently are forgotten",
        "`authors run`",
    ),
    Limit(
        "text of which a sketch is made",
        SKETCHED,
        "characters at both ends",
        "what is between them does not count",
        "`authors run`",
    ),
    Limit("messages to the webhook at once", 1_024, "messages", "the next ones wait", "enforcement"),
    Limit("a file to publish, after decompression", 4 * 1024 * MiB, "bytes", "it is refused", "`safeguard publish`"),
)
