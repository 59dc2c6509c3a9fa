"""The session of a browser: its cookie, and what only a browser that has signed in may do."""

from __future__ import annotations

from fastapi import Request, Response

from node.index.nouns.accounts import Client, KnownAccount
from node.web.access import Call
from node.web.errors import Forbidden
from node.web.pages.rendering import NewApp
from node.web.principal import address_of, cookie_name
from node.web.second_factor import picture_of


def client_of(request: Request) -> Client:
    """Return what is kept of a browser with its session."""
    return Client(address_of(request), request.headers.get("user-agent", ""))


def new_app(request: Request, known: KnownAccount) -> NewApp | None:
    """Return what an authenticator app needs to be set up, or None if nobody has begun that."""
    if not known.totp_secret:
        return None
    name = f"voxelnode {request.url.hostname or ''}".strip()
    return NewApp(known.totp_secret, picture_of(known.totp_secret, known.name, name))


def set_session(request: Request, response: Response, value: str) -> None:
    """Give a browser the cookie of its session."""
    response.set_cookie(cookie_name(request), value, secure=is_secure(request), httponly=True, samesite="strict")


def is_secure(request: Request) -> bool:
    return request.url.scheme == "https"


def require_session(call: Call) -> str:
    """Return the name of the account that has signed in with a browser; raise Forbidden if nobody has.

    Credentials that a script holds make no others: whoever finds a token would have one that lasts.
    """
    if call.account.kind == "local":
        raise Forbidden(
            "nobody is signed in: make an account with `voxelnode account add NAME --role admin`, and sign in at /login"
        )
    if "authorization" in call.request.headers:
        raise Forbidden("accounts and tokens are changed after signing in with a browser, or by `voxelnode account`")
    return call.account.name
