"""Floods: clients of several addresses that want every place of a port, at the speed of a slow line."""

import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

LINE_BYTES_PER_SECOND = 1_000_000 // 8
"""What all clients of a flood send together: 1 Mbit/s."""

CONNECTION_BYTES = 4 * 60
"""What opening and closing a connection takes of the line."""

HANDSHAKE_BYTES = 700
"""What a client sends in a handshake of TLS 1.3 without a certificate."""

DRIP_SECONDS = 1.0


class Flood:
    """Keeps `count` connections open from each of `addresses`; those that the node closes are opened again.

    Each sends `data` and then, every second, a piece of `drip`; with `tls`, after a handshake, each piece as a record.
    None reads anything.
    """

    def __init__(
        self,
        port: int,
        addresses: Sequence[str],
        count: int,
        data: Callable[[], bytes],
        drip: bytes = b"",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._port, self._data, self._drip, self._tls = port, data, drip, tls
        self._missing = [address for _ in range(count) for address in addresses]
        self._wanted = len(self._missing)
        self._open: dict[int, tuple[socket.socket, str]] = {}
        self._poll = select.poll()
        self._stopping, self._is_full = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="flood")
        self._sent_bytes, self._began = 0, 0.0

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._thread.start()
        assert self._is_full.wait(60), f"{len(self._open)} of {self._wanted} connections"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        for connection, _ in self._open.values():
            connection.close()

    def _run(self) -> None:
        dripped_at, opened = time.monotonic(), 0
        while not self._stopping.is_set():
            if self._missing and self._has_room():
                self._connect(self._missing.pop())
                opened += 1
            else:
                self._stopping.wait(0.005)
            if opened >= self._wanted:
                self._is_full.set()
            self._notice_closed()
            if self._drip and time.monotonic() > dripped_at + DRIP_SECONDS:
                dripped_at = time.monotonic()
                for connection, _ in list(self._open.values()):
                    self._send(connection, self._drip)

    def _has_room(self) -> bool:
        return self._sent_bytes <= (time.monotonic() - self._began) * LINE_BYTES_PER_SECOND

    def _connect(self, address: str) -> None:
        self._sent_bytes += CONNECTION_BYTES
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(2)
        try:
            connection.bind((address, 0))
            connection.connect(("127.0.0.1", self._port))
            if self._tls is not None:
                self._sent_bytes += HANDSHAKE_BYTES
                connection = self._tls.wrap_socket(connection, server_hostname="localhost")
        except OSError:
            connection.close()
            self._missing.append(address)
            return
        connection.setblocking(False)
        self._send(connection, self._data())
        self._open[connection.fileno()] = connection, address
        self._poll.register(connection, select.POLLRDHUP)

    def _send(self, connection: socket.socket, data: bytes) -> None:
        self._sent_bytes += len(data)
        with suppress(OSError):
            connection.send(data)

    def _notice_closed(self) -> None:
        for descriptor, _ in self._poll.poll(0):
            self._poll.unregister(descriptor)
            connection, address = self._open.pop(descriptor)
            connection.close()
            self._missing.insert(0, address)


def memory_bytes(process: int) -> int:
    """The memory that a process has now."""
    with open(f"/proc/{process}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
