"""Watches the server of an index beside the writer, which cannot tell why it waits for the server while it does."""

from __future__ import annotations

import structlog

from node.background import BackgroundService
from node.index.engine.backend import Place, backend_at
from node.index.engine.writer import IndexWriter

log = structlog.get_logger()

STEP_SECONDS = 2.5
STALL_SECONDS = 5.0
"""The age of a transaction at which the server is asked what the transaction waits for."""


class ServerWatch(BackgroundService):
    """Finds out why a transaction is not committed.

    Attributes
    ----------
    stall : str or None
        What keeps commits waiting, to be read after "the server of the index".
    """

    def __init__(self, place: Place, writer: IndexWriter) -> None:
        super().__init__("server of the index")
        self._place, self._writer = place, writer
        self._backend = backend_at(place)
        self.stall: str | None = None
        self._gives_up = False

    @property
    def trouble(self) -> str | None:
        """As of every service; also what keeps the writer waiting."""
        return self.stall or super().trouble

    def give_up_stalls(self) -> None:
        """From now on, end the writing of this process when the server keeps it waiting."""
        self._gives_up = True

    def step(self) -> float:
        """Look at the writer; return the seconds until the next look."""
        is_stalled = self._writer.busy_seconds > STALL_SECONDS
        stall = self._backend.why_waiting(self._place) if is_stalled else None
        if stall is not None and self.stall is None:
            log.warning("index_stalled", detail=f"the {self.name} {stall}")
        self.stall = stall
        if stall is not None and self._gives_up:
            self._writer.give_up(f"the {self.name} {stall}, and the node stops")
            self._backend.interrupt(self._place)
        return STEP_SECONDS
