"""Several hosts on one object store: whose disk has an instance before the store, and what is to go from which disk."""

import sqlalchemy as sa
from alembic import op

from node.index.engine.view_changes import change_view

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

IMAGES = [("i.place,", "i.place, i.spool_host,")]


def upgrade() -> None:
    op.add_column("images", sa.Column("spool_host", sa.String(length=63), nullable=True))
    op.add_column("conflicts", sa.Column("host", sa.String(length=63), nullable=True))
    op.create_index(
        "ix_images_series_id_spool_host",
        "images",
        ["series_id", "spool_host"],
        unique=False,
        sqlite_where=sa.text("spool_host IS NOT NULL"),
        postgresql_where=sa.text("spool_host IS NOT NULL"),
    )
    op.create_table(
        "host_removals",
        sa.Column("host", sa.String(length=63), nullable=False),
        sa.Column("path", sa.String(length=200), nullable=False),
        sa.Column("ordered_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("host", "path", name="pk_host_removals"),
    )
    change_view(op.get_bind(), "v_images", IMAGES)


def downgrade() -> None:
    change_view(op.get_bind(), "v_images", [(new, old) for old, new in IMAGES])
    op.drop_table("host_removals")
    op.drop_index("ix_images_series_id_spool_host", table_name="images")
    op.drop_column("conflicts", "host")
    op.drop_column("images", "spool_host")
