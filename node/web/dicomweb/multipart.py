"""Write ``multipart/related`` (RFC 2387) in pieces, without a whole part in memory."""

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
