"""Make the paths of the views from the place of the database, so that they follow a root that is moved or copied.

In a file that is not called `index.sqlite`, and so lies in no root, they are relative.
"""

from alembic import op

from node.index.engine.view_changes import change_view

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

VIEWS = ("v_images", "v_volumes", "v_conflicts")
RECORDED = """(SELECT value FROM about WHERE "key" = 'root') || '/' || """
PLACE = """coalesce((SELECT CASE WHEN count(*) = 1 THEN substr(max(file), 1, length(max(file)) - 12) END
                FROM pragma_database_list WHERE substr(file, -13) = '/index.sqlite'), '') || """


def upgrade() -> None:
    for view in VIEWS:
        change_view(op.get_bind(), view, [(RECORDED, PLACE)])
    op.execute("DELETE FROM about WHERE \"key\" = 'root'")


def downgrade() -> None:
    for view in VIEWS:
        change_view(op.get_bind(), view, [(PLACE, RECORDED)])
