"""Store how volumes were acquired and where they lie, and show the current ones in one view, `v_catalog`.

Those of earlier conversions are unknown: the files have them, and a migration reads no files.
"""

import sqlalchemy as sa
from alembic import op

from node.index.engine.view_changes import change_view

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

COLUMNS = {
    "affine_lps": sa.JSON(),
    "slice_thickness_mm": sa.Float(),
    "repetition_time_ms": sa.Float(),
    "echo_time_ms": sa.Float(),
    "inversion_time_ms": sa.Float(),
    "flip_angle_degrees": sa.Float(),
    "magnetic_field_strength_t": sa.Float(),
    "sequence": sa.String(64),
    "weighting": sa.String(8),
    "contrast_agent": sa.String(16),
    "convolution_kernel": sa.String(64),
}
SCAN = ", ".join(f"v.{name}" for name in COLUMNS)
VOLUMES = ("v.orientation,", f"v.orientation, {SCAN},")

# The names of views and columns are a public interface (docs/data.md). SQLite looks no row up by an expression such as
# `+c.id`: a question that names a date or a UID begins with studies or series, not with the much longer table of files,
# nor with half of all series, which are of the same modality.
CATALOG = """
    SELECT st.study_instance_uid, se.series_instance_uid, c.revision, v.stack, v.suffix,
           st.patient_id AS patient, p.patient_id, p.patient_sex,
           CASE WHEN st.patient_age GLOB '[0-9][0-9][0-9][YMWD]' THEN CAST(substr(st.patient_age, 1, 3) AS FLOAT) /
               CASE substr(st.patient_age, 4) WHEN 'Y' THEN 1.0 WHEN 'M' THEN 12.0 WHEN 'W' THEN 52.1775
               ELSE 365.2425 END END AS patient_age,
           st.study_date, st.study_description, st.accession_number,
           +se.modality AS modality, se.series_number, se.series_description, se.protocol_name, se.body_part_examined,
           se.manufacturer, se.manufacturer_model_name, v.magnetic_field_strength_t,
           v.weighting, v.sequence, v.repetition_time_ms, v.echo_time_ms, v.inversion_time_ms, v.flip_angle_degrees,
           v.contrast_agent, v.convolution_kernel,
           v.orientation, v.geometry,
           json_extract(v.shape, '$[0]') AS columns, json_extract(v.shape, '$[1]') AS rows,
           json_extract(v.shape, '$[2]') AS slices, coalesce(json_extract(v.shape, '$[3]'), 1) AS times,
           json_extract(v.spacing_mm, '$[0]') AS column_spacing_mm,
           json_extract(v.spacing_mm, '$[1]') AS row_spacing_mm,
           json_extract(v.spacing_mm, '$[2]') AS slice_spacing_mm,
           v.slice_thickness_mm, v.affine_lps, v.dtype, v.warnings,
           se.verdict, se.state, v.instances, v.format,
           coalesce((SELECT CASE WHEN count(*) = 1 THEN substr(max(file), 1, length(max(file)) - 12) END
                FROM pragma_database_list WHERE substr(file, -13) = '/index.sqlite'), '') || v.path AS path,
           v.bytes, v.sha256, c.created_at
    FROM studies st JOIN patients p ON p.id = st.patient_id JOIN series se ON se.study_id = st.id
    JOIN conversions c ON c.series_id = +se.id JOIN volumes v ON v.conversion_id = +c.id
    WHERE v.kind = 'volume' AND NOT c.superseded AND c.files_removed_at IS NULL
      AND v.id = (
          SELECT o.id FROM volumes o
          WHERE o.conversion_id = v.conversion_id AND o.stack = v.stack AND o.suffix = v.suffix AND o.kind = 'volume'
          ORDER BY o.format <> 'nifti', o.id LIMIT 1
      )
"""


def upgrade() -> None:
    for name, kind in COLUMNS.items():
        op.add_column("volumes", sa.Column(name, kind, nullable=True))
    change_view(op.get_bind(), "v_volumes", [VOLUMES])
    op.execute(f"CREATE VIEW v_catalog AS {CATALOG}")


def downgrade() -> None:
    op.execute("DROP VIEW v_catalog")
    change_view(op.get_bind(), "v_volumes", [VOLUMES[::-1]])
    for name in COLUMNS:
        op.execute(f"ALTER TABLE volumes DROP COLUMN {name}")
