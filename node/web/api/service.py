"""The REST API as a whole: its routes, its kinds of problems, and the OpenAPI document that describes them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Path, Request
from fastapi.openapi.utils import get_openapi

from node.web.access import MEMBERS
from node.web.api import custody, events, models, queue, resources, volumes, work
from node.web.api.routing import ApiRoute, api_router, problems
from node.web.errors import ResourceNotFound
from node.web.problem_types import NOT_FOUND, PROBLEM_TYPES, Problem

router = api_router(MEMBERS, "problems")

Slug = Annotated[str, Path(max_length=64, description="last segment of the `type` of a problem")]


@router.get("/problems/{slug}", responses=problems(NOT_FOUND))
def show_problem_type(slug: Slug) -> models.ProblemTypeResource:
    """One kind of problem."""
    kind = next((kind for kind in PROBLEM_TYPES if kind.slug == slug), None)
    if kind is None:
        raise ResourceNotFound("kind of problem")
    return models.ProblemTypeResource(type=kind.uri, status=kind.status, title=kind.title, remedy=kind.remedy)


description = APIRouter(include_in_schema=False, route_class=ApiRoute, dependencies=MEMBERS)


@description.get("/api/v1/openapi.json")
def describe(request: Request) -> dict[str, Any]:
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


PARTS = (resources, volumes, queue, work, custody, events)

ROUTES = [route for part in (*(part.router for part in PARTS), router, description) for route in part.routes]
