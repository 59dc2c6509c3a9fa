"""All routes of a node: configuration, start and stop."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from node.archive.filesystem import Archive
from node.association.client.addresses import address_of
from node.association.client.send import Transcoder
from node.audit.audit_log import Audit
from node.children.decoder import Decoder
from node.children.forwarding import CopyChange
from node.dicom.coercion import Coercion
from node.errors import OutOfResources, UsageError
from node.index.database import Index
from node.index.rows.records import Lane
from node.index.rules.work.messages import LedgerEvent
from node.index.rules.work.routes import lane_to
from node.index.work_loop import MessageLoops
from node.receive.stored_files import report_damage
from node.registry import DEIDENTIFICATION, required
from node.routing.destination import Destination, Unreachable
from node.routing.held import HeldWorker, RouteParts, kind_that_follows, open_receiver
from node.routing.peers import PeerDestination
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
