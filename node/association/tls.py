"""TLS contexts of associations (PS3.15 B.12, BCP 195): of those that the node accepts and those that it requests."""

import hashlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from node.errors import UsageError
from node.runtime.tls import BCP_195_SUITES, client_context, server_context
from node.settings.peers import FINGERPRINT, Dicom, Peer


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """The certificate that a peer has shown, signed by an authority of `[dicom] tls_client_ca`.

    `sha256`: its fingerprint, in lower-case hexadecimal digits; `names`: the common names of its subject, and its
    subject alternative names (RFC 5280 4.2.1.6).
    """

    sha256: str
    names: tuple[str, ...]

    def is_named(self, wanted: str) -> bool:
        """Return whether it is the certificate that `Peer.certificate` names."""
        if wanted.startswith(FINGERPRINT):
            return wanted.removeprefix(FINGERPRINT).replace(":", "").lower() == self.sha256
        return wanted in self.names

    def __str__(self) -> str:
        return f"{FINGERPRINT}{self.sha256} ({', '.join(self.names)[:200]})"


def certificate_of(secure: ssl.SSLSocket) -> PeerCertificate | None:
    """Return the verified certificate of a peer after the handshake; None if it was not asked for one."""
    encoded, fields = secure.getpeercert(binary_form=True), secure.getpeercert()
    if not encoded or not fields:
        return None
    subject: Any = fields.get("subject", ())
    alternative: Any = fields.get("subjectAltName", ())
    names = [value for part in subject for name, value in part if name == "commonName"]
    names += [value for _, value in alternative if isinstance(value, str)]
    return PeerCertificate(hashlib.sha256(encoded).hexdigest(), tuple(dict.fromkeys(names)))


def tls_context(dicom: Dicom, peers: Mapping[str, Peer]) -> ssl.SSLContext | None:
    """Return the context that the configuration asks for, or None without TLS.

    Raises UsageError: a file is missing, unreadable or not in PEM format, or the certificates of peers are not asked
        for; the message names the key.
    """
    for name, peer in peers.items():
        if peer.certificate is not None and (dicom.tls_certificate is None or dicom.tls_client_ca is None):
            raise UsageError(f"[peers.{name}] certificate needs [dicom] tls_certificate and tls_client_ca")
    if dicom.tls_certificate is None:
        if dicom.tls_key or dicom.tls_client_ca:
            raise UsageError("[dicom] tls_key and tls_client_ca need tls_certificate; set it or remove them")
        return None
    return server_context("dicom", dicom.tls_certificate, dicom.tls_key, dicom.tls_client_ca)


def peer_tls_context(peer: Peer, dicom: Dicom) -> ssl.SSLContext | None:
    """Return the context for associations with a peer that the node requests, or None without TLS.

    The peer's certificate must be for its host and signed by `Peer.tls_ca`, or by an authority of the system. The node
    presents its own.

    Raises UsageError: a file is missing, unreadable or not in PEM format; the message names the key.
    """
    if not peer.tls:
        return None
    try:
        context = client_context(peer.tls_ca, system_authorities=peer.tls_ca is None)
    except OSError as error:
        raise UsageError(f"tls_ca {peer.tls_ca} of the peer {peer.ae_title} cannot be loaded: {error}") from error
    context.set_ciphers(BCP_195_SUITES)
    if dicom.tls_certificate is not None:
        try:
            context.load_cert_chain(dicom.tls_certificate, dicom.tls_key)
        except OSError as error:
            raise UsageError(f"[dicom] tls_certificate or tls_key cannot be loaded: {error}") from error
    return context
