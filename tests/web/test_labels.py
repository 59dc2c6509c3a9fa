"""Labels and comments: by REST, by page, in selectors, and through deletions."""

import json

import pytest

from node.index.rules.people.accounts import Role
from node.selector import compile_selector
from tests import make
from tests.rows import view_rows
from tests.web.conftest import PASSWORD, Site

STUDY = "/api/v1/studies/1.2.3"


@pytest.fixture
def two(site: Site) -> Site:
    """Two studies, the first of two series."""
    site.take(*make.ct_series(2, study_uid="1.2.3", series_uid="1.2.3.1", PatientID="P1"))
    site.take(*make.ct_series(2, study_uid="1.2.3", series_uid="1.2.3.2", PatientID="P1"))
    site.take(*make.ct_series(2, study_uid="1.2.4", series_uid="1.2.4.1", PatientID="P2"))
    return site


def labelled(site: Site) -> list[tuple[str, str | None, str]]:
    rows = view_rows(site.root, "SELECT * FROM v_labels ORDER BY study_instance_uid, series_instance_uid, label")
    return [(row["study_instance_uid"], row["series_instance_uid"], row["label"]) for row in rows]


def selected(site: Site, where: str) -> set[str]:
    with site.store.index.reading() as index:
        return {series for _, series in index.facts.selected(compile_selector(where))}


def test_labels_are_set_listed_filtered_and_selected(two: Site) -> None:
    client = two.client()
    assert client.put(f"{STUDY}/labels", json={"labels": [" phase  2 ", "urgent"]}).json() == {
        "labels": ["phase 2", "urgent"]
    }
    assert client.put(f"{STUDY}/labels?series_instance_uid=1.2.3.2", json={"labels": ["checked"]}).status_code == 200
    assert labelled(two) == [("1.2.3", None, "phase 2"), ("1.2.3", None, "urgent"), ("1.2.3", "1.2.3.2", "checked")]
    assert client.get("/api/v1/labels").json()["items"][0] == {"label": "checked", "studies": 0, "series": 1}
    assert client.get(STUDY).json()["labels"] == ["phase 2", "urgent"]
    for label, found in {"urgent": ["1.2.3"], "checked": ["1.2.3"], "urg": [], "": ["1.2.4", "1.2.3"]}.items():
        items = client.get("/api/v1/studies", params={"label": label}).json()["items"]
        assert [item["study_instance_uid"] for item in items] == found, label
    assert selected(two, 'labels == "urgent"') == {"1.2.3.1", "1.2.3.2"}
    assert selected(two, 'labels == "checked"') == {"1.2.3.2"}
    assert selected(two, 'labels != "urgent"') == {"1.2.4.1"}

    tag = client.get(f"{STUDY}/labels").headers["ETag"]
    assert client.put(f"{STUDY}/labels", json={"labels": []}, headers={"If-Match": tag}).status_code == 200
    assert client.put(f"{STUDY}/labels", json={"labels": ["x"]}, headers={"If-Match": tag}).status_code == 412
    assert labelled(two) == [("1.2.3", "1.2.3.2", "checked")]
    lines = [line for line in two.audited("DICOM Instances Accessed") if line["detail"] == "labels changed"]
    assert [line["objects"][0]["patient_id"] for line in lines] == ["P1"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("label", ["", " ", "a,b", "a\tb\x00", "x" * 65])
def test_a_label_that_cannot_be_one_is_refused(two: Site, label: str) -> None:
    assert two.client().put(f"{STUDY}/labels", json={"labels": [label]}).status_code in (400, 422)
    assert labelled(two) == []


@pytest.mark.slow
def test_what_is_not_there_has_no_labels(two: Site) -> None:
    client = two.client()
    for path in ("/api/v1/studies/9.9", f"{STUDY}/series/1.2.4.1"):
        assert client.get(f"{path}/labels").status_code == 404
        assert client.put(f"{path}/labels", json={"labels": ["x"]}).status_code == 404
    assert client.post("/selected/labels", data={"study": ["1.2.3", "9.9"], "label": "x"}).status_code == 404
    assert labelled(two) == [], "all or none"
    assert client.put(f"{STUDY}/labels", json={"labels": [str(number) for number in range(51)]}).status_code == 422
    assert client.post(f"{STUDY}/comments", json={"comment": " "}).status_code == 400
    assert client.delete("/api/v1/comments/7").status_code == 404


def test_comments_are_written_shown_and_removed_by_who_wrote_them(two: Site) -> None:
    client = two.client()
    written = client.post(f"{STUDY}/comments", json={"comment": "<b>second</b> look\nneeded"})
    assert written.status_code == 201
    client.post("/studies/1.2.3/series/1.2.3.1/comments", data={"comment": "moved in slice 3"})
    comments = client.get(f"{STUDY}/comments").json()["items"]
    assert [one["series_instance_uid"] for one in comments] == ["1.2.3.1", None]
    page = client.get("/studies/1.2.3").text
    assert "&lt;b&gt;second&lt;/b&gt; look\nneeded" in page
    assert "moved in slice 3" in page
    assert "second" not in client.get("/studies/1.2.3/series/1.2.3.1").text
    assert all("look" not in str(line) for line in two.audited("DICOM Instances Accessed")), "people write names"

    two.account("reader", Role.READ)
    two.account("other", Role.WRITE)
    number = written.json()["id"]
    for name, status in (("reader", 403), ("other", 404)):
        assert two.client(auth=(name, PASSWORD)).delete(f"/api/v1/comments/{number}").status_code == status
    assert client.delete(f"/api/v1/comments/{number}").json() == {"removed": number}
    assert client.post(f"/comments/{comments[0]['id']}/remove").headers["location"] == "/studies/1.2.3/series/1.2.3.1"
    assert client.get(f"{STUDY}/comments").json() == {"items": []}


@pytest.mark.slow
def test_pages_give_and_take_labels_of_a_study_a_series_and_a_selection(two: Site) -> None:
    client = two.client()
    assert 'name="label"><option' not in client.get("/").text, "no label, no filter"
    assert client.post("/studies/1.2.3/labels", data={"label": "urgent"}).headers["location"] == "/studies/1.2.3"
    client.post("/studies/1.2.3/series/1.2.3.1/labels", data={"label": "x<y"})
    client.post("/selected/labels", data={"study": ["1.2.3", "1.2.4"], "label": "phase 2"})
    assert len(labelled(two)) == 4
    listed = client.get("/").text
    assert listed.count('<span class="mark"><bdi>phase 2</bdi></span>') == 2
    assert '<option value="x&lt;y">' in listed
    found = client.post("/", data={"label": "urgent"}, headers={"HX-Request": "true"}).text
    assert found.count("<tr") == 2, "a row, and the announcement"
    assert "x&lt;y" in client.get("/studies/1.2.3").text, "on the card"
    assert client.get("/studies/1.2.3/series/1.2.3.1").text.count('class="mark"') == 3
    client.post("/studies/1.2.3/labels", data={"label": "urgent", "remove": "true"})
    assert ("1.2.3", None, "urgent") not in labelled(two)


def test_labels_come_back_from_the_trash_and_go_with_the_last_files(two: Site) -> None:
    client = two.client()
    client.put(f"{STUDY}/labels", json={"labels": ["urgent"]})
    client.put(f"{STUDY}/labels?series_instance_uid=1.2.3.2", json={"labels": ["checked"]})
    client.post(f"{STUDY}/comments", json={"comment": "look"})
    client.delete(STUDY)
    assert labelled(two) == []
    assert client.get("/api/v1/labels").json() == {"items": []}
    [entry] = client.get("/api/v1/trash").json()
    client.post(f"/api/v1/trash/{entry['number']}/restore")
    assert len(labelled(two)) == 2
    assert len(client.get(f"{STUDY}/comments").json()["items"]) == 1

    client.delete(f"{STUDY}/series/1.2.3.2", params={"erase": "true"})
    assert labelled(two) == [("1.2.3", None, "urgent")]
    client.delete(STUDY, params={"erase": "true"})
    with two.store.index.reading() as index:
        for table in ("labels", "comments"):
            assert json.loads(str(index.series._rows(f"SELECT count(*) AS n FROM {table}")[0]["n"])) == 0
