"""What each node makes for itself and is always the same, tests make once in a process.

An empty index takes a tenth of a second, because it goes through all migrations. That they make one out of nothing is
what tests/integration/test_index_schema.py is for, and the nodes of tests/acceptance/test_cli_serve.py start like that.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from node.index import database
from node.index.engine import FILE_NAME, upgrade


def share_indexes() -> None:
    """Have new indexes of this process, and of those that it forks, begin as a copy of one that was migrated."""
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
