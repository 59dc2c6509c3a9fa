"""Write ``multipart/related`` (RFC 2387) piece by piece, never a part as a whole."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its media type, its bytes as they come, and where it can be had by itself."""

    content_type: str
    body: Iterable[bytes]
    location: str = ""


class Multipart:
    """A message of parts of one media type."""

    def __init__(self, media_type: str) -> None:
        self._boundary = secrets.token_hex(16)
        self.content_type = f'multipart/related; type="{media_type}"; boundary={self._boundary}'

    def write(self, parts: Iterable[Part]) -> Iterator[bytes]:
        """The message, in pieces as the parts give them."""
        for part in parts:
            location = f"Content-Location: {part.location}\r\n" if part.location else ""
            yield f"--{self._boundary}\r\nContent-Type: {part.content_type}\r\n{location}\r\n".encode("ascii")
            yield from part.body
            yield b"\r\n"
        yield f"--{self._boundary}--\r\n".encode("ascii")
