"""The four levels, the ledger of conversions, the events of series, and the views.

The views are a public interface (docs/data.md). Their paths are absolute; paths in tables are relative to
`about.root`.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


VIEWS = {
    "v_patients": """
        SELECT p.id, p.patient_id, p.issuer_of_patient_id, p.patient_name, p.patient_birth_date, p.patient_sex,
               (SELECT count(*) FROM studies st WHERE st.patient_id = p.id) AS studies, p.merged_into
        FROM patients p""",
    "v_studies": """
        SELECT st.study_instance_uid, p.patient_id, p.patient_name, p.patient_birth_date, p.patient_sex,
               st.study_date, st.study_time, st.accession_number, st.study_id, st.study_description,
               st.referring_physician_name,
               (SELECT count(*) FROM series se WHERE se.study_id = st.id) AS series,
               (SELECT count(*) FROM images i JOIN series se ON se.id = i.series_id WHERE se.study_id = st.id)
                   AS instances,
               (SELECT max(se.last_received_at) FROM series se WHERE se.study_id = st.id) AS last_received_at,
               CASE WHEN st.closed_at IS NULL AND NOT EXISTS (
                   SELECT 1 FROM series se WHERE se.study_id = st.id AND se.state IN ('receiving', 'converting')
               ) THEN st.quiet_at END AS quiet_at
        FROM studies st JOIN patients p ON p.id = st.patient_id""",
    "v_series": """
        SELECT se.series_instance_uid, st.study_instance_uid, se.modality, se.series_number, se.series_description,
               se.body_part_examined, se.protocol_name, se.manufacturer, se.manufacturer_model_name,
               se.series_date, se.series_time,
               se.state, se.verdict, se.verdict_rule, se.verdict_reason, se.expected_instances, se.expected_source,
               se.missing_instances,
               (SELECT count(*) FROM images i WHERE i.series_id = se.id) AS instances,
               se.revision, se.open_since, se.last_received_at, se.due_at, se.attempts, se.error
        FROM series se JOIN studies st ON st.id = se.study_id""",
    "v_images": """
        SELECT i.sop_instance_uid, se.series_instance_uid, st.study_instance_uid, i.sop_class_uid,
               i.transfer_syntax_uid, i.instance_number, i.number_of_frames, i."rows", i."columns",
               i.bytes, i.sha256, i.data_set_offset,
               (SELECT value FROM about WHERE "key" = 'root') || '/' || i."key" AS path,
               i.file_missing, i.door, i.calling_ae_title, i.called_ae_title, i.peer, i.received_at
        FROM images i JOIN series se ON se.id = i.series_id JOIN studies st ON st.id = se.study_id""",
    "v_volumes": """
        SELECT se.series_instance_uid, st.study_instance_uid, c.revision, c.superseded, v.stack, v.suffix, v.kind,
               v.format, (SELECT value FROM about WHERE "key" = 'root') || '/' || v.path AS path,
               v.shape, v.spacing_mm, v.dtype, v.geometry, v.instances, v.warnings, v.bytes, v.sha256, c.converter,
               c.created_at, c.files_removed_at
        FROM volumes v JOIN conversions c ON c.id = v.conversion_id
        JOIN series se ON se.id = c.series_id JOIN studies st ON st.id = se.study_id""",
    "v_failures": """
        SELECT se.series_instance_uid, st.study_instance_uid, f.revision, f.stack, f.reason, f.detail, f.failed_at
        FROM failures f JOIN series se ON se.id = f.series_id JOIN studies st ON st.id = se.study_id""",
    "v_sources": """
        SELECT se.series_instance_uid, c.revision, s.stack, s.sop_instance_uid, s.sha256, s.frames
        FROM volume_sources s JOIN conversions c ON c.id = s.conversion_id JOIN series se ON se.id = c.series_id""",
    "v_exclusions": """
        SELECT se.series_instance_uid, c.revision, x.sop_instance_uid, x.frames, x.reason, x.detail
        FROM exclusions x JOIN conversions c ON c.id = x.conversion_id JOIN series se ON se.id = c.series_id""",
    "v_conflicts": """
        SELECT id, kind, study_instance_uid, series_instance_uid, sop_instance_uid, detail,
               (SELECT value FROM about WHERE "key" = 'root') || '/' || conflicts."key" AS path, sha256,
               calling_ae_title, found_at
        FROM conflicts""",
    "v_events": """
        SELECT id, kind, study_instance_uid, series_instance_uid, sop_instance_uid, revision, detail, happened_at
        FROM events""",
    "v_rejections": """
        SELECT what, rule, peer, calling_ae_title, called_ae_title, offered, reason, remedy, "count", first_at, last_at
        FROM rejections""",
    "v_deletions": """
        SELECT level, uid, reason, ordered_at, finished_at FROM tombstones""",
}


def upgrade() -> None:
    op.create_table(
        "about",
        sa.Column("key", sa.String(length=32), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_about"),
    )
    op.create_table(
        "conflicts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=True),
        sa.Column("found_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_conflicts"),
    )
    op.create_index("ix_conflicts_key", "conflicts", ["key"], unique=False)
    op.create_index("ix_conflicts_sop_instance_uid", "conflicts", ["sop_instance_uid"], unique=False)
    op.create_index("ix_conflicts_study_instance_uid", "conflicts", ["study_instance_uid"], unique=False)
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("happened_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
    op.create_index("ix_events_happened_at", "events", ["happened_at"], unique=False)
    op.create_index("ix_events_kind", "events", ["kind"], unique=False)
    op.create_index("ix_events_series_instance_uid", "events", ["series_instance_uid"], unique=False)
    op.create_table(
        "patients",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("identity", sa.String(length=200), nullable=False),
        sa.Column("patient_id", sa.String(length=64), nullable=True),
        sa.Column("issuer_of_patient_id", sa.String(length=64), nullable=True),
        sa.Column("patient_name", sa.String(length=324), nullable=True),
        sa.Column("patient_birth_date", sa.Date(), nullable=True),
        sa.Column("patient_birth_time", sa.Time(), nullable=True),
        sa.Column("patient_sex", sa.String(length=16), nullable=True),
        sa.Column("merged_into", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["merged_into"], ["patients.id"], name="fk_patients_merged_into_patients"),
        sa.PrimaryKeyConstraint("id", name="pk_patients"),
        sa.UniqueConstraint("identity", name="uq_patients_identity"),
    )
    op.create_index("ix_patients_merged_into", "patients", ["merged_into"], unique=False)
    op.create_index("ix_patients_patient_id", "patients", ["patient_id"], unique=False)
    op.create_index("ix_patients_patient_name", "patients", ["patient_name"], unique=False)
    op.create_table(
        "rejections",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("what", sa.String(length=16), nullable=False),
        sa.Column("rule", sa.String(length=64), nullable=False),
        sa.Column("peer", sa.String(length=64), nullable=False),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column("called_ae_title", sa.String(length=16), nullable=False),
        sa.Column("offered", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("remedy", sa.Text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("first_at", sa.DateTime(), nullable=False),
        sa.Column("last_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_rejections"),
    )
    op.create_index("ix_rejections_last_at", "rejections", ["last_at"], unique=False)
    op.create_index("ix_rejections_rule", "rejections", ["rule"], unique=False)
    op.create_table(
        "tombstones",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("level", sa.String(length=16), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("paths", sa.JSON(), nullable=False),
        sa.Column("ordered_at", sa.DateTime(), nullable=False),
        sa.Column("finished_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_tombstones"),
    )
    op.create_index("ix_tombstones_uid", "tombstones", ["uid"], unique=False)
    op.create_table(
        "studies",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("patient_id", sa.Integer(), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("study_date", sa.Date(), nullable=True),
        sa.Column("study_time", sa.Time(), nullable=True),
        sa.Column("accession_number", sa.String(length=16), nullable=True),
        sa.Column("study_id", sa.String(length=16), nullable=True),
        sa.Column("study_description", sa.String(length=64), nullable=True),
        sa.Column("referring_physician_name", sa.String(length=324), nullable=True),
        sa.Column("patient_age", sa.String(length=4), nullable=True),
        sa.Column("closed_at", sa.DateTime(), nullable=True),
        sa.Column("quiet_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(["patient_id"], ["patients.id"], name="fk_studies_patient_id_patients"),
        sa.PrimaryKeyConstraint("id", name="pk_studies"),
        sa.UniqueConstraint("study_instance_uid", name="uq_studies_study_instance_uid"),
    )
    op.create_index("ix_studies_accession_number", "studies", ["accession_number"], unique=False)
    op.create_index("ix_studies_closed_at", "studies", ["closed_at"], unique=False)
    op.create_index("ix_studies_patient_id", "studies", ["patient_id"], unique=False)
    op.create_index("ix_studies_study_date", "studies", ["study_date"], unique=False)
    op.create_index("ix_studies_study_id", "studies", ["study_id"], unique=False)
    op.create_table(
        "series",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("modality", sa.String(length=16), nullable=True),
        sa.Column("series_number", sa.Integer(), nullable=True),
        sa.Column("series_description", sa.String(length=64), nullable=True),
        sa.Column("series_date", sa.Date(), nullable=True),
        sa.Column("series_time", sa.Time(), nullable=True),
        sa.Column("body_part_examined", sa.String(length=16), nullable=True),
        sa.Column("laterality", sa.String(length=16), nullable=True),
        sa.Column("protocol_name", sa.String(length=64), nullable=True),
        sa.Column("manufacturer", sa.String(length=64), nullable=True),
        sa.Column("manufacturer_model_name", sa.String(length=64), nullable=True),
        sa.Column("station_name", sa.String(length=16), nullable=True),
        sa.Column("frame_of_reference_uid", sa.String(length=64), nullable=True),
        sa.Column("performed_procedure_step_start_date", sa.Date(), nullable=True),
        sa.Column("performed_procedure_step_start_time", sa.Time(), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("open_since", sa.DateTime(), nullable=True),
        sa.Column("last_received_at", sa.DateTime(), nullable=False),
        sa.Column("due_at", sa.DateTime(), nullable=True),
        sa.Column("arrivals", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("claim", sa.String(length=32), nullable=True),
        sa.Column("claimed_arrivals", sa.Integer(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("verdict", sa.String(length=16), nullable=True),
        sa.Column("verdict_rule", sa.String(length=32), nullable=True),
        sa.Column("verdict_reason", sa.Text(), nullable=True),
        sa.Column("expected_instances", sa.Integer(), nullable=True),
        sa.Column("expected_source", sa.String(length=64), nullable=True),
        sa.Column("missing_instances", sa.Integer(), nullable=True),
        sa.CheckConstraint(
            "state IN ('receiving', 'converting', 'converted', 'refused', 'not-an-image', 'failed')",
            name="ck_series_state",
        ),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_series_study_id_studies"),
        sa.PrimaryKeyConstraint("id", name="pk_series"),
        sa.UniqueConstraint("study_id", "series_instance_uid", name="uq_series_study_id_series_instance_uid"),
    )
    op.create_index("ix_series_modality", "series", ["modality"], unique=False)
    op.create_index("ix_series_series_instance_uid", "series", ["series_instance_uid"], unique=False)
    op.create_index("ix_series_state_due_at", "series", ["state", "due_at"], unique=False)
    op.create_index("ix_series_study_id", "series", ["study_id"], unique=False)
    op.create_table(
        "conversions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("series_id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("superseded", sa.Boolean(), nullable=False),
        sa.Column("input_sha256", sa.String(length=64), nullable=True),
        sa.Column("files_removed_at", sa.DateTime(), nullable=True),
        sa.Column("converter", sa.String(length=64), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name="fk_conversions_series_id_series"),
        sa.PrimaryKeyConstraint("id", name="pk_conversions"),
        sa.UniqueConstraint("series_id", "revision", name="uq_conversions_series_id_revision"),
    )
    op.create_table(
        "failures",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("series_id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("stack", sa.Integer(), nullable=True),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("failed_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name="fk_failures_series_id_series"),
        sa.PrimaryKeyConstraint("id", name="pk_failures"),
    )
    op.create_index("ix_failures_series_id", "failures", ["series_id"], unique=False)
    op.create_table(
        "images",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("series_id", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("instance_number", sa.Integer(), nullable=True),
        sa.Column("number_of_frames", sa.Integer(), nullable=True),
        sa.Column("rows", sa.Integer(), nullable=True),
        sa.Column("columns", sa.Integer(), nullable=True),
        sa.Column("acquisition_number", sa.Integer(), nullable=True),
        sa.Column("content_date", sa.Date(), nullable=True),
        sa.Column("content_time", sa.Time(), nullable=True),
        sa.Column("images_in_acquisition", sa.Integer(), nullable=True),
        sa.Column("number_of_temporal_positions", sa.Integer(), nullable=True),
        sa.Column("number_of_slices", sa.Integer(), nullable=True),
        sa.Column("number_of_time_slices", sa.Integer(), nullable=True),
        sa.Column("number_of_series_related_instances", sa.Integer(), nullable=True),
        sa.Column("file_missing", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("data_set_offset", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("door", sa.String(length=16), nullable=False),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=True),
        sa.Column("called_ae_title", sa.String(length=16), nullable=True),
        sa.Column("peer", sa.String(length=64), nullable=True),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name="fk_images_series_id_series"),
        sa.PrimaryKeyConstraint("id", name="pk_images"),
        sa.UniqueConstraint("key", name="uq_images_key"),
        sa.UniqueConstraint("sop_instance_uid", name="uq_images_sop_instance_uid"),
    )
    op.create_index("ix_images_received_at", "images", ["received_at"], unique=False)
    op.create_index("ix_images_series_id", "images", ["series_id"], unique=False)
    op.create_index("ix_images_sop_class_uid", "images", ["sop_class_uid"], unique=False)
    op.create_table(
        "exclusions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("conversion_id", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("frames", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["conversion_id"], ["conversions.id"], name="fk_exclusions_conversion_id_conversions"),
        sa.PrimaryKeyConstraint("id", name="pk_exclusions"),
    )
    op.create_index("ix_exclusions_conversion_id", "exclusions", ["conversion_id"], unique=False)
    op.create_index("ix_exclusions_sop_instance_uid", "exclusions", ["sop_instance_uid"], unique=False)
    op.create_table(
        "volume_sources",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("conversion_id", sa.Integer(), nullable=False),
        sa.Column("stack", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("frames", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["conversion_id"], ["conversions.id"], name="fk_volume_sources_conversion_id_conversions"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_volume_sources"),
    )
    op.create_index("ix_volume_sources_conversion_id_stack", "volume_sources", ["conversion_id", "stack"], unique=False)
    op.create_index("ix_volume_sources_sop_instance_uid", "volume_sources", ["sop_instance_uid"], unique=False)
    op.create_table(
        "volumes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("conversion_id", sa.Integer(), nullable=False),
        sa.Column("stack", sa.Integer(), nullable=False),
        sa.Column("suffix", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("format", sa.String(length=16), nullable=False),
        sa.Column("path", sa.String(length=400), nullable=False),
        sa.Column("shape", sa.JSON(), nullable=False),
        sa.Column("spacing_mm", sa.JSON(), nullable=False),
        sa.Column("dtype", sa.String(length=16), nullable=False),
        sa.Column("geometry", sa.String(length=16), nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("warnings", sa.JSON(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["conversion_id"], ["conversions.id"], name="fk_volumes_conversion_id_conversions"),
        sa.PrimaryKeyConstraint("id", name="pk_volumes"),
        sa.UniqueConstraint("conversion_id", "path", name="uq_volumes_conversion_id_path"),
    )
    op.create_index("ix_volumes_conversion_id", "volumes", ["conversion_id"], unique=False)
    for name, query in VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {query}")


def downgrade() -> None:
    for name in VIEWS:
        op.execute(f"DROP VIEW {name}")
    op.drop_index("ix_volumes_conversion_id", table_name="volumes")
    op.drop_table("volumes")
    op.drop_index("ix_volume_sources_sop_instance_uid", table_name="volume_sources")
    op.drop_index("ix_volume_sources_conversion_id_stack", table_name="volume_sources")
    op.drop_table("volume_sources")
    op.drop_index("ix_exclusions_sop_instance_uid", table_name="exclusions")
    op.drop_index("ix_exclusions_conversion_id", table_name="exclusions")
    op.drop_table("exclusions")
    op.drop_index("ix_images_sop_class_uid", table_name="images")
    op.drop_index("ix_images_series_id", table_name="images")
    op.drop_index("ix_images_received_at", table_name="images")
    op.drop_table("images")
    op.drop_index("ix_failures_series_id", table_name="failures")
    op.drop_table("failures")
    op.drop_table("conversions")
    op.drop_index("ix_series_study_id", table_name="series")
    op.drop_index("ix_series_state_due_at", table_name="series")
    op.drop_index("ix_series_series_instance_uid", table_name="series")
    op.drop_index("ix_series_modality", table_name="series")
    op.drop_table("series")
    op.drop_index("ix_studies_study_id", table_name="studies")
    op.drop_index("ix_studies_study_date", table_name="studies")
    op.drop_index("ix_studies_patient_id", table_name="studies")
    op.drop_index("ix_studies_closed_at", table_name="studies")
    op.drop_index("ix_studies_accession_number", table_name="studies")
    op.drop_table("studies")
    op.drop_index("ix_tombstones_uid", table_name="tombstones")
    op.drop_table("tombstones")
    op.drop_index("ix_rejections_rule", table_name="rejections")
    op.drop_index("ix_rejections_last_at", table_name="rejections")
    op.drop_table("rejections")
    op.drop_index("ix_patients_patient_name", table_name="patients")
    op.drop_index("ix_patients_merged_into", table_name="patients")
    op.drop_index("ix_patients_patient_id", table_name="patients")
    op.drop_table("patients")
    op.drop_index("ix_events_series_instance_uid", table_name="events")
    op.drop_index("ix_events_kind", table_name="events")
    op.drop_index("ix_events_happened_at", table_name="events")
    op.drop_table("events")
    op.drop_index("ix_conflicts_study_instance_uid", table_name="conflicts")
    op.drop_index("ix_conflicts_key", table_name="conflicts")
    op.drop_index("ix_conflicts_sop_instance_uid", table_name="conflicts")
    op.drop_table("conflicts")
    op.drop_table("about")
