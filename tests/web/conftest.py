"""The node over HTTP as its clients meet it: the application of a real root.

Requests of `Site.client` go to the application in this process. A server listens on loopback once a test asks for
`Site.url` or `Site.network_client`: about sockets, TLS, slow readers, places of connections, and browsers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx2
import pytest
from argon2 import PasswordHasher
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydicom import FileDataset
from starlette.testclient import TestClient, _TestClientTransport
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.api import Role, Services, Settings
from node.control import web as web_of_node
from node.control.repository import Repository
from node.conversion.scheduler import Worker
from node.extensions.object_store.settings import StoreSettings
from node.extensions.oidc.settings import WebWithOidc
from node.receive.readiness import reasons_not_ready
from node.registry import enabled, objects_of
from node.settings.section import Convert
from node.web.application import application
from node.web.credentials import digest, new_token
from node.web.server import WebServer
from node.writers.options import write_options
from tests import make
from tests.integration.conftest import bring
from tests.made_once import converters, decoder
from tests.waiting import running, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.web.pages import Visitor

PASSWORD = "correct horse battery"
DEADLINE_SECONDS = 20.0
hash_once = cache(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash)
"""A hash that is compared in no time; what `node.web.credentials` makes takes a tenth of a second each time."""


LOCAL = ("127.0.0.1", 50_000)
"""Where requests come from that no socket carries."""


class Whole(httpx2.SyncByteStream):
    """An application for one request, and its answer: broken off where a server would close the connection."""

    def __init__(self, application: ASGIApp, method: str) -> None:
        self._application, self._has_body = application, method != "HEAD"
        self._length: int | None = None
        self._sent, self._is_over, self._stream = 0, False, httpx2.SyncByteStream()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                reported = dict(message["headers"]).get(b"content-length")
                self._has_body &= message["status"] not in (204, 304)
                self._length = int(reported) if reported is not None and self._has_body else None
            else:
                self._sent += len(message.get("body", b""))
                self._is_over = not message.get("more_body", False)
            await send(message)

        await self._application(scope, receive, counted)

    def of(self, stream: httpx2.SyncByteStream) -> Whole:
        self._stream = stream
        return self

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream
        if not self._is_over or self._length not in (None, self._sent):
            raise httpx2.RemoteProtocolError(f"peer closed connection after {self._sent} of {self._length} bytes")

    def close(self) -> None:
        self._stream.close()


class InProcess(httpx2.BaseTransport):
    """Hands requests to the application of a site, behind the proxies that it trusts; they share an event loop."""

    def __init__(self, server: WebServer) -> None:
        if not server._server.config.loaded:
            server._server.config.load()
        self._application: ASGIApp = server._server.config.loaded_app
        self._loop = TestClient(self._application)
        self._loop.__enter__()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        whole = Whole(self._application, request.method)
        ways = {"portal_factory": self._loop._portal_factory, "app_state": {}, "client": LOCAL}
        answer = _TestClientTransport(whole, raise_server_exceptions=False, **ways).handle_request(request)
        answer.stream = whole.of(answer.stream)
        return answer

    def end(self) -> None:
        """End the event loop."""
        self._loop.__exit__(None, None, None)


BESIDE = os.environ.get("TESTS_WEB") == "process"
"""Whether sites are served by a process beside the one with the tests, as a node serves them."""


@dataclass
class Site:
    """A root and the application that serves it."""

    store: Repository
    server: WebServer
    services: Services
    beside: web_of_node.WebProcess
    clients: list[httpx2.Client] = field(default_factory=list)
    _plain: httpx2.Client | None = None

    @property
    def root(self) -> Path:
        return self.store.archive.root

    @property
    def app(self) -> FastAPI:
        return self.server._app

    @property
    def origin(self) -> str:
        """Where a client has the site, without a socket."""
        return self.url if BESIDE else f"{self._scheme}://127.0.0.1:11380"

    @cached_property
    def url(self) -> str:
        """Where the server listens, from now on."""
        bound = web_of_node.listening(self.services.settings.web)
        host, port = bound.getsockname()[:2]
        (self.beside if BESIDE else self.server).start(bound)
        return f"{self._scheme}://{host}:{port}"

    @property
    def _scheme(self) -> str:
        return "https" if self.services.settings.web.tls_certificate is not None else "http"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def serving(self) -> Site:
        """The site, whose server listens and makes downloads."""
        assert self.url
        return self

    @cached_property
    def _in_process(self) -> InProcess:
        return InProcess(self.server)

    def client(self, **options: Any) -> httpx2.Client:
        """A client that is closed with the site; without options always the same one."""
        if not options and self._plain is not None:
            return self._plain
        if BESIDE:
            client = self.network_client(**options)
        else:
            client = httpx2.Client(base_url=self.origin, transport=self._in_process, **options)
        self.clients.append(client)
        self._plain = self._plain if options else client
        return client

    def network_client(self, **options: Any) -> httpx2.Client:
        """A client that connects to the server; it is closed with the site."""
        client = httpx2.Client(base_url=self.url, timeout=DEADLINE_SECONDS, **options)
        self.clients.append(client)
        return client

    def account(self, name: str, role: Role, password: str | None = PASSWORD) -> None:
        hashed = hash_once(password) if password else None
        self.services.index.accounts.set(name, role, hashed, self.services.ingest.now())

    def token(self, name: str, expires_at: Any = None) -> str:
        token = new_token()
        self.services.index.accounts.add_token(name, token[-8:], digest(token), expires_at, self.services.ingest.now())
        return token

    def let_fail(self, **troubles: str | None) -> None:
        """Let parts of the node have troubles, by name."""
        parts = {part: partial(str, trouble) if trouble else lambda: None for part, trouble in troubles.items()}
        not_ready = partial(reasons_not_ready, self.store.ingest, parts)
        self.app.state.services = replace(self.services, not_ready=not_ready)

    def take(self, *instances: FileDataset) -> None:
        """Bring instances in."""
        bring(self.store.ingest, *instances)

    def convert(self, seconds: float = 90) -> None:
        """Convert what is stored; a worker runs no longer than that."""
        objects = objects_of(enabled(self.services.settings))
        worker = Worker(self.store.archive, self.store.index, self.services.settings.convert, objects=objects)
        worker._converters = converters(objects, write_options(self.services.settings.convert))
        with running(worker, 10):
            until(self.is_settled, seconds)

    def is_settled(self) -> bool:
        with self.store.index.reading() as index:
            return index.series.count_open() == 0

    def audited(self, meaning: str) -> list[dict[str, Any]]:
        """Lines of the audit log that tell an event."""
        whole, _, _ = (self.root / "audit.jsonl").read_text().rpartition("\n")  # the last one may be half written
        lines = [json.loads(line) for line in whole.splitlines()]
        return [line for line in lines if line["event"]["meaning"] == meaning]

    def close(self) -> None:
        for client in self.clients:
            client.close()
        if "_in_process" in vars(self):
            self.app.state.stopping.set()
            self._in_process.end()
        self.server.stop(5)
        self.beside.stop(5)
        self.store.close()


def made_download(client: httpx2.Client, kind: str, seconds: float = DEADLINE_SECONDS, **order: Any) -> httpx2.Response:
    """The file of a download, once it is made."""
    asked = client.post(f"/api/v1/downloads/{kind}", json=order)
    assert asked.status_code == 202, asked.text
    at = asked.headers["location"]
    until(lambda: client.get(at).json()["ended_at"] is not None, seconds)
    assert client.get(at).json()["state"] == "succeeded", client.get(at).json()["reason"]
    return client.get(f"{at}/file")


def open_site(
    root: Path, tables: Mapping[str, Any] | None = None, storage: Mapping[str, Any] | None = None, **web: Any
) -> Site:
    """Open a root; keyword arguments are keys of [web], `tables` are other tables of the configuration."""
    settings = Settings(
        **(tables or {}),
        storage=StoreSettings(root=root, reserve_bytes=0, **(storage or {})),
        convert=Convert(formats=("nifti", "mhd"), thumbnails=True),
        web=WebWithOidc(**({"port": 0} | web)),
    )
    return site_of(settings)


def site_of(settings: Settings) -> Site:
    """Open the root of settings."""
    store = Repository(settings)
    store.ingest.quiet_seconds = lambda calling_ae_title: 0.0  # what is stored is due as soon as a worker runs
    services = Services(
        settings,
        store.archive,
        store.index,
        store.ingest,
        store.metrics,
        store.audit,
        store.actions.by_name,
        decoder(),
        store.results,
        not_ready=partial(reasons_not_ready, store.ingest, {}),
    )
    parts = services.decoder, services.not_ready, lambda: settings.dicom.port, lambda refused: None
    beside = web_of_node.WebProcess(settings, store, web_of_node.WebParts(*parts))
    return Site(store, WebServer(settings.web, application(services)), services, beside)


StartSite = Callable[..., Site]


@pytest.fixture
def start_site(tmp_path: Path) -> Iterator[StartSite]:
    """Open a fresh root; keyword arguments are keys of [web]."""
    started: list[Site] = []

    def start(tables: Mapping[str, Any] | None = None, storage: Mapping[str, Any] | None = None, **web: Any) -> Site:
        started.append(open_site(tmp_path / f"root{len(started)}", tables, storage, **web))
        return started[-1]

    yield start
    for site in started:
        site.close()


@pytest.fixture
def site(start_site: StartSite) -> Site:
    """A root that this machine alone may ask, without accounts."""
    return start_site()


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A root with nothing in it, that this machine alone may ask; only for reading."""
    with open_site(tmp_path_factory.mktemp("empty") / "root") as site:
        yield site


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, for the tests of one module: its library is of no use to others, and has an event loop."""
    from playwright.sync_api import sync_playwright

    from tests.web.pages import start_browser

    with sync_playwright() as playwright:
        yield from start_browser(playwright)


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[[str], Visitor]]:
    """Look at the pages of a URL; in the end the browser must have complained about nothing that was not expected."""
    from tests.web.pages import Visitor

    visitors: list[Visitor] = []

    def visit(url: str) -> Visitor:
        visitors.append(Visitor(browser, url))
        return visitors[-1]

    yield visit
    for visitor in visitors:
        visitor.close()
        assert visitor.complaints == []


@pytest.fixture
def guarded(start_site: StartSite) -> Site:
    """A root that asks for accounts: ``reader``, ``writer`` and ``admin``, all with `PASSWORD`."""
    site = start_site(authentication="always")
    for name, role in (("reader", Role.READ), ("writer", Role.WRITE), ("admin", Role.ADMIN)):
        site.account(name, role)
    return site


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A root with two studies: a CT of five slices that is converted, and a report; only for reading."""
    with open_site(tmp_path_factory.mktemp("filled") / "root") as site:
        site.take(*make.ct_series(5, study_uid="1.2.3", series_uid="1.2.3.1"))
        site.take(make.structured_report(study_uid="1.2.4", series_uid="1.2.4.1"))
        site.convert()
        yield site


def every_route(routes: Iterable[object]) -> list[tuple[str, APIRoute]]:
    """Path and route of what FastAPI serves."""
    return [(route.path, route) for route in routes if isinstance(route, APIRoute)]
