"""A newer version of the node: this one with one more migration, in a folder of its own."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import indent

from node.index.rows import place
from node.index.rows.about_keys import REVISION, SCHEMA

NEWER = f"r{int(REVISION[1:]) + 1:04}"
"""Its schema."""

_MIGRATION = """\
import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{before}"
branch_labels = None
depends_on = None


def upgrade() -> None:
{body}


def downgrade() -> None:
{back}
"""


@contextmanager
def newer(folder: Path, body: str, back: str = "pass") -> Iterator[None]:
    """Be a version whose last migration does what `body` says, and `back` on the way back; `folder` is a new one."""
    shutil.copytree(place.folder(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    text = _MIGRATION.format(revision=NEWER, before=REVISION, body=indent(body, "    "), back=indent(back, "    "))
    (folder / "versions" / f"{NEWER}_newer.py").write_text(text)
    own = place.folder
    place.folder = lambda: folder  # type: ignore[assignment]
    _set_revision(NEWER)
    try:
        yield
    finally:
        place.folder = own
        _set_revision(REVISION)


def _set_revision(revision: str) -> None:
    for name, module in tuple(sys.modules.items()):
        if name.startswith("node.") and hasattr(module, "REVISION"):
            module.REVISION = revision
        if name.startswith("node.") and hasattr(module, "SCHEMA"):
            module.SCHEMA = SCHEMA - {REVISION} | {revision}
