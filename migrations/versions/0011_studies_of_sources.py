"""Name the study of each source and exclusion, and the patient of each study by its row."""

from alembic import op

from node.index.engine.view_changes import change_view

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

STUDY = ("se.series_instance_uid, ", "se.series_instance_uid, st.study_instance_uid, ")
STUDIES = ("se.id = c.series_id", "se.id = c.series_id JOIN studies st ON st.id = se.study_id")
PATIENT = ("st.study_instance_uid, p.patient_id,", "st.study_instance_uid, st.patient_id AS patient, p.patient_id,")

CHANGES = {"v_sources": (STUDY, STUDIES), "v_exclusions": (STUDY, STUDIES), "v_studies": (PATIENT,)}


def upgrade() -> None:
    for view, changes in CHANGES.items():
        change_view(op.get_bind(), view, changes)


def downgrade() -> None:
    for view, changes in CHANGES.items():
        change_view(op.get_bind(), view, [(new, old) for old, new in changes])
