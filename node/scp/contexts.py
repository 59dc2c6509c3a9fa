"""Presentation contexts: which the acceptor accepts, and with which transfer syntax (PS3.8 7.1.1.13, 9.3.3.2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pynetdicom.acse import ACSE
from pynetdicom.presentation import PresentationContext

from node.dicom.uids import VERIFICATION, choose_transfer_syntax, is_storage_class
from node.index.records import Refused

ACCEPTED, ABSTRACT_SYNTAX_NOT_SUPPORTED, TRANSFER_SYNTAXES_NOT_SUPPORTED = 0, 3, 4
"""Results of a presentation context, PS3.8 table 9-18."""


def answer_contexts(proposed: Iterable[PresentationContext]) -> list[PresentationContext]:
    """Return one answer for each proposed presentation context, by rising ID.

    Each context is judged by itself, so that the sender's order of transfer syntaxes holds in each.
    """
    return sorted((_answer(context) for context in proposed), key=lambda context: context.context_id or 0)


def _answer(proposed: PresentationContext) -> PresentationContext:
    answer = PresentationContext()
    answer.context_id = proposed.context_id
    answer.abstract_syntax = proposed.abstract_syntax
    answer._as_scu, answer._as_scp = False, True
    offered = [str(uid) for uid in proposed.transfer_syntax]
    chosen = choose_transfer_syntax(str(proposed.abstract_syntax), offered)
    if proposed.abstract_syntax != VERIFICATION and not is_storage_class(str(proposed.abstract_syntax)):
        answer.result = ABSTRACT_SYNTAX_NOT_SUPPORTED
    elif chosen is None:
        answer.result = TRANSFER_SYNTAXES_NOT_SUPPORTED
    else:
        answer.result = ACCEPTED
    # The field must be filled in a refusal too, and is "not to be tested" there.
    answer.transfer_syntax = [chosen or offered[0]]
    return answer


def count_contexts(proposed: Iterable[PresentationContext]) -> int:
    """How many contexts are proposed; 0 if one of them lacks its abstract or transfer syntax (PS3.8 table 9-13)."""
    contexts = list(proposed)
    return len(contexts) if all(context.abstract_syntax and context.transfer_syntax for context in contexts) else 0


def refused_contexts(proposed: Iterable[PresentationContext], peer: Refused) -> list[Refused]:
    """The refusals among our answers, one for each abstract syntax; `peer` names who proposed them."""
    proposals = {context.context_id: context for context in proposed}
    refusals = []
    for answer in answer_contexts(proposals.values()):
        syntax = str(answer.abstract_syntax)
        offered = ", ".join(str(uid) for uid in proposals[answer.context_id].transfer_syntax)
        if answer.result == ABSTRACT_SYNTAX_NOT_SUPPORTED:
            rule, reason = "abstract syntax", "abstract syntax not supported"
            remedy = "this node stores and verifies only: take the service out of what the sender proposes"
        elif answer.result == TRANSFER_SYNTAXES_NOT_SUPPORTED:
            rule, reason = "transfer syntaxes", "transfer syntaxes not supported"
            remedy = "have the sender offer Explicit or Implicit VR Little Endian too"
        else:
            continue
        refusals.append(replace(peer, rule=rule, reason=reason, remedy=remedy, offered=f"{syntax}: {offered}"))
    return list(dict.fromkeys(refusals))


class Acceptance(ACSE):
    """pynetdicom's association control, with our choice of presentation contexts.

    pynetdicom's own negotiation knows one list of transfer syntaxes for each SOP class, in the acceptor's order.
    """

    def send_accept(self) -> None:
        """Send the A-ASSOCIATE-AC with our answers (PS3.8 7.1.2)."""
        request: Any = self.requestor.primitive
        answers: list[Any] = answer_contexts(request.presentation_context_definition_list)
        self.assoc._accepted_cx = {answer.context_id: answer for answer in answers if answer.result == ACCEPTED}
        self.assoc._rejected_cx = [answer for answer in answers if answer.result != ACCEPTED]
        super().send_accept()
