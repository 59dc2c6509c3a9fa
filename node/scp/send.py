"""C-STORE as a service user: files go out as they are, each in its own transfer syntax (PS3.4 B)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pynetdicom import build_context

from node.dicom.status import SUCCESS
from node.errors import VoxelnodeError
from node.scp.requestor import association

MAXIMUM_CONTEXTS = 128
"""Presentation contexts of one association: their IDs are the odd numbers of a byte (PS3.8 9.3.2.2)."""


class NotSent(VoxelnodeError):
    """A file was not taken by the peer; the message names it and the status."""


def send_files(
    paths: Sequence[Path], host: str, port: int, calling_ae_title: str, called_ae_title: str, timeout: float = 60.0
) -> int:
    """Send DICOM files and return how many; their data set bytes are not touched.

    One presentation context is proposed for each pair of SOP class and transfer syntax; more than 128 of them make
    several associations.

    Parameters
    ----------
    timeout : float, seconds
        Longest wait for the connection, its acceptance and each response.

    Raises
    ------
    NoAssociation
        Nobody answers at the address, or the answer is no.
    NotSent
        A file is no DICOM file, its context was refused, or it was not answered with success; those before it are sent.
    """
    kinds = {path: _kind(path) for path in paths}
    for batch in _batches(kinds):
        contexts = [build_context(*kind) for kind in dict.fromkeys(kinds[path] for path in batch)]
        with association(host, port, calling_ae_title, called_ae_title, contexts, timeout) as assoc:
            for number, path in enumerate(batch):
                try:
                    response = assoc.send_c_store(path, msg_id=number % 65535 + 1)
                except (ValueError, RuntimeError) as error:
                    raise NotSent(f"{path}: the peer does not take {' in '.join(kinds[path])}") from error
                if "Status" not in response:
                    raise NotSent(f"{path}: no answer from the peer within {timeout:g} s")
                if response.Status != SUCCESS:
                    comment = response.get("ErrorComment", "")
                    raise NotSent(f"{path}: answered 0x{response.Status:04X} {comment}".rstrip())
    return len(kinds)


def _kind(path: Path) -> tuple[str, str]:
    """SOP Class UID and Transfer Syntax UID of a file."""
    try:
        meta = read_file_meta_info(path)
        return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)
    except (InvalidDicomError, AttributeError) as error:
        raise NotSent(f"{path} has no File Meta Information (PS3.10 7.1)") from error


def _batches(kinds: dict[Path, tuple[str, str]]) -> Iterator[list[Path]]:
    """Cut the files, in their order, where one more would need too many presentation contexts."""
    batch: list[Path] = []
    seen: set[tuple[str, str]] = set()
    for path, kind in kinds.items():
        if kind not in seen and len(seen) == MAXIMUM_CONTEXTS:
            yield batch
            batch, seen = [], set()
        batch.append(path)
        seen.add(kind)
    if batch:
        yield batch
