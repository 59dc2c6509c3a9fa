"""What the node sends, retrieves and has hooks do, as workitems.

`instances_behind` of v_hooks and v_routes is empty for those that want no messages of single instances, as documented;
`series_behind` of v_routes counts for those what a destination that cannot be reached has not looked at.
"""

import sqlalchemy as sa
from alembic import op

from node.index.engine.view_changes import change_view

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
SERIES_BEHIND = """CASE WHEN h.image_id IS NULL THEN (
                   SELECT count(DISTINCT e.series_instance_uid) FROM events e WHERE e.id > h.event_id
               ) END AS series_behind"""
CHANGES = {
    "v_hooks": (BEHIND, BEHIND_OR_NULL),
    "v_routes": (f"{BEHIND} AS instances_behind,", f"{BEHIND_OR_NULL} AS instances_behind, {SERIES_BEHIND},"),
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
    for view, (old, new) in CHANGES.items():
        change_view(op.get_bind(), view, [(old, new)])


def downgrade() -> None:
    for view, (old, new) in CHANGES.items():
        change_view(op.get_bind(), view, [(new, old)])
    for name in ("ix_workitems_under_cancellation", "ix_workitems_work_key_work_of"):
        op.drop_index(name, table_name="workitems")
    for name in reversed(COLUMNS):
        op.drop_column("workitems", name)
