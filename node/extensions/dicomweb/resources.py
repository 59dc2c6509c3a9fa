"""Resources of DICOMweb: the stored instances of a study or a series, or a single instance (PS3.18 10.1)."""

import hashlib
import os
import re
import secrets
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import IO, Any

from fastapi import APIRouter, HTTPException, Request, Response

from node.children.decoder import NotDecoded
from node.dicom.json_model import Json
from node.dicom.uids import resource_path
from node.errors import OutOfResources
from node.extensions.dicomweb.media_types import DICOM_XML, DocumentForm
from node.extensions.dicomweb.pixel_element import FrameNotFound
from node.extensions.dicomweb.xml_model import encoded_model
from node.index.rows.files import StoredInstance
from node.web.access import Call
from node.web.files import CHUNK_BYTES, DAMAGED, Damaged, Streamed, Unavailable, local_file
from node.web.headers import accepts_gzip, has_etag
from node.web.services import Services, public_url

PREFIX = "/dicom-web"
FRAME_CACHE_BYTES = 2_000_000_000
"""Disk for compressed frames and rendered pictures; those read longest ago go first."""


Pieces = bytes | Iterator[bytes]
"""Bytes in memory, or what is read piece by piece while it is sent."""

READ = ["GET", "HEAD"]
"""Methods of read-only resources."""


BROKEN = (Damaged, OutOfResources, FrameNotFound, NotDecoded)
"""Errors that prevent an instance, or a part of it, from being sent."""


class Instances(Streamed):
    """A streamed response, aborted if an instance cannot be sent, so that the client sees that it is incomplete."""

    broken = BROKEN


class SelectedInstances:
    """The instances selected by a request, never none.

    `unavailable` counts further ones whose files are known to be missing or damaged.
    """

    def __init__(self, call: Call, instances: list[StoredInstance], unavailable: int = 0) -> None:
        self.request, self.node, self.audit = call.request, call.node, call.audit
        self.instances, self.unavailable = instances, unavailable

    @property
    def base(self) -> str:
        """The URL of the DICOMweb service, without a trailing slash."""
        return base_url(self.request)

    def audit_access(self, detail: str) -> None:
        """Record access to the studies in the audit log."""
        self.audit.accessed(self._studies(), detail)

    def audit_transfer(self, detail: str) -> None:
        """Record the transfer of the instances in the audit log."""
        self.audit.transferred(self._studies(), detail)

    def etag(self, representation: str) -> str:
        """Return an entity tag of the instances and their representation; weak, since boundaries differ."""
        digest = hashlib.sha256(representation.encode())
        for instance in self.instances:
            digest.update(instance.version.encode())
        return f'W/"{digest.hexdigest()[:32]}"'

    def _studies(self) -> list[dict[str, str | int]]:
        counts = Counter(instance.study_instance_uid for instance in self.instances)
        return [{"study_instance_uid": uid, "instances": count} for uid, count in counts.items()]


def base_url(request: Request) -> str:
    """Return the URL of the DICOMweb service as the client reaches it, without a trailing slash."""
    return f"{public_url(request)}{PREFIX}"


def find_target(call: Call, study: str, series: str | None = None, instance: str | None = None) -> SelectedInstances:
    """Return the instances selected by UIDs: 404 if there are none, 410 if they were deleted.

    Raises Damaged if the files of all of them are known to be missing or damaged.
    """
    with call.node.index.reading() as index:
        instances = list(index.files.stored(study, series, [instance] if instance else ()))
        is_one = instance is not None and bool(instances)
        unavailable = 0 if is_one else index.instances.count_unavailable(study, series, instance)
        if not instances:
            if unavailable:
                raise Damaged(DAMAGED)
            deleted = index.deletions.has_deleted(*(uid for uid in (study, series, instance) if uid is not None))
            raise HTTPException(*((410, "it was deleted") if deleted else (404, "the resource does not exist")))
    return SelectedInstances(call, instances, unavailable)


def requested(call: Call) -> SelectedInstances:
    """Return the instances of a route with ``study``, ``series``, ``instance`` in its path. See `find_target`.

    Handlers call it first: as a dependency it would cost a change of threads of its own at each request.
    """
    uids = call.request.path_params
    return find_target(call, uids["study"], uids.get("series"), uids.get("instance"))


def one_instance(target: SelectedInstances) -> StoredInstance:
    """Return the single instance of an instance URL."""
    return target.instances[0]


def respond(
    target: SelectedInstances,
    content: Pieces,
    content_type: str,
    etag: str,
    length: int | None = None,
    status: int = 200,
) -> Response:
    """Send `content`, of `length` bytes if known; HEAD has the headers only, a matching If-None-Match 304."""
    headers = {"ETag": etag, "Vary": "Accept", "Content-Type": content_type}
    if has_etag(target.request.headers, etag):
        return Response(status_code=304, headers={"ETag": etag, "Vary": "Accept"})
    if length is None and isinstance(content, bytes):
        length = len(content)
    if length is not None:
        headers["Content-Length"] = str(length)
    if target.request.method == "HEAD":
        return without_content(status, headers)
    return sent(content, status, headers)


def without_content(status: int, headers: Mapping[str, str]) -> Response:
    """Return the answer to HEAD: a stream, because others say that the length of the content is 0 (RFC 9110 8.6)."""
    return Instances(iter(()), status, headers)


def sent(content: Pieces, status: int, headers: Mapping[str, str]) -> Response:
    """Return the response with these headers, at once if its bytes are in memory."""
    if isinstance(content, bytes):
        return Response(content, status, headers)
    return Instances(content, status, headers)


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its media type, its bytes in pieces, and the URL of its resource."""

    content_type: str
    body: Iterable[bytes]
    location: str = ""


class Multipart:
    """A message of parts of one media type."""

    def __init__(self, media_type: str) -> None:
        self._boundary = secrets.token_hex(16)
        self.content_type = f'multipart/related; type="{media_type}"; boundary={self._boundary}'

    def write(self, parts: Iterable[Part]) -> Iterator[bytes]:
        """Yield a message with `parts` in pieces."""
        end = b""
        for part in parts:
            location = f"Content-Location: {part.location}\r\n" if part.location else ""
            head = f"--{self._boundary}\r\nContent-Type: {part.content_type}\r\n{location}\r\n".encode("ascii")
            pieces = iter(part.body)
            yield end + head + next(pieces, b"")  # a piece less costs the server a tenth of a millisecond less
            yield from pieces
            end = b"\r\n"
        yield end + f"--{self._boundary}--\r\n".encode("ascii")


def by_series(instances: Sequence[StoredInstance]) -> dict[str, list[StoredInstance]]:
    """Group instances by series, in order."""
    grouped: dict[str, list[StoredInstance]] = {}
    for instance in instances:
        grouped.setdefault(instance.series_instance_uid, []).append(instance)
    return grouped


def instance_url(base: str, instance: StoredInstance) -> str:
    """Return the URL of an instance, PS3.18 10.1."""
    return resource_url(base, instance.study_instance_uid, instance.series_instance_uid, instance.sop_instance_uid)


def resource_url(base: str, *uids: str) -> str:
    """Return the URL of a study, a series or an instance; `uids` start with that of the study."""
    return base + resource_path(*uids)


def dicomweb_router(allowed: Sequence[Any]) -> APIRouter:
    """Return a router with the dependencies `allowed`, such as `READERS`. See `node.web.api.routing`.

    PS3.18 describes its routes, not our OpenAPI document.
    """
    return APIRouter(prefix=PREFIX, include_in_schema=False, dependencies=allowed)


def derived_file(
    node: Services, instance: StoredInstance, name: str, write: Callable[[IO[bytes]], object]
) -> IO[bytes]:
    """Return a file that is made of an instance, and kept for the next request within `FRAME_CACHE_BYTES`.

    `name` says what of the instance it is. `write` writes an empty file. Raises what `write` does, and Unavailable.
    """
    most_bytes = 0 if node.archive.intake.is_short else FRAME_CACHE_BYTES
    try:
        file, name = local_file(node, instance), derived_name(instance, name)
        return node.archive.derived.opened(instance.key, file, name, most_bytes, write)
    except OSError as error:
        raise Unavailable(f"an instance cannot be decoded: {error.strerror}") from error


def derived_name(instance: StoredInstance, name: str) -> str:
    """Return the name of a derived file in `Derived`: it says of which bytes it is made."""
    return f"{instance.sha256}-{name}"


def length_of(file: IO[bytes]) -> int:
    """Return the length of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


def pieces_of(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the content of a file, and close it at the end."""
    with file:
        while piece := file.read(CHUNK_BYTES):
            yield piece


MIN_COMPRESSED_BYTES = 500
"""Shorter documents are sent as they are: compressed, they still take one packet."""


def respond_document(
    request: Request,
    content: bytes | Iterator[bytes],
    content_type: str,
    etag: str = "",
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Answer with a document; HEAD with the headers only, and a matching If-None-Match with 304.

    An iterator is streamed. The entity tag is a weak one, since compressed and other forms share it; empty: none.
    """
    shared = {"Vary": "Accept, Accept-Encoding", **({"ETag": etag} if etag else {})}
    if etag and has_etag(request.headers, etag):
        return Response(status_code=304, headers=shared)
    shared |= {"Content-Type": content_type, **(headers or {})}
    is_long = not isinstance(content, bytes) or len(content) >= MIN_COMPRESSED_BYTES
    if is_long and accepts_gzip(request.headers):
        shared["Content-Encoding"] = "gzip"
        content = b"".join(_compressed(iter((content,)))) if isinstance(content, bytes) else _compressed(content)
    if request.method == "HEAD":
        length = {"Content-Length": str(len(content))} if isinstance(content, bytes) else {}
        return without_content(status, shared | length)
    return sent(content, status, shared)


def respond_data_sets(
    request: Request,
    data_sets: Iterable[bytes],
    form: DocumentForm,
    etag: str,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Answer with data sets, each encoded in `form`: an array in JSON, one document in each part in XML.

    An iterator is streamed, since the metadata of a study may not fit into memory. A list is sent at once: each piece
    of a stream costs a change of threads. No data set in XML is status 204.
    """
    collect: Callable[[Iterator[bytes]], bytes | Iterator[bytes]] = b"".join if isinstance(data_sets, list) else iter
    documents = iter(data_sets)
    first = next(documents, None)  # before the status: if it cannot be sent, the answer says so
    if form.media_type != DICOM_XML:
        array = _json_array(() if first is None else chain((first,), documents))
        return respond_document(request, collect(array), form.media_type, etag, headers=headers)
    if first is None:
        return Response(status_code=204, headers=headers)
    if not form.multipart:
        return respond_document(request, first, form.media_type, etag, headers=headers)
    message = Multipart(DICOM_XML)
    parts = (Part(DICOM_XML, (document,)) for document in chain((first,), documents))
    return respond_document(request, collect(message.write(parts)), message.content_type, etag, headers=headers)


def respond_data_set(
    request: Request, data_set: Json, form: DocumentForm, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Answer with one data set: an object in JSON, a document in XML."""
    content = encoded_model(data_set, as_xml=form.media_type == DICOM_XML)
    if not form.multipart:
        return respond_document(request, content, form.media_type, status=status, headers=headers)
    message = Multipart(DICOM_XML)
    whole = b"".join(message.write([Part(DICOM_XML, (content,))]))
    return respond_document(request, whole, message.content_type, status=status, headers=headers)


def _json_array(data_sets: Iterable[bytes]) -> Iterator[bytes]:
    separator = b"["
    for data_set in data_sets:
        yield separator + data_set
        separator = b","
    yield b"]" if separator == b"," else b"[]"


def etag_of(data_sets: Iterable[bytes], form: DocumentForm) -> str:
    """Return the weak entity tag of data sets in one form."""
    digest = hashlib.sha256(str(form).encode())
    for data_set in data_sets:
        digest.update(hashlib.sha256(data_set).digest())
    return f'W/"{digest.hexdigest()[:32]}"'


def warning_header(warnings: Iterable[str]) -> str:
    """Return the value of a Warning header (RFC 7234 5.5, which PS3.18 8.1.2.2 uses); the texts have no quotes."""
    return ", ".join(f'299 voxelnode "{warning}"' for warning in warnings)


def quotable(names: Iterable[str]) -> str:
    """Return names that a client sent in a form that a header may have (RFC 9110 5.6.4)."""
    return "".join(c if (c.isalnum() and c.isascii()) or c in "._-, " else "?" for c in ", ".join(names)[:500])


def _compressed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield compressed pieces; the metadata of similar instances shrink to a twentieth."""
    compressor = zlib.compressobj(1, wbits=16 + zlib.MAX_WBITS)
    for piece in pieces:
        compressed = compressor.compress(piece)
        if compressed:
            yield compressed
    yield compressor.flush()


def respond_with_range(
    target: SelectedInstances, content: Callable[[int], Pieces], length: int, content_type: str, etag: str
) -> Response:
    """Respond with the whole representation, or with the one byte range that the request asks for.

    Several ranges are answered with the whole, as RFC 9110 14.2 allows; so is ``If-Range`` with another entity tag.
    `content` returns the representation from a byte to its end. `etag` is that of `SelectedInstances.etag`; it is sent
    as a strong one, since the bytes are the same each time.
    """
    etag = etag.removeprefix("W/")
    request = target.request
    wanted = None
    if (
        request.method == "GET"
        and request.headers.get("if-range", etag) == etag
        and not has_etag(request.headers, etag)
    ):
        wanted = byte_range(request.headers.get("range", ""), length)
    if wanted is None:
        response = respond(target, content(0), content_type, etag, length)
        response.headers["Accept-Ranges"] = "bytes"
        return response
    start, end = wanted
    headers = {
        "ETag": etag,
        "Vary": "Accept",
        "Content-Type": content_type,
        "Content-Range": f"bytes {start}-{end - 1}/{length}",
        "Content-Length": str(end - start),
        "Accept-Ranges": "bytes",
    }
    pieces, length = content(start), end - start
    return sent(pieces[:length] if isinstance(pieces, bytes) else _yielded(pieces, length), 206, headers)


def respond_with_file(target: SelectedInstances, file: IO[bytes], content_type: str, etag: str) -> Response:
    """Respond with a file, or with the one byte range that the request asks for."""

    def content(start: int) -> Pieces:
        file.seek(start)
        return pieces_of(file)

    return respond_with_range(target, content, length_of(file), content_type, etag)


def byte_range(header: str, length: int) -> tuple[int, int] | None:
    """Return start and end of the requested bytes; None for the whole, 416 if there is no such byte."""
    found = re.fullmatch(r"bytes=\s*(\d{0,19})-(\d{0,19})\s*", header)
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        start, end = max(length - int(found[2]), 0), length
    else:
        start, end = int(found[1]), min(int(found[2]) + 1, length) if found[2] else length
        if found[2] and int(found[2]) < start:
            return None
    if start >= end:
        raise HTTPException(416, f"the representation has {length} bytes", {"Content-Range": f"bytes */{length}"})
    return start, end


def skipped(pieces: Pieces, count: int) -> Pieces:
    """Return pieces without their first `count` bytes."""
    return pieces[count:] if isinstance(pieces, bytes) else _skipped(pieces, count)


def _skipped(pieces: Iterator[bytes], count: int) -> Iterator[bytes]:
    for piece in pieces:
        if count < len(piece):
            yield piece[count:]
        count = max(count - len(piece), 0)


def _yielded(pieces: Iterator[bytes], left: int) -> Iterator[bytes]:
    for piece in pieces:
        yield piece[:left]
        left -= min(len(piece), left)
        if not left:
            break
    close = getattr(pieces, "close", None)
    if close is not None:
        close()
