"""ZIP files as responses. Members are stored uncompressed, since volumes and pictures are compressed already.

`zip_stream` writes members that are made when their turn comes. `zip_response` sends files that are here already, so it
tells the length before the first byte. If a file is deleted while it is sent, the connection is closed.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from fastapi import Request, Response

from node.archive.base import ArchivedFile
from node.archive.filesystem import Archive
from node.errors import UsageError
from node.web.files import ZIP, Damaged, Streamed

CHUNK_BYTES = 1 << 20

MAX_FILES = 250_000
"""Most files of the archive in a ZIP file: each takes 1.5 KB of memory while it is sent."""

MAX_KNOWN = 100_000
"""Files whose digests are known from earlier downloads: 25 MB."""

_DATA_DESCRIPTOR = 0x08


class Member(NamedTuple):
    """A member of a ZIP file: its name, its length in bytes, and its content in pieces."""

    name: str
    length: int
    pieces: Iterable[bytes]


def zip_stream(members: Iterable[Member]) -> Iterator[bytes]:
    """Yield the pieces of a ZIP file. Raises Damaged if a member has another length than it says."""
    infos: list[zipfile.ZipInfo] = []
    at = 0
    for member in members:
        info = _info(member.name, member.length, at)
        yield from _written(info, member.pieces)
        infos.append(info)
        at = _end(info)
    yield _directory(infos, at)


def taken(path: Path) -> Iterator[bytes]:
    """Yield the content of a file that was made for a member, and remove it."""
    with path.open("rb") as file:
        path.unlink()
        while piece := file.read(CHUNK_BYTES):
            yield piece


class TooManyFiles(UsageError):
    """A ZIP file would have more files than one may have."""

    def __init__(self, files: int) -> None:
        super().__init__(f"the ZIP file would have {files} files, and at most {MAX_FILES} are allowed: select less")


class Known:
    """SHA-256 of files of which the index has none, by their keys; no key ever stands for other bytes."""

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}

    def note_digest(self, key: str, sha256: str) -> str:
        """Note and return the SHA-256 of a file; if there are too many, all others are forgotten."""
        if len(self.digests) >= MAX_KNOWN:
            self.digests.clear()
        self.digests[key] = sha256
        return sha256


def known_of(request: Request) -> Known:
    """Return what this process knows of files; `node.web.application` makes it."""
    known: Known = request.app.state.known
    return known


class PlannedFile(NamedTuple):
    """A file of the archive, with no more than sending it takes; see `ArchivedFile`."""

    key: str
    data_set_offset: int
    bytes: int
    sha256: str


Content = ArchivedFile | bytes


def require_few(files: int) -> None:
    """Raise TooManyFiles if a ZIP file of the archive may not have so many."""
    if files > MAX_FILES:
        raise TooManyFiles(files)


def zip_length(members: Iterable[tuple[str, int]]) -> int:
    """Return the length of the ZIP file of members with these names and lengths."""
    infos: list[zipfile.ZipInfo] = []
    at = 0
    for name, length in members:
        infos.append(_info(name, length, at))
        at = _end(infos[-1])
    return at + len(_directory(infos, at))


def zip_response(
    request: Request,
    entries: Sequence[tuple[str, Content]],
    archive: Archive,
    read: Callable[[ArchivedFile], Iterable[bytes]],
    headers: Mapping[str, str],
    audit: Callable[[], None],
    status: int = 200,
) -> Response:
    """Send a ZIP file of files of the archive, and of bytes such as a list of them.

    Parameters
    ----------
    entries : sequence of (str, file or bytes)
        Name and content of each member.
    read : callable (file)
        Gives the content of a file in pieces; it raises Damaged before the last one if they are not what was stored.
    audit : callable
        Called if bytes are sent.

    Raises
    ------
    TooManyFiles
    """
    require_few(len(entries))
    length = zip_length((name, _length(content)) for name, content in entries)
    headers = {"Content-Type": ZIP, **headers, "Content-Length": str(length)}
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    audit()
    return Streamed(zip_stream(_members(entries, archive, read)), status, headers)


def _members(
    entries: Sequence[tuple[str, Content]], archive: Archive, read: Callable[[ArchivedFile], Iterable[bytes]]
) -> Iterator[Member]:
    files = archive.ahead([content for _, content in entries if not isinstance(content, bytes)])
    for name, content in entries:
        yield Member(name, _length(content), [content] if isinstance(content, bytes) else read(next(files)))


def _length(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.data_set_offset + content.bytes


def _info(name: str, length: int, at: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.file_size = info.compress_size = length
    info.flag_bits = _DATA_DESCRIPTOR  # the checksum follows the content
    info.external_attr = 0o600 << 16
    info.CRC = 0  # until the content was read
    info.header_offset = at
    return info


def _written(info: zipfile.ZipInfo, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a member: its header with the first piece, the others, and its checksum and lengths, which it notes."""
    head, written, checksum = _head(info), 0, 0
    for piece in pieces:
        written, checksum = written + len(piece), crc32(piece, checksum)
        if written > info.file_size:
            break
        yield head + piece if head else piece
        head = b""
    if written != info.file_size:
        raise Damaged(f"a file has not the {info.file_size} bytes that it had when the ZIP file was begun")
    info.CRC = checksum
    yield head + _tail(info)


def _is_large(info: zipfile.ZipInfo) -> bool:
    return info.file_size > zipfile.ZIP64_LIMIT


def _head(info: zipfile.ZipInfo) -> bytes:
    return info.FileHeader(zip64=_is_large(info))


def _tail(info: zipfile.ZipInfo) -> bytes:
    """Return the data descriptor of a member (APPNOTE 4.3.9)."""
    lengths = info.compress_size, info.file_size
    return struct.pack("<LLQQ" if _is_large(info) else "<LLLL", 0x08074B50, info.CRC, *lengths)


def _end(info: zipfile.ZipInfo) -> int:
    return info.header_offset + len(_head(info)) + info.file_size + len(_tail(info))


def _directory(infos: Sequence[zipfile.ZipInfo], at: int) -> bytes:
    """Return the central directory, which begins at a byte of the file; its length does not depend on checksums."""
    end = _End(at)
    with zipfile.ZipFile(end, "w") as archive:  # type: ignore[call-overload]  # it needs no more than `_End` has
        archive.infolist().extend(infos)
    return bytes(end.written)


class _End:
    """The end of a file of which so much was written before; not seekable."""

    def __init__(self, at: int) -> None:
        self._at, self.written = at, bytearray()

    def write(self, data: bytes) -> int:
        self.written += data
        return len(data)

    def tell(self) -> int:
        return self._at + len(self.written)

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""
