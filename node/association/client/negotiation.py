"""Negotiate an association as its requestor: the proposal, and the answer to it (PS3.8 7.1.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext, build_context

from node.association.association import AcceptedContext
from node.association.outgoing import MAXIMUM_PDU_BYTES
from node.association.primitives import decoded_primitive, encoded_pdu, own_user_information
from node.dicom.uids import APPLICATION_CONTEXT
from node.errors import PeerFailed

MAXIMUM_CONTEXTS = 128
"""Presentation contexts of one association: their IDs are the odd numbers up to 255 (PS3.8 9.3.2.2)."""


class NoAssociation(PeerFailed):
    """The peer cannot be reached or rejects the association; the message says why."""


class NothingAccepted(NoAssociation):
    """The peer accepts associations, but no presentation context of this one."""


Roles = Mapping[str, tuple[bool, bool]]
"""The roles (SCU, SCP) that we propose, by abstract syntax."""


def contexts_of(kinds: Iterable[tuple[str, Sequence[str]]]) -> list[PresentationContext]:
    """Return a presentation context for each (abstract syntax, transfer syntaxes)."""
    return [build_context(abstract_syntax, list(syntaxes)) for abstract_syntax, syntaxes in kinds]


def request_pdu(
    calling_ae_title: str, called_ae_title: str, contexts: Sequence[PresentationContext], roles: Roles
) -> bytes:
    """Encode an A-ASSOCIATE-RQ (PS3.8 9.3.2); numbers the contexts 1, 3, 5, ..."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID(APPLICATION_CONTEXT)
    primitive.calling_ae_title, primitive.called_ae_title = calling_ae_title, called_ae_title
    for number, context in enumerate(contexts):
        context.context_id = 2 * number + 1
    primitive.presentation_context_definition_list = list(contexts)
    primitive.user_information = own_user_information(MAXIMUM_PDU_BYTES)
    for syntax, (scu, scp) in roles.items():
        role = SCP_SCU_RoleSelectionNegotiation()
        role.sop_class_uid, role.scu_role, role.scp_role = UID(syntax), scu, scp
        primitive.user_information.append(role)
    return encoded_pdu(A_ASSOCIATE_RQ(), primitive)


def accepted_contexts(
    primitive: Any, contexts: Sequence[PresentationContext], roles: Roles
) -> Iterator[AcceptedContext]:
    """Yield the accepted contexts of an A-ASSOCIATE response; a role holds if both sides agreed to it."""
    abstract = {context.context_id: str(context.abstract_syntax) for context in contexts}
    answered = {
        str(item.sop_class_uid): (bool(item.scu_role), bool(item.scp_role))
        for item in primitive.user_information
        if isinstance(item, SCP_SCU_RoleSelectionNegotiation)
    }
    for answer in primitive.presentation_context_definition_results_list:
        if answer.result != 0 or answer.context_id not in abstract or not answer.transfer_syntax:
            continue
        syntax = abstract[answer.context_id]
        scu, scp = True, False
        if syntax in roles and syntax in answered:
            scu, scp = (
                proposed and accepted for proposed, accepted in zip(roles[syntax], answered[syntax], strict=True)
            )
        yield AcceptedContext(answer.context_id, syntax, str(answer.transfer_syntax[0]), scu, scp)


def rejection_reason(data: bytes) -> str:
    """Return result, source and reason of an A-ASSOCIATE-RJ in words (PS3.8 table 9-21)."""
    answer = decoded_primitive(A_ASSOCIATE_RJ(), data)
    return f"association {answer.result_str.lower()}, {answer.source_str}: {answer.reason_str.lower()}"
