"""Whose turn it is, what is settled, and where a file is: what is asked of an index that several hosts may share.

An index has one host, or several that also share an object store. What claims, delivers, reads behind a cursor or opens
a file asks the `Turn` of its index, and reads as if there were one host: `OneHost` has every turn, and every file is
here. `node.extensions.postgresql.several` answers for one of several.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, true

from node.errors import VoxelnodeError

FOLLOWED = ("events", "images")
"""Tables whose rows are read in the order of their ids, behind a cursor, or have somebody send what is owed."""

COMPLETED = "completed"

Settled = Mapping[str, int]
"""For each table of `FOLLOWED`, the id up to which every row is committed, or never will be: a cursor may pass it; as
`COMPLETED`, a number that is another one after each commit."""


def is_settled(settled: Settled | None, id: Any) -> ColumnElement[bool]:
    """Return the condition that a cursor may pass a row by its column `id`; None: it may pass all."""
    return true() if settled is None else id <= settled[id.table.name]


class TurnLost(VoxelnodeError):
    """Another host does by now what this one was about to record."""


class Turn(Protocol):
    """What this host may do, and has.

    `host`: the name by which rows say that something is of this host; None: there is one host, and they say nothing.
    `holder`: the name by which rows say that only the disk of this host has a file; None: it shares no object store.
    """

    host: str | None
    holder: str | None

    def has(self, work: str) -> bool:
        """Return whether this host is the one that does now what several must not do at a time."""

    def require(self, connection: Connection, work: str) -> None:
        """Return if this host does that, and no other takes it over before this transaction ends."""

    def must_wait(self, now: dt.datetime) -> bool:
        """Return whether another host has acknowledged instances that are not in the index after a second."""

    def abandoned(self, now: dt.datetime) -> ColumnElement[bool] | None:
        """Return the condition of series whose claims other hosts have left behind; None: there is no other host."""

    def others_subscribers(self, connection: Connection) -> set[str]:
        """Return the hooks and destinations in the configurations of other hosts."""

    def settled(self) -> Settled | None:
        """Return up to which ids a cursor may read rows, to be asked before they are read; None: all that are there."""

    def is_own(self, host: Any) -> ColumnElement[bool]:
        """Return whether a row is of this host, by its column for the host."""

    def has_files_of(self, series: Any) -> ColumnElement[bool]:
        """Return whether this host can read all instances of a series, by the id of that: none is on another disk."""

    def is_away(self, holder: str | None) -> bool:
        """Return whether only the disk of another host has a file, by the holder in its row."""

    def now(self) -> dt.datetime:
        """Return the time of the clock that all hosts of the index share."""


class OneHost:
    """The host of an index that has one; see `Turn`."""

    host: str | None = None
    holder: str | None = None

    def has(self, work: str) -> bool:
        """See `Turn`; so for the methods below."""
        return True

    def require(self, connection: Connection, work: str) -> None: ...

    def must_wait(self, now: dt.datetime) -> bool:
        return False

    def abandoned(self, now: dt.datetime) -> ColumnElement[bool] | None:
        return None

    def others_subscribers(self, connection: Connection) -> set[str]:
        return set()

    def settled(self) -> Settled | None:
        """One writer commits its rows in the order of their numbers."""
        return None

    def is_own(self, host: Any) -> ColumnElement[bool]:
        return true()

    def has_files_of(self, series: Any) -> ColumnElement[bool]:
        return true()

    def is_away(self, holder: str | None) -> bool:
        return False

    def now(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC)
