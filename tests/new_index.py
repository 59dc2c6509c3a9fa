"""New roots of tests get a copy of an index that was migrated once: the migrations take a tenth of a second.

That migrations make an index out of nothing is what tests/integration/test_index_schema.py is for, and the nodes of
tests/acceptance/test_cli_serve.py start like that.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from node.index import database
from node.index.engine import FILE_NAME, upgrade


def copy_new_indexes() -> None:
    """Have `node.index.database.Index` copy instead of migrating, in this process and in those that it forks."""
    database.upgrade = _copy_or_upgrade  # type: ignore[attr-defined]


@cache
def migrated() -> tuple[bytes, str]:
    """A database of the newest schema, and its revision."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE_NAME
        _, revision = upgrade(path)
        return path.read_bytes(), revision  # the write-ahead log went into it when the last connection was closed


def _copy_or_upgrade(path: Path) -> tuple[str | None, str]:
    if path.exists():
        return upgrade(path)
    content, revision = migrated()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_bytes(content)
    return None, revision
