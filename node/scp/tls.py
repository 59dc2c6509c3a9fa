"""The TLS side of the listener (PS3.15 B.12, BCP 195)."""

from __future__ import annotations

import ssl

from node.config import Dicom
from node.errors import UsageError

_BCP_195_SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""RFC 9325 4.2 for TLS 1.2: forward secrecy and authenticated encryption only; those of TLS 1.3 are all fit."""


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
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_BCP_195_SUITES)
    try:
        context.load_cert_chain(dicom.tls_certificate, dicom.tls_key)
    except OSError as error:
        raise UsageError(f"[dicom] tls_certificate or tls_key cannot be loaded: {error}") from error
    if dicom.tls_client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(dicom.tls_client_ca)
        except OSError as error:
            raise UsageError(f"[dicom] tls_client_ca cannot be loaded: {error}") from error
    return context
