"""Every URL that the node hands out can be followed, whatever a client says in its Host header."""

import re
from urllib.parse import urljoin

import httpx2
import pytest
from pydantic import ValidationError

from node.api import Role, Web
from tests import make
from tests.access_table import requests
from tests.make import as_file
from tests.web.conftest import PASSWORD, Site, StartSite
from tests.web.mixed import sample
from tests.web.test_stow import body_of, post


def retrieve_url(answer: httpx2.Response) -> str:
    url = answer.json()[0]["00081190"]["Value"][0]
    assert isinstance(url, str)
    return url


PUBLIC = "https://pacs.example.org/archive"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("web", "headers", "expected"),
    [
        ({}, {"Host": "127.0.0.1"}, "http://127.0.0.1:11380"),
        ({}, {"Host": "localhost"}, "http://localhost:11380"),
        ({}, {"Host": "127.0.0.1:4711"}, "http://127.0.0.1:4711"),
        ({}, {"Host": "[::1]:4711"}, "http://[::1]:4711"),
        ({}, {"Host": "127.0.0.1", "X-Forwarded-For": "192.0.2.1"}, "http://127.0.0.1"),
        ({"public_url": PUBLIC}, {"Host": "127.0.0.1"}, PUBLIC),
        ({"public_url": PUBLIC}, {"Host": "pacs.example.org"}, PUBLIC),
    ],
)
def test_every_url_begins_with_the_address_that_clients_reach(
    start_site: StartSite, web: dict[str, str], headers: dict[str, str], expected: str
) -> None:
    """A port that a client leaves out of the Host is added, but not to the host of a proxy."""
    site = start_site(**web)
    assert site.origin == "http://127.0.0.1:11380"
    site.account("reader", Role.READ)
    site.take(make.instance(study_uid="1.2.3"))
    token = {"Authorization": f"Bearer {site.token('reader')}"}
    url = retrieve_url(site.client().get("/dicom-web/studies", headers=headers | token))
    assert url == f"{expected}/dicom-web/studies/1.2.3"


SLASHES = ("/dicom-web/studies/", "/api/v1/studies/", "/studies/1.2/", "/login/", "/healthz/", "/dicom-web/studies//")


@pytest.mark.slow
def test_every_redirect_of_every_route_is_right_behind_a_proxy_that_removes_a_path_and_beside_it(
    start_site: StartSite,
) -> None:
    site = start_site(authentication="always", public_url=PUBLIC)
    site.account("admin", Role.ADMIN)
    client, seen = site.client(headers={"Sec-Fetch-Site": "same-origin", "Accept": "text/html"}), set()
    walked = [(method, re.sub(r"{[^}]+}", "1", path)) for method, path in requests(site.app.routes)]
    entering = ("POST", "/login", {"name": "admin", "password": PASSWORD})
    for method, path, form in (
        *((method, path, {}) for method, path in walked),
        *((method, f"{path}/", {}) for method, path in walked if method == "GET"),
        entering,
        *((method, path, {"state": "x"}) for method, path in walked if method == "POST" and path != "/logout"),
    ):
        answer = client.request(method, path, data=form or None)
        assert answer.status_code not in (301, 302, 307, 308), (method, path)
        if location := answer.headers.get("location"):
            seen.add((method, location))
            behind, beside = (urljoin(f"{base}{path}", location) for base in (PUBLIC, site.origin))
            assert behind.startswith(f"{PUBLIC}/"), (method, path, location)
            assert beside == behind.replace(PUBLIC, site.origin), (method, path, location)
    assert len(seen) > 20


def test_a_slash_at_the_end_of_a_path_is_dropped(site: Site) -> None:
    for path in SLASHES:
        answers = [site.client().get(one, headers={"Host": "127.0.0.1"}) for one in (path, path.rstrip("/"))]
        assert answers[0].status_code == answers[1].status_code not in (301, 307, 308), path
        assert answers[0].content == answers[1].content or path == "/healthz/"
    too_long = {"name": "x" * 5000, "password": ""}
    assert [site.client().post(path, data=too_long).status_code for path in ("/login", "/login/")] == [413, 413]
    sent = post(site, body_of(as_file(make.ct_series(1)[0])), path="studies/", Host="127.0.0.1")
    assert sent.status_code == 200


@pytest.mark.parametrize(
    "url", ["pacs.example.org", "https://pacs.example.org/", "https://a@b", "https://a?b", "https://"]
)
def test_an_address_that_no_url_can_begin_with_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        Web(public_url=url)


@pytest.mark.slow
def test_every_url_in_every_answer_can_be_followed(site: Site) -> None:
    (image,) = make.ct_series(1, study_uid="1.2.3", series_uid="1.2.3.1")
    image.private_block(0x0009, "ACME", create=True).add_new(1, "OB", bytes(5000))
    client, host = site.client(), {"Host": "127.0.0.1"}
    reported = post(site, body_of(as_file(image), as_file(sample("SC_rgb_rle_16bit_2frame.dcm").read())), **host).text
    xml = 'multipart/related; type="application/dicom+xml"'
    for path in (
        "studies", "series", "instances", "studies/1.2.3/metadata", "studies/1.2.3", "studies/1.2.3/series/1.2.3.1",
        "studies/1.2.3/bulkdata", "studies/1.2.3/pixeldata", "studies/1.2.3/rendered",
    ):  # fmt: skip
        for accept in ("multipart/related", "*/*", xml):
            answer = client.get(f"/dicom-web/{path}", headers=host | {"Accept": accept})
            reported += answer.text if answer.status_code == 200 else ""
    urls = set(re.findall(r"http://[^\s\"<>\\]*/dicom-web/[^\s\"<>\\]*", reported))
    assert len(urls) > 8
    assert {url: client.get(url).status_code for url in urls} == dict.fromkeys(urls, 200)
