"""Accept presentation contexts and choose their transfer syntaxes (PS3.8 7.1.1.13, 9.3.3.2).

At the end are the PDUs by which the acceptor answers (PS3.8 7.1, 9.3); `association.request` decodes the request.
"""

import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydicom import uid
from pydicom.uid import UID
from pynetdicom.presentation import PresentationContext, build_context, negotiate_as_acceptor

from node.association.association import ACCEPTED, AcceptedContext
from node.association.framing import ASSOCIATE_AC
from node.association.request import (
    APPLICATION_CONTEXT_ITEM,
    CLASS_UID_ITEM,
    CONTEXT_ANSWER_ITEM,
    EXTENDED_ITEM,
    ITEM_HEAD,
    MAXIMUM_LENGTH_ITEM,
    OPERATIONS_WINDOW_ITEM,
    ROLE_ITEM,
    TRANSFER_SYNTAX_ITEM,
    USER_INFORMATION_ITEM,
    VERSION_NAME_ITEM,
    ProposedContext,
    ReceivedRequest,
    Roles,
)
from node.dicom import uids
from node.dicom.encoding import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, IMPLICIT_LITTLE_ENDIAN
from node.dicom.uids import APPLICATION_CONTEXT, choose_transfer_syntax, is_storage_class
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
    (uid.VideoEndoscopicImageStorage, uid.VideoMicroscopicImageStorage, uid.VideoPhotographicImageStorage)
)


@dataclass(frozen=True, slots=True)
class Proposal:
    """The proposal of an association requestor, and the services it may use.

    `takes` has the SOP classes that the requestor may store; None stands for all. `verbs` has the services of the node
    besides storage. `roles` maps an abstract syntax to (SCU, SCP) as proposed by SCP/SCU Role Selection (PS3.7
    D.3.3.4); without Role Selection a requestor is the SCU.
    """

    contexts: tuple[ProposedContext, ...]
    permitted: frozenset[Verb]
    verbs: Mapping[str, Verb]
    roles: Roles
    takes: frozenset[str] | None = None

    def may_store(self, abstract_syntax: str) -> bool:
        """Whether the requestor may send instances of a storage class."""
        return "store" in self.permitted and (self.takes is None or abstract_syntax in self.takes)

    def is_sent_to(self, abstract_syntax: str) -> bool:
        """Whether the requestor becomes the SCP of a storage class: by C-GET the node sends it instances."""
        _, is_scp = self.roles.get(abstract_syntax, (True, False))
        return is_scp and "retrieve" in self.permitted and is_storage_class(abstract_syntax)

    def is_permitted(self, abstract_syntax: str) -> bool:
        """Whether the requestor may have a context for an abstract syntax; proposed roles decide by themselves."""
        by_roles = abstract_syntax in self.roles and is_storage_class(abstract_syntax)
        verb = self.verbs.get(abstract_syntax)
        return by_roles or (self.may_store(abstract_syntax) if verb is None else verb in self.permitted)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a proposed context; `as_scu`, `as_scp`: the roles of the node in it, if it is accepted."""

    proposed: ProposedContext
    result: int
    transfer_syntax_uid: str = ""
    as_scu: bool = False
    as_scp: bool = False


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The answer to each proposed presentation context, in their order, and to the proposed roles."""

    contexts: Sequence[Answer]
    roles: Roles

    def accepted(self) -> list[AcceptedContext]:
        """Return the accepted contexts."""
        return [
            AcceptedContext(
                answer.proposed.context_id,
                answer.proposed.abstract_syntax,
                answer.transfer_syntax_uid,
                answer.as_scu,
                answer.as_scp,
            )
            for answer in self.contexts
            if answer.result == ACCEPTED
        ]


def negotiated(proposal: Proposal) -> Negotiated:
    """Decide on each proposed presentation context by itself; pynetdicom decides on its roles.

    The node takes any storage class, and mostly the requestor's order of transfer syntaxes, and it knows permissions:
    so pynetdicom gets the chosen transfer syntax alone.
    """
    answers: list[Answer] = []
    roles: dict[str, tuple[bool, bool]] = {}
    for proposed in proposal.contexts:
        syntax = proposed.abstract_syntax
        if not syntax or (syntax not in proposal.verbs and not is_storage_class(syntax)):
            answers.append(Answer(proposed, ABSTRACT_SYNTAX_NOT_SUPPORTED))
            continue
        taken = {answer.transfer_syntax_uid for answer in answers if answer.proposed.abstract_syntax == syntax}
        chosen = choose_transfer_syntax(syntax, _by_usefulness(proposed, proposal, taken))
        if not proposal.is_permitted(syntax):
            answers.append(Answer(proposed, USER_REJECTION))
        elif chosen is None:
            answers.append(Answer(proposed, TRANSFER_SYNTAXES_NOT_SUPPORTED))
        else:
            [context], items = negotiate_as_acceptor(
                [_context(1, syntax, chosen)], [_supported(syntax, chosen, proposal)], _roles(proposal.roles)
            )
            roles |= {str(item.sop_class_uid): (bool(item.scu_role), bool(item.scp_role)) for item in items}
            answers.append(
                Answer(proposed, context.result or ACCEPTED, chosen, bool(context.as_scu), bool(context.as_scp))
            )
    return Negotiated(answers, roles)


def _context(context_id: int, abstract_syntax: str, transfer_syntax: str) -> PresentationContext:
    context = build_context(abstract_syntax, transfer_syntax)
    context.context_id = context_id
    return context


def _roles(roles: Roles) -> dict[UID, tuple[bool | None, bool | None]]:
    return {UID(syntax): proposed for syntax, proposed in roles.items()}


def _supported(syntax: str, chosen: str, proposal: Proposal) -> PresentationContext:
    """Return the supported part of a proposed context: its transfer syntax, and the roles of the requestor."""
    supported = build_context(syntax, chosen)
    if syntax == uids.STORAGE_COMMITMENT:  # as its SCP, the requestor reports on what we asked (PS3.4 J.3.3)
        supported.scu_role = supported.scp_role = True
    elif is_storage_class(syntax):
        supported.scu_role, supported.scp_role = proposal.may_store(syntax), "retrieve" in proposal.permitted
    return supported


def _by_usefulness(proposed: ProposedContext, proposal: Proposal, taken: Collection[str]) -> Sequence[str]:
    """Return the offered transfer syntaxes, first the one in which we can send most if the requestor is an SCP.

    An uncompressed one suits every instance that can be decoded. One context of the class has the requestor's first of
    those: the last that offers nothing else, or one at all. In the others the requestor's order holds, without what an
    earlier one has (`taken`), so that what is stored can go out as it is. Videos are sent only so.
    """
    offered, syntax = proposed.transfer_syntaxes, proposed.abstract_syntax
    if not proposal.is_sent_to(syntax):
        return offered
    if syntax in VIDEO_CLASSES:
        return sorted(offered, key=lambda one: (one in taken, one in NATIVE or can_decode(one)))
    alike = [other for other in proposal.contexts if other.abstract_syntax == syntax]
    able = [other for other in reversed(alike) if not set(TARGETS).isdisjoint(other.transfer_syntaxes)]
    suits_all = min(able, key=lambda other: not set(TARGETS).issuperset(other.transfer_syntaxes), default=None)
    others = taken if proposed is not suits_all else set(offered) - set(TARGETS)
    return sorted(offered, key=lambda one: one in others)


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


MAX_NAMED_CLASSES = 5
"""SOP classes that a remedy names."""

MAX_OFFERED_LENGTH = 2000
"""Characters of the list of refused contexts; an association may propose 128."""


def refused_contexts(
    proposal: Proposal, answers: Iterable[Answer], named: Sequence[str]
) -> Iterator[tuple[str, str, str, str]]:
    """Yield rule, reason and remedy for each rule that refused contexts, and these contexts in words.

    `answers`: to each proposed context; `named`: names under which the peer is in [peers]; empty: it is not.
    """
    by_result: dict[int, list[ProposedContext]] = {}
    for answer in answers:
        if answer.result != ACCEPTED:
            by_result.setdefault(answer.result, []).append(answer.proposed)
    for result, contexts in by_result.items():
        is_user = result == USER_REJECTION
        yield *(_not_permitted(contexts, proposal, named) if is_user else _REFUSALS[result]), _offered(contexts)


def _offered(contexts: Sequence[ProposedContext]) -> str:
    """Return abstract and transfer syntaxes, those of equal transfer syntaxes together."""
    by_syntaxes: dict[str, list[str]] = {}
    for context in contexts:
        abstract_syntaxes = by_syntaxes.setdefault(", ".join(context.transfer_syntaxes) or "none", [])
        if (name := context.abstract_syntax or "none") not in abstract_syntaxes:
            abstract_syntaxes.append(name)
    text = "; ".join(f"{', '.join(abstract)}: {transfer}" for transfer, abstract in by_syntaxes.items())
    if len(text) <= MAX_OFFERED_LENGTH:
        return text
    return f"{text[:MAX_OFFERED_LENGTH].rpartition(', ')[0]}, ... ({len(contexts)} contexts)"


def _not_permitted(
    contexts: Sequence[ProposedContext], proposal: Proposal, named: Sequence[str]
) -> tuple[str, str, str]:
    if named and "store" in proposal.permitted and all(is_storage_class(one.abstract_syntax) for one in contexts):
        classes = ", ".join(sorted({f'"{one.abstract_syntax}"' for one in contexts})[:MAX_NAMED_CLASSES])
        return "not taken", "not taken from this peer", f"if it may, add {classes} to `takes` of [peers.{named[0]}]"
    verbs = sorted({_verb(context.abstract_syntax, proposal) for context in contexts})
    quoted = ", ".join(f'"{verb}"' for verb in verbs)
    if named:
        remedy = f"if it may, add {quoted} to `may` of [peers.{named[0]}]"
    else:
        remedy = f"if it may, list this peer in [peers] with {quoted} in its `may`; all others are then rejected"
    return "not permitted", f"not permitted to this peer: {', '.join(verbs)}", remedy


def _verb(syntax: str, proposal: Proposal) -> Verb:
    """Return the permission that a context lacks."""
    return proposal.verbs.get(syntax) or ("retrieve" if proposal.roles.get(syntax, (True, False))[1] else "store")


_SUPPORTED_OPTIONS = (True, True, True, False, False, False, False)
"""PS3.4 table C.5-2: the node supports relational queries, combined date-time matching and fuzzy matching of names. It
does not support timezone adjustment, enhanced multi-frame conversion, empty value and multiple value matching."""


def extended_answers(requested: Mapping[str, bytes]) -> dict[str, bytes]:
    """Answer SOP Class Extended Negotiation (``evt.EVT_SOP_EXTENDED``, PS3.4 C.5.1.1) with the supported options."""
    return {
        uid: bytes(option == 1 and supported for option, supported in zip(fields, _SUPPORTED_OPTIONS, strict=False))
        or b"\0"
        for uid, fields in requested.items()
        if VERBS.get(uid) == "query"
    }


def acceptance_pdu(
    request: ReceivedRequest, answers: Negotiated, extended: Mapping[str, bytes], maximum_pdu_bytes: int
) -> bytes:
    """Encode the A-ASSOCIATE-AC (PS3.8 9.3.3, PS3.7 D.3.3).

    `extended`: the answers to SOP Class Extended Negotiation; `maximum_pdu_bytes`: our *Maximum Length Received*. An
    asynchronous operations window is answered with one operation at a time.
    """
    user = _item(MAXIMUM_LENGTH_ITEM, struct.pack(">L", maximum_pdu_bytes))
    user += _item(CLASS_UID_ITEM, IMPLEMENTATION_CLASS_UID.encode())
    if request.has_operations_window:
        user += _item(OPERATIONS_WINDOW_ITEM, struct.pack(">HH", 1, 1))
    for syntax, roles in answers.roles.items():
        user += _item(ROLE_ITEM, _sized(syntax) + bytes(roles))
    user += _item(VERSION_NAME_ITEM, IMPLEMENTATION_VERSION_NAME.encode())
    for syntax, information in extended.items():
        user += _item(EXTENDED_ITEM, _sized(syntax) + information)
    body = struct.pack(">HH", 1, 0) + request.echoed + _item(APPLICATION_CONTEXT_ITEM, APPLICATION_CONTEXT.encode())
    for answer in answers.contexts:
        # The transfer syntax of a context that was not accepted has no meaning, but must be there (PS3.8 9.3.3.2).
        chosen = _item(TRANSFER_SYNTAX_ITEM, (answer.transfer_syntax_uid or IMPLICIT_LITTLE_ENDIAN).encode())
        body += _item(CONTEXT_ANSWER_ITEM, bytes((answer.proposed.context_id, 0, answer.result, 0)) + chosen)
    body += _item(USER_INFORMATION_ITEM, user)
    return struct.pack(">BxL", ASSOCIATE_AC, len(body)) + body


def _item(kind: int, data: bytes) -> bytes:
    return ITEM_HEAD.pack(kind, len(data)) + data


def _sized(uid: str) -> bytes:
    return struct.pack(">H", len(uid)) + uid.encode()
