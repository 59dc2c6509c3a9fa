"""Accounts: the page of one's own, with its password, tokens and sessions, that of all for administrators, and REST."""

import datetime as dt
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Path, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field, StringConstraints

from node.errors import UsageError
from node.extensions.administration.names import MAX_ROUTES, require_name
from node.index.rows.scope import within
from node.index.rules.people.accounts import KnownAccount, ListedAccount, Role
from node.web.access import ADMINS, MEMBERS, READERS, Access, Call, CurrentCall
from node.web.api.models import MAX_ID, Resource
from node.web.api.routing import api_router
from node.web.credentials import GROUPS, MAX_PASSWORD_LENGTH, PREFIX, digest, hash_password, new_token
from node.web.errors import Forbidden, NotAuthenticated
from node.web.pages.rendering import (
    SEE_OTHER,
    client_of,
    factor_page,
    new_app,
    page,
    plain_page,
    require_session,
    set_session,
)
from node.web.principal import address_of
from node.web.sessions import Sessions

router = APIRouter(include_in_schema=False, dependencies=MEMBERS)
others_router = APIRouter(include_in_schema=False, dependencies=ADMINS)

MAX_DAYS = 36525
"""Days that a token lasts at most: a hundred years."""

CONFIRM = "/account/factor/confirm"

Password = Annotated[str, Field(max_length=MAX_PASSWORD_LENGTH * 4)]
"""Too long a one is refused with the rule; `hash_password` has it."""

Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]


class ChangedPassword(BaseModel):
    """The form that gives another account a new password."""

    new: Password
    again: Password


class NewPassword(ChangedPassword):
    """The form that changes one's own password."""

    current: Password


class NewToken(BaseModel):
    """The form that makes a token; `days` is empty if it never expires, `role` if it has that of the account.

    `project` is empty if it shows all that the account sees.
    """

    label: Label
    days: Annotated[int, Field(ge=1, le=MAX_DAYS)] | None = None
    role: Literal["", "read", "write", "admin"] = ""
    routes: Annotated[list[str], Field(max_length=MAX_ROUTES, default_factory=list)]
    path: Annotated[str, Field(max_length=200)] = ""
    project: Annotated[str, Field(max_length=64)] = ""


def _is_of_provider(name: str) -> bool:
    """Return whether the identity provider has the password and the role of an account."""
    return name.startswith(PREFIX)


def _hashed(new: str, again: str) -> str:
    """Return the hash of a password that was typed twice. Raises UsageError if it cannot be one."""
    if new != again:
        raise UsageError("the new passwords differ: nothing was changed")
    return hash_password(new)


@router.get("/account")
def account(call: CurrentCall) -> Response:
    """One's own account."""
    return _account(call)


@router.post("/account/password", dependencies=MEMBERS)
def change_password(call: CurrentCall, form: Annotated[NewPassword, Form()]) -> Response:
    """Change one's own password; every session of the account ends, this one too."""
    name = require_session(call)
    if _is_of_provider(name):
        raise Forbidden("the identity provider has the password of this account")
    _own_account(call, form.current)
    _act(call, "set-account", name=name, role=None, password_hash=_hashed(form.new, form.again))
    return RedirectResponse("/login", SEE_OTHER)


@router.post("/account/tokens", dependencies=MEMBERS)
def add_token(call: CurrentCall, form: Annotated[NewToken, Form()]) -> Response:
    """Make a token of one's own, which this page alone shows."""
    name, token = require_session(call), new_token()
    end = None if form.days is None else (dt.datetime.now(dt.UTC) + dt.timedelta(days=form.days)).isoformat()
    scope: dict[str, Any] = {"role": form.role or None, "routes": [*form.routes, *form.path.split()]}
    scope["project"] = form.project or None
    _act(call, "add-token", name=name, label=form.label, sha256=digest(token), expires_at=end, **scope)
    return _account(call, token=token, label=form.label)


@router.post("/account/tokens/revoke", dependencies=MEMBERS)
def revoke_token(call: CurrentCall, label: Annotated[Label, Form()]) -> Response:
    """Revoke a token of one's own."""
    _act(call, "remove-token", name=require_session(call), label=label)
    return RedirectResponse("/account", SEE_OTHER)


@router.post("/account/factor", dependencies=MEMBERS)
def begin_factor(call: CurrentCall, current: Annotated[Password, Form()]) -> Response:
    """Begin to set up an authenticator app: show its secret, and ask for the first code of it."""
    name, sessions = require_session(call), _sessions(call)
    if _is_of_provider(name):
        raise Forbidden("the identity provider has the second factor of this account")
    sessions.begin_factor(_own_account(call, current))
    known = _known_account(call, name)
    app = new_app(call.request, known) if known is not None and not known.has_factor else None
    if app is None:
        raise UsageError("this account has an authenticator app: remove it first")
    return factor_page("/account", app, action=CONFIRM)


@router.post(CONFIRM, dependencies=MEMBERS)
def confirm_factor(call: CurrentCall, code: Annotated[str, Form(max_length=64)]) -> Response:
    """Set up an authenticator app by its first code; every other session ends."""
    name, sessions = require_session(call), _sessions(call)
    known = _known_account(call, name)
    if known is None or known.has_factor or not known.totp_secret:
        raise UsageError("no authenticator app is being set up: begin again")
    try:
        passed = sessions.give_code(known, code, client_of(call.request))
    except NotAuthenticated as error:  # without the secret, which is shown for a password alone
        return factor_page("/account", action=CONFIRM, error=f"{error}, or begin again", status_code=401)
    response = plain_page("recovery.html", codes=passed.recovery_codes, next_path="/account")
    set_session(call.request, response, passed.value)
    return response


@router.post("/account/factor/remove", dependencies=MEMBERS)
def remove_factor(
    call: CurrentCall, current: Annotated[Password, Form()], code: Annotated[str, Form(max_length=64)]
) -> Response:
    """Remove one's own authenticator app by a code of it or a recovery code; every session of the account ends."""
    known = _own_account(call, current)
    if _sessions(call).demands_factor(known):
        raise Forbidden("[web] second_factor demands one of this account: ask an administrator to reset it")
    if not known.has_factor:
        raise UsageError("this account has no authenticator app")
    try:
        _sessions(call).check_code(known, code, address_of(call.request))
    except NotAuthenticated as error:  # as in `_own_account`
        raise UsageError(f"{error}: nothing was changed") from error
    _act(call, "remove-factor", name=known.name)
    return RedirectResponse("/login", SEE_OTHER)


def _own_account(call: Call, current: str) -> KnownAccount:
    """Return one's own account. Raises UsageError for a wrong password: the session is good, a login would not help."""
    try:
        return _sessions(call).passwords.check(require_session(call), current, address_of(call.request))
    except NotAuthenticated as error:
        raise UsageError("the current password is wrong: nothing was changed") from error


@router.post("/account/sessions/end", dependencies=MEMBERS)
def end_session(call: CurrentCall, session: Annotated[int | None, Form(ge=1, le=MAX_ID)] = None) -> Response:
    """End a session of one's own, or all: this one too."""
    _act(call, "end-sessions", name=require_session(call), session=session)
    return RedirectResponse("/account", SEE_OTHER)


def _sessions(call: Call) -> Sessions:
    access: Access = call.request.app.state.access
    return access.sessions


def _act(call: Call, action: str, **arguments: Any) -> None:
    """Change the account: of the whole index, since members of projects see no account in theirs."""
    with within(None):
        call.act(action, **arguments)


def _known_account(call: Call, name: str) -> KnownAccount | None:
    """Return an account by name, or None."""
    with within(None):
        return call.node.index.accounts.by_name(name)


def _account(call: Call, token: str = "", label: str = "") -> Response:
    known = _known_account(call, call.account.name)
    with within(None), call.node.index.reading() as index:
        own = next((one for one in index.accounts.listed() if one.name == call.account.name), None)
        sessions = index.accounts.sessions(call.account.name, call.node.ingest.now())
    with call.node.index.reading() as index:
        projects = index.accounts.projects()
    given: dict[str, Any] = {"own": own, "provided": own and _is_of_provider(own.name), "groups": GROUPS, "roles": Role}
    given |= {"sessions": sessions, "projects": projects}
    given["may_remove_factor"] = known is not None and not _sessions(call).demands_factor(known)
    return page(call, "account.html", **given, token=token, label=label)


def _listed(call: Call) -> list[ListedAccount]:
    with call.node.index.reading() as index:
        return index.accounts.listed()


Name = Annotated[str, Path(max_length=200)]
RoleName = Literal["read", "write", "admin"]


class NewAccount(BaseModel):
    """The form that makes an account; without a password it has tokens alone."""

    name: str
    role: RoleName = "read"
    new: Password = ""
    again: Password = ""


@others_router.get("/administration")
def accounts(call: CurrentCall) -> Response:
    """All accounts, with their roles and tokens."""
    rows = [{"account": one, "provided": _is_of_provider(one.name)} for one in _listed(call)]
    return page(call, "accounts.html", part="accounts", rows=rows)


@others_router.post("/administration/accounts")
def add_account(call: CurrentCall, form: Annotated[NewAccount, Form()]) -> Response:
    """Make an account."""
    require_session(call)
    require_name(form.name)
    if _is_of_provider(form.name) or any(one.name == form.name for one in _listed(call)):
        raise UsageError(f"there is an account {form.name}, or the identity provider may have one: choose another name")
    password_hash = _hashed(form.new, form.again) if form.new or form.again else None
    call.act("set-account", name=form.name, role=form.role, password_hash=password_hash)
    return _back()


@others_router.post("/administration/accounts/{name}/role")
def change_role(call: CurrentCall, name: Name, role: Annotated[RoleName, Form()]) -> Response:
    """Change the role of another account, effective from its next request."""
    _require_other(call, name)
    if _is_of_provider(name):
        raise UsageError("the identity provider decides about the role of this account")
    call.act("set-role", name=name, role=role)
    return _back()


@others_router.post("/administration/accounts/{name}/password")
def reset_password(call: CurrentCall, name: Name, form: Annotated[ChangedPassword, Form()]) -> Response:
    """Give another account a new password; its sessions end."""
    _require_other(call, name)
    if _is_of_provider(name):
        raise UsageError("the identity provider has the password of this account")
    if all(one.name != name for one in _listed(call)):
        raise UsageError("there is no such account: somebody has removed it")
    call.act("set-account", name=name, role=None, password_hash=_hashed(form.new, form.again))
    return _back()


@others_router.post("/administration/accounts/{name}/remove")
def remove_account(call: CurrentCall, name: Name) -> Response:
    """Remove another account with its tokens and sessions."""
    _require_other(call, name)
    call.act("remove-account", name=name)
    return _back()


@others_router.post("/administration/accounts/{name}/tokens/revoke")
def revoke_token_of(call: CurrentCall, name: Name, label: Annotated[Label, Form()]) -> Response:
    """Revoke a token of an account."""
    require_session(call)
    call.act("remove-token", name=name, label=label)
    return _back()


@others_router.post("/administration/accounts/{name}/factor/remove")
def remove_factor_of(call: CurrentCall, name: Name) -> Response:
    """Remove the second factor of another account, such as of a lost telephone; its sessions end."""
    _require_other(call, name)
    call.act("remove-factor", name=name)
    return _back()


def _require_other(call: Call, name: str) -> None:
    """Refuse to let people lock themselves out."""
    if require_session(call) == name:
        raise UsageError("this is your own account: another administrator, or `voxelnode account`, can change it")


def _back() -> Response:
    return RedirectResponse("/administration", SEE_OTHER)


account_router = api_router(READERS, "account")


class AccountResource(Resource):
    """The account of the caller. `role` is that of the request, which a token may lower; `token` is its label."""

    account: str
    role: str
    token: str


@account_router.get("/account")
def show_account(call: CurrentCall) -> AccountResource:
    """The account of the caller, and what the request may do."""
    return AccountResource(account=call.account.name, role=call.account.role.name.lower(), token=call.account.token)
