"""The process that serves HTTP beside the one that receives: see `node.control.web`.

This process keeps nothing durable. If it dies, its requests end without an answer, and the changes that they had made
stay. It ends when the other process ends.
"""

import datetime as dt
import gc
import os
import resource
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import IO, Any, cast

import structlog
from prometheus_client.core import Metric

from node.archive.filesystem import Archive
from node.archive.root import keep_private
from node.children.confinement import confine_writes
from node.children.decoder import Decoder
from node.control.web import WRITTEN
from node.errors import VoxelnodeError
from node.index.database import IndexBeside
from node.index.rows.backend import FILE_NAME, Place
from node.index.rows.records import Outcome, ReceivedPolicy
from node.receive.apply import AppliedElsewhere
from node.receive.ingest import Acknowledgement, Announced, Ingest, Origin
from node.receive.results import Results
from node.registry import RESULTS, part_of
from node.runtime import logs
from node.runtime.background import share_fairly
from node.runtime.link import TICKED_AT, Link, SharedNumbers
from node.runtime.metrics import Metrics
from node.settings.model import Settings
from node.web.application import application
from node.web.server import WebServer
from node.web.services import Services

log = structlog.get_logger()

IN_MEMORY_BYTES = 4 << 20
"""Longest data set that is handed over by the link; a longer one goes by a file in the work folder."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """What the process begins with: descriptors, and what does not change."""

    link: int
    listener: int
    commits: int
    numbers: int
    settings: Settings
    place: Place
    started_at: dt.datetime
    dicom_port: int


def main(*given: Any) -> None:
    """Serve until the other process says so, or ends; see `Beginning`."""
    descriptors, *known = given
    begin = Beginning(*descriptors, *known)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the other process decides
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    keep_private()
    share_fairly()
    root = begin.settings.storage.root.absolute()
    index = [Path(f"{root / FILE_NAME}{end}") for end in ("-shm", "-wal")]
    confine_writes((*(root / name for name in WRITTEN), *index))
    tempfile.tempdir = str(root / WRITTEN[0])
    Serving(begin).run()
    os._exit(0)


class Serving:
    """The parts of this process."""

    def __init__(self, begin: Beginning) -> None:
        self._begin, self._settings = begin, begin.settings
        self._numbers, self._stopped = SharedNumbers(begin.numbers), threading.Event()
        self._stop_seconds = 0.0
        self._link = Link(
            socket.socket(fileno=begin.link),
            {"stop": self._stop, "configure": self._configure},
            call_back=self._call_back,
            ended=lambda: os._exit(1),
        )

    def run(self) -> None:
        """Serve; say whether the start succeeded."""
        logs.configure(self._settings.log.level, self._settings.log.format)
        logs.keep_newest()
        logs.read_also(partial(self._link.call, "log-lines"))
        if self._settings.log.file is not None:  # else each request would ask the other process for nothing
            logs.hand_on(partial(self._link.tell, "log"))
        self._link.start()
        try:
            services = self._services()
            server = WebServer(self._settings.web, application(services))
            server.start(socket.socket(fileno=self._begin.listener))
        except VoxelnodeError as error:
            self._link.call("ready", str(error))
            return
        threading.Thread(target=self._follow_commits, daemon=True).start()
        log.info("web_started", pid=os.getpid())
        self._tick()  # the start may have taken long
        self._link.call("ready", "")
        gc.freeze()
        server.on_tick(self._tick)
        self._stopped.wait()
        server.stop(self._stop_seconds)
        services.decoder.close()

    def _tick(self) -> None:
        self._numbers.at[TICKED_AT] = monotonic()
        logs.refusals.report_ended()

    def _services(self) -> Services:
        settings, link = self._settings, self._link
        storage = settings.storage
        root = storage.root.absolute()
        ahead = AppliedElsewhere(self._numbers, partial(link.call, "applier.require_caught_up"))
        self._index = index = IndexBeside(root, self._begin.place, self._make, ahead)
        archive = Archive(root, storage.reserve_bytes, storage.low_bytes, host=settings.holder)
        ingest = cast(Ingest, IngestElsewhere(settings, archive, index, link))
        results: Results = (part_of(settings, RESULTS) or Results)(index, ingest)
        results.finish = partial(link.call, "results.finish")  # type: ignore[method-assign]
        results.end = partial(link.call, "results.end")  # type: ignore[method-assign]
        return Services(
            settings,
            archive,
            index,
            ingest,
            MetricsOfBoth(link, self._begin.started_at),
            cast(Any, Elsewhere(link, "audit")),
            cast(Any, Elsewhere(link, "actions")),
            Decoder(),
            results,
            not_ready=partial(link.call, "not-ready"),
            dicom_port=lambda: self._begin.dicom_port,
            on_refusal=partial(link.tell, "refused"),
        )

    def _make(self, kind: type, name: str, args: Any, kwargs: Any) -> Any:
        return self._link.call("perform", f"{kind.__module__}:{kind.__qualname__}", name, args, kwargs)

    def _call_back(self, terms: Callable[[Any], Any]) -> Any:
        """Look whether terms of a change hold: what the other process has committed, and its writer waits meanwhile."""
        with self._index.reading(wait=False) as index:
            return terms(index.connection)

    def _stop(self, seconds: float) -> None:
        self._stop_seconds = seconds
        self._stopped.set()

    def _configure(self, new: Settings) -> None:
        logs.set_level(new.log.level)
        self._settings.put_in_force(new, new.loaded_from)

    def _follow_commits(self) -> None:
        while True:
            os.eventfd_read(self._begin.commits)
            self._index.note_commits()


class Elsewhere:
    """A part of the other process: its functions, and what is asked for as of now.

    `link`, `part`: what it is called there, as in `WebProcess`.
    `values`: names of what is no function.
    """

    def __init__(self, link: Link, part: str, *values: str) -> None:
        self._link, self._part, self._values = link, part, values

    def __getattr__(self, name: str) -> Any:
        ask = partial(self._link.call, f"{self._part}.{name}")
        return ask() if name in self._values else ask

    def __getitem__(self, name: str) -> Any:
        return partial(self._link.call, self._part, name)


class MetricsOfBoth(Metrics):
    """The metrics of both processes; each has counted its own."""

    def __init__(self, link: Link, started_at: Any) -> None:
        super().__init__()
        self.started_at, self._link = started_at, link
        self.last_hour = cast(Any, Elsewhere(link, "last_hour"))
        self.last_day = cast(Any, Elsewhere(link, "last_day"))
        self.last_words = cast(Any, Elsewhere(link, "last_words"))

    def collect(self) -> Iterator[Metric]:
        """Yield the families of the other process, with what this one has counted added to their samples."""
        mine = {
            (sample.name, *sample.labels.items()): sample
            for family in self.registry.collect()
            for sample in family.samples
            if not sample.name.endswith("_created")
        }
        for family in self._link.call("samples"):
            for at, sample in enumerate(family.samples):
                if (own := mine.pop((sample.name, *sample.labels.items()), None)) is not None:
                    family.samples[at] = sample._replace(value=sample.value + own.value)
            names = {sample.name for sample in family.samples} | {family.name, f"{family.name}_total"}
            family.samples += [mine.pop(key) for key in [*mine] if key[0] in names]
            yield family


class IncomingElsewhere:
    """One instance that comes over HTTP; see `node.receive.ingest.Incoming`."""

    def __init__(self, work: Path, link: Link, what: tuple[Announced, Origin, ReceivedPolicy | None]) -> None:
        self._work, self._link, self._what = work, link, what
        self._bytes = bytearray()
        self._file: IO[bytes] | None = None

    def take_fragment(self, fragment: bytes | bytearray | memoryview) -> None:
        """Add bytes of the data set. Raises OSError."""
        if self._file is not None:
            self._file.write(fragment)
            return
        self._bytes += fragment
        if len(self._bytes) > IN_MEMORY_BYTES:
            self._work.mkdir(mode=0o700, exist_ok=True)
            self._file = tempfile.NamedTemporaryFile(dir=self._work, prefix="stow-", delete=False)  # noqa: SIM115
            self._file.write(self._bytes)
            self._bytes.clear()

    def keep(self, outcome: Future[Outcome] | None = None) -> bool:
        """See `Incoming.keep`."""
        try:
            source: bytes | Path = bytes(self._bytes)
            if self._file is not None:
                self._file.flush()
                source = Path(self._file.name)
            lacks_pixels: bool = self._link.call("take", *self._what, source, outcome)
            return lacks_pixels
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Drop the bytes."""
        self._bytes.clear()
        if self._file is not None:
            with closing(self._file):
                Path(self._file.name).unlink(missing_ok=True)
            self._file = None


class IngestElsewhere:
    """The way in, for what comes over HTTP: an instance is complete here before the other process receives it."""

    def __init__(self, settings: Settings, archive: Archive, index: IndexBeside, link: Link) -> None:
        self.archive, self.index, self.now, self._link = archive, index, index.now, link
        self.warns = settings.storage.conflict_answer == "warning"
        self.refusal = partial(link.call, "refusal")
        self.transfers, self.journal = Elsewhere(link, "transfers"), Elsewhere(link, "journal", "size")
        self.applier = cast(Any, Elsewhere(link, "applier", "waiting", "lag_seconds", "index_stall"))
        self.acknowledgement: Acknowledgement | None = None
        if settings.acknowledge != "local":
            seconds = settings.journal.acknowledge_seconds
            self.acknowledgement = Acknowledgement(settings.acknowledge, seconds, self.applier, archive, Metrics())

    def begin(self, announced: Announced, origin: Origin, policy: ReceivedPolicy | None = None) -> IncomingElsewhere:
        """See `Ingest.begin`; what can be refused at once is refused by the other process once all is here."""
        self.archive.intake.require()
        return IncomingElsewhere(self.archive.work, self._link, (announced, origin, policy))
