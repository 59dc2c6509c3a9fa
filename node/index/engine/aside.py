"""An index that was set aside, for the one that takes its place: what can be read of it, whatever its schema."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Salvaged:
    """What was taken over: rows by table, and what could not be read.

    `altered` are the keys of files that are not as the old index knew them, `gone` the SOP Instance UIDs of instances
    that it knew and that have no file.
    """

    rows: Counter[str] = field(default_factory=Counter)
    unread: dict[str, str] = field(default_factory=dict)
    altered: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)


class OldIndex(AbstractContextManager["OldIndex"]):
    """The tables of an index that may be damaged or of an older schema."""

    def __init__(self) -> None:
        self.salvaged = Salvaged()

    @abstractmethod
    def rows(self, table: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the rows of a table that can be read, with the values that SQLite has; columns that its schema lacks
        are None."""


def column(name: str, there: set[str]) -> str:
    """Return a column of an old table in SQL, or NULL if its schema lacks it."""
    return f'"{name}"' if name in there else "NULL"
