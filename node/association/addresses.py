"""Where other application entities listen: the peers of the configuration, or as a person names them."""

from __future__ import annotations

from node.association.client.association import Address
from node.association.tls import peer_tls_context
from node.errors import UsageError
from node.settings.model import Settings


def peer_addresses(settings: Settings) -> dict[str, Address]:
    """Where the peers listen that have a host, by AE title.

    Raises
    ------
    UsageError
        The TLS files of one cannot be used.
    """
    return {
        peer.ae_title: Address(peer.ae_title, peer.host, peer.port, peer_tls_context(peer, settings.dicom))
        for peer in settings.peers.values()
        if peer.host is not None
    }


def address_of(named: str, settings: Settings) -> Address:
    """Where a peer listens that is named in [peers], or as AET@HOST:PORT.

    Raises
    ------
    UsageError
        It is neither, or the peer has no host, or its TLS files cannot be used.
    """
    peer = settings.peers.get(named)
    if peer is None:
        return _parsed(named)
    if peer.host is None:
        raise UsageError(f"[peers.{named}] has no host: set it to where the peer listens")
    return Address(peer.ae_title, peer.host, peer.port, peer_tls_context(peer, settings.dicom))


def _parsed(named: str) -> Address:
    called, at, place = named.rpartition("@")
    host, colon, port = place.rpartition(":")
    if not (at and called and colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise UsageError(f"{named!r} is no name in [peers], and not AET@HOST:PORT, such as PACS@10.1.2.3:104")
    return Address(called, host.strip("[]"), int(port))
