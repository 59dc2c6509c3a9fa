"""Quarantine over HTTP: REST, and the section of the problems page."""

import pytest
from pydicom import FileDataset

from tests import make
from tests.rows import view_rows
from tests.web.conftest import Site


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
    shown = client.get("/problems/quarantine").text
    assert "instance-bytes" in shown
    [file] = client.get("/api/v1/quarantine").json()["items"]
    url = f"/problems/quarantine/{file['name']}"
    assert client.post(url, data={"decision": "replace"}).status_code == 303
    [other] = client.get("/api/v1/quarantine").json()["items"]
    assert other["name"] != file["name"]
    assert client.post(f"/problems/quarantine/{other['name']}", data={"decision": "purge"}).status_code == 303
    assert "Quarantine is empty" in client.get("/problems/quarantine").text
