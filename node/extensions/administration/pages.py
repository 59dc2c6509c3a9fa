"""Pages for administrators: accounts, the configuration with where each value comes from, the newest log lines."""

from __future__ import annotations

import json
from typing import Annotated, Literal, get_args

from fastapi import APIRouter, Form, Path, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel

from node import logs
from node.errors import UsageError
from node.extensions.administration.own import Label, Password, hashed, is_of_provider, listed
from node.settings.load import values_of
from node.web.access import ADMINS, Call, CurrentCall
from node.web.credentials import require_name
from node.web.pages.rendering import SEE_OTHER, page
from node.web.pages.sessions import require_session

router = APIRouter(include_in_schema=False, dependencies=ADMINS)

Name = Annotated[str, Path(max_length=200)]
RoleName = Literal["read", "write", "admin"]

Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = get_args(Level)


class NewAccount(BaseModel):
    """The form that makes an account; without a password it has tokens alone."""

    name: str
    role: RoleName = "read"
    new: Password = ""
    again: Password = ""


class ChangedPassword(BaseModel):
    """The form that gives an account another password."""

    new: Password
    again: Password


@router.get("/administration")
def accounts(call: CurrentCall) -> Response:
    """All accounts, with their roles and tokens."""
    rows = [{"account": one, "provided": is_of_provider(one.name)} for one in listed(call)]
    return page(call, "accounts.html", part="accounts", rows=rows)


@router.post("/administration/accounts")
def add_account(call: CurrentCall, form: Annotated[NewAccount, Form()]) -> Response:
    """Make an account."""
    require_session(call)
    require_name(form.name)
    if is_of_provider(form.name) or any(one.name == form.name for one in listed(call)):
        raise UsageError(f"there is an account {form.name}, or the identity provider may have one: choose another name")
    password_hash = hashed(form.new, form.again) if form.new or form.again else None
    call.act("set-account", name=form.name, role=form.role, password_hash=password_hash)
    return _back()


@router.post("/administration/accounts/{name}/role")
def change_role(call: CurrentCall, name: Name, role: Annotated[RoleName, Form()]) -> Response:
    """Change the role of another account, effective from its next request."""
    _require_other(call, name)
    if is_of_provider(name):
        raise UsageError("the identity provider decides about the role of this account")
    call.act("set-role", name=name, role=role)
    return _back()


@router.post("/administration/accounts/{name}/password")
def reset_password(call: CurrentCall, name: Name, form: Annotated[ChangedPassword, Form()]) -> Response:
    """Give another account a new password; its sessions end."""
    _require_other(call, name)
    if is_of_provider(name):
        raise UsageError("the identity provider has the password of this account")
    if all(one.name != name for one in listed(call)):
        raise UsageError("there is no such account: somebody has removed it")
    call.act("set-account", name=name, role=None, password_hash=hashed(form.new, form.again))
    return _back()


@router.post("/administration/accounts/{name}/remove")
def remove_account(call: CurrentCall, name: Name) -> Response:
    """Remove another account with its tokens and sessions."""
    _require_other(call, name)
    call.act("remove-account", name=name)
    return _back()


@router.post("/administration/accounts/{name}/tokens/revoke")
def revoke_token(call: CurrentCall, name: Name, label: Annotated[Label, Form()]) -> Response:
    """Revoke a token of an account."""
    require_session(call)
    call.act("remove-token", name=name, label=label)
    return _back()


@router.post("/administration/accounts/{name}/factor/remove")
def remove_factor(call: CurrentCall, name: Name) -> Response:
    """Remove the second factor of another account, such as of a lost telephone; its sessions end."""
    _require_other(call, name)
    call.act("remove-factor", name=name)
    return _back()


@router.get("/administration/configuration")
def configuration(call: CurrentCall, chosen: bool = False) -> Response:
    """Each key with its value, and where that comes from; `chosen`: without those that have their defaults."""
    known = values_of(call.node.settings)
    rows = [(key, value, origin) for key, value, origin in known if not chosen or origin != "default"]
    sources = call.node.settings.loaded_from
    return page(call, "configuration.html", part="configuration", rows=rows, sources=sources, chosen=chosen)


@router.post("/administration/configuration/apply")
def apply(call: CurrentCall) -> Response:
    """Read the files again, and put in force what needs no restart."""
    require_session(call)
    call.act("reload")
    return RedirectResponse("/administration/configuration?chosen=true", SEE_OTHER)


@router.get("/administration/log")
def log_lines(call: CurrentCall, level: Level = "info", requests: bool = False, download: bool = False) -> Response:
    """The newest lines that this process has logged, newest first; as a file, the oldest first."""
    wanted = LEVELS[LEVELS.index(level) :]
    rows = [line for line in logs.newest() if line.get("level") in wanted]
    rows = [line for line in rows if requests or line["event"] != logs.HTTP_REQUEST]
    if download:
        disposition = {"Content-Disposition": 'attachment; filename="voxelnode-log.jsonl"', "Cache-Control": "no-store"}
        content = "".join(f"{json.dumps(line)}\n" for line in rows)
        return Response(content, media_type="application/x-ndjson", headers=disposition)
    return page(call, "log.html", part="log", rows=rows[::-1], level=level, levels=LEVELS, requests=requests)


def _require_other(call: Call, name: str) -> None:
    """Refuse to let people lock themselves out."""
    if require_session(call) == name:
        raise UsageError("this is your own account: another administrator, or `voxelnode account`, can change it")


def _back() -> Response:
    return RedirectResponse("/administration", SEE_OTHER)
