"""Hooks: the progress of each, and the messages that wait or failed."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

VIEWS = {
    "v_hooks": """
        SELECT h.name AS hook,
               (SELECT count(*) FROM images i WHERE i.id > h.image_id) AS instances_behind,
               (SELECT count(*) FROM deliveries d WHERE d.hook = h.name AND d.state = 'waiting') AS waiting,
               (SELECT count(*) FROM deliveries d WHERE d.hook = h.name AND d.state = 'given-up') AS given_up,
               h.delivered, h.delivered_at
        FROM hooks h""",
    "v_deliveries": """
        SELECT message_id, hook, event, study_instance_uid, series_instance_uid, sop_instance_uid, revision, detail,
               happened_at, state, attempts, due_at, reason, output, last_at
        FROM deliveries""",
}


def upgrade() -> None:
    op.create_table(
        "hooks",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("event_id", sa.Integer(), nullable=False),
        sa.Column("image_id", sa.Integer(), nullable=True),
        sa.Column("rewinds", sa.Integer(), nullable=False),
        sa.Column("delivered", sa.Integer(), nullable=False),
        sa.Column("delivered_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_hooks"),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("hook", sa.String(length=64), nullable=False),
        sa.Column("message_id", sa.String(length=36), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("happened_at", sa.DateTime(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.DateTime(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("output", sa.Text(), nullable=True),
        sa.Column("last_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
        sa.UniqueConstraint("hook", "message_id", name="uq_deliveries_hook_message_id"),
    )
    op.create_index("ix_deliveries_hook_state_due_at", "deliveries", ["hook", "state", "due_at"], unique=False)
    op.create_index("ix_deliveries_hook_study_instance_uid", "deliveries", ["hook", "study_instance_uid"], unique=False)
    for name, query in VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {query}")


def downgrade() -> None:
    for name in VIEWS:
        op.execute(f"DROP VIEW {name}")
    op.drop_index("ix_deliveries_hook_study_instance_uid", table_name="deliveries")
    op.drop_index("ix_deliveries_hook_state_due_at", table_name="deliveries")
    op.drop_table("deliveries")
    op.drop_table("hooks")
