"""A newer version of the node: this one with one more migration, in a folder of its own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import indent

from node.index.engine import schema
from node.index.models import REVISION

VARIABLE = "TESTS_MIGRATIONS"
"""Variable of a node that is a newer version: the folder of its migrations."""

_MIGRATION = """\
import sqlalchemy as sa
from alembic import op

from node.index.engine.view_changes import change_view

revision = "{revision}"
down_revision = "{before}"
branch_labels = None
depends_on = None

expands = {expands}


def upgrade() -> None:
{body}
"""


def newer_migrations(folder: Path, body: str, *, expands: bool, before: Path | None = None) -> Path:
    """Make a folder with all migrations and one more; return it. `before`: the folder of the version before it."""
    shutil.copytree(before or schema.folder(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    last = _last(folder)
    revision = f"{int(last) + 1:04}"
    text = _MIGRATION.format(revision=revision, before=last, expands=expands, body=indent(body, "    "))
    (folder / "versions" / f"{revision}_newer.py").write_text(text)
    return folder


def become_newer(folder: Path) -> None:
    """Let this process be the version with the migrations of a folder."""
    schema.folder = lambda: folder
    _set_revision(_last(folder))


@contextmanager
def newer(folder: Path) -> Iterator[None]:
    """Be a newer version for a while."""
    own = schema.folder
    become_newer(folder)
    try:
        yield
    finally:
        schema.folder = own
        _set_revision(REVISION)


def _last(folder: Path) -> str:
    return max(path.name[:4] for path in folder.glob("versions/[0-9]*.py"))


def _set_revision(revision: str) -> None:
    for name, module in tuple(sys.modules.items()):
        if name.startswith("node.index.") and hasattr(module, "REVISION"):
            module.REVISION = revision
