"""Where is it? What answers 404 says what became of it, to those who may know, and to nobody else."""

import datetime as dt
from typing import Any

import httpx2
import pytest

from node.index.rows.records import CountedRefusal, Refused
from node.index.rules.people.accounts import Role
from node.web.credentials import digest, new_token
from tests import make
from tests.web.conftest import PASSWORD, Site

PAGE = {"Accept": "text/html"}


def deleted(site: Site, client: httpx2.Client) -> Any:
    """An instance of a study that is in the trash."""
    series = make.ct_series(2, PatientID="ID-7", PatientName="Trash^Tom", AccessionNumber="ACC-7")
    site.take(*series)
    assert client.delete(f"/api/v1/studies/{series[0].StudyInstanceUID}").json()["deleted"]
    return series[0]


def addresses(ds: Any) -> list[str]:
    """Where REST and DICOMweb have a study, its series and an instance."""
    study = f"/studies/{ds.StudyInstanceUID}"
    series = f"{study}/series/{ds.SeriesInstanceUID}"
    rest = (study, series, f"/instances/{ds.SOPInstanceUID}", f"{study}/labels")
    dicomweb = (study, series, f"{series}/instances/{ds.SOPInstanceUID}")
    return [*(f"/api/v1{path}" for path in rest), *(f"/dicom-web{path}" for path in dicomweb)]


def test_rest_says_what_became_of_a_study_a_series_and_an_instance(site: Site) -> None:
    client = site.client()
    ds = deleted(site, client)
    for path in addresses(ds):
        answer = client.get(path)
        assert answer.status_code == (410 if path.startswith("/dicom-web") else 404), path
        problem = answer.json()
        assert " by local: in the trash until " in problem["detail"], (path, problem)
        assert problem["remedy"] == "`voxelnode trash restore 1` brings it back"
        assert "Tom" not in answer.text
    assert client.post("/api/v1/trash/1/restore").json()["instances"] == 2
    for path in addresses(ds):
        assert client.get(path).status_code == 200, path
    found = client.get(f"/api/v1/studies/1.2.3/series/{ds.SeriesInstanceUID}").json()
    assert found["detail"] == f"There is no such series: stored in study {ds.StudyInstanceUID}"
    frames = f"/dicom-web/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
    assert "stored" not in client.get(f"{frames}/frames/99").text


def test_pages_say_it_and_show_where_it_comes_back(site: Site) -> None:
    client = site.client(headers=PAGE)
    ds = deleted(site, client)
    study = f"/studies/{ds.StudyInstanceUID}"
    for path in (study, f"{study}/series/{ds.SeriesInstanceUID}"):
        shown = client.get(path)
        assert shown.status_code == 404
        assert " by local: in the trash until " in shown.text
        assert '<a class="button primary" href="/problems/trash">' in shown.text
    site.take(*make.ct_series(1))
    for words in ("ID-7", "tom", str(ds.StudyInstanceUID)):
        shown = client.post("/", data={"words": words})
        assert "No study matches" in shown.text
        assert "`voxelnode trash restore 1`" in shown.text, words
        assert '<a href="/problems/trash">' in shown.text
        assert "Try fewer letters" not in shown.text
    site.take(*make.ct_series(1, PatientID="ID-7"))
    shown = client.post("/", data={"words": "ID-7"}).text
    assert "No study matches" not in shown
    assert "1 deletion that fits is in the" in shown
    assert '<a href="/problems/trash">trash</a>' in shown
    assert "that fits" not in client.post("/", data={"words": "ct"}).text
    assert "trash restore" not in client.post("/", data={"words": "", "first_date": "1900-01-01"}).text
    assert "trash restore" not in client.post("/", data={"words": "nobody"}).text


def test_a_sender_that_was_refused_is_named_where_nothing_is_known(site: Site) -> None:
    now = dt.datetime.now(dt.UTC)
    reason, remedy = "rejected permanently: calling AE title not recognised", "add the sender to [peers]"
    one = Refused("association", "calling AE title", reason, remedy, "10.0.0.7", "CT7")
    site.store.index.rejections.record([CountedRefusal(one, 1, now, now)])
    problem = site.client().get("/api/v1/studies/1.2.3").json()
    assert problem["detail"].endswith(" of CT7 at 10.0.0.7: calling AE title not recognised")
    assert problem["remedy"] == f"if that is why: {remedy}; `voxelnode rejections` lists all"


def test_each_role_learns_what_its_pages_show_and_a_member_nothing(guarded: Site) -> None:
    admin, reader = (guarded.client(auth=(name, PASSWORD)) for name in ("admin", "reader"))
    ds = deleted(guarded, admin)
    path = f"/api/v1/studies/{ds.StudyInstanceUID}"
    assert " by admin: in the trash until " in admin.get(path).json()["detail"]
    problem = reader.get(path).json()
    assert problem["remedy"] == "an administrator can bring it back from the trash"
    assert not {"admin", "trash until"} & set(problem["detail"].split())
    assert "trash" not in reader.get(f"/api/v1/instances/{ds.SOPInstanceUID}").text
    guarded.take(*make.ct_series(1))
    for words in ("ID-7", "tom", "ACC-7"):
        shown = reader.post("/", data={"words": words}, headers=PAGE).text
        assert f"; {problem['remedy']}" in shown, words
        assert not [said for said in ("Trash^Tom", "trash until", "by admin", "Try fewer") if said in shown]
    guarded.account("mia", Role.READ)
    assert admin.put("/api/v1/projects/trial", json={}).status_code == 200
    assert admin.put("/api/v1/projects/trial/members/mia", json={"role": "read"}).status_code == 200
    member = guarded.client(auth=("mia", PASSWORD))
    for known, unknown in zip(addresses(ds), [one.replace(str(ds.StudyInstanceUID), "1.2.3")
            .replace(str(ds.SeriesInstanceUID), "1.2.3.1").replace(str(ds.SOPInstanceUID), "1.2.3.1.1")
            for one in addresses(ds)], strict=True):  # fmt: skip
        first, second = member.get(known), member.get(unknown)
        assert (first.status_code, first.content) == (second.status_code, second.content)
        assert first.status_code == 404
    first, second = (member.post("/", data={"words": words}, headers=PAGE).text for words in ("ID-7", "ID-8"))
    assert first.replace("ID-7", "ID-8") == second
    assert "trash" not in first


@pytest.mark.parametrize(("routes", "is_said"), [((), True), (("rest",), True), (("dicomweb",), False)])
def test_a_token_for_other_routes_says_nothing(guarded: Site, routes: tuple[str, ...], is_said: bool) -> None:
    ds = deleted(guarded, guarded.client(auth=("admin", PASSWORD)))
    token = new_token()
    guarded.services.index.accounts.add_token("admin", "t", digest(token), None, guarded.services.ingest.now(),
        routes=routes)  # fmt: skip
    path = f"/api/v1/studies/{ds.StudyInstanceUID}" if "rest" in routes else f"/dicom-web/studies/{ds.StudyInstanceUID}"
    answer = guarded.client(headers={"Authorization": f"Bearer {token}"}).get(path)
    assert ("trash restore 1" in answer.text) == is_said, answer.text


def test_no_line_of_the_log_names_who_was_sought(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    client = site.client()
    deleted(site, client)
    client.post("/", data={"words": "ID-7"}, headers=PAGE)
    client.post("/", data={"words": "Trash Tom"}, headers=PAGE)
    said = "".join(capfd.readouterr())
    assert "study_instance_uid" in said
    assert not any(name in said for name in ("ID-7", "Tom"))
