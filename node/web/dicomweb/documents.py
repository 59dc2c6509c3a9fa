"""Answers in JSON and XML: compressed if the client accepts that, and not sent again if it has them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping

from fastapi import Request, Response

from node.web.dicomweb.resources import Instances
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

    Parameters
    ----------
    content : bytes or iterator of bytes
        An iterator is streamed.
    etag : str
        A weak entity tag, since compressed and other forms share it; empty: none.
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


def etag_of(content: bytes, form: str) -> str:
    """Return the weak entity tag of a document in one form, such as its media type."""
    return f'W/"{hashlib.sha256(form.encode() + bytes(1) + content).hexdigest()[:32]}"'


def warning_header(warnings: Iterable[str]) -> str:
    """Return the value of a Warning header (RFC 7234 5.5, which PS3.18 8.1.2.2 uses); the texts have no quotes."""
    return ", ".join(f'299 voxelnode "{warning}"' for warning in warnings)


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
