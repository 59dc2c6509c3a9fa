"""ZIP files that are written while they are sent: however much goes in, little of it is in memory."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from typing import NamedTuple

MEDIA_TYPE = "application/zip"


class Member(NamedTuple):
    """A file of a ZIP file: its name in there, its length in bytes, and its content in pieces."""

    name: str
    length: int
    pieces: Iterable[bytes]


def zip_stream(members: Iterable[Member]) -> Iterator[bytes]:
    """The pieces of a ZIP file; what goes in is stored as it is, since volumes and pictures are compressed already."""
    written = _Written()
    with zipfile.ZipFile(written, "w") as archive:  # type: ignore[call-overload]  # it only needs to be written to
        for member in members:
            is_large = member.length > zipfile.ZIP64_LIMIT
            with archive.open(zipfile.ZipInfo(member.name), "w", force_zip64=is_large) as file:
                for piece in member.pieces:
                    file.write(piece)
                    yield written.take()
            yield written.take()
    yield written.take()


class _Written:
    """What a ZIP file consists of so far, to be taken away piece by piece; it cannot be sought in."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing waits here."""

    def take(self) -> bytes:
        """Return what was written since the last time."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken
