"""Errors as responses: problem details (RFC 9457) for programs, a page for people, each with a remedy."""

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlsplit

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse

from node.errors import VoxelnodeError, broken_rule
from node.index.look.views import ReadIndex
from node.index.rules.custody.deletions import NotThere
from node.index.rules.people.accounts import Role
from node.receive.whereabouts import Whereabouts, whereabouts
from node.web import problem_types as types
from node.web.credentials import covers
from node.web.errors import NotAuthenticated, PreconditionFailed, ResourceNotFound, TooManyTries
from node.web.headers import add_headers, path_of
from node.web.principal import Principal
from node.web.problem_types import ProblemResponse, ProblemType
from node.web.routes_by_path import methods_of
from node.web.services import Services

log = structlog.get_logger()

PROGRAMS = ("/api/", "/dicom-web", "/metrics", "/healthz", "/readyz")
"""Paths for programs. Errors below them are never a page or a redirect to the login."""

TYPES: Mapping[str, ProblemType] = {
    error: kind
    for kind, errors in {
        types.NOT_AUTHENTICATED: "NotAuthenticated",
        types.FORBIDDEN: "Forbidden",
        types.TOO_MANY_ATTEMPTS: "TooManyTries",
        types.NOT_FOUND: "ResourceNotFound NotThere NotInQuarantine NotInTrash NoSuchConflict NoSuchPatient NoSuchWork",
        types.NOT_RELEASABLE: "NotReleased",
        types.NOT_DECIDABLE: "NotDecidable",
        types.AMBIGUOUS: "SeveralSeries",
        types.RESULT_REFUSED: "ResultRefused",
        types.BUSY: "ResultsBusy PeerBusy QueryRefused DownloadsBusy NoPlace",
        types.CONFLICT: "WorkEnded SendBeingCancelled EntryThere ProblemsChanged EntryOfFile",
        types.PEER_FAILED: "PeerFailed",
        types.OUT_OF_RESOURCES: "OutOfResources",
        types.INDEX_UNUSABLE: "IndexUnusable",
        types.AUDIT_FAILED: "AuditFailed",
        types.PROVIDER_UNAVAILABLE: "ProviderUnavailable",
        types.DAMAGED_FILE: "Damaged",
        types.UNKNOWN_PARAMETER: "UnknownParameters",
        types.PRECONDITION_FAILED: "PreconditionFailed",
        types.WRONG_CURSOR: "WrongCursor",
        types.INVALID_REQUEST: "NotUnderstood UsageError",
    }.items()
    for error in errors.split()
}
"""The type of an error is that of its class, by name, or of the nearest class that it is derived from; else an internal
error."""

NO_SUCH_PATH = "the node serves nothing at this path"

RETRY = {"Retry-After": "5"}
"""For resources that are exhausted only briefly."""


def install(app: FastAPI) -> None:
    """Make an application answer every error with this module."""
    app.add_exception_handler(VoxelnodeError, _expected)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unexpected)


def wants_page(request: HTTPConnection) -> bool:
    """Return whether the client is a person who expects a page, not a program that expects data, and pages are on."""
    if request.app.state.error_page is None:
        return False
    return not request.url.path.startswith(PROGRAMS) and "text/html" in request.headers.get("accept", "")


def respond(
    request: HTTPConnection,
    kind: ProblemType,
    detail: str,
    remedy: str = "",
    headers: Mapping[str, str] | None = None,
    remedy_page: str = "",
) -> Response:
    """Return a page or problem details, as the client expects; `remedy_page`: path of the page for the remedy."""
    if not wants_page(request):
        return ProblemResponse(kind, detail, remedy, headers)
    title, page_remedy = kind.page_title or types.title_of(kind.status), kind.page_remedy or kind.remedy
    if kind is types.INVALID_REQUEST and request.scope.get("method") == "POST":  # of a form that was filled in
        title, page_remedy = types.OF_A_FORM
    remedy = remedy or page_remedy
    html = request.app.state.error_page(kind.status, title, detail, remedy, _page_before(request), remedy_page)
    return HTMLResponse(html, kind.status, headers)


def _page_before(request: HTTPConnection) -> str:
    """Return the path of another page of ours from which a browser came here; empty if it is unknown."""
    before = urlsplit(request.headers.get("referer", ""))
    if before.netloc != request.headers.get("host") or before.path in ("", path_of(request)):
        return ""
    return "/" + before.path.lstrip("/") + (f"?{before.query}" if before.query else "")


async def _expected(request: Request, error: Exception) -> Response:
    known = (TYPES[name] for name in (one.__name__ for one in type(error).__mro__) if name in TYPES)
    kind = next(known, types.INTERNAL_ERROR)
    if isinstance(error, NotAuthenticated):
        return _log_in_first(request, str(error))
    if isinstance(error, TooManyTries):
        return respond(request, kind, str(error), headers={"Retry-After": str(error.seconds)})
    if isinstance(error, PreconditionFailed):
        return respond(request, kind, str(error), headers={"ETag": error.etag})
    if isinstance(error, NotThere) or (isinstance(error, ResourceNotFound) and error.kind in LEVELS):
        return await _not_found(request, kind, str(error))
    if kind is types.INTERNAL_ERROR:
        log.error("request_failed", exc_info=error)
    return respond(request, kind, str(error), headers=RETRY if kind.status == 503 else None)


async def _not_found(
    request: Request, kind: ProblemType, detail: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Answer that a study, a series or an instance is not there, and what became of it if the caller may know."""
    found = await run_in_threadpool(where_it_is, request)
    if found is None:
        return respond(request, kind, detail, headers=headers)
    detail = f"{detail.rstrip('.')}: {found.happened()}"
    return respond(request, kind, detail, found.remedy, headers, found.page)


def _log_in_first(request: Request, detail: str) -> Response:
    """Redirect a person to the login; challenge a program for credentials."""
    if request.headers.get("hx-request"):  # the session of an open page has ended: htmx opens the login page
        open_page = urlsplit(request.headers.get("hx-current-url", "")).path or "/"  # without the search behind its "#"
        return Response(status_code=401, headers={"HX-Redirect": f"/login?next={quote(open_page, safe='')}"})
    if wants_page(request):
        path = path_of(request) + (f"?{request.url.query}" if request.url.query else "")
        location = f"/login?next={quote(path, safe='')}" if request.method == "GET" else "/login"
        return Response(status_code=303, headers={"Location": location})
    challenges = 'Bearer realm="voxelnode"'
    if "sec-fetch-mode" not in request.headers:  # otherwise a browser opens its own password dialog
        challenges += ', Basic realm="voxelnode", charset="UTF-8"'
    return ProblemResponse(types.NOT_AUTHENTICATED, detail, headers={"WWW-Authenticate": challenges})


async def _http(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    kind = types.problem_type(status)
    detail = str(getattr(error, "detail", "")) or types.title_of(status)
    if kind is types.METHOD_NOT_ALLOWED and wants_page(request):
        detail = "Its address is one to which forms are sent, or the other way round."
    if kind is types.NOT_FOUND and "endpoint" not in request.scope and not wants_page(request):
        return respond(request, kind, NO_SUCH_PATH, "check the path; `/api/v1/openapi.json` lists those of REST")
    if kind in (types.NOT_FOUND, types.GONE):
        return await _not_found(request, kind, detail, getattr(error, "headers", None))
    headers = getattr(error, "headers", None)
    if kind is types.METHOD_NOT_ALLOWED and (methods := methods_of(request)):  # the router names those of one route
        headers = {"Allow": ", ".join(sorted(methods))}
    return respond(request, kind, detail, headers=headers)


async def _invalid(request: Request, error: Exception) -> Response:
    errors = error.errors() if isinstance(error, RequestValidationError) else []
    detail = _in_plain_words(errors) if wants_page(request) else validation_detail(errors)
    return respond(request, types.INVALID_PARAMETER, detail)


def _in_plain_words(errors: Any) -> str:
    """Return validation errors for a page, without the values, which may be patient data."""
    sentences = []
    for error in errors:
        where, name = "form" if error["loc"][0] == "body" else "address", ".".join(map(str, error["loc"][1:]))
        if error["type"] == "missing":
            lacking = f"The address lacks {name!r}, and so does not say what to show."
            sentences.append(lacking if where == "address" else f"The form was sent without {name!r}.")
        else:
            rule = re.sub("^(must|has|is) ", r"it \1 ", broken_rule(error["type"], error["msg"]))
            sentences.append(f"{name!r} in the {where} cannot be used: {rule}.")
    return " ".join(sentences)


def validation_detail(errors: Any) -> str:
    """Return validation errors of pydantic in one line, without the values, which may be patient data."""
    return "; ".join(
        f"{'.'.join(map(str, error['loc']))}: {broken_rule(error['type'], error['msg'])}" for error in errors
    )


async def _unexpected(request: Request, error: Exception) -> Response:
    """Answer 500. The server logs the error. This response bypasses the middleware, so its headers are added here."""
    response = respond(request, types.INTERNAL_ERROR, "an unexpected error in the node")
    add_headers(response.headers, is_secure=request.url.scheme == "https")
    return response


SECONDS = 0.5
"""How long a request searches the ledger and the audit log."""

LEVELS = {
    "instance": ("sop_instance_uid", "instance"),
    "series": ("series_instance_uid", "series"),
    "study": ("study_instance_uid", "study"),
}
"""The parameters of paths that have the UID of a level, of our addresses and of those of DICOMweb."""

LISTS = "/api/v1/trash", "/api/v1/rejections"
"""What a token has to reach."""


def where_it_is(request: Request) -> Whereabouts | None:
    """Return what became of the instance, the series or the study that the path of a request names.

    None if it is there: the request has not found something else.
    """
    given = [request.path_params.get(name) for names in LEVELS.values() for name in names]
    uids = [uid for uid in given if isinstance(uid, str)]
    found = learnt(request, *uids) if uids else None
    return found if found is None or not found.place or not set(uids) <= set(found.place) else None


def learnt(request: Request, sought: str, *above: str) -> Whereabouts | None:
    """Return where something is, or what became of it, as far as the caller of a request may know."""
    caller = _who_may_know(request)
    if caller is None:
        return None
    node: Services = request.app.state.services
    with suppress(VoxelnodeError, OSError), node.index.reading() as index:
        is_admin = caller.role >= Role.ADMIN
        admitted = {peer.ae_title for peer in node.settings.peers.values()}
        return whereabouts(
            index,
            node.archive.root,
            sought,
            *above,
            is_admin=is_admin,
            seconds=SECONDS,
            admitted=admitted,
            local=node.archive.local,
        )
    return None


def trashed(request: Request, index: ReadIndex, sought: str) -> int:
    """Return how many deletions in the trash are of a UID, a Patient ID or a part of a name; 0 for whom it is not."""
    caller = _who_may_know(request)
    return len(index.trash.naming(sought)) if caller is not None and caller.role >= Role.ADMIN else 0


def _who_may_know(request: Request) -> Principal | None:
    caller: Principal | None = getattr(request.state, "account", None)
    if caller is None or caller.scope is not None or caller.kind in ("job", "link"):
        return None
    return caller if all(covers(caller.routes, path) for path in LISTS) else None
