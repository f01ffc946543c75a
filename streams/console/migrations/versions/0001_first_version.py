"""The first version of the schema."""

import sqlalchemy as sa
from alembic import op

from safeguard_streams.console import native, schema

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "actions",
        sa.Column("action_id", sa.String(), nullable=False, comment="deterministic id of the action"),
        sa.Column("content_id", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False, comment="allow, review, label, limit or remove"),
        sa.Column("acted_at", schema.Moment(timezone=True), nullable=False, comment="when it was written"),
        sa.Column(
            "by", sa.Text(), nullable=True, comment="the moderator who decided or released it; null for the agent"
        ),
        sa.Column("why", sa.Text(), nullable=True, comment="the moderator's reason; null where the item was erased"),
        sa.Column("state", sa.String(), nullable=False, comment="applied, held or overridden"),
        sa.Column("effective", sa.Text(), nullable=True, comment="what is in effect under all policies after it"),
        sa.Column("previous", sa.String(), nullable=False, comment="what stood under the policy before"),
        sa.Column("verdict_id", sa.Text(), nullable=True, comment="the verdict that it follows"),
        sa.Column(
            "policy_id", sa.Text(), nullable=True, comment="null for a moderator's decision, which covers all policies"
        ),
        sa.Column("policy_version", sa.Text(), nullable=True, comment="version of that policy"),
        sa.Column("decision", sa.Text(), nullable=True, comment="of that verdict"),
        sa.Column("rule_ids", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True, comment="of that verdict; null where the item was erased"),
        sa.Column("rule", sa.Text(), nullable=True, comment="the enforcement rule that chose the action"),
        sa.Column("reverses", sa.Text(), nullable=True, comment="action_id that it replaces"),
        sa.Column(
            "releases", sa.Text(), nullable=True, comment="action_id of the held action that a moderator released"
        ),
        sa.Column(
            "withdraws", sa.Text(), nullable=True, comment="action_id of the moderator's decision that it takes back"
        ),
        sa.Column("alert", sa.Boolean(), nullable=False),
        sa.Column("dry_run", sa.Boolean(), nullable=False),
        sa.Column("any_text", sa.Boolean(), nullable=False),
        sa.Column(
            "sequence",
            sa.BigInteger(),
            nullable=True,
            comment="null until the agent has followed what a moderator wrote",
        ),
        sa.Column("content_sha256", sa.Text(), nullable=True, comment="SHA-256 of the text that it is about"),
        sa.Column("origin", sa.Text(), nullable=True, comment="place of that text's event on content.events"),
        sa.Column(
            "author_id", sa.Text(), nullable=True, comment="the producer's id of the author, where the action names it"
        ),
        sa.Column("severity", sa.Text(), nullable=True, comment="of the violation, where the policy grades it"),
        sa.Column(
            "statement",
            sa.Text(),
            nullable=True,
            comment="the statement of reasons that the author got, if the action restricts the item",
        ),
        sa.Column(
            "ends_statement", sa.Text(), nullable=True, comment="statement_id of the statement that it withdraws"
        ),
        sa.PrimaryKeyConstraint("action_id", name=op.f("pk_actions")),
        comment="moderation.actions: what enforcement did and why, and what moderators decided.",
    )
    op.create_index(op.f("ix_actions_acted_at"), "actions", ["acted_at"], unique=False)
    op.create_index(op.f("ix_actions_content_id_acted_at"), "actions", ["content_id", "acted_at"], unique=False)
    op.create_index(op.f("ix_actions_policy_id_acted_at"), "actions", ["policy_id", "acted_at"], unique=False)
    op.create_table(
        "audit_log",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at", schema.Moment(timezone=True), nullable=False, comment="when"),
        sa.Column("who", sa.String(), nullable=False, comment="as they proved to be"),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False, comment="reveal, search, export, decide, release, ..."),
        sa.Column("object", sa.String(), nullable=False, comment="id of what it was done to"),
        sa.Column("details", sa.JSON(none_as_null=True), nullable=False, comment="never content"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
        comment="Who saw and did what. Rows are only added: triggers refuse to change or delete one.",
    )
    op.create_index(op.f("ix_audit_log_at"), "audit_log", ["at"], unique=False)
    op.create_index(op.f("ix_audit_log_object_at"), "audit_log", ["object", "at"], unique=False)
    op.create_index(op.f("ix_audit_log_who_at"), "audit_log", ["who", "at"], unique=False)
    op.create_table(
        "cleared_counts",
        sa.Column("minute", schema.Moment(timezone=True), nullable=False),
        sa.Column("policy_id", sa.String(), nullable=False, comment="* for an item that no gate escalated"),
        sa.Column("surface", sa.String(), nullable=False, comment="empty where the record does not say"),
        sa.Column("language", sa.String(), nullable=False, comment="empty where the record does not say"),
        sa.Column("partition", sa.Integer(), nullable=False, comment="sum over it"),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "minute", "policy_id", "surface", "language", "partition", name=op.f("pk_cleared_counts")
        ),
        comment="moderation.cleared, counted: no row for each.",
    )
    op.create_table(
        "dead_letters",
        sa.Column("letter", sa.String(), nullable=False, comment="its place on moderation.dead-letters, as 3@1042"),
        sa.Column("topic", sa.String(), nullable=False, comment="of the original, prefix included"),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("stage", sa.String(), nullable=False),
        sa.Column("error", sa.String(), nullable=False, comment="class of the error"),
        sa.Column("reason", sa.Text(), nullable=False, comment="what is wrong and what to do; holds no content"),
        sa.Column("field", sa.Text(), nullable=True, comment="path of the field at fault"),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("failed_at", schema.Moment(timezone=True), nullable=False, comment="when the stage gave up"),
        sa.Column(
            "letter_at", schema.Moment(timezone=True), nullable=False, comment="timestamp of the letter's record"
        ),
        sa.Column("bytes", sa.BigInteger(), nullable=True, comment="size of the original's value"),
        sa.PrimaryKeyConstraint("letter", name=op.f("pk_dead_letters")),
        comment="moderation.dead-letters without the bytes of the originals, which stay on the topic.",
    )
    op.create_index(op.f("ix_dead_letters_failed_at"), "dead_letters", ["failed_at"], unique=False)
    op.create_table(
        "dead_letters_handled",
        sa.Column("letter", sa.String(), nullable=False, comment="place of the dead letter"),
        sa.Column("state", sa.String(), nullable=False, comment="requeued or discarded"),
        sa.Column(
            "letter_at",
            schema.Moment(timezone=True),
            nullable=False,
            comment="timestamp of the letter: another one at this place has another",
        ),
        sa.Column("handled_at", schema.Moment(timezone=True), nullable=False, comment="when"),
        sa.Column("handled_by", sa.String(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("letter", name=op.f("pk_dead_letters_handled")),
        comment="moderation.dead-letters.handled. A letter without a row here, of the same letter_at, waits.",
    )
    op.create_table(
        "erasures",
        sa.Column("content_id", sa.String(), nullable=False, comment="the item that an operator erased"),
        sa.Column(
            "erased_at", schema.Moment(timezone=True), nullable=False, comment="what was written until then is erased"
        ),
        sa.Column(
            "overwritten",
            sa.Boolean(),
            nullable=False,
            comment="whether the files of the database hold its words no more",
        ),
        sa.PrimaryKeyConstraint("content_id", name=op.f("pk_erasures")),
        comment="Words about these items are gone, and late records about them are stored without words.",
    )
    op.create_table(
        "escalation_counts",
        sa.Column("minute", schema.Moment(timezone=True), nullable=False),
        sa.Column("policy_id", sa.String(), nullable=False, comment="the policy"),
        sa.Column("gate", sa.String(), nullable=False, comment="the gate that escalated"),
        sa.Column("lane", sa.String(), nullable=False, comment="live, audit, shadow or replay"),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("minute", "policy_id", "gate", "lane", name=op.f("pk_escalation_counts")),
        comment="Rows of `escalations` by the minute of escalated_at, each escalation once.",
    )
    op.create_table(
        "escalations",
        sa.Column(
            "escalation_id",
            sa.String(),
            nullable=False,
            comment="of item, place, policy, version, lane and replay: duplicates have one row",
        ),
        sa.Column("content_id", sa.String(), nullable=False),
        sa.Column("policy_id", sa.String(), nullable=False),
        sa.Column("policy_version", sa.String(), nullable=False),
        sa.Column("policy_revision", sa.BigInteger(), nullable=False),
        sa.Column("lane", sa.String(), nullable=False, comment="live, audit, shadow or replay"),
        sa.Column("gate", sa.String(), nullable=False, comment="label, terms, everything, sample, audit or live"),
        sa.Column(
            "label",
            sa.Text(),
            nullable=True,
            comment="the harm, term or pattern that matched; null where the item was erased",
        ),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("threshold", sa.Float(), nullable=True),
        sa.Column("rate", sa.Float(), nullable=True),
        sa.Column("stratum", sa.Text(), nullable=True, comment="near or far, of a drawn item"),
        sa.Column("escalated_at", schema.Moment(timezone=True), nullable=False, comment="when"),
        sa.Column("replay_id", sa.Text(), nullable=True, comment="the replay that escalated the item"),
        sa.Column("origin", sa.Text(), nullable=True, comment="place of the event on content.events"),
        sa.Column("content_sha256", sa.Text(), nullable=True, comment="SHA-256 of the text that was escalated"),
        sa.PrimaryKeyConstraint("escalation_id", name=op.f("pk_escalations")),
        comment="content.escalations and its lanes: which gate let an item on to the model, and why.",
    )
    op.create_index(
        op.f("ix_escalations_content_id_policy_id"), "escalations", ["content_id", "policy_id"], unique=False
    )
    op.create_table(
        "checks",
        sa.Column("who", sa.String(), nullable=False, comment="who is checked"),
        sa.Column(
            "content_id",
            sa.String(),
            nullable=False,
            comment="as it is shown to them; a golden text gets an id that looks like others",
        ),
        sa.Column("policy_id", sa.String(), nullable=False),
        sa.Column("content_sha256", sa.String(), nullable=True, comment="of the text that they are to judge"),
        sa.Column("text", sa.Text(), nullable=True, comment="of a golden item, until it is judged"),
        sa.Column("language", sa.Text(), nullable=True, comment="of a golden item"),
        sa.Column(
            "expected",
            sa.Text(),
            nullable=True,
            comment="what the golden set says; null for a decided item that is judged once more",
        ),
        sa.Column("rule", sa.Text(), nullable=True, comment="the rule that the golden set names"),
        sa.Column("since", schema.Moment(timezone=True), nullable=False, comment="when it was handed out"),
        sa.Column("key", sa.Text(), nullable=True, comment="of the form that judged it; null until then"),
        sa.PrimaryKeyConstraint("who", "content_id", name=op.f("pk_checks")),
        comment="Items that somebody gets from the queue, that do not wait in it: nothing follows what they decide.",
    )
    op.create_table(
        "displays",
        sa.Column("who", sa.String(), nullable=False, comment="the person"),
        sa.Column("grey", sa.Boolean(), nullable=False, comment="whether texts are grey"),
        sa.Column("small", sa.Boolean(), nullable=False, comment="whether texts are small"),
        sa.Column(
            "unveiled", sa.JSON(none_as_null=True), nullable=False, comment="harms of which texts are shown at once"
        ),
        sa.PrimaryKeyConstraint("who", name=op.f("pk_displays")),
        comment="How somebody wants to see texts. Without a row: grey, small, and behind a veil.",
    )
    op.create_table(
        "exposure_limits",
        sa.Column("harm", sa.String(), nullable=False, comment="* for every harm without a row"),
        sa.Column("most", sa.BigInteger(), nullable=False, comment="items of it that a person may reveal on a day"),
        sa.Column("set_by", sa.String(), nullable=False),
        sa.Column("set_at", schema.Moment(timezone=True), nullable=False, comment="when"),
        sa.PrimaryKeyConstraint("harm", name=op.f("pk_exposure_limits")),
        comment="How much of a harm a person sees on a day, as a lead decided.",
    )
    op.create_table(
        "exposures",
        sa.Column("who", sa.String(), nullable=False, comment="the person"),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("harm", sa.String(), nullable=False, comment="of the policy under which they revealed items"),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("who", "day", "harm", name=op.f("pk_exposures")),
        comment="How many items of a harm somebody revealed on a day.",
    )
    op.create_table(
        "items",
        sa.Column("content_id", sa.String(), nullable=False, comment="the producer's id of the item"),
        sa.Column(
            "text",
            sa.Text(),
            nullable=True,
            comment="the newest text that was escalated; null past its time, erased, or never escalated",
        ),
        sa.Column("language", sa.Text(), nullable=True, comment="BCP 47 tag"),
        sa.Column("surface", sa.Text(), nullable=True, comment="where the item appears"),
        sa.Column("author_id", sa.Text(), nullable=True, comment="the producer's id of the author"),
        sa.Column(
            "context",
            sa.JSON(none_as_null=True),
            nullable=True,
            comment="earlier messages, oldest first: [{role, text}]; null as the text is",
        ),
        sa.Column(
            "attributes",
            sa.JSON(none_as_null=True),
            nullable=True,
            comment="further data of the producer; null as the text is",
        ),
        sa.Column(
            "created_at",
            schema.Moment(timezone=True),
            nullable=True,
            comment="when the item was created, as its producer says",
        ),
        sa.Column("content_sha256", sa.Text(), nullable=True, comment="SHA-256 of that text, which verdicts name too"),
        sa.Column(
            "event_partition", sa.Integer(), nullable=True, comment="partition of that text's event on content.events"
        ),
        sa.Column(
            "event_offset",
            sa.BigInteger(),
            nullable=True,
            comment="offset of that event, which orders the texts of an item",
        ),
        sa.Column("text_at", schema.Moment(timezone=True), nullable=True, comment="when that text was escalated first"),
        sa.Column(
            "text_expires_at",
            schema.Moment(timezone=True),
            nullable=True,
            comment="when the projector removes text, context and attributes",
        ),
        sa.Column(
            "effective",
            sa.String(),
            server_default="allow",
            nullable=False,
            comment="the action in effect under all policies",
        ),
        sa.Column("held", sa.Integer(), server_default="0", nullable=False, comment="actions above a cap that wait"),
        sa.PrimaryKeyConstraint("content_id", name=op.f("pk_items")),
        comment="What is known of each content item that was escalated, or on which something stands.",
        postgresql_with={"fillfactor": 80},
    )
    op.create_index(op.f("ix_items_author_id_text_at"), "items", ["author_id", "text_at"], unique=False)
    op.create_index(
        "ix_items_expiring",
        "items",
        ["text_expires_at"],
        unique=False,
        sqlite_where=sa.text("text IS NOT NULL"),
        postgresql_where=sa.text("text IS NOT NULL"),
    )
    op.create_table(
        "policy_changes",
        sa.Column("change_id", sa.String(), nullable=False, comment="of policy, time, action and operator"),
        sa.Column("policy_id", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False, comment="release, rollback, retire, shadow or end-shadow"),
        sa.Column("changed_at", schema.Moment(timezone=True), nullable=False, comment="when"),
        sa.Column("changed_by", sa.String(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=True, comment="that came into force or into the shadow"),
        sa.Column("revision", sa.BigInteger(), nullable=True),
        sa.Column("document", sa.Text(), nullable=True, comment="the whole document of that version"),
        sa.Column("shadow", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("change_id", name=op.f("pk_policy_changes")),
        comment="moderation.policies.history: each change to the policies in force.",
    )
    op.create_index(
        op.f("ix_policy_changes_policy_id_changed_at"), "policy_changes", ["policy_id", "changed_at"], unique=False
    )
    op.create_table(
        "policy_releases",
        sa.Column(
            "key",
            sa.String(),
            nullable=False,
            comment="record key: the policy's id; .shadow or .replay.VERSION after it",
        ),
        sa.Column("policy_id", sa.String(), nullable=False),
        sa.Column("place", sa.String(), nullable=False, comment="in-force, shadow or replay"),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("released_at", schema.Moment(timezone=True), nullable=False, comment="when"),
        sa.Column("released_by", sa.String(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("distilled", sa.Boolean(), nullable=False, comment="whether a distilled classifier came with it"),
        sa.Column("shadow", sa.Float(), nullable=True, comment="share of content judged under a shadow"),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_policy_releases")),
        comment="moderation.policies: what is in force, in shadow, or kept for replays, now.",
    )
    op.create_index(op.f("ix_policy_releases_policy_id"), "policy_releases", ["policy_id"], unique=False)
    op.create_table(
        "positions",
        sa.Column("topic", sa.String(), nullable=False, comment="without the deployment's prefix"),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False, comment="the next offset to read"),
        sa.Column(
            "topic_id",
            sa.String(),
            nullable=True,
            comment="Kafka's id of the topic: one that was created again has another one",
        ),
        sa.Column(
            "record_at",
            schema.Moment(timezone=True),
            nullable=True,
            comment="timestamp of the last record that was read, as its producer or broker set it",
        ),
        sa.Column("projected_at", schema.Moment(timezone=True), nullable=False, comment="when the position last moved"),
        sa.Column("skipped", sa.BigInteger(), nullable=False, comment="records that were no records of this topic"),
        sa.PrimaryKeyConstraint("topic", "partition", name=op.f("pk_positions")),
        comment="How far each partition is projected. It moves in the transaction that writes the rows.",
    )
    op.create_table(
        "preferences",
        sa.Column("who", sa.String(), nullable=False, comment="the person"),
        sa.Column("harm", sa.String(), nullable=False, comment="that they asked not to see"),
        sa.Column("day", sa.Date(), nullable=False),
        sa.PrimaryKeyConstraint("who", "harm", "day", name=op.f("pk_preferences")),
        comment="'Not this harm for me today.'",
    )
    op.create_table(
        "rationales",
        sa.Column("verdict_id", sa.String(), nullable=False, comment="the verdict that the rationale explains"),
        sa.Column("content_id", sa.String(), nullable=False),
        sa.Column("policy_id", sa.String(), nullable=False),
        sa.Column("policy_version", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column(
            "attempts",
            sa.JSON(none_as_null=True),
            nullable=False,
            comment="every output of the model: [{analysis, final, refused}]",
        ),
        sa.Column("omitted", sa.BigInteger(), nullable=False, comment="outputs left out of the record"),
        sa.Column("cut", sa.BigInteger(), nullable=False, comment="characters cut from outputs"),
        sa.Column("created_at", schema.Moment(timezone=True), nullable=False, comment="when it was written"),
        sa.PrimaryKeyConstraint("verdict_id", name=op.f("pk_rationales")),
        comment="moderation.rationales, for auditors only: no page for any other role may read this table.",
    )
    op.create_index(op.f("ix_rationales_content_id"), "rationales", ["content_id"], unique=False)
    op.create_table(
        "replay_progress",
        sa.Column("replay_id", sa.String(), nullable=False, comment="the replay"),
        sa.Column("partition", sa.Integer(), nullable=False, comment="of content.events"),
        sa.Column(
            "position", sa.BigInteger(), nullable=False, comment="the offset behind the last event that is counted"
        ),
        sa.Column("items", sa.BigInteger(), nullable=False),
        sa.Column("unreadable", sa.BigInteger(), nullable=False),
        sa.Column("escalated", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("replay_id", "partition", name=op.f("pk_replay_progress")),
        comment="moderation.replays.progress.",
    )
    op.create_table(
        "replay_verdicts",
        sa.Column("verdict_id", sa.String(), nullable=False, comment="deterministic id of the verdict"),
        sa.Column("content_id", sa.String(), nullable=False),
        sa.Column("policy_id", sa.String(), nullable=False),
        sa.Column("policy_version", sa.String(), nullable=False),
        sa.Column("decision", sa.String(), nullable=False, comment="violates, safe or undetermined"),
        sa.Column("lane", sa.String(), nullable=False, comment="live, audit, shadow, replay or canary"),
        sa.Column("stage", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("model_revision", sa.Text(), nullable=True, comment="which weights the model has"),
        sa.Column("decided_at", schema.Moment(timezone=True), nullable=False, comment="when the verdict was made"),
        sa.Column(
            "rule_ids", sa.JSON(none_as_null=True), nullable=False, comment="rules that the model cited, in its order"
        ),
        sa.Column("score", sa.Float(), nullable=True, comment="probability of a violation, 0 to 1"),
        sa.Column("score_map", sa.Text(), nullable=True, comment="calibration map that was applied to the score"),
        sa.Column("confidence", sa.Text(), nullable=True, comment="low, medium or high, as the model says"),
        sa.Column(
            "reason", sa.Text(), nullable=True, comment="may be shown to the author; null where the item was erased"
        ),
        sa.Column("reasoning_effort", sa.Text(), nullable=True, comment="that the model was asked for"),
        sa.Column("answer", sa.Text(), nullable=True, comment="first or constrained"),
        sa.Column(
            "gate",
            sa.Text(),
            nullable=True,
            comment="why the item was escalated: label, terms, everything, sample, audit or live",
        ),
        sa.Column(
            "gate_label",
            sa.Text(),
            nullable=True,
            comment="the harm, term or pattern that matched; null where the item was erased",
        ),
        sa.Column("gate_score", sa.Float(), nullable=True, comment="from the gate's classifier, 0 to 1"),
        sa.Column("gate_threshold", sa.Float(), nullable=True, comment="minimum score at which the gate escalates"),
        sa.Column(
            "gate_rate",
            sa.Float(),
            nullable=True,
            comment="share that sample and audit draw: the item stands for 1/rate items",
        ),
        sa.Column("truncated", sa.Boolean(), nullable=False, comment="whether only samples of a long text were judged"),
        sa.Column("cached", sa.Boolean(), nullable=False, comment="whether an identical item's judgement was reused"),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=True),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=True),
        sa.Column("latency", sa.JSON(none_as_null=True), nullable=False, comment="milliseconds by stage"),
        sa.Column("malformed", sa.BigInteger(), nullable=False, comment="outputs of the model that were rejected"),
        sa.Column("replay_id", sa.Text(), nullable=True, comment="the replay that made or promoted the verdict"),
        sa.Column("supersedes", sa.Text(), nullable=True, comment="verdict_id that this one replaces"),
        sa.Column(
            "bundle", sa.Text(), nullable=True, comment="id of the bundle of policies that were judged in one call"
        ),
        sa.Column("canary", sa.Text(), nullable=True, comment="name of the canary that made the verdict"),
        sa.Column("surface", sa.Text(), nullable=True, comment="where the item appears"),
        sa.Column("content_sha256", sa.Text(), nullable=True, comment="SHA-256 of the text that was judged"),
        sa.Column("origin", sa.Text(), nullable=True, comment="place of that text's event on content.events"),
        sa.Column(
            "author_id", sa.Text(), nullable=True, comment="the producer's id of the author, where the verdict names it"
        ),
        sa.Column("severity", sa.Text(), nullable=True, comment="of the violation, where the policy grades it"),
        sa.PrimaryKeyConstraint("verdict_id", name=op.f("pk_replay_verdicts")),
        comment="moderation.replays: what replays, shadows and canaries say. No enforcement follows it.",
    )
    op.create_index(
        op.f("ix_replay_verdicts_content_id_decided_at"), "replay_verdicts", ["content_id", "decided_at"], unique=False
    )
    op.create_index(
        op.f("ix_replay_verdicts_replay_id_policy_id_decision"),
        "replay_verdicts",
        ["replay_id", "policy_id", "decision"],
        unique=False,
    )
    op.create_table(
        "replays",
        sa.Column("replay_id", sa.String(), nullable=False, comment="the replay"),
        sa.Column("state", sa.String(), nullable=False, comment="running, paused, cancelled or escalated"),
        sa.Column(
            "policies", sa.JSON(none_as_null=True), nullable=False, comment="[{policy_id, version, before_version}]"
        ),
        sa.Column(
            "starts",
            sa.JSON(none_as_null=True),
            nullable=False,
            comment="first offsets of content.events, by partition",
        ),
        sa.Column("ends", sa.JSON(none_as_null=True), nullable=False, comment="last offsets, excluded, by partition"),
        sa.Column("sample", sa.Float(), nullable=False),
        sa.Column("noise", sa.Float(), nullable=False),
        sa.Column("surfaces", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("languages", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("decisions", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", schema.Moment(timezone=True), nullable=False, comment="when it was started"),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column(
            "escalated_at",
            schema.Moment(timezone=True),
            nullable=True,
            comment="when the last of its items was escalated",
        ),
        sa.Column(
            "publications",
            sa.JSON(none_as_null=True),
            nullable=False,
            comment="promotions and reversions, oldest first",
        ),
        sa.PrimaryKeyConstraint("replay_id", name=op.f("pk_replays")),
        comment="moderation.replays.jobs.",
    )
    op.create_table(
        "review_items",
        sa.Column("content_id", sa.String(), nullable=False, comment="the item that waits"),
        sa.Column(
            "policy_id",
            sa.String(),
            nullable=False,
            comment="the policy under which it waits; * where a moderator sent it to review",
        ),
        sa.Column("cause", sa.String(), nullable=False, comment="undetermined, rule, held, moderator or appealed"),
        sa.Column(
            "state",
            sa.String(),
            nullable=False,
            comment="open, or decided: it waits no more, until something re-opens it",
        ),
        sa.Column("action", sa.String(), nullable=False, comment="what a release would do (held), or review"),
        sa.Column("effective", sa.String(), nullable=False, comment="the action in effect now"),
        sa.Column("rule", sa.Text(), nullable=True, comment="the enforcement rule that sent it here"),
        sa.Column(
            "priority",
            sa.Float(),
            nullable=False,
            comment="higher first: severity of the action at stake; below 1 more where the item was reported",
        ),
        sa.Column(
            "since",
            schema.Moment(timezone=True),
            nullable=True,
            comment="when it began to wait; null for what an early agent wrote",
        ),
        sa.Column("edited", sa.Boolean(), nullable=False, comment="the item has a newer text, which is not judged yet"),
        sa.Column("content_sha256", sa.Text(), nullable=True, comment="SHA-256 of the text that it is about"),
        sa.Column("origin", sa.Text(), nullable=True, comment="place of that text's event on content.events"),
        sa.Column("claimed_by", sa.Text(), nullable=True, comment="who works on it; written by the pages"),
        sa.Column(
            "claim_expires_at",
            schema.Moment(timezone=True),
            nullable=True,
            comment="when that claim lapses; written by the pages",
        ),
        sa.PrimaryKeyConstraint("content_id", "policy_id", name=op.f("pk_review_items")),
        comment="The queue, from moderation.standing. A moderator's decision closes a row; one taken back re-opens it.",
    )
    op.create_index(
        "ix_review_items_next",
        "review_items",
        [sa.text("priority DESC"), "since", "content_id"],
        unique=False,
        sqlite_where=sa.text("state = 'open'"),
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_index(
        "ix_review_items_of_policy",
        "review_items",
        ["policy_id", sa.text("priority DESC"), "since", "content_id"],
        unique=False,
        sqlite_where=sa.text("state = 'open'"),
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_index(
        "ix_review_items_groups",
        "review_items",
        ["policy_id", "cause", "since"],
        unique=False,
        sqlite_where=sa.text("state = 'open'"),
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_table(
        "reports",
        sa.Column("content_id", sa.String(), nullable=False, comment="the item"),
        sa.Column("report_id", sa.String(), nullable=False, comment="the producer's id of the report"),
        sa.Column("reporter", sa.String(), nullable=False, comment="user, trusted_flagger or authority"),
        sa.Column("reported_at", schema.Moment(timezone=True), nullable=False, comment="when"),
        sa.Column("reason", sa.Text(), nullable=True, comment="what the reporter says; null where the item was erased"),
        sa.Column("content_sha256", sa.Text(), nullable=True, comment="SHA-256 of the text that was reported"),
        sa.PrimaryKeyConstraint("content_id", "report_id", name=op.f("pk_reports")),
        comment="content.reports: who reported an item, by kind, and why.",
    )
    op.create_table(
        "reviews",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("who", sa.String(), nullable=False),
        sa.Column("content_id", sa.String(), nullable=False),
        sa.Column("policy_id", sa.String(), nullable=False),
        sa.Column("content_sha256", sa.String(), nullable=True, comment="the text that they read"),
        sa.Column("decision", sa.String(), nullable=False, comment="violates, safe or undetermined"),
        sa.Column("rule", sa.Text(), nullable=True, comment="the policy's rule that they cited"),
        sa.Column("action", sa.Text(), nullable=True, comment="what they decided to do"),
        sa.Column("verdict_id", sa.Text(), nullable=True, comment="the model's verdict that they had before them"),
        sa.Column(
            "blind", sa.Boolean(), nullable=False, comment="whether they decided before they saw the model's verdict"
        ),
        sa.Column("golden", sa.Boolean(), nullable=False, comment="whether the item was a hidden golden one"),
        sa.Column("second", sa.Boolean(), nullable=False, comment="whether somebody else had judged it before"),
        sa.Column("at", schema.Moment(timezone=True), nullable=False, comment="when"),
        sa.Column(
            "action_id",
            sa.Text(),
            nullable=True,
            comment="the action that they wrote; null for a check, which writes none",
        ),
        sa.Column("expected", sa.Text(), nullable=True, comment="what the golden set says of a golden item"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reviews")),
        comment="What people decided, as labels: agreement, calibration and golden sets read them.",
    )
    op.create_index(op.f("ix_reviews_at"), "reviews", ["at"], unique=False)
    op.create_index(op.f("ix_reviews_content_id_policy_id"), "reviews", ["content_id", "policy_id"], unique=False)
    op.create_table(
        "verdict_counts",
        sa.Column("minute", schema.Moment(timezone=True), nullable=False),
        sa.Column("policy_id", sa.String(), nullable=False, comment="the policy"),
        sa.Column("decision", sa.String(), nullable=False, comment="violates, safe or undetermined"),
        sa.Column("lane", sa.String(), nullable=False, comment="live, audit or replay"),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("minute", "policy_id", "decision", "lane", name=op.f("pk_verdict_counts")),
        comment="Rows of `verdicts` by the minute of decided_at, each verdict once.",
    )
    op.create_table(
        "verdict_rules",
        sa.Column("verdict_id", sa.String(), nullable=False, comment="the verdict that cites the rule"),
        sa.Column("rule_id", sa.String(), nullable=False, comment="the rule"),
        sa.Column("policy_id", sa.String(), nullable=False),
        sa.Column("decision", sa.String(), nullable=False),
        sa.Column("decided_at", schema.Moment(timezone=True), nullable=False, comment="when the verdict was made"),
        sa.PrimaryKeyConstraint("verdict_id", "rule_id", name=op.f("pk_verdict_rules")),
        comment="One row for each rule that a verdict of `verdicts` cites.",
    )
    op.create_index(
        op.f("ix_verdict_rules_policy_id_rule_id_decided_at"),
        "verdict_rules",
        ["policy_id", "rule_id", "decided_at"],
        unique=False,
    )
    op.create_table(
        "verdicts",
        sa.Column("verdict_id", sa.String(), nullable=False, comment="deterministic id of the verdict"),
        sa.Column("content_id", sa.String(), nullable=False),
        sa.Column("policy_id", sa.String(), nullable=False),
        sa.Column("policy_version", sa.String(), nullable=False),
        sa.Column("decision", sa.String(), nullable=False, comment="violates, safe or undetermined"),
        sa.Column("lane", sa.String(), nullable=False, comment="live, audit, shadow, replay or canary"),
        sa.Column("stage", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("model_revision", sa.Text(), nullable=True, comment="which weights the model has"),
        sa.Column("decided_at", schema.Moment(timezone=True), nullable=False, comment="when the verdict was made"),
        sa.Column(
            "rule_ids", sa.JSON(none_as_null=True), nullable=False, comment="rules that the model cited, in its order"
        ),
        sa.Column("score", sa.Float(), nullable=True, comment="probability of a violation, 0 to 1"),
        sa.Column("score_map", sa.Text(), nullable=True, comment="calibration map that was applied to the score"),
        sa.Column("confidence", sa.Text(), nullable=True, comment="low, medium or high, as the model says"),
        sa.Column(
            "reason", sa.Text(), nullable=True, comment="may be shown to the author; null where the item was erased"
        ),
        sa.Column("reasoning_effort", sa.Text(), nullable=True, comment="that the model was asked for"),
        sa.Column("answer", sa.Text(), nullable=True, comment="first or constrained"),
        sa.Column(
            "gate",
            sa.Text(),
            nullable=True,
            comment="why the item was escalated: label, terms, everything, sample, audit or live",
        ),
        sa.Column(
            "gate_label",
            sa.Text(),
            nullable=True,
            comment="the harm, term or pattern that matched; null where the item was erased",
        ),
        sa.Column("gate_score", sa.Float(), nullable=True, comment="from the gate's classifier, 0 to 1"),
        sa.Column("gate_threshold", sa.Float(), nullable=True, comment="minimum score at which the gate escalates"),
        sa.Column(
            "gate_rate",
            sa.Float(),
            nullable=True,
            comment="share that sample and audit draw: the item stands for 1/rate items",
        ),
        sa.Column("truncated", sa.Boolean(), nullable=False, comment="whether only samples of a long text were judged"),
        sa.Column("cached", sa.Boolean(), nullable=False, comment="whether an identical item's judgement was reused"),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=True),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=True),
        sa.Column("latency", sa.JSON(none_as_null=True), nullable=False, comment="milliseconds by stage"),
        sa.Column("malformed", sa.BigInteger(), nullable=False, comment="outputs of the model that were rejected"),
        sa.Column("replay_id", sa.Text(), nullable=True, comment="the replay that made or promoted the verdict"),
        sa.Column("supersedes", sa.Text(), nullable=True, comment="verdict_id that this one replaces"),
        sa.Column(
            "bundle", sa.Text(), nullable=True, comment="id of the bundle of policies that were judged in one call"
        ),
        sa.Column("canary", sa.Text(), nullable=True, comment="name of the canary that made the verdict"),
        sa.Column("surface", sa.Text(), nullable=True, comment="where the item appears"),
        sa.Column("content_sha256", sa.Text(), nullable=True, comment="SHA-256 of the text that was judged"),
        sa.Column("origin", sa.Text(), nullable=True, comment="place of that text's event on content.events"),
        sa.Column(
            "author_id", sa.Text(), nullable=True, comment="the producer's id of the author, where the verdict names it"
        ),
        sa.Column("severity", sa.Text(), nullable=True, comment="of the violation, where the policy grades it"),
        sa.PrimaryKeyConstraint("verdict_id", name=op.f("pk_verdicts")),
        comment="moderation.verdicts: live and audit verdicts, and those that a replay promoted.",
    )
    op.create_index(op.f("ix_verdicts_content_id_decided_at"), "verdicts", ["content_id", "decided_at"], unique=False)
    op.create_index(op.f("ix_verdicts_decided_at"), "verdicts", ["decided_at"], unique=False)
    op.create_index(
        op.f("ix_verdicts_policy_id_decision_decided_at"),
        "verdicts",
        ["policy_id", "decision", "decided_at"],
        unique=False,
    )
    op.create_table(
        "flip_reviews",
        sa.Column("replay_id", sa.String(), nullable=False, comment="the replay"),
        sa.Column("policy_id", sa.String(), nullable=False, comment="the policy"),
        sa.Column("content_id", sa.String(), nullable=False, comment="the item"),
        sa.Column(
            "verdict_after",
            sa.String(),
            nullable=False,
            comment="the verdict of the replay that somebody agrees with, or not",
        ),
        sa.Column("answer", sa.String(), nullable=False, comment="new, old or unsure: which verdict is right"),
        sa.Column("who", sa.String(), nullable=False),
        sa.Column("at", schema.Moment(timezone=True), nullable=False, comment="when they last answered"),
        sa.PrimaryKeyConstraint("replay_id", "policy_id", "content_id", "verdict_after", name=op.f("pk_flip_reviews")),
        comment="What people say about the flips of replays.",
    )
    op.create_table(
        "replay_flips",
        sa.Column("replay_id", sa.String(), nullable=False, comment="the replay"),
        sa.Column("policy_id", sa.String(), nullable=False, comment="the policy under which the item was judged again"),
        sa.Column("content_id", sa.String(), nullable=False, comment="the item whose decision changes"),
        sa.Column("place", sa.Integer(), nullable=False, comment="in the worklist, which has a random order"),
        sa.Column("content_sha256", sa.String(), nullable=False, comment="the text that was judged"),
        sa.Column("flip", sa.String(), nullable=False, comment="to_violates or to_safe"),
        sa.Column("before", sa.String(), nullable=False, comment="violates, safe, undetermined or cleared"),
        sa.Column("after", sa.String(), nullable=False),
        sa.Column("rules_before", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("rules_after", sa.JSON(none_as_null=True), nullable=False),
        sa.Column(
            "verdict_before",
            sa.Text(),
            nullable=True,
            comment="id of the verdict before; null where the item was cleared",
        ),
        sa.Column("verdict_after", sa.String(), nullable=False, comment="id of the replay's verdict"),
        sa.Column("claimed_by", sa.Text(), nullable=True, comment="who works on it"),
        sa.Column("claim_expires_at", schema.Moment(timezone=True), nullable=True, comment="when the lease ends"),
        sa.PrimaryKeyConstraint("replay_id", "policy_id", "content_id", name=op.f("pk_replay_flips")),
        comment="What a comparison found: the flips of a replay, as a worklist. Holds no words.",
    )
    op.create_index(
        op.f("ix_replay_flips_replay_id_policy_id_place"),
        "replay_flips",
        ["replay_id", "policy_id", "place"],
        unique=False,
    )
    op.create_table(
        "replay_work",
        sa.Column("key", sa.String(), nullable=False, comment="what is done; of one key, once at a time"),
        sa.Column("kind", sa.String(), nullable=False, comment="estimate, run, compare, plan or publish"),
        sa.Column("replay_id", sa.String(), nullable=False, comment="empty for an estimate"),
        sa.Column(
            "policy_id",
            sa.Text(),
            nullable=True,
            comment="the policy of the replay; null where the work is about all of them",
        ),
        sa.Column("who", sa.String(), nullable=False, comment="who asked for it"),
        sa.Column("given", sa.JSON(none_as_null=True), nullable=False, comment="what they asked for"),
        sa.Column(
            "changed_at",
            schema.Moment(timezone=True),
            nullable=False,
            comment="when pages last had something new to show",
        ),
        sa.Column(
            "alive_until",
            schema.Moment(timezone=True),
            nullable=False,
            comment="another process takes the work over then",
        ),
        sa.Column(
            "tries", sa.Integer(), nullable=False, comment="processes that took it over since it last got further"
        ),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False, comment="0 where it is not known"),
        sa.Column("ended_at", schema.Moment(timezone=True), nullable=True, comment="when it was done, or failed"),
        sa.Column("error", sa.Text(), nullable=True, comment="why it failed; holds no content"),
        sa.Column("result", sa.JSON(none_as_null=True), nullable=True, comment="what came out last; never content"),
        sa.Column(
            "judgements",
            sa.JSON(none_as_null=True),
            nullable=True,
            comment="ids of the replay's verdicts that a plan publishes",
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_replay_work")),
        comment="What people asked for about replays that outlasts a request.",
    )
    op.create_index(op.f("ix_replay_work_replay_id_kind"), "replay_work", ["replay_id", "kind"], unique=False)
    native.create(op.get_bind())
