"""Stylesheet, scripts and what they need; nothing in it is secret, so that a browser may keep it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from node import __version__

FOLDER = Path(__file__).with_name("static")

KEPT = "public, max-age=31536000, immutable"
"""Another version of the node has other URLs (`static_url`)."""


def static_url(name: str) -> str:
    """Where a file of `FOLDER` is served by this version."""
    return f"/static/{name}?v={__version__}"


class Assets(StaticFiles):
    """Serves `FOLDER`; what is asked for by `static_url` may be kept for a year."""

    def __init__(self) -> None:
        super().__init__(directory=FOLDER)

    def file_response(self, full_path: Any, stat_result: Any, scope: Any, status_code: int = 200) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        is_named_by_version = scope["query_string"] == f"v={__version__}".encode()
        response.headers["Cache-Control"] = KEPT if is_named_by_version else "no-cache"
        return response
