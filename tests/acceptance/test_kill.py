"""SIGKILL of a served node: what was acknowledged is there after the restart, and gets converted."""

from __future__ import annotations

import hashlib
import signal
import threading
from pathlib import Path

import pytest
from pynetdicom import AE

from tests import make
from tests.acceptance.served import Served, until
from tests.integration.conftest import data_set_bytes
from tests.protocol.test_performed_steps import Modality, begun, over

pytestmark = pytest.mark.timeout(300)


class Sender(threading.Thread):
    """Sends instances until its peer dies, and remembers which were acknowledged."""

    def __init__(self, port: int, instances: list, seconds: float = 5) -> None:
        super().__init__()
        self._port, self._instances, self._seconds = port, instances, seconds
        self.acknowledged: list[str] = []
        self.statuses: list[int] = []

    def run(self) -> None:
        ae = AE("SENDER")
        ae.network_timeout = ae.dimse_timeout = ae.acse_timeout = self._seconds
        ae.add_requested_context(self._instances[0].SOPClassUID, self._instances[0].file_meta.TransferSyntaxUID)
        assoc = ae.associate("127.0.0.1", self._port, ae_title="VOXELNODE")
        for ds in self._instances:
            if not assoc.is_established:
                break
            try:
                status = assoc.send_c_store(ds)
            except RuntimeError:  # the peer has died
                break
            if status:
                self.statuses.append(status.Status)
            if status and status.Status == 0x0000:
                self.acknowledged.append(str(ds.SOPInstanceUID))
        if assoc.is_established:
            assoc.release()


@pytest.mark.slow
@pytest.mark.parametrize("when", [0, 1, 7, 20])
def test_a_node_killed_while_it_receives_keeps_everything_acknowledged(tmp_path: Path, when: int) -> None:
    series = [make.ct_series(40) for _ in range(2)]
    with Served(tmp_path / "root", VOXELNODE_SERIES__ABORTED_GRACE_SECONDS="1") as node:  # the kill cuts senders off
        senders = [Sender(node.port, instances) for instances in series]
        for sender in senders:
            sender.start()
        until(lambda: sum(len(sender.acknowledged) for sender in senders) >= when, 30, f"{when} acknowledgements")
        node.kill()
        for sender in senders:
            sender.join()
        acknowledged = {uid for sender in senders for uid in sender.acknowledged}
        node.start()
        rows = {row["sop_instance_uid"]: row for row in node.rows("SELECT * FROM v_images")}
        sent = {str(ds.SOPInstanceUID): data_set_bytes(ds) for instances in series for ds in instances}
        assert acknowledged <= rows.keys() <= sent.keys()
        for uid, row in rows.items():
            at_rest = Path(row["path"]).read_bytes()[row["data_set_offset"] :]
            assert at_rest == sent[uid]
            assert row["sha256"] == hashlib.sha256(at_rest).hexdigest()
        assert list((tmp_path / "root" / "incoming").iterdir()) == []
        node.wait_until_settled()
        assert {row["state"] for row in node.rows("SELECT state FROM v_series")} <= {"converted"}
        sources = node.rows("SELECT sop_instance_uid FROM v_sources UNION SELECT sop_instance_uid FROM v_exclusions")
        assert {row["sop_instance_uid"] for row in sources} == rows.keys()


@pytest.mark.slow
def test_a_node_killed_while_it_converts_converts_after_the_restart(tmp_path: Path) -> None:
    instances = make.ct_series(30, rows=256, columns=256)
    with Served(tmp_path / "root") as node:
        sender = Sender(node.port, instances, seconds=60)
        sender.start()
        sender.join()
        assert len(sender.acknowledged) == 30
        until(lambda: node.rows("SELECT 1 FROM v_series WHERE state = 'converting'"), 30, "a conversion")
        node.kill()
        node.start()
        node.wait_until_settled()
        [series] = node.rows("SELECT state, revision FROM v_series")
        assert series == {"state": "converted", "revision": 1}
        assert list((tmp_path / "root" / "work").iterdir()) == []


@pytest.mark.slow
def test_a_node_killed_in_the_quiet_time_still_owes_the_conversion(tmp_path: Path) -> None:
    with Served(tmp_path / "root", VOXELNODE_SERIES__QUIET_SECONDS="3") as node:
        sender = Sender(node.port, make.ct_series(3))
        sender.start()
        sender.join()
        node.wait_until_released()
        node.kill()
        node.start()
        node.wait_until_settled()
        assert [row["state"] for row in node.rows("SELECT state FROM v_series")] == ["converted"]


@pytest.mark.slow
def test_a_performed_step_outlives_a_kill_and_its_list_converts_the_series(tmp_path: Path) -> None:
    images = make.ct_series(4, study_uid="1.2.1")
    with Served(tmp_path / "root", VOXELNODE_SERIES__QUIET_SECONDS="3600") as node:
        sender = Sender(node.port, images[:3])
        sender.start()
        sender.join()
        node.wait_until_released()
        with Modality(node.address) as modality:
            assert modality.create(begun("1.2.1")).Status == 0
            node.kill()
        node.start()
        with Modality(node.address) as modality:
            assert modality.create(begun("1.2.1")).Status == 0x0111
            assert modality.set(over("COMPLETED", *images)).Status == 0
            node.kill()
        node.start()
        with Modality(node.address) as modality:
            assert modality.set(over("COMPLETED", *images)).Status == 0x0110
        assert node.rows("SELECT state FROM v_series") == [{"state": "receiving"}]
        sender = Sender(node.port, images[3:])
        sender.start()
        sender.join()
        node.wait_until_settled()
        [series] = node.rows("SELECT state, revision, verdict, verdict_rule, expected_instances FROM v_series")
        assert series == {
            "state": "converted", "revision": 1, "verdict": "complete", "verdict_rule": "mpps", "expected_instances": 4
        }  # fmt: skip


@pytest.mark.slow
def test_a_terminated_node_drains_and_exits_with_zero(tmp_path: Path) -> None:
    with Served(tmp_path / "root") as node:
        sender = Sender(node.port, make.ct_series(3))
        sender.start()
        sender.join()
        assert node.terminate() == 0
        assert (tmp_path / "serve.log").read_text().count('"stopped"') == 1


@pytest.mark.slow
def test_a_second_node_on_the_same_root_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with Served(tmp_path / "root") as node, pytest.raises(AssertionError, match="in use by another voxelnode process"):
        Served(node.root).start()


@pytest.mark.slow
def test_an_interrupted_node_stops_too(tmp_path: Path) -> None:
    with Served(tmp_path / "root") as node:
        assert node.process is not None
        node.process.send_signal(signal.SIGINT)
        assert node.process.wait(30) == 0
