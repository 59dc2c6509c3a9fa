"""What the node sends, retrieves and has hooks do, as workitems.

`instances_behind` of v_hooks and v_routes is empty for those that want no messages of single instances, as documented.
"""

import sqlalchemy as sa
from alembic import op

from node.index.view_changes import change_view

revision = "0024"
down_revision = "0023"
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
BEHIND = "(SELECT count(*) FROM images i WHERE i.id > h.image_id)"
BEHIND_OR_NULL = f"CASE WHEN h.image_id IS NOT NULL THEN {BEHIND} END"
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
    for view in ("v_hooks", "v_routes"):
        change_view(op.get_bind(), view, [(BEHIND, BEHIND_OR_NULL)])


def downgrade() -> None:
    for view in ("v_hooks", "v_routes"):
        change_view(op.get_bind(), view, [(BEHIND_OR_NULL, BEHIND)])
    for name in ("ix_workitems_under_cancellation", "ix_workitems_work_key_work_of"):
        op.drop_index(name, table_name="workitems")
    for name in reversed(COLUMNS):
        op.drop_column("workitems", name)
