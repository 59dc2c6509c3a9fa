"""TLS contexts for the listeners of the node (DICOM, PS3.15 B.12, and HTTPS) and for outgoing connections."""

from __future__ import annotations

import ssl
from pathlib import Path

from node.errors import UsageError

BCP_195_SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""RFC 9325 4.2 for TLS 1.2: forward secrecy and authenticated encryption only. All suites of TLS 1.3 qualify."""


def server_context(
    section: str, certificate: Path, key: Path | None, client_ca: Path | None = None, *, prefix: str = ""
) -> ssl.SSLContext:
    """Return a context of TLS 1.2 or newer that presents a certificate.

    `section`, `prefix`: section of the configuration, and what its keys begin with, for messages.
    `client_ca`: PEM file of the authorities of which one must have signed the certificate of a client; None: it needs
        none.

    Raises UsageError: a file is missing, unreadable or not in PEM format; the message names the key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(BCP_195_SUITES)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        files = f"{prefix}tls_certificate {certificate}" + (f" or {prefix}tls_key {key}" if key is not None else "")
        raise UsageError(f"[{section}] {files} cannot be loaded: {error}") from error
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(client_ca)
        except OSError as error:
            raise UsageError(f"[{section}] {prefix}tls_client_ca {client_ca} cannot be loaded: {error}") from error
    return context


def client_context(ca_file: Path | None = None, system_authorities: bool = True) -> ssl.SSLContext:
    """Return a context of TLS 1.2 or newer for connections to others: peers, webhooks, identity providers.

    The other side must present a valid certificate for the name or address that the node calls, with a chain that ends
    at a trusted certificate. Nothing else is required, with any version of Python. Since 3.13, the standard library by
    default also requires extensions that certificates of older devices and of hospital authorities lack
    (``VERIFY_X509_STRICT``), and lets a chain end at any trusted certificate, self-signed or not
    (``VERIFY_X509_PARTIAL_CHAIN``).

    `ca_file`: PEM file of certificates to trust.
    `system_authorities`: whether the authorities of the system are trusted in addition to those of `ca_file`; always
        true without it.

    Raises OSError: `ca_file` is missing, unreadable or contains no certificate.
    """
    context = ssl.create_default_context(cafile=None if system_authorities else ca_file)
    if system_authorities and ca_file is not None:
        context.load_verify_locations(ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def failure_reason(error: OSError) -> str:
    """Return why a TLS handshake failed, such as ``certificate has expired``."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        if error.reason in ("HTTP_REQUEST", "WRONG_VERSION_NUMBER"):
            return "the peer does not use TLS"
        return (error.reason or type(error).__name__).replace("_", " ").lower()
    return error.strerror or str(error)
