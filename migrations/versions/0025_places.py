"""The place of an instance where the archive is in an object store, and the objects that are to be removed from it."""

import sqlalchemy as sa
from alembic import op

from node.index.engine.view_changes import change_view

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

COLUMN = [("i.file_missing,", "i.file_missing, i.place,")]


def upgrade() -> None:
    op.add_column("images", sa.Column("place", sa.String(length=8), nullable=True))
    op.create_index(
        "ix_images_spooled",
        "images",
        ["key"],
        unique=False,
        sqlite_where=sa.text("place = 'spool'"),
        postgresql_where=sa.text("place = 'spool'"),
    )
    op.create_table(
        "object_removals",
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("ordered_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_object_removals"),
    )
    change_view(op.get_bind(), "v_images", COLUMN)


def downgrade() -> None:
    change_view(op.get_bind(), "v_images", [(new, old) for old, new in COLUMN])
    op.drop_table("object_removals")
    op.drop_index("ix_images_spooled", table_name="images")
    op.drop_column("images", "place")
