"""Answers in JSON and XML: compressed if the client accepts that, and not sent again if it has them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain

from fastapi import Request, Response

from node.dicom.json_model import Json
from node.extensions.dicomweb.encoded import encoded_model
from node.extensions.dicomweb.media_types import DICOM_XML, DocumentForm
from node.extensions.dicomweb.resources import Instances, Multipart, Part, without_content
from node.web.headers import accepts_gzip, has_etag

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
    return Response(content, status, shared) if isinstance(content, bytes) else Instances(content, status, shared)


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
