"""Golden items that wait in the queue, draws that nobody can compute, and drafts of policies."""

import secrets
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

from safeguard_streams.console import native, schema

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Golden items were handed out to one person each. Those that nobody judged end, and the labels of others stay.
    op.execute("DELETE FROM checks WHERE expected IS NOT NULL")
    for name in ("text", "language", "expected", "rule"):
        op.drop_column("checks", name)
    if op.get_bind().dialect.name == "postgresql":  # SQLite keeps no comments
        op.alter_column(
            "checks",
            "content_id",
            comment="the item, about which a colleague decided",
            existing_nullable=False,
        )
        op.create_table_comment(
            "checks",
            "Second looks: items that do not wait, and that somebody gets from the queue. Nothing follows.",
        )
    op.create_table(
        "golden_items",
        sa.Column(
            "content_id", sa.String(), nullable=False, comment="under which it waits in the queue; it looks like others"
        ),
        sa.Column("policy_id", sa.String(), nullable=False),
        sa.Column("content_sha256", sa.String(), nullable=False, comment="of its text"),
        sa.Column("text", sa.Text(), nullable=True, comment="of the policy's golden set; null once it is judged"),
        sa.Column("expected", sa.String(), nullable=False, comment="what the golden set says: violates or safe"),
        sa.Column("rule", sa.String(), nullable=False, comment="the rule that the golden set names"),
        sa.Column(
            "language",
            sa.Text(),
            nullable=True,
            comment="as the queue shows it: that of the item that it resembles",
        ),
        sa.Column("since", schema.Moment(timezone=True), nullable=False, comment="when it began to wait"),
        sa.Column(
            "text_expires_at",
            schema.Moment(timezone=True),
            nullable=False,
            comment="when the projector removes the text from `items`",
        ),
        sa.Column(
            "waits",
            sa.JSON(none_as_null=True),
            nullable=False,
            comment="cause, action, effective, rule and priority of its row in the queue",
        ),
        sa.Column("key", sa.Text(), nullable=True, comment="of the form that judged it; null until then"),
        sa.Column("who", sa.Text(), nullable=True, comment="who judged it"),
        sa.PrimaryKeyConstraint("content_id", name=op.f("pk_golden_items")),
        comment="Golden texts that wait in the queue. They have rows in `items` and `review_items` until judged.",
    )
    op.create_index(
        op.f("ix_golden_items_policy_id_content_sha256"), "golden_items", ["policy_id", "content_sha256"], unique=False
    )
    draws = op.create_table(
        "draws",
        sa.Column("name", sa.String(), nullable=False, comment="queue"),
        sa.Column(
            "secret",
            sa.String(),
            nullable=False,
            comment="with which items are drawn, so that nobody can compute a draw",
        ),
        sa.Column(
            "until",
            schema.Moment(timezone=True),
            nullable=False,
            comment="items that began to wait until then had their chance to bring a golden item",
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_draws")),
        comment="What decides by chance. Each database has its own, which needs no backup.",
    )
    row = {"name": "queue", "secret": secrets.token_hex(32), "until": datetime.now(UTC)}
    op.bulk_insert(draws, [row])
    op.create_table(
        "policy_drafts",
        sa.Column("who", sa.String(), nullable=False, comment="whose draft it is"),
        sa.Column("policy_id", sa.String(), nullable=False, comment="the policy"),
        sa.Column("document", sa.Text(), nullable=False, comment="the text as it was last kept"),
        sa.Column(
            "base",
            sa.String(),
            nullable=False,
            comment="names the files in git from which it began; empty without a checkout",
        ),
        sa.Column("version", sa.Text(), nullable=True, comment="that was in force when it began; null where none was"),
        sa.Column("revision", sa.BigInteger(), nullable=True, comment="of that version"),
        sa.Column("saved", sa.BigInteger(), nullable=False, comment="counts how often it was kept"),
        sa.Column("editor", sa.String(), nullable=False, comment="names the page that kept it last"),
        sa.Column("number", sa.BigInteger(), nullable=False, comment="the last change that this page sent"),
        sa.Column("shared", sa.Boolean(), nullable=False, comment="whether other people who edit policies may read it"),
        sa.Column("begun_at", schema.Moment(timezone=True), nullable=False, comment="when it was kept first"),
        sa.Column("saved_at", schema.Moment(timezone=True), nullable=False, comment="when it was kept last"),
        sa.PrimaryKeyConstraint("who", "policy_id", name=op.f("pk_policy_drafts")),
        comment="Texts of policies that somebody edits and has not released.",
    )
    op.create_index(op.f("ix_policy_drafts_policy_id"), "policy_drafts", ["policy_id"], unique=False)
    op.create_index(op.f("ix_policy_drafts_saved_at"), "policy_drafts", ["saved_at"], unique=False)
    for table in ("golden_items", "policy_drafts"):
        native.keep_no_statistics(op.get_bind(), table)
