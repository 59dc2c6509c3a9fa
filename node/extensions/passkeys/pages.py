"""Routes by which a browser registers a security key, signs in with it, and removes it.

A browser posts a form twice: first it is told what the key is to sign, then it brings the answer. What is to be signed
belongs to the session of the browser, is for one purpose, and is good for one answer.
"""

from __future__ import annotations

import datetime as dt
import secrets
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import StringConstraints

from node.errors import UsageError
from node.extensions.administration.own import (
    Label,
    Password,
    access_of,
    act,
    is_of_provider,
    known_account,
    own_account,
    renewed,
    require_optional,
    require_session,
    use_code,
)
from node.extensions.pages.login import MAX_PATH_LENGTH, answer_factor, awaiting, client_of, session_cookie
from node.extensions.pages.rendering import SEE_OTHER
from node.extensions.passkeys.actions import require_label
from node.extensions.passkeys.keys import KeyRepository, ReadKeys, SecurityKey
from node.extensions.passkeys.relying_party import (
    MISSING,
    credential_id_in,
    is_installed,
    relying_party,
    user_id_of,
)
from node.index.engine.scope import within
from node.index.nouns.accounts import KnownAccount
from node.web.access import Proof, ReaderCall, for_projects
from node.web.credentials import digest
from node.web.errors import Forbidden, NotAuthenticated
from node.web.second_factor import new_recovery_codes
from node.web.services import Services

router = APIRouter(include_in_schema=False)

TIME = dt.timedelta(minutes=5)
"""In which a key must answer."""

CHALLENGE_BYTES = 32

Purpose = Literal["register", "sign in"]

Answer = Annotated[str, Form(max_length=16_384)]

OptionalLabel = Annotated[str, StringConstraints(strip_whitespace=True, max_length=64), Form()]


def shown(node: Services, known: KnownAccount) -> dict[str, Any]:
    """Return what the templates show: the keys of an account, whether it has an app, and what is missing."""
    missing = "" if is_installed() else MISSING
    return {"registered": _keys(node, known), "has_app": known.has_app, "missing": missing}


@router.post("/login/key/options")
def options_at_login(request: Request, label: OptionalLabel = "") -> Response:
    """What a key is to sign as second factor; where none is set up, what a first key is to be made with."""
    known = awaiting(request)
    if known is None:
        raise NotAuthenticated("sign in again: the password was given too long ago")
    return _options(request, known, "sign in" if known.has_factor else "register", label)


@router.post("/login/key")
def sign_in(
    request: Request,
    answer: Answer,
    label: OptionalLabel = "",
    next: Annotated[str, Form(max_length=MAX_PATH_LENGTH)] = "/",
) -> Response:
    """Open the session by a key, which is the first factor if the account had none, or show the form again."""
    access = request.app.state.access

    def accept(known: KnownAccount) -> Proof:
        if known.has_factor:
            return _signed(request, known, answer)
        try:
            return _registered(request, known, label, answer, must_be_first=True)
        except UsageError as error:
            raise NotAuthenticated(str(error)) from error

    return answer_factor(request, next, lambda known, client: access.give_factor(known, lambda: accept(known), client))


@router.post("/account/keys/options")
@for_projects
def options(call: ReaderCall, label: Annotated[Label, Form()], current: Annotated[Password, Form()]) -> Response:
    """What a new key of one's own is to be made with."""
    if is_of_provider(require_session(call)):
        raise Forbidden("the identity provider has the second factor of this account")
    return _options(call.request, own_account(call, current), "register", label)


@router.post("/account/keys")
@for_projects
def add(call: ReaderCall, label: Annotated[Label, Form()], answer: Answer) -> Response:
    """Add a key to one's own account; every other session ends."""
    known = known_account(call, require_session(call))
    if known is None:
        raise UsageError("the account was removed meanwhile")

    def accept() -> Proof:
        return _registered(call.request, known, label, answer, must_be_first=False)

    try:
        passed = access_of(call).give_factor(known, accept, client_of(call.request))
    except NotAuthenticated as error:
        raise UsageError(str(error)) from error  # the session is good: a login would not help
    return renewed(call, passed)


@router.post("/account/keys/remove")
@for_projects
def remove(
    call: ReaderCall,
    label: Annotated[Label, Form()],
    current: Annotated[Password, Form()],
    code: Annotated[str, Form(max_length=64)] = "",
) -> Response:
    """Remove a key of one's own; every session of the account ends. The last factor needs a recovery code."""
    known = own_account(call, current)
    with within(None):
        keys = _keys(call.node, known)
    if all(key.label != label for key in keys):
        raise UsageError(f"there is no security key {label!r}: it was removed already")
    is_last = not known.has_app and len(keys) == 1
    if is_last:
        require_optional(access_of(call), known)
        use_code(call, known, code)
    act(call, "remove-security-key", name=known.name, label=label, may_be_last=is_last)
    return RedirectResponse("/login", SEE_OTHER)


def _options(request: Request, known: KnownAccount, purpose: Purpose, label: str) -> Response:
    """Return what a browser is to ask a key, as JSON."""
    node: Services = request.app.state.services
    party = relying_party(request, node.settings.web)
    challenge = secrets.token_bytes(CHALLENGE_BYTES)
    with within(None):
        keys = _keys(node, known)
        here = [key for key in keys if key.rp_id == party.rp_id]
        if purpose == "register":
            if require_label(label) in {key.label for key in keys}:
                raise UsageError(f"there is a security key {label!r}: choose another name")
            user_id = user_id_of(party.rp_id, known.name, known.id)
            asked = party.creation_options(known.name, user_id, here, challenge)
        elif here:
            asked = party.request_options(here, challenge)
        else:
            names = ", ".join(sorted({key.rp_id for key in keys})) or "none"
            raise UsageError(f"no security key of this account is for {party.rp_id}; it has keys for: {names}")
        session, end = digest(session_cookie(request)), node.ingest.now() + TIME
        if not _repository(node).begin(session, purpose, challenge.hex(), end):
            raise NotAuthenticated("sign in again: the session has ended")
    return Response(asked, media_type="application/json")


def _registered(request: Request, known: KnownAccount, label: str, answer: str, *, must_be_first: bool) -> Proof:
    """Add the key that a browser has made."""
    node: Services = request.app.state.services
    made = relying_party(request, node.settings.web).registered(answer, _challenge(request, "register"))
    codes = tuple(new_recovery_codes())
    done = node.actions["add-security-key"](
        name=known.name,
        label=label,
        key=asdict(made),
        codes=[digest(code) for code in codes],
        who=known.name,
        must_be_first=must_be_first,
    )
    return Proof(f"new security key {label!r}", codes if done["codes_taken"] else ())


def _signed(request: Request, known: KnownAccount, answer: str) -> Proof:
    """Accept what a key of an account has signed."""
    node: Services = request.app.state.services
    party, challenge = relying_party(request, node.settings.web), _challenge(request, "sign in")
    credential_id = credential_id_in(answer)
    key = next((one for one in _keys(node, known) if one.credential_id == credential_id), None)
    if key is None or key.rp_id != party.rp_id:
        raise NotAuthenticated(f"this security key is not one that the account has for {party.rp_id}")
    if not _repository(node).use(key.id, party.signed(answer, key, challenge), node.ingest.now()):
        raise NotAuthenticated(
            f"the signature counter of security key {key.label!r} went back: somebody may have a copy of it. Use "
            "another factor, and remove this key"
        )
    return Proof(f"security key {key.label!r}")


def _challenge(request: Request, purpose: Purpose) -> bytes:
    """Return what a key was to sign in this session, which no other answer is good for."""
    node: Services = request.app.state.services
    taken = _repository(node).take(digest(session_cookie(request)), purpose, node.ingest.now())
    if taken is None:
        raise NotAuthenticated("the security key answered too late, or twice: try again")
    return bytes.fromhex(taken)


def _keys(node: Services, known: KnownAccount) -> list[SecurityKey]:
    with node.index.reading() as index:
        return index.repository(ReadKeys).of_account(known.id)


def _repository(node: Services) -> KeyRepository:
    return node.index.repository(KeyRepository)
