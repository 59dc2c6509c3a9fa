"""Peers that receive what a node sends, for tests."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt


@contextmanager
def listening(title: str, handlers: Sequence[Any], *sop_classes: str, **options: Any) -> Iterator[int]:
    """Run a peer that supports some classes; its port."""
    ae = AE(title)
    for sop_class in sop_classes:
        ae.add_supported_context(sop_class, **options)
    server: Any = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[*handlers])
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()


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


class Proxy:
    """Passes bytes between a node and its peer, and may change the answers of the peer, or pass nothing any more."""

    def __init__(self, port: int) -> None:
        self._there = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self.is_frozen = False
        self.limit: int | None = None  # connections that are accepted from now on
        self.changed: Callable[[bytes], bytes] = lambda answer: answer
        self._open: list[socket.socket] = [self._listening]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *raised: object) -> None:
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def cut(self) -> None:
        """Break the connections that are open."""
        for one in self._open[1:]:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                if self.limit == 0:
                    near.close()
                    continue
                self.limit = None if self.limit is None else self.limit - 1
                far = socket.create_connection(("127.0.0.1", self._there))
                self._open += [near, far]
                for one, other, is_answer in ((near, far, False), (far, near, True)):
                    threading.Thread(target=self._pass, args=(one, other, is_answer), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while data := one.recv(1 << 16):
                if not self.is_frozen:
                    other.sendall(self.changed(data) if is_answer else data)
            other.shutdown(socket.SHUT_RDWR)


class Stow:
    """A DICOMweb server that answers as it is told to, and remembers the instances of each request."""

    def __init__(self) -> None:
        self.requests: list[list[str]] = []
        self.answer: Callable[[list[str]], tuple[int, Any]] = lambda uids: (200, self.stored(uids))
        self.search = 200
        peer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
                parts = message_from_bytes(head + body).get_payload()
                uids = [str(dcmread(BytesIO(part.get_payload(decode=True))).SOPInstanceUID) for part in parts]
                peer.requests.append(uids)
                self._say(*peer.answer(uids))

            def do_GET(self) -> None:
                self._say(peer.search, [])

            def _say(self, status: int, content: Any) -> None:
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.send_header("location", "http://192.0.2.1/")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @staticmethod
    def stored(uids: Sequence[str], failed: dict[str, int] | None = None) -> Any:
        """An answer that names what was stored, and what was not with the reason of each (PS3.18 10.5.3)."""

        def item(uid: str) -> dict[str, Any]:
            return {"00081155": {"vr": "UI", "Value": [uid]}}

        reasons = [item(uid) | {"00081197": {"vr": "US", "Value": [why]}} for uid, why in (failed or {}).items()]
        references = [item(uid) for uid in uids if uid not in (failed or {})]
        return {"00081199": {"vr": "SQ", "Value": references}, "00081198": {"vr": "SQ", "Value": reasons}}

    def __enter__(self) -> Stow:
        return self

    def __exit__(self, *raised: object) -> None:
        self._server.shutdown()
        self._server.server_close()
