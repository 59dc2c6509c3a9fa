"""A file of the root as a response: in parts if asked for, and not at all where whoever asks has it already."""

from __future__ import annotations

from pathlib import Path

from fastapi import Request, Response
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

GONE = "its file is not there: `voxelnode fsck` tells more"


def file_response(request: Request, path: Path, media_type: str, name: str, sha256: str) -> Response:
    """Send a file whose path comes from the index, never from a request.

    Parameters
    ----------
    name : str
        What it is called where it is saved.
    sha256 : str
        Of its content: the entity tag, RFC 9110 8.8.3.

    Raises
    ------
    HTTPException
        410: the index knows it, but it is gone.
    """
    etag = f'"{sha256}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if _has(request.headers.get("if-none-match", ""), etag):
        return Response(status_code=304, headers=headers)
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise HTTPException(410, GONE) from None
    return FileResponse(path, media_type=media_type, filename=name, stat_result=stat, headers=headers)


def _has(tags: str, etag: str) -> bool:
    """Whether `If-None-Match` names an entity tag; the weak comparison is enough (RFC 9110 13.1.2)."""
    return any(tag.strip().removeprefix("W/") in (etag, "*") for tag in tags.split(","))
