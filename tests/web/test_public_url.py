"""Every URL that the node hands out can be followed, whatever a client says in its Host header."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import httpx2
import pytest
from pydantic import ValidationError

from node.settings.model import Web
from tests import make
from tests.web.conftest import Site
from tests.web.mixed import sample
from tests.web.test_stow import body_of, file_of, post

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the libraries that it imports
    from dicomweb_client.api import DICOMwebClient


def retrieve_url(answer: httpx2.Response) -> str:
    url = answer.json()[0]["00081190"]["Value"][0]
    assert isinstance(url, str)
    return url


@pytest.mark.slow
def test_the_port_that_a_client_leaves_out_of_the_host_is_in_every_url(site: Site) -> None:
    site.take(make.instance(study_uid="1.2.3", StudyDate="20260102"))
    for host in ("127.0.0.1", "localhost"):
        url = retrieve_url(site.client().get("/dicom-web/studies", headers={"Host": host}))
        assert url == f"{site.origin.replace('127.0.0.1', host)}/dicom-web/studies/1.2.3"
        assert site.client().get(url).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Host": "127.0.0.1:4711"}, "http://127.0.0.1:4711"),
        ({"Host": "[::1]:4711"}, "http://[::1]:4711"),
        ({"Host": "127.0.0.1", "X-Forwarded-For": "192.0.2.1"}, "http://127.0.0.1"),
    ],
)
def test_a_port_that_is_named_and_the_host_of_a_proxy_stay(
    guarded: Site, headers: dict[str, str], expected: str
) -> None:
    guarded.take(make.instance(study_uid="1.2.3"))
    token = {"Authorization": f"Bearer {guarded.token('reader')}"}
    answer = guarded.client().get("/dicom-web/studies", headers=headers | token)
    assert retrieve_url(answer) == f"{expected}/dicom-web/studies/1.2.3"


def test_the_configured_address_is_in_every_url_and_its_name_is_known(start_site: Callable[..., Site]) -> None:
    site = start_site(public_url="https://pacs.example.org/archive")
    site.take(make.instance(study_uid="1.2.3"))
    for host in ("127.0.0.1", "pacs.example.org"):
        answer = site.client().get("/dicom-web/studies", headers={"Host": host})
        assert retrieve_url(answer) == "https://pacs.example.org/archive/dicom-web/studies/1.2.3"


@pytest.mark.parametrize(
    "url", ["pacs.example.org", "https://pacs.example.org/", "https://a@b", "https://a?b", "https://"]
)
def test_an_address_that_no_url_can_begin_with_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        Web(public_url=url)


def test_a_client_that_leaves_out_the_port_follows_the_bulk_data_of_the_metadata(site: Site) -> None:
    (one,) = make.ct_series(1, study_uid="1.2.3", series_uid="1.2.3.1")
    web = DICOMwebClient(f"{site.url}/dicom-web")
    told = web.store_instances([one])
    assert site.client().get(told.ReferencedSOPSequence[0].RetrieveURL).status_code == 200
    (metadata,) = [web.retrieve_instance_metadata("1.2.3", "1.2.3.1", one.SOPInstanceUID)]
    (pixels,) = web.retrieve_bulkdata(metadata["7FE00010"]["BulkDataURI"])
    assert pixels == one.PixelData
    web._session.close()


@pytest.mark.slow
def test_every_url_in_every_answer_can_be_followed(site: Site) -> None:
    (image,) = make.ct_series(1, study_uid="1.2.3", series_uid="1.2.3.1")
    image.private_block(0x0009, "ACME", create=True).add_new(1, "OB", bytes(5000))
    client, host = site.client(), {"Host": "127.0.0.1"}
    told = post(site, body_of(file_of(image), file_of(sample("SC_rgb_rle_16bit_2frame.dcm").read())), **host).text
    xml = 'multipart/related; type="application/dicom+xml"'
    for path in (
        "studies", "series", "instances", "studies/1.2.3/metadata", "studies/1.2.3", "studies/1.2.3/series/1.2.3.1",
        "studies/1.2.3/bulkdata", "studies/1.2.3/pixeldata", "studies/1.2.3/rendered",
    ):  # fmt: skip
        for accept in ("multipart/related", "*/*", xml):
            answer = client.get(f"/dicom-web/{path}", headers=host | {"Accept": accept})
            told += answer.text if answer.status_code == 200 else ""
    urls = set(re.findall(r"http://[^\s\"<>\\]*/dicom-web/[^\s\"<>\\]*", told))
    assert len(urls) > 8
    assert {url: client.get(url).status_code for url in urls} == dict.fromkeys(urls, 200)
