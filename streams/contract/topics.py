"""The catalogue of topics: names, keys, records, partitions, retention."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from safeguard_streams.contract import limits
from safeguard_streams.contract.records import (
    Action,
    Appeal,
    AuthorAction,
    AuthorPost,
    AuthorStanding,
    ContentEvent,
    ContentReport,
    DeadLetter,
    EnforcementInput,
    ErasureRequest,
    Escalation,
    HandledLetter,
    Lane,
    PolicyChange,
    PolicyRelease,
    Position,
    Rationale,
    Referral,
    Replay,
    ReplayProgress,
    ReportedText,
    Standing,
    StatementOfReasons,
    Strike,
    Verdict,
)
from safeguard_streams.errors import ConfigurationError

EVENTS = "content.events"
REPORTS = "content.reports"
REPORTED = "content.reported"
ESCALATIONS = "content.escalations"
ESCALATIONS_AUDIT = "content.escalations.audit"
ESCALATIONS_SHADOW = "content.escalations.shadow"
ESCALATIONS_REPLAY = "content.escalations.replay"
CLEARED = "moderation.cleared"
VERDICTS = "moderation.verdicts"
RATIONALES = "moderation.rationales"
REPLAYS = "moderation.replays"
REPLAY_JOBS = "moderation.replays.jobs"
REPLAY_PROGRESS = "moderation.replays.progress"
POLICIES = "moderation.policies"
POLICIES_HISTORY = "moderation.policies.history"
ENFORCEMENT = "moderation.enforcement"
ACTIONS = "moderation.actions"
STANDING = "moderation.standing"
DEAD_LETTERS = "moderation.dead-letters"
DEAD_LETTERS_HANDLED = "moderation.dead-letters.handled"
POSITIONS = "moderation.positions"
ERASURES = "moderation.erasures"
STATEMENTS = "moderation.statements"
APPEALS = "moderation.appeals"
REFERRALS = "moderation.referrals"
STRIKES = "moderation.strikes"
AUTHOR_ACTIONS = "moderation.author-actions"
AUTHOR_STANDING = "moderation.author-standing"
AUTHOR_POSTS = "moderation.author-posts"

LANES: dict[Lane, str] = {
    "live": ESCALATIONS,
    "audit": ESCALATIONS_AUDIT,
    "shadow": ESCALATIONS_SHADOW,
    "replay": ESCALATIONS_REPLAY,
}
# Each lane has a consumer group of its own, whichever workers judge it. A lane that moves to other workers goes on from
# its committed positions, and workers of one lane that come and go do not interrupt another lane.
LANE_GROUPS: dict[Lane, str] = {
    "live": "reasoner",
    "audit": "reasoner-audit",
    "shadow": "reasoner-shadow",
    "replay": "reasoner-replay",
}
CANARY_GROUP = "canary-"  # followed by the canary's name: each has a group of its own, on the lane of live content
FOREVER = -1

MiB = limits.MiB
HOUR = 3600 * 1000
DAY = 24 * HOUR
ACTIONS_DAYS = 90  # unless a deployment sets another number
TOMBSTONES = 30 * DAY  # a tombstone outlives all records that were written before what it ended
REPORTED_FOR = 90 * DAY  # a text that is reported again after this time is judged again
STATEMENTS_FOR = 400 * DAY  # authors may complain for six months, and a yearly report counts statements
COMPACTION_LAG = DAY  # compaction removes an erased record from disk within this time
LARGEST_CONTENT = limits.EVENT_BYTES
LARGEST_ESCALATION = limits.ESCALATION_BYTES
LARGEST_RECORD = limits.DEAD_LETTER_BYTES
_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")


def prefixed(prefix: str, name: str) -> str:
    """A deployment's name of a topic. Raises ConfigurationError if Kafka allows no such name."""
    if not _NAME.fullmatch(prefix + name):
        raise ConfigurationError(
            f"prefix {prefix!r}: Kafka allows letters, digits, '.', '_' and '-' in a topic's name, and 249 characters"
        )
    return prefix + name


class Topic(msgspec.Struct, frozen=True):
    """One topic. partitions None: the number in the settings. retention: milliseconds, or FOREVER.

    largest: bytes of a record. segment: bytes of a file of the log; the newest file is never compacted.
    roll: milliseconds after which a file of the log is closed: the newest file outlives the retention of its records.
    """

    name: str
    key: str
    record: type[msgspec.Struct]
    retention: int = 7 * DAY
    cleanup: Literal["delete", "compact", "compact,delete"] = "delete"
    partitions: int | None = None
    largest: int = LARGEST_CONTENT
    segment: int | None = None
    roll: int | None = None

    @property
    def config(self) -> dict[str, str]:
        config = {"cleanup.policy": self.cleanup, "max.message.bytes": str(self.largest)}
        if self.cleanup == "compact":
            config["delete.retention.ms"] = str(TOMBSTONES)
        if "delete" in self.cleanup:
            config["retention.ms"] = str(self.retention)
            if self.retention == FOREVER:  # a cluster may bound the bytes of all topics
                config["retention.bytes"] = "-1"
        if self.segment is not None:
            config["segment.bytes"] = str(self.segment)
        if self.roll is not None:
            config["segment.ms"] = str(self.roll)
        if self.cleanup == "compact,delete":
            config["max.compaction.lag.ms"] = str(COMPACTION_LAG)
        return config


CATALOGUE: tuple[Topic, ...] = (
    Topic(EVENTS, "content_id", ContentEvent, retention=30 * DAY),
    Topic(REPORTS, "content_id", ContentReport, retention=90 * DAY, largest=LARGEST_ESCALATION),
    Topic(REPORTED, "text and policy version", ReportedText, retention=REPORTED_FOR, cleanup="compact,delete"),
    Topic(ESCALATIONS, "content_id", Escalation, largest=LARGEST_ESCALATION),
    Topic(ESCALATIONS_AUDIT, "content_id", Escalation, largest=LARGEST_ESCALATION),
    Topic(ESCALATIONS_SHADOW, "content_id", Escalation, largest=LARGEST_ESCALATION),
    Topic(ESCALATIONS_REPLAY, "content_id", Escalation, largest=LARGEST_ESCALATION),
    Topic(CLEARED, "content_id", Verdict),
    Topic(VERDICTS, "content_id", Verdict, retention=90 * DAY),
    Topic(RATIONALES, "verdict_id", Rationale, retention=90 * DAY, cleanup="compact,delete"),
    Topic(REPLAYS, "content_id", Verdict, retention=90 * DAY),  # as long as the rationales that it names
    Topic(REPLAY_JOBS, "replay_id", Replay, cleanup="compact", partitions=1),
    Topic(REPLAY_PROGRESS, "replay_id and partition", ReplayProgress, cleanup="compact", partitions=1),
    Topic(POLICIES, "policy_id", PolicyRelease, cleanup="compact", partitions=1),
    Topic(POLICIES_HISTORY, "policy_id", PolicyChange, retention=FOREVER, partitions=1),
    Topic(ENFORCEMENT, "content_id", EnforcementInput, largest=LARGEST_RECORD),
    Topic(ACTIONS, "content_id", Action, retention=ACTIONS_DAYS * DAY),
    Topic(STANDING, "content_id", Standing, cleanup="compact", segment=64 * MiB),
    Topic(DEAD_LETTERS, "the original key", DeadLetter, retention=30 * DAY, largest=LARGEST_RECORD),
    Topic(DEAD_LETTERS_HANDLED, "place of the dead letter", HandledLetter, cleanup="compact", partitions=1),
    Topic(POSITIONS, "group, topic and partition", Position, cleanup="compact", partitions=1),
    Topic(ERASURES, "content_id", ErasureRequest, cleanup="compact", partitions=1),
    Topic(STATEMENTS, "content_id or author_id", StatementOfReasons, retention=STATEMENTS_FOR),
    Topic(APPEALS, "content_id", Appeal, retention=365 * DAY),
    Topic(REFERRALS, "referral_id", Referral, FOREVER, cleanup="compact,delete", largest=LARGEST_ESCALATION),
    Topic(STRIKES, "author_id", Strike, retention=90 * DAY),
    Topic(AUTHOR_ACTIONS, "author_id", AuthorAction, retention=90 * DAY),
    Topic(AUTHOR_STANDING, "author_id", AuthorStanding, cleanup="compact", segment=64 * MiB),
    Topic(AUTHOR_POSTS, "author_id", AuthorPost, retention=2 * DAY, roll=6 * HOUR),
)


def catalogue(actions_days: int) -> tuple[Topic, ...]:
    """The catalogue of a deployment that keeps moderation.actions for so many days; 0: without limit."""
    kept = actions_days * DAY or FOREVER
    return tuple(
        msgspec.structs.replace(topic, retention=kept) if topic.name == ACTIONS else topic for topic in CATALOGUE
    )
