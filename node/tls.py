"""The TLS side of what listens: DICOM (PS3.15 B.12) and HTTPS alike, by BCP 195."""

from __future__ import annotations

import ssl
from pathlib import Path

from node.errors import UsageError

BCP_195_SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""RFC 9325 4.2 for TLS 1.2: forward secrecy and authenticated encryption only; those of TLS 1.3 are all fit."""


def server_context(section: str, certificate: Path, key: Path | None) -> ssl.SSLContext:
    """Return a context of TLS 1.2 or newer that shows a certificate.

    Parameters
    ----------
    section : str
        Of the configuration, for messages.

    Raises
    ------
    UsageError
        A file is missing, unreadable or holds no such thing; the message names the key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(BCP_195_SUITES)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        raise UsageError(f"[{section}] tls_certificate or tls_key cannot be loaded: {error}") from error
    return context
