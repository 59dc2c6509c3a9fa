"""Errors as responses: problem details (RFC 9457) for programs, a page for people, each with a remedy."""

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

from node.audit.audit_log import AuditFailed
from node.errors import NotUnderstood, OutOfResources, UsageError, VoxelnodeError
from node.index.deletions import NotThere, SeveralSeries
from node.index.engine import IndexUnusable
from node.index.finder import QueryRefused
from node.index.patients import NoSuchPatient
from node.receive.conflicts import NoSuchConflict, NotDecidable
from node.receive.quarantine import NotInQuarantine, NotReleased
from node.web.errors import Forbidden, NotAuthenticated, ProviderUnavailable, ResourceNotFound, TooManyTries
from node.web.headers import add_headers
from node.web.kept_files import Damaged
from node.web.pages.rendering import error_page

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"

PROGRAMS = ("/api/", "/dicom-web", "/metrics", "/healthz", "/readyz")
"""Paths for programs. Errors below them are never a page or a redirect to the login."""

STATUSES: tuple[tuple[type[VoxelnodeError], int], ...] = (
    (NotAuthenticated, 401),
    (Forbidden, 403),
    (TooManyTries, 429),
    (ResourceNotFound, 404),
    (NotThere, 404),
    (NotInQuarantine, 404),
    (NotReleased, 409),
    (NoSuchConflict, 404),
    (NotDecidable, 409),
    (NoSuchPatient, 404),
    (SeveralSeries, 409),
    (OutOfResources, 503),
    (QueryRefused, 503),
    (IndexUnusable, 503),
    (AuditFailed, 503),
    (ProviderUnavailable, 503),
    (Damaged, 500),
    (NotUnderstood, 400),
    (UsageError, 400),
)
"""The status of an error is that of the first class that it is an instance of, or 500 if there is none."""

REMEDIES: Mapping[int, str] = {
    400: "correct the request; /api/v1/openapi.json describes every parameter",
    401: "log in, or send a token of `voxelnode account token` as `Authorization: Bearer ...`",
    404: "it may have been deleted; check the list one level up",
    405: "use one of the methods in the Allow header",
    422: "correct the parameters; /api/v1/openapi.json describes each",
    429: "wait for the number of seconds in the Retry-After header",
    500: "see the log of the node; please report the error if it happens again",
    503: "try again later; `voxelnode status` shows the cause",
}


RETRY = {"Retry-After": "5"}
"""For resources that are exhausted only briefly."""


class Problem(BaseModel):
    """An error (RFC 9457 3.1); `remedy` is an extension member (3.2)."""

    type: str = Field("about:blank", description="always about:blank; see status")
    title: str = Field(description="the phrase of the status code")
    status: int
    detail: str = Field(description="the problem with this request")
    remedy: str = Field("", description="how to solve the problem")


class ProblemResponse(Response):
    """A problem as a response."""

    media_type = MEDIA_TYPE

    def __init__(self, status: int, detail: str, remedy: str = "", headers: Mapping[str, str] | None = None) -> None:
        remedy = remedy or REMEDIES.get(status, "")
        problem = Problem(title=title_of(status), status=status, detail=detail, remedy=remedy)
        super().__init__(problem.model_dump_json(), status, headers)


def title_of(status: int) -> str:
    """Return the phrase of a status code."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def install(app: FastAPI) -> None:
    """Make an application answer every error with this module."""
    app.add_exception_handler(VoxelnodeError, _expected)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unexpected)


def wants_page(request: Request) -> bool:
    """Return whether the client is a person who expects a page, not a program that expects data."""
    return not request.url.path.startswith(PROGRAMS) and "text/html" in request.headers.get("accept", "")


def respond(
    request: Request, status: int, detail: str, remedy: str = "", headers: Mapping[str, str] | None = None
) -> Response:
    """Return a page or problem details, as the client expects."""
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
    if status == 500 and not isinstance(error, Damaged):
        log.error("request_failed", exc_info=error)
    return respond(request, status, str(error), headers=RETRY if status == 503 else None)


def _log_in_first(request: Request, detail: str) -> Response:
    """Redirect a person to the login; challenge a program for credentials."""
    if request.headers.get("hx-request"):  # the session of an open page has ended: htmx opens the login page
        return Response(status_code=401, headers={"HX-Redirect": "/login"})
    if wants_page(request):
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        location = f"/login?next={quote(path, safe='')}" if request.method == "GET" else "/login"
        return Response(status_code=303, headers={"Location": location})
    challenges = 'Bearer realm="voxelnode"'
    if "sec-fetch-mode" not in request.headers:  # otherwise a browser opens its own password dialog
        challenges += ', Basic realm="voxelnode", charset="UTF-8"'
    return ProblemResponse(401, detail, headers={"WWW-Authenticate": challenges})


async def _http(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    detail = str(getattr(error, "detail", "")) or title_of(status)
    return respond(request, status, detail, headers=getattr(error, "headers", None))


async def _invalid(request: Request, error: Exception) -> Response:
    return respond(request, 422, validation_detail(error.errors() if isinstance(error, RequestValidationError) else []))


def validation_detail(errors: Any) -> str:
    """Return validation errors of pydantic in one line, without the values, which may be patient data."""
    return "; ".join(f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}" for error in errors)


async def _unexpected(request: Request, error: Exception) -> Response:
    """Answer 500. The server logs the error. This response bypasses the middleware, so its headers are added here."""
    response = respond(request, 500, "an unexpected error in the node")
    add_headers(response.headers, is_secure=request.url.scheme == "https")
    return response
