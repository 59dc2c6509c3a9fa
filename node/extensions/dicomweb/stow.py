"""STOW-RS: store instances from ``multipart/related``, and answer what became of each (PS3.18 10.5)."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

import structlog
from fastapi import HTTPException, Request, Response
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from node.audit.audit_log import AuditAction, AuditEvent, Result
from node.children.decoder import DecoderBusy, NotDecoded
from node.dicom.encoding import DEFLATED_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN
from node.dicom.status import ANOTHER_VERSION_IS_CURRENT, CANNOT_UNDERSTAND, DATA_SET_IS_CUT, OUT_OF_RESOURCES
from node.dicom.uids import is_accepted_transfer_syntax
from node.extensions.dicomweb.assembling import Assembled, SpooledPart, assemble_file, read_assembled
from node.extensions.dicomweb.media_types import (
    ANY,
    DICOM,
    DICOM_JSON,
    DICOM_XML,
    JSON,
    MULTIPART,
    accepted,
    bulk_data_syntax,
    document_form,
    plain_name,
    shown,
)
from node.extensions.dicomweb.resources import (
    base_url,
    dicomweb_router,
    instance_url,
    resource_url,
    respond_data_set,
    warning_header,
)
from node.extensions.dicomweb.store_transaction import PartFailure, SingleTransaction, StoreReport, StoreTransaction
from node.index.database.index import Index
from node.index.search.selection import StoredInstance
from node.receive.dicom_files import Identity
from node.receive.ingest import Origin
from node.web.access import WRITERS, CurrentCall
from node.web.audit_trail import AccountAuditTrail
from node.web.files import CHUNK_BYTES
from node.web.services import Services

log = structlog.get_logger()
METADATA_TYPES = frozenset((DICOM_JSON, DICOM_XML, JSON))


MAX_METADATA_BYTES = 64 << 20
"""Longest part of metadata: a child process holds its data sets in memory."""


CHECKED_BYTES = 64 << 20
"""Bytes spooled between two checks whether the disk has room."""


class MetadataTransaction(StoreTransaction):
    """A request whose parts are metadata and bulk data (PS3.18 10.5.2). Used by one thread at a time; close it.

    An instance is known only when all of its parts were received, so they wait in one file. A child process assembles
    them, because the metadata may be anything; the files then take the path of those that are received as such.
    """

    def __init__(self, node: Services, origin: Origin, boundary: bytes, study_instance_uid: str | None) -> None:
        super().__init__(node.ingest, origin, boundary, study_instance_uid, node.on_refusal)
        self._node = node
        self._spool = self._new_file()
        self._metadata: list[SpooledPart] = []
        self._bulk_data: list[SpooledPart] = []
        self._type, self._syntax, self._began, self._at, self._checked = "", "", 0, 0, 0

    def begin_part(self, media_type: str, transfer_syntax_uid: str) -> None:
        """Begin a part, whose headers are complete."""
        self._type, self._syntax, self._began = media_type, transfer_syntax_uid, self._at

    def write_part(self, data: memoryview) -> None:
        """Write bytes of the part to the spool file: 413 for metadata that are too long, 503 if the disk is full."""
        if self._type in METADATA_TYPES and self._at + len(data) - self._began > MAX_METADATA_BYTES:
            raise HTTPException(
                413, f"metadata of more than {MAX_METADATA_BYTES} bytes in one part: send several requests"
            )
        try:
            self._spool.write(data)
        except OSError as error:
            raise HTTPException(503, f"the parts cannot be written: {os.strerror(error.errno or 0)}") from error
        self._at += len(data)
        if self._at - self._checked >= CHECKED_BYTES:
            self._checked = self._at
            refusal = self._node.ingest.refusal()
            if refusal is not None:
                raise HTTPException(503, refusal)

    def end_part(self) -> None:
        """Note where the part is."""
        location = self.part_headers.get(b"content-location", b"").decode("utf-8", "replace").strip()
        length = self._at - self._began
        if self._type in METADATA_TYPES:
            self._metadata.append(SpooledPart(self._type, location, self._began, length))
            return
        syntax = bulk_data_syntax(self._type, self._syntax)
        if syntax is None or syntax == DEFLATED_LITTLE_ENDIAN or not is_accepted_transfer_syntax(syntax):
            reason = f"a part is neither metadata nor bulk data: {shown(self._type) or 'no Content-Type'}"
            self.refused(PartFailure(CANNOT_UNDERSTAND, reason))
        elif not location:
            self.refused(PartFailure(CANNOT_UNDERSTAND, "a part of bulk data has no Content-Location"))
        else:
            is_assumed = self._syntax in ("", ANY)
            media_type = plain_name(self._type)
            self._bulk_data.append(SpooledPart(media_type, location, self._began, length, syntax, is_assumed))

    def end(self) -> StoreReport:
        """Assemble the instances and wait until each is stored or refused; see `StoreTransaction.end`."""
        if self.is_whole:
            self._assemble()
        return super().end()

    def close(self) -> None:
        """Delete the spool file; see `StoreTransaction.close`."""
        with suppress(OSError):  # what is still buffered does not fit on the disk
            self._spool.close()
        super().close()

    def _assemble(self) -> None:
        try:
            self._spool.flush()
            with self._new_file() as file:
                paths = Path(self._spool.name), Path(file.name)
                answer = self._node.decoder.run(assemble_file, paths[0], self._metadata, self._bulk_data, into=paths[1])
                for one in read_assembled(answer):
                    self._store(one, file)
        except (NotDecoded, ValueError) as error:
            self.refused(PartFailure(CANNOT_UNDERSTAND, f"the metadata cannot be read: {error}"))
        except DecoderBusy:
            self.refused(PartFailure(OUT_OF_RESOURCES, "too many requests wait for a decoder: try again later"))
        except OSError as error:
            self.refused(PartFailure(OUT_OF_RESOURCES, f"the parts cannot be read or written: {error.strerror}"))

    def _new_file(self) -> IO[bytes]:
        """Return a file on the disk of the archive, which is deleted when it is closed; 503 if there is no room."""
        folder = self._node.archive.incoming
        try:
            file: IO[bytes] = NamedTemporaryFile(dir=folder, prefix="stow-", suffix=".part")  # noqa: SIM115 - see close
        except OSError as error:
            raise HTTPException(503, f"the parts cannot be written: {error.strerror}") from error
        return file

    def _store(self, one: Assembled, file: IO[bytes]) -> None:
        if one.refusal:
            uids = one.sop_class_uid, one.sop_instance_uid
            identity = Identity(*uids, EXPLICIT_LITTLE_ENDIAN, "", "", 0) if all(uids) else None
            self.refused(PartFailure(CANNOT_UNDERSTAND, one.refusal, identity))
            return
        super().begin_part(DICOM, "")
        left = one.length
        while left > 0:
            data = file.read(min(CHUNK_BYTES, left))
            if not data:
                raise HTTPException(503, "the assembled instances cannot be read back")
            super().write_part(memoryview(data))
            left -= len(data)
        super().end_part()


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
    inner, boundary = _parts_of(request)
    refusal = await run_in_threadpool(node.ingest.refusal)
    if refusal is not None:
        raise HTTPException(503, refusal, {"Retry-After": str(RETRY_SECONDS)})
    client = request.client
    origin = Origin("stow", peer=f"{client.host}:{client.port}" if client is not None else "")
    transaction = await run_in_threadpool(_transaction, node, origin, inner, boundary, study)
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


def _transaction(node: Services, origin: Origin, inner: str, boundary: bytes, study: str | None) -> StoreTransaction:
    if not boundary:
        return SingleTransaction(node.ingest, origin, study, node.on_refusal)
    if inner in METADATA_TYPES:
        return MetadataTransaction(node, origin, boundary, study)
    return StoreTransaction(node.ingest, origin, boundary, study, node.on_refusal)


def _parts_of(request: Request) -> tuple[str, bytes]:
    """Check the Content-Type of a body, and return the media type of its first part and its boundary.

    The boundary of a single instance is empty.
    """
    raw, parameters = parse_options_header(request.headers.get("content-type"))
    media_type = raw.decode("latin-1").strip().lower()
    if media_type == DICOM:
        return DICOM, b""
    inner = parameters.get(b"type", DICOM.encode()).decode("latin-1").lower()
    if media_type != MULTIPART or inner not in (DICOM, *METADATA_TYPES):
        types = " or ".join(f'"{name}"' for name in (DICOM, DICOM_JSON, DICOM_XML))
        came = shown(f"{media_type}; type={inner}" if media_type == MULTIPART else media_type) or "nothing"
        raise HTTPException(
            415, f"the Content-Type is {came}; it must be {DICOM}, or {MULTIPART} with type={types} (PS3.18 10.5.2)"
        )
    boundary = parameters.get(b"boundary", b"")
    if not boundary:
        raise HTTPException(400, "the Content-Type has no boundary (RFC 2046 5.1.1)")
    return inner, boundary


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
            yield from view.instances.stored(sop_instance_uids=uids[at : at + 500])


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
