"""Authors: strikes, what follows from them, and what people decide."""

import sqlalchemy as sa
from alembic import op

from safeguard_streams.console import native, schema

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "author_actions",
        sa.Column("action_id", sa.String(), nullable=False, comment="deterministic id of the action"),
        sa.Column("author_id", sa.String(), nullable=False, comment="the author"),
        sa.Column(
            "action", sa.String(), nullable=False, comment="what stands after it: none, warn, review, limit or suspend"
        ),
        sa.Column("previous", sa.String(), nullable=False, comment="what stood before"),
        sa.Column("acted_at", schema.Moment(timezone=True), nullable=False, comment="when it was written"),
        sa.Column("sequence", sa.BigInteger(), nullable=False, comment="place of the cause on moderation.strikes"),
        sa.Column("weight", sa.BigInteger(), nullable=False, comment="what all strikes that count weigh together"),
        sa.Column("rule", sa.Text(), nullable=True, comment="name of the threshold that is passed"),
        sa.Column("strike_id", sa.Text(), nullable=True, comment="the strike that is the cause"),
        sa.Column(
            "verdict_id",
            sa.Text(),
            nullable=True,
            comment="the verdict that this strike follows; null where the item was erased",
        ),
        sa.Column(
            "content_id",
            sa.Text(),
            nullable=True,
            comment="the item that this strike is about; null where it was erased",
        ),
        sa.Column("by", sa.Text(), nullable=True, comment="the person who decided or forgave"),
        sa.Column("why", sa.Text(), nullable=True, comment="that person's reason"),
        sa.Column(
            "statement",
            sa.Text(),
            nullable=True,
            comment="the statement of reasons that the author got, if the action restricts the account",
        ),
        sa.Column(
            "ends_statement", sa.Text(), nullable=True, comment="statement_id of the statement that it withdraws"
        ),
        sa.PrimaryKeyConstraint("action_id", name=op.f("pk_author_actions")),
        comment="moderation.author-actions: what was done about authors.",
    )
    op.create_index(
        op.f("ix_author_actions_author_id_acted_at"), "author_actions", ["author_id", "acted_at"], unique=False
    )
    op.create_index(op.f("ix_author_actions_content_id"), "author_actions", ["content_id"], unique=False)
    op.create_table(
        "author_decisions",
        sa.Column("decision_id", sa.String(), nullable=False, comment="of the request that wrote it"),
        sa.Column("author_id", sa.String(), nullable=False, comment="the author"),
        sa.Column("state", sa.String(), nullable=False, comment="decided, or undecided: the decision was taken back"),
        sa.Column(
            "action",
            sa.Text(),
            nullable=True,
            comment="none, warn, review, limit or suspend; null where a decision was taken back",
        ),
        sa.Column("at", schema.Moment(timezone=True), nullable=False, comment="when"),
        sa.Column("by", sa.Text(), nullable=True, comment="the person"),
        sa.Column("why", sa.Text(), nullable=True, comment="that person's reason"),
        sa.PrimaryKeyConstraint("decision_id", name=op.f("pk_author_decisions")),
        comment="moderation.strikes: what people decided about authors.",
    )
    op.create_index(op.f("ix_author_decisions_author_id_at"), "author_decisions", ["author_id", "at"], unique=False)
    op.create_table(
        "author_standings",
        sa.Column("author_id", sa.String(), nullable=False, comment="the author"),
        sa.Column("action", sa.String(), nullable=False, comment="what stands: none, warn, review, limit or suspend"),
        sa.Column(
            "rule",
            sa.Text(),
            nullable=True,
            comment="name of the threshold that is passed; null where a person decided",
        ),
        sa.Column("weight", sa.BigInteger(), nullable=False, comment="what the strikes that count weigh together"),
        sa.Column("since", schema.Moment(timezone=True), nullable=False, comment="when that action was written"),
        sa.Column(
            "strikes",
            sa.JSON(none_as_null=True),
            nullable=False,
            comment="the strikes that have not expired, without their items",
        ),
        sa.Column("decision", sa.Text(), nullable=True, comment="what a person decided; null where nobody did"),
        sa.Column("decision_id", sa.Text(), nullable=True, comment="decision_id of that decision"),
        sa.Column("decided_at", schema.Moment(timezone=True), nullable=True, comment="when"),
        sa.Column("decided_by", sa.Text(), nullable=True, comment="the person"),
        sa.Column("decided_why", sa.Text(), nullable=True, comment="that person's reason"),
        sa.Column(
            "followed",
            sa.JSON(none_as_null=True),
            nullable=False,
            comment="ids of the last decisions that the ledger followed",
        ),
        sa.PrimaryKeyConstraint("author_id", name=op.f("pk_author_standings")),
        comment="moderation.author-standing: what stands on each author.",
    )
    op.create_index(
        "ix_author_standings_review",
        "author_standings",
        ["since", "author_id"],
        unique=False,
        sqlite_where=sa.text("action = 'review'"),
        postgresql_where=sa.text("action = 'review'"),
    )
    op.create_table(
        "forgotten_authors",
        sa.Column(
            "author_id", sa.String(), nullable=False, comment="the author of whom a person ended all that is known"
        ),
        sa.Column(
            "forgotten_at",
            schema.Moment(timezone=True),
            nullable=False,
            comment="what was written about the author until then is gone",
        ),
        sa.Column("sequence", sa.BigInteger(), nullable=False, comment="place of that record on moderation.strikes"),
        sa.Column(
            "overwritten", sa.Boolean(), nullable=False, comment="whether the files of the database hold it no more"
        ),
        sa.PrimaryKeyConstraint("author_id", name=op.f("pk_forgotten_authors")),
        comment="moderation.strikes: late records about these authors are left out.",
    )
    op.create_table(
        "strikes",
        sa.Column("strike_id", sa.String(), nullable=False, comment="deterministic: of item, text and policy"),
        sa.Column("author_id", sa.String(), nullable=False, comment="the producer's id of the author"),
        sa.Column(
            "state", sa.String(), nullable=False, comment="given, taken-back or forgiven, as the last record says"
        ),
        sa.Column(
            "at",
            schema.Moment(timezone=True),
            nullable=False,
            comment="when it was given, as the last record that gives it says",
        ),
        sa.Column(
            "expires_at",
            schema.Moment(timezone=True),
            nullable=True,
            comment="when it no longer counts, as that record says; null where none is known",
        ),
        sa.Column("content_id", sa.Text(), nullable=True, comment="the item; null where it was erased"),
        sa.Column(
            "verdict_id",
            sa.Text(),
            nullable=True,
            comment="the verdict that it follows; null where the item was erased",
        ),
        sa.Column(
            "action_id", sa.Text(), nullable=True, comment="the action that it follows; null where the item was erased"
        ),
        sa.Column("policy_id", sa.Text(), nullable=True, comment="the policy that the text violates"),
        sa.Column("rule_ids", sa.JSON(none_as_null=True), nullable=False, comment="the policy's rules that were cited"),
        sa.Column("severity", sa.Text(), nullable=True, comment="the highest severity of these rules"),
        sa.Column("rule", sa.Text(), nullable=True, comment="name of the enforcement rule for strikes that matched"),
        sa.Column("weight", sa.BigInteger(), nullable=False, comment="what the strike weighs"),
        sa.Column(
            "ended_at", schema.Moment(timezone=True), nullable=True, comment="when it was taken back or forgiven"
        ),
        sa.Column("by", sa.Text(), nullable=True, comment="the person who forgave it"),
        sa.Column("why", sa.Text(), nullable=True, comment="that person's reason"),
        sa.PrimaryKeyConstraint("strike_id", name=op.f("pk_strikes")),
        comment="moderation.strikes: strikes against authors, each as its last record says.",
    )
    op.create_index(op.f("ix_strikes_author_id_at"), "strikes", ["author_id", "at"], unique=False)
    op.create_index(op.f("ix_strikes_content_id"), "strikes", ["content_id"], unique=False)
    for table in ("strikes", "author_decisions", "author_actions", "author_standings", "forgotten_authors"):
        native.keep_no_statistics(op.get_bind(), table)
