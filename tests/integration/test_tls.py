"""TLS contexts for connections to others: the same rule on every version of Python."""

import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from node.runtime.tls import client_context, failure_reason, server_context


def connect(keys: Path, server: str, context: ssl.SSLContext, name: str = "localhost") -> None:
    """Shake hands with a server that presents a certificate."""
    ours, theirs = socket.socketpair()
    with ThreadPoolExecutor(1) as thread, ours, theirs:
        serving = thread.submit(_serve, theirs, server_context("web", keys / f"{server}.pem", keys / f"{server}.key"))
        try:
            context.wrap_socket(ours, server_hostname=name).close()
        finally:
            serving.result(60)


def _serve(connection: socket.socket, context: ssl.SSLContext) -> None:
    with suppress(OSError):
        context.wrap_socket(connection, server_side=True).close()


@pytest.mark.parametrize(
    ("server", "trusted"),
    [
        ("server", "ca"),
        ("old_server", "old_ca"),  # no Key Usage, no key identifiers
        ("stranger", "stranger"),  # self-signed
        ("server", "server"),  # not its authority, but the certificate itself
    ],
)
@pytest.mark.parametrize("system_authorities", [True, False])
def test_certificates_are_accepted_by_chain_name_and_validity_only(
    keys: Path, server: str, trusted: str, system_authorities: bool
) -> None:
    connect(keys, server, client_context(keys / f"{trusted}.pem", system_authorities))


@pytest.mark.parametrize(
    ("server", "trusted", "name", "reason"),
    [
        ("expired", "ca", "localhost", "certificate has expired"),
        ("server", "ca", "elsewhere", "Hostname mismatch, certificate is not valid for 'elsewhere'."),
        ("old_server", "ca", "localhost", "unable to get local issuer certificate"),
        ("stranger", "ca", "localhost", "self-signed certificate"),
    ],
)
def test_other_certificates_are_refused_with_why(keys: Path, server: str, trusted: str, name: str, reason: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError) as refused:
        connect(keys, server, client_context(keys / f"{trusted}.pem"), name)
    assert failure_reason(refused.value) == reason


@pytest.mark.parametrize("sent", [b"\x01\0\0\0\0\x44" + bytes(68), b"GET / HTTP/1.1\r\n\r\n"])
def test_a_peer_that_does_not_use_tls_is_named_so(keys: Path, sent: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        with pytest.raises(ssl.SSLError) as refused:
            server_context("dicom", keys / "server.pem", keys / "server.key").wrap_socket(ours, server_side=True)
    assert failure_reason(refused.value) == "the peer does not use TLS"


def test_authorities_of_the_system_are_not_trusted_if_they_are_not_wanted(keys: Path) -> None:
    assert len(client_context(keys / "ca.pem", system_authorities=False).get_ca_certs()) == 1
    with pytest.raises(OSError, match="No such file"):
        client_context(keys / "none.pem")
