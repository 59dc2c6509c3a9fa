"""Whatever is refused is told with who asked, what was offered, why, and what to do about it."""

from pathlib import Path
from typing import Any

from pydicom.uid import ExplicitVRLittleEndian, JPIPHTJ2KReferencedDeflate
from pynetdicom import build_context

from node.settings.peers import Peer
from tests import make
from tests.protocol.conftest import (
    CT_IMAGE_STORAGE,
    VERIFICATION,
    Raw,
    Running,
    StartNode,
    associate,
    associate_rq,
    until,
)

UNIFIED_PROCEDURE_STEP_PULL = "1.2.840.10008.5.1.4.34.6.3"


def reported(node: Running, what: str) -> list[dict[str, Any]]:
    """The rows of `v_rejections` on one level, once there are any."""
    query = f"SELECT * FROM v_rejections WHERE what = '{what}' ORDER BY offered"
    assert until(lambda: bool(node.rows(query))), f"no {what} was told of"
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
    assert until(lambda: node.rows(query)[0]["n"] == 4)
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


def test_other_protocols_are_reported_each_by_its_name(node: Running) -> None:
    for begin in OTHERS.values():
        with Raw(node) as raw:
            raw.send(begin)
            assert raw.closed()
    assert until(lambda: len(reported(node, "connection")) == len(OTHERS))
    rows = reported(node, "connection")
    assert {(row["rule"], row["peer"], row["count"]) for row in rows} == {("request", "127.0.0.1", 1)}
    for words in OTHERS:
        assert any(words in row["reason"] for row in rows), words


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
    assert until(lambda: node.rows("SELECT sum(count) AS n FROM v_rejections")[0]["n"] >= 4)
    listed = {
        f"voxelnode_rejections_total{{what={row['what']}}}{{rule={row['rule']}}}": row["n"]
        for row in node.rows("SELECT what, rule, sum(count) AS n FROM v_rejections GROUP BY what, rule")
    }
    assert {name.partition("{what=")[2].partition("}")[0] for name in listed} == {"association", "context", "instance"}
    found = node.metrics.snapshot()
    assert {name: found[name] for name in found if name.startswith("voxelnode_rejections_total")} == listed
