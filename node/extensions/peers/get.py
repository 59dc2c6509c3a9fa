"""C-GET as a service user: instances of a peer are stored as if the peer had sent them (PS3.4 C.4.3)."""

import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pynetdicom.dimse_primitives import C_CANCEL, C_GET
from pynetdicom.presentation import StoragePresentationContexts

from node.association.association import primitive_of
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
from node.dicom.command import MEDIUM_PRIORITY, CommandSet, Element, MalformedCommand
from node.dicom.encoding import EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from node.dicom.status import PENDING, SUB_OPERATIONS_WARNING, SUCCESS
from node.dicom.uids import STUDY_ROOT_GET, USUAL_COMPRESSED
from node.errors import PeerFailed
from node.extensions.peers.find import find, of_series
from node.index.rows.records import Refused
from node.receive.ingest import Ingest, Origin
from node.settings.peers import Dicom

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
