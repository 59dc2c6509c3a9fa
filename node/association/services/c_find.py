"""C-FIND: an identifier -> what it means (`node.dicom.matching`) -> rows of the index -> a response for each.

PS3.4 C.4.1, PS3.7 9.1.2.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

import structlog
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from node.association.operation import NotDecodable, Operation
from node.association.outgoing import encoded
from node.association.upper_layer import PeerGone
from node.audit import DESTINATION, SOURCE, Action, Audit, AuditEvent, AuditFailed, Participant, Result
from node.dicom.command import C_FIND_RQ, Element
from node.dicom.flat import NotFlat, encode_flat
from node.dicom.keys import IdentifierMismatch, InvalidQuery, Model
from node.dicom.matching import Options, Query, read_query
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
    SopClassNotSupported,
)
from node.dicom.uids import PATIENT_ROOT_FIND, STUDY_ROOT_FIND
from node.dicom.values import CONVERSION_ERRORS
from node.index.database import Index
from node.index.finder import QueryRefused, QueryStopped
from node.metrics import Metrics

logger = structlog.get_logger()

MODELS: Mapping[str, Model] = {PATIENT_ROOT_FIND: Model.PATIENT_ROOT, STUDY_ROOT_FIND: Model.STUDY_ROOT}

_AGREED_TO = (True, True, True, False, False, False, False)
"""PS3.4 table C.5-2: relational queries, combined date-time matching, fuzzy matching of names; not adjustment of time
zones, conversion to enhanced multi-frame images, empty value matching and multiple value matching."""

SENT_BYTES = 32768
"""Answers but the first wait for others, until they are so many bytes."""

_TOLD_CHARACTERS = 256
"""Longest value of a key in the audit log: a list of UIDs may have a hundred thousand."""


@dataclass(frozen=True, slots=True)
class FindService:
    """What queries are answered from.

    Attributes
    ----------
    ae_title : str
        Ours: what is found can be retrieved here.
    maximum_results : int
        Most answers to one query.
    audit : Audit or None
        Told of every query (PS3.15 A.5.3.10).
    """

    index: Index
    ae_title: str
    maximum_results: int
    metrics: Metrics
    audit: Audit | None = None


def negotiate(asked: Mapping[str, bytes]) -> dict[str, bytes]:
    """Answer SOP Class Extended Negotiation (``evt.EVT_SOP_EXTENDED``, PS3.4 C.5.1.1): what is asked for and done."""
    return {
        uid: bytes(wanted == 1 and done for wanted, done in zip(fields, _AGREED_TO, strict=False)) or b"\0"
        for uid, fields in asked.items()
        if uid in MODELS
    }


def _options(asked: Mapping[str, bytes], sop_class_uid: str) -> Options:
    relational, combined, fuzzy = (negotiate(asked).get(sop_class_uid, b"") + b"\0\0\0")[:3]
    return Options(bool(relational), bool(combined), bool(fuzzy))


@dataclass(frozen=True, slots=True)
class _Last:
    """How an operation ends."""

    status: int
    comment: str = ""
    offending: int | None = None


def serve_c_find(operation: Operation, service: FindService) -> None:
    """Serve one C-FIND-RQ, on the association's own thread.

    Notes
    -----
    The last status, PS3.4 C.4.1.1.4:

    * 0x0000: every answer has been sent, each with 0xFF00, or with 0xFF01 if the query has keys that are optional and
      not supported
    * 0xFE00: the peer cancelled
    * 0xA700: too many answers, too long a search, or the node stops
    * 0xA900: the level, or a unique key above it, is not what the information model asks for
    * 0xC000: a key cannot be understood; *Offending Element* (0000,0901) names it, here and with 0xA900
    * 0x0122: C-FIND on the presentation context of another service
    """
    began_at, last = perf_counter(), _Last(CANCELLED)  # unless the peer goes away
    find = _Find(operation, service)
    try:
        last = find.answer()
    finally:
        service.metrics.c_find_answers.labels(status=f"0x{last.status:04X}").inc()
        operation.log.info(
            "c_find",
            sop_class_uid=operation.context.abstract_syntax,
            status=f"0x{last.status:04X}",
            count=find.count,
            seconds=round(perf_counter() - began_at, 3),
        )
        find.tell(last.status)


class _Find:
    """One C-FIND operation and its responses."""

    def __init__(self, operation: Operation, service: FindService) -> None:
        self._operation, self._service = operation, service
        self._syntax = operation.context.transfer_syntax_uid
        self._waiting: list[bytes] = []
        self._waiting_bytes = self.count = 0
        self._keys: dict[str, str] = {}

    def answer(self) -> _Last:
        """Send every response; returns what the last one says.

        Raises
        ------
        PeerGone
        """
        last = self._last()
        self._send(last.status, comment=last.comment, offending=last.offending)
        self._flush()
        return last

    def _last(self) -> _Last:
        """Send the answers; returns how the operation ends."""
        try:
            self._answers()
        except QueryRefused as error:
            return _Last(OUT_OF_RESOURCES, str(error))
        except IdentifierMismatch as error:
            return _Last(IDENTIFIER_MISMATCH, error.rule, error.tag)
        except InvalidQuery as error:
            return _Last(UNABLE_TO_PROCESS, error.rule, error.tag)
        except NotDecodable as error:
            return _Last(UNABLE_TO_PROCESS, str(error))
        except SopClassNotSupported as error:
            return _Last(SOP_CLASS_NOT_SUPPORTED, str(error))
        except QueryStopped:
            self._waiting.clear()
            if self._operation.reader.is_draining:
                return _Last(OUT_OF_RESOURCES, "the node is stopping: ask again later")
            return _Last(CANCELLED)
        except PeerGone:
            raise
        except Exception as error:
            self._operation.log.error("c_find_failed", exc_info=error)
            return _Last(FAILED.status, FAILED.comment)
        return _Last(SUCCESS)

    def _answers(self) -> None:
        query = self._query()
        pending = PENDING_WITHOUT_KEYS if query.unsupported else PENDING
        stopped = self._operation.is_cancelled
        for answer in self._service.index.find(query, self._service.maximum_results, stopped):
            answer.QueryRetrieveLevel = query.level.name
            answer.RetrieveAETitle = self._service.ae_title
            self._send(pending, _encoded(answer, self._syntax))
            if self._waiting_bytes >= SENT_BYTES or self.count == 0:
                self._flush()
                if stopped():
                    raise QueryStopped
            self.count += 1

    def _query(self) -> Query:
        sop_class_uid = self._operation.context.abstract_syntax
        model = MODELS.get(sop_class_uid)
        if model is None:
            raise SopClassNotSupported("the presentation context is not of a query")
        identifier = self._operation.data_set("Identifier")
        self._keys = _told(identifier)
        return read_query(identifier, model, _options(self._operation.extended_negotiation, sop_class_uid))

    def _send(
        self, status: int, identifier: bytes | None = None, comment: str = "", offending: int | None = None
    ) -> None:
        """Queue a response."""
        elements = {} if offending is None else {Element.OFFENDING_ELEMENT: offending}
        pdus = self._operation.response_pdus(C_FIND_RQ, status, elements, identifier, comment)
        self._waiting.append(pdus)
        self._waiting_bytes += len(pdus)

    def _flush(self) -> None:
        """Send what is queued."""
        pdus, self._waiting, self._waiting_bytes = b"".join(self._waiting), [], 0
        self._operation.reader.send_now(pdus)

    def tell(self, status: int) -> None:
        """Tell the audit log (PS3.15 A.5.3.10)."""
        if self._service.audit is None:
            return
        origin = self._operation.origin
        try:
            self._service.audit.record(
                AuditEvent.QUERY,
                Action.EXECUTE,
                Result.SUCCESS if status in (SUCCESS, CANCELLED) else Result.MINOR_FAILURE,
                [
                    Participant(origin.calling_ae_title, SOURCE, origin.address, is_requestor=True),
                    Participant(origin.called_ae_title, DESTINATION),
                ],
                [{"sop_class_uid": self._operation.context.abstract_syntax, "query": self._keys}],
                f"{self.count} answers, 0x{status:04X}",
            )
        except AuditFailed:
            logger.exception("query_not_audited")  # nothing is destroyed by it; what destroys waits for the audit log


def _encoded(answer: Dataset, transfer_syntax_uid: str) -> bytes:
    try:
        return encode_flat(answer, transfer_syntax_uid)
    except NotFlat:
        return encoded(answer, transfer_syntax_uid)


def _told(identifier: Dataset) -> dict[str, str]:
    """What the keys of an identifier say, as far as the audit log tells it."""
    told = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # patterns and ranges are no values of their representation
        for tag in map(BaseTag, identifier.keys()):  # iterating over a Dataset converts what it holds
            try:
                text = str(identifier[tag].value or "")
            except CONVERSION_ERRORS:
                text = "not readable"
            if text:
                told[keyword_for_tag(tag) or str(tag)] = text[:_TOLD_CHARACTERS]
    return told
