"""The acceptor's PDUs: the A-ASSOCIATE-RQ that it reads, and its answers (PS3.8 7.1, 9.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.uid import UID
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ, A_RELEASE_RP
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    A_RELEASE,
    AsynchronousOperationsWindowNegotiation,
    SOPClassExtendedNegotiation,
)
from pynetdicom.presentation import PresentationContext

from node.association.admission import AssociationRequest, Rejection
from node.association.contexts import Proposal, answer_roles, count_contexts, proposal_of
from node.association.primitives import decoded_primitive, encoded_pdu, own_user_information, peer_maximum_bytes
from node.dicom.uids import APPLICATION_CONTEXT
from node.settings.model import Verb

_PROTOCOL_VERSION = 1
"""The only version that there is (PS3.8 9.3.2)."""


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """An A-ASSOCIATE-RQ; `primitive` is pynetdicom's."""

    primitive: Any
    protocol_version: int

    @property
    def is_of_known_version(self) -> bool:
        """Whether the request is of the protocol version of the node."""
        return self.protocol_version == _PROTOCOL_VERSION

    @property
    def maximum_pdu_bytes(self) -> int:
        """The peer's *Maximum Length Received* (PS3.8 D.1); 0 is no limit."""
        return peer_maximum_bytes(self.primitive)

    @property
    def extended_negotiation(self) -> Mapping[str, bytes]:
        """The peer's SOP Class Extended Negotiation: application information by SOP class UID (PS3.7 D.3.3.5)."""
        return {
            str(item.sop_class_uid): item.service_class_application_information or b""
            for item in self.primitive.user_information
            if isinstance(item, SOPClassExtendedNegotiation)
        }

    def fields(self) -> AssociationRequest:
        """Return the fields by which admission decides."""
        contexts = self.primitive.presentation_context_definition_list
        return AssociationRequest(
            self.primitive.calling_ae_title.strip(),
            self.primitive.called_ae_title.strip(),
            str(self.primitive.application_context_name),
            count_contexts(contexts),
            tuple(str(context.abstract_syntax) for context in contexts),
        )

    def proposal(self, permitted: frozenset[Verb], verbs: Mapping[str, Verb]) -> Proposal:
        """Return the proposed contexts and roles, of a requestor that may use the services `permitted` of `verbs`."""
        return proposal_of(self.primitive, permitted, verbs)


def decoded_request(encoded: bytes) -> ReceivedRequest:
    """Decode an A-ASSOCIATE-RQ.

    Raises
    ------
    UndecodablePdu
    """
    pdu = A_ASSOCIATE_RQ()
    primitive = decoded_primitive(pdu, encoded)
    return ReceivedRequest(primitive, pdu.protocol_version)


def acceptance_pdu(
    request: ReceivedRequest,
    answers: Sequence[PresentationContext],
    proposal: Proposal,
    extended: Mapping[str, bytes],
    maximum_pdu_bytes: int,
) -> bytes:
    """Encode the A-ASSOCIATE-AC (PS3.8 9.3.3).

    Parameters
    ----------
    answers : sequence of PresentationContext
        The answer to each proposed context.
    extended : mapping of str to bytes
        The answers to SOP Class Extended Negotiation.
    maximum_pdu_bytes : int
        Our *Maximum Length Received*.
    """
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID(APPLICATION_CONTEXT)
    primitive.calling_ae_title = request.primitive.calling_ae_title
    primitive.called_ae_title = request.primitive.called_ae_title
    primitive.result, primitive.result_source = 0, 1
    primitive.presentation_context_definition_results_list = list(answers)
    primitive.user_information = [
        *own_user_information(maximum_pdu_bytes),
        *answer_roles(proposal),
        *_operations_window(request),
        *(_extended_item(uid, information) for uid, information in extended.items()),
    ]
    return encoded_pdu(A_ASSOCIATE_AC(), primitive)


def _operations_window(request: ReceivedRequest) -> list[AsynchronousOperationsWindowNegotiation]:
    """Answer an asynchronous operations window with one operation at a time (PS3.7 D.3.3.3)."""
    kind = AsynchronousOperationsWindowNegotiation
    if not any(isinstance(item, kind) for item in request.primitive.user_information):
        return []
    answer = kind()
    answer.maximum_number_operations_invoked = answer.maximum_number_operations_performed = 1
    return [answer]


def _extended_item(sop_class_uid: str, information: bytes) -> SOPClassExtendedNegotiation:
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid, item.service_class_application_information = UID(sop_class_uid), information
    return item


def rejection_pdu(rejection: Rejection) -> bytes:
    """Encode an A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    pdu = A_ASSOCIATE_RJ()
    pdu.result, pdu.source, pdu.reason_diagnostic = rejection.result, rejection.source, rejection.diagnostic
    return bytes(pdu.encode())


def abort_pdu(source: int, reason: int) -> bytes:
    """Encode an A-ABORT (PS3.8 9.3.8)."""
    pdu = A_ABORT_RQ()
    pdu.source, pdu.reason_diagnostic = source, reason
    return bytes(pdu.encode())


def release_answer_pdu() -> bytes:
    """Encode an A-RELEASE-RP (PS3.8 9.3.7)."""
    return encoded_pdu(A_RELEASE_RP(), A_RELEASE())
