"""What people download: studies as ZIP files with names that they read, and a list of what is in them."""

import csv
import gzip
import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO, StringIO
from pathlib import Path
from urllib.parse import unquote
from zipfile import ZipFile

import nibabel
import pytest
import SimpleITK as sitk
from pydicom import Dataset
from starlette.testclient import TestClient

from node.index.look.views import ReadIndex
from node.index.rows.place import FILE_NAME
from node.index.rows.records import RevisionFile
from node.index.rows.view_rows import queries_of_file
from tests import make
from tests.web.conftest import Site, open_site

DOE, DOES_SECOND, MUELLER = "1.2.1", "1.2.2", "1.2.3"


def named(study: str, number: int, **values: object) -> list[Dataset]:
    return make.mr_series(3, study_uid=study, series_uid=f"{study}.{number}", SeriesNumber=number, **values)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two studies of one person on one day, and one of somebody whose name is not ASCII."""
    with open_site(tmp_path_factory.mktemp("downloads") / "root") as site:
        doe = {"PatientName": "Doe^John", "PatientID": "P1", "StudyDate": "20261120"}
        site.take(*named(DOE, 2, SeriesDescription="t1 mprage", **doe))
        site.take(*named(DOE, 3, SeriesDescription="../../etc/T2*", **doe))
        site.take(*named(DOE, 12, SeriesDescription="T2", **doe), *named(DOE, 13, SeriesDescription="t2", **doe))
        site.take(make.structured_report(study_uid=DOE, series_uid="1.2.1.9", SeriesNumber=9, **doe))
        site.take(*named(DOES_SECOND, 1, SeriesDescription="localizer", **doe))
        other = {"PatientName": "Müller^Jörg=李", "PatientID": "P2", "SpecificCharacterSet": "ISO_IR 192"}
        site.take(*named(MUELLER, 1, SeriesDescription="", ProtocolName="=cmd()", StudyDate="", **other))
        site.convert()
        yield site


@pytest.fixture(scope="module")
def client(site: Site) -> TestClient:
    return site.client()


def opened(content: bytes) -> ZipFile:
    archive = ZipFile(BytesIO(content))
    assert archive.testzip() is None
    assert archive.namelist()[-1] == "manifest.csv"
    return archive


def dicom_name(client: TestClient, path: str) -> str:
    return client.get(f"{path}/dicom.zip").headers["content-disposition"].partition('"')[2].rstrip('"')


def lines_of(archive: ZipFile) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(archive.read("manifest.csv").decode())))


@pytest.mark.slow
def test_zip_files_of_two_studies_of_one_person_and_day_can_be_unpacked_in_one_folder(tmp_path: Path) -> None:
    site = open_site(tmp_path / "root")
    doe = {"PatientName": "Doe^John", "PatientID": "P1", "StudyDate": "20261120"}
    for study, name in (("1.2.8", "Doe^John"), ("1.2.7", "DOE^JOHN")):  # one folder, for many file systems
        site.take(*named(study, 2, SeriesDescription="t1", **doe | {"PatientName": name, "PatientID": name}))
    site.take(*named("1.2.6", 2, Modality="CT", **doe))
    site.take(*named("1.2.5", 2, **doe | {"PatientID": "P2", "StudyDate": ""}))
    site.convert()
    client = site.client()
    for path in ("dicom.zip", "volumes.zip"):
        names = {uid: opened(client.get(f"/studies/{uid}/{path}").content).namelist() for uid in ("1.2.8", "1.2.7")}
        assert [names[uid][0].split("/")[0] for uid in ("1.2.8", "1.2.7")] == [
            "Doe_John_20261120_MR",
            "DOE_JOHN_20261120_MR-2",
        ]
        assert set(names["1.2.8"]) & set(names["1.2.7"]) == {"manifest.csv"}
    others = [opened(client.get(f"/studies/{uid}/dicom.zip").content).namelist()[0] for uid in ("1.2.6", "1.2.5")]
    assert [name.split("/")[0] for name in others] == ["Doe_John_20261120_CT", "Doe_John_MR"]
    site.close()


@pytest.mark.slow
def test_a_study_has_the_name_of_its_person_and_day_and_its_series_theirs(client: TestClient) -> None:
    answer = client.get(f"/studies/{DOE}/volumes.zip")
    assert answer.headers["content-disposition"] == 'attachment; filename="Doe_John_20261120_MR-SR.zip"'
    archive = opened(answer.content)
    folder = "Doe_John_20261120_MR-SR"
    names = ["002_t1_mprage", "003_._._etc_T2star", "012_T2", "013_t2"]
    assert archive.namelist()[:-1] == [f"{folder}/{name}{ending}" for name in names for ending in (".json", ".nii.gz")]
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(archive.read(f"{folder}/002_t1_mprage.nii.gz")))
    assert image.shape[2] == 3


@pytest.mark.slow
def test_the_list_has_the_digest_of_each_file_and_why_a_series_has_none(client: TestClient) -> None:
    archive = opened(client.get(f"/studies/{DOE}/volumes.zip").content)
    lines = lines_of(archive)
    assert [line["file"] for line in lines[:-1]] == archive.namelist()[:-1]
    for line in lines[:-1]:
        assert line["sha256"] == hashlib.sha256(archive.read(line["file"])).hexdigest()
        assert (line["patient_id"], line["study_date"], line["revision"]) == ("P1", "2026-11-20", "1")
        assert line["certainty"] == "no gap seen"
    assert (lines[-1]["file"], lines[-1]["series_instance_uid"], lines[-1]["modality"]) == ("", "1.2.1.9", "SR")
    assert lines[-1]["why"]


@pytest.mark.slow
def test_another_format_is_asked_for_and_its_header_names_its_voxels(client: TestClient, tmp_path: Path) -> None:
    archive = opened(client.get(f"/studies/{DOE}/series/{DOE}.2/volumes.zip", params={"format": "mhd"}).content)
    assert {Path(name).suffix for name in archive.namelist()[:-1]} == {".json", ".mhd", ".zraw"}
    archive.extractall(tmp_path)
    [header] = tmp_path.glob("*/002_t1_mprage.mhd")
    assert sitk.ReadImage(str(header)).GetSize()[2] == 3
    [line] = [line for line in lines_of(archive) if line["file"].endswith(".mhd")]
    assert line["sha256"] == hashlib.sha256(header.read_bytes()).hexdigest()
    assert client.get(f"/studies/{DOE}/volumes.zip", params={"format": "vtk"}).status_code == 422


def test_everything_is_asked_for(client: TestClient) -> None:
    archive = opened(client.get(f"/studies/{DOE}/series/{DOE}.2/volumes.zip", params={"format": "all"}).content)
    assert dicom_name(client, f"/studies/{DOE}") == "Doe_John_20261120_MR-SR_DICOM.zip"
    assert dicom_name(client, f"/studies/{DOE}/series/{DOE}.2") == "Doe_John_20261120_MR-SR_002_t1_mprage_DICOM.zip"
    ending = {name.partition("002_t1_mprage")[2] for name in archive.namelist()[:-1]}
    assert ending == {".json", ".mhd", ".zraw", ".nii.gz", "_thumbnail.png"}


def test_studies_of_one_person_and_day_have_folders_of_their_own(client: TestClient) -> None:
    answer = client.post("/selected/volumes.zip", data={"study": [DOES_SECOND, MUELLER, DOE]}, follow_redirects=True)
    assert answer.headers["content-disposition"] == 'attachment; filename="3_studies.zip"'
    folders = {name.partition("/")[0] for name in opened(answer.content).namelist()[:-1]}
    assert folders == {"Doe_John_20261120_MR", "Doe_John_20261120_MR-SR", "Müller_Jörg_MR"}
    twice = client.post("/selected/dicom.zip", data={"study": [DOES_SECOND, DOES_SECOND, DOE]})
    assert twice.status_code == 303, "a browser goes on with what it got from an address"
    assert len(opened(client.get(twice.headers["location"]).content).namelist()) == 3 + 4 * 3 + 1 + 1
    many = client.post("/selected/dicom.zip", data={"study": [f"9.{number:060d}" for number in range(200)] + [DOE]})
    assert len(opened(many.content).namelist()) == 4 * 3 + 1 + 1, "too many for an address"


def test_a_name_that_is_not_ascii_is_kept(client: TestClient) -> None:
    answer = client.get(f"/studies/{MUELLER}/series/{MUELLER}.1/volumes.zip")
    disposition = unquote(answer.headers["content-disposition"])
    assert disposition == "attachment; filename*=utf-8''Müller_Jörg_MR_001_cmd.zip"
    archive = opened(answer.content)
    assert "Müller_Jörg_MR/001_cmd.nii.gz" in archive.namelist()
    assert lines_of(archive)[0]["patient_name"] == "Müller^Jörg=李"


def test_instances_are_in_the_folder_of_their_series_as_they_were_received(site: Site, client: TestClient) -> None:
    archive = opened(client.get(f"/studies/{DOE}/dicom.zip").content)
    assert [name for name in archive.namelist() if "/002_" in name] == [
        f"Doe_John_20261120_MR-SR/002_t1_mprage/{number:06d}.dcm" for number in (1, 2, 3)
    ]
    assert [line["files"] for line in lines_of(archive)] == ["3", "3", "1", "3", "3"]
    with site.store.index.reading() as index:
        kept = {site.store.archive.local(one).read_bytes() for one in index.files.stored(DOE)}
    assert {archive.read(name) for name in archive.namelist()[:-1]} == kept
    one = opened(client.get(f"/studies/{DOE}/series/{DOE}.3/dicom.zip").content)
    assert len(one.namelist()) == 4


@pytest.mark.parametrize("path", [f"/studies/{DOE}/series/1.2.1.9/volumes.zip", "/studies/9.9/dicom.zip"])
def test_what_is_not_there_is_not_found(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.slow
def test_files_that_are_removed_while_a_download_begins_are_reported(
    site: Site, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The series is converted again between the look at the folder of its files and their reading."""
    for name in ("volume.mhd", "volume.json"):
        gone = RevisionFile(f"volumes/1/2/1-gone/{name}", 5)
        monkeypatch.setattr("node.web.pages.selected.files_of", lambda *args, gone=gone: [gone])
        answer = client.get(f"/studies/{DOE}/volumes.zip?format=all")
        assert (answer.status_code, "its series was converted again" in answer.text) == (500, True)


@pytest.mark.slow
@pytest.mark.sqlite("asks SQLite for its plan")
def test_studies_of_one_name_are_found_without_reading_all_of_a_day(site: Site) -> None:
    """An archive without dates, or with one date for all, would be read whole for each study of a download."""
    ran: list[str] = []
    with closing(sqlite3.connect(site.root / FILE_NAME)) as connection:
        studies = ReadIndex(queries_of_file(connection)).studies
        second = studies.row(DOES_SECOND)
        connection.set_trace_callback(ran.append)
        assert len(studies.earlier_namesakes(second, {"patient_name", "study_date"})) == 1
        connection.set_trace_callback(None)
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {ran[0]}")]
    assert not any("study_date" in step or step.startswith("SCAN") for step in plan), plan
