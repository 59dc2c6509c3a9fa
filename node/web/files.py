"""A file of the root as a response, with Range and If-None-Match."""

from __future__ import annotations

from pathlib import Path

from fastapi import Request, Response
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

from node.web.headers import has_etag

FILE_MISSING = "the file is missing: run `voxelnode fsck`"


def file_response(request: Request, path: Path, media_type: str, name: str, sha256: str) -> Response:
    """Send a file whose path comes from the index, never from a request.

    Parameters
    ----------
    name : str
        File name for a download.
    sha256 : str
        SHA-256 of the content, the entity tag (RFC 9110 8.8.3).

    Raises
    ------
    HTTPException
        410: the file is in the index but not on disk.
    """
    etag = f'"{sha256}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if has_etag(request.headers, etag):
        return Response(status_code=304, headers=headers)
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise HTTPException(410, FILE_MISSING) from None
    return FileResponse(path, media_type=media_type, filename=name, stat_result=stat, headers=headers)
