"""`voxelnode bids` beside a node that receives: what arrives, changes and is deleted in a data set that is kept up."""

import gzip
import json
import re
import shlex
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest
from pydicom import Dataset

from node.api import reading, send_files
from node.children.pseudonyms import made_key
from node.extensions.bids.export import Exporter, ExportReport
from node.extensions.bids.rules import read_rules
from node.extensions.bids.sources import IndexSource
from node.extensions.bids.state import SessionChange
from node.extensions.bids.subjects import Pseudonyms
from tests import make
from tests.acceptance.served import Served
from tests.preloaded import run
from tests.signals import enhanced_spectra, pulse_and_breath, recording

pytestmark = pytest.mark.slow


EPI = {"ScanningSequence": "EP\\GR", "SequenceVariant": "SK"}


def send(node: Served, folder: Path, *instances: Dataset) -> None:
    """Send instances, and wait for the volumes."""
    paths = make.saved(instances, folder)
    assert send_files(paths, node.address, "CT1") == len(paths)
    node.wait_until_idle()


def bids(*arguments: object, status: int = 0) -> dict[str, Any]:
    done = run("bids", *arguments, "--json")
    assert done.returncode == status, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def export(root: Path, rules: Path, out: Path, study: str | None = None) -> ExportReport:
    """Bring all of a data set up to date, or the subject of one study, as a destination of routes does."""
    with reading(root) as index:
        exporter = Exporter(
            IndexSource(index, lambda file: root / file.key), read_rules(rules), Pseudonyms(made_key(root / "bids.key"))
        )
        return exporter.export(out, study)


def images(out: Path) -> dict[str, int]:
    """Inodes of the images by their names, with `sub` and a letter for each subject, in the order of their labels."""
    subjects = sorted(path.name for path in out.glob("sub-*"))
    found = {}
    for path in out.rglob("*.nii.gz"):
        subject = path.relative_to(out).parts[0]
        found[path.name.replace(subject, "sub" + "abc"[subjects.index(subject)])] = path.stat().st_ino
    return found


def snapshot(out: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in out.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.fixture
def person() -> dict[str, Any]:
    names = {"PatientID": "P1", "PatientName": "Secret^Jane", "PatientBirthDate": "19800101", "PatientSex": "F"}
    return {"study_uid": make.generate_uid(), "StudyDate": "20260131", **names}


def test_a_data_set_follows_the_node(tmp_path: Path, person: dict[str, Any]) -> None:
    out, root, rules = tmp_path / "out", tmp_path / "root", tmp_path / "rules.toml"
    rules.write_text('[dataset]\nname = "Memory"\nparticipants = ["age", "sex"]\n')
    options = ("--rules", rules, "--root", root)
    first = make.mr_series(5, SeriesDescription="t1_mprage_sag", SeriesNumber=2, **person)
    late = make.mr_series(6, SeriesDescription="t2_tse Secret", SeriesNumber=3, **person)
    rest = make.time_series(4, 3, SeriesDescription="rest fMRI", SeriesNumber=4, **EPI, **person)
    other = {**person, "PatientID": "P2", "study_uid": make.generate_uid()}
    ct = make.ct_series(5, SeriesDescription="mprage is no CT", **other)
    with Served(root, VOXELNODE_SERIES__QUIET_SECONDS="0.5") as node:
        send(node, tmp_path / "1", *first, *late[:3], *late[4:], *rest, *ct)

        planned = bids(out, *options, "--dry-run")
        assert (len(planned["change"]["added"]), out.exists(), (root / "bids.key").exists()) == (2, False, False)
        assert all(name.startswith("sub-PSEUDONYM1/ses-01/") for name in planned["change"]["added"])
        reasons = sorted(skipped["reason"].split(":")[0] for skipped in planned["skipped"])
        assert reasons == ["it is incomplete", 'rule "not MR or PET"']
        for asked in ((), ("--uids",)):
            printed = run("bids", out, *options, "--dry-run", *asked).stdout
            at = printed.index("         P1  2026-01-31  MR 3 t2_tse Secret")
            assert printed[:at].splitlines()[-1].startswith("not exported, 1: it is incomplete: ")
            assert (late[0].SeriesInstanceUID in printed, "P2  2026-01-31  CT" in printed) == (bool(asked), True)

        run("projects", "set", "trial", "--root", root, check=True)
        of_rest = ("--series", rest[0].SeriesInstanceUID)
        run("projects", "add", "trial", person["study_uid"], *of_rest, "--root", root, check=True)
        of_trial = bids(tmp_path / "trial", *options, "--project", "trial", "--dry-run")
        [name] = of_trial["change"]["added"]
        assert (name.endswith("_task-rest_bold"), of_trial["skipped"]) == (True, [])

        log = root / "audit.jsonl"
        assert "voxelnode bids" not in log.read_text()
        assert len(bids(out, *options)["change"]["added"]) == 2
        assert ": done, 2 volumes of 1 subject, 2 left out" in log.read_text().splitlines()[-1]
        none = run("bids", tmp_path / "none", "--where", 'modality == "PT"', "--root", root)
        assert "4 series do not fit --where. Their clauses: voxelnode select 'modality == \"PT\"' --why" in none.stdout
        assert not [path for path in (tmp_path / "none").rglob("*") if path.is_file()]
        assert images(out).keys() == {"suba_ses-01_T1w.nii.gz", "suba_ses-01_task-rest_bold.nii.gz"}
        [sidecar] = out.rglob("*_bold.json")
        fields = json.loads(sidecar.read_text())
        assert (fields["TaskName"], fields["RepetitionTime"]) == ("rest", 2.0)
        table = (out / "participants.tsv").read_text().splitlines()
        assert [line.split("\t")[1:] for line in table] == [["age", "sex"], ["46", "F"]]
        [scans] = out.rglob("*_scans.tsv")
        assert all(line.split("\t")[1] < "1925" for line in scans.read_text().splitlines()[1:])
        text = "".join(path.read_text() for path in out.rglob("*") if path.suffix in (".json", ".tsv"))
        text = re.sub(r"\b([0-9a-f]{32}|[0-9a-f]{64})\b", "", text)  # digests and keys, which may have any digits
        for reported in ("Secret", "P1", "2026", "1.2.826", person["study_uid"]):
            assert reported not in text, "it leads back to the patient"

        before = snapshot(out)
        assert export(root, rules, out).change == SessionChange()
        assert snapshot(out) == before

        again = make.mr_series(5, SeriesDescription="t1_mprage_sag", SeriesNumber=9, **person)
        send(node, tmp_path / "2", late[3], *again)
        change = export(root, rules, out, study=person["study_uid"]).change
        assert (len(change.added), len(change.renamed), change.replaced) == (2, 1, [])
        inodes = images(out)
        assert inodes.keys() == {
            *("suba_ses-01_run-1_T1w.nii.gz", "suba_ses-01_run-2_T1w.nii.gz"),
            *("suba_ses-01_T2w.nii.gz", "suba_ses-01_task-rest_bold.nii.gz"),
        }

        one_more = make.mr_series(7, SeriesDescription="t1_mprage_sag", SeriesNumber=2, **person)[6]
        one_more.SeriesInstanceUID, one_more.FrameOfReferenceUID = (
            first[0].SeriesInstanceUID,
            first[0].FrameOfReferenceUID,
        )
        send(node, tmp_path / "3", one_more)  # which makes the first series incomplete
        [left] = export(root, rules, out).left
        assert "run-1_T1w" in left.path
        assert "incomplete" in left.reason
        assert images(out) == inodes

        run("delete", again[0].SeriesInstanceUID, "--root", root, "--yes", check=True)
        reasons = {left.path.rpartition("_run-")[2]: left.reason for left in export(root, rules, out).left}
        assert reasons["2_T1w"] == "its series was deleted from the node"
        assert images(out) == inodes
        assert len(bids(out, *options, "--prune")["change"]["removed"]) == 2
        assert images(out).keys() == {"suba_ses-01_T2w.nii.gz", "suba_ses-01_task-rest_bold.nii.gz"}
        node.terminate()


def test_files_are_exported_without_a_node(tmp_path: Path, person: dict[str, Any]) -> None:
    make.saved(make.mr_series(5, SeriesDescription="t1_mprage", **person), tmp_path / "scans")
    key = tmp_path / "key"
    assert len(bids(tmp_path / "out", "--from", tmp_path / "scans", "--key", key)["change"]["added"]) == 1
    wrong = run("bids", tmp_path / "out", "--from", tmp_path / "scans", "--where", 'state == "converted"')
    assert "state is known only to a node" in wrong.stderr
    other = run("bids", tmp_path / "out", "--from", tmp_path / "scans", "--key", tmp_path / "other")
    assert (other.returncode, "was made with another key" in other.stderr) == (2, True)
    assert not (tmp_path / "other").exists()
    none = run("bids", tmp_path / "out", "--from", tmp_path / "scans", "--where", 'modality == "PT"', "--key", key)
    assert "1 series do not fit --where. Their clauses: voxelnode convert" in none.stdout
    assert len(images(tmp_path / "out")) == 1


def test_proposed_rules_are_a_file_for_the_next_run(tmp_path: Path, person: dict[str, Any]) -> None:
    make.saved(make.mr_series(5, SeriesDescription="mystery \x1b[1m", **person), tmp_path / "scans")
    rules, options = tmp_path / "rules.toml", ("--from", tmp_path / "scans", "--key", tmp_path / "key")
    drafted = run("bids", tmp_path / "out", *options, "--draft-rules", rules)
    assert drafted.returncode == 0, drafted.stderr
    reported, following = drafted.stdout.splitlines()
    assert reported == f"{rules}: 1 rule proposed, 1 of them not decided. Read it, then:"
    tried = run(*shlex.split(following)[1:])
    assert tried.returncode == 0, tried.stderr
    assert "nothing was written" in tried.stdout
    text = rules.read_text()
    assert text.replace("\n", "").isprintable()
    rules.write_text(re.sub("skip = .*", 'suffix = "T1w"', text))
    assert len(bids(tmp_path / "out", *options, "--rules", rules)["change"]["added"]) == 1
    more = run(
        "bids", tmp_path / "out", *options, "--rules", rules, "--draft-rules", tmp_path / "more.toml", check=True
    )
    assert more.stdout.startswith(f"{tmp_path / 'more.toml'}: 0 rules proposed")
    assert 'suffix = "T1w"' in (tmp_path / "more.toml").read_text()
    (tmp_path / "subjects.csv").write_text("patient_id,subject\nP1,01\n")
    rules.write_text('[subjects]\nmap = "subjects.csv"\n')
    elsewhere = tmp_path / "scans" / "rules.toml"
    refused = run("bids", tmp_path / "out", *options, "--rules", rules, "--draft-rules", elsewhere)
    assert refused.stderr.startswith(f"voxelnode: {elsewhere}: write it beside {rules}, ")
    again = run("bids", tmp_path / "out", *options, "--draft-rules", rules)
    assert (again.returncode, again.stderr) == (
        2,
        f"voxelnode: {rules}: is there already; give the name of a new file\n",
    )


def test_spectra_and_recordings_have_their_places_in_a_data_set(tmp_path: Path, person: dict[str, Any]) -> None:
    """The recording is of the time series that began at its first volume and has as many, whatever its name is."""
    texts = pulse_and_breath(volumes=3, step=800, began=(10 * 3600 + 15 * 60) * 400)
    scans = [
        *make.time_series(3, SeriesDescription="rest", RepetitionTime="2000", **EPI, **person),
        *make.time_series(4, SeriesDescription="rest", RepetitionTime="2000", **EPI, **person),
        enhanced_spectra(SeriesDescription="svs_se", **person),
        recording(texts, rows=64, SeriesDescription="rest_PhysioLog", **person),
        recording(pulse_and_breath(), rows=64, SeriesDescription="rest_PhysioLog", **person),
    ]
    make.saved(scans, tmp_path / "scans")
    out, key = tmp_path / "out", tmp_path / "key"
    report = bids(out, "--from", tmp_path / "scans", "--key", key)
    assert [row["reason"] for row in report["skipped"]] == [
        "no time series of its study began when the recording says, with as many volumes"
    ]
    [spectra] = out.rglob("mrs/*_svs.nii.gz")
    assert b"SpectrometerFrequency" in gzip.decompress(spectra.read_bytes())[:2000]
    assert json.loads(spectra.with_name(spectra.name.replace(".nii.gz", ".json")).read_text())["EchoTime"] == 0.03
    [table] = out.rglob("func/*_physio.tsv.gz")
    [image] = [path for path in out.rglob("func/*_bold.nii.gz") if nib.load(path).shape[3] == 3]
    assert table.name.removesuffix("_physio.tsv.gz") == image.name.removesuffix("_bold.nii.gz")
    sidecar = json.loads(table.with_name(table.name.replace(".tsv.gz", ".json")).read_text())
    assert (sidecar["SamplingFrequency"], sidecar["StartTime"], sidecar["Columns"][0]) == (400.0, -1.0, "cardiac")
    assert sidecar["cardiac"]["Description"]
    [scanned] = out.rglob("*_scans.tsv")
    assert "_physio" not in scanned.read_text()
    assert not bids(out, "--from", tmp_path / "scans", "--key", key)["change"]["added"]


def test_two_people_with_one_patient_id_are_two_subjects_by_study(tmp_path: Path, person: dict[str, Any]) -> None:
    """In a node, where each of them is a patient, as well as in a folder of files."""
    other = {**person, "study_uid": make.generate_uid(), "StudyDate": "20260215"}
    other |= {"PatientName": "Tester^Chris", "PatientBirthDate": "19700101", "PatientSex": "M"}
    people = [make.mr_series(5, SeriesDescription="t1_mprage", **each) for each in (person, other)]
    root, rules, table = tmp_path / "root", tmp_path / "rules.toml", tmp_path / "subjects.csv"
    with Served(root, VOXELNODE_SERIES__QUIET_SECONDS="0.5") as node:
        for number, instances in enumerate(people):
            send(node, tmp_path / "scans" / str(number), *instances)
        node.terminate()
    rules.write_text("")
    assert export(root, rules, tmp_path / "of-routes", person["study_uid"]).volumes == 0
    for source in (("--root", root), ("--from", tmp_path / "scans")):
        options = (tmp_path / "out", *source, "--key", tmp_path / "key", "--dry-run")
        assert [one["reason"].partition(":")[0] for one in bids(*options)["skipped"]] == [
            "several patients have one label"
        ] * 2
        rules.write_text('[subjects]\nmap = "subjects.csv"\n')
        table.write_text("patient_id,subject\nP1,77\n")
        assert [one["reason"].partition(":")[0] for one in bids(*options, "--rules", rules)["skipped"]] == [
            "several patients have this Patient ID"
        ] * 2
        table.write_text("patient_id,study_date,subject\nP1,2026-01-31,77\nP1,2026-02-15,78\n")
        report = bids(*options, "--rules", rules)
        assert sorted(path.partition("/")[0] for path in report["change"]["added"]) == ["sub-77", "sub-78"]
        assert report["skipped"] == []
