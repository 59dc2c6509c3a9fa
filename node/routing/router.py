"""All routes of a node: configuration, start and stop."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from node.archive.filesystem import Archive
from node.archive.intact import MISSING
from node.association.client.addresses import Address, address_of
from node.association.client.association import (
    MAXIMUM_CONTEXTS,
    AssociationLost,
    EchoFailed,
    NoAssociation,
    NothingAccepted,
    RequestedAssociation,
    association,
    contexts_of,
    verify,
)
from node.association.client.commitment import CommitmentRefused, request_commitment
from node.association.client.send import (
    NoCopy,
    NotAsStored,
    NotReadable,
    NotSendable,
    Outgoing,
    SendOutcome,
    Transcode,
    Transcoder,
    bytes_for_peer,
    proposals,
    sent_with_status,
    store_request,
)
from node.audit.audit_log import Audit
from node.children.decoder import Decoder
from node.children.forwarding import CopyChange
from node.dicom.coercion import Coercion
from node.dicom.command import HIGH_PRIORITY, LOW_PRIORITY, MEDIUM_PRIORITY
from node.errors import OutOfResources, UsageError
from node.index.database import Index
from node.index.rows.records import Lane
from node.index.rules.work.messages import LedgerEvent
from node.index.rules.work.routes import DueInstance, OwedInstance, lane_to
from node.index.work_loop import MessageLoops
from node.receive.stored_files import report_damage
from node.registry import DEIDENTIFICATION, required
from node.routing.destination import (
    Confirmation,
    Delivered,
    Destination,
    NotConfirmable,
    NotTaken,
    Prepared,
    Unreachable,
)
from node.routing.held import HeldWorker, RouteParts, kind_that_follows, open_receiver
from node.routing.preparing import Preparer
from node.routing.worker import DestinationTurns, RouteWorker
from node.runtime.metrics import Metrics
from node.selector import Selector, compile_selector, without
from node.settings.core import DestinationSettings as Receiver
from node.settings.core import Route
from node.settings.model import Settings
from node.settings.peers import Peer


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a worker is built from: if none of it changes, the worker stays. `before`: routes named in `otherwise`."""

    route: Route
    deletes: bool
    target: Peer | Receiver | None
    before: tuple[Route, ...]


class RouteWorkers(MessageLoops[_Plan, HeldWorker]):
    """Send to every destination of every route, and what people send by hand.

    `decoder`: changes and decompresses copies.
    `delete_confirmed`: deletes what all destinations of a route have confirmed.
    """

    kind = "route"

    def __init__(
        self,
        settings: Settings,
        archive: Archive,
        index: Index,
        metrics: Metrics,
        audit: Audit,
        decoder: Decoder,
        delete_confirmed: Callable[[str], None],
    ) -> None:
        self._archive, self._decoder = archive, decoder
        self._metrics, self._audit, self._delete_confirmed = metrics, audit, delete_confirmed
        self._turns: defaultdict[str, DestinationTurns] = defaultdict(DestinationTurns)
        super().__init__(settings, index)

    def _plans(self) -> dict[Lane, _Plan]:
        settings = self._settings
        plans: dict[Lane, _Plan] = {}
        for route_name, route in _routes(settings):
            before = tuple(settings.routes[name] for name in settings.before(route_name)) if route.otherwise else ()
            for number, name in enumerate(route.to):
                target = settings.peers.get(name) or settings.destinations.get(name)
                plans[lane_to(route_name, name)] = _Plan(route, number == 0, target, before)
        return plans

    def _built(self, plans: Mapping[Lane, _Plan]) -> list[HeldWorker]:
        changes: dict[str, CopyChange] = {}
        return [self._worker(lane, plan, changes) for lane, plan in plans.items()]

    def _worker(self, lane: Lane, plan: _Plan, changes: dict[str, CopyChange]) -> HeldWorker:
        """Return the worker of a lane; `changes` has what the copies of each route differ in, made once for all."""
        settings, archive, index, route, name = self._settings, self._archive, self._index, plan.route, lane.destination
        selector = selector_of(settings, route)
        parts = RouteParts(settings, lane.name, route, name, selector, archive, index, self._metrics, self._audit)
        kind = kind_that_follows(settings, name)
        if kind is not None:
            return kind.worker(parts)
        if lane.name not in changes:
            changes[lane.name] = change_of(settings, route)
        preparer = Preparer(
            f"prepare {lane.name}/{name}", archive.root, archive.incoming, self._decoder, changes[lane.name],
            partial(_reported, archive, index),
            None if archive.remote is None else archive.local,
        )  # fmt: skip
        destination = destination_of(settings, route, name, Transcoder(self._decoder, archive.incoming))
        deletes = partial(self._delete_confirmed, lane.name) if plan.deletes else None
        return RouteWorker(parts, destination, preparer, self._turns[name], deletes)


def _reported(archive: Archive, index: Index, key: str, problem: str) -> bool:
    """Report a file that a worker found damaged; return whether it is whole after all.

    Raises Unreachable: a folder of the root is away, or the index did not commit; nothing was tried in vain.
    """
    try:
        return report_damage(archive, index, key, problem, index.now())
    except OutOfResources as error:
        raise Unreachable(f"files of the archive are not known to be damaged: {error}") from error


def _routes(settings: Settings) -> Iterator[tuple[str, Route]]:
    """Yield the routes, and the one without a name by which people send to each destination."""
    yield from settings.routes.items()
    yield from (("", Route(to=(name,))) for name in settings.receivers)


def selector_of(settings: Settings, route: Route) -> Selector | None:
    """Return what a route sends: what fits its `where`, and none of the routes that it names in `otherwise`."""
    own = compile_selector(route.where) if route.where is not None else None
    others = [selector_of(settings, settings.routes[name]) for name in route.otherwise or ()]
    return without(own, [other for other in others if other is not None])


def change_of(settings: Settings, route: Route) -> CopyChange:
    """Return how the copies of a route differ from what is stored.

    Raises UsageError if the key or the pixel rules of its table [deidentify.NAME] cannot be used.
    """
    coercion = Coercion.of(route.set, route.replace, route.remove)
    if route.deidentify is None:
        return CopyChange(coercion, route.transfer_syntax, None)
    configured = required(settings, DEIDENTIFICATION, "[routes] deidentify")
    return CopyChange(coercion, route.transfer_syntax, configured(settings, route.deidentify))


def destination_of(settings: Settings, route: Route, name: str, transcoder: Transcoder) -> Destination:
    """Return a destination of a route.

    Raises UsageError if it is misconfigured; the message names it.
    """
    if name in settings.peers:
        timeout, ae_title = settings.dicom.response_seconds, settings.dicom.ae_title
        return PeerDestination(address_of(name, settings), ae_title, transcoder, timeout, route.priority)
    return _receiver(settings, name, is_read_again=route.confirm)


def _receiver(settings: Settings, name: str, *, is_read_again: bool) -> Destination:
    try:
        described = settings.destinations[name]
        return open_receiver(settings, described.kind)(described, is_read_again)
    except UsageError as error:
        raise UsageError(f"[destinations.{name}] {error}") from error


def check_destination(settings: Settings, name: str) -> None:
    """Refuse a destination whose files cannot be used.

    Raises UsageError.
    """
    try:
        if (kind := kind_that_follows(settings, name)) is not None:
            kind.check(settings.destinations[name])
            return
    except UsageError as error:
        raise UsageError(f"[destinations.{name}] {error}") from error
    _receiver(settings, name, is_read_again=False).rest()


def lanes_of(settings: Settings) -> Mapping[Lane, Collection[LedgerEvent]]:
    """Return the events of every hook and every destination of a route; what people send by hand is of no event."""
    hooks: dict[Lane, Collection[LedgerEvent]] = {Lane("hook", name): hook.on for name, hook in settings.hooks.items()}
    routes = {
        lane_to(name, to): _events_of(settings, route, to) for name, route in settings.routes.items() for to in route.to
    }
    return hooks | routes | {lane_to("", to): () for to in settings.receivers}


def _events_of(settings: Settings, route: Route, to: str) -> Collection[LedgerEvent]:
    kind = kind_that_follows(settings, to)
    return (route.when,) if kind is None else kind.events(route)


PRIORITIES = {"high": HIGH_PRIORITY, "medium": MEDIUM_PRIORITY, "low": LOW_PRIORITY}

OUT_OF_RESOURCES = range(0xA700, 0xA800)
"""Statuses of PS3.4 B.2.3 that say nothing of the instance."""

TEMPORARY = frozenset({0x0110, 0x0124, 0x0213})
"""Processing failure, not authorized, resource limitation (PS3.7 C.5): what a peer answers whose database or disk has
failed, or who does not know us yet. Later attempts may succeed. Any other failure concerns the instance."""


class PeerDestination:
    """Sends to a peer.

    `ae_title`: our AE title. `transcode`: decompresses what the peer does not accept as it is. `timeout` (seconds):
    longest wait for the connection, its acceptance and each response. `priority`: a key of `PRIORITIES`.
    """

    def __init__(self, peer: Address, ae_title: str, transcode: Transcode, timeout: float, priority: str) -> None:
        self._peer, self._ae_title, self._transcode, self._timeout = peer, ae_title, transcode, timeout
        self._priority = PRIORITIES[priority]
        self._kinds: dict[tuple[str, str], Outgoing] = {}  # an instance of each that was sent, the newest last
        self._proposed: frozenset[tuple[str, str]] = frozenset()
        self._opened = ExitStack()
        self._association: RequestedAssociation | None = None
        self._is_used = False  # it has taken something: it may have been idle since

    def deliver(self, instances: Iterable[Prepared], is_abandoned: Callable[[], bool]) -> Iterator[Delivered]:
        """Send instances, each after the answer to the one before. See `Destination.deliver`."""
        for prepared in instances:
            yield Delivered(prepared, self._problem(prepared.outgoing, is_abandoned))

    def confirm(
        self, owed: Sequence[OwedInstance], transaction_uid: str, is_abandoned: Callable[[], bool]
    ) -> Confirmation | None:
        """Request storage commitment. See `Destination.confirm`."""
        references = [(one.sop_class_uid, one.sop_instance_uid) for one in owed]
        try:
            report = request_commitment(
                self._peer, self._ae_title, transaction_uid, references, self._timeout, is_abandoned
            )
        except CommitmentRefused as error:
            raise NotConfirmable(str(error)) from error
        except NoAssociation as error:
            raise Unreachable(str(error)) from error
        return Confirmation(report.committed, report.failed) if report is not None else None

    def is_origin(self, due: DueInstance) -> bool:
        """Return whether the peer has sent the instance, by its AE title."""
        return (due.calling_ae_title or "").strip() == self._peer.ae_title.strip()

    def rest(self) -> None:
        """Release the association."""
        self._association = None
        self._opened.close()

    def _hang_up(self) -> None:
        """Abort the association, on which the peer does not answer any more."""
        if self._association is not None:
            self._association.abort()
        self.rest()

    def _problem(self, instance: Outgoing, is_abandoned: Callable[[], bool]) -> NotTaken | None:
        for was_used in (self._is_used and self._association is not None, False):
            try:
                return self._send(instance, is_abandoned)
            except AssociationLost as error:
                self._hang_up()
                lost = error
            if not was_used or is_abandoned():  # else the peer may have ended an association that was idle
                break
        if not is_abandoned():
            self._require_answer()
        return NotTaken(f"{self._peer}: {lost}")

    def _require_answer(self) -> None:
        """Tell a peer that hangs or is down from an instance at which it ends the association.

        Raises Unreachable if it does not answer C-ECHO.
        """
        try:
            verify(self._peer, self._ae_title, self._timeout)
        except NothingAccepted:
            pass  # it works, but does not offer verification
        except (NoAssociation, EchoFailed) as error:
            raise Unreachable(str(error)) from error

    def _send(self, instance: Outgoing, is_abandoned: Callable[[], bool]) -> NotTaken | None:
        try:
            assoc = self._open(instance, is_abandoned)
        except NothingAccepted:
            return NotTaken(f"the peer does not accept {instance.sop_class_uid}: {_ACCEPT}", is_final=True)
        except NoAssociation as error:
            raise Unreachable(str(error)) from error
        try:
            accepted = assoc.accepted_for(instance.sop_class_uid)
            with bytes_for_peer(instance, accepted, self._transcode) as (context_id, source):
                message_id = assoc.next_message_id()
                assoc.send_instance(context_id, store_request(instance, message_id, priority=self._priority), source)
                answer = assoc.answer_to(message_id)
        except NotAsStored as error:  # a missing file may have made room for another version meanwhile
            return NotTaken(str(error), is_final=error.problem != MISSING)
        except NotReadable as error:
            return NotTaken(str(error))
        except NoCopy as error:
            raise Unreachable(f"copies cannot be made here now: {error}") from error
        except NotSendable as error:
            return NotTaken(f"{error}: {_ACCEPT}", is_final=True)
        self._is_used = True
        sent = sent_with_status(instance, answer.status, answer.comment)
        if sent.fate is not SendOutcome.FAILED:
            return None
        is_temporary = answer.status is None or answer.status in OUT_OF_RESOURCES or answer.status in TEMPORARY
        return NotTaken(f"{self._peer.ae_title} {sent.reason}: {_REFUSED}", is_final=not is_temporary)

    def _open(self, instance: Outgoing, is_abandoned: Callable[[], bool]) -> RequestedAssociation:
        """Return an association for which the kind of the instance was proposed."""
        kind = instance.sop_class_uid, instance.transfer_syntax_uid
        if self._association is not None and kind in self._proposed:
            return self._association
        self.rest()
        self._kinds.pop(kind, None)
        self._kinds[kind] = instance
        while len(proposals(self._kinds.values())) > MAXIMUM_CONTEXTS:
            del self._kinds[next(iter(self._kinds))]
        contexts = contexts_of(proposals(self._kinds.values()))
        opening = association(self._peer, self._ae_title, contexts, self._timeout, is_abandoned=is_abandoned)
        self._association = self._opened.enter_context(opening)
        self._proposed, self._is_used = frozenset(self._kinds), False
        return self._association


_ACCEPT = "let the peer accept it, or leave it out by `where` of the route"
_REFUSED = "its log says why; `voxelnode routes retry` tries again"
