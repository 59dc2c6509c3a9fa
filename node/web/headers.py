"""What every response tells a browser: what it may run, where it may go, and that nothing of it is kept."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""Of every response that brings none of its own."""

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # To ourselves alone; with "no-referrer" a form of ours would come with the Origin "null" (Fetch 3.2).
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # What a response tells may be a patient's: nothing on the way keeps it unless its route says so.
    "Cache-Control": "no-store",
}
"""Headers of every response; one that a route has set itself stays."""

ONE_YEAR = "max-age=31536000"


def add_headers(headers: MutableHeaders, *, is_secure: bool) -> None:
    """Add what of `HEADERS` a response has not set itself."""
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    if is_secure:
        headers.setdefault("Strict-Transport-Security", ONE_YEAR)
