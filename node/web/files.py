"""Files as responses: with Range, or streamed; those of instances only after their digest was compared."""

import hashlib
import re
from base64 import b64encode
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any, ClassVar

import structlog
from anyio import CancelScope
from fastapi import Response
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from node.archive.base import ArchivedFile
from node.archive.intact import MISSING
from node.children.forwarding import CopyChange, forward
from node.conversion.volume_files import revision_files
from node.errors import OutOfResources, VoxelnodeError
from node.files.durable import make_folder
from node.index.look.views import ReadIndex
from node.index.rows.files import StoredInstance
from node.index.rows.records import RevisionFile
from node.receive.stored_files import report_damage
from node.web.problem_types import RANGE_NOT_SATISFIABLE, ProblemResponse
from node.web.services import Services

log = structlog.get_logger()

CHUNK_BYTES = 1 << 18
"""Pieces in which files are read."""

OCTETS, ZIP = "application/octet-stream", "application/zip"
MEDIA_TYPES = {".png": "image/png", ".json": "application/json", ".gz": "application/gzip"}
"""Media types of files of revisions by suffix; others are `OCTETS`."""

FILE_MISSING = "the file is missing: run `voxelnode fsck`"
DAMAGED = (
    "damaged: a file is missing or is not as it was received; send the instance again, or run `voxelnode fsck --hash`"
)


def type_or_octets(headers: Headers, media_type: str) -> str:
    """Return the media type of a file, or application/octet-stream if the request accepts only this."""
    return OCTETS if headers.get("accept") == OCTETS else media_type


class Damaged(VoxelnodeError):
    """A file of the archive differs from what was received, or is missing."""


class Unavailable(OutOfResources):
    """A file of the archive cannot be read now."""


class Streamed(StreamingResponse):
    """A streamed response; `content` and its open files are closed at the end, even if the client disconnects.

    It is aborted if a file cannot be sent, so that the client sees that it is incomplete.
    """

    broken: ClassVar[tuple[type[Exception], ...]] = (Damaged, OutOfResources)
    """Errors that prevent a file, or a part of it, from being sent."""

    def __init__(self, content: Iterator[bytes], status: int, headers: Mapping[str, str]) -> None:
        super().__init__(content, status, headers)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except self.broken as error:  # the status was already sent: the server closes the connection
            log.error("answer_broken_off", reason=str(error))
        finally:
            if isinstance(self._content, Generator):
                with CancelScope(shield=True):
                    await run_in_threadpool(self._content.close)


class RangedFile(FileResponse):
    """A file or a part of it; a Range that cannot be read is ignored (RFC 9110 14.2)."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal: Message | None = None

        async def send_unless_refused(message: Message) -> None:
            nonlocal refusal
            if message["type"] == "http.response.start" and message["status"] in (400, 416):
                refusal = message
            elif refusal is None:
                await send(message)

        await super().__call__(scope, receive, send_unless_refused)
        if refusal is None:
            return
        if refusal["status"] == 400:
            headers = [(name, value) for name, value in scope["headers"] if name != b"range"]
            await super().__call__({**scope, "headers": headers}, receive, send)
            return
        await not_satisfiable(int(self.headers["content-length"]))(scope, receive, send)


def not_satisfiable(length: int) -> Response:
    """Return the answer to a Range that starts beyond a file of `length` bytes."""
    detail = f"the file has {length} bytes, and the range starts beyond them"
    return ProblemResponse(RANGE_NOT_SATISFIABLE, detail, headers={"Content-Range": f"bytes */{length}"})


_WANTED = re.compile(r"(?:^|[,\s])sha-256\s*=\s*(?:10|[1-9])\b")


def wants_digest(headers: Headers) -> bool:
    """Return whether a request asks for the SHA-256 of the whole file (RFC 9530 4)."""
    return _WANTED.search(headers.get("want-repr-digest", "")) is not None


def add_digest(response: Response, sha256: str) -> None:
    """Say the SHA-256 of the whole file, in hexadecimal, also where a range of it is sent (RFC 9530 3)."""
    response.headers["Repr-Digest"] = f"sha-256=:{b64encode(bytes.fromhex(sha256)).decode('ascii')}:"


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_response(path: Path, media_type: str, name: str, sha256: str | None) -> Response:
    """Send a file whose path comes from the index, never from a request: 410 if it is not on disk.

    Its entity tag is the SHA-256 of the content (RFC 9110 8.8.3), or made of time and size. `name` is for a download.
    """
    headers = {"Cache-Control": "private, no-cache"} | ({"ETag": f'"{sha256}"'} if sha256 is not None else {})
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise HTTPException(410, FILE_MISSING) from None
    return RangedFile(path, media_type=media_type, filename=name, stat_result=stat, headers=headers)


def whole_file(node: Services, instance: StoredInstance) -> Path:
    """Return the path of the file of an instance, after comparing its digest.

    Raises Damaged if it is not as it was received, at a second look either: the instance is marked, so that it is taken
    when it is sent again.
    Raises Unavailable if it cannot be read now.
    """
    path = local_file(node, instance)
    try:
        problem = node.verified.problem_with(path, instance.data_set_offset, instance.bytes, instance.sha256)
    except OSError as error:
        raise Unavailable(f"a file of the archive cannot be read: {error.strerror}") from error
    if problem is not None and not _is_whole_again(node, instance, problem):
        raise Damaged(DAMAGED)
    return path


def decoded_file(node: Services, function: Callable[..., bytes], *arguments: Any) -> IO[bytes]:
    """Return a file written by a child process; the file is deleted when it is closed.

    It is on the disk of the archive, not in memory, because an uncompressed instance may have gigabytes. `function`
    takes `arguments`, and the file to write as `into`. Raises what `Decoder.run` does, and Unavailable.
    """
    make_folder(node.archive.work)
    file: IO[bytes] = NamedTemporaryFile(dir=node.archive.work, prefix="decoded-")  # noqa: SIM115 - the reader closes it
    try:
        node.decoder.run(function, *arguments, into=Path(file.name))
    except OSError as error:
        file.close()
        raise Unavailable(f"an instance cannot be decoded: {error.strerror}") from error
    except BaseException:
        file.close()
        raise
    return file


@contextmanager
def leaving_file(node: Services, instance: StoredInstance) -> Iterator[Path]:
    """Yield the path of the file of an instance as it leaves: as stored, or a copy with the identity of its patient.

    Raises what `whole_file` does, and NotDecoded if there can be no copy.
    """
    path = whole_file(node, instance)
    if instance.identity is None:
        yield path
        return
    with decoded_file(node, forward, path, CopyChange(identity=instance.identity)) as copy:
        yield Path(copy.name)


def local_file(node: Services, file: ArchivedFile) -> Path:
    """Return the path of a file of the archive, which is fetched if only the object store has it.

    Raises Unavailable if that fails now, FileNotFoundError if neither the disk nor the object store has it.
    """
    try:
        return node.archive.local(file)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unavailable(f"a file of the archive cannot be fetched: {error.strerror}") from error


def local_or_gone(node: Services, file: ArchivedFile) -> Path:
    """Return the path of a file of a revision; 410 if neither the disk nor the object store has it."""
    try:
        return local_file(node, file)
    except FileNotFoundError:
        raise HTTPException(410, FILE_MISSING) from None


def damaged(node: Services, instance: ArchivedFile, problem: str) -> Damaged:
    """Record that the file of an instance is not as it was received; return the error for it."""
    _is_whole_again(node, instance, problem)
    return Damaged(DAMAGED)


def _is_whole_again(node: Services, instance: ArchivedFile, problem: str) -> bool:
    """Record that a file is not as it was received, unless it is by now."""
    with suppress(OutOfResources):  # the next reader records it
        return report_damage(node.archive, node.index, instance.key, problem, node.ingest.now())
    return False


VOXEL_FILES = {".mhd": (".zraw", ".raw"), ".hdr": (".img",)}
"""Suffixes that the voxels beside a header may have."""


def files_of(node: Services, index: ReadIndex, study: str, series: str, revision: int) -> list[RevisionFile]:
    """Return the files of a revision, sorted by name; empty if it is not in the index or its files are gone."""
    folder = index.volumes.folder(study, series, revision)
    return [] if folder is None else revision_files(node.archive.root, index, folder)


def file_length(instance: ArchivedFile) -> int:
    """Return the length of the file of an instance: preamble, File Meta Information and data set."""
    return instance.data_set_offset + instance.bytes


def stored_file(node: Services, instance: ArchivedFile) -> Iterator[bytes]:
    """Yield the DICOM file of an instance in pieces; its data set is bit for bit as received.

    Raises Damaged, before the last piece, if the file is missing or the data set differs, and Unavailable if it cannot
    be read now.
    """
    digest, left = hashlib.sha256(), file_length(instance)
    try:
        with local_file(node, instance).open("rb", buffering=0) as file:
            piece = file.read(instance.data_set_offset)
            left -= len(piece)
            while left > 0:
                data = file.read(min(CHUNK_BYTES, left))
                if not data:
                    raise damaged(node, instance, f"is {left} bytes too short")
                digest.update(data)
                left -= len(data)
                if left == 0 and digest.hexdigest() != instance.sha256:
                    raise damaged(node, instance, f"has the SHA-256 {digest.hexdigest()} instead of {instance.sha256}")
                yield piece + data if piece else data
                piece = b""
    except FileNotFoundError:
        raise damaged(node, instance, MISSING) from None
    except OSError as error:
        raise Unavailable(f"a file of the archive cannot be read: {error.strerror}") from error
