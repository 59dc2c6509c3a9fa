"""Encode outgoing DIMSE messages: fragments in PDUs, data sets from files or from memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.dsutils import encode

from node.association.framing import PDV_HEADER_BYTES, data_header
from node.errors import VoxelnodeError

MAXIMUM_PDU_BYTES = 131072
"""Largest PDU sent to a peer that sets no limit."""


class SourceLost(VoxelnodeError):
    """An instance could not be read to its end; the bytes already sent cannot be taken back."""


def fragment_bytes(peer_maximum_bytes: int) -> int:
    """Return the fragment size in bytes: the peer's *Maximum Length Received* (PS3.8 D.1; 0: no limit) or ours."""
    return max(min(peer_maximum_bytes or MAXIMUM_PDU_BYTES, MAXIMUM_PDU_BYTES) - PDV_HEADER_BYTES, 2)


def message_pdus(context_id: int, command: bytes, size: int, data_set: bytes | None = None) -> bytes:
    """Put an encoded command set and data set into P-DATA-TF PDUs with fragments of `size` bytes."""
    pdus = [*fragment_pdus(context_id, True, [command], size)]
    if data_set is not None:
        pdus += fragment_pdus(context_id, False, [data_set], size)
    return b"".join(pdus)


def fragment_pdus(
    context_id: int, is_command: bool, fragments: Iterable[bytes], size: int
) -> Iterator[bytes | memoryview]:
    """Yield the parts of P-DATA-TF PDUs: a header, and behind it up to `size` bytes of a command set or data set.

    The final PDU is marked as last. Nothing is copied: a part is valid as long as its fragment is.
    """
    full = data_header(context_id, is_command, False, size)
    pending = memoryview(b"")
    is_first = True
    for fragment in fragments:
        view = memoryview(fragment)
        for at in range(0, len(view), size):
            if not is_first:
                yield full if len(pending) == size else data_header(context_id, is_command, False, len(pending))
                yield pending
            pending, is_first = view[at : at + size], False
    yield data_header(context_id, is_command, True, len(pending))
    yield pending


@dataclass(frozen=True, slots=True)
class InstanceBytes:
    """The encoded data set to send: a range of a file, or bytes in memory."""

    path: Path | None = None
    offset: int = 0
    length: int = 0
    data: bytes = b""

    @contextmanager
    def fragments(self, size: int) -> Iterator[Iterator[bytes]]:
        """Yield an iterator over fragments of at most `size` bytes.

        Raises SourceLost: the file is gone, or shorter than it was.
        """
        if self.path is None:
            yield iter([self.data])
            return
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.offset)
                yield _read_fragments(file, self.length, size)
        except OSError as error:
            raise SourceLost(f"the file cannot be read ({error.strerror or error})") from error


def _read_fragments(file: BinaryIO, left: int, size: int) -> Iterator[bytes]:
    while left > 0:
        fragment = file.read(min(size, left))
        if not fragment:
            raise SourceLost("the file is shorter than when it was stored")
        left -= len(fragment)
        yield fragment


def encoded(ds: Dataset, transfer_syntax_uid: str) -> bytes:
    """Encode a data set without pixels, such as an identifier, in an uncompressed transfer syntax.

    Raises VoxelnodeError: a value cannot be encoded.
    """
    syntax = UID(transfer_syntax_uid)
    data = encode(ds, syntax.is_implicit_VR, syntax.is_little_endian, False)
    if data is None:
        raise VoxelnodeError("a data set cannot be encoded")
    return bytes(data)
