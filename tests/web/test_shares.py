"""Links to studies: they show what they share, for a time, and nothing else."""

import datetime as dt
import re
import zipfile
from collections.abc import Iterator
from io import BytesIO

import pytest

from node.index.rules.people.accounts import Role
from node.lifecycle.erasure import holders
from node.web.sessions import FREE_TRIES, FREE_TRIES_OF_ACCOUNT
from tests import make
from tests.preloaded import run
from tests.rows import write_rows
from tests.web.conftest import PASSWORD, Site, open_site
from tests.web.test_administration import signed_in
from tests.web.test_medium_downloads import searched

STUDY, SERIES, OTHER = "1.2.3", "1.2.3.1", "1.2.4"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A root that asks for accounts, with two studies."""
    folder = tmp_path_factory.mktemp("shares")
    key = folder / "trial.key"
    assert run("pseudonyms", "new", key, "--name", "t1").returncode == 0
    tables = {"deidentify": {"trial": {"key": key, "clean": ["descriptors"]}}}
    with open_site(folder / "root", tables, authentication="always") as site:
        site.account("writer", Role.WRITE)
        site.account("colleague", Role.WRITE)
        site.take(*make.ct_series(5, study_uid=STUDY, series_uid=SERIES))
        site.take(*make.ct_series(5, study_uid=STUDY, series_uid="1.2.3.2"))
        site.take(*make.ct_series(5, study_uid=OTHER, series_uid="1.2.4.1"))
        site.convert()
        yield site


def shared(site: Site, **wanted: object) -> dict[str, object]:
    """Make a link."""
    made = site.client(auth=("writer", PASSWORD)).post(f"/api/v1/studies/{STUDY}/shares", json=wanted)
    assert made.status_code == 201, made.text
    return made.json()


@pytest.mark.slow
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
    with site.store.index.reading() as index:
        found = [one for one in holders(index, site.services.settings, [STUDY]) if one.who.startswith("link ")]
    assert [(one.how.rpartition(" ")[2], one.patient_id) for one in found] == [
        ("Accessed", "TEST-1"),
        ("Transferred", "TEST-1"),
    ], "whoever has seen or taken it has it, whatever became of the link"
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
    assert len(re.findall("/pictures/", client.get(path).text)) == 1
    assert client.get(f"{path}/pictures/{SERIES}").status_code == 200
    for uid in ("1.2.3.2", "1.2.4.1", "9.9"):
        assert client.get(f"{path}/pictures/{uid}").status_code == 404
    for what in ("volumes.zip", "dicom.zip", "../studies", "studies/1.2.4"):
        assert client.get(f"{path}/{what}").status_code in (401, 404), what


def test_a_link_is_over_in_time_and_cannot_be_guessed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    path, client = str(shared(site, days=1)["path"]), site.client()
    assert client.get(path).status_code == 200
    with monkeypatch.context() as later:
        tomorrow = dt.datetime.now(dt.UTC) + dt.timedelta(days=1, seconds=1)
        later.setattr(site.app.state.access.sessions, "now", lambda: tomorrow)
        assert client.get(path).status_code == 404
    statuses = [client.get(f"/shared/vxn_{number}").status_code for number in range(FREE_TRIES + 1)]
    assert set(statuses) == {404, 429}
    path = str(shared(site)["path"])
    statuses = [client.get(path).status_code for _ in range(FREE_TRIES_OF_ACCOUNT + 1)]
    assert set(statuses) == {200}, "a link that is right waits for nobody's guesses, also from the same address"


def test_a_link_ends_with_the_role_that_made_it_and_no_token_makes_one(site: Site) -> None:
    accounts, client = site.services.index.accounts, site.client()
    path = str(shared(site)["path"])
    for role in (Role.ADMIN, Role.WRITE):
        accounts.set_role("writer", role)
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


def test_a_link_of_before_that_asked_for_a_passphrase_opens_nothing(site: Site) -> None:
    made = shared(site)
    write_rows(site.root, "UPDATE shares SET passphrase_hash = 'x' WHERE id = :id", id=made["id"])
    assert site.client().get(str(made["path"])).status_code in (404, 429)  # after the guesses of another test
    listed = site.client(auth=("writer", PASSWORD)).get(f"/api/v1/studies/{STUDY}/shares").json()["items"]
    assert made["id"] not in [one["id"] for one in listed]


@pytest.mark.slow
def test_a_link_without_identities_shows_and_sends_copies_only(site: Site) -> None:
    writer = site.client(auth=("writer", PASSWORD))
    url = f"/api/v1/studies/{STUDY}/shares"
    assert writer.post(url, json={"deidentification": "trail", "download": True}).status_code == 400
    assert writer.post(url, json={"deidentification": "trial"}).status_code == 400, "it would show nothing"
    path = str(shared(site, deidentification="trial", download=True)["path"])
    client = site.client()
    page = client.get(path).text
    assert "/pictures/" not in page
    assert not [word for word in ("Voxel", "TEST-1", "2024-01-02", STUDY) if word in page]
    assert client.get(f"{path}/pictures/{SERIES}").status_code == 404
    for what in ("dicom", "volumes"):
        zipped = zipfile.ZipFile(BytesIO(client.get(f"{path}/{what}.zip").content))
        assert "deidentification.json" in zipped.namelist()
        content = searched(client.get(f"{path}/{what}.zip").content)
        assert not [word for word in (b"Voxel^", b"TEST-1", f"{STUDY}.".encode()) if word in content]


@pytest.mark.slow
def test_a_link_is_made_and_revoked_on_the_page_of_its_study(site: Site) -> None:
    writer = signed_in(site, "writer")
    assert f'href="/studies/{STUDY}/links"' in writer.get(f"/studies/{STUDY}").text
    form = {"days": "3", "download": "true", "deidentification": "trial", "series_instance_uid": SERIES}
    made = writer.post(f"/studies/{STUDY}/links", data=form)
    [link] = re.findall(r"<code>http://[^/]+(/shared/vxn_[^<]+)</code>", made.text)
    assert site.client().get(link).status_code == 200
    assert link.rpartition("/")[2] not in writer.get(f"/studies/{STUDY}/links").text, "it is shown once"
    number = max(int(one) for one in re.findall(r"/links/(\d+)/revoke", made.text))
    assert signed_in(site, "colleague").post(f"/studies/{STUDY}/links/{number}/revoke").status_code == 400
    assert writer.post(f"/studies/{STUDY}/links/{number}/revoke").status_code == 303
    assert site.client().get(link).status_code == 404
