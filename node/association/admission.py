"""Accept or reject associations by peer, address and count, and name the rule that decided (PS3.8 9.3.4)."""

import re
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial, reduce
from ipaddress import IPv4Address, IPv6Address
from itertools import count
from operator import and_
from typing import Literal, Protocol, cast, get_args

from node.association.request import ReceivedRequest
from node.association.tls import PeerCertificate
from node.dicom.uids import APPLICATION_CONTEXT
from node.errors import counted
from node.index.rows.records import Refused
from node.index.rows.scope import Scope
from node.runtime.budget import Budget, Claim, Holder, Limits, Stage, Standing
from node.runtime.metrics import Metrics
from node.runtime.network import plain_address
from node.settings.peers import FINGERPRINT, Dicom, Peer, Verb

_PLAIN_TITLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]*")
"""An AE title that a person may copy into a shell within quotes; whoever calls chooses it."""


def add_peer(calling_ae_title: str, address: str, names: Collection[str], shown: PeerCertificate | None = None) -> str:
    """Return the remedy for a sender that is no peer: a command, under a name that is not in `names`.

    The peer must show the certificate that the sender has shown; else whoever has its address could call as this peer
    without TLS. A title with other characters than most have is left out of it: nothing of a stranger does more than
    name the peer.
    """
    name, title, network = "NAME", "AET", "ADDRESS"
    if _PLAIN_TITLE.fullmatch(calling_ae_title):
        stem = calling_ae_title.translate(str.maketrans(" .", "--"))
        free = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
        name = next(name for name in free if name not in names)
        title, network = calling_ae_title, str(plain_address(address))
    key = shlex.quote(f"ae_title={title}")
    network += f" certificate={FINGERPRINT}{shown.sha256}" if shown is not None else ""
    return f"add the sender to [peers]: `voxelnode peers set {name} {key} networks={network} may=echo,store,commit`"


@dataclass(frozen=True, slots=True)
class Rejection:
    """An A-ASSOCIATE-RJ (PS3.8 table 9-21), the rule behind it, and the remedy."""

    result: int
    source: int
    diagnostic: int
    rule: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Rights:
    """What an application entity may do: what each of its names in [peers] permits.

    Without configured peers a client on this machine may use every service, and other clients may store and verify
    only: an unknown client must not read patient data.
    """

    names: tuple[str, ...]
    permitted: frozenset[Verb]
    """The services that it may use (`Peer.may`)."""
    takes: frozenset[str] | None
    """The SOP classes that the node takes from it; None: all."""
    scope: Scope | None
    """What it sees of the index; None: all."""
    releases: bool
    """Whether the end of an association says anything."""


_REASONS = {
    (1, 1): "no reason given",
    (1, 2): "application context name not supported",
    (1, 3): "calling AE title not recognised",
    (1, 7): "called AE title not recognised",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}
"""Meaning of (source, diagnostic), PS3.8 table 9-21."""


EVERY_VERB: frozenset[Verb] = frozenset(get_args(Verb))
STRANGER_VERBS: frozenset[Verb] = frozenset({"echo", "store"})

MAX_PENDING_CONNECTIONS = 128
"""Connections that have not asked for an association, or whose association is over."""

KNOWN_SHARE = 4
"""One association in this many is reserved for peers with a network or certificate, if there are any."""

PER_ADDRESS, PER_PEER = 16, 32
"""Associations of one address, and of one AE title of a peer that proves who it is. Of more than 64 associations, an
address may have a quarter, and a peer half."""

MAX_REPORTED_SYNTAXES = 10
"""Abstract syntaxes listed for a rejected association."""


def refusal_of(rejection: Rejection, address: str, requested: ReceivedRequest) -> Refused:
    """Describe a rejected association for the list of refusals."""
    abstract_syntaxes = sorted({context.abstract_syntax for context in requested.contexts})
    contexts = counted(len(requested.contexts), "presentation context")
    offered = [contexts, *abstract_syntaxes[:MAX_REPORTED_SYNTAXES]]
    if len(abstract_syntaxes) > MAX_REPORTED_SYNTAXES:
        offered.append(f"and {len(abstract_syntaxes) - MAX_REPORTED_SYNTAXES} more")
    permanence = "rejected permanently" if rejection.result == 1 else "rejected temporarily"
    return Refused(
        "association",
        rejection.rule,
        f"{permanence}: {_REASONS[rejection.source, rejection.diagnostic]}",
        rejection.remedy,
        peer=address,
        calling_ae_title=requested.calling_ae_title,
        called_ae_title=requested.called_ae_title,
        offered=", ".join(offered),
    )


class Associated(Holder, Protocol):
    """The part of a connection's thread that admission uses."""

    def drain(self, finish_seconds: float) -> None:
        """End at the next boundary between messages; a peer that sends more of them has `finish_seconds` before."""


_RULES = {
    "places": ("associations", "try again later, or raise [dicom] maximum_associations"),
    "address": ("associations of one address", "set `associations` of the peer, or raise [dicom] maximum_associations"),
    "caller": ("associations of one peer", "raise `associations` of the peer, or [dicom] maximum_associations"),
}
"""The rejection for each share that may be used up, and its remedy."""

_EVICTED = {
    Stage.PENDING: (
        "pending connections",
        f"{MAX_PENDING_CONNECTIONS} connections without an association",
        "find the client that connects and stays silent",
    ),
    Stage.PLACED: (
        "idle association",
        "it did nothing, and the places were needed",
        "find the client that associates and does nothing, or raise [dicom] maximum_associations",
    ),
}


class Admission:
    """Decides on the connections and associations of one listener; safe to use from many threads.

    `node.runtime.budget` has the rules on numbers. A quarter of the associations is reserved for peers that prove who
    they are, by their network or certificate. `budget` has the connections: who closes one says so there.
    """

    def __init__(
        self,
        dicom: Dicom,
        peers: Callable[[], Mapping[str, Peer]],
        metrics: Metrics,
        intake_refusal: Callable[[], str | None] = lambda: None,
        on_refusal: Callable[[Refused], None] = lambda refused: None,
    ) -> None:
        self.on_refusal = on_refusal
        self._dicom, self._peers = dicom, peers
        self._intake_refusal = intake_refusal
        maximum = dicom.maximum_associations
        limits = Limits(
            maximum,
            max(PER_ADDRESS, maximum // 4),
            max(PER_PEER, maximum // 2),
            MAX_PENDING_CONNECTIONS,
            reserved=maximum // KNOWN_SHARE if self._proving() else 0,
        )
        self.budget = Budget("dicom", limits, metrics, self._report_eviction)
        metrics.connections.set_function(self.budget.count)
        metrics.open_associations.set_function(partial(self.budget.count, Stage.PLACED))

    def connected(self, thread: Associated, address: str) -> Claim:
        """Register a connection."""
        plain = plain_address(address)
        is_known = any(_in_networks(plain, peer) for peer in self._proving())
        connection = Claim(thread, address, Standing.PROVEN if is_known else Standing.STRANGER)
        self.budget.connect(connection)
        return connection

    def judge(self, connection: Claim, requested: ReceivedRequest) -> Rejection | None:
        """Return the rejection of an association; or count it as open and return None."""
        rejection = self._malformed(requested) or self._unknown_peer(connection.address, requested) or self._no_intake()
        if rejection is None:
            peers = _matching(self._peers(), connection.address, requested).values()
            proving = [peer for peer in peers if peer.networks or peer.certificate]
            connection.caller = requested.calling_ae_title if proving else ""
            connection.share = min((peer.associations for peer in proving if peer.associations), default=0)
            connection.standing = Standing.PROVEN if connection.caller else Standing.STRANGER
            rule = self.budget.enter(connection)
            rejection = Rejection(2, 3, 2, *_RULES[rule]) if rule is not None else None
        if rejection is not None:
            self.on_refusal(refusal_of(rejection, connection.address, requested))
        return rejection

    def rights(self, address: str, requested: ReceivedRequest) -> Rights:
        """Return what an application entity may do."""
        known = self._peers()
        named = _matching(known, address, requested)
        peers = named.values()
        of_stranger = EVERY_VERB if plain_address(address).is_loopback else STRANGER_VERBS
        permitted = [frozenset(peer.may) for peer in peers]
        taken = [peer.taken_classes for peer in peers if peer.taken_classes is not None]
        limits = [frozenset(peer.projects) for peer in peers if peer.projects is not None]
        return Rights(
            tuple(named),
            reduce(and_, permitted, EVERY_VERB if permitted else frozenset()) if known else of_stranger,
            reduce(and_, taken) if taken else None,
            Scope(projects=tuple(sorted(reduce(and_, limits)))) if limits else None,
            all(peer.releases for peer in peers),
        )

    def _proving(self) -> list[Peer]:
        return [peer for peer in self._peers().values() if peer.networks or peer.certificate]

    def drain(self, finish_seconds: float) -> None:
        """Ask every connection to end at its next boundary between messages.

        `finish_seconds`: time before that for associations whose peers send further messages.
        """
        for connection in self.budget.all():
            cast(Associated, connection.holder).drain(finish_seconds)

    def _malformed(self, requested: ReceivedRequest) -> Rejection | None:
        if not requested.is_of_known_version:
            return Rejection(1, 2, 2, "protocol version", "use protocol version 1 (PS3.8 9.3.2)")
        if requested.application_context != APPLICATION_CONTEXT:
            return Rejection(1, 1, 2, "application context", f"use the application context {APPLICATION_CONTEXT}")
        if not 1 <= len(requested.contexts) <= 128:
            remedy = "propose 1 to 128 presentation contexts (PS3.8 9.3.2.2)"
            return Rejection(1, 1, 1, "presentation contexts", remedy)
        return None

    def _unknown_peer(self, address: str, requested: ReceivedRequest) -> Rejection | None:
        dicom = self._dicom
        if dicom.require_called_ae_title and requested.called_ae_title not in dicom.titles:
            return Rejection(
                1,
                1,
                7,
                "called AE title",
                f"this node is {' or '.join(dicom.titles)}: correct the sender, or add to [dicom] called_ae_titles",
            )
        peers = self._peers()
        same_title = _with_title(peers, requested.calling_ae_title)
        added = add_peer(requested.calling_ae_title, address, peers, requested.certificate)
        if peers and not same_title:
            return Rejection(1, 1, 3, "calling AE title", added)
        plain = plain_address(address)
        of_address = {
            name: peer for name, peer in same_title.items() if peer.networks is None or _in_networks(plain, peer)
        }
        if same_title and not of_address:
            name, peer = next(iter(same_title.items()))
            is_proof = requested.certificate is not None and peer.certificate is None
            remedy = added if is_proof else f"add its address to networks of [peers.{name}] if it is that peer"
            return Rejection(1, 1, 3, "peer address", remedy)
        if of_address and not any(_is(peer, plain, requested) for peer in of_address.values()):
            remedy = self._certificate_remedy(next(iter(of_address)), requested.certificate)
            return Rejection(1, 1, 3, "peer certificate", remedy)
        return None

    def _certificate_remedy(self, name: str, shown: PeerCertificate | None) -> str:
        """Return what helps a peer that has a certificate in [peers] and has shown another one, or none."""
        if shown is not None:
            return f"set `certificate` of [peers.{name}] if it may show {shown}"
        if self._dicom.tls_port is not None:
            return f"the sender must call the TLS port {self._dicom.tls_port}, for [peers.{name}] has a certificate"
        return f"the sender must show the certificate of [peers.{name}], {self._peers()[name].certificate}"

    @property
    def tls_remedy(self) -> str:
        """What a sender needs whose TLS failed, by the files of the certificates."""
        signed = f", and show a certificate signed by {self._dicom.tls_client_ca}" * bool(self._dicom.tls_client_ca)
        return f"the sender must use TLS 1.2 or later, trust the certificate {self._dicom.tls_certificate}{signed}"

    def _no_intake(self) -> Rejection | None:
        reason = self._intake_refusal()
        return Rejection(2, 3, 1, "intake", reason) if reason is not None else None

    def _report_eviction(self, connection: Claim, stage: Stage) -> None:
        what: Literal["association", "connection"] = "association" if stage is Stage.PLACED else "connection"
        self.on_refusal(Refused(what, *_EVICTED[stage], peer=connection.address))


def _with_title(peers: Mapping[str, Peer], ae_title: str) -> dict[str, Peer]:
    return {name: peer for name, peer in peers.items() if peer.ae_title == ae_title}


def _matching(peers: Mapping[str, Peer], address: str, requested: ReceivedRequest) -> dict[str, Peer]:
    """Return the peers that an application entity is, by their names."""
    plain = plain_address(address)
    same_title = _with_title(peers, requested.calling_ae_title)
    return {name: peer for name, peer in same_title.items() if _is(peer, plain, requested)}


def _is(peer: Peer, address: IPv4Address | IPv6Address, requested: ReceivedRequest) -> bool:
    """Return whether network and certificate of a requestor are those of a peer."""
    if peer.networks is not None and not _in_networks(address, peer):
        return False
    shown = requested.certificate
    return peer.certificate is None or (shown is not None and shown.is_named(peer.certificate))


def _in_networks(address: IPv4Address | IPv6Address, peer: Peer) -> bool:
    return any(address in network for network in peer.networks or ())
