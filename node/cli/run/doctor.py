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
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from node.archive.root import NETWORK, file_system, lock_problem, make_private, open_to_others, others_may
from node.child_process.confinement import described, offered
from node.cli.look.status import ACKNOWLEDGED, live_of, readiness_of
from node.cli.options import Root
from node.cli.output import Listing, moment_of, print_finding
from node.counted import counted, sized
from node.dicom.lean_import import load_for_rows
from node.durable import NO_ROOM

if TYPE_CHECKING:
    from node.index.database.look import Look
    from node.index.database.reading import ReadIndex
    from node.index.engine.backend import Place
    from node.settings.model import Settings

State = Literal["ok", "warning", "broken"]

SET_ASIDE = frozenset({"instance-bytes", "instance-versions", "instance-quarantined"})
"""Kinds of conflicts of which a version of an instance is in quarantine, and in no series."""

SQLITE_WITHOUT_WAL_RESET_BUG = (3, 51, 3)
SLOW_SYNC_SECONDS = 0.2
"""A slower sync of the root causes a warning: every instance waits for one."""


SHOWN_PATHS = 5


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check; `remedy` tells what to do."""

    check: str
    state: State
    found: str
    remedy: str = ""


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
    checks: tuple[Callable[[Settings], Iterator[Check]], ...] = (
        _python, _sqlite, _decoders, _confinement, _root, _privacy, _disk, _index, _objects, _journal,
        _acknowledgement, _node, _port, _files, _clock,
    )  # fmt: skip
    rows = [asdict(finding) for check in checks for finding in check(root.settings)]
    is_broken = any(row["state"] == "broken" for row in rows)

    def text() -> None:
        decoders = [row for row in rows if row["check"] == "decoder"]
        told = [row for row in rows if row not in decoders]
        if decoders:
            syntaxes = counted(len(decoders), "transfer syntax", "transfer syntaxes")
            found = f"{syntaxes} can be decoded: `voxelnode doctor --json` lists them"
            told.append(asdict(Check("decoders", "ok", found)))
        for row in sorted(told, key=lambda row: ("broken", "warning", "ok").index(row["state"])):
            print_finding(
                f"{row['state']:<7}  {row['check']:<12}", row["found"], row["remedy"] and f"-> {row['remedy']}"
            )
        print("series, hooks, routes and retention: `voxelnode status`")

    return Listing({"ok": not is_broken, "findings": rows}, text, is_broken, rows)


def _python(_: Settings) -> Iterator[Check]:
    version = f"{platform.python_version()} at {sys.executable}"
    if sys.flags.optimize:
        yield Check(
            "python", "broken", f"{version}, with -O", "run Python without -O: pynetdicom checks its input with assert"
        )
    else:
        yield Check("python", "ok", version)


def _sqlite(_: Settings) -> Iterator[Check]:
    if sqlite3.sqlite_version_info < SQLITE_WITHOUT_WAL_RESET_BUG:
        yield Check(
            "sqlite",
            "warning",
            f"{sqlite3.sqlite_version}: before 3.51.3, concurrent writers can damage a WAL database",
            "let no other program write to the index; the node by itself is safe",
        )
    else:
        yield Check("sqlite", "ok", sqlite3.sqlite_version)


def _decoders(_: Settings) -> Iterator[Check]:
    from pydicom.uid import UID

    try:
        from node.volume.read.transfer_syntaxes import decoders_by_transfer_syntax
    except ImportError as error:
        yield Check("decoders", "broken", str(error), "reinstall voxelnode with its dependencies")
        return
    for syntax, packages in decoders_by_transfer_syntax().items():
        name = UID(syntax).name  # of one that pydicom does not know, the UID
        yield Check("decoder", "ok", f"{syntax}{f' {name}' if name != syntax else ''}: {', '.join(packages)}")


def _confinement(_: Settings) -> Iterator[Check]:
    found = offered()
    remedy = (
        "use Linux 5.13 or newer on x86-64 or 64-bit ARM with both, and let the container pass their system calls; "
        "`voxelnode help security` tells what they protect"
    )
    is_whole = found.landlock and found.seccomp
    yield Check("confinement", "ok" if is_whole else "warning", described(), "" if is_whole else remedy)


def _root(settings: Settings) -> Iterator[Check]:
    folder = _existing(settings.storage.root)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\x00" * 4096)
            file.flush()
            started = perf_counter()
            os.fsync(file.fileno())
            took = perf_counter() - started
    except OSError as error:
        remedy = "make the folder writable, or set storage.root"
        if error.errno in NO_ROOM:
            remedy = "free space on this disk, or remove files from it"
        yield Check("root", "broken", f"{folder}: {error.strerror}", remedy)
        return
    slow = took > SLOW_SYNC_SECONDS
    yield Check(
        "root",
        "warning" if slow else "ok",
        f"{settings.storage.root.absolute()} is writable, a sync takes {took * 1000:.1f} ms",
        "every instance waits for syncs before it is acknowledged; use a faster disk" if slow else "",
    )
    kind, _ = file_system(folder)
    if (problem := lock_problem(folder)) is not None:
        yield Check("root", "broken", problem, "use a local disk: the index needs locks")
    elif kind in NETWORK:
        remedy = "use a local disk; if you cannot, let no process on another machine open this root"
        yield Check("root", "warning", f"{folder} is on {kind}: SQLite's write-ahead log serves one machine", remedy)


def _privacy(settings: Settings) -> Iterator[Check]:
    root = settings.storage.root.absolute()
    if not root.is_dir():
        return
    is_open = others_may(root)
    exposed = list(islice(open_to_others(root), SHOWN_PATHS)) if is_open else []
    if len(exposed) > 1:
        found = f"others have rights on {', '.join(map(str, exposed))}{' and more' * (len(exposed) == SHOWN_PATHS)}"
        yield Check("privacy", "warning", found, "run `voxelnode doctor --repair` as the owner, or chmod -R go= it")
    elif is_open:
        yield Check("privacy", "warning", f"others can list {root}", "run `voxelnode doctor --repair` as the owner")
    else:
        yield Check("privacy", "ok", f"only its owner can enter {root}")


def _is_short(settings: Settings) -> bool:
    """Return whether the fullest disk of the root has too little room for associations."""
    from node.archive.space import free_bytes_of, fullest

    return free_bytes_of(fullest(_existing(settings.storage.root))) <= settings.storage.low_bytes


def _disk(settings: Settings) -> Iterator[Check]:
    from node.archive.space import MIN_FREE_BYTES, MIN_FREE_INODES, disks_of, fewest_inodes, free_bytes_of, fullest

    root = _existing(settings.storage.root)
    disks = disks_of(root)
    if len(disks) > 1:
        others = ", ".join(folder.name for folder in disks[1:])
        found = f"not on the disk of {root}: {others}"
        yield Check(
            "disks", "warning", found, "files are copied between disks, not moved; back up all of them together"
        )
    folder = fullest(root)
    free, reserve = free_bytes_of(folder), settings.storage.reserve_bytes
    inodes = fewest_inodes(root)
    where = f" for {folder.name}" if folder != root else ""
    limits = f"associations are refused below {sized(settings.storage.low_bytes)}, instances below {sized(reserve)}"
    space = f"{sized(free)} free{where}; {limits}"
    if inodes is not None and inodes < MIN_FREE_INODES:
        yield Check("disk", "broken", f"{inodes} inodes free", "all instances are refused: remove files from this disk")
    if free <= max(reserve, MIN_FREE_BYTES):
        yield Check("disk", "broken", space, "all instances are refused: free space, or lower storage.reserve_bytes")
    elif _is_short(settings):
        yield Check("disk", "broken", space, "associations are refused: free space, or lower storage.reserve_bytes")
    elif free < 2 * settings.storage.low_bytes:
        yield Check("disk", "warning", space, "free space soon")
    else:
        yield Check("disk", "ok", space)


def _is_newer(place: Place) -> bool:
    from node.index.engine.place import newer_schema  # here, because a sound index needs no SQLAlchemy

    return newer_schema(place) is not None


def _index(settings: Settings) -> Iterator[Check]:
    from node.control.root import require_index
    from node.index.database.look import problems_of
    from node.index.engine.backend import IndexUnusable, place_of
    from node.index.engine.sqlite_file import held_back, maker_of

    place = place_of(settings.storage.root, settings.index.url)
    try:
        require_index(settings.storage.root.absolute(), settings.index.url)
        if not _is_there(place):
            yield Check(
                "index", "ok", f"{place} does not exist yet; {maker_of(settings.storage.root.absolute())} makes it"
            )
            return
    except IndexUnusable as error:
        yield Check("index", "broken", str(error), "restore a backup, or run `voxelnode db rebuild`")
        return
    problems = problems_of(place)
    remedy = "restore a backup, run `voxelnode db upgrade` or, as a last resort, `voxelnode db rebuild`"
    if problems and _is_newer(place):
        remedy = "install the version of voxelnode that wrote it"
    for problem in problems:
        yield Check("index", "broken", problem, remedy)
    yield from _missing_files(settings)
    held = held_back(place) if isinstance(place, Path) else None
    if held is not None:
        yield Check("index", "warning", held, "the disk gets its room back once that program has ended")
    elif not problems:
        yield Check("index", "ok", str(place))


def _is_there(place: Place) -> bool:
    if isinstance(place, Path):
        return place.exists()
    from node.index.engine.place import exists

    return exists(place)


def _looking(settings: Settings) -> AbstractContextManager[Look | ReadIndex]:
    from node.index.database.look import looking
    from node.index.engine.backend import place_of

    return looking(place_of(settings.storage.root, settings.index.url))


def _missing_files(settings: Settings) -> Iterator[Check]:
    from node.archive.root import FolderAway, require_folders
    from node.index.engine.backend import IndexUnusable

    try:
        require_folders(settings.storage.root.absolute())
    except FolderAway as error:
        yield Check("archive", "broken", error.problem, error.remedy)
    try:
        with _looking(settings) as index:
            missing, gaps = index.instances.count_missing_files(), index.lost.gaps()
            conflicts = index.conflicts.count_open()
    except IndexUnusable:  # reported already
        return
    if missing:
        remedy = "send the instances again, or restore the files from a backup and run `voxelnode fsck --repair`"
        yield Check("archive", "broken", f"missing or damaged: the files of {counted(missing, 'instance')}", remedy)
    for gap in gaps:
        remedy = "have them sent again, then run `voxelnode lost write-off journal --reason TEXT`"
        yield Check("journal", "broken", gap["detail"], remedy)
    if conflicts:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(conflicts.items()))
        remedy = "`voxelnode conflicts` lists them, `voxelnode help custody` says what to do about each kind"
        if not SET_ASIDE.isdisjoint(conflicts):
            remedy += "; what was set aside is in no series meanwhile"
        yield Check("conflicts", "warning", f"nobody has decided {kinds}", remedy)


def _objects(settings: Settings) -> Iterator[Check]:
    """Try what the archive needs of an object store: create an object only if there is none, read and remove it."""
    from node.errors import UsageError
    from node.registry import store_kind

    try:
        kind = store_kind(settings)
        if kind is None:
            return
        place, problem, warning = kind.tried(settings)
    except UsageError as error:
        yield Check("object store", "broken", str(error), "correct [storage]")
        return
    if problem is None:
        yield Check("object store", "ok", f"{place} creates, returns and removes objects")
        if warning is not None:
            remedy = "nothing is lost by it; a store or gateway that refuses them finds a bad line sooner"
            yield Check("object store", "warning", warning, remedy)
    else:
        remedy = "instances stay on the local disk until it works; correct [storage], the bucket or its rights"
        yield Check("object store", "broken", problem, remedy)


def _journal(settings: Settings) -> Iterator[Check]:
    from node.index.engine.about_keys import AppliedPosition
    from node.journal.journal import JournalUnusable
    from node.lifecycle.journal import JOURNAL_FOLDER, damaged_records, journal_report

    folder = settings.storage.root.absolute() / JOURNAL_FOLDER
    try:
        report = journal_report(folder.parent, lambda journal: AppliedPosition.of(None))
    except JournalUnusable as error:
        yield Check("journal", "broken", str(error), "install that version")
        return
    except OSError as error:
        yield Check("journal", "broken", f"{folder}: {error.strerror}", "check the disk and the owner of the folder")
        return
    for damage in report.damage:
        yield Check(
            "journal",
            "broken",
            f"{damage.segment}: {damaged_records(damage)}",
            "check the disk and keep a copy of the folder; the next start puts the segment into quarantine and goes "
            "on; let the senders send these instances again",
        )
    if not report.damage:
        yield Check("journal", "ok", f"{folder}, {sized(report.bytes)}")


def _acknowledgement(settings: Settings) -> Iterator[Check]:
    """Tell what senders wait for, and whether the index can lose it."""
    from node.index.engine.backend import IndexUnusable

    weakness = stall = None
    with suppress(IndexUnusable), _looking(settings) as index:
        standbys = index.standbys()
        weakness, stall = standbys.weakness if settings.acknowledge != "local" else None, standbys.stall
    if stall is not None:
        remedy = "start the standby again, or, if it will not come back, change synchronous_standby_names on the server"
        yield Check("index", "broken", stall, remedy)
    found = f"{settings.acknowledge}: instances are acknowledged {ACKNOWLEDGED[settings.acknowledge]}"
    if weakness is None:
        yield Check("acknowledge", "ok", found)
    else:
        yield Check("acknowledge", "warning", f"{found}; {weakness}", "set synchronous_standby_names on the server")


def _node(settings: Settings) -> Iterator[Check]:
    from node.index.engine.sqlite_file import LOCKED
    from node.live import running

    live = live_of(settings.storage.root.absolute())
    if live is None:
        return
    if live.get("has_ended"):
        yield Check("node", "warning", readiness_of(live, None), "see the log, and start the node again")
    elif not running(live):
        yield Check("node", "broken", readiness_of(live, None), "see the log; restart the node")
    elif live["reasons"]:
        for part, reason in live["reasons"].items():
            if part == "intake" and "intake has stopped" not in reason:  # the disk, which a restart does not help
                if not _is_short(settings):  # else the check of the disk reports it
                    yield Check("node", "broken", f"{part}: {reason}", "it resumes by itself once there is room")
                continue
            names_remedy = part == "journal" or LOCKED in reason  # a restart would not help
            yield Check("node", "broken", f"{part}: {reason}", "" if names_remedy else "see the log; restart the node")
    else:
        yield Check("node", "ok", "the running node is ready")


def _port(settings: Settings) -> Iterator[Check]:
    if settings.dicom.enabled:
        yield from _port_of(settings, "port", "listener", settings.dicom.port)
        if settings.dicom.tls_port is not None:
            yield from _port_of(settings, "tls_port", "tls listener", settings.dicom.tls_port)


def _port_of(settings: Settings, key: str, part: str, port: int) -> Iterator[Check]:
    from node.live import running

    host = settings.bind_host
    where = f"{host}:{port}"
    live = live_of(settings.storage.root.absolute()) or {"has_ended": True}
    if not live.get("has_ended") and live.get(key) == port and part not in live["reasons"]:
        if running(live):  # else the check of the node reports that it hangs
            yield Check("port", "ok", f"the running node listens at {where}")
        return
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except PermissionError:
        yield Check(
            "port",
            "broken",
            f"{where}: permission denied",
            f"set dicom.{key} above 1023, or grant CAP_NET_BIND_SERVICE",
        )
    except OSError as error:
        remedy = f"end the program that listens there, or set dicom.{key} or dicom.host"
        yield Check("port", "warning", f"{where}: {error.strerror}", remedy)
    else:
        yield Check("port", "ok", f"{where} is free")


def _files(settings: Settings) -> Iterator[Check]:
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    needed = 64 + 4 * settings.dicom.maximum_associations
    if allowed < needed:
        remedy = f"run ulimit -n {needed}, or lower dicom.maximum_associations"
        yield Check("open files", "warning", f"{allowed} allowed, {needed} may be needed", remedy)
    else:
        yield Check("open files", "ok", f"{allowed} allowed")


def _clock(settings: Settings) -> Iterator[Check]:
    from node.index.engine.backend import IndexUnusable

    now = dt.datetime.now(dt.UTC)
    try:
        with _looking(settings) as index:
            newest = index.series.last_received_at()
    except IndexUnusable:
        newest = None
    if newest is not None and moment_of(newest) > now:
        yield Check(
            "clock", "warning", f"{now:%F %T} UTC is earlier than the newest instance", "set the clock with NTP"
        )
    else:
        yield Check("clock", "ok", f"{now:%F %T} UTC")


def _existing(folder: Path) -> Path:
    """Return `folder`, or its nearest parent that exists."""
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder
