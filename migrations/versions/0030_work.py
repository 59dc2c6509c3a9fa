"""One ledger of work: retrievals and results of storage commitment are rows of one table."""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

expands = False

VIEW = """
    CREATE VIEW v_commitments AS
    SELECT "key" AS transaction_uid, name AS calling_ae_title, payload ->> 'peer' AS peer,
           CAST(payload ->> 'instances' AS INTEGER) AS instances,
           CASE WHEN outcome IS NULL THEN 'owed' WHEN outcome = 'succeeded' THEN 'reported' ELSE 'given-up' END
               AS state,
           attempts, CAST(payload ->> 'failed' AS INTEGER) AS failed, reason AS detail, happened_at AS requested_at,
           due_at, ended_at
    FROM work WHERE kind = 'commitment'
"""
FORMER_VIEW = """
    CREATE VIEW v_commitments AS
    SELECT transaction_uid, calling_ae_title, peer, instances, state, attempts, failed, detail, requested_at, due_at,
           ended_at
    FROM commitments
"""


def upgrade() -> None:
    op.create_table(
        "work",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=True),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=True),
        sa.Column("happened_at", sa.DateTime(), nullable=False),
        sa.Column("requested_by", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("repeats", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.DateTime(), nullable=True),
        sa.Column("tried_at", sa.DateTime(), nullable=True),
        sa.Column("percent", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("cancelled_by", sa.String(length=64), nullable=True),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("changed_at", sa.DateTime(), nullable=False),
        sa.Column("ended_at", sa.DateTime(), nullable=True),
        sa.CheckConstraint("(state = 'ended') = (outcome IS NOT NULL)", name="ck_work_outcome"),
        sa.PrimaryKeyConstraint("id", name="pk_work"),
        sa.UniqueConstraint("kind", "name", "destination", "key", name="uq_work_kind_name_destination_key"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_work_kind_name_destination_outcome_due_at",
        "work",
        ["kind", "name", "destination", "outcome", "due_at"],
        unique=False,
    )
    op.create_index("ix_work_kind_id", "work", ["kind", "id"], unique=False)
    op.create_index("ix_work_study_instance_uid", "work", ["study_instance_uid"], unique=False)
    op.execute("DROP VIEW v_commitments")
    op.drop_table("commitments")
    op.drop_table("retrievals")
    op.execute(VIEW)


def downgrade() -> None:
    op.execute("DROP VIEW v_commitments")
    op.drop_table("work")
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
    op.execute(FORMER_VIEW)
    op.create_table(
        "retrievals",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("retrieval_id", sa.String(length=32), nullable=False),
        sa.Column("peer", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("announced", sa.Integer(), nullable=True),
        sa.Column("stored", sa.Integer(), nullable=False),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("requested_by", sa.String(length=64), nullable=False),
        sa.Column("cancelled_by", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("changed_at", sa.DateTime(), nullable=False),
        sa.Column("ended_at", sa.DateTime(), nullable=True),
        sa.CheckConstraint(
            "state IN ('waiting', 'running', 'succeeded', 'incomplete', 'failed', 'cancelled')",
            name="ck_retrievals_state",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_retrievals"),
        sa.UniqueConstraint("retrieval_id", name="uq_retrievals_retrieval_id"),
    )
    for column in ("state", "study_instance_uid"):
        op.create_index(f"ix_retrievals_{column}", "retrievals", [column], unique=False)
