"""Keep what a person says about the problems of a series; a word for its certainty; indexes for lists of studies."""

import sqlalchemy as sa
from alembic import op

from node.index.engine.view_changes import change_view

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

COLUMNS = (
    ("acknowledged_problem", sa.String(64)),
    ("acknowledged_reason", sa.Text()),
    ("acknowledged_by", sa.String(64)),
    ("acknowledged_at", sa.DateTime()),
)
CERTAINTY = (
    "CASE WHEN se.verdict <> 'complete' THEN se.verdict "
    "WHEN se.verdict_rule IN ('mpps', 'c-find', 'headers') THEN 'verified' "
    "WHEN se.verdict = 'complete' THEN 'no gap seen' END AS certainty"
)
IS_ACKNOWLEDGED = "se.acknowledged_problem = se.state || ' ' || coalesce(se.verdict, 'unknown') || ' ' || se.revision"
ACKNOWLEDGED = ", ".join(
    f"CASE WHEN {IS_ACKNOWLEDGED} THEN se.{name} END AS {name}"
    for name in ("acknowledged_reason", "acknowledged_by", "acknowledged_at")
)
CHANGES = (
    ("se.state, se.verdict, se.verdict_rule,", f"se.state, se.verdict, {CERTAINTY}, se.verdict_rule,"),
    ("se.attempts, se.error", f"se.attempts, se.error, {ACKNOWLEDGED}"),
)


def upgrade() -> None:
    for name, kind in COLUMNS:
        op.add_column("series", sa.Column(name, kind, nullable=True))
    op.execute("CREATE INDEX ix_series_doubted ON series (study_id) WHERE verdict IN ('suspect', 'incomplete')")
    op.execute("CREATE INDEX ix_failures_of_images ON failures (series_id) WHERE reason <> 'not-an-image'")
    op.execute("DROP INDEX ix_series_modality")
    op.execute("CREATE INDEX ix_series_modality_study_id ON series (modality, study_id)")
    op.execute("CREATE INDEX ix_series_series_description_study_id ON series (series_description, study_id)")
    op.execute("CREATE INDEX ix_studies_study_description ON studies (study_description)")
    change_view(op.get_bind(), "v_series", CHANGES)


def downgrade() -> None:
    change_view(op.get_bind(), "v_series", [change[::-1] for change in CHANGES])
    op.execute("DROP INDEX ix_studies_study_description")
    op.execute("DROP INDEX ix_series_series_description_study_id")
    op.execute("DROP INDEX ix_series_modality_study_id")
    op.execute("CREATE INDEX ix_series_modality ON series (modality)")
    op.execute("DROP INDEX ix_failures_of_images")
    op.execute("DROP INDEX ix_series_doubted")
    for name, _ in COLUMNS:
        op.execute(f"ALTER TABLE series DROP COLUMN {name}")
