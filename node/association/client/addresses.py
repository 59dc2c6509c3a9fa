"""The addresses of peers, from the configuration or from the command line."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from node.association.tls import peer_tls_context
from node.errors import UsageError, meant
from node.runtime.network import Reach
from node.settings.model import Settings
from node.settings.peers import Peer
from node.settings.tables import reach_of


@dataclass(frozen=True, slots=True)
class Address:
    """The address of another application entity; `tls` is None for plain TCP, `reach` if it may be anywhere."""

    ae_title: str
    host: str
    port: int
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    reach: Reach | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.ae_title} at {self.host} port {self.port}"


class PeerAddresses(Mapping[str, Address]):
    """The addresses of all peers that have a host, by AE title: of those of now, also if they changed since the start.

    Raises UsageError if the TLS files of a peer cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known = settings.peers, _addresses(settings)

    def __getitem__(self, ae_title: str) -> Address:
        return self._of_now()[ae_title]

    def __iter__(self) -> Iterator[str]:
        return iter(self._of_now())

    def __len__(self) -> int:
        return len(self._of_now())

    def _of_now(self) -> Mapping[str, Address]:
        peers, addresses = self._known
        if self._settings.peers is not peers:  # a change replaces the mapping
            peers = self._settings.peers
            addresses = _addresses(self._settings)
            self._known = peers, addresses
        return addresses


def _addresses(settings: Settings) -> dict[str, Address]:
    """Return the addresses of all peers that have a host, by AE title.

    Raises UsageError: the TLS files of a peer cannot be used.
    """
    return {
        peer.ae_title: _configured(name, peer, peer.host, settings)
        for name, peer in settings.peers.items()
        if peer.host is not None
    }


def address_of(name: str, settings: Settings) -> Address:
    """Return the address of a peer, given as a name in [peers] or as AET@HOST:PORT.

    Raises UsageError: the name is neither, the peer has no host, or its TLS files cannot be used.
    """
    peer = settings.peers.get(name)
    if peer is None:
        return _parsed(name, settings.peers)
    if peer.host is None:
        raise UsageError(f"[peers.{name}] has no host: set host to the address of the peer")
    return _configured(name, peer, peer.host, settings)


def _configured(name: str, peer: Peer, host: str, settings: Settings) -> Address:
    tls = peer_tls_context(peer, settings.dicom)
    return Address(peer.ae_title, host, peer.port, tls, reach_of(settings, f"peers.{name}"))


def _parsed(name: str, peers: Iterable[str]) -> Address:
    called, at, endpoint = name.rpartition("@")
    host, colon, port = endpoint.rpartition(":")
    if not (at and called and colon and host and port.isdecimal() and 0 < int(port) < 65536):
        expected = "neither a name in [peers] nor AET@HOST:PORT, such as PACS@10.1.2.3:104"
        raise UsageError(f"{name!r} is {expected}{meant(name, peers)}")
    return Address(called, host.strip("[]"), int(port))
