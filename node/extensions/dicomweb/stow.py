"""STOW-RS: store instances from ``multipart/related``, and answer what became of each (PS3.18 10.5)."""

import re
from collections.abc import Iterator
from typing import Any

import structlog
from fastapi import HTTPException, Request, Response
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from node.audit.audit_log import AuditAction, AuditEvent, Result
from node.dicom.status import ANOTHER_VERSION_IS_CURRENT, DATA_SET_IS_CUT
from node.extensions.dicomweb.media_types import DICOM, MULTIPART, accepted, document_form, shown
from node.extensions.dicomweb.resources import (
    base_url,
    dicomweb_router,
    instance_url,
    resource_url,
    respond_data_set,
    warning_header,
)
from node.extensions.dicomweb.store_transaction import PartFailure, SingleTransaction, StoreReport, StoreTransaction
from node.index.database import Index
from node.index.rows.files import StoredInstance
from node.receive.ingest import Origin
from node.web.access import WRITERS, CurrentCall
from node.web.audit_trail import AccountAuditTrail
from node.web.services import Services

log = structlog.get_logger()
router = dicomweb_router(WRITERS)

PIECE_BYTES = 1 << 20
"""Bytes of a body collected before they are passed to a thread."""

RETRY_SECONDS = 60

_NOT_QUOTABLE = re.compile(r'[^ -~]|["\\]')

MAX_COMMENTS = 20
"""Comments in the header of one answer."""

_WARNINGS = {
    ANOTHER_VERSION_IS_CURRENT: "another version is current",
    DATA_SET_IS_CUT: "the data set has not all pixels that it states",
}


@router.post("/studies")
@router.post("/studies/{study}")
async def store(call: CurrentCall, study: str | None = None) -> Response:
    """Store instances, of any studies or of one."""
    request, node = call.request, call.node
    form = document_form(accepted(request), is_single=True)
    boundary = _boundary_of(request)
    refusal = await run_in_threadpool(node.ingest.refusal)
    if refusal is not None:
        raise HTTPException(503, refusal, {"Retry-After": str(RETRY_SECONDS)})
    client = request.client
    origin = Origin("stow", peer=f"{client.host}:{client.port}" if client is not None else "")
    transaction = await run_in_threadpool(_transaction, node, origin, boundary, study)
    try:
        await _feed(request, transaction)
        report = await run_in_threadpool(transaction.end)
    except ClientDisconnect:
        log.warning("stow_interrupted", instances=len(transaction.report.stored))
        return Response(status_code=400)
    finally:
        await run_in_threadpool(_close, transaction, call.audit)
    response = await run_in_threadpool(_store_response, node.index, report, base_url(request))
    headers = {"Retry-After": str(RETRY_SECONDS)} if report.status == 503 else {}
    if comments := _comments(report):
        headers["Warning"] = warning_header(comments)
    return respond_data_set(request, response, form, report.status, headers)


def _close(transaction: StoreTransaction, audit: AccountAuditTrail) -> None:
    """Close a transaction after success or failure, and record it in the audit log."""
    transaction.close()
    report = transaction.report
    result = Result.MINOR_FAILURE if report.failures else Result.SUCCESS
    studies = [{"study_instance_uid": uid} for uid in sorted(transaction.studies)]
    counts = f"STOW-RS: {len(report.stored)} stored, {len(report.failures)} not"
    audit.changed(AuditEvent.INSTANCES_TRANSFERRED, AuditAction.CREATE, studies, counts, result)


def _transaction(node: Services, origin: Origin, boundary: bytes, study: str | None) -> StoreTransaction:
    if not boundary:
        return SingleTransaction(node.ingest, origin, study, node.on_refusal)
    return StoreTransaction(node.ingest, origin, boundary, study, node.on_refusal)


def _boundary_of(request: Request) -> bytes:
    """Check the Content-Type of a body, and return its boundary; that of a single instance is empty."""
    raw, parameters = parse_options_header(request.headers.get("content-type"))
    media_type = raw.decode("latin-1").strip().lower()
    if media_type == DICOM:
        return b""
    inner = parameters.get(b"type", DICOM.encode()).decode("latin-1").lower()
    if media_type != MULTIPART or inner != DICOM:
        came = shown(f"{media_type}; type={inner}" if media_type == MULTIPART else media_type) or "nothing"
        raise HTTPException(
            415, f'the Content-Type is {came}; it must be {DICOM}, or {MULTIPART} with type="{DICOM}" (PS3.18 10.5.2)'
        )
    boundary = parameters.get(b"boundary", b"")
    if not boundary:
        raise HTTPException(400, "the Content-Type has no boundary (RFC 2046 5.1.1)")
    return boundary


async def _feed(request: Request, transaction: StoreTransaction) -> None:
    """Pass the body to a thread while it is received, in pieces large enough to be worth the overhead."""
    gathered = bytearray()
    async for data in request.stream():
        gathered += data
        if len(gathered) >= PIECE_BYTES:
            await run_in_threadpool(transaction.write, bytes(gathered))
            gathered.clear()
    await run_in_threadpool(transaction.write, bytes(gathered))


def _store_response(index: Index, report: StoreReport, base: str) -> dict[str, Any]:
    """Return the Store Instances Response Module (PS3.18 table 10.5.3-2); `base` is the URL of the service."""
    stored = list(_stored_instances(index, report))
    identified = [failure for failure in report.failures if failure.identity is not None]
    unidentified = [failure for failure in report.failures if failure.identity is None]
    response: dict[str, Any] = {}
    studies = {instance.study_instance_uid for instance in stored}
    if len(studies) == 1:
        response["00081190"] = _element("UR", resource_url(base, *studies))
    for tag, items in (
        ("00081198", [_failed(failure) for failure in identified]),
        ("00081199", [_referenced(base, instance, report) for instance in stored]),
        ("0008119A", [_failure_reason(failure) for failure in unidentified]),
    ):
        if items:
            response[tag] = {"vr": "SQ", "Value": items}
    return response


def _stored_instances(index: Index, report: StoreReport) -> Iterator[StoredInstance]:
    uids = report.stored
    if not uids:
        return
    with index.reading(wait=not report.is_indexed) as view:
        for at in range(0, len(uids), 500):
            yield from view.files.stored(sop_instance_uids=uids[at : at + 500])


def _element(vr: str, value: str | int) -> dict[str, Any]:
    return {"vr": vr, "Value": [value]}


def _referenced(base: str, instance: StoredInstance, report: StoreReport) -> dict[str, Any]:
    """Return the reference to an instance, with a *Warning Reason* (0008,1196) if there is one."""
    reason = report.warnings.get(instance.sop_instance_uid)
    warning = {} if reason is None else {"00081196": _element("US", reason)}
    return {
        "00081150": _element("UI", instance.sop_class_uid),
        "00081155": _element("UI", instance.sop_instance_uid),
        "00081190": _element("UR", instance_url(base, instance)),
        **warning,
    }


def _failed(failure: PartFailure) -> dict[str, Any]:
    identity = failure.identity
    uids = {} if identity is None else {"00081150": identity.sop_class_uid, "00081155": identity.sop_instance_uid}
    return {tag: _element("UI", uid) for tag, uid in uids.items()} | _failure_reason(failure)


def _failure_reason(failure: PartFailure) -> dict[str, Any]:
    return {"00081197": _element("US", failure.reason)}


def _comments(report: StoreReport) -> list[str]:
    """Return why parts were not stored, and what is wrong with those that were, for a Warning header.

    The Store Instances Response Module has no attribute for it (PS3.18 table 10.5.3-2), and no data set has group 0000.
    """
    found = [(failure.identity, failure.comment) for failure in report.failures]
    comments = [comment if one is None else f"{one.sop_instance_uid}: {comment}" for one, comment in found]
    comments += [f"{uid}: {_WARNINGS[reason]}" for uid, reason in report.warnings.items()]
    different = list(dict.fromkeys(_NOT_QUOTABLE.sub("'", comment) for comment in comments))
    more = [f"and {len(different) - MAX_COMMENTS} more"] if len(different) > MAX_COMMENTS else []
    return different[:MAX_COMMENTS] + more
