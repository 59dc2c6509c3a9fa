"""The content of the files of a data set: bytes, or a copy of a volume."""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO

from isal import igzip

from node.extensions.bids.rules import NotExported

CHUNK_BYTES = 1 << 20

_Readable = BufferedReader | igzip.GzipFile
COMPRESSION_LEVEL = 1

FICLONE = 0x40049409
"""ioctl of Linux that makes a file share the blocks of another one (Btrfs, XFS, bcachefs)."""

_EXTENSION = {348: (352, "<f", 108), 540: (544, "<q", 168)}
"""By the size of a NIfTI header: where the voxels begin without extension, and format and place of that number."""


@dataclass(frozen=True, slots=True)
class NiftiCopy:
    """A volume of a node, compressed; with its header extension, which has its sidecar, or without it.

    `local` gives the place from which `file` can be read now, and raises an OSError.
    """

    file: Path
    sha256: str
    without_extension: bool
    local: Callable[[Path], Path] = Path

    @property
    def identity(self) -> str:
        """What the content depends on."""
        return self.sha256 if self.without_extension else f"{self.sha256}+"

    def write(self, path: Path, *, link: bool) -> str:
        """Write the copy to a new file, and return its SHA-256.

        `link`: make a hard link of a file that is not to be changed, if the file system can. Raises NotExported: the
        volume is no longer there, or its bytes are not those that the node wrote. Raises OSError: it cannot be read
        now.
        """
        try:
            local = self.local(self.file)
            with local.open("rb") as source:
                self._require(hashlib.file_digest(source, "sha256").hexdigest())
                source.seek(0)
                compressed = self.file.name.endswith(".gz")
                if compressed and not (self.without_extension and _has_extension(source)):
                    return self._as_it_is(source, local, path, link=link)
                return self._rewritten(source, path)
        except FileNotFoundError:
            raise NotExported("its files were replaced or removed meanwhile: the next run has the new ones") from None

    def _as_it_is(self, source: BufferedReader, local: Path, path: Path, *, link: bool) -> str:
        if link and _linked(local, path):
            return self.sha256
        with path.open("xb") as out:
            if not _cloned(source, out):
                for chunk in _chunks(source):
                    out.write(chunk)
        return self.sha256

    def _rewritten(self, source: BufferedReader, path: Path) -> str:
        """Compress, without the header extension if so; neither time nor name are in the header of the copy."""
        plain: _Readable = igzip.GzipFile(fileobj=source) if self.file.name.endswith(".gz") else source
        with path.open("xb") as out, igzip.GzipFile("", "wb", COMPRESSION_LEVEL, out, 0) as packed:
            if self.without_extension:
                packed.write(_header_alone(plain))
            for chunk in _chunks(plain):
                packed.write(chunk)
        with path.open("rb") as written:
            return hashlib.file_digest(written, "sha256").hexdigest()

    def _require(self, digest: str) -> None:
        if digest != self.sha256:
            raise NotExported("its file is not the one that the node wrote: `voxelnode fsck` shows the difference")


Content = bytes | NiftiCopy


def identity_of(content: Content) -> str:
    """Return what tells a content from another one."""
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else content.identity


def digest_of(file: Path) -> str | None:
    """Return the SHA-256 of a file; None if it cannot be read, as one whose content is elsewhere (git-annex)."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None


def _has_extension(source: IO[bytes]) -> bool:
    header = igzip.GzipFile(fileobj=source).read(max(_EXTENSION) + 4)
    source.seek(0)
    size = int.from_bytes(header[:4], "little")
    return size in _EXTENSION and header[size] != 0  # the byte after the header says whether one follows


def _header_alone(stream: _Readable) -> bytes:
    """Read up to the voxels, and return the header as it is without extensions."""
    size = int.from_bytes(start := stream.read(4), "little")
    if size not in _EXTENSION:
        raise NotExported("its file does not begin with a header of NIfTI in little endian")
    begin, form, place = _EXTENSION[size]
    header = bytearray(start + stream.read(size - 4))
    left = int(struct.unpack_from(form, header, place)[0]) - size
    while left > 0:
        left -= len(stream.read(min(left, CHUNK_BYTES))) or left
    struct.pack_into(form, header, place, begin)
    return bytes(header) + bytes(4)


def _chunks(stream: _Readable) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def _linked(source: Path, path: Path) -> bool:
    try:
        os.link(source, path)
    except OSError:  # another file system, or one without links
        return False
    return True


def _cloned(source: IO[bytes], out: IO[bytes]) -> bool:
    try:
        fcntl.ioctl(out.fileno(), FICLONE, source.fileno())
    except OSError:
        return False
    return True
