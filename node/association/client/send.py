"""C-STORE as a service user: instances go out as they are stored, each in its own transfer syntax (PS3.4 B).

Only a peer that does not take that transfer syntax gets an instance uncompressed; no other change is ever made.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pynetdicom.dsutils import split_dataset

from node.association.client.association import Address, Association, AssociationLost, association
from node.association.client.negotiation import MAXIMUM_CONTEXTS, contexts_of
from node.association.outgoing import InstanceBytes
from node.dicom.command import C_STORE_RQ, MEDIUM_PRIORITY, Element
from node.dicom.status import SUCCESS
from node.errors import VoxelnodeError
from node.volume.read.transcoding import TARGETS, choose_target


class NotSent(VoxelnodeError):
    """A file was not taken by the peer; the message names it and the status."""


class NotSendable(VoxelnodeError):
    """An instance cannot be sent to this peer; the message says why, without patient data."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An instance to send: a file whose data set has `bytes` bytes from `offset` on.

    The UIDs are those of the data set, which its File Meta Information may contradict. With `sha256`, of the data set,
    the file is looked through before it is sent.
    """

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    offset: int
    bytes: int
    sha256: str | None = None


class Fate(Enum):
    """What became of an instance that was to be sent (PS3.4 C.4.2.1.6)."""

    COMPLETED = auto()
    WARNING = auto()
    FAILED = auto()


@dataclass(frozen=True, slots=True)
class Sent:
    """An instance, and what became of it; `reason` says why it failed, `comment` what the peer said of it.

    What a peer says may be of a patient, and is no part of the log.
    """

    instance: Outgoing
    fate: Fate
    reason: str = ""
    comment: str = ""


Transcode = Callable[[Path, str], AbstractContextManager[InstanceBytes]]
"""Gives the data set of a file in another transfer syntax; raises `NotSendable`."""


def send(
    instances: Sequence[Outgoing],
    peer: Address,
    calling_ae_title: str,
    transcode: Transcode,
    timeout: float,
    *,
    originator: tuple[str, int] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Sent]:
    """Send instances, and tell of each what became of it.

    For each SOP class the transfer syntaxes that are stored are proposed, each in a context of its own, and one with
    the uncompressed ones; more than 128 contexts make several associations.

    Parameters
    ----------
    timeout : float, seconds
        Longest wait for the connection, its acceptance and each response.
    originator : (str, int) or None
        AE title and Message ID of the C-MOVE that this is a part of.
    stop : callable
        Asked before each instance; True ends the association, and nothing more is told.

    Raises
    ------
    NoAssociation
        Nobody answers at the address, or the answer is no: what has not been told is not sent.
    """
    for batch in batches(instances):
        if stop():
            return
        contexts = contexts_of(proposals(batch))
        with association(peer, calling_ae_title, contexts, timeout) as assoc:
            outlet = _Outlet(assoc, originator)
            for instance in batch:
                if stop():
                    return
                yield outlet.send(instance, transcode)


class _Outlet:
    """The association to a peer, as long as it is there."""

    def __init__(self, assoc: Association, originator: tuple[str, int] | None) -> None:
        self._assoc, self._originator = assoc, originator
        self._lost = ""

    def send(self, instance: Outgoing, transcode: Transcode) -> Sent:
        """Send one instance and take its answer; never raises for a peer that is gone."""
        if self._lost:
            return Sent(instance, Fate.FAILED, self._lost)
        accepted = self._assoc.accepted_for(instance.sop_class_uid)
        try:
            with source_of(instance, accepted, transcode) as (context_id, source):
                request = store_request(instance, self._assoc.next_message_id(), self._originator)
                self._assoc.send_instance(context_id, request, source)
                answer = self._assoc.receive().command
        except NotSendable as error:
            return Sent(instance, Fate.FAILED, str(error))
        except AssociationLost as error:
            self._lost = f"{self._assoc.peer}: {error}"
            return Sent(instance, Fate.FAILED, self._lost)
        return judged(instance, answer.status, answer.comment)


def store_request(
    instance: Outgoing, message_id: int, originator: tuple[str, int] | None = None
) -> dict[Element, int | str]:
    """The command set of a C-STORE-RQ (PS3.7 9.3.1.1)."""
    request: dict[Element, int | str] = {
        Element.AFFECTED_SOP_CLASS_UID: instance.sop_class_uid,
        Element.COMMAND_FIELD: C_STORE_RQ,
        Element.MESSAGE_ID: message_id,
        Element.PRIORITY: MEDIUM_PRIORITY,
        Element.AFFECTED_SOP_INSTANCE_UID: instance.sop_instance_uid,
    }
    if originator is not None:
        request[Element.MOVE_ORIGINATOR_AE_TITLE], request[Element.MOVE_ORIGINATOR_MESSAGE_ID] = originator
    return request


_WARNINGS = frozenset({0x0001, 0x0107, 0x0116})
"""Statuses of the class "warning" besides 0xBnnn, PS3.7 C.4."""


def judged(instance: Outgoing, status: int | None, comment: str = "") -> Sent:
    """What the status of a C-STORE-RSP makes of an instance (PS3.4 B.2.3)."""
    if status == SUCCESS:
        return Sent(instance, Fate.COMPLETED)
    told = "answered without a status" if status is None else f"answered 0x{status:04X}"
    is_warning = status is not None and (status >> 12 == 0xB or status in _WARNINGS)
    return Sent(instance, Fate.WARNING if is_warning else Fate.FAILED, told, comment)


@contextmanager
def source_of(
    instance: Outgoing, accepted: Mapping[str, int], transcode: Transcode
) -> Iterator[tuple[int, InstanceBytes]]:
    """The accepted context in which an instance goes out, and its bytes for that context.

    Parameters
    ----------
    accepted : mapping of transfer syntax UID to context ID
        The contexts of its SOP class.

    Raises
    ------
    NotSendable
        No context will do, the file is damaged or gone, or it cannot be decompressed.
    """
    target = choose_target(instance.transfer_syntax_uid, accepted.keys())
    if target is None:
        kinds = ", ".join(sorted(accepted)) or "none"
        raise NotSendable(
            f"the peer does not take {instance.sop_class_uid} in {instance.transfer_syntax_uid}, but in {kinds}"
        )
    _require_intact(instance)
    if target == instance.transfer_syntax_uid:
        yield accepted[target], InstanceBytes(instance.path, instance.offset, instance.bytes)
    else:
        with transcode(instance.path, target) as source:
            yield accepted[target], source


def _require_intact(instance: Outgoing) -> None:
    """Raise unless the file holds what was stored: what is damaged is not handed on."""
    try:
        with instance.path.open("rb") as file:
            length = file.seek(0, 2) - instance.offset
            file.seek(instance.offset)
            intact = length == instance.bytes and (
                instance.sha256 is None or hashlib.file_digest(file, "sha256").hexdigest() == instance.sha256
            )
    except OSError as error:
        raise NotSendable(f"its file cannot be read ({error.strerror}): see `voxelnode fsck`") from error
    if not intact:
        raise NotSendable("its file is not what was stored: see `voxelnode fsck`")


def proposals(instances: Iterable[Outgoing]) -> list[tuple[str, list[str]]]:
    """(SOP class, transfer syntaxes) of the presentation contexts for some instances."""
    stored: dict[str, list[str]] = {}
    for instance in instances:
        syntaxes = stored.setdefault(instance.sop_class_uid, [])
        if instance.transfer_syntax_uid not in syntaxes:
            syntaxes.append(instance.transfer_syntax_uid)
    kinds = []
    for sop_class_uid, syntaxes in stored.items():
        kinds += [(sop_class_uid, [syntax]) for syntax in syntaxes]
        if others := [target for target in TARGETS if target not in syntaxes]:
            kinds.append((sop_class_uid, others))
    return kinds


def batches(instances: Sequence[Outgoing]) -> Iterator[list[Outgoing]]:
    """Cut the instances, in their order, where one more would need too many presentation contexts."""
    batch: list[Outgoing] = []
    kinds: dict[tuple[str, str], Outgoing] = {}  # one of each
    for instance in instances:
        kind = instance.sop_class_uid, instance.transfer_syntax_uid
        if kind not in kinds and len(proposals([*kinds.values(), instance])) > MAXIMUM_CONTEXTS:
            yield batch
            batch, kinds = [], {}
        batch.append(instance)
        kinds.setdefault(kind, instance)
    if batch:
        yield batch


def send_files(
    paths: Sequence[Path],
    host: str,
    port: int,
    calling_ae_title: str,
    called_ae_title: str,
    timeout: float = 60.0,
    tls: ssl.SSLContext | None = None,
) -> int:
    """Send files as they are and return how many.

    Raises
    ------
    NoAssociation
        Nobody answers at the address, or the answer is no.
    NotSent
        A file is no DICOM file, its context was refused, or it was not answered with success; those before it are sent.
    """
    instances = [read_outgoing(path) for path in paths]
    peer = Address(called_ae_title, host, port, tls)
    for sent in send(instances, peer, calling_ae_title, as_stored_only, timeout):
        if sent.fate is Fate.FAILED:
            raise NotSent(f"{sent.instance.path}: {sent.reason} {sent.comment}".rstrip())
    return len(instances)


def as_stored_only(path: Path, target: str) -> AbstractContextManager[InstanceBytes]:
    """A `Transcode` that never does."""
    raise NotSendable("the peer does not take its transfer syntax")


def read_outgoing(path: Path) -> Outgoing:
    """Return a file as an instance to send.

    Raises
    ------
    NotSent
        It is no DICOM file, or lacks its identifiers.
    """
    try:
        meta, offset = split_dataset(path)
        head = dcmread(path, specific_tags=["SOPClassUID", "SOPInstanceUID"], stop_before_pixels=True)
        sop_class_uid, sop_instance_uid = str(head.SOPClassUID), str(head.SOPInstanceUID)
        length = path.stat().st_size - offset
        return Outgoing(path, sop_class_uid, sop_instance_uid, str(meta.TransferSyntaxUID), offset, length)
    except (InvalidDicomError, AttributeError, EOFError) as error:
        raise NotSent(f"{path} is no DICOM file, or one without its identifiers (PS3.10 7.1)") from error
