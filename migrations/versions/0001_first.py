"""The first schema: every table, with its indexes. Nothing leads further back.

Tables are written out rather than made from the models: a migration must make the same tables when the models have
moved on. Names of keys, constraints and indexes of one column follow the convention in `node.index.rows.models`. The
views are no part of any migration, see `node.index.rows.views`. tests/kept/ has the statements, which never change.
"""

import sqlalchemy as sa
from alembic import op

revision = "r0001"
down_revision = None
branch_labels = None
depends_on = None


NO_ID_TWICE = {"sqlite_autoincrement": True}
"""Options of a table in which a row never gets the id of a deleted one. PostgreSQL gives no id twice in any table."""


def partial_index(name, columns, condition):
    """Return an index of the rows that fulfil a condition."""
    names = (columns,) if isinstance(columns, str) else columns
    where = sa.text(condition)
    return sa.Index(name, *names, sqlite_where=where, postgresql_where=where)


def upgrade() -> None:
    _index_and_hosts()
    _levels()
    _grams()
    _conversions()
    _history()
    _projects()
    _accounts()
    _procedure_steps()
    _work()
    _labels()
    _order_numbers()


def _index_and_hosts() -> None:
    """Facts about the index, and the hosts that share it."""
    op.create_table(
        "about", sa.Column("key", sa.String(32), primary_key=True), sa.Column("value", sa.Text(), nullable=False)
    )
    op.create_table(
        "hosts",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("roles", sa.JSON(), nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("subscribers", sa.JSON(), nullable=False),
        sa.Column("is_behind", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("not_ready", sa.JSON(), server_default="{}", nullable=False),
        sa.Column("started_at", sa.DateTime(), nullable=False),
        sa.Column("seen_at", sa.DateTime(), nullable=False),
        sa.Column("lease_until", sa.DateTime()),
        sa.Column("drain", sa.String(8)),
        sa.Column("left_behind", sa.Integer()),
        sa.Column("clock_ahead_seconds", sa.Float(), server_default="0", nullable=False),
        sa.Column("configuration", sa.JSON(), server_default="{}", nullable=False),
        sa.Column("problems", sa.JSON(), server_default="{}", nullable=False),
    )
    op.create_table(
        "leases", sa.Column("name", sa.String(160), primary_key=True), sa.Column("host", sa.String(63), nullable=False)
    )
    op.create_table(
        "audit_lines",
        sa.Column("host", sa.String(63), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("at", sa.DateTime(), nullable=False, index=True),
        sa.Column("line", sa.Text(), nullable=False),
    )


def _levels() -> None:
    """The levels of PS3.4 C.6, and files that are to be removed because no row names them any more."""
    op.create_table(
        "patients",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("identity", sa.Text(), nullable=False, index=True),
        sa.Column("patient_id", sa.Text(), index=True),
        sa.Column("issuer_of_patient_id", sa.Text()),
        sa.Column("patient_name", sa.Text(), index=True),
        sa.Column("patient_name_alphabetic", sa.Text(), index=True),
        sa.Column("patient_name_ideographic", sa.Text(), index=True),
        sa.Column("patient_name_phonetic", sa.Text(), index=True),
        sa.Column("patient_birth_date", sa.Date()),
        sa.Column("patient_birth_time", sa.String(15)),
        sa.Column("patient_sex", sa.Text()),
        sa.Column("merged_into", sa.Integer(), sa.ForeignKey("patients.id"), index=True),
        sa.Column("merged_first_into", sa.Integer()),
        sa.Column("is_corrected", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("decided_by", sa.Text()),
    )
    op.create_table(
        "studies",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("patient_id", sa.Integer(), sa.ForeignKey("patients.id"), nullable=False, index=True),
        sa.Column("named_patient_id", sa.Integer()),
        sa.Column("corrected_patient_id", sa.Integer()),
        sa.Column("decided_by", sa.Text()),
        sa.Column("identified_at", sa.DateTime()),
        sa.Column("uncounted", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("study_instance_uid", sa.String(64), nullable=False, unique=True),
        sa.Column("study_date", sa.Date(), index=True),
        sa.Column("study_time", sa.String(15)),
        sa.Column("accession_number", sa.Text(), index=True),
        sa.Column("study_id", sa.Text(), index=True),
        sa.Column("study_description", sa.Text(), index=True),
        sa.Column("referring_physician_name", sa.Text()),
        sa.Column("referring_physician_name_alphabetic", sa.Text()),
        sa.Column("referring_physician_name_ideographic", sa.Text()),
        sa.Column("referring_physician_name_phonetic", sa.Text()),
        sa.Column("patient_age", sa.Text()),
        sa.Column("timezone_offset_from_utc", sa.Text()),
        sa.Column("closed_at", sa.DateTime(), index=True),
        sa.Column("quiet_at", sa.DateTime()),
        partial_index(
            "ix_studies_corrected", ("corrected_patient_id", "named_patient_id"), "corrected_patient_id IS NOT NULL"
        ),
    )
    op.create_table(
        "series",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("study_id", sa.Integer(), sa.ForeignKey("studies.id"), nullable=False, index=True),
        sa.Column("series_instance_uid", sa.String(64), nullable=False, index=True),
        sa.Column("modality", sa.Text()),
        sa.Column("series_number", sa.Integer()),
        sa.Column("series_description", sa.Text()),
        sa.Column("series_date", sa.Date()),
        sa.Column("series_time", sa.String(15)),
        sa.Column("body_part_examined", sa.Text()),
        sa.Column("laterality", sa.Text()),
        sa.Column("protocol_name", sa.Text()),
        sa.Column("manufacturer", sa.Text()),
        sa.Column("manufacturer_model_name", sa.Text()),
        sa.Column("station_name", sa.Text()),
        sa.Column("frame_of_reference_uid", sa.Text()),
        sa.Column("performed_procedure_step_start_date", sa.Date()),
        sa.Column("performed_procedure_step_start_time", sa.String(15)),
        sa.Column("timezone_offset_from_utc", sa.Text()),
        sa.Column("request_attributes", sa.JSON()),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("open_since", sa.DateTime()),
        sa.Column("last_received_at", sa.DateTime(), nullable=False),
        sa.Column("due_at", sa.DateTime()),
        sa.Column("receptions", sa.Integer(), nullable=False),
        sa.Column("last_event", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("stated", sa.BigInteger()),
        sa.Column("claim", sa.String(32)),
        sa.Column("claimed_by", sa.String(63)),
        sa.Column("claimed_receptions", sa.Integer()),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text()),
        sa.Column("why", sa.String(32)),
        sa.Column("reported", sa.JSON()),
        sa.Column("verdict", sa.String(16)),
        sa.Column("verdict_rule", sa.String(32)),
        sa.Column("verdict_reason", sa.Text()),
        sa.Column("expected_instances", sa.Integer()),
        sa.Column("expected_source", sa.String(64)),
        sa.Column("missing_instances", sa.Integer()),
        sa.Column("missing_detail", sa.Text()),
        sa.Column("missing_at_sender", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("acknowledged_problem", sa.String(64)),
        sa.Column("acknowledged_reason", sa.Text()),
        sa.Column("acknowledged_by", sa.String(64)),
        sa.Column("acknowledged_at", sa.DateTime()),
        sa.UniqueConstraint("study_id", "series_instance_uid"),
        sa.CheckConstraint(
            "state IN ('receiving', 'converting', 'converted', 'refused', 'not-an-image', 'failed')", name="state"
        ),
        partial_index("ix_series_doubted", "study_id", "verdict IN ('suspect', 'incomplete')"),
        sa.Index("ix_series_listed", "last_received_at", "modality", "state", "verdict", "verdict_rule"),
        sa.Index("ix_series_modality_study_id", "modality", "study_id"),
        sa.Index("ix_series_series_description_study_id", "series_description", "study_id"),
        sa.Index("ix_series_state_due_at", "state", "due_at"),
    )
    op.create_table(
        "images",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("series_id", sa.Integer(), sa.ForeignKey("series.id"), nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False, unique=True),
        sa.Column("sop_class_uid", sa.String(64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(64), nullable=False),
        sa.Column("instance_number", sa.Integer()),
        sa.Column("number_of_frames", sa.Integer()),
        sa.Column("rows", sa.Integer()),
        sa.Column("columns", sa.Integer()),
        sa.Column("acquisition_number", sa.Integer()),
        sa.Column("content_date", sa.Date()),
        sa.Column("content_time", sa.String(15)),
        sa.Column("images_in_acquisition", sa.Integer()),
        sa.Column("number_of_temporal_positions", sa.Integer()),
        sa.Column("number_of_slices", sa.Integer()),
        sa.Column("number_of_time_slices", sa.Integer()),
        sa.Column("number_of_series_related_instances", sa.Integer()),
        sa.Column("timezone_offset_from_utc", sa.Text()),
        sa.Column("stated", sa.BigInteger()),
        sa.Column("file_missing", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("data_set_offset", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(200), nullable=False, unique=True),
        sa.Column("place", sa.String(8)),
        sa.Column("spool_host", sa.String(63)),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("calling_ae_title", sa.String(16)),
        sa.Column("called_ae_title", sa.String(16)),
        sa.Column("peer", sa.String(64)),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        partial_index("ix_images_series_id_missing", "series_id", "file_missing"),
        partial_index("ix_images_series_id_spool_host", ("series_id", "spool_host"), "spool_host IS NOT NULL"),
        sa.Index("ix_images_series_id_bytes", "series_id", "bytes"),
        partial_index("ix_images_spooled", "key", "place = 'spool'"),
        **NO_ID_TWICE,
    )
    op.create_table(
        "statements",
        sa.Column("series_id", sa.Integer(), sa.ForeignKey("series.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("is_image", sa.Boolean(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
    )
    op.create_table(
        "series_documents",
        sa.Column("series_id", sa.Integer(), sa.ForeignKey("series.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("varying", sa.Text(), nullable=False),
        sa.Column("is_partial", sa.Boolean(), nullable=False),
    )
    op.create_table(
        "image_documents",
        sa.Column(
            "image_id",
            sa.Integer(),
            sa.ForeignKey("images.id", ondelete="CASCADE", onupdate="CASCADE"),
            primary_key=True,
        ),
        sa.Column("document", sa.Text(), nullable=False),
    )
    op.create_table(
        "object_removals",
        sa.Column("key", sa.String(200), primary_key=True),
        sa.Column("ordered_at", sa.DateTime(), nullable=False),
    )
    op.create_table(
        "host_removals",
        sa.Column("host", sa.String(63), primary_key=True),
        sa.Column("path", sa.String(200), primary_key=True),
        sa.Column("ordered_at", sa.DateTime(), nullable=False),
    )


def _conversions() -> None:
    """Revisions, what is in them, and why something is not."""
    op.create_table(
        "conversions",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("series_id", sa.Integer(), sa.ForeignKey("series.id"), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("superseded", sa.Boolean(), nullable=False),
        sa.Column("input_sha256", sa.String(64)),
        sa.Column("files_removed_at", sa.DateTime()),
        sa.Column("converter", sa.String(64), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("findings", sa.JSON()),
        sa.Column("owes_sidecars", sa.Integer(), nullable=False),
        sa.UniqueConstraint("series_id", "revision"),
        partial_index("ix_conversions_owed", "id", "owes_sidecars > 0"),
    )
    op.create_table(
        "volumes",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("conversion_id", sa.Integer(), sa.ForeignKey("conversions.id"), nullable=False, index=True),
        sa.Column("stack", sa.Integer(), nullable=False),
        sa.Column("suffix", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("format", sa.String(16), nullable=False),
        sa.Column("path", sa.String(400), nullable=False),
        sa.Column("shape", sa.JSON(), nullable=False),
        sa.Column("spacing_mm", sa.JSON(), nullable=False),
        sa.Column("dtype", sa.String(16), nullable=False),
        sa.Column("geometry", sa.String(16), nullable=False),
        sa.Column("orientation", sa.String(8)),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("warnings", sa.JSON(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("affine_lps", sa.JSON()),
        sa.Column("slice_thickness_mm", sa.Float()),
        sa.Column("repetition_time_ms", sa.Float()),
        sa.Column("echo_time_ms", sa.Float()),
        sa.Column("inversion_time_ms", sa.Float()),
        sa.Column("flip_angle_degrees", sa.Float()),
        sa.Column("magnetic_field_strength_t", sa.Float()),
        sa.Column("sequence", sa.String(64)),
        sa.Column("weighting", sa.String(8)),
        sa.Column("contrast_agent", sa.String(16)),
        sa.Column("convolution_kernel", sa.String(64)),
        sa.UniqueConstraint("conversion_id", "path"),
    )
    op.create_table(
        "volume_sources",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("conversion_id", sa.Integer(), sa.ForeignKey("conversions.id"), nullable=False),
        sa.Column("stack", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False, index=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("frames", sa.Integer(), nullable=False),
        sa.Index("ix_volume_sources_conversion_id_stack", "conversion_id", "stack"),
    )
    op.create_table(
        "exclusions",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("conversion_id", sa.Integer(), sa.ForeignKey("conversions.id"), nullable=False, index=True),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False, index=True),
        sa.Column("frames", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
    )
    op.create_table(
        "failures",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("series_id", sa.Integer(), sa.ForeignKey("series.id"), nullable=False, index=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("stack", sa.Integer()),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("failed_at", sa.DateTime(), nullable=False),
        partial_index("ix_failures_of_images", "series_id", "reason <> 'not-an-image'"),
    )
    op.create_table(
        "series_references",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("series_id", sa.Integer(), sa.ForeignKey("series.id"), nullable=False, index=True),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("series_instance_uid", sa.String(64), nullable=False, index=True),
        sa.Column("revision", sa.Integer()),
    )
    op.create_table(
        "revision_files",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("conversion_id", sa.Integer(), sa.ForeignKey("conversions.id"), nullable=False, index=True),
        sa.Column("key", sa.String(400), nullable=False, unique=True),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("place", sa.String(8)),
        sa.Column("spool_host", sa.String(63)),
        partial_index("ix_revision_files_spooled", "key", "place = 'spool'"),
    )


def _history() -> None:
    """What has happened."""
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("kind", sa.String(32), nullable=False, index=True),
        sa.Column("study_instance_uid", sa.String(64)),
        sa.Column("series_instance_uid", sa.String(64), index=True),
        sa.Column("sop_instance_uid", sa.String(64)),
        sa.Column("revision", sa.Integer()),
        sa.Column("detail", sa.Text()),
        sa.Column("happened_at", sa.DateTime(), nullable=False, index=True),
        sa.Column("verdict_before", sa.JSON()),
        sa.Column("ended", sa.Text()),
        sa.Column("why", sa.String(32)),
        sa.Column("key", sa.String(200)),
    )
    op.create_table(
        "conflicts",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), index=True),
        sa.Column("series_instance_uid", sa.String(64)),
        sa.Column("sop_instance_uid", sa.String(64), index=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("key", sa.String(200), index=True),
        sa.Column("sha256", sa.String(64)),
        sa.Column("damage", sa.Text()),
        sa.Column("host", sa.String(63)),
        sa.Column("calling_ae_title", sa.String(16)),
        sa.Column("found_at", sa.DateTime(), nullable=False),
        sa.Column("decision", sa.String(16)),
        sa.Column("decided_at", sa.DateTime()),
        sa.Column("decided_by", sa.String(64)),
        sa.Column("is_uncompared", sa.Boolean(), server_default=sa.false(), nullable=False, index=True),
        **NO_ID_TWICE,
    )
    op.create_table(
        "rejections",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("what", sa.String(16), nullable=False),
        sa.Column("rule", sa.String(64), nullable=False, index=True),
        sa.Column("peer", sa.String(64), nullable=False),
        sa.Column("calling_ae_title", sa.String(16), nullable=False),
        sa.Column("called_ae_title", sa.String(16), nullable=False),
        sa.Column("offered", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("remedy", sa.Text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("first_at", sa.DateTime(), nullable=False),
        sa.Column("last_at", sa.DateTime(), nullable=False, index=True),
    )
    op.create_table(
        "lost_instances",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("series_instance_uid", sa.String(64), nullable=False, index=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("calling_ae_title", sa.String(16), nullable=False),
        sa.Column("peer", sa.String(64), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.Column("noticed_at", sa.DateTime(), nullable=False),
        sa.UniqueConstraint("sop_instance_uid", "sha256"),
    )
    op.create_table(
        "tombstones",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("level", sa.String(16), nullable=False),
        sa.Column("uid", sa.String(64), nullable=False, index=True),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("paths", sa.JSON(), nullable=False),
        sa.Column("ordered_at", sa.DateTime(), nullable=False),
        sa.Column("listed", sa.String(64)),
        sa.Column("finished_at", sa.DateTime()),
        sa.Column("trash_until", sa.DateTime(), index=True),
        sa.Column("restored_at", sa.DateTime()),
        sa.Column("last_event", sa.Integer()),
        sa.Column("content", sa.JSON()),
    )
    op.create_table(
        "trash",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("deletion", sa.Integer(), sa.ForeignKey("tombstones.id"), nullable=False, index=True),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("key", sa.String(400), index=True),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("place", sa.String(8)),
        sa.Column("holder", sa.String(63)),
        sa.Column("content", sa.JSON(), nullable=False),
    )
    op.create_table(
        "senders",
        sa.Column("calling_ae_title", sa.String(16), primary_key=True),
        sa.Column("gaps", sa.JSON(), nullable=False),
        sa.Column("quiet_seconds", sa.Float()),
        sa.Column("learnt_at", sa.DateTime(), nullable=False),
    )
    op.create_table(
        "open_associations",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("host", sa.String(63), nullable=False),
        sa.Column("association", sa.String(32), nullable=False),
        sa.Column(
            "series_id", sa.Integer(), sa.ForeignKey("series.id", ondelete="CASCADE"), nullable=False, index=True
        ),
        sa.Column("calling_ae_title", sa.String(16), nullable=False),
        sa.Column("open_until", sa.DateTime(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("begun", sa.String(32), nullable=False),
        sa.UniqueConstraint("host", "association", "series_id"),
    )
    op.create_table(
        "awaited_senders",
        sa.Column("series_id", sa.Integer(), sa.ForeignKey("series.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("calling_ae_title", sa.String(16), primary_key=True),
        sa.Column("quiet_at", sa.DateTime()),
        sa.Column("received_at", sa.DateTime()),
        sa.Column("grace_until", sa.DateTime()),
        sa.Column("aborted_at", sa.DateTime()),
        sa.Column("aborted", sa.Text()),
    )


def _accounts() -> None:
    """Who uses HTTP, and which requests must not be done twice."""
    op.create_table(
        "accounts",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("role", sa.String(8), nullable=False),
        sa.Column("password_hash", sa.String(200)),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("totp_secret", sa.String(64)),
        sa.Column("totp_step", sa.Integer()),
        sa.Column("groups", sa.JSON()),
        sa.CheckConstraint("role IN ('read', 'write', 'admin')", name="role"),
    )
    op.create_table(
        "recovery_codes",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column(
            "account_id", sa.Integer(), sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False, index=True
        ),
        sa.Column("sha256", sa.String(64), nullable=False, unique=True),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("account_id", sa.Integer(), sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
        sa.Column("label", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("role", sa.String(8)),
        sa.Column("routes", sa.String(1000)),
        sa.Column("project_id", sa.Integer(), sa.ForeignKey("projects.id", ondelete="CASCADE"), index=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("expires_at", sa.DateTime()),
        sa.Column("used_at", sa.DateTime()),
        sa.UniqueConstraint("account_id", "label"),
    )
    op.create_table(
        "web_sessions",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column(
            "account_id", sa.Integer(), sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False, index=True
        ),
        sa.Column("sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("address", sa.String(64)),
        sa.Column("agent", sa.String(200)),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.Column("used_at", sa.DateTime()),
        sa.Column("has_factor", sa.Boolean()),
    )


def _procedure_steps() -> None:
    """What modalities are to do, and what they have done."""
    op.create_table(
        "performed_steps",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False, unique=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), index=True),
        sa.Column("patient_id", sa.Text()),
        sa.Column("accession_number", sa.Text()),
        sa.Column("performed_procedure_step_id", sa.Text()),
        sa.Column("modality", sa.Text()),
        sa.Column("station_ae_title", sa.Text()),
        sa.Column("series", sa.Integer(), nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("calling_ae_title", sa.String(16), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("changed_at", sa.DateTime(), nullable=False),
        sa.Column("ended_at", sa.DateTime()),
        sa.CheckConstraint("state IN ('IN PROGRESS', 'COMPLETED', 'DISCONTINUED')", name="state"),
    )
    op.create_table(
        "performed_series",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column(
            "performed_step_id",
            sa.Integer(),
            sa.ForeignKey("performed_steps.id", ondelete="CASCADE"),
            nullable=False,
            index=True,
        ),
        sa.Column("study_instance_uid", sa.String(64)),
        sa.Column("series_instance_uid", sa.String(64), nullable=False, index=True),
        sa.Column("sop_instance_uids", sa.JSON(), nullable=False),
    )


def _work() -> None:
    """What is owed to others, and what was asked of the node."""
    op.create_table(
        "work",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("destination", sa.String(64), nullable=False),
        sa.Column("key", sa.String(64), nullable=False, index=True),
        sa.Column("event", sa.String(32)),
        sa.Column("cause", sa.String(36), index=True),
        sa.Column("study_instance_uid", sa.String(64), index=True),
        sa.Column("series_instance_uid", sa.String(64)),
        sa.Column("sop_instance_uid", sa.String(64)),
        sa.Column("revision", sa.Integer()),
        sa.Column("happened_at", sa.DateTime(), nullable=False),
        sa.Column("requested_by", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("outcome", sa.String(16)),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.DateTime()),
        sa.Column("tried_at", sa.DateTime()),
        sa.Column("percent", sa.Integer()),
        sa.Column("reason", sa.Text()),
        sa.Column("cancelled_by", sa.String(64)),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("changed_at", sa.DateTime(), nullable=False),
        sa.Column("ended_at", sa.DateTime()),
        sa.Column("last_event", sa.Integer()),
        sa.UniqueConstraint("kind", "name", "destination", "key"),
        sa.CheckConstraint("(state = 'ended') = (outcome IS NOT NULL)", name="outcome"),
        sa.Index("ix_work_kind_id", "kind", "id"),
        sa.Index("ix_work_state_kind_name_destination_due_at", "state", "kind", "name", "destination", "due_at"),
        sa.Index("ix_work_kind_name_destination_outcome_due_at", "kind", "name", "destination", "outcome", "due_at"),
        **NO_ID_TWICE,
    )
    op.create_table(
        "subscribers",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("destination", sa.String(64), nullable=False),
        sa.Column("wanted_kinds", sa.Text(), nullable=False),
        sa.Column("wants_instances", sa.Boolean(), nullable=False),
        sa.Column("delivered", sa.Integer(), nullable=False),
        sa.Column("delivered_at", sa.DateTime()),
        sa.Column("paused", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("trouble", sa.Text()),
        sa.Column("trouble_since", sa.DateTime()),
        sa.Column("retry_at", sa.DateTime()),
        sa.UniqueConstraint("kind", "name", "destination"),
        **NO_ID_TWICE,
    )
    op.create_table(
        "owed_events",
        sa.Column("subscriber_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("event_id", sa.Integer(), primary_key=True, autoincrement=False),
    )
    op.create_table(
        "owed_images",
        sa.Column("subscriber_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("image_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("last_event", sa.Integer(), nullable=False, server_default="0"),
    )
    op.create_table(
        "sent_instances",
        sa.Column("image_id", sa.Integer(), sa.ForeignKey("images.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("route", sa.String(64), primary_key=True),
        sa.Column("destination", sa.String(64), primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("sop_class_uid", sa.String(64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("patient_id", sa.Text()),
        sa.Column("identified_at", sa.DateTime()),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("sent_at", sa.DateTime(), nullable=False),
        sa.Column("transaction_uid", sa.String(64), index=True),
        sa.Column("asked_at", sa.DateTime()),
        sa.Column("asks", sa.Integer(), nullable=False),
        sa.Column("confirmed_at", sa.DateTime()),
        sa.CheckConstraint("state IN ('sent', 'owed', 'asked', 'confirmed', 'lost')", name="state"),
        partial_index("ix_sent_instances_unconfirmed", ("route", "destination"), "state IN ('owed', 'asked')"),
    )
    op.create_table(
        "results",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("job_id", sa.Integer(), sa.ForeignKey("work.id", ondelete="CASCADE"), nullable=False),
        sa.Column("file", sa.String(100), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("source_series_instance_uid", sa.String(64), nullable=False, index=True),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("series_instance_uid", sa.String(64), nullable=False, index=True),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False, unique=True),
        sa.Column("sop_class_uid", sa.String(64), nullable=False),
        sa.Column("segments", sa.JSON()),
        sa.Column("stored_at", sa.DateTime()),
        sa.UniqueConstraint("job_id", "file"),
    )


def _labels() -> None:
    """What people say of studies and series."""
    op.create_table(
        "labels",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("series_instance_uid", sa.String(64), nullable=False),
        sa.Column("label", sa.String(64), nullable=False, index=True),
        sa.Column("given_by", sa.String(64), nullable=False),
        sa.Column("given_at", sa.DateTime(), nullable=False),
        sa.UniqueConstraint("study_instance_uid", "series_instance_uid", "label"),
        **NO_ID_TWICE,
    )


def _projects() -> None:
    """Projects, who sees them, and what is in them."""
    op.create_table(
        "projects",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("description", sa.String(200), server_default="", nullable=False),
        sa.Column("rule", sa.Text()),
        sa.Column("called_ae_title", sa.String(16), index=True),
        sa.Column("created_by", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        **NO_ID_TWICE,
    )
    op.create_table(
        "project_members",
        sa.Column("project_id", sa.Integer(), sa.ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("account", sa.String(64), primary_key=True, index=True),
        sa.Column("role", sa.String(8), nullable=False),
        sa.CheckConstraint("role IN ('read', 'write', 'manage')", name="role"),
    )
    op.create_table("limited_accounts", sa.Column("account", sa.String(64), primary_key=True))
    op.create_table(
        "project_contents",
        sa.Column("project_id", sa.Integer(), sa.ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("study_instance_uid", sa.String(64), primary_key=True, index=True),
        sa.Column("series_instance_uid", sa.String(64), primary_key=True),
        sa.Column("added_by", sa.String(64), nullable=False),
        sa.Column("added_at", sa.DateTime(), nullable=False),
    )
    op.create_table(
        "project_series",
        sa.Column("series_id", sa.Integer(), sa.ForeignKey("series.id", ondelete="CASCADE"), primary_key=True),
        sa.Column(
            "project_id", sa.Integer(), sa.ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True, index=True
        ),
        sa.Column("is_by_rule", sa.Boolean(), primary_key=True),
    )


def _grams() -> None:
    """The grams of `node.index.rows.grams`, and the triggers that keep them."""
    for statement in _in_sqlite() if op.get_bind().dialect.name == "sqlite" else _in_postgresql():
        op.get_bind().exec_driver_sql(statement)


OF_PATIENT = "patient_name_alphabetic, patient_name_ideographic, patient_name_phonetic, patient_id"
OF_STUDY = "patient_id, accession_number"


def _text_of(patient, study):
    """Return the SQL of the texts of a study as one; a sign that no word has stands between them."""
    columns = *(f"{patient}.{name}" for name in OF_PATIENT.split(", ")), f"{study}.accession_number"
    return " || ' ' || ".join(f"coalesce({name}, '')" for name in columns)


def _in_sqlite():
    """FTS5 stores no texts: to delete a row, it needs the grams of that row again."""

    def noted(patient, study, source, *, deleted=False):
        columns, kind = ("study_grams, rowid", "'delete', ") if deleted else ("rowid", "")
        grams = (
            f"(WITH RECURSIVE rest (t) AS (SELECT lower({_text_of(patient, study)}) UNION ALL SELECT substr(t, 2) FROM "
            "rest WHERE length(t) > 1) SELECT 'all ' || group_concat(hex(substr(t, 1, 3)), ' ') FROM rest)"
        )
        return f"INSERT INTO study_grams ({columns}, grams) SELECT {kind}{study}.id, {grams} FROM {source};"

    def of_study(row, *, deleted=False):
        return noted("p", row, f"patients p WHERE p.id = {row}.patient_id", deleted=deleted)

    def of_patient(row, *, deleted=False):
        return noted(row, "s", f"studies s WHERE s.patient_id = {row}.id", deleted=deleted)

    yield (
        "CREATE VIRTUAL TABLE study_grams USING fts5 "
        "(grams, content='', detail=none, tokenize='ascii', prefix='2 4')"  # of one and two ASCII letters
    )
    for name, change, statements in (
        ("inserted", "INSERT ON studies", of_study("new")),
        ("deleted", "DELETE ON studies", of_study("old", deleted=True)),
        ("changed", f"UPDATE OF {OF_STUDY} ON studies", of_study("old", deleted=True) + of_study("new")),
        ("renamed", f"UPDATE OF {OF_PATIENT} ON patients", of_patient("old", deleted=True) + of_patient("new")),
    ):
        yield f"CREATE TRIGGER study_grams_{name} AFTER {change} BEGIN {statements} END"


def _in_postgresql():
    yield (
        "CREATE TABLE study_grams "
        "(rowid BIGINT PRIMARY KEY REFERENCES studies (id) ON DELETE CASCADE, grams TSVECTOR NOT NULL)"
    )
    yield "CREATE INDEX ix_study_grams_grams ON study_grams USING gin (grams)"
    for row, event in (
        ("s", f"INSERT OR UPDATE OF {OF_STUDY} ON studies"),
        ("p", f"UPDATE OF {OF_PATIENT} ON patients"),
    ):
        yield f"""
            CREATE OR REPLACE FUNCTION study_grams_of_{row}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                INSERT INTO study_grams SELECT s.id, array_to_tsvector(array_append((
                    SELECT array_agg(DISTINCT encode(convert_to(substr(t, i, 3), 'UTF8'), 'hex'))
                    FROM lower(({_text_of("p", "s")}) COLLATE "C") t, generate_series(1, length(t)) i), 'all'))
                FROM studies s JOIN patients p ON p.id = s.patient_id WHERE {row}.id = NEW.id
                ON CONFLICT (rowid) DO UPDATE SET grams = excluded.grams;
                RETURN NULL;
            END $$
        """
        yield f"CREATE TRIGGER study_grams AFTER {event} FOR EACH ROW EXECUTE FUNCTION study_grams_of_{row}()"


def _order_numbers() -> None:
    """Let a row that a cursor reads get its number from a transaction that has its own already.

    One writer of SQLite commits its rows in the order of their numbers.
    """
    if op.get_bind().dialect.name == "postgresql":
        for table in ("events", "images"):
            number = f"CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval('{table}_id_seq'::regclass) END"
            op.execute(f"ALTER TABLE {table} ALTER COLUMN id SET DEFAULT {number}")
