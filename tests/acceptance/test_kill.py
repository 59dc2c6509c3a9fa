"""SIGKILL of a served node: what was acknowledged is there after the restart, and gets converted."""

import threading
from pathlib import Path

import pytest
from pynetdicom import AE

from tests import make
from tests.acceptance.served import Served
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
        node.wait_until_idle()
        [series] = node.rows("SELECT state, revision, verdict, verdict_rule, expected_instances FROM v_series")
        assert series == {
            "state": "converted", "revision": 1, "verdict": "complete", "verdict_rule": "mpps", "expected_instances": 4
        }  # fmt: skip
