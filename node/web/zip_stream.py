"""ZIP files generated while they are sent, with little of them in memory."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from typing import NamedTuple

MEDIA_TYPE = "application/zip"


class Member(NamedTuple):
    """A member of a ZIP file: its name, its length in bytes, and its content in pieces."""

    name: str
    length: int
    pieces: Iterable[bytes]


def zip_stream(members: Iterable[Member]) -> Iterator[bytes]:
    """Yield the pieces of a ZIP file; members are stored uncompressed, since volumes and pictures are compressed."""
    buffer = _Buffer()
    with zipfile.ZipFile(buffer, "w") as archive:  # type: ignore[call-overload]  # it needs only `write` and `flush`
        for member in members:
            is_large = member.length > zipfile.ZIP64_LIMIT
            with archive.open(zipfile.ZipInfo(member.name), "w", force_zip64=is_large) as file:
                for piece in member.pieces:
                    file.write(piece)
                    yield buffer.take()
            yield buffer.take()
    yield buffer.take()


class _Buffer:
    """The bytes of a ZIP file that were written but not yet taken; not seekable."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""

    def take(self) -> bytes:
        """Return the bytes written since the last call."""
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data
