"""``voxelnode doctor``: can the node run here?"""

from __future__ import annotations

import datetime as dt
import os
import platform
import resource
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from node.archive import space
from node.archive.root import NETWORK, file_system, make_private, open_to_others, others_may, require_folders
from node.children.confinement import described, offered
from node.cli.look.status import ACKNOWLEDGED, live_of
from node.cli.options import Root
from node.cli.output import Listing, moment_of, print_finding
from node.dicom.lean_import import load_for_rows
from node.errors import counted, sized
from node.files.durable import NO_ROOM
from node.receive.readiness import REMEDIES, readiness_of, remedy_of, running

if TYPE_CHECKING:
    from node.index.rows.backend import Place
    from node.settings.model import Settings

State = Literal["broken", "warning", "ok", "note"]
"""A note is what nobody has to mend, and stands last."""

SET_ASIDE = frozenset({"instance-bytes", "instance-versions", "instance-quarantined"})
"""Kinds of conflicts of which a version of an instance is in quarantine, and in no series."""

SQLITE_WITHOUT_WAL_RESET_BUG = (3, 51, 3)
AS_IT_SAYS = "do what it says: `voxelnode serve` refuses this, with the same words"

SLOW_SYNC_SECONDS = 0.2
"""A slower sync of the root causes a warning: every instance waits for one."""

SHOWN_PATHS = 5

OF_ROOT = frozenset({"configuration", "root", "disk", "index", "archive", "object store", "node"})
"""Checks of what a node needs to be ready on a root, and of what is owed; `voxelnode fsck` compares the rest."""


class Site:
    """A root and its machine; what several checks ask is asked once."""

    def __init__(self, settings: Settings, maker: str = "voxelnode serve --create") -> None:
        self.settings, self.root, self.maker = settings, settings.storage.root.absolute(), maker
        self.folder = next(folder for folder in (self.root, *self.root.parents) if folder.is_dir())

    @cached_property
    def live(self) -> dict[str, Any] | None:
        """What the node on the root wrote last."""
        return live_of(self.root)

    @cached_property
    def place(self) -> Place:
        """Where the index is."""
        from node.index.rows.backend import place_of

        return place_of(self.settings.storage.root, self.settings.index.url)

    @cached_property
    def index(self) -> Mapping[str, Any]:
        """What its rows say; nothing if they cannot be read, which is another check."""
        from node.control.root import require_store
        from node.index.looking import looking
        from node.index.rows.backend import IndexUnusable

        with suppress(IndexUnusable), looking(self.place) as index:
            return {
                "store": _refused(partial(require_store, self.settings, index)),
                "lost": index.lost.count(),
                "damaged": index.instances.count_damaged(),
                "gaps": index.lost.gaps(),
                "conflicts": index.conflicts.count_open(),
                "standbys": index.standbys(),
                "newest": index.series.last_received_at(),
            }
        return {}

    @cached_property
    def lack(self) -> str | None:
        """What a disk of the root lacks, so that senders are refused; None: nothing."""
        found = space.lack_for_senders(space.disks_of(self.folder), self.settings.storage.low_bytes)
        return f"{found[0]}: {found[1]}" if found is not None else None

    @cached_property
    def held_back(self) -> str | None:
        """Who lets the write-ahead log of the index grow; None: it does not."""
        from node.index.rows.sqlite_file import held_back

        return held_back(self.place) if isinstance(self.place, Path) else None


Said = tuple[State, str] | tuple[State, str, str]
"""A finding: its state and its sentence, and a remedy where it is more exact than that of the check."""


@dataclass(frozen=True, slots=True)
class Check:
    """What may be wrong with a machine and its root, and what a person does about it, by how bad it is."""

    name: str
    remedies: Mapping[str, str]
    look: Callable[[Site], Iterator[Said]]

    def findings(self, site: Site) -> Iterator[dict[str, str]]:
        """Yield what is wrong with its remedy, or what is right; other checks follow a disk that does not answer."""
        try:
            for state, found, *remedy in self.look(site):
                remedies = remedy or [self.remedies.get(state, "")]
                yield {"check": self.name, "state": state, "found": found, "remedy": remedies[0]}
        except OSError as error:
            says = f"{error.filename or site.folder}: {error.strerror}"
            yield {"check": self.name, "state": "broken", "found": says, "remedy": "check disk, mount and owner"}


CHECKS: list[Check] = []
"""In the order in which `doctor` asks."""


def check(name: str, **remedies: str) -> Callable[[Callable[[Site], Iterator[Said]]], None]:
    """Add a function that looks to `CHECKS`, with a remedy for each state that is not right."""
    return lambda look: CHECKS.append(Check(name, remedies, look))


def doctor(
    repair: Annotated[
        bool, typer.Option("--repair", help="Take the rights of others than the owner on the root away.")
    ] = False,
    *,
    root: Root,
) -> Listing:
    """Check that the node can run on this machine.

    Checks Python, SQLite, decoders, their confinement, permissions, disk, index, archive, object store, journal, the
    running node, port, open files and clock. `voxelnode status` tells of the work of the node.
    Exit 1 if a check fails.
    """
    load_for_rows()
    if repair and root.folder.is_dir():
        make_private(root.folder)
    site = Site(root.settings, root.maker)
    rows = [finding for check in CHECKS for finding in check.findings(site)]
    is_broken = any(row["state"] == "broken" for row in rows)

    def text() -> None:
        told = [row for row in rows if row["check"] != "decoder"]
        if decoders := len(rows) - len(told):
            syntaxes = counted(decoders, "transfer syntax", "transfer syntaxes")
            found = f"{syntaxes} can be decoded: `voxelnode doctor --json` lists them"
            told.append({"check": "decoders", "state": "ok", "found": found, "remedy": ""})
        for row in sorted(told, key=lambda row: get_args(State).index(row["state"])):
            print_finding(
                f"{row['state']:<7}  {row['check']:<12}", row["found"], row["remedy"] and f"-> {row['remedy']}"
            )
        print("series, hooks, routes and retention: `voxelnode status`")

    return Listing({"ok": not is_broken, "findings": rows}, text, is_broken, rows)


@check("python", broken="run Python without -O: pynetdicom checks its input with assert")
def _python(_: Site) -> Iterator[Said]:
    version = f"{platform.python_version()} at {sys.executable}"
    yield ("broken", f"{version}, with -O") if sys.flags.optimize else ("ok", version)


CORRECT = "correct it; `voxelnode config check` lists this, too"


@check("configuration", broken=CORRECT, warning=CORRECT)
def _configuration(site: Site) -> Iterator[Said]:
    from node.control.checks import problems, warnings

    yield from (("broken", problem) for problem in problems(site.settings))
    yield from (("warning", warning) for warning in warnings(site.settings))


def _refused(*asked: Callable[[], object]) -> list[Said]:
    """Return what a start refuses of this, in its words; a running node has the root."""
    from node.control.checks import problem_of

    return [("broken", problem, AS_IT_SAYS) for ask in asked for problem in problem_of(ask)]


@check("sqlite", note="let no other program write to the index; the node by itself is safe")
def _sqlite(_: Site) -> Iterator[Said]:
    is_right, version = sqlite3.sqlite_version_info >= SQLITE_WITHOUT_WAL_RESET_BUG, sqlite3.sqlite_version
    found = f"{version}: before 3.51.3, concurrent writers can damage a WAL database"
    yield ("ok", version) if is_right else ("note", found)


@check("decoder", broken="reinstall voxelnode with its dependencies")
def _decoders(_: Site) -> Iterator[Said]:
    from pydicom.uid import UID

    try:
        from node.volume.read.transfer_syntaxes import decoders_by_transfer_syntax
    except ImportError as error:
        yield "broken", str(error)
        return
    for syntax, packages in decoders_by_transfer_syntax().items():
        name = UID(syntax).name  # of one that pydicom does not know, the UID
        yield "ok", f"{syntax}{f' {name}' if name != syntax else ''}: {', '.join(packages)}"


@check(
    "confinement",
    warning="use Linux 5.13 or newer on x86-64 or 64-bit ARM with both, and let the container pass their system calls; "
    "`voxelnode help security` tells what they protect",
)
def _confinement(_: Site) -> Iterator[Said]:
    found = offered()
    yield "ok" if found.landlock and found.seccomp else "warning", described()


@check(
    "root",
    broken="make the folder writable, or set storage.root",
    warning="every instance waits for syncs before it is acknowledged; use a faster disk",
)
def _root(site: Site) -> Iterator[Said]:
    from node.control.root import require_barrier, require_place, require_root

    if problems := _refused(
        require_barrier, partial(require_place, site.root), partial(require_root, site.root, site.maker)
    ):
        yield from problems
        return
    try:
        seconds = _sync(site.folder)
    except OSError as error:
        found = f"{site.folder}: {error.strerror}"
        full = "free space on this disk, or remove files from it"
        yield ("broken", found, full) if error.errno in NO_ROOM else ("broken", found)
        return
    found = f"{site.root} is writable, a sync takes {seconds * 1000:.1f} ms"
    yield "warning" if seconds > SLOW_SYNC_SECONDS else "ok", found
    kind, _ = file_system(site.folder)
    if kind in NETWORK:
        remedy = "use a local disk; if you cannot, let no process on another machine open this root"
        yield "warning", f"{site.folder} is on {kind}: SQLite's write-ahead log serves one machine", remedy


def _sync(folder: Path) -> float:
    """Return the seconds that a sync of a folder takes. Raises OSError."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\x00" * 4096)
        file.flush()
        started = perf_counter()
        os.fsync(file.fileno())
        return perf_counter() - started


@check("privacy", warning="run `voxelnode doctor --repair` as the owner, or chmod -R go= it")
def _privacy(site: Site) -> Iterator[Said]:
    exposed = list(islice(open_to_others(site.root), SHOWN_PATHS)) if others_may(site.root) else []
    if len(exposed) > 1:
        more = " and more" * (len(exposed) == SHOWN_PATHS)
        yield "warning", f"others have rights on {', '.join(map(str, exposed))}{more}"
    elif exposed:
        yield "warning", f"others can list {site.root}"
    elif site.root.is_dir():
        yield "ok", f"only its owner can enter {site.root}"


@check("disks", warning="files are copied between disks, not moved; back up all of them together")
def _disks(site: Site) -> Iterator[Said]:
    if others := ", ".join(folder.name for folder in space.disks_of(site.folder)[1:]):
        yield "warning", f"not on the disk of {site.folder}: {others}"


@check(
    "disk",
    broken="senders are refused until there is room: remove files, or lower storage.reserve_bytes",
    warning="free space soon",
)
def _disk(site: Site) -> Iterator[Said]:
    if site.lack is not None:
        yield "broken", site.lack
        return
    folder, storage = space.fullest(site.folder), site.settings.storage
    free = space.free_bytes_of(folder)
    where = f" for {folder.name}" if folder != site.folder else ""
    below = f"associations are refused below {sized(storage.low_bytes)}, instances below {sized(storage.reserve_bytes)}"
    yield "warning" if free < 2 * storage.low_bytes else "ok", f"{sized(free)} free{where}; {below}"


@check("index", warning="end that program: the disk gets its room back")
def _index(site: Site) -> Iterator[Said]:
    from node.control.root import require_startable
    from node.index.looking import is_there
    from node.index.rows.sqlite_file import maker_of

    if problems := _refused(partial(require_startable, site.root, site.settings.index.url)) or site.index.get("store"):
        yield from problems
    elif site.held_back:
        yield "warning", site.held_back
    elif is_there(site.place):
        yield "ok", str(site.place)
    else:
        yield "ok", f"{site.place} does not exist yet; {maker_of(site.root)} makes it"


@check(
    "archive",
    broken="have the instances of `voxelnode lost list` sent again; or give them up: `voxelnode lost write-off` those "
    "that are not here, `voxelnode delete` those whose files are missing or damaged; or restore files from a backup, "
    "and run `voxelnode fsck --repair`",
)
def _missing_files(site: Site) -> Iterator[Said]:
    yield from _refused(partial(require_folders, site.root))
    if damaged := site.index.get("damaged"):
        yield "broken", f"missing or damaged: the files of {counted(damaged, 'instance')}"
    if lost := site.index.get("lost"):
        yield "broken", f"acknowledged, and not here: {counted(lost, 'instance')}"
    yield from (("broken", gap["detail"]) for gap in site.index.get("gaps", ()))


@check(
    "conflicts", warning="`voxelnode conflicts` lists them, `voxelnode help custody` says what to do about each kind"
)
def _conflicts(site: Site) -> Iterator[Said]:
    if conflicts := site.index.get("conflicts"):
        found = f"nobody has decided {', '.join(f'{count} {kind}' for kind, count in sorted(conflicts.items()))}"
        aside = "" if SET_ASIDE.isdisjoint(conflicts) else "; what was set aside is in no series meanwhile"
        yield "warning", f"{found}{aside}"


@check(
    "object store",
    broken=REMEDIES["object store"],
    warning="nothing is lost by it; use a store that refuses them to find a bad line sooner",
)
def _objects(site: Site) -> Iterator[Said]:
    """Try what the archive needs of an object store: create an object only if there is none, read and remove it."""
    from node.errors import UsageError
    from node.registry import store_kind

    try:
        if (kind := store_kind(site.settings)) is None or (tried := kind.tried(site.settings)) is None:
            return
    except UsageError as error:
        yield "broken", str(error)
        return
    place, problem, warning = tried
    yield ("broken", problem) if problem else ("ok", f"{place} creates, returns and removes objects")
    if warning is not None and problem is None:
        yield "warning", warning


@check(
    "journal",
    broken="check the disk and keep a copy of the folder; the next start puts the segment into quarantine and "
    "goes on; let the senders send these instances again",
)
def _journal(site: Site) -> Iterator[Said]:
    from node.index.rows.about_keys import AppliedPosition
    from node.journal.inspection import JournalUnusable
    from node.receive.record import JOURNAL_FOLDER, damaged_records, journal_report

    folder = site.root / JOURNAL_FOLDER
    try:
        report = journal_report(site.root, lambda journal: AppliedPosition.of(None))
    except JournalUnusable as error:
        yield "broken", str(error), "install that version"
        return
    yield from (("broken", f"{damage.segment}: {damaged_records(damage)}") for damage in report.damage)
    if not report.damage:
        yield "ok", f"{folder}, {sized(report.bytes)}"


@check(
    "index",
    broken="start the standby again, or, if it will not come back, change synchronous_standby_names on the server",
)
def _stalled(site: Site) -> Iterator[Said]:
    if "standbys" in site.index and (stall := site.index["standbys"].stall) is not None:
        yield "broken", stall


@check("acknowledge", warning="set synchronous_standby_names on the server")
def _acknowledgement(site: Site) -> Iterator[Said]:
    """Tell what senders wait for, and whether the index can lose it."""
    acknowledge = site.settings.acknowledge
    found = f"{acknowledge}: instances are acknowledged {ACKNOWLEDGED[acknowledge]}"
    standbys = site.index.get("standbys")
    weakness = standbys.weakness if standbys is not None and acknowledge != "local" else None
    yield ("warning", f"{found}; {weakness}") if weakness is not None else ("ok", found)


@check("node", broken="see the log; restart the node", warning="see the log, and start the node again")
def _node(site: Site) -> Iterator[Said]:
    if site.live is None:
        return
    if not running(site.live):
        yield "warning" if site.live.get("has_ended") else "broken", readiness_of(site.live, None)
        return
    for part, reason in site.live["reasons"].items():
        if part != "intake" or "intake has stopped" in reason or site.lack is None:  # else the check of the disk tells
            yield "broken", f"{part}: {reason}", remedy_of(part, reason)
    if not site.live["reasons"]:
        yield "ok", "the running node is ready"


@check(
    "port",
    broken="set dicom.port and dicom.tls_port above 1023, or grant CAP_NET_BIND_SERVICE",
    warning="end the program that listens there, or set dicom.port, dicom.tls_port or dicom.host",
)
def _ports(site: Site) -> Iterator[Said]:
    """Tell who listens at each DICOM port or may, or why nobody can; without those of a node that hangs."""
    dicom, live = site.settings.dicom, site.live or {"has_ended": True}
    listeners = (("port", "listener", dicom.port), ("tls_port", "tls listener", dicom.tls_port))
    for key, part, port in listeners if dicom.enabled else ():
        where = f"{site.settings.bind_host}:{port}"
        if port is None:
            continue
        if not live.get("has_ended") and live.get(key) == port and part not in live["reasons"]:
            if running(live):  # else the check of the node reports that it hangs
                yield "ok", f"the running node listens at {where}"
        elif (error := _bound(site.settings.bind_host, port)) is None:
            yield "ok", f"{where} is free"
        elif isinstance(error, PermissionError):
            yield "broken", f"{where}: permission denied"
        else:
            yield "warning", f"{where}: {error.strerror}"


def _bound(host: str, port: int) -> OSError | None:
    """Return why nobody can listen at a port; None: somebody could."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        return error
    return None


@check("open files", warning="raise the limit of open files (`ulimit -n`), or lower dicom.maximum_associations")
def _files(site: Site) -> Iterator[Said]:
    allowed, needed = resource.getrlimit(resource.RLIMIT_NOFILE)[0], 64 + 4 * site.settings.dicom.maximum_associations
    found = f"{allowed} allowed, {needed} may be needed"
    yield ("warning", found) if allowed < needed else ("ok", f"{allowed} allowed")


@check("clock", warning="set the clock with NTP")
def _clock(site: Site) -> Iterator[Said]:
    now, newest = dt.datetime.now(dt.UTC), site.index.get("newest")
    is_wrong = newest is not None and moment_of(newest) > now
    found = f"{now:%F %T} UTC"
    yield ("warning", f"{found} is earlier than the newest instance") if is_wrong else ("ok", found)
