"""C-FIND as a service provider: identifier -> query (`node.dicom.matching`) -> rows of the index -> responses.

PS3.4 C.4.1, PS3.7 9.1.2. Extensions answer the queries of their own SOP classes (`node.association.added.Find`).
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from time import perf_counter

import structlog
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from node.association.added import Find
from node.association.contexts import extended_answers
from node.association.operation import Operation, RequestRefused
from node.association.upper_layer import PeerGone
from node.audit.audit_log import DESTINATION, SOURCE, Audit, AuditAction, AuditEvent, AuditMessage, Participant, Result
from node.dicom.answers import AnswerEncoder, answer_model, encoded_answer, encoded_data_set
from node.dicom.character_sets import character_set_of
from node.dicom.keys import IdentifierMismatch, InvalidQuery, QueryModel
from node.dicom.matching import Options, read_query
from node.dicom.status import (
    CANCELLED,
    FAILED,
    IDENTIFIER_MISMATCH,
    OUT_OF_RESOURCES,
    PENDING,
    PENDING_WITHOUT_KEYS,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
    UNABLE_TO_PROCESS,
)
from node.dicom.uids import PATIENT_ROOT_FIND, STUDY_ROOT_FIND
from node.dicom.values import CONVERSION_ERRORS, texts
from node.index.database import Index
from node.index.look.finder import QueryRefused, QueryStopped

logger = structlog.get_logger()

MODELS: Mapping[str, QueryModel] = {PATIENT_ROOT_FIND: QueryModel.PATIENT_ROOT, STUDY_ROOT_FIND: QueryModel.STUDY_ROOT}

MAXIMUM_RESULTS = 100_000
"""Largest number of answers to one query."""

SEND_BYTES = 32768
"""Responses after the first are collected and sent together once they have this size."""

_MAX_AUDITED_CHARACTERS = 256
"""Longest value of a key in the audit log; a list of UIDs may have a hundred thousand characters."""


@dataclass(frozen=True, slots=True)
class FindService:
    """The parts of the node that C-FIND needs.

    `ae_title`: our AE title, returned as *Retrieve AE Title* (0008,0054); `audit`: records every query (PS3.15
    A.5.3.10); `added`: what extensions answer, by SOP class.
    """

    index: Index
    ae_title: str
    audit: Audit | None = None
    added: Mapping[str, Find] = field(default_factory=dict)


def _options(requested: Mapping[str, bytes], sop_class_uid: str) -> Options:
    relational, combined, fuzzy = (extended_answers(requested).get(sop_class_uid, b"") + b"\0\0\0")[:3]
    return Options(bool(relational), bool(combined), bool(fuzzy))


@dataclass(frozen=True, slots=True)
class FinalStatus:
    """The status that ends an operation."""

    status: int
    comment: str = ""
    offending: int | None = None


def serve_c_find(operation: Operation, service: FindService) -> None:
    """Serve one C-FIND-RQ, on the association's own thread.

    The final status, PS3.4 C.4.1.1.4:

    * 0x0000: every answer was sent, each with 0xFF00, or with 0xFF01 if the query has unsupported optional keys
    * 0xFE00: the peer cancelled
    * 0xA700: too many answers, a search that takes too long, or the node is stopping
    * 0xA900: the level, or a unique key above it, does not match the information model
    * 0xC000: a key cannot be understood; *Offending Element* (0000,0901) names it, as with 0xA900
    * 0x0122: C-FIND on the presentation context of another service
    """
    began_at, last = perf_counter(), FinalStatus(CANCELLED)  # holds if the peer goes away
    find = FindOperation(operation, service)
    try:
        last = find.answer()
    finally:
        operation.log.info(
            "c_find",
            is_refusal=find.is_refused(last.status),
            sop_class_uid=operation.context.abstract_syntax,
            status=f"0x{last.status:04X}",
            count=find.count,
            seconds=round(perf_counter() - began_at, 3),
        )
        find.audit(last.status)


class FindOperation:
    """One C-FIND operation and its responses."""

    def __init__(self, operation: Operation, service: FindService) -> None:
        self._operation, self._service = operation, service
        self._syntax = operation.context.transfer_syntax_uid
        self._waiting: list[bytes] = []
        self._waiting_bytes = self.count = 0
        self._keys: dict[str, str] = {}

    def answer(self) -> FinalStatus:
        """Send every response; return the final status."""
        last = self._serve()
        pdus = self._operation.response_pdus(last.status, comment=last.comment, OffendingElement=last.offending)
        self._queue(pdus)
        self._flush()
        return last

    def _serve(self) -> FinalStatus:
        """Send the pending responses; return the final status."""
        try:
            self._answers()
        except Exception as error:
            return self.final(error)
        return FinalStatus(SUCCESS)

    def final(self, error: Exception) -> FinalStatus:
        """Return the final status after an error. Raises PeerGone: nobody is left to answer."""
        match error:
            case QueryRefused():
                return FinalStatus(OUT_OF_RESOURCES, str(error))
            case IdentifierMismatch():
                return FinalStatus(IDENTIFIER_MISMATCH, error.rule, error.tag)
            case InvalidQuery():
                return FinalStatus(UNABLE_TO_PROCESS, error.rule, error.tag)
            case RequestRefused():
                return FinalStatus(error.status, str(error))
            case QueryStopped():
                self._waiting.clear()
                if self._operation.association.is_draining:
                    return FinalStatus(OUT_OF_RESOURCES, "the node is stopping: query again later")
                return FinalStatus(CANCELLED)
            case PeerGone():
                raise error
        self._operation.log.error("c_find_failed", exc_info=error)
        return FinalStatus(FAILED.status, FAILED.comment)

    def _answers(self) -> None:
        stopped = self._operation.is_cancelled
        responses: dict[int, Callable[[bytes], bytes]] = {}
        for pending, answer in self.found(stopped):
            if pending not in responses:
                responses[pending] = self._operation.responses_pdus(pending)
            self._queue(responses[pending](answer))
            if self._waiting_bytes >= SEND_BYTES or self.count == 0:
                self._flush()
                if stopped():
                    raise QueryStopped
            self.count += 1

    def found(self, stopped: Callable[[], bool]) -> Iterator[tuple[int, bytes]]:
        """Yield the encoded answers, each with its status: whether all keys are supported, and known of it."""
        operation, service = self._operation, self._service
        sop_class_uid = operation.context.abstract_syntax
        model, find = MODELS.get(sop_class_uid), service.added.get(sop_class_uid)
        if model is None and find is None:
            raise RequestRefused(SOP_CLASS_NOT_SUPPORTED, "the presentation context is not for C-FIND")
        identifier = operation.data_set()
        self._keys = _audited_keys(identifier)
        asked = character_set_of(texts(identifier, "SpecificCharacterSet"))
        if find is not None:
            is_supported, found = find(identifier, MAXIMUM_RESULTS, stopped)
            yield from ((_pending(is_supported), encoded_data_set(one, self._syntax, asked)) for one in found)
            return
        assert model is not None
        query = read_query(identifier, model, _options(operation.association.extended_negotiation, sop_class_uid))
        added = {"QueryRetrieveLevel": query.level.name, "RetrieveAETitle": service.ae_title}
        encode = AnswerEncoder((*query.returned, *added), self._syntax, query.items, asked).encode
        is_found = False
        for one in service.index.find(query, MAXIMUM_RESULTS, stopped):
            is_found = True
            answer = {**one, **added}
            if one.others:
                answer_bytes = encoded_answer({**one.others, **answer_model(answer)}, self._syntax, asked)
            else:
                answer_bytes = encode(answer)
            yield _pending(not query.unsupported and one.is_certain), answer_bytes
        if query.malformed is not None and not is_found:
            raise query.malformed

    def _queue(self, pdus: bytes) -> None:
        self._waiting.append(pdus)
        self._waiting_bytes += len(pdus)

    def _flush(self) -> None:
        """Send what is queued."""
        pdus, self._waiting, self._waiting_bytes = b"".join(self._waiting), [], 0
        self._operation.association.send_pdus(pdus)

    def is_refused(self, status: int) -> bool:
        """Return whether the final status is a failure and nothing was answered."""
        return not self.count and status not in (SUCCESS, CANCELLED)

    def audit(self, status: int) -> None:
        """Record the query in the audit log (PS3.15 A.5.3.10)."""
        if self._service.audit is None:
            return
        origin, is_whole = self._operation.origin, status in (SUCCESS, CANCELLED)
        message = AuditMessage(
            AuditEvent.QUERY,
            AuditAction.EXECUTE,
            # Of a search that fails after it has told something, each line counts.
            Result.MINOR_FAILURE if self.is_refused(status) else Result.SUCCESS if is_whole else Result.SERIOUS_FAILURE,
            [
                Participant(origin.calling_ae_title, SOURCE, origin.address, True, origin.certificate),
                Participant(origin.called_ae_title, DESTINATION),
            ],
            [{"sop_class_uid": self._operation.context.abstract_syntax, "query": self._keys}],
            f"{self.count} answers, 0x{status:04X}",
        )
        self._service.audit.note(message)


def _pending(is_supported: bool) -> int:
    return PENDING if is_supported else PENDING_WITHOUT_KEYS


def _audited_keys(identifier: Dataset) -> dict[str, str]:
    """Return the keys of an identifier with values, shortened for the audit log."""
    keys = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # patterns and ranges violate the value representation
        for tag in map(BaseTag, identifier.keys()):  # iterating over a Dataset converts what it holds
            try:
                text = str(identifier[tag].value or "")
            except CONVERSION_ERRORS:
                text = "not readable"
            if text:
                keys[keyword_for_tag(tag) or str(tag)] = text[:_MAX_AUDITED_CHARACTERS]
    return keys
