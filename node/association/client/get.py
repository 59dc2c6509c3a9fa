"""C-GET as a service user: instances of another node come into the archive, as if it had sent them (PS3.4 C.4.3)."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from node.association.client.association import Address, Association, AssociationLost, association
from node.association.client.find import find
from node.association.client.negotiation import MAXIMUM_CONTEXTS, contexts_of
from node.association.framing import Violation
from node.association.messages import Messages
from node.association.services.c_store import Context, StoreService
from node.dicom.command import C_CANCEL_RQ, C_GET_RQ, MEDIUM_PRIORITY, Command, Element, MalformedCommand
from node.dicom.status import PENDING, SUCCESS
from node.dicom.uids import EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN, STUDY_ROOT_GET
from node.errors import VoxelnodeError
from node.receive.ingest import Ingest, Origin
from node.settings.model import Dicom

UNCOMPRESSED = (EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN)
COMPRESSED = (
    JPEG2000Lossless,
    JPEG2000,
    JPEGLosslessSV1,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    HTJ2KLossless,
)
"""What instances mostly lie in, so that their peer can send them as they are."""


class NotGot(VoxelnodeError):
    """The peer did not give what was asked for; the message says why."""


@dataclass(frozen=True, slots=True)
class Got:
    """The sub-operations of a C-GET: how many have ended how, and how many the peer says remain."""

    completed: int = 0
    failed: int = 0
    warning: int = 0
    remaining: int = 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """A study, or one series of it."""

    study_instance_uid: str
    series_instance_uid: str = ""

    def identifier(self) -> Dataset:
        """The identifier that asks for it."""
        ds = Dataset()
        ds.QueryRetrieveLevel = "SERIES" if self.series_instance_uid else "STUDY"
        ds.StudyInstanceUID = self.study_instance_uid
        if self.series_instance_uid:
            ds.SeriesInstanceUID = self.series_instance_uid
        return ds


def get(
    wanted: Wanted,
    peer: Address,
    dicom: Dicom,
    ingest: Ingest,
    on_progress: Callable[[Got], None] = lambda got: None,
) -> Got:
    """Get a study or a series of a peer into the archive.

    The peer is asked first which SOP classes that are: role selection has to name them (PS3.7 D.3.3.4).

    Raises
    ------
    NoAssociation
        Nobody answers at the address, or the answer is no.
    NotFound
        The peer does not tell what it has.
    NotGot
        It has nothing of it, or the retrieve failed.
    """
    timeout = dicom.response_seconds
    classes = list(dict.fromkeys(_classes(wanted, peer, dicom.ae_title, timeout)))
    if not classes:
        raise NotGot(f"{peer} has no instances of {wanted.series_instance_uid or wanted.study_instance_uid}")
    kinds = _proposed(classes)
    roles = dict.fromkeys(classes, (False, True))
    origin = Origin("get", peer.ae_title, dicom.ae_title, f"{peer.host}:{peer.port}", uuid.uuid4().hex[:12])
    service = StoreService(ingest, origin, origin.association, ingest.metrics)
    outcome = "lost"
    try:
        with association(peer, dicom.ae_title, contexts_of(kinds), timeout, roles) as assoc:
            got = _Getting(assoc, dicom, service, on_progress).run(wanted)
        outcome = "released"
    except AssociationLost as error:
        raise NotGot(f"{peer}: {error}") from error
    finally:
        service.ended(outcome)
    return got


def _classes(wanted: Wanted, peer: Address, calling_ae_title: str, timeout: float) -> Iterator[str]:
    """SOP classes of the instances, as the peer tells them: hierarchical queries, which every one answers."""
    for series_instance_uid in _series(wanted, peer, calling_ae_title, timeout):
        query = Dataset()
        query.QueryRetrieveLevel = "IMAGE"
        query.StudyInstanceUID, query.SeriesInstanceUID = wanted.study_instance_uid, series_instance_uid
        query.SOPInstanceUID = query.SOPClassUID = None
        for answer in find(query, peer, calling_ae_title, timeout):
            if answer.get("SOPClassUID"):
                yield str(answer.SOPClassUID)


def _series(wanted: Wanted, peer: Address, calling_ae_title: str, timeout: float) -> Iterable[str]:
    if wanted.series_instance_uid:
        return [wanted.series_instance_uid]
    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID, query.SeriesInstanceUID = wanted.study_instance_uid, None
    found = find(query, peer, calling_ae_title, timeout)
    return [str(answer.SeriesInstanceUID) for answer in found if answer.get("SeriesInstanceUID")]


def _proposed(classes: list[str]) -> list[tuple[str, list[str]]]:
    """Presentation contexts: what is uncompressed for each class, and each compression as far as there is room."""
    kinds = [(STUDY_ROOT_GET, list(UNCOMPRESSED)), *((one, list(UNCOMPRESSED)) for one in classes)]
    kinds += [(one, [str(syntax)]) for one in classes for syntax in COMPRESSED]
    if len(classes) >= MAXIMUM_CONTEXTS:
        raise NotGot(f"{len(classes)} SOP classes are more than one association can hold: get single series")
    return kinds[:MAXIMUM_CONTEXTS]


class _Getting:
    """One C-GET on its way: what `Messages` needs of the layer that carries them."""

    def __init__(
        self, assoc: Association, dicom: Dicom, service: StoreService, on_progress: Callable[[Got], None]
    ) -> None:
        self._assoc, self._on_progress = assoc, on_progress
        contexts = {
            one.context_id: Context(one.context_id, one.abstract_syntax, one.transfer_syntax_uid, one.as_scp)
            for one in assoc.accepted
        }
        limits = dicom.model_copy(update={"fast_path": True})  # there is no other path here
        self._messages = Messages(self, limits, service, contexts, assoc.peer_maximum_bytes)
        self._responses: deque[Command] = deque()

    def run(self, wanted: Wanted) -> Got:
        """Ask, and take what comes until the last response."""
        context_id = next(
            (one.context_id for one in self._assoc.accepted if one.abstract_syntax == STUDY_ROOT_GET), None
        )
        if context_id is None:
            raise NotGot(f"{self._assoc.peer} does not serve C-GET")
        message_id = self._assoc.next_message_id()
        request: dict[Element, int | str] = {
            Element.AFFECTED_SOP_CLASS_UID: STUDY_ROOT_GET,
            Element.COMMAND_FIELD: C_GET_RQ,
            Element.MESSAGE_ID: message_id,
            Element.PRIORITY: MEDIUM_PRIORITY,
        }
        self._assoc.send_command(context_id, request, wanted.identifier())
        try:
            return self._taken()
        except KeyboardInterrupt:
            cancel = {Element.COMMAND_FIELD: C_CANCEL_RQ, Element.MESSAGE_ID_RESPONDED_TO: message_id}
            self._assoc.send_command(context_id, cancel)
            raise
        finally:
            self._messages.abandon()

    def _taken(self) -> Got:
        while True:
            try:
                self._messages.take(self._assoc.next_piece())
            except (Violation, MalformedCommand) as error:
                raise AssociationLost(f"it breaks the protocol: {error}") from error
            while self._responses:
                response = self._responses.popleft()
                got = _counts(response)
                if response.status != PENDING:
                    return self._ended(response, got)
                self._on_progress(got)

    def _ended(self, response: Command, got: Got) -> Got:
        if response.status != SUCCESS and not got.completed and not got.warning:
            told = f"0x{response.status or 0:04X} {response.comment}".rstrip()
            raise NotGot(f"{self._assoc.peer} answered C-GET with {told}")
        return got

    # What messages need of this layer

    def send(self, data: bytes) -> None:
        """Send encoded PDUs."""
        self._assoc.send_pdus(data)

    def hand_on(self, context_id: int, is_command: bool, last: bool, fragment: bytes | memoryview) -> None:
        """There is nobody to hand anything on to."""
        raise AssociationLost("it asks for more than to store")

    def is_serving(self) -> bool:
        """C-STORE is served as it arrives."""
        return False

    def cancel(self, message_id: int) -> None:
        """Nothing of ours can be cancelled by the peer."""

    def answered(self, response: Command) -> None:
        """Keep a response to our request."""
        self._responses.append(response)


def _counts(response: Command) -> Got:
    return Got(
        *(
            response.number(element) or 0
            for element in (Element.COMPLETED, Element.FAILED, Element.WARNING, Element.REMAINING)
        )
    )
