"""Responses generated while they are sent."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping

from anyio import CancelScope
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class Streamed(StreamingResponse):
    """A streamed response; `content` and its open files are closed at the end, even if the client disconnects."""

    def __init__(self, content: Iterator[bytes], status: int, headers: Mapping[str, str]) -> None:
        super().__init__(content, status, headers)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if isinstance(self._content, Generator):
                with CancelScope(shield=True):
                    await run_in_threadpool(self._content.close)
