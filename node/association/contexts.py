"""Accept presentation contexts and choose their transfer syntaxes (PS3.8 7.1.1.13, 9.3.3.2).

At the end are the PDUs of the acceptor: the A-ASSOCIATE-RQ that it reads, and its answers (PS3.8 7.1, 9.3).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydicom import uid
from pydicom.uid import UID
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ, A_RELEASE_RP
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    A_RELEASE,
    AsynchronousOperationsWindowNegotiation,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassExtendedNegotiation,
)
from pynetdicom.presentation import PresentationContext

from node.association.admission import AssociationRequest, Rejection
from node.association.association import AcceptedContext
from node.association.primitives import decoded_primitive, encoded_pdu, own_user_information, peer_maximum_bytes
from node.dicom import uids
from node.dicom.uids import APPLICATION_CONTEXT, choose_transfer_syntax, is_storage_class
from node.index.nouns.records import Refused
from node.registry import enabled
from node.settings.model import Settings, Verb
from node.volume.read.transfer_syntaxes import NATIVE, TARGETS, can_decode

ACCEPTED, USER_REJECTION, ABSTRACT_SYNTAX_NOT_SUPPORTED, TRANSFER_SYNTAXES_NOT_SUPPORTED = 0, 1, 3, 4
"""Results of a presentation context, PS3.8 table 9-18."""

VERBS: dict[str, Verb] = {
    uids.VERIFICATION: "echo",
    uids.PATIENT_ROOT_FIND: "query",
    uids.STUDY_ROOT_FIND: "query",
    uids.PATIENT_ROOT_MOVE: "retrieve",
    uids.STUDY_ROOT_MOVE: "retrieve",
    uids.PATIENT_ROOT_GET: "retrieve",
    uids.STUDY_ROOT_GET: "retrieve",
    uids.STORAGE_COMMITMENT: "commit",
}
"""The abstract syntaxes that the node itself serves besides storage, and the permission that a peer needs for each."""


def served(settings: Settings) -> Mapping[str, Verb]:
    """Return the abstract syntaxes that a node serves besides storage, those of extensions included; see `VERBS`."""
    added = (service for extension in enabled(settings) for service in extension.services)
    return VERBS | {service.sop_class_uid: service.verb for service in added}


VIDEO_CLASSES = frozenset(
    (
        uid.VideoEndoscopicImageStorage,
        uid.VideoMicroscopicImageStorage,
        uid.VideoPhotographicImageStorage,
    )
)


@dataclass(frozen=True, slots=True)
class Proposal:
    """The proposal of an association requestor, and the services it may use.

    `roles` maps an abstract syntax to (SCU, SCP) as proposed by SCP/SCU Role Selection (PS3.7 D.3.3.4); without Role
    Selection a requestor is the SCU. `verbs` is what the node serves besides storage.
    """

    contexts: tuple[PresentationContext, ...]
    permitted: frozenset[Verb]
    verbs: Mapping[str, Verb]
    roles: Mapping[str, tuple[bool, bool]] = field(default_factory=dict)

    def role(self, abstract_syntax: str) -> tuple[bool, bool]:
        """Return whether the requestor becomes (SCU, SCP) of an abstract syntax."""
        proposed = self.roles.get(abstract_syntax)
        if proposed is None:
            return True, False
        scu, scp = proposed
        if abstract_syntax == uids.STORAGE_COMMITMENT:  # as its SCP, it reports on what we asked (PS3.4 J.3.3)
            return scu and "commit" in self.permitted, scp and "commit" in self.permitted
        if not is_storage_class(abstract_syntax):
            return True, False
        return scu and "store" in self.permitted, scp and "retrieve" in self.permitted

    def is_permitted(self, abstract_syntax: str) -> bool:
        """Whether the requestor may have a context for an abstract syntax."""
        if not is_storage_class(abstract_syntax):
            return abstract_syntax not in self.verbs or self.verbs[abstract_syntax] in self.permitted
        scu, scp = self.role(abstract_syntax)
        return (scu and "store" in self.permitted) or scp


def proposal_of(request: Any, permitted: frozenset[Verb], verbs: Mapping[str, Verb]) -> Proposal:
    """Return the proposal in an A-ASSOCIATE request primitive."""
    roles = {
        str(item.sop_class_uid): (bool(item.scu_role), bool(item.scp_role))
        for item in request.user_information
        if isinstance(item, SCP_SCU_RoleSelectionNegotiation)
    }
    return Proposal(tuple(request.presentation_context_definition_list), permitted, verbs, roles)


def answer_contexts(proposal: Proposal) -> list[PresentationContext]:
    """Return one answer for each proposed presentation context, by rising ID.

    Each context is decided by itself. If only the requestor sends in it, the order of transfer syntaxes is the
    requestor's.
    """
    answers = (_answer(context, proposal) for context in proposal.contexts)
    return sorted(answers, key=lambda context: context.context_id or 0)


def accepted_of(answers: Iterable[PresentationContext], proposal: Proposal) -> Iterator[AcceptedContext]:
    """Yield the accepted contexts with our roles: the node receives from an SCU and sends to an SCP."""
    for answer in answers:
        if answer.result == ACCEPTED:
            syntax = str(answer.abstract_syntax)
            scu, scp = proposal.role(syntax)
            yield AcceptedContext(
                answer.context_id or 0, syntax, str(answer.transfer_syntax[0]), as_scu=scp, as_scp=scu
            )


def _answer(proposed: PresentationContext, proposal: Proposal) -> PresentationContext:
    answer = PresentationContext()
    answer.context_id = proposed.context_id
    answer.abstract_syntax = proposed.abstract_syntax
    syntax = str(proposed.abstract_syntax)
    offered = [str(uid) for uid in proposed.transfer_syntax]
    chosen = choose_transfer_syntax(syntax, _by_usefulness(offered, syntax, proposal))
    if syntax not in proposal.verbs and not is_storage_class(syntax):
        answer.result = ABSTRACT_SYNTAX_NOT_SUPPORTED
    elif not proposal.is_permitted(syntax):
        answer.result = USER_REJECTION
    elif chosen is None:
        answer.result = TRANSFER_SYNTAXES_NOT_SUPPORTED
    else:
        answer.result = ACCEPTED
    # A refusal must fill this field too, although it "shall not be significant" there.
    answer.transfer_syntax = [chosen or offered[0]]
    return answer


def _by_usefulness(offered: Sequence[str], abstract_syntax: str, proposal: Proposal) -> Sequence[str]:
    """Return the offered transfer syntaxes, first the one in which we can send most if the requestor is an SCP.

    An uncompressed one suits every instance that can be decoded; videos are sent only as they are stored.
    """
    _, is_scp = proposal.role(abstract_syntax)
    if not is_scp or not is_storage_class(abstract_syntax):
        return offered
    if abstract_syntax in VIDEO_CLASSES:
        return sorted(offered, key=lambda syntax: syntax in NATIVE or can_decode(syntax))
    targets = [target for target in TARGETS if target in offered]
    return [*targets, *(syntax for syntax in offered if syntax not in targets)]


def answer_roles(proposal: Proposal) -> list[SCP_SCU_RoleSelectionNegotiation]:
    """Return the answers to Role Selection, for storage classes and storage commitment as the requestor is permitted.

    Notes
    -----
    PS3.7 D.3.3.4. C-GET needs a requestor that is the SCP of C-STORE; reports of commitment come from one that is the
    SCP of storage commitment.
    """
    answers = []
    for syntax in proposal.roles:
        has_roles = is_storage_class(syntax) or syntax == uids.STORAGE_COMMITMENT
        if not has_roles or not proposal.is_permitted(syntax):
            continue
        item = SCP_SCU_RoleSelectionNegotiation()
        item.sop_class_uid = syntax
        item.scu_role, item.scp_role = proposal.role(syntax)
        answers.append(item)
    return answers


def count_contexts(proposed: Iterable[PresentationContext]) -> int:
    """Count the proposed contexts; 0 if any lacks its abstract or transfer syntax (PS3.8 table 9-13)."""
    contexts = list(proposed)
    return len(contexts) if all(context.abstract_syntax and context.transfer_syntax for context in contexts) else 0


_REFUSALS = {
    ABSTRACT_SYNTAX_NOT_SUPPORTED: (
        "abstract syntax",
        "abstract syntax not supported",
        "remove it from the proposal of the sender: this node does not offer the service",
    ),
    TRANSFER_SYNTAXES_NOT_SUPPORTED: (
        "transfer syntaxes",
        "transfer syntaxes not supported",
        "configure the sender to offer Explicit or Implicit VR Little Endian too",
    ),
}
"""Rule, reason and remedy of a result."""


MAX_OFFERED_LENGTH = 2000
"""Characters of the list of refused contexts; an association may propose 128."""


def refused_contexts(proposal: Proposal, peer: Refused, named: Sequence[str]) -> list[Refused]:
    """Return one refusal for each rule that refused contexts, with these contexts.

    `peer`: has the fields of the peer; `named`: names under which the peer is in [peers]; empty: it is not.
    """
    proposals = {context.context_id or 0: context for context in proposal.contexts}
    by_result: dict[int, list[PresentationContext]] = {}
    for answer in answer_contexts(proposal):
        if answer.result != ACCEPTED:
            by_result.setdefault(answer.result or 0, []).append(proposals[answer.context_id or 0])
    refusals = []
    for result, contexts in by_result.items():
        if result == USER_REJECTION:
            rule, reason, remedy = _not_permitted(contexts, proposal, named)
        else:
            rule, reason, remedy = _REFUSALS[result]
        refusals.append(replace(peer, rule=rule, reason=reason, remedy=remedy, offered=_offered(contexts)))
    return refusals


def _offered(contexts: Sequence[PresentationContext]) -> str:
    """Return abstract and transfer syntaxes, those of equal transfer syntaxes together."""
    by_syntaxes: dict[str, list[str]] = {}
    for context in contexts:
        abstract_syntaxes = by_syntaxes.setdefault(", ".join(map(str, context.transfer_syntax)), [])
        if str(context.abstract_syntax) not in abstract_syntaxes:
            abstract_syntaxes.append(str(context.abstract_syntax))
    text = "; ".join(f"{', '.join(abstract)}: {transfer}" for transfer, abstract in by_syntaxes.items())
    if len(text) <= MAX_OFFERED_LENGTH:
        return text
    return f"{text[:MAX_OFFERED_LENGTH].rpartition(', ')[0]}, ... ({len(contexts)} contexts)"


def _not_permitted(
    contexts: Sequence[PresentationContext], proposal: Proposal, named: Sequence[str]
) -> tuple[str, str, str]:
    verbs = sorted({_verb(str(context.abstract_syntax), proposal) for context in contexts})
    quoted = ", ".join(f'"{verb}"' for verb in verbs)
    if named:
        remedy = f"if it may, add {quoted} to `may` of [peers.{named[0]}]"
    else:
        remedy = f"if it may, list this peer in [peers] with {quoted} in its `may`; all others are then rejected"
    return "not permitted", f"this peer may not {', '.join(verbs)}", remedy


def _verb(syntax: str, proposal: Proposal) -> Verb:
    """Return the permission that a context lacks."""
    return proposal.verbs.get(syntax) or ("retrieve" if proposal.roles.get(syntax, (True, False))[1] else "store")


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
    """Decode an A-ASSOCIATE-RQ."""
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

    `answers`: the answer to each proposed context; `extended`: the answers to SOP Class Extended Negotiation;
    `maximum_pdu_bytes`: our *Maximum Length Received*.
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
