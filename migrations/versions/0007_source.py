"""Rename the origin of an instance from `door` to `source`."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

IMAGES = """
    CREATE VIEW v_images AS
        SELECT i.sop_instance_uid, se.series_instance_uid, st.study_instance_uid, i.sop_class_uid,
               i.transfer_syntax_uid, i.instance_number, i.number_of_frames, i."rows", i."columns",
               i.bytes, i.sha256, i.data_set_offset,
               (SELECT value FROM about WHERE "key" = 'root') || '/' || i."key" AS path,
               i.file_missing, i.{name}, i.calling_ae_title, i.called_ae_title, i.peer, i.received_at
        FROM images i JOIN series se ON se.id = i.series_id JOIN studies st ON st.id = se.study_id
"""


def upgrade() -> None:
    _rename("door", "source")


def downgrade() -> None:
    _rename("source", "door")


def _rename(old: str, new: str) -> None:
    op.execute("DROP VIEW v_images")
    op.execute(f"ALTER TABLE images RENAME COLUMN {old} TO {new}")
    op.execute(IMAGES.format(name=new))
