"""The first tables of the extension."""

import sqlalchemy as sa
from alembic import op

revision = "hello_0001"
down_revision = None
branch_labels = ("hello",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "hello_greetings",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("study_id", sa.Integer(), sa.ForeignKey("studies.id", ondelete="CASCADE"), nullable=False),
        sa.Column("greeting", sa.Text(), nullable=False),
        sa.Column("greeted_at", sa.DateTime(), nullable=False),
        sa.UniqueConstraint("study_id"),
    )


def downgrade() -> None:
    op.drop_table("hello_greetings")
