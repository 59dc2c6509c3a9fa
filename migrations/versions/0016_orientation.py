"""Store the orientation of a volume's slices; that of earlier conversions is unknown."""

import sqlalchemy as sa
from alembic import op

from node.index.engine.view_changes import change_view

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

COLUMNS = ("v.geometry,", "v.geometry, v.orientation,")


def upgrade() -> None:
    op.add_column("volumes", sa.Column("orientation", sa.String(8), nullable=True))
    change_view(op.get_bind(), "v_volumes", [COLUMNS])


def downgrade() -> None:
    change_view(op.get_bind(), "v_volumes", [COLUMNS[::-1]])
    op.execute("ALTER TABLE volumes DROP COLUMN orientation")
