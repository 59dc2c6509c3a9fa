"""Byte ranges of a representation (RFC 9110 14)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from fastapi import HTTPException, Response

from node.web.dicomweb.resources import Instances, Target, respond
from node.web.headers import has_etag


def respond_with_range(
    target: Target, content: Callable[[int], Iterator[bytes]], length: int, content_type: str, etag: str
) -> Response:
    """Respond with the whole representation, or with the one byte range that the request asks for.

    Several ranges are answered with the whole, as RFC 9110 14.2 allows; so is ``If-Range`` with another entity tag.

    Parameters
    ----------
    content : callable (start) -> iterator of bytes
        Returns the representation from byte `start` to its end.
    length : int
        Length of the whole, in bytes.
    etag : str
        See `Target.etag`; it is sent as a strong one, since the bytes are the same each time.
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
    return Instances(_cut(content(start), end - start), 206, headers)


def byte_range(header: str, length: int) -> tuple[int, int] | None:
    """Return start and end of the requested bytes; None for the whole.

    Raises
    ------
    HTTPException
        416: there is no such byte.
    """
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


def skipped(pieces: Iterator[bytes], count: int) -> Iterator[bytes]:
    """Yield pieces without their first `count` bytes."""
    for piece in pieces:
        if count < len(piece):
            yield piece[count:]
        count = max(count - len(piece), 0)


def _cut(pieces: Iterator[bytes], left: int) -> Iterator[bytes]:
    """Yield the first `left` bytes of pieces."""
    for piece in pieces:
        yield piece[:left]
        left -= min(len(piece), left)
        if not left:
            break
    close = getattr(pieces, "close", None)
    if close is not None:
        close()
