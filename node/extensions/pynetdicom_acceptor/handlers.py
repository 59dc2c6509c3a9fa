"""Handlers for the events of pynetdicom: a node behind the acceptor of another program.

pynetdicom's threads read and answer. What they receive takes the way of every instance (`services.c_store`), so 0x0000
follows the sync of the journal here too. A peer may do what [peers] allow; who may associate, and all limits of
associations and time, are those of the program.

C-MOVE and C-GET send instances whole, from memory, and count them.
"""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import structlog
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import _config
from pynetdicom.dsutils import decode, split_dataset
from pynetdicom.events import (
    EVT_ABORTED,
    EVT_C_ECHO,
    EVT_C_FIND,
    EVT_C_GET,
    EVT_C_MOVE,
    EVT_C_STORE,
    EVT_N_ACTION,
    EVT_N_CREATE,
    EVT_N_EVENT_REPORT,
    EVT_N_GET,
    EVT_N_SET,
    EVT_RELEASED,
    EVT_SOP_EXTENDED,
    Event,
    EventHandlerType,
    InterventionEvent,
)

from node.association.admission import Rights
from node.association.association import AcceptedContext, maximum_bytes
from node.association.client.association import MAXIMUM_CONTEXTS, contexts_of
from node.association.client.send import NotSendable, SendOutcome, Sent, intact, outgoing_of, proposals
from node.association.contexts import extended_answers
from node.association.listener import Listener
from node.association.operation import Operation, RequestRefused
from node.association.request import ReceivedRequest
from node.association.services.c_find import FindOperation
from node.association.services.c_store import Reception, StoreService
from node.association.services.retrieve import (
    GET_MODELS,
    MOVE_MODELS,
    Retrieve,
    RetrieveService,
    destination_of,
    select,
)
from node.children.forwarding import CopyChange, transformed
from node.dicom.coercion import NotCoerced
from node.dicom.command import (
    C_FIND_RQ,
    C_GET_RQ,
    C_MOVE_RQ,
    N_ACTION_RQ,
    N_CREATE_RQ,
    N_EVENT_REPORT_RQ,
    N_GET_RQ,
    N_SET_RQ,
)
from node.dicom.status import (
    CANCELLED,
    FAILED,
    NOT_AUTHORIZED,
    PENDING,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
    error_comment,
)
from node.index.rows.scope import within
from node.receive.ingest import Origin
from node.runtime.budget import Caller, calling
from node.runtime.network import block_of
from node.settings.peers import Verb

logger = structlog.get_logger()

FRAGMENT_BYTES = 1 << 20
"""Pieces in which a data set is read from pynetdicom's temporary file."""

Responses = Iterator[Any]
"""What pynetdicom's generators of responses yield: numbers, destinations, and statuses with data sets."""


def get_responses(operation: Operation, service: RetrieveService) -> Iterator[Any]:
    """Yield what a handler of pynetdicom yields (`evt.EVT_C_GET`): the number of instances, and each with its status.

    Raises RequestRefused: first of all.
    """
    selected = select(operation, service, GET_MODELS)
    yield from _instances(operation, Retrieve(operation, service, selected, operation.origin.calling_ae_title))


def move_responses(operation: Operation, service: RetrieveService) -> Iterator[Any]:
    """Yield the same for C-MOVE (`evt.EVT_C_MOVE`), and before it the destination. Raises RequestRefused first."""
    peer = destination_of(operation, service)
    selected = select(operation, service, MOVE_MODELS)
    kinds = proposals(outgoing_of(selected.instances, service.archive.root))[:MAXIMUM_CONTEXTS]
    tls = (peer.tls, peer.host) if peer.tls is not None else None
    yield peer.host, peer.port, {"ae_title": peer.ae_title, "contexts": contexts_of(kinds), "tls_args": tls}
    yield from _instances(operation, Retrieve(operation, service, selected, peer.ae_title))


def _instances(operation: Operation, retrieve: Retrieve) -> Iterator[Any]:
    yield len(retrieve.outgoing)
    with retrieve.handed_on() as count:
        for instance in retrieve.outgoing:
            if operation.is_cancelled():
                yield CANCELLED, None
                return
            try:
                data_set = transformed(dcmread(intact(instance)), CopyChange(identity=instance.identity))
            except (NotSendable, NotCoerced) as error:
                operation.log.warning("instance_not_sent", reason=str(error))
                count(Sent.not_sent(instance, error if isinstance(error, NotSendable) else NotSendable(str(error))))
                yield PENDING, str(error)  # no data set: pynetdicom counts it as failed
            else:
                count(Sent(instance, SendOutcome.COMPLETED))
                yield PENDING, data_set


class _Request(Operation):
    """A request of an event, and who sent it. What it is answered is returned to pynetdicom: `status`, `reply`."""

    reports_here = False

    def __init__(self, event: Event, service: StoreService) -> None:
        self.context = _context_of(event, as_scp=True)
        self.origin, self.log = service.origin, service.log
        self.message_id = event.message_id
        self.request = Dataset()
        for keyword in _PARAMETERS:
            if (given := getattr(event.request, keyword, None)) is not None:
                setattr(self.request, keyword, given)
        self._event = event
        data_sets = (getattr(event.request, name, None) for name in _DATA_SETS)
        data_set = next((one for one in data_sets if one is not None), None)
        command: Any = SimpleNamespace(field=_FIELDS.get(type(event.request).__name__))
        self._command = command
        self._has_data_set = data_set is not None
        content = data_set.getvalue() if data_set is not None else b""
        self._data_set = content if len(content) <= maximum_bytes(self._command) else None
        asked = {str(uid): options for uid, options in event.assoc.requestor.sop_class_extended.items()}
        self.association: Any = SimpleNamespace(extended_negotiation=asked, is_draining=False, is_next_waiting=True)
        self.status: Dataset | None = None
        self.reply: Dataset | None = None

    def is_cancelled(self) -> bool:
        """Whether the peer cancelled the operation, or was answered: pynetdicom sends what is returned to it."""
        return self.status is not None or bool(self._event.is_cancelled)

    def respond(self, status: int, data_set: Dataset | None = None, comment: str = "", **parameters: Any) -> None:
        """Note the response."""
        self.status, self.reply = _status(status, comment, parameters.pop("OffendingElement", None)), data_set
        for keyword, given in parameters.items():
            if given is not None:
                setattr(self.status, keyword, given)


class AcceptorHandlers:
    """Serves the events of an acceptor; each on the thread of its association."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._services: WeakKeyDictionary[Any, StoreService] = WeakKeyDictionary()

    def serving(self, event: Event, *, is_work: bool = True) -> AbstractContextManager[None]:
        """Return what lasts as long as a request is served; `is_work`: it is more than a sign of life."""
        return calling(Caller(f"{_requested(event).calling_ae_title} at {block_of(event.assoc.requestor.address)}"))

    def echo(self, event: Event) -> int:
        """Answer C-ECHO."""
        with self.serving(event, is_work=False):
            return SUCCESS if self._may(event, "echo") else SOP_CLASS_NOT_SUPPORTED

    def store(self, event: Event) -> Dataset:
        """Answer C-STORE once the instance is durable: statuses are those of `services.c_store`."""
        with self.serving(event):
            request: Any = event.request
            service = self.service(event)
            announced = _StoreRequest(str(request.AffectedSOPClassUID or ""), str(request.AffectedSOPInstanceUID or ""))
            reception = Reception(service, announced, _context_of(event, as_scp=self._may_store(event)))
            try:
                _, offset = split_dataset(event.dataset_path)
                with event.dataset_path.open("rb") as file:
                    file.seek(offset)
                    while fragment := file.read(FRAGMENT_BYTES):
                        reception.write(fragment)
            except Exception as error:  # pynetdicom would answer 0xC211: never to be sent again
                reception.abandon()
                service.log.error("c_store_failed", status=f"0x{FAILED.status:04X}", exc_info=error)
                return _status(FAILED.status, FAILED.comment)
            answer = reception.finish()
            return _status(answer.status, answer.comment)

    def serve(self, event: Event, field: int) -> tuple[Dataset, Dataset | None]:
        """Answer a request that is neither C-STORE nor a query or retrieve."""
        with self.serving(event):
            operation = self._operation(event)
            verb = self._listener.verbs.get(operation.context.abstract_syntax)
            if verb is not None and not self._may(event, verb):
                operation.respond(NOT_AUTHORIZED, comment=f"not permitted to this peer: {verb}; see [peers]")
            else:
                with within(self._rights(event).scope):
                    if not self._listener.operate(operation, field):
                        operation.respond(SOP_CLASS_NOT_SUPPORTED, comment="no service has such requests")
            return operation.status or _status(FAILED.status, FAILED.comment), operation.reply

    def extended(self, event: Any) -> dict[str, bytes]:
        """Answer SOP Class Extended Negotiation."""
        return extended_answers({str(uid): options for uid, options in event.app_info.items()})

    def find(self, event: Event) -> Responses:
        """Answer C-FIND: statuses are those of `services.c_find.serve_c_find`."""
        with self.serving(event):
            operation = self._operation(event)
            find, status = FindOperation(operation, self._listener.find_service), CANCELLED
            try:
                self._require(event, self._listener.verbs.get(operation.context.abstract_syntax, "query"))
                for pending, answer in find.found(operation.is_cancelled):
                    yield pending, _decoded(answer, operation.context.transfer_syntax_uid)
                    find.count += 1
                status = SUCCESS
            except Exception as error:
                last = find.final(error)
                status = last.status
                yield _status(last.status, last.comment, last.offending), None
            finally:
                find.audit(status)

    def get(self, event: Event) -> Responses:
        """Answer C-GET: the instances go out by pynetdicom, each whole in memory."""
        with self.serving(event):
            try:
                yield from self._retrieved(event, get_responses)
            except RequestRefused as error:  # before anything was yielded
                yield 1
                yield _status(error.status, str(error), error.offending), None

    def move(self, event: Event) -> Responses:
        """Answer C-MOVE, to a peer of the configuration."""
        with self.serving(event):
            try:
                yield from self._retrieved(event, move_responses)
            except RequestRefused:  # before anything was yielded: pynetdicom answers 0xA801
                yield None, None

    def ended(self, event: Event, outcome: str) -> None:
        """Let the series of an association wait no longer for it, or longer if it was aborted."""
        service = self._services.pop(event.assoc, None)
        if service is not None:
            service.ended(outcome)

    def _retrieved(self, event: Event, responses: Callable[[Operation, RetrieveService], Responses]) -> Responses:
        operation = self._operation(event)
        self._require(event, "retrieve")
        return responses(operation, self._listener.retrieves)

    def service(self, event: Event) -> StoreService:
        """Return the service that knows the peer of an association."""
        service = self._services.get(event.assoc)
        if service is None:
            listener, requestor = self._listener, event.assoc.requestor
            name, requested = uuid.uuid4().hex[:12], _requested(event)
            peer = f"{requestor.address}:{requestor.port}"
            releases = self._rights(event).releases
            titles = requested.calling_ae_title, requested.called_ae_title
            origin = Origin("dicom", *titles, peer, name, releases=releases)
            service = StoreService(listener.ingest, origin, listener.on_refusal)
            self._services[event.assoc] = service
        return service

    def _operation(self, event: Event) -> _Request:
        return _Request(event, self.service(event))

    def _may(self, event: Event, verb: Verb) -> bool:
        rights = self._rights(event)
        if verb in ("query", "retrieve") and rights.scope is not None:
            return False  # a scope ends with its block, and pynetdicom draws the responses afterwards
        return verb in rights.permitted

    def _rights(self, event: Event) -> Rights:
        return self._listener.admission.rights(event.assoc.requestor.address, _requested(event))

    def _may_store(self, event: Event) -> bool:
        rights = self._rights(event)
        return "store" in rights.permitted and (rights.takes is None or event.context.abstract_syntax in rights.takes)

    def _require(self, event: Event, verb: Verb) -> None:
        if not self._may(event, verb):
            raise RequestRefused(NOT_AUTHORIZED, f"not permitted to this peer: {verb}; see [peers]")


def handlers_of(listener: Listener) -> list[EventHandlerType]:
    """Return handlers for a listener that does not listen itself."""
    return event_handlers(AcceptorHandlers(listener))


def event_handlers(handlers: AcceptorHandlers) -> list[EventHandlerType]:
    """Return handlers of C-ECHO, C-STORE, C-FIND, C-MOVE, C-GET and all other services.

    From here on, pynetdicom writes each data set that an acceptor of this process receives to a temporary file
    (``STORE_RECV_CHUNKED_DATASET``), so memory does not depend on its size.
    """
    _config.STORE_RECV_CHUNKED_DATASET = True
    return [
        (EVT_C_ECHO, handlers.echo),
        (EVT_C_STORE, handlers.store),
        (EVT_C_FIND, handlers.find),
        (EVT_C_MOVE, handlers.move),
        (EVT_C_GET, handlers.get),
        *((event, handlers.serve, [field]) for event, field in _OPERATIONS),
        (EVT_SOP_EXTENDED, handlers.extended),
        (EVT_RELEASED, handlers.ended, ["released"]),
        (EVT_ABORTED, handlers.ended, ["aborted"]),
    ]


_OPERATIONS: Sequence[tuple[InterventionEvent, int]] = (
    (EVT_N_ACTION, N_ACTION_RQ),
    (EVT_N_CREATE, N_CREATE_RQ),
    (EVT_N_EVENT_REPORT, N_EVENT_REPORT_RQ),
    (EVT_N_GET, N_GET_RQ),
    (EVT_N_SET, N_SET_RQ),
)
"""Events of other requests, and the command field of each."""

_PARAMETERS = (
    "AffectedSOPInstanceUID",
    "RequestedSOPInstanceUID",
    "ActionTypeID",
    "AttributeIdentifierList",
    "EventTypeID",
    "MoveDestination",
)
_DATA_SETS = ("Identifier", "ActionInformation", "AttributeList", "EventInformation", "ModificationList")
"""Names of the data set in pynetdicom's primitives; each of them has one at most."""


_FIELDS = {"C_FIND": C_FIND_RQ, "C_GET": C_GET_RQ, "C_MOVE": C_MOVE_RQ}
"""The command fields of pynetdicom's primitives with an identifier, whose length has a limit."""


@dataclass(frozen=True, slots=True)
class _StoreRequest:
    """A C-STORE-RQ whose data set is in a file."""

    sop_class_uid: str
    sop_instance_uid: str
    has_data_set: bool = True


def _requested(event: Event) -> ReceivedRequest:
    primitive: Any = event.assoc.requestor.primitive
    titles = primitive.calling_ae_title.strip(), primitive.called_ae_title.strip()
    return ReceivedRequest(*titles, (), str(primitive.application_context_name))


def _context_of(event: Event, *, as_scp: bool) -> AcceptedContext:
    context = event.context
    return AcceptedContext(
        context.context_id, str(context.abstract_syntax), str(context.transfer_syntax), as_scu=False, as_scp=as_scp
    )


def _status(status: int, comment: str = "", offending: int | None = None) -> Dataset:
    ds = Dataset()
    ds.Status = status
    if comment:
        ds.ErrorComment = error_comment(comment)
    if offending is not None:
        ds.OffendingElement = offending
    return ds


def _decoded(answer: bytes, transfer_syntax_uid: str) -> Dataset:
    syntax = UID(transfer_syntax_uid)
    return decode(BytesIO(answer), syntax.is_implicit_VR, syntax.is_little_endian, False)
