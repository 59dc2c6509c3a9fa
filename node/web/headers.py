"""Headers of every response: what a browser may load and run, and that it stores nothing."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""The policy of every response that sets none of its own."""

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Only to ourselves; with "no-referrer" our own forms would send the Origin "null" (Fetch 3.2).
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # Responses may hold patient data: nothing stores them unless a route allows it.
    "Cache-Control": "no-store",
}
"""Headers of every response; those that a route sets take precedence."""

ONE_YEAR = "max-age=31536000"


def add_headers(headers: MutableHeaders, *, is_secure: bool) -> None:
    """Add the `HEADERS` that a response has not set itself."""
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    if is_secure:
        headers.setdefault("Strict-Transport-Security", ONE_YEAR)
