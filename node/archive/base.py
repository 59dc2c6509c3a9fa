"""What an object store is to the archive, whichever kind it is."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class StoreAway(OSError):
    """The object store does not answer, or not as the store of this archive: it says nothing about its objects."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EHOSTUNREACH, reason)


class HostAway(StoreAway):
    """The object store does not have a file yet, which another host is to move there."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"host {host} alone has the file, and has not moved it to the object store yet: try again when {host} runs"
        )


class NotTaken(Exception):
    """The object store refuses one object; the message has neither its name nor its content."""


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


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of a store; `sha256` is that of the data set, if the store keeps it beside the object."""

    key: str
    bytes: int
    written_at: float
    sha256: str | None = None


class ObjectStore(Protocol):
    """A store of objects, by archive key. Thread-safe.

    Every method raises `StoreAway` unless the store has answered.

    `place`: where it is, for messages; without credentials.
    """

    place: str

    def put(self, file: ArchivedFile, content: bytes | Path, *, replace: bool = False) -> bool:
        """Create the object of a file from its bytes or, in parts, from a local path; durable when this returns.

        False if there is an object with this key already, which is left as it is. Raises FileNotFoundError if there is
        no local file.
        """

    def put_bytes(self, key: str, content: bytes) -> bool:
        """Create a small object; as `put`."""

    def find(self, key: str) -> StoredObject | None:
        """Return what the store has under a key, or None."""

    def fetch(self, key: str, into: Path) -> None:
        """Copy an object to a new local file.

        Raises FileNotFoundError if there is no object with this key. Raises OSError if the file cannot be written.
        """

    def digest(self, key: str, offset: int) -> tuple[int, str]:
        """Read an object; return its length and SHA-256 from an offset on.

        Raises FileNotFoundError if there is no object with this key.
        """

    def sweep(self) -> None:
        """Remove what uploads of this host have left that a kill interrupted; before its first upload."""

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that do not exist are no error."""

    def objects(self, folder: str) -> Iterator[StoredObject]:
        """Yield the objects whose keys begin with ``folder/``, in any order."""
