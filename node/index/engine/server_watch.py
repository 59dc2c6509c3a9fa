"""Watches the server of an index beside the writer, which cannot tell why it waits while it waits for the server."""

from __future__ import annotations

from time import monotonic

import structlog

from node.background import BackgroundService
from node.index.engine.backend import Place, backend_at
from node.index.engine.writer import IndexWriter

log = structlog.get_logger()

STEP_SECONDS = 2.5
LOOK_SECONDS = 10.0
"""Interval between two looks for a server that has taken the place of the one that the writer knows."""

STALL_SECONDS = 5.0
"""The age of a transaction at which the server is asked what the transaction waits for."""


class ServerWatch(BackgroundService):
    """Finds out why a transaction is not committed, and whether another server has been promoted.

    Attributes
    ----------
    stall : str or None
        What keeps commits waiting, to be read after "the server of the index".
    former : str or None
        What is wrong if a server takes commits that has lost its place.
    """

    def __init__(self, place: Place, writer: IndexWriter) -> None:
        super().__init__("server of the index")
        self._place, self._writer = place, writer
        self._backend = backend_at(place)
        self._looked_at = monotonic()
        self.stall: str | None = None
        self._gives_up = False
        self.former: str | None = None

    @property
    def trouble(self) -> str | None:
        """As of every service; also what keeps the writer waiting."""
        return self.stall or super().trouble

    def give_up_stalls(self) -> None:
        """From now on, end the writing of this process when the server keeps it waiting."""
        self._gives_up = True

    def step(self) -> float:
        """Look at the writer, and now and then at the servers; return the seconds until the next look."""
        is_stalled = self._writer.busy_seconds > STALL_SECONDS
        if is_stalled or monotonic() > self._looked_at + LOOK_SECONDS:
            self._note_former(self._backend.look(self._place))
            self._looked_at = monotonic()
        stall = self._backend.why_waiting(self._place) if is_stalled else None
        if stall is not None and self.stall is None:
            log.warning("index_stalled", detail=f"the {self.name} {stall}")
        self.stall = stall
        if stall is not None and self._gives_up:
            self._writer.give_up(f"the {self.name} {stall}, and the node stops")
            self._backend.interrupt(self._place)
        return STEP_SECONDS

    def _note_former(self, former: str | None) -> None:
        if former is not None and former != self.former:
            log.error("former_primary", detail=former)
        self.former = former
