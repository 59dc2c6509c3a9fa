"""Whoever is told by hooks, for tests: a real HTTP server that answers as it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from node.api import HookSettings, Settings
from node.notify.channel import Channel, hook_channel


def channel_of(name: str, hook: HookSettings) -> Channel:
    """Return the channel of a hook by itself."""
    return hook_channel(Settings(hooks={name: hook}), name)


def with_kind(keys: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of a hook with the kind of its receiver, unless they have one."""
    for key, kind in (("url", "webhook"), ("command", "command"), ("plugin", "plugin")):
        if key in keys:
            return {"kind": kind, **keys}
    return keys


@dataclass(frozen=True)
class Received:
    peer: tuple[str, int]
    headers: dict[str, str]
    body: bytes
    request: str = ""
    """Method and path."""

    @property
    def content(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


@dataclass(frozen=True)
class Answer:
    status: int = 204
    headers: tuple[tuple[str, str], ...] = ()
    after: threading.Event | None = None
    """Answered once this is set."""


class Receiver:
    """A server on loopback; `answer` says what becomes of each message, which are kept in `received`."""

    def __init__(self, answer: Callable[[Received], Answer] = lambda received: Answer()) -> None:
        self.received: list[Received] = []
        self._received = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                one = Received(self.client_address, headers, body, f"{self.command} {self.path}")
                with receiver._received:
                    receiver.received.append(one)
                    receiver._received.notify_all()
                reported = answer(one)
                if reported.after is not None:
                    reported.after.wait(60)
                self.send_response(reported.status)
                for name, value in reported.headers:
                    self.send_header(name, value)
                if reported.status != 204:
                    self.send_header("content-length", "0")
                self.end_headers()

            do_GET = do_PUT = do_POST

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/told"

    def events(self) -> list[str]:
        return [one.content["event"] for one in self.received]

    def wait_for(self, count: int, seconds: float = 30) -> list[Received]:
        """What came, once it is so many messages."""
        with self._received:
            assert self._received.wait_for(lambda: len(self.received) >= count, seconds), (
                f"{len(self.received)} of {count} messages: {self.events()}"
            )
            return list(self.received)

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
