"""The form that opens a session, and the button that ends it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from node.web.access import COOKIE, SECURE_COOKIE, Access, NotAuthenticated, TooManyTries, address_of, cookie_name
from node.web.pages.rendering import login_page

router = APIRouter(include_in_schema=False)


@router.get("/login")
def form(next: str = "/") -> Response:
    """The form; `next` is where it leads afterwards."""
    return login_page(next_path=_inside(next))


@router.post("/login")
def log_in(
    request: Request,
    name: Annotated[str, Form(max_length=200)],
    password: Annotated[str, Form(max_length=1024)],
    next: Annotated[str, Form(max_length=2000)] = "/",
) -> Response:
    """Open a session, or show the form again."""
    access: Access = request.app.state.access
    try:
        value = access.log_in(name, password, address_of(request))
    except NotAuthenticated as error:
        return login_page(next_path=_inside(next), error=str(error), status_code=401)
    except TooManyTries as error:
        response = login_page(next_path=_inside(next), error=str(error), status_code=429)
        response.headers["Retry-After"] = str(error.seconds)
        return response
    response = Response(status_code=303, headers={"Location": _inside(next)})
    response.set_cookie(
        cookie_name(request),
        value,
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return response


@router.post("/logout")
def log_out(request: Request) -> Response:
    """End the session of this browser, and have it forget what it keeps of us."""
    access: Access = request.app.state.access
    access.log_out(request)
    response = Response(status_code=303, headers={"Location": "/login", "Clear-Site-Data": '"cache"'})
    for name, is_secure in ((COOKIE, False), (SECURE_COOKIE, True)):
        response.delete_cookie(name, secure=is_secure, httponly=True, samesite="strict")
    return response


def _inside(path: str) -> str:
    """`path`, if it is one of ours; a browser takes ``//host`` and ``/\\\\host`` for another one."""
    is_ours = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() and path.isascii()
    return path if is_ours else "/"
