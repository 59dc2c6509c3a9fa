"""Hosts that share one index, what each of them has claimed, and what only one of them does at a time."""

import sqlalchemy as sa
from alembic import op

from node.index.engine.backend import backend_of

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "hosts",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("roles", sa.JSON(), nullable=False),
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.Column("subscribers", sa.JSON(), nullable=False),
        sa.Column("is_behind", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("started_at", sa.DateTime(), nullable=False),
        sa.Column("seen_at", sa.DateTime(), nullable=False),
        sa.Column("lease_until", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_hosts"),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=160), nullable=False),
        sa.Column("host", sa.String(length=63), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )
    op.add_column("series", sa.Column("claimed_by", sa.String(length=63), nullable=True))
    connection = op.get_bind()
    backend_of(connection).order_numbers(connection, ("events", "images", "series", "workitems", "workitem_reports"))


def downgrade() -> None:
    op.drop_column("series", "claimed_by")
    op.drop_table("leases")
    op.drop_table("hosts")
