"""The trash over HTTP: REST, and the section of the problems page."""

from typing import Any

from tests import make
from tests.rows import view_rows
from tests.web.conftest import Site


def deleted(site: Site) -> str:
    """Delete a study of two instances; its UID."""
    series = make.ct_series(2, PatientName="Trash^Tom", StudyDescription="head <b>")
    site.take(*series)
    uid = str(series[0].StudyInstanceUID)
    assert site.client().delete(f"/api/v1/studies/{uid}").json()["deleted"]
    return uid


def audited(site: Site) -> str:
    return (site.root / "audit.jsonl").read_text(encoding="utf-8")


def images(site: Site) -> int:
    return len(view_rows(site.root, "SELECT 1 FROM v_images"))


def test_a_deletion_is_listed_and_undone_by_rest(site: Site) -> None:
    client, uid = site.client(), deleted(site)
    [entry] = client.get("/api/v1/trash").json()
    assert (entry["level"], entry["uid"], entry["files"], entry["patient_name"]) == ("study", uid, 2, "Trash^Tom")
    assert "trash" in audited(site)
    restored: dict[str, Any] = client.post(f"/api/v1/trash/{entry['number']}/restore").json()
    assert restored == {"instances": 2, "repeated": 0, "conflicts": 0, "lost": 0, "holders": []}
    assert (images(site), client.get("/api/v1/trash").json()) == (2, [])
    assert {line["detail"].split(",")[0] for line in site.audited("DICOM Study Deleted")} == {
        f"{when}: delete study" for when in ("ordered", "done")
    }
    assert client.get(f"/api/v1/studies/{uid}").status_code == 200
    assert client.post(f"/api/v1/trash/{entry['number']}/restore").status_code == 404


def test_a_deletion_is_made_permanent_by_rest(site: Site) -> None:
    client = site.client()
    deleted(site)
    [entry] = client.get("/api/v1/trash").json()
    assert client.delete(f"/api/v1/trash/{entry['number']}").json() == {"emptied": entry["number"], "holders": []}
    assert list((site.root / "objects").rglob("*.dcm")) == []
    assert client.delete(f"/api/v1/trash/{entry['number']}").status_code == 404


def test_the_page_says_what_is_there_and_brings_it_back_or_deletes_it(site: Site) -> None:
    client, uid = site.client(), deleted(site)
    shown = client.get("/problems/trash").text
    assert "Tom" in shown
    assert "head &lt;b&gt;" in shown
    [entry] = client.get("/api/v1/trash").json()
    asked = client.post(f"/problems/trash/{entry['number']}", data={"decision": "restore"}, follow_redirects=False)
    assert (asked.status_code, images(site)) == (303, 2)
    assert "can come back" in client.get(f"/studies/{uid}/delete").text
    done = client.post(f"/studies/{uid}/delete", follow_redirects=True).text
    assert "Deleted. The" in done
    assert 'href="/problems/trash"' in done
    assert "Deleted. The" not in client.get("/").text
    [entry] = client.get("/api/v1/trash").json()
    client.post(f"/problems/trash/{entry['number']}", data={"decision": "empty"})
    assert "The trash is empty" in client.get("/problems/trash").text
    assert list((site.root / "objects").rglob("*.dcm")) == []
