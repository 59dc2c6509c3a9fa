"""Storage commitment as a service provider, over real associations and against a real disk."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, FileDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, build_context, evt

from node.association.client.send import send_files
from node.association.framing import encoded
from node.dicom.uids import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from node.receive.stored_files import report_damage
from node.settings.peers import Peer
from tests.make import corrected, ct_series, saved
from tests.peers import listening
from tests.protocol.conftest import (
    CT_IMAGE_STORAGE,
    DEADLINE_SECONDS,
    Raw,
    Running,
    StartNode,
    associate_rq,
    c_store_rq,
    command,
    data_set_bytes,
    p_data,
    padded,
    pdv,
    status_of,
)
from tests.protocol.test_retrieve import stored
from tests.waiting import until

COMMITMENTS = "SELECT * FROM v_commitments"
ACTION_MESSAGE_ID = 9


@dataclass
class Asker:
    """A peer that asks for commitment and takes results, on its own associations and on the node's."""

    port: int = 0
    reports: list[tuple[int, Dataset]] = field(default_factory=list)
    message_ids: list[int] = field(default_factory=list)
    came: threading.Event = field(default_factory=threading.Event)
    status: int = 0x0000

    def report(self, event: Any) -> tuple[int, None]:
        """Take a result (``evt.EVT_N_EVENT_REPORT``)."""
        self.reports.append((event.event_type, event.event_information))
        self.message_ids.append(int(event.request.MessageID))
        self.came.set()
        return self.status, None

    def ask(
        self,
        node: Running,
        references: list[tuple[str, str]],
        transaction_uid: str | None = None,
        *,
        stay: bool = False,
        instance: str = STORAGE_COMMITMENT_INSTANCE,
        action: int = 1,
    ) -> int:
        """Ask for commitment; with `stay`, keep the association open until the result has come and was answered.

        pynetdicom answers on its own thread, and fails if the association is being released by then; a message is sent
        (EVT_DIMSE_SENT) when it waits to be, its PDU when it is on the wire.
        """
        ae = AE("ASKER")
        ae.add_requested_context(STORAGE_COMMITMENT)
        answered = threading.Event()
        handlers: Any = [
            (evt.EVT_N_EVENT_REPORT, self.report),
            (evt.EVT_PDU_SENT, lambda event: answered.set() if self.came.is_set() else None),
        ]
        assoc = ae.associate(node.host, node.port, evt_handlers=handlers)
        assert assoc.is_established
        request = Dataset()
        if transaction_uid != "":
            request.TransactionUID = transaction_uid or generate_uid()
        request.ReferencedSOPSequence = []
        for kind, uid in references:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = kind, uid
            request.ReferencedSOPSequence.append(item)
        status, _ = assoc.send_n_action(request, action, STORAGE_COMMITMENT, instance, ACTION_MESSAGE_ID)
        if stay:
            assert answered.wait(DEADLINE_SECONDS)
        assoc.release()
        return int(status.Status)


@pytest.fixture
def asker() -> Iterator[Asker]:
    """A peer that listens for results."""
    found = Asker()
    handlers = [(evt.EVT_N_EVENT_REPORT, found.report)]
    with listening("ASKER", handlers, STORAGE_COMMITMENT, scu_role=True, scp_role=True) as found.port:
        yield found


def peers(asker: Asker) -> dict[str, Peer]:
    return {"asker": Peer(ae_title="ASKER", host="127.0.0.1", port=asker.port), "sender": Peer(ae_title="SENDER")}


def references(series: list[FileDataset]) -> list[tuple[str, str]]:
    return [(str(ds.SOPClassUID), str(ds.SOPInstanceUID)) for ds in series]


def settled(node: Running, state: str = "reported") -> dict[str, Any]:
    """The one request, once it is settled."""
    until(lambda: [row["state"] for row in node.rows(COMMITMENTS)] == [state])
    [row] = node.rows(COMMITMENTS)
    return row


@pytest.mark.slow
@pytest.mark.parametrize("host", [None, "127.0.0.1"])
def test_a_result_comes_on_an_association_that_waits(start_node: StartNode, tmp_path: Path, host: str | None) -> None:
    asker = Asker(port=1)  # nobody listens there: the result can come on one way only
    node = start_node(peers=peers(asker) | {"asker": Peer(ae_title="ASKER", host=host, port=asker.port)})
    series = stored(node, ct_series(3), tmp_path)
    transaction = generate_uid()
    assert asker.ask(node, references(series), transaction, stay=True) == 0x0000
    assert ACTION_MESSAGE_ID not in asker.message_ids  # another operation has another one: PS3.7 10.1.1.1.1
    [(event, report)] = asker.reports
    assert event == 1
    assert (report.TransactionUID, report.RetrieveAETitle) == (transaction, "VOXELNODE")
    found = [(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in report.ReferencedSOPSequence]
    assert found == references(series)
    assert "FailedSOPSequence" not in report
    row = settled(node)
    assert (row["transaction_uid"], row["instances"], row["failed"]) == (transaction, 3, 0)


def test_each_instance_that_is_not_safe_is_reported_with_its_reason(
    start_node: StartNode, asker: Asker, tmp_path: Path
) -> None:
    node = start_node(peers=peers(asker))
    good, flipped, shorter, gone, other = series = stored(node, ct_series(5), tmp_path)
    paths = {row["sop_instance_uid"]: node.root / row["path"] for row in node.rows()}
    content = bytearray(paths[flipped.SOPInstanceUID].read_bytes())
    content[-5] ^= 4
    paths[flipped.SOPInstanceUID].write_bytes(content)
    paths[shorter.SOPInstanceUID].write_bytes(paths[shorter.SOPInstanceUID].read_bytes()[:-2])
    paths[gone.SOPInstanceUID].unlink()
    asked = references(series)
    asked[4] = ("1.2.840.10008.5.1.4.1.1.4", other.SOPInstanceUID)
    asked.append((CT_IMAGE_STORAGE, "1.2.3.4.5"))
    asker.ask(node, asked)
    assert asker.came.wait(DEADLINE_SECONDS)
    [(event, report)] = asker.reports
    assert event == 2
    assert [item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence] == [good.SOPInstanceUID]
    assert {item.ReferencedSOPInstanceUID: item.FailureReason for item in report.FailedSOPSequence} == {
        flipped.SOPInstanceUID: 0x0110,
        shorter.SOPInstanceUID: 0x0110,
        gone.SOPInstanceUID: 0x0110,
        other.SOPInstanceUID: 0x0119,
        "1.2.3.4.5": 0x0112,
    }
    assert settled(node)["failed"] == 5


def test_an_instance_that_is_whole_at_a_second_look_is_committed(
    start_node: StartNode, asker: Asker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start_node(peers=peers(asker))
    series = stored(node, ct_series(1), tmp_path)
    [row] = node.rows()
    path = node.root / row["path"]
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    def mended_before(*arguments: Any) -> bool:
        path.write_bytes(content)
        return report_damage(*arguments)

    monkeypatch.setattr("node.association.services.commitment.report_damage", mended_before)
    asker.ask(node, references(series))
    assert asker.came.wait(DEADLINE_SECONDS)
    assert [event for event, _ in asker.reports] == [1]


@pytest.mark.slow
def test_who_sent_another_version_than_the_current_one_is_reported_no(
    start_node: StartNode, asker: Asker, tmp_path: Path
) -> None:
    node = start_node(peers=peers(asker))
    series = ct_series(2)
    send_files(saved(series, tmp_path), node.address, "ASKER")
    stored(node, [corrected(series[0])], tmp_path)  # of another sender: the version of this one stays safe
    assert asker.ask(node, references(series)) == 0x0000
    assert asker.came.wait(DEADLINE_SECONDS)
    asker.came.clear()
    send_files(saved([corrected(series[1])], tmp_path), node.address, "ASKER")
    assert asker.ask(node, references(series)) == 0x0000
    assert asker.came.wait(DEADLINE_SECONDS)
    [(before, _), (after, report)] = asker.reports
    assert (before, after) == (1, 2)
    failed = [(item.ReferencedSOPInstanceUID, item.FailureReason) for item in report.FailedSOPSequence]
    assert failed == [(series[1].SOPInstanceUID, 0x0110)]


@pytest.mark.slow
def test_more_references_than_are_looked_up_at_once_are_all_reported(
    start_node: StartNode, asker: Asker, tmp_path: Path
) -> None:
    node = start_node(peers=peers(asker))
    series = stored(node, ct_series(3), tmp_path)
    unknown = [(CT_IMAGE_STORAGE, f"1.2.3.{number}") for number in range(1200)]
    asker.ask(node, [*unknown[:600], *references(series), *unknown[600:]])
    assert asker.came.wait(DEADLINE_SECONDS)
    [(_, report)] = asker.reports
    assert len(report.ReferencedSOPSequence) == 3
    assert len(report.FailedSOPSequence) == 1200


@pytest.mark.slow
def test_a_result_that_nobody_takes_is_tried_again(
    start_node: StartNode, asker: Asker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.runtime.background.FIRST_WAIT_SECONDS", 0.2)
    asker.status = 0x0110
    node = start_node(peers=peers(asker))
    asker.ask(node, references(stored(node, ct_series(1), tmp_path)))
    assert asker.came.wait(DEADLINE_SECONDS)
    asker.status = 0x0000
    assert settled(node)["attempts"] >= 2


@pytest.mark.slow
def test_a_result_is_given_up_after_its_tries_and_the_remedy_is_reported(
    start_node: StartNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.runtime.background.FIRST_WAIT_SECONDS", 0.05)
    monkeypatch.setattr("node.association.services.commitment.Reporting.max_attempts", 3)
    asker = Asker(port=1)
    node = start_node(peers=peers(asker))
    asker.ask(node, references(stored(node, ct_series(1), tmp_path)))
    row = settled(node, "given-up")
    assert row["attempts"] == 3
    assert "does not answer" in row["detail"]
    until(lambda: bool(node.rows("SELECT * FROM v_rejections WHERE what = 'commitment'")))
    [reported] = node.rows("SELECT * FROM v_rejections WHERE what = 'commitment'")
    assert "[peers]" in reported["remedy"]


@pytest.mark.slow
def test_what_is_owed_survives_a_restart(
    start_node: StartNode, asker: Asker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.runtime.background.FIRST_WAIT_SECONDS", 1)
    absent = Asker(port=1)
    node = start_node(peers=peers(absent))
    absent.ask(node, references(stored(node, ct_series(1), tmp_path)))
    until(lambda: node.rows(COMMITMENTS)[0]["attempts"] == 1)
    for close in node.closers:
        close()
    node.closers.clear()
    again = start_node(peers=peers(asker), root=node.root)
    assert asker.came.wait(DEADLINE_SECONDS)
    settled(again)


@pytest.mark.slow
def test_the_same_request_again_is_answered_again(start_node: StartNode, asker: Asker, tmp_path: Path) -> None:
    node = start_node(peers=peers(asker))
    series = stored(node, ct_series(1), tmp_path)
    transaction = generate_uid()
    for _ in range(2):
        asker.came.clear()
        assert asker.ask(node, references(series), transaction) == 0x0000
        assert asker.came.wait(DEADLINE_SECONDS)
        settled(node)
    assert [event for event, _ in asker.reports] == [1, 1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"instance": "1.2.3"}, 0x0112),
        ({"action": 2}, 0x0123),
        ({"transaction_uid": ""}, 0x0115),
        ({"references": []}, 0x0115),
        ({"references": [("", "1.2.3")]}, 0x0115),
    ],
)
def test_a_request_that_is_none_is_refused(start_node: StartNode, options: dict[str, Any], expected: int) -> None:
    asker = Asker(port=1)
    node = start_node(peers=peers(asker))
    arguments = {"references": [(CT_IMAGE_STORAGE, "1.2.3")]} | options
    assert asker.ask(node, **arguments) == expected
    assert node.rows(COMMITMENTS) == []


def test_a_request_whose_result_could_be_reported_nowhere_is_refused(start_node: StartNode) -> None:
    node = start_node(peers={"asker": Peer(ae_title="ASKER")}, acceptor="pynetdicom")
    for _ in range(2):
        assert Asker().ask(node, [(CT_IMAGE_STORAGE, "1.2.3")]) == 0x0110
    assert node.rows(COMMITMENTS) == []


@pytest.mark.own_acceptor
def test_a_result_for_a_peer_without_a_host_that_has_left_is_given_up_at_once_and_a_person_hears_why(
    start_node: StartNode, tmp_path: Path
) -> None:
    node = start_node(peers={"asker": Peer(ae_title="ASKER"), "sender": Peer(ae_title="SENDER")})
    series = stored(node, ct_series(1), tmp_path)
    assert Asker().ask(node, references(series)) == 0x0000
    row = settled(node, "given-up")
    assert (row["attempts"], row["detail"]) == (1, "ASKER has no host in [peers], and did not wait for the report")
    until(lambda: bool(node.rows("SELECT * FROM v_rejections")))
    [row] = node.rows("SELECT * FROM v_rejections")
    assert (row["what"], row["rule"], row["calling_ae_title"]) == ("commitment", "not reported", "ASKER")
    assert row["reason"].endswith("did not wait for the report; given up after 1 attempt")
    assert "[peers]" in row["remedy"]


@pytest.mark.slow
def test_the_node_proposes_the_role_of_a_provider(start_node: StartNode, asker: Asker) -> None:
    seen: list[Any] = []
    handlers = [
        (evt.EVT_N_EVENT_REPORT, asker.report),
        (evt.EVT_REQUESTED, lambda event: seen.append(event.assoc.requestor.role_selection)),
    ]
    with listening("ASKER", handlers, STORAGE_COMMITMENT, scu_role=True, scp_role=True) as asker.port:
        asker.ask(start_node(peers=peers(asker)), [(CT_IMAGE_STORAGE, "1.2.3")])
        assert asker.came.wait(DEADLINE_SECONDS)
    [roles] = seen
    role = roles[STORAGE_COMMITMENT]
    assert (role.scu_role, role.scp_role) == (False, True)


def test_a_peer_that_goes_on_sending_is_answered_at_once_and_reported_to_elsewhere(
    start_node: StartNode, asker: Asker, tmp_path: Path
) -> None:
    # An answer to a report on this association would come behind the next request.
    node = start_node(peers=peers(asker))
    [known, ds] = ct_series(2)
    stored(node, [known], tmp_path)
    request = Dataset()
    request.TransactionUID = generate_uid()
    item = Dataset()
    [(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID)] = references([known])
    request.ReferencedSOPSequence = [item]
    elements = {
        0x0003: padded(STORAGE_COMMITMENT),
        0x0100: b"\x30\x01",
        0x0110: b"\x07\x00",
        0x0800: b"\0\0",
        0x1001: padded(STORAGE_COMMITMENT_INSTANCE),
        0x1008: b"\x01\x00",
    }
    contexts = [
        build_context(STORAGE_COMMITMENT, ImplicitVRLittleEndian),
        build_context(CT_IMAGE_STORAGE, ExplicitVRLittleEndian),
    ]
    with Raw(node).associate(associate_rq(*contexts, calling="ASKER")) as peer:
        began = time.monotonic()
        peer.send(p_data(pdv(1, 3, command(elements)), pdv(1, 2, encoded(request, ImplicitVRLittleEndian))))
        peer.send(p_data(pdv(3, 3, c_store_rq(ds.SOPInstanceUID)), pdv(3, 2, data_set_bytes(ds))))
        assert [status_of(peer.receive()) for _ in range(2)] == [0x0000, 0x0000]
        assert time.monotonic() - began < 10
        assert asker.came.wait(DEADLINE_SECONDS)
    settled(node)
