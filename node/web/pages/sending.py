"""How people send to the node over DICOM, as [peers] and TLS let them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from fastapi import Request

from node.settings.peers import Peer
from node.web.services import Services


@dataclass(frozen=True, slots=True)
class Sending:
    """A command of DCMTK that sends a folder; empty if no peer may store.

    `sender`: the peer as which it sends; None: [peers] are empty, and any sender may store.
    """

    port: int
    by_tls: bool
    sender: Peer | None
    command: str


def dicom_port(node: Services) -> int | None:
    """Return the port to which people send over DICOM; None: nothing comes in that way."""
    if not node.settings.dicom.enabled:
        return None
    return node.dicom_port() if node.dicom_port else node.settings.dicom.port


def sending(request: Request, node: Services) -> Sending | None:
    """Return how to send to the node; None: nothing comes in over DICOM.

    A sender without a certificate is preferred, as is a port without TLS: `dcmsend` of DCMTK has none.
    """
    dicom, peers, port = node.settings.dicom, node.settings.peers, dicom_port(node)
    if port is None:
        return None
    storing = [peer for peer in peers.values() if "store" in peer.may]
    sender = min(storing, key=lambda peer: peer.certificate is not None, default=None)
    by_tls = dicom.tls_certificate is not None and (dicom.tls_port is None or bool(sender and sender.certificate))
    port = dicom.tls_port if by_tls and dicom.tls_port is not None else port
    if peers and sender is None:
        return Sending(port, by_tls, None, "")
    words = ["dcmsend"]
    if by_tls:
        words = ["storescu", *(("+tls", "KEY", "CERTIFICATE") if dicom.tls_client_ca else ("+tla",)), "+cf", "CA"]
    words += ["-aet", sender.ae_title] if sender is not None else []
    words += ["-aec", dicom.ae_title, "+sd", "+r", "--no-halt", _dicom_host(request, node), str(port), "FOLDER"]
    return Sending(port, by_tls, sender, shlex.join(words))


def _dicom_host(request: Request, node: Services) -> str:
    """Return the host to which a sender connects: a listener on all addresses is where the browser found the pages."""
    host = node.settings.bind_host
    return request.url.hostname or host if host in ("0.0.0.0", "::") else host
