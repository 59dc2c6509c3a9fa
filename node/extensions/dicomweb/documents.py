"""Answers in JSON and XML: compressed if the client accepts that, and not sent again if it has them."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from fastapi import HTTPException, Request, Response
from python_multipart.multipart import parse_options_header

from node.dicom.json_model import Json
from node.extensions.dicomweb.encoded import encoded_model
from node.extensions.dicomweb.media_types import DICOM_JSON, DICOM_XML, JSON, MULTIPART, DocumentForm
from node.extensions.dicomweb.resources import Instances, Multipart, Part
from node.extensions.dicomweb.xml_model import NotNative, json_from_native
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
        content = _whole(content) if isinstance(content, bytes) else _compressed(content)
    if request.method == "HEAD":
        length = {"Content-Length": str(len(content))} if isinstance(content, bytes) else {}
        return Response(status_code=status, headers=shared | length)
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
    if form.media_type != DICOM_XML:
        return respond_document(request, collect(_json_array(data_sets)), form.media_type, etag, headers=headers)
    documents = iter(data_sets)
    first = next(documents, None)
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


def read_data_set(request: Request, body: bytes, max_bytes: int) -> Json | None:
    """Return the payload of a request, one data set, or None if it is empty.

    Raises HTTPException 400: it is no data set; 413: it is too large; 415: it has another media type.
    """
    if not body:
        return None
    if len(body) > max_bytes:
        raise HTTPException(413, f"the payload is larger than {max_bytes} bytes")
    kind, options = parse_options_header(request.headers.get("content-type"))
    media_type = kind.decode("latin-1").lower()
    if media_type == MULTIPART and options.get(b"type", b"").decode("latin-1").lower() == DICOM_XML:
        media_type, body = DICOM_XML, _only_part(options.get(b"boundary", b""), body)
    if media_type not in (DICOM_JSON, JSON, DICOM_XML):
        raise HTTPException(415, f"the body must be {DICOM_JSON} or {DICOM_XML} (PS3.18 8.7.3)")
    try:
        document: Any = json_from_native(body) if media_type == DICOM_XML else json.loads(body)
    except (NotNative, ValueError, RecursionError) as error:
        raise HTTPException(400, "the body is not a data set in the form of its Content-Type") from error
    items = document if isinstance(document, list) else [document]
    if len(items) != 1 or not isinstance(items[0], dict):
        raise HTTPException(400, "the body must hold one data set (PS3.18 F.2)")
    data_set: Json = items[0]
    return data_set


def _only_part(boundary: bytes, body: bytes) -> bytes:
    """Return the content of a multipart message with one part (RFC 2046 5.1.1)."""
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary, 3)
    _, blank, content = pieces[1].partition(b"\r\n\r\n") if len(pieces) > 1 else (b"", b"", b"")
    if not boundary or len(pieces) != 3 or not pieces[2].startswith(b"--") or not blank:
        raise HTTPException(400, "the body must have one part (PS3.18 8.6)")
    return content


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


def _whole(content: bytes) -> bytes:
    return b"".join(_compressed(iter((content,))))


def _compressed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield compressed pieces; the metadata of similar instances shrink to a twentieth."""
    compressor = zlib.compressobj(1, wbits=16 + zlib.MAX_WBITS)
    for piece in pieces:
        compressed = compressor.compress(piece)
        if compressed:
            yield compressed
    yield compressor.flush()
