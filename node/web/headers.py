"""Headers of every response, which limit what a browser may do; conditions and encodings that a request accepts."""

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""The default policy of responses."""

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Only to ourselves. With "no-referrer", our own forms would send "Origin: null" (Fetch 3.2).
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # Responses may contain patient data: they are not stored unless a route allows it.
    "Cache-Control": "no-store",
}
"""Default headers of every response; headers set by a route take precedence."""

ONE_YEAR = "max-age=31536000"


_ENCODED = tuple((name.lower().encode(), value.encode()) for name, value in HEADERS.items())
_SECURE = (*_ENCODED, (b"strict-transport-security", ONE_YEAR.encode()))


def add_headers(headers: MutableHeaders, *, is_secure: bool) -> None:
    """Add the `HEADERS` that a response has not set."""
    has = {name for name, _ in headers.raw}
    headers.raw.extend(one for one in (_SECURE if is_secure else _ENCODED) if one[0] not in has)


def has_etag(headers: Headers, etag: str) -> bool:
    """Return whether If-None-Match has an entity tag; weak comparison suffices (RFC 9110 13.1.2)."""
    tags = [tag.strip().removeprefix("W/") for tag in headers.get("if-none-match", "").split(",")]
    return "*" in tags or etag.removeprefix("W/") in tags


def is_match(if_match: str, etag: str) -> bool:
    """Return whether If-Match has an entity tag, by strong comparison: a weak one never matches (RFC 9110 13.1.1)."""
    return any(tag.strip() in (etag, "*") for tag in if_match.split(","))


def accepts_gzip(headers: Headers) -> bool:
    """Return whether Accept-Encoding allows gzip; a quality of 0 forbids it (RFC 9110 12.5.3)."""
    codings = [coding.replace(" ", "").lower() for coding in headers.get("accept-encoding", "").split(",")]
    for name in ("gzip", "*"):
        for coding in codings:
            if coding.partition(";")[0] == name:
                return re.fullmatch(r"q=0(\.0{0,3})?", coding.partition(";")[2]) is None
    return False


def path_of(request: HTTPConnection) -> str:
    """Return the path of a request as it was sent, to lead there again: the URL of Starlette has it decoded."""
    raw: bytes = request.scope["raw_path"]
    return raw.decode("ascii", "replace")
