"""What goes out on an association, ours or theirs: messages cut into PDUs, and data sets from files or memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.dsutils import encode

from node.association.framing import PDV_HEADER_BYTES, data_pdu
from node.dicom.command import DATA_SET, NO_DATA_SET, Element, encode_command
from node.errors import VoxelnodeError

MAXIMUM_PDU_BYTES = 131072
"""Largest PDU that is sent to a peer which takes any."""


class SourceLost(VoxelnodeError):
    """The bytes of an instance could not be read to their end; what was sent of them cannot be taken back."""


def fragment_bytes(peer_maximum_bytes: int) -> int:
    """How much of a message goes into one PDU: what the peer takes (PS3.8 D.1; 0 is any), or what we would."""
    return max(min(peer_maximum_bytes or MAXIMUM_PDU_BYTES, MAXIMUM_PDU_BYTES) - PDV_HEADER_BYTES, 2)


def message_pdus(
    context_id: int, elements: Mapping[Element, int | str], size: int, data_set: bytes | None = None
) -> bytes:
    """Encode a message as P-DATA-TF PDUs with fragments of `size`; `data_set` is encoded already."""
    kind = NO_DATA_SET if data_set is None else DATA_SET
    command = encode_command({**elements, Element.DATA_SET_TYPE: kind})
    pdus = [*fragment_pdus(context_id, True, [command], size)]
    if data_set is not None:
        pdus += fragment_pdus(context_id, False, [data_set], size)
    return b"".join(pdus)


def request_pdus(context_id: int, elements: Mapping[Element, int | str], size: int) -> bytes:
    """Encode the command set of a message whose data set follows."""
    command = encode_command({**elements, Element.DATA_SET_TYPE: DATA_SET})
    return b"".join(fragment_pdus(context_id, True, [command], size))


def fragment_pdus(context_id: int, is_command: bool, fragments: Iterable[bytes], size: int) -> Iterator[bytes]:
    """P-DATA-TF PDUs of a command or a data set, one for each `size` bytes; the last one says that it is the last."""
    pending: bytes | None = None
    for fragment in fragments:
        for at in range(0, max(len(fragment), 1), size):
            if pending is not None:
                yield data_pdu(context_id, is_command, False, pending)
            pending = fragment[at : at + size]
    yield data_pdu(context_id, is_command, True, pending or b"")


@dataclass(frozen=True, slots=True)
class InstanceBytes:
    """The bytes of a data set to send: a part of a file, or in memory."""

    path: Path | None = None
    offset: int = 0
    length: int = 0
    data: bytes = b""

    @contextmanager
    def fragments(self, size: int) -> Iterator[Iterator[bytes]]:
        """The bytes in fragments of `size`.

        Raises
        ------
        SourceLost
            While they are read: the file is gone, or shorter than it was.
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
            raise SourceLost("the file has become shorter since it was stored")
        left -= len(fragment)
        yield fragment


def encoded(ds: Dataset, transfer_syntax_uid: str) -> bytes:
    """A data set without pixels, such as an identifier, in one of the uncompressed transfer syntaxes.

    Raises
    ------
    VoxelnodeError
        A value cannot be encoded.
    """
    syntax = UID(transfer_syntax_uid)
    data = encode(ds, syntax.is_implicit_VR, syntax.is_little_endian, False)
    if data is None:
        raise VoxelnodeError("a data set cannot be encoded")
    return bytes(data)
