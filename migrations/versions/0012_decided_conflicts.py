"""Keep the decision about a conflict; those that `overwrite_policy = "replace"` left behind are decided already."""

import sqlalchemy as sa
from alembic import op

from node.index.engine.view_changes import change_view

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

COLUMNS_OF_DECISION = {"decision": sa.String(16), "decided_at": sa.DateTime(), "decided_by": sa.String(64)}
COLUMNS = ("calling_ae_title, found_at", "calling_ae_title, found_at, decision, decided_at, decided_by")


def upgrade() -> None:
    for name, kind in COLUMNS_OF_DECISION.items():
        op.add_column("conflicts", sa.Column(name, kind, nullable=True))
    op.execute(
        "UPDATE conflicts SET decision = 'accepted', decided_at = found_at, decided_by = '[storage] overwrite_policy' "
        "WHERE kind = 'instance-replaced'"
    )
    change_view(op.get_bind(), "v_conflicts", [COLUMNS])


def downgrade() -> None:
    change_view(op.get_bind(), "v_conflicts", [COLUMNS[::-1]])
    for column in COLUMNS_OF_DECISION:
        op.execute(f"ALTER TABLE conflicts DROP COLUMN {column}")
