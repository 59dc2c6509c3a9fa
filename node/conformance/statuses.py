"""The statuses that the node answers, by service (PS3.2 N.7.3)."""

from __future__ import annotations

from node.conformance.document import Table, table
from node.dicom import status

_RETRIEVE = "C-MOVE, C-GET"
_FAILURE_REASON = "N-EVENT-REPORT, Failure Reason (0008,1197)"

_DIMSE = (
    ("C-ECHO", status.SUCCESS, "always"),
    ("C-STORE", status.SUCCESS, "durable and indexed, or here already with the same bytes"),
    ("C-STORE", status.OUT_OF_RESOURCES, "no room, no commit, too large, or the node stops: try again later"),
    ("C-STORE", status.CLASS_MISMATCH, "request, presentation context and data set name different objects"),
    ("C-STORE", status.CANNOT_UNDERSTAND, "the data set cannot be read, or lacks an identifying UID"),
    ("C-STORE", status.SOP_CLASS_NOT_SUPPORTED, "the presentation context is that of another service"),
    ("C-STORE", status.NOT_AUTHORIZED, "the peer may not store"),
    ("C-FIND", status.PENDING, "an answer"),
    ("C-FIND", status.PENDING_WITHOUT_KEYS, "an answer; optional keys of the query were not looked at"),
    ("C-FIND", status.SUCCESS, "that was all"),
    ("C-FIND", status.CANCELLED, "the peer cancelled"),
    ("C-FIND", status.OUT_OF_RESOURCES, "too many answers, too long a search, or the node stops"),
    ("C-FIND", status.IDENTIFIER_MISMATCH, "the level, or a unique key above it, is not what the model asks for"),
    ("C-FIND", status.UNABLE_TO_PROCESS, "a key cannot be understood; Offending Element (0000,0901) names it"),
    ("C-FIND", status.SOP_CLASS_NOT_SUPPORTED, "the presentation context is that of another service"),
    (_RETRIEVE, status.PENDING, "after each sub-operation, with the numbers of them"),
    (_RETRIEVE, status.SUCCESS, "all instances were sent, or none was selected"),
    (_RETRIEVE, status.SUB_OPERATIONS_WARNING, "some were not sent, or with a warning; those that failed are listed"),
    (_RETRIEVE, status.SUB_OPERATIONS_FAILED, "none was sent; all are listed"),
    (_RETRIEVE, status.CANCELLED, "the peer cancelled; what was not sent is listed"),
    (_RETRIEVE, status.CANNOT_CALCULATE_MATCHES, "more instances than can be counted: 65535"),
    (_RETRIEVE, status.OUT_OF_RESOURCES, "an error of the node, whose place its log names"),
    (_RETRIEVE, status.IDENTIFIER_MISMATCH, "the level, or a unique key, is not what the model asks for"),
    (_RETRIEVE, status.UNABLE_TO_PROCESS, "the identifier cannot be decoded"),
    (_RETRIEVE, status.SOP_CLASS_NOT_SUPPORTED, "the presentation context is that of another service"),
    ("C-MOVE", status.DESTINATION_UNKNOWN, "the destination is no peer with a host"),
    ("N-ACTION", status.SUCCESS, "the request for commitment is kept, its result will be reported"),
    ("N-ACTION", status.NO_SUCH_INSTANCE, "of another instance than the well-known one"),
    ("N-ACTION", status.NO_SUCH_ACTION, "another action than 1"),
    ("N-ACTION", status.INVALID_ARGUMENT, "no Transaction UID, or no references"),
    ("N-ACTION", status.SOP_CLASS_NOT_SUPPORTED, "the presentation context is that of another service"),
    ("N-ACTION", status.OUT_OF_RESOURCES, "an error of the node, whose place its log names"),
    (_FAILURE_REASON, status.NO_SUCH_INSTANCE, "the instance is not here"),
    (_FAILURE_REASON, status.CLASS_INSTANCE_CONFLICT, "it is here under another SOP class"),
    (_FAILURE_REASON, status.PROCESSING_FAILURE, "its file is damaged or missing"),
)

_HTTP = (
    (200, "all that was asked for, or an empty list; all instances stored"),
    (202, "some instances were stored; the response tells which were not, and why"),
    (206, "instances that cannot be given in an accepted form were left out; or the range that was asked for"),
    (304, "nothing has changed since the entity tag that was shown"),
    (400, "the request cannot be understood; the response tells why"),
    (401, "credentials are missing or wrong"),
    (403, "the account may not do that; or a foreign host name or page"),
    (404, "there is no such study, series, instance, frame or bulk data"),
    (406, "none of the accepted media types is offered; the response names those that are"),
    (408, "the body comes too slowly"),
    (409, "no instance was stored; the response tells why"),
    (410, "what was asked for has been deleted"),
    (413, "the body is too large, or has too many parts"),
    (415, "the media type of the body, or the transfer syntax of all its instances, is not supported"),
    (429, "too many tries to log in"),
    (500, "an error of the node, whose place its log names"),
    (503, "short of connections, room or time: try again later"),
)


def statuses() -> Table:
    """Service, status and meaning, as an SCP."""
    return table(("Service", "Status", "Meaning"), [(name, f"0x{value:04X}", what) for name, value, what in _DIMSE])


def http_statuses() -> Table:
    """Status and meaning, as an origin server."""
    return table(("Status", "Meaning"), _HTTP)
