"""TLS: the handshake keeps nobody else waiting, and only fit peers get through it (PS3.15 B.12)."""

from __future__ import annotations

import datetime as dt
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pynetdicom import AE, build_context

from node.errors import UsageError
from tests.make import ct_series
from tests.protocol.conftest import CT_IMAGE_STORAGE, Raw, Running, associate_rq, data_set_bytes, until


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, a server's, a client's and a stranger's certificate, made by openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("keys")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    for name in ("ca", "stranger"):
        run("req", "-x509", *new, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    for name in ("server", "client"):
        (folder / f"{name}.ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        run("req", *new[:-2], "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext"]
        run("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
    return folder


@pytest.fixture
def tls_node(start_node: Callable[..., Running], fast_path: bool, keys: Path) -> Running:
    return start_node(
        fast_path=fast_path,
        request_seconds=1.5,
        tls_certificate=keys / "server.pem",
        tls_key=keys / "server.key",
        tls_client_ca=keys / "ca.pem",
    )


def client_context(keys: Path, who: str | None = "client") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(keys / "ca.pem"))
    if who is not None:
        context.load_cert_chain(keys / f"{who}.pem", keys / f"{who}.key")
    return context


def store(node: Running, keys: Path) -> bool:
    """Whether a good peer stores an instance within the deadlines."""
    ae = AE("GOOD")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 5
    ae.requested_contexts = [build_context(CT_IMAGE_STORAGE, "1.2.840.10008.1.2.1")]
    assoc = ae.associate(node.host, node.port, tls_args=(client_context(keys), "localhost"))
    if not assoc.is_established:
        return False
    series = ct_series(3)
    done = all(assoc.send_c_store(ds).Status == 0 for ds in series)
    assoc.release()
    stored = node.stored_data_sets()
    return done and all(stored[ds.SOPInstanceUID] == data_set_bytes(ds) for ds in series)


def test_instances_arrive_through_tls(tls_node: Running, keys: Path) -> None:
    assert store(tls_node, keys)
    assert tls_node.settled()


def test_silent_clients_do_not_hold_up_the_handshake_of_others(tls_node: Running, keys: Path) -> None:
    silent = [Raw(tls_node) for _ in range(5)]
    began = dt.datetime.now(dt.UTC)
    assert store(tls_node, keys)
    assert (dt.datetime.now(dt.UTC) - began).total_seconds() < 2
    for peer in silent:
        assert peer.closed()
        peer.socket.close()
    assert tls_node.settled()


def test_plain_text_is_hung_up_on(tls_node: Running, keys: Path) -> None:
    with Raw(tls_node) as peer:
        peer.send(associate_rq())
        assert until(lambda: tls_node.count("connections") == 0)
    assert store(tls_node, keys)


@pytest.mark.parametrize("who", [None, "stranger"])
def test_a_client_without_a_certificate_of_ours_is_refused(tls_node: Running, keys: Path, who: str | None) -> None:
    assert not is_answered(tls_node, client_context(keys, who))
    assert is_answered(tls_node, client_context(keys))
    assert tls_node.settled()


def is_answered(node: Running, context: ssl.SSLContext) -> bool:
    """Whether an A-ASSOCIATE-RQ gets an answer; with TLS 1.3 a refusal shows in the first read only."""
    try:
        with (
            socket.create_connection((node.host, node.port), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            secure.sendall(associate_rq())
            return secure.recv(1) == b"\x02"
    except (ssl.SSLError, ConnectionError):
        return False


def test_an_idle_association_is_ended_within_tls_too(
    start_node: Callable[..., Running], fast_path: bool, keys: Path
) -> None:
    files = {"tls_certificate": keys / "server.pem", "tls_key": keys / "server.key"}
    node = start_node(fast_path=fast_path, idle_seconds=0.5, **files)
    with (
        socket.create_connection((node.host, node.port), timeout=5) as plain,
        client_context(keys, None).wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(associate_rq())
        assert secure.recv(1) == b"\x02"
        assert until(lambda: node.count("open_associations") == 0)
    assert node.settled()
    assert node.count("associations_total{outcome=idle}") == 1


def test_versions_before_1_2_are_refused(tls_node: Running, keys: Path) -> None:
    assert tls_node.listener.tls is not None
    assert tls_node.listener.tls.minimum_version == ssl.TLSVersion.TLSv1_2
    offered = {suite["name"] for suite in tls_node.listener.tls.get_ciphers()}
    assert offered
    assert all("GCM" in name or "CHACHA20" in name for name in offered)


def test_a_missing_certificate_stops_the_start_with_its_key(start_node: Callable[..., Running], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tls_certificate"):
        start_node(tls_certificate=tmp_path / "none.pem")
    with pytest.raises(UsageError, match="need tls_certificate"):
        start_node(tls_key=tmp_path / "none.pem")
