"""Headers of every response: they limit what a browser may load, run and store."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders

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


def add_headers(headers: MutableHeaders, *, is_secure: bool) -> None:
    """Add the `HEADERS` that a response has not set."""
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    if is_secure:
        headers.setdefault("Strict-Transport-Security", ONE_YEAR)
