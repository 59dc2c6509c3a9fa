"""Frames and pictures made from instances for requests. They stay on disk for the next request, within a bound.

    work/derived/<name of the instance's file>/<name>

`Archive.remove` deletes them with the file of their instance, in whichever process of the node, and a new process
deletes those of the process before. They are never synced: a request makes a lost file again.
"""

import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO


class Derived:
    """What was made of the instances of one root. Thread-safe."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "work" / "derived"
        self._lock = threading.Lock()
        self._files: OrderedDict[str, dict[str, int]] = OrderedDict()  # by key, the least recently read first: bytes
        self._bytes = 0
        self._is_new = True
        self._numbers = count()

    def opened(
        self, key: str, source: Path, name: str, max_bytes: int, write: Callable[[IO[bytes]], object]
    ) -> IO[bytes]:
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
        file = self._begun()
        try:
            write(file)
            file.seek(0)
            if max_bytes:
                self._keep(key, source, file, name)
        except BaseException:
            file.close()
            raise
        finally:
            with suppress(FileNotFoundError):
                os.unlink(file.name)
        self._trim(max_bytes)
        return file

    def kept(self, key: str, name: str) -> IO[bytes] | None:
        """Return a file that was made of an instance and is there, or None; the caller closes it. Raises OSError."""
        with self._lock:
            if name not in self._files.get(key, ()):
                return None
            self._files.move_to_end(key)
        try:
            return open(f"{self._of(key)}/{name}", "rb")
        except FileNotFoundError:  # dropped meanwhile
            return None

    def drop(self, key: str) -> None:
        """Remove all that was made of an instance; call it after the file of the instance was removed."""
        with self._lock:
            self._bytes -= sum(self._files.pop(key, {}).values())
        shutil.rmtree(self._of(key), ignore_errors=True)  # of the process that serves HTTP, too

    def _of(self, key: str) -> str:
        return f"{self._folder}/{os.path.basename(key)}"

    def _begun(self) -> IO[bytes]:
        with self._lock:
            if self._is_new:  # what an earlier process has left is in no count
                shutil.rmtree(self._folder, ignore_errors=True)
                self._is_new = False
        part, opener = f"{self._folder}/{next(self._numbers)}.part", partial(os.open, mode=0o600)
        try:
            return open(part, "x+b", opener=opener)
        except FileNotFoundError:
            for made in (self._folder.parent, self._folder):
                made.mkdir(mode=0o700, exist_ok=True)
            return open(part, "x+b", opener=opener)

    def _keep(self, key: str, source: Path, file: IO[bytes], name: str) -> None:
        size = os.fstat(file.fileno()).st_size
        try:
            os.makedirs(self._of(key), mode=0o700, exist_ok=True)
            os.rename(file.name, f"{self._of(key)}/{name}")
        except FileNotFoundError:  # dropped meanwhile
            return
        with self._lock:
            names = self._files.setdefault(key, {})
            self._bytes += size - names.get(name, 0)
            names[name] = size
            self._files.move_to_end(key)
        if not source.exists():  # who removes an instance may have dropped this before it was here
            self.drop(key)

    def _trim(self, max_bytes: int) -> None:
        while True:
            with self._lock:
                if self._bytes <= max_bytes or not self._files:
                    return
                oldest = next(iter(self._files))
            self.drop(oldest)
