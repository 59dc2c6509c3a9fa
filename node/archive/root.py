"""Check a root: file locks work where it is, it is its owner's alone, and its folders are its own.

Without locks, two nodes could write to one index and damage it. What the node writes there is patient data, or leads
to it.

A folder of the root may be on another disk. An empty mount point, the folder of another root, or what a copied folder
left below its mount must not be taken for it: what the index names would be missing, and what is acknowledged would lie
below the mount. So each folder has a file `root-id`, as the root has: an identity, which all have, and a token of the
folder, which the root has, too, with the inode of that file. Whoever locks the root compares them (`require_folders`).
Behind the token it has the generation of what is in the folder (`node.receive.accounting`).
A process that has the root keeps its folders open and writes through them (`HeldFolders`): whatever is unmounted or
mounted meanwhile, nothing that it writes lies elsewhere.
"""

import errno
import fcntl
import os
import re
import stat
import struct
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from shlex import quote

from node.archive.space import FOLDERS, KEPT
from node.errors import VoxelnodeError
from node.files.durable import IS_LINUX, NO_ROOM, make_folder, moved, sync_data, sync_folder, write_durably

MOUNT = "intake goes on once its disk is mounted again"
"""Ends the reason of an intake that waits for the disk of a folder."""

MARKER = "root-id"
"""In a root and in its folders: to whom they belong."""

_GENERATION = re.compile(r"[0-9]{12}-[0-9a-f]{8}-[a-z]{5}")

OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""The rights of the group and of everybody else."""


def keep_private() -> None:
    """Let this process create files and folders for its owner only, whatever umask it was started with."""
    os.umask(OTHERS)


def others_may(path: Path) -> bool:
    """Return whether others than the owner have rights on a file or folder.

    A symbolic link has no rights of its own, and neither has what a running node has removed since it was listed.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return not stat.S_ISLNK(status.st_mode) and bool(status.st_mode & OTHERS)


def open_to_others(root: Path) -> Iterator[Path]:
    """Yield the folders and files of a root on which others have rights, the root first."""
    if others_may(root):
        yield root
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            if others_may(path := Path(folder, name)):
                yield path


def make_private(root: Path) -> None:
    """Withdraw the rights of others on a root and on all that is in it.

    Raises OSError if the process is not the owner of one of them.
    """
    for path in open_to_others(root):
        with suppress(FileNotFoundError):
            path.chmod(stat.S_IMODE(path.lstat().st_mode) & ~OTHERS)


MOUNTS = Path("/proc/self/mountinfo")
NO_LOCKS = frozenset({"nolock", "local_lock=all", "local_lock=flock", "local_lock=posix", "nobrl"})
"""Options of NFS and SMB mounts whose locks do not reach other machines."""

LOCAL_ONLY = frozenset({"fuse.sshfs"})
"""File systems whose locks never reach other machines."""

NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", *LOCAL_ONLY})

_ESCAPED = re.compile(r"\\(\d{3})")
_LOCK = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)  # struct flock, the whole file


def file_system(folder: Path, mounts: Path = MOUNTS) -> tuple[str, frozenset[str]]:
    """Return the type of the file system of a folder, and its mount options; empty if they are unknown."""
    folder = folder.resolve()
    try:
        lines = mounts.read_bytes().decode("utf-8", "surrogateescape").splitlines()
    except OSError:
        return "", frozenset()
    found = "", frozenset[str]()
    longest = -1
    for line in lines:  # proc(5): a later mount hides an earlier one at the same place
        fields, _, rest = line.partition(" - ")
        point = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), fields.split(" ")[4])
        if folder.is_relative_to(point) and len(point) >= longest:
            kind, _, options = rest.split(" ", 2)
            longest, found = len(point), (kind, frozenset(options.split(",")))
    return found


def lock_problem(folder: Path, mounts: Path = MOUNTS) -> str | None:
    """Return why locks do not work in a folder, or None if they do; on a full disk, the mount options alone tell.

    Raises OSError if no file can be made there.
    """
    kind, options = file_system(folder, mounts)
    if kind in LOCAL_ONLY or (kind in NETWORK and options & NO_LOCKS):
        return f"{folder} is on {kind} ({', '.join(sorted(options & NO_LOCKS)) or 'without locks'})"
    try:
        problem = _tried(folder)
    except OSError as error:
        if error.errno in NO_ROOM:
            return None
        raise
    return f"{folder} is on {kind or 'a file system'} {problem}" if problem is not None else None


def _tried(folder: Path) -> str | None:
    """Lock a new file twice; return what is wrong with that.

    macOS has only those locks of SQLite that exclude nobody in their own process.
    """
    if not IS_LINUX:
        return None
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".locks-") as file, open(file.name, "r+b") as other:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, _LOCK)
        except OSError as error:
            return f"without locks ({error.strerror})"
        if not (
            _is_excluded(lambda: fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB))
            and _is_excluded(lambda: fcntl.fcntl(other, fcntl.F_OFD_SETLK, _LOCK))
        ):
            return "whose locks exclude nobody"
    return None


def _is_excluded(take_lock: Callable[[], object]) -> bool:
    try:
        take_lock()
    except OSError:
        return True
    return False


MOUNT_OR_RESTORE = "if its disk is not mounted, mount it, or restore a backup"


class FolderAway(VoxelnodeError):
    """A folder of the root is missing, empty or of another root: its disk may not be mounted."""

    def __init__(self, root: Path, name: str, problem: str, remedy: str = MOUNT_OR_RESTORE) -> None:
        folder, marker = quote(str(root / name)), quote(str(root / MARKER))
        self.problem = f"{root / name} {problem}"
        self.remedy = f"{remedy}; to go on without its files, run `mkdir -p {folder} && cp {marker} {folder}`"
        super().__init__(f"{self.problem}: {self.remedy}")


def require_folders(root: Path) -> None:
    """Refuse a root of which a folder is away. Raises FolderAway. Raises OSError if one cannot be read."""
    identity, notes = _marks(root)
    for name, note in notes.items():
        _require_own(root, name, identity, note)
    for name in KEPT if identity else ():
        _require_of(root, name, identity)


def mark_folders(
    root: Path,
    lacks: Callable[[str], str | None] = lambda name: None,
    is_new: Callable[[str], bool] = lambda name: False,
    like: str = "",
) -> None:
    """Mark durably those folders of a root that were never marked, and anew those that were copied since.

    A copy that becomes the folder may leave the original below its mount: from here on, that is none of the root.

    `lacks`: says what a folder lacks that it must have, so that it is no mount point that waits for its disk; or None.
    `is_new`: says whether a folder is to be marked later, and another disk may still be mounted for it.
    `like`: the folder whose generation one that was never marked gets; without it none of these has one.

    If the process dies here, the next start goes on.

    Raises FolderAway if one lacks something, or is of another root.
    """
    identity, notes = _marks(root)
    if not identity:
        known = {_marks(root / name)[0] for name in KEPT} - {""}  # the file in the root is lost
        identity = known.pop() if len(known) == 1 else uuid.uuid4().hex
        _write_marks(root, identity, notes)
    changed = [name for name in KEPT if not _is_as_marked(root, name, notes) and (name in notes or not is_new(name))]
    for name in changed:
        its_notes = _require_of(root, name, identity)
        is_accepted = len(its_notes) > 1  # a person has put a copy of the file of the root there
        if not is_accepted and (problem := lacks(name)) is not None:
            copy = f"is a copy, and {problem}", "copy the rest from where it was copied"  # a node may have run there
            raise FolderAway(root, name, *(copy if name in notes else (problem,)))
    for name in changed:
        make_folder(root / name)
        token = uuid.uuid4().hex
        generation = None
        if name in notes:
            notes[name].append(token)
            _write_marks(root, identity, notes)
        elif like:
            generation = generation_of(root, like)
        _write_marks(root / name, identity, {name: ["-", token, *filter(None, [generation])]})
        notes[name] = [_inode(root, name), token]
        _write_marks(root, identity, notes)


def mark_anew(root: Path) -> None:
    """Give a root that was copied together a new identity: its folders are what the copies made them."""
    for name in ("", *KEPT):
        (root / name / MARKER).unlink(missing_ok=True)
    mark_folders(root)


def generation_of(root: Path, name: str) -> str | None:
    """Return the generation of a folder; empty if its marker has none, None if it was never marked."""
    identity, notes = _marks(root / name)
    last = notes.get(name, [""])[-1]
    return (last if _GENERATION.fullmatch(last) else "") if identity else None


def is_bare(folder: Path) -> bool:
    """Return whether a folder has nothing but a marker."""
    return all(name == MARKER for name in os.listdir(folder))


def _marks(folder: Path) -> tuple[str, dict[str, list[str]]]:
    """Return the identity in a root or a folder, and of each folder its inode and its tokens; an empty one if none."""
    with suppress(FileNotFoundError):
        identity, *lines = (folder / MARKER).read_text("ascii", "replace").splitlines() or [""]
        return identity, {name: notes for name, *notes in map(str.split, filter(None, lines))}
    return "", {}


def _write_marks(folder: Path, identity: str, notes: Mapping[str, list[str]]) -> None:
    lines = [identity, *(" ".join((name, *note)) for name, note in notes.items()), ""]
    write_durably(folder / MARKER, "\n".join(lines).encode())


def _inode(root: Path, name: str) -> str:
    return str((root / name / MARKER).stat().st_ino)


def _is_as_marked(root: Path, name: str, notes: Mapping[str, list[str]]) -> bool:
    is_noted = name in notes and len(notes[name]) == 2 and notes[name][0] == _inode(root, name)
    return is_noted and not _is_shared(root / name)


def _is_shared(folder: Path) -> bool:
    """Return whether the marker of a folder has another name: that of yesterday, in a copy by hard links."""
    return (folder / MARKER).stat().st_nlink > 1


def _require_of(root: Path, name: str, identity: str) -> dict[str, list[str]]:
    found, notes = _marks(root / name)
    if found not in ("", identity):
        raise FolderAway(root, name, "is the folder of another root")
    return notes if found else {}


def _require_own(root: Path, name: str, identity: str, note: list[str]) -> None:
    if not (root / name).is_dir():
        raise FolderAway(root, name, "is missing")
    its = _require_of(root, name, identity)
    if not its:
        raise FolderAway(root, name, f"has no {MARKER}")
    if not set(its.get(name, ())[1:]).intersection(note[1:]):
        raise FolderAway(root, name, "is what the folder was before it was copied to where it is")


class HeldFolders:
    """The folders of a root, open until this is closed; missing ones are made. The journal says if its own is away."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._held: dict[str, tuple[int, os.stat_result]] = {}
        for name in FOLDERS:
            (root / name).mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(root / name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._held[name] = descriptor, os.fstat(descriptor)
        sync_folder(root)

    def path(self, key: str) -> str:
        """Return a path of something in a folder that leads there whatever is at the place of the folder.

        Only for this process. Raises FileNotFoundError once this is closed.
        """
        name, _, rest = key.partition("/")
        if name not in self._held:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)
        return f"/proc/self/fd/{self._held[name][0]}/{rest}" if IS_LINUX else str(self._root / key)

    def away(self) -> str | None:
        """Return which folder is not at its place, and how; None if all are."""
        for name, (_, opened) in self._held.items():
            with suppress(OSError):  # it says nothing about the folder
                if name != "journal" and (problem := moved(self._root / name, opened)) is not None:
                    return problem
        return None

    def renew(self, generation: str) -> list[str]:
        """Write a generation into the markers, durably, and in their place: another inode would be that of a copy.

        Returns the folders whose markers keep theirs, so that the next start compares: a copy by hard links shares the
        marker, or the disk takes no more writes.
        """
        left = []
        for name in KEPT:
            folder = Path(self.path(f"{name}/"))
            identity, notes = _marks(folder)
            if name not in notes:  # nothing was in it yet
                continue
            left.append(name)
            if not _is_shared(folder):
                with suppress(OSError), (folder / MARKER).open("r+b", buffering=0) as file:
                    file.write(f"{identity}\n{name} {' '.join(notes[name][:2])} {generation}\n".encode())
                    sync_data(file)
                    left.pop()
        return left

    def close(self) -> None:
        """Let the folders go, so that their disks can be unmounted."""
        held, self._held = self._held, {}
        for descriptor, _ in held.values():
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()
