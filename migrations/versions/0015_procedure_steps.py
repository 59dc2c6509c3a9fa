"""Scheduled and performed procedure steps; the requests of a series, and the offsets of times from UTC, for queries.

Rows of series and instances that are there stay without a value: the migration has no files. `voxelnode db rebuild`
reads the files again.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

COLUMNS = (
    ("studies", "timezone_offset_from_utc", sa.String(16)),
    ("series", "timezone_offset_from_utc", sa.String(16)),
    ("series", "request_attributes", sa.JSON()),
    ("images", "timezone_offset_from_utc", sa.String(16)),
)


def upgrade() -> None:
    for table, column, kind in COLUMNS:
        op.add_column(table, sa.Column(column, kind, nullable=True))
    op.create_table(
        "scheduled_steps",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("source_key", sa.String(length=300), nullable=True),
        sa.Column("source_version", sa.String(length=64), nullable=True),
        sa.Column("patient_id", sa.String(length=64), nullable=True),
        sa.Column("patient_name", sa.String(length=324), nullable=True),
        sa.Column("accession_number", sa.String(length=16), nullable=True),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("requested_procedure_id", sa.String(length=16), nullable=True),
        sa.Column("scheduled_procedure_step_id", sa.String(length=16), nullable=True),
        sa.Column("modality", sa.String(length=16), nullable=True),
        sa.Column("station_ae_title", sa.String(length=16), nullable=True),
        sa.Column("start_date", sa.Date(), nullable=True),
        sa.Column("start_time", sa.Time(), nullable=True),
        sa.Column("description", sa.String(length=64), nullable=True),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("changed_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_scheduled_steps"),
        sa.UniqueConstraint("source", "source_key", name="uq_scheduled_steps_source_source_key"),
    )
    for column in ("start_date", "study_instance_uid", "patient_id", "accession_number"):
        op.create_index(f"ix_scheduled_steps_{column}", "scheduled_steps", [column], unique=False)
    op.create_table(
        "performed_steps",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("patient_id", sa.String(length=64), nullable=True),
        sa.Column("accession_number", sa.String(length=16), nullable=True),
        sa.Column("performed_procedure_step_id", sa.String(length=16), nullable=True),
        sa.Column("modality", sa.String(length=16), nullable=True),
        sa.Column("station_ae_title", sa.String(length=16), nullable=True),
        sa.Column("series", sa.Integer(), nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("changed_at", sa.DateTime(), nullable=False),
        sa.Column("ended_at", sa.DateTime(), nullable=True),
        sa.CheckConstraint("state IN ('IN PROGRESS', 'COMPLETED', 'DISCONTINUED')", name="ck_performed_steps_state"),
        sa.PrimaryKeyConstraint("id", name="pk_performed_steps"),
        sa.UniqueConstraint("sop_instance_uid", name="uq_performed_steps_sop_instance_uid"),
    )
    op.create_index("ix_performed_steps_study_instance_uid", "performed_steps", ["study_instance_uid"], unique=False)
    op.create_table(
        "performed_series",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("performed_step_id", sa.Integer(), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uids", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["performed_step_id"],
            ["performed_steps.id"],
            name="fk_performed_series_performed_step_id_performed_steps",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_performed_series"),
    )
    for column in ("performed_step_id", "series_instance_uid"):
        op.create_index(f"ix_performed_series_{column}", "performed_series", [column], unique=False)


def downgrade() -> None:
    for table in ("performed_series", "performed_steps", "scheduled_steps"):
        op.drop_table(table)
    for table, column, _ in COLUMNS:
        op.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
