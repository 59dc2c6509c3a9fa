"""The OpenAPI document, for those who may use the API."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi

from node.web.access import Reader
from node.web.api.routing import ApiRoute
from node.web.problem_types import Problem

router = APIRouter(include_in_schema=False, route_class=ApiRoute)


@router.get("/api/v1/openapi.json")
def describe(request: Request, account: Reader) -> dict[str, Any]:
    """The OpenAPI document of REST."""
    app: FastAPI = request.app
    if app.openapi_schema is None:
        app.openapi_schema = _document(app)
    return app.openapi_schema


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    document["components"]["schemas"]["Problem"] = Problem.model_json_schema()
    for path in document["paths"].values():
        for operation in path.values():
            stream = operation["responses"].get("200", {}).get("content", {}).get("text/event-stream", {})
            if stream.pop("itemSchema", None):  # a keyword of OpenAPI 3.2, which this document is not
                stream["schema"] = {"type": "string", "description": "the data of each event is an EventResource"}
    return document
