"""Peers that receive what a node sends, for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt


class Pacs:
    """A peer that keeps what it gets in order, and answers as it is told to."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.data_sets: list[Any] = []
        self.associations = 0
        self.answer: Callable[[str], int] = lambda uid: 0x0000
        self._server: Any = None
        self.port = 0

    def up(self, *classes: str) -> None:
        ae = AE("PACS")
        for sop_class in classes or (CTImageStorage,):
            ae.add_supported_context(sop_class, [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_ACCEPTED, self._accepted)]
        self._server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        self.port = self._server.server_address[1]

    def down(self) -> None:
        if self._server is not None:
            self._server.shutdown()
        self._server = None

    def forget(self) -> None:
        """Begin as a new peer at the same address."""
        self.taken.clear()
        self.data_sets.clear()
        self.associations, self.answer = 0, lambda uid: 0x0000
        if self._server is None:
            self.up()

    def __enter__(self) -> Pacs:
        self.up()
        return self

    def __exit__(self, *raised: object) -> None:
        self.down()

    def _accepted(self, event: Any) -> None:
        self.associations += 1

    def _store(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        status = self.answer(uid)
        if status == 0x0000:
            self.taken.append(uid)
            self.data_sets.append(event.dataset)
        return status
