"""Accept presentation contexts and choose their transfer syntaxes (PS3.8 7.1.1.13, 9.3.3.2).

At the end are the PDUs of the acceptor: the A-ASSOCIATE-RQ that it reads, and its answers (PS3.8 7.1, 9.3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydicom import uid
from pydicom.uid import UID
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ, A_RELEASE_RP, A_RELEASE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    A_RELEASE,
    AsynchronousOperationsWindowNegotiation,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassExtendedNegotiation,
)
from pynetdicom.presentation import PresentationContext, negotiate_as_acceptor

from node.association.admission import AssociationRequest, Rejection
from node.association.association import ACCEPTED
from node.association.primitives import (
    Roles,
    decoded_primitive,
    encoded_pdu,
    own_user_information,
    peer_maximum_bytes,
    roles_of,
)
from node.dicom import uids
from node.dicom.uids import APPLICATION_CONTEXT, choose_transfer_syntax, is_storage_class
from node.index.nouns.records import Refused
from node.registry import enabled
from node.settings.model import Settings
from node.settings.peers import Verb
from node.volume.read.transfer_syntaxes import NATIVE, TARGETS, can_decode

USER_REJECTION, ABSTRACT_SYNTAX_NOT_SUPPORTED, TRANSFER_SYNTAXES_NOT_SUPPORTED = 1, 3, 4
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
    roles: Roles

    def is_sent_to(self, abstract_syntax: str) -> bool:
        """Whether the requestor becomes the SCP of a storage class: by C-GET the node sends it instances."""
        _, is_scp = self.roles.get(UID(abstract_syntax), (True, False))
        return bool(is_scp) and "retrieve" in self.permitted and is_storage_class(abstract_syntax)

    def is_permitted(self, abstract_syntax: str) -> bool:
        """Whether the requestor may have a context for an abstract syntax; proposed roles decide by themselves."""
        by_roles = abstract_syntax in self.roles and is_storage_class(abstract_syntax)
        return by_roles or self.verbs.get(abstract_syntax, "store") in self.permitted


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The answer to each proposed presentation context, by rising ID, and to the proposed roles."""

    contexts: Sequence[PresentationContext]
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation]


def negotiated(proposal: Proposal) -> Negotiated:
    """Decide on each proposed presentation context by itself, by pynetdicom's rules for what the node supports of it.

    pynetdicom decides by one list of supported contexts, whose order of transfer syntaxes wins, and knows no
    permissions.  The node takes any storage class, and mostly the requestor's order: so each context has a list of its
    own.
    """
    contexts: list[PresentationContext] = []
    roles: dict[str, SCP_SCU_RoleSelectionNegotiation] = {}
    for proposed in proposal.contexts:
        [answer], answered = negotiate_as_acceptor([proposed], _supported(proposed, proposal), proposal.roles)
        if answer.result != ABSTRACT_SYNTAX_NOT_SUPPORTED and not proposal.is_permitted(str(answer.abstract_syntax)):
            answer.result = USER_REJECTION
        else:
            roles |= {str(item.sop_class_uid): item for item in answered}
        contexts.append(answer)
    return Negotiated(sorted(contexts, key=lambda context: context.context_id or 0), list(roles.values()))


def _supported(proposed: PresentationContext, proposal: Proposal) -> list[PresentationContext]:
    """Return the supported part of a proposed context: one transfer syntax, and the roles of the requestor."""
    syntax = str(proposed.abstract_syntax)
    if syntax not in proposal.verbs and not is_storage_class(syntax):
        return []
    offered = [str(uid) for uid in proposed.transfer_syntax]
    chosen = choose_transfer_syntax(syntax, _by_usefulness(offered, syntax, proposal))
    supported = PresentationContext()
    supported.abstract_syntax = proposed.abstract_syntax
    supported.transfer_syntax = [chosen] if chosen is not None else []
    if syntax == uids.STORAGE_COMMITMENT:  # as its SCP, the requestor reports on what we asked (PS3.4 J.3.3)
        supported.scu_role = supported.scp_role = True
    elif is_storage_class(syntax):
        supported.scu_role, supported.scp_role = "store" in proposal.permitted, "retrieve" in proposal.permitted
    return [supported]


def _by_usefulness(offered: Sequence[str], abstract_syntax: str, proposal: Proposal) -> Sequence[str]:
    """Return the offered transfer syntaxes, first the one in which we can send most if the requestor is an SCP.

    An uncompressed one suits every instance that can be decoded; videos are sent only as they are stored.
    """
    if not proposal.is_sent_to(abstract_syntax):
        return offered
    if abstract_syntax in VIDEO_CLASSES:
        return sorted(offered, key=lambda syntax: syntax in NATIVE or can_decode(syntax))
    targets = [target for target in TARGETS if target in offered]
    return [*targets, *(syntax for syntax in offered if syntax not in targets)]


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


def refused_contexts(
    proposal: Proposal, answers: Iterable[PresentationContext], peer: Refused, named: Sequence[str]
) -> list[Refused]:
    """Return one refusal for each rule that refused contexts, with these contexts.

    `answers`: to each proposed context; `peer`: has the fields of the peer; `named`: names under which the peer is in
    [peers]; empty: it is not.
    """
    proposals = {context.context_id or 0: context for context in proposal.contexts}
    by_result: dict[int, list[PresentationContext]] = {}
    for answer in answers:
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
    return "not permitted", f"not permitted to this peer: {', '.join(verbs)}", remedy


def _verb(syntax: str, proposal: Proposal) -> Verb:
    """Return the permission that a context lacks."""
    return proposal.verbs.get(syntax) or ("retrieve" if proposal.roles.get(UID(syntax), (True, False))[1] else "store")


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
        contexts = tuple(self.primitive.presentation_context_definition_list)
        return Proposal(contexts, permitted, verbs, roles_of(self.primitive))


def decoded_request(encoded: bytes) -> ReceivedRequest:
    """Decode an A-ASSOCIATE-RQ."""
    pdu = A_ASSOCIATE_RQ()
    primitive = decoded_primitive(pdu, encoded)
    return ReceivedRequest(primitive, pdu.protocol_version)


def acceptance_pdu(
    request: ReceivedRequest, answers: Negotiated, extended: Mapping[str, bytes], maximum_pdu_bytes: int
) -> bytes:
    """Encode the A-ASSOCIATE-AC (PS3.8 9.3.3).

    `extended`: the answers to SOP Class Extended Negotiation; `maximum_pdu_bytes`: our *Maximum Length Received*.
    """
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID(APPLICATION_CONTEXT)
    primitive.calling_ae_title = request.primitive.calling_ae_title
    primitive.called_ae_title = request.primitive.called_ae_title
    primitive.result, primitive.result_source = 0, 1
    primitive.presentation_context_definition_results_list = list(answers.contexts)
    primitive.user_information = [
        *own_user_information(maximum_pdu_bytes),
        *answers.roles,
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


def release_request_pdu() -> bytes:
    """Encode an A-RELEASE-RQ (PS3.8 9.3.6)."""
    return encoded_pdu(A_RELEASE_RQ(), A_RELEASE())
