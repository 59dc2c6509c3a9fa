"""Downloads that are made before they are fetched: never too many, for one account, on the pages and by REST."""

import datetime as dt
import os
import threading
import time
import zipfile
from collections.abc import Generator, Iterator
from io import BytesIO
from types import SimpleNamespace
from typing import Any, cast

import httpx2
import pytest

from node.api import Call, OutOfResources, Role
from node.archive.filesystem import DOWNLOAD_KEPT_SECONDS
from node.conversion.volume_files import sweep
from node.index.rows.states import Download
from node.index.rules.work.ledger import MAX_DOWNLOADS, Work
from node.web.downloads import MAX_MADE, Downloads, Making, makes
from node.web.errors import DownloadsBusy, ResourceNotFound
from node.web.principal import Principal
from node.web.zips import Member
from tests import make
from tests.web.conftest import PASSWORD, Site, StartSite, until

STUDY = "1.2.3"

may_go_on = threading.Event()


@makes("test")
def members(making: Making) -> Generator[Member, None, None]:
    """One member, as soon as it may go on."""
    while not may_go_on.wait(0.01):
        making.check()
    yield Member("x", 1, iter([b"x"]))


@pytest.fixture
def held() -> Iterator[None]:
    """Downloads of tests that wait until they may go on."""
    may_go_on.clear()
    yield
    may_go_on.set()


def call_of(site: Site, account: str = "one") -> Call:
    act = lambda action, **arguments: site.services.actions[action](who=account, **arguments)  # noqa: E731
    return cast("Call", SimpleNamespace(account=Principal("token", account, Role.READ), act=act))


def downloads_of(site: Site) -> Downloads:
    found: Downloads = site.serving().app.state.downloads
    return found


def begin(site: Site, name: str, account: str = "one") -> int:
    return downloads_of(site).begin(call_of(site, account), Download("test", name))


def of(site: Site, number: int, account: str = "one") -> Work:
    return downloads_of(site).of(call_of(site, account), number)


def in_work(site: Site) -> list[str]:
    return [path.name for path in site.store.archive.work.glob("download-*")]


@pytest.mark.usefixtures("held")
def test_an_account_has_a_download_made_while_others_wait_in_turn(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = [begin(site, f"{number}.zip") for number in range(MAX_DOWNLOADS)]
    with pytest.raises(DownloadsBusy, match="remove one on its page"):
        begin(site, "more.zip")
    others = [begin(site, "x.zip", f"other {number}") for number in range(MAX_MADE)]
    until(lambda: len(in_work(site)) == MAX_MADE)
    assert [of(site, number).state for number in mine[:2]] == ["running", "waiting"]
    assert of(site, others[-1], f"other {MAX_MADE - 1}").state == "waiting", "as many are made as may be"
    with pytest.raises(ResourceNotFound):
        of(site, mine[0], "two")
    downloads_of(site).remove(call_of(site), mine[1])  # ends it, although it waits
    assert of(site, mine[1]).outcome == "cancelled"
    downloads_of(site).remove(call_of(site), mine[0])  # ends it, although it has no member yet
    until(lambda: of(site, mine[0]).outcome == "cancelled")
    until(lambda: of(site, mine[2]).state == "running")
    may_go_on.set()
    until(lambda: all(of(site, number).outcome == "succeeded" for number in mine[2:]))
    assert downloads_of(site).file(of(site, mine[2])) is not None
    begin(site, "more.zip"), begin(site, "still more.zip")
    with pytest.raises(DownloadsBusy):  # what has a file counts
        begin(site, "too many.zip")
    with monkeypatch.context() as behind:  # not for ever, if it was made while the clock was ahead
        behind.setattr(downloads_of(site), "_now", lambda: site.store.index.now() - dt.timedelta(days=400))
        begin(site, "after all.zip")
    downloads_of(site).remove(call_of(site), mine[2])
    downloads_of(site).remove(call_of(site), mine[3])
    begin(site, "too many.zip")


@pytest.mark.usefixtures("held")
def test_the_same_is_not_made_twice_at_once(site: Site) -> None:
    first = begin(site, "study.zip")
    assert begin(site, "study.zip") == first
    assert begin(site, "study.zip", "two") != first, "it is for one account alone"
    may_go_on.set()
    until(lambda: of(site, first).outcome == "succeeded")
    assert begin(site, "study.zip") != first, "something may have come since"


def test_no_download_begins_on_a_full_disk(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site.store.archive.intake, "waits_for", lambda: "the disk is full")
    with pytest.raises(OutOfResources, match="the disk is full"):
        begin(site, "x.zip")


@pytest.mark.usefixtures("held")
def test_a_start_makes_what_the_last_one_owed_and_keeps_files_for_their_hour(site: Site) -> None:
    ready = begin(site, "ready.zip", "two")
    until(lambda: of(site, ready, "two").state == "running")
    may_go_on.set()
    until(lambda: of(site, ready, "two").outcome == "succeeded")
    may_go_on.clear()
    number = begin(site, "x.zip")
    until(lambda: of(site, number).state == "running")
    downloads_of(site).stop()
    assert of(site, number).state == "running"
    (site.store.archive.work / "folder").mkdir()
    sweep(site.store.archive, site.store.index)
    assert not (site.store.archive.work / "folder").exists()
    may_go_on.set()
    again = Downloads(site.services, site.server._app.state.access.trail)
    again.start()
    until(lambda: of(site, number).outcome == "succeeded")
    assert again.file(of(site, number)) is not None
    file = again.file(of(site, ready, "two"))
    os.utime(file, (time.time() - DOWNLOAD_KEPT_SECONDS - 1,) * 2)
    again.wake()
    until(lambda: not file.exists())
    again.stop()


@pytest.fixture
def two(start_site: StartSite) -> tuple[Site, httpx2.Client, httpx2.Client]:
    """A root with a study of two series, and two accounts that read."""
    site = start_site(authentication="always").serving()
    for series in ("1.2.3.1", "1.2.3.2"):
        site.take(*make.ct_series(2, study_uid=STUDY, series_uid=series))
    for name in ("one", "two"):
        site.account(name, Role.READ)
    return site, *(site.client(auth=(name, PASSWORD)) for name in ("one", "two"))  # type: ignore[misc]


def asked(client: httpx2.Client, body: dict[str, Any] | None = None, **headers: str) -> dict[str, Any]:
    answer = client.post("/api/v1/downloads/medium", json=body or {"study_instance_uids": [STUDY]}, headers=headers)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/api/v1/work/{found['id']}"
    return found


def ended(client: httpx2.Client, id: int) -> dict[str, Any]:
    until(lambda: client.get(f"/api/v1/work/{id}").json()["ended_at"] is not None)
    found: dict[str, Any] = client.get(f"/api/v1/work/{id}").json()
    return found


@pytest.mark.slow
def test_a_medium_is_asked_for_watched_fetched_in_parts_and_removed_by_rest(
    two: tuple[Site, httpx2.Client, httpx2.Client],
) -> None:
    site, one, _ = two
    token = site.client(headers={"Authorization": f"Bearer {site.token('one')}"})
    number = asked(token)["id"]
    ready = ended(token, number)
    assert (ready["state"], ready["instances"], ready["file"]) == ("succeeded", 4, f"/api/v1/work/{number}/file")
    whole = token.get(ready["file"])
    rest = token.get(ready["file"], headers={"Range": "bytes=1000-", "If-Range": whole.headers["etag"]})
    assert (rest.status_code, rest.content) == (206, whole.content[1000:])
    assert zipfile.ZipFile(BytesIO(whole.content)).namelist()[-1] == "DICOMDIR"
    assert "CD.zip, prepared before" in site.audited("DICOM Instances Transferred")[0]["detail"]
    assert [item["id"] for item in one.get("/api/v1/work?kind=download").json()["items"]] == [number]
    assert "The file is ready" in one.get(f"/downloads/{number}").text
    assert token.delete(ready["file"]).json() == {"removed": number}
    assert token.get(ready["file"]).status_code == 404
    assert token.get(f"/api/v1/work/{number}").status_code == 404, "its name may be that of the patient"
    assert not list((site.root / "work").glob("download-*"))


@pytest.mark.slow
def test_rest_makes_some_series_and_refuses_what_is_not_there(two: tuple[Site, httpx2.Client, httpx2.Client]) -> None:
    _, one, _ = two
    first = asked(one, {"study_instance_uids": [STUDY], "series_instance_uids": ["1.2.3.2"]})
    assert ended(one, first["id"])["instances"] == 2
    for body, status in (
        ({"study_instance_uids": ["9.9"]}, 404),
        ({"study_instance_uids": []}, 422),
        ({"study_instance_uids": [STUDY, "9.9"], "series_instance_uids": ["1.2.3.1"]}, 422),
        ({"study_instance_uids": [STUDY], "serie": "1.2.3.1"}, 422),
    ):
        assert one.post("/api/v1/downloads/medium", json=body).status_code == status, body
    assert (
        one.post("/api/v1/downloads/deidentified", json={"study_instance_uids": [STUDY], "profile": "none"}).status_code
        == 400
    )


@pytest.mark.slow
def test_a_download_is_for_its_account_while_it_sees_the_series(two: tuple[Site, httpx2.Client, httpx2.Client]) -> None:
    site, one, other = two
    site.account("admin", Role.ADMIN)
    admin = site.client(auth=("admin", PASSWORD))
    assert admin.put("/api/v1/projects/alpha", json={}).status_code in (200, 201)
    added = {"add": [{"study_instance_uid": STUDY}]}
    assert admin.post("/api/v1/projects/alpha/contents", json=added).status_code == 200
    assert admin.put("/api/v1/projects/alpha/members/one", json={"role": "read"}).status_code == 200
    number = asked(one)["id"]
    ended(one, number)
    for client in (other, admin):
        for answer in (
            client.get(f"/api/v1/work/{number}/file"),
            client.delete(f"/api/v1/work/{number}/file"),
            client.get(f"/downloads/{number}"),
            client.get(f"/downloads/{number}/file"),
        ):
            assert answer.status_code == 404
    assert one.get(f"/api/v1/work/{number}/file").status_code == 200
    assert admin.delete("/api/v1/projects/alpha/members/one").status_code == 200
    assert admin.put("/api/v1/projects/beta", json={}).status_code in (200, 201)
    assert admin.put("/api/v1/projects/beta/members/one", json={"role": "read"}).status_code == 200
    assert one.get(f"/downloads/{number}").status_code == 404
    assert one.get(f"/api/v1/work/{number}/file").status_code == 404
    assert one.delete(f"/api/v1/work/{number}/file").status_code == 404
    assert one.get("/api/v1/work").status_code == 403
    admin.put("/api/v1/projects/beta/members/two", json={"role": "read"})
    assert other.get(f"/api/v1/work/{number}").status_code == 404, "a member sees the downloads of its account alone"


@pytest.mark.slow
@pytest.mark.usefixtures("held")
def test_a_study_that_is_deleted_while_its_medium_waits_is_named_as_left_out(
    two: tuple[Site, httpx2.Client, httpx2.Client],
) -> None:
    site, one, _ = two
    site.account("admin", Role.ADMIN)
    admin = site.client(auth=("admin", PASSWORD))
    begin(site, "first.zip")
    number = asked(one)["id"]
    assert "It waits for its turn" in one.get(f"/downloads/{number}").text
    assert admin.delete(f"/api/v1/studies/{STUDY}").status_code == 200
    assert admin.delete(f"/api/v1/trash/{admin.get('/api/v1/trash').json()[0]['number']}").status_code == 200
    may_go_on.set()
    assert ended(one, number)["state"] == "succeeded"
    content = one.get(f"/api/v1/work/{number}/file").content
    assert b"missing" in zipfile.ZipFile(BytesIO(content)).read("README.TXT")
