"""Bursts of requests for frames over a real server: what is kept for a burst never outlives what it came from."""

import json
import os
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydicom import Dataset
from pydicom.uid import RLELossless

from node.api import Role, send_files
from node.children.decoder import Decoder
from node.extensions.dicomweb import bursts
from node.extensions.dicomweb.decoding import PictureOrder, picture
from node.index.rows import sqlite, sqlite_file
from node.receive import stored_files
from node.web.middleware import AccessLog
from node.web.routes_by_path import template_of
from tests import make
from tests.acceptance.served import Served, until
from tests.web.conftest import DEADLINE_SECONDS, Site

CT = make.ct_series(6, study_uid="1.2.3", series_uid="1.2.3.1")
OCTETS = {"Accept": "application/octet-stream"}
PARTS = {"Accept": 'multipart/related; type="application/octet-stream"; transfer-syntax=*'}
VARYING = frozenset({"date", "content-type"})
"""Headers that differ between two answers to one request: the boundary of the parts is random."""


def path_of(ds: Dataset, what: str = "frames/1") -> str:
    return f"/dicom-web/studies/1.2.3/series/1.2.3.1/instances/{ds.SOPInstanceUID}/{what}"


class Viewer:
    """Asks for one after another as one account, and notes which requests read the index."""

    def __init__(self, site: Site, name: str, **headers: str) -> None:
        self._site = site
        self._client = site.network_client(headers={"Authorization": f"Bearer {site.token(name)}", **headers})
        self._reading = site.services.index.reading

    def get(self, path: str) -> tuple[httpx2.Response, bool]:
        """The answer, and whether it was short."""
        reads, index = 0, self._site.services.index

        def counted(**options: Any) -> Any:
            nonlocal reads
            reads += 1
            return self._reading(**options)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(index, "reading", counted)
            answer = self._client.get(path)
        return answer, reads == 0

    def burst(self, path: str) -> httpx2.Response:
        """The first short answer: the series is found, and nothing else is committed meanwhile."""
        answers: list[httpx2.Response] = []

        def is_short() -> bool:
            answer, short = self.get(path)
            answers.append(answer)
            return short

        until(is_short, DEADLINE_SECONDS, "a short answer")
        return answers[-1]


@pytest.fixture(autouse=True)
def lasting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers are kept for as long as a test takes."""
    monkeypatch.setattr(bursts, "LIFE_SECONDS", 600.0)


@pytest.fixture
def site(guarded: Site) -> Site:
    guarded.take(*CT)
    return guarded


def comparable(answer: httpx2.Response) -> tuple[int, dict[str, str], str]:
    headers = {name: value for name, value in answer.headers.items() if name not in VARYING}
    return answer.status_code, headers, answer.headers["content-type"].partition("boundary")[0]


@pytest.mark.parametrize(
    ("what", "headers"),
    [
        ("frames/1", OCTETS),
        ("frames/1", PARTS),
        pytest.param("frames/1", OCTETS | {"Range": "bytes=10-19"}, marks=pytest.mark.slow),
        pytest.param("frames/1", {"Accept": "image/jls"}, marks=pytest.mark.slow),
        pytest.param("frames/1/rendered?quality=80", {"Accept": "image/jpeg"}, marks=pytest.mark.slow),
    ],
)
def test_a_short_answer_is_that_of_the_route(site: Site, what: str, headers: dict[str, str]) -> None:
    viewer = Viewer(site, "reader", **headers)
    first = viewer.get(path_of(CT[0], what))[0]
    assert first.is_success
    second = viewer.get(path_of(CT[1], what))[0]
    for ds, whole in ((CT[0], first), (CT[1], second)):
        short = viewer.burst(path_of(ds, what))
        assert comparable(short) == comparable(whole)
        if headers is PARTS:
            assert ds.PixelData in short.content
        else:
            assert short.content == whole.content


@pytest.mark.parametrize("flags", [bursts.WARM, 0], ids=["a disk that may wait", "all in memory"])
def test_a_burst_has_the_bytes_of_each_frame_and_one_line_with_their_number(
    site: Site, flags: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bursts, "WARM", flags)
    viewer = Viewer(site, "reader", **OCTETS)
    for ds in CT:
        assert viewer.burst(path_of(ds)).content == ds.PixelData
    before = os.listdir("/proc/self/fd")
    assert all(viewer.get(path_of(ds))[1] for ds in CT)
    assert len(os.listdir("/proc/self/fd")) == len(before), "no descriptor stays open"
    lines = [line for line in site.audited("DICOM Instances Accessed") if line["detail"] == "frames, one by one"]
    [line] = lines
    assert line["objects"] == [{"study_instance_uid": "1.2.3", "series_instance_uid": "1.2.3.1", "instances": len(CT)}]
    assert line["participants"][0]["user"] == "reader"


@pytest.mark.slow
def test_frames_that_are_asked_for_at_once_have_their_bytes_and_one_line_for_each_caller(site: Site) -> None:
    for name in ("reader", "writer"):
        client = site.network_client(headers={**OCTETS, "Authorization": f"Bearer {site.token(name)}"})
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(client.get, [path_of(ds) for ds in CT]))
            rendered = [path_of(ds, "rendered") for ds in CT[:3]]
            pictures = list(threads.map(partial(client.get, headers={"Accept": "*/*"}), rendered))
        assert [answer.content for answer in answers] == [ds.PixelData for ds in CT]
        assert {picture.status_code for picture in pictures} == {200}
    lines = site.audited("DICOM Instances Accessed")
    of_frames = [line["participants"][0]["user"] for line in lines if line["detail"] == "frames"]
    assert of_frames == ["reader", "writer"]
    assert {line["objects"][0]["study_instance_uid"] for line in lines} == {"1.2.3"}
    assert [line["participants"][0]["user"] for line in lines if line["detail"] == "rendered"] == ["reader", "writer"]


@pytest.mark.slow
@pytest.mark.parametrize(("is_compressed", "jobs"), [(False, 0), (True, 5)], ids=["native", "compressed"])
def test_compressed_pictures_of_a_burst_are_made_in_the_process_of_a_series_and_native_ones_in_none(
    site: Site, monkeypatch: pytest.MonkeyPatch, is_compressed: bool, jobs: int
) -> None:
    files: list[bytes] = []
    run_beside = Decoder.run_beside

    def noted(decoder: Decoder, beside: bytes, *arguments: Any) -> bytes:
        files.append(beside)
        return run_beside(decoder, beside, *arguments)

    viewer = Viewer(site, "reader", Accept="image/jpeg")
    series = make.ct_series(6, study_uid="1.2.3", series_uid="1.2.3.2")
    for ds in series if is_compressed else ():
        ds.compress(RLELossless, generate_instance_uid=False)
    site.take(*series)
    pictures = [path_of(ds, "frames/1/rendered").replace("1.2.3.1", "1.2.3.2") for ds in series]
    viewer.burst(pictures[0])
    monkeypatch.setattr(Decoder, "run_beside", noted)
    with site.services.index.reading() as index:
        stored = {one.sop_instance_uid: one for one in index.files.stored("1.2.3", "1.2.3.2")}
    paths = {uid: site.services.archive.path(one.key) for uid, one in stored.items()}
    for ds, path in zip(series[1:], pictures[1:], strict=True):
        shown = viewer.get(path)[0]
        assert shown.content == site.services.decoder.run(picture, paths[ds.SOPInstanceUID], PictureOrder(1))
    assert len(files) == jobs
    assert all(set(one.split(b"\0")) == set(map(os.fsencode, paths.values())) for one in files)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "accepted"), [("frames/1/rendered", "image/jpeg"), ("frames/1", "image/jls")], ids=["pictures", "frames"]
)
def test_what_nobody_has_asked_for_before_is_made_without_the_route(site: Site, what: str, accepted: str) -> None:
    viewer = Viewer(site, "reader", Accept=accepted)
    viewer.burst(path_of(CT[0], what))
    for ds in CT[2:]:
        answer, is_short = viewer.get(path_of(ds, what))
        assert (answer.headers["content-type"].partition(";")[0], is_short) == (accepted, True)


@pytest.mark.slow
def test_a_file_that_was_put_back_in_the_midst_of_a_burst_is_shown(site: Site) -> None:
    viewer = Viewer(site, "reader", Accept="image/jpeg")
    viewer.burst(path_of(CT[0], "frames/1/rendered"))
    assert viewer.get(path_of(CT[1], "frames/1/rendered"))[0].is_success
    with site.services.index.reading() as index:
        [one] = index.files.stored("1.2.3", "1.2.3.1", [str(CT[2].SOPInstanceUID)])
    path = site.services.archive.path(one.key)
    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)
    assert viewer.get(path_of(CT[2], "frames/1/rendered"))[0].is_success


def test_an_instance_that_was_deleted_is_gone_in_the_midst_of_a_burst(site: Site) -> None:
    reader = Viewer(site, "reader", **OCTETS)
    admin = site.network_client(headers={"Authorization": f"Bearer {site.token('admin')}"})
    for ds in CT[:2]:
        reader.burst(path_of(ds))
        assert admin.delete(path_of(ds).removesuffix("/frames/1")).status_code == 204
        answer, short = reader.get(path_of(ds))
        assert (answer.status_code, short) == (410, False)


def limited(site: Site) -> httpx2.Client:
    """An administrator; the account "member" sees a project without contents."""
    site.account("member", Role.READ)
    site.store.actions.by_name["limit-account"](account="member", is_limited=True, who="test")
    admin = site.network_client(headers={"Authorization": f"Bearer {site.token('admin')}"})
    assert admin.put("/api/v1/projects/alpha", json={}).status_code == 200
    assert admin.put("/api/v1/projects/alpha/members/member", json={"role": "read"}).status_code == 200
    return admin


@pytest.mark.slow
@pytest.mark.parametrize("who", ["reader", "member"])
def test_whatever_a_frame_is_answered_from_ends_a_burst_when_it_changes(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, who: str
) -> None:
    """The tables come from the statements of the request; series and studies are read by the columns of their UIDs."""
    read: set[tuple[str, str]] = set()

    def note(action: int, table: str, column: str, *_: object) -> int:
        if action == sqlite3.SQLITE_READ:
            read.add((table, column))
        return sqlite3.SQLITE_OK

    def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
        connection = sqlite_file.connect(path, read_only=read_only)
        if read_only:
            connection.set_authorizer(note)
        return connection

    monkeypatch.setattr(sqlite, "connect", connect)
    site: Site = request.getfixturevalue("site")
    contents = {"add": [{"study_instance_uid": "1.2.3", "series_instance_uid": "1.2.3.1"}]}
    assert limited(site).post("/api/v1/projects/alpha/contents", json=contents).is_success
    viewer = Viewer(site, who, **OCTETS)
    for readers in (site.services.index._reader, site.services.index._watcher):
        readers.dispose()  # what is prepared already is not told again
    read.clear()
    assert viewer.get(path_of(CT[0]))[0].is_success
    tables = {table for table, _ in read}
    assert {"images", "series", "limited_accounts", "tokens"} <= tables
    assert not tables & sqlite._BESIDE
    watched = {"series": {"id", "study_id", "series_instance_uid"}, "studies": {"id", "study_instance_uid"}}
    found = {table: {column for its, column in read if its == table} for table in watched}
    if who == "reader":  # views name every column
        assert found == {"series": watched["series"], "studies": watched["studies"] | {"identified_at"}}, "no identity"


def test_what_is_received_ends_no_burst_but_adds_to_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bursts, "FIND_SECONDS", 0.0)
    reader = Viewer(site, "reader", **OCTETS)
    reader.burst(path_of(CT[0]))
    more = make.ct_series(8, study_uid="1.2.3", series_uid="1.2.3.1")[6:]
    site.take(*more, *make.ct_series(2))
    assert reader.get(path_of(CT[0]))[1] is True
    assert reader.burst(path_of(more[0])).content == more[0].PixelData
    assert reader.get(path_of(more[1]))[1] is True


@pytest.mark.slow
def test_nobody_profits_from_the_burst_of_another_and_rights_end_with_their_withdrawal(site: Site) -> None:
    admin = limited(site)
    project, series = "/api/v1/projects/alpha", {"study_instance_uid": "1.2.3", "series_instance_uid": "1.2.3.1"}
    reader, member, stranger = (Viewer(site, name, **OCTETS) for name in ("reader", "member", "writer"))
    reader.burst(path_of(CT[0]))
    assert member.get(path_of(CT[0]))[0].status_code == 404
    assert admin.post(f"{project}/contents", json={"add": [series]}).json() == {"added": 1, "removed": 0}
    member.burst(path_of(CT[0]))
    assert admin.delete(path_of(CT[1]).removesuffix("/frames/1")).status_code == 204
    for one, gone in ((member, 404), (reader, 410)):
        assert [one.get(path_of(ds))[0].status_code for ds in CT[:2]] == [200, gone]
    assert stranger.get(path_of(CT[0]))[1] is False
    assert admin.post(f"{project}/contents", json={"remove": [series]}).json() == {"added": 0, "removed": 1}
    assert member.get(path_of(CT[0]))[0].status_code == 404
    reader.burst(path_of(CT[0]))
    site.services.index.accounts.remove("reader")
    assert reader.get(path_of(CT[0]))[0].status_code == 401


def test_a_file_that_changed_is_refused_in_the_midst_of_a_burst(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that was found whole, and that changes between the moments at which it is opened and read."""
    monkeypatch.setattr(stored_files, "REST_SECONDS", 0.0)
    monkeypatch.setattr(bursts, "WARM", 0)  # the first read is the last
    reader, read = Viewer(site, "reader", **OCTETS), bursts.read_at_once
    reader.burst(path_of(CT[0]))
    assert {reader.get(path_of(ds))[0].status_code for ds in CT} == {200}
    [one] = site.services.index.instances.files_after("", 1)
    file = site.root / one.key
    stat = file.stat()
    assert site.services.verified.knows(stat, one.sha256)

    def changed(descriptor: int, *arguments: Any) -> memoryview:
        if os.fstat(descriptor).st_ino == stat.st_ino:
            file.write_bytes(file.read_bytes()[:-1] + b"\x55")
            os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        return read(descriptor, *arguments)

    monkeypatch.setattr(bursts, "read_at_once", changed)
    answers = [reader.get(path_of(ds))[0] for ds in CT]
    assert {answer.status_code for answer in answers} == {200, 500}
    assert not any(answer.content.endswith(b"\x55") for answer in answers)


@pytest.mark.slow
def test_a_picture_that_is_kept_is_right_whatever_became_of_its_file(site: Site) -> None:
    reader = Viewer(site, "reader", Accept="image/png")
    pictures = [reader.burst(path_of(ds, "frames/1/rendered")).content for ds in CT]
    for one in list(site.services.index.instances.files_after("", len(CT))):
        file = site.root / one.key
        file.write_bytes(file.read_bytes()[:-1] + b"\x55")
    answers = [reader.get(path_of(ds, "frames/1/rendered")) for ds in CT]
    assert [(answer.content, short) for answer, short in answers] == [(picture, True) for picture in pictures]
    assert reader.get(path_of(CT[0]).replace("1.2.3.1", "1.2.3.2"))[0].status_code == 404


def test_a_short_answer_is_counted_with_its_route_and_a_full_node_refuses_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[tuple[str, int, str]] = []

    def note(_: AccessLog, scope: Any, status: int, seconds: float) -> None:
        noted.append((template_of(scope), status, scope["state"]["account"].name))

    reader = Viewer(site, "reader", **OCTETS)
    reader.burst(path_of(CT[0]))
    monkeypatch.setattr(AccessLog, "_log", note)
    assert reader.get(path_of(CT[1]))[1] is True
    until(lambda: noted, DEADLINE_SECONDS, "the line of the log")
    route = "/dicom-web/studies/{study}/series/{series}/instances/{instance}/frames/{frames}"
    assert set(noted) == {(route, 200, "reader")}  # that of the burst may come late
    monkeypatch.setattr(site.app.state.budget, "enter", lambda claim: "places")
    assert reader.get(path_of(CT[2]))[0].status_code == 503


def test_a_file_that_is_longer_than_the_buffer_is_read_by_another_thread(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(bytes(bursts.MAX_FILE_BYTES + 2))
    with (tmp_path / "long").open("rb") as file:
        with pytest.raises(BlockingIOError):
            bursts.read_at_once(file.fileno(), bursts.MAX_FILE_BYTES + 2, bursts.WARM)
        assert len(bursts.read_at_once(file.fileno(), bursts.MAX_FILE_BYTES + 2, 0)) == bursts.MAX_FILE_BYTES + 2


def test_what_may_have_come_again_and_is_not_indexed_is_waited_for(site: Site) -> None:
    reader, numbers = Viewer(site, "reader", **OCTETS), site.services.index.numbers
    reader.burst(path_of(CT[0]))
    numbers.note_appended(1 << 40, str(CT[1].SOPInstanceUID))
    assert [reader.get(path_of(ds))[1] for ds in CT[:2]] == [True, False]


@pytest.mark.slow
def test_a_node_that_is_killed_in_a_burst_has_its_line(tmp_path: Path) -> None:
    files = make.saved(CT, tmp_path)
    with Served(tmp_path / "root") as served:
        url = served.process.stdout.readline().split()[-1].rstrip("/")
        send_files(files, served.address, "SCANNER")

        def line() -> list[Any]:
            for ds in CT:
                assert httpx2.get(f"{url}{path_of(ds)}", headers=OCTETS).content == ds.PixelData
            text = (tmp_path / "root" / "audit.jsonl").read_text()
            return [one for one in text.splitlines() if "one by one" in one]

        until(line, DEADLINE_SECONDS, "the line of a burst")
        served.process.send_signal(signal.SIGKILL)
        served.process.wait()
        [found] = line_of(tmp_path / "root")
        assert found["objects"][0]["instances"] == len(CT)


def line_of(root: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (root / "audit.jsonl").read_text().splitlines()]
    return [line for line in lines if line["detail"] == "frames, one by one"]
