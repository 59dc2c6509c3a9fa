"""Who a request is of: one authenticator for each kind of credentials.

An authenticator returns the principal of a request, or None if the request has no credentials of its kind. It raises a
refusal if the credentials are wrong. `node.web.access` asks one after the other.
"""

import base64
import binascii
import dataclasses
import datetime as dt
import threading
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.requests import HTTPConnection

from node.audit.audit_log import Result
from node.index.rows.records import KnownShares
from node.index.rows.scope import Scope
from node.index.rules.people.accounts import KnownAccount, Role
from node.index.rules.work.messages import TOKEN_PREFIX as JOB_TOKEN_PREFIX
from node.index.rules.work.messages import JobRepository
from node.runtime.budget import remember
from node.runtime.network import block_of
from node.settings.core import Web
from node.web.credentials import PREFIX, TOKEN_PREFIX, FederatedIdentity, covers, digest, no_role
from node.web.errors import Forbidden, NotAuthenticated, ResourceNotFound, SignInFailed
from node.web.principal import (
    LOCAL,
    Principal,
    address_of,
    has_token,
    is_forwarded,
    is_from_cors_origin,
    scope_of,
    session_cookie,
)
from node.web.sessions import Guesses, Sessions

Authenticator = Callable[[HTTPConnection], Principal | None]

SHARED_PATH = "/shared/"
"""Path below which links are valid, and nothing else is."""

JOBS_PATH = "/api/v1/jobs/"
"""Path below which tokens of jobs are valid."""

USE_INTERVAL = dt.timedelta(minutes=1)
"""The last use of a token or a session is written no more often."""

MAX_NOTED_USES = 1000

NEVER = dt.datetime.min.replace(tzinfo=dt.UTC)


class Authenticators:
    """The authenticators of one node. Thread-safe."""

    def __init__(
        self,
        web: Web,
        sessions: Sessions,
        jobs: JobRepository,
        shares: KnownShares,
        identity_of: Callable[[str], FederatedIdentity] | None,
        is_background: Callable[[MutableMapping[str, Any]], bool],
    ) -> None:
        self._web, self._jobs, self._shares, self._identity_of = web, jobs, shares, identity_of
        self._sessions, self._accounts, self._trail = sessions, sessions.accounts, sessions.trail
        self._is_background = is_background
        self._guessed_links, self._uses = Guesses(lambda sentence, pair: None), _Uses()

    def in_order(self) -> tuple[Authenticator, ...]:
        """Return the authenticators in order; the first whose answer is not None decides."""
        return (
            self.by_link,
            self.refuse_foreign_page,
            self.by_job_token,
            self.by_access_token,
            self.by_token,
            self.by_password,
            self.refuse_other_scheme,
            self.by_session,
            self.local,
        )

    def asks_index(self, request: HTTPConnection) -> bool:
        """Return whether the index has to say who sent the credentials of a request; without any, it does not."""
        has_credentials = "authorization" in request.headers or bool(session_cookie(request))
        return has_credentials or request.scope["path"].startswith(SHARED_PATH)

    def by_link(self, request: HTTPConnection) -> Principal | None:
        """Return whoever has the link below whose address the request is; other credentials do not count there."""
        if not request.scope["path"].startswith(SHARED_PATH):
            return None
        address, token = address_of(request), str(request.path_params.get("share_token", ""))
        share = self._shares.by_token(digest(token), self._sessions.now())
        if share is None:
            # By address alone, and wrong ones alone: guesses of one lock nobody out whose link is right.
            block = block_of(address)
            self._guessed_links.require_try((f"a link at {block}", block))
            detail = "a wrong link, or one that is over"
            self._trail.authentication(("unknown link", address), Result.MINOR_FAILURE, detail, once=True)
            raise ResourceNotFound("link: it may be over, or revoked")
        whole = dataclasses.replace(share, uses=0, used_at=None)  # what a request is compared by, while it lasts
        return Principal("link", f"link {share.id} of {share.made_by}"[:64], Role.READ, share=whole)

    def refuse_foreign_page(self, request: HTTPConnection) -> None:
        """Raise NotAuthenticated for a page of [web] cors_origins without a token: cookies do not count."""
        headers = request.headers
        if is_from_cors_origin(headers, request.url.scheme, self._web.cors_origins) and not has_token(headers):
            raise NotAuthenticated("a page of [web] cors_origins must send a token of `voxelnode account token`")

    def by_job_token(self, request: HTTPConnection) -> Principal | None:
        """Return the job of a token, which is valid below the address of that job only."""
        token = _sent(request, "bearer")
        if token is None or not token.startswith(JOB_TOKEN_PREFIX):
            return None
        job = str(request.path_params.get("job", ""))
        is_there = request.scope["path"].startswith(f"{JOBS_PATH}{job}") and bool(job)
        if not is_there or not self._jobs.knows_token(job, token):
            self._record_wrong_token(request)
            raise NotAuthenticated("the token is of a job: it is valid for the address of that job in its message only")
        return Principal("job", f"job {job}", Role.READ)

    def by_access_token(self, request: HTTPConnection) -> Principal | None:
        """Return the user of an access token of the identity provider, if the node has one."""
        token = _sent(request, "bearer")
        if self._identity_of is None or token is None or token.startswith(TOKEN_PREFIX):
            return None
        try:
            identity = self._identity_of(token)
        except SignInFailed as error:
            self._record_wrong_token(request)
            raise NotAuthenticated(str(error)) from error
        if identity.role is None:
            raise no_role(identity)
        is_limited = identity.role < Role.ADMIN and self._accounts.is_limited((identity.name, *identity.groups))
        scope = Scope(identity.name, groups=identity.groups) if is_limited else None
        return Principal("provider", identity.name, identity.role, scope)

    def by_token(self, request: HTTPConnection) -> Principal | None:
        """Return the account of a token; a token for a project sees that project, with the role write at most."""
        token = _sent(request, "bearer")
        if token is None:
            return None
        known = self._accounts.by_token(digest(token), self._sessions.now())
        if known is None:
            self._record_wrong_token(request)
            raise NotAuthenticated("the token is wrong or has expired")
        if not covers(known.routes, request.scope["path"]):
            self._trail.refused((known.account.name, address_of(request)), "a token for other routes")
            raise Forbidden(f"the token of {known.account.name} is for {', '.join(known.routes)} only")
        if self._uses.is_due(digest(token), known.used_at, self._sessions.now()):
            self._accounts.note_use_of_token(digest(token), self._sessions.now())
        scope, role = scope_of(known.account), known.role
        if known.project is not None:
            role = min(role, Role.WRITE)  # an administrator has it in the whole node
            if scope is None:
                scope = Scope(projects=(known.project,))
            else:
                scope = dataclasses.replace(scope, only=known.project)
        return Principal("token", known.account.name, role, scope, known.label, routes=known.routes)

    def by_password(self, request: HTTPConnection) -> Principal | None:
        """Return the account of a name and a password (RFC 7617)."""
        sent = _sent(request, "basic")
        if sent is None:
            return None
        known = self._sessions.passwords.check(*_name_and_password(sent), address_of(request))
        if self._sessions.needs_factor(known):
            raise NotAuthenticated("this account has a second factor: send a token of `voxelnode account token`")
        return _of_password(known)

    def is_still_by_password(self, request: HTTPConnection, principal: Principal) -> bool:
        """Return whether the password was right before, and is of an account that has not changed."""
        sent, known = _sent(request, "basic"), self._accounts.by_name(principal.name)
        if sent is None or known is None or _of_password(known) != principal:
            return False
        return self._sessions.passwords.has_matched(_name_and_password(sent)[1], known)

    def refuse_other_scheme(self, request: HTTPConnection) -> None:
        """Raise NotAuthenticated for an Authorization header of another scheme."""
        if request.headers.get("authorization", "").partition(" ")[0]:
            raise NotAuthenticated("the Authorization header is neither Bearer nor Basic")

    def by_session(self, request: HTTPConnection) -> Principal | None:
        """Return the account of a session cookie, and extend the session; an invalid cookie counts as none."""
        value = session_cookie(request)
        session = self._sessions.valid(value) if value else None
        if session is None:
            return None
        known, now, time = session.account, self._sessions.now(), self._sessions.time
        is_late = session.expires_at - now < time / 2  # not at every request: an extension is a commit
        is_ours = not known.name.startswith(PREFIX)  # accounts of the provider sign in there again
        if not self._is_background(request.scope):
            if is_late and is_ours:
                self._accounts.extend_session(digest(value), now + time)
            if self._uses.is_due(digest(value), session.used_at, now):
                self._accounts.note_use_of_session(digest(value), now)
        return Principal("session", known.name, known.role, scope_of(known), session=session.id)

    def local(self, request: HTTPConnection) -> Principal:
        """Return this machine if [web] authentication requires no account, else raise NotAuthenticated."""
        if self._web.needs_account or (self._web.authentication == "auto" and is_forwarded(request)):
            raise NotAuthenticated
        return LOCAL

    def _record_wrong_token(self, request: HTTPConnection) -> None:
        caller = "unknown token", address_of(request)
        self._trail.authentication(caller, Result.MINOR_FAILURE, "a wrong or expired token", once=True)


def _of_password(known: KnownAccount) -> Principal:
    return Principal("password", known.name, known.role, scope_of(known))


class _Uses:
    """When credentials were last noted as used, so that requests at once and in a row write it once a minute."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._noted: dict[str, dt.datetime] = {}

    def is_due(self, sha256: str, used_at: dt.datetime | None, now: dt.datetime) -> bool:
        """Return whether the use is to be written now; `used_at` is the time in the index."""
        with self._lock:
            last = max(used_at or NEVER, self._noted.get(sha256, NEVER))
            if now - last < USE_INTERVAL:
                return False
            remember(self._noted, sha256, now, MAX_NOTED_USES)
            return True


def _sent(request: HTTPConnection, scheme: str) -> str | None:
    """Return the credentials of the Authorization header, or None if it has another scheme."""
    sent, _, credentials = request.headers.get("authorization", "").partition(" ")
    return credentials.strip() if sent.lower() == scheme else None


def _name_and_password(credentials: str) -> tuple[str, str]:
    try:
        name, colon, password = base64.b64decode(credentials, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        colon = ""
    if not colon:
        raise NotAuthenticated("the Authorization header has no valid Basic credentials (RFC 7617)")
    return name, password
