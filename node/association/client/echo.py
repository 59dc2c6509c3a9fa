"""C-ECHO as a service user: whether a peer answers (PS3.7 9.1.5)."""

from __future__ import annotations

from time import perf_counter

from pynetdicom.dimse_primitives import C_ECHO

from node.association.client.addresses import Address
from node.association.client.association import AssociationLost, association, contexts_of
from node.association.primitives import primitive_of
from node.dicom.encoding import IMPLICIT_LITTLE_ENDIAN
from node.dicom.status import SUCCESS
from node.dicom.uids import VERIFICATION
from node.errors import VoxelnodeError


class EchoFailed(VoxelnodeError):
    """The peer accepted the association but did not answer C-ECHO with success."""


def verify(peer: Address, calling_ae_title: str, timeout: float) -> float:
    """Verify a peer: connect, associate, C-ECHO. Return the seconds it took.

    Raises NoAssociation: the address does not answer, or the peer rejects the association.
    Raises EchoFailed: C-ECHO was not answered in time, or not with success.
    """
    began = perf_counter()
    try:
        with association(
            peer, calling_ae_title, contexts_of([(VERIFICATION, [IMPLICIT_LITTLE_ENDIAN])]), timeout
        ) as assoc:
            request = primitive_of(C_ECHO, MessageID=assoc.next_message_id(), AffectedSOPClassUID=VERIFICATION)
            response = assoc.request(request).command
            took = perf_counter() - began
    except AssociationLost as error:
        raise EchoFailed(f"{peer} did not answer C-ECHO: {error}") from error
    if response.status != SUCCESS:
        raise EchoFailed(f"{peer} answered C-ECHO with 0x{response.status or 0:04X} {response.comment}".rstrip())
    return took
