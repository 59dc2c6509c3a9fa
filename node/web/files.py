"""A file of the root as a response, with Range."""

from __future__ import annotations

from pathlib import Path

from fastapi import Response
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from node.web.problem_types import RANGE_NOT_SATISFIABLE, ProblemResponse

OCTETS = "application/octet-stream"

FILE_MISSING = "the file is missing: run `voxelnode fsck`"


class RangedFile(FileResponse):
    """A file or a part of it; a Range that cannot be read is ignored (RFC 9110 14.2)."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal: Message | None = None

        async def send_unless_refused(message: Message) -> None:
            nonlocal refusal
            if message["type"] == "http.response.start" and message["status"] in (400, 416):
                refusal = message
            elif refusal is None:
                await send(message)

        await super().__call__(scope, receive, send_unless_refused)
        if refusal is None:
            return
        if refusal["status"] == 400:
            headers = [(name, value) for name, value in scope["headers"] if name != b"range"]
            await super().__call__({**scope, "headers": headers}, receive, send)
            return
        length = self.headers["content-length"]
        detail = f"the file has {length} bytes, and the range starts beyond them"
        problem = ProblemResponse(RANGE_NOT_SATISFIABLE, detail, headers={"Content-Range": f"bytes */{length}"})
        await problem(scope, receive, send)


def file_response(path: Path, media_type: str, name: str, sha256: str | None) -> Response:
    """Send a file whose path comes from the index, never from a request.

    Parameters
    ----------
    name : str
        File name for a download.
    sha256 : str or None
        SHA-256 of the content, the entity tag (RFC 9110 8.8.3). If None, the tag is made of time and size.

    Raises
    ------
    HTTPException
        410: the file is in the index but not on disk.
    """
    headers = {"Cache-Control": "private, no-cache"} | ({"ETag": f'"{sha256}"'} if sha256 is not None else {})
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise HTTPException(410, FILE_MISSING) from None
    return RangedFile(path, media_type=media_type, filename=name, stat_result=stat, headers=headers)
