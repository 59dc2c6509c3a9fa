"""Keep the decision about a conflict; those that `overwrite_policy = "replace"` left behind are decided already."""

from alembic import op

from node.index.view_changes import change_view

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

COLUMNS = ("calling_ae_title, found_at", "calling_ae_title, found_at, decision, decided_at, decided_by")


def upgrade() -> None:
    for column in ("decision VARCHAR(16)", "decided_at DATETIME", "decided_by VARCHAR(64)"):
        op.execute(f"ALTER TABLE conflicts ADD COLUMN {column}")
    op.execute(
        "UPDATE conflicts SET decision = 'accepted', decided_at = found_at, decided_by = '[storage] overwrite_policy' "
        "WHERE kind = 'instance-replaced'"
    )
    change_view(op.get_bind(), "v_conflicts", [COLUMNS])


def downgrade() -> None:
    change_view(op.get_bind(), "v_conflicts", [COLUMNS[::-1]])
    for column in ("decision", "decided_at", "decided_by"):
        op.execute(f"ALTER TABLE conflicts DROP COLUMN {column}")
