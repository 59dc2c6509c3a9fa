"""SIGKILL of a served node behind each message of a performed procedure step."""

from pathlib import Path

import pytest

from tests import make
from tests.acceptance.served import Served, send
from tests.protocol.test_performed_steps import Modality, begun, over

pytestmark = pytest.mark.timeout(300)


@pytest.mark.slow
def test_a_performed_step_outlives_a_kill_and_its_list_converts_the_series(tmp_path: Path) -> None:
    images = make.ct_series(4, study_uid="1.2.1")
    with Served(tmp_path / "root", VOXELNODE_SERIES__QUIET_SECONDS="3600") as node:
        send(node.port, *images[:3])
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
        send(node.port, *images[3:])
        node.wait_until_idle()
        [series] = node.rows("SELECT state, revision, verdict, verdict_rule, expected_instances FROM v_series")
        assert series == {
            "state": "converted", "revision": 1, "verdict": "complete", "verdict_rule": "mpps", "expected_instances": 4
        }  # fmt: skip
