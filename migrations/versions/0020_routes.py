"""Routes: destinations that are paused or in trouble, and what each destination has taken."""

import sqlalchemy as sa
from alembic import op

from node.index.engine.view_changes import change_view

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

COLUMNS = {"trouble": sa.Text(), "trouble_since": sa.DateTime(), "retry_at": sa.DateTime()}
ONLY_HOOKS = {
    "v_hooks": ("FROM hooks h", "FROM hooks h WHERE instr(h.name, '/') = 0"),
    "v_deliveries": ("FROM deliveries", "FROM deliveries WHERE instr(hook, '/') = 0"),
}
NAMES = "substr({0}, 1, instr({0}, '/') - 1) AS route, substr({0}, instr({0}, '/') + 1) AS destination"
VIEWS = {
    "v_routes": f"""
        SELECT {NAMES.format("h.name")}, h.paused, h.trouble, h.trouble_since, h.retry_at,
               (SELECT count(*) FROM images i WHERE i.id > h.image_id) AS instances_behind,
               (SELECT count(*) FROM deliveries d WHERE d.hook = h.name AND d.state = 'waiting') AS waiting,
               (SELECT min(d.happened_at) FROM deliveries d WHERE d.hook = h.name AND d.state = 'waiting')
                   AS waiting_since,
               (SELECT count(*) FROM deliveries d WHERE d.hook = h.name AND d.state = 'given-up') AS given_up,
               (SELECT count(*) FROM sent_instances s WHERE s.subscriber = h.name AND s.state IN ('owed', 'asked'))
                   AS unconfirmed,
               h.delivered, h.delivered_at
        FROM hooks h WHERE instr(h.name, '/') > 0""",
    "v_route_messages": f"""
        SELECT message_id, {NAMES.format("hook")}, event, study_instance_uid, series_instance_uid, sop_instance_uid,
               revision, happened_at, state, attempts, due_at, reason, last_at
        FROM deliveries WHERE instr(hook, '/') > 0""",
    "v_sent_instances": f"""
        SELECT {NAMES.format("s.subscriber")}, st.study_instance_uid, se.series_instance_uid, i.sop_instance_uid,
               s.sop_instance_uid AS sent_sop_instance_uid, s.sha256, s.state, s.sent_at, s.asked_at, s.confirmed_at
        FROM sent_instances s JOIN images i ON i.id = s.image_id JOIN series se ON se.id = i.series_id
             JOIN studies st ON st.id = se.study_id""",
}  # fmt: skip


def upgrade() -> None:
    op.add_column("hooks", sa.Column("paused", sa.Boolean(), server_default=sa.false(), nullable=False))
    for name, kind in COLUMNS.items():
        op.add_column("hooks", sa.Column(name, kind, nullable=True))
    op.create_table(
        "sent_instances",
        sa.Column("image_id", sa.Integer(), nullable=False),
        sa.Column("subscriber", sa.String(length=130), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("sent_at", sa.DateTime(), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=True),
        sa.Column("asked_at", sa.DateTime(), nullable=True),
        sa.Column("asks", sa.Integer(), nullable=False),
        sa.Column("confirmed_at", sa.DateTime(), nullable=True),
        sa.CheckConstraint("state IN ('sent', 'owed', 'asked', 'confirmed', 'lost')", name="ck_sent_instances_state"),
        sa.ForeignKeyConstraint(
            ["image_id"], ["images.id"], name="fk_sent_instances_image_id_images", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("image_id", "subscriber", name="pk_sent_instances"),
    )
    op.create_index("ix_sent_instances_transaction_uid", "sent_instances", ["transaction_uid"])
    op.execute(
        "CREATE INDEX ix_sent_instances_unconfirmed ON sent_instances (subscriber) WHERE state IN ('owed', 'asked')"
    )
    for view, change in ONLY_HOOKS.items():
        change_view(op.get_bind(), view, [change])
    for name, query in VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {query}")


def downgrade() -> None:
    for name in VIEWS:
        op.execute(f"DROP VIEW {name}")
    for view, change in ONLY_HOOKS.items():
        change_view(op.get_bind(), view, [change[::-1]])
    op.drop_index("ix_sent_instances_unconfirmed", table_name="sent_instances")
    op.drop_index("ix_sent_instances_transaction_uid", table_name="sent_instances")
    op.drop_table("sent_instances")
    op.execute("DELETE FROM hooks WHERE instr(name, '/') > 0")
    op.execute("DELETE FROM deliveries WHERE instr(hook, '/') > 0")
    for name in ("paused", *COLUMNS):
        op.execute(f"ALTER TABLE hooks DROP COLUMN {name}")
