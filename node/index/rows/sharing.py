"""How hosts share an index: which host does what, how far a cursor may read, and which host has a file.

An index has one host, or several that also share an object store. Code that claims, delivers, reads behind a cursor or
opens a file asks the `Sharing` of its index, and needs no case for several hosts: the only one has every lease and
every file. `node.extensions.postgresql.several` answers for one of several hosts.
"""

import datetime as dt
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, true

from node.errors import VoxelnodeError

FOLLOWED = ("events", "images")
"""Tables whose rows are read in the order of their ids, behind a cursor, or make a subscriber deliver."""

COMPLETED = "completed"

Watermarks = Mapping[str, int]
"""By table of `FOLLOWED`, the id up to which every row is committed or never will be: a cursor may pass it. The number
under `COMPLETED` differs after each commit."""


class LeaseLost(VoxelnodeError):
    """Another host has taken over the work that this one was about to record."""


class Sharing:
    """The leases and the files of this host; here, of the only one of its index, which has all of them.

    `host`: its name in rows that belong to a host; None: there is only one. `holder`: its name in rows of files that
    only its disk has; None: it shares no object store.
    """

    host: str | None = None
    holder: str | None = None

    def has(self, work: str) -> bool:
        """Return whether this host has the lease of work that only one host does at a time."""
        return True

    def require(self, connection: Connection, work: str) -> None:
        """Raise LeaseLost unless this host has the lease, and keeps it until this transaction ends."""

    def must_wait(self, now: dt.datetime) -> bool:
        """Return whether instances that another host acknowledged a second ago are still not in the index."""
        return False

    def abandoned(self, now: dt.datetime) -> ColumnElement[bool] | None:
        """Return the condition of series that were claimed by hosts which are gone; None: there is no other host."""
        return None

    def others_subscribers(self, connection: Connection) -> set[str]:
        """Return the hooks and destinations in the configurations of other hosts."""
        return set()

    def watermarks(self) -> Watermarks | None:
        """Return up to which ids a cursor may read; ask before reading. None: all rows.

        One writer commits its rows in the order of their numbers.
        """
        return None

    def is_own(self, host: Any) -> ColumnElement[bool]:
        """Return the condition that a row belongs to this host, by its column `host`."""
        return true()

    def has_files_of(self, series: Any) -> ColumnElement[bool]:
        """Return the condition that no file of a series (its id) is only on the disk of another host."""
        return true()

    def is_away(self, holder: str | None) -> bool:
        """Return whether only the disk of another host has a file, by `holder` of its row."""
        return False

    def now(self) -> dt.datetime:
        """Return the time of the clock that all hosts share."""
        return dt.datetime.now(dt.UTC)
