import json
import re
import signal
import subprocess
import sys
import zipfile
from copy import deepcopy
from glob import glob
from pathlib import Path

import numpy as np
import pydicom
import pytest

from node.api import read_voxels
from node.extensions.demo.known_series import Phantom, Truth, difference, head_phantom
from tests import make
from tests.make import PYDICOM_FILES
from tests.mirrored import polarity_series
from tests.preloaded import run

SHIPPED = PYDICOM_FILES / "dicomdirtests"


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return head_phantom()


@pytest.fixture(scope="module")
def scan(phantom: Phantom, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scan")
    make.saved(phantom.instances, folder)
    (folder / "notes.txt").write_text("no DICOM")
    return folder


def voxelnode(*arguments: object) -> tuple[int, dict, str]:
    done = run(*arguments, "--json")
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_a_folder_and_its_zip_file_are_converted_right(phantom: Phantom, scan: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "scan.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in scan.iterdir():
            archive.write(path, path.name)
    truth = Truth("", phantom.hounsfield, phantom.affine_lps)
    for source in (scan, tmp_path / "scan.zip"):
        out = tmp_path / f"out-{source.suffix}"
        status, listing, _ = voxelnode("convert", source, "-o", out, "--format", "nifti,mhd", "--thumbnails")
        assert status == 0
        assert listing == json.loads((out / "conversion.json").read_text(encoding="utf-8"))
        assert listing["refusals"] == []
        assert len(listing["not_dicom"]) == 1
        files = {row["format"]: row for row in listing["volumes"]}
        assert set(files) == {"nifti", "mhd", "png"}
        assert files["nifti"]["series_instance_uid"] == phantom.series_instance_uid
        assert files["nifti"]["shape"] == [176, 208, 60]
        assert files["nifti"]["instances"] == 60
        assert np.allclose(files["nifti"]["spacing_mm"], (1.2, 1.2, 3.4))
        assert difference(truth, *read_voxels(out / files["nifti"]["path"])) is None
        assert difference(truth, *read_voxels(out / files["mhd"]["path"])) is None


@pytest.mark.slow
def test_the_formats_are_those_that_were_asked_for(scan: Path, tmp_path: Path) -> None:
    status, listing, _ = voxelnode("convert", scan, "-o", tmp_path / "out", "--no-compress")
    assert status == 0
    folder = "001_Oblique_head_phantom"
    assert [row["path"] for row in listing["volumes"]] == [f"{folder}/{folder}.nii"]
    options = ("--flat", "-f", "%i_%s", "--format", "nrrd,npz", "--format", "analyze", "--mask")
    status, listing, err = voxelnode("convert", scan, "-o", tmp_path / "flat", *options)
    assert status == 0
    assert err == "voxelnode: -f '%i_%s', of dcm2niix, is --name '{patient_id}_{series_number}'\n"  # as --flat is given
    stems = ("VOXELNODE-DEMO_1", "VOXELNODE-DEMO_1_mask")
    assert {path.name for path in (tmp_path / "flat").iterdir()} == {
        "conversion.json",
        *(f"{stem}{end}" for stem in stems for end in (".json", ".npz", ".nrrd", "_analyze.hdr", "_analyze.img")),
    }


@pytest.mark.slow
def test_the_configuration_tells_the_formats_if_it_names_any(scan: Path, tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('[convert]\nformats = ["npz"]\nthumbnails = true\n')
    _, listing, _ = voxelnode("convert", scan, "-o", tmp_path / "out", "--config", tmp_path / "site.toml")
    assert [row["format"] for row in listing["volumes"]] == ["npz", "png"]


@pytest.mark.slow
def test_each_series_is_reported_in_one_line_and_what_was_skipped_by_name(scan: Path, tmp_path: Path) -> None:
    series, skipped, files, total = run("convert", scan, "-o", tmp_path / "out").stdout.splitlines()
    assert series.split("  ")[-1] == "001_Oblique_head_phantom/001_Oblique_head_phantom.nii.gz"
    assert "176 x 208 x 60" in series
    assert skipped == f"skipped {scan / 'notes.txt'}: not a DICOM file"
    assert files == "61 files: 60 used, 1 skipped"
    assert re.fullmatch(r"1 series: 1 converted \(1 file\) in \d+\.\d s: .*conversion\.json", total)


def test_of_two_files_of_one_instance_it_is_said_which_is_used(tmp_path: Path) -> None:
    series = make.ct_series(3)
    other, cut = deepcopy(series[0]), deepcopy(series[1])
    other.PixelData = bytes(len(other.PixelData))
    del cut.PixelData
    make.saved([*series, other, cut, series[2]], tmp_path)
    line, instead, without, files, total = run("convert", tmp_path, "-o", tmp_path / "out").stdout.splitlines()
    assert "suspect: 1 file has the SOP Instance UID of another, but not the same content; " in line
    assert "; 1 copy of the same content left out; " in line
    assert instead.endswith(f", which is used: left out {tmp_path}/0003.dcm, used {tmp_path}/0000.dcm")
    assert without.endswith(f" without Pixel Data (7FE0,0010): left out {tmp_path}/0004.dcm, used {tmp_path}/0001.dcm")
    assert files == "6 files: 3 used, 2 excluded, 1 duplicate"
    assert total.startswith("1 series: 1 converted (1 file) in ")


@pytest.mark.parametrize("announced", [{}, {"ImagesInAcquisition": 6}])
def test_a_line_tells_each_fact_once_and_what_lies_beside_the_volume(announced: dict, tmp_path: Path) -> None:
    make.saved(make.gap_series(6, **announced), tmp_path / "in")
    line, *_ = run("convert", tmp_path / "in", "-o", tmp_path / "out").stdout.splitlines()
    assert line.count("missing-slice") == 1
    told = "  (incomplete: missing-slice: 1 slice between others is missing at 2.5 mm spacing, after slice 4; "
    assert told in line
    assert ("5 of 6 instances" in line) == bool(announced)
    assert line.endswith("; its slices are uneven: use the resampled copy, in which slice 5 is interpolated)")


def test_a_warning_is_told_with_its_sentence(tmp_path: Path) -> None:
    make.saved(make.tilted_ct_series(4), tmp_path / "in")
    line, *_ = run("convert", tmp_path / "in", "-o", tmp_path / "out").stdout.splitlines()
    assert "gantry-tilt: the gantry is tilted by 15.00 degrees; " in line


def test_a_report_is_a_file_and_a_document_no_refusal(tmp_path: Path) -> None:
    images = make.ct_series(3, study_uid="1.2.3", series_uid="1.2.3.1")
    diameter = make.measured(("410668003", "SCT", "Length"), "12.5", "mm")
    report = make.measurement_report(images, diameter, series_uid="1.2.3.2")
    plain = make.structured_report(study_uid="1.2.3", series_uid="1.2.3.3")
    make.saved([*images, report, plain], tmp_path / "in")
    printed = run("convert", tmp_path / "in", "-o", tmp_path / "out").stdout
    assert "  report: " in printed
    assert "_measurements.json" in printed
    assert "  no image: Comprehensive SR Storage" in printed
    assert "refused" not in printed
    assert "3 series: 2 converted (2 files), 1 without image in " in printed


def test_the_total_accounts_for_every_series_and_few_that_are_left_out_are_printed(tmp_path: Path) -> None:
    lost = make.ct_series(2)
    for instance in lost:
        del instance.PixelData
    one = {"study_uid": "1.2", "series_uid": "1.2.9"}
    partial = [*make.ct_series(3, **one), *make.ct_series(4, rows=20, **one)]
    for instance in partial[3:]:  # nothing tells them apart
        instance.ImagePositionPatient = [0, 0, 0]
        del instance.InstanceNumber
    others = [instance for _ in range(7) for instance in make.mr_series(1)]
    make.saved([*make.ct_series(2), *lost, *partial, *others], tmp_path / "in")
    printed = run("convert", tmp_path / "in", "-o", tmp_path / "out", "--exclude", "modality == 'MR'").stdout
    assert "10 series: 2 converted, 1 of them in part (2 files), 1 refused, 7 left out in " in printed
    assert printed.count("it fits --exclude") == 5
    assert "\nleft out 2 more series; --json lists all\n" in printed
    assert "\n18 files: 5 used, 6 refused, 7 not chosen\n" in printed


@pytest.mark.slow
def test_a_run_of_a_part_says_that_the_earlier_volume_stays_and_what_helps(tmp_path: Path) -> None:
    series = make.ct_series(5)
    for name, instances in (("early", series[:4]), ("late", series[4:])):
        make.saved(instances, tmp_path / name)
    run("convert", tmp_path / "early", "-o", tmp_path / "out")
    said = "kept 001_CT: it has 4 instances of this series that are not in IN; convert all files of the series together"
    for option in ((), ("--list",)):
        assert said in run("convert", tmp_path / "late", "-o", tmp_path / "out", *option).stdout


def test_a_structure_set_without_its_images_is_refused_once(tmp_path: Path) -> None:
    images = make.ct_series(3)
    point = make.contour([(1.0, 1.0, 0.0)], [images[0]], kind="POINT")
    square = [(20.0, 40.0), (40.0, 40.0), (40.0, 60.0), (20.0, 60.0)]
    region = make.contour(make.on_slice(images[0], square), [images[0]])
    make.saved([make.structure_set(images, {"mark": [point], "Heart": [region]})], tmp_path / "in")
    line, files, total = run("convert", tmp_path / "in", "-o", tmp_path / "out").stdout.splitlines()
    assert "which is not here: with it, the masks are made" in line
    assert files == "1 file: 1 refused"
    assert total.startswith("1 series: 0 converted (0 files), 1 refused in ")


def test_a_list_promises_no_file_of_a_class_without_image(tmp_path: Path) -> None:
    plan, state = (make.structured_report() for _ in range(2))
    labels = make.ct_series(1)
    labels[0].SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.7"
    plan.SOPClassUID, state.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.5", "1.2.840.10008.5.1.4.1.1.11.1"
    make.saved([*make.ct_series(1), *labels, plan, state], tmp_path / "in")
    options = ("convert", tmp_path / "in", "-o", tmp_path / "out", "--list")
    lines = run(*options).stdout.splitlines()
    assert len([line for line in lines if line.endswith("  no image")]) == 2
    assert len([line for line in lines if "  -> " in line]) == 2
    assert len([line for line in lines if "  Label Map Segmentation Storage  -> " in line]) == 1
    _, listed, _ = voxelnode(*options)
    assert sorted(row["path"] is None for row in listed["series"]) == [False, False, True, True]


@pytest.mark.slow
def test_several_studies_have_folders_and_several_people_are_reported(tmp_path: Path) -> None:
    people = {"PatientName": "Doe^Jane", "PatientID": "P1"}, {"PatientName": "Roe^Ann", "PatientID": "P2\x1b[31m"}
    instances = [ds for of_one in people for ds in make.ct_series(3, StudyDate="20261120", **of_one)]
    make.saved(instances, tmp_path / "in")
    for options in ((), ("--list",)):
        done = run("convert", tmp_path / "in", "-o", tmp_path / "out", *options)
        assert done.stderr.splitlines()[0].startswith("voxelnode: 2 people: P1, P2")
        assert "If you expected one, check IN." in " ".join(done.stderr.split())
        assert "\x1b" not in done.stderr
        assert "Doe_Jane_20261120_CT/001_CT" in done.stdout
    made = [str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.nii.gz")]
    assert sorted(made) == ["Doe_Jane_20261120_CT/001_CT.nii.gz", "Roe_Ann_20261120_CT/001_CT.nii.gz"]

    done = run("convert", tmp_path / "in", "-o", tmp_path / "nobody", "--anonymous")
    assert done.stderr.splitlines() == ["voxelnode: 2 people. If you expected one, check IN."]
    names = [str(path) for path in (tmp_path / "nobody").rglob("*")]
    text = "".join([done.stdout, *names, (tmp_path / "nobody" / "conversion.json").read_text(encoding="utf-8")])
    assert not [word for word in ("Doe", "Roe", "P1", "P2", "20261120") if word in text]
    assert len({path.parent for path in (tmp_path / "nobody").rglob("*.nii.gz")}) == 2

    make.saved(instances[:3], tmp_path / "one")
    done = run("convert", tmp_path / "one", "-o", tmp_path / "single")
    assert "people" not in done.stderr
    assert [path.relative_to(tmp_path / "single") for path in (tmp_path / "single").rglob("*.nii.gz")] == [
        Path("001_CT/001_CT.nii.gz")
    ]


def test_a_series_that_is_left_out_is_called_by_its_name(scan: Path, tmp_path: Path) -> None:
    done = run("convert", scan, "-o", tmp_path / "out", "--exclude", "modality == 'CT'")
    assert done.stdout.splitlines()[0] == "   1  CT   left out Oblique head phantom, 60 instances: it fits --exclude"


@pytest.mark.slow
def test_mirrored_volumes_are_turned_back_unless_that_is_switched_off(tmp_path: Path) -> None:
    make.saved(polarity_series(2), tmp_path / "in")
    _, repaired, _ = voxelnode("convert", tmp_path / "in", "-o", tmp_path / "repaired")
    assert [Path(row["path"]).name.split("_")[-1] for row in repaired["volumes"]] == ["dirPA.nii.gz", "dirAP.nii.gz"]
    sidecar = tmp_path / "repaired" / repaired["volumes"][0]["path"].replace(".nii.gz", ".json")
    assert "User Data 12 (0019,xxB3) of epi_pepolar is 2" in sidecar.read_text(encoding="utf-8")
    _, left, _ = voxelnode("convert", tmp_path / "in", "-o", tmp_path / "left", "--no-repair")
    assert [row["shape"] for row in left["volumes"]] == [[12, 16, 4, 4]]


def test_a_list_reads_headers_and_writes_nothing(scan: Path, tmp_path: Path) -> None:
    done = run("convert", scan, "-o", tmp_path / "out", "--list")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].endswith("out/001_Oblique_head_phantom/001_Oblique_head_phantom")
    assert done.stdout.endswith("1 series with 60 instances; nothing was written\n")
    _, plan, _ = voxelnode("convert", scan, "-o", tmp_path / "out", "--list", "--anonymous")
    [series] = plan["series"]
    assert (series["name"], series["instances"], series["series_description"]) == ("001_CT", 60, None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "reported"),
    [
        (["-f", "mhd"], "for the format mhd, use --format mhd"),
        (["-f", "%p_%r"], "%r has no equivalent here"),
        (["--name", "{patient}"], "there is no token {patient}"),
        (["--name", "{patient_id}", "--anonymous"], "{patient_id} would be shown"),
        (["--format", "nifti,dicom"], "'dicom': must be 'nifti', 'nifti-pair', 'analyze', 'mhd', 'nrrd' or 'npz'\n"),
        (["--format", "MetaImage"], "'nrrd' or 'npz', did you mean \"mhd\"?\n"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_written(
    options: list[str], reported: str, scan: Path, tmp_path: Path
) -> None:
    done = run("convert", scan, "-o", tmp_path / "out", *options)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert reported in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_volume_ends_with_1_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("no DICOM")
    status, listing, _ = voxelnode("convert", tmp_path / "in", "-o", tmp_path / "out")
    assert status == 1
    assert listing["volumes"] == []
    assert [file["reason"] for file in listing["not_dicom"]] == ["not a DICOM file"]


@pytest.mark.slow
def test_import_takes_a_medium_once_and_a_dry_run_takes_nothing(tmp_path: Path) -> None:
    root = ("--root", tmp_path / "root")
    status, survey, _ = voxelnode("import", SHIPPED, "--dry-run", *root)
    assert (status, survey["instances"], len(survey["not_dicom"])) == (0, 81, 10)
    assert not (tmp_path / "root").exists()
    status, first, _ = voxelnode("import", SHIPPED, *root)
    assert (status, first["stored"], first["already_there"], first["refused"]) == (0, 81, 0, [])
    assert len(first["not_dicom"]) == 10
    status, again, _ = voxelnode("import", SHIPPED / "DICOMDIR", *root)
    assert (status, again["stored"], again["already_there"]) == (0, 0, 31)
    _, reported, _ = voxelnode("status", *root)
    assert reported["instances"] == 81
    assert set(reported["series"]) == {"receiving"}


@pytest.mark.slow
def test_a_series_beyond_the_limits_fails_alone_and_the_status_tells(scan: Path, tmp_path: Path) -> None:
    huge, pixels = make.ct_series(1)[0], np.zeros((12_500, 12_500), np.int16)
    huge.Rows, huge.Columns, huge.PixelData = *pixels.shape, pixels.tobytes()
    huge.save_as(tmp_path / "huge.dcm", enforce_file_format=True)
    (tmp_path / "small.toml").write_text("[convert]\nmemory_bytes = 500_000_000\n")
    options = ("--config", tmp_path / "small.toml", "--workers", 2)
    status, listing, _ = voxelnode("convert", tmp_path / "huge.dcm", scan, "-o", tmp_path / "out", *options)
    assert status == 1
    [refusal] = listing["refusals"]
    assert (refusal["series_instance_uid"], refusal["reason"]) == (huge.SeriesInstanceUID, "failed")
    assert "500000000 bytes ([convert] memory_bytes)" in refusal["detail"]
    assert {row["series_instance_uid"] for row in listing["volumes"]} != {huge.SeriesInstanceUID}
    assert {row["format"] for row in listing["volumes"]} == {"nifti"}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing_unfinished(number: signal.Signals, status: int, scan: Path, tmp_path: Path) -> None:
    for series in range(8):
        for path in scan.glob("*.dcm"):
            instance = pydicom.dcmread(path)
            instance.SeriesInstanceUID = f"1.2.3.{series}"
            instance.save_as(tmp_path / f"{series}-{path.name}")
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "node", "convert", str(tmp_path), "-o", str(out)],
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # a shell ignores SIGINT for what it runs behind it
        stderr=subprocess.PIPE,
        text=True,
    )
    while not glob(f"{out}/.converting-*/*/*"):  # which takes a second in all; folders may go meanwhile
        assert process.poll() is None, "it ended before a conversion was seen"
    process.send_signal(number)
    _, reported = process.communicate(timeout=30)
    assert process.returncode == status
    assert re.fullmatch(r"voxelnode: stopped after \d series; run it again for all of them\n", reported)
    assert not list(out.glob(".*"))
    listed = json.loads((out / "conversion.json").read_text())["volumes"] if (out / "conversion.json").exists() else []
    assert {out / row["path"] for row in listed} == {*out.rglob("*.nii.gz")}


@pytest.mark.slow
def test_it_converts_where_nothing_is_open_to_read_or_print(scan: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "node", "convert", str(scan), "-o", str(tmp_path / "out")]
    closed = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], timeout=100, check=False)
    assert closed.returncode == 0
    assert json.loads((tmp_path / "out" / "conversion.json").read_text(encoding="utf-8"))["refusals"] == []
