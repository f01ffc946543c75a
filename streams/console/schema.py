"""The tables of the console's database, the same on PostgreSQL and SQLite.

Three kinds of tables, which `PROJECTED` and `OWN` list:

- Those that the projector writes are computed from the topics, and nothing else writes them, except the two columns of
  a claim in `review_items`, and the rows of golden items in `items` and `review_items`. `safeguard console rebuild`
  empties them and reads the topics again.
- `erasures`, `forgotten_authors` and `positions` say what was erased, and how far the projector has read.
- Those that the pages write, from `audit_log` on, exist nowhere else. No rebuild touches them: back them up. `draws` is
  none of these: each database has its own.

Times are UTC, and come back as aware datetimes from both databases. NUL characters, which PostgreSQL refuses, are
stored as U+FFFD. Full-text search is made by `full_text`, outside these tables, because the two databases do it by
their own means.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON as _JSON
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TextClause,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from safeguard_streams.contract.records import in_utc

metadata = MetaData(
    naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "pk": "pk_%(table_name)s"},
)

JSON = _JSON(none_as_null=True)


class Moment(TypeDecorator[datetime]):
    """A time in UTC. SQLite has no time zones: it holds the same times without an offset, which sort as texts."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment = in_utc(value)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _key(name: str, about: str) -> Column[str]:
    return Column(name, String, primary_key=True, comment=about)


def _text(name: str, about: str) -> Column[str]:
    return Column(name, Text, comment=about)


def _moment(name: str, about: str, **options: Any) -> Column[datetime]:
    return Column(name, Moment, comment=about, **options)


def _partial(name: str, condition: str, *columns: str | TextClause) -> Index:
    """An index of the rows that meet a condition, on both databases."""
    return Index(name, *columns, sqlite_where=text(condition), postgresql_where=text(condition))


_OPEN = "state = 'open'"

# ---------------------------------------------------------------- how far the projector is, and what was erased

positions = Table(
    "positions",
    metadata,
    _key("topic", "without the deployment's prefix"),
    Column("partition", Integer, primary_key=True),
    Column("offset", BigInteger, nullable=False, comment="the next offset to read"),
    Column("topic_id", String, comment="Kafka's id of the topic: one that was created again has another one"),
    _moment("record_at", "timestamp of the last record that was read, as its producer or broker set it"),
    _moment("projected_at", "when the position last moved", nullable=False),
    Column("skipped", BigInteger, nullable=False, default=0, comment="records that were no records of this topic"),
    comment="How far each partition is projected. It moves in the transaction that writes the rows.",
)

erasures = Table(
    "erasures",
    metadata,
    _key("content_id", "the item that an operator erased"),
    _moment("erased_at", "what was written until then is erased", nullable=False),
    Column("overwritten", Boolean, nullable=False, comment="whether the files of the database hold its words no more"),
    comment="Words about these items are gone, and late records about them are stored without words.",
)

# ---------------------------------------------------------------- content items

items = Table(
    "items",
    metadata,
    _key("content_id", "the producer's id of the item"),
    _text("text", "the newest text that was escalated; null past its time, erased, or never escalated"),
    _text("language", "BCP 47 tag"),
    _text("surface", "where the item appears"),
    _text("author_id", "the producer's id of the author"),
    Column("context", JSON, comment="earlier messages, oldest first: [{role, text}]; null as the text is"),
    Column("attributes", JSON, comment="further data of the producer; null as the text is"),
    _moment("created_at", "when the item was created, as its producer says"),
    _text("content_sha256", "SHA-256 of that text, which verdicts name too"),
    Column("event_partition", Integer, comment="partition of that text's event on content.events"),
    Column("event_offset", BigInteger, comment="offset of that event, which orders the texts of an item"),
    _moment("text_at", "when that text was escalated first"),
    _moment("text_expires_at", "when the projector removes text, context and attributes"),
    Column(
        "effective", String, nullable=False, server_default="allow", comment="the action in effect under all policies"
    ),
    Column("held", Integer, nullable=False, server_default="0", comment="actions above a cap that wait"),
    Column("standing_partition", Integer, comment="of the record of moderation.standing that says so"),
    Column("standing_partitions", Integer, comment="that moderation.standing had then: a record of fewer is outdated"),
    Index(None, "author_id", "text_at"),
    _partial("ix_items_expiring", "text IS NOT NULL", "text_expires_at"),
    # What stands on an item changes columns that no index has. With room in its page, PostgreSQL then touches no index
    # of the row, of which the one of its words is costly. Verdicts and actions do not touch the row at all.
    postgresql_with={"fillfactor": 80},
    comment="What is known of each content item that was escalated, or on which something stands.",
)


# ---------------------------------------------------------------- verdicts


def _verdict_columns() -> list[Column[Any]]:
    """The columns of a verdict, which two tables share: those that act, and those for comparison only."""
    return [
        _key("verdict_id", "deterministic id of the verdict"),
        Column("content_id", String, nullable=False),
        Column("policy_id", String, nullable=False),
        Column("policy_version", String, nullable=False),
        Column("decision", String, nullable=False, comment="violates, safe or undetermined"),
        Column("lane", String, nullable=False, comment="live, audit, shadow, replay or canary"),
        Column("stage", String, nullable=False),
        Column("model", String, nullable=False),
        _text("model_revision", "which weights the model has"),
        _moment("decided_at", "when the verdict was made", nullable=False),
        Column("rule_ids", JSON, nullable=False, comment="rules that the model cited, in its order"),
        Column("score", Float, comment="probability of a violation, 0 to 1"),
        _text("score_map", "calibration map that was applied to the score"),
        _text("confidence", "low, medium or high, as the model says"),
        _text("reason", "may be shown to the author; null where the item was erased"),
        _text("reasoning_effort", "that the model was asked for"),
        _text("answer", "first or constrained"),
        _text("gate", "why the item was escalated: label, terms, everything, sample, audit or live"),
        _text("gate_label", "the harm, term or pattern that matched; null where the item was erased"),
        Column("gate_score", Float, comment="from the gate's classifier, 0 to 1"),
        Column("gate_threshold", Float, comment="minimum score at which the gate escalates"),
        Column("gate_rate", Float, comment="share that sample and audit draw: the item stands for 1/rate items"),
        Column("truncated", Boolean, nullable=False, comment="whether only samples of a long text were judged"),
        Column("cached", Boolean, nullable=False, comment="whether an identical item's judgement was reused"),
        Column("prompt_tokens", BigInteger),
        Column("completion_tokens", BigInteger),
        Column("latency", JSON, nullable=False, comment="milliseconds by stage"),
        Column("malformed", BigInteger, nullable=False, comment="outputs of the model that were rejected"),
        _text("replay_id", "the replay that made or promoted the verdict"),
        _text("supersedes", "verdict_id that this one replaces"),
        _text("bundle", "id of the bundle of policies that were judged in one call"),
        _text("canary", "name of the canary that made the verdict"),
        _text("surface", "where the item appears"),
        _text("content_sha256", "SHA-256 of the text that was judged"),
        _text("origin", "place of that text's event on content.events"),
        _text("author_id", "the producer's id of the author, where the verdict names it"),
        _text("severity", "of the violation, where the policy grades it"),
    ]


verdicts = Table(
    "verdicts",
    metadata,
    *_verdict_columns(),
    Index(None, "content_id", "decided_at"),
    Index(None, "decided_at"),
    Index(None, "policy_id", "decision", "decided_at"),
    comment="moderation.verdicts: live and audit verdicts, and those that a replay promoted.",
)

verdict_rules = Table(
    "verdict_rules",
    metadata,
    _key("verdict_id", "the verdict that cites the rule"),
    _key("rule_id", "the rule"),
    Column("policy_id", String, nullable=False),
    Column("decision", String, nullable=False),
    _moment("decided_at", "when the verdict was made", nullable=False),
    Index(None, "policy_id", "rule_id", "decided_at"),
    comment="One row for each rule that a verdict of `verdicts` cites.",
)

replay_verdicts = Table(
    "replay_verdicts",
    metadata,
    *_verdict_columns(),
    Index(None, "content_id", "decided_at"),
    Index(None, "replay_id", "policy_id", "decision"),
    comment="moderation.replays: what replays, shadows and canaries say. No enforcement follows it.",
)

rationales = Table(
    "rationales",
    metadata,
    _key("verdict_id", "the verdict that the rationale explains"),
    Column("content_id", String, nullable=False, index=True),
    Column("policy_id", String, nullable=False),
    Column("policy_version", String, nullable=False),
    Column("model", String, nullable=False),
    Column("attempts", JSON, nullable=False, comment="every output of the model: [{analysis, final, refused}]"),
    Column("omitted", BigInteger, nullable=False, comment="outputs left out of the record"),
    Column("cut", BigInteger, nullable=False, comment="characters cut from outputs"),
    _moment("created_at", "when it was written", nullable=False),
    comment="moderation.rationales, for auditors only: no page for any other role may read this table.",
)

# ---------------------------------------------------------------- escalations

escalations = Table(
    "escalations",
    metadata,
    _key("escalation_id", "of item, place, policy, version, lane and replay: duplicates have one row"),
    Column("content_id", String, nullable=False),
    Column("policy_id", String, nullable=False),
    Column("policy_version", String, nullable=False),
    Column("policy_revision", BigInteger, nullable=False),
    Column("lane", String, nullable=False, comment="live, audit, shadow or replay"),
    Column("gate", String, nullable=False, comment="label, terms, everything, sample, audit or live"),
    _text("label", "the harm, term or pattern that matched; null where the item was erased"),
    Column("score", Float),
    Column("threshold", Float),
    Column("rate", Float),
    _text("stratum", "near or far, of a drawn item"),
    _moment("escalated_at", "when", nullable=False),
    _text("replay_id", "the replay that escalated the item"),
    _text("origin", "place of the event on content.events"),
    _text("content_sha256", "SHA-256 of the text that was escalated"),
    Index(None, "content_id", "policy_id"),
    comment="content.escalations and its lanes: which gate let an item on to the model, and why.",
)

# ---------------------------------------------------------------- reports

reports = Table(
    "reports",
    metadata,
    _key("content_id", "the item"),
    _key("report_id", "the producer's id of the report"),
    Column("reporter", String, nullable=False, comment="user, trusted_flagger or authority"),
    _moment("reported_at", "when", nullable=False),
    _text("reason", "what the reporter says; null where the item was erased"),
    _text("content_sha256", "SHA-256 of the text that was reported"),
    comment="content.reports: who reported an item, by kind, and why.",
)

# ---------------------------------------------------------------- actions

actions = Table(
    "actions",
    metadata,
    _key("action_id", "deterministic id of the action"),
    Column("content_id", String, nullable=False),
    Column("action", String, nullable=False, comment="allow, review, label, limit or remove"),
    _moment("acted_at", "when it was written", nullable=False),
    _text("by", "the moderator who decided or released it; null for the agent"),
    _text("why", "the moderator's reason; null where the item was erased"),
    Column("state", String, nullable=False, comment="applied, held or overridden"),
    _text("effective", "what is in effect under all policies after it"),
    Column("previous", String, nullable=False, comment="what stood under the policy before"),
    _text("verdict_id", "the verdict that it follows"),
    _text("policy_id", "null for a moderator's decision, which covers all policies"),
    _text("policy_version", "version of that policy"),
    _text("decision", "of that verdict"),
    Column("rule_ids", JSON, nullable=False),
    _text("reason", "of that verdict; null where the item was erased"),
    _text("rule", "the enforcement rule that chose the action"),
    _text("reverses", "action_id that it replaces"),
    _text("releases", "action_id of the held action that a moderator released"),
    _text("withdraws", "action_id of the moderator's decision that it takes back"),
    Column("alert", Boolean, nullable=False),
    Column("dry_run", Boolean, nullable=False),
    Column("any_text", Boolean, nullable=False),
    Column("sequence", BigInteger, comment="null until the agent has followed what a moderator wrote"),
    _text("content_sha256", "SHA-256 of the text that it is about"),
    _text("origin", "place of that text's event on content.events"),
    _text("author_id", "the producer's id of the author, where the action names it"),
    _text("severity", "of the violation, where the policy grades it"),
    _text("statement", "the statement of reasons that the author got, if the action restricts the item"),
    _text("ends_statement", "statement_id of the statement that it withdraws"),
    Index(None, "content_id", "acted_at"),
    Index(None, "acted_at"),
    Index(None, "policy_id", "acted_at"),
    comment="moderation.actions: what enforcement did and why, and what moderators decided.",
)

review_items = Table(
    "review_items",
    metadata,
    _key("content_id", "the item that waits"),
    _key("policy_id", "the policy under which it waits; * where a moderator sent it to review"),
    Column("cause", String, nullable=False, comment="undetermined, rule, held, moderator or appealed"),
    Column("state", String, nullable=False, comment="open, or decided: it waits no more, until something re-opens it"),
    Column("action", String, nullable=False, comment="what a release would do (held), or review"),
    Column("effective", String, nullable=False, comment="the action in effect now"),
    _text("rule", "the enforcement rule that sent it here"),
    _text("severity", "of the violation, where one stands or is held"),
    Column(
        "priority",
        Float,
        nullable=False,
        comment="higher first: severity of the action at stake; below 1 more for reports and the violation's severity",
    ),
    _moment("since", "when it began to wait; null for what an early agent wrote"),
    Column("edited", Boolean, nullable=False, comment="the item has a newer text, which is not judged yet"),
    _text("content_sha256", "SHA-256 of the text that it is about"),
    _text("origin", "place of that text's event on content.events"),
    _text("claimed_by", "who works on it; written by the pages"),
    _moment("claim_expires_at", "when that claim lapses; written by the pages"),
    # In the order of the queue, and by policy, without what is decided.
    _partial("ix_review_items_next", _OPEN, text("priority DESC"), "since", "content_id"),
    _partial("ix_review_items_of_policy", _OPEN, "policy_id", text("priority DESC"), "since", "content_id"),
    _partial("ix_review_items_groups", _OPEN, "policy_id", "cause", "since"),
    comment="The queue, from moderation.standing. A moderator's decision closes a row; one taken back re-opens it.",
)

appeals = Table(
    "appeals",
    metadata,
    _key("content_id", "the item that the appeal is about"),
    _key("appeal_id", "the platform's id of the appeal, or one made of it"),
    Column("appellant", String, nullable=False, comment="author or notifier"),
    Column("state", String, nullable=False, comment="open, upheld, overturned, moot or refused"),
    _moment("opened_at", "when it was made", nullable=False),
    _moment("due_at", "when a person is to have decided it", nullable=False),
    Column("action", String, nullable=False, comment="what was in effect when the agent read it"),
    _moment("closed_at", "when it ended"),
    _text("by", "the person who decided it"),
    _text("outcome_id", "action_id of the record with its outcome"),
    Column("not_by", JSON, nullable=False, comment="who decided about the item before, as names are compared"),
    Index(None, "state", "due_at"),
    comment="Appeals and their outcomes, from moderation.standing.",
)

appeal_statements = Table(
    "appeal_statements",
    metadata,
    _key("content_id", "the item that the appeal is about"),
    _key("appeal_id", "the platform's id of the appeal, or one made of it"),
    _text("reason", "what the appellant says; null where the item was erased"),
    _text("new_context", "what the appellant adds; null where the item was erased"),
    _text("language", "BCP 47 tag of the appeal"),
    _moment("received_at", "timestamp of the record", nullable=False),
    comment="moderation.appeals: what appellants say.",
)

# ---------------------------------------------------------------- authors

strikes = Table(
    "strikes",
    metadata,
    _key("strike_id", "deterministic: of item, text and policy"),
    Column("author_id", String, nullable=False, comment="the producer's id of the author"),
    Column("state", String, nullable=False, comment="given, taken-back or forgiven, as the last record says"),
    _moment("at", "when it was given, as the last record that gives it says", nullable=False),
    _moment("expires_at", "when it no longer counts, as that record says; null where none is known"),
    _text("content_id", "the item; null where it was erased"),
    _text("verdict_id", "the verdict that it follows; null where the item was erased"),
    _text("action_id", "the action that it follows; null where the item was erased"),
    _text("policy_id", "the policy that the text violates"),
    Column("rule_ids", JSON, nullable=False, comment="the policy's rules that were cited"),
    _text("severity", "the highest severity of these rules"),
    _text("rule", "name of the enforcement rule for strikes that matched"),
    Column("weight", BigInteger, nullable=False, comment="what the strike weighs"),
    _moment("ended_at", "when it was taken back or forgiven"),
    _text("by", "the person who forgave it"),
    _text("why", "that person's reason"),
    Index(None, "author_id", "at"),
    Index(None, "content_id"),
    comment="moderation.strikes: strikes against authors, each as its last record says.",
)

author_decisions = Table(
    "author_decisions",
    metadata,
    _key("decision_id", "of the request that wrote it"),
    Column("author_id", String, nullable=False, comment="the author"),
    Column("state", String, nullable=False, comment="decided, or undecided: the decision was taken back"),
    _text("action", "none, warn, review, limit or suspend; null where a decision was taken back"),
    _moment("at", "when", nullable=False),
    _text("by", "the person"),
    _text("why", "that person's reason"),
    Index(None, "author_id", "at"),
    comment="moderation.strikes: what people decided about authors.",
)

author_actions = Table(
    "author_actions",
    metadata,
    _key("action_id", "deterministic id of the action"),
    Column("author_id", String, nullable=False, comment="the author"),
    Column("action", String, nullable=False, comment="what stands after it: none, warn, review, limit or suspend"),
    Column("previous", String, nullable=False, comment="what stood before"),
    _moment("acted_at", "when it was written", nullable=False),
    Column("sequence", BigInteger, nullable=False, comment="place of the cause on moderation.strikes"),
    Column("weight", BigInteger, nullable=False, comment="what all strikes that count weigh together"),
    _text("rule", "name of the threshold that is passed"),
    _text("strike_id", "the strike that is the cause"),
    _text("verdict_id", "the verdict that this strike follows; null where the item was erased"),
    _text("content_id", "the item that this strike is about; null where it was erased"),
    _text("by", "the person who decided or forgave"),
    _text("why", "that person's reason"),
    _text("statement", "the statement of reasons that the author got, if the action restricts the account"),
    _text("ends_statement", "statement_id of the statement that it withdraws"),
    Index(None, "author_id", "acted_at"),
    Index(None, "content_id"),
    comment="moderation.author-actions: what was done about authors.",
)

author_standings = Table(
    "author_standings",
    metadata,
    _key("author_id", "the author"),
    Column("action", String, nullable=False, comment="what stands: none, warn, review, limit or suspend"),
    _text("rule", "name of the threshold that is passed; null where a person decided"),
    Column("weight", BigInteger, nullable=False, comment="what the strikes that count weigh together"),
    _moment("since", "when that action was written", nullable=False),
    Column("strikes", JSON, nullable=False, comment="the strikes that have not expired, without their items"),
    _text("decision", "what a person decided; null where nobody did"),
    _text("decision_id", "decision_id of that decision"),
    _moment("decided_at", "when"),
    _text("decided_by", "the person"),
    _text("decided_why", "that person's reason"),
    Column("followed", JSON, nullable=False, comment="ids of the last decisions that the ledger followed"),
    Column("partition", Integer, comment="of the record that says so"),
    Column("partitions", Integer, comment="that the topic had then: a record of fewer is outdated"),
    _partial("ix_author_standings_review", "action = 'review'", "since", "author_id"),
    comment="moderation.author-standing: what stands on each author.",
)

forgotten_authors = Table(
    "forgotten_authors",
    metadata,
    _key("author_id", "the author of whom a person ended all that is known"),
    _moment("forgotten_at", "what was written about the author until then is gone", nullable=False),
    Column("sequence", BigInteger, nullable=False, comment="place of that record on moderation.strikes"),
    Column("overwritten", Boolean, nullable=False, comment="whether the files of the database hold it no more"),
    comment="moderation.strikes: late records about these authors are left out.",
)

# ---------------------------------------------------------------- policies, replays, dead letters

policy_releases = Table(
    "policy_releases",
    metadata,
    _key("key", "record key: the policy's id; .shadow or .replay.VERSION after it"),
    Column("policy_id", String, nullable=False, index=True),
    Column("place", String, nullable=False, comment="in-force, shadow or replay"),
    Column("version", String, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
    _moment("released_at", "when", nullable=False),
    Column("released_by", String, nullable=False),
    Column("why", Text, nullable=False),
    Column("distilled", Boolean, nullable=False, comment="whether a distilled classifier came with it"),
    Column("shadow", Float, comment="share of content judged under a shadow"),
    comment="moderation.policies: what is in force, in shadow, or kept for replays, now.",
)

policy_changes = Table(
    "policy_changes",
    metadata,
    _key("change_id", "of policy, time, action and operator"),
    Column("policy_id", String, nullable=False),
    Column("action", String, nullable=False, comment="release, rollback, retire, shadow or end-shadow"),
    _moment("changed_at", "when", nullable=False),
    Column("changed_by", String, nullable=False),
    Column("why", Text, nullable=False),
    _text("version", "that came into force or into the shadow"),
    Column("revision", BigInteger),
    _text("document", "the whole document of that version"),
    Column("shadow", Float),
    Index(None, "policy_id", "changed_at"),
    comment="moderation.policies.history: each change to the policies in force.",
)

replays = Table(
    "replays",
    metadata,
    _key("replay_id", "the replay"),
    Column("state", String, nullable=False, comment="running, paused, cancelled or escalated"),
    Column("policies", JSON, nullable=False, comment="[{policy_id, version, before_version}]"),
    Column("starts", JSON, nullable=False, comment="first offsets of content.events, by partition"),
    Column("ends", JSON, nullable=False, comment="last offsets, excluded, by partition"),
    Column("sample", Float, nullable=False),
    Column("noise", Float, nullable=False),
    Column("surfaces", JSON, nullable=False),
    Column("languages", JSON, nullable=False),
    Column("decisions", JSON, nullable=False),
    _moment("created_at", "when it was started", nullable=False),
    Column("created_by", String, nullable=False),
    Column("why", Text, nullable=False),
    _moment("escalated_at", "when the last of its items was escalated"),
    Column("publications", JSON, nullable=False, comment="promotions and reversions, oldest first"),
    comment="moderation.replays.jobs.",
)

replay_progress = Table(
    "replay_progress",
    metadata,
    _key("replay_id", "the replay"),
    Column("partition", Integer, primary_key=True, comment="of content.events"),
    Column("position", BigInteger, nullable=False, comment="the offset behind the last event that is counted"),
    Column("items", BigInteger, nullable=False),
    Column("unreadable", BigInteger, nullable=False),
    Column("escalated", BigInteger, nullable=False),
    comment="moderation.replays.progress.",
)

dead_letters = Table(
    "dead_letters",
    metadata,
    _key("letter", "its place on moderation.dead-letters, as 3@1042"),
    Column("topic", String, nullable=False, comment="of the original, prefix included"),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("stage", String, nullable=False),
    Column("error", String, nullable=False, comment="class of the error"),
    Column("reason", Text, nullable=False, comment="what is wrong and what to do; holds no content"),
    _text("field", "path of the field at fault"),
    Column("attempts", BigInteger, nullable=False),
    _moment("failed_at", "when the stage gave up", nullable=False),
    _moment("letter_at", "timestamp of the letter's record", nullable=False),
    Column("bytes", BigInteger, comment="size of the original's value"),
    Index(None, "failed_at"),
    comment="moderation.dead-letters without the bytes of the originals, which stay on the topic.",
)

dead_letters_handled = Table(
    "dead_letters_handled",
    metadata,
    _key("letter", "place of the dead letter"),
    Column("state", String, nullable=False, comment="requeued or discarded"),
    _moment("letter_at", "timestamp of the letter: another one at this place has another", nullable=False),
    _moment("handled_at", "when", nullable=False),
    Column("handled_by", String, nullable=False),
    Column("why", Text, nullable=False),
    comment="moderation.dead-letters.handled. A letter without a row here, of the same letter_at, waits.",
)

# ---------------------------------------------------------------- counts, by minute

cleared_counts = Table(
    "cleared_counts",
    metadata,
    Column("minute", Moment, primary_key=True),
    _key("policy_id", "* for an item that no gate escalated"),
    _key("surface", "empty where the record does not say"),
    _key("language", "empty where the record does not say"),
    Column("partition", Integer, primary_key=True, comment="sum over it"),
    Column("count", BigInteger, nullable=False),
    comment="moderation.cleared, counted: no row for each.",
)

verdict_counts = Table(
    "verdict_counts",
    metadata,
    Column("minute", Moment, primary_key=True),
    _key("policy_id", "the policy"),
    _key("decision", "violates, safe or undetermined"),
    _key("lane", "live, audit or replay"),
    Column("count", BigInteger, nullable=False),
    comment="Rows of `verdicts` by the minute of decided_at, each verdict once.",
)

escalation_counts = Table(
    "escalation_counts",
    metadata,
    Column("minute", Moment, primary_key=True),
    _key("policy_id", "the policy"),
    _key("gate", "the gate that escalated"),
    _key("lane", "live, audit, shadow or replay"),
    Column("count", BigInteger, nullable=False),
    comment="Rows of `escalations` by the minute of escalated_at, each escalation once.",
)

# ---------------------------------------------------------------- what the pages write

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    _moment("at", "when", nullable=False),
    Column("who", String, nullable=False, comment="as they proved to be"),
    Column("role", String, nullable=False),
    Column("action", String, nullable=False, comment="reveal, search, export, decide, release, ..."),
    Column("object", String, nullable=False, comment="id of what it was done to"),
    Column("details", JSON, nullable=False, comment="never content"),
    Index(None, "at"),
    Index(None, "who", "at"),
    Index(None, "object", "at"),
    comment="Who saw and did what. Rows are only added: triggers refuse to change or delete one.",
)

reviews = Table(
    "reviews",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("who", String, nullable=False),
    Column("content_id", String, nullable=False),
    Column("policy_id", String, nullable=False),
    Column("content_sha256", String, comment="the text that they read"),
    Column("decision", String, nullable=False, comment="violates, safe or undetermined"),
    _text("rule", "the policy's rule that they cited"),
    _text("action", "what they decided to do"),
    _text("verdict_id", "the model's verdict that they had before them"),
    Column("blind", Boolean, nullable=False, comment="whether they decided before they saw the model's verdict"),
    Column("golden", Boolean, nullable=False, comment="whether the item was a hidden golden one"),
    Column("second", Boolean, nullable=False, comment="whether somebody else had judged it before"),
    _moment("at", "when", nullable=False),
    _text("action_id", "the action that they wrote; null for a check, which writes none"),
    _text("expected", "what the golden set says of a golden item"),
    Index(None, "content_id", "policy_id"),
    Index(None, "at"),
    comment="What people decided, as labels: agreement, calibration and golden sets read them.",
)

checks = Table(
    "checks",
    metadata,
    _key("who", "who is checked"),
    _key("content_id", "the item, about which a colleague decided"),
    Column("policy_id", String, nullable=False),
    Column("content_sha256", String, comment="of the text that they are to judge"),
    _moment("since", "when it was handed out", nullable=False),
    _text("key", "of the form that judged it; null until then"),
    comment="Second looks: items that do not wait, and that somebody gets from the queue. Nothing follows.",
)

golden_items = Table(
    "golden_items",
    metadata,
    _key("content_id", "under which it waits in the queue; it looks like others"),
    Column("policy_id", String, nullable=False),
    Column("content_sha256", String, nullable=False, comment="of its text"),
    _text("text", "of the policy's golden set; null once it is judged"),
    Column("expected", String, nullable=False, comment="what the golden set says: violates or safe"),
    Column("rule", String, nullable=False, comment="the rule that the golden set names"),
    _text("language", "as the queue shows it: that of the item that it resembles"),
    _moment("since", "when it began to wait", nullable=False),
    _moment("text_expires_at", "when the projector removes the text from `items`", nullable=False),
    Column(
        "waits",
        JSON,
        nullable=False,
        comment="cause, action, effective, rule, severity and priority of its row in the queue",
    ),
    _text("key", "of the form that judged it; null until then"),
    _text("who", "who judged it"),
    Index(None, "policy_id", "content_sha256"),
    comment="Golden texts that wait in the queue. They have rows in `items` and `review_items` until judged.",
)

draws = Table(
    "draws",
    metadata,
    _key("name", "queue"),
    Column("secret", String, nullable=False, comment="with which items are drawn, so that nobody can compute a draw"),
    _moment("until", "items that began to wait until then had their chance to bring a golden item", nullable=False),
    comment="What decides by chance. Each database has its own, which needs no backup.",
)

policy_drafts = Table(
    "policy_drafts",
    metadata,
    _key("who", "whose draft it is"),
    _key("policy_id", "the policy"),
    Column("document", Text, nullable=False, comment="the text as it was last kept"),
    Column(
        "base", String, nullable=False, comment="names the files in git from which it began; empty without a checkout"
    ),
    _text("version", "that was in force when it began; null where none was"),
    Column("revision", BigInteger, comment="of that version"),
    Column("saved", BigInteger, nullable=False, comment="counts how often it was kept"),
    Column("editor", String, nullable=False, comment="names the page that kept it last"),
    Column("number", BigInteger, nullable=False, comment="the last change that this page sent"),
    Column("shared", Boolean, nullable=False, comment="whether other people who edit policies may read it"),
    _moment("begun_at", "when it was kept first", nullable=False),
    _moment("saved_at", "when it was kept last", nullable=False),
    Index(None, "policy_id"),
    Index(None, "saved_at"),
    comment="Texts of policies that somebody edits and has not released.",
)

exposures = Table(
    "exposures",
    metadata,
    _key("who", "the person"),
    Column("day", Date, primary_key=True),
    _key("harm", "of the policy under which they revealed items"),
    Column("count", BigInteger, nullable=False),
    comment="How many items of a harm somebody revealed on a day.",
)

preferences = Table(
    "preferences",
    metadata,
    _key("who", "the person"),
    _key("harm", "that they asked not to see"),
    Column("day", Date, primary_key=True),
    comment="'Not this harm for me today.'",
)

exposure_limits = Table(
    "exposure_limits",
    metadata,
    _key("harm", "* for every harm without a row"),
    Column("most", BigInteger, nullable=False, comment="items of it that a person may reveal on a day"),
    Column("set_by", String, nullable=False),
    _moment("set_at", "when", nullable=False),
    comment="How much of a harm a person sees on a day, as a lead decided.",
)

displays = Table(
    "displays",
    metadata,
    _key("who", "the person"),
    Column("grey", Boolean, nullable=False, comment="whether texts are grey"),
    Column("small", Boolean, nullable=False, comment="whether texts are small"),
    Column("unveiled", JSON, nullable=False, comment="harms of which texts are shown at once"),
    comment="How somebody wants to see texts. Without a row: grey, small, and behind a veil.",
)

# ---------------------------------------------------------------- what an erasure removes

ITEM_WORDS = dict.fromkeys(("text", "context", "attributes", "author_id"))
VERDICT_WORDS = dict.fromkeys(("reason", "gate_label", "author_id"))
ESCALATION_WORDS = dict.fromkeys(("label",))
REPORT_WORDS = dict.fromkeys(("reason",))
APPEAL_WORDS = dict.fromkeys(("reason", "new_context"))
ACTION_WORDS = dict.fromkeys(("why", "reason", "author_id"))
STRIKE_WORDS = dict.fromkeys(("content_id", "verdict_id", "action_id"))  # an erased item has no author
AUTHOR_ACTION_WORDS = dict.fromkeys(("content_id", "verdict_id"))

# ---------------------------------------------------------------- replays as people work with them

replay_work = Table(
    "replay_work",
    metadata,
    _key("key", "what is done; of one key, once at a time"),
    Column("kind", String, nullable=False, comment="estimate, run, compare, plan or publish"),
    Column("replay_id", String, nullable=False, comment="empty for an estimate"),
    _text("policy_id", "the policy of the replay; null where the work is about all of them"),
    Column("who", String, nullable=False, comment="who asked for it"),
    Column("given", JSON, nullable=False, comment="what they asked for"),
    _moment("changed_at", "when pages last had something new to show", nullable=False),
    _moment("alive_until", "another process takes the work over then", nullable=False),
    Column("tries", Integer, nullable=False, comment="processes that took it over since it last got further"),
    Column("done", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False, comment="0 where it is not known"),
    _moment("ended_at", "when it was done, or failed"),
    _text("error", "why it failed; holds no content"),
    Column("result", JSON, comment="what came out last; never content"),
    Column("judgements", JSON, comment="ids of the replay's verdicts that a plan publishes"),
    Index(None, "replay_id", "kind"),
    comment="What people asked for about replays that outlasts a request.",
)

replay_flips = Table(
    "replay_flips",
    metadata,
    _key("replay_id", "the replay"),
    _key("policy_id", "the policy under which the item was judged again"),
    _key("content_id", "the item whose decision changes"),
    Column("place", Integer, nullable=False, comment="in the worklist, which has a random order"),
    Column("content_sha256", String, nullable=False, comment="the text that was judged"),
    Column("flip", String, nullable=False, comment="to_violates or to_safe"),
    Column("before", String, nullable=False, comment="violates, safe, undetermined or cleared"),
    Column("after", String, nullable=False),
    Column("rules_before", JSON, nullable=False),
    Column("rules_after", JSON, nullable=False),
    _text("verdict_before", "id of the verdict before; null where the item was cleared"),
    Column("verdict_after", String, nullable=False, comment="id of the replay's verdict"),
    _text("claimed_by", "who works on it"),
    _moment("claim_expires_at", "when the lease ends"),
    Index(None, "replay_id", "policy_id", "place"),
    comment="What a comparison found: the flips of a replay, as a worklist. Holds no words.",
)

flip_reviews = Table(
    "flip_reviews",
    metadata,
    _key("replay_id", "the replay"),
    _key("policy_id", "the policy"),
    _key("content_id", "the item"),
    _key("verdict_after", "the verdict of the replay that somebody agrees with, or not"),
    Column("answer", String, nullable=False, comment="new, old or unsure: which verdict is right"),
    Column("who", String, nullable=False),
    _moment("at", "when they last answered", nullable=False),
    comment="What people say about the flips of replays.",
)

OWN = (
    *(audit_log, reviews, checks, golden_items, exposures, preferences, exposure_limits, displays),
    *(replay_work, replay_flips, flip_reviews, policy_drafts),
)
PROJECTED = tuple(table for table in metadata.sorted_tables if table not in (*OWN, draws))
