"""Where the records of what stands are: a repartition moves them, and leaves tombstones where they were."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "author_standings",
        sa.Column("partition", sa.Integer(), nullable=True, comment="of the record that says so"),
    )
    op.add_column(
        "author_standings",
        sa.Column(
            "partitions",
            sa.Integer(),
            nullable=True,
            comment="that the topic had then: a record of fewer is outdated",
        ),
    )
    op.add_column(
        "items",
        sa.Column(
            "standing_partition",
            sa.Integer(),
            nullable=True,
            comment="of the record of moderation.standing that says so",
        ),
    )
    op.add_column(
        "items",
        sa.Column(
            "standing_partitions",
            sa.Integer(),
            nullable=True,
            comment="that moderation.standing had then: a record of fewer is outdated",
        ),
    )
