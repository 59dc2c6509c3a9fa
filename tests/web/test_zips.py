"""ZIP files of which every byte is known beforehand: any range is that of the whole, whatever the sizes and names."""

import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from time import monotonic
from typing import Any

import httpx2
import pytest

from node.api import Services, UsageError
from node.archive.base import ArchivedFile
from node.archive.filesystem import Archive
from node.web import zips
from node.web.files import Damaged
from node.web.zips import Known, Member, PlannedFile, PlannedZip, zip_stream
from tests import make
from tests.web.conftest import DEADLINE_SECONDS, Site

STUDY = "1.2.3"
NAMES = ["Müller_Jörg/001_頭部.dcm", "Ω/é.json", "plain.txt"]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "root", 0)


class Files:
    """Contents by key, and which of them were read."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.contents, self.read = contents, list[str]()

    def pieces(self, file: ArchivedFile) -> Iterator[bytes]:
        self.read.append(file.key)
        content = self.contents[file.key]
        yield from (content[at : at + 7] for at in range(0, len(content), 7))

    def planned(self, archive: Archive, known: Known | None = None) -> PlannedZip:
        entries: list[tuple[str, zips.Content]] = [
            (f"folder/{key}", PlannedFile(key, 0, len(content), "")) for key, content in self.contents.items()
        ]
        return PlannedZip([*entries, ("list.csv", b"a,b\n")], archive, self.pieces, known or Known())


def whole(planned: PlannedZip) -> bytes:
    return b"".join(planned.pieces(0, planned.length))


def test_every_range_is_that_of_the_whole(archive: Archive) -> None:
    files = Files({"a": b"x" * 20, "b": b"", "c": b"0123456789"})
    content = whole(files.planned(archive))
    assert zipfile.ZipFile(BytesIO(content)).testzip() is None
    assert len(content) == files.planned(archive).length
    for start in range(len(content)):
        assert b"".join(files.planned(archive).pieces(start, len(content))) == content[start:]
        assert b"".join(files.planned(archive).pieces(start, start + 9)) == content[start : start + 9]


def test_what_is_before_a_range_is_read_only_for_checksums_that_nobody_knows(archive: Archive) -> None:
    files, known = Files({"a": b"x" * 20, "b": b"y" * 20}), Known()
    content = whole(files.planned(archive, known))
    files.read.clear()
    assert b"".join(files.planned(archive, known).pieces(100, len(content))) == content[100:]
    assert files.read == ["b"]
    files.read.clear()
    assert b"".join(files.planned(archive).pieces(100, len(content))) == content[100:]
    assert files.read == ["b", "a"]


def test_a_part_reads_no_more_files_than_it_has(archive: Archive) -> None:
    files = Files({key: key.encode() * 50 for key in "abcdef"})
    fetched: list[str] = []

    class Ahead(Archive):
        def ahead(self, files: Any) -> Iterator[Any]:
            fetched.extend(file.key for file in files)
            return iter(files)

    assert len(b"".join(files.planned(Ahead(archive.root, 0)).pieces(120, 250))) == 130
    assert fetched == files.read == ["b", "c"]


def test_who_waits_for_checksums_can_go_away_after_any_piece(archive: Archive) -> None:
    files = Files({"a": b"x" * 70, "b": b"y" * 70})
    planned = files.planned(archive)
    pieces = planned.pieces(planned.length - 1, planned.length)
    assert [next(pieces) for _ in range(5)] == [b""] * 5
    assert files.read == ["a"]


def test_a_file_that_became_shorter_has_no_checksum(archive: Archive) -> None:
    files, known = Files({"a": b"x" * 20}), Known()
    planned = files.planned(archive, known)
    files.contents["a"] = b"x" * 19
    with pytest.raises(Damaged, match="20 bytes"):
        list(planned.pieces(planned.length - 1, planned.length))
    assert not known.checksums


def test_another_layout_of_files_has_another_entity_tag(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files({"a": b"x"})
    before = files.planned(archive).etag
    monkeypatch.setattr(zipfile, "DEFAULT_VERSION", 21)
    assert files.planned(archive).etag != before


def test_other_bytes_have_another_entity_tag(archive: Archive) -> None:
    tags = {Files(contents).planned(archive).etag for contents in ({"a": b"x"}, {"a": b"xx"}, {"b": b"x"}, {})}
    assert len(tags) == 4
    assert Files({"a": b"x"}).planned(archive).etag in tags


def test_a_file_of_another_length_breaks_the_zip_file_off(archive: Archive) -> None:
    files = Files({"a": b"x" * 20})
    planned = files.planned(archive)
    for content in (b"x" * 19, b"x" * 21):
        files.contents["a"] = content
        with pytest.raises(Damaged, match="20 bytes"):
            whole(planned)


@pytest.mark.parametrize("name", ["../a", "a/../b", "/a", "a//b", "a/.", "a/", "", "a\\..\\b"])
def test_no_member_leads_out_of_the_folder_where_it_is_unpacked(name: str) -> None:
    with pytest.raises(ValueError, match="below the folder"):
        list(zip_stream([Member(name, 1, [b"x"])]))


def test_too_many_files_are_refused(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zips, "MAX_FILES", 2)
    with pytest.raises(UsageError, match="3 files, and at most 2"):
        Files({"a": b"", "b": b""}).planned(archive)


@pytest.mark.slow
def test_more_files_than_16_bits_count_are_in_the_zip_file(archive: Archive, tmp_path: Path) -> None:
    entries: list[tuple[str, zips.Content]] = [(f"{number:06d}", b"x") for number in range(70_000)]
    planned = PlannedZip(entries, archive, lambda file: [], Known())
    path = tmp_path / "many.zip"
    path.write_bytes(whole(planned))
    assert path.stat().st_size == planned.length
    with zipfile.ZipFile(path) as opened:
        assert len(opened.namelist()) == 70_000
        assert opened.read("069999") == b"x"


def test_a_member_beyond_4_gb_and_what_follows_it_are_read(archive: Archive, tmp_path: Path) -> None:
    length, known = (4 << 30) + 5, Known()
    known.note(known.checksums, "large", 0)  # so that nobody reads it
    entries: list[tuple[str, zips.Content]] = [("large", PlannedFile("large", 0, length, "")), ("small", b"after")]
    planned = PlannedZip(entries, archive, lambda file: iter([b"x"]), known)
    begin = 30 + len("large") + 20 + length + 24  # header with the extra field of ZIP64, content, data descriptor
    path = tmp_path / "large.zip"
    with path.open("wb") as file:
        file.write(next(planned.pieces(0, planned.length)))
        file.seek(begin)
        file.write(b"".join(planned.pieces(begin, planned.length)))
    assert path.stat().st_size == planned.length
    with zipfile.ZipFile(path) as opened:
        assert opened.getinfo("large").file_size == length
        assert opened.open("large").read(1) == b"x"
        assert opened.read("small") == b"after"


@pytest.mark.parametrize(
    "command", [["unzip", "-qq"], ["7zz", "x", "-y"], ["bsdtar", "-xf"]], ids=lambda command: command[0]
)
@pytest.mark.parametrize("is_planned", [True, False])
def test_names_beyond_ascii_are_kept_by_other_programs(
    archive: Archive, tmp_path: Path, command: list[str], is_planned: bool
) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    contents = {name: name.encode() for name in NAMES}
    path, into = tmp_path / "names.zip", tmp_path / "into"
    into.mkdir()
    if is_planned:
        path.write_bytes(whole(PlannedZip(list(contents.items()), archive, lambda file: [], Known())))
    else:
        members = [Member(name, len(content), [content]) for name, content in contents.items()]
        path.write_bytes(b"".join(zip_stream(members)))
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    subprocess.run([*command, path], cwd=into, env=environment, check=True, capture_output=True, timeout=30)
    assert {str(found.relative_to(into)): found.read_bytes() for found in into.rglob("*.*")} == contents


ZIPS = ["/studies/1.2.3/dicom.zip", "/studies/1.2.3/volumes.zip", "/dicom-web/studies/1.2.3?accept=application/zip"]


@pytest.mark.parametrize("url", ZIPS)
def test_a_download_has_a_length_and_goes_on_where_it_ended(filled: Site, url: str) -> None:
    client = filled.client()
    all_of_it = client.get(url)
    length, etag = int(all_of_it.headers["content-length"]), all_of_it.headers["etag"]
    assert (all_of_it.status_code, len(all_of_it.content)) == (200, length)
    assert all_of_it.headers["accept-ranges"] == "bytes"
    at = length * 9 // 10
    rest = client.get(url, headers={"Range": f"bytes={at}-", "If-Range": etag})
    assert (rest.status_code, rest.content) == (206, all_of_it.content[at:])
    assert rest.headers["content-range"] == f"bytes {at}-{length - 1}/{length}"
    assert client.get(url, headers={"Range": "bytes=-22"}).content == all_of_it.content[-22:]
    assert client.get(url, headers={"Range": "bytes=4-7"}).content == all_of_it.content[4:8]
    assert client.get(url, headers={"If-None-Match": etag}).status_code == 304
    beyond = client.get(url, headers={"Range": f"bytes={length}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{length}")
    for header in ("bytes=9-4", "bytes=0-1,4-5", "lines=1-2", "bytes=x-"):
        assert client.get(url, headers={"Range": header}).status_code == 200, header
    assert "a part" in filled.audited("DICOM Instances Transferred")[-1]["detail"] or "dicom-web" in url


@pytest.mark.parametrize("url", ZIPS)
def test_who_wants_a_part_of_what_was_there_gets_no_part_of_something_else(filled: Site, url: str) -> None:
    client = filled.client()
    etag = client.get(url).headers["etag"]
    part = {"Range": "bytes=4-7"}
    assert client.get(url, headers=part | {"If-Match": etag}).status_code == 206
    for tags in ('"another"', f"W/{etag}"):
        refused = client.get(url, headers=part | {"If-Match": tags})
        assert (refused.status_code, refused.headers["etag"]) == (412, etag)
        assert client.get(url, headers=part | {"If-Range": tags}).status_code == 200
    kept = client.get(url, headers={"If-None-Match": f"W/{etag}"})
    assert (kept.status_code, kept.headers["etag"], kept.content) == (304, etag, b"")
    assert kept.headers["cache-control"] == client.get(url).headers["cache-control"]


def test_ranges_are_for_get_alone(filled: Site) -> None:
    client, url = filled.client(), ZIPS[-1]
    head = client.head(url, headers={"Range": "bytes=4-7"})
    assert (head.status_code, head.headers["content-length"]) == (200, client.get(url).headers["content-length"])
    form = {"study": ["1.2.3", *(f"9.{number}" for number in range(750))]}  # too long for an address
    posted = client.post("/selected/dicom.zip", data=form, headers={"Range": "bytes=4-7", "If-None-Match": "*"})
    assert (posted.status_code, posted.content[:4]) == (200, b"PK\3\4")


@pytest.mark.slow
def test_the_audit_log_tells_parts_from_the_whole_and_nothing_of_what_is_not_sent(site: Site) -> None:
    site.take(*make.ct_series(2, study_uid=STUDY, series_uid="1.2.3.1"))
    client = site.client()

    def reported(url: str, **headers: str) -> list[str]:
        before = len(site.audited("DICOM Instances Transferred"))
        client.get(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
        return [line["detail"] for line in site.audited("DICOM Instances Transferred")[before:]]

    for url, whole in ((ZIPS[0], "DICOM of 1 study as a ZIP file"), (ZIPS[2], "zip")):
        assert reported(url, Range="bytes=99999999-") == []
        assert reported(url, If_None_Match="*") == []
        assert reported(url, Range="lines=0-") == [whole]
        assert reported(url, Range="bytes=0-") == []  # the whole again, within a minute
        assert reported(url, Range="bytes=1-", If_Range='"another"') == []
        assert reported(url, Range="bytes=1-") == [f"{whole}, a part"]
        assert reported(url, Range="bytes=2-") == []


@pytest.mark.slow
def test_who_leaves_while_checksums_are_read_has_nothing_more_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.take(*make.ct_series(2, study_uid=STUDY, series_uid="1.2.3.1"))
    begun, ended = threading.Event(), threading.Event()

    def endless(node: Services, file: ArchivedFile) -> Iterator[bytes]:
        begun.set()
        deadline = monotonic() + DEADLINE_SECONDS
        try:
            while monotonic() < deadline:
                yield b""
        except GeneratorExit:
            ended.set()
            raise

    monkeypatch.setattr(zips, "stored_file", endless)
    with site.network_client().stream("GET", f"/studies/{STUDY}/dicom.zip", headers={"Range": "bytes=-1"}):
        assert begun.wait(DEADLINE_SECONDS)
    assert ended.wait(DEADLINE_SECONDS / 2)


@pytest.mark.slow
def test_who_goes_on_after_a_change_gets_the_whole_as_it_is_now(site: Site) -> None:
    site.take(*make.ct_series(3, study_uid=STUDY, series_uid="1.2.3.1"))
    client, url = site.client(), f"/studies/{STUDY}/dicom.zip"
    first = client.get(url)
    site.take(*make.ct_series(2, study_uid=STUDY, series_uid="1.2.3.2"))
    goes_on = client.get(url, headers={"Range": "bytes=100-", "If-Range": first.headers["etag"]})
    assert goes_on.status_code == 200
    assert goes_on.headers["etag"] != first.headers["etag"]
    assert len(zipfile.ZipFile(BytesIO(goes_on.content)).namelist()) == 3 + 2 + 1


@pytest.mark.slow
def test_a_file_that_is_deleted_while_it_is_sent_closes_the_connection(site: Site) -> None:
    site.take(*make.ct_series(40, study_uid=STUDY, series_uid="1.2.3.1", rows=512, columns=512))
    client, url = site.network_client(), f"/studies/{STUDY}/dicom.zip"
    with client.stream("GET", url) as answer:
        pieces = answer.iter_raw()
        next(pieces)
        assert client.delete(f"/api/v1/studies/{STUDY}").status_code == 200
        [deletion] = client.get("/api/v1/trash").json()
        assert client.delete(f"/api/v1/trash/{deletion['number']}").status_code == 200
        with pytest.raises(httpx2.RemoteProtocolError):
            list(pieces)
    assert client.get(url).status_code == 404
