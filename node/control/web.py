"""The HTTP server of a node: a process beside it, or with ``[web] process = false`` a thread of it.

The other process (`node.control.web_process`) reads the index and the archive itself. What it changes, and what only
this process knows, goes over a `Link` to functions that are listed here. It hears of each commit by an eventfd, and
sees by shared numbers whether anything that was acknowledged is not indexed yet. This process holds the listening
socket: while the other one is started again, clients wait. A request that is under way when the other process dies has
no answer, as when a connection breaks.

The first one is a copy of this process (`load_ahead`), which shares the memory of the libraries that both need, and
loads its own while this one starts. One that is started again is another Python: this process has threads by then.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import structlog

from node.children.child import Process, another, copied_ahead
from node.children.serving import serve_lean
from node.errors import UsageError
from node.files.durable import IS_LINUX, make_folder
from node.index.rows.records import Outcome, Refused
from node.index.rows.repositories import IndexRepository
from node.receive.ingest import Announced, Origin
from node.registry import enabled, resolve
from node.runtime import logs
from node.runtime.background import SupervisedThread
from node.runtime.link import TICKED_AT, Link, NotAccepted
from node.settings.core import Role, Web
from node.settings.model import Settings

if TYPE_CHECKING:
    from node.children.decoder import Decoder
    from node.control.repository import Repository
    from node.index.rows.records import ReceivedPolicy
    from node.web.server import WebServer

log = structlog.get_logger()

BACKLOG = 128
START_SECONDS = 60.0
"""Longest start of the process, whose modules a slow disk has to read."""

END_SECONDS = 3.0
"""How long the process has to end once its requests are done."""

END_STEP_SECONDS = 0.02

HANG_SECONDS = 60.0
"""For how long the loop that serves requests may stand still; then the process is ended, and started again."""

WATCH_SECONDS = 1.0

PIECE_BYTES = 1 << 20

WRITTEN = "work", "jobs"
"""Folders of the root in which the process may write, beside the shared memory of the index."""


@dataclass(frozen=True, slots=True)
class WebParts:
    """What of a node HTTP needs, beside its repository."""

    decoder: Decoder
    not_ready: Callable[[Role | None], dict[str, str]]
    dicom_port: Callable[[], int]
    on_refusal: Callable[[Refused], None]


def listening(web: Web) -> socket.socket:
    """Return a socket that listens where HTTP is to be served. Raises UsageError."""
    address = (web.host, web.port)
    try:
        family = socket.AF_INET6 if ":" in web.host else socket.AF_INET
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(
            f"cannot serve HTTP on {address[0]} port {address[1]}: {error.strerror or error}; "
            "set [web] host and port to a free address of this machine, or [web] enabled = false"
        ) from error


def is_apart(settings: Settings) -> bool:
    """Return whether a process of its own serves HTTP."""
    web = settings.web
    return web.enabled and web.process and "web" in settings.cluster.roles and settings.storage.url is None


def load_ahead(settings: Settings) -> None:
    """Fork the process that serves HTTP, which loads its modules while this one goes on; or load them here.

    This process must have no other thread.
    """

    def load() -> None:
        from node.web.application import routes_of  # here: a node without HTTP does not load the web framework

        routes_of(settings)

    if is_apart(settings) and IS_LINUX:
        gc.freeze()  # else garbage is looked for in what both share, which copies it
        copied_ahead("voxelnode-web", load)
    elif settings.web.enabled:
        load()  # the node would do so later, while garbage is collected


def served_here(settings: Settings, repository: Repository, parts: WebParts) -> WebServer:
    """Return what serves HTTP in this process."""
    from node.web.application import application  # here: a node without HTTP does not load the web framework
    from node.web.server import WebServer
    from node.web.services import Services

    services = Services(
        settings,
        repository.archive,
        repository.index,
        repository.ingest,
        repository.metrics,
        repository.audit,
        repository.actions.by_name,
        parts.decoder,
        repository.results,
        not_ready=parts.not_ready,
        dicom_port=parts.dicom_port,
        on_refusal=parts.on_refusal,
    )
    return WebServer(settings.web, application(services))


class WebProcess:
    """Serves HTTP in another process, and starts it again when it ends or stands still.

    `thread`: watches over it.
    """

    def __init__(self, settings: Settings, repository: Repository, parts: WebParts) -> None:
        self._settings, self._repository, self._parts = settings, repository, parts
        self._packages = frozenset(type(one).__module__.partition(".")[0] for one in enabled(settings)) | {"node"}
        self._stopping, self._ready = threading.Event(), Future[str]()
        self._process: Process | None = None
        self._link: Link | None = None
        self._bound: socket.socket | None = None
        self._file, self._commits = os.memfd_create("numbers"), os.eventfd(0)
        repository.index.numbers.share(self._file)
        self.thread = SupervisedThread("web", self._watch, self._stopping)

    def start(self, bound: socket.socket) -> None:
        """Serve at a socket that listens. Raises UsageError with what the process says is wrong."""
        self._bound = bound
        self._begin()
        self._repository.index.commit_listeners.append(self._tell_of_commit)
        self._settings.follow(self._tell_of_settings)
        try:
            problem = self._ready.result(START_SECONDS)
        except TimeoutError:
            problem = "the web server did not start: see the log"
        if problem:
            self.stop(0.0)
            raise UsageError(problem)
        self.thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether requests are served."""
        return self._ready.done() and self._process is not None and self._process.poll() is None and not self._hangs

    @property
    def _hangs(self) -> bool:
        return monotonic() - self._repository.index.numbers.at[TICKED_AT] > HANG_SECONDS

    def stop(self, seconds: float) -> None:
        """Accept no more requests, let those under way finish for at most `seconds`, and end the process."""
        self._stopping.set()
        listeners = self._repository.index.commit_listeners
        if self._tell_of_commit in listeners:
            listeners.remove(self._tell_of_commit)
        if self._bound is not None:  # from here on, who connects is refused, as soon as the other process does so
            self._bound.close()
        if self._link is not None:
            self._link.tell("stop", seconds)
        self._end(seconds + END_SECONDS)
        self.thread.join()
        self._end()  # it may have been started again meanwhile
        os.close(self._commits)
        os.close(self._file)

    def _begin(self) -> None:
        """Start a process, with a new link."""
        assert self._bound is not None
        self._ready, self._repository.index.numbers.at[TICKED_AT] = Future(), monotonic()
        for name in WRITTEN:
            make_folder(self._repository.archive.root / name)
        ours, theirs = socket.socketpair()
        with theirs:
            passed = (theirs.fileno(), self._bound.fileno(), self._commits, self._file)
            index, started_at = self._repository.index, self._repository.metrics.started_at
            known = self._settings.apart(), index.place, started_at, self._parts.dicom_port()
            ended = partial(_told, self._ready, "the web server ended at its start: see the log")
            self._link = Link(ours, self._offers(), packages=self._packages, ended=ended)
            self._process = another("voxelnode-web", passed, serve_lean, "node.control.web_process:main", *known)
            self._link.start()

    def _end(self, seconds: float = 0.0) -> None:
        """End the process, by force after some seconds."""
        if self._process is not None:
            deadline = monotonic() + seconds
            while self._process.poll() is None and monotonic() < deadline:
                sleep(END_STEP_SECONDS)
            self._process.kill()
            self._process.wait()
        if self._link is not None:
            self._link.close()

    def _watch(self) -> None:
        """Start the process again whenever it has ended or hangs; returns once the node stops."""
        while not self._stopping.wait(WATCH_SECONDS):
            assert self._process is not None
            hangs, status = self._hangs, self._process.poll()
            if status is None and not hangs:
                continue
            self._end()
            how = signal.Signals(-status).name if status is not None and status < 0 else f"status {status}"
            detail = f"no request was served for {HANG_SECONDS:g} s" if hangs else f"it ended by {how}"
            log.error("web_process_restarted", detail=detail)
            self._repository.metrics.web_restarts.inc()
            if not self._stopping.is_set():
                self._begin()
            if problem := self._ready.result(START_SECONDS):
                raise UsageError(problem)  # tried again after a pause

    def _tell_of_commit(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_write(self._commits, 1)

    def _tell_of_settings(self) -> None:
        if self._link is not None:
            self._link.tell("configure", self._settings.apart())

    def _offers(self) -> Mapping[str, Callable[..., Any]]:
        """Return what the other process may ask for."""
        here, parts = self._repository, self._parts
        ingest, audit, metrics = here.ingest, here.audit, here.metrics
        return {
            "ready": partial(_told, self._ready),
            "perform": self._perform,
            "actions": lambda action, /, **arguments: dict(here.actions.by_name[action](**arguments)),
            "applier.require_caught_up": here.applier.require_caught_up,
            "applier.catch_up": here.applier.catch_up,
            "applier.waiting": lambda: here.applier.waiting,
            "applier.lag_seconds": lambda: here.applier.lag_seconds,
            "applier.index_stall": lambda: here.applier.index_stall,
            "journal.size": lambda: here.journal.size,
            "refusal": ingest.refusal,
            "take": self._take,
            "transfers.ended": lambda origin, how: ingest.transfers.ended(origin, how) if ingest.transfers else None,
            "refused": parts.on_refusal,
            "not-ready": parts.not_ready,
            "audit.require": audit.require,
            "audit.note": audit.note,
            "samples": lambda: list(metrics.registry.collect()),
            "last_hour.spans": metrics.last_hour.spans,
            "last_day.spans": metrics.last_day.spans,
            "last_words.all": metrics.last_words.all,
            "results.finish": here.results.finish,
            "results.end": here.results.end,
            "log": logs.write_line,
            "log-lines": logs.newest,
        }

    def _perform(self, place: str, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if place.partition(".")[0] not in self._packages or not issubclass(kind := resolve(place), IndexRepository):
            raise NotAccepted(place)
        return self._repository.index.perform(kind, name, args, kwargs)

    def _take(
        self,
        announced: Announced,
        origin: Origin,
        policy: ReceivedPolicy | None,
        source: bytes | Path,
        outcome: Future[Outcome] | None,
    ) -> bool:
        """Receive an instance; return whether it lacks pixels. See `node.receive.ingest.Incoming.keep`.

        `source`: its data set, or a file in the work folder that has it.
        """
        incoming = self._repository.ingest.begin(announced, origin, policy)
        try:
            if isinstance(source, bytes):
                incoming.take_fragment(source)
            else:
                with open(self._repository.archive.work / source.name, "rb") as file:
                    while piece := file.read(PIECE_BYTES):
                        incoming.take_fragment(piece)
            return incoming.keep(outcome)
        except BaseException:
            incoming.abandon()
            raise


def _told(ready: Future[str], problem: str) -> None:
    """Note once what is wrong with a start; empty: nothing."""
    with suppress(InvalidStateError):
        ready.set_result(problem)
