"""TLS: the handshake keeps nobody else waiting, and only fit peers get through it (PS3.15 B.12)."""

import datetime as dt
import hashlib
import json
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
from pydantic import ValidationError
from pynetdicom import AE, build_context

from node.api import Audit, UsageError
from node.dicom.uids import STUDY_ROOT_FIND
from node.settings.peers import Dicom, Peer
from tests.make import ct_series
from tests.protocol.conftest import (
    CT_IMAGE_STORAGE,
    DEADLINE_SECONDS,
    Raw,
    Running,
    StartNode,
    associate_rq,
    client_context,
    data_set_bytes,
    identifier,
    is_answered,
)
from tests.waiting import until


@pytest.fixture
def tls_node(start_node: StartNode, keys: Path) -> Running:
    return start_node(
        request_seconds=1.5,
        tls_certificate=keys / "server.pem",
        tls_key=keys / "server.key",
        tls_client_ca=keys / "ca.pem",
    )


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


@pytest.mark.slow
def test_instances_arrive_through_tls(tls_node: Running, keys: Path) -> None:
    assert store(tls_node, keys)
    assert tls_node.settled()


@pytest.mark.slow
def test_silent_clients_do_not_hold_up_the_handshake_of_others(tls_node: Running, keys: Path) -> None:
    silent = [Raw(tls_node) for _ in range(5)]
    began = dt.datetime.now(dt.UTC)
    assert store(tls_node, keys)
    assert (dt.datetime.now(dt.UTC) - began).total_seconds() < 2
    for peer in silent:
        assert peer.closed()
        peer.socket.close()
    assert tls_node.settled()


@pytest.mark.parametrize("who", [None, "stranger", "expired"])
def test_a_client_without_a_certificate_of_ours_is_refused(tls_node: Running, keys: Path, who: str | None) -> None:
    assert not is_answered(tls_node, client_context(keys, who))
    assert is_answered(tls_node, client_context(keys))
    assert tls_node.settled()


def is_answered_plainly(node: Running) -> bool:
    with Raw(node) as peer:
        peer.send(associate_rq())
        with suppress(ConnectionResetError):
            return peer.socket.recv(1) == b"\x02"
    return False


@pytest.mark.slow
def test_two_ports_take_plain_connections_and_tls_at_the_same_time(start_node: StartNode, keys: Path) -> None:
    node = start_node(
        tls_port=0,
        tls_certificate=keys / "server.pem",
        tls_key=keys / "server.key",
        tls_client_ca=keys / "ca.pem",
        peers={
            "raw": Peer(ae_title="RAW"),
            "good": Peer(ae_title="GOOD"),
            "sure": Peer(ae_title="SURE", certificate="client"),
        },
    )
    plain, tls = node.port, node.listener.tls_port
    assert tls not in (None, 0, plain)
    assert is_answered_plainly(node)
    node.port = tls
    assert store(node, keys)
    assert not is_answered_plainly(node)  # no plain connection there
    with Raw(node) as silent:  # a handshake that never comes keeps nobody waiting
        assert is_answered(node, client_context(keys))
        node.port = plain
        assert is_answered_plainly(node)
        silent.socket.close()
    assert not is_answered(node, client_context(keys))
    with Raw(node) as unproven:  # a plain connection shows no certificate
        unproven.send(associate_rq(calling="SURE"))
        answer = unproven.receive()
        assert (answer[0], *answer[1][1:4]) == (3, 1, 1, 3)
    until(lambda: bool(node.rows("SELECT 1 FROM v_rejections WHERE rule = 'peer certificate'")))
    [row] = node.rows("SELECT remedy FROM v_rejections WHERE rule = 'peer certificate'")
    assert row["remedy"].startswith("the sender must call the TLS port ")
    assert node.settled()
    node.listener.drain(5)
    assert not node.listener.is_listening


def fingerprint(path: Path) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(path.read_text())).hexdigest()


@pytest.mark.parametrize(
    ("certificate", "taken"),
    [
        (None, True), ("client", True), ("localhost", True), ("127.0.0.1", True), ("server", False), ("cl*", False),
        ("own fingerprint", True), ("foreign fingerprint", False),
    ],
)  # fmt: skip
def test_a_certificate_is_of_the_peer_whose_entry_names_it(
    start_node: StartNode, keys: Path, certificate: str | None, taken: bool
) -> None:
    if certificate is not None and certificate.endswith("fingerprint"):
        digits = fingerprint(keys / ("client.pem" if certificate.startswith("own") else "server.pem"))
        certificate = "sha256:" + ":".join(digits[at : at + 2].upper() for at in range(0, 64, 2))
    node = start_node(
        peers={"good": Peer(ae_title="GOOD", certificate=certificate), "other": Peer(ae_title="OTHER")},
        tls_certificate=keys / "server.pem", tls_key=keys / "server.key", tls_client_ca=keys / "ca.pem",
    )  # fmt: skip
    assert store(node, keys) is taken
    assert node.count("rejections_total{what=association}{rule=peer certificate}") == (0 if taken else 1)


def test_the_audit_log_names_the_certificate(start_node: StartNode, keys: Path, tmp_path: Path) -> None:
    audit = Audit(tmp_path, "VOXELNODE")
    node = start_node(
        audit=audit, tls_certificate=keys / "server.pem", tls_key=keys / "server.key", tls_client_ca=keys / "ca.pem"
    )
    ae = AE("GOOD")
    ae.add_requested_context(STUDY_ROOT_FIND)
    assoc = ae.associate(node.host, node.port, tls_args=(client_context(keys), "localhost"))
    list(assoc.send_c_find(identifier("STUDY", PatientID="X"), STUDY_ROOT_FIND))
    assoc.release()
    [line] = (tmp_path / "audit.jsonl").read_text().splitlines()
    shown = json.loads(line)["participants"][0]["certificate"]
    assert shown == f"sha256:{fingerprint(keys / 'client.pem')} (client, localhost, 127.0.0.1)"


def test_a_certificate_that_nobody_asks_for_is_an_error_of_the_configuration(start_node: StartNode, keys: Path) -> None:
    files = {"tls_certificate": keys / "server.pem", "tls_key": keys / "server.key"}
    with pytest.raises(UsageError, match=r"peers\.ct1\] certificate needs"):
        start_node(peers={"ct1": Peer(ae_title="CT1", certificate="ct1")}, **files)
    with pytest.raises(ValidationError, match="64 hexadecimal digits"):
        Peer(ae_title="CT1", certificate="sha256:1234")


@pytest.mark.slow
def test_an_idle_association_is_ended_within_tls_too(start_node: StartNode, keys: Path) -> None:
    files = {"tls_certificate": keys / "server.pem", "tls_key": keys / "server.key"}
    node = start_node(idle_seconds=0.5, release_seconds=0.5, **files)
    with (
        socket.create_connection((node.host, node.port), timeout=DEADLINE_SECONDS) as plain,
        client_context(keys, None).wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(associate_rq())
        assert secure.recv(1) == b"\x02"
        until(lambda: node.count("open_associations") == 0)
    assert node.settled()
    assert node.count("associations_total{outcome=idle}") == 1


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
def test_versions_before_1_2_are_refused(tls_node: Running, keys: Path) -> None:
    old = client_context(keys)
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    assert not is_answered(tls_node, old)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        fit = client_context(keys)
        fit.minimum_version = fit.maximum_version = version
        assert is_answered(tls_node, fit)


@pytest.mark.parametrize("suite", ["ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES128-SHA256"])
def test_suites_that_bcp_195_does_not_recommend_are_refused(tls_node: Running, keys: Path, suite: str) -> None:
    # RFC 9325 4.2: Python's own list for servers has these, which encrypt without authentication (CBC).
    weak = client_context(keys)
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers(f"{suite}:@SECLEVEL=0")
    assert not is_answered(tls_node, weak)


def test_a_port_for_tls_needs_a_certificate() -> None:
    with pytest.raises(ValidationError, match="tls_port needs tls_certificate"):
        Dicom(tls_port=2762)


def test_a_missing_certificate_stops_the_start_with_its_key(start_node: StartNode, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tls_certificate"):
        start_node(tls_certificate=tmp_path / "none.pem")
    with pytest.raises(UsageError, match="need tls_certificate"):
        start_node(tls_key=tmp_path / "none.pem")
