"""Intake: instances are accepted while the disk has room, no sync has failed, and the root is still the same.

While a folder of the root is away, intake waits: nothing is accepted or applied until the folder is back. If the root
itself, its lock or the index goes, the node has to be restarted.

A deletion needs room itself, for its audit line and its rows. The ballast is some space that a full disk still has: a
folder of files without content, whose space and inodes are given back to the disk for the time of a deletion.

A large instance is a part file, or a link to a file outside the archive, until its record is applied.
"""

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

import structlog

from node.archive import space
from node.archive.root import MOUNT
from node.archive.space import MIN_FREE_BYTES, MIN_FREE_INODES, free_bytes_of
from node.errors import OutOfResources
from node.files.durable import IS_LINUX, NO_ROOM, moved, sync_data, write_all
from node.runtime.failpoints import reached

log = structlog.get_logger()

ASK_BYTES = 8 << 20
"""Bytes of an upload after which the room on the disks is looked at again."""

KEPT_IN_RESERVE = "{} are kept in reserve ([storage] reserve_bytes)"

RESUME_FACTOR = 1.1
"""Hysteresis: after a refusal for lack of space, a tenth more than the limit must be free."""

LOOK_SECONDS = 0.1
"""Interval between two checks of the watched paths while instances are received; a check costs four system calls."""

SHORTAGE_SECONDS = 30.0
"""How long the node is not ready after an error for lack of room, even if the disk seems to have room (a quota)."""


class Intake:
    """The state of one root, checked before anything is accepted. Thread-safe.

    `reserve_bytes`: free space below which instances are refused; at least `MIN_FREE_BYTES`. `low_bytes`: free space
    below which new associations are refused, so that open ones can finish; at least the reserve. `away`: says which
    folder is away, or None.
    """

    def __init__(
        self, root: Path, reserve_bytes: int = 0, low_bytes: int = 0, away: Callable[[], str | None] = lambda: None
    ) -> None:
        self._root, self._reserve_bytes = root, max(reserve_bytes, MIN_FREE_BYTES)
        self._low_bytes = max(low_bytes, self._reserve_bytes)
        self._disks: tuple[Path, ...] = (root,)
        self._full = self._low = False
        self._lock = threading.Lock()
        self._stopped: str | None = None
        self.away = away
        self._waits_for: str | None = None
        self._shortage = ""
        self._short_until = 0.0
        self._watched: dict[Path, os.stat_result] = {}
        self._trouble: Callable[[], str | None] = lambda: None
        self._has_trash: Callable[[], bool] = lambda: False
        self._look_at = 0.0

    def watch(
        self,
        paths: Iterable[Path],
        trouble: Callable[[], str | None] = lambda: None,
        has_trash: Callable[[], bool] = lambda: False,
    ) -> None:
        """Stop intake once one of these files or folders is removed or replaced.

        The node would keep writing to the open file while its name leads elsewhere: acknowledged instances would be
        lost, or a second node could start on the same root.

        `trouble`: why nothing may be accepted now although disk and archive are sound, or None.
        `has_trash`: whether emptying the trash would make room.
        """
        self._watched = {path: os.stat(path) for path in paths}
        self._disks = tuple(space.disks_of(self._root))
        self._trouble, self._has_trash = trouble, has_trash

    @property
    def stopped(self) -> str | None:
        """The reason why intake is stopped, or None while it is open."""
        self._look()
        return self._stopped or self._waits_for

    @property
    def shortage(self) -> str | None:
        """What was lacking in the last `SHORTAGE_SECONDS`, or None."""
        return self._shortage if monotonic() < self._short_until else None

    def free_bytes(self) -> int:
        """Return the bytes that this process may still write to the fullest disk of the root; 0 if one is gone."""
        try:
            return min(map(free_bytes_of, self._disks))
        except OSError as error:
            if error.errno != errno.ENOENT:
                self.failed(error)
            return 0

    def has_room(self) -> bool:
        """Return whether the disk works and has more room than the reserve."""
        return self.waits_for() is None

    def waits_for(self) -> str | None:
        """Return why work that needs room on the disk has to wait, with the remedy; None if it may begin."""
        if self.stopped is not None:
            return self._stopped_for()
        return self._reported(self._lack(space.lack, self._reserve_bytes, KEPT_IN_RESERVE))

    @property
    def is_short(self) -> bool:
        """Whether new associations are refused for lack of room, or soon will be."""
        return self._lack(space.lack_for_senders, self._low_bytes, RESUME_FACTOR) is not None and not self._stopped

    def would_have_room(self, files: int, file_bytes: int, folder: Path) -> bool:
        """Return whether no disk would be short without some files of a folder, which have `file_bytes` together."""
        device = os.stat(folder).st_dev
        for disk in self._disks:
            found, is_it = os.statvfs(disk), os.stat(disk).st_dev == device
            free, inodes = space.free_bytes(found), space.free_inodes(found)
            if free + is_it * file_bytes < self._low_bytes * RESUME_FACTOR:
                return False
            if inodes is not None and inodes + is_it * files < MIN_FREE_INODES * RESUME_FACTOR:
                return False
        return True

    def require(self) -> None:
        """Raise unless an instance may be accepted.

        Raises OutOfResources if the free space is down to the reserve, no file can be created, or intake has stopped.
        """
        self.require_open()
        lack = self._lack(space.lack, self._reserve_bytes, KEPT_IN_RESERVE, RESUME_FACTOR if self._full else 1.0)
        self._full = lack is not None
        if lack is not None:
            raise OutOfResources(lack[1])

    def measured(self) -> Callable[[int], None]:
        """Return a function that is told how many bytes of an upload have arrived, and raises as `require`."""
        unasked = 0

        def arrived(count: int) -> None:
            nonlocal unasked
            unasked += count
            if unasked >= ASK_BYTES:
                unasked = 0
                self.require()

        return arrived

    def require_sound(self) -> None:
        """Raise if a sync has failed: after the first failure, a later success would prove nothing.

        Raises OutOfResources if intake has stopped because of disk or archive.
        """
        if self._stopped is not None:
            raise OutOfResources(f"intake has stopped: {self._stopped}")

    def require_here(self) -> None:
        """Raise OutOfResources if a folder is away: a file that is not found there may exist."""
        if (reason := self.away()) is not None:
            raise OutOfResources(f"intake waits: {reason}")

    def require_open(self) -> None:
        """Raise OutOfResources if intake has stopped, for whichever reason."""
        if self._stopped is None and monotonic() >= self._look_at:
            self._look()
        if (reason := self._stopped or self._waits_for) is not None:
            raise OutOfResources(f"intake has stopped: {reason}")

    def refusal(self) -> str | None:
        """Return the reason to refuse a new association, or None to accept it."""
        if self.stopped is not None:
            return self._stopped_for()
        lack = self._lack(space.lack_for_senders, self._low_bytes, RESUME_FACTOR if self._low else 1.0)
        self._low = lack is not None
        return self._reported(lack)

    def _lack(self, look: Callable[..., tuple[Path, str] | None], *rule: Any) -> tuple[Path, str] | None:
        """Return what disks lack; one that does not tell stops intake, as any other error of a disk does."""
        try:
            return look(self._disks, *rule)
        except OSError as error:
            return self._root, str(self.failed(error))

    def _stopped_for(self) -> str:
        if self._stopped is None:
            return f"intake has stopped: {self._waits_for}; {MOUNT}"
        return f"intake has stopped: {self._stopped}; check the disk and the folder, then restart the node"

    def _reported(self, lack: tuple[Path, str] | None) -> str | None:
        """Add the path and the remedy to a shortage, for readers on this machine; peers receive neither."""
        if lack is None or self._stopped is not None:
            return lack and self._stopped_for()
        or_trash = ", or run `voxelnode trash empty --all`" if self._has_trash() else ""
        return f"{lack[0]}: {lack[1]}; remove files from its disk{or_trash}"

    def _look(self) -> None:
        """Stop intake if a watched path was removed or replaced; let it wait for a folder, and go on."""
        if self._stopped is not None:
            return
        self._look_at = monotonic() + LOOK_SECONDS
        for path, opened in self._watched.items():
            with suppress(OSError):  # it says nothing about the file
                if (reason := moved(path, opened)) is not None:
                    self.stop(reason)
                    return
        reason = self.away() or self._trouble()
        with self._lock:
            before, self._waits_for = self._waits_for, reason
        if reason is not None and reason != before:
            log.error("intake_stopped", reason=reason)
        elif reason is None and before is not None:
            log.warning("intake_resumed", reason=before)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Turn an error of the disk, raised within, into the refusal that `failed` returns."""
        try:
            yield
        except OSError as error:
            raise self.failed(error) from error

    def failed(self, error: OSError) -> OutOfResources:
        """Return the refusal for a disk error; any error but lack of space stops intake, unless a folder is away."""
        name = errno.errorcode.get(error.errno or 0, "EUNKNOWN")
        if error.errno == errno.ENOENT and self.away() is not None:
            self._look()
        elif error.errno in NO_ROOM:
            reason = space.reason_of(error, self._root)
            self._shortage, self._short_until = f"{name}: {reason}", monotonic() + SHORTAGE_SECONDS
        else:
            self.stop(f"disk: {name}: {space.reason_of(error, self._root)}")
        return OutOfResources(f"archive: {name}: {error.strerror}")

    def stop(self, reason: str) -> None:
        """Stop intake until the node restarts; the first reason is kept.

        After a failed sync, the kernel may drop the pages and report the next sync as a success. Only a restart, which
        reads the disk again, is safe.
        """
        with self._lock:
            if self._stopped is not None:
                return
            self._stopped = reason
        log.error("intake_stopped", reason=reason)


BALLAST_FOLDER = "ballast"
FILES = 16
FILE_BYTES = 512 << 10
KEEPS_BYTES = 4 * FILES * FILE_BYTES
"""With less free space, no ballast is made: it must not fill the disk itself."""


class Ballast:
    """The ballast of one root."""

    def __init__(self, root: Path) -> None:
        self._root, self._folder = root, root / BALLAST_FOLDER

    def _keep(self) -> None:
        """Make the ballast, or what is missing of it, if the disk has room for it."""
        with suppress(OSError):
            if not IS_LINUX or not self._has_room(KEEPS_BYTES, 4 * FILES):
                return
            self._folder.mkdir(mode=0o700, exist_ok=True)
            for path in (self._folder / str(number) for number in range(FILES)):
                if not path.exists():
                    _allocate(path)

    @contextmanager
    def dropped(self) -> Iterator[None]:
        """Remove the ballast during the block if the disk is full; afterwards, make it again if there is room."""
        if not self._has_room(FILES * FILE_BYTES, MIN_FREE_INODES):
            shutil.rmtree(self._folder, ignore_errors=True)
        try:
            yield
        finally:
            self._keep()

    def _has_room(self, size: int, files: int) -> bool:
        disk = os.statvfs(self._root)
        inodes = space.free_inodes(disk)
        return space.free_bytes(disk) >= size and (inodes is None or inodes >= files)


def _allocate(path: Path) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(file, 0, FILE_BYTES)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(file)


class _Part:
    """A name in the folder of what comes in, and an open file, until the record of the instance is applied."""

    _file: int
    _open = False

    def __init__(self, intake: Intake, path: str, sync_parts: Callable[[], None]) -> None:
        self._intake, self._path, self._sync_parts = intake, path, sync_parts

    def abandon(self) -> None:
        """Remove the name; a second call does nothing. Never call it after the record was written."""
        self._close()
        with suppress(FileNotFoundError):
            os.unlink(self._path)

    def _finish(self) -> None:
        """Give it the name that says that nothing is missing, durably."""
        self._close()
        received, self._path = self._path, f"{self._path.removesuffix('receiving')}part"
        os.rename(received, self._path)
        self._sync_parts()

    def _close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._file)


class PartFile(_Part):
    """A large instance while its bytes are received. Not thread-safe."""

    def __init__(self, intake: Intake, path: str, sync_parts: Callable[[], None]) -> None:
        super().__init__(intake, path, sync_parts)
        self._arrived = intake.measured()
        with intake.refusing():
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._open = True
        reached("part-opened")

    def write(self, fragment: bytes | bytearray | memoryview) -> None:
        """Append all bytes of a fragment.

        Raises OutOfResources if the disk fails, is full, or has no more than the reserve left; call `abandon`.
        """
        self._arrived(len(fragment))
        with self._intake.refusing():
            write_all(self._file, fragment)
        reached("part-written")

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes that were written; fewer at the end of the file.

        Raises OutOfResources if the disk fails.
        """
        with self._intake.refusing():
            return os.pread(self._file, length, offset)

    def finish(self) -> None:
        """Make the bytes durable, and the name of the file.

        Raises OutOfResources if the disk fails. A failed sync is never retried, because the kernel may have dropped the
        pages.
        """
        self._intake.require_sound()
        with self._intake.refusing():
            sync_data(self._file)
            self._finish()
        reached("part-synced")


class PartLink(_Part):
    """An instance whose bytes stay in a file outside the archive, until its record is applied. Not thread-safe."""

    def __init__(self, intake: Intake, path: str, sync_parts: Callable[[], None], file: Path) -> None:
        super().__init__(intake, path, sync_parts)
        self._file = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        self._open = True
        try:
            with intake.refusing():
                os.symlink(file.absolute(), self._path)
        except BaseException:
            self._close()
            raise

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the file; fewer at its end. Raises OSError if it cannot be read."""
        return os.pread(self._file, length, offset)

    def finish(self) -> None:
        """Make the name of the link durable.

        Raises OutOfResources if the disk fails.
        """
        self._intake.require_sound()
        with self._intake.refusing():
            self._finish()
