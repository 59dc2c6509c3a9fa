"""C-MOVE and C-GET as a service provider: identifier -> instances -> C-STORE (PS3.4 C.4.2, C.4.3).

Both share selection, sub-operations and their counts, responses and audit. C-GET sends on the same association, C-MOVE
on one to a configured peer.
"""

import datetime as dt
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import structlog
from pydicom.dataset import Dataset

from node.association.added import Parts
from node.association.client.addresses import Address, PeerAddresses
from node.association.client.association import NoAssociation
from node.association.client.send import (
    NotSendable,
    Outgoing,
    SendOutcome,
    Sent,
    Transcode,
    Transcoder,
    bytes_for_peer,
    outgoing_of,
    send,
    sent_with_status,
    store_request,
)
from node.association.framing import SourceLost
from node.association.operation import Operation, RequestRefused
from node.association.upper_layer import PeerGone
from node.audit.audit_log import DESTINATION, SOURCE, AuditAction, AuditEvent, AuditMessage, Participant, Result
from node.dicom.attributes import is_identifier
from node.dicom.command import HIGH_PRIORITY, LOW_PRIORITY, MEDIUM_PRIORITY, Element
from node.dicom.keys import LEVELS, UNIQUE_KEYS, IdentifierMismatch, Level, QueryModel, Selection
from node.dicom.status import (
    CANCELLED,
    CANNOT_CALCULATE_MATCHES,
    DESTINATION_UNKNOWN,
    IDENTIFIER_MISMATCH,
    SOP_CLASS_NOT_SUPPORTED,
    SUB_OPERATIONS_FAILED,
    SUB_OPERATIONS_WARNING,
    SUCCESS,
)
from node.dicom.uids import PATIENT_ROOT_GET, PATIENT_ROOT_MOVE, STUDY_ROOT_GET, STUDY_ROOT_MOVE
from node.dicom.values import standard_tag, texts
from node.errors import OutOfResources
from node.index.look.finder import QueryRefused
from node.index.rows.files import Selected
from node.index.rows.records import Refused
from node.receive.stored_files import report_damage

logger = structlog.get_logger()

MAXIMUM_RETRIEVES = 4
"""C-MOVE and C-GET operations at the same time; further ones wait."""

MAXIMUM_SUB_OPERATIONS = 65535
"""Their number is an unsigned short (PS3.7 9.3.4.2)."""

TURN_SECONDS = 0.5
"""Interval at which a waiting retrieve checks whether it was cancelled."""


class RetrieveService:
    """What retrieves need of the node.

    `destinations`: peers with a host (``[peers.NAME]``), by AE title; `turns`: limits the number of concurrent
    retrieves; `timeout`: longest wait for the answer to a sub-operation, in seconds; `on_refusal`: called for
    destinations that are not configured.
    """

    def __init__(self, node: Parts) -> None:
        self.index, self.archive = node.ingest.index, node.ingest.archive
        self.transcode: Transcode = Transcoder(node.decoder, self.archive.incoming)
        self.ae_title, self.timeout = node.settings.dicom.ae_title, node.settings.dicom.response_seconds
        self.destinations: Mapping[str, Address] = PeerAddresses(node.settings)
        self.turns = threading.BoundedSemaphore(MAXIMUM_RETRIEVES)
        self.metrics, self.audit, self.on_refusal = node.metrics, node.audit, node.on_refusal


@dataclass(slots=True)
class Tally:
    """The sub-operations of a retrieve (PS3.4 C.4.2.1.6)."""

    remaining: int
    completed: int = 0
    warning: int = 0
    failed: list[str] = field(default_factory=list)

    def count(self, sent: Sent) -> None:
        """Count a finished sub-operation."""
        self.remaining -= 1
        if sent.fate is SendOutcome.FAILED:
            self.failed.append(sent.instance.sop_instance_uid)
        else:
            self.completed += sent.fate is SendOutcome.COMPLETED
            self.warning += sent.fate is SendOutcome.WARNING

    def give_up(self, rest: Sequence[Outgoing]) -> None:
        """Count the sub-operations that will not be tried as failed."""
        self.failed += [instance.sop_instance_uid for instance in rest]
        self.remaining -= len(rest)

    def pending(self) -> dict[Element, int]:
        """Return the counts for a pending response."""
        return {
            Element.REMAINING: self.remaining,
            Element.COMPLETED: self.completed,
            Element.FAILED: len(self.failed),
            Element.WARNING: self.warning,
        }

    @property
    def status(self) -> int:
        """The final status when all sub-operations have ended."""
        if not self.failed and not self.warning:
            return SUCCESS
        return SUB_OPERATIONS_WARNING if self.completed or self.warning else SUB_OPERATIONS_FAILED


_OUTCOMES = {SUCCESS: "completed", SUB_OPERATIONS_WARNING: "completed in part", SUB_OPERATIONS_FAILED: "failed"}


def select(operation: Operation, service: RetrieveService, models: Mapping[str, QueryModel]) -> Selected:
    """Return the instances that a request selects.

    Raises RequestRefused: the context is for another service (0x0122), the identifier cannot be understood (0xA900,
    0xC000), it selects more than 65535 instances, or the index is behind what was received (0xA701).
    """
    model = models.get(operation.context.abstract_syntax)
    if model is None:
        raise RequestRefused(SOP_CLASS_NOT_SUPPORTED, "the presentation context is for another service")
    try:
        selection = read_selection(operation.data_set(), model)
    except IdentifierMismatch as error:
        raise RequestRefused(IDENTIFIER_MISMATCH, error.rule, error.tag) from error
    try:
        with service.index.reading() as index:
            selected = index.files.selected(selection, MAXIMUM_SUB_OPERATIONS + 1)
    except QueryRefused as error:
        raise RequestRefused(CANNOT_CALCULATE_MATCHES, str(error)) from error
    if len(selected.instances) > MAXIMUM_SUB_OPERATIONS:
        raise RequestRefused(CANNOT_CALCULATE_MATCHES, "more than 65535 instances: retrieve them series by series")
    return selected


def read_selection(identifier: Dataset, model: QueryModel) -> Selection:
    """Return the selection of an identifier.

    Raises IdentifierMismatch: the level is not in the model, the unique key of the level is missing, a key above it has
        several values, or one has a wild card.

    PS3.4 C.4.2.2.1: the unique key of the level may be a list of UIDs. Unique keys of higher levels may be
    omitted, as in a relational retrieve (PS3.4 C.4.2.2.2): a UID alone is unambiguous.
    """
    named = texts(identifier, "QueryRetrieveLevel")
    level = LEVELS.get(named[0]) if len(named) == 1 else None
    if level is None or level < model.value:
        raise IdentifierMismatch(
            standard_tag("QueryRetrieveLevel"), "Query/Retrieve Level is not in this information model (PS3.4 C.6)"
        )
    keys = {key_level: _values(identifier, key_level, level) for key_level in Level}
    if not keys[level]:
        raise IdentifierMismatch(
            standard_tag(UNIQUE_KEYS[level]), f"the unique key of level {level.name} must be given (PS3.4 C.4.2.2.1)"
        )
    patient_id = keys[Level.PATIENT][0] if keys[Level.PATIENT] else ""
    return Selection(level, patient_id, keys[Level.STUDY], keys[Level.SERIES], keys[Level.IMAGE])


def _values(identifier: Dataset, key: Level, level: Level) -> tuple[str, ...]:
    """Return the values of a unique key; keys below the level are ignored."""
    if key > level:
        return ()
    keyword = UNIQUE_KEYS[key]
    values = tuple(value for value in texts(identifier, keyword) if value)
    if len(values) > 1 and (key < level or key == Level.PATIENT):
        raise IdentifierMismatch(
            standard_tag(keyword), "a unique key above the level must have one value (PS3.4 C.4.2.2.1)"
        )
    if any(wildcard in value for value in values for wildcard in "*?"):
        raise IdentifierMismatch(standard_tag(keyword), "a unique key of a retrieve has no wild card (PS3.4 C.4.2.2.1)")
    if key != Level.PATIENT and not all(map(is_identifier, values)):
        raise IdentifierMismatch(standard_tag(keyword), "not a UID of up to 64 characters (PS3.5 9.1)")
    return values


class Retrieve:
    """One C-MOVE or C-GET that is being served."""

    def __init__(self, operation: Operation, service: RetrieveService, selected: Selected, destination: str) -> None:
        self._operation, self._service = operation, service
        self._selected, self._destination = selected, destination
        self._tally = Tally(len(selected.instances))
        self._reasons: Counter[str] = Counter()
        archive, instances = service.archive, selected.instances
        self.outgoing = outgoing_of(instances, archive.root, archive.read_ahead(instances))

    def run(self, sub_operations: Iterator[Sent]) -> None:
        """Report each sub-operation, and send the final response when the last has ended or the peer cancels."""
        with self.handed_on() as count:
            for sent in sub_operations:
                count(sent)
                self._operation.report(self._tally.pending())
            self._finish()

    @contextmanager
    def handed_on(self) -> Iterator[Callable[[Sent], None]]:
        """Record begin and end, also where pynetdicom sends and reports; yields what counts an instance."""
        self._audit_retrieve(AuditEvent.BEGIN_TRANSFERRING, Result.SUCCESS, "begun")
        outcome = "the peer is gone"
        try:
            with self._turn():
                yield self._count
            outcome = "cancelled" if self._tally.remaining else _OUTCOMES[self._tally.status]
        finally:
            self._log(outcome)

    def is_stopped(self) -> bool:
        """Whether to send no further instance."""
        return self._operation.is_cancelled()

    def fail(self, reason: str) -> None:
        """Count all remaining instances as failed for one reason."""
        self._reasons[reason] += self._tally.remaining
        self._tally.give_up(self.outgoing[len(self.outgoing) - self._tally.remaining :])

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for a free turn; a peer that cancels meanwhile gets no instance."""
        turns = self._service.turns
        while not (has_turn := turns.acquire(timeout=TURN_SECONDS)) and not self.is_stopped():
            pass
        try:
            yield
        finally:
            if has_turn:
                turns.release()

    def _count(self, sent: Sent) -> None:
        self._tally.count(sent)
        self._service.metrics.sent_instances.labels(outcome=sent.fate.name.lower()).inc()
        if sent.reason:
            self._reasons[sent.reason] += 1
        if sent.damage:
            self._report_damage(sent)

    def _report_damage(self, sent: Sent) -> None:
        archive, index = self._service.archive, self._service.index
        key = str(sent.instance.path.relative_to(archive.root))
        with suppress(OutOfResources):  # the next reader records it
            report_damage(archive, index, key, sent.damage, dt.datetime.now(dt.UTC))

    def _finish(self) -> None:
        """Send the final response."""
        is_cancelled = self._tally.remaining and not self._operation.association.is_draining
        if self._tally.remaining and not is_cancelled:
            self.fail("the node is stopping: retrieve again later")
        self._respond(CANCELLED if is_cancelled else self._tally.status)

    def _respond(self, status: int) -> None:
        identifier = None
        if status != SUCCESS:
            identifier = Dataset()  # PS3.4 C.4.2.1.5, table C.4-2
            identifier.FailedSOPInstanceUIDList = self._tally.failed
        self._service.metrics.retrieve_answers.labels(status=f"0x{status:04X}").inc()
        tally = self._tally
        self._operation.respond(
            status,
            identifier,
            next(iter(self._reasons), ""),
            NumberOfRemainingSuboperations=tally.remaining if status == CANCELLED else None,
            NumberOfCompletedSuboperations=tally.completed,
            NumberOfFailedSuboperations=len(tally.failed),
            NumberOfWarningSuboperations=tally.warning,
        )

    def _log(self, outcome: str) -> None:
        tally = self._tally
        log = self._operation.log.warning if tally.failed else self._operation.log.info
        log(
            "retrieve_ended",
            state=outcome,
            count=tally.completed + tally.warning,
            failed=len(tally.failed),
            reason=next(iter(self._reasons), None),
            is_refusal=bool(tally.failed) or not self.outgoing,
        )
        result = Result.SUCCESS if outcome == "completed" else Result.MINOR_FAILURE
        self._audit_retrieve(AuditEvent.INSTANCES_TRANSFERRED, result, outcome)

    def _audit_retrieve(self, event: AuditEvent, result: Result, outcome: str) -> None:
        """Record who sent which studies where (PS3.15 A.5.3.3, A.5.3.7)."""
        audit, origin = self._service.audit, self._operation.origin
        if audit is None:
            return
        participants = [
            Participant(self._service.ae_title, SOURCE),
            Participant(self._destination, DESTINATION),
            Participant(origin.calling_ae_title, "", origin.address, True, origin.certificate),
        ]
        tally = self._tally
        detail = f"{outcome}: {tally.completed + tally.warning} sent, {len(tally.failed)} failed"
        message = AuditMessage(event, AuditAction.READ, result, participants, _studies(self._selected), detail)
        audit.note(message, is_idle=not self.outgoing)


def _studies(selected: Selected) -> list[dict[str, object]]:
    classes: dict[str, Counter[str]] = {}
    for instance in selected.instances:
        classes.setdefault(instance.study_instance_uid, Counter())[instance.sop_class_uid] += 1
    return [
        {"study_instance_uid": uid, "patient_id": selected.patient_ids[uid], "sop_classes": dict(counted)}
        for uid, counted in classes.items()
    ]


GET_MODELS = {PATIENT_ROOT_GET: QueryModel.PATIENT_ROOT, STUDY_ROOT_GET: QueryModel.STUDY_ROOT}


def serve_c_get(operation: Operation, service: RetrieveService) -> None:
    """Serve one C-GET-RQ, on the association's own thread. Statuses are those of `serve_c_move`, without 0xA801.

    Instances go out in the presentation contexts in which the peer is an SCP (PS3.7 D.3.3.4).
    """

    def run() -> None:
        selected = select(operation, service, GET_MODELS)
        retrieve = Retrieve(operation, service, selected, operation.origin.calling_ae_title)
        retrieve.run(_sent_back(retrieve, operation, service))

    operation.attempt(run, "retrieve_refused", "retrieve_failed")


def _sent_back(retrieve: Retrieve, operation: Operation, service: RetrieveService) -> Iterator[Sent]:
    for instance in retrieve.outgoing:
        if retrieve.is_stopped():
            return
        yield _stored(operation, service, instance)


def _stored(operation: Operation, service: RetrieveService, instance: Outgoing) -> Sent:
    association, message_id = operation.association, operation.next_message_id()
    accepted = association.accepted_for(instance.sop_class_uid)
    try:
        # The requestor's order holds where the node may choose.
        with bytes_for_peer(instance, accepted, service.transcode, list(accepted)) as (context_id, source):
            request = store_request(instance, message_id, priority=priority_of(operation))
            association.send_instance(context_id, request, source)
            answer = association.answer_to(message_id, service.timeout)
    except NotSendable as error:
        return Sent.not_sent(instance, error)
    except SourceLost as error:  # half an instance is sent and cannot be taken back
        association.give_up(str(error))
        raise PeerGone from error
    if answer is None:
        association.give_up(f"no answer to C-STORE within {service.timeout:g} s")
        raise PeerGone
    return sent_with_status(instance, answer.status, answer.comment)


def priority_of(operation: Operation) -> int:
    """Return the *Priority* (0000,0700) of a retrieve, which its sub-operations have too; medium if it has none."""
    priority = operation.number("Priority")
    return priority if priority in (HIGH_PRIORITY, LOW_PRIORITY) else MEDIUM_PRIORITY


MOVE_MODELS = {PATIENT_ROOT_MOVE: QueryModel.PATIENT_ROOT, STUDY_ROOT_MOVE: QueryModel.STUDY_ROOT}


MAX_SHOWN_TITLE = 16
"""Longest AE title (PS3.5 6.2); a longer one is not a destination, and is cut where it is shown."""


def serve_c_move(operation: Operation, service: RetrieveService) -> None:
    """Serve one C-MOVE-RQ, on the association's own thread.

    Responses are those of PS3.4 C.4.2.1.5:

    * 0xFF00: after each sub-operation, with the counts
    * 0x0000: all instances were sent; 0xB000: some failed or had a warning; 0xA702: all failed
    * 0xFE00: the peer cancelled
    * 0xA701: more instances than can be counted
    * 0xA801: the destination is not configured
    * 0xA900, 0xC000: the identifier cannot be understood
    """

    def run() -> None:
        destination = destination_of(operation, service)
        selected = select(operation, service, MOVE_MODELS)
        retrieve = Retrieve(operation, service, selected, destination.ae_title)
        retrieve.run(_sent_to_destination(retrieve, operation, service, destination))

    operation.attempt(run, "retrieve_refused", "retrieve_failed")


def destination_of(operation: Operation, service: RetrieveService) -> Address:
    """Return the address of the peer in *Move Destination* (0000,0600)."""
    title = operation.parameter("MoveDestination")
    address = service.destinations.get(title)
    if address is None:
        origin, shown_title = operation.origin, title[:MAX_SHOWN_TITLE]
        service.on_refusal(
            Refused(
                "retrieve",
                "move destination",
                f"no peer with a host has the AE title {shown_title or '(empty)'}",
                f'set host and port of the peer with ae_title = "{shown_title}" in [peers]',
                peer=origin.address,
                calling_ae_title=origin.calling_ae_title,
                called_ae_title=origin.called_ae_title,
                offered=shown_title,
            )
        )
        raise RequestRefused(DESTINATION_UNKNOWN, "move destination is not configured: set host in [peers]")
    return address


def _sent_to_destination(
    retrieve: Retrieve, operation: Operation, service: RetrieveService, destination: Address
) -> Iterator[Sent]:
    originator = operation.origin.calling_ae_title, operation.message_id
    try:
        yield from send(
            retrieve.outgoing,
            destination,
            service.ae_title,
            service.transcode,
            service.timeout,
            originator=originator,
            priority=priority_of(operation),
            stop=retrieve.is_stopped,
            is_abandoned=operation.is_lost,
        )
    except NoAssociation as error:
        retrieve.fail(str(error))
