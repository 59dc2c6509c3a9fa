"""Limits on the size and duration of request bodies, enforced while they arrive, without buffering."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.web.problem_types import BODY_TOO_LARGE, INVALID_REQUEST, UNSUPPORTED_BODY, ProblemType
from node.web.problems import respond

MAX_BODY_BYTES = 1_000_000
"""Largest body other than an upload; real forms and JSON are a hundred times smaller."""

UPLOADS = "/dicom-web/studies"
"""Bodies below this path are instances (STOW-RS)."""

JOB_FILE = re.compile(r"/api/v1/jobs/[0-9a-f]{32}/files/[^/]+")
"""Path of a file that a receiver of a message gives as a result."""

PATIENCE_SECONDS = 30.0
MIN_BYTES_PER_SECOND = 10_000
"""Minimum average speed of a body after the first `PATIENCE_SECONDS`. Slower clients are disconnected, so that nobody
can keep a connection open byte by byte."""

MAX_LOGIN_BYTES = 4096
"""Largest body of a login: strangers send it."""


class Limit(NamedTuple):
    """The limit of one kind of body; with `bytes_per_second` None, the whole body must arrive in `patience_seconds`."""

    maximum_bytes: int
    patience_seconds: float
    bytes_per_second: int | None


LOGIN_PATHS = frozenset({"/login", "/logout"})
LOGIN = Limit(MAX_LOGIN_BYTES, 5.0, None)

CLOSE = {"Connection": "close"}
"""Header of responses sent without reading the body."""


class BodyLimits:
    """ASGI middleware: answers 413, 408, 415 or 400 for bodies that are too large, too slow, compressed or ambiguous.

    A compressed body (``Content-Encoding``) may expand a thousandfold; DICOM has compression of its own.
    """

    def __init__(
        self,
        app: ASGIApp,
        upload_bytes: int,
        patience_seconds: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._app, self._upload_bytes, self._patience, self._clock = app, upload_bytes, patience_seconds, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit(scope["path"])
        refusal = _refusal(Headers(scope=scope), limit.maximum_bytes)
        if refusal is None:
            await self._app(scope, self._counted(receive, limit), send)
        else:
            await respond(Request(scope), *refusal, headers=CLOSE)(scope, receive, send)

    def _limit(self, path: str) -> Limit:
        if path in LOGIN_PATHS:
            return LOGIN
        is_upload = path.startswith(UPLOADS) or JOB_FILE.fullmatch(path) is not None
        max_bytes = self._upload_bytes if is_upload else MAX_BODY_BYTES
        return Limit(max_bytes, self._patience, MIN_BYTES_PER_SECOND)

    def _counted(self, receive: Receive, limit: Limit) -> Receive:
        waited, count, is_whole = 0.0, 0, False

        async def receive_counted() -> Message:
            nonlocal waited, count, is_whole
            if is_whole:  # the next message is the disconnect, whenever it happens
                return await receive()
            earned = count / limit.bytes_per_second if limit.bytes_per_second is not None else 0.0
            began, left = self._clock(), limit.patience_seconds + earned - waited
            try:
                message = await asyncio.wait_for(receive(), max(left, 0.0))
            except TimeoutError:
                raise HTTPException(408, "the request body arrived too slowly", CLOSE) from None
            waited += self._clock() - began  # count only time spent waiting for the client; our disk may be slow too
            count += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if count > limit.maximum_bytes:
                raise HTTPException(413, _too_large(limit.maximum_bytes), CLOSE)
            return message

        return receive_counted


def _refusal(headers: Headers, max_bytes: int) -> tuple[ProblemType, str] | None:
    encoding = headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        return UNSUPPORTED_BODY, f"compressed request bodies are not accepted; Content-Encoding is {encoding[:32]!r}"
    # Two lengths allow request smuggling through a proxy.
    if "content-length" in headers and "transfer-encoding" in headers:
        return (
            INVALID_REQUEST,
            "a request must not have both Content-Length and Transfer-Encoding (RFC 9112 6.1)",
        )
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > max_bytes:
        return BODY_TOO_LARGE, _too_large(max_bytes)
    return None


def _too_large(max_bytes: int) -> str:
    return f"the request body is larger than {max_bytes} bytes"
