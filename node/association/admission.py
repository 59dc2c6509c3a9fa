"""Who may associate, and how many: accept or reject, with the rule that decided (PS3.8 9.3.4)."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Protocol, get_args

import structlog

from node.dicom.uids import APPLICATION_CONTEXT
from node.index.records import Refused
from node.metrics import Metrics
from node.settings.model import Dicom, Peer, Verb

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Rejection:
    """An A-ASSOCIATE-RJ (PS3.8 table 9-21), the rule behind it, and what a person can do about it."""

    result: int
    source: int
    diagnostic: int
    rule: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Requested:
    """What an A-ASSOCIATE-RQ says that admission judges."""

    calling_ae_title: str
    called_ae_title: str
    application_context: str
    presentation_contexts: int
    abstract_syntaxes: tuple[str, ...] = ()


_REASONS = {
    (1, 1): "no reason given",
    (1, 2): "application context name not supported",
    (1, 3): "calling AE title not recognised",
    (1, 7): "called AE title not recognised",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}
"""What (source, diagnostic) mean, PS3.8 table 9-21."""


EVERY_VERB: frozenset[Verb] = frozenset(get_args(Verb))
OF_STRANGERS: frozenset[Verb] = frozenset({"echo", "store"})

TOLD_SYNTAXES = 10
"""Abstract syntaxes that are told of a rejected association."""


def refusal_of(rejection: Rejection, address: str, requested: Requested) -> Refused:
    """An association's rejection as a person is told of it."""
    some = sorted(set(requested.abstract_syntaxes))[:TOLD_SYNTAXES]
    lasting = "rejected for good" if rejection.result == 1 else "rejected for now"
    return Refused(
        "association",
        rejection.rule,
        f"{lasting}: {_REASONS[rejection.source, rejection.diagnostic]}",
        rejection.remedy,
        peer=address,
        calling_ae_title=requested.calling_ae_title,
        called_ae_title=requested.called_ae_title,
        offered=", ".join((f"{requested.presentation_contexts} presentation contexts", *some)),
    )


class Closable(Protocol):
    """A connection's thread, as far as admission knows it."""

    def drain(self) -> None:
        """End at the next boundary of messages."""

    def hang_up(self) -> None:
        """End at once: nothing more is read or sent."""


class Stage(Enum):
    """Where a connection is."""

    PENDING = auto()  # connected; no association yet, or no more
    ASSOCIATED = auto()
    EVICTED = auto()  # hung up on, not gone yet


@dataclass(eq=False, slots=True)
class Connection:
    """One TCP connection from its acceptance to its end."""

    thread: Closable
    address: str
    stage: Stage = Stage.PENDING


class Admission:
    """The doorkeeper of a listener; safe to use from many threads.

    Connections that have not asked for an association are counted apart from associations, and the oldest of the
    address that holds most of them gives way to a new one: sockets that stay silent can keep nobody out.
    """

    def __init__(
        self,
        dicom: Dicom,
        peers: Mapping[str, Peer],
        metrics: Metrics,
        intake_refusal: Callable[[], str | None] = lambda: None,
        on_refusal: Callable[[Refused], None] = lambda refused: None,
    ) -> None:
        self.on_refusal = on_refusal
        self._dicom, self._peers, self._metrics = dicom, tuple(peers.values()), metrics
        self._intake_refusal = intake_refusal
        self._connections: dict[Connection, None] = {}  # ordered by arrival
        self._changed = threading.Condition()

    def connected(self, thread: Closable, address: str) -> Connection:
        """Take up a connection; at the limit of pending ones, hang up the oldest of them."""
        with self._changed:
            connection = Connection(thread, address)
            evicted = None
            if self._number(Stage.PENDING) >= self._dicom.maximum_pending_connections:
                evicted = self._oldest_pending()
                evicted.stage = Stage.EVICTED
            self._connections[connection] = None
            self._count()
        if evicted is not None:
            self._metrics.rejections.labels(rule="pending connections").inc()
            logger.warning("connection_evicted", address=evicted.address, reason="too many pending connections")
            self.on_refusal(
                Refused(
                    "connection",
                    "pending connections",
                    f"{self._dicom.maximum_pending_connections} connections had not asked for an association",
                    "find out what connects and stays silent, or raise [dicom] maximum_pending_connections",
                    peer=evicted.address,
                )
            )
            evicted.thread.hang_up()
        return connection

    def judge(self, connection: Connection, requested: Requested) -> Rejection | None:
        """Return why the association is rejected, or None and count it as open."""
        rejection = self._unfit(requested) or self._stranger(connection.address, requested) or self._no_intake()
        if rejection is None:
            with self._changed:
                rejection = self._crowd(connection.address)
                if rejection is None:
                    connection.stage = Stage.ASSOCIATED
                    self._count()
        if rejection is not None:
            self._metrics.rejections.labels(rule=rejection.rule).inc()
            self.on_refusal(refusal_of(rejection, connection.address, requested))
        return rejection

    def permitted(self, address: str, calling_ae_title: str) -> frozenset[Verb]:
        """What an application entity may ask for (`Peer.may`).

        Without configured peers that is everything on this machine, and to store and verify from elsewhere: strangers
        must not read what is kept here.
        """
        here = _plain(address)
        if not self._peers:
            return EVERY_VERB if here.is_loopback else OF_STRANGERS
        fitting = [
            peer
            for peer in self._peers
            if peer.ae_title == calling_ae_title and (not peer.networks or _in_networks(here, peer))
        ]
        return frozenset(verb for peer in fitting for verb in peer.may)

    def ending(self, connection: Connection) -> None:
        """The association is over; only the connection waits to be closed."""
        with self._changed:
            if connection.stage is Stage.ASSOCIATED:
                connection.stage = Stage.PENDING
            self._count()

    def closed(self, connection: Connection) -> None:
        """The connection is gone."""
        with self._changed:
            self._connections.pop(connection, None)
            self._count()
            self._changed.notify_all()

    def drain(self) -> None:
        """Ask every connection to end at its next boundary."""
        for connection in self._all():
            connection.thread.drain()

    def hang_up(self) -> None:
        """End every connection at once."""
        for connection in self._all():
            connection.thread.hang_up()

    def wait_until_empty(self, seconds: float) -> bool:
        """Wait until no connection is left; False when the time is over first."""
        deadline = time.monotonic() + seconds
        with self._changed:
            return self._changed.wait_for(lambda: not self._connections, max(0.0, deadline - time.monotonic()))

    def _all(self) -> list[Connection]:
        with self._changed:
            return list(self._connections)

    def _number(self, stage: Stage) -> int:
        return sum(connection.stage is stage for connection in self._connections)

    def _oldest_pending(self) -> Connection:
        pending = [connection for connection in self._connections if connection.stage is Stage.PENDING]
        address, _ = Counter(connection.address for connection in pending).most_common(1)[0]
        return next(connection for connection in pending if connection.address == address)

    def _count(self) -> None:
        self._metrics.connections.set(len(self._connections))
        self._metrics.open_associations.set(self._number(Stage.ASSOCIATED))

    def _unfit(self, requested: Requested) -> Rejection | None:
        if requested.application_context != APPLICATION_CONTEXT:
            return Rejection(1, 1, 2, "application context", f"only {APPLICATION_CONTEXT} is spoken here")
        if not 1 <= requested.presentation_contexts <= 128:
            remedy = "propose 1 to 128 presentation contexts, each with an abstract syntax and transfer syntaxes"
            return Rejection(1, 1, 1, "presentation contexts", remedy)
        return None

    def _stranger(self, address: str, requested: Requested) -> Rejection | None:
        dicom = self._dicom
        if dicom.require_called_ae_title and requested.called_ae_title != dicom.ae_title:
            return Rejection(
                1, 1, 7, "called AE title", f"we are {dicom.ae_title}: fix the sender or set [dicom] ae_title"
            )
        same_title = [peer for peer in self._peers if peer.ae_title == requested.calling_ae_title]
        if self._peers and not same_title:
            return Rejection(1, 1, 3, "calling AE title", "add the sender to [peers]")
        here = _plain(address)
        if same_title and not any(not peer.networks or _in_networks(here, peer) for peer in same_title):
            return Rejection(1, 1, 3, "peer address", "add the address to the networks of the sender in [peers]")
        return None

    def _no_intake(self) -> Rejection | None:
        why = self._intake_refusal()
        return Rejection(2, 3, 1, "intake", why) if why is not None else None

    def _crowd(self, address: str) -> Rejection | None:
        """Count associations, under the lock."""
        open_now = Counter(c.address for c in self._connections if c.stage is Stage.ASSOCIATED)
        if open_now.total() >= self._dicom.maximum_associations:
            return Rejection(2, 3, 2, "associations", "raise [dicom] maximum_associations, or let senders try again")
        if open_now[address] >= self._dicom.maximum_associations_per_address:
            return Rejection(2, 3, 2, "associations of one address", "raise [dicom] maximum_associations_per_address")
        return None


def _plain(address: str) -> IPv4Address | IPv6Address:
    """The address as a sender would write it: an IPv4 one also on a socket that speaks both."""
    parsed = ip_address(address.partition("%")[0])
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed


def _in_networks(address: IPv4Address | IPv6Address, peer: Peer) -> bool:
    return any(address in network for network in peer.networks)
