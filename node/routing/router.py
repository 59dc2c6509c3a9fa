"""All routes of a node: configuration, start and stop."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import structlog

from node.archive.filesystem import Archive
from node.association.client.association import address_of
from node.association.client.send import Transcoder
from node.audit.audit_log import Audit
from node.children.decoder import Decoder
from node.children.forwarding import Change
from node.dicom.coercion import Coercion
from node.errors import OutOfResources, UsageError
from node.failpoints import reached
from node.hookspecs import RouteParts
from node.index.database.index import Index
from node.index.database.work_loop import stop_loops
from node.index.work.ledger import Lane
from node.index.work.messages import LedgerEvent
from node.index.work.routes import lane_to
from node.metrics import Metrics
from node.receive.stored_files import report_damage
from node.registry import destination_kind, open_receiver, ways_of
from node.routing.destination import Destination
from node.routing.held import HeldWorker
from node.routing.parallel import ParallelDestination
from node.routing.peers import PeerDestination
from node.routing.preparing import Preparer
from node.routing.worker import RouteWorker, Turns
from node.selector import Selector, compile_selector, without
from node.settings.model import Destination as Receiver
from node.settings.model import Peer, Route, Settings

log = structlog.get_logger()


FOLLOW_SECONDS = 2.0
"""Longest wait for an instance under way to a destination whose route changes; then its connection is cut."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a worker is built from: if none of it changes, the worker stays. `before`: routes named in `otherwise`."""

    route: Route
    deletes: bool
    target: Peer | Receiver | None
    before: tuple[Route, ...]


class Router:
    """Send to every destination of every route, and what people send by hand.

    Routes and peers may change while it runs (`Settings.follow`); the index has what waits, so that a kill at any time
    leaves the workers of the old or of the new ones to the next start.

    Parameters
    ----------
    settings : Settings
    archive : Archive
    decoder : Decoder
        Changes and decompresses copies.
    delete_confirmed : callable (str)
        Deletes what all destinations of a route have confirmed.
    """

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
        self._settings, self._archive, self._index, self._decoder = settings, archive, index, decoder
        self._metrics, self._audit, self._delete_confirmed = metrics, audit, delete_confirmed
        self._turns: defaultdict[str, Turns] = defaultdict(Turns)
        self._following = threading.Lock()
        self._is_running = False
        self._plans = _plans(settings)
        self.workers = self._built(self._plans)

    def start(self) -> None:
        """Start to send. A new destination of a route receives events from now on."""
        with self._following:
            self._is_running = True
            self._begin_lanes(self.workers, "their route is no longer there")
            for worker in self.workers:
                worker.start()
        self._settings.follow(self._follow)

    def _follow(self) -> None:
        """Send by the routes, and to the peers, that the settings have now.

        A destination of which nothing has changed goes on. Another one ends after the instance that is being sent, and
        begins anew where the index says that it is. What waits for one that is gone is dropped.
        """
        with self._following:
            if not self._is_running:
                return
            plans = _plans(self._settings)
            stay = [worker for worker in self.workers if plans.get(worker.lane) == self._plans[worker.lane]]
            new = self._built({lane: plan for lane, plan in plans.items() if plan != self._plans.get(lane)})
            gone = [worker for worker in self.workers if worker not in stay]
            self.workers, self._plans = stay, {worker.lane: plans[worker.lane] for worker in stay}
            stop_loops(gone, FOLLOW_SECONDS)
            reached("workers-ended")
            self._begin_lanes([*stay, *new], "their route was changed or removed")
            self.workers, self._plans = [*stay, *new], plans
            for worker in new:
                worker.start()

    def begin_stop(self) -> None:
        """Begin no further instance, and follow no further change; return once one under way is made."""
        with self._following:
            self._is_running = False
        for worker in self.workers:
            worker.begin_stop()

    def stop(self, seconds: float) -> None:
        """Begin no further instance; see `node.index.database.work_loop.stop_loops`."""
        stop_loops(self.workers, seconds)

    def _begin_lanes(self, workers: Sequence[HeldWorker], reason: str) -> None:
        wants_instances = {worker.lane: worker.wants_instances for worker in workers}
        dropped = self._index.deliveries.begin("route", wants_instances, self._settings.unusable_routes)
        if dropped:
            log.warning("route_messages_dropped", count=dropped, reason=reason)

    def _built(self, plans: Mapping[Lane, _Plan]) -> list[HeldWorker]:
        """Return workers, which are not started. Raises UsageError if a file that one needs cannot be used."""
        changes: dict[str, Change] = {}
        workers: list[HeldWorker] = []
        for lane, plan in plans.items():
            if lane.name not in changes and lane.destination not in self._settings.datasets:
                changes[lane.name] = change_of(self._settings, plan.route)
            workers.append(self._worker(lane, plan, changes.get(lane.name)))
        return workers

    def _worker(self, lane: Lane, plan: _Plan, change: Change | None) -> HeldWorker:
        settings, archive, index, route, name = self._settings, self._archive, self._index, plan.route, lane.destination
        selector = selector_of(settings, route)
        parts = RouteParts(settings, lane.name, route, name, selector, archive, index, self._metrics, self._audit)
        if change is None:
            return destination_kind(settings, "bids").worker(parts)
        preparer = Preparer(
            f"prepare {lane.name}/{name}", archive.root, archive.incoming, self._decoder, change,
            partial(_reported, archive, index), route.connections,
            None if archive.remote is None else archive.local,
        )  # fmt: skip
        destination = _connected(settings, route, name, Transcoder(self._decoder, archive.incoming))
        deletes = partial(self._delete_confirmed, lane.name) if plan.deletes else None
        return RouteWorker(parts, destination, preparer, self._turns[name], deletes)


def _plans(settings: Settings) -> dict[Lane, _Plan]:
    """Return what to send where, by the lanes of the destinations."""
    plans: dict[Lane, _Plan] = {}
    for route_name, route in _routes(settings):
        before = tuple(settings.routes[name] for name in settings.before(route_name)) if route.otherwise else ()
        for number, name in enumerate(route.to):
            target = settings.peers.get(name) or settings.destinations.get(name)
            plans[lane_to(route_name, name)] = _Plan(route, number == 0, target, before)
    return plans


def _reported(archive: Archive, index: Index, key: str, problem: str) -> bool:
    """Report a file that a worker found damaged; return whether it is whole after all."""
    with suppress(OutOfResources):  # the next reader records it
        return report_damage(archive, index, key, problem, index.now())
    return False


def _routes(settings: Settings) -> Iterator[tuple[str, Route]]:
    """Yield the routes, and the one without a name by which people send to each destination."""
    yield from settings.routes.items()
    for name in settings.receivers:
        connections = max((route.connections for route in settings.routes.values() if name in route.to), default=1)
        yield "", Route(to=(name,), connections=connections)


def selector_of(settings: Settings, route: Route) -> Selector | None:
    """Return what a route sends: what fits its `where`, and none of the routes that it names in `otherwise`."""
    own = compile_selector(route.where) if route.where is not None else None
    others = [selector_of(settings, settings.routes[name]) for name in route.otherwise]
    return without(own, [other for other in others if other is not None])


def change_of(settings: Settings, route: Route) -> Change:
    """Return how the copies of a route differ from what is stored.

    Raises UsageError if the key or the pixel rules of its table [deidentify.NAME] cannot be used.
    """
    coercion = Coercion.of(route.set, route.replace, route.remove)
    ways = ways_of(settings)
    how = ways.way(settings, route.deidentify) if ways is not None and route.deidentify is not None else None
    return Change(coercion, route.transfer_syntax, how)


def _connected(settings: Settings, route: Route, name: str, transcoder: Transcoder) -> Destination:
    """Return a destination with as many connections as a route may have."""
    opening = threading.Lock()
    connections = [destination_of(settings, route, name, transcoder, opening) for _ in range(route.connections)]
    return ParallelDestination(f"send {name}", connections) if len(connections) > 1 else connections[0]


def destination_of(
    settings: Settings, route: Route, name: str, transcoder: Transcoder, opening: threading.Lock
) -> Destination:
    """Return a destination of a route; `opening` is shared by its connections.

    Raises UsageError if it is misconfigured; the message names it.
    """
    if name in settings.peers:
        timeout, ae_title = settings.dicom.response_seconds, settings.dicom.ae_title
        return PeerDestination(address_of(name, settings), ae_title, transcoder, timeout, route.priority, opening)
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
    destination = settings.destinations[name]
    if name not in settings.datasets:
        _receiver(settings, name, is_read_again=False).rest()
        return
    try:
        destination_kind(settings, "bids").check(destination)
    except UsageError as error:
        raise UsageError(f"[destinations.{name}] {error}") from error


def subscriptions(settings: Settings) -> Mapping[Lane, Collection[LedgerEvent]]:
    """Return the events of every hook and of every destination of a route."""
    hooks: dict[Lane, Collection[LedgerEvent]] = {Lane("hook", name): hook.on for name, hook in settings.hooks.items()}
    routes = {
        lane_to(name, to): _events_of(settings, route, to) for name, route in settings.routes.items() for to in route.to
    }
    return hooks | routes


def _events_of(settings: Settings, route: Route, to: str) -> Collection[LedgerEvent]:
    if to not in settings.datasets:
        return (route.when,)
    return destination_kind(settings, "bids").events(route)
