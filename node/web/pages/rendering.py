"""Responses from templates."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Query, Request, Response
from fastapi.responses import HTMLResponse

from node.dicom.uids import in_path, resource_path
from node.hookspecs import MenuEntry
from node.index.look.views import ReadIndex
from node.index.rows.records import Client
from node.index.rules.people.accounts import KnownAccount, Role
from node.registry import deidentifications_of, enabled, installed, part_of, resolve
from node.settings.model import Settings
from node.settings.peers import Peer
from node.version import __version__
from node.web.access import Call
from node.web.credentials import picture_of
from node.web.errors import Forbidden
from node.web.headers import accepts_gzip, path_of
from node.web.pages.filters import FILTERS, static_url
from node.web.principal import address_of, cookie_name
from node.web.services import Services

if TYPE_CHECKING:
    from jinja2 import Environment

OK, SEE_OTHER = 200, 303
"""Statuses: 204 instead of `OK` if a fragment has nothing new; to the page that shows what became of a form."""

PAGE_ROWS = 50

PageNumber = Annotated[int, Query(ge=1, le=100_000)]


def part_of_page(number: int) -> tuple[int, int]:
    """Return how many rows of a list a page reads, and how many it skips."""
    return PAGE_ROWS + 1, (number - 1) * PAGE_ROWS


def rows_of_page(rows: Sequence[Any], number: int) -> dict[str, Any]:
    """Return what a template shows of a page of rows; one row more was read, to know whether a page follows."""
    return {"rows": rows[:PAGE_ROWS], "number": number, "more": len(rows) > PAGE_ROWS}


def study_url(study_instance_uid: str) -> str:
    """Return the URL of the page of a study."""
    return resource_path(study_instance_uid)


def series_url(study_instance_uid: str, series_instance_uid: str) -> str:
    """Return the URL of the page of a series."""
    return resource_path(study_instance_uid, series_instance_uid)


@cache
def _environment() -> Environment:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined  # for the first page

    packages = [extension.templates for extension in installed() if extension.templates]
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in packages]),
        autoescape=True,
        auto_reload=False,  # else each row of a list looks whether files of templates have changed
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    functions = (in_path, study_url, series_url, static_url)
    environment.globals.update({function.__name__: function for function in functions}, version=__version__)
    return environment


THEME_COOKIE = "theme"
"""Set by a script of the pages: a page comes in the colours that were chosen, else in those of the system."""

SEEN_COOKIE = "seen-problems"
"""The last event and the last conflict that there were when the browser showed the problems."""

_SEEN = re.compile(r"([0-9]{1,15})-([0-9]{1,15})")

MIN_COMPRESSED_BYTES = 1000
GZIP_LEVEL = 5
"""A page of 80 kB takes a millisecond; higher levels take longer and save little."""

_DIGEST = f"digest-{secrets.token_hex(16)}"
"""Placeholder for the digest of a fragment; random, so that it cannot occur in the content."""


def page(
    call: Call, template: str, headers: Mapping[str, str] | None = None, target: tuple[str, ...] = (), **values: Any
) -> Response:
    """Return a complete page for the account of a call; `target`: the UIDs of the study or series that it is about."""
    request, node, account = call.request, call.node, call.account
    is_member = account.scope is not None  # of projects: it sees no page of the node
    with node.index.reading(wait=False) as index:
        badges = badge_counts(index, request)
        has_work = bool(index.work.page(None, 1))
        shown = (entry for entry in menu_of(node.settings) if entry.for_members or not is_member)
        menu = [entry for entry in shown if not entry.is_used or resolve(entry.is_used)(node, index)]
    return _html(
        request,
        _render(
            template,
            path=path_of(request),
            menu=menu,
            theme=theme if (theme := request.cookies.get(THEME_COOKIE, "")) in ("light", "dark") else "",
            badges=badges,
            intake=NO_INTAKE if is_member else intake_of(node),
            account=account,
            is_member=is_member,
            may_write=call.may_change(*target),
            may_upload=account.role >= Role.WRITE and not is_member and serves_studies(node.settings),
            may_delete=account.role >= Role.ADMIN,
            has_work=has_work,
            ae_title=node.settings.dicom.ae_title,
            dicom_port=dicom_port(node),
            sending=None if is_member else sending(request, node),
            disabled=node.settings.extensions.disabled,
            trash_days=node.settings.retention.trash_days,
            was_deleted="deleted" in request.query_params,
            receivers={} if is_member else node.settings.receivers,
            called_peers=node.settings.called_peers,
            has_routes=bool(node.settings.receivers or node.settings.routes),
            has_dicomweb=serves_studies(node.settings),
            deidentifications=deidentifications_of(node.settings),
            **values,
        ),
        headers,
    )


def serves_studies(settings: Settings) -> bool:
    """Return whether the Studies Service of DICOMweb is on, from which pages download and to which they upload."""
    routers = (router for extension in enabled(settings) for router in extension.routers)
    return any(router.service == "Studies Service" for router in routers)


def study_links(node: Services, study_instance_uid: str) -> list[tuple[str, str]]:
    """Return label and URL of each viewer for a study."""
    ohif_url = part_of(node.settings, "node.extensions.ohif.pages:ohif_url")
    url = ohif_url(node, study_instance_uid) if ohif_url is not None else ""
    return [("Open in OHIF", url)] if url else []


def menu_of(settings: Settings) -> list[MenuEntry]:
    """Return the pages of the menu in their order; the template leaves out those with nothing to show."""
    entries: list[MenuEntry] = []
    for entry in (entry for extension in enabled(settings) for entry in extension.menu):
        at = [known.path for known in entries].index(entry.before) if entry.before else len(entries)
        entries.insert(at, entry)
    return entries


def _html(request: Request, content: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return HTML, compressed if it is long and the browser takes that."""
    own = {**(headers or {}), "Vary": "Accept-Encoding"}
    encoded = content.encode()
    if len(encoded) < MIN_COMPRESSED_BYTES or not accepts_gzip(request.headers):
        return HTMLResponse(encoded, headers=own)
    return HTMLResponse(gzip.compress(encoded, GZIP_LEVEL, mtime=0), headers={**own, "Content-Encoding": "gzip"})


def badge_counts(index: ReadIndex, request: Request) -> dict[str, int]:
    """Return the numbers in the menu: series under way, and what a person has to settle.

    ``new`` counts what turned up since this browser showed the list of problems, or of conflicts.
    """
    event, conflict = seen_problems(request)
    wrong = sum(problem_counts(index).values())
    new = wrong and (
        index.problems.count_since(event)
        + index.work.count_failed(event)
        + (index.conflicts.newest_undecided() > conflict)
    )
    return {"open": index.series.count_open(), "wrong": wrong, "new": new}


def problem_counts(index: ReadIndex) -> dict[str, int]:
    """Return how much a person has to settle, by the tab of *Problems* that lists it."""
    return {
        "unsettled": index.problems.count(),
        "hooks": index.work.count_failed(),
        "conflicts": index.conflicts.count_undecided(),
    }


def seen_problems(request: Request) -> tuple[int, int]:
    """Return the last event and the last conflict that there were when this browser showed the problems."""
    found = _SEEN.fullmatch(request.cookies.get(SEEN_COOKIE, ""))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def remember_seen(request: Request, response: Response, event: int, conflict: int) -> None:
    """Have the browser remember what it has shown, so that the badge of the menu rests."""
    response.set_cookie(
        SEEN_COOKIE,
        f"{event}-{conflict}",
        max_age=365 * 86400,
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )


def intake_of(node: Services) -> dict[str, Any]:
    """Return why nothing new is accepted, or None as ``refusal``, and the bytes of the disk that a writer has.

    ``room`` is what there is to use, without what the file system keeps for the superuser; ``used`` and ``free`` add up
    to it, as in ``df``.
    """
    try:
        disk = os.statvfs(node.archive.root)
    except OSError:
        return {**NO_INTAKE, "refusal": node.ingest.refusal()}
    used, free = (disk.f_blocks - disk.f_bfree) * disk.f_frsize, disk.f_bavail * disk.f_frsize
    return {"refusal": node.ingest.refusal(), "room": used + free, "used": used, "free": free}


NO_INTAKE: Mapping[str, Any] = {"refusal": None, "room": 0, "used": 0, "free": 0}
"""What members of projects see of the disk of the node."""


def fragment(call: Call, template: str, **values: Any) -> Response:
    """Return a part of a page that htmx polls, or 204 if the browser already has it.

    The browser sends the digest of its current part as ``seen``.
    """
    may_write = call.account.role >= Role.WRITE and call.account.scope is None
    may = {"may_write": may_write, "may_delete": call.account.role >= Role.ADMIN}
    is_member = call.account.scope is not None
    rendered = _render(template, digest=_DIGEST, is_member=is_member, **may, **values)
    digest = hashlib.sha256(rendered.encode()).hexdigest()[:16]
    if call.request.query_params.get("seen") == digest:
        return Response(status_code=204)
    return _html(call.request, rendered.replace(_DIGEST, digest))


def error_page(status_code: int, title: str, detail: str, remedy: str, before: str, remedy_page: str) -> str:
    """Return an error page, which needs no account."""
    values = {"title": title, "detail": detail, "remedy": remedy, "before": before, "remedy_page": remedy_page}
    return _render("error.html", status_code=status_code, **values)


@dataclass(frozen=True, slots=True)
class NewApp:
    """The secret of an authenticator app that is to be set up, and its picture."""

    secret: str
    picture: str


def factor_page(
    next_path: str, app: NewApp | None = None, *, action: str = "/login/factor", error: str = "", status_code: int = OK
) -> Response:
    """Return the form that posts a ``code`` of the second factor; with a new app to set it up."""
    return plain_page("factor.html", status_code, action=action, next_path=next_path, app=app, error=error)


def plain_page(template: str, status_code: int = OK, **values: Any) -> Response:
    """Return a page that needs no account."""
    return HTMLResponse(_render(template, **values), status_code)


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**({"theme": ""} | values))


@dataclass(frozen=True, slots=True)
class Sending:
    """A command of DCMTK that sends a folder; empty if no peer may store.

    `sender`: the peer as which it sends; None: [peers] are empty, and any sender may store.
    """

    port: int
    by_tls: bool
    sender: Peer | None
    command: str


def dicom_port(node: Services) -> int | None:
    """Return the port to which people send over DICOM; None: nothing comes in that way."""
    if not node.settings.dicom.enabled:
        return None
    return node.dicom_port() if node.dicom_port else node.settings.dicom.port


def sending(request: Request, node: Services) -> Sending | None:
    """Return how to send to the node; None: nothing comes in over DICOM.

    A sender without a certificate is preferred, as is a port without TLS: `dcmsend` of DCMTK has none.
    """
    dicom, peers, port = node.settings.dicom, node.settings.peers, dicom_port(node)
    if port is None:
        return None
    storing = [peer for peer in peers.values() if "store" in peer.may]
    sender = min(storing, key=lambda peer: peer.certificate is not None, default=None)
    by_tls = dicom.tls_certificate is not None and (dicom.tls_port is None or bool(sender and sender.certificate))
    port = dicom.tls_port if by_tls and dicom.tls_port is not None else port
    if peers and sender is None:
        return Sending(port, by_tls, None, "")
    words = ["dcmsend"]
    if by_tls:
        words = ["storescu", *(("+tls", "KEY", "CERTIFICATE") if dicom.tls_client_ca else ("+tla",)), "+cf", "CA"]
    words += ["-aet", sender.ae_title if sender else "SENDER"] if sender or by_tls else []
    words += ["-aec", dicom.ae_title, "+sd", "+r", "--no-halt", _dicom_host(request, node), str(port), "FOLDER"]
    return Sending(port, by_tls, sender, shlex.join(words))


def _dicom_host(request: Request, node: Services) -> str:
    """Return the host to which a sender connects: a listener on all addresses is where the browser found the pages."""
    host = node.settings.bind_host
    return request.url.hostname or host if host in ("0.0.0.0", "::") else host


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
