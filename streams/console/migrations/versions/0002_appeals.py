"""Appeals, and what appellants say."""

import sqlalchemy as sa
from alembic import op

from safeguard_streams.console import native, schema

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":  # SQLite keeps no comments
        op.alter_column(
            "review_items", "cause", comment="undetermined, rule, held, moderator or appealed", existing_nullable=False
        )
    op.create_table(
        "appeals",
        sa.Column("content_id", sa.String(), nullable=False, comment="the item that the appeal is about"),
        sa.Column(
            "appeal_id", sa.String(), nullable=False, comment="the platform's id of the appeal, or one made of it"
        ),
        sa.Column("appellant", sa.String(), nullable=False, comment="author or notifier"),
        sa.Column("state", sa.String(), nullable=False, comment="open, upheld, overturned, moot or refused"),
        sa.Column("opened_at", schema.Moment(timezone=True), nullable=False, comment="when it was made"),
        sa.Column(
            "due_at", schema.Moment(timezone=True), nullable=False, comment="when a person is to have decided it"
        ),
        sa.Column("action", sa.String(), nullable=False, comment="what was in effect when the agent read it"),
        sa.Column("closed_at", schema.Moment(timezone=True), nullable=True, comment="when it ended"),
        sa.Column("by", sa.Text(), nullable=True, comment="the person who decided it"),
        sa.Column("outcome_id", sa.Text(), nullable=True, comment="action_id of the record with its outcome"),
        sa.Column(
            "not_by",
            sa.JSON(none_as_null=True),
            nullable=False,
            comment="who decided about the item before, as names are compared",
        ),
        sa.PrimaryKeyConstraint("content_id", "appeal_id", name=op.f("pk_appeals")),
        comment="Appeals and their outcomes, from moderation.standing.",
    )
    op.create_index(op.f("ix_appeals_state_due_at"), "appeals", ["state", "due_at"], unique=False)
    op.create_table(
        "appeal_statements",
        sa.Column("content_id", sa.String(), nullable=False, comment="the item that the appeal is about"),
        sa.Column(
            "appeal_id", sa.String(), nullable=False, comment="the platform's id of the appeal, or one made of it"
        ),
        sa.Column(
            "reason", sa.Text(), nullable=True, comment="what the appellant says; null where the item was erased"
        ),
        sa.Column(
            "new_context", sa.Text(), nullable=True, comment="what the appellant adds; null where the item was erased"
        ),
        sa.Column("language", sa.Text(), nullable=True, comment="BCP 47 tag of the appeal"),
        sa.Column("received_at", schema.Moment(timezone=True), nullable=False, comment="timestamp of the record"),
        sa.PrimaryKeyConstraint("content_id", "appeal_id", name=op.f("pk_appeal_statements")),
        comment="moderation.appeals: what appellants say.",
    )
    native.keep_no_statistics(op.get_bind(), "appeal_statements")
