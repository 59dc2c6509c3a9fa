"""The ASGI application: every router, in the order that a request is matched in."""

from __future__ import annotations

from fastapi import FastAPI

from node import __version__
from node.web import health
from node.web.services import Services


def application(services: Services) -> FastAPI:
    """All that the node serves over HTTP."""
    app = FastAPI(
        title="voxelnode", version=__version__, docs_url=None, redoc_url=None, openapi_url="/api/v1/openapi.json"
    )
    app.state.services = services
    for router in (health.router,):
        app.include_router(router)
    return app
