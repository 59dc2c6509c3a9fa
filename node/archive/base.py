"""What the archive asks of the object store behind it; an extension implements it."""

from __future__ import annotations

import datetime as dt
import errno
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

from node.runtime.background import BackgroundService


class StoreAway(OSError):
    """The object store does not answer, or not as the store of this archive: it says nothing about its objects."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EHOSTUNREACH, reason)


class StoreForeign(StoreAway):
    """The object store is that of another archive, or of none any more."""


VOLUMES = "volumes"
"""Folder of the files of revisions, and the beginning of the keys of their objects."""


def is_of_revision(key: str) -> bool:
    """Return whether a key is that of a file of a revision, and not of an instance."""
    return key.startswith(f"{VOLUMES}/")


class ArchivedFile(Protocol):
    """A file of the archive, as its row has it.

    Of an instance, `bytes` and `sha256` are those of the data set, from the offset on; of a file of a revision, they
    are those of all of it, and the offset is 0.
    """

    @property
    def key(self) -> str: ...

    @property
    def data_set_offset(self) -> int: ...

    @property
    def bytes(self) -> int: ...

    @property
    def sha256(self) -> str: ...


LocalFile = Callable[[ArchivedFile], Path]
"""Gives the path of a file of the archive, after fetching it if only the object store has it.

It raises an OSError if the file cannot be fetched now, and if the object of a file of a revision has other bytes.
"""


class FoundFile(Protocol):
    """A file whose length may be unknown."""

    @property
    def key(self) -> str: ...

    @property
    def data_set_offset(self) -> int | None: ...

    @property
    def bytes(self) -> int | None: ...

    @property
    def sha256(self) -> str: ...


File = TypeVar("File", bound=ArchivedFile)
Found = TypeVar("Found", bound=FoundFile)


class AwaitedUploads(Protocol):
    """The instances for whose objects senders wait. Thread-safe."""

    def upload(self, key: str) -> Future[None]:
        """Return a future that is done when the store has the object of an instance, which is in the index."""

    def oldest_seconds(self) -> float:
        """Return how long the oldest of them has waited; 0 if there is none."""


class Remote(Protocol):
    """The object store of one archive, and its local files, which may be copies of objects. Thread-safe.

    Unless it says otherwise, a method raises `StoreAway` if the store does not answer, or is that of another archive.

    `is_away`: whether the last upload found that the store does not answer, or not as that of this archive.
    `foreign`: how it found that the store is not that of this archive, in words.
    `unkept`: how it failed its trial, or did not keep the last objects that it confirmed; None once it keeps one again.
    `awaited`: the uploads for which senders wait; None: nobody waits for uploads.
    """

    is_away: bool
    foreign: str | None
    unkept: str | None
    awaited: AwaitedUploads | None

    def local(self, file: ArchivedFile) -> Path:
        """Return the path of the local file, which is fetched if it is only in the store.

        If the store has no object of an instance either, there is no file; if the object has other bytes, the file has
        them too. Raises OSError if it cannot be fetched now, and FileNotFoundError for a lost file of a revision.
        """

    def ahead(self, files: Iterable[File]) -> Iterator[File]:
        """Yield files in their order, while those that follow are fetched."""

    def held(self, files: Sequence[ArchivedFile]) -> AbstractContextManager[None]:
        """Fetch files, and keep all of them during the block; raise OSError if one cannot be had."""

    def refreshed(self, file: ArchivedFile) -> str | None:
        """Fetch the object of a file whose local file is missing or damaged.

        None if the local file is whole now; else how the object differs from what was received, and the local file is
        left as it is. Raises OSError if there is no room for it.
        """

    def has(self, file: FoundFile) -> bool:
        """Return whether the store has the object of a file, by its noted digest, and its length if that is known."""

    def presence(self, files: Sequence[Found]) -> Iterator[tuple[Found, bool | None]]:
        """Yield whether the store has the object of each file; None if it does not say so soon."""

    def object_problem(self, file: ArchivedFile) -> str | None:
        """Read the object of a file; return how it differs from what was received, or None if it is whole."""

    def object_problems(self, files: Sequence[ArchivedFile]) -> Iterator[str | None]:
        """Yield `object_problem` of each file, several of which are read at a time."""

    def has_any(self, folder: str) -> bool:
        """Return whether the store has objects whose keys begin with a folder."""

    def withdraw(self, keys: Sequence[str]) -> None:
        """Remove objects whose files are about to be written again, and take these files as copies no more."""

    def adopt(self, keys: Sequence[str], quiet_seconds: Callable[[str], float], now: dt.datetime) -> Mapping[str, str]:
        """Index objects of instances that no row names; those that were deleted are removed.

        Returns what became of each, in words.
        """

    def adopt_all(self, quiet_seconds: Callable[[str], float], now: dt.datetime) -> None:
        """Index all objects of instances that no row names, for an index that is new."""

    def remove_unknown_volumes(self, keeps: Callable[[str], bool], now: dt.datetime) -> None:
        """Order the removal of the objects of revisions that no row names. Their series are converted again.

        `keeps`: takes the key of an object, and says whether it stays.
        """

    def close(self) -> None:
        """End what it does for others."""


class Uploads(BackgroundService):
    """The service that moves files to the object store."""

    @abstractmethod
    def finish(self, seconds: float) -> int:
        """Wait until all is in the store, for `seconds` at most; return how many files are not."""
