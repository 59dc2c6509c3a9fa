"""C-STORE as a service user: instances are sent as they are stored, each in its own transfer syntax (PS3.4 B).

A peer that does not accept that transfer syntax gets the instance uncompressed, and a data set that is not in its
transfer syntax is encoded in it; nothing else ever changes.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pynetdicom.dsutils import split_dataset
from pynetdicom.status import STATUS_WARNING, code_to_category

from node.archive.base import LocalFile
from node.archive.intact import data_set_head, problem_with
from node.association.client.addresses import Address
from node.association.client.association import (
    MAXIMUM_CONTEXTS,
    AssociationLost,
    RequestedAssociation,
    association,
    contexts_of,
)
from node.association.framing import InstanceBytes
from node.children.decoder import Decoder, DecoderBusy, NotDecoded, NotDecodedNow
from node.children.decoding import transcode
from node.children.forwarding import CopyChange, copy_of, forward
from node.children.messages import Garbled
from node.dicom.coercion import Identity
from node.dicom.command import C_STORE_RQ, MEDIUM_PRIORITY, Element
from node.dicom.encoding import is_as_announced
from node.dicom.status import SUCCESS
from node.errors import VoxelnodeError
from node.index.rows.files import StoredInstance
from node.volume.read.transfer_syntaxes import TARGETS, choose_target


class SendFailed(VoxelnodeError):
    """The peer did not accept a file; the message names the file and the status."""


class NotSendable(VoxelnodeError):
    """An instance cannot be sent to this peer; the message gives the reason, without patient data."""


class NotAsStored(NotSendable):
    """The file of an instance is missing or damaged; `problem` is the difference from the stored bytes."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"damaged: its file {problem}; send the instance to this node again")
        self.problem = problem


class NotReadable(NotSendable):
    """The file of an instance cannot be read at present."""


class NoCopy(NotSendable):
    """This node has no room, or no time, for the copy that the peer needs; no instance is to blame."""


_Bytes = bytes  # `Outgoing` has a field of that name


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An instance to send: a file whose data set has `bytes` bytes from `offset` on.

    The UIDs are those of the data set; the File Meta Information may differ. `sha256` is the digest of the data set;
    if it is given, the file is verified before it is sent. `data` is the data set, if it was read and verified already.
    `fetch` gives the path of the file when it is to be read, and raises an OSError if it cannot be had now.
    `identity`: what is sent has it, and is otherwise as stored; see `StoredInstance`.
    """

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    offset: int
    bytes: int
    sha256: str | None = None
    identity: Identity | None = None
    data: _Bytes | None = field(default=None, repr=False)
    fetch: Callable[[], Path] | None = field(default=None, repr=False, compare=False)


class SendOutcome(Enum):
    """The outcome of a C-STORE sub-operation (PS3.4 C.4.2.1.6)."""

    COMPLETED = auto()
    WARNING = auto()
    FAILED = auto()


@dataclass(frozen=True, slots=True)
class Sent:
    """An instance and the outcome of sending it, with our `reason` and the peer's *Error Comment*.

    `damage`: the difference of its file from the stored bytes, if it was not sent because of that.

    The comment may name a patient; it is never logged.
    """

    instance: Outgoing
    fate: SendOutcome
    reason: str = ""
    comment: str = ""
    damage: str = ""

    @classmethod
    def not_sent(cls, instance: Outgoing, error: NotSendable) -> Sent:
        """Return the outcome for an instance that cannot be sent."""
        damage = error.problem if isinstance(error, NotAsStored) else ""
        return cls(instance, SendOutcome.FAILED, str(error), damage=damage)


Transcode = Callable[[Path, str, Identity | None], AbstractContextManager[InstanceBytes]]
"""Yields the data set of a file in another transfer syntax, or with another identity; raises `NotSendable`."""


def send(
    instances: Sequence[Outgoing],
    peer: Address,
    calling_ae_title: str,
    transcode: Transcode,
    timeout: float,
    *,
    originator: tuple[str, int] | None = None,
    priority: int = MEDIUM_PRIORITY,
    stop: Callable[[], bool] = lambda: False,
    is_abandoned: Callable[[], bool] = lambda: False,
) -> Iterator[Sent]:
    """Send instances and yield the outcome of each.

    For each SOP class, every stored transfer syntax is proposed in a context of its own, and the uncompressed transfer
    syntaxes in one more. More than 128 contexts make several associations.

    `timeout`: longest wait in seconds for the connection, its acceptance and each response; `originator`: AE title and
    Message ID of the C-MOVE that caused the sending, and `priority` its Priority; `stop`: called before each instance;
    True ends the association and the iteration; `is_abandoned`: called during each wait for a response; True ends the
    association, and the instances that are left fail. Raises NoAssociation: the address does not answer, or the peer
    rejects the association. Instances not yet yielded were not sent.
    """
    for batch in batches(instances):
        if stop():
            return
        contexts = contexts_of(proposals(batch))
        with association(peer, calling_ae_title, contexts, timeout, is_abandoned=is_abandoned) as assoc:
            sender = _InstanceSender(assoc, originator, priority)
            for instance in batch:
                if stop():
                    return
                yield sender.send(instance, transcode)


class _InstanceSender:
    """Sends instances on one association; after its loss, reports all others as failed."""

    def __init__(
        self, assoc: RequestedAssociation, originator: tuple[str, int] | None, priority: int = MEDIUM_PRIORITY
    ) -> None:
        self._assoc, self._originator, self._priority = assoc, originator, priority
        self._lost = ""

    def send(self, instance: Outgoing, transcode: Transcode) -> Sent:
        """Send one instance and wait for its answer; a lost association is an outcome, not an error."""
        if self._lost:
            return Sent(instance, SendOutcome.FAILED, self._lost)
        accepted = self._assoc.accepted_for(instance.sop_class_uid)
        try:
            with bytes_for_peer(instance, accepted, transcode) as (context_id, source):
                message_id = self._assoc.next_message_id()
                request = store_request(instance, message_id, self._originator, self._priority)
                self._assoc.send_instance(context_id, request, source)
                answer = self._assoc.answer_to(message_id)
        except NotSendable as error:
            return Sent.not_sent(instance, error)
        except AssociationLost as error:
            self._lost = f"{self._assoc.peer}: {error}"
            return Sent(instance, SendOutcome.FAILED, self._lost)
        return sent_with_status(instance, answer.status, answer.comment)


def store_request(
    instance: Outgoing, message_id: int, originator: tuple[str, int] | None = None, priority: int = MEDIUM_PRIORITY
) -> dict[Element, int | str]:
    """Return the command set of a C-STORE-RQ (PS3.7 9.3.1.1)."""
    request: dict[Element, int | str] = {
        Element.AFFECTED_SOP_CLASS_UID: instance.sop_class_uid,
        Element.COMMAND_FIELD: C_STORE_RQ,
        Element.MESSAGE_ID: message_id,
        Element.PRIORITY: priority,
        Element.AFFECTED_SOP_INSTANCE_UID: instance.sop_instance_uid,
    }
    if originator is not None:
        request[Element.MOVE_ORIGINATOR_AE_TITLE], request[Element.MOVE_ORIGINATOR_MESSAGE_ID] = originator
    return request


def sent_with_status(instance: Outgoing, status: int | None, comment: str = "") -> Sent:
    """Return the outcome for the status of a C-STORE-RSP (PS3.4 B.2.3)."""
    if status == SUCCESS:
        return Sent(instance, SendOutcome.COMPLETED)
    answer = "answered without a status" if status is None else f"answered 0x{status:04X}"
    is_warning = status is not None and code_to_category(status) == STATUS_WARNING
    return Sent(instance, SendOutcome.WARNING if is_warning else SendOutcome.FAILED, answer, comment)


@contextmanager
def bytes_for_peer(
    instance: Outgoing, accepted: Mapping[str, int], transcode: Transcode, preferred: Sequence[str] = TARGETS
) -> Iterator[tuple[int, InstanceBytes]]:
    """Yield the ID of an accepted context for an instance, and its bytes for that context.

    `accepted`: the accepted contexts of its SOP class; `preferred`: the order in which one is chosen for an instance
    that is transcoded.

    Raises NotSendable: no context fits, the file is damaged or missing, or it cannot be decompressed.
    """
    target = choose_target(instance.transfer_syntax_uid, accepted.keys(), preferred)
    if target is None:
        syntaxes = ", ".join(sorted(accepted)) or "none"
        raise NotSendable(
            f"the peer does not accept {instance.sop_class_uid} in {instance.transfer_syntax_uid}; accepted: {syntaxes}"
        )
    path = intact(instance) if instance.data is None else instance.path
    as_stored = target == instance.transfer_syntax_uid and is_as_announced(_data_set_head(instance, path), target)
    as_stored = as_stored and instance.identity is None
    if as_stored and instance.data is not None:
        yield accepted[target], InstanceBytes(data=instance.data)
    elif as_stored:
        yield accepted[target], InstanceBytes(path, instance.offset, instance.bytes)
    else:
        with transcode(path, target, instance.identity) as source:
            yield accepted[target], source


def _data_set_head(instance: Outgoing, path: Path) -> bytes:
    if instance.data is not None:
        return instance.data[:8]
    try:
        return data_set_head(path, instance.offset)
    except OSError as error:
        raise NotReadable(f"its file cannot be read now: {error.strerror}") from error


def intact(instance: Outgoing) -> Path:
    """Return the path of a file that holds the stored bytes. Raises NotSendable: it is damaged, and never sent."""
    try:
        path = instance.path if instance.fetch is None else instance.fetch()
        problem = problem_with(path, instance.offset, instance.bytes, instance.sha256)
    except OSError as error:
        raise NotReadable(f"its file cannot be read now: {error.strerror}") from error
    if problem is not None:
        raise NotAsStored(problem)
    return path


def proposals(instances: Iterable[Outgoing]) -> list[tuple[str, list[str]]]:
    """Return (SOP class UID, transfer syntax UIDs) of the presentation contexts for `instances`."""
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
    """Split the instances, in order, so that no batch needs more than 128 presentation contexts."""
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


def send_files(paths: Sequence[Path], peer: Address, calling_ae_title: str, timeout: float = 60.0) -> int:
    """Send files unchanged and return their number.

    Raises NoAssociation: the address does not answer, or the peer rejects the association.
    Raises SendFailed: a file is not DICOM, its context was refused, or its answer was a failure; the files before it
        are sent.
    """
    instances = [read_outgoing(path) for path in paths]
    for sent in send(instances, peer, calling_ae_title, never_transcode, timeout):
        if sent.fate is SendOutcome.FAILED:
            raise SendFailed(f"{sent.instance.path}: {sent.reason} {sent.comment}".rstrip())
    return len(instances)


def never_transcode(path: Path, target: str, identity: Identity | None = None) -> AbstractContextManager[InstanceBytes]:
    """Refuse to transcode (a `Transcode`)."""
    raise NotSendable("the peer does not accept its transfer syntax, or its data set is not in that transfer syntax")


def read_outgoing(path: Path) -> Outgoing:
    """Read the UIDs of a file and return it as an instance to send.

    Raises SendFailed: the file is not DICOM, or lacks its UIDs.
    """
    try:
        meta, offset = split_dataset(path)
        head = dcmread(path, specific_tags=["SOPClassUID", "SOPInstanceUID"], stop_before_pixels=True)
        sop_class_uid, sop_instance_uid = str(head.SOPClassUID), str(head.SOPInstanceUID)
        length = path.stat().st_size - offset
        return Outgoing(path, sop_class_uid, sop_instance_uid, str(meta.TransferSyntaxUID), offset, length)
    except (InvalidDicomError, AttributeError, EOFError) as error:
        raise SendFailed(f"{path} is not a DICOM file, or lacks its UIDs (PS3.10 7.1)") from error


def outgoing_of(instances: Iterable[StoredInstance], root: Path, local: LocalFile | None = None) -> list[Outgoing]:
    """Return the selected instances with their files below the root of the archive.

    `local`: fetches files that are not there; None: all of them are.
    """
    return [
        Outgoing(
            root / instance.key,
            instance.sop_class_uid,
            instance.sop_instance_uid,
            instance.transfer_syntax_uid,
            instance.data_set_offset,
            instance.bytes,
            instance.sha256,
            instance.identity,
            fetch=None if local is None else partial(local, instance),
        )
        for instance in instances
    ]


class Transcoder:
    """Decompresses in a child process into a file that is removed after it was sent.

    `folder`: `Archive.incoming`: the files lie beside part files; after a crash the next start removes them.
    """

    def __init__(self, decoder: Decoder, folder: Path) -> None:
        self._decoder, self._folder = decoder, folder

    @contextmanager
    def __call__(self, path: Path, target: str, identity: Identity | None = None) -> Iterator[InstanceBytes]:
        """Yield the data set of a file in the transfer syntax `target`, with the identity of its patient if it has one.

        Raises NotSendable: it cannot be transcoded. Raises NotReadable: the decoder was killed. Raises NoCopy: it
        cannot be transcoded now.
        """
        into, identified = (self._folder / f"{uuid.uuid4().hex}.part" for _ in range(2))
        offset, is_ready = 0, False
        try:
            try:
                into.touch(0o600)
                if identity is not None:
                    change = CopyChange(identity=identity)
                    identified.touch(0o600)
                    copy = copy_of(self._decoder.run(forward, path, change, into=identified), change)
                    path, offset = identified, copy.data_set_offset
                    is_ready = target == copy.transfer_syntax_uid
                    is_ready = is_ready and is_as_announced(data_set_head(path, offset), target)
                if not is_ready:
                    self._decoder.run(transcode, path, target, into=into)
                    path, offset = into, 0
                length = path.stat().st_size - offset
            except NotDecodedNow as error:
                raise NotReadable(f"it cannot be transcoded to {target} now: {error}") from error
            except (NotDecoded, Garbled) as error:
                raise NotSendable(f"it cannot be transcoded to {target}: {error}") from error
            except (DecoderBusy, OSError) as error:
                raise NoCopy(f"it cannot be transcoded to {target} now: {error}") from error
            yield InstanceBytes(path, offset, length)
        finally:
            into.unlink(missing_ok=True)
            identified.unlink(missing_ok=True)
