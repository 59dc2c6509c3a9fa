"""A medium as a ZIP file: what a viewer needs to open it, and what was left out and why."""

import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx2
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.fileset import FileSet
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from tests import make
from tests.web.conftest import Site, open_site, until

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
