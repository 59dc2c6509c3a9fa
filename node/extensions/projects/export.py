"""Export the index and the current volumes of a root, for accounts that may not read the root itself.

Each conversion is a folder that never changes, so that an export is repeated cheaply: folders that are there already
stay, others are copied to a new name and renamed, and those that are no longer current go after the index has changed.
A reader therefore finds the files of every row, unless the export was repeated since it opened the index.
"""

import grp
import hashlib
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from node.archive.base import LocalFile
from node.conversion.volume_files import revision_files
from node.errors import UsageError, VoxelnodeError
from node.files.durable import locked, make_folder, sync_file, sync_folder
from node.index.look.views import ReadIndex
from node.index.reading import reading
from node.index.rows.backend import IndexUnusable
from node.index.rows.copying import copy_tables
from node.index.rows.grams import NAME as GRAMS
from node.index.rows.place import FILE_NAME, Place, place_of
from node.index.rows.records import RevisionFile
from node.index.rows.scope import Scope
from node.index.rows.sqlite import backup
from node.index.rules.people.accounts import project_id

_WORK = "export.part"
"""Folder of what is not finished, which only the owner may read: its index still has everything at first."""


KEPT_TABLES = frozenset(
    {
        "patients", "studies", "series", "series_references", "images", "conversions", "volumes", "volume_sources",
        "exclusions", "failures", "events", "series_documents", "image_documents",
    }
)  # fmt: skip
"""The others are emptied: they have secrets of accounts, or are about peers, orders and people at work. So are those
of extensions, also of one that is not installed any more."""

MARK = "exported"
"""Key of ``about`` by which an export is known; its value is the root."""


class ExportedFile(NamedTuple):
    """A file of a current volume; `path` is relative to the root."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export did; `absent` are folders of conversions whose files are missing or damaged in the root."""

    copied: int
    unchanged: int
    removed: int
    bytes: int
    absent: tuple[str, ...]


OpenFiles = Callable[[], AbstractContextManager[LocalFile]]


def export(
    root: Path,
    target: Path,
    group: str | None = None,
    url: str | None = None,
    open_files: OpenFiles | None = None,
    project: str | None = None,
) -> Exported:
    """Bring an export of a root up to date, also while a node runs.

    `root`, `target`: absolute. `target` is created if it does not exist.
    `group`: group that may read the export; None: only the owner.
    `url`: ``[index] url``.
    `open_files`: yields what gives the files of the archive; None: all are below `root`.
    `project`: project whose series it has, as members see them; None: all series.

    Raises UsageError: the group or the project does not exist, or `target` is in the root, or the root in it.
    Raises VoxelnodeError: `target` has other files or is an export of another root, or another process writes to it.
    Raises OSError: the store does not answer, or another host has a file and does not move it there.
    """
    gid = _gid(group)
    root, target = root.resolve(), target.resolve()
    if target.is_relative_to(root) or root.is_relative_to(target):
        raise UsageError(f"{target} and the root {root} may not lie in one another: name a folder beside the root")
    if target.exists() and any(target.iterdir()) and not (target / _WORK).exists():
        _require_export(target / FILE_NAME, root)
    make_folder(target)
    lock = locked(target, os.O_RDONLY | os.O_DIRECTORY)
    if lock is None:
        raise VoxelnodeError(f"another process exports to {target}: try again when it has ended")
    try:
        scope = None if project is None else Scope(projects=(project,))
        with reading(root, url, scope) as index:
            if project is not None:
                project_id(index.connection, project)
            files = open_files or (lambda: nullcontext(lambda file: root / file.key))
            return _export(root, _Source(place_of(root, url), scope), target, gid, index, files)
    finally:
        os.close(lock)


def _gid(group: str | None) -> int | None:
    if group is None:
        return None
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        raise UsageError(f"--group {group}: there is no such group; `getent group` lists them") from None
    if os.geteuid() != 0 and gid not in (os.getegid(), *os.getgroups()):
        raise UsageError(f"--group {group}: only a member of a group can give it files; add this account to it")
    return gid


class _Source(NamedTuple):
    """An index, and what of it is exported."""

    place: Place
    scope: Scope | None


def _export(
    root: Path, source: _Source, target: Path, gid: int | None, index: ReadIndex, open_files: OpenFiles
) -> Exported:
    work = target / _WORK
    shutil.rmtree(work, ignore_errors=True)  # of an export that was interrupted
    work.mkdir(mode=0o700)
    _copy_for_readers(source.place, work / FILE_NAME, source.scope)
    folders, absent, copied, size = _files_of(work / FILE_NAME), [], 0, 0
    for folder, files in folders.items():
        if (target / folder).is_dir():
            with open_files() as local:
                _copy_changed(revision_files(root, index, folder), target / folder, work / "sidecar", local)
            continue
        with open_files() as local:
            is_copied = _copy(revision_files(root, index, folder), files, work / "folder", local)
        if not is_copied:
            absent.append(folder)
            continue
        make_folder((target / folder).parent)
        os.rename(work / "folder", target / folder)
        sync_folder((target / folder).parent)
        copied, size = copied + 1, size + sum(file.bytes for file in files)
    _finish(work / FILE_NAME, absent)
    _permit(target, gid)
    os.replace(work / FILE_NAME, target / FILE_NAME)
    sync_folder(target)
    shutil.rmtree(work)
    removed = _remove_others(target, set(folders))
    return Exported(copied, len(folders) - copied - len(absent), removed, size, tuple(absent))


def _copy(stored: Sequence[RevisionFile], files: Sequence[ExportedFile], copy: Path, local: LocalFile) -> bool:
    """Copy the files of a conversion; return whether all of them are as the index records them."""
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    try:
        for file in stored:
            path = local(file)
            shutil.copyfile(path, copy / path.name, follow_symlinks=False)
            sync_file(copy / path.name)
    except FileNotFoundError:  # removed meanwhile, by a newer conversion or a deletion
        return False
    sync_folder(copy)
    return all(_is_as_recorded(copy / Path(file.path).name, file) for file in files)


def _copy_changed(stored: Sequence[RevisionFile], copy: Path, work: Path, local: LocalFile) -> None:
    """Copy the sidecars again that tell another verdict than those that were copied before."""
    for file in stored:
        there = copy / Path(file.key).name
        if there.suffix != ".json" or (there.is_file() and there.stat().st_size == file.bytes):
            continue
        with suppress(FileNotFoundError):  # removed meanwhile
            shutil.copyfile(local(file), work, follow_symlinks=False)
            sync_file(work)
            os.replace(work, there)


def _is_as_recorded(path: Path, file: ExportedFile) -> bool:
    try:
        with path.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256")
    except FileNotFoundError:
        return False
    return digest.hexdigest() == file.sha256


def _permit(target: Path, gid: int | None) -> None:
    """Let the owner and the group, if there is one, read everything in an export; the names change last."""
    for folder, _, files in os.walk(target, topdown=False):
        for path in (*(Path(folder, name) for name in files), Path(folder)):
            mode = (0o750 if gid is not None else 0o700) if path.is_dir() else (0o640 if gid is not None else 0o600)
            status = path.lstat()
            if gid is not None and status.st_gid != gid:
                os.chown(path, -1, gid, follow_symlinks=False)
            if stat.S_IMODE(status.st_mode) != mode:
                path.chmod(mode)


def _remove_others(target: Path, folders: set[str]) -> int:
    """Remove the folders of conversions that are not among `folders`; return their number."""
    others = [path for path in (target / "volumes").glob("*/*/*") if str(path.relative_to(target)) not in folders]
    for path in others:
        shutil.rmtree(path)
        with suppress(OSError):  # other conversions are in it
            path.parent.rmdir()
            path.parent.parent.rmdir()
    return len(others)


def _copy_for_readers(place: Place, target: Path, scope: Scope | None = None) -> None:
    """Write a copy of an index with `KEPT_TABLES` and the current conversions to `target`, also while a node runs.

    `scope`: as in `copy_tables`. Raises IndexUnusable if there is no index, or it cannot be read.
    """
    root = place.parent if isinstance(place, Path) else place.root
    if isinstance(place, Path) and scope is None:  # pages are copied faster than rows
        backup(place, target)
    else:
        copy_tables(place, target, KEPT_TABLES, scope)
    try:
        with closing(sqlite3.connect(target, isolation_level=None)) as copy:
            _reduce(copy, root)
    except sqlite3.Error as error:
        raise IndexUnusable(f"{place}: {error}; `voxelnode db check` tells what is wrong") from error


def _reduce(copy: sqlite3.Connection, root: Path) -> None:
    copy.execute("PRAGMA journal_mode = DELETE")
    copy.execute("PRAGMA secure_delete = ON")
    copy.execute("BEGIN")
    tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    for (table,) in copy.execute(tables).fetchall():
        if table not in (*KEPT_TABLES, "alembic_version") and not table.startswith(GRAMS):
            copy.execute(f'DELETE FROM "{table}"')
    copy.execute("DELETE FROM sqlite_sequence")  # it tells how many instances there are
    _delete_conversions(copy, "SELECT id FROM conversions WHERE superseded OR files_removed_at IS NOT NULL")
    copy.execute("INSERT INTO about VALUES (?, ?)", [MARK, str(root)])
    copy.execute("COMMIT")


def _files_of(path: Path) -> dict[str, list[ExportedFile]]:
    """Return the files of all conversions of an exported index, by their folders."""
    folders: dict[str, list[ExportedFile]] = {}
    with closing(sqlite3.connect(path)) as copy:
        for row in copy.execute("SELECT path, bytes, sha256 FROM volumes ORDER BY path"):
            folders.setdefault(row[0].rpartition("/")[0], []).append(ExportedFile(*row))
    return folders


def _finish(path: Path, absent: Iterable[str]) -> None:
    """Delete the conversions whose folders are `absent`, and the free pages; sync the file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as copy:
        copy.execute("CREATE TEMP TABLE absent (folder TEXT PRIMARY KEY)")
        copy.executemany("INSERT INTO absent VALUES (? || '/')", [(folder,) for folder in absent])
        of_folder = "SELECT conversion_id FROM volumes, absent WHERE substr(path, 1, length(folder)) = folder"
        _delete_conversions(copy, of_folder)
        copy.execute("VACUUM")
    sync_file(path)


def _require_export(path: Path, root: Path) -> None:
    """Return if an index is that of an export of `root`.

    Raises VoxelnodeError if it is that of a root, of an export of another root, or none.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("SELECT value FROM about WHERE key = ?", [MARK]).fetchone()
    except sqlite3.Error:
        found = None
    if found is None:
        raise VoxelnodeError(f"{path} is not the index of an export: name a folder that does not exist, or an export")
    if found[0] != str(root):
        raise VoxelnodeError(f"{path.parent} is an export of {found[0]}: name another folder, or remove it")


def _delete_conversions(copy: sqlite3.Connection, ids: str) -> None:
    """Delete the conversions that a query names, with what belongs to them."""
    copy.execute(f"CREATE TEMP TABLE gone AS {ids}")
    for table in ("volumes", "volume_sources", "exclusions"):
        copy.execute(f"DELETE FROM {table} WHERE conversion_id IN gone")
    copy.execute("DELETE FROM conversions WHERE id IN gone")
    copy.execute("DROP TABLE gone")
