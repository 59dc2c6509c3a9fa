"""The statuses that the node returns, by service (PS3.2 N.7.3)."""

from __future__ import annotations

from node.dicom import status
from node.dicom.conformance import StatementTable, table

_RETRIEVE = "C-MOVE, C-GET"
_STEP = "N-CREATE, N-SET"
_FAILURE_REASON = "Failure Reason"

_DIMSE = (
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
    (
        "C-STORE",
        status.OUT_OF_RESOURCES,
        "retry later: disk full, commit failed, data set too large, node stopping, or not durable in time",
    ),
    ("C-STORE", status.CLASS_MISMATCH, "request, presentation context and data set name different objects"),
    (
        "C-STORE",
        status.CANNOT_UNDERSTAND,
        "the data set is unreadable, lacks an identifying UID, or cannot be indexed",
    ),
    ("C-STORE", status.NOT_AUTHORIZED, "the peer may not store"),
    ("C-FIND", status.PENDING, "one match"),
    ("C-FIND", status.PENDING_WITHOUT_KEYS, "one match; optional keys of the query were not matched"),
    ("C-FIND", status.SUCCESS, "all matches were returned"),
    ("C-FIND", status.CANCELLED, "the query was cancelled by C-CANCEL"),
    ("C-FIND", status.OUT_OF_RESOURCES, "too many matches, search too long, or node stopping"),
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
    (_STEP, status.SUCCESS, "the step is durable"),
    (_STEP, status.INVALID_ATTRIBUTE_VALUE, "the status, or an attribute that must not change, has another value"),
    (_STEP, status.MISSING_ATTRIBUTE, "an attribute of type 1 is missing; Attribute Identifier List names it"),
    ("N-CREATE", status.DUPLICATE_INSTANCE, "there is a step with this UID"),
    ("N-SET", status.NO_SUCH_INSTANCE, "there is no step with this UID"),
    (
        _STEP,
        status.PROCESSING_FAILURE,
        "the step is in a final state (Error ID 0xA710); undecodable data set; internal error",
    ),
    ("N-GET", status.SUCCESS, "the step, or the attributes of it that were asked for"),
    ("N-GET", status.NO_SUCH_INSTANCE, "there is no step with this UID"),
    ("N-GET", status.PROCESSING_FAILURE, "internal error of the node; see its log"),
    (_FAILURE_REASON, status.NO_SUCH_INSTANCE, "the instance is not stored"),
    (_FAILURE_REASON, status.CLASS_INSTANCE_CONFLICT, "the instance is stored under another SOP class"),
    (
        _FAILURE_REASON,
        status.PROCESSING_FAILURE,
        "the file is damaged or missing, or the requestor sent another version than the current",
    ),
)

_HTTP = (
    (200, "the complete result, or an empty list; all instances were stored"),
    (202, "some instances failed, or another version of them is current; the response lists them"),
    (204, "deleted; or no result in XML"),
    (206, "instances that have no accepted representation were omitted; or the requested range"),
    (304, "not modified since the given entity tag"),
    (400, "the request is invalid; the response has the reason"),
    (401, "credentials are missing or wrong"),
    (403, "the role of the account does not permit it; or the request is cross-site or for an unknown host name"),
    (404, "the study, series, instance, frame or bulk data does not exist"),
    (406, "none of the accepted media types is available; the response lists the available ones"),
    (408, "the body arrives too slowly"),
    (409, "no instance was stored; the response has the reasons; or the commitment request is being answered"),
    (410, "the requested object was deleted"),
    (412, "If-Match names another representation"),
    (413, "the body is too large, or has too many parts"),
    (415, "the media type of the body, or the transfer syntax of all its instances, is not supported"),
    (416, "the requested range is beyond the end"),
    (429, "too many login attempts"),
    (500, "internal error of the node; see its log"),
    (503, "connections, disk space or time exhausted: retry later"),
)


def statuses() -> StatementTable:
    """Return service, status and meaning, as an SCP."""
    rows = [(service, f"0x{value:04X}", meaning) for service, value, meaning in _DIMSE]
    return table(("Services", "Status", "Meaning"), rows)


def http_statuses() -> StatementTable:
    """Return status and meaning, as an origin server."""
    return table(("Status", "Meaning"), _HTTP)
