"""Storage commitment: the requests, and whether their results were reported."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

VIEW = """
    CREATE VIEW v_commitments AS
    SELECT transaction_uid, calling_ae_title, peer, instances, state, attempts, failed, detail, requested_at, due_at,
           ended_at
    FROM commitments
"""


def upgrade() -> None:
    op.create_table(
        "commitments",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column("peer", sa.String(length=64), nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("references", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("requested_at", sa.DateTime(), nullable=False),
        sa.Column("due_at", sa.DateTime(), nullable=True),
        sa.Column("ended_at", sa.DateTime(), nullable=True),
        sa.CheckConstraint("state IN ('owed', 'reported', 'given-up')", name="ck_commitments_state"),
        sa.PrimaryKeyConstraint("id", name="pk_commitments"),
        sa.UniqueConstraint(
            "transaction_uid", "calling_ae_title", name="uq_commitments_transaction_uid_calling_ae_title"
        ),
    )
    op.create_index("ix_commitments_state_due_at", "commitments", ["state", "due_at"], unique=False)
    op.execute(VIEW)


def downgrade() -> None:
    op.execute("DROP VIEW v_commitments")
    op.drop_index("ix_commitments_state_due_at", table_name="commitments")
    op.drop_table("commitments")
