"""A route keeps a BIDS data set up to date beside a node that receives, whoever is killed meanwhile."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from node.association.client.send import send_files
from node.extensions.bids.dataset import opened
from node.runtime.failpoints import VARIABLE
from tests import make
from tests.acceptance.served import Served, until
from tests.bids_validator import errors, needs_validator
from tests.preloaded import run

pytestmark = [pytest.mark.timeout(240), needs_validator, pytest.mark.slow]

EPI = {"ScanningSequence": "EP\\GR", "SequenceVariant": "SK"}
CONFIGURATION = """
[convert]
formats = ["nifti"]

[series]
quiet_seconds = 0.3
study_quiet_seconds = 0.3

[destinations.MEMORY]
kind = "bids"
bids = "out"
rules = "rules.toml"

[routes.memory]
when = "study-quiet"
to = ["MEMORY"]
"""


def send(node: Served, folder: Path, instances: list[make.Dataset]) -> None:
    paths = make.saved(instances, folder)
    assert send_files(paths, node.address, "CT1") == len(paths)


def skipped(node: Served) -> dict[str | None, str]:
    rows = node.rows("SELECT series_instance_uid, reason FROM v_route_messages WHERE state = 'skipped'")
    return {row["series_instance_uid"]: row["reason"] for row in rows}


@pytest.mark.long
def test_a_data_set_follows_a_route_whoever_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out, root = tmp_path / "out", tmp_path / "root"
    (tmp_path / "rules.toml").write_text('[dataset]\nname = "Memory"\nauthors = ["A. B."]\n')
    (tmp_path / "voxelnode.toml").write_text(CONFIGURATION)
    person = {"PatientID": "MRN4711Q", "PatientName": "Secret^Jane", "PatientSex": "F"}
    one = {**person, "study_uid": make.generate_uid(), "StudyDate": "20260131"}
    two = {**person, "study_uid": make.generate_uid(), "StudyDate": "20260301"}
    head = make.mr_series(5, SeriesDescription="t1_mprage", SeriesNumber=2, **one)
    lacking = make.mr_series(6, SeriesDescription="t2_tse", SeriesNumber=3, **one)
    rest = make.time_series(4, 3, SeriesDescription="rest fMRI", SeriesNumber=4, **EPI, **one)
    ct = make.ct_series(5, SeriesDescription="thorax", **one)
    later = make.mr_series(5, SeriesDescription="t1_mprage", **two)
    settings = {"VOXELNODE_CONFIG": str(tmp_path / "voxelnode.toml"), "VOXELNODE_SERIES__QUIET_SECONDS": "0.3"}

    def images() -> dict[str, int]:
        return {path.name.partition("_")[2]: path.stat().st_ino for path in out.glob("sub-*/**/*.nii.gz")}

    def retry() -> None:
        run("routes", "retry", "memory", "--root", root, environment=settings, check=True)

    with Served(root, **settings, **{VARIABLE: "session-replaced"}) as node:
        send(node, tmp_path / "1", [*head, *lacking[:3], *lacking[4:], *rest, *ct])
        until(lambda: node.rows("SELECT 1 FROM v_routes WHERE trouble LIKE '%mount what belongs there'"), 60, "held")
        send(node, tmp_path / "2", later)
        node.wait_until_idle()
        out.mkdir()
        retry()
        assert node.process.wait(60) == -9
    before = images()
    assert before.keys() == {"ses-01_T1w.nii.gz", "ses-01_task-rest_bold.nii.gz"}
    [subject] = out.glob("sub-*")
    in_the_way = subject / "ses-02" / "anat" / f"{subject.name}_ses-02_T1w.json"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("{}")
    command = ExitStack()
    command.enter_context(opened(out))  # as `voxelnode bids` does
    with command, Served(root, **settings) as node:
        until(lambda: node.rows("SELECT 1 FROM v_routes WHERE trouble LIKE 'another process%'"), 60, "it waits")
        command.close()
        retry()
        until(lambda: node.rows("SELECT 1 FROM v_routes WHERE delivered > 0"), 60, "it is recorded")
        dead = "SELECT DISTINCT reason FROM v_route_messages WHERE state = 'given-up'"
        until(lambda: node.rows(dead), 60, "a dead letter")
        assert images() == before, "what did not change was written again"
        [letter] = node.rows(dead)
        assert letter["reason"].endswith("sub-*_ses-02_T1w.json: was not written by this program; move it away")
        reasons = skipped(node)
        assert reasons.keys() == {lacking[0].SeriesInstanceUID, ct[0].SeriesInstanceUID}
        assert "it is incomplete" in reasons[lacking[0].SeriesInstanceUID]
        assert "not MR or PET" in reasons[ct[0].SeriesInstanceUID]

        in_the_way.unlink()
        run("delete", head[0].SeriesInstanceUID, "--root", root, "--yes", check=True)
        retry()
        until(lambda: images().keys() == {*before, "ses-02_T1w.nii.gz"}, 60, "a second session")
        until(lambda: None in skipped(node), 60, "what became of the series that was deleted")
        assert "deleted from the node" in skipped(node)[None]
        unfinished = "SELECT 1 FROM v_route_messages WHERE state IN ('waiting', 'given-up')"
        until(lambda: not node.rows(unfinished), 60, "the dead letter is delivered")
        listed = json.loads(
            run("routes", "waiting", "--json", "--root", root, environment=settings, check=True).stdout
        )["items"]
        assert {row["series_instance_uid"] for row in listed} == {*reasons, None}
        log = (tmp_path / "serve.log").read_text()
        assert node.terminate() == 0
    assert images().items() > before.items()
    assert errors(out) == []
    reported = log + "".join(str(row["reason"]) for row in listed)
    assert not [word for word in ("Secret", "MRN4711Q", subject.name) if word in reported]
    report = json.loads(run("bids", out, "--rules", "rules.toml", "--root", root, "--json", check=True).stdout)
    assert not any(report["change"].values()), "the command has the same key and rules"
