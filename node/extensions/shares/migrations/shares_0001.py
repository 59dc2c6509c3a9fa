"""The first tables of the extension."""

import sqlalchemy as sa
from alembic import op

revision = "shares_0001"
down_revision = None
branch_labels = ("shares",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "shares",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("study_instance_uid", sa.String(64), nullable=False, index=True),
        sa.Column("series_instance_uid", sa.String(64), nullable=False),
        sa.Column("may_download", sa.Boolean(), nullable=False),
        sa.Column("passphrase_hash", sa.String(255)),
        sa.Column("deidentification", sa.String(64)),
        sa.Column("made_by", sa.String(64), nullable=False),
        sa.Column("made_at", sa.DateTime(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("used_at", sa.DateTime()),
    )
