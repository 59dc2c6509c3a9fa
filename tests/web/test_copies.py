"""De-identified projects: members see copies with pseudonyms of the project, and nothing tells of the originals."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import httpx2
import pytest
from pydicom import dcmread

from node.extensions.projects import EXTENSION
from node.hookspecs import Parts
from node.index.nouns.accounts import Role
from node.index.nouns.copies import ReadCopies
from node.index.nouns.projects import ReadProjects
from node.lifecycle.erasure import digest_of_uid
from node.routing.judging import is_selected
from node.selector import compile_selector
from node.web.access import is_for_projects
from tests import make
from tests.integration.test_burned_in_text import ct, needs_recognition
from tests.web.conftest import Site, every_route, until
from tests.web.test_deidentified import SERIES, STUDY, identified, not_clean
from tests.web.test_projects import OF_NOBODY, as_account, listed, query_of, url_of

pytestmark = pytest.mark.slow

MARKS = (
    b"secret^", b"secret-", b"secret hospital", b"thorax secret", b"secret comment", b"secret icon", b"secret bytes",
    b"secret creator", b"secret private", b"secret overlay", b"secret padding", b"of secret", b"840.4711", b"-4711",
    b"20260101", b"2026-01-01", b"19560401", b"1956-04-01",
)  # fmt: skip
"""What tells of the originals, in files and answers."""

NOT_OF_SERIES = ("/api/v1/events", "/api/v1/openapi.json")
"""A stream without an end, and a document of all routes."""


@contextmanager
def copying(site: Site) -> Iterator[None]:
    """Run what a node runs for projects."""
    of = site.services
    parts = Parts(of.settings, of.ingest, of.metrics, of.decoder, lambda refused: None, site.store.audit)
    services = EXTENSION.run(parts).services
    for service in services:
        service.start()
    try:
        yield
    finally:
        for service in services:
            service.stop(10)


def open_work(site: Site) -> int:
    with site.store.index.reading() as index:
        counts = index.work.counts()
        owed = index.repository(ReadCopies).owed()
    return len(owed) + sum(
        n for (kind, state), n in counts.items() if kind == "copy" and state in ("waiting", "running")
    )


def settle(site: Site) -> None:
    """Convert what came, have it copied, and convert the copies."""
    site.convert()
    with copying(site):
        until(lambda: open_work(site) == 0, 60)
    site.convert()


def enter(site: Site, *names: str, **how: Any) -> httpx2.Client:
    """Make de-identified projects, each with a member of its name, and an administrator, whose client is returned."""
    site.account("admin", Role.ADMIN)
    admin = as_account(site, "admin")
    for name in names:
        site.account(name, Role.WRITE)
        made = admin.put(f"/api/v1/projects/{name}", json={"deidentified": how})
        assert made.json() == {"project": name, "new": True}, made.text
        assert admin.put(f"/api/v1/projects/{name}/members/{name}", json={"role": "manage"}).status_code == 200
    return admin


def put(admin: httpx2.Client, project: str, *contents: tuple[str, str], remove: bool = False) -> None:
    uids = [{"study_instance_uid": study, "series_instance_uid": series} for study, series in contents]
    answer = admin.post(f"/api/v1/projects/{project}/contents", json={"remove" if remove else "add": uids})
    assert answer.status_code == 200, answer.text


def copies_of(admin: httpx2.Client, project: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = admin.get(f"/api/v1/projects/{project}/copies", params={"limit": 1000}).json()[
        "items"
    ]
    return items


def told_in(content: bytes) -> list[bytes]:
    """The marks of originals in an answer, also within what is compressed there."""
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return [
                mark for name in archive.namelist() for mark in (*told_in(name.encode()), *told_in(archive.read(name)))
            ]
    return [mark for mark in MARKS if mark in content.lower()]


def test_members_get_nothing_of_the_originals_by_any_route(start_site: Callable[..., Site]) -> None:
    site = start_site(authentication="always")
    admin = enter(site, "trial", retain=["modified-dates"], clean=["descriptors"])
    site.take(*identified(), *not_clean())
    put(admin, "trial", (STUDY, ""))
    member = as_account(site, "trial")
    assert listed(member, "/api/v1/series", "series_instance_uid") == set(), "nothing is seen before it is copied"
    settle(site)

    [series] = member.get("/api/v1/series").json()["items"]
    assert series["instances"] == 4
    assert series["state"] == "converted"
    rows = copies_of(admin, "trial")
    assert {row["state"] for row in rows} == {"copied", "not copied"}
    assert {row["copy_series_instance_uid"] for row in rows if row["state"] == "copied"} == {
        series["series_instance_uid"]
    }
    refused = member.get("/api/v1/projects/trial/refusals").json()
    assert (refused["instances"], refused["copied"], refused["refused"]) == (7, 4, 3)
    assert {one["reason"] for one in refused["items"]} == {
        "secondary-capture", "structured-report", "encapsulated-document",
    }  # fmt: skip
    assert member.get("/api/v1/projects/trial/copies").status_code == 403

    # Whatever a member can get, with everything that has a number or a name there.
    study, uid = series["study_instance_uid"], series["series_instance_uid"]
    instance = member.get("/api/v1/instances").json()["items"][0]
    volume = member.get("/api/v1/volumes").json()["items"][0]
    values = {
        "study_instance_uid": study, "series_instance_uid": uid, "sop_instance_uid": instance["sop_instance_uid"],
        "study": study, "series": uid, "instance": instance["sop_instance_uid"], "id": str(volume["id"]),
        "name": volume["name"], "project": "trial", "account": "trial", "number": "0" * 32,
        "download": "0" * 32, "comment": "1",
        "patient": str(member.get(f"/api/v1/studies/{study}").json()["patient"]),
    }  # fmt: skip
    got = 0
    for path, route in every_route(site.app.routes):
        if path in (*OF_NOBODY, *NOT_OF_SERIES) or not is_for_projects(route.endpoint):
            continue
        if "GET" not in (route.methods or ()):
            continue
        answer = member.get(url_of(path, values), params=query_of(path, values))
        assert told_in(answer.content) == [], (path, told_in(answer.content))
        assert told_in(str(answer.headers).encode()) == [], path
        got += answer.status_code == 200
    assert got > 60
    for one in member.get("/api/v1/instances").json()["items"]:
        path = f"/dicom-web/studies/{study}/series/{uid}/instances/{one['sop_instance_uid']}"
        part10 = member.get(path, headers={"accept": 'multipart/related; type="application/dicom"'})
        assert part10.status_code == 200
        assert told_in(part10.content) == []
        assert b"secret" not in part10.content.lower()
    for one in member.get("/api/v1/volumes").json()["items"]:
        assert told_in(member.get(f"/api/v1/volumes/{one['id']}/file").content) == []

    # Nor do searches find them.
    for query in (
        {"PatientID": "SECRET-4711"}, {"PatientName": "Secret*"}, {"PatientName": "*person*"},
        {"StudyDate": "20260101"}, {"StudyInstanceUID": STUDY}, {"AccessionNumber": "SECRET-A1"},
        {"PatientBirthDate": "19560401"}, {"SeriesInstanceUID": SERIES}, {"SOPInstanceUID": f"{SERIES}.0"},
    ):  # fmt: skip
        level = "instances" if "SOPInstanceUID" in query else "series" if "SeriesInstanceUID" in query else "studies"
        found = member.get(f"/dicom-web/{level}", params=query)
        assert (found.json() if found.content else []) == [], query
        assert admin.get(f"/dicom-web/{level}", params=query).json() != []
    for path in (f"/api/v1/studies/{STUDY}", f"/studies/{STUDY}", f"/dicom-web/studies/{STUDY}/metadata"):
        assert member.get(path).status_code == 404, path
    for words in ("SECRET-4711", "Secret", "4711"):
        page = member.post("/", data={"words": words}, headers={"hx-request": "true"})
        assert f"/studies/{study}" not in page.text, words
    renamed = admin.put(
        "/api/v1/projects/trial", json={"called_ae_title": "SECRET-AE", "rule": 'patient_id == "SECRET-4711"'}
    )
    assert renamed.status_code == 200
    [project] = member.get("/api/v1/projects").json()["items"]
    assert (project["rule"], project["called_ae_title"], project["deidentified"]) == (None, None, True)


def test_projects_have_pseudonyms_of_their_own_and_the_same_for_a_patient(start_site: Callable[..., Site]) -> None:
    site = start_site(authentication="always")
    admin = enter(site, "trial", "other")
    site.take(*make.ct_series(2, study_uid="1.2.901", series_uid="1.2.901.1", PatientID="P-1", PatientName="A^B"))
    site.take(*make.ct_series(2, study_uid="1.2.902", series_uid="1.2.902.1", PatientID="P-1", PatientName="A^B"))
    for name in ("trial", "other"):
        put(admin, name, ("1.2.901", ""), ("1.2.902", ""))
    settle(site)
    seen = {}
    for name in ("trial", "other"):
        studies = as_account(site, name).get("/dicom-web/studies").json()
        assert len(studies) == 2
        [seen[name]] = {study["00100020"]["Value"][0] for study in studies}
        assert as_account(site, name).get(f"/api/v1/studies/{studies[0]['0020000D']['Value'][0]}").status_code == 200
    assert seen["trial"] != seen["other"]
    uids = {name: {row["copy_sop_instance_uid"] for row in copies_of(admin, name)} for name in seen}
    assert uids["trial"].isdisjoint(uids["other"])
    assert [len(one) for one in uids.values()] == [4, 4]


def test_late_and_changed_instances_renew_the_copies_and_what_leaves_takes_them_along(
    start_site: Callable[..., Site],
) -> None:
    site = start_site(authentication="always")
    admin = enter(site, "trial")
    slices = make.ct_series(5, study_uid="1.2.901", series_uid="1.2.901.1", PatientID="P-1")
    site.take(*slices[:4])
    put(admin, "trial", ("1.2.901", ""))
    settle(site)
    member = as_account(site, "trial")
    before = listed(member, "/api/v1/instances", "sop_instance_uid")
    assert len(before) == 4
    site.take(slices[4])
    settle(site)
    after = listed(member, "/api/v1/instances", "sop_instance_uid")
    assert (len(after), before < after) == (5, True)
    volumes = [one for one in member.get("/api/v1/volumes").json()["items"] if one["kind"] == "volume"]
    assert max(volumes, key=lambda one: one["revision"])["shape"][2] == 5

    # Another version of an instance has another copy, with the same UID.
    uid = str(slices[0].SOPInstanceUID)
    delete = site.store.actions.by_name["delete"]
    delete(level="instance", uid=uid, study_instance_uid=None, who="test")
    settle(site)
    assert len(listed(member, "/api/v1/instances", "sop_instance_uid")) == 4, "what is deleted has no copy"
    slices[0].PixelData = bytes(len(slices[0].PixelData))
    site.take(slices[0])
    settle(site)
    assert listed(member, "/api/v1/instances", "sop_instance_uid") == after
    [row] = [row for row in copies_of(admin, "trial") if row["sop_instance_uid"] == uid]
    file = member.get(f"/api/v1/instances/{row['copy_sop_instance_uid']}/file")
    assert not any(dcmread(io.BytesIO(file.content)).PixelData)

    # What leaves the project is not seen from then on, and its copies are deleted.
    put(admin, "trial", ("1.2.901", ""), remove=True)
    assert listed(member, "/api/v1/series", "series_instance_uid") == set()
    put(admin, "trial", ("1.2.901", ""))
    assert listed(member, "/api/v1/instances", "sop_instance_uid") == after, "the copies were not removed yet"
    put(admin, "trial", ("1.2.901", ""), remove=True)
    settle(site)
    assert copies_of(admin, "trial") == []
    assert listed(admin, "/api/v1/series", "series_instance_uid") == {"1.2.901.1"}
    put(admin, "trial", ("1.2.901", ""))
    settle(site)
    assert listed(member, "/api/v1/instances", "sop_instance_uid") == after, "the pseudonyms are the same again"
    site.store.actions.by_name["delete"](level="study", uid="1.2.901", study_instance_uid=None, who="test")
    settle(site)
    assert listed(admin, "/api/v1/series", "series_instance_uid") == set(), "copies go with their originals"
    copy = row["copy_series_instance_uid"].encode()
    assert [path for path in (site.root / "objects").rglob("*.dcm") if copy in path.read_bytes()] == []


def test_a_removed_project_leaves_no_copies(start_site: Callable[..., Site]) -> None:
    site = start_site(authentication="always")
    admin = enter(site, "trial")
    site.take(*make.ct_series(3, study_uid="1.2.901", series_uid="1.2.901.1"))
    put(admin, "trial", ("1.2.901", ""))
    settle(site)
    assert len(listed(admin, "/api/v1/series", "series_instance_uid")) == 2
    assert admin.delete("/api/v1/projects/trial").status_code == 200
    assert listed(as_account(site, "trial"), "/api/v1/series", "series_instance_uid") == set()
    settle(site)
    assert listed(admin, "/api/v1/series", "series_instance_uid") == {"1.2.901.1"}


def test_rules_hooks_and_retention_are_not_about_copies_unless_they_say_so(start_site: Callable[..., Site]) -> None:
    site = start_site(authentication="always")
    admin = enter(site, "trial")
    site.account("anna", Role.READ)
    for name, rule in (("all", 'modality == "CT"'), ("copies", 'copied_for == "trial"')):
        assert admin.put(f"/api/v1/projects/{name}", json={"rule": rule}).status_code == 200
    site.take(*make.ct_series(3, study_uid="1.2.901", series_uid="1.2.901.1"))
    assert admin.put("/api/v1/projects/trial", json={"rule": 'modality == "CT"'}).status_code == 200
    settle(site)
    admin.put("/api/v1/projects/copies", json={"rule": 'copied_for == "trial"'})
    numbers = {one["name"]: one["series"] for one in admin.get("/api/v1/projects").json()["items"]}
    assert numbers == {"all": 1, "copies": 1, "trial": 1}
    [copied] = {row["copy_series_instance_uid"] for row in copies_of(admin, "trial")}
    with site.store.index.reading() as index:
        [row] = [one for one in index.series.page(None, 10) if one["series_instance_uid"] == copied]
        chosen = {
            where: [
                is_selected(index, "series-quiet", compile_selector(where) if where else None, key, None)
                for key in (("1.2.901", "1.2.901.1"), (row["study_instance_uid"], copied))
            ]
            for where in ("", 'modality == "CT"', 'copied_for == "trial"')
        }
        assert chosen == {
            "": [True, False],
            'modality == "CT"': [True, False],
            'copied_for == "trial"': [False, True],
        }
        assert [study.study_instance_uid for study in index.studies.stored()] == ["1.2.901"]
    # A copy is no original, neither of this project nor of another one.
    refused = admin.post(
        "/api/v1/projects/trial/contents", json={"add": [{"study_instance_uid": row["study_instance_uid"]}]}
    )
    assert (refused.status_code, "is a copy" in refused.text) == (400, True)
    named = as_account(site, "trial").post(
        "/api/v1/projects/trial/contents", json={"add": [{"study_instance_uid": row["study_instance_uid"]}]}
    )
    assert named.status_code == 403


def test_an_erasure_takes_the_copies_along(start_site: Callable[..., Site]) -> None:
    """With their records in the journal: a copy has the pixels of its original."""
    site = start_site(authentication="always")
    admin = enter(site, "trial")
    site.take(*make.ct_series(3, study_uid="1.2.901", series_uid="1.2.901.1", PatientID="P-1"))
    put(admin, "trial", ("1.2.901", ""))
    settle(site)
    [copy] = {row["copy_series_instance_uid"] for row in copies_of(admin, "trial")}
    assert admin.delete("/api/v1/studies/1.2.901", params={"erase": True}).json()["deleted"]
    [certificate] = [one["certificate"] for one in admin.get("/api/v1/work?kind=erasure").json()["items"]]
    assert (certificate["series"], certificate["instances"]) == (2, 6)
    assert digest_of_uid(copy) in certificate["uids_sha256"]
    assert listed(admin, "/api/v1/series", "series_instance_uid") == set()
    left = [
        path for path in (site.root / "journal").rglob("*") if path.is_file() and copy.encode() in path.read_bytes()
    ]
    assert left == []


@needs_recognition
def test_text_in_the_pixels_of_an_original_leaves_no_copy(start_site: Callable[..., Site]) -> None:
    site = start_site(authentication="always")
    admin = enter(site, "trial", burned_in_text="refuse")
    with_text, without = ct()[0], ct(lines=0)[0]
    for number, ds in enumerate((with_text, without)):
        ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.901", f"1.2.901.{number}"
        site.take(ds)
    put(admin, "trial", ("1.2.901", ""))
    settle(site)
    told = {row["sop_instance_uid"]: row["reason"] for row in copies_of(admin, "trial")}
    assert told == {with_text.SOPInstanceUID: "burned-in-text", without.SOPInstanceUID: None}
    assert len(listed(as_account(site, "trial"), "/api/v1/instances", "sop_instance_uid")) == 1


@pytest.mark.skipif(find_spec("rapidocr") is not None, reason="with the extra ocr")
def test_a_project_that_looks_for_text_needs_the_extra(start_site: Callable[..., Site]) -> None:
    site = start_site(authentication="always")
    site.account("admin", Role.ADMIN)
    given = {"deidentified": {"burned_in_text": "blank"}}
    refused = as_account(site, "admin").put("/api/v1/projects/trial", json=given)
    assert (refused.status_code, "voxelnode[ocr]" in refused.text) == (400, True)


def test_nothing_from_elsewhere_comes_among_the_copies(start_site: Callable[..., Site]) -> None:
    site = start_site(authentication="always")
    admin = enter(site, "trial")
    site.take(*make.ct_series(3, study_uid="1.2.901", series_uid="1.2.901.1", PatientID="P-1"))
    put(admin, "trial", ("1.2.901", ""))
    settle(site)
    row = copies_of(admin, "trial")[0]
    member = as_account(site, "trial")
    before = listed(member, "/api/v1/instances", "sop_instance_uid")
    foreign = make.ct_series(2, study_uid=row["copy_study_instance_uid"], series_uid=row["copy_series_instance_uid"],
                             PatientID="FOREIGN")  # fmt: skip
    other = make.ct_series(1, study_uid=row["copy_study_instance_uid"], series_uid=row["copy_series_instance_uid"],
                           PatientID="FOREIGN")  # fmt: skip
    other[0].SOPInstanceUID = other[0].file_meta.MediaStorageSOPInstanceUID = row["copy_sop_instance_uid"]
    for ds in (*foreign, *other):
        with pytest.raises(Exception, match="copies of a de-identified project"):
            site.take(ds)
    assert listed(member, "/api/v1/instances", "sop_instance_uid") == before
    site.take(*make.ct_series(1, study_uid=row["copy_study_instance_uid"], series_uid="1.2.999", PatientID="FOREIGN"))
    assert "1.2.999" not in listed(member, "/api/v1/series", "series_instance_uid")


def test_only_a_new_or_empty_project_becomes_deidentified(start_site: Callable[..., Site]) -> None:
    site = start_site(authentication="always")
    admin = enter(site, "trial")
    site.take(*make.ct_series(1, study_uid="1.2.901", series_uid="1.2.901.1"))
    again = admin.put("/api/v1/projects/trial", json={"deidentified": {}})
    assert (again.status_code, "already" in again.text) == (400, True)
    for name, fields in {"ruled": {"rule": 'modality == "CT"'}, "called": {"called_ae_title": "X"}, "full": {}}.items():
        assert admin.put(f"/api/v1/projects/{name}", json=fields).status_code == 200
        if name == "full":
            put(admin, name, ("1.2.901", ""))
        refused = admin.put(f"/api/v1/projects/{name}", json={"deidentified": {}})
        assert (refused.status_code, "only a new or an empty project" in refused.text) == (400, True)
    assert admin.put("/api/v1/projects/plain", json={}).status_code == 200
    assert admin.put("/api/v1/projects/plain", json={"deidentified": {}}).status_code == 200
    kept = admin.put("/api/v1/projects/uids", json={"deidentified": {"retain": ["uids"]}})
    assert (kept.status_code, "UIDs of their own" in kept.text) == (400, True)
    with site.store.index.reading() as index:
        deidentified = {row["name"] for row in index.repository(ReadProjects).all() if row["deidentified"]}
    assert deidentified == {"trial", "plain"}
