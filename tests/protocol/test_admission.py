"""Who is admitted, and how what is refused is told."""

import ipaddress
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydicom.uid import ExplicitVRLittleEndian, JPIPHTJ2KReferencedDeflate
from pynetdicom import build_context, build_role

from node.dicom.uids import STUDY_ROOT_GET
from node.settings.peers import Dicom, Peer
from tests import make
from tests.make import instance
from tests.protocol.conftest import (
    CT_IMAGE_STORAGE,
    VERIFICATION,
    Raw,
    Running,
    StartNode,
    associate,
    associate_rq,
    echo_seconds,
    pdu,
)
from tests.waiting import until


def rejected(node: Running, **request: Any) -> tuple[int, ...] | None:
    """(result, source, reason) of the A-ASSOCIATE-RJ to a request; None if it is accepted."""
    with Raw(node) as peer:
        peer.send(associate_rq(**request))
        answer = peer.receive()
        assert answer is not None
        return tuple(answer[1][1:4]) if answer[0] == 0x03 else None


def test_a_wrong_called_ae_title_is_rejected_where_it_counts(start_node: StartNode) -> None:
    assert rejected(start_node(), calling="WHOEVER", called="WHATEVER") is None
    node = start_node(require_called_ae_title=True, ae_title="ARCHIVE")
    assert rejected(node, called="OTHER") == (1, 1, 7)
    assert rejected(node, called="ARCHIVE") is None
    assert node.count("rejections_total{what=association}{rule=called AE title}") == 1


def test_a_node_may_have_several_ae_titles(start_node: StartNode) -> None:
    node = start_node(require_called_ae_title=True, ae_title="ARCHIVE", called_ae_titles=("OLD_PACS", "MR_STORE"))
    assert [rejected(node, called=title) for title in ("ARCHIVE", "OLD_PACS", "MR_STORE")] == [None] * 3
    assert rejected(node, called="OTHER") == (1, 1, 7)
    until(lambda: bool(node.rows("SELECT * FROM v_rejections")))
    [row] = node.rows("SELECT * FROM v_rejections")
    assert row["remedy"].startswith("this node is ARCHIVE or OLD_PACS or MR_STORE: ")
    with pytest.raises(ValidationError, match="needs require_called_ae_title"):
        Dicom(called_ae_titles=("OLD_PACS",))


MR = "1.2.840.10008.5.1.4.1.1.4"


@pytest.mark.own_acceptor
def test_a_peer_stores_the_classes_that_are_taken_from_it(start_node: StartNode) -> None:
    peers = {"ct": Peer(ae_title="CT1", takes=("CTImageStorage",)), "any": Peer(ae_title="ANY")}
    node = start_node(peers=peers)
    contexts = [build_context(CT_IMAGE_STORAGE), build_context(MR), build_context(VERIFICATION)]
    assoc = associate(node, *contexts, title="CT1")
    assert {one.abstract_syntax for one in assoc.accepted_contexts} == {CT_IMAGE_STORAGE, VERIFICATION}
    assert {one.result for one in assoc.rejected_contexts} == {1}
    assoc.release()
    until(lambda: bool(node.rows("SELECT * FROM v_rejections")))
    [row] = node.rows("SELECT * FROM v_rejections")
    assert (row["what"], row["rule"], row["calling_ae_title"]) == ("context", "not taken", "CT1")
    assert row["remedy"] == f'if it may, add "{MR}" to `takes` of [peers.ct]'
    assoc = associate(node, *contexts, title="ANY")
    assert not assoc.rejected_contexts
    assoc.release()


@pytest.mark.own_acceptor
def test_a_peer_gets_what_is_not_taken_from_it(start_node: StartNode) -> None:
    node = start_node(peers={"ct": Peer(ae_title="CT1", takes=(CT_IMAGE_STORAGE,))})
    role = build_role(MR, scp_role=True)
    assoc = associate(node, build_context(MR), build_context(STUDY_ROOT_GET), title="CT1", ext_neg=[role])
    assert not assoc.rejected_contexts
    assoc.release()


@pytest.mark.parametrize(
    ("name", "said"), [("CTImageStorag", 'did you mean "CTImageStorage"'), (VERIFICATION, "is not the keyword or UID")]
)
def test_what_is_taken_must_be_a_storage_class(name: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Peer(ae_title="CT1", takes=(name,))


def test_with_peers_strangers_are_rejected(start_node: StartNode) -> None:
    peers = {
        "ct": Peer(ae_title="CT1"),
        "mr": Peer(ae_title="MR1", networks=(ipaddress.ip_network("10.0.0.0/8"),)),
        "us": Peer(ae_title="US1", networks=(ipaddress.ip_network("127.0.0.0/8"),)),
    }
    node = start_node(peers=peers, host="127.0.0.1")
    assert rejected(node, calling="STRANGER") == (1, 1, 3)
    assert rejected(node, calling="MR1") == (1, 1, 3)
    assert rejected(node, calling="CT1") is None
    assert rejected(node, calling="US1") is None
    assert node.count("rejections_total{what=association}{rule=calling AE title}") == 1
    assert node.count("rejections_total{what=association}{rule=peer address}") == 1


def test_one_association_too_many_is_told_to_come_back(start_node: StartNode) -> None:
    node = start_node(maximum_associations=3)
    open_ones = [associate(node) for _ in range(3)]
    for assoc in open_ones:
        assoc.send_c_echo()
    assert rejected(node) == (2, 3, 2)
    open_ones.pop().release()
    until(lambda: node.count("open_associations") == 2)
    assert rejected(node) is None
    for assoc in open_ones:
        assoc.release()
    assert node.settled()


def test_one_address_cannot_take_every_association(start_node: StartNode) -> None:
    node = start_node(maximum_associations=8, maximum_associations_per_address=2)
    hogs = [associate(node) for _ in range(2)]
    assert rejected(node) == (2, 3, 2)
    elsewhere = associate(node, bind_address=("127.0.0.2", 0))
    assert elsewhere.is_established
    for assoc in [*hogs, elsewhere]:
        assoc.release()


@pytest.mark.slow
def test_idle_associations_give_way_when_all_are_taken(start_node: StartNode) -> None:
    node = start_node(maximum_associations=4)
    hogs = [associate(node, bind_address=(f"127.0.0.{number}", 0)) for number in (2, 2, 2, 3)]
    hogs[0].send_c_store(instance())
    hogs[1].send_c_echo()  # which is no work
    assert echo_seconds(node) < 2
    until(lambda: not hogs[1].is_established)
    assert [assoc.is_established for assoc in hogs] == [True, False, True, True]
    assert node.count("evicted_connections_total{port=dicom}{rule=places}") == 1
    for assoc in hogs:
        assoc.release()


def test_a_share_is_kept_for_peers_that_prove_who_they_are(start_node: StartNode) -> None:
    loopback = (ipaddress.ip_network("127.0.0.1/32"),)
    peers = {"ct": Peer(ae_title="CT1", networks=loopback), "any": Peer(ae_title="ANY")}
    node = start_node(peers=peers, maximum_associations=4)
    open_ones = [associate(node, title="ANY") for _ in range(3)]
    for assoc in open_ones:
        assoc.send_c_echo()
    assert rejected(node, calling="ANY") == (2, 3, 2)
    assert rejected(node, calling="CT1") is None
    for assoc in open_ones:
        assoc.release()


VERSION_2 = pdu(0x01, b"\x00\x02" + associate_rq()[8:])
ANOTHER_CONTEXT = associate_rq().replace(b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.3.1.1.9")


@pytest.mark.parametrize(
    ("request_", "rejection"),
    [(ANOTHER_CONTEXT, (3, 1, 1, 2)), (VERSION_2, (3, 1, 2, 2))],
    ids=["application context", "protocol version"],
)
def test_what_it_does_not_speak_is_rejected(start_node: StartNode, request_: bytes, rejection: tuple[int, ...]) -> None:
    with Raw(start_node()) as peer:
        peer.send(request_)
        answer = peer.receive()
    assert (answer[0], *answer[1][1:4]) == rejection


def test_silent_sockets_cannot_lock_others_out(start_node: StartNode, monkeypatch: pytest.MonkeyPatch) -> None:
    # A plain pynetdicom acceptor answers nobody any more after ten of them.
    monkeypatch.setattr("node.association.admission.MAX_PENDING_CONNECTIONS", 20)
    node = start_node()
    silent = [Raw(node) for _ in range(60)]
    try:
        assert echo_seconds(node) < 2
        until(lambda: node.count("connections") <= 20)
    finally:
        for peer in silent:
            peer.socket.close()
    assert node.settled()
    assert echo_seconds(node) < 2


# Whatever is refused is told with who asked, what was offered, why, and what to do about it.


UNIFIED_PROCEDURE_STEP_PULL = "1.2.840.10008.5.1.4.34.6.3"


def reported(node: Running, what: str) -> list[dict[str, Any]]:
    """The rows of `v_rejections` on one level, once there are any."""
    query = f"SELECT * FROM v_rejections WHERE what = '{what}' ORDER BY offered"
    until(lambda: bool(node.rows(query)), what=f"a refused {what} is told of")
    return node.rows(query)


def test_a_stranger_is_reported_with_the_remedy(start_node: StartNode) -> None:
    node = start_node(peers={"CT1": Peer(ae_title="CT1")})
    assert not associate(node, title="STRANGER").is_established
    [row] = reported(node, "association")
    assert (row["rule"], row["peer"], row["calling_ae_title"], row["called_ae_title"]) == (
        "calling AE title",
        "127.0.0.1",
        "STRANGER",
        "ANY-SCP",
    )
    assert row["reason"] == "rejected permanently: calling AE title not recognised"
    assert row["remedy"] == (
        "add the sender to [peers]: `voxelnode peers set STRANGER ae_title=STRANGER networks=127.0.0.1 "
        "may=echo,store,commit`"
    )
    assert row["offered"] == f"2 presentation contexts, {VERIFICATION}, {CT_IMAGE_STORAGE}"
    assert row["count"] == 1


def test_each_refused_context_is_reported_with_what_was_offered(node: Running) -> None:
    assoc = associate(
        node,
        build_context(CT_IMAGE_STORAGE, [JPIPHTJ2KReferencedDeflate]),
        build_context(UNIFIED_PROCEDURE_STEP_PULL, [ExplicitVRLittleEndian]),
        build_context(VERIFICATION),
    )
    assoc.release()
    service, syntax = sorted(reported(node, "context"), key=lambda row: row["rule"])
    assert (service["rule"], syntax["rule"]) == ("abstract syntax", "transfer syntaxes")
    assert service["offered"] == f"{UNIFIED_PROCEDURE_STEP_PULL}: {ExplicitVRLittleEndian}"
    assert syntax["offered"] == f"{CT_IMAGE_STORAGE}: {JPIPHTJ2KReferencedDeflate}"
    assert "Little Endian" in syntax["remedy"]


def test_an_association_of_128_contexts_is_one_row_for_each_rule(start_node: StartNode) -> None:
    node = start_node(peers={"scanner": Peer(ae_title="GOOD", may=("store",)), "CT2": Peer(ae_title="CT2")})
    private = [build_context(f"1.2.999.{number}", [JPIPHTJ2KReferencedDeflate]) for number in range(125)]
    finds = [build_context(f"1.2.840.10008.5.1.4.1.2.{number}.1", [ExplicitVRLittleEndian]) for number in (1, 2)]
    for _ in range(2):
        associate(node, *private, *finds, build_context(CT_IMAGE_STORAGE)).release()
    query = "SELECT sum(count) AS n FROM v_rejections"
    until(lambda: node.rows(query)[0]["n"] == 4)
    permission, syntaxes = sorted(reported(node, "context"), key=lambda row: row["rule"])
    assert (syntaxes["rule"], syntaxes["count"]) == ("transfer syntaxes", 2)
    assert syntaxes["offered"].startswith("1.2.999.0, 1.2.999.1, ")
    assert f"1.2.999.124: {JPIPHTJ2KReferencedDeflate}" in syntaxes["offered"]
    assert permission["reason"] == "not permitted to this peer: query"
    assert permission["remedy"] == 'if it may, add "query" to `may` of [peers.scanner]'
    assert permission["offered"] == (
        f"1.2.840.10008.5.1.4.1.2.1.1, 1.2.840.10008.5.1.4.1.2.2.1: {ExplicitVRLittleEndian}"
    )


def test_a_refused_instance_is_reported_without_its_patient(node: Running) -> None:
    [ds] = make.ct_series(1, PatientName="Secret^Name", PatientID="SECRET-1")
    del ds.SeriesInstanceUID
    assoc = associate(node)
    assert assoc.send_c_store(ds).Status == 0xC000
    assoc.release()
    [row] = reported(node, "instance")
    assert (row["rule"], row["calling_ae_title"]) == ("status 0xC000", "GOOD")
    assert "Series Instance UID (0020,000E)" in row["reason"]
    assert row["offered"].startswith(CT_IMAGE_STORAGE)
    assert not any("SECRET" in str(value).upper() for value in row.values())


OTHERS = {
    "HTTP, not": b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HL7": b"\x0bMSH|^~\\&|A|B\x1c\r",
    "PROXY protocol": b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
    "PROXY protocol, not DICOM: PDU type 0x0d": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
    "PDU type 0x99": b"\x99" * 20,
}


@pytest.mark.own_acceptor("pynetdicom reads as many bytes as a length says before it looks at the type of a PDU")
def test_other_protocols_are_reported_each_by_its_name(node: Running) -> None:
    for begin in OTHERS.values():
        with Raw(node) as raw:
            raw.send(begin)
            assert raw.closed()
    until(lambda: len(reported(node, "connection")) == len(OTHERS))
    rows = reported(node, "connection")
    assert {(row["rule"], row["peer"], row["count"]) for row in rows} == {("request", "127.0.0.1", 1)}
    for words in OTHERS:
        assert any(words in row["reason"] for row in rows), words


@pytest.mark.own_acceptor("that of pynetdicom has no TLS")
def test_a_peer_that_does_not_speak_tls_is_reported(start_node: StartNode, keys: Path) -> None:
    node = start_node(tls_certificate=keys / "server.pem", tls_key=keys / "server.key")
    with Raw(node) as raw:
        raw.send(associate_rq())
        assert raw.closed()
    [row] = reported(node, "connection")
    assert (row["rule"], row["peer"]) == ("TLS", "127.0.0.1")
    assert node.count("rejections_total{what=connection}{rule=TLS}") == 1


def test_each_refusal_that_is_listed_is_counted_by_what_was_refused_and_by_its_rule(start_node: StartNode) -> None:
    node = start_node(peers={"WS1": Peer(ae_title="WS1", may=("query",)), "CT7": Peer(ae_title="CT7", may=("store",))})
    [ds] = make.ct_series(1)
    del ds.StudyInstanceUID
    associate(node, build_context(CT_IMAGE_STORAGE), title="WS1")
    find = build_context("1.2.840.10008.5.1.4.1.2.2.1")
    scanner = associate(node, find, build_context(CT_IMAGE_STORAGE), title="CT7")
    assert scanner.send_c_store(ds).Status == 0xC000
    scanner.release()
    associate(node, title="STRANGER")
    until(lambda: node.rows("SELECT sum(count) AS n FROM v_rejections")[0]["n"] >= 4)
    listed = {
        f"voxelnode_rejections_total{{what={row['what']}}}{{rule={row['rule']}}}": row["n"]
        for row in node.rows("SELECT what, rule, sum(count) AS n FROM v_rejections GROUP BY what, rule")
    }
    assert {name.partition("{what=")[2].partition("}")[0] for name in listed} == {"association", "context", "instance"}
    found = node.metrics.snapshot()
    assert {name: found[name] for name in found if name.startswith("voxelnode_rejections_total")} == listed
