"""Somebody looks for a study that is not there: `voxelnode info` says what became of it, and what it names works."""

import re
from pathlib import Path

import pytest
from pynetdicom import AE

from node.association.client.send import send_files
from tests import make
from tests.acceptance.served import Served, until
from tests.preloaded import run
from tests.rows import index_locked

pytestmark = pytest.mark.slow

PEERS = """[peers.ct1]
ae_title = "CT1"
"""


def test_info_says_what_became_of_a_study_that_is_not_there(tmp_path: Path) -> None:
    [ds], configuration = make.ct_series(1, AccessionNumber="ACC-7"), tmp_path / "voxelnode.toml"
    configuration.write_text(PEERS)
    ds.save_as(path := tmp_path / "0.dcm", enforce_file_format=True)
    uid = str(ds.StudyInstanceUID)

    def info(name: str) -> tuple[int, str]:
        done = run("info", name, "--root", node.root)
        return done.returncode, done.stdout + done.stderr

    with Served(tmp_path / "root", VOXELNODE_CONFIG=str(configuration)) as node:
        stranger = AE(ae_title="CT7")
        stranger.add_requested_context(ds.SOPClassUID)
        assert stranger.associate("127.0.0.1", node.port).is_rejected
        until(lambda: node.rows("SELECT 1 FROM v_rejections"), 30, "the refusal is in the index")
        status, said = info(uid)
        assert status == 2
        assert " of CT7 at 127.0.0.1: calling AE title not recognised; if that is why: add the sender to" in said
        assert send_files([path], node.address, "CT1") == 1
        node.wait_until_idle()
        for name in (uid, "ACC-7"):
            assert info(name)[0] == 0
        assert run("delete", uid, "--yes", "--root", node.root).returncode == 0
        status, said = info(uid)
        found = re.fullmatch(
            r"voxelnode: \S+: deleted .+ by \S+: in the trash until \S+; `voxelnode (.+)` brings it back\n", said
        )
        assert found is not None, said
        assert status == 2
        for name in (str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID), str(ds.PatientID)):
            assert f"`voxelnode {found[1]}`" in info(name)[1], name
        assert run(*found[1].split(), "--root", node.root).returncode == 0
        assert info(uid)[0] == 0


def test_of_what_waits_for_the_index_nobody_says_that_it_never_came(tmp_path: Path) -> None:
    series, known = make.ct_series(5), make.ct_series(1)
    configuration = tmp_path / "voxelnode.toml"
    configuration.write_text(PEERS)
    paths = make.saved(series + known, tmp_path)
    with Served(tmp_path / "root", VOXELNODE_CONFIG=str(configuration)) as node:
        stranger = AE(ae_title="CT7")
        stranger.add_requested_context(series[0].SOPClassUID)
        assert stranger.associate("127.0.0.1", node.port).is_rejected
        until(lambda: node.rows("SELECT 1 FROM v_rejections"), 30, "the refusal is in the index")
        assert send_files(paths[5:], node.address, "CT1") == 1
        node.wait_until_idle()
        with index_locked(node.root):
            assert send_files(paths[:5], node.address, "CT1") == 5
            for uid in (series[0].StudyInstanceUID, series[0].SOPInstanceUID, series[0].PatientID + "X"):
                done = run("info", uid, "--root", node.root)
                assert done.returncode == 2
                assert done.stderr == (
                    f"voxelnode: {uid}: perhaps received: instances wait for the index, and may be of it; "
                    "ask again when `voxelnode journal status` says that nothing waits\n"
                )
            assert run("info", known[0].StudyInstanceUID, "--root", node.root).returncode == 0
