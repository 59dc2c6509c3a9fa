"""Stylesheet and scripts. They contain no secrets, so browsers may cache them.

Each is compressed once, when it is first asked for, and then kept in memory.
"""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from node import __version__
from node.web.headers import accepts_gzip, has_etag

FOLDER = Path(__file__).with_name("static")

CACHED = "public, max-age=31536000, immutable"
"""For a year, since a new version of the node has new URLs (`static_url`)."""


COMPRESSED = frozenset({".js", ".css", ".svg"})
HTTP_OK = 200


def static_url(name: str) -> str:
    """Return the URL of a file of `FOLDER` in this version."""
    return f"/static/{name}?v={__version__}"


class Assets(StaticFiles):
    """Serves `FOLDER`; files requested by their `static_url` may be cached for a year."""

    def __init__(self) -> None:
        super().__init__(directory=FOLDER)

    def file_response(self, full_path: Any, stat_result: Any, scope: Any, status_code: int = 200) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        is_named_by_version = scope["query_string"] == f"v={__version__}".encode()
        if Path(full_path).suffix in COMPRESSED:
            if accepts_gzip(Headers(scope=scope)) and status_code == HTTP_OK and "range" not in Headers(scope=scope):
                response = _gzip_response(Path(full_path), response, scope)
            response.headers["Vary"] = "Accept-Encoding"
        response.headers["Cache-Control"] = CACHED if is_named_by_version else "no-cache"
        return response


def _gzip_response(path: Path, plain: Response, scope: Any) -> Response:
    content = _compressed(path)
    etag = f'{plain.headers["etag"].removesuffix(chr(34))}-gzip"'
    headers = {"Content-Encoding": "gzip", "ETag": etag, "Last-Modified": plain.headers["last-modified"]}
    if has_etag(Headers(scope=scope), etag):
        return Response(status_code=304, headers=headers)
    body = b"" if scope["method"] == "HEAD" else content
    headers["Content-Length"] = str(len(content))
    return Response(body, 200, headers, media_type=plain.media_type)


@cache
def _compressed(path: Path) -> bytes:
    return gzip.compress(path.read_bytes(), mtime=0)
