"""Store what seems to be missing from a series, in words."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

SERIES = """
    CREATE VIEW v_series AS
        SELECT se.series_instance_uid, st.study_instance_uid, se.modality, se.series_number, se.series_description,
               se.body_part_examined, se.protocol_name, se.manufacturer, se.manufacturer_model_name,
               se.series_date, se.series_time,
               se.state, se.verdict, se.verdict_rule, se.verdict_reason, se.expected_instances, se.expected_source,
               se.missing_instances, {missing_detail}
               (SELECT count(*) FROM images i WHERE i.series_id = se.id) AS instances,
               se.revision, se.open_since, se.last_received_at, se.due_at, se.attempts, se.error
        FROM series se JOIN studies st ON st.id = se.study_id
"""


def upgrade() -> None:
    op.execute("DROP VIEW v_series")
    op.add_column("series", sa.Column("missing_detail", sa.Text(), nullable=True))
    op.execute(SERIES.format(missing_detail="se.missing_detail,"))


def downgrade() -> None:
    op.execute("DROP VIEW v_series")
    op.execute("ALTER TABLE series DROP COLUMN missing_detail")
    op.execute(SERIES.format(missing_detail=""))
