"""Make a backup of a root while a node receives, or bring one up to date.

    index -> journal, incoming -> ledger, then the rest, twice -> what is damaged in the root stays as it is
          -> sync -> one rename -> each file to its place, the index last -> what has gone is removed

What is new or has changed is copied beside the backup, into ``.copying-BOOT``. Once all of it is durable, one rename
makes it ``.copied``, and from then on it belongs to the backup: `settle` puts it in its place. If the process dies
before the rename, the backup is as it was, and the next run goes on with what has been copied; if it dies after, the
next run, a proof or a restore ends what `settle` began.
"""

import errno
import json
import os
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from node.archive.base import VOLUMES
from node.archive.intact import data_set_offset, problem_with
from node.archive.intake import BALLAST_FOLDER
from node.archive.root import MARKER, require_folders
from node.archive.space import FOLDERS, reason_of
from node.control.control_socket import SOCKET_NAME
from node.control.root import LOCK_FILE, require_index, require_root
from node.errors import UsageError, VoxelnodeError, sized
from node.files.acknowledged import FOLDER as LEDGER
from node.files.acknowledged import read_segment, segments
from node.files.durable import DISK_FULL, NO_LINKS, locked, make_folder, move_file, sync_file_system, sync_folder
from node.index.reading import reading
from node.index.rows.files import HeldFile, VolumeFile
from node.index.rows.place import FILE_NAME, IndexUnusable, require_known
from node.index.rows.sqlite import backup as copy_index
from node.journal.inspection import inspect
from node.receive.readiness import LIVE_FILE
from node.receive.record import JOURNAL_FOLDER
from node.runtime.failpoints import reached
from node.settings.model import Settings

COPYING, COPIED, PROVING = ".copying-", ".copied", ".proving-"
"""In a backup: what is copied, by the boot of the machine; what was copied as a whole; the scratch root of a proof."""

RESTORING = ".restoring"
"""In a new root: the copy of a backup, until all of it is there."""

GONE = ".gone"
"""In these: paths of the backup that the root does not have any more, one in a line, as JSON."""

BACKUP_LOCK = "backup.lock"
"""File in the root, locked while a backup is made or proved."""

INDEX_LOGS = (f"{FILE_NAME}-wal", f"{FILE_NAME}-shm")

LOST_FOUND = "lost+found"
"""Folder of a file system, where one is mounted."""

_OF_PROCESS = "work", SOCKET_NAME, LOCK_FILE, BACKUP_LOCK, BALLAST_FOLDER, LIVE_FILE
LEFT_OUT = frozenset({*_OF_PROCESS, MARKER, LOST_FOUND, *INDEX_LOGS})
"""What is not copied of a root: it means nothing without the process, or the disk, that made it."""

INCOMING = "incoming"
"""Copied behind the journal, whose records name its files, and before the archive, to which they move."""

JOURNAL_ATTEMPTS = 10
"""How often the journal is copied until no write of the node falls into the copy so that records before it are cut."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Kept:
    """A file that the root lacks, or has otherwise than it should be, and that the backup keeps.

    `path`: relative to the root, and to the backup. `problem`: of the file of the root, in words.
    `is_instance`: it is the current version of an instance, which an import takes back. `is_whole`: the file of the
        backup is as it should be; else it stays only because there is no other.
    """

    path: str
    problem: str
    is_instance: bool
    is_whole: bool


@dataclass(slots=True)
class Made:
    """What a backup took: files that were copied, those that became hard links, their bytes, and what was removed.

    The index and the journal, which are copied each time, are not counted. `kept`: the files that are damaged in the
    root, and of which the backup therefore keeps the copy that it had. `has_links`: files of the backup are hard links
    to those of the root, from this run or an earlier one.
    """

    copied: int = 0
    linked: int = 0
    bytes: int = 0
    removed: int = 0
    kept: list[Kept] = field(default_factory=list)
    has_links: bool = False

    @property
    def text(self) -> str:
        """The numbers in words."""
        return f"{self.copied} files copied and {self.linked} linked ({sized(self.bytes)}), {self.removed} removed"


@contextmanager
def holding_backups(root: Path) -> Iterator[None]:
    """Hold the backups of a root for this process; raises VoxelnodeError if another process makes or proves one."""
    lock = locked(root / BACKUP_LOCK, os.O_RDWR | os.O_CREAT)
    if lock is None:
        raise VoxelnodeError(f"another process makes or proves a backup of {root}: wait until it has ended")
    with ExitStack() as held:
        held.callback(os.close, lock)
        yield


def make(settings: Settings, folder: Path) -> Made:
    """Make the backup of a root in a folder, or bring it up to date; a node may be receiving.

    Everything that was acknowledged before is in it, durably. If this fails or the process dies, the backup is the one
    before, or the new one.

    Raises VoxelnodeError: the folder is not for this root, or its disk is full. Raises OSError.
    """
    root = settings.storage.root.absolute()
    _require_makeable(settings, root, folder)
    with holding_backups(root):
        return _made(settings, root, folder)


def _made(settings: Settings, root: Path, folder: Path) -> Made:
    make_folder(folder)
    settle(folder)
    copying = folder / f"{COPYING}{BOOT_ID.read_text().strip()}"
    for left in folder.glob(f"{COPYING}*"):
        if left != copying:  # the machine may have stopped before all bytes of a file that looks whole were written
            shutil.rmtree(left)
    try:
        made = _copy_all(root, folder, copying)
    except (OSError, IndexUnusable) as error:
        if isinstance(error, OSError) and error.errno not in DISK_FULL:
            raise
        shutil.rmtree(copying)  # the node may be on this disk
        reason = reason_of(error, folder) if isinstance(error, OSError) else str(error)
        raise VoxelnodeError(f"{folder} is as it was before: {reason}") from error
    reached("backup-copied")
    os.rename(copying, folder / COPIED)
    sync_folder(folder)
    reached("backup-renamed")
    settle(folder)
    return made


def settle(folder: Path) -> None:
    """Put what was copied as a whole in its place, the index last, then remove what has gone; nothing if nothing was.

    May be repeated, also in a copy of the folder.
    """
    copied = folder / COPIED
    if not copied.is_dir():
        return
    for name in INDEX_LOGS:  # somebody has read the index that goes
        (folder / name).unlink(missing_ok=True)
    _move_in(copied, folder)
    with suppress(FileNotFoundError), (copied / GONE).open(encoding="utf-8") as gone:
        for line in gone:
            _remove(folder / json.loads(line))
    sync_file_system(folder)
    reached("backup-settled")
    shutil.rmtree(copied)


def _move_in(source: Path, target: Path) -> None:
    target.mkdir(mode=0o700, exist_ok=True)
    with os.scandir(source) as found:
        entries = sorted(found, key=lambda entry: entry.name == FILE_NAME)  # it names the others
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            _move_in(source / entry.name, target / entry.name)
        elif entry.name != GONE:
            reached("backup-moving")
            move_file(source / entry.name, target / entry.name)


def _require_makeable(settings: Settings, root: Path, folder: Path) -> None:
    if settings.index.url is not None or settings.storage.url is not None:
        raise UsageError(
            "a backup of this root needs its database or its bucket as well, by [index] url or [storage] url: copy the "
            "index, then the folders of the root, the journal first, with other programs (docs/backup.md)"
        )
    require_root(root, f"voxelnode serve --create --root {root}")
    require_folders(root)
    require_index(root)
    if (root / FILE_NAME).exists():  # else there is nothing to be newer: the copy of the index says what is wrong
        require_known(root / FILE_NAME)
    if any(folder.resolve().is_relative_to((root / name).resolve()) for name in ("", *FOLDERS)):
        raise UsageError(f"{folder} is inside the root: name a folder outside of it, on another disk if there is one")
    places = folder / COPIED, folder
    known = next(filter(None, map(identity_of, places)), "")
    if known and known != identity_of(root):
        raise UsageError(f"{folder} has the backup of another root, or {root} has lost its ledger: name another folder")
    if (strange := strange_in(folder)) and not has_backup(folder):
        raise UsageError(f"{folder} is not empty and has no backup ({strange}): name an empty folder, or a new one")


def has_backup(folder: Path) -> bool:
    """Return whether a folder has a backup, which may still be to be settled."""
    return any((place / FILE_NAME).is_file() for place in (folder / COPIED, folder))


def strange_in(folder: Path) -> str | None:
    """Return a name in a folder, other than those of what was broken off, and of its file system."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    ours = (COPYING, PROVING, RESTORING)
    return next((name for name in names if name != LOST_FOUND and not name.startswith(ours)), None)


def identity_of(root: Path) -> str:
    """Return the name of the ledger of a root or a backup; empty if nothing was acknowledged yet."""
    found = (read_segment(path, lambda kind, body: None).identity for path in segments(root / LEDGER))
    return next(filter(None, found), "")


def _copy_all(root: Path, folder: Path, copying: Path) -> Made:
    copying.mkdir(mode=0o700, exist_ok=True)
    copy_index(root / FILE_NAME, copying / FILE_NAME)
    (copying / FILE_NAME).chmod(0o600)
    reached("backup-index-copied")
    with (copying / GONE).open("w", encoding="utf-8") as gone:
        copier = _Copier(root, folder, copying, gone)
        copier.copy_journal()
        copier.copy_folder(INCOMING, begins=True, ends=True)
        copier.made = Made()
        # The second time finds what was moved while the first one ran. It is short, so few deletions fall between the
        # ledger, which comes before the files that it names, and these files.
        copier.copy_root(begins=True)
        copier.copy_root(ends=True)
        copier.keep_whole_copies()
    sync_file_system(folder)
    return copier.made


class _Copier:
    """Copies what a backup does not have, or has otherwise, into a folder beside it."""

    def __init__(self, root: Path, folder: Path, copying: Path, noted: TextIO) -> None:
        self._root, self._folder, self._copying, self._noted = root, folder, copying, noted
        self._can_link = True
        self._replaced: set[str] = set()  # files of which the backup has another copy
        self._gone: dict[str, list[str]] = {}  # what the backup has, and the root has not: a file, or all in a folder
        self.made = Made()

    def copy_journal(self) -> None:
        """Copy all of the journal: its segments in the order of their names, then the mark."""
        for _ in range(JOURNAL_ATTEMPTS):
            self.copy_folder(JOURNAL_FOLDER, begins=True)
            if not inspect(self._copying / JOURNAL_FOLDER).damage:  # else that of the root is damaged, or being written
                break
        here, there = (_listed(f"{place}/{JOURNAL_FOLDER}") for place in (self._copying, self._folder))
        self._note_gone(JOURNAL_FOLDER, there.keys() - here.keys())

    def copy_root(self, begins: bool = False, ends: bool = False) -> None:
        """Copy all but what comes first, the ledger before all others."""
        names = [
            name
            for name in sorted(os.listdir(self._root), key=lambda name: (name != LEDGER, name))
            if name not in LEFT_OUT.union((JOURNAL_FOLDER, INCOMING)) and not name.startswith(FILE_NAME)
        ]
        for name in names:
            if (self._root / name).is_dir():  # also a link to another disk
                self.copy_folder(name, begins, ends)
            elif (found := _status(f"{self._root}/{name}")) is not None:
                self._copy(name, found, _status(f"{self._folder}/{name}"), _status(f"{self._copying}/{name}"))
        for name in sorted(DIGESTED.difference(names)):  # a folder that has gone as a whole: its disk may be away
            self.copy_folder(name, begins, ends)

    def copy_folder(self, inner: str, begins: bool = False, ends: bool = False) -> None:
        """Copy what is new in a folder of the root.

        `begins`: forget what an earlier run has copied and the root has no more. `ends`: note what has gone.
        """
        here, there, copied = (_listed(f"{place}/{inner}") for place in (self._root, self._folder, self._copying))
        for name in copied.keys() - here.keys() if begins else ():
            _remove(self._copying / inner / name)
        for name in sorted(here):
            path = f"{inner}/{name}"
            if stat.S_ISDIR(here[name].st_mode):
                self.copy_folder(path, begins, ends)
            else:
                self._copy(path, here[name], there.get(name), copied.get(name))
        if ends:
            self._note_gone(inner, there.keys() - here.keys())

    def _note_gone(self, inner: str, names: AbstractSet[str]) -> None:
        for name in sorted(names):
            path = f"{inner}/{name}"
            if inner.partition("/")[0] in DIGESTED:
                self._gone[path] = _files_in(self._folder, path) or [path]
            else:
                self._note_removed(path)

    def _note_removed(self, path: str) -> None:
        self._noted.write(json.dumps(path) + "\n")
        self.made.removed += 1

    def keep_whole_copies(self) -> None:
        """Leave what is damaged in the root as it is in the backup, and note the rest of what has gone."""
        gone = {path for paths in self._gone.values() for path in paths}
        replaced = {path for path in self._replaced - gone if os.path.lexists(self._copying / path)}
        self.made.kept = kept_copies(self._root, self._folder, self._copying, replaced, gone)
        kept = {one.path for one in self.made.kept}
        for path in kept:
            (self._copying / path).unlink(missing_ok=True)
        for top, paths in sorted(self._gone.items()):
            for path in sorted(set(paths) - kept) if kept.intersection(paths) else (top,):
                self._note_removed(path)

    def _copy(
        self, path: str, found: os.stat_result, there: os.stat_result | None, copied: os.stat_result | None
    ) -> None:
        """Copy a file or a link, unless the backup or an earlier run has it; it may have vanished."""
        folder = path.partition("/")[0]
        if any(one is not None and os.path.samestat(found, one) for one in (there, copied)):
            self.made.has_links = True
        if folder in DIGESTED and there is not None and not _is_same(found, there):
            self._replaced.add(path)
        if folder != JOURNAL_FOLDER:  # whose segments are overwritten where they are, many times in a tick of the clock
            if _is_same(found, there):
                if copied is not None:
                    (self._copying / path).unlink()
                return
            if _is_same(found, copied):
                return
        source, target = self._root / path, self._copying / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # never written into: it may be a hard link
        try:
            is_linked = folder == "objects" and self._link(source, target)
            if not is_linked:
                shutil.copy2(source, target, follow_symlinks=False)
        except FileNotFoundError:
            return
        self.made.linked += is_linked
        self.made.has_links |= is_linked
        self.made.copied += not is_linked
        self.made.bytes += found.st_size
        reached("backup-file-copied")

    def _link(self, source: Path, target: Path) -> bool:
        """Return whether a file that never changes has another name in the backup now."""
        try:
            if self._can_link:
                os.link(source, target, follow_symlinks=False)
        except OSError as error:
            if error.errno not in NO_LINKS | {errno.EXDEV, errno.EMLINK}:
                raise
            self._can_link = False
        return self._can_link


def _listed(folder: str) -> dict[str, os.stat_result]:
    """Return what files, links and folders are in a folder, by name; nothing if there is no folder."""
    found: dict[str, os.stat_result] = {}
    with suppress(FileNotFoundError):
        for name in os.listdir(folder):
            if name not in (LOST_FOUND, MARKER) and (status := _status(f"{folder}/{name}")) is not None:
                found[name] = status
    return found


def _files_in(folder: Path, inner: str) -> list[str]:
    """Return the paths of all files in a folder of a backup, relative to it; none of a file."""
    return [str(Path(at, name).relative_to(folder)) for at, _, names in os.walk(folder / inner) for name in names]


def _status(path: str) -> os.stat_result | None:
    """Return the status of a file, a link or a folder; None of anything else, or if nothing is there."""
    with suppress(FileNotFoundError):
        status = os.lstat(path)
        if stat.S_IFMT(status.st_mode) in (stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR):
            return status
    return None


def _is_same(one: os.stat_result, other: os.stat_result | None) -> bool:
    """Return whether a copy is of this file as it is: by kind, size and time, which not all disks have to the
    nanosecond."""
    return other is not None and _mark(one) == _mark(other)


def _mark(status: os.stat_result) -> tuple[int, int, int]:
    return stat.S_IFMT(status.st_mode), status.st_size, status.st_mtime_ns // 1000


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


DIGESTED = frozenset({"objects", "quarantine", VOLUMES, LEDGER})
"""The folders of a root whose files are compared before they replace those of a backup, or are removed from it."""

_MANY = 500
"""Keys in one query."""


def kept_copies(root: Path, backup: Path, copied: Path, replaced: Collection[str], gone: Collection[str]) -> list[Kept]:
    """Return the files of a backup that are to stay as they are.

    `copied`: where the copies of the files `replaced` are, which the backup has otherwise. `gone`: files that the
    backup has, and the root had not, before this is called. Rows go before their files: a row that is there now wants
    its file.
    """
    found = [*_kept_segments(backup, copied, replaced, gone)]
    wanted = _wanted(root, {*replaced, *gone})
    for path in sorted(wanted.keys() & gone):
        file = wanted[path]
        if not os.path.lexists(root / path) and not (isinstance(file, VolumeFile) and file.superseded):
            found.append(_kept(file, "is missing", _problem(backup / path, file)))
    for path in sorted(wanted.keys() & replaced):
        problem = _problem(copied / path, wanted[path])
        if problem is not None and _problem(backup / path, wanted[path]) is None:
            found.append(_kept(wanted[path], problem, None))
    return found


def _kept(file: HeldFile | VolumeFile, problem: str, problem_of_copy: str | None) -> Kept:
    return Kept(
        file.key, problem, isinstance(file, HeldFile) and file.data_set_offset is not None, problem_of_copy is None
    )


def _wanted(root: Path, paths: Collection[str]) -> Mapping[str, HeldFile | VolumeFile]:
    """Return which of these files rows want by now, with their digests."""
    wanted: dict[str, HeldFile | VolumeFile] = {}
    volumes = {path for path in paths if path.startswith(f"{VOLUMES}/")}
    keys = sorted(path for path in paths if not path.startswith((f"{VOLUMES}/", f"{LEDGER}/")))
    with reading(root) as index:
        for begin in range(0, len(keys), _MANY):
            for held in index.files.wanted_files(keys[begin : begin + _MANY]):
                wanted.setdefault(held.key, held)
        files = index.files.of_volumes() if volumes else ()  # by their paths, no index of the table finds them
        wanted |= {file.key: file for file in files if file.key in volumes and file.sha256}
    return wanted


def _problem(path: Path, file: HeldFile | VolumeFile) -> str | None:
    """Return how a file differs from what a row says, or None."""
    try:
        offset = file.data_set_offset
        offset = (data_set_offset(path) or 0) if offset is None else offset
        return problem_with(path, offset, file.bytes, file.sha256 or None)
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _kept_segments(backup: Path, copied: Path, replaced: Collection[str], gone: Collection[str]) -> Iterator[Kept]:
    """Yield the segments of the ledger that were sealed, and are damaged or missing in the root since."""
    for path in sorted({*replaced, *gone}):
        if not path.startswith(f"{LEDGER}/"):
            continue
        problem = "is missing" if path in gone else _problem_of_segment(copied / path)
        if problem is not None and _problem_of_segment(backup / path) is None:
            yield Kept(path, problem, is_instance=False, is_whole=True)


def _problem_of_segment(path: Path) -> str | None:
    segment = read_segment(path, lambda kind, body: None)
    return segment.problem if segment.is_sealed else "has no seal"
