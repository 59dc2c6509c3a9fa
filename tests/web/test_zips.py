"""ZIP files of which the length is known beforehand, whatever the sizes and names."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx2
import pytest

from node.extensions.pages.actions import MAX_QUERY
from node.web import zips
from node.web.files import Damaged
from node.web.zips import Member, zip_length, zip_stream
from tests import make
from tests.web.conftest import Site

STUDY = "1.2.3"
NAMES = ["Müller_Jörg/001_頭部.dcm", "Ω/é.json", "plain.txt"]


def test_the_length_is_known_before_the_contents() -> None:
    contents = {"a": b"x" * 20, "b": b"", "folder/c": b"0123456789"}
    whole = b"".join(zip_stream(Member(name, len(content), [content]) for name, content in contents.items()))
    assert zipfile.ZipFile(BytesIO(whole)).testzip() is None
    assert zip_length((name, len(content)) for name, content in contents.items()) == len(whole)


@pytest.mark.parametrize("length", [19, 21])
def test_a_file_of_another_length_breaks_the_zip_file_off(length: int) -> None:
    with pytest.raises(Damaged, match="20 bytes"):
        list(zip_stream([Member("a", 20, [b"x" * length])]))


def test_too_many_files_are_refused(filled: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zips, "MAX_FILES", 1)
    refused = filled.client().get(ZIPS[0])
    assert refused.status_code == 400
    assert "at most 1" in refused.text


@pytest.mark.slow
def test_more_files_than_16_bits_count_are_in_the_zip_file(tmp_path: Path) -> None:
    names, path = [f"{number:06d}" for number in range(70_000)], tmp_path / "many.zip"
    path.write_bytes(b"".join(zip_stream(Member(name, 1, [b"x"]) for name in names)))
    assert path.stat().st_size == zip_length((name, 1) for name in names)
    with zipfile.ZipFile(path) as opened:
        assert len(opened.namelist()) == 70_000
        assert opened.read("069999") == b"x"


@pytest.mark.slow
def test_a_member_beyond_4_gb_and_what_follows_it_are_read(tmp_path: Path) -> None:
    length, zeros, path = (4 << 30) + 5, bytes(1 << 26), tmp_path / "large.zip"

    def content() -> Iterator[bytes]:
        for at in range(0, length, len(zeros)):
            yield zeros[: length - at]

    with path.open("wb") as file:
        for piece in zip_stream([Member("large", length, content()), Member("small", 5, [b"after"])]):
            if piece == zeros:
                file.seek(len(zeros), 1)  # a hole
            else:
                file.write(piece)
    assert path.stat().st_size == zip_length([("large", length), ("small", 5)])
    with zipfile.ZipFile(path) as opened:
        assert opened.getinfo("large").file_size == length
        assert opened.open("large").read(1) == b"\0"
        assert opened.read("small") == b"after"


@pytest.mark.parametrize(
    "command", [["unzip", "-qq"], ["7zz", "x", "-y"], ["bsdtar", "-xf"]], ids=lambda command: command[0]
)
def test_names_beyond_ascii_are_kept_by_other_programs(tmp_path: Path, command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    contents = {name: name.encode() for name in NAMES}
    path, into = tmp_path / "names.zip", tmp_path / "into"
    into.mkdir()
    path.write_bytes(b"".join(zip_stream(Member(name, len(content), [content]) for name, content in contents.items())))
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    subprocess.run([*command, path], cwd=into, env=environment, check=True, capture_output=True, timeout=30)
    assert {str(found.relative_to(into)): found.read_bytes() for found in into.rglob("*.*")} == contents


ZIPS = ["/studies/1.2.3/dicom.zip", "/studies/1.2.3/volumes.zip", "/dicom-web/studies/1.2.3?accept=application/zip"]


@pytest.mark.parametrize("url", ZIPS)
def test_a_download_tells_its_length(filled: Site, url: str) -> None:
    answer = filled.client().get(url, headers={"Range": "bytes=4-7"})
    assert (answer.status_code, answer.content[:4]) == (200, b"PK\3\4"), "no part of it"
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_head_tells_the_length_alone(filled: Site) -> None:
    head, answer = filled.client().head(ZIPS[-1]), filled.client().get(ZIPS[-1])
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == answer.headers["content-length"]


def test_a_selection_too_long_for_an_address_is_posted(filled: Site) -> None:
    form = {"study": ["1.2.3", *(f"9.{number}" for number in range(MAX_QUERY // 8))]}
    posted = filled.client().post("/selected/dicom.zip", data=form)
    assert (posted.status_code, posted.content[:4]) == (200, b"PK\3\4")


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
