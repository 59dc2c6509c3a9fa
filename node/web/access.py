"""Authentication and authorization over HTTP.

A browser sends the cookie of its session, a script a token (``Authorization: Bearer``) or a name and a password
(``Basic``). Credentials must be valid even if none are required. A parameter of a route declares the required role::

    def studies(call: ReaderCall) -> ...
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime as dt
import hmac
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from hashlib import sha256
from typing import Annotated, Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

import structlog
from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import Scope

from node.addresses import block_of
from node.audit.audit_log import Action, AuditEvent, EventType, Result
from node.budget import Claim, Stage, Standing
from node.index.engine.scope import ProjectRole, become, within
from node.index.engine.scope import Scope as IndexScope
from node.index.nouns.accounts import AccountRepository, Client, KnownAccount, Role
from node.index.nouns.projects import KnownProjects
from node.index.nouns.shares import KnownShares, Share
from node.index.work.jobs import TOKEN_PREFIX as JOB_TOKEN_PREFIX
from node.index.work.jobs import JobRepository
from node.settings.web import Web
from node.web.audit_trail import AccountAuditTrail, AuditTrail
from node.web.credentials import PREFIX, TOKEN_PREFIX, FederatedIdentity, digest, is_password, new_token
from node.web.errors import (
    Forbidden,
    NoPlace,
    NotAuthenticated,
    ProviderUnavailable,
    ResourceNotFound,
    SignInFailed,
    TooManyTries,
)
from node.web.guesses import Guesses, Pair
from node.web.second_factor import new_recovery_codes, new_secret, normal, step_of
from node.web.services import Node, Services
from node.web.token_routes import covers

log = structlog.get_logger()

COOKIE, SECURE_COOKIE = "voxelnode", "__Host-voxelnode"
"""Names of the session cookie; browsers accept the second one only over HTTPS and only from this host."""

_Given = ParamSpec("_Given")
_Answer = TypeVar("_Answer")

DEFAULT_PORTS = {"http": ":80", "https": ":443"}

SHARED_PATH = "/shared/"
"""Path below which links are valid, and nothing else is."""

JOBS_PATH = "/api/v1/jobs/"
"""Path below which tokens of jobs are valid."""

MAX_CONCURRENT_HASHES = 1
"""Argon2 takes 64 MiB and a core per password; a flood of requests must not take more."""

MAX_WAITING_HASHES = 4
"""Requests that may wait for a hash, each on one of forty threads; another is refused at once."""

HASH_WAIT_SECONDS = 3.0
"""Longest wait for a hash, and the `Retry-After` of a refused client."""

MAX_VERIFIED_PASSWORDS = 256
"""Verified passwords that are not hashed again; scripts send theirs with every request."""

USE_INTERVAL = dt.timedelta(minutes=1)
"""The last use of a token or a session is written no more often."""

MAX_NOTED_USES = 1000

FACTOR_TIME = dt.timedelta(minutes=10)
"""In which the second factor must follow the password."""

NEVER = dt.datetime.min.replace(tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class Caller:
    """The account of a request and its role; `token` is the label of its token, `session` is its session.

    `share` is the link by which somebody without an account asks; it is good below its own address alone.
    `scope`: what it sees of the index; None: the whole. `projects`: the row ids of its projects, if it has a scope.
    """

    name: str
    role: Role
    token: str = ""
    session: int | None = None
    share: Share | None = None
    scope: IndexScope | None = None
    projects: frozenset[int] = dataclasses.field(default=frozenset(), compare=False)


LOCAL = Caller("local", Role.ADMIN)
"""The caller on this machine if [web] authentication requires no account."""


@dataclass(frozen=True, slots=True)
class Passed:
    """The cookie of a session after the second factor, and recovery codes if it was just set up."""

    value: str
    recovery_codes: tuple[str, ...]


def _whole(method: Callable[_Given, _Answer]) -> Callable[_Given, _Answer]:
    """Have a method read all accounts, whoever calls."""

    @wraps(method)
    def of_whole(*args: _Given.args, **options: _Given.kwargs) -> _Answer:
        with within(None):
            return method(*args, **options)

    return of_whole


class Access:
    """Authenticates the requests to one node. Thread-safe."""

    def __init__(
        self,
        web: Web,
        accounts: AccountRepository,
        jobs: JobRepository,
        shares: KnownShares,
        trail: AuditTrail,
        by_access_token: Callable[[str], FederatedIdentity] | None = None,
    ) -> None:
        self._identity_of = by_access_token
        self._web, self._accounts, self._jobs, self.trail = web, accounts, jobs, trail
        self._now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)
        self._guesses, self._codes = Guesses(self._alert), Guesses(self._alert)
        self._links = Guesses(lambda sentence, pair: None)
        self._shares = shares
        self._hashing = threading.Semaphore(MAX_CONCURRENT_HASHES)
        self._hash_places = threading.Semaphore(MAX_CONCURRENT_HASHES + MAX_WAITING_HASHES)
        self._verified, self._uses = _Verified(), _Uses()

    @_whole
    def identify(self, request: HTTPConnection) -> Caller:
        """Return the caller of a request from its credentials.

        Raises NotAuthenticated if credentials are required but missing, or if they are wrong or expired, and
        TooManyTries.
        """
        caller = self._by_credentials(request)
        if caller.scope is None:
            return caller
        return dataclasses.replace(caller, projects=self._accounts.projects_of(caller.scope.members))

    def _by_credentials(self, request: HTTPConnection) -> Caller:
        if request.scope["path"].startswith(SHARED_PATH):
            return self._by_share(request)
        if is_from_cors_origin(request.headers, request.url.scheme, self._web.cors_origins) and not has_token(
            request.headers
        ):
            raise NotAuthenticated("a page of [web] cors_origins must send a token of `voxelnode account token`")
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._by_token(request, credentials.strip())
        if scheme.lower() == "basic":
            name, password = _basic(credentials)
            known = self.check_password(name, password, address_of(request))
            if self._needs_factor(known):
                raise NotAuthenticated("this account has a second factor: send a token of `voxelnode account token`")
            return _account(known)
        if scheme:
            raise NotAuthenticated("the Authorization header is neither Bearer nor Basic")
        account = self._by_session(request)
        if account is not None:
            return account
        if self._web.needs_account or (self._web.authentication == "auto" and is_forwarded(request)):
            raise NotAuthenticated
        return LOCAL

    @_whole
    def is_still(self, request: HTTPConnection, caller: Caller) -> bool:
        """Return whether a request would be of the same caller in the same role, and no project less, if it came now.

        What the identity provider cannot say now has not ended: it is asked again the next time. Guesses of others at
        a password end nothing, either, while the password is the one that was right.
        """
        if caller.scope is not None and not caller.projects <= self._accounts.projects_of(caller.scope.members):
            return False
        try:
            return self.identify(request) == caller
        except ProviderUnavailable:
            return True
        except TooManyTries:
            known = self._accounts.by_name(caller.name)
            if known is None or _account(known) != caller:
                return False
            return self._has_matched(_basic(request.headers["authorization"].partition(" ")[2])[1], known)
        except (NotAuthenticated, Forbidden, ResourceNotFound):
            return False

    @_whole
    def check_password(self, name: str, password: str, address: str) -> KnownAccount:
        """Return the account with this name and password, or raise NotAuthenticated or TooManyTries."""
        pair = (name[:64], block_of(address))
        wait = self._guesses.wait_seconds(pair)
        if wait > 0:  # also for a password that has matched: it would be guessed without a limit
            raise TooManyTries(wait)
        known = self._accounts.by_name(name)
        if known is not None and self._has_matched(password, known):
            return known
        # Also without such an account, so that the time does not reveal whether it exists.
        matches = self._matches(pair, password, known.password_hash if known is not None else None)
        if known is None or not matches:
            self._audit_login((name[:64], address), Result.MINOR_FAILURE, "wrong name or password")
            raise NotAuthenticated("the name or the password is wrong")
        self._guesses.succeeded(pair)
        return known

    def check_passphrase(self, share: Share, passphrase: str, address: str) -> bool:
        """Return whether a passphrase is that of a link; raise TooManyTries if it is guessed."""
        who, pair = f"link {share.id} of {share.made_by}"[:64], (f"link {share.id}", block_of(address))
        wait = self._guesses.wait_seconds(pair)
        if wait > 0:
            raise TooManyTries(wait)
        if not self._matches(pair, passphrase, share.passphrase_hash):
            self._audit_login((who, address), Result.MINOR_FAILURE, "wrong passphrase of a link")
            return False
        self._guesses.succeeded(pair)
        return True

    @_whole
    def log_in(self, name: str, password: str, address: str, agent: str = "") -> str:
        """Open a session and return the value of its cookie. Raises the same exceptions as `check_password`."""
        known = self.check_password(name, password, address)
        if self._needs_factor(known):
            if not known.has_factor:
                self.begin_factor(known)
            self._audit_login((name, address), Result.SUCCESS, "the right password: the second factor is to follow")
            return self._open_session(known, Client(address, agent), FACTOR_TIME, has_factor=False)
        value = self._open_session(known, Client(address, agent))
        self._audit_login((name, address), Result.SUCCESS, "Login")
        return value

    @_whole
    def awaiting_factor(self, value: str) -> KnownAccount | None:
        """Return the account of a session that waits for its second factor and is good for nothing else, or None."""
        session = self._accounts.by_session(digest(value), self._now()) if value else None
        if session is None or session.has_factor is not False or not self._needs_factor(session.account):
            return None
        return session.account

    @_whole
    def begin_factor(self, known: KnownAccount) -> None:
        """Give an account without an authenticator app the secret of one; the first right code will set it up."""
        self._accounts.begin_factor(known.id, new_secret())

    @_whole
    def give_code(self, known: KnownAccount, code: str, client: Client) -> Passed:
        """Open a session for an account whose password was right, by a code of its app or a recovery code.

        The first code of a new secret sets the app up, and ends all other sessions: recovery codes are returned. Raises
        NotAuthenticated if the code is wrong or was used before, and TooManyTries.
        """
        codes = () if known.has_factor else tuple(new_recovery_codes())
        what = self._accepted(known, code, client.address, codes)
        value = self._open_session(known, client, has_factor=True)
        self._audit_login((known.name, client.address), Result.SUCCESS, f"Login with a second factor: {what}")
        return Passed(value, codes)

    @_whole
    def check_code(self, known: KnownAccount, code: str, address: str) -> None:
        """Use up a code of the app or a recovery code. Raises the same exceptions as `give_code`."""
        self._accepted(known, code, address, ())

    def _accepted(self, known: KnownAccount, code: str, address: str, new_codes: tuple[str, ...]) -> str:
        """Return what a right code was; `new_codes` are the recovery codes of an app that it sets up."""
        pair = known.name, block_of(address)
        wait = self._codes.begin(pair)
        if wait > 0:
            raise TooManyTries(wait)
        what = self._use_code(known, code, [digest(one) for one in new_codes])
        if not what:
            wrong = "the code is wrong, or was used before: wait for the next one"
            self._audit_login((known.name, address), Result.MINOR_FAILURE, f"wrong second factor: {wrong}")
            raise NotAuthenticated(wrong)
        self._codes.succeeded(pair)
        return what

    def _use_code(self, known: KnownAccount, code: str, new_codes: Sequence[str]) -> str:
        secret = known.totp_secret
        step = step_of(secret, code, self._now()) if secret else None
        if not known.has_factor:
            is_first = step is not None and self._accounts.confirm_factor(known.id, secret or "", step, new_codes)
            return "new app" if is_first else ""
        if step is not None and self._accounts.use_step(known.id, step):
            return "code of the app"
        return "recovery code" if self._accounts.use_recovery_code(known.id, digest(normal(code))) else ""

    def demands_factor(self, known: KnownAccount) -> bool:
        """Return whether [web] second_factor demands one of an account; the identity provider has its own."""
        demanded = self._web.second_factor
        is_of_provider = known.name.startswith(PREFIX)
        return not is_of_provider and (demanded == "all" or (demanded == "admin" and known.role is Role.ADMIN))

    def _needs_factor(self, known: KnownAccount) -> bool:
        return known.has_factor or self.demands_factor(known)

    @_whole
    def log_in_as(self, identity: FederatedIdentity, address: str, agent: str = "") -> str:
        """Open a session for a user of the identity provider; return the value of its cookie.

        The account has no password, and has the role and the groups that the provider says now. If these have changed,
        existing sessions of the account end, so that successive users of one name never get each other's role. If the
        provider grants no role, the account is removed with its sessions and tokens, and Forbidden is raised.
        """
        name, known = identity.name, self._accounts.by_name(identity.name)
        if identity.role is None:
            if known is not None:
                self._accounts.remove(name)
            self._audit_login((name, address), Result.MINOR_FAILURE, "no role by OpenID Connect")
            raise _no_role(identity)
        now = identity.role, identity.groups, None
        if known is None or (known.role, known.groups, known.password_hash) != now:
            self._accounts.set(name, identity.role, None, self._now(), identity.groups)
            known = self._accounts.by_name(name)
        if known is None:
            raise NotAuthenticated("the account was removed meanwhile")
        value = self._open_session(known, Client(address, agent))
        self._audit_login((name, address), Result.SUCCESS, "Login by OpenID Connect")
        return value

    @_whole
    def end_session(self, value: str) -> None:
        """End the session of a cookie, such as that of a password whose second factor has come."""
        self._accounts.close_session(digest(value))

    def audit_failed_sign_in(self, address: str, reason: str) -> None:
        """Record a failed sign-in at the identity provider."""
        self._audit_login(("unknown account", address), Result.MINOR_FAILURE, reason, once=True)

    @_whole
    def log_out(self, request: Request) -> str:
        """End the session of a browser, if it has one; return the name of its account or an empty string."""
        value = _cookie(request)
        session = self._accounts.by_session(digest(value), self._now()) if value else None
        if session is None:
            return ""
        name = session.account.name
        self._accounts.close_session(digest(value))
        self._audit_login((name, address_of(request)), Result.SUCCESS, "Logout", kind=EventType.LOGOUT)
        return name

    @property
    def _session_time(self) -> dt.timedelta:
        return dt.timedelta(hours=self._web.session_hours)

    def _open_session(
        self, known: KnownAccount, client: Client, time: dt.timedelta | None = None, *, has_factor: bool | None = None
    ) -> str:
        value, now = new_token(), self._now()
        end = now + (time or self._session_time)
        self._accounts.open_session(known.id, digest(value), end, now, client, has_factor=has_factor)
        return value

    def _by_access_token(
        self, request: HTTPConnection, token: str, identity_of: Callable[[str], FederatedIdentity]
    ) -> Caller:
        try:
            identity = identity_of(token)
        except SignInFailed as error:
            self._audit_wrong_token(request)
            raise NotAuthenticated(str(error)) from error
        if identity.role is None:
            raise _no_role(identity)
        is_limited = identity.role < Role.ADMIN and self._accounts.is_limited((identity.name, *identity.groups))
        scope = IndexScope(identity.name, groups=identity.groups) if is_limited else None
        return Caller(identity.name, identity.role, scope=scope)

    def _audit_wrong_token(self, request: HTTPConnection) -> None:
        caller = "unknown token", address_of(request)
        self._audit_login(caller, Result.MINOR_FAILURE, "a wrong or expired token", once=True)

    def _by_job_token(self, request: HTTPConnection, token: str) -> Caller:
        """Return the job that a token is of. It is valid below the address of that job only."""
        job = str(request.path_params.get("job", ""))
        is_there = request.scope["path"].startswith(f"{JOBS_PATH}{job}") and bool(job)
        if not is_there or not self._jobs.knows_token(job, token):
            self._audit_wrong_token(request)
            raise NotAuthenticated("the token is of a job: it is valid for the address of that job in its message only")
        return Caller(_name_of_job(job), Role.READ)

    def _by_share(self, request: HTTPConnection) -> Caller:
        """Return whoever has a link, as a caller that may only read; other credentials do not count here.

        The token is in the address. The routes below it show what its link does and nothing else.
        """
        address, token = address_of(request), str(request.path_params.get("share_token", ""))
        share = self._shares.by_token(digest(token), self._now())
        if share is None:
            # By address alone, and wrong ones alone: guesses of one lock nobody out whose link is right.
            block = block_of(address)
            wait = self._links.begin((f"a link at {block}", block))
            if wait > 0:
                raise TooManyTries(wait)
            self._audit_login(
                ("unknown link", address), Result.MINOR_FAILURE, "a wrong link, or one that is over", once=True
            )
            raise ResourceNotFound("link: it may be over, or revoked")
        whole = dataclasses.replace(share, uses=0, used_at=None)  # what a request is compared by, while it lasts
        return Caller(f"link {share.id} of {share.made_by}"[:64], Role.READ, share=whole)

    def _by_token(self, request: HTTPConnection, token: str) -> Caller:
        if token.startswith(JOB_TOKEN_PREFIX):
            return self._by_job_token(request, token)
        if self._identity_of is not None and not token.startswith(TOKEN_PREFIX):
            return self._by_access_token(request, token, self._identity_of)
        known = self._accounts.by_token(digest(token), self._now())
        if known is None:
            self._audit_wrong_token(request)
            raise NotAuthenticated("the token is wrong or has expired; create a new one with `voxelnode account token`")
        if not covers(known.routes, request.scope["path"]):
            who, detail = (known.account.name, address_of(request)), "a token for other routes"
            event, kind = AuditEvent.SECURITY_ALERT, EventType.RESTRICTED_FUNCTION
            self.trail.record(event, Action.EXECUTE, who, (), detail, Result.MINOR_FAILURE, once=True, kind=kind)
            raise Forbidden(f"the token of {known.account.name} is for {', '.join(known.routes)} only")
        if self._uses.is_due(digest(token), known.used_at, self._now()):
            self._accounts.note_use_of_token(digest(token), self._now())
        scope, role = _scope_of(known.account), known.role
        if known.project is not None:
            role = min(role, Role.WRITE)  # an administrator has it in the whole node
            if scope is None:
                scope = IndexScope(projects=(known.project,))
            else:
                scope = dataclasses.replace(scope, only=known.project)
        return Caller(known.account.name, role, known.label, scope=scope)

    def _by_session(self, request: HTTPConnection) -> Caller | None:
        value = _cookie(request)
        if not value:
            return None
        session = self._accounts.by_session(digest(value), self._now())
        if session is None or session.has_factor is False:
            return None
        if self._needs_factor(session.account) and not session.has_factor:  # it is demanded since
            return None
        known, now = session.account, self._now()
        is_late = session.expires_at - now < self._session_time / 2  # not at every request: an extension is a commit
        is_ours = not known.name.startswith(PREFIX)  # accounts of the provider sign in there again
        if not is_background(request.scope):
            if is_late and is_ours:
                self._accounts.extend_session(digest(value), now + self._session_time)
            if self._uses.is_due(digest(value), session.used_at, now):
                self._accounts.note_use_of_session(digest(value), now)
        return Caller(known.name, known.role, session=session.id, scope=_scope_of(known))

    def _has_matched(self, password: str, known: KnownAccount) -> bool:
        return known.password_hash is not None and self._verified.has(known.password_hash, password)

    def _matches(self, pair: Pair, password: str, hashed: str | None) -> bool:
        with self._turn():
            wait = self._guesses.begin(pair)
            if wait > 0:
                raise TooManyTries(wait)
            matches = is_password(password, hashed)
        if matches and hashed is not None:
            self._verified.add(hashed, password)
        return matches

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for a turn to hash a password; a flood of tries must not occupy all threads."""
        if not self._hash_places.acquire(blocking=False):
            raise TooManyTries(HASH_WAIT_SECONDS)
        try:
            if not self._hashing.acquire(timeout=HASH_WAIT_SECONDS):
                raise TooManyTries(HASH_WAIT_SECONDS)
            try:
                yield
            finally:
                self._hashing.release()
        finally:
            self._hash_places.release()

    def _alert(self, sentence: str, pair: Pair) -> None:
        event, kind = AuditEvent.SECURITY_ALERT, EventType.AUTHENTICATION_DECISION
        if self.trail.record(event, Action.EXECUTE, pair, (), sentence, Result.SERIOUS_FAILURE, once=True, kind=kind):
            log.warning("passwords_guessed", account=pair[0], address=pair[1], detail=sentence)

    def _audit_login(
        self,
        caller: tuple[str, str],
        result: Result,
        detail: str,
        *,
        once: bool = False,
        kind: EventType = EventType.LOGIN,
    ) -> None:
        event = AuditEvent.USER_AUTHENTICATION
        self.trail.record(event, Action.EXECUTE, caller, (), detail, result, once=once, kind=kind)


class _Verified:
    """Matching pairs of hash and password, each stored as an HMAC with a key of this process.

    A changed password has a new hash, so the old pair no longer matches.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._pairs: OrderedDict[bytes, None] = OrderedDict()

    def has(self, password_hash: str, password: str) -> bool:
        with self._lock:
            return self._pair(password_hash, password) in self._pairs

    def add(self, password_hash: str, password: str) -> None:
        with self._lock:
            self._pairs[self._pair(password_hash, password)] = None
            if len(self._pairs) > MAX_VERIFIED_PASSWORDS:
                self._pairs.popitem(last=False)

    def _pair(self, password_hash: str, password: str) -> bytes:
        return hmac.digest(self._key, f"{password_hash}\0{password}".encode("utf-8", "replace"), sha256)


class _Uses:
    """When credentials were last noted as used, so that requests at once and in a row write it once a minute."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._noted: OrderedDict[str, dt.datetime] = OrderedDict()

    def is_due(self, sha256: str, used_at: dt.datetime | None, now: dt.datetime) -> bool:
        """Return whether the use is to be written now; `used_at` is the time in the index."""
        with self._lock:
            last = max(used_at or NEVER, self._noted.get(sha256, NEVER))
            if now - last < USE_INTERVAL:
                return False
            self._noted[sha256] = now
            self._noted.move_to_end(sha256)
            if len(self._noted) > MAX_NOTED_USES:
                self._noted.popitem(last=False)
            return True


def address_of(request: HTTPConnection) -> str:
    """Return the address of the client; behind one of [web] trusted_proxies, the address forwarded by the proxy."""
    return request.client.host if request.client is not None else ""


def is_forwarded(request: HTTPConnection) -> bool:
    """Return whether a proxy forwarded the request: it may come from anywhere even if the connection is local."""
    return any(name in request.headers for name in ("forwarded", "x-forwarded-for", "x-real-ip", "via"))


def _own_origin(headers: Headers, scheme: str) -> str:
    """Return the origin of our own pages in the browser that sent a request (RFC 6454 6.2): no default port."""
    host = headers.get("host", "").lower()
    return f"{scheme}://{host.removesuffix(DEFAULT_PORTS.get(scheme, ''))}"


def own_names(web: Web) -> frozenset[str]:
    """Return the configured host names of the node, some with a port."""
    return frozenset(name.lower() for name in (*web.allowed_hosts, urlsplit(web.public_url).netloc) if name)


def is_own_origin(origin: str, headers: Headers, scheme: str, names: Collection[str]) -> bool:
    """Return whether an origin is that of our own pages; `names` are `own_names`.

    It may be that of a reverse proxy with HTTPS, under a name of [web] allowed_hosts. A proxy that is not in [web]
    trusted_proxies does not say that the browser used HTTPS, and may not forward the name. The port is the default one,
    that of `allowed_hosts`, or that of the forwarded name.
    """
    if origin == _own_origin(headers, scheme):
        return True
    name, host = origin.removeprefix("https://"), headers.get("host", "").lower()
    is_forwarded = name == host and host.partition(":")[0] in names
    return name != origin and (name in names or is_forwarded)


def is_from_cors_origin(headers: Headers, scheme: str, cors_origins: Collection[str]) -> bool:
    """Return whether the request comes from a page of [web] cors_origins, not from one of ours.

    Its script must send a token. Cookies and passwords, which browsers add automatically, do not count, and neither
    does a local connection: the page comes from elsewhere.
    """
    origin = headers.get("origin", "").lower()
    if headers.get("sec-fetch-site") == "same-origin" or origin == _own_origin(headers, scheme):
        return False
    return origin in {cors_origin.lower() for cors_origin in cors_origins}


def has_token(headers: Headers) -> bool:
    """Return whether the `Authorization` header has a token, valid or not."""
    return headers.get("authorization", "").lower().startswith("bearer ")


def _no_role(identity: FederatedIdentity) -> Forbidden:
    return Forbidden(
        f"The identity provider knows you as {identity.name.removeprefix(PREFIX)}, but grants you no role here. "
        "Ask an administrator for one of the roles or groups in [web.oidc] read, write or admin."
    )


def _account(known: KnownAccount) -> Caller:
    return Caller(known.name, known.role, scope=_scope_of(known))


def _scope_of(known: KnownAccount) -> IndexScope | None:
    return IndexScope(known.name, groups=known.groups) if known.is_limited else None


def _basic(credentials: str) -> tuple[str, str]:
    """Return name and password (RFC 7617)."""
    try:
        name, colon, password = base64.b64decode(credentials.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        colon = ""
    if not colon:
        raise NotAuthenticated("the Authorization header has no valid Basic credentials (RFC 7617)")
    return name, password


def cookie_name(request: HTTPConnection) -> str:
    """Return the name of the session cookie. Over HTTPS the plain name is ignored: anyone on the network can set it."""
    return SECURE_COOKIE if request.url.scheme in ("https", "wss") else COOKIE


def _cookie(request: HTTPConnection) -> str:
    return request.cookies.get(cookie_name(request), "")


def _identified(request: HTTPConnection) -> Caller:
    caller: Caller | None = getattr(request.state, "account", None)
    if caller is None:
        access: Access = request.app.state.access
        caller = access.identify(request)
        _take_place(request, caller)
        request.state.account = caller
        if caller.scope is None or request.scope.get("endpoint") in _project_routes:
            become(caller.scope)
    if caller.scope is not None and request.scope.get("endpoint") not in _project_routes:
        raise Forbidden(
            f"account {caller.name} sees its projects only, and this is for accounts that see the whole node: ask an "
            "administrator"
        )
    return caller


def _take_place(request: HTTPConnection, caller: Caller) -> None:
    """Enter a place for the rest of the request, or raise NoPlace."""
    claim: Claim | None = getattr(request.state, "claim", None)
    if claim is not None:
        request.state.turn.end_soon()
    if claim is None or claim.stage is Stage.PLACED:  # of no connection, or with an answer that is still to be taken
        return
    claim.caller, claim.standing = caller.name, standing_of(caller)
    if (rule := request.app.state.budget.enter(claim)) is not None:
        request.state.turn.is_refused = True
        raise NoPlace(rule, "requests")


def standing_of(caller: Caller) -> Standing:
    """Return the rank of a caller where places are taken."""
    return Standing.ADMINISTRATOR if caller.role is Role.ADMIN else Standing.PROVEN


def _require(role: Role) -> Any:
    def account(request: HTTPConnection) -> Caller:
        caller = _identified(request)
        if caller.role < role:
            access: Access = request.app.state.access
            who, needed = (caller.name, address_of(request)), role.name.lower()
            detail = f"the role is {caller.role.name.lower()}; the request requires {needed}"
            event, kind = AuditEvent.SECURITY_ALERT, EventType.RESTRICTED_FUNCTION
            access.trail.record(event, Action.EXECUTE, who, (), detail, Result.MINOR_FAILURE, once=True, kind=kind)
            raise Forbidden(
                f"account {caller.name} has the role {caller.role.name.lower()}, but this requires {needed}: ask an "
                f"administrator to run `voxelnode account role {caller.name} {needed}`"
            )
        return caller

    return Depends(account)


def _name_of_job(job: str) -> str:
    return f"job {job}"


def _worker(request: HTTPConnection) -> Caller:
    caller = _identified(request)
    if caller.name != _name_of_job(request.path_params["job"]) and caller.role < Role.WRITE:
        raise Forbidden(f"account {caller.name} may read; reports need the token of the job, or the role write")
    return caller


def _trail(request: HTTPConnection) -> AccountAuditTrail:
    access: Access = request.app.state.access
    return access.trail.of(_identified(request).name, address_of(request))


Reader = Annotated[Caller, _require(Role.READ)]
"""Parameter of a route: the caller, with the role read or higher."""

JobWorker = Annotated[Caller, Depends(_worker)]
"""Parameter of a route of a job: its receiver by its token, or a caller with the role write or higher."""

RequestAudit = Annotated[AccountAuditTrail, Depends(_trail)]
"""Parameter of a route: records which patient data was queried, accessed, transferred or changed."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request of a caller who has the role that its route requires, and what answers it."""

    request: Request
    node: Services
    account: Caller
    audit: AccountAuditTrail

    def act(self, action: str, **arguments: Any) -> Mapping[str, Any]:
        """Do an action of `Repository.actions` in the name of the caller."""
        return self.node.actions[action](who=self.account.name, **arguments)

    @contextmanager
    def changing(self, *targets: tuple[str, str | None], role: ProjectRole = "write") -> Iterator[None]:
        """Change series, or studies, by their UIDs, in the name of the caller: a member needs the role for each.

        A study without a series is the whole of it. Raises ResourceNotFound for what the caller does not see, and
        Forbidden for what its role is too low for.
        """
        if self.account.scope is not None:
            self._require(dataclasses.replace(self.account.scope, role=role), targets)
        with within(None):
            yield

    def may_change(self, study: str | None = None, series: str | None = None) -> bool:
        """Return whether the caller may change a series, or a whole study, that it sees; without both: any at all."""
        scope = self.account.scope
        if self.account.role < Role.WRITE or scope is None:
            return self.account.role >= Role.WRITE
        writing = dataclasses.replace(scope, role="write")
        if study is None:
            with within(writing), self.node.index.reading() as index:
                return bool(index.repository(KnownProjects).names())
        try:
            self._require(writing, [(study, series)])
        except Forbidden:
            return False
        return True

    def _require(self, scope: IndexScope, targets: Iterable[tuple[str, str | None]]) -> None:
        for study, series in targets:
            seen = self._series_within(self.account.scope, study)
            if not seen or (series and series not in seen):
                raise ResourceNotFound("series" if series else "study")
            wanted = {series} if series else self._series_within(None, study)
            if not wanted <= self._series_within(scope, study):
                raise Forbidden(
                    f"account {self.account.name} needs the role {scope.role} in a project that has "
                    f"{'the series' if series else 'all series of the study'}"
                )

    def _series_within(self, scope: IndexScope | None, study: str) -> set[str]:
        with within(scope), self.node.index.reading() as index:
            return {row["series_instance_uid"] for row in index.series.of_study(study)}

    def is_still_allowed(self) -> bool:
        """Return whether the credentials of the request are valid, and of the same caller in the same role, now.

        An answer that lasts asks again and again: accounts, passwords, roles, tokens, sessions and memberships of
        projects end meanwhile.
        """
        access: Access = self.request.app.state.access
        return access.is_still(self.request, self.account)


def _call_of(role: Role) -> Any:
    account_of_role = _require(role)

    async def call(request: Request, node: Node, audit: RequestAudit, account: Caller = account_of_role) -> Call:
        return Call(request, node, account, audit)

    return Depends(call)


ReaderCall = Annotated[Call, _call_of(Role.READ)]
WriterCall = Annotated[Call, _call_of(Role.WRITE)]
AdminCall = Annotated[Call, _call_of(Role.ADMIN)]
"""Parameters of a route: the request of a caller with the role read, write or admin, or a higher one."""

_Route = TypeVar("_Route", bound=Callable[..., object])

_background_routes: set[object] = set()

_project_routes: set[object] = set()


def for_projects(route: _Route) -> _Route:
    """Mark a route that accounts may use that see their projects only.

    It shows nothing but what it reads of the index, or of files that rows of the index name, and changes nothing but
    what is of the account itself, or what `Call.changing` has compared with its projects. All other routes refuse these
    accounts, whatever they ask.
    """
    _project_routes.add(route)
    return route


def is_for_projects(route: object) -> bool:
    """Return whether a route is marked by `for_projects`."""
    return route in _project_routes


def background_request(route: _Route) -> _Route:
    """Mark a route that programs poll: its requests extend no session and write no log line."""
    _background_routes.add(route)
    return route


def is_background(scope: Scope) -> bool:
    """Return whether a request, already routed, is for a route marked by `background_request`."""
    return scope.get("endpoint") in _background_routes
