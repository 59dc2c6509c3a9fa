"""The HTTP server: uvicorn on a thread of its own, beside the DICOM listener."""

from __future__ import annotations

import socket
import threading

import uvicorn
from fastapi import FastAPI

from node.config import Web
from node.errors import UsageError

BACKLOG = 128
START_SECONDS = 10.0


class WebServer:
    """Serves one application.

    Raises
    ------
    UsageError
        The address cannot be bound (by `start`).
    """

    def __init__(self, web: Web, app: FastAPI) -> None:
        self._web = web
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="on", server_header=False, workers=1)
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._serve, name="web", daemon=True)
        self._socket: socket.socket | None = None

    def start(self) -> tuple[str, int]:
        """Bind and serve; returns the address and the port, which the kernel chose if 0 was asked for."""
        address = (self._web.host, self._web.port)
        try:
            self._socket = socket.create_server(address, family=_family(self._web.host), backlog=BACKLOG)
        except OSError as error:
            raise UsageError(
                f"cannot serve HTTP on {address[0]} port {address[1]}: {error.strerror or error}; "
                "set [web] host and port to an address of this machine that is free, or [web] enabled = false"
            ) from error
        host, port = self._socket.getsockname()[:2]
        self._thread.start()
        if not self._server.ready.wait(START_SECONDS):
            raise UsageError("the web server did not start")
        return str(host), int(port)

    def stop(self, seconds: float) -> None:
        """Take no more requests and let those under way finish, for `seconds` at most."""
        if self._socket is None:
            return
        self._server.should_exit = True
        self._thread.join(seconds)
        self._server.force_exit = True
        self._thread.join(1.0)

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket] if self._socket else None)


class _Server(uvicorn.Server):
    """Tells when it is ready; leaves the signals to the command that serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.ready.set()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
