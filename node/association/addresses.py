"""Network addresses of peers, from the configuration or from the command line."""

from __future__ import annotations

from node.association.client.association import Address
from node.association.tls import peer_tls_context
from node.errors import UsageError
from node.settings.model import Settings


def peer_addresses(settings: Settings) -> dict[str, Address]:
    """Return the addresses of all peers that have a host, by AE title.

    Raises
    ------
    UsageError
        The TLS files of a peer cannot be used.
    """
    return {
        peer.ae_title: Address(peer.ae_title, peer.host, peer.port, peer_tls_context(peer, settings.dicom))
        for peer in settings.peers.values()
        if peer.host is not None
    }


def address_of(name: str, settings: Settings) -> Address:
    """Return the address of a peer, given as a name in [peers] or as AET@HOST:PORT.

    Raises
    ------
    UsageError
        The name is neither, the peer has no host, or its TLS files cannot be used.
    """
    peer = settings.peers.get(name)
    if peer is None:
        return _parsed(name)
    if peer.host is None:
        raise UsageError(f"[peers.{name}] has no host: set host to the address of the peer")
    return Address(peer.ae_title, peer.host, peer.port, peer_tls_context(peer, settings.dicom))


def _parsed(name: str) -> Address:
    called, at, endpoint = name.rpartition("@")
    host, colon, port = endpoint.rpartition(":")
    if not (at and called and colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise UsageError(f"{name!r} is neither a name in [peers] nor AET@HOST:PORT, such as PACS@10.1.2.3:104")
    return Address(called, host.strip("[]"), int(port))
