"""The TLS side of associations (PS3.15 B.12, BCP 195): those that we accept, and those that we ask for."""

from __future__ import annotations

import ssl

from node.errors import UsageError
from node.settings.model import Dicom, Peer
from node.tls import BCP_195_SUITES, server_context


def tls_context(dicom: Dicom) -> ssl.SSLContext | None:
    """Return the context that the configuration asks for, or None without TLS.

    Raises
    ------
    UsageError
        A file is missing, unreadable or holds no such thing; the message names the key.
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
    """Return the context for associations that we ask a peer for, or None without TLS.

    Its certificate must be of its host and signed by `Peer.tls_ca`, or an authority of the system; ours is shown.

    Raises
    ------
    UsageError
        A file is missing, unreadable or holds no such thing; the message names the key.
    """
    if not peer.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=peer.tls_ca)
    except OSError as error:
        raise UsageError(f"tls_ca of the peer {peer.ae_title} cannot be loaded: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(BCP_195_SUITES)
    if dicom.tls_certificate is not None:
        try:
            context.load_cert_chain(dicom.tls_certificate, dicom.tls_key)
        except OSError as error:
            raise UsageError(f"[dicom] tls_certificate or tls_key cannot be loaded: {error}") from error
    return context
