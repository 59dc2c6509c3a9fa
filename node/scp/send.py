"""C-STORE as a service user: files go out as they are, each in its own transfer syntax (PS3.4 B)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pynetdicom import build_context
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import split_dataset

from node.dicom.status import SUCCESS
from node.errors import VoxelnodeError
from node.scp.requestor import association, paused

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
    instances = [_read_instance(path) for path in paths]
    for batch in _batches(instances):
        contexts = [build_context(*kind) for kind in dict.fromkeys(instance.kind for instance in batch)]
        with association(host, port, calling_ae_title, called_ae_title, contexts, timeout) as assoc:
            accepted = {
                (str(c.abstract_syntax), str(c.transfer_syntax[0])): c.context_id for c in assoc.accepted_contexts
            }
            for number, instance in enumerate(batch):
                if instance.kind not in accepted:
                    raise NotSent(f"{instance.path}: the peer does not take {' in '.join(instance.kind)}")
                _store(assoc, accepted[instance.kind], number % 65535 + 1, instance)
    return len(instances)


@dataclass(frozen=True, slots=True)
class _Instance:
    """A file to send; the UIDs are those of its data set, which its File Meta Information may contradict."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set_offset: int

    @property
    def kind(self) -> tuple[str, str]:
        """SOP class and transfer syntax: what a presentation context is agreed for."""
        return self.sop_class_uid, self.transfer_syntax_uid


def _read_instance(path: Path) -> _Instance:
    try:
        meta, offset = split_dataset(path)
        head = dcmread(path, specific_tags=["SOPClassUID", "SOPInstanceUID"], stop_before_pixels=True)
        return _Instance(path, str(head.SOPClassUID), str(head.SOPInstanceUID), str(meta.TransferSyntaxUID), offset)
    except (InvalidDicomError, AttributeError, EOFError) as error:
        raise NotSent(f"{path} is no DICOM file, or one without its identifiers (PS3.10 7.1)") from error


def _store(assoc: Any, context_id: int, message_id: int, instance: _Instance) -> None:
    """Send one instance and take its answer.

    pynetdicom's own `send_c_store` announces the UIDs of the File Meta Information.
    """
    request = C_STORE()
    request.MessageID, request.Priority = message_id, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = instance.sop_class_uid, instance.sop_instance_uid
    request.DataSet = BytesIO(instance.path.read_bytes()[instance.data_set_offset :])
    with paused(assoc):
        assoc.dimse.send_msg(request, context_id)
        _, response = assoc.dimse.get_msg(block=True)
    if response is None:
        raise NotSent(f"{instance.path}: the peer did not answer")
    if response.Status != SUCCESS:
        raise NotSent(f"{instance.path}: answered 0x{response.Status:04X} {response.ErrorComment or ''}".rstrip())


def _batches(instances: Sequence[_Instance]) -> Iterator[list[_Instance]]:
    """Cut the instances, in their order, where one more would need too many presentation contexts."""
    batch: list[_Instance] = []
    seen: set[tuple[str, str]] = set()
    for instance in instances:
        if instance.kind not in seen and len(seen) == MAXIMUM_CONTEXTS:
            yield batch
            batch, seen = [], set()
        batch.append(instance)
        seen.add(instance.kind)
    if batch:
        yield batch
