"""Requests over HTTP with an idempotency key, and their answers."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "keyed_requests",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("began_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_keyed_requests"),
        sa.UniqueConstraint("account", "key", name="uq_keyed_requests_account_key"),
    )
    op.create_index("ix_keyed_requests_began_at", "keyed_requests", ["began_at"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_keyed_requests_began_at", table_name="keyed_requests")
    op.drop_table("keyed_requests")
