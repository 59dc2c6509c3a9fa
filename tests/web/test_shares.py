"""Links to studies: they show what they share, for a time, and nothing else."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator

import pytest

from node.index.nouns.accounts import Role
from node.web.guesses import FREE_TRIES, FREE_TRIES_OF_ACCOUNT
from tests import make
from tests.web.conftest import PASSWORD, Site, every_route, open_site

pytestmark = pytest.mark.slow

STUDY, SERIES, OTHER = "1.2.3", "1.2.3.1", "1.2.4"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A root that asks for accounts, with two studies."""
    site = open_site(tmp_path_factory.mktemp("shares") / "root", authentication="always")
    site.account("writer", Role.WRITE)
    site.account("colleague", Role.WRITE)
    site.take(*make.ct_series(5, study_uid=STUDY, series_uid=SERIES))
    site.take(*make.ct_series(5, study_uid=STUDY, series_uid="1.2.3.2"))
    site.take(*make.ct_series(5, study_uid=OTHER, series_uid="1.2.4.1"))
    site.convert()
    yield site
    site.close()


def shared(site: Site, **wanted: object) -> dict[str, object]:
    """Make a link."""
    made = site.client(auth=("writer", PASSWORD)).post(f"/api/v1/studies/{STUDY}/shares", json=wanted)
    assert made.status_code == 201, made.text
    return made.json()


def test_a_link_shows_its_study_to_anybody_until_it_is_revoked(site: Site) -> None:
    made = shared(site, download=True)
    path, client = str(made["path"]), site.client()
    text = client.get(path).text
    pictures = re.findall(rf'src="({re.escape(path)}/pictures/[0-9.]+)"', text)
    assert len(pictures) == 2
    assert client.get(pictures[0]).headers["content-type"] == "image/png"
    for what in ("volumes", "dicom"):
        assert client.get(f"{path}/{what}.zip").content.startswith(b"PK")
    listed = site.client(auth=("colleague", PASSWORD)).get(f"/api/v1/studies/{STUDY}/shares").json()["items"]
    assert (listed[0]["uses"], listed[0]["made_by"]) == (3, "writer")
    assert str(path).rpartition("/")[2] not in str(listed)
    users = {line["participants"][0]["user"] for line in site.audited("DICOM Instances Accessed")}
    assert f"link {made['id']} of writer" in users
    number = f"/api/v1/shares/{made['id']}"
    assert site.client(auth=("colleague", PASSWORD)).delete(number).status_code == 404
    assert site.client(auth=("writer", PASSWORD)).delete(number).status_code == 200
    assert client.get(path).status_code == client.get(pictures[0]).status_code == 404
    kinds = {line["event"]["type"]["code"] for line in site.audited("Security Alert") if "link" in line["detail"]}
    assert kinds == {"110135"}
    lines = [(line["detail"], line["objects"]) for line in site.audited("Security Alert") if "link" in line["detail"]]
    assert [detail for detail, _ in lines] == [
        "ordered: new link: study for 14 days, with download",
        f"done: link {made['id']}: study for 14 days, with download",
        f"ordered: link {made['id']}: study, revoked",
        f"done: link {made['id']}: study, revoked",
    ]
    assert all(objects[0]["patient_id"] for _, objects in lines)
    kept = b"".join(file.read_bytes() for file in site.root.glob("index.sqlite*"))
    assert path.rpartition("/")[2].encode() not in kept


def test_a_link_opens_nothing_else(site: Site) -> None:
    path, client = str(shared(site, series_instance_uid=SERIES)["path"]), site.client()
    token = path.rpartition("/")[2]
    assert len(re.findall("/pictures/", client.get(path).text)) == 1
    assert client.get(f"{path}/pictures/{SERIES}").status_code == 200
    for uid in ("1.2.3.2", "1.2.4.1", "9.9"):
        assert client.get(f"{path}/pictures/{uid}").status_code == 404
    for what in ("volumes.zip", "dicom.zip", "", "../studies", "studies/1.2.4"):
        assert client.get(f"{path}/{what}").status_code in (307, 401, 404), what
    cookies = {"voxelnode": token, "share_token": token}
    for bearer in (client, site.client(cookies=cookies), site.client(headers={"Authorization": f"Bearer {token}"})):
        opened = set()
        for route, found in every_route(site.server._app.routes):
            if route.startswith(("/shared/", "/login", "/logout", "/healthz", "/readyz")):
                continue
            method = "GET" if "GET" in found.methods else next(iter(found.methods))
            url = re.sub(r"{study[^}]*}", STUDY, route)
            url = re.sub(r"{series[^}]*}", SERIES, url)
            url = re.sub(r"{[^}]*}", "1", url)
            if bearer.request(method, url, follow_redirects=False).status_code not in (303, 401, 403, 404, 429):
                opened.add((method, route))
        assert opened == set()


def test_a_link_is_over_in_time_and_cannot_be_guessed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    path, client = str(shared(site, days=1)["path"]), site.client()
    assert client.get(path).status_code == 200
    with monkeypatch.context() as later:
        tomorrow = dt.datetime.now(dt.UTC) + dt.timedelta(days=1, seconds=1)
        later.setattr(site.server._app.state.access, "_now", lambda: tomorrow)
        assert client.get(path).status_code == 404
    statuses = [client.get(f"/shared/vxn_{number}").status_code for number in range(FREE_TRIES + 1)]
    assert set(statuses) == {404, 429}
    path = str(shared(site)["path"])
    statuses = [client.get(path).status_code for _ in range(FREE_TRIES_OF_ACCOUNT + 1)]
    assert set(statuses) == {200}, "a link that is right waits for nobody's guesses, also from the same address"


def test_a_link_ends_with_the_role_that_made_it_and_no_token_makes_one(site: Site) -> None:
    accounts, client = site.services.index.accounts, site.client()
    path = str(shared(site)["path"])
    accounts.set_role("writer", Role.ADMIN)
    assert client.get(path).status_code == 200
    accounts.set_role("writer", Role.READ)
    assert client.get(path).status_code in (404, 429)  # after the guesses of another test
    accounts.set_role("writer", Role.WRITE)
    bearer = site.client(headers={"Authorization": f"Bearer {site.token('writer')}"})
    assert bearer.post(f"/api/v1/studies/{STUDY}/shares", json={}).status_code == 403


def test_no_host_makes_another_address_a_link(site: Site) -> None:
    path, client = str(shared(site)["path"]), site.client()
    for host in (f"localhost{path}?", f"127.0.0.1{path}#", "a@127.0.0.1"):
        answer = client.get("/api/v1/studies", headers={"Host": host})
        assert answer.json()["type"].endswith("foreign-host"), host
