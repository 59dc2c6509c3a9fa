"""URLs that have UIDs: whichever characters an archive accepts in them, each link leads to what it names."""

import html
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx2
import pytest
from pydicom import config

from node.api import NotUnderstood, Role, is_identifier
from tests import make
from tests.web.conftest import PASSWORD, Site, open_site

VICTIM = "1.2.3"
LETTERS = "".join(letter for letter in map(chr, range(0x21, 0x7F)) if is_identifier(letter + "1"))
UIDS = (VICTIM, f"{VICTIM}%2Flinks?", f"{VICTIM}%2Fdelete#", f"{VICTIM}?/", LETTERS[:50], LETTERS[50:], "...", "%2E%2E")
STORED = [uid for uid in UIDS if is_identifier(uid)]
FOLLOWED = re.compile(r'\s(?:href|src|hx-get|data-series|data-url|data-sidecar|data-picture)="(/[^"]*)"')
SENT = re.compile(r'\s(?:action|hx-post)="(/[^"]*)"')
NOT_FOLLOWED = ("/logout", "/static", "/ohif", "/api/docs")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An archive that accepts any UID, with a study for each and a person for each study."""
    root = tmp_path_factory.mktemp("urls") / "root"
    site = open_site(root, storage={"any_uids": True}, authentication="always").serving()
    site.account("boss", Role.ADMIN)
    with config.disable_value_validation():  # which is of all threads
        for number, uid in enumerate(STORED):
            who = {"PatientName": f"Person{number}!", "PatientID": f"P{number}"}
            site.take(*make.ct_series(2, study_uid=uid, series_uid=f"{uid[:62]}.1", **who))
        site.convert()
        yield site
    site.close()


def signed_in(site: Site) -> httpx2.Client:
    """A client with a session that asks the server itself: in the process of the test, a path is decoded twice."""
    client = site.network_client(headers={"Origin": site.url})
    assert client.post("/login", data={"name": "boss", "password": PASSWORD}).status_code == 303
    return client


def named(url: str) -> str:
    """The study that a URL names; empty if it names none."""
    found = re.match(r"/studies/([^/?#]+)", url)
    return unquote(found[1]) if found else ""


@pytest.mark.slow
def test_every_link_of_every_page_leads_to_the_study_that_it_names(site: Site) -> None:
    client = signed_in(site)
    for uid in STORED:
        made = client.post(f"/api/v1/studies/{_quoted(uid)}/shares", json={"download": True})
        assert made.status_code in (201, 403), (uid, made.text)
    seen, waiting = set[str](), ["/", *(f"/studies/{_quoted(uid)}" for uid in STORED)]
    asked = set[str]()
    while waiting:
        url = waiting.pop()
        if url in seen or url.startswith(NOT_FOLLOWED) or ".zip" in url:  # files are checked by their names below
            continue
        seen.add(url)
        answer = client.get(url)
        assert answer.status_code in (200, 204, 303), (url, answer.status_code)
        if not answer.headers.get("content-type", "").startswith("text/html"):
            continue
        if study := named(url):
            asked.add(study)
            assert study in STORED, url
            others = set(re.findall(r"Person(\d+)!", answer.text)) - {str(STORED.index(study))}
            assert not others, url
        targets = [html.unescape(found) for found in FOLLOWED.findall(answer.text)]
        for target in [*targets, *(html.unescape(found) for found in SENT.findall(answer.text))]:
            assert not named(target) or named(target) in STORED, (url, target)
            assert not (study and "/links" in target) or named(target) == study, (url, target)
        waiting += [urlsplit(target)._replace(fragment="").geturl() for target in targets]
    assert asked == set(STORED)
    strange = f"/studies/{_quoted(STORED[1])}?view=list"
    login = site.network_client(headers={"Accept": "text/html"}).get(strange).headers["location"]
    assert unquote(urlsplit(login).query.removeprefix("next=")) == strange
    assert sum(url.endswith("/links") for url in seen) == len(STORED)


def _quoted(uid: str) -> str:
    return "".join(f"%{ord(letter):02X}" for letter in uid)


@pytest.mark.slow
def test_a_link_shares_the_study_whose_page_made_it(site: Site) -> None:
    client = signed_in(site)
    for number, uid in enumerate(STORED):
        page = client.get(f"/studies/{_quoted(uid)}").text
        [way] = [html.unescape(found) for found in FOLLOWED.findall(page) if found.endswith("/links")]
        assert client.post(way, data={"days": "3"}).status_code == 200
        text = client.get(way).text
        for action in (html.unescape(found) for found in SENT.findall(text) if found != "/logout"):
            assert action.startswith(way), action
        made = re.findall(r"<code>http://[^/]+(/shared/vxn_[^<]+)</code>", client.post(way, data={"days": "3"}).text)
        shown = site.network_client().get(made[0]).text
        assert f"Person{number}!" in shown
        for picture in (html.unescape(found) for found in FOLLOWED.findall(shown) if "/pictures/" in found):
            assert site.network_client().get(picture).headers["content-type"] == "image/png"
        number_of_link = re.findall(r"/links/(\d+)/revoke", text)[0]
        assert client.post(f"{way}/{number_of_link}/revoke").headers["location"] == way


@pytest.mark.slow
def test_uids_that_mean_something_else_in_a_url_are_accepted_nowhere(site: Site) -> None:
    for uid in ("..", ".", "...", "1/2", f"{VICTIM}/links", "1\\2", 'a"or"1'):
        with config.disable_value_validation(), pytest.raises(NotUnderstood):
            site.take(make.instance(study_uid=uid))


def test_one_function_writes_uids_into_urls() -> None:
    """Else a UID with a ``%`` or a ``?`` leads elsewhere."""
    for path in Path("node").rglob("*.html"):
        assert not re.search(r"/(studies|series|instances|pictures|header)/\{\{ (?!in_path)", path.read_text()), path
    for path in Path("node").rglob("*.py"):
        texts = re.findall(r'f"[^"\n]*/(?:studies|series|instances|pictures)/\{(?!\{)', path.read_text())
        assert not texts, path
