"""`convert` without a node: what is one series, what is not, and what is told."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from node.conversion.job import ConversionJob, Converted
from node.conversion.offline import convert_folder
from node.conversion.pool import ConverterDied
from node.settings.model import Convert
from node.writers.options import write_options
from tests import make
from tests.converting import here

OPTIONS = write_options(Convert(thumbnails=False, formats=("nifti",)))


def saved(instances: list, folder: Path) -> Path:
    folder.mkdir()
    for number, ds in enumerate(instances):
        ds.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return folder


def test_a_series_uid_in_two_studies_gives_two_volumes_and_two_folders(tmp_path: Path) -> None:
    one, other = (make.ct_series(4, series_uid="1.2.3") for _ in range(2))
    assert one[0].StudyInstanceUID != other[0].StudyInstanceUID
    folder = saved(one + other, tmp_path / "in")
    listing = convert_folder([folder], tmp_path / "out", OPTIONS, here)
    assert [row["instances"] for row in listing["volumes"]] == [4, 4]
    assert len({row["path"] for row in listing["volumes"]}) == 2
    assert all((tmp_path / "out" / row["path"]).is_file() for row in listing["volumes"])


def test_conversion_json_tells_the_verdict_on_each_series(tmp_path: Path) -> None:
    whole, gap = make.ct_series(6), make.gap_series(6)
    convert_folder([saved(whole + gap, tmp_path / "in")], tmp_path / "out", OPTIONS, here)
    told = json.loads((tmp_path / "out" / "conversion.json").read_text())["series"]
    found = {row["series_instance_uid"]: (row["study_instance_uid"], row["verdict"]["state"]) for row in told}
    assert found == {
        whole[0].SeriesInstanceUID: (whole[0].StudyInstanceUID, "complete"),
        gap[0].SeriesInstanceUID: (gap[0].StudyInstanceUID, "incomplete"),
    }


def test_files_that_name_no_series_are_refused_and_the_attribute_is_named(tmp_path: Path) -> None:
    instances, named = make.ct_series(3), make.ct_series(4)
    for ds in instances:
        del ds.SeriesInstanceUID
    listing = convert_folder([saved(instances + named, tmp_path / "in")], tmp_path / "out", OPTIONS, here)
    [refusal] = listing["refusals"]
    assert (refusal["reason"], refusal["instances"], refusal["series_instance_uid"]) == ("unreadable", 3, "")
    assert "Series Instance UID (0020,000E)" in refusal["detail"]
    assert [row["instances"] for row in listing["volumes"]] == [4]
    assert [row["series_instance_uid"] for row in listing["series"]] == [named[0].SeriesInstanceUID]


def test_members_of_a_zip_file_are_converted_and_damaged_ones_are_told(tmp_path: Path) -> None:
    folder = saved(make.ct_series(4), tmp_path / "in")
    archive = tmp_path / "series.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as members:
        for file in sorted(folder.iterdir()):
            members.write(file, file.name)
    content = bytearray(archive.read_bytes())
    content[content.rindex(b"DICM", 0, len(content) // 2) + 900] ^= 0xFF  # in the pixels: the checksum tells
    archive.write_bytes(content)
    listing = convert_folder([archive], tmp_path / "out", OPTIONS, here)
    [told] = listing["not_dicom"]
    assert "zip file" in told["reason"]
    assert sum(row["instances"] for row in listing["volumes"] if row["kind"] == "volume") == 3


def test_what_is_no_dicom_is_named(tmp_path: Path) -> None:
    folder = saved(make.ct_series(2), tmp_path / "in")
    (folder / "readme.txt").write_text("hello")
    convert_folder([folder], tmp_path / "out", OPTIONS, here)
    listing = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert [Path(entry["name"]).name for entry in listing["not_dicom"]] == ["readme.txt"]


def test_a_series_whose_process_dies_leaves_the_others_alone_and_says_why(tmp_path: Path) -> None:
    deadly, harmless = make.ct_series(3), make.ct_series(4)
    folder = saved(deadly + harmless, tmp_path / "in")
    (tmp_path / "out" / deadly[0].SeriesInstanceUID).mkdir(parents=True)  # of an earlier conversion

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
    }
    assert [row["instances"] for row in listing["volumes"]] == [4]
    assert [row["verdict"] and row["verdict"]["state"] for row in listing["series"]] == [None, "complete"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {harmless[0].SeriesInstanceUID, "conversion.json"}


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
    assert one == three
    assert len(one["volumes"]) == 5


def test_what_a_killed_run_left_behind_is_removed_and_what_is_at_work_is_not(tmp_path: Path) -> None:
    folder, out = saved(make.ct_series(3, series_uid="1.2.3"), tmp_path / "in"), tmp_path / "out"
    program = """
import sys, threading
from pathlib import Path
from node.conversion.offline import convert_folder
from tests.integration.test_folder import OPTIONS
def wait(job, cancelled):
    print(job.folder, flush=True)
    threading.Event().wait()
convert_folder([Path(sys.argv[1])], Path(sys.argv[2]), OPTIONS, wait)
"""
    command = [sys.executable, "-c", program, str(folder), str(out)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        begun = Path(other.stdout.readline().strip())
        os.utime(begun.parent, (0, 0))  # it began long ago
        convert_folder([folder], out, OPTIONS, here)
        assert begun.is_dir()
        other.kill()
    os.utime(begun.parent, (0, 0))
    convert_folder([folder], out, OPTIONS, here)
    assert {path.name for path in out.iterdir()} == {"1.2.3", "conversion.json"}


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
