"""The statuses that the node returns, by service (PS3.2 N.7.3)."""

from __future__ import annotations

from node.dicom import status
from node.dicom.conformance import StatementTable, status_table

_RETRIEVE = "C-MOVE, C-GET"
_FAILURE_REASON = "Failure Reason"

STATUSES = status_table(
    ("all but C-ECHO", status.SOP_CLASS_NOT_SUPPORTED, "the presentation context is that of another service"),
    ("C-ECHO", status.SUCCESS, "always"),
    (
        "C-STORE",
        status.SUCCESS,
        "the instance is durable where [journal] acknowledge says, or already stored with the same bytes",
    ),
    (
        "C-STORE",
        status.ANOTHER_VERSION_IS_CURRENT,
        'durable, but another version is current; only with [storage] conflict_answer = "warning"',
    ),
    ("C-STORE", status.DATA_SET_IS_CUT, "durable, but the data set has not all pixels that its header states"),
    (
        "C-STORE",
        status.OUT_OF_RESOURCES,
        "retry later: disk full, commit failed, data set too large, node stopping, or not durable in time",
    ),
    ("C-STORE", status.CLASS_MISMATCH, "request, presentation context and data set name different objects"),
    ("C-STORE", status.CANNOT_UNDERSTAND, "the data set is unreadable, lacks an identifying UID, or cannot be indexed"),
    ("C-STORE", status.NOT_AUTHORIZED, "the peer may not store"),
    ("C-FIND", status.PENDING, "one match"),
    ("C-FIND", status.PENDING_WITHOUT_KEYS, "one match; optional keys of the query were not matched"),
    ("C-FIND", status.SUCCESS, "all matches were returned"),
    ("C-FIND", status.CANCELLED, "the query was cancelled by C-CANCEL"),
    (
        "C-FIND",
        status.OUT_OF_RESOURCES,
        "too many matches or queries, search too long, index behind what was received, or node stopping",
    ),
    (
        "C-FIND",
        status.IDENTIFIER_MISMATCH,
        "the level, or a unique key above it, does not conform to the information model",
    ),
    ("C-FIND", status.UNABLE_TO_PROCESS, "a key cannot be interpreted; Offending Element (0000,0901) identifies it"),
    (_RETRIEVE, status.PENDING, "after each sub-operation, with the numbers of sub-operations"),
    (_RETRIEVE, status.SUCCESS, "all instances were sent, or none was selected"),
    (
        _RETRIEVE,
        status.SUB_OPERATIONS_WARNING,
        "some instances were not sent, or had a warning; failed ones are listed",
    ),
    (_RETRIEVE, status.SUB_OPERATIONS_FAILED, "no instance was sent; all are listed"),
    (_RETRIEVE, status.CANCELLED, "the retrieve was cancelled by C-CANCEL; unsent instances are listed"),
    (_RETRIEVE, status.CANNOT_CALCULATE_MATCHES, "more than 65535 instances, or the index is behind what was received"),
    (_RETRIEVE, status.OUT_OF_RESOURCES, "internal error of the node; see its log"),
    (_RETRIEVE, status.IDENTIFIER_MISMATCH, "the level, or a unique key, does not conform to the information model"),
    (_RETRIEVE, status.UNABLE_TO_PROCESS, "the identifier cannot be decoded"),
    ("C-MOVE", status.DESTINATION_UNKNOWN, "the destination is not a configured peer with a host"),
    ("N-ACTION", status.SUCCESS, "the request is recorded; its result will be reported"),
    ("N-ACTION", status.NO_SUCH_INSTANCE, "the Requested SOP Instance UID is not the well-known one"),
    ("N-ACTION", status.NO_SUCH_ACTION, "the Action Type ID is not 1"),
    ("N-ACTION", status.INVALID_ARGUMENT, "the Transaction UID or the references are missing"),
    ("N-ACTION", status.OUT_OF_RESOURCES, "internal error of the node; see its log"),
    (_FAILURE_REASON, status.NO_SUCH_INSTANCE, "the instance is not stored"),
    (_FAILURE_REASON, status.CLASS_INSTANCE_CONFLICT, "the instance is stored under another SOP class"),
    (
        _FAILURE_REASON,
        status.PROCESSING_FAILURE,
        "the file is damaged or missing, or the requestor sent another version than the current",
    ),
)
"""Service, status and meaning, as an SCP; extensions have those of their services."""


def in_order(statuses: StatementTable) -> StatementTable:
    """Return statuses with the reasons of failures last."""
    rows = sorted(statuses.rows, key=lambda row: row[0] == _FAILURE_REASON)
    return StatementTable(statuses.columns, tuple(rows))
