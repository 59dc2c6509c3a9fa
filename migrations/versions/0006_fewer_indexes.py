"""Drop two indexes of images: no query used them, and every insertion paid for them."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_images_sop_class_uid", table_name="images")
    op.drop_index("ix_images_received_at", table_name="images")


def downgrade() -> None:
    op.create_index("ix_images_received_at", "images", ["received_at"])
    op.create_index("ix_images_sop_class_uid", "images", ["sop_class_uid"])
