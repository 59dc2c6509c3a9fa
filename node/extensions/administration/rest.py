"""REST: the account of the caller, its tokens and its sessions."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import Path

from node.extensions.administration.own import listed
from node.index.database.reading import ReadIndex
from node.index.nouns.accounts import ListedAccount
from node.web.access import READERS, Call, CurrentCall
from node.web.api.changes import Change
from node.web.api.models import Moment, Resource, RowId
from node.web.api.routing import OF_CHANGES, api_router, problems
from node.web.errors import Forbidden, ResourceNotFound

router = api_router(READERS, "account")

TokenNumber = Annotated[RowId, Path(description="`id` of the token")]

SessionNumber = Annotated[RowId, Path(description="`id` of the session")]


class AccountResource(Resource):
    """The account of the caller. `role` is that of the request, which a token may lower; `token` is its label."""

    account: str
    role: str
    token: str


class TokenResource(Resource):
    """A token, without its secret. `routes` is empty if it is good for all; `project`: the only one that it shows."""

    id: RowId
    label: str
    role: str
    routes: list[str]
    project: str | None
    created_at: Moment
    expires_at: Moment | None
    used_at: Moment | None


class Tokens(Resource):
    """Tokens, oldest first."""

    items: list[TokenResource]


class SessionResource(Resource):
    """A browser that is signed in: from where, as what, and when it was used last."""

    id: RowId
    address: str
    agent: str
    created_at: Moment
    expires_at: Moment
    used_at: Moment | None


class Sessions(Resource):
    """Sessions, newest first."""

    items: list[SessionResource]


class EndedSessions(Resource):
    """How many sessions were open."""

    ended: int


class RevokedToken(Resource):
    """The label that a token had."""

    removed: str


@router.get("/account")
def show_account(call: CurrentCall) -> AccountResource:
    """The account of the caller, and what the request may do."""
    return AccountResource(account=call.account.name, role=call.account.role.name.lower(), token=call.account.token)


@router.get("/account/tokens")
def list_tokens(call: CurrentCall) -> Tokens:
    """The tokens of the caller; a token lists itself alone."""
    return Tokens(items=_tokens(call, listed(call)))


@router.delete("/account/tokens/{token}", responses=problems(*OF_CHANGES), dependencies=READERS)
def revoke_token(call: CurrentCall, change: Change, token: TokenNumber) -> RevokedToken:
    """Revoke a token of the caller at once; a token revokes itself alone."""
    if call.account.kind == "local":
        raise Forbidden("nobody is signed in: `voxelnode account revoke` revokes tokens")

    def act(_: object) -> RevokedToken:
        with call.node.index.reading() as index:
            label = _token(call, index, token).label
        call.act("remove-token", name=call.account.name, label=label)
        return RevokedToken(removed=label)

    return change.make(RevokedToken, lambda index: _token(call, index, token), act)


@router.get("/account/sessions")
def list_sessions(call: CurrentCall) -> Sessions:
    """The sessions of the caller; a token sees none."""
    with call.node.index.reading() as index:
        return Sessions(items=_sessions(call, index))


@router.delete("/account/sessions/{session}", responses=problems(*OF_CHANGES), dependencies=READERS)
def end_session(call: CurrentCall, change: Change, session: SessionNumber) -> EndedSessions:
    """End a session of the caller at once; a token ends none."""

    def current(index: ReadIndex) -> SessionResource:
        found = next((one for one in _sessions(call, index) if one.id == session), None)
        if found is None:
            raise ResourceNotFound("session")
        return found

    def act(_: object) -> EndedSessions:
        with call.node.index.reading() as index:
            current(index)
        return EndedSessions.model_validate(call.act("end-sessions", name=call.account.name, session=session))

    return change.make(EndedSessions, current, act)


def _sessions(call: Call, index: ReadIndex) -> list[SessionResource]:
    if call.account.token:
        return []
    return [
        SessionResource.of({**asdict(one), **asdict(one.client)})
        for one in index.accounts.sessions(call.account.name, call.node.ingest.now())
    ]


def _token(call: Call, index: ReadIndex, number: int) -> TokenResource:
    found = next((one for one in _tokens(call, index.accounts.listed()) if one.id == number), None)
    if found is None:
        raise ResourceNotFound("token")
    return found


def _tokens(call: Call, accounts: list[ListedAccount]) -> list[TokenResource]:
    return [
        TokenResource.of({**asdict(one), "role": (one.role or account.role).name.lower()})
        for account in accounts
        if account.name == call.account.name
        for one in account.tokens
        if call.account.token in ("", one.label)
    ]
