"""What is its own way with pynetdicom's acceptor; the rest runs over both (`OVER_BOTH` in conftest.py)."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)

from node.api import Audit, UsageError
from node.runtime.budget import Caller, Turns
from node.settings.peers import Peer
from tests.make import ct_series
from tests.protocol.conftest import (
    DEADLINE_SECONDS,
    Raw,
    Running,
    StartNode,
    associate,
    c_store_rq,
    data_set_bytes,
    p_data,
    pdv,
    status_of,
)
from tests.waiting import until


@pytest.fixture
def acceptor(acceptor: str) -> str:
    return "pynetdicom"


def test_a_stranger_is_reported_that_it_is_rejected(start_node: StartNode) -> None:
    node = start_node(peers={"CT1": Peer(ae_title="CT1")})
    assoc = associate(node, title="STRANGER")
    assert assoc.is_rejected
    assert assoc.acceptor.primitive.diagnostic == 3
    until(lambda: [row["rule"] for row in node.rows("SELECT * FROM v_rejections")] == ["calling AE title"])
    assert node.settled()


@pytest.mark.slow
def test_the_instance_under_way_is_answered_before_the_association_ends(node: Running) -> None:
    [ds] = ct_series(1)
    content = data_set_bytes(ds)
    idle, silent = associate(node), Raw(node)
    with Raw(node).associate() as peer:
        peer.send(p_data(pdv(1, 3, c_store_rq(ds.SOPInstanceUID, ds.SOPClassUID))) + p_data(pdv(1, 0, content[:1000])))
        claims = node.listener.admission.budget.all
        until(lambda: any(claim.holder.is_under_way for claim in claims()))
        thread = threading.Thread(target=node.listener.drain, args=[60])
        thread.start()
        until(lambda: not idle.is_established)
        peer.send(p_data(pdv(1, 2, content[1000:])))
        assert status_of(peer.receive()) == 0x0000
        peer.aborted()  # or only the end of the connection, which pynetdicom closes at once
    thread.join(DEADLINE_SECONDS)
    silent.socket.close()
    assert not thread.is_alive()
    assert node.stored_data_sets() == {ds.SOPInstanceUID: content}


def test_tls_is_refused_with_the_remedy(start_node: StartNode, keys: Path) -> None:
    with pytest.raises(UsageError, match=r'set acceptor = "node"'):
        start_node(tls_certificate=keys / "server.pem", tls_key=keys / "server.key")


@pytest.mark.slow
def test_what_goes_out_is_in_the_audit_log(start_node: StartNode, tmp_path: Path) -> None:
    node = start_node(audit=Audit(tmp_path, "VOXELNODE"))
    [ds] = ct_series(1, PatientID="P-1")
    sender = associate(node)
    assert sender.send_c_store(ds).Status == 0x0000
    sender.release()
    ae, got = AE("ASKER"), []
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelGet)
    ae.add_requested_context(CTImageStorage)
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.StudyInstanceUID = "STUDY", ds.StudyInstanceUID

    def store(event: evt.Event) -> int:
        got.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    assoc = ae.associate(
        node.host,
        node.port,
        ext_neg=[build_role(CTImageStorage, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, store)],
    )
    *_, (status, _) = assoc.send_c_get(keys, StudyRootQueryRetrieveInformationModelGet)
    assoc.release()
    assert (status.Status, got) == (0x0000, [ds.SOPInstanceUID])
    assert node.settled()
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [line["event"]["code"] for line in lines] == ["110102", "110104"]
    assert lines[1]["objects"][0]["patient_id"] == "P-1"


@pytest.mark.slow
def test_silent_connections_end_after_the_time_for_a_request(start_node: StartNode) -> None:
    node = start_node(request_seconds=1)
    silent = Raw(node)
    began = time.monotonic()
    assert node.settled()
    assert time.monotonic() - began < DEADLINE_SECONDS
    silent.socket.close()


def test_a_search_is_of_its_peer_and_not_of_the_node(node: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    callers, turn = [], Turns.turn

    def noted(turns: Turns, caller: Caller, *rest: Any) -> Any:
        callers.append(caller.name)
        return turn(turns, caller, *rest)

    monkeypatch.setattr(Turns, "turn", noted)
    assoc = associate(node, build_context(StudyRootQueryRetrieveInformationModelFind), title="ASKER")
    for level in ("STUDY", "STUDY"):
        keys = Dataset()
        keys.QueryRetrieveLevel, keys.StudyInstanceUID = level, ""
        assert [status.Status for status, _ in assoc.send_c_find(keys, StudyRootQueryRetrieveInformationModelFind)] == [
            0
        ]
    assoc.release()
    assert set(callers) == {"ASKER at 127.0.0.1"}
