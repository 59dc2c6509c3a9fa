"""Messages of ``multipart/related`` (RFC 2387), written and read in pieces, without a whole part in memory."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


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
        for part in parts:
            location = f"Content-Location: {part.location}\r\n" if part.location else ""
            yield f"--{self._boundary}\r\nContent-Type: {part.content_type}\r\n{location}\r\n".encode("ascii")
            yield from part.body
            yield b"\r\n"
        yield f"--{self._boundary}--\r\n".encode("ascii")


MAX_PREAMBLE_BYTES = 65_536
"""Longest text before the first part; it is for mail programs that do not know multipart messages."""


class BoundaryMissing(Exception):
    """A message does not have its boundary within `MAX_PREAMBLE_BYTES`."""


class PreambleFilter:
    """Removes what stands before the first boundary, and the padding behind it (RFC 2046 5.1.1).

    `python_multipart` handles the rest: the padding of later boundaries, and the epilogue.
    """

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._held: bytearray | None = bytearray(b"\r\n")  # the first boundary may be at the start of the body

    def strip(self, data: bytes) -> bytes:
        """Return the bytes of `data` from the first boundary on, or raise BoundaryMissing."""
        if self._held is None:
            return data
        self._held += data
        at = self._held.find(self._delimiter, 0, MAX_PREAMBLE_BYTES)
        while at >= 0:
            after = bytes(self._held[at + len(self._delimiter) :]).lstrip(b" \t")
            if after.startswith((b"\r\n", b"--")):
                self._held = None
                return self._delimiter[2:] + after
            if len(after) < 2:
                break  # the rest of the line is yet to come
            at = self._held.find(self._delimiter, at + 1, MAX_PREAMBLE_BYTES)
        if len(self._held) > MAX_PREAMBLE_BYTES:
            raise BoundaryMissing
        return b""
