"""The statuses that the node returns, by service (PS3.2 N.7.3)."""

from __future__ import annotations

from node.dicom import status
from node.extensions.conformance.document import Table, table

_RETRIEVE = "C-MOVE, C-GET"
_STEP = "N-CREATE, N-SET"
_FAILURE_REASON = "N-EVENT-REPORT, Failure Reason (0008,1197)"

_DIMSE = (
    ("C-ECHO", status.SUCCESS, "always"),
    (
        "C-STORE",
        status.SUCCESS,
        "the instance is durable, or already stored with the same bytes; [journal] acknowledge says where: on the disk "
        "of this host, in the index, or in the object store",
    ),
    (
        "C-STORE",
        status.ANOTHER_VERSION_IS_CURRENT,
        'the instance is durable, but another version is current; only with [storage] conflict_answer = "warning"',
    ),
    (
        "C-STORE",
        status.OUT_OF_RESOURCES,
        "disk full, commit failed, data set too large, node stopping, or not in time where [journal] acknowledge says: "
        "retry later",
    ),
    ("C-STORE", status.CLASS_MISMATCH, "request, presentation context and data set name different objects"),
    (
        "C-STORE",
        status.CANNOT_UNDERSTAND,
        "the data set is unreadable, lacks an identifying UID, or cannot be indexed",
    ),
    ("C-STORE", status.SOP_CLASS_NOT_SUPPORTED, "the presentation context is that of another service"),
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
    ("C-FIND", status.SOP_CLASS_NOT_SUPPORTED, "the presentation context is that of another service"),
    (_RETRIEVE, status.PENDING, "after each sub-operation, with the numbers of sub-operations"),
    (_RETRIEVE, status.SUCCESS, "all instances were sent, or none was selected"),
    (
        _RETRIEVE,
        status.SUB_OPERATIONS_WARNING,
        "some instances were not sent, or had a warning; failed instances are listed",
    ),
    (_RETRIEVE, status.SUB_OPERATIONS_FAILED, "no instance was sent; all are listed"),
    (_RETRIEVE, status.CANCELLED, "the retrieve was cancelled by C-CANCEL; unsent instances are listed"),
    (_RETRIEVE, status.CANNOT_CALCULATE_MATCHES, "more than 65535 instances, or the index is behind what was received"),
    (_RETRIEVE, status.OUT_OF_RESOURCES, "internal error of the node; see its log"),
    (_RETRIEVE, status.IDENTIFIER_MISMATCH, "the level, or a unique key, does not conform to the information model"),
    (_RETRIEVE, status.UNABLE_TO_PROCESS, "the identifier cannot be decoded"),
    (_RETRIEVE, status.SOP_CLASS_NOT_SUPPORTED, "the presentation context is that of another service"),
    ("C-MOVE", status.DESTINATION_UNKNOWN, "the destination is not a configured peer with a host"),
    ("N-ACTION", status.SUCCESS, "the request is recorded; its result will be reported"),
    ("N-ACTION", status.NO_SUCH_INSTANCE, "the Requested SOP Instance UID is not the well-known one"),
    ("N-ACTION", status.NO_SUCH_ACTION, "the Action Type ID is not 1"),
    ("N-ACTION", status.INVALID_ARGUMENT, "the Transaction UID or the references are missing"),
    ("N-ACTION", status.SOP_CLASS_NOT_SUPPORTED, "the presentation context is that of another service"),
    ("N-ACTION", status.OUT_OF_RESOURCES, "internal error of the node; see its log"),
    (_STEP, status.SUCCESS, "the step is durable"),
    (_STEP, status.INVALID_ATTRIBUTE_VALUE, "the status, or an attribute that must not change, has another value"),
    (_STEP, status.MISSING_ATTRIBUTE, "an attribute of type 1 is missing; Attribute Identifier List names it"),
    ("N-CREATE", status.DUPLICATE_INSTANCE, "there is a step with this UID"),
    ("N-SET", status.NO_SUCH_INSTANCE, "there is no step with this UID"),
    (
        _STEP,
        status.PROCESSING_FAILURE,
        "the step is in a final state (Error ID 0xA710); the data set cannot be decoded; internal error",
    ),
    (_STEP, status.SOP_CLASS_NOT_SUPPORTED, "the presentation context is that of another service"),
    ("N-GET", status.SUCCESS, "the step, or the attributes of it that were asked for"),
    ("N-GET", status.NO_SUCH_INSTANCE, "there is no step with this UID"),
    ("N-GET", status.PROCESSING_FAILURE, "internal error of the node; see its log"),
    ("N-GET", status.SOP_CLASS_NOT_SUPPORTED, "the presentation context is that of another service"),
    (_FAILURE_REASON, status.NO_SUCH_INSTANCE, "the instance is not stored"),
    (_FAILURE_REASON, status.CLASS_INSTANCE_CONFLICT, "the instance is stored under another SOP class"),
    (
        _FAILURE_REASON,
        status.PROCESSING_FAILURE,
        "the file is damaged or missing, or the requestor sent another version than the current one",
    ),
)

_HTTP = (
    (200, "the complete result, or an empty list; all instances were stored"),
    (202, "instances were stored; the response lists the failed ones, and those of which another version is current"),
    (206, "instances that have no accepted representation were omitted; or the requested range"),
    (304, "not modified since the given entity tag"),
    (400, "the request is invalid; the response has the reason"),
    (401, "credentials are missing or wrong"),
    (403, "the role of the account does not permit it; or the request is cross-site or for an unknown host name"),
    (404, "the study, series, instance, frame or bulk data does not exist"),
    (406, "none of the accepted media types is available; the response lists the available ones"),
    (408, "the body arrives too slowly"),
    (409, "no instance was stored; the response has the reasons"),
    (410, "the requested object was deleted"),
    (413, "the body is too large, or has too many parts"),
    (415, "the media type of the body, or the transfer syntax of all its instances, is not supported"),
    (429, "too many login attempts"),
    (500, "internal error of the node; see its log"),
    (503, "connections, disk space or time exhausted: retry later"),
)


def statuses() -> Table:
    """Return service, status and meaning, as an SCP."""
    rows = [(service, f"0x{value:04X}", meaning) for service, value, meaning in _DIMSE]
    return table(("Service", "Status", "Meaning"), rows)


def http_statuses() -> Table:
    """Return status and meaning, as an origin server."""
    return table(("Status", "Meaning"), _HTTP)
