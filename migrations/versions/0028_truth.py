"""What each host says of its readiness, and copies of the audit logs of all hosts."""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("hosts", sa.Column("not_ready", sa.JSON(), server_default="{}", nullable=False))
    op.create_table(
        "audit_lines",
        sa.Column("host", sa.String(length=63), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("line", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("host", "number", name="pk_audit_lines"),
    )
    op.create_index("ix_audit_lines_at", "audit_lines", ["at"], unique=False)


def downgrade() -> None:
    op.drop_table("audit_lines")
    op.drop_column("hosts", "not_ready")
