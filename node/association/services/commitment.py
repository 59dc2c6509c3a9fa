"""Storage commitment: every file is read again before a peer hears that it may delete its own copy (PS3.4 J).

A request is a row before it is answered. Its result is reported on the same association if the peer keeps it open, else
on an association of ours to the host of the peer, until the peer has accepted it, all attempts have failed, or the peer
has no host. If the process dies, the next start reports what is owed.
"""

import datetime as dt
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import structlog
from pydicom.dataset import Dataset
from pynetdicom.dimse_primitives import N_EVENT_REPORT

from node.archive.intact import problem_with
from node.association.added import Parts
from node.association.association import primitive_of
from node.association.client.addresses import Address, PeerAddresses
from node.association.client.association import AssociationLost, NoAssociation, association, contexts_of
from node.association.client.commitment import report_of as decoded_report
from node.association.operation import Operation, RequestRefused
from node.association.upper_layer import PeerGone
from node.dicom.attributes import is_identifier
from node.dicom.encoding import EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from node.dicom.keys import Level, Selection
from node.dicom.status import (
    CLASS_INSTANCE_CONFLICT,
    INVALID_ARGUMENT,
    NO_SUCH_ACTION,
    NO_SUCH_INSTANCE,
    PROCESSING_FAILURE,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
)
from node.dicom.uids import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from node.dicom.values import items, text
from node.errors import OutOfResources, VoxelnodeError, counted
from node.index.rows.files import StoredInstance
from node.index.rows.records import Refused
from node.index.rows.states import CommitmentRequest, Reference
from node.index.rules.work.ledger import Decision, Ended, Postponed, Work, after_failure
from node.index.work_loop import RequestLoop
from node.receive.stored_files import report_damage

logger = structlog.get_logger()

REQUEST_COMMITMENT = 1
"""The one Action Type ID of the service, PS3.4 J.3.2."""

ALL_COMMITTED, FAILURES_EXIST = 1, 2
"""Event Type IDs of its result, PS3.4 J.3.3."""

MAXIMUM_ELEMENTS = 200_000
"""Most elements and items of a request: more than 65 000 references."""

PAGE = 500
SAME_ASSOCIATION_SECONDS = 60.0
"""Time for the association that asked to report the result; after that, the result is due on another association."""

LEAVE_SECONDS = 1.0
"""Time for a peer to release the association: many peers answer no request while they do."""


class CommitmentService:
    """The parts of the node that storage commitment needs.

    `peers`: receivers of results for which the association that asked did not wait, by AE title; `timeout`: longest
    wait for an answer to a report, in seconds; `needs_object`: an instance is committed only if the object store has
    it; `on_refusal`: called for each result that is given up.
    """

    def __init__(self, node: Parts) -> None:
        self.index, self.archive, self.now = node.ingest.index, node.ingest.archive, node.ingest.now
        self.ae_title, self.timeout = node.settings.dicom.ae_title, node.settings.dicom.response_seconds
        self.peers: Mapping[str, Address] = PeerAddresses(node.settings)
        self.needs_object = node.settings.acknowledge == "object"
        self.metrics, self.on_refusal = node.metrics, node.on_refusal


@dataclass(frozen=True, slots=True)
class CommitmentResult:
    """The instances of a request that are committed, and the others with a Failure Reason."""

    committed: tuple[Reference, ...]
    failed: tuple[tuple[Reference, int], ...]


def verify(
    service: CommitmentService, references: Sequence[Reference], requestor: str, stop: Callable[[], bool]
) -> CommitmentResult | None:
    """Compare the length and SHA-256 of each file with its row; None as soon as `stop` returns True.

    An instance is not committed if the requestor, by its AE title, sent another version than the current one: it would
    delete bytes that it could not retrieve.
    """
    committed: list[Reference] = []
    failed: list[tuple[Reference, int]] = []
    for at in range(0, len(references), PAGE):
        page = references[at : at + PAGE]
        uids = {uid for _, uid in page}
        stored = _stored(service, uids)
        with service.index.reading() as index:
            lost = index.conflicts.lost_to_another(uids, requestor)
        keys = {one.key for one in stored.values()}
        promised = service.index.objects.stored_among(keys) if service.needs_object else keys
        for reference in page:
            if stop():
                return None
            reason = _failure_reason(service, reference, stored.get(reference[1]))
            if reason is None and reference[1] in lost:
                reason = PROCESSING_FAILURE
                logger.error(
                    "instance_not_committed", sop_instance_uid=reference[1], reason="another version is current"
                )
            if reason is None and stored[reference[1]].key not in promised:
                reason = PROCESSING_FAILURE
                logger.error("instance_not_committed", sop_instance_uid=reference[1], reason="not in the object store")
            if reason is None:
                committed.append(reference)
            else:
                failed.append((reference, reason))
    return CommitmentResult(tuple(committed), tuple(failed))


def _stored(service: CommitmentService, uids: Iterable[str]) -> dict[str, StoredInstance]:
    selection = Selection(Level.IMAGE, sop_instance_uids=tuple(uids))
    with service.index.reading() as index:
        return {instance.sop_instance_uid: instance for instance in index.files.selected(selection, PAGE).instances}


def _failure_reason(service: CommitmentService, reference: Reference, stored: StoredInstance | None) -> int | None:
    """Return the *Failure Reason* (0008,1197), PS3.3 C.14.1.1; None for an instance that is committed."""
    if stored is None:
        return NO_SUCH_INSTANCE
    if stored.sop_class_uid != reference[0]:
        return CLASS_INSTANCE_CONFLICT
    try:
        problem = problem_with(service.archive.local(stored), stored.data_set_offset, stored.bytes, stored.sha256)
    except OSError as error:
        logger.error("instance_not_committed", sop_instance_uid=stored.sop_instance_uid, reason=error.strerror)
        return PROCESSING_FAILURE
    if problem is None:
        return None
    with suppress(OutOfResources):  # the next reader records it
        if report_damage(service.archive, service.index, stored.key, problem, service.now()):
            return None
    logger.error("instance_not_committed", sop_instance_uid=stored.sop_instance_uid, reason=f"its file {problem}")
    return PROCESSING_FAILURE


def report_of(service: CommitmentService, work: Work, result: CommitmentResult) -> Dataset:
    """Return the Event Information of a result (PS3.4 table J.3-2)."""
    report = Dataset()
    report.TransactionUID = work.key
    report.RetrieveAETitle = service.ae_title
    if result.committed:
        report.ReferencedSOPSequence = [_reference(reference) for reference in result.committed]
    if result.failed:
        report.FailedSOPSequence = [_reference(reference, reason) for reference, reason in result.failed]
    return report


def _reference(reference: Reference, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = reference
    if reason is not None:
        item.FailureReason = reason
    return item


def report_request(message_id: int, result: CommitmentResult) -> N_EVENT_REPORT:
    """Return the N-EVENT-REPORT-RQ of a result (PS3.7 10.1.1)."""
    request: N_EVENT_REPORT = primitive_of(
        N_EVENT_REPORT,
        MessageID=message_id,
        AffectedSOPClassUID=STORAGE_COMMITMENT,
        AffectedSOPInstanceUID=STORAGE_COMMITMENT_INSTANCE,
        EventTypeID=FAILURES_EXIST if result.failed else ALL_COMMITTED,
    )
    return request


def serve_n_action(operation: Operation, service: CommitmentService) -> None:
    """Serve one N-ACTION-RQ, on the thread of the association; then report the result there if the peer waits for it.

    Statuses are those of PS3.7 10.1.4.1.10:

    * 0x0000: the request is kept, and its result will be reported
    * 0x0110: the result can be reported nowhere: the acceptor is that of pynetdicom, and the peer has no host
    * 0x0112: the instance is not the well-known one; 0x0123: the action is another one
    * 0x0115: the Action Information lacks its Transaction UID or its references
    * 0x0122: the presentation context belongs to another service
    """
    parameters: dict[str, Any] = {
        "AffectedSOPInstanceUID": STORAGE_COMMITMENT_INSTANCE,
        "ActionTypeID": operation.number("ActionTypeID"),
    }
    take_up = partial(_taken_up, operation, service)
    work = operation.attempt(take_up, "commitment_refused", "commitment_failed", **parameters)
    if work is None:
        return
    operation.log.info("commitment_requested", count=len(work.payload.references))
    try:
        operation.respond(SUCCESS, **parameters)
        is_reported = _is_reported_here(operation, service, work)
    except PeerGone:
        is_reported = False
    if not is_reported:
        now = service.now()
        service.index.work.record(work.id, Postponed(now, "the peer did not wait for it"), now)


def _taken_up(operation: Operation, service: CommitmentService) -> Work:
    """Record the request durably; after this it may be acknowledged."""
    if operation.context.abstract_syntax != STORAGE_COMMITMENT:
        raise RequestRefused(SOP_CLASS_NOT_SUPPORTED, "the presentation context is of another service")
    if operation.parameter("RequestedSOPInstanceUID") != STORAGE_COMMITMENT_INSTANCE:
        raise RequestRefused(NO_SUCH_INSTANCE, f"the only instance is {STORAGE_COMMITMENT_INSTANCE}")
    if operation.number("ActionTypeID") != REQUEST_COMMITMENT:
        raise RequestRefused(NO_SUCH_ACTION, "the only action is 1, request storage commitment")
    if not operation.reports_here and operation.origin.calling_ae_title not in service.peers:
        raise RequestRefused(PROCESSING_FAILURE, "this peer has no host in [peers] to report the result to")
    information = operation.data_set(INVALID_ARGUMENT, MAXIMUM_ELEMENTS)
    transaction_uid = text(information, "TransactionUID")
    references = tuple(
        (text(item, "ReferencedSOPClassUID"), text(item, "ReferencedSOPInstanceUID"))
        for item in items(information, "ReferencedSOPSequence")
    )
    if not is_identifier(transaction_uid):
        raise RequestRefused(INVALID_ARGUMENT, "Transaction UID is missing or no UID (PS3.4 J.3.2)")
    if not references or not all(is_identifier(kind) and is_identifier(uid) for kind, uid in references):
        raise RequestRefused(INVALID_ARGUMENT, "Referenced SOP Sequence is missing or has no UIDs (PS3.4 J.3.2)")
    origin, now = operation.origin, service.now()
    due_at = now + dt.timedelta(seconds=SAME_ASSOCIATION_SECONDS)
    return service.index.work.add_commitment(
        transaction_uid, origin.calling_ae_title, origin.address, references, now, due_at
    )


def _is_reported_here(operation: Operation, service: CommitmentService, work: Work) -> bool:
    """Report the result on the association that asked; False if the peer does not wait, or it takes too long."""
    deadline = service.now() + dt.timedelta(seconds=SAME_ASSOCIATION_SECONDS / 2)

    def stop() -> bool:
        return operation.is_cancelled() or service.now() > deadline

    result = verify(service, work.payload.references, work.lane.name, stop)
    if result is None or not _is_peer_waiting(operation):
        return False
    association, message_id = operation.association, operation.next_message_id()
    report = report_of(service, work, result)
    association.send_message(operation.context.context_id, report_request(message_id, result), report)
    answer = association.answer_to(message_id, min(service.timeout, SAME_ASSOCIATION_SECONDS / 4))
    if answer is None or answer.status != SUCCESS:
        return False
    decision = reported(work, result)
    service.index.work.record(work.id, decision, service.now())
    note_reported(service, work, decision, "on the association that asked")
    return True


def _is_peer_waiting(operation: Operation) -> bool:
    """Whether the peer neither leaves nor goes on: its answer would come behind a request that waits for this one."""
    association = operation.association
    if association.is_next_waiting or association.listen(LEAVE_SECONDS) or operation.is_cancelled():
        return False
    return not association.is_next_waiting


def reported(work: Work, result: CommitmentResult) -> Ended:
    """Return the end of a request whose result the peer has accepted."""
    return Ended("succeeded", payload=replace(work.payload, references=(), failed=len(result.failed)))


def note_reported(service: CommitmentService, work: Work, decision: Ended, how: str) -> None:
    """Count and log that the peer has accepted a result; `how` says on which association."""
    service.metrics.commitment_reports.labels(outcome="reported").inc()
    request = cast(CommitmentRequest, decision.payload)
    failed = request.failed or 0
    logger.info(
        "commitment_reported",
        calling_ae_title=work.lane.name,
        count=request.instances - failed,
        failed=failed,
        detail=how,
    )


class NotReported(VoxelnodeError):
    """A result could not be reported to the peer; the message says why."""


class Reporting:
    """Does the work of a request for storage commitment: verifies, and reports the result."""

    max_attempts = 10
    """Attempts to report a result before it is given up."""

    def __init__(self, service: CommitmentService) -> None:
        self._service = service

    def perform(self, work: Work, stopping: threading.Event) -> Decision | None:
        """Report the result of a request; return what becomes of it, or None if the node stops."""
        result = verify(self._service, work.payload.references, work.lane.name, stopping.is_set)
        if result is None:
            return None
        try:
            self._report(work, result)
        except NotReported as error:
            return self._failed(work, str(error))
        return reported(work, result)

    def recorded(self, work: Work, decision: Decision) -> None:
        """Count and log what became of a result; a person hears of one that was given up."""
        service, outcome = self._service, "postponed"
        if isinstance(decision, Ended):
            if decision.outcome == "succeeded":
                note_reported(service, work, decision, "on an association of its own")
                return
            outcome = "given-up"
        service.metrics.commitment_reports.labels(outcome=outcome).inc()
        logger.warning("commitment_not_reported", calling_ae_title=work.lane.name, reason=decision.reason)
        if isinstance(decision, Ended):
            service.on_refusal(
                Refused(
                    "commitment",
                    "not reported",
                    f"{decision.reason}; given up after {counted(work.attempts, 'attempt')}",
                    "set host and port of this peer in [peers] to where it takes results, and have it ask again",
                    peer=work.payload.peer,
                    calling_ae_title=work.lane.name,
                    called_ae_title=service.ae_title,
                )
            )

    def _report(self, work: Work, result: CommitmentResult) -> None:
        service = self._service
        peer = service.peers.get(work.lane.name)
        if peer is None:
            raise NotReported(f"{work.lane.name} has no host in [peers], and did not wait for the report")
        contexts = contexts_of([(STORAGE_COMMITMENT, [EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN])])
        roles = {STORAGE_COMMITMENT: (False, True)}  # we request the association, and are its SCP
        try:
            with association(peer, service.ae_title, contexts, service.timeout, roles) as assoc:
                request = report_request(assoc.next_message_id(), result)
                report = report_of(service, work, result)
                answer = assoc.request(request, report).command
        except NoAssociation as error:
            raise NotReported(str(error)) from error
        except AssociationLost as error:
            raise NotReported(f"{peer}: {error}") from error
        if answer.status != SUCCESS:
            raise NotReported(f"{peer} answered the report with 0x{answer.status or 0:04X}")

    def _failed(self, work: Work, reason: str) -> Decision:
        service, has_host = self._service, work.lane.name in self._service.peers
        decision = after_failure(work.attempts, self.max_attempts, reason, service.now(), is_final=not has_host)
        is_given_up = isinstance(decision, Ended)
        return replace(decision, payload=replace(work.payload, references=())) if is_given_up else decision


def reports_owed(service: CommitmentService) -> RequestLoop:
    """Return the service that reports what the association that asked did not wait for."""
    return RequestLoop("commitments", service.index, {"commitment": Reporting(service)}, service.now)


def serve_n_event_report(operation: Operation, service: CommitmentService) -> None:
    """Serve one N-EVENT-REPORT-RQ, on the thread of the association.

    Statuses are those of PS3.7 10.1.1.1.8:

    * 0x0000: the report is recorded
    * 0x0110: it cannot be recorded now; 0x0112: no request of ours has this Transaction UID
    * 0x0115: the Event Information cannot be decoded; 0x0122: the presentation context belongs to another service
    """
    parameters: dict[str, Any] = {
        "AffectedSOPInstanceUID": STORAGE_COMMITMENT_INSTANCE,
        "EventTypeID": operation.number("EventTypeID"),
    }

    def record() -> None:
        if operation.context.abstract_syntax != STORAGE_COMMITMENT:
            raise RequestRefused(SOP_CLASS_NOT_SUPPORTED, "the presentation context is of another service")
        report = decoded_report(operation.data_set(INVALID_ARGUMENT, MAXIMUM_ELEMENTS))
        if not service.index.routes.note_commitment(
            report.transaction_uid, report.committed, report.failed, service.now()
        ):
            raise RequestRefused(NO_SUCH_INSTANCE, "this node has not asked for this transaction")
        operation.log.info("commitment_received", count=len(report.committed), failed=len(report.failed))
        operation.respond(SUCCESS, **parameters)

    operation.attempt(record, "commitment_report_refused", "commitment_report_failed", **parameters)
