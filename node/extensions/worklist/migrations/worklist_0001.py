"""The first tables of the extension."""

import sqlalchemy as sa
from alembic import op

revision = "worklist_0001"
down_revision = None
branch_labels = ("worklist",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "scheduled_steps",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("source_key", sa.Text()),
        sa.Column("source_version", sa.String(64)),
        sa.Column("patient_id", sa.Text(), index=True),
        sa.Column("patient_name", sa.Text()),
        sa.Column("accession_number", sa.Text(), index=True),
        sa.Column("study_instance_uid", sa.String(64)),
        sa.Column("requested_procedure_id", sa.Text()),
        sa.Column("scheduled_procedure_step_id", sa.Text()),
        sa.Column("modality", sa.Text()),
        sa.Column("station_ae_title", sa.Text()),
        sa.Column("start_date", sa.Date()),
        sa.Column("start_time", sa.Time()),
        sa.Column("description", sa.Text()),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("identified", sa.JSON()),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("changed_at", sa.DateTime(), nullable=False),
        sa.UniqueConstraint("source", "source_key"),
        sa.Index("ix_scheduled_steps_start_date", "start_date"),
        sa.Index("ix_scheduled_steps_study_instance_uid", "study_instance_uid"),
    )
