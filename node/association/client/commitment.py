"""Storage commitment as a service user: N-ACTION, and the report that answers it (PS3.4 J).

The peer may report on the association that asked, or later on one of its own, which
`node.association.services.commitment` serves.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

from pydicom.dataset import Dataset
from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT

from node.association.association import primitive_of
from node.association.client.addresses import Address
from node.association.client.association import (
    AssociationLost,
    NoAssociation,
    NothingAccepted,
    RequestedAssociation,
    association,
    contexts_of,
)
from node.dicom.command import N_EVENT_REPORT_RQ, Element
from node.dicom.encoding import EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from node.dicom.status import NO_SUCH_INSTANCE, SUCCESS
from node.dicom.uids import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from node.dicom.values import items, text
from node.errors import VoxelnodeError

REQUEST_COMMITMENT = 1
"""The one Action Type ID of the service, PS3.4 J.3.2."""

REPORT_SECONDS = 5.0
"""How long the association stays open for the report; a peer that needs longer reports on one of its own."""

FAILURE_REASONS: Mapping[int, str] = {
    0x0110: "it could not be processed",
    0x0112: "it is not there",
    0x0119: "it is there with another SOP class",
    0x0122: "its SOP class is not supported",
    0x0131: "the transaction UID was used before",
    0x0213: "the destination had no room",
}
"""*Failure Reason* (0008,1197), PS3.3 C.14.1.1."""


class CommitmentRefused(VoxelnodeError):
    """The peer does not take requests for commitment; the message says why."""


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """SOP Instance UIDs that a peer keeps, and others with the reason why it does not."""

    transaction_uid: str
    committed: frozenset[str]
    failed: Mapping[str, str]


def report_of(information: Dataset) -> CommitmentReport:
    """Return the report in the Event Information of an N-EVENT-REPORT (PS3.4 table J.3-2)."""
    failed = {
        text(item, "ReferencedSOPInstanceUID"): _failure_reason(item)
        for item in items(information, "FailedSOPSequence")
    }
    committed = {text(item, "ReferencedSOPInstanceUID") for item in items(information, "ReferencedSOPSequence")}
    return CommitmentReport(text(information, "TransactionUID"), frozenset(committed - failed.keys()), failed)


def request_commitment(
    peer: Address,
    calling_ae_title: str,
    transaction_uid: str,
    references: Sequence[tuple[str, str]],
    timeout: float,
    is_abandoned: Callable[[], bool] = lambda: False,
) -> CommitmentReport | None:
    """Ask a peer to keep instances, and return its report; None if the report comes later.

    `references`, sequence of (str, str): SOP Class UID and SOP Instance UID of each instance.

    Raises NoAssociation: the peer cannot be reached or rejects the association.
    Raises CommitmentRefused: it does not offer the service, or refuses the request.
    """
    contexts = contexts_of([(STORAGE_COMMITMENT, [EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN])])
    try:
        with association(peer, calling_ae_title, contexts, timeout, is_abandoned=is_abandoned) as assoc:
            request = primitive_of(
                N_ACTION,
                MessageID=assoc.next_message_id(),
                RequestedSOPClassUID=STORAGE_COMMITMENT,
                RequestedSOPInstanceUID=STORAGE_COMMITMENT_INSTANCE,
                ActionTypeID=REQUEST_COMMITMENT,
            )
            status = assoc.request(request, _action_information(transaction_uid, references)).command.status
            if status != SUCCESS:
                raise CommitmentRefused(f"{peer} answered the request for storage commitment with 0x{status or 0:04X}")
            return _report_on(assoc, transaction_uid)
    except NothingAccepted as error:
        raise CommitmentRefused(
            f"{peer.ae_title} does not offer storage commitment: allow it there, or set confirm = false"
        ) from error
    except AssociationLost as error:
        raise NoAssociation(f"{peer}: {error}") from error


def _action_information(transaction_uid: str, references: Sequence[tuple[str, str]]) -> Dataset:
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = []
    for sop_class_uid, sop_instance_uid in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
        information.ReferencedSOPSequence.append(item)
    return information


def _report_on(assoc: RequestedAssociation, transaction_uid: str) -> CommitmentReport | None:
    """Wait for the report on the association that asked, and answer it."""
    deadline, is_abandoned = monotonic() + REPORT_SECONDS, assoc.is_abandoned
    assoc.is_abandoned = lambda: monotonic() > deadline or is_abandoned()
    try:
        message = assoc.receive()
    except AssociationLost:
        return None
    command = message.command
    if command.field != N_EVENT_REPORT_RQ or not command.has_data_set:
        return None
    try:
        report = report_of(assoc.decoded(message))
    except AssociationLost:
        return None
    is_ours = report.transaction_uid == transaction_uid
    answer = primitive_of(
        N_EVENT_REPORT,
        MessageIDBeingRespondedTo=command.message_id or 0,
        AffectedSOPClassUID=STORAGE_COMMITMENT,
        Status=SUCCESS if is_ours else NO_SUCH_INSTANCE,
        AffectedSOPInstanceUID=STORAGE_COMMITMENT_INSTANCE,
        EventTypeID=command.number(Element.EVENT_TYPE_ID) or 0,
    )
    with suppress(AssociationLost):  # the report is here all the same
        assoc.send_message(message.context_id, answer)
    return report if is_ours else None


def _failure_reason(item: Dataset) -> str:
    reason = item.get("FailureReason")
    number = reason if isinstance(reason, int) else 0
    return FAILURE_REASONS.get(number, f"Failure Reason 0x{number:04X}")
