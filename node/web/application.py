"""The ASGI application: every route, in matching order, and the OpenAPI document that describes those of REST."""

import threading
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Path, Request
from fastapi.openapi.utils import get_openapi
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute

from node.registry import PAGES, enabled, is_on, resolve, shares, sign_ins_of
from node.settings.model import Settings
from node.version import __version__
from node.web import monitoring, problems
from node.web.access import MEMBERS, Access, OfNobody, StillAllowed, require_declared
from node.web.api import custody, events, resources, volumes, work
from node.web.api.events import streams_budget
from node.web.api.models import Resource
from node.web.api.routing import ApiRoute, api_router
from node.web.api.routing import problems as problems_of
from node.web.audit_trail import AuditTrail
from node.web.downloads import Downloads
from node.web.errors import ResourceNotFound
from node.web.middleware import MAXIMUM_UPLOAD_BYTES, AccessLog, AddressTurns, BodyLimits, Security
from node.web.pages.rendering import error_page
from node.web.problem_types import NOT_FOUND, PROBLEM_TYPES, Problem
from node.web.routes_by_path import RoutesByPath, Shortcut, Shortcuts
from node.web.services import Services
from node.web.zips import Known


class ProblemTypeResource(Resource):
    """A kind of problem; `type` is its URI reference."""

    type: str
    status: int
    title: str
    remedy: str


problems_router = api_router(MEMBERS, "problems")

Slug = Annotated[str, Path(max_length=64, description="last segment of the `type` of a problem")]


@problems_router.get("/problems/{slug}", responses=problems_of(NOT_FOUND))
def show_problem_type(slug: Slug) -> ProblemTypeResource:
    """One kind of problem."""
    kind = next((kind for kind in PROBLEM_TYPES if kind.slug == slug), None)
    if kind is None:
        raise ResourceNotFound("kind of problem")
    return ProblemTypeResource(type=kind.uri, status=kind.status, title=kind.title, remedy=kind.remedy)


description_router = APIRouter(include_in_schema=False, route_class=ApiRoute, dependencies=MEMBERS)


@description_router.get("/api/v1/openapi.json")
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


ROUTERS = (
    monitoring.router,
    resources.router,
    volumes.router,
    work.ledger_router,
    work.router,
    custody.router,
    events.router,
    problems_router,
    description_router,
)

ROUTES: list[BaseRoute] = [route for router in ROUTERS for route in router.routes]
"""The routes of the core."""


def routes_of(settings: Settings) -> list[BaseRoute]:
    """Return all routes of a node, those of the extensions that are on included."""
    on = enabled(settings)
    has_pages = is_on(settings, PAGES)
    added = (router for extension in on for router in extension.routers if has_pages or router.kind != "pages")
    places = dict.fromkeys(router.place for router in added)  # two extensions may have one router
    return [*ROUTES, *(route for place in places for route in resolve(place).routes)]


def application(services: Services) -> FastAPI:
    """Return the application that serves REST, and what extensions add.

    Raises UsageError for a route that does not declare whom it allows.

    ``app.state`` has `services`, `access`, `sign_ins` (None without an identity provider), `error_page` (None without
    pages), `streams`, `known` (checksums of files, for ZIP files), `downloads` (started and stopped by the server),
    `shortcuts` (see `Shortcuts`) and `stopping`, an event that ends endless streams.
    """
    routes = routes_of(services.settings)
    require_declared(routes)
    app = FastAPI(
        title="voxelnode",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # `describe` serves it to those who may use the API
        middleware=_middleware(services),
        routes=routes,
        redirect_slashes=False,  # `Security` drops them
    )
    app.router.middleware_stack = RoutesByPath(app.router)
    trail = AuditTrail(services.audit, services.settings.dicom.ae_title)
    app.state.services = services
    app.state.sign_ins = sign_ins_of(services.settings)
    app.state.error_page = error_page if is_on(services.settings, PAGES) else None
    provider = app.state.sign_ins.provider if app.state.sign_ins is not None else None
    app.state.access = Access(
        services.settings.web,
        services.index.accounts,
        services.index.jobs,
        services.index.repository(shares().ShareRepository),
        trail,
        by_access_token=provider.by_access_token if provider is not None else None,
    )
    shortcuts: list[Shortcut] = []
    app.state.shortcuts = shortcuts
    app.state.stopping = threading.Event()
    app.state.downloads = Downloads(services, trail)
    app.state.known = Known()
    app.state.streams = streams_budget(services.metrics)
    problems.install(app)
    return app


def _middleware(services: Services) -> list[Middleware]:
    """Return the middleware, outermost first.

    Starlette's answer to what no route expects is around them (`problems.install`), and around all of it, behind a
    proxy, uvicorn's that takes the address which the proxy forwards.
    """
    web = services.settings.web
    middleware = [
        Middleware(AddressTurns),  # a flood costs nothing else, not even a line of the log
        Middleware(AccessLog, metrics=services.metrics),  # each refusal below has its line
        Middleware(Security, web=web),  # no page elsewhere reaches what follows; every answer below gets its headers
        Middleware(OfNobody),  # sees nothing of the index until its caller is known
        Middleware(Shortcuts),  # equal to requests that passed the rest, which depends on path and headers alone
        Middleware(BodyLimits, upload_bytes=MAXIMUM_UPLOAD_BYTES),  # before anybody reads a body
        Middleware(StillAllowed),  # the caller that the route has found, as long as its body or answer lasts
    ]
    if web.cors_origins:  # tokens only, which scripts send; no cookies or passwords of the browser
        cors = Middleware(
            CORSMiddleware,
            allow_origins=list(web.cors_origins),
            allow_methods=["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"],
            allow_headers=[
                "Authorization",
                "Content-Type",
                "Accept",
                "If-Match",
                "If-None-Match",
                "If-Range",
                "Range",
                "Want-Repr-Digest",
            ],
            expose_headers=[
                "Content-Disposition",
                "Content-Location",
                "Content-Range",
                "ETag",
                "Location",
                "Repr-Digest",
                "Retry-After",
                "Warning",
            ],
        )
        middleware.insert(2, cors)  # the answers of `Security` are for the pages of friends as well
    return middleware
