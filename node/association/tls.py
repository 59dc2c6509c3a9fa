"""TLS contexts of associations (PS3.15 B.12, BCP 195): of those that the node accepts and those that it requests."""

from __future__ import annotations

import ssl

from node.errors import UsageError
from node.settings.model import Dicom, Peer
from node.tls import BCP_195_SUITES, client_context, server_context


def tls_context(dicom: Dicom) -> ssl.SSLContext | None:
    """Return the context that the configuration asks for, or None without TLS.

    Raises
    ------
    UsageError
        A file is missing, unreadable or not in PEM format; the message names the key.
    """
    if dicom.tls_certificate is None:
        if dicom.tls_key or dicom.tls_client_ca:
            raise UsageError("[dicom] tls_key and tls_client_ca need tls_certificate; set it or remove them")
        return None
    context = server_context("dicom", dicom.tls_certificate, dicom.tls_key)
    if dicom.tls_client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(dicom.tls_client_ca)
        except OSError as error:
            raise UsageError(f"[dicom] tls_client_ca cannot be loaded: {error}") from error
    return context


def peer_tls_context(peer: Peer, dicom: Dicom) -> ssl.SSLContext | None:
    """Return the context for associations with a peer that the node requests, or None without TLS.

    The peer's certificate must be for its host and signed by `Peer.tls_ca`, or by an authority of the system. The node
    presents its own.

    Raises
    ------
    UsageError
        A file is missing, unreadable or not in PEM format; the message names the key.
    """
    if not peer.tls:
        return None
    try:
        context = client_context(peer.tls_ca, system_authorities=peer.tls_ca is None)
    except OSError as error:
        raise UsageError(f"tls_ca of the peer {peer.ae_title} cannot be loaded: {error}") from error
    context.set_ciphers(BCP_195_SUITES)
    if dicom.tls_certificate is not None:
        try:
            context.load_cert_chain(dicom.tls_certificate, dicom.tls_key)
        except OSError as error:
            raise UsageError(f"[dicom] tls_certificate or tls_key cannot be loaded: {error}") from error
    return context
