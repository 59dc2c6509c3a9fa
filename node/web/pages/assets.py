"""Stylesheet and scripts. They contain no secrets, so browsers may cache them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from node import __version__

FOLDER = Path(__file__).with_name("static")

CACHED = "public, max-age=31536000, immutable"
"""For a year, since a new version of the node has new URLs (`static_url`)."""


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
        response.headers["Cache-Control"] = CACHED if is_named_by_version else "no-cache"
        return response
