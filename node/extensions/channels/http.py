"""One POST at a time to a receiver of messages, ended by its deadline or by the node that stops."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from node.errors import UsageError
from node.index.database.work_loop import Interrupted
from node.notify.channel import NotDelivered
from node.reach import OutOfReach, Reach
from node.tls import client_context
from node.version import __version__

BODY_BYTES = 65536
"""Bytes of a response that are read, so that the connection can be reused."""

DEFAULT_PORTS = {"http": 80, "https": 443}

_CHECK_SECONDS = 0.2


@dataclass(slots=True)
class Answer:
    """The part of the response that has arrived; `body` has at most `BODY_BYTES` and a chunk."""

    status: int | None = None
    retry_after: str | None = None
    location: str | None = None
    body: bytearray = field(default_factory=bytearray)


class HttpSender:
    """Post to one receiver, one at a time. Not thread-safe.

    Certificates are verified and redirects are not followed. An attempt takes at most `timeout_seconds`, however slowly
    the receiver answers. `ca_file`: certificate authorities in addition to those of the system; see
    `node.tls.client_context`. `reach`: which addresses it may connect to; None: all. Raises UsageError if `ca_file`
    cannot be read or contains no certificate.
    """

    def __init__(self, timeout_seconds: float, ca_file: Path | None, reach: Reach | None = None) -> None:
        self._timeout_seconds, self._reach = timeout_seconds, reach
        try:
            self._context = client_context(ca_file)
        except OSError as error:  # SSLError too
            raise UsageError(f"ca_file {ca_file} cannot be used: {error.strerror or error}") from error
        self._runner: asyncio.Runner | None = None
        self._client: httpx2.AsyncClient | None = None

    def send(self, url: str, headers: dict[str, str], body: bytes, cancelled: threading.Event) -> tuple[int, Answer]:
        """Post a body; return the status and the answer, of which the end may be missing.

        Raises NotDelivered if there is no answer. Raises Interrupted if `cancelled` was set first.
        """
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(self._send(url, headers, body, cancelled))

    def close(self) -> None:
        """Close the connection."""
        if self._runner is not None:
            if self._client is not None:
                self._runner.run(self._client.aclose())
            self._runner.close()
        self._runner = self._client = None

    async def _send(
        self, url: str, headers: dict[str, str], body: bytes, cancelled: threading.Event
    ) -> tuple[int, Answer]:
        answer = Answer()
        task = asyncio.ensure_future(self._request(url, headers, body, answer))
        deadline = time.monotonic() + self._timeout_seconds
        while not task.done() and not cancelled.is_set() and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait({task}, timeout=min(_CHECK_SECONDS, left))
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError, httpx2.HTTPError):
                await task
        elif (error := task.exception()) is not None and answer.status is None:
            raise _not_delivered(url, error)
        if answer.status is None:
            if cancelled.is_set():
                raise Interrupted
            raise NotDelivered(f"no answer within {self._timeout_seconds:g} s")
        return answer.status, answer

    async def _request(self, url: str, headers: dict[str, str], body: bytes, answer: Answer) -> None:
        if self._client is None:
            # `_send` enforces the deadline of an attempt: the timeouts of the client restart with every byte.
            self._client = httpx2.AsyncClient(
                verify=self._context, follow_redirects=False, timeout=self._timeout_seconds
            )
        sent = {"user-agent": f"voxelnode/{__version__}", "accept-encoding": "identity", **headers}  # read raw
        extensions = {"trace": self._reach.watch(httpx2.URL(url).raw_host.decode())} if self._reach is not None else {}
        async with self._client.stream("POST", url, content=body, headers=sent, extensions=extensions) as response:
            answer.status, answer.retry_after = response.status_code, response.headers.get("retry-after")
            answer.location = response.headers.get("location")
            async for chunk in response.aiter_raw():
                answer.body += chunk
                if len(answer.body) > BODY_BYTES:
                    return


def _not_delivered(url: str, error: BaseException) -> NotDelivered:
    """Return the reason why no response arrived; the messages of these errors name only machines, never patients."""
    if isinstance(error, NotDelivered):
        return error
    if isinstance(error, OutOfReach):
        return NotDelivered(str(error))
    if isinstance(error, httpx2.TimeoutException):
        return NotDelivered("no answer in time")
    if isinstance(error, httpx2.ConnectError):
        cause = _cause(error)
        if isinstance(cause, ConnectionRefusedError):
            address = urlsplit(url)
            place = f"{address.hostname} port {address.port or DEFAULT_PORTS.get(address.scheme)}"
            return NotDelivered(f"nothing listens on {place} (connection refused): check that the receiver is running")
        return NotDelivered(f"the receiver cannot be reached: {cause}")
    if isinstance(error, httpx2.HTTPError | OSError):
        return NotDelivered(f"{type(error).__name__}: {error}")
    return NotDelivered(f"{type(error).__name__} while sending")


def _cause(error: BaseException) -> BaseException:
    """Return what the system said, which the libraries between replace by words of their own."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
