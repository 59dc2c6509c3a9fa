"""What each sender of a series asks for, and the quiet times that are learnt from senders."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

SENDERS = """
    CREATE VIEW v_senders AS
        SELECT calling_ae_title, quiet_seconds, json_array_length(gaps) AS series,
               (SELECT max(CAST(value AS FLOAT)) FROM json_each(gaps)) AS longest_gap_seconds, learnt_at
        FROM senders
"""


def upgrade() -> None:
    op.add_column("series", sa.Column("waits", sa.JSON(), nullable=True))
    op.create_table(
        "senders",
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column("gaps", sa.JSON(), nullable=False),
        sa.Column("quiet_seconds", sa.Float(), nullable=True),
        sa.Column("learnt_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("calling_ae_title", name="pk_senders"),
    )
    op.execute(SENDERS)


def downgrade() -> None:
    op.execute("DROP VIEW v_senders")
    op.drop_table("senders")
    op.drop_column("series", "waits")
