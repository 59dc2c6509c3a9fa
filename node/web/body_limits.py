"""How large, and how slow, a request body may be; bodies are counted as they come, none is held here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.web.problems import respond

MAX_BODY_BYTES = 1_000_000
"""Largest body of all that is no upload: forms and JSON are a hundred times smaller."""

UPLOADS = "/dicom-web/"
"""Below this, bodies are instances (STOW-RS)."""

PATIENCE_SECONDS = 30.0
MIN_BYTES_PER_SECOND = 10_000
"""A body must come at this speed on average, after `PATIENCE_SECONDS` that everyone has: who holds a connection open
for nothing, byte by byte, is cut off."""

CLOSE = {"Connection": "close"}
"""Where a body is left unread."""


class BodyLimits:
    """ASGI middleware: answers 413, 408, 415 and 400 for bodies that are too large, too slow, compressed or unclear.

    A compressed body (``Content-Encoding``) might be a thousand times as large as it seems; DICOM has its own means.
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
        most = self._upload_bytes if scope["path"].startswith(UPLOADS) else MAX_BODY_BYTES
        refusal = _refusal(Headers(scope=scope), most)
        if refusal is None:
            await self._app(scope, self._counted(receive, most), send)
        else:
            await respond(Request(scope), *refusal, headers=CLOSE)(scope, receive, send)

    def _counted(self, receive: Receive, most: int) -> Receive:
        waited, count, whole = 0.0, 0, False

        async def receive_counted() -> Message:
            nonlocal waited, count, whole
            if whole:  # what comes now tells that the client has gone, whenever that will be
                return await receive()
            began, left = self._clock(), self._patience + count / MIN_BYTES_PER_SECOND - waited
            try:
                message = await asyncio.wait_for(receive(), max(left, 0.0))
            except TimeoutError:
                raise HTTPException(408, "the request body comes too slowly", CLOSE) from None
            waited += self._clock() - began  # the time of the client alone: our disk may be slow too
            count += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if count > most:
                raise HTTPException(413, _too_large(most), CLOSE)
            return message

        return receive_counted


def _refusal(headers: Headers, most: int) -> tuple[int, str] | None:
    encoding = headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        return 415, f"request bodies are not taken compressed, but Content-Encoding is {encoding[:32]!r}"
    if "content-length" in headers and "transfer-encoding" in headers:
        return 400, "a request tells either Content-Length or Transfer-Encoding (RFC 9112 6.1)"  # or a proxy may err
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > most:
        return 413, _too_large(most)
    return None


def _too_large(most: int) -> str:
    return f"the request body is larger than {most} bytes"
