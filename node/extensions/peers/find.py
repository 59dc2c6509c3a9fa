"""C-FIND and C-GET as a service user (PS3.4 C.4.1, C.4.3): instances of a peer are stored as if it had sent them."""

import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic

from pydicom.dataset import Dataset
from pynetdicom.dimse_primitives import C_CANCEL, C_FIND, C_GET
from pynetdicom.presentation import StoragePresentationContexts

from node.association.association import DimseMessage, primitive_of
from node.association.client.addresses import Address
from node.association.client.association import (
    MAXIMUM_CONTEXTS,
    AssociationLost,
    RequestedAssociation,
    association,
    contexts_of,
)
from node.association.framing import Violation
from node.association.messages import Messages
from node.association.services.c_store import StoreService
from node.dicom.attributes import is_identifier
from node.dicom.command import MEDIUM_PRIORITY, CommandSet, Element, MalformedCommand
from node.dicom.encoding import EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from node.dicom.status import PENDING, PENDING_WITHOUT_KEYS, SUB_OPERATIONS_WARNING, SUCCESS
from node.dicom.uids import STUDY_ROOT_FIND, STUDY_ROOT_GET, USUAL_COMPRESSED
from node.errors import PeerFailed
from node.index.rows.converted import SeriesKey
from node.index.rows.records import Refused
from node.receive.ingest import Ingest, Origin
from node.settings.peers import Dicom

MAXIMUM_ANSWER_BYTES = 262_144
"""Longest identifier of an answer; those of real peers have a few hundred bytes."""

CANCEL_SECONDS = 5.0
"""Longest time for the end of a query that was cancelled; then the association is aborted."""

MAXIMUM_ANSWERS_OF_SERIES = 100
"""One is expected; some peers answer with every series of the study."""

MAXIMUM_INSTANCES = 100_000

MAXIMUM_COUNT = 2**31 - 1
"""Greatest value of an IS (PS3.5 6.2)."""


class FindFailed(PeerFailed):
    """The peer accepted the association, but the query failed; the message says why."""


def find(
    query: Dataset,
    peer: Address,
    calling_ae_title: str,
    timeout: float,
    maximum: int | None = None,
    sop_class_uid: str = STUDY_ROOT_FIND,
    is_abandoned: Callable[[], bool] = lambda: False,
) -> Iterator[Dataset]:
    """Yield the answers to a query as they arrive.

    `query`: with *Query/Retrieve Level* (0008,0052).
    `timeout`: longest wait for the connection, its acceptance and each response.
    `maximum`: the query is cancelled after this number of answers.
    `is_abandoned`: called for each answer and during each wait for one; True ends the query.

    Raises NoAssociation: the address does not answer, or the peer rejects the association.
    Raises FindFailed: the query failed.
    """
    found = find_encoded(query, peer, calling_ae_title, timeout, maximum, is_abandoned, sop_class_uid)
    return (assoc.decoded(message) for assoc, message in found)


def find_encoded(
    query: Dataset,
    peer: Address,
    calling_ae_title: str,
    timeout: float,
    maximum: int | None = None,
    is_abandoned: Callable[[], bool] = lambda: False,
    sop_class_uid: str = STUDY_ROOT_FIND,
) -> Iterator[tuple[RequestedAssociation, DimseMessage]]:
    """Yield the answers to a query as they are encoded, with the association on which they came. See `find`."""
    contexts = contexts_of([(sop_class_uid, [EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN])])
    count = 0
    try:
        with association(peer, calling_ae_title, contexts, timeout, is_abandoned=is_abandoned) as assoc:
            assoc.maximum_data_set_bytes = MAXIMUM_ANSWER_BYTES
            message_id = assoc.next_message_id()
            request = primitive_of(
                C_FIND, MessageID=message_id, AffectedSOPClassUID=sop_class_uid, Priority=MEDIUM_PRIORITY
            )
            message = assoc.request(request, query)
            while message.command.status in (PENDING, PENDING_WITHOUT_KEYS):
                if is_abandoned():
                    raise AssociationLost("nobody waits for its answer any more")
                yield assoc, message
                count += 1
                if count == maximum:
                    assoc.send_message(message.context_id, primitive_of(C_CANCEL, MessageIDBeingRespondedTo=message_id))
                    _drain(assoc)
                    return
                message = assoc.receive()
    except AssociationLost as error:
        if count == maximum:
            return
        raise FindFailed(f"{peer} did not answer C-FIND: {error}") from error
    if message.command.status != SUCCESS:
        status = f"0x{message.command.status or 0:04X} {message.command.comment}".rstrip()
        raise FindFailed(f"{peer} answered C-FIND with {status}")


def _drain(assoc: RequestedAssociation) -> None:
    """Take what a peer still sends after a C-CANCEL, for `CANCEL_SECONDS` at most."""
    deadline = monotonic() + CANCEL_SECONDS
    is_abandoned = assoc.is_abandoned
    assoc.is_abandoned = lambda: monotonic() > deadline or is_abandoned()
    while assoc.receive().command.status in (PENDING, PENDING_WITHOUT_KEYS):
        if assoc.is_abandoned():
            raise AssociationLost("it goes on after the query was cancelled")


def find_instance_count(
    peer: Address,
    calling_ae_title: str,
    series: SeriesKey,
    timeout: float,
    is_abandoned: Callable[[], bool] = lambda: False,
) -> int | None:
    """Return the peer's *Number of Series Related Instances* (0020,1209), or None if the peer does not give it.

    0 if it has no such series.

    `series`, (str, str): Study Instance UID and Series Instance UID.
    `timeout`: longest wait for the connection, its acceptance and each response.

    Raises NoAssociation: the address does not answer, or the peer rejects the association.
    Raises FindFailed: the query failed, or the peer has several such series.

    A hierarchical query at the SERIES level of the Study Root model (PS3.4 C.6.2.1). The count is an optional key
    (PS3.4 C.3.4).
    """
    query = of_series("SERIES", *series)
    query.NumberOfSeriesRelatedInstances = None
    answers = find(query, peer, calling_ae_title, timeout, MAXIMUM_ANSWERS_OF_SERIES, is_abandoned=is_abandoned)
    matching = [answer for answer in answers if answer.get("SeriesInstanceUID") == series[1]]
    if len(matching) > 1:
        raise FindFailed(f"{peer.ae_title} has {len(matching)} series of this UID")
    return _count(matching[0]) if matching else 0


def find_instances(
    peer: Address,
    calling_ae_title: str,
    series: SeriesKey,
    timeout: float,
    is_abandoned: Callable[[], bool] = lambda: False,
) -> set[str]:
    """Return the SOP Instance UIDs that the peer lists of a series: a query at the IMAGE level. See above.

    Raises FindFailed also if there are more than `MAXIMUM_INSTANCES`.
    """
    query = of_series("IMAGE", *series)
    query.SOPInstanceUID = None
    answers = find(query, peer, calling_ae_title, timeout, MAXIMUM_INSTANCES + 1, is_abandoned=is_abandoned)
    uids = {str(answer.get("SOPInstanceUID")) for answer in answers}
    if len(uids) > MAXIMUM_INSTANCES:
        raise FindFailed(f"{peer.ae_title} lists more than {MAXIMUM_INSTANCES} instances")
    return {uid for uid in uids if is_identifier(uid)}


def of_series(level: str, study_instance_uid: str, series_instance_uid: str | None) -> Dataset:
    """Return the identifier of a query for a series, or with None for those of a study."""
    query = Dataset()
    query.QueryRetrieveLevel = level
    query.StudyInstanceUID, query.SeriesInstanceUID = study_instance_uid, series_instance_uid
    return query


def _count(identifier: Dataset) -> int | None:
    try:
        count = int(identifier.NumberOfSeriesRelatedInstances)
    except (AttributeError, TypeError, ValueError):
        return None
    return count if 0 < count <= MAXIMUM_COUNT else None


UNCOMPRESSED = (EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN)

USUAL_CLASSES = tuple(str(context.abstract_syntax) for context in StoragePresentationContexts)
"""Proposed to a peer that does not tell the SOP classes of its instances: the key is optional (PS3.4 C.6.2.1.5)."""

MAXIMUM_SERIES = 10_000
"""Series of a study whose SOP classes a peer is asked for."""


class GetFailed(PeerFailed):
    """The retrieve failed; the message says why."""


@dataclass(frozen=True, slots=True)
class SubOperationCounts:
    """The counts of sub-operations in a C-GET response (PS3.4 C.4.3.1.4)."""

    completed: int = 0
    failed: int = 0
    warning: int = 0
    remaining: int = 0


@dataclass(frozen=True, slots=True)
class RetrieveTarget:
    """A study, or one of its series."""

    study_instance_uid: str
    series_instance_uid: str = ""

    def identifier(self) -> Dataset:
        """Return the identifier of the C-GET-RQ."""
        ds = of_series("SERIES", self.study_instance_uid, self.series_instance_uid)
        if not self.series_instance_uid:
            ds.QueryRetrieveLevel = "STUDY"
            del ds.SeriesInstanceUID
        return ds


def get(
    target: RetrieveTarget,
    peer: Address,
    dicom: Dicom,
    ingest: Ingest,
    on_progress: Callable[[SubOperationCounts], None] = lambda counts: None,
    on_answer: Callable[[int], None] = lambda status: None,
    on_refusal: Callable[[Refused], None] = lambda refused: None,
    is_abandoned: Callable[[], bool] = lambda: False,
) -> SubOperationCounts:
    """Retrieve a study or a series of a peer into the archive.

    Instances of other studies or series are refused, as not authorized (PS3.7 C.5.16), and stay at the peer.
    C-FIND first asks the peer for the SOP classes, because Role Selection has to name them (PS3.7 D.3.3.4).

    `on_progress`: called with the counts that the peer reports, on its way and in the end.
    `on_answer`: called with the status by which the node answered each instance.
    `on_refusal`: called for each instance that the node refused.
    `is_abandoned`: called for each piece of an instance and during each wait; True ends the retrieve. What is stored
        stays.

    Raises NoAssociation: the address does not answer, or the peer rejects the association.
    Raises NotFound: the peer does not answer the queries.
    Raises GetFailed: the peer has no such instances, or the retrieve failed.
    """
    timeout = dicom.response_seconds
    classes = _classes(target, peer, dicom.ae_title, timeout, is_abandoned)
    if not classes:
        raise GetFailed(f"{peer} has no instances of {target.series_instance_uid or target.study_instance_uid}")
    kinds = _proposed(classes)
    roles = dict.fromkeys(classes, (False, True))
    name, wanted = uuid.uuid4().hex[:12], (target.study_instance_uid, target.series_instance_uid)
    origin = Origin("get", peer.ae_title, dicom.ae_title, f"{peer.host}:{peer.port}", name, wanted=wanted)
    service = StoreService(ingest, origin, on_refusal, on_answer)
    outcome = "lost"
    try:
        with association(peer, dicom.ae_title, contexts_of(kinds), timeout, roles, is_abandoned) as assoc:
            counts = _GetOperation(assoc, service, on_progress).run(target)
        outcome = "released"
    except AssociationLost as error:
        raise GetFailed(f"{peer}: {error}") from error
    finally:
        service.ended(outcome)
    return counts


def _classes(
    target: RetrieveTarget, peer: Address, calling_ae_title: str, timeout: float, is_abandoned: Callable[[], bool]
) -> list[str]:
    """Return the SOP classes of the instances by hierarchical queries, which every peer supports.

    No more are collected than an association can have. A peer that leaves one out is offered the usual ones.
    """

    def ask(query: Dataset, maximum: int | None = None) -> Iterator[Dataset]:
        return find(query, peer, calling_ae_title, timeout, maximum, is_abandoned=is_abandoned)

    classes: dict[str, None] = {}
    for series_instance_uid in _series(target, ask):
        query = of_series("IMAGE", target.study_instance_uid, series_instance_uid)
        query.SOPInstanceUID = query.SOPClassUID = None
        for answer in ask(query):
            if not answer.get("SOPClassUID"):
                return list(USUAL_CLASSES)
            classes[str(answer.SOPClassUID)] = None
            if len(classes) >= MAXIMUM_CONTEXTS:
                return list(classes)
    return list(classes)


def _series(target: RetrieveTarget, ask: Callable[[Dataset, int], Iterator[Dataset]]) -> list[str]:
    if target.series_instance_uid:
        return [target.series_instance_uid]
    answers = ask(of_series("SERIES", target.study_instance_uid, None), MAXIMUM_SERIES)
    found = [str(answer.SeriesInstanceUID) for answer in answers if answer.get("SeriesInstanceUID")]
    if len(found) >= MAXIMUM_SERIES:
        raise GetFailed(f"the peer lists {MAXIMUM_SERIES} series or more in this study: get single series")
    return found


def _proposed(classes: list[str]) -> list[tuple[str, list[str]]]:
    """Return presentation contexts: uncompressed for each class, then compressed while there is room."""
    kinds = [(STUDY_ROOT_GET, list(UNCOMPRESSED)), *((uid, list(UNCOMPRESSED)) for uid in classes)]
    kinds += [(uid, [str(syntax)]) for uid in classes for syntax in USUAL_COMPRESSED]
    if len(classes) >= MAXIMUM_CONTEXTS:
        raise GetFailed(f"{len(classes)} SOP classes are too many for one association: get single series")
    return kinds[:MAXIMUM_CONTEXTS]


class _GetOperation:
    """One C-GET and the C-STORE requests that it causes."""

    def __init__(
        self, assoc: RequestedAssociation, service: StoreService, on_progress: Callable[[SubOperationCounts], None]
    ) -> None:
        self._assoc, self._on_progress = assoc, on_progress
        self._responses: deque[CommandSet] = deque()
        self._messages = Messages(assoc, service, self._responses.append)

    def run(self, target: RetrieveTarget) -> SubOperationCounts:
        """Send the request, and store instances until the final response."""
        context_id = next(iter(self._assoc.accepted_for(STUDY_ROOT_GET).values()), None)
        if context_id is None:
            raise GetFailed(f"{self._assoc.peer} does not support C-GET")
        message_id = self._assoc.next_message_id()
        request = primitive_of(
            C_GET, MessageID=message_id, AffectedSOPClassUID=STUDY_ROOT_GET, Priority=MEDIUM_PRIORITY
        )
        self._assoc.send_message(context_id, request, target.identifier())
        try:
            return self._receive()
        except KeyboardInterrupt:
            self._assoc.send_message(context_id, primitive_of(C_CANCEL, MessageIDBeingRespondedTo=message_id))
            raise
        finally:
            self._messages.abandon()

    def _receive(self) -> SubOperationCounts:
        while True:
            if self._assoc.is_abandoned():
                raise AssociationLost("nobody waits for its answer any more")
            try:
                request = self._messages.take(self._assoc.next_piece())
            except (Violation, MalformedCommand) as error:
                raise AssociationLost(f"it violates the protocol: {error}") from error
            if request is not None:
                raise AssociationLost("it sent a request other than C-STORE")
            while self._responses:
                response = self._responses.popleft()
                counts = _counts(response)
                self._on_progress(counts)
                if response.status != PENDING:
                    return self._final(response, counts)

    def _final(self, response: CommandSet, counts: SubOperationCounts) -> SubOperationCounts:
        is_done = response.status in (SUCCESS, SUB_OPERATIONS_WARNING)  # others are failures, after whatever came
        if not is_done or (response.status != SUCCESS and not counts.completed and not counts.warning):
            status = f"0x{response.status or 0:04X} {response.comment}".rstrip()
            raise GetFailed(f"{self._assoc.peer} answered C-GET with {status}")
        return counts


def _counts(response: CommandSet) -> SubOperationCounts:
    elements = Element.COMPLETED, Element.FAILED, Element.WARNING, Element.REMAINING
    return SubOperationCounts(*(response.number(element) or 0 for element in elements))
