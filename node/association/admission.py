"""Accept or reject associations by peer, address and count, and name the rule that decided (PS3.8 9.3.4)."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol, get_args

import structlog

from node.addresses import block_of, plain_address
from node.association.tls import PeerCertificate
from node.dicom.uids import APPLICATION_CONTEXT
from node.index.nouns.records import Refused
from node.metrics import Metrics
from node.settings.model import Dicom, Peer, Verb

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Rejection:
    """An A-ASSOCIATE-RJ (PS3.8 table 9-21), the rule behind it, and the remedy."""

    result: int
    source: int
    diagnostic: int
    rule: str
    remedy: str


@dataclass(frozen=True, slots=True)
class AssociationRequest:
    """The fields of an A-ASSOCIATE-RQ by which admission decides."""

    calling_ae_title: str
    called_ae_title: str
    application_context: str
    presentation_contexts: int
    abstract_syntaxes: tuple[str, ...] = ()
    certificate: PeerCertificate | None = None


_REASONS = {
    (1, 1): "no reason given",
    (1, 2): "application context name not supported",
    (1, 3): "calling AE title not recognised",
    (1, 7): "called AE title not recognised",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}
"""Meaning of (source, diagnostic), PS3.8 table 9-21."""


EVERY_VERB: frozenset[Verb] = frozenset(get_args(Verb))
STRANGER_VERBS: frozenset[Verb] = frozenset({"echo", "store"})

MAX_PENDING_CONNECTIONS = 128
"""Connections that have not asked for an association; beyond that the oldest of them gives way."""

UNUSED_SECONDS = 1.0
"""Age from which an association without a request gives way to a new one when all are taken; also the silence after
which one is not waited for when the node stops."""

KNOWN_SHARE = 4
"""One in so many associations is kept for peers with a network or certificate, if there are such peers."""

MAX_REPORTED_SYNTAXES = 10
"""Abstract syntaxes listed for a rejected association."""


def refusal_of(rejection: Rejection, address: str, requested: AssociationRequest) -> Refused:
    """Describe a rejected association for the list of refusals."""
    abstract_syntaxes = sorted(set(requested.abstract_syntaxes))[:MAX_REPORTED_SYNTAXES]
    permanence = "rejected permanently" if rejection.result == 1 else "rejected temporarily"
    return Refused(
        "association",
        rejection.rule,
        f"{permanence}: {_REASONS[rejection.source, rejection.diagnostic]}",
        rejection.remedy,
        peer=address,
        calling_ae_title=requested.calling_ae_title,
        called_ae_title=requested.called_ae_title,
        offered=", ".join((f"{requested.presentation_contexts} presentation contexts", *abstract_syntaxes)),
    )


class Closable(Protocol):
    """The part of a connection's thread that admission uses."""

    def drain(self, finish_seconds: float) -> None:
        """End at the next boundary between messages; a peer that sends more of them has `finish_seconds` before."""

    def hang_up(self) -> None:
        """End at once: nothing more is read or sent."""


class Stage(Enum):
    """The state of a connection."""

    PENDING = auto()  # connected, without an association: not yet, or no longer
    ASSOCIATED = auto()
    EVICTED = auto()  # asked to hang up, not closed yet


@dataclass(eq=False, slots=True)
class Connection:
    """One TCP connection from its acceptance to its end."""

    thread: Closable
    address: str
    stage: Stage = Stage.PENDING
    is_used: bool = False
    """Whether the association has carried anything but its negotiation."""
    associated_at: float = 0.0


class Admission:
    """Decides on the connections and associations of one listener; safe to use from many threads.

    Pending connections, which have no association, are counted apart from associations. At their limit a new
    connection evicts the oldest pending connection of the address that holds most: silent sockets keep nobody out. At
    the limit of associations, the oldest unused one of the address that holds most gives way, and a quarter of them is
    kept for peers that prove who they are, by their network or certificate. IPv6 addresses count by their /64.
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
        self._dicom, self._peers, self._metrics = dicom, dict(peers), metrics
        self._intake_refusal = intake_refusal
        self._connections: dict[Connection, None] = {}  # in the order in which they came
        self._changed = threading.Condition()

    def connected(self, thread: Closable, address: str) -> Connection:
        """Register a connection; at the limit of pending connections, evict the oldest."""
        with self._changed:
            connection = Connection(thread, address)
            evicted = None
            if self._number(Stage.PENDING) >= MAX_PENDING_CONNECTIONS:
                evicted = self._oldest_pending()
                evicted.stage = Stage.EVICTED
            self._connections[connection] = None
            self._count()
        if evicted is not None:
            self._evict(
                evicted,
                Refused(
                    "connection",
                    "pending connections",
                    f"{MAX_PENDING_CONNECTIONS} connections without an association",
                    "find the client that connects and stays silent",
                    peer=evicted.address,
                ),
            )
        return connection

    def judge(self, connection: Connection, requested: AssociationRequest) -> Rejection | None:
        """Return the rejection of an association; or count it as open and return None."""
        rejection = self._malformed(requested) or self._unknown_peer(connection.address, requested) or self._no_intake()
        if rejection is None:
            with self._changed:
                rejection, unused = self._over_limit(connection.address, requested)
                if unused is not None:
                    unused.stage = Stage.EVICTED
                if rejection is None:
                    connection.stage, connection.associated_at = Stage.ASSOCIATED, time.monotonic()
                    self._count()
            if unused is not None:
                self._evict(
                    unused,
                    Refused(
                        "association",
                        "unused association",
                        "it was open without a request, and all associations were taken",
                        "find the client that associates and stays silent, or raise [dicom] maximum_associations",
                        peer=unused.address,
                    ),
                )
        if rejection is not None:
            self._metrics.rejections.labels(rule=rejection.rule).inc()
            self.on_refusal(refusal_of(rejection, connection.address, requested))
        return rejection

    def permitted(self, address: str, requested: AssociationRequest) -> frozenset[Verb]:
        """Return the services that an application entity may use (`Peer.may`).

        Without configured peers a client on this machine may use every service, and other clients may store and verify
        only: an unknown client must not read patient data.
        """
        if not self._peers:
            return EVERY_VERB if plain_address(address).is_loopback else STRANGER_VERBS
        names = self.named(address, requested)
        return frozenset(verb for name in names for verb in self._peers[name].may)

    def named(self, address: str, requested: AssociationRequest) -> list[str]:
        """Return the names in [peers] that an application entity has."""
        plain = plain_address(address)
        same_title = self._with_title(requested.calling_ae_title)
        return [name for name, peer in same_title.items() if _is(peer, plain, requested)]

    def _with_title(self, ae_title: str) -> dict[str, Peer]:
        return {name: peer for name, peer in self._peers.items() if peer.ae_title == ae_title}

    def ending(self, connection: Connection) -> None:
        """Record that the association is over and its connection about to close."""
        with self._changed:
            if connection.stage is Stage.ASSOCIATED:
                connection.stage = Stage.PENDING
            self._count()

    def closed(self, connection: Connection) -> None:
        """Forget a closed connection."""
        with self._changed:
            self._connections.pop(connection, None)
            self._count()
            self._changed.notify_all()

    def drain(self, finish_seconds: float) -> None:
        """Ask every connection to end at its next boundary between messages.

        `finish_seconds`: time before that for associations whose peers send further messages.
        """
        for connection in self._all():
            connection.thread.drain(finish_seconds)

    def hang_up(self) -> None:
        """End every connection at once."""
        for connection in self._all():
            connection.thread.hang_up()

    def wait_until_empty(self, seconds: float) -> bool:
        """Wait until no connection is left; False if `seconds` pass first."""
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
        return _oldest_of_the_most(pending)

    def _count(self) -> None:
        self._metrics.connections.set(len(self._connections))
        self._metrics.open_associations.set(self._number(Stage.ASSOCIATED))

    def _malformed(self, requested: AssociationRequest) -> Rejection | None:
        if requested.application_context != APPLICATION_CONTEXT:
            return Rejection(1, 1, 2, "application context", f"use the application context {APPLICATION_CONTEXT}")
        if not 1 <= requested.presentation_contexts <= 128:
            remedy = "propose 1 to 128 presentation contexts, each with an abstract syntax and transfer syntaxes"
            return Rejection(1, 1, 1, "presentation contexts", remedy)
        return None

    def _unknown_peer(self, address: str, requested: AssociationRequest) -> Rejection | None:
        dicom = self._dicom
        if dicom.require_called_ae_title and requested.called_ae_title != dicom.ae_title:
            return Rejection(
                1,
                1,
                7,
                "called AE title",
                f"this node is {dicom.ae_title}: correct the sender, or set [dicom] ae_title",
            )
        same_title = self._with_title(requested.calling_ae_title)
        if self._peers and not same_title:
            return Rejection(1, 1, 3, "calling AE title", "add the sender to [peers]")
        plain = plain_address(address)
        of_address = {name: peer for name, peer in same_title.items() if not peer.networks or _in_networks(plain, peer)}
        if same_title and not of_address:
            remedy = f"add its address to networks of [peers.{next(iter(same_title))}] if it is that peer"
            return Rejection(1, 1, 3, "peer address", remedy)
        if of_address and not any(_is(peer, plain, requested) for peer in of_address.values()):
            shown = requested.certificate or "none"
            remedy = f"set `certificate` of [peers.{next(iter(of_address))}] if it may show {shown}"
            return Rejection(1, 1, 3, "peer certificate", remedy)
        return None

    def _no_intake(self) -> Rejection | None:
        reason = self._intake_refusal()
        return Rejection(2, 3, 1, "intake", reason) if reason is not None else None

    def _over_limit(self, address: str, requested: AssociationRequest) -> tuple[Rejection | None, Connection | None]:
        """Compare the open associations with their limits; return also the one that gives way to the new one.

        The caller holds the lock.
        """
        open_ones = [connection for connection in self._connections if connection.stage is Stage.ASSOCIATED]
        block = block_of(address)
        if sum(block_of(one.address) == block for one in open_ones) >= self._dicom.maximum_associations_per_address:
            remedy = "raise [dicom] maximum_associations_per_address"
            return Rejection(2, 3, 2, "associations of one address", remedy), None
        if len(open_ones) < self._limit(plain_address(address), requested):
            return None, None
        ripe_at = time.monotonic() - UNUSED_SECONDS
        unused = [one for one in open_ones if not one.is_used and one.associated_at < ripe_at]
        if unused:
            return None, _oldest_of_the_most(unused)
        return Rejection(2, 3, 2, "associations", "try again later, or raise [dicom] maximum_associations"), None

    def _limit(self, address: IPv4Address | IPv6Address, requested: AssociationRequest) -> int:
        """Return how many associations may be open before a new one: fewer for who has not proved who it is."""
        maximum = self._dicom.maximum_associations
        proving = [peer for peer in self._peers.values() if peer.networks or peer.certificate]
        is_proved = any(
            peer.ae_title == requested.calling_ae_title and _is(peer, address, requested) for peer in proving
        )
        return maximum if is_proved or not proving else maximum - maximum // KNOWN_SHARE

    def _evict(self, connection: Connection, refused: Refused) -> None:
        self._metrics.rejections.labels(rule=refused.rule).inc()
        logger.warning("connection_evicted", address=connection.address, reason=refused.reason)
        self.on_refusal(refused)
        connection.thread.hang_up()


def _oldest_of_the_most(connections: Sequence[Connection]) -> Connection:
    """Return the oldest connection of the block of addresses that has most of them."""
    block, _ = Counter(block_of(connection.address) for connection in connections).most_common(1)[0]
    return next(connection for connection in connections if block_of(connection.address) == block)


def _is(peer: Peer, address: IPv4Address | IPv6Address, requested: AssociationRequest) -> bool:
    """Return whether network and certificate of a requestor are those of a peer."""
    if peer.networks and not _in_networks(address, peer):
        return False
    shown = requested.certificate
    return peer.certificate is None or (shown is not None and shown.is_named(peer.certificate))


def _in_networks(address: IPv4Address | IPv6Address, peer: Peer) -> bool:
    return any(address in network for network in peer.networks)
