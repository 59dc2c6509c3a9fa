"""This host among those that share an index: it says that it lives, hears of the others, and copies its audit log."""

import datetime as dt
import hashlib
import json
import os
import random
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from time import monotonic

import structlog

from node.audit.audit_files import audit_files, digest_of, position_behind
from node.extensions.postgresql.hosts import BEGUN, HostRepository, JoiningHost
from node.extensions.postgresql.several import Leases, SeveralHosts
from node.index.database import Index
from node.receive.ingest import Ingest
from node.runtime.background import BackgroundService
from node.settings.model import Settings
from node.version import __version__

log = structlog.get_logger()

LOOK_SECONDS = 0.5
"""Interval between two looks at what other hosts have committed, give or take a quarter."""

ACTIVITY_SECONDS = 10.0
"""An instance that takes longer to arrive is noted in the index; else another host would find its series due."""

BEHIND_SECONDS = 1.0
"""Instances that are acknowledged and not indexed after this time keep all hosts from claiming series."""

COPY_SECONDS = 2.0
"""Interval at which lines of the audit log are copied into the index."""

MAX_LINES = 500
"""Lines of the audit log in one commit."""

SILENT_SECONDS = 10.0
"""A host that has not been answered for longer is not ready for what needs the index."""


class LeaseWatch(BackgroundService):
    """Tells when nobody has confirmed the lease of this host for half of it. It asks nobody, so nothing can delay it.

    `on_cut_off`: called again and again until the lease is lengthened: what was begun late ends, too. Another host
    takes over when the other half of the lease is over.
    """

    def __init__(self, lease: dt.timedelta, on_cut_off: Callable[[], None]) -> None:
        super().__init__("lease")
        self._seconds, self._on_cut_off = lease.total_seconds() / 2, on_cut_off
        self._renewed_at = monotonic()
        self._is_cut_off = False

    def renewed(self, at: float) -> None:
        """Note that the lease was lengthened at a moment of the monotonic clock."""
        self._renewed_at, self._is_cut_off = at, False

    def step(self) -> float:
        """Look at the clock; return the seconds until the next look."""
        left = self._renewed_at + self._seconds - monotonic()
        if left > 0:
            return left
        if not self._is_cut_off:
            self._is_cut_off = True
            log.warning("cut_off", detail="PostgreSQL has not confirmed the lease of this host for half of it")
        self._on_cut_off()
        return self._seconds / 4


class Membership(BackgroundService):
    """Lengthen the lease of this host, take what no living host does, and wake what follows commits.

    `ingest`: knows the open associations of this host, and how far behind the index is. `on_cut_off`: see `LeaseWatch`.
    `not_ready`: returns why this host is not ready, by role.
    """

    max_pause_seconds = 1.0  # the lease ends meanwhile, and this host is not ready until the next answer

    def __init__(
        self,
        index: Index,
        ingest: Ingest,
        member: JoiningHost,
        on_cut_off: Callable[[], None] = lambda: None,
        not_ready: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        super().__init__("cluster")
        assert isinstance(index.sharing, SeveralHosts)
        self._index, self._sharing, self._ingest, self._member = index, index.sharing, ingest, member
        self._hosts = index.repository(HostRepository)
        self._why_not_ready = not_ready
        self._not_ready: Mapping[str, str] = {}
        self.watch = LeaseWatch(member.lease, on_cut_off)
        self.services: Sequence[BackgroundService] = (self, self.watch)
        self.beside: Sequence[BackgroundService] = (AuditCopies(index, index.root),)
        self._answered_at = monotonic()
        self._leases = Leases()
        self._started_at = index.now()
        self._seen = index.sharing.watermarks()
        self._beat_at = 0.0
        self._is_behind = False
        self._wanted: frozenset[str] = frozenset()
        self._ending: Mapping[str, BackgroundService] = {}
        self._is_asked_to_drain = threading.Event()
        self._on_drain: Callable[[], None] = lambda: None
        self._begins_to_drain = False

    def start(self) -> None:
        """Join the hosts of the index. From here on, this one does only what it holds a lease for."""
        self._sharing.join(self._leases)
        self._not_ready = self._why_not_ready()
        self._beat()
        self._hosts.set_drain(self._member.name, None)
        self.watch.start()
        super().start()

    def when_asked_to_drain(self, act: Callable[[], None]) -> None:
        """Call `act` when somebody asks this host to drain, or at once if somebody has."""
        self._on_drain = act
        if self._is_asked_to_drain.is_set():
            act()

    def begin_to_drain(self) -> None:
        """Have the index say that this host drains. The thread of the host does that, which may wait for the server."""
        self._begins_to_drain = True
        self.wake()

    def hand_over(self, services: Mapping[str, BackgroundService]) -> None:
        """Claim nothing more, and give back each lease once the service that works with it has ended."""
        self._leases.close()
        self._ending = services
        self.wake()

    def leave(self, left_behind: int) -> None:
        """Give back what this host still holds; everything that works with it has stopped.

        `left_behind`: instances that only its disk has.
        """
        self.stop()
        self.watch.stop()
        self._hosts.leave(self._member.name, self._index.now(), left_behind)

    @property
    def trouble(self) -> str | None:
        """As of every service; also that the index has not answered for a while, whether it refuses or is silent."""
        silent = monotonic() - self._answered_at
        if silent > min(SILENT_SECONDS, self._member.lease.total_seconds() / 2):
            return f"has had no answer from PostgreSQL for {silent:.0f} s"
        return super().trouble

    def step(self) -> float:
        """Look at the index; return the seconds until the next look."""
        self._ingest.note_activity(ACTIVITY_SECONDS)
        if self._begins_to_drain:
            self._hosts.set_drain(self._member.name, BEGUN)
            self._begins_to_drain = False
        if (watermarks := self._sharing.watermarks()) != self._seen:
            self._hear()
            self._seen = watermarks
            self._index.note_commits()
        self._answered_at = monotonic()
        ended = [lease for lease, service in self._ending.items() if not service.is_alive]
        says = self._ingest.applier.lag_seconds > BEHIND_SECONDS, self._why_not_ready()
        is_news = says != (self._is_behind, self._not_ready) or self._leases.wanted != self._wanted or bool(ended)
        if is_news or monotonic() >= self._beat_at:
            self._is_behind, self._not_ready = says
            self._beat(ended)
            self._ending = {lease: service for lease, service in self._ending.items() if lease not in ended}
        return LOOK_SECONDS * random.uniform(0.75, 1.25)

    def _hear(self) -> None:
        """Do what another process has asked for, and take what another host has given back."""
        is_asked_to_drain, held = self._hosts.news(self._member.name)
        if is_asked_to_drain and not self._is_asked_to_drain.is_set():
            self._is_asked_to_drain.set()
            self._on_drain()
        if self._leases.wanted - held:
            self._beat_at = 0.0

    def _beat(self, gives: Collection[str] = ()) -> None:
        self._sharing.clock.measure()
        began, wanted = monotonic(), self._leases.wanted
        held = self._hosts.beat(
            self._member,
            wanted,
            self._started_at,
            self._index.now(),
            is_behind=self._is_behind,
            clock_ahead_seconds=self._sharing.clock.ahead_seconds,
            not_ready=self._not_ready,
            gives=gives,
        )
        seconds = self._member.lease.total_seconds()
        self.watch.renewed(began)
        self._wanted = wanted
        self._beat_at = began + seconds / 4
        if self._leases.renew(held, began + seconds):
            log.info("leases_taken", count=len(held))
            self._index.note_commits()
        if self._ingest.gaps:  # a person may have accepted them at another host
            self._ingest.gaps = self._index.lost.gaps()
        # A series waits for each upload of its instances, usually for less than a second.
        self._hosts.note_waits_for_hosts(self._index.now() - self._member.lease / 4)


def membership(
    settings: Settings,
    index: Index,
    ingest: Ingest,
    subscribers: Sequence[str],
    on_cut_off: Callable[[], None],
    not_ready: Callable[[], Mapping[str, str]],
) -> Membership:
    """Return this host among the others; `subscribers`: its hooks and destinations, as in the ledger."""
    cluster = settings.cluster
    lease = dt.timedelta(seconds=cluster.lease_seconds)
    member = JoiningHost(cluster.name, cluster.roles, __version__, subscribers, lease, digests(settings))
    return Membership(index, ingest, member, on_cut_off, not_ready)


SHARED_SECTIONS = "convert", "destinations", "hooks", "peers", "retention", "routes", "series"
"""Sections of the configuration that must be the same on all hosts."""

OF_A_MACHINE = frozenset({"workers", "memory_bytes", "deadline_seconds"})
"""Keys of [convert] that say what a machine can do, and not what becomes of a series."""


def digests(settings: Settings) -> dict[str, str]:
    """Return a digest of each section that must be the same on all hosts; paths and secrets may differ."""
    of_sections = {}
    for name in SHARED_SECTIONS:
        section = getattr(settings, name)
        is_table = isinstance(section, Mapping)
        tables = section if is_table else {"": section}
        content = {key: _plain(table.model_dump(exclude=set(OF_A_MACHINE))) for key, table in tables.items()}
        of_sections[name] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    return of_sections


def _plain(value: object) -> object:
    """Return a value of a configuration as JSON has it, the same in every process, without paths of a host."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items() if not isinstance(each, Path)}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(str(each) for each in value)
    return value if value is None or isinstance(value, bool | int | float) else str(value)


class AuditCopies(BackgroundService):
    """Copies the lines of the audit log of this host that the index lacks, in their order.

    `root`: folder of the log.
    """

    def __init__(self, index: Index, root: Path) -> None:
        super().__init__("audit-copy")
        self._index, self._root = index, root
        self._tail: LogTail | None = None

    def step(self) -> float:
        """Copy some lines; return the seconds until the next step."""
        if self._tail is None:
            last = self._index.audit_lines.last()
            self._tail = LogTail(self._root, digest_of(last) if last else "")
        try:
            lines = self._tail.read(MAX_LINES)
            if lines:
                self._index.audit_lines.add(lines, self._index.now())
        except Exception:  # lines were read, and nobody knows whether they were committed
            self._close()
            raise
        return 0.0 if len(lines) == MAX_LINES else COPY_SECONDS

    def _close(self) -> None:
        if self._tail is not None:
            self._tail.close()
            self._tail = None


class LogTail:
    """Reads the lines of an audit log behind one of them, also those that are still to be written. Not thread-safe.

    `folder`: the root. `digest`: of the line before the first one; empty, or of a line that is not there: from the
    oldest line on.
    """

    def __init__(self, folder: Path, digest: str) -> None:
        self._folder = folder
        path, offset = (position_behind(folder, digest) if digest else None) or (audit_files(folder)[0], 0)
        self._file = path.open("rb")
        self._file.seek(offset)

    def read(self, count: int) -> list[bytes]:
        """Return the next lines, at most `count`; they are durable."""
        lines: list[bytes] = []
        while len(lines) < count:
            following = self._following()
            line = self._file.readline()
            if line.endswith(b"\n"):
                lines.append(line)
            elif line or following is None:
                self._file.seek(-len(line), os.SEEK_CUR)  # the rest of it is yet to come
                break
            else:  # nothing was written to this file any more when the following one began
                self._sync(lines)
                self._file.close()
                self._file = following.open("rb")
        self._sync(lines)
        return lines

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _sync(self, lines: Sequence[bytes]) -> None:
        if lines:
            os.fdatasync(self._file.fileno())

    def _following(self) -> Path | None:
        files = audit_files(self._folder)
        own = os.fstat(self._file.fileno())
        places = [place for place, path in enumerate(files) if os.path.samestat(path.stat(), own)]
        behind = files[places[0] + 1 :] if places else files  # the oldest ones may have been moved elsewhere
        return behind[0] if behind else None
