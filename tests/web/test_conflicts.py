"""Conflicts over HTTP: REST, and the section of the problems page."""

import re
from copy import deepcopy

import pytest
from pydicom import FileDataset

from tests import make
from tests.rows import view_rows
from tests.web.conftest import Site

CURRENT = "SELECT DISTINCT study_instance_uid FROM v_images"


@pytest.fixture
def corrected(site: Site) -> None:
    """A study of two instances, and the same instances under another study."""
    first = make.ct_series(2, PatientID="P-1", study_uid="1.2.3")
    site.take(*first)
    for ds in first:
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientID = "1.2.4", "1.2.4.1", "<b>P-2"
    site.take(*first)


def studies(site: Site) -> list[str]:
    return [row["study_instance_uid"] for row in view_rows(site.root, CURRENT)]


@pytest.mark.slow
def test_pages_name_the_remedy_of_other_versions_and_that_of_uids_of_another_series(site: Site) -> None:
    series, thieves = make.ct_series(2), make.ct_series(2)
    thieves[0].SOPInstanceUID = series[0].SOPInstanceUID
    site.take(*series, *thieves, make.changed(deepcopy(series[1]), PatientComments="other"))
    site.convert()
    client = site.client()
    links = re.findall(r'<p class="remedy">([^<]*) <a href="/problems/conflicts">', client.get("/problems").text)
    assert sorted(link.split(":")[0] for link in links) == ["Nothing is missing", "They are here"]
    for one, remedy in ((series[0], "Nothing is missing"), (thieves[0], "They are here")):
        page = client.get(f"/studies/{one.StudyInstanceUID}/series/{one.SeriesInstanceUID}").text
        assert f'<p class="remedy">{remedy}' in page
        assert "Send the missing instances" not in page


@pytest.mark.usefixtures("corrected")
def test_versions_are_listed_compared_and_accepted(site: Site) -> None:
    client = site.client()
    listed = client.get("/api/v1/conflicts").json()["items"]
    assert [(item["kind"], item["decision"]) for item in listed] == [("instance-bytes", None)] * 2
    path = f"/api/v1/conflicts/{listed[0]['id']}"
    compared = client.get(path).json()
    assert compared["problem"] is None
    found = {one["attribute"]: (one["current"], one["other"]) for one in compared["differences"]}
    assert found["study_instance_uid"] == ("1.2.3", "1.2.4")
    assert found["patient_id"] == ("P-1", "<b>P-2")
    done = client.post(f"{path}/accept?alike=true").json()
    assert sorted(done["accepted"]) == sorted(item["id"] for item in listed)
    assert studies(site) == ["1.2.4"]
    after = {item["id"]: item for item in client.get("/api/v1/conflicts").json()["items"]}
    assert {item["decision"] for item in after.values()} == {"accepted"}
    assert after[listed[0]["id"]]["decided_by"] == "local"


@pytest.mark.usefixtures("corrected")
def test_the_current_version_is_kept(site: Site) -> None:
    client = site.client()
    number = client.get("/api/v1/conflicts").json()["items"][0]["id"]
    assert client.post(f"/api/v1/conflicts/{number}/keep").json() == {"accepted": [], "kept": [number], "holders": []}
    assert studies(site) == ["1.2.3"]
    assert client.get(f"/api/v1/conflicts/{number}").json()["conflict"]["decision"] == "kept"


@pytest.mark.parametrize("request_", ["GET 99", "POST 99/accept", "POST 99/keep"])
def test_a_conflict_that_is_not_there_is_not_found(site: Site, request_: str) -> None:
    method, path = request_.split()
    assert site.client().request(method, f"/api/v1/conflicts/{path}").status_code == 404


@pytest.mark.usefixtures("corrected")
@pytest.mark.parametrize(("decision", "study"), [("accept", "1.2.4"), ("keep", "1.2.3")])
def test_the_page_groups_compares_and_decides(site: Site, decision: str, study: str) -> None:
    client = site.client()
    shown = client.get("/problems/conflicts").text
    assert shown.count("<tr>") == 2, "the head, and one row for both instances"
    assert "2 instances" in shown
    number = max(item["id"] for item in client.get("/api/v1/conflicts").json()["items"])
    compared = client.get(f"/problems/conflicts/{number}").text
    assert "&lt;b&gt;P-2" in compared
    assert "<p>The pixels are the same; elements that differ: " in compared
    assert client.post(f"/problems/conflicts/{number}", data={"decision": decision}).status_code == 303
    assert studies(site) == [study]
    assert "No identity conflicts to decide" in client.get("/problems/conflicts").text


@pytest.mark.usefixtures("corrected")
def test_a_comparison_names_both_persons_and_who_sent_each(site: Site) -> None:
    client = site.client()
    path = f"conflicts/{client.get('/api/v1/conflicts').json()['items'][0]['id']}"
    compared = client.get(f"/api/v1/{path}").json()
    assert [compared[version]["patient_id"] for version in ("current", "other")] == ["P-1", "<b>P-2"]
    assert [compared[version]["calling_ae_title"] for version in ("current", "other")] == ["MODALITY", "MODALITY"]
    rows = client.get(f"/problems/{path}").text.split("Of whom both versions are")[1].split("</table>")[0]
    for text in ("Voxel, Test", "P-1", "&lt;b&gt;P-2", "MODALITY"):
        assert text in rows, text
    assert rows.count('class="differs"') == 1, "the Patient ID"


def test_pages_and_rest_name_the_other_patient_of_a_study_and_mark_the_series(site: Site) -> None:
    client = site.client()
    [first] = make.ct_series(1, study_uid="1.2.3", PatientID="P2005", PatientName="Sauer^Sven")
    [other] = make.ct_series(1, study_uid="1.2.3", PatientID="Q<b>2006", PatientName="Traut^Tina")
    site.take(first, other)
    listed = client.get("/problems/conflicts").text
    assert "came as <bdi>Traut, Tina</bdi>" in listed
    assert "Q&lt;b&gt;2006" in listed
    [conflict] = client.get("/api/v1/conflicts").json()["items"]
    path = f"conflicts/{conflict['id']}"
    compared = client.get(f"/api/v1/{path}").json()
    assert [compared[version]["patient_id"] for version in ("current", "other")] == ["P2005", "Q<b>2006"]
    assert compared["problem"].startswith("nothing was set aside")
    page = client.get(f"/problems/{path}").text
    for text in ("Patient of the study", "Sauer, Sven", "Traut, Tina", "Nothing was set aside"):
        assert text in page, text
    assert "Accept this version" not in page
    for view in ("", "?view=list"):
        study = client.get(f"/studies/1.2.3{view}").text
        assert study.count(">another patient<") == 1
        assert study.count("came as <bdi>Traut, Tina</bdi>") == 1
    series = [client.get(f"/studies/1.2.3/series/{ds.SeriesInstanceUID}").text for ds in (first, other)]
    assert ["Of another patient:" in text for text in series] == [False, True]
    client.post(f"/problems/{path}", data={"decision": "keep"})
    assert ">another patient<" not in client.get("/studies/1.2.3").text
    sought = client.post("/", data={"words": "Traut"}, headers={"Accept": "text/html"}).text
    assert "under the Study Instance UID of another patient, Sauer Sven (P2005)" in sought


# Quarantine over HTTP: REST, and the section of the problems page.


@pytest.fixture
def versions(site: Site) -> tuple[FileDataset, FileDataset]:
    [first] = make.ct_series(1)
    second = make.corrected(first)
    site.take(first, second)
    return first, second


def test_a_file_is_listed_shown_downloaded_released_and_purged(
    site: Site, versions: tuple[FileDataset, FileDataset]
) -> None:
    client = site.client()
    [file] = client.get("/api/v1/quarantine").json()["items"]
    assert (file["reason"], file["sop_instance_uid"]) == ("instance-bytes", versions[0].SOPInstanceUID)
    path = f"/api/v1/quarantine/{file['name']}"
    shown = client.get(path).json()
    assert shown["problem"] is None
    assert shown["current_sha256"] != shown["sha256"] == file["sha256"]
    assert client.get(f"{path}/file").content[128:132] == b"DICM"
    refused = client.post(f"{path}/release")
    assert refused.status_code == 409
    assert "another version" in refused.json()["detail"]
    assert client.post(f"{path}/release?replace=true").status_code == 200
    [image] = view_rows(site.root, "SELECT sha256 FROM v_images")
    assert image["sha256"] == file["sha256"]
    [other] = client.get("/api/v1/quarantine").json()["items"]
    assert client.delete(f"/api/v1/quarantine/{other['name']}").status_code == 200
    assert client.get("/api/v1/quarantine").json()["items"] == []
    assert client.delete(f"/api/v1/quarantine/{other['name']}").status_code == 404


def test_the_list_has_pages(site: Site) -> None:
    for name in "abc":
        (site.root / "quarantine" / f"{name}.dcm").write_bytes(b"no DICOM")
    client = site.client()
    first = client.get("/api/v1/quarantine?limit=2").json()
    assert [item["name"] for item in first["items"]] == ["a.dcm", "b.dcm"]
    rest = client.get("/api/v1/quarantine", params={"limit": 2, "after": first["next"]}).json()
    assert ([item["name"] for item in rest["items"]], rest["next"]) == (["c.dcm"], None)


@pytest.mark.parametrize("name", ["..%2flock", "missing.dcm"])
def test_a_name_that_is_not_there_is_not_found(site: Site, name: str) -> None:
    client = site.client()
    assert client.get(f"/api/v1/quarantine/{name}").status_code == 404
    assert client.get(f"/api/v1/quarantine/{name}/file").status_code == 404
    assert client.delete(f"/api/v1/quarantine/{name}").status_code in (404, 405)
    assert client.post(f"/api/v1/quarantine/{name}/release").status_code == 404
    assert (site.root / "lock").exists()


def test_the_page_shows_the_reason_and_decides(site: Site, versions: tuple[FileDataset, FileDataset]) -> None:
    client = site.client()
    assert "instance-bytes" in client.get("/problems/quarantine").text
    [file] = client.get("/api/v1/quarantine").json()["items"]
    url = f"/problems/quarantine/{file['name']}"
    assert client.post(url, data={"decision": "replace"}).status_code == 303
    [other] = client.get("/api/v1/quarantine").json()["items"]
    assert other["name"] != file["name"]
    assert client.post(f"/problems/quarantine/{other['name']}", data={"decision": "purge"}).status_code == 303
    assert "Quarantine is empty" in client.get("/problems/quarantine").text
