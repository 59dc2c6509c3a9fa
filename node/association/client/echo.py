"""C-ECHO as a service user (PS3.4 A)."""

from __future__ import annotations

from time import perf_counter

from node.association.client.association import Address, AssociationLost, association
from node.association.client.negotiation import contexts_of
from node.dicom.command import C_ECHO_RQ, Element
from node.dicom.encoding import IMPLICIT_LITTLE_ENDIAN
from node.dicom.status import SUCCESS
from node.dicom.uids import VERIFICATION
from node.errors import VoxelnodeError


class EchoFailed(VoxelnodeError):
    """The peer accepted the association but did not answer C-ECHO with success."""


def verify(peer: Address, calling_ae_title: str, timeout: float) -> float:
    """Verify a peer: connect, associate, C-ECHO. Return the seconds it took.

    Raises
    ------
    NoAssociation
        The address does not answer, or the peer rejects the association.
    EchoFailed
        C-ECHO was not answered in time, or not with success.
    """
    began = perf_counter()
    try:
        with association(
            peer, calling_ae_title, contexts_of([(VERIFICATION, [IMPLICIT_LITTLE_ENDIAN])]), timeout
        ) as assoc:
            request: dict[Element, int | str] = {
                Element.AFFECTED_SOP_CLASS_UID: VERIFICATION,
                Element.COMMAND_FIELD: C_ECHO_RQ,
                Element.MESSAGE_ID: assoc.next_message_id(),
            }
            response = assoc.request(next(iter(assoc.accepted)), request).command
            took = perf_counter() - began
    except AssociationLost as error:
        raise EchoFailed(f"{peer} did not answer C-ECHO: {error}") from error
    if response.status != SUCCESS:
        raise EchoFailed(f"{peer} answered C-ECHO with 0x{response.status or 0:04X} {response.comment}".rstrip())
    return took
