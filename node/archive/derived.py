"""Frames and pictures made from instances for requests. They stay on disk for the next request, within a bound.

    work/derived/<name of the instance's file>/<name>

`Archive.remove` deletes them with the file of their instance, and a new process deletes those of the process before.
They are never synced: a request makes a lost file again.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePath
from tempfile import mkstemp
from typing import IO


class Derived:
    """What was made of the instances of one root. Thread-safe."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "work" / "derived"
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()  # bytes by key, the least recently read first
        self._bytes = 0
        self._is_new = True

    def opened(self, key: str, source: Path, name: str, max_bytes: int, write: Callable[[Path], object]) -> IO[bytes]:
        """Return a file made of an instance, which is written if it is not there; the caller closes it.

        `key`: of the instance, in the archive.
        `source`: the file of the instance: what is made of it is kept only as long as this is there.
        `name`: of the file; says by which bytes and how it is made.
        `max_bytes`: what all that is kept may take; what was read longest ago goes first. 0: nothing is kept.
        `write`: writes an existing, empty file; what it raises is raised.

        Raises OSError.
        """
        kept = self.kept(key, name)
        if kept is not None:
            return kept
        for made in (self._folder.parent, self._folder):
            made.mkdir(mode=0o700, exist_ok=True)
        number, part = mkstemp(dir=self._folder, suffix=".part")
        file = os.fdopen(number, "rb")
        try:
            write(Path(part))
            if max_bytes:
                self._keep(key, source, Path(part), name)
        except BaseException:
            file.close()
            raise
        finally:
            Path(part).unlink(missing_ok=True)
        self._trim(max_bytes)
        return file

    def kept(self, key: str, name: str) -> IO[bytes] | None:
        """Return a file that was made of an instance and is there, or None; the caller closes it. Raises OSError."""
        self._forget_earlier()
        try:
            file = (self._of(key) / name).open("rb")
        except FileNotFoundError:
            return None
        self._note(key, 0)
        return file

    def drop(self, key: str) -> None:
        """Remove all that was made of an instance; call it after the file of the instance was removed."""
        with self._lock:
            self._bytes -= self._sizes.pop(key, 0)
        shutil.rmtree(self._of(key), ignore_errors=True)

    def _of(self, key: str) -> Path:
        return self._folder / PurePath(key).name

    def _forget_earlier(self) -> None:
        """Remove what an earlier process has left, which is in no count."""
        with self._lock:
            if self._is_new:
                shutil.rmtree(self._folder, ignore_errors=True)
                self._is_new = False

    def _keep(self, key: str, source: Path, part: Path, name: str) -> None:
        folder = self._of(key)
        size = part.stat().st_size
        with suppress(FileNotFoundError):  # dropped meanwhile
            folder.mkdir(mode=0o700, exist_ok=True)
            os.rename(part, folder / name)
            self._note(key, size)
        if not source.exists():  # who removes an instance may have dropped this before it was here
            self.drop(key)

    def _note(self, key: str, added: int) -> None:
        with self._lock:
            if added or key in self._sizes:
                self._sizes[key] = self._sizes.pop(key, 0) + added
                self._bytes += added

    def _trim(self, max_bytes: int) -> None:
        while True:
            with self._lock:
                if self._bytes <= max_bytes or not self._sizes:
                    return
                oldest = next(iter(self._sizes))
            self.drop(oldest)
