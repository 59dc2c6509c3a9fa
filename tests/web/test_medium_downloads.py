"""A medium as a ZIP file: what a viewer needs to open it, and what was left out and why."""

import gzip
import json
import re
import zipfile
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import httpx2
import pytest
from pydicom import FileDataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.fileset import FileSet
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian, RLELossless

from node.api import Role, Route
from node.children.pseudonyms import Patient, read_keys
from node.extensions.deidentify.profile import Option, Profile
from node.extensions.destinations.settings import DicomwebSettings, FolderSettings
from tests import make
from tests.leaks import leaks
from tests.make import as_file
from tests.planted import plant_secrets
from tests.preloaded import run
from tests.web.conftest import PASSWORD, Site, StartSite, made_download, open_site, until
from tests.web.test_routes import run as run_routes

STUDY, OTHER = "1.2.3", "1.2.4"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two studies of two people: images, a compressed one, a report, and what has no place on media."""
    with open_site(tmp_path_factory.mktemp("media") / "root").serving() as site:
        site.take(*make.ct_series(2, study_uid=STUDY, series_uid="1.2.3.1", PatientID="P1"))
        compressed = make.ct_series(1, study_uid=STUDY, series_uid="1.2.3.2", PatientID="P1")[0]
        compressed.compress(RLELossless)
        site.take(compressed, make.structured_report(study_uid=OTHER, series_uid="1.2.4.1", PatientID="P2"))
        site.take(make.instance(sop_class_uid="1.2.840.10008.5.1.4.39.1", study_uid=OTHER, PatientID="P2"))
        yield site


def fetched(client: httpx2.Client, answer: httpx2.Response) -> zipfile.ZipFile:
    """The file, when it is made."""
    assert answer.status_code == 303, answer.text
    page = answer.headers["location"]
    until(lambda: "Download " in client.get(f"{page}/progress").text)
    file = client.get(f"{page}/file")
    assert (file.status_code, file.headers["content-type"]) == (200, "application/zip")
    return zipfile.ZipFile(BytesIO(file.content))


@pytest.mark.slow
def test_a_medium_is_made_and_opened_as_its_dicomdir_says(site: Site, tmp_path: Path) -> None:
    client, before = site.client(follow_redirects=False), len(site.audited("Export"))
    assert f'href="/studies/{STUDY}/medium.zip"' in client.get(f"/studies/{STUDY}").text
    medium = fetched(client, client.post("/selected/medium.zip", data={"study": [STUDY, OTHER]}))
    assert medium.testzip() is None
    assert medium.namelist()[-1] == "DICOMDIR", "what was broken off is no medium"
    medium.extractall(tmp_path)
    fileset = FileSet(tmp_path / "DICOMDIR")
    found = [dcmread(one.path) for one in fileset]
    fileset._stage["t"].cleanup()
    assert {ds.PatientID for ds in found} == {"P1", "P2"}
    assert len(found) == 4
    assert {ds.file_meta.TransferSyntaxUID for ds in found} == {ExplicitVRLittleEndian}
    readme = (tmp_path / "README.TXT").read_text("ascii")
    assert "4 instances of 2 studies" in readme
    assert "no type of record" in readme, "what was left out is on the medium"
    reported = [line["detail"] for line in site.audited("Export")[before:]]  # whichever tests a worker ran before
    assert reported == [
        "a medium as a ZIP file: begun", "a medium as a ZIP file: done, 4 instances, 1 left out",
    ]  # fmt: skip
    assert not [path for path in (site.root / "work").iterdir() if path.is_dir()], "nothing is left behind"


def test_a_medium_of_a_series_or_of_some(site: Site) -> None:
    client = site.client(follow_redirects=False)
    whole = fetched(client, client.get(f"/studies/{STUDY}/medium.zip"))
    one = fetched(client, client.get(f"/studies/{STUDY}/series/1.2.3.1/medium.zip"))
    some = fetched(client, client.post(f"/studies/{STUDY}/selected/medium.zip", data={"series": ["1.2.3.2"]}))
    assert [len([name for name in zipped.namelist() if "/IM" in name]) for zipped in (whole, one, some)] == [3, 2, 1]
    assert client.get("/studies/9.9/medium.zip").status_code == 404


def test_what_cannot_be_decompressed_goes_as_stored_and_says_so(site: Site) -> None:
    broken = make.ct_series(1, study_uid="1.2.5", series_uid="1.2.5.1", PatientID="P5")[0]
    broken.compress(RLELossless)
    broken.PixelData = encapsulate([b"no segments"])
    site.take(broken)
    client = site.client(follow_redirects=False)
    medium = fetched(client, client.get("/studies/1.2.5/medium.zip"))
    [name] = [name for name in medium.namelist() if "/IM" in name]
    assert dcmread(BytesIO(medium.read(name))).file_meta.TransferSyntaxUID == RLELossless
    assert b"but for 1 compressed ones" in medium.read("README.TXT")


def test_two_people_with_one_patient_id_are_refused_on_the_page(site: Site) -> None:
    for study, issuer in (("1.2.8", "WEST"), ("1.2.9", "EAST")):
        site.take(make.instance(study_uid=study, PatientID="P8", IssuerOfPatientID=issuer, Rows=1))
    client = site.client(follow_redirects=False)
    page = client.post("/selected/medium.zip", data={"study": ["1.2.8", "1.2.9"]}).headers["location"]
    until(lambda: "There is no file" in client.get(page).text)
    assert "one by one" in client.get(page).text
    assert "broken off" in site.audited("Export")[-1]["detail"]


# Routes and downloads without identities: nothing of a patient leaves, and pseudonyms agree everywhere.


STUDY, SERIES = "1.2.840.4711.1", "1.2.840.4711.1.1"
PROFILE = Profile(frozenset((Option.MODIFIED_DATES, Option.DESCRIPTORS)))
NAMED = {"PatientName": "Secret^Person", "PatientID": "SECRET-4711", "study_uid": STUDY}
REFUSED = {"secondary-capture", "structured-report", "encapsulated-document"}


@cache
def identified() -> list[FileDataset]:
    """A CT series with identities wherever an instance can have them."""
    series = make.ct_series(4, series_uid=SERIES, StudyDate="20260101", AccessionNumber="SECRET-A1", **NAMED)
    for number, ds in enumerate(series):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{SERIES}.{number}"
        ds.InstitutionName, ds.SeriesDescription = "Secret Hospital", "Thorax Secret"
        ds.ProtocolName, ds.ImageComments, ds.DeviceSerialNumber = "Chest of Secret", "Secret comment", "SECRET-SN"
        ds.PatientBirthDate, ds.ReferringPhysicianName = "19560401", "Secret^Referring"
        plant_secrets(ds)
    return series


def not_clean() -> list[FileDataset]:
    """Instances of the study that cannot be called clean."""
    pdf = make.structured_report(series_uid=f"{STUDY}.4", **NAMED)
    del pdf.ContentSequence
    pdf.SOPClassUID = pdf.file_meta.MediaStorageSOPClassUID = EncapsulatedPDFStorage
    pdf.EncapsulatedDocument = b"%PDF Secret "
    capture = make.rgb_capture(series_uid=f"{STUDY}.3", **NAMED)
    return [capture, make.structured_report(series_uid=f"{STUDY}.2", **NAMED), pdf]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "trial.key"
    assert run("pseudonyms", "new", path, "--name", "t1").returncode == 0
    return path


def tables(key: Path, **others: Any) -> dict[str, Any]:
    return {"deidentify": {"trial": {"key": key, "retain": ["modified-dates"], "clean": ["descriptors"]}}, **others}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, key: Path) -> Iterator[Site]:
    """A node with the study and what cannot be cleaned of it; only for reading."""
    with open_site(tmp_path_factory.mktemp("here") / "root", tables(key)).serving() as site:
        site.take(*identified(), *not_clean())
        site.convert()
        yield site


def searched(content: bytes) -> bytes:
    """Return what is in a ZIP file, with the names, and in its compressed volumes."""
    with ZipFile(BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    return b"".join(
        name.encode() + (gzip.decompress(part) if name.endswith(".gz") else part) for name, part in parts.items()
    )


def instances_in(content: bytes) -> dict[str, bytes]:
    with ZipFile(BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name.endswith(".dcm")}


def report_in(content: bytes) -> dict[str, Any]:
    with ZipFile(BytesIO(content)) as archive:
        assert archive.namelist()[-2:] == ["remaining.csv", "deidentification.json"]
        assert archive.read("remaining.csv").decode().startswith("attribute,tag,vr,value,count\r\n")
        assert archive.testzip() is None
        report: dict[str, Any] = json.loads(archive.read("deidentification.json"))
        return report


@pytest.mark.slow
def test_a_download_has_no_identities_and_tells_what_it_leaves_out(here: Site) -> None:
    client = here.client()
    dicom = downloaded(here)
    assert b"secret" not in searched(dicom).lower()
    assert STUDY.encode() not in searched(dicom)
    assert leaks(dcmread(BytesIO(as_file(identified()[0]))), searched(dicom), PROFILE) == []
    report = report_in(dicom)
    assert (report["profile"], report["key"], report["instances"], report["content"]) == ("trial", "t1", 4, "dicom")
    assert {row["reason"] for row in report["left_out"]} == REFUSED
    assert len(instances_in(dicom)) == 4

    one = downloaded(here, series_instance_uids=[SERIES])
    newest = client.get("/api/v1/work?kind=download").json()["items"][0]
    octets = client.get(newest["file"], headers={"Accept": "application/octet-stream"})
    assert (octets.headers["content-type"], octets.content) == ("application/octet-stream", one)
    assert instances_in(one) == instances_in(dicom)
    assert report_in(one)["left_out"] == []

    order = "de-identified by [deidentify.trial], key t1, as dicom"
    until(lambda: f"{order}: done, 4 instances sent, 0 left out" in exports(here))
    assert {f"{order}: begun", f"{order}: done, 4 instances sent, 3 left out"} < exports(here)
    line = here.audited("Export")[0]
    assert line["objects"] == [{"study_instance_uid": STUDY, "patient_id": "SECRET-4711"}]
    assert line["participants"][0]["user"] == "local"


@pytest.mark.slow
def test_a_download_tells_what_volumes_of_its_copies_lose(tmp_path: Path, key: Path) -> None:
    site = open_site(tmp_path / "root", {"deidentify": {"trial": {"key": key}}}).serving()
    site.take(*make.siemens_dwi_series(study_uid="1.2.7", series_uid="1.2.7.1", SeriesDescription="Secret"))
    report = report_in(downloaded(site, study_instance_uids=["1.2.7"]))
    site.close()
    [row] = report["left_out"]
    assert (row["reason"], row["series_instance_uid"]) == ("lost", report["series"][0]["series_instance_uid"])
    assert row["detail"].startswith("the copies lost b-values, gradient directions; for volumes, convert the originals")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize("retain", [[], ["uids"]])
@pytest.mark.parametrize("uid", ["1..2", "SECRET-4711"])
def test_a_study_whose_uids_are_none_has_a_copy(tmp_path: Path, key: Path, uid: str, retain: list[str]) -> None:
    """As `[storage] any_uids` keeps them; those that are no digits and dots are replaced even if UIDs are retained."""
    site = open_site(
        tmp_path / "root", {"deidentify": {"trial": {"key": key, "retain": retain}}}, {"any_uids": True}
    ).serving()
    site.take(*make.ct_series(3, study_uid=uid, series_uid=f"{uid}.3", PatientID="SECRET-4711"))
    content = downloaded(site, study_instance_uids=[uid])
    site.close()
    assert report_in(content)["left_out"] == []
    assert len(instances_in(content)) == 3
    assert b"secret" not in searched(content).lower()
    assert (f"'{uid}'" in str([dcmread(BytesIO(one)).StudyInstanceUID for one in instances_in(content).values()])) == (
        bool(retain) and uid == "1..2"
    )


def downloaded(site: Site, **order: Any) -> bytes:
    given = {"study_instance_uids": [STUDY], "profile": "trial"} | order
    return made_download(site.client(), "deidentified", 60, **given).content


def exports(site: Site) -> set[str]:
    return {line["detail"] for line in site.audited("Export")}


@pytest.mark.slow
def test_volumes_are_made_of_copies_and_nothing_stays_behind(here: Site) -> None:
    volumes = downloaded(here, content="volumes")
    assert b"secret" not in searched(volumes).lower()
    assert leaks(dcmread(BytesIO(as_file(identified()[0]))), searched(volumes), PROFILE) == []
    report = report_in(volumes)
    assert [(row["verdict"], row["instances"]) for row in report["series"]] == [("complete", 4)]
    assert {row["reason"] for row in report["left_out"]} <= {"no-volume", *REFUSED}
    with ZipFile(BytesIO(volumes)) as archive:
        assert {Path(name).suffix for name in archive.namelist()} >= {".gz", ".json", ".png", ".mhd"}
    until(lambda: not [path for path in (here.root / "work").iterdir() if path.is_dir()])
    until(lambda: any("as volumes: done, 4 instances in " in detail for detail in exports(here)))


@pytest.mark.slow
def test_two_nodes_and_a_command_make_the_same_of_an_instance_and_nothing_else_leaves(
    here: Site, start_site: StartSite, key: Path, tmp_path: Path
) -> None:
    there, folder = start_site(tables(key)), tmp_path / "out"
    folder.mkdir()
    destinations = {"CLOUD": DicomwebSettings(url=f"{there.url}/dicom-web"), "SHARE": FolderSettings(folder=folder)}
    route = Route(when="instance-stored", to=("CLOUD", "SHARE"), confirm=True, deidentify="trial")
    sender = start_site(tables(key, destinations=destinations, routes={"up": route}))
    run_routes(sender, "up/CLOUD", "up/SHARE")
    sender.take(*identified(), *not_clean())
    run_routes(sender, "up/CLOUD", "up/SHARE", decoder=here.services.decoder)

    by_route = {path.read_bytes() for path in folder.rglob("*.dcm")}
    assert len(by_route) == 4
    stowed = [dcmread(path) for path in there.root.glob("objects/*/*.dcm")]
    assert {ds.SOPInstanceUID for ds in stowed} == {dcmread(BytesIO(file)).SOPInstanceUID for file in by_route}
    for received in (there.root, folder):
        for path in received.rglob("*"):
            assert b"secret" not in str(path.relative_to(received)).lower().encode()
            columns = rb"secret varchar\("  # whose names the file of the index has
            assert not path.is_file() or b"secret" not in re.sub(columns, b"", path.read_bytes().lower())
            assert not path.is_file() or STUDY.encode() not in path.read_bytes()
    assert leaks(dcmread(BytesIO(as_file(identified()[0]))), b"".join(by_route), PROFILE) == []
    assert {ds.PatientID for ds in stowed} == {read_keys(key)[0].patient(Patient("", "SECRET-4711"))}

    messages = sender.client().get("/api/v1/work?kind=route&state=failed").json()["items"]
    assert ({message["reason"].split(": ")[1] for message in messages}, len(messages)) == (REFUSED, 6)
    assert all("leave it out by `where` of the route" in message["reason"] for message in messages)
    rows = sender.client().get("/api/v1/routes").json()["items"]
    [row] = [row for row in rows if (row["route"], row["destination"]) == ("up", "CLOUD")]
    assert (row["delivered"], row["given_up"], row["unconfirmed"]) == (4, 3, 0)
    lines = {line["detail"] for line in sender.audited("DICOM Instances Transferred")}
    assert lines == {"route up, de-identified by [deidentify.trial], key t1"}

    order = {"study": [STUDY, "1.2.9"], "profile": "trial"}
    page = here.client().post("/selected/deidentified.zip", data=order, follow_redirects=False).headers["location"]
    until(lambda: "The file is ready" in here.client().get(page).text, 60)
    selected = here.client().get(f"{page}/file").content
    assert {row["reason"] for row in report_in(selected)["left_out"]} == {"not-here", *REFUSED}
    copies = instances_in(selected)
    assert set(copies.values()) == by_route
    originals = tmp_path / "originals"
    make.saved(identified(), originals)
    options = ("--key", key, "--retain", "modified-dates", "--clean", "descriptors")
    assert run("deidentify", originals, tmp_path / "clean", *options).returncode == 0
    by_command = {str(path.relative_to(tmp_path / "clean")): path for path in (tmp_path / "clean").rglob("*.dcm")}
    assert by_command.keys() == copies.keys()
    assert {path.read_bytes() for path in by_command.values()} == by_route


def test_a_wrong_download_is_refused(here: Site) -> None:
    client, before = here.client(), here.client().get("/api/v1/work?total=true").json()["total"]
    wanted = {"study_instance_uids": [STUDY], "profile": "trial"}
    wrong = client.post("/api/v1/downloads/deidentified", json=wanted | {"profile": "trail"})
    assert wrong.status_code == 400
    assert 'did you mean "trial"?' in wrong.json()["detail"]
    for change, status in (
        ({"profile": None}, 422),
        ({"study_instance_uids": ["1.2.9"]}, 404),
        ({"series_instance_uids": ["1.2.9"]}, 404),
    ):
        assert client.post("/api/v1/downloads/deidentified", json=wanted | change).status_code == status
    assert client.get("/api/v1/work?total=true").json()["total"] == before


@pytest.mark.slow
def test_a_download_is_made_while_its_page_shows_how_far_it_is(start_site: StartSite, key: Path) -> None:
    site = start_site(tables(key), authentication="always").serving()
    for name in ("one", "two"):
        site.account(name, Role.READ)
    site.take(*identified())
    one, two = (site.client(auth=(name, PASSWORD)) for name in ("one", "two"))
    asked = one.get(f"/studies/{STUDY}/deidentified.zip?profile=trial", follow_redirects=False)
    assert asked.status_code == 303
    page = asked.headers["location"]
    until(lambda: "The file is ready" in one.get(f"{page}/progress").text, 60)
    file = one.get(f"{page}/file")
    assert file.headers["content-disposition"] == 'attachment; filename="deidentified.zip"'
    assert len(instances_in(file.content)) == 4
    assert report_in(file.content)["left_out"] == []
    reported = [line["detail"] for line in site.audited("DICOM Instances Transferred")]
    assert "deidentified.zip, prepared before" in reported
    assert [two.get(f"{page}{part}").status_code for part in ("", "/progress", "/file")] == [404, 404, 404]
    assert one.post(f"{page}/remove", follow_redirects=False).status_code == 303
    assert one.get(page).status_code == 404
    assert not list((site.root / "work").glob("download-*"))
