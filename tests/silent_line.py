"""A line to a server of PostgreSQL that can fall silent, as behind a broken switch: nobody is told, nothing arrives."""

import ctypes
import socket
import struct
import threading
from contextlib import AbstractContextManager, closing, suppress

from tests.postgresql import Server

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
"""Of Linux, socket(7): a socket with a filter acknowledges nothing that the filter drops."""

_DROP = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF_RET | BPF_K, 0 bytes
_DROP_ALL = struct.pack("HL", 1, ctypes.addressof(_DROP))


class Line:
    """Connections over TCP to the socket of a server. Those that were open when it fell silent never come back, and the
    server does not notice that."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._is_silent = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, database: str, **parameters: str) -> str:
        """The URL of a database over this line; parameters are those of libpq."""
        query = "".join(f"&{name}={value}" for name, value in parameters.items())
        host, port = self._listener.getsockname()
        return f"postgresql+psycopg://voxelnode@{host}:{port}/{database}?sslmode=disable{query}"

    def silence(self) -> None:
        """Let nothing through, and acknowledge nothing, not even that somebody connects."""
        self._is_silent.set()
        for end in (self._listener, *self._ends):
            if end.family == socket.AF_INET:
                end.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, _DROP_ALL)

    def heal(self) -> None:
        """Let new connections through."""
        self._is_silent = threading.Event()
        self._listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)

    def close(self) -> None:
        for end in (self._listener, *self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                near = self._listener.accept()[0]
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(str(self._server.folder / ".s.PGSQL.5432"))
            self._ends += [near, far]
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=_forward, args=(source, target, self._is_silent), daemon=True).start()


def _forward(source: socket.socket, target: socket.socket, is_silent: threading.Event) -> None:
    with suppress(OSError):
        while (content := source.recv(1 << 16)) and not is_silent.is_set():
            target.sendall(content)
        if not is_silent.is_set():
            target.shutdown(socket.SHUT_WR)


def line_to(server: Server) -> AbstractContextManager[Line]:
    return closing(Line(server))
