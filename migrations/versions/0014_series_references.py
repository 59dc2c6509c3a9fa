"""Series to which other series refer, so that a structure set is converted again when its images change."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "series_references",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("series_id", sa.Integer(), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name="fk_series_references_series_id_series"),
        sa.PrimaryKeyConstraint("id", name="pk_series_references"),
    )
    for column in ("series_id", "series_instance_uid"):
        op.create_index(f"ix_series_references_{column}", "series_references", [column])


def downgrade() -> None:
    op.drop_table("series_references")
