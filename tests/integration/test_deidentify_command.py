"""``voxelnode deidentify`` and ``voxelnode pseudonyms`` as processes, from files to files and to volumes."""

import csv
import io
import json
import zipfile
from pathlib import Path

import pytest
from pydicom import Dataset, config, dcmread

from node.audit.audit_log import Audit, AuditAction, AuditEvent, AuditMessage
from node.children.pseudonyms import Patient, passing_key, read_keys
from node.extensions.deidentify.deidentification import Deidentification
from node.extensions.deidentify.files import deidentify_files
from node.extensions.deidentify.profile import Option, Profile
from node.extensions.deidentify.remaining import Loss
from tests import make
from tests.leaks import leaks
from tests.preloaded import run

RULES = '[[device]]\nwhen = { Manufacturer = "Example", Modality = "OT" }\nblank = [[0, 0, 10, 2]]\n'


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CT in a folder, another study of its patient in a zip file, a capture, a report and a note."""
    folder = tmp_path_factory.mktemp("originals") / "Secret"
    named = {"PatientName": "Secret^Person", "PatientID": "SECRET-4711", "AccessionNumber": "ACC-4711"}
    make.saved(make.ct_series(4, SeriesDescription="Thorax Secret", **named), folder)
    with zipfile.ZipFile(folder / "later.zip", "w") as archive:
        later = io.BytesIO()
        make.ct_series(1, StudyDate="20260102", **named)[0].save_as(later, enforce_file_format=True)
        archive.writestr("later.dcm", later.getvalue())
    make.rgb_capture(**named).save_as(folder / "capture.dcm", enforce_file_format=True)
    make.structured_report(**named).save_as(folder / "report.dcm", enforce_file_format=True)
    (folder / "notes.txt").write_text("Secret")
    return folder


@pytest.mark.parametrize("retain", [set(), {Option.SAFE_PRIVATE}])
def test_series_whose_volumes_lose_something_are_counted(corpus: Path, tmp_path: Path, retain: set[Option]) -> None:
    make.saved(make.siemens_dwi_series(SeriesNumber=7, SeriesDescription="ep2d_diff"), tmp_path / "dwi")
    how = Deidentification(Profile(frozenset(retain)), passing_key())
    inputs = [tmp_path / "dwi", corpus / "dcm_qa_nih" / "siemens-mosaic-ap", corpus / "dcm_qa_ct"]
    done = deidentify_files(inputs, tmp_path / "out", how)
    found = {(one.number, one.description): one.lost for one in done.less.values()}
    gradients = {Loss.B_VALUES, Loss.DIRECTIONS}
    assert found.pop((7, "ep2d_diff"), set()) == (set() if retain else gradients)
    assert [*found.values()] == [{*Loss} - gradients - {Loss.ECHO_TIMES}]
    assert done.less.keys() <= {ds.SeriesInstanceUID for ds in results(tmp_path / "out")}


@pytest.mark.slow
def test_the_command_names_series_whose_volumes_lose_something(tmp_path: Path) -> None:
    make.saved(make.siemens_dwi_series(SeriesNumber=7, SeriesDescription="ep2d_diff"), tmp_path / "dwi")
    lines = run("deidentify", tmp_path / "dwi", tmp_path / "out", check=True).stdout.splitlines()
    assert lines[0] == "lost series 7 ep2d_diff: b-values, gradient directions"
    assert lines[1].startswith("1 series lost what volumes are made with; for volumes, convert the originals by ")
    assert lines[1].endswith("; safe-private keeps b-values and directions of some vendors")


def results(out: Path) -> list[Dataset]:
    return [dcmread(path) for path in sorted(out.rglob("*.dcm"))]


@pytest.mark.slow
def test_files_become_files_without_identities_and_these_become_volumes(originals: Path, tmp_path: Path) -> None:
    key, out, rules = tmp_path / "trial.key", tmp_path / "clean", tmp_path / "rules.toml"
    rules.write_text(RULES)
    assert run("pseudonyms", "new", key, "--name", "t1").returncode == 0
    order = ["--key", key, "--retain", "modified-dates", "--clean", "descriptors"]

    done = run("deidentify", originals, out, *order, "--report", tmp_path / "report.csv")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(": ")[1] for line in lines if line.startswith("refused")] == [
        "secondary-capture",
        "structured-report",
    ]
    assert lines[-2:] == [
        f"skipped {originals}/notes.txt: not a DICOM file",
        f"5 instances of 1 patient, 2 refused, 1 skipped: {out}",
    ]
    assert "Secret" not in done.stderr
    report = (tmp_path / "report.csv").read_text()
    assert "secret" not in report.lower()
    rows = list(csv.DictReader(io.StringIO(report)))
    assert [(row["value"], row["count"]) for row in rows if row["attribute"] == "Modality"] == [("CT", "5")]
    assert ("SeriesDescription", "(0008,103E)", "LO", "Thorax", "4") in [tuple(row.values()) for row in rows]
    assert [row["value"] for row in rows if row["attribute"] == "SOPInstanceUID"] == ["2.25."]
    everything = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file()).lower()
    assert b"secret" not in everything
    assert b"-4711" not in everything  # four digits alone are in many a UID
    assert not any("secret" in str(path.relative_to(out)).lower() for path in out.rglob("*"))
    assert {ds.SeriesDescription for ds in results(out) if "SeriesDescription" in ds} == {"Thorax"}
    before = {path: path.read_bytes() for path in out.rglob("*.dcm")}

    again = json.loads(run("deidentify", originals, out, *order, "--pixel-rules", rules, "--json").stdout)
    assert (again["written"], again["key"], len(again["patients"]), again["lost"]) == (6, "t1", 1, [])
    assert [row["reason"] for row in again["refused"]] == ["structured-report"]
    assert {path: path.read_bytes() for path in before} == before  # one key, the same bytes
    [capture] = [ds for ds in results(out) if ds.Modality == "OT"]
    assert not capture.pixel_array[:2].any()

    configuration, root = tmp_path / "voxelnode.toml", tmp_path / "root"
    root.mkdir()
    audit = Audit(root, "VOXELNODE")  # of a node that does not run
    audit.close()
    table = f'[storage]\nroot = "{root}"\n'
    table += f'[deidentify.trial]\nkey = "{key}"\nretain = ["modified-dates"]\nclean = ["descriptors"]\n'
    configuration.write_text(table)
    named = run("deidentify", originals, tmp_path / "named", "--profile", "trial", "--config", configuration)
    assert named.returncode == 0, named.stderr
    began, ended = [json.loads(line) for line in (root / "audit.jsonl").read_text().splitlines()]
    how = f"voxelnode deidentify {originals} to {tmp_path / 'named'}, key t1, descriptors, modified-dates"
    assert (began["detail"], began["event"]["meaning"]) == (f"{how}: begun", "Export")
    assert ended["detail"] == f"{how}: done, 5 instances of 1 patient written, 2 refused"
    assert {path.relative_to(tmp_path / "named") for path in (tmp_path / "named").rglob("*.dcm")} == {
        path.relative_to(out) for path in before
    }
    assert run("config", "check", "--config", configuration).returncode == 0
    key.chmod(0o644)
    wrong = run("config", "check", "--config", configuration)
    assert f"[deidentify.trial] {key}: others may read or change the key" in wrong.stderr
    key.chmod(0o600)

    (originals / "notes.txt").write_text("no instance")
    make.instance(PatientID="=1+1").save_as(originals / "formula.dcm", enforce_file_format=True)
    mapped = run("pseudonyms", "map", key, originals)
    assert "1 file without pseudonyms" in mapped.stderr
    assert "notes.txt" in mapped.stderr
    reported = list(csv.DictReader(io.StringIO(mapped.stdout)))
    patients = {row["original"]: row["pseudonym"] for row in reported if row["kind"] == "patient"}
    assert patients.keys() == {"SECRET-4711", "'=1+1"}
    assert {ds.PatientID for ds in results(out)} == {patients["SECRET-4711"]}

    volumes = tmp_path / "volumes"
    assert run("convert", out, "-o", volumes, "--thumbnails").returncode == 0
    profile = Profile(frozenset((Option.MODIFIED_DATES, Option.DESCRIPTORS)))
    written = b"".join(path.read_bytes() + path.name.encode() for path in volumes.rglob("*") if path.is_file())
    assert leaks(dcmread(originals / "0000.dcm"), written, profile) == []
    assert list(volumes.rglob("*Thorax*.nii.gz"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--retain", "everything"], "--retain everything: no such option"),
        (["--retain", "full-dates,modified-dates"], "exclude each other"),
        (["--allow", "structured-report"], "--allow structured-report: no such risk"),
        (["--profile", "trial"], "no table [deidentify.trial] in the configuration; there are none"),
        (["--profile", "trial", "--retain", "uids"], "give either it or the others"),
        (["--key", "missing.key"], "make one by `voxelnode pseudonyms new missing.key`"),
    ],
)
def test_a_wrong_order_is_refused(originals: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run("deidentify", originals, tmp_path / "out", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_results_are_never_among_the_originals(originals: Path) -> None:
    done = run("deidentify", originals, originals / "clean")
    assert done.returncode == 2
    assert "choose a folder for the results that is apart from" in done.stderr


def test_nothing_written_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "1.dcm").write_bytes(b"Secret")
    done = run("deidentify", tmp_path / "1.dcm", tmp_path / "out")
    assert done.returncode == 1
    assert done.stdout.endswith(f"0 instances of 0 patients, 0 refused, 1 skipped: {tmp_path / 'out'}\n")


@pytest.mark.parametrize("uid", ["..", ".", "...", "1.2/../../3"])
def test_uids_that_stay_never_lead_out_of_the_folder_of_results(tmp_path: Path, uid: str) -> None:
    originals, out = tmp_path / "data" / "in", tmp_path / "data" / "out"
    originals.mkdir(parents=True)
    with config.disable_value_validation():
        ds = make.instance(study_uid=uid, series_uid=uid, sop_instance_uid="1.2.3")
        ds.save_as(originals / "a.dcm", enforce_file_format=True)
    (victim := tmp_path / "data" / "1.2.3.dcm").write_bytes(b"a file beside the results")
    how = Deidentification(Profile(frozenset({Option.UIDS})), passing_key())
    summary = deidentify_files([originals], out, how)
    assert victim.read_bytes() == b"a file beside the results"
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - {victim, originals / "a.dcm"}
    assert all(path.is_relative_to(out) for path in written)
    assert len(written) == summary.written == 1


@pytest.mark.slow
def test_the_map_of_a_root_has_the_pseudonyms_of_corrected_patients(originals: Path, tmp_path: Path) -> None:
    root, key = tmp_path / "root", tmp_path / "trial.key"
    for line in (
        ["pseudonyms", "new", key],
        ["import", originals / "0000.dcm", "--root", root],
        ["patient", "correct", "SECRET-4711", "--id", "RIGHT-1", "--name", "Right^Name", "--root", root],
    ):
        run(*line, check=True)
    stored = next(path for path in (root / "objects").rglob("*") if path.is_file() and path.stat().st_size > 500)

    def mapped(place: Path) -> list[tuple[str, str]]:
        lines = csv.DictReader(io.StringIO(run("pseudonyms", "map", key, place, check=True).stdout))
        return [(row["original"], row["pseudonym"]) for row in lines if row["kind"] == "patient"]

    [made] = read_keys(key)
    files, right = ((one, made.patient(Patient("", one))) for one in ("SECRET-4711", "RIGHT-1"))
    for place in (root, root / "objects", stored.parent, stored):
        assert mapped(place) == [files, right]
    run("patient", "separate", "SECRET-4711", "--root", root, check=True)
    assert mapped(root) == [files]
    left = {"study_instance_uid": str(dcmread(stored).StudyInstanceUID), "patient_id": "RIGHT-1"}
    audit = Audit(root, "VOXELNODE")
    audit.note(AuditMessage.by("pacs", AuditEvent.INSTANCES_TRANSFERRED, AuditAction.READ, "", [left]))
    audit.close()
    assert mapped(root) == [files, right], "whoever has a copy from before the separation"
