"""What the list of studies does over HTTP: several studies at once, CSV, small pictures, pages of any order."""

import csv
from collections.abc import Iterator
from io import BytesIO
from zipfile import ZipFile

import pytest
from PIL import Image

from tests import make
from tests.web.conftest import Site, open_site

pytestmark = pytest.mark.slow


STUDIES = ("1.2.1", "1.2.2", "1.2.3")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A root with `STUDIES`; tests may add others."""
    peers = {"pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": 1}}
    site = open_site(tmp_path_factory.mktemp("three") / "root", {"peers": peers})
    for number, (uid, name) in enumerate(zip(STUDIES, ("=cmd()", "B^Two", "C^Three"), strict=True)):
        site.take(*make.ct_series(3, study_uid=uid, series_uid=f"{uid}.1", PatientName=name, PatientID=f"P{number}"))
    site.convert()
    yield site
    site.close()


def test_several_studies_are_taken_away_converted_again_and_deleted(three: Site) -> None:
    client, both = three.client(), {"study": [*STUDIES[:2], "9.9", STUDIES[0]]}
    with ZipFile(BytesIO(client.post("/selected/dicom.zip", data=both, follow_redirects=True).content)) as dicom:
        assert sum(name.endswith(".dcm") for name in dicom.namelist()) == 6
        assert dicom.testzip() is None
    with ZipFile(BytesIO(client.post("/selected/volumes.zip", data=both, follow_redirects=True).content)) as volumes:
        assert sum(name.endswith(".nii.gz") for name in volumes.namelist()) == 2
    for line in three.audited("DICOM Instances Transferred")[-2:]:
        reported = [one["study_instance_uid"] for one in line["objects"]]
        assert sorted(set(reported)) == [*STUDIES[:2]], "nothing of a study that is not there"
        assert {one["patient_id"] for one in line["objects"]} == {"P0", "P1"}

    assert client.post("/selected/send", data={**both, "to": "pacs"}).headers["location"] == "/routes"
    assert [line["detail"] for line in three.audited("Export")] == ["3 instances queued for pacs"] * 2
    assert client.post("/selected/send", data={**both, "to": "pasc"}).status_code == 400
    assert client.post("/selected/send", data={"study": "9.9", "to": "pacs"}).status_code == 404
    assert 'formaction="/selected/send"' in client.get("/").text

    others = {"study": ["1.2.8", "1.2.9", "9.9"]}
    for uid in others["study"][:2]:
        three.take(make.structured_report(study_uid=uid, series_uid=f"{uid}.1"))
    three.convert()
    assert client.post("/selected/reconvert", data=others).status_code == 303
    with three.store.index.reading() as index:
        assert index.series.count_open() == 2
    three.convert()
    asked = client.post("/selected/delete", data=others).text
    assert "Delete 2 studies?" in asked
    assert "Delete 2 instances" in asked
    client.post("/selected/delete/confirmed", data=others)
    rows = client.post("/", data={}, headers={"HX-Request": "true"}).text
    assert STUDIES[2] in rows
    assert "1.2.9" not in rows
    assert [client.post(f"/selected/{what}", data={}).status_code for what in ("reconvert", "delete")] == [400, 400]
    assert client.post("/selected/delete", data=others).status_code == 404


def test_a_csv_file_has_what_the_list_has_and_no_formula(three: Site) -> None:
    answer = three.client().post(
        "/studies.csv", data={"order": "name", "reverse": "on", "words": "p", "description": ""}
    )
    rows = list(csv.DictReader(answer.text.splitlines()))
    assert [row["patient_name"] for row in rows] == ["C^Three", "B^Two", "'=cmd()"]
    assert {row["state"] for row in rows} == {"no gap seen"}
    assert any("as a CSV file" in str(line) for line in three.audited("Query"))


def test_a_list_shows_small_pictures(three: Site) -> None:
    answer = three.client().get("/studies/1.2.1/series/1.2.1.1/thumbnails/1/volume_thumbnail.png")
    assert answer.headers["content-type"] == "image/webp"
    assert max(Image.open(BytesIO(answer.content)).size) <= 64
    known = {"If-None-Match": answer.headers["etag"]}
    assert three.client().get(str(answer.url), headers=known).status_code == 304
    for name in ("volume.nii.gz", "..%2f..%2findex.sqlite", "volume.json"):
        assert three.client().get(f"/studies/1.2.1/series/1.2.1.1/thumbnails/1/{name}").status_code == 404
