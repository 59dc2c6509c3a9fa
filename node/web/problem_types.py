"""The kinds of problems that answers over HTTP have (RFC 9457 3.1.1); docs/problems.md lists them."""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import Response
from pydantic import BaseModel, Field

MEDIA_TYPE = "application/problem+json"

PATH = "/api/v1/problems"
"""Each type is a URI reference below this path, where the REST API serves its description."""

_DESCRIBED = "/api/v1/openapi.json describes every parameter"


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A kind of problem. `slug` and `status` never change; a client may depend on them.

    `slug` is the last segment of its URI, `title` a sentence that is the same for every occurrence, and `remedy` solves
    the problem, unless the occurrence knows better.
    """

    slug: str
    status: int
    title: str
    remedy: str = ""
    page_title: str = ""
    page_remedy: str = ""
    """What a page says instead, if title and remedy are about programs."""

    @property
    def uri(self) -> str:
        """The `type` member of a problem."""
        return f"{PATH}/{self.slug}" if self.slug else "about:blank"


PROBLEM_TYPES: list[ProblemType] = []
"""All types, by status. The first one of a status is that of errors that are known by their status only."""


def _kind(slug: str, status: int, title: str, remedy: str, page: tuple[str, str] = ("", "")) -> ProblemType:
    PROBLEM_TYPES.append(ProblemType(slug, status, title, remedy, *page))
    return PROBLEM_TYPES[-1]


_ON_A_PAGE = ("This page cannot be shown", "open it by a link of these pages, or go back and send the form again")


OF_A_FORM = ("This was not accepted", "go back, correct it and send the form again")
"""Title and remedy of a form whose content breaks a rule."""


INVALID_REQUEST = _kind(
    "invalid-request", 400, "The request is not valid", f"correct the request; {_DESCRIBED}", _ON_A_PAGE
)
WRONG_CURSOR = _kind(
    "wrong-cursor", 400, "`after` is not a cursor of this list", "list from the beginning, without `after`"
)
NOT_AUTHENTICATED = _kind(
    "not-authenticated",
    401,
    "The credentials are missing or wrong",
    "log in, or send a token of `voxelnode account token` as `Authorization: Bearer ...`",
)
FORBIDDEN = _kind(
    "forbidden", 403, "The account may not do this", "use an account with a higher role, or ask an administrator"
)
FOREIGN_HOST = _kind(
    "foreign-host",
    403,
    "The Host header is not a name of this node",
    "use the IP address or the machine name, or add the name to [web] allowed_hosts",
)
FOREIGN_PAGE = _kind(
    "foreign-page",
    403,
    "The request comes from a page of another site",
    "use the pages of this node; in a script, send a token of `voxelnode account token`; list a reverse "
    "proxy in [web] trusted_proxies, and the name and port that browsers use in [web] allowed_hosts",
)
NOT_FOUND = _kind(
    "not-found",
    404,
    "There is no such resource",
    "compare the address with the list one level up: it was never there, or was deleted",
)
METHOD_NOT_ALLOWED = _kind(
    "method-not-allowed",
    405,
    "The resource has no such method",
    "use one of the methods in the Allow header",
    _ON_A_PAGE,
)
NOT_ACCEPTABLE = _kind(
    "not-acceptable", 406, "No accepted media type is available", "accept one of the media types that the detail lists"
)
BODY_TOO_SLOW = _kind(
    "body-too-slow", 408, "The request body arrived too slowly", "send the request again over a faster connection"
)
CONFLICT = _kind("conflict", 409, "The state of the resource does not allow this", "read the resource again")
AMBIGUOUS = _kind(
    "ambiguous", 409, "The identifier names several objects", "name the one that is meant by its study as well"
)
NOT_DECIDABLE = _kind(
    "not-decidable",
    409,
    "The conflict cannot be decided in this way",
    "read the conflict again; the detail has the cause",
)
NOT_RELEASABLE = _kind(
    "not-releasable",
    409,
    "The file cannot leave quarantine in this way",
    "read the file in quarantine again; the detail has the cause",
)
GONE = _kind(
    "gone",
    410,
    "The resource was deleted, or its file is missing or damaged",
    "send the instances again; `voxelnode fsck` lists missing and damaged files",
)
PRECONDITION_FAILED = _kind(
    "precondition-failed",
    412,
    "The resource is not as If-Match says",
    "read the resource again, and decide again; the ETag header has its entity tag",
)
BODY_TOO_LARGE = _kind("body-too-large", 413, "The request body is too large", "send several requests")
UNSUPPORTED_BODY = _kind(
    "unsupported-body",
    415,
    "The request body has a type or an encoding that is not accepted",
    "send it as the detail says",
)
RANGE_NOT_SATISFIABLE = _kind(
    "range-not-satisfiable",
    416,
    "The range starts beyond the end of the file",
    "request a range within the length in the Content-Range header",
)
INVALID_PARAMETER = _kind(
    "invalid-parameter",
    422,
    "A parameter or the body is not valid",
    f"correct what the detail names; {_DESCRIBED}",
    _ON_A_PAGE,
)
UNKNOWN_PARAMETER = _kind(
    "unknown-parameter",
    422,
    "A query parameter is unknown",
    "use one of the parameters that the detail lists, or leave it out",
    _ON_A_PAGE,
)
RESULT_REFUSED = _kind(
    "result-refused",
    422,
    "A file cannot become a result",
    "send what the detail says (docs/results.md), and report the outcome again; the job goes on",
)
TOO_MANY_ATTEMPTS = _kind(
    "too-many-attempts",
    429,
    "Too many wrong passwords, or too many are being checked",
    "wait for the number of seconds in the Retry-After header",
)
INTERNAL_ERROR = _kind(
    "internal-error",
    500,
    "An unexpected error in the node",
    "see the log of the node; please report the error if it happens again",
)
DAMAGED_FILE = _kind(
    "damaged-file",
    500,
    "A file of the archive is missing or is not as it was received",
    "send the instance again, or run `voxelnode fsck --hash`",
)
PEER_FAILED = _kind(
    "peer-failed",
    502,
    "A peer does not answer, or refuses",
    "see the detail; `voxelnode peers echo NAME` and the page Status test the connection to a peer",
)
UNAVAILABLE = _kind(
    "unavailable", 503, "The node cannot do this now", "try again later; `voxelnode status` shows the cause"
)
OUT_OF_RESOURCES = _kind(
    "out-of-resources",
    503,
    "Disk space is low, a disk fails, or the node stops",
    "try again later; `voxelnode status` shows the cause",
)
BUSY = _kind(
    "busy",
    503,
    "Too many requests are under way, or this one takes too long",
    "try again after Retry-After",
    ("", "load the page again in a moment; if that does not help, `voxelnode doctor` says why"),
)
INDEX_UNUSABLE = _kind(
    "index-unusable", 503, "The index cannot be read", "see the log of the node, and run `voxelnode doctor`"
)
AUDIT_FAILED = _kind(
    "audit-failed",
    503,
    "The audit log cannot be written, so nothing was changed",
    "make room for the audit log, and try again",
)
PROVIDER_UNAVAILABLE = _kind(
    "provider-unavailable", 503, "The identity provider does not answer", "try again later, or use a local account"
)

_BY_STATUS = {kind.status: kind for kind in reversed(PROBLEM_TYPES)}


def problem_type(status: int) -> ProblemType:
    """Return the type of an error that is known by its status only; ``about:blank`` if no type has it."""
    return _BY_STATUS.get(status) or ProblemType("", status, title_of(status))


def title_of(status: int) -> str:
    """Return the phrase of a status code."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


class Problem(BaseModel):
    """An error (RFC 9457 3.1); `remedy` is an extension member (3.2)."""

    type: str = Field(
        description="URI reference of the kind of problem; docs/problems.md lists them, later versions may have more",
        json_schema_extra={"format": "uri-reference", "examples": [NOT_FOUND.uri]},
    )
    title: str = Field(description="the kind of problem in a sentence")
    status: int = Field(description="the HTTP status")
    detail: str = Field(description="the problem with this request")
    remedy: str = Field(description="how to solve the problem")


class ProblemResponse(Response):
    """A problem as a response."""

    media_type = MEDIA_TYPE

    def __init__(
        self, kind: ProblemType, detail: str, remedy: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        problem = Problem(
            type=kind.uri, title=kind.title, status=kind.status, detail=detail, remedy=remedy or kind.remedy
        )
        super().__init__(problem.model_dump_json(), kind.status, headers)
