"""Login by a form or by the identity provider, and logout."""

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Form, HTTPException, Request, Response

from node.audit.audit_log import Result
from node.index.rules.people.accounts import KnownAccount
from node.web.access import ANYBODY, Access
from node.web.credentials import PREFIX, SIGN_IN_SECONDS
from node.web.errors import Forbidden, NotAuthenticated, ProviderUnavailable, SignInFailed, TooManyTries
from node.web.pages.rendering import client_of, factor_page, is_secure, new_app, plain_page, set_session
from node.web.principal import COOKIE, SECURE_COOKIE, address_of, session_cookie
from node.web.sessions import Sessions

router = APIRouter(include_in_schema=False, dependencies=ANYBODY)

SIGN_IN_COOKIE, SECURE_SIGN_IN_COOKIE = "voxelnode-sign-in", "__Host-voxelnode-sign-in"
"""Cookies for a sign-in under way at the identity provider."""

SINGLE_SIGN_ON = "Sign in with single sign-on"
CALLBACK = "/login/oidc/callback"
"""Redirect URI path, to be registered with the provider."""

MAX_PATH_LENGTH = 2000


@router.get("/login")
def form(request: Request, next: str = "/", ended: bool = False) -> Response:
    """The form; `next` is the page after the login; `ended`: a session by the provider has just ended."""
    sign_ins = request.app.state.sign_ins
    end_session_url = sign_ins.provider.end_session_url if sign_ins is not None and ended else ""
    return _form(request, next, end_session_url=end_session_url)


@router.post("/login")
def log_in(
    request: Request,
    name: Annotated[str, Form(max_length=200)],
    password: Annotated[str, Form(max_length=1024)],
    next: Annotated[str, Form(max_length=MAX_PATH_LENGTH)] = "/",
) -> Response:
    """Open a session, or show the form again."""
    sessions = _sessions(request)
    try:
        value = sessions.log_in(name, password, address_of(request), request.headers.get("user-agent", ""))
    except (NotAuthenticated, TooManyTries) as error:
        return _refused(error, _form(request, next, name=name, error=str(error)))
    location = (
        f"/login/factor?next={quote(_inside(next), safe='')}" if sessions.awaiting_factor(value) else _inside(next)
    )
    response = Response(status_code=303, headers={"Location": location})
    set_session(request, response, value)
    return response


@router.get("/login/factor")
def factor_form(request: Request, next: str = "/") -> Response:
    """The form for a code of the second factor, after the password; where none is set up, with the secret of one."""
    known = _awaiting(request)
    return _factor_form(request, known, next) if known is not None else _form(request, next)


@router.post("/login/factor")
def give_code(
    request: Request,
    code: Annotated[str, Form(max_length=64)],
    next: Annotated[str, Form(max_length=MAX_PATH_LENGTH)] = "/",
) -> Response:
    """Open the session by a code of the app or a recovery code, or show the form again."""
    sessions = _sessions(request)
    known = _awaiting(request)
    if known is None:
        return _form(request, next, error="Sign in again: the second factor came too late.", status_code=401)
    try:
        passed = sessions.give_code(known, code, client_of(request))
    except (NotAuthenticated, TooManyTries) as error:
        return _refused(error, _factor_form(request, known, next, error=_sentence(str(error))))
    response = Response(status_code=303, headers={"Location": _inside(next)})
    if passed.recovery_codes:
        response = plain_page("recovery.html", codes=passed.recovery_codes, next_path=_inside(next))
    sessions.end(session_cookie(request))
    set_session(request, response, passed.value)
    return response


def _refused(error: NotAuthenticated | TooManyTries, response: Response) -> Response:
    response.status_code = 401
    if isinstance(error, TooManyTries):
        response.status_code, response.headers["Retry-After"] = 429, str(error.seconds)
    return response


def _sessions(request: Request) -> Sessions:
    access: Access = request.app.state.access
    return access.sessions


def _awaiting(request: Request) -> KnownAccount | None:
    """Return the account whose password a browser has given, and whose second factor is to follow."""
    return _sessions(request).awaiting_factor(session_cookie(request))


def _factor_form(request: Request, known: KnownAccount, next_path: str, *, error: str = "") -> Response:
    app = None if known.has_factor else new_app(request, known)
    return factor_page(_inside(next_path), app, error=error)


@router.get("/login/oidc")
def begin_sign_in(request: Request, next: str = "/") -> Response:
    """Send a browser to the identity provider."""
    sign_ins = _sign_ins(request)
    redirect_uri = f"{request.url.scheme}://{request.url.netloc}{CALLBACK}"
    try:
        url, cookie = sign_ins.begin(redirect_uri, _inside(next))
    except ProviderUnavailable as error:
        return _form(request, next, error=_try_later(error), status_code=503)
    response = Response(status_code=303, headers={"Location": url})
    response.set_cookie(
        _sign_in_cookie_name(request),
        cookie,
        max_age=SIGN_IN_SECONDS,
        secure=is_secure(request),
        httponly=True,
        samesite="lax",  # the browser returns from another site
    )
    return response


@router.get(CALLBACK)
def end_sign_in(request: Request, code: str = "", state: str = "", error: str = "") -> Response:
    """Open a session for a browser that returns from the identity provider."""
    sign_ins, access = _sign_ins(request), request.app.state.access
    address, next_path = address_of(request), "/"
    try:
        sign_in = sign_ins.returned(request.cookies.get(_sign_in_cookie_name(request), ""), state)
        next_path = sign_in.next_path
        if error or not code:
            raise SignInFailed("the identity provider did not let you sign in")
        value = access.sessions.log_in_as(sign_ins.end(sign_in, code), address, request.headers.get("user-agent", ""))
    except SignInFailed as failed:
        access.trail.authentication(("unknown account", address), Result.MINOR_FAILURE, str(failed), once=True)
        response = _form(request, next_path, error=_sentence(f"{failed}: sign in again"), status_code=401)
    except Forbidden as refused:
        response = _form(request, next_path, error=str(refused), status_code=403)
    except ProviderUnavailable as unavailable:
        response = _form(request, next_path, error=_try_later(unavailable), status_code=503)
    else:
        # A page rather than a redirect: browsers attribute a redirect to the provider's site, and would not send the
        # session cookie, which is SameSite=Strict.
        response = plain_page("signed_in.html", next_path=next_path)
        set_session(request, response, value)
    response.delete_cookie(_sign_in_cookie_name(request), secure=is_secure(request), httponly=True, samesite="lax")
    return response


@router.post("/logout")
def log_out(request: Request) -> Response:
    """End the session of this browser, and have the browser clear our data."""
    name = _sessions(request).log_out(request)
    location = "/login?ended=true" if name.startswith(PREFIX) else "/login"
    response = Response(status_code=303, headers={"Location": location, "Clear-Site-Data": '"cache"'})
    for cookie, is_https in ((COOKIE, False), (SECURE_COOKIE, True)):
        response.delete_cookie(cookie, secure=is_https, httponly=True, samesite="strict")
    return response


def _form(
    request: Request,
    next_path: str,
    *,
    name: str = "",
    error: str = "",
    status_code: int = 200,
    end_session_url: str = "",
) -> Response:
    return plain_page(
        "login.html",
        status_code,
        next_path=_inside(next_path),
        name=name,
        error=error,
        button=SINGLE_SIGN_ON if request.app.state.sign_ins is not None else "",
        end_session_url=end_session_url,
    )


def _sign_ins(request: Request) -> Any:
    sign_ins = request.app.state.sign_ins
    if sign_ins is None:
        raise HTTPException(404, "no identity provider is configured ([web.oidc])")
    return sign_ins


def _sign_in_cookie_name(request: Request) -> str:
    return SECURE_SIGN_IN_COOKIE if is_secure(request) else SIGN_IN_COOKIE


def _try_later(error: Exception) -> str:
    return _sentence(f"{error}. Try again later, or sign in with an account of this node")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _inside(path: str) -> str:
    """Return `path` if it is on this site; browsers read ``//host`` and ``/\\\\host`` as another host."""
    is_ours = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() and path.isascii()
    return path if is_ours and len(path) <= MAX_PATH_LENGTH else "/"
