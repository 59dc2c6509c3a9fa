"""Who may ask for what over HTTP: a router declares whom it allows, and a handler takes the call.

A browser sends the cookie of its session, a script a token (``Authorization: Bearer``) or a name and a password
(Basic). Credentials must be valid even if none are required::

    router = APIRouter(dependencies=[allow("read")])

    @router.get("/studies")
    def studies(call: CurrentCall) -> ...

    @router.post("/studies", dependencies=[allow("write")])
    def add_study(call: CurrentCall) -> ...

A route that declares nothing is refused at the start (`require_declared`), and a call without a declaration is 401.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Annotated, Any, Literal, TypeVar, get_args

import structlog
from fastapi import Depends, Request
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from node.errors import UsageError
from node.index.rows.records import KnownShares
from node.index.rows.scope import NOBODY, ProjectRole, become, within
from node.index.rows.scope import Scope as IndexScope
from node.index.rules.people.accounts import AccountRepository, Role
from node.index.rules.work.messages import JobRepository
from node.runtime.budget import Caller, Claim, Stage
from node.settings.core import Web
from node.web.audit_trail import AccountAuditTrail, AuditTrail
from node.web.authenticators import Authenticators
from node.web.credentials import FederatedIdentity
from node.web.errors import Forbidden, NoPlace, NotAuthenticated, ProviderUnavailable, ResourceNotFound, TooManyTries
from node.web.principal import Principal, address_of
from node.web.routes_by_path import HttpMiddleware, template_of
from node.web.services import Services
from node.web.sessions import Sessions

log = structlog.get_logger()

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that change nothing, RFC 9110 9.2.1."""


_Route = TypeVar("_Route", bound=Callable[..., object])

_background_routes: set[object] = set()


def background_request(route: _Route) -> _Route:
    """Mark a route that programs poll: its requests extend no session and write no log line."""
    _background_routes.add(route)
    return route


def is_background(scope: Scope) -> bool:
    """Return whether a request, already routed, is for a route marked by `background_request`."""
    return scope.get("endpoint") in _background_routes


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
        self._accounts, self.trail = accounts, trail
        self.sessions = Sessions(web, accounts, trail)
        self._known = Authenticators(web, self.sessions, jobs, shares, by_access_token, is_background)

    def may_wait(self, request: HTTPConnection) -> bool:
        """Return whether identifying a request may wait for the index."""
        return self._known.asks_index(request)

    @within(None)
    def identify(self, request: HTTPConnection) -> Principal:
        """Return the principal of a request from its credentials.

        Raises NotAuthenticated if credentials are required but missing, or if they are wrong or expired, and
        TooManyTries.
        """
        for authenticate in self._known.in_order():
            if (principal := authenticate(request)) is not None:
                if principal.scope is None:
                    return principal
                return dataclasses.replace(principal, projects=self._accounts.projects_of(principal.scope.members))
        raise NotAuthenticated

    @within(None)
    def is_still(self, request: HTTPConnection, principal: Principal) -> bool:
        """Return whether a request would be of the same principal in the same role, and no project less, now.

        What the identity provider cannot say now has not ended: it is asked again the next time. Guesses of others at
        a password end nothing, either, while the password is the one that was right.
        """
        scope = principal.scope
        if scope is not None and not principal.projects <= self._accounts.projects_of(scope.members):
            return False
        try:
            return self.identify(request) == principal
        except ProviderUnavailable:
            return True
        except TooManyTries:
            return self._known.is_still_by_password(request, principal)
        except (NotAuthenticated, Forbidden, ResourceNotFound):
            return False


def identified(request: HTTPConnection) -> Principal:
    """Return the principal of a routed request; what the request reads of the index is what the principal sees."""
    principal: Principal | None = getattr(request.state, "account", None)
    allowed = declared(request.scope.get("route"))
    is_open = allowed is not None and bool(allowed.in_project)
    if principal is None:
        access: Access = request.app.state.access
        principal = access.identify(request)
        _take_place(request, principal)
        request.state.account = principal
        if principal.scope is None or is_open:
            become(principal.scope)
    if principal.scope is not None and not is_open:
        raise Forbidden(
            f"account {principal.name} sees its projects only, and this is for accounts that see the whole node: ask "
            "an administrator"
        )
    return principal


def identify_again(request: Request, principal: Principal) -> None:
    """Let a request be of a principal that an equal request was of; raise NoPlace. The request reads no index."""
    _take_place(request, principal)
    request.state.account = principal


def _take_place(request: HTTPConnection, principal: Principal) -> None:
    """Enter a place for the rest of the request, or raise NoPlace."""
    claim: Claim | None = getattr(request.state, "claim", None)
    caller: Caller | None = getattr(request.state, "caller", None)
    if caller is not None:
        caller.name, caller.is_administrator = principal.name or address_of(request), principal.role >= Role.ADMIN
    if claim is not None:
        request.state.turn.end_soon()
    if claim is None or claim.stage is Stage.PLACED:  # of no connection, or with an answer that is still to be taken
        return
    claim.caller, claim.standing = principal.name, principal.standing
    if (rule := request.app.state.budget.enter(claim)) is not None:
        request.state.turn.is_refused = True
        raise NoPlace(rule, "requests")


Who = Literal["anybody", "link", "read", "write", "admin"]
"""`anybody`: nobody is asked who they are. `link`: whoever has a link. Else accounts with at least this role."""


@dataclass(frozen=True, slots=True)
class Allow:
    """A dependency that lets some principals pass; with `job`, the token of a job passes too.

    A router and its route may each have one: a principal has to pass both.

    `in_project` lets accounts that see their projects only pass, and is the role that they need in a project; of the
    declarations of a route, the last one counts. Such a route shows nothing but what it reads of the index, or of files
    that rows of the index name, and changes nothing but what is of the account itself, or what `Call.changing` has
    compared with its projects. All other routes refuse these accounts, whatever they ask.
    """

    who: Who
    job: bool = False
    in_project: Literal["", "read", "write", "manage"] = ""

    async def __call__(self, request: Request) -> None:
        if self.who == "anybody":
            return
        access: Access = request.app.state.access
        if access.may_wait(request):
            await run_in_threadpool(self._require, request)
        else:
            self._require(request)
        turn = getattr(request.state, "turn", None)
        if turn is not None and request.method in SAFE_METHODS:
            await turn.share(request.state.caller.name)

    def _require(self, request: Request) -> None:
        principal = identified(request)
        if self.who == "link" or principal.kind == "link":
            if self.who != principal.kind:
                raise Forbidden("a link is for its own address, and its address for the link")
        elif principal.kind != "job" or not self.job:
            self._require_role(request, principal, Role[self.who.upper()])

    def _require_role(self, request: Request, principal: Principal, role: Role) -> None:
        if principal.role >= role and principal.kind != "job":
            return
        if self.job or principal.kind == "job":
            raise Forbidden(f"account {principal.name} may read; reports need the token of the job, or the role write")
        access: Access = request.app.state.access
        has, needed = principal.role.name.lower(), role.name.lower()
        detail = f"the role is {has}; the request requires {needed}"
        access.trail.refused((principal.name, address_of(request)), detail)
        raise Forbidden(
            f"account {principal.name} has the role {has}, but this requires {needed}: ask an "
            f"administrator to run `voxelnode account role {principal.name} {needed}`"
        )

    def in_openapi(self) -> dict[str, Any]:
        """Return what the OpenAPI document says of it."""
        more = {"x-role-in-project": self.in_project, "x-job-token": self.job}
        return {"x-role": self.who} | {key: value for key, value in more.items() if value}


def allow(who: Who, *, job: bool = False, in_project: Literal["", "read", "write", "manage"] = "") -> Any:
    """Return what `dependencies` of a router or a route has: whom it allows. See `Allow`."""
    return Depends(Allow(who, job, in_project))


ANYBODY, READERS, WRITERS, ADMINS = (allow("anybody"),), (allow("read"),), (allow("write"),), (allow("admin"),)

MEMBERS = (allow("read", in_project="read"),)
WRITING_MEMBERS = (allow("write", in_project="write"),)
MANAGERS = (allow("write", in_project="manage"),)


def declared(route: BaseRoute | None) -> Allow | None:
    """Return whom a route allows, by all of its declarations; None: it has none."""
    if not (found := _declarations(route)):
        return None
    who = max((one.who for one in found), key=get_args(Who).index)
    return Allow(who, all(one.job for one in found), found[-1].in_project)


def _declarations(route: BaseRoute | None) -> list[Allow]:
    if not isinstance(route, APIRoute):
        return []
    return [one.dependency for one in route.dependencies if isinstance(one.dependency, Allow)]


_open_apps: list[object] = []


def for_anybody(files: StaticFiles) -> StaticFiles:
    """Mark files that a router mounts and that nobody needs an account for."""
    _open_apps.append(files)
    return files


def require_declared(routes: Iterable[BaseRoute]) -> None:
    """Raise UsageError for a route that does not declare whom it allows.

    A route that may change something does not inherit the role read: it declares this role itself, or a higher one.
    A router that includes others is refused too, since FastAPI hides their routes: an extension names each router.
    """
    for route in routes:
        if isinstance(route, Mount) and route.app in _open_apps:
            continue
        where, found = f"the route {getattr(route, 'path', type(route).__name__)}", _declarations(route)
        if not found:
            raise UsageError(f"{where} does not declare whom it allows: give it `node.web.access.allow`")
        if [one.who for one in found] == ["read"] and not getattr(route, "methods", set()) <= SAFE_METHODS:
            raise UsageError(f"{where} may change something: beside its router, it declares itself whom it allows")


@dataclass(frozen=True, slots=True)
class Call:
    """A request of a principal that its route allows, and what answers it."""

    request: Request
    node: Services
    account: Principal
    audit: AccountAuditTrail

    def act(self, action: str, **arguments: Any) -> Mapping[str, Any]:
        """Do an action of `Repository.actions` in the name of the caller."""
        return self.node.actions[action](who=self.account.name, **arguments)

    @contextmanager
    def changing(self, *targets: tuple[str, str | None]) -> Iterator[None]:
        """Change series, or studies, by their UIDs, in the name of the caller.

        A member needs the role write for each, or manage if the route declares that. A study without a series is the
        whole of it. Raises ResourceNotFound for what the caller does not see, and Forbidden for what its
        role is too low for.
        """
        if self.account.scope is not None:
            allowed = declared(self.request.scope.get("route"))
            role: ProjectRole = "manage" if allowed is not None and allowed.in_project == "manage" else "write"
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
                return bool(index.accounts.projects())
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


async def _call(request: Request) -> Call:
    principal: Principal | None = getattr(request.state, "account", None)
    if principal is None:  # the route does not declare whom it allows
        raise NotAuthenticated
    access: Access = request.app.state.access
    audit = access.trail.of(principal.name, address_of(request))
    return Call(request, request.app.state.services, principal, audit)


CurrentCall = Annotated[Call, Depends(_call)]
"""Parameter of a route: its request, of a principal that it allows."""


class OfNobody(HttpMiddleware):
    """ASGI middleware: a request sees nothing of the index until its caller is known (`node.web.access`)."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with within(NOBODY):
            await self._app(scope, receive, send)


CHECK_SECONDS = 1.0
"""Interval at which the caller of a body that lasts is identified again."""


class _Ended(Exception):
    """The credentials of a request ended before it did."""


class _Watch:
    """Identifies the caller of a request again, as long as its body lasts."""

    def __init__(self, scope: Scope) -> None:
        self._scope, self.has_ended = scope, False
        self.rest()

    def rest(self) -> None:
        """Let the next check be due in `CHECK_SECONDS`."""
        self._due = monotonic() + CHECK_SECONDS

    async def check(self) -> None:
        """Raise _Ended if the caller may no longer do what the request does."""
        caller = self._scope.get("state", {}).get("account")
        if caller is None or monotonic() < self._due:
            return
        is_still = self._scope["app"].state.access.is_still
        if not await run_in_threadpool(is_still, HTTPConnection(self._scope), caller):
            self.has_ended = True
            raise _Ended
        self.rest()


class StillAllowed(HttpMiddleware):
    """ASGI middleware: a long answer or upload ends as soon as its caller may no longer have it.

    Accounts and roles, tokens and sessions end while bodies are under way; what is sent afterwards would be too much.
    The connection is closed, so that nobody takes a part for the whole. An answer that is ready when its own request
    ends the session still goes out: the time is counted from the first byte of it.
    """

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = _Watch(scope)

        async def receive_checked() -> Message:
            message = await receive()
            if message["type"] == "http.request":  # the last piece, too: what it completes would be kept
                await watch.check()
            return message

        async def send_checked(message: Message) -> None:
            if message["type"] == "http.response.start":
                watch.rest()
            else:
                await watch.check()
            await send(message)

        try:
            await self._app(scope, receive_checked, send_checked)
        except Exception:
            if not watch.has_ended:
                raise
            log.info("web_answer_ended", route=template_of(scope), address=address_of(HTTPConnection(scope)))
            claim: Claim | None = scope["state"].get("claim")
            if claim is not None:
                claim.holder.hang_up()
