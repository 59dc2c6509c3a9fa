"""Downloads that are made before they are fetched: never too many, for one account, on the pages and by REST."""

from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx2
import pytest

from node.archive.filesystem import Archive
from node.conversion.volume_files import sweep
from node.errors import OutOfResources
from node.index.nouns.accounts import Role
from node.web import prepared
from node.web.access import Call, Caller
from node.web.errors import DownloadsBusy
from node.web.prepared import (
    MAX_KEPT_FOR_ACCOUNT,
    MAX_MADE,
    MAX_MADE_FOR_ACCOUNT,
    Check,
    Made,
    Prepared,
    PreparedDownloads,
    Wanted,
)
from node.web.zips import Member
from tests import make
from tests.web.conftest import PASSWORD, Site, until

STUDY = "1.2.3"


def call_of(account: str) -> Call:
    return cast("Call", SimpleNamespace(account=Caller(account, Role.READ)))


class Downloads:
    """Downloads of a root, of members that wait until they may go on."""

    def __init__(self, root: Path, reserve_bytes: int = 0) -> None:
        self.stopping, self.may_go_on = threading.Event(), threading.Event()
        self.archive = Archive(root, reserve_bytes)
        self.made = PreparedDownloads(self.archive, self.stopping)
        self.begun: list[str] = []
        self.closed = 0
        self._asked = 0

    def begin(self, account: str = "one", order: str | None = None, size: int = 0) -> str:
        self._asked += 1
        order = order or str(self._asked)

        def members(check: Check) -> Iterator[Member]:
            self.begun.append(order)
            while not self.may_go_on.wait(0.01):
                check()
            yield Member("x", 1, iter([b"x"]))

        wanted = Wanted("x.zip", order, [], 1, "file", size)
        return self.made.begin(call_of(account), wanted, lambda: Made(members, self._close))

    def of(self, number: str, account: str = "one") -> Prepared:
        return self.made.of(call_of(account), number)

    def _close(self) -> None:
        self.closed += 1


@pytest.fixture
def downloads(tmp_path: Path) -> Iterator[Downloads]:
    made = Downloads(tmp_path)
    yield made
    made.stopping.set()


def test_an_account_has_a_few_downloads_that_are_made_while_others_wait_in_order(downloads: Downloads) -> None:
    mine = [downloads.begin() for _ in range(MAX_KEPT_FOR_ACCOUNT)]
    with pytest.raises(DownloadsBusy, match="are kept already"):
        downloads.begin()
    others = [downloads.begin(f"other {number}") for number in range(MAX_MADE - MAX_MADE_FOR_ACCOUNT + 1)]
    until(lambda: len(downloads.begun) == MAX_MADE)
    assert [downloads.of(number).state for number in mine[:3]] == ["making", "making", "waiting"]
    assert downloads.made.before(downloads.of(mine[3])) == 1
    assert downloads.of(others[-1], f"other {len(others) - 1}").state == "waiting", "as many are made as may be"
    with pytest.raises(DownloadsBusy, match="are being made already"):
        downloads.made.take_turn("one")
    downloads.made.remove(mine[0])  # ends it, although it has no member yet
    downloads.made.remove(mine[2])  # ends it, although it waits
    until(lambda: downloads.closed == 2 and downloads.of(mine[3]).state == "making")
    downloads.may_go_on.set()
    left = [mine[1], *mine[3:]]
    until(lambda: all(downloads.of(number).state == "ready" for number in left))
    until(lambda: downloads.closed == MAX_KEPT_FOR_ACCOUNT + len(others))
    assert len(list(downloads.archive.work.iterdir())) == len(left) + len(others)
    downloads.made.take_turn("one")()


def test_the_same_is_not_made_twice_at_once(downloads: Downloads) -> None:
    first = downloads.begin(order="study")
    assert downloads.begin(order="study") == first
    assert downloads.begin("two", order="study") != first, "it is for one account alone"
    downloads.may_go_on.set()
    until(lambda: downloads.of(first).state == "ready")
    assert downloads.begin(order="study") != first, "something may have come since"


def test_no_download_begins_on_a_full_disk(tmp_path: Path) -> None:
    full = Downloads(tmp_path, reserve_bytes=1 << 62)
    with pytest.raises(OutOfResources):
        full.begin()
    full.stopping.set()


def test_a_download_that_does_not_fit_beside_the_others_is_refused_with_how_much_it_takes(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    free = disk.f_bavail * disk.f_frsize
    downloads = Downloads(tmp_path, reserve_bytes=free // 2)
    first = downloads.begin(size=free // 3)
    with pytest.raises(OutOfResources, match=r"takes about [\d.]+ GB, and the disk of the archive has [\d.]+ GB"):
        downloads.begin(size=free // 3)
    downloads.made.remove(first)
    downloads.begin(size=free // 3)
    downloads.stopping.set()


def test_how_long_it_takes_is_estimated_from_what_is_made() -> None:
    one = Prepared("one", frozenset(), frozenset(), Wanted("x", "", [], 100, "file"), Path())
    one.state, one.began_at, one.done = "making", prepared.monotonic() - 10, 25
    assert 29 <= (one.left_seconds or 0) <= 31
    one.done = 0
    assert one.left_seconds is None


@pytest.fixture
def two(start_site: Callable[..., Site]) -> tuple[Site, httpx2.Client, httpx2.Client]:
    """A root with a study of two series, and two accounts that read."""
    site = start_site(authentication="always")
    for series in ("1.2.3.1", "1.2.3.2"):
        site.take(*make.ct_series(2, study_uid=STUDY, series_uid=series))
    for name in ("one", "two"):
        site.account(name, Role.READ)
    return site, *(site.client(auth=(name, PASSWORD)) for name in ("one", "two"))  # type: ignore[misc]


def asked(client: httpx2.Client, body: dict[str, Any] | None = None, **headers: str) -> dict[str, Any]:
    answer = client.post("/api/v1/downloads/medium", json=body or {"study_instance_uids": [STUDY]}, headers=headers)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    assert answer.headers.get("location", f"/api/v1/downloads/{found['id']}") == f"/api/v1/downloads/{found['id']}"
    return found


def ended(client: httpx2.Client, id: str) -> dict[str, Any]:
    until(lambda: client.get(f"/api/v1/downloads/{id}").json()["state"] in ("ready", "failed"))
    found: dict[str, Any] = client.get(f"/api/v1/downloads/{id}").json()
    return found


@pytest.mark.slow
def test_a_medium_is_asked_for_watched_fetched_in_parts_and_removed_by_rest(
    two: tuple[Site, httpx2.Client, httpx2.Client],
) -> None:
    site, one, _ = two
    token = site.client(headers={"Authorization": f"Bearer {site.token('one')}"})
    number = asked(token)["id"]
    ready = ended(token, number)
    assert (ready["state"], ready["total"], ready["done"], ready["unit"]) == ("ready", 4, 4, "instance")
    assert ready["expires_at"] is not None
    whole = token.get(ready["file"])
    assert whole.headers["content-length"] == str(ready["bytes"])
    rest = token.get(ready["file"], headers={"Range": "bytes=1000-", "If-Range": whole.headers["etag"]})
    assert (rest.status_code, rest.content) == (206, whole.content[1000:])
    assert zipfile.ZipFile(BytesIO(whole.content)).namelist()[-1] == "DICOMDIR"
    assert "CD.zip, prepared before" in site.audited("DICOM Instances Transferred")[0]["detail"]
    assert [item["id"] for item in one.get("/api/v1/downloads").json()["items"]] == [number], "as on the pages"
    assert "The file is ready" in one.get(f"/downloads/{number}").text
    assert token.delete(f"/api/v1/downloads/{number}").json() == {"removed": number}
    assert token.get(ready["file"]).status_code == 404
    assert not list((site.root / "work").glob("download-*"))


@pytest.mark.slow
def test_rest_makes_some_series_once_for_one_key_and_refuses_what_is_not_there(
    two: tuple[Site, httpx2.Client, httpx2.Client],
) -> None:
    _, one, _ = two
    some = {"study_instance_uids": [STUDY], "series_instance_uids": ["1.2.3.2"]}
    first = asked(one, some, **{"Idempotency-Key": "a"})
    assert asked(one, some, **{"Idempotency-Key": "a"})["id"] == first["id"]
    assert ended(one, first["id"])["total"] == 2
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
def test_a_download_is_for_its_account_alone_and_only_while_it_sees_the_series(
    two: tuple[Site, httpx2.Client, httpx2.Client],
) -> None:
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
            client.get(f"/api/v1/downloads/{number}"),
            client.get(f"/api/v1/downloads/{number}/file"),
            client.delete(f"/api/v1/downloads/{number}"),
            client.get(f"/downloads/{number}/file"),
        ):
            assert answer.status_code == 404
        assert client.get("/api/v1/downloads").json() == {"items": []}
    assert one.get(f"/api/v1/downloads/{number}/file").status_code == 200
    assert admin.delete("/api/v1/projects/alpha/members/one").status_code == 200
    assert admin.put("/api/v1/projects/beta", json={}).status_code in (200, 201)
    assert admin.put("/api/v1/projects/beta/members/one", json={"role": "read"}).status_code == 200
    assert one.get(f"/api/v1/downloads/{number}").status_code == 404
    assert one.get(f"/api/v1/downloads/{number}/file").status_code == 404
    assert one.get("/api/v1/downloads").json() == {"items": []}


def test_the_next_start_removes_what_a_crash_left(site: Site) -> None:
    work = site.store.archive.work
    (work / "folder").mkdir(parents=True)
    for name in ("download-1", "folder/1.dcm"):
        (work / name).write_bytes(b"patient")
    sweep(site.store.archive, site.store.index)
    assert not list(work.iterdir())


@pytest.mark.slow
def test_a_study_that_is_deleted_while_its_medium_waits_is_named_as_left_out(
    two: tuple[Site, httpx2.Client, httpx2.Client],
) -> None:
    site, one, _ = two
    site.account("admin", Role.ADMIN)
    admin = site.client(auth=("admin", PASSWORD))
    one.get("/api/v1/downloads")
    ends = [site.app.state.prepared.take_turn("one") for _ in range(MAX_MADE_FOR_ACCOUNT)]
    number = asked(one)["id"]
    assert "It waits for its turn" in one.get(f"/downloads/{number}").text
    assert admin.delete(f"/api/v1/studies/{STUDY}").status_code == 200
    assert admin.delete(f"/api/v1/trash/{admin.get('/api/v1/trash').json()[0]['number']}").status_code == 200
    for end in ends:
        end()
    assert ended(one, number)["state"] == "ready"
    content = one.get(f"/api/v1/downloads/{number}/file").content
    assert b"missing" in zipfile.ZipFile(BytesIO(content)).read("README.TXT")
