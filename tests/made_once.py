"""What each node makes for itself and is always the same, tests make once in a process.

An empty index takes a tenth of a second, because it goes through all migrations. That they make one out of nothing is
what tests/integration/test_index_schema.py is for, and the nodes of tests/acceptance/test_cli_serve.py start like that.
FastAPI takes a fifth of a second to resolve the dependencies of all routes, for each application again.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from fastapi import APIRouter, FastAPI
from starlette.routing import BaseRoute, NoMatchFound

from node.index import database
from node.index.engine import FILE_NAME, upgrade
from node.web import pages
from node.web.api import service as api
from node.web.dicomweb import service as dicomweb


def share_indexes() -> None:
    """Have new indexes of this process, and of those that it forks, begin as a copy of one that was migrated."""
    database.upgrade = _copy_or_upgrade  # type: ignore[attr-defined]


@cache
def migrated() -> tuple[bytes, str]:
    """A database of the newest schema, and its revision."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE_NAME
        _, revision = upgrade(path)
        return path.read_bytes(), revision  # the write-ahead log went into it when the last connection was closed


def _copy_or_upgrade(path: Path) -> tuple[str | None, str]:
    if path.exists():
        return upgrade(path)
    content, revision = migrated()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_bytes(content)
    return None, revision


_include_router = FastAPI.include_router
_included: dict[int, tuple[APIRouter, list[BaseRoute]]] = {}
"""Routers, which stay, by `id`, and the routes by which an application includes them."""


def share_routes() -> None:
    """Have all applications of this process, and of those that it forks, include a router by the same routes."""
    FastAPI.include_router = _include_once  # type: ignore[assignment, method-assign]


def resolve_routes() -> None:
    """Resolve the dependencies of most routes, so that the processes that this one forks need not."""
    app = FastAPI()
    for part in (api, dicomweb, pages):
        app.include_router(part.router)
    with suppress(NoMatchFound):
        app.url_path_for("no route has this name")


def _include_once(app: FastAPI, router: APIRouter) -> None:
    if id(router) not in _included:
        before = len(app.router.routes)
        _include_router(app, router)
        _included[id(router)] = router, app.router.routes[before:]
    else:
        app.router.routes.extend(_included[id(router)][1])
        getattr(app.router, "_mark_routes_changed", lambda: None)()  # routers of newer versions keep what they found
