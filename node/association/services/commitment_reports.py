"""Reports of storage commitment that this node asked for, on associations of the peer (PS3.4 J.3.3)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

from node.association.client.commitment import report_of
from node.association.operation import NotDecodable, Operation
from node.association.services.commitment import MAXIMUM_ELEMENTS
from node.dicom.command import N_EVENT_REPORT_RQ, Element
from node.dicom.status import FAILED, INVALID_ARGUMENT, NO_SUCH_INSTANCE, SOP_CLASS_NOT_SUPPORTED, SUCCESS
from node.dicom.uids import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from node.errors import OutOfResources
from node.index.work.routes import RouteRepository


def serve_n_event_report(operation: Operation, routes: RouteRepository, now: Callable[[], dt.datetime]) -> None:
    """Serve one N-EVENT-REPORT-RQ, on the thread of the association.

    Statuses are those of PS3.7 10.1.1.1.8:

    * 0x0000: the report is recorded
    * 0x0110: it cannot be recorded now; 0x0112: no request of ours has this Transaction UID
    * 0x0115: the Event Information cannot be decoded; 0x0122: the presentation context belongs to another service
    """
    status, comment = _served(operation, routes, now)
    if status != SUCCESS:
        operation.log.warning("commitment_report_refused", status=f"0x{status:04X}", reason=comment)
    elements: dict[Element, int | str | bytes] = {
        Element.AFFECTED_SOP_INSTANCE_UID: STORAGE_COMMITMENT_INSTANCE,
        Element.EVENT_TYPE_ID: operation.command.number(Element.EVENT_TYPE_ID) or 0,
    }
    operation.respond(N_EVENT_REPORT_RQ, status, elements, comment=comment)


def _served(operation: Operation, routes: RouteRepository, now: Callable[[], dt.datetime]) -> tuple[int, str]:
    if operation.context.abstract_syntax != STORAGE_COMMITMENT:
        return SOP_CLASS_NOT_SUPPORTED, "the presentation context is of another service"
    try:
        report = report_of(operation.data_set(MAXIMUM_ELEMENTS))
    except NotDecodable as error:
        return INVALID_ARGUMENT, str(error)
    try:
        is_ours = routes.note_commitment(report.transaction_uid, report.committed, report.failed, now())
    except OutOfResources:
        return FAILED.status, FAILED.comment
    if not is_ours:
        return NO_SUCH_INSTANCE, "this node has not asked for this transaction"
    operation.log.info("commitment_received", count=len(report.committed), failed=len(report.failed))
    return SUCCESS, ""
