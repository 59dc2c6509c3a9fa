"""`convert` without a node: what is one series, what is not, and what is told."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from node.api import ChildCancelled, UsageError, VoxelnodeError
from node.conversion.found_series import HEAD_BYTES, chosen
from node.conversion.job import ConversionJob, Converted
from node.conversion.naming import name_template
from node.conversion.offline import convert_folder, planned
from node.conversion.out_folder import Layout
from node.conversion.pool import ConverterDied
from node.receive.dicom_files import identify
from node.settings.section import Convert
from node.writers.options import write_options
from tests import make
from tests.converting import here
from tests.unit.volume.describe.test_uptake import pet_series
from tests.volumes import unpacked

OPTIONS = write_options(Convert(thumbnails=False, formats=("nifti",)))


def saved(instances: list, folder: Path) -> Path:
    make.saved(instances, folder)
    return folder


def converted(folder: Path, instances: list) -> dict[str, Any]:
    """Convert instances in a folder called `in` to one called `out`; return the listing."""
    return convert_folder([saved(instances, folder / "in")], folder / "out", OPTIONS, here)


def test_a_series_uid_in_two_studies_gives_two_volumes_and_two_folders(tmp_path: Path) -> None:
    one, other = (make.ct_series(4, series_uid="1.2.3") for _ in range(2))
    assert one[0].StudyInstanceUID != other[0].StudyInstanceUID
    listing = converted(tmp_path, one + other)
    assert [row["instances"] for row in listing["volumes"]] == [4, 4]
    assert len({row["path"] for row in listing["volumes"]}) == 2
    assert all((tmp_path / "out" / row["path"]).is_file() for row in listing["volumes"])


@pytest.mark.parametrize("intercept", [0, -1024])  # 0: NIfTI and MetaImage share their compressed voxels
def test_gzip_finds_no_fault_in_a_compressed_volume(tmp_path: Path, intercept: int) -> None:
    options = write_options(Convert(thumbnails=False))
    source = saved(make.ct_series(4, rows=500, columns=510, RescaleIntercept=intercept), tmp_path / "in")
    listing = convert_folder([source], tmp_path / "out", options, here)
    assert {row["format"] for row in listing["volumes"]} == {"nifti", "mhd"}
    [nifti] = (tmp_path / "out").rglob("*.nii.gz")
    subprocess.run(["gzip", "--test", str(nifti)], check=True)


def test_a_copy_of_an_instance_is_not_counted_in_the_place_of_a_missing_one(tmp_path: Path) -> None:
    instances = make.ct_series(6, ImagesInAcquisition=6)
    [series] = converted(tmp_path, [*instances[:4], *instances[:2]])["series"]
    assert (series["verdict"]["state"], series["verdict"]["received"]) == ("incomplete", 4)
    assert "4 of 6 instances" in series["verdict"]["reason"]
    [plan] = planned([tmp_path / "in"], tmp_path / "out", Layout())["series"]
    assert plan["instances"] == 4


def test_counts_of_images_say_nothing_of_a_series_without_images(tmp_path: Path) -> None:
    """Key objects, presentation states and documents have copied headers of the images that they are about."""
    report = make.structured_report(ImagesInAcquisition=15, NumberOfSlices=15)
    lost = make.ct_series(2, ImagesInAcquisition=15)
    for ds in lost:
        del ds.PixelData
    listing = converted(tmp_path, [report, *lost])
    states = {row["modality"]: (row["verdict"]["state"], row["verdict"]["expected"]) for row in listing["series"]}
    assert states == {"SR": ("complete", None), "CT": ("incomplete", 15)}


def test_each_file_that_names_no_series_is_a_series_of_its_own(tmp_path: Path) -> None:
    nameless, named = make.ct_series(3), make.ct_series(4)
    for ds in nameless:
        del ds.SeriesInstanceUID
    listing = converted(tmp_path, nameless + named)
    assert listing["refusals"] == []
    assert sorted(row["instances"] for row in listing["volumes"]) == [1, 1, 1, 4]
    assert sorted(row["series_instance_uid"] for row in listing["series"]) == ["", "", "", named[0].SeriesInstanceUID]
    assert len({row["name"] for row in listing["series"]}) == 4
    sources = [json.loads(file.read_text())["sources"] for file in (tmp_path / "out").glob("*/*.json")]
    assert sorted(len(each) for each in sources) == [1, 1, 1, 4]


@pytest.mark.parametrize("flat", [False, True])
def test_a_file_that_names_no_series_replaces_its_own_conversion_and_no_other(flat: bool, tmp_path: Path) -> None:
    one, other = make.ct_series(2)
    for ds in (one, other):
        del ds.SeriesInstanceUID
    layout, out = Layout(flat=flat), tmp_path / "out"
    options = replace(OPTIONS, body_contours=True)
    folders = [saved([ds], tmp_path / str(number)) for number, ds in enumerate((one, other))]
    names = [
        convert_folder([folder], out, options, here, layout=layout)["series"][0]["name"]
        for folder in (*folders, *folders)
    ]
    assert names[:2] == names[2:]
    assert names[0] != names[1]


@pytest.mark.filterwarnings("ignore:Expected (im|ex)plicit VR")
@pytest.mark.parametrize(
    ("announced", "is_implicit"), [(ImplicitVRLittleEndian, False), (ExplicitVRLittleEndian, True), (RLELossless, True)]
)
def test_a_data_set_in_another_encoding_than_its_transfer_syntax_is_converted(
    announced: UID, is_implicit: bool, tmp_path: Path
) -> None:
    series = make.ct_series(3)
    expected = np.stack([ds.pixel_array for ds in series])
    for number, ds in enumerate(series):
        if announced == RLELossless:
            ds.compress(RLELossless)
        (tmp_path / f"{number}.dcm").write_bytes(make.misencoded(ds, announced, is_implicit=is_implicit))
    listing = convert_folder([tmp_path], tmp_path / "out", OPTIONS, here)
    assert (listing["refusals"], listing["not_dicom"]) == ([], [])
    [volume] = listing["volumes"]
    voxels = np.asarray(nib.load(tmp_path / "out" / volume["path"]).dataobj)
    assert np.array_equal(voxels.transpose(2, 1, 0), expected - 1024)


def test_deflated_data_sets_are_converted_but_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.dicom.header.MAX_INFLATED_BYTES", 5_000_000)
    series, [bomb] = make.ct_series(3), make.ct_series(1)
    expected = np.stack([ds.pixel_array for ds in series])
    bomb.add_new(0x00091001, "OB", bytes(6_000_000))
    for ds in (*series, bomb):
        ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    listing = converted(tmp_path, [*series, bomb])
    [volume] = listing["volumes"]
    voxels = np.asarray(nib.load(tmp_path / "out" / volume["path"]).dataobj)
    assert np.array_equal(voxels.transpose(2, 1, 0), expected - 1024)
    details = {(row["series_instance_uid"], row["reason"]): row["detail"] for row in listing["refusals"]}
    assert "more than 5000000 bytes" in details[bomb.SeriesInstanceUID, "unreadable"]


@pytest.mark.parametrize("tilted", [True, False])
def test_of_a_nifti_that_itk_cannot_open_the_sidecar_says_what_it_can(tmp_path: Path, tilted: bool) -> None:
    series = make.tilted_ct_series(6) if tilted else make.ct_series(6)
    options = write_options(Convert(thumbnails=False, formats=("nifti", "mhd", "nrrd"), body_masks=True))
    listing = convert_folder([saved(series, tmp_path / "in")], tmp_path / "out", options, here)
    files = [row for row in listing["volumes"] if row["format"] in ("nifti", "mhd", "nrrd")]
    assert len(files) == (12 if tilted else 6)
    for row in files:
        path = tmp_path / "out" / row["path"]
        sidecar = json.loads(path.with_name(path.name.partition(".")[0] + ".json").read_text())
        note = sidecar.get("formats", {}).get("nifti")
        if row["format"] != "nifti" or note is None:
            sitk.ReadImage(path)
            continue
        with pytest.raises(RuntimeError, match="orthonormal"):
            sitk.ReadImage(path)
        assert "mhd or nrrd" in note
        if row["kind"] == "volume":
            assert f"give them {path.name.partition('.')[0]}_resampled" in note
            sitk.ReadImage(path.with_name(f"{path.name.partition('.')[0]}_resampled.nii.gz"))
            [warning] = [each["detail"] for each in sidecar["warnings"] if each["name"] == "gantry-tilt"]
            assert "the resampled volume" in warning


def test_of_uneven_slices_the_sidecar_names_the_file_that_has_them_in_their_places(tmp_path: Path) -> None:
    series = make.ct_series(6)
    del series[2]
    listing = convert_folder([saved(series, tmp_path / "in")], tmp_path / "out", OPTIONS, here)
    files = {row["kind"]: tmp_path / "out" / row["path"] for row in listing["volumes"]}
    stems = {kind: path.name.partition(".")[0] for kind, path in files.items()}
    notes = {
        kind: json.loads((path.parent / f"{stems[kind]}.json").read_text()).get("formats")
        for kind, path in files.items()
    }
    assert notes.pop("resampled") is None
    [note] = notes.values()
    assert f"{stems['resampled']} has each of them in its place" in note["nifti"]


def test_the_sidecar_of_a_resampled_copy_tells_which_slices_are_interpolated(tmp_path: Path) -> None:
    series = make.tilted_ct_series(9)
    del series[5:7]
    listing = convert_folder([saved(series, tmp_path / "in")], tmp_path / "out", OPTIONS, here)
    told = {}
    for row in listing["volumes"]:
        path = tmp_path / "out" / row["path"]
        told[row["kind"]] = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
    assert told["resampled"]["interpolated_slices"] == [5, 6]
    assert "interpolated_slices" not in told["volume"]
    details = {kind: {one["name"]: one["detail"] for one in sidecar["warnings"]} for kind, sidecar in told.items()}
    assert details["volume"]["gantry-tilt"].startswith("the gantry is tilted by 15.00 degrees; programs of ITK")
    assert details["resampled"]["gantry-tilt"] == "the gantry is tilted by 15.00 degrees"
    [gap] = {each["missing-slice"] for each in details.values()}
    assert gap == (
        "2 slices between others are missing at 2.5 mm spacing, after slice 5; "
        "distances are at right angles to the slices"
    )


def test_what_is_wrong_with_a_damaged_file_is_reported_without_its_values(tmp_path: Path) -> None:
    [ds] = make.ct_series(1, PatientName="Doe^Jane")
    path = saved([ds], tmp_path / "in") / "0000.dcm"
    data = path.read_bytes()
    at = data.index(b"\x28\x00\x02\x00US")
    broken = b"\x20\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\x10\0\0\0" + b"Doe^" * 4
    path.write_bytes(data[:at] + broken + data[at:])
    listing = convert_folder([path], tmp_path / "out", OPTIONS, here)
    details = [row["detail"] for row in listing["refusals"]]
    assert any("no file of the series can be read as DICOM: " in detail for detail in details)
    assert not any("Doe" in detail for detail in details)


def test_members_of_a_zip_file_are_converted_and_damaged_ones_are_reported(tmp_path: Path) -> None:
    folder = saved(make.ct_series(4), tmp_path / "in")
    archive = tmp_path / "series.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as members:
        for file in sorted(folder.iterdir()):
            members.write(file, file.name)
    content = bytearray(archive.read_bytes())
    content[content.rindex(b"DICM", 0, len(content) // 2) + 900] ^= 0xFF  # in the pixels: the checksum tells
    archive.write_bytes(content)
    listing = convert_folder([archive], tmp_path / "out", OPTIONS, here)
    [reported] = listing["not_dicom"]
    assert "zip file" in reported["reason"]
    assert sum(row["instances"] for row in listing["volumes"] if row["kind"] == "volume") == 3


@pytest.mark.parametrize(
    ("include", "exclude", "kept", "reason"),
    [
        ('modality == "MR"', None, "MR", 'does not fit --include: modality is "CT"'),
        ("instances >= 4", None, "MR", "does not fit --include: instances is 3"),
        (
            'study_date >= "2026-01-02" and body_part == "HEAD"',
            None,
            "MR",
            'does not fit --include: study_date is "2026-01-01", body_part is null',
        ),
        (None, "modality == 'ct' or patient_id == 'NOBODY'", "MR", "fits --exclude"),
        ("instances >= 1", 'body_part == "HEAD"', "CT", "fits --exclude"),
    ],
)
def test_series_are_chosen_by_what_is_known_of_them(
    include: str | None, exclude: str | None, kept: str, reason: str, tmp_path: Path
) -> None:
    series = {
        "CT": make.ct_series(3, StudyDate="20260101"),
        "MR": make.mr_series(4, StudyDate="20260102", BodyPartExamined="HEAD"),
    }
    folder = saved([*series["CT"], *series["MR"]], tmp_path / "in")
    selection = chosen(include, exclude)
    plan = planned([folder], tmp_path / "out", Layout(), selection)
    listing = convert_folder([folder], tmp_path / "out", OPTIONS, here, chosen=selection)
    [other] = series.keys() - {kept}
    assert [row["series_instance_uid"] for row in listing["series"]] == [series[kept][0].SeriesInstanceUID]
    [left_out] = listing["not_chosen"]
    uid, count = series[other][0].SeriesInstanceUID, len(series[other])
    assert (left_out["series_instance_uid"], left_out["instances"], left_out["reason"]) == (uid, count, reason)
    assert left_out["modality"] == other
    assert plan["not_chosen"] == [left_out]
    assert [row["name"] for row in plan["series"]] == [row["name"] for row in listing["series"]]


@pytest.mark.parametrize(
    ("include", "exclude", "reason"),
    [
        ("magnetic_field_strength_t == 3", None, "does not fit --include: magnetic_field_strength_t is null"),
        (
            'modality == "MR" and slices == 4 and orientation == "axial"',
            None,
            'does not fit --include: modality is "CT"',
        ),
        ('slices == 4 or verdict == "suspect"', None, 'does not fit --include: slices is 3, verdict is "complete"'),
        (None, "magnetic_field_strength_t == null", "fits --exclude"),
        ('patient_name != "Nobody"', "volumes == 1 and slice_spacing_mm < 4", "fits --exclude"),
    ],
)
@pytest.mark.parametrize("anonymous", [True, False])
def test_series_are_chosen_by_what_their_conversion_tells(
    include: str | None, exclude: str | None, reason: str, anonymous: bool, tmp_path: Path
) -> None:
    other = make.ct_series(3, PatientName="Doe^Jane")
    kept = make.mr_series(4, PatientName="Doe^Jane", MagneticFieldStrength="3")
    for position, ds in enumerate(kept):
        ds.ImagePositionPatient = [0, 0, 5 * position]
    folder, out = saved([*other, *kept], tmp_path / "in"), tmp_path / "out"
    selection, layout = chosen(include, exclude), Layout(anonymous=anonymous)
    listing = convert_folder([folder], out, OPTIONS, here, layout=layout, chosen=selection)
    assert [row["series_instance_uid"] for row in listing["series"]] == [kept[0].SeriesInstanceUID]
    [left_out] = listing["not_chosen"]
    expected = reason.partition(":")[0] if anonymous else reason
    assert (left_out["series_instance_uid"], left_out["reason"]) == (other[0].SeriesInstanceUID, expected)
    made = {str(path.relative_to(out)) for path in out.rglob("*.nii.gz")}
    assert made == {row["path"] for row in listing["volumes"]}


@pytest.mark.parametrize("anonymous", [True, False])
def test_a_series_is_described_by_its_first_file_that_can_be_understood(anonymous: bool, tmp_path: Path) -> None:
    of_person = {"PatientName": "Doe^Jane", "PatientID": "P1", "StudyDate": "20260131", "SeriesDescription": "t1"}
    folder = saved(make.mr_series(4, **of_person), tmp_path / "in")
    os.truncate(folder / "0000.dcm", 1200)  # within the header, behind the UIDs of study and series
    selection = chosen('modality == "MR"', None)
    layout = Layout(anonymous=anonymous)
    listing = convert_folder([folder], tmp_path / "out", OPTIONS, here, chosen=selection, layout=layout)
    [series], [exclusion] = listing["series"], listing["exclusions"]
    names = "patient_name", "patient_id", "study_date", "series_description", "modality"
    told = (None,) * 4 if anonymous else ("Doe^Jane", "P1", "2026-01-31", "t1")
    assert tuple(series[name] for name in names) == (*told, "MR")
    assert (exclusion["reason"], listing["not_chosen"]) == ("cut", [])


def test_a_series_that_a_clause_about_its_header_leaves_out_is_not_converted(tmp_path: Path) -> None:
    folder = saved([*make.ct_series(3), *make.mr_series(4)], tmp_path / "in")
    jobs = []

    def run(job: ConversionJob, cancelled: threading.Event) -> Converted:
        jobs.append(job)
        return here(job, cancelled)

    selection = chosen('modality == "MR" and slices >= 4', None)
    listing = convert_folder([folder], tmp_path / "out", OPTIONS, run, chosen=selection)
    assert len(jobs) == len(listing["series"]) == 1


def test_the_files_of_refused_and_excluded_instances_are_named(tmp_path: Path) -> None:
    series, [alone] = make.ct_series(3), make.ct_series(1)
    del alone.PixelData
    folder = saved([*series, alone], tmp_path / "in")
    copy = dcmread(folder / "0000.dcm")
    copy.PixelData = bytes(len(copy.PixelData))
    copy.save_as(folder / "other.dcm")
    (folder / "same.dcm").write_bytes((folder / "0001.dcm").read_bytes())
    broken = dcmread(folder / "0002.dcm")
    broken.compress(RLELossless, generate_instance_uid=False)
    broken.save_as(folder / "-cut.dcm")  # found before the whole one
    (folder / "-cut.dcm").write_bytes((folder / "-cut.dcm").read_bytes()[:-60])
    (folder / "notes.txt").write_text("no DICOM")
    archive = tmp_path / "scans.zip"
    with zipfile.ZipFile(archive, "w") as members:
        for file in sorted(folder.iterdir()):
            members.write(file, file.name)
    for source, prefix in ((folder, f"{folder}/"), (archive, f"{archive}!")):
        listing = convert_folder([source], tmp_path / "out", OPTIONS, here)
        assert [row["files"] for row in listing["refusals"]] == [[f"{prefix}0003.dcm"]]
        instead = [(*row["files"], row["used_file"]) for row in listing["exclusions"]]
        assert instead == [(f"{prefix}-cut.dcm", f"{prefix}0002.dcm"), (f"{prefix}other.dcm", f"{prefix}0000.dcm")]
        fates = {row["name"].removeprefix(prefix): row for series in listing["series"] for row in series["files"]}
        assert {name: row["fate"] for name, row in fates.items()} == {
            **dict.fromkeys(("0000.dcm", "0001.dcm", "0002.dcm"), "used"),
            **dict.fromkeys(("-cut.dcm", "other.dcm"), "excluded"),
            **{"same.dcm": "duplicate", "0003.dcm": "refused"},
        }
        assert (fates["0000.dcm"]["stacks"], fates["same.dcm"]["stacks"]) == ([0], [])
        counts = {name: count for name, count in listing["files"].items() if count}
        assert counts.pop("found") == sum(counts.values()) == 8
        assert counts == {"used": 3, "excluded": 2, "duplicate": 1, "refused": 1, "skipped": 1}
    listing = convert_folder([folder], tmp_path / "out", OPTIONS, here, layout=Layout(anonymous=True))
    assert str(folder) not in json.dumps(listing).replace(str(folder / "notes.txt"), "")
    assert listing["files"]["used"] == 3


@pytest.mark.parametrize("expression", ["state == 'failed'", "modalty == 'CT'", "instances >=", ""])
def test_an_expression_that_only_a_node_can_decide_is_refused(expression: str) -> None:
    with pytest.raises(UsageError, match="--exclude"):
        chosen(None, expression)


def test_the_name_of_a_series_is_read_behind_a_long_header(tmp_path: Path) -> None:
    """What is read first ends between two elements: the one behind it has the Series Number."""
    [ds] = make.ct_series(1, SeriesNumber=7)
    ds.add_new(0x00190010, "LO", "EXAMPLE")
    ds.add_new(0x00191010, "OB", b"")
    path = saved([ds], tmp_path / "in") / "0000.dcm"
    read = dcmread(path)
    begin = read["SeriesNumber"].file_tell - 8 - identify(path.read_bytes()).data_set_offset
    read[0x00191010].value = bytes(HEAD_BYTES[0] - begin)
    read.save_as(path)
    listing = convert_folder([path], tmp_path / "out", OPTIONS, here)
    assert [row["series_number"] for row in listing["series"]] == [7]


def test_a_series_whose_process_dies_leaves_the_others_alone_and_says_why(tmp_path: Path) -> None:
    deadly, harmless = make.ct_series(3), make.ct_series(4)
    folder = saved(deadly + harmless, tmp_path / "in")
    convert_folder([folder], tmp_path / "out", OPTIONS, here)

    def dies(job: ConversionJob, cancelled: threading.Event) -> Converted:
        if job.instances[0][0] == deadly[0].SOPInstanceUID:
            raise ConverterDied("conversion was killed by SIGSEGV")
        return here(job, cancelled)

    listing = convert_folder([folder], tmp_path / "out", OPTIONS, dies)
    [refusal] = listing["refusals"]
    assert refusal == {
        "series_instance_uid": deadly[0].SeriesInstanceUID,
        "reason": "failed",
        "detail": "conversion was killed by SIGSEGV",
        "stack": None,
        "instances": 3,
        "files": [str(folder / f"{number:04}.dcm") for number in range(3)],
    }
    assert [row["instances"] for row in listing["volumes"]] == [4]
    verdicts = of(listing, "verdict")
    assert verdicts[str(deadly[0].SeriesInstanceUID)] is None
    assert verdicts[str(harmless[0].SeriesInstanceUID)]["state"] == "complete"
    name = of(listing)[harmless[0].SeriesInstanceUID]
    assert files_in(tmp_path / "out").keys() == {f"{name}.json", f"{name}.nii.gz", "conversion.json"}


@pytest.mark.slow
def test_what_comes_of_it_does_not_depend_on_how_many_work_at_once(tmp_path: Path) -> None:
    folder = saved([ds for _ in range(5) for ds in make.ct_series(3)], tmp_path / "in")
    first_waits, begun = threading.Event(), []

    def overtaken(job: ConversionJob, cancelled: threading.Event) -> Converted:
        begun.append(job)
        if len(begun) == 1:
            assert first_waits.wait(30)  # until another one has ended
        else:
            first_waits.set()
        return here(job, cancelled)

    one = convert_folder([folder], tmp_path / "one", OPTIONS, here)
    three = convert_folder([folder], tmp_path / "three", OPTIONS, overtaken, workers=3)
    files = [unpacked(path) for path in sorted((tmp_path / "one").rglob("*.nii.gz"))]
    assert len(files) == len(one["volumes"]) == 5
    assert files == [unpacked(path) for path in sorted((tmp_path / "three").rglob("*.nii.gz"))]
    assert without_packing(one) == without_packing(three)


def without_packing(listing: dict[str, Any]) -> dict[str, Any]:
    """Return a listing without what depends on how igzip packed a volume (`volumes.unpacked`)."""
    kept = [{key: row[key] for key in row if key not in ("bytes", "sha256")} for row in listing["volumes"]]
    return listing | {"volumes": kept}


@pytest.mark.slow
def test_one_run_at_a_time_has_a_folder_and_the_next_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    folder, out = saved(make.ct_series(3, series_uid="1.2.3"), tmp_path / "in"), tmp_path / "out"
    program = """
import sys, threading
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from node.conversion.offline import convert_folder
from tests.integration.test_offline import OPTIONS
def wait(job, cancelled):
    print(job.folder, flush=True)
    threading.Event().wait()
convert_folder([Path(sys.argv[1])], Path(sys.argv[2]), OPTIONS, wait)
"""
    command = [sys.executable, "-c", program, str(folder), str(out)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as other:
        begun = Path(other.stdout.readline().strip())
        with pytest.raises(VoxelnodeError, match=f"into {out}: wait for its end, or name another folder with -o"):
            convert_folder([folder], out, OPTIONS, here)
        assert begun.is_dir()
        other.kill()
    assert begun.is_dir()
    convert_folder([folder], out, OPTIONS, here)
    assert {path.name for path in out.iterdir()} == {"001_CT", "conversion.json"}


def of(listing: dict[str, Any], key: str = "name") -> dict[str, Any]:
    """A column of the series, by their UIDs."""
    return {row["series_instance_uid"]: row[key] for row in listing["series"]}


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): unpacked(path) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("flat", [False, True])
def test_a_name_that_several_series_have_is_numbered_in_the_order_of_the_series(tmp_path: Path, flat: bool) -> None:
    series = [make.ct_series(3, series_uid=f"1.2.{number}", StudyDate="20260101") for number in (3, 1, 2)]
    series[0][0].StudyDate = "20250101"
    for ds in series[0]:
        ds.StudyDate = "20250101"
    folder = saved([ds for one in series for ds in one], tmp_path / "in")
    layout = Layout(name_template("{modality}"), flat)
    second, third = sorted(["1.2.1", "1.2.2"], key=study_of(series))
    expected = {"1.2.3": "CT", second: "CT-2", third: "CT-3"}
    assert of(planned([folder], tmp_path / "out", layout)) == expected
    for _ in range(2):  # a second time, each replaces its own
        assert of(convert_folder([folder], tmp_path / "out", OPTIONS, here, layout=layout)) == expected
    places = {name if flat else f"{name}/{name}" for name in expected.values()}
    made = {f"{place}{end}" for place in places for end in (".nii.gz", ".json")}
    assert files_in(tmp_path / "out").keys() == made | {"conversion.json"}
    assert not list((tmp_path / "out").glob(".*"))


def study_of(series: list[list[Any]]) -> Callable[[str], str]:
    return {str(ds.SeriesInstanceUID): str(ds.StudyInstanceUID) for one in series for ds in one}.__getitem__


@pytest.mark.parametrize("flat", [False, True])
def test_files_of_other_series_and_of_people_are_never_replaced(tmp_path: Path, flat: bool) -> None:
    """Two subjects into one folder by two runs, then the first again; and somebody's own file beside a volume."""
    first, second = saved(make.ct_series(3), tmp_path / "a"), saved(make.ct_series(4), tmp_path / "b")
    out, layout = tmp_path / "out", Layout(name_template("scan"), flat)
    convert_folder([first], out, OPTIONS, here, layout=layout)
    before = files_in(out)
    before.pop("conversion.json")
    listing = convert_folder([second], out, OPTIONS, here, layout=layout)
    assert [*of(listing).values()] == ["scan-2"]
    listing = convert_folder([first], out, OPTIONS, here, layout=layout)
    assert [*of(listing).values()] == ["scan"]
    assert files_in(out).items() >= before.items()
    place = out if flat else out / "scan"
    (place / "scan_brain.nii.gz").write_bytes(b"made by somebody")
    listing = convert_folder([first], out, OPTIONS, here, layout=layout)
    assert [*of(listing).values()] == ["scan" if flat else "scan-3"]
    assert (place / "scan_brain.nii.gz").read_bytes() == b"made by somebody"


def test_two_studies_never_share_a_folder_in_one_run_or_in_several(tmp_path: Path) -> None:
    doe = {"PatientID": "P1", "StudyDate": "20261120"}
    one, other, third = ([saved(make.ct_series(3, **doe), tmp_path / name)] for name in "abc")
    out, layout = tmp_path / "out", Layout(name_template("{patient_id}/{study_date}/{series_number:02}"))
    both = convert_folder([*one, *other], out, OPTIONS, here, layout=layout)
    before = files_in(out)
    assert sorted(of(both).values()) == ["P1/20261120-2/01", "P1/20261120/01"]
    assert [*of(convert_folder(third, out, OPTIONS, here, layout=layout)).values()] == ["P1/20261120-3/01"]
    assert of(convert_folder(other, out, OPTIONS, here, layout=layout)).items() <= of(both).items()
    before.pop("conversion.json")
    assert files_in(out).items() >= before.items()
    elsewhere = tmp_path / "elsewhere"
    (out / "P1" / "20261120-3").rename(elsewhere)
    (out / "P1" / "20261120-3").symlink_to(elsewhere)
    assert [*of(convert_folder(third, out, OPTIONS, here, layout=layout)).values()] == ["P1/20261120-4/01"]


def test_what_an_earlier_conversion_wrote_beyond_this_one_goes(tmp_path: Path) -> None:
    folder, out = saved(make.ct_series(3), tmp_path / "in"), tmp_path / "out"
    for layout in (Layout(), Layout(flat=True)):
        convert_folder([folder], out, replace(OPTIONS, thumbnails=True, slices=True), here, layout=layout)
        assert len(list(out.rglob("*.png"))) == 4
        convert_folder([folder], out, OPTIONS, here, layout=layout)
        assert list(out.rglob("*.png")) == []


def test_a_study_stays_in_the_folder_that_an_earlier_run_gave_it(tmp_path: Path) -> None:
    doe = {"StudyDate": "20180502", "PatientName": "Doe"}
    one = saved(make.ct_series(3, study_uid="1.2", **doe), tmp_path / "one")
    other = saved(make.ct_series(3, study_uid="1.3", StudyTime="12", **doe), tmp_path / "other")
    third = saved(make.ct_series(3, study_uid="1.4", SeriesNumber=2), tmp_path / "third")
    out = tmp_path / "out"
    both = of(convert_folder([one, other], out, OPTIONS, here))
    assert sorted(both.values()) == ["Doe_20180502_CT-2/001_CT", "Doe_20180502_CT/001_CT"]
    for _ in range(2):
        assert [*of(convert_folder([third], out, OPTIONS, here)).values()] == ["002_CT"]
        for alone in (one, other):
            assert of(convert_folder([alone], out, OPTIONS, here)).items() <= both.items()
    assert "Doe" not in json.dumps(convert_folder([one], out, OPTIONS, here, layout=Layout(anonymous=True)))


@pytest.mark.parametrize("flat", [False, True])
def test_files_of_instances_that_a_later_run_lacks_stay(tmp_path: Path, flat: bool) -> None:
    series, out, layout = make.ct_series(8), tmp_path / "out", Layout(flat=flat)
    early, late = saved(series[:6], tmp_path / "early"), saved(series[6:], tmp_path / "late")
    convert_folder([early], out, OPTIONS, here, layout=layout)
    before = files_in(out)
    del before["conversion.json"]
    for _ in range(2):
        [row] = convert_folder([late], out, OPTIONS, here, layout=layout)["series"]
        assert (row["name"], row["lacks"]) == ("001_CT-2", {"001_CT": 6})
        assert files_in(out).items() >= before.items()
    both = convert_folder([early, late], out, OPTIONS, here, layout=layout)
    assert [row["shape"][2] for row in both["volumes"]] == [8]
    assert (of(both), "lacks" in both["series"][0]) == ({str(series[0].SeriesInstanceUID): "001_CT"}, False)


def test_a_refused_series_removes_no_files_of_instances_that_it_lacks(tmp_path: Path) -> None:
    series, out = make.ct_series(6), tmp_path / "out"
    convert_folder([saved(series, tmp_path / "in")], out, OPTIONS, here)
    before = files_in(out)
    del before["conversion.json"], series[0].PixelData
    listing = convert_folder([saved(series[:1], tmp_path / "late")], out, OPTIONS, here)
    assert listing["series"][0]["lacks"] == {"001_CT": 5}
    assert files_in(out).items() >= before.items()


@pytest.mark.parametrize("workers", [1, 3])
def test_a_run_that_is_stopped_lists_what_it_has_written(tmp_path: Path, workers: int) -> None:
    folders = [
        saved(make.ct_series(3, study_uid="1.2", SeriesNumber=number), tmp_path / f"{number}") for number in (1, 2, 3)
    ]
    out, last_done = tmp_path / "out", threading.Event()
    convert_folder(folders[2:], out, OPTIONS, here)

    def run(job: ConversionJob, cancelled: threading.Event) -> Converted:
        if job.name == "002_CT":
            assert cancelled.wait(30)
            raise ChildCancelled
        if job.name == "001_CT" and workers > 1:
            assert last_done.wait(30)
        converted = here(job, cancelled)
        if job.name == "003_CT":
            last_done.set()
        return converted

    def stop(row: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_folder(folders, out, OPTIONS, run, workers, on_series=stop)
    listing = json.loads((out / "conversion.json").read_text())
    names = {"001_CT"} if workers == 1 else {"001_CT", "003_CT"}
    assert (
        {row["name"] for row in listing["series"]} == {row["path"].split("/")[0] for row in listing["volumes"]} == names
    )
    stopped = [row["series_number"] for row in listing["not_chosen"] if "was stopped" in row["reason"]]
    assert stopped == ([2, 3] if workers == 1 else [2])
    assert listing["files"]["found"] == 9 == listing["files"]["used"] + listing["files"]["not_chosen"]


def test_files_of_a_series_whose_converter_died_go(tmp_path: Path) -> None:
    folder, out = saved(make.ct_series(3), tmp_path / "in"), tmp_path / "out"
    convert_folder([folder], out, OPTIONS, here)

    def dies(job: ConversionJob, cancelled: threading.Event) -> Converted:
        raise ConverterDied("it died")

    convert_folder([folder], out, OPTIONS, dies)
    assert files_in(out).keys() == {"conversion.json"}


@pytest.mark.parametrize("obstacle", ["file", "link", "folder"])
def test_what_is_not_a_folder_of_ours_stays(tmp_path: Path, obstacle: str) -> None:
    folder, out, elsewhere = saved(make.ct_series(3), tmp_path / "in"), tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "notes.txt").write_text("mine")
    out.mkdir()
    if obstacle == "file":
        (out / "001_CT").write_text("mine")
    elif obstacle == "link":
        (out / "001_CT").symlink_to(elsewhere)
    else:
        elsewhere.rename(out / "001_CT")
    before = files_in(tmp_path)
    assert [*of(convert_folder([folder], out, OPTIONS, here)).values()] == ["001_CT-2"]
    assert files_in(tmp_path).items() >= before.items()


def test_a_name_that_another_run_takes_meanwhile_is_left_to_it(tmp_path: Path) -> None:
    folder, out = saved(make.ct_series(3), tmp_path / "in"), tmp_path / "out"

    def overtaken(job: ConversionJob, cancelled: threading.Event) -> Converted:
        (out / "001_CT").mkdir()
        (out / "001_CT" / "theirs.nii.gz").write_bytes(b"theirs")
        return here(job, cancelled)

    listing = convert_folder([folder], out, OPTIONS, overtaken)
    assert [(row["reason"], "convert again" in row["detail"]) for row in listing["refusals"]] == [("failed", True)]
    assert listing["volumes"] == []
    assert files_in(out / "001_CT") == {"theirs.nii.gz": b"theirs"}


def test_in_one_folder_a_conversion_can_only_write_files_of_its_series(tmp_path: Path) -> None:
    """Whoever made the data may have taken over the child that wrote the files."""
    folder, out = saved(make.ct_series(3), tmp_path / "in"), tmp_path / "out"
    out.mkdir()
    (out / "002_CT.nii.gz").write_bytes(b"another series")

    def taken_over(job: ConversionJob, cancelled: threading.Event) -> Converted:
        (job.folder / "002_CT.nii.gz").write_bytes(b"hostile")
        return here(job, cancelled)

    listing = convert_folder([folder], out, OPTIONS, taken_over, layout=Layout(flat=True))
    assert [row["reason"] for row in listing["refusals"]] == ["failed"]
    assert {name for name in files_in(out)} == {"002_CT.nii.gz", "conversion.json"}
    assert (out / "002_CT.nii.gz").read_bytes() == b"another series"


def test_descriptions_are_in_the_listing_and_the_sidecar_unless_the_run_is_anonymous(tmp_path: Path) -> None:
    named = {"SeriesDescription": "Knie links", "ProtocolName": "tse", "SpecificCharacterSet": "ISO_IR 100"}
    [series] = converted(tmp_path, make.ct_series(3, **named))["series"]
    described = ("series_number", "series_description", "protocol_name", "modality", "name")
    assert [series[name] for name in described] == [1, "Knie links", "tse", "CT", "001_Knie_links"]
    sidecar = json.loads((tmp_path / "out" / "001_Knie_links" / "001_Knie_links.json").read_text())
    assert (sidecar["SeriesNumber"], sidecar["SeriesDescription"], sidecar["ProtocolName"]) == (1, "Knie links", "tse")
    convert_folder([tmp_path / "in"], tmp_path / "nobody", OPTIONS, here, layout=Layout(anonymous=True))
    for name, content in files_in(tmp_path / "nobody").items():
        assert "Knie" not in name
        assert b"Knie" not in content
        assert b'"tse"' not in content


def test_a_hostile_description_stays_in_its_folder(tmp_path: Path) -> None:
    for number, text in enumerate(("../../up", "/etc/x", "con", ".\x1b[31m", "x" * 64, "漢" * 60)):
        named = {"SeriesDescription": text, "SeriesNumber": number, "SpecificCharacterSet": "ISO_IR 192"}
        folder = saved(make.ct_series(3, **named), tmp_path / f"in{number}")
        [row] = convert_folder([folder], tmp_path / "out", replace(OPTIONS, formats=("mhd",)), here)["volumes"]
        [folder_name, file_name] = row["path"].split("/")
        assert file_name == f"{folder_name}.mhd"
        assert sitk.ReadImage(tmp_path / "out" / row["path"]).GetSize()[2] == 3
    assert {path.name for path in tmp_path.iterdir()} == {"out", *(f"in{number}" for number in range(6))}


def test_each_time_of_a_volume_is_a_file_of_its_own(tmp_path: Path) -> None:
    folder = saved(make.time_series(3, 4), tmp_path / "in")
    whole = convert_folder([folder], tmp_path / "whole", OPTIONS, here)
    split = convert_folder([folder], tmp_path / "split", replace(OPTIONS, split_times=True), here)
    data = nib.load(tmp_path / "whole" / whole["volumes"][0]["path"]).get_fdata()
    assert [row["suffix"] for row in split["volumes"]] == ["t1", "t2", "t3"]
    sources = {}
    for time, row in enumerate(split["volumes"]):
        path = tmp_path / "split" / row["path"]
        np.testing.assert_array_equal(nib.load(path).get_fdata(), data[..., time])
        sidecar = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
        assert {place[2] for places in sidecar["sources"].values() for place in places} == {0}
        assert "of_each_time" not in sidecar
        sources |= sidecar["sources"]
    assert len(sources) == 12


def test_a_conversion_that_fails_at_the_end_leaves_the_listing_of_the_last_one_whole(tmp_path: Path) -> None:
    folder, out = saved(make.ct_series(3), tmp_path / "in"), tmp_path / "out"
    convert_folder([folder], out, OPTIONS, here)
    before = (out / "conversion.json").read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def stop(series_instance_uid: str) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limit[1]))

    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(OSError, match="File too large"):
            convert_folder([folder], out, OPTIONS, here, on_series=stop)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert (out / "conversion.json").read_bytes() == before


def test_a_folder_that_another_run_made_meanwhile_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series = make.ct_series(3)
    folder, out = saved(series, tmp_path / "in"), tmp_path / "out"
    rename, faster = os.rename, iter([True, False])

    def overtaken(source: Path, place: Path) -> None:
        if next(faster):
            (place / "of another run").mkdir(parents=True)
        rename(source, place)

    monkeypatch.setattr("node.conversion.offline.os.rename", overtaken)
    [row] = convert_folder([folder], out, OPTIONS, here)["volumes"]
    assert (out / row["path"]).is_file()
    assert not (out / series[0].SeriesInstanceUID / "of another run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("last_gap", [1.0, 1.4, 1.6, 1.9, 3.0])
def test_indices_of_every_kind_of_volume_lie_in_its_grid(last_gap: float, tmp_path: Path) -> None:
    places = [(-50.0, -40.0, z) for z in (0.0, 1.0, 2.0, 3.6, 3.6 + last_gap)]
    body = np.full((5, 20, 24), 24, np.int16)
    body[:, 4:16, 4:20] = 1064
    ct = make.ct_series(5, rows=20, columns=24, positions=places, pixels=body, pixel_spacing=(10.0, 10.0))
    square = [make.contour(make.on_slice(ds, [(6, 6), (12, 6), (12, 12)]), [ds]) for ds in ct]
    datasets = [*ct, make.structure_set(ct, {"liver": square}), *pet_series(positions=places[2:])]
    make.saved(datasets, tmp_path / "in")
    derived = {"body_masks": True, "body_contours": True, "masked_volumes": True, "suv": True}
    options = replace(OPTIONS, **derived)
    kinds = set()
    for row in convert_folder([tmp_path / "in"], tmp_path / "out", options, here)["volumes"]:
        path = tmp_path / "out" / row["path"]
        sidecar = json.loads((path.parent / (path.name.split(".")[0] + ".json")).read_text())
        if row["kind"] == "contours":
            indices = [(one["slice"], one["time"]) for one in sidecar["contours"]]
        else:
            assert tuple(sidecar["shape"]) == nib.load(path).shape, row["path"]
            indices = [(slice_, time) for planes in sidecar["sources"].values() for _, slice_, time in planes]
            indices += [(slice_, 0) for slice_ in sidecar.get("interpolated_slices", ())]
        shape = row["shape"]
        assert indices, row["path"]
        assert {(0 <= slice_ < shape[2], time) for slice_, time in indices} == {(True, 0)}, row["path"]
        kinds.add(row["kind"])
    assert kinds == {"volume", "resampled", "suv", "mask", "masked", "contours"}
