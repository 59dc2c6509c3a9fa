"""What went wrong, as problem details (RFC 9457) for programs and as a page for people, with the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from node.audit import AuditFailed
from node.errors import NotUnderstood, OutOfResources, UsageError, VoxelnodeError
from node.index.deletions import NotThere, SeveralSeries
from node.index.engine import IndexUnusable
from node.index.finder import QueryRefused
from node.index.patients import NoSuchPatient
from node.web.errors import Forbidden, NotAuthenticated, ProviderUnavailable, ResourceNotFound, TooManyTries
from node.web.headers import add_headers
from node.web.pages.rendering import error_page

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"

PROGRAMS = ("/api/", "/dicom-web", "/metrics", "/healthz", "/readyz")
"""Paths below which programs ask: never a page, never a redirect to the login."""

STATUSES: tuple[tuple[type[VoxelnodeError], int], ...] = (
    (NotAuthenticated, 401),
    (Forbidden, 403),
    (TooManyTries, 429),
    (ResourceNotFound, 404),
    (NotThere, 404),
    (NoSuchPatient, 404),
    (SeveralSeries, 409),
    (OutOfResources, 503),
    (QueryRefused, 503),
    (IndexUnusable, 503),
    (AuditFailed, 503),
    (ProviderUnavailable, 503),
    (NotUnderstood, 400),
    (UsageError, 400),
)
"""The first class that an error is of tells its status; what is in none of them is 500."""

REMEDIES: Mapping[int, str] = {
    400: "change the request as the detail says; /api/v1/openapi.json describes every parameter",
    401: "log in, or show a token of `voxelnode account token` as `Authorization: Bearer ...`",
    404: "look what there is with the list that is one level up; it may have been deleted",
    405: "ask with one of the methods that the Allow header names",
    422: "change the parameters that the detail names; /api/v1/openapi.json describes each",
    429: "wait for as long as the Retry-After header says",
    500: "the log of the node tells more; please report it if it happens again",
    503: "try again in a while; `voxelnode status` tells what the node is short of",
}


RETRY = {"Retry-After": "5"}
"""Of what is short for a while."""


class Problem(BaseModel):
    """An error, RFC 9457 3.1; `remedy` is an extension (3.2): what helps."""

    type: str = Field("about:blank", description="of no kind beyond its status")
    title: str = Field(description="the status in words")
    status: int
    detail: str = Field(description="what is wrong with this request")
    remedy: str = Field("", description="what helps")


class ProblemResponse(Response):
    """A problem as a response of its own."""

    media_type = MEDIA_TYPE

    def __init__(self, status: int, detail: str, remedy: str = "", headers: Mapping[str, str] | None = None) -> None:
        remedy = remedy or REMEDIES.get(status, "")
        problem = Problem(title=title_of(status), status=status, detail=detail, remedy=remedy)
        super().__init__(problem.model_dump_json(), status, headers)


def title_of(status: int) -> str:
    """The words of a status code."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def install(app: FastAPI) -> None:
    """Let an application answer every error as this module says."""
    app.add_exception_handler(VoxelnodeError, _expected)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unexpected)


def wants_page(request: Request) -> bool:
    """Whether a person waits for a page, rather than a program for data."""
    return not request.url.path.startswith(PROGRAMS) and "text/html" in request.headers.get("accept", "")


def respond(
    request: Request, status: int, detail: str, remedy: str = "", headers: Mapping[str, str] | None = None
) -> Response:
    """A page or problem details, whichever is waited for."""
    if not wants_page(request):
        return ProblemResponse(status, detail, remedy, headers)
    page = error_page(status, title_of(status), detail, remedy or REMEDIES.get(status, ""))
    page.headers.update(headers or {})
    return page


async def _expected(request: Request, error: Exception) -> Response:
    status = next((status for kind, status in STATUSES if isinstance(error, kind)), 500)
    if isinstance(error, NotAuthenticated):
        return _log_in_first(request, str(error))
    if isinstance(error, TooManyTries):
        return respond(request, 429, str(error), headers={"Retry-After": str(error.seconds)})
    if status == 500:
        log.error("request_failed", exc_info=error)
    return respond(request, status, str(error), headers=RETRY if status == 503 else None)


def _log_in_first(request: Request, detail: str) -> Response:
    """Lead a person to the form, and tell a program what to show."""
    if request.headers.get("hx-request"):  # a page whose session is over: the whole of it goes to the form
        return Response(status_code=401, headers={"HX-Redirect": "/login"})
    if wants_page(request):
        asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        there = f"/login?next={quote(asked, safe='')}" if request.method == "GET" else "/login"
        return Response(status_code=303, headers={"Location": there})
    challenges = 'Bearer realm="voxelnode"'
    if "sec-fetch-mode" not in request.headers:  # a browser would ask with a window of its own, over our page
        challenges += ', Basic realm="voxelnode", charset="UTF-8"'
    return ProblemResponse(401, detail, headers={"WWW-Authenticate": challenges})


async def _http(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    detail = str(getattr(error, "detail", "")) or title_of(status)
    return respond(request, status, detail, headers=getattr(error, "headers", None))


async def _invalid(request: Request, error: Exception) -> Response:
    return respond(request, 422, validation_detail(error.errors() if isinstance(error, RequestValidationError) else []))


def validation_detail(errors: Any) -> str:
    """What pydantic found wrong, in a sentence; without the values, which may be a patient's."""
    return "; ".join(f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}" for error in errors)


async def _unexpected(request: Request, error: Exception) -> Response:
    """The error goes on to the server, which logs it; of the middleware nothing stands before this response."""
    response = respond(request, 500, "something unexpected happened in the node")
    add_headers(response.headers, is_secure=request.url.scheme == "https")
    return response
