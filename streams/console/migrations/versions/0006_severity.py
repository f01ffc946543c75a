"""The severity of what waits for a person, which is a part of its priority."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "review_items",
        sa.Column("severity", sa.Text(), nullable=True, comment="of the violation, where one stands or is held"),
    )
    if op.get_bind().dialect.name == "postgresql":  # SQLite keeps no comments
        op.alter_column(
            "review_items",
            "priority",
            comment="higher first: severity of the action at stake; below 1 more for reports and the violation's "
            "severity",
            existing_nullable=False,
        )
        op.alter_column(
            "golden_items",
            "waits",
            comment="cause, action, effective, rule, severity and priority of its row in the queue",
            existing_nullable=False,
        )
