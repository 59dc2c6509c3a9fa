"""``voxelnode doctor``: will the node run here?"""

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
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal

import typer

from node.cli.options import ConfigFile, Json, Root, load
from node.cli.output import print_json, print_table, sized

if TYPE_CHECKING:
    from node.settings.model import Settings

State = Literal["ok", "warning", "broken"]

SQLITE_WITHOUT_WAL_RESET_BUG = (3, 51, 3)
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph"})
SLOW_SYNC_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found; `remedy` is what to do about it."""

    check: str
    state: State
    found: str
    remedy: str = ""


def doctor(config: ConfigFile = None, root: Root = None, json: Json = False) -> None:
    """Look at Python, SQLite, decoders, disk, permissions, port and clock; exit 1 if something is broken."""
    settings: Settings = load(config, storage__root=root).settings
    checks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        _python, _sqlite, _decoders, _root, _disk, _index, _port, _files, _clock,
    )  # fmt: skip
    findings = [finding for check in checks for finding in check(settings)]
    if json:
        print_json({"ok": not _broken(findings), "findings": [asdict(finding) for finding in findings]})
    else:
        print_table("", ("check", "state", "found", "remedy"), [tuple(asdict(f).values()) for f in findings])
    if _broken(findings):
        raise typer.Exit(1)


def _broken(findings: list[Finding]) -> bool:
    return any(finding.state == "broken" for finding in findings)


def _python(_: Settings) -> Iterator[Finding]:
    version = f"{platform.python_version()} at {sys.executable}"
    if sys.flags.optimize:
        yield Finding("python", "broken", f"{version}, with -O", "pynetdicom checks input by assert: run without -O")
    else:
        yield Finding("python", "ok", version)


def _sqlite(_: Settings) -> Iterator[Finding]:
    if sqlite3.sqlite_version_info < SQLITE_WITHOUT_WAL_RESET_BUG:
        yield Finding(
            "sqlite",
            "warning",
            f"{sqlite3.sqlite_version}: before 3.51.3, two processes that write can damage a WAL database",
            "none needed for the node, it alone writes; let no other program write to the index",
        )
    else:
        yield Finding("sqlite", "ok", sqlite3.sqlite_version)


def _decoders(_: Settings) -> Iterator[Finding]:
    from pydicom.uid import UID

    try:
        from node.volume.read.decoders import decoders_by_transfer_syntax
    except ImportError as error:
        yield Finding("decoders", "broken", str(error), "install voxelnode again, with its dependencies")
        return
    for syntax, packages in decoders_by_transfer_syntax().items():
        yield Finding("decoder", "ok", f"{syntax} {UID(syntax).name}: {', '.join(packages)}")


def _root(settings: Settings) -> Iterator[Finding]:
    folder = _existing(settings.storage.root)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\x00" * 4096)
            file.flush()
            started = perf_counter()
            os.fsync(file.fileno())
            took = perf_counter() - started
    except OSError as error:
        yield Finding("root", "broken", f"{folder}: {error.strerror}", "give this user the folder, or set storage.root")
        return
    slow = took > SLOW_SYNC_SECONDS
    yield Finding(
        "root",
        "warning" if slow else "ok",
        f"{settings.storage.root.absolute()} is writable, a sync takes {took * 1000:.1f} ms",
        "each acknowledged instance waits for syncs: use a faster disk" if slow else "",
    )
    kind = _file_system(folder)
    if kind in NETWORK_FILE_SYSTEMS:
        yield Finding("root", "broken", f"lies on {kind}", "SQLite's write-ahead log needs a local disk")


def _disk(settings: Settings) -> Iterator[Finding]:
    disk = os.statvfs(_existing(settings.storage.root))
    free, reserve = disk.f_bavail * disk.f_frsize, settings.storage.reserve_bytes
    found = f"{sized(free)} free, {sized(reserve)} are kept in reserve"
    if free <= reserve:
        yield Finding("disk", "broken", found, "make room, or lower storage.reserve_bytes: all stores are refused")
    elif free <= settings.storage.low_bytes:
        yield Finding("disk", "broken", found, "make room, or lower storage.low_bytes: associations are refused")
    elif free < 2 * settings.storage.low_bytes:
        yield Finding("disk", "warning", found, "make room soon")
    else:
        yield Finding("disk", "ok", found)


def _index(settings: Settings) -> Iterator[Finding]:
    from node.index.engine import FILE_NAME, check

    path = settings.storage.root.absolute() / FILE_NAME
    if not path.exists():
        yield Finding("index", "ok", f"{path}: not there yet, the first start makes it")
        return
    problems = check(path)
    for problem in problems:
        yield Finding("index", "broken", problem, "voxelnode db rebuild, if an upgrade or a backup does not help")
    yield from _missing_files(settings)
    if not problems:
        yield Finding("index", "ok", str(path))


def _missing_files(settings: Settings) -> Iterator[Finding]:
    from node.index.database import reading
    from node.index.engine import IndexUnusable

    try:
        with reading(settings.storage.root) as index:
            missing = index.rows("SELECT count(*) AS n FROM v_images WHERE file_missing")[0]["n"]
    except IndexUnusable:  # told already
        return
    if missing:
        remedy = "send them again, or bring the files back from a backup and run voxelnode fsck --repair"
        yield Finding("archive", "broken", f"{missing} instances without their file", remedy)


def _port(settings: Settings) -> Iterator[Finding]:
    host, port = settings.bind_host, settings.dicom.port
    where = f"{host}:{port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except PermissionError:
        yield Finding(
            "port", "broken", f"{where}: not allowed", "set dicom.port above 1023, or grant CAP_NET_BIND_SERVICE"
        )
    except OSError as error:
        remedy = "`voxelnode echo` tells whether that is this node; otherwise set dicom.port or dicom.host"
        yield Finding("port", "warning", f"{where}: {error.strerror}", remedy)
    else:
        yield Finding("port", "ok", f"{where} is free")


def _files(settings: Settings) -> Iterator[Finding]:
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    needed = 64 + 4 * settings.dicom.maximum_associations
    if allowed < needed:
        remedy = f"ulimit -n {needed}, or lower dicom.maximum_associations"
        yield Finding("open files", "warning", f"{allowed} allowed, {needed} may be needed", remedy)
    else:
        yield Finding("open files", "ok", f"{allowed} allowed")


def _clock(settings: Settings) -> Iterator[Finding]:
    from node.index.database import reading
    from node.index.engine import IndexUnusable

    now = dt.datetime.now(dt.UTC)
    try:
        with reading(settings.storage.root) as index:
            newest = index.rows("SELECT max(last_received_at) AS at FROM v_series")[0]["at"]
    except IndexUnusable:
        newest = None
    if newest and dt.datetime.fromisoformat(newest).replace(tzinfo=dt.UTC) > now:
        yield Finding("clock", "warning", f"{now:%F %T} UTC is before the newest instance", "set the clock, use NTP")
    else:
        yield Finding("clock", "ok", f"{now:%F %T} UTC")


def _existing(folder: Path) -> Path:
    """`folder`, or the nearest one above it that is there."""
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def _file_system(folder: Path) -> str:
    """The kind of file system that holds `folder`, as Linux calls it; empty where that cannot be known."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return ""
    holding = [(len(point), kind) for point, kind in mounts if folder.is_relative_to(point)]
    return max(holding)[1] if holding else ""
