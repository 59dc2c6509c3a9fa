"""Columns for queries: folded names of persons, and a flag for instances whose file is missing.

Names are folded by the version that runs the migration. If folding ever changes, a later migration must fold the names
again.
"""

import sqlalchemy as sa
from alembic import op

from node.dicom.names import folded_groups

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

GROUPS = ("alphabetic", "ideographic", "phonetic")
NAMES = {"patients": "patient_name", "studies": "referring_physician_name"}


def upgrade() -> None:
    for table, name in NAMES.items():
        for group in GROUPS:
            op.add_column(table, sa.Column(f"{name}_{group}", sa.String(length=324), nullable=True))
        _fold(table, name)
    for group in GROUPS:
        op.create_index(f"ix_patients_patient_name_{group}", "patients", [f"patient_name_{group}"], unique=False)
    op.execute("CREATE INDEX ix_images_series_id_missing ON images (series_id) WHERE file_missing")


def _fold(table: str, name: str) -> None:
    connection = op.get_bind()
    rows = connection.execute(sa.text(f"SELECT id, {name} FROM {table} WHERE {name} IS NOT NULL")).all()
    columns = ", ".join(f"{name}_{group} = :{group}" for group in GROUPS)
    if rows:
        connection.execute(
            sa.text(f"UPDATE {table} SET {columns} WHERE id = :id"),
            [{"id": key, **dict(zip(GROUPS, folded_groups(value), strict=True))} for key, value in rows],
        )


def downgrade() -> None:
    op.drop_index("ix_images_series_id_missing", table_name="images")
    for group in GROUPS:
        op.drop_index(f"ix_patients_patient_name_{group}", table_name="patients")
    for table, name in NAMES.items():
        for group in GROUPS:
            op.drop_column(table, f"{name}_{group}")
