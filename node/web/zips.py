"""ZIP files as responses. Members are stored uncompressed, since volumes and pictures are compressed already.

`zip_stream` writes members that are made when their turn comes; nobody knows its length before its end. A `PlannedZip`
is of files that are here already: all its bytes follow from the index, so it has a length and an entity tag before the
first byte is sent, and a download that broke off goes on where it ended. If a file is deleted while it is sent, the
connection is closed; who goes on gets another entity tag, and so the whole of what is left.

That a range begins at any byte without what precedes being read again forbids a library: stream-zip (MIT) holds a whole
stored member to have its checksum before it, neither begins within a file, and zipstream-ng is LGPL.
"""

import hashlib
import re
import struct
import zipfile
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar
from zlib import crc32

from fastapi import Request, Response

from node.archive.base import ArchivedFile
from node.archive.filesystem import Archive
from node.children.decoder import NotDecoded
from node.errors import UsageError
from node.index.rows.files import StoredInstance
from node.web.errors import PreconditionFailed
from node.web.files import ZIP, Damaged, Streamed, leaving_file, not_satisfiable, stored_file
from node.web.headers import has_etag, is_match
from node.web.services import Services

CHUNK_BYTES = 1 << 20

MAX_FILES = 250_000
"""Most files of a planned ZIP file: each takes 1.5 KB of memory while it is sent."""

MAX_KNOWN = 100_000
"""Files whose checksums are known from earlier downloads, 25 MB: of others, what a range leaves out is read again."""

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


Noted = TypeVar("Noted")


class Known:
    """What was read of files of an archive, by their keys; no key ever stands for other bytes.

    `checksums`: CRC-32 of whole files, for `PlannedZip`.
    `digests`: SHA-256 of files of which the index has none, for lists of what is in a ZIP file.
    """

    def __init__(self) -> None:
        self.checksums: dict[str, int] = {}
        self.digests: dict[str, str] = {}

    def note(self, known: dict[str, Noted], key: str, value: Noted) -> Noted:
        """Note and return what was read of a file; if there are too many, all others are forgotten."""
        if len(known) >= MAX_KNOWN:
            known.clear()
        known[key] = value
        return value


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


class PlannedZip:
    """A ZIP file of files of the archive, and of bytes such as a list of them.

    `entries`: name and content of each member.
    `read`: gives the content of a file in pieces; it raises Damaged before the last one if they are not what was
        stored.

    `length`: in bytes.
    `etag`: a strong entity tag (RFC 9110 8.8.3): two ZIP files with the same one have the same bytes.

    Raises TooManyFiles.
    """

    def __init__(
        self,
        entries: Sequence[tuple[str, Content]],
        archive: Archive,
        read: Callable[[ArchivedFile], Iterable[bytes]],
        known: Known,
    ) -> None:
        require_few(len(entries))
        self._archive, self._read, self._known = archive, read, known
        self._contents = [content for _, content in entries]
        self._infos: list[zipfile.ZipInfo] = []
        self._ends: list[int] = []
        digest, at = hashlib.sha256(), 0
        for name, content in entries:
            info = _info(name, _length(content), at)
            self._infos.append(info)
            at = _end(info)
            self._ends.append(at)
            digest.update(f"{_identity(content)}\0".encode())
        directory = _directory(self._infos, at)
        digest.update(directory)  # names, lengths, and how they are written
        self.length = at + len(directory)
        self.etag = f'"{digest.hexdigest()[:32]}"'

    def pieces(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes from `start` up to `stop`; empty pieces while others are read, so that the client can go.

        Raises Damaged if a file is not what was stored, or was deleted, and OutOfResources if it cannot be read now.
        """
        first, last = bisect_right(self._ends, start), bisect_left(self._ends, stop)
        at = self._ends[first - 1] if first else 0
        for piece in self._from(first, last):
            yield piece[max(start - at, 0) : stop - at]
            at += len(piece)
            if at >= stop:
                return

    def _from(self, first: int, last: int) -> Iterator[bytes]:
        """Yield all bytes from one member to another, and after the last of all members the directory.

        It needs the checksums of the members before the first one, too.
        """
        count = len(self._infos)
        yield from self._members(range(first, min(last + 1, count)))
        unknown = []
        for number, content in enumerate(self._contents[:first]):
            known = None if isinstance(content, bytes) else self._known.checksums.get(content.key)
            if known is None:
                unknown.append(number)
            else:
                self._infos[number].CRC = known
        for _ in self._members(unknown):
            yield b""
        yield _directory(self._infos, self._ends[-1] if count else 0)

    def _members(self, numbers: Sequence[int]) -> Iterator[bytes]:
        """Yield the bytes of some members, by their numbers, and note their checksums."""
        contents = [self._contents[number] for number in numbers]
        files = self._archive.ahead([content for content in contents if not isinstance(content, bytes)])
        for number, content in zip(numbers, contents, strict=True):
            info = self._infos[number]
            yield from _written(info, [content] if isinstance(content, bytes) else self._read(next(files)))
            if not isinstance(content, bytes):
                self._known.note(self._known.checksums, content.key, info.CRC)


def require_few(files: int) -> None:
    """Raise TooManyFiles if a planned ZIP file may not have so many."""
    if files > MAX_FILES:
        raise TooManyFiles(files)


def zip_response(
    request: Request, planned: PlannedZip, headers: Mapping[str, str], audit: Callable[[str], None], status: int = 200
) -> Response:
    """Send a planned ZIP file, or the range of it that is asked for.

    One range is sent as it is; of several, and of a unit other than bytes, the whole is sent (RFC 9110 14.2).
    `status` other than 200: it is sent whole. `audit`: called if bytes are sent, with ", a part" if they are not all.

    Raises PreconditionFailed if If-Match says that another one is wanted: browsers that fetch parts side by side do.
    """
    if not is_match(request.headers.get("if-match", "*"), planned.etag):
        raise PreconditionFailed(planned.etag)
    headers = {"Content-Type": ZIP, **headers, "ETag": planned.etag}
    if request.method != "POST" and has_etag(request.headers, planned.etag):
        of_unchanged = ("ETag", "Vary", "Cache-Control")
        return Response(status_code=304, headers={name: headers[name] for name in of_unchanged if name in headers})
    start, stop = 0, planned.length
    if status == 200:
        headers["Accept-Ranges"] = "bytes"
        if (wanted := _range(request, planned)) is not None:
            start, stop = wanted
            if start >= stop:
                return not_satisfiable(planned.length)
            status, headers["Content-Range"] = 206, f"bytes {start}-{stop - 1}/{planned.length}"
    headers["Content-Length"] = str(stop - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    audit(", a part" if stop - start < planned.length else "")
    return Streamed(planned.pieces(start, stop), status, headers)


def instances_zip(
    node: Services,
    request: Request,
    entries: Sequence[tuple[str, Content]],
    headers: Mapping[str, str],
    audit: Callable[[str], None],
    status: int = 200,
) -> Response:
    """Send instances as they leave, and bytes, as a ZIP file: planned, unless some have another identity than stored.

    What is changed is made when its turn comes, so nobody knows the length before.
    """
    if not any(isinstance(content, StoredInstance) and content.identity is not None for _, content in entries):
        planned = PlannedZip(entries, node.archive, partial(stored_file, node), known_of(request))
        return zip_response(request, planned, headers, audit, status)
    headers = {"Content-Type": ZIP, **headers}
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    audit("")
    return Streamed(zip_stream(_leaving(node, entries)), status, headers)


def _leaving(node: Services, entries: Iterable[tuple[str, Content]]) -> Iterator[Member]:
    for name, content in entries:
        if isinstance(content, bytes):
            yield Member(name, len(content), [content])
        elif isinstance(content, StoredInstance) and content.identity is not None:
            try:
                with leaving_file(node, content) as path, path.open("rb") as file:
                    yield Member(name, path.stat().st_size, iter(partial(file.read, CHUNK_BYTES), b""))
            except NotDecoded as error:
                raise Damaged(f"the identity of a patient cannot be written: {error}") from error
        else:
            yield Member(name, _length(content), stored_file(node, content))


_RANGE = re.compile(r"\s*bytes\s*=\s*(?:(\d{1,18})\s*-\s*(\d{1,18})?|-\s*(\d{1,18}))\s*", re.ASCII | re.IGNORECASE)


def _range(request: Request, planned: PlannedZip) -> tuple[int, int] | None:
    """Return the range that a request asks for, empty if it begins beyond the end; None: the whole."""
    found = _RANGE.fullmatch(request.headers.get("range", ""))
    if request.method != "GET" or found is None or request.headers.get("if-range", planned.etag) != planned.etag:
        return None
    first, last, suffix = (None if text is None else int(text) for text in found.groups())
    if first is None:
        return max(planned.length - (suffix or 0), 0), planned.length
    if last is not None and last < first:
        return None
    return first, planned.length if last is None else min(last + 1, planned.length)


def _length(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.data_set_offset + content.bytes


def _identity(content: Content) -> str:
    """Return a text that is another one for other bytes; the digest of an instance is of its data set alone."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    return f"{content.key} {content.data_set_offset} {content.bytes} {content.sha256}"


def _info(name: str, length: int, at: int) -> zipfile.ZipInfo:
    if not {"", ".", ".."}.isdisjoint(name.split("/")) or "\\" in name:
        raise ValueError("a member of a ZIP file must be below the folder where it is unpacked")
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
