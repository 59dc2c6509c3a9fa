"""What the node sends, retrieves and has hooks do, as workitems."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

COLUMNS = {
    "work": 16,
    "work_of": 130,
    "work_key": 36,
    "study_instance_uid": 64,
    "series_instance_uid": 64,
    "cancelled_by": 64,
}
UNDER_CANCELLATION = sa.text("cancelled_by IS NOT NULL AND ended_at IS NULL")


def upgrade() -> None:
    for name, length in COLUMNS.items():
        op.add_column("workitems", sa.Column(name, sa.String(length=length), nullable=True))
    op.create_index("ix_workitems_work_key_work_of", "workitems", ["work_key", "work_of"], unique=False)
    op.create_index(
        "ix_workitems_under_cancellation",
        "workitems",
        ["work_of"],
        unique=False,
        sqlite_where=UNDER_CANCELLATION,
        postgresql_where=UNDER_CANCELLATION,
    )


def downgrade() -> None:
    for name in ("ix_workitems_under_cancellation", "ix_workitems_work_key_work_of"):
        op.drop_index(name, table_name="workitems")
    for name in reversed(COLUMNS):
        op.drop_column("workitems", name)
