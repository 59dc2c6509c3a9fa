"""What a look at an index and a view of it have in common. This module loads no SQLAlchemy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from node.index.engine.view_rows import Queries, ViewRows, has_newest_schema
from node.index.nouns.views import AboutViews

Added = TypeVar("Added")


class Snapshot(ViewRows, AboutViews):
    """One snapshot of an index: what is read of all of it."""

    def views(self, kind: Callable[[Queries], Added]) -> Added:
        """Return what reads views of an extension, in this snapshot."""
        return kind(self._queries)

    @property
    def has_newest_schema(self) -> bool:
        """Whether the last migration of the core is that of this version."""
        return has_newest_schema(self._queries)

    def count_levels(self) -> dict[str, int]:
        """Count patients, studies, series and instances."""
        tables = {"patients": "patients", "studies": "studies", "series": "series", "instances": "images"}
        return {level: self._number(f"SELECT count(*) FROM {table}") for level, table in tables.items()}

    def _about(self, key: str) -> str | None:
        row = self._row('SELECT value FROM about WHERE "key" = :key', key=key)
        return None if row is None else str(row["value"])
