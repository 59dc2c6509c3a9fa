"""What a client demands of a change, checked in the transaction that makes the change."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection

Terms = Callable[[Connection], None]
"""The demands of one request: raises an exception if what it reads on the connection of the writer is not what the
client has seen; nothing is changed then. See `node.index.database.reading.checked`.

The change has locked its rows by then: a change of these rows by another host is either committed and seen here, or
follows.
"""
