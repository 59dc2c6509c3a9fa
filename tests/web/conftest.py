"""The node over HTTP as its clients meet it: a real server on a real root, on loopback."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.routing import APIRoute
from pydicom import Dataset, FileDataset, dcmwrite

from node.control.repository import Repository
from node.conversion.scheduler import Worker
from node.index.nouns.accounts import Role
from node.receive.ingest import Announced, Origin
from node.registry import enabled, objects_of
from node.settings.convert import Convert
from node.settings.model import Settings, Storage, Web
from node.web.application import application
from node.web.credentials import digest, hash_password, new_token
from node.web.server import WebServer
from node.web.services import Services
from tests import make
from tests.ingest import indexed
from tests.made_once import decoder

PASSWORD = "correct horse battery"
DEADLINE_SECONDS = 20.0
hash_once = cache(hash_password)
authorities = cache(ssl.create_default_context)
"""Reading the certificates of the machine's authorities takes longer than most requests."""


@dataclass
class Site:
    """A served root."""

    store: Repository
    server: WebServer
    url: str
    services: Services
    clients: list[httpx2.Client] = field(default_factory=list)
    _plain: httpx2.Client | None = None

    @property
    def root(self) -> Path:
        return self.store.archive.root

    def client(self, **options: Any) -> httpx2.Client:
        """A client that is closed with the site; without options always the same one."""
        if not options and self._plain is not None:
            return self._plain
        client = httpx2.Client(base_url=self.url, timeout=DEADLINE_SECONDS, **{"verify": authorities()} | options)
        self.clients.append(client)
        self._plain = self._plain if options else client
        return client

    def account(self, name: str, role: Role, password: str | None = PASSWORD) -> None:
        hashed = hash_once(password) if password else None
        self.services.index.accounts.set(name, role, hashed, self.services.ingest.now())

    def token(self, name: str, expires_at: Any = None) -> str:
        token = new_token()
        self.services.index.accounts.add_token(name, token[-8:], digest(token), expires_at, self.services.ingest.now())
        return token

    def take(self, *instances: FileDataset) -> None:
        """Bring instances in."""
        for ds in instances:
            announced = Announced(ds.SOPClassUID, ds.SOPInstanceUID, ds.file_meta.TransferSyntaxUID)
            incoming = self.store.ingest.begin(announced, Origin("dicom", "MODALITY", "VOXELNODE", "127.0.0.1:1"))
            stream = BytesIO()
            syntax = ds.file_meta.TransferSyntaxUID
            dcmwrite(stream, Dataset(ds), implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
            incoming.take_fragment(stream.getvalue())
            indexed(incoming)

    def convert(self, seconds: float = 90) -> None:
        """Convert what is stored; a worker runs no longer than that."""
        objects = objects_of(enabled(self.services.settings))
        worker = Worker(self.store.archive, self.store.index, self.services.settings.convert, objects=objects)
        worker.start()
        try:
            until(self.is_settled, seconds)
        finally:
            worker.stop(10)

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
        self.server.stop(5)
        self.store.close()


def until(condition: Callable[[], bool], seconds: float = DEADLINE_SECONDS) -> None:
    """Wait for something that another thread does, with a deadline."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        pause.wait(0.02)


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
    """Serve a root; keyword arguments are keys of [web], `tables` are other tables of the configuration."""
    settings = Settings(
        **(tables or {}),
        storage=Storage(root=root, reserve_bytes=0, **(storage or {})),
        convert=Convert(formats=("nifti", "mhd"), thumbnails=True),
        web=Web(**({"port": 0} | web)),
    )
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
    )
    server = WebServer(settings.web, application(services))
    host, port = server.start()
    return Site(store, server, f"{server.scheme}://{host}:{port}", services)


@pytest.fixture
def start_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Serve a fresh root; keyword arguments are keys of [web]."""
    started: list[Site] = []

    def start(tables: Mapping[str, Any] | None = None, **web: Any) -> Site:
        started.append(open_site(tmp_path / f"root{len(started)}", tables, **web))
        return started[-1]

    yield start
    for site in started:
        site.close()


@pytest.fixture
def site(start_site: Callable[..., Site]) -> Site:
    """A root that this machine alone may ask, without accounts."""
    return start_site()


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A root with nothing in it, that this machine alone may ask; only for reading."""
    site = open_site(tmp_path_factory.mktemp("empty") / "root")
    yield site
    site.close()


@pytest.fixture
def guarded(start_site: Callable[..., Site]) -> Site:
    """A root that asks for accounts: ``reader``, ``writer`` and ``admin``, all with `PASSWORD`."""
    site = start_site(authentication="always")
    for name, role in (("reader", Role.READ), ("writer", Role.WRITE), ("admin", Role.ADMIN)):
        site.account(name, role)
    return site


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A root with two studies: a CT of five slices that is converted, and a report; only for reading."""
    site = open_site(tmp_path_factory.mktemp("filled") / "root")
    site.take(*make.ct_series(5, study_uid="1.2.3", series_uid="1.2.3.1"))
    site.take(make.structured_report(study_uid="1.2.4", series_uid="1.2.4.1"))
    site.convert()
    yield site
    site.close()


def every_route(routes: Iterable[object]) -> list[tuple[str, APIRoute]]:
    """Path and route of what FastAPI serves."""
    return [(route.path, route) for route in routes if isinstance(route, APIRoute)]
