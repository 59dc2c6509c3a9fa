"""The files of revisions where there is an object store: which of them it has."""

import sqlalchemy as sa
from alembic import op

from node.index.engine.view_changes import change_view

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

PLACE = [("c.converter,", '(SELECT f.place FROM revision_files f WHERE f."key" = v.path) AS place, c.converter,')]


def upgrade() -> None:
    op.create_table(
        "revision_files",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("conversion_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=400), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("place", sa.String(length=8), nullable=True),
        sa.Column("spool_host", sa.String(length=63), nullable=True),
        sa.ForeignKeyConstraint(
            ["conversion_id"], ["conversions.id"], name="fk_revision_files_conversion_id_conversions"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_revision_files"),
        sa.UniqueConstraint("key", name="uq_revision_files_key"),
    )
    op.create_index("ix_revision_files_conversion_id", "revision_files", ["conversion_id"], unique=False)
    op.create_index(
        "ix_revision_files_spooled",
        "revision_files",
        ["key"],
        unique=False,
        sqlite_where=sa.text("place = 'spool'"),
        postgresql_where=sa.text("place = 'spool'"),
    )
    change_view(op.get_bind(), "v_volumes", PLACE)


def downgrade() -> None:
    change_view(op.get_bind(), "v_volumes", [(new, old) for old, new in PLACE])
    op.drop_table("revision_files")
