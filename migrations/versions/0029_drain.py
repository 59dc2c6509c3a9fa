"""Hosts that are to stop, and what they have left on their disks."""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

expands = True


def upgrade() -> None:
    op.add_column("hosts", sa.Column("drain", sa.String(length=8), nullable=True))
    op.add_column("hosts", sa.Column("left_behind", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("hosts", "left_behind")
    op.drop_column("hosts", "drain")
