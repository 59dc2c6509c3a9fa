"""The router that each module of the REST API has: its prefix, and the OpenAPI description that all routes share."""

import base64
import binascii
import datetime as dt
import gzip
import json
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, Generic, TypeVar

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from node.index.look.views import ReadIndex
from node.index.reading import checked
from node.index.rows.repositories import Row, Terms
from node.index.rows.view_rows import PagedViews
from node.web import problem_types as types
from node.web.access import CurrentCall, declared
from node.web.api.models import MAX_ID, Resource
from node.web.errors import PreconditionFailed, ResourceNotFound, UnknownParameters, WrongCursor
from node.web.headers import accepts_gzip, has_etag, is_match
from node.web.problem_types import MEDIA_TYPE, PROBLEM_TYPES, ProblemType

OF_EVERY_ROUTE = (
    types.NOT_AUTHENTICATED,
    types.FORBIDDEN,
    types.FOREIGN_HOST,
    types.INVALID_PARAMETER,
    types.UNKNOWN_PARAMETER,
    types.TOO_MANY_ATTEMPTS,
    types.INTERNAL_ERROR,
    types.UNAVAILABLE,
    types.OUT_OF_RESOURCES,
    types.BUSY,
    types.INDEX_UNUSABLE,
    types.PROVIDER_UNAVAILABLE,
)

MIN_COMPRESSED_BYTES = 1000
"""Shorter JSON fits into one packet."""

COMPRESSION_LEVEL = 1
"""A list of instances shrinks to a fifth, at 180 MB/s; level 4 makes it a fourteenth shorter in five times the time."""

OF_CHANGES = (
    types.INVALID_REQUEST,
    types.FOREIGN_PAGE,
    types.NOT_FOUND,
    types.PRECONDITION_FAILED,
    types.BODY_TOO_SLOW,
    types.BODY_TOO_LARGE,
    types.UNSUPPORTED_BODY,
    types.AUDIT_FAILED,
)
"""What any route that changes something may answer beside them."""

Responses = dict[int | str, dict[str, Any]]

OF_UNCHANGED = ("ETag", "Cache-Control", "Vary")
"""Headers that 304 has like 200 (RFC 9110 15.4.5)."""

_RETRY_AFTER = {"Retry-After": {"description": "seconds to wait", "schema": {"type": "integer", "minimum": 0}}}

_ETAG = {"ETag": {"description": "the entity tag of the resource", "schema": {"type": "string"}}}

_DIGEST = {"Repr-Digest": {"description": "SHA-256 of the whole file (RFC 9530)", "schema": {"type": "string"}}}

_token = HTTPBearer(auto_error=False, description="A token from `voxelnode account token`, if accounts are required.")
"""For the OpenAPI document only; `node.web.access` checks credentials."""


def problems(*kinds: ProblemType) -> Responses:
    """Return the OpenAPI responses of a route that answers these kinds of problems beside those of every route."""
    by_status: dict[int, list[ProblemType]] = {}
    for kind in PROBLEM_TYPES:
        if kind in kinds or kind in OF_EVERY_ROUTE:
            by_status.setdefault(kind.status, []).append(kind)
    return {status: _problem(kinds_of_status) for status, kinds_of_status in by_status.items()}


def _problem(kinds: list[ProblemType]) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": "; ".join(kind.title for kind in kinds),
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        "x-problem-types": [kind.uri for kind in kinds],
    }
    if kinds[0].status in (429, 503):
        response["headers"] = _RETRY_AFTER
    if kinds[0].status == 412:
        response["headers"] = _ETAG
    return response


def single() -> Responses:
    """Return the OpenAPI responses of a route that shows one resource, with its entity tag."""
    unchanged = {"description": "If-None-Match contains the entity tag of the resource", "headers": _ETAG}
    return {**problems(types.NOT_FOUND), 200: {"headers": _ETAG}, 304: unchanged}


def downloads(description: str, *media_types: str) -> Responses:
    """Return the OpenAPI responses of a route that sends a file, or a range of it, with one of these media types."""
    content_range = {"Content-Range": {"description": "place and length of the range", "schema": {"type": "string"}}}
    binary = {"schema": {"type": "string", "format": "binary"}}
    content = {media_type: binary for media_type in media_types}
    return {
        **problems(types.NOT_FOUND, types.GONE, types.RANGE_NOT_SATISFIABLE),
        200: {"description": description, "content": content, "headers": {**_ETAG, **_DIGEST}},
        206: {
            "description": "The requested range, or several as multipart/byteranges",
            "content": {**content, "multipart/byteranges": binary},
            "headers": {**_ETAG, **_DIGEST, **content_range},
        },
        304: {"description": "If-None-Match contains the entity tag of the file", "headers": _ETAG},
    }


class ApiRoute(APIRoute):
    """A route that knows its query parameters, answers If-None-Match, and compresses long JSON if gzip is accepted.

    Compression beside what a stranger chooses could reveal a secret by the length of answers (BREACH). No answer of
    REST has a secret such as a token, and pages of other sites cannot send the cookie of a session.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.query_names = frozenset(_query_names(self.dependant))
        if (allowed := declared(self)) is not None:
            self.openapi_extra = allowed.in_openapi() | (self.openapi_extra or {})

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of FastAPI, whose response may become 304 or compressed."""
        handle = super().get_route_handler()

        async def handle_and_shorten(request: Request) -> Response:
            response = await handle(request)
            etag = response.headers.get("etag")
            if etag is not None and response.status_code == 200 and has_etag(request.headers, etag):
                of_unchanged = {name: response.headers[name] for name in OF_UNCHANGED if name in response.headers}
                return Response(status_code=304, headers=of_unchanged)
            if _is_compressible(response):
                response.headers.add_vary_header("Accept-Encoding")
                if accepts_gzip(request.headers):
                    response.body = await run_in_threadpool(gzip.compress, bytes(response.body), COMPRESSION_LEVEL)
                    response.headers["Content-Length"] = str(len(response.body))
                    response.headers["Content-Encoding"] = "gzip"
            return response

        return handle_and_shorten


def _is_compressible(response: Response) -> bool:
    """Return whether a response is long JSON; files and streams have no `body`, and an ETag names the bytes sent."""
    body = getattr(response, "body", b"")
    is_json = response.headers.get("content-type") == "application/json"
    return is_json and len(body) >= MIN_COMPRESSED_BYTES and "etag" not in response.headers


def _query_names(dependant: Dependant) -> Iterator[str]:
    yield from (parameter.alias for parameter in dependant.query_params)
    for dependency in dependant.dependencies:
        yield from _query_names(dependency)


def _known_parameters_only(request: Request) -> None:
    """Refuse a misspelt filter: without it, the answer would have too many items."""
    known = request.scope["route"].query_names
    unknown = request.query_params.keys() - known
    if unknown:
        raise UnknownParameters(unknown, known)


def api_router(allowed: Sequence[Any], *tags: str) -> APIRouter:
    """Return a router for routes with `tags`; the operation ID of a route is the name of its function.

    `allowed` are dependencies that say whom its routes allow, such as `node.web.access.READERS`.

    It has the whole prefix itself: FastAPI resolves the dependencies of a route again when a router includes another.
    """
    return APIRouter(
        prefix="/api/v1",
        tags=[*tags],
        dependencies=[Depends(_token), *allowed, Depends(_known_parameters_only)],
        responses=problems(),
        route_class=ApiRoute,
        generate_unique_id_function=lambda route: route.name,
    )


MAX_ROWS = 1000

Item = TypeVar("Item", bound=Resource)

OptionalStudyUid = Annotated[str | None, Query(max_length=64, description="Study Instance UID")]
OptionalSeriesUid = Annotated[str | None, Query(max_length=64, description="Series Instance UID")]


class Page(BaseModel, Generic[Item]):
    """A page of a list.

    `next` is the cursor of the next page, or null at the end; `total` is null unless the request asks for it.
    """

    items: list[Item]
    next: str | None = None
    total: int | None = None


def cursor(id: int, date: dt.date | None = None) -> str:
    """Return the cursor of a row: its id, and its date if the list is ordered by date."""
    key = [id] if date is None else [id, date.isoformat()]
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode().rstrip("=")


def parse_cursor(after: str | None) -> tuple[int, dt.date | None] | None:
    """Return the id and the date from a cursor, or raise WrongCursor."""
    if after is None:
        return None
    try:
        id_, *dates = json.loads(base64.urlsafe_b64decode(after + "=" * (-len(after) % 4)))
        if type(id_) is int and 0 <= id_ <= MAX_ID and len(dates) <= 1:
            return id_, dt.date.fromisoformat(dates[0]) if dates else None
    except (ValueError, TypeError, binascii.Error):
        pass
    raise WrongCursor


After = Annotated[
    str | None, Query(max_length=200, description="`next` of the previous page; unset for the first page")
]
Limit = Annotated[int, Query(ge=1, le=MAX_ROWS, description="maximum number of items")]
Total = Annotated[bool, Query(description="also count all items of the list, which reads every one")]


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A request for a page of a list: at most `limit` items after the cursor `after`, and the `total` of all."""

    call: CurrentCall
    after: After = None
    limit: Limit = 100
    total: Total = False

    def read(
        self, name: str, resource: type[Item], repository: Callable[[ReadIndex], PagedViews], /, **wanted: Any
    ) -> Page[Item]:
        """Read the page from a list that is ordered by id; `wanted` are filters of the repository.

        The audit log records a query of the list `name`, its filters, and how many rows were sent.
        """
        position = parse_cursor(self.after)
        with self.call.node.index.searching() as index:
            rows = repository(index).page(position[0] if position else None, self.limit, **wanted)
            total = repository(index).count_matching(**wanted) if self.total else None
        self.call.audit.queried(query_detail(name, **wanted), len(rows))
        after = None if len(rows) < self.limit else cursor(rows[-1]["id"])
        return Page(items=[resource.of(row) for row in rows], next=after, total=total)


def query_detail(name: str, /, **wanted: Any) -> str:
    """Return the text of a query for the audit log: the list, and the filters that are set."""
    return " ".join([name, *(f"{filter_}={value}" for filter_, value in wanted.items() if value)])


RequestedPage = Annotated[PageRequest, Depends()]
"""Parameter of a route: the part of its list that a caller with the role read wants."""


def only_row(repository: PagedViews, noun: str, /, **wanted: Any) -> Row:
    """Return the row of a single resource, the newest if several match; `noun` names it in the answer 404."""
    rows = repository.page(None, 1, **wanted)
    if not rows:
        raise ResourceNotFound(noun)
    return rows[0]


def _uid_filters(
    study_instance_uid: OptionalStudyUid = None, series_instance_uid: OptionalSeriesUid = None
) -> dict[str, str | None]:
    return {"study_instance_uid": study_instance_uid, "series_instance_uid": series_instance_uid}


UidFilters = Annotated[dict[str, str | None], Depends(_uid_filters)]
"""Parameter of a route: the study, or the series, that its list is limited to."""


One = TypeVar("One", bound=Resource)
Result = TypeVar("Result", bound=Resource)


def etag_of(resource: Resource) -> str:
    """Return the strong entity tag of a resource: a digest of its JSON, in whichever order the index tells it."""
    canonical = json.dumps(resource.model_dump(mode="json"), sort_keys=True)
    return f'"{sha256(canonical.encode()).hexdigest()[:32]}"'


def tagged(response: Response, resource: One) -> One:
    """Return a resource after setting its ETag in the response."""
    response.headers["ETag"] = etag_of(resource)
    return resource


@dataclass(frozen=True, slots=True)
class ChangeRequest:
    """A request to change something, and its conditions."""

    call: CurrentCall
    response: Response
    if_match: Annotated[
        str | None, Header(max_length=1000, description="change the resource only if it has one of these entity tags")
    ] = None

    def make(
        self,
        result: type[Result],
        current: Callable[[ReadIndex], Resource],
        act: Callable[[Terms], Result | Mapping[str, Any]],
    ) -> Result:
        """Return what `act` did if the resource is as the client has seen it, or the result of the same request.

        `current` returns the resource that is to be changed. A change that is one transaction of the index fulfils the
        terms in it. Raises PreconditionFailed before anything is changed.
        """
        return result.model_validate(act(self._terms(current)))

    def _terms(self, current: Callable[[ReadIndex], Resource]) -> Terms:
        def check(index: ReadIndex) -> None:
            if self.if_match is not None:
                etag = etag_of(current(index))
                if not is_match(self.if_match, etag):
                    raise PreconditionFailed(etag)

        if self.if_match is not None:
            with self.call.node.index.reading() as index:
                check(index)
        return checked(check)


Change = Annotated[ChangeRequest, Depends()]
"""Parameter of a route that changes something: the conditions of the request."""
