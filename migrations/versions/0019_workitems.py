"""Workitems that clients create, their reports, and who is subscribed to them."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "workitems",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=True),
        sa.Column("patient_id", sa.String(length=64), nullable=True),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("ended_at", sa.DateTime(), nullable=True),
        sa.CheckConstraint("state IN ('SCHEDULED', 'IN PROGRESS', 'COMPLETED', 'CANCELED')", name="ck_workitems_state"),
        sa.PrimaryKeyConstraint("id", name="pk_workitems"),
        sa.UniqueConstraint("sop_instance_uid", name="uq_workitems_sop_instance_uid"),
        sqlite_autoincrement=True,
    )
    for column in ("state", "patient_id"):
        op.create_index(f"ix_workitems_{column}", "workitems", [column], unique=False)
    op.create_table(
        "workitem_reports",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("workitem_id", sa.Integer(), nullable=False),
        sa.Column("event_type", sa.Integer(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workitem_id"],
            ["workitems.id"],
            name="fk_workitem_reports_workitem_id_workitems",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_workitem_reports"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_workitem_reports_workitem_id", "workitem_reports", ["workitem_id"], unique=False)
    op.create_table(
        "workitem_subscribers",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("ae_title", sa.String(length=16), nullable=False),
        sa.Column("subscriptions", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workitem_subscribers"),
        sa.UniqueConstraint("account", "ae_title", name="uq_workitem_subscribers_account_ae_title"),
    )
    op.create_table(
        "workitem_locks",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("workitem_id", sa.Integer(), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("ae_title", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(
            ["workitem_id"],
            ["workitems.id"],
            name="fk_workitem_locks_workitem_id_workitems",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_workitem_locks"),
        sa.UniqueConstraint(
            "workitem_id", "account", "ae_title", name="uq_workitem_locks_workitem_id_account_ae_title"
        ),
    )


def downgrade() -> None:
    for table in ("workitem_locks", "workitem_subscribers", "workitem_reports", "workitems"):
        op.drop_table(table)
