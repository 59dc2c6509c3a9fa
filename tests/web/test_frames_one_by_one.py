"""Frames that a viewer asks for one by one: right or refused at each request, and one line of the audit log."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx2
import pytest
from pydicom import Dataset

from node.index.nouns.accounts import Role
from tests import make
from tests.web.conftest import Site

CT = make.ct_series(8, study_uid="1.2.3", series_uid="1.2.3.1")
OCTETS, ANY = {"Accept": "application/octet-stream"}, {"Accept": "*/*"}


def path_of(ds: Dataset, what: str = "frames/1") -> str:
    return f"/dicom-web/studies/1.2.3/series/1.2.3.1/instances/{ds.SOPInstanceUID}/{what}"


def reader_of(site: Site, name: str) -> httpx2.Client:
    return site.network_client(headers={**OCTETS, "Authorization": f"Bearer {site.token(name)}"})


@pytest.mark.slow
def test_a_burst_has_the_bytes_of_each_frame_and_one_line_for_each_caller(guarded: Site) -> None:
    guarded.take(*CT)
    for name in ("reader", "writer"):
        client = reader_of(guarded, name)
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(client.get, [path_of(ds) for ds in CT]))
            rendered = [path_of(ds, "rendered") for ds in CT[:3]]
            pictures = list(threads.map(partial(client.get, headers=ANY), rendered))
        assert [answer.content for answer in answers] == [ds.PixelData for ds in CT]
        assert {picture.status_code for picture in pictures} == {200}
    lines = guarded.audited("DICOM Instances Accessed")
    of_frames = [line["participants"][0]["user"] for line in lines if line["detail"] == "frames"]
    assert of_frames == ["reader", "writer"]
    assert {line["objects"][0]["study_instance_uid"] for line in lines} == {"1.2.3"}
    assert [line["participants"][0]["user"] for line in lines if line["detail"] == "rendered"] == ["reader", "writer"]


@pytest.mark.slow
def test_a_frame_is_gone_with_its_instance_its_account_and_its_project(guarded: Site) -> None:
    guarded.take(*CT)
    guarded.account("member", Role.READ)
    acts = guarded.store.actions.by_name
    acts["limit-account"](account="member", is_limited=True, who="test")
    admin, member, reader = (reader_of(guarded, name) for name in ("admin", "member", "reader"))
    first, second = path_of(CT[0]), path_of(CT[1])
    assert member.get(first).status_code == 404
    assert admin.put("/api/v1/projects/alpha", json={}).status_code == 200
    assert admin.put("/api/v1/projects/alpha/members/member", json={"role": "read"}).status_code == 200
    contents = "/api/v1/projects/alpha/contents"
    series = {"study_instance_uid": "1.2.3", "series_instance_uid": "1.2.3.1"}
    assert admin.post(contents, json={"add": [series]}).json() == {"added": 1, "removed": 0}
    for client in (admin, member, reader):
        assert [client.get(path).content for path in (first, second)] == [CT[0].PixelData, CT[1].PixelData]
    assert admin.delete(first.removesuffix("/frames/1")).status_code == 204
    for client, gone in ((admin, 410), (member, 404), (reader, 410)):
        assert [client.get(path).status_code for path in (first, second)] == [gone, 200]
    assert admin.post(contents, json={"remove": [series]}).json() == {"added": 0, "removed": 1}
    assert member.get(second).status_code == 404
    guarded.services.index.accounts.remove("reader")
    assert reader.get(second).status_code == 401
    assert admin.get(second).content == CT[1].PixelData
