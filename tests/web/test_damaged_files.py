"""A file that is not as it was received: nothing is made of it, and the instance is asked for again."""

import gzip
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from pydicom import FileDataset

from node.index.rules.people.accounts import Role
from node.receive.stored_files import report_damage
from tests import make
from tests.rows import view_rows
from tests.web.conftest import PASSWORD, Site

STUDY, SERIES = "1.2.3", "1.2.3.1"


@pytest.fixture
def damaged(site: Site) -> FileDataset:
    """An instance whose file has one other bit in its pixels; two others of its series are whole."""
    instances = make.ct_series(3, study_uid=STUDY, series_uid=SERIES)
    site.take(*instances)
    path = file_of(site, instances[1])
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    return instances[1]


def file_of(site: Site, ds: FileDataset) -> Path:
    [row] = view_rows(site.root, "SELECT path FROM v_images WHERE sop_instance_uid = :uid", uid=ds.SOPInstanceUID)
    return Path(row["path"])


def events(site: Site, kind: str) -> list[dict[str, Any]]:
    return view_rows(site.root, "SELECT * FROM v_events WHERE kind = :kind", kind=kind)


READS = {
    "frames": "/dicom-web/studies/{study}/series/{series}/instances/{uid}/frames/1",
    "rendered": "/dicom-web/studies/{study}/series/{series}/instances/{uid}/rendered",
    "thumbnail": "/dicom-web/studies/{study}/series/{series}/instances/{uid}/thumbnail",
    "frame rendered": "/dicom-web/studies/{study}/series/{series}/instances/{uid}/frames/1/rendered",
    "bulk data": "/dicom-web/studies/{study}/series/{series}/instances/{uid}/bulkdata/7FE00010",
    "WADO-URI": "/dicom-web/wado?requestType=WADO&studyUID={study}&seriesUID={series}&objectUID={uid}",
    "WADO-URI, DICOM": "/dicom-web/wado?requestType=WADO&studyUID={study}&seriesUID={series}&objectUID={uid}"
    "&contentType=application/dicom",
    "file": "/api/v1/instances/{uid}/file",
}


@pytest.mark.slow
@pytest.mark.parametrize("read", READS)
def test_a_damaged_instance_is_refused_and_asked_for_again(site: Site, damaged: FileDataset, read: str) -> None:
    url = READS[read].format(study=STUDY, series=SERIES, uid=damaged.SOPInstanceUID)
    for _ in range(2):
        response = site.client().get(url)
        assert response.status_code in (500, 410), read
        assert "damaged" in response.json()["detail"]
    [event] = events(site, "file-damaged")
    assert event["sop_instance_uid"] == damaged.SOPInstanceUID
    site.take(damaged)
    assert site.client().get(url).status_code == 200
    assert len(events(site, "file-restored")) == 1


def test_a_file_that_is_whole_at_a_second_look_is_read(
    site: Site, damaged: FileDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was read wrongly, or written again from the object store."""
    path = file_of(site, damaged)

    def mended_before(*arguments: Any) -> bool:
        content = bytearray(path.read_bytes())
        content[-100] ^= 1
        path.write_bytes(content)
        return report_damage(*arguments)

    monkeypatch.setattr("node.web.files.report_damage", mended_before)
    url = READS["frames"].format(study=STUDY, series=SERIES, uid=damaged.SOPInstanceUID)
    assert site.client().get(url).status_code == 200
    assert events(site, "file-damaged") == []


@pytest.mark.slow
def test_a_series_without_its_damaged_instance_is_partial_content(site: Site, damaged: FileDataset) -> None:
    url = f"/dicom-web/studies/{STUDY}/series/{SERIES}"
    accept = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
    with pytest.raises(Exception, match="peer closed"):
        site.client().get(url, headers=accept)
    response = site.client().get(url, headers=accept)
    assert response.status_code == 206
    assert response.content.count(b"DICM") == 2
    assert site.client().get(url, headers={"Accept": "application/zip"}).status_code == 206
    site.take(damaged)
    assert site.client().get(url, headers=accept).status_code == 200


@pytest.mark.slow
def test_a_damaged_volume_is_refused_and_made_again(site: Site) -> None:
    site.take(*make.ct_series(3, study_uid=STUDY, series_uid=SERIES))
    site.convert()
    wanted = {"kind": "volume", "format": "nifti"}
    [before] = site.client().get("/api/v1/volumes", params=wanted).json()["items"]
    [row] = view_rows(site.root, "SELECT path, sha256 FROM v_volumes WHERE kind = 'volume' AND format = 'nifti'")
    whole = Path(row["path"]).read_bytes()
    content = bytearray(whole)
    content[-9] ^= 1
    Path(row["path"]).write_bytes(content)
    # By an account that may change nothing: it sees its projects only.
    site.account("anna", Role.READ)
    actions = site.store.actions.by_name
    actions["set-project"](name="trial", who="test")
    actions["set-project-member"](name="trial", account="anna", role="read", who="test")
    actions["change-project-contents"](name="trial", who="test", add=[(STUDY, "")])
    refused = site.client(auth=("anna", PASSWORD)).get(f"/api/v1/volumes/{before['id']}/file")
    assert refused.status_code == 410, refused.text
    assert "damaged" in refused.json()["detail"]
    site.convert()
    [after] = site.client().get("/api/v1/volumes", params=wanted).json()["items"]
    sent = site.client().get(f"/api/v1/volumes/{after['id']}/file")
    assert hashlib.sha256(sent.content).hexdigest() == after["sha256"]
    assert gzip.decompress(sent.content) == gzip.decompress(whole)  # igzip may pack it otherwise: see `unpacked`


def test_a_file_that_cannot_be_read_now_is_not_damaged(
    site: Site, damaged: FileDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = file_of(site, damaged), os.open

    def open_(name: Any, *arguments: Any, **options: Any) -> int:
        if str(name) == str(path):
            raise PermissionError(13, "Permission denied")
        return real(name, *arguments, **options)

    url = READS["frames"].format(study=STUDY, series=SERIES, uid=damaged.SOPInstanceUID)
    with monkeypatch.context() as failing:
        failing.setattr(os, "open", open_)
        assert site.client().get(url).status_code == 503
    assert events(site, "file-damaged") == []
