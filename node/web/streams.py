"""Bounds on connections that stay open to report what happens: streams of events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.exceptions import HTTPException

from node.addresses import block_of
from node.web.problems import RETRY

POLL_SECONDS = 0.5
"""Interval at which a stream looks for news."""

STREAM_SECONDS = 900.0
"""Lifetime of a stream. The client then reconnects, and is refused if its account has been removed."""

MAX_STREAMS, MAX_STREAMS_OF_ACCOUNT, MAX_STREAMS_OF_ADDRESS = 50, 10, 20
"""Open streams: of all, of one account, and of one address."""


class Streams:
    """The open streams, by account and address. Only the event loop uses it."""

    def __init__(self) -> None:
        self._open: Counter[tuple[str, str]] = Counter()

    @property
    def count(self) -> int:
        """The number of open streams."""
        return self._open.total()

    @contextmanager
    def opened(self, account: str, address: str) -> Iterator[None]:
        """Count a stream while it is open.

        Raises
        ------
        HTTPException
            503: there are too many.
        """
        key = (account, block_of(address))
        of_account, of_address = (
            sum(count for other, count in self._open.items() if other[part] == key[part]) for part in (0, 1)
        )
        for count, maximum, whose in (
            (self.count, MAX_STREAMS, ""),
            (of_account, MAX_STREAMS_OF_ACCOUNT, " of this account"),
            (of_address, MAX_STREAMS_OF_ADDRESS, " of this address"),
        ):
            if count >= maximum:
                raise HTTPException(503, f"{maximum} event streams{whose} are open already", RETRY)
        self._open[key] += 1
        try:
            yield
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]
