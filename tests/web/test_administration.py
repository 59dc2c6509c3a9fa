"""Administration in the browser: accounts, one's own account, the configuration, and the newest log lines."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import expect

from node.index.rows.records import Lane
from node.index.rules.people.accounts import Role
from node.index.rules.work.routes import lane_to
from node.runtime import logs
from node.settings.load import load
from tests import make
from tests.web.conftest import PASSWORD, Site, StartSite
from tests.web.pages import Visitor

NEW = "another good password"
STALE = "somebody else's password"


def signed_in(site: Site, name: str, password: str = PASSWORD) -> httpx2.Client:
    """A client with the session of a browser."""
    client = site.client(headers={"Origin": site.origin})
    answer = client.post("/login", data={"name": name, "password": password})
    assert answer.status_code == 303, answer.text
    client.headers["Cookie"] = answer.headers["set-cookie"].partition(";")[0]
    return client


@pytest.fixture
def site(start_site: StartSite) -> Site:
    """A root that asks for accounts."""
    return start_site(authentication="always")


@pytest.fixture
def chief(site: Site) -> httpx2.Client:
    site.account("chief", Role.ADMIN)
    return signed_in(site, "chief")


def roles(site: Site) -> dict[str, str]:
    with site.store.index.reading() as index:
        return {one.name: one.role.name for one in index.accounts.listed()}


@pytest.mark.slow
def test_accounts_are_made_changed_and_removed(site: Site, chief: httpx2.Client) -> None:
    made = chief.post("/administration/accounts", data={"name": "ann", "role": "write", "new": NEW, "again": NEW})
    assert made.status_code == 303, made.text
    assert roles(site) == {"chief": "ADMIN", "ann": "WRITE"}
    ann = signed_in(site, "ann", NEW)
    assert ann.get("/account").status_code == 200
    for path in ("/administration", "/administration/configuration", "/administration/log"):
        assert ann.get(path).status_code == 403, path
        assert chief.get(path).status_code == 200, path
    assert "Administration" not in ann.get("/").text
    assert 'href="/administration"' in chief.get("/").text

    chief.post("/administration/accounts/ann/role", data={"role": "read"})
    assert roles(site)["ann"] == "READ"
    chief.post("/administration/accounts/ann/password", data={"new": PASSWORD, "again": PASSWORD})
    assert ann.get("/account").status_code != 200, "its sessions are over"
    signed_in(site, "ann", PASSWORD)
    chief.post("/administration/accounts/ann/remove")
    assert roles(site) == {"chief": "ADMIN"}
    assert {line["event"]["type"]["code"] for line in site.audited("Security Alert")} == {"110132", "110136", "110137"}
    reported = [line["detail"] for line in site.audited("Security Alert") + site.audited("Application Activity")]
    reported += [str(line) for line in site.audited("User Security Attributes Changed")]
    assert sum("account ann" in one for one in reported) >= 4, reported
    assert NEW not in str(reported)


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"name": "chief", "new": NEW, "again": NEW}, 400),
        ({"name": "oidc:ann", "new": NEW, "again": NEW}, 400),
        ({"name": "a b"}, 400),
        ({"name": "ann", "new": NEW, "again": STALE}, 400),
        ({"name": "ann", "new": "short", "again": "short"}, 400),
        ({"name": "ann", "role": "root"}, 422),
    ],
)
def test_an_impossible_account_is_refused(site: Site, chief: httpx2.Client, form: dict[str, str], status: int) -> None:
    assert chief.post("/administration/accounts", data=form).status_code == status
    assert roles(site) == {"chief": "ADMIN"}
    signed_in(site, "chief", PASSWORD)


def test_nobody_locks_themselves_out(site: Site, chief: httpx2.Client) -> None:
    for what, form in {"role": {"role": "read"}, "remove": {}, "password": {"new": NEW, "again": NEW}}.items():
        assert chief.post(f"/administration/accounts/chief/{what}", data=form).status_code == 400
    for what, form in {"role": {"role": "read"}, "remove": {}, "password": {"new": NEW, "again": NEW}}.items():
        assert chief.post(f"/administration/accounts/nobody/{what}", data=form).status_code == 400
    assert roles(site) == {"chief": "ADMIN"}


def test_credentials_of_scripts_and_of_nobody_make_no_others(start_site: StartSite) -> None:
    site = start_site()
    site.account("chief", Role.ADMIN)
    token = {"Authorization": f"Bearer {site.token('chief')}"}
    for client in (site.client(), site.client(headers=token), site.client(auth=("chief", PASSWORD))):
        for path, form in {
            "/administration/accounts": {"name": "ann", "new": NEW, "again": NEW},
            "/administration/accounts/chief/remove": {},
            "/account/tokens": {"label": "x", "days": "1"},
            "/administration/set/peers": {"name": "ct", "ae_title": "CT"},
            "/account/password": {"current": PASSWORD, "new": NEW, "again": NEW},
        }.items():
            assert client.post(path, data=form).status_code == 403, path
        assert client.get("/administration").status_code == 200
    assert roles(site) == {"chief": "ADMIN"}
    assert "Nobody is signed in" in site.client().get("/administration").text
    assert "need no account" in site.client().get("/account").text


@pytest.mark.slow
def test_ones_own_password_needs_the_current_one_and_ends_all_sessions(site: Site) -> None:
    site.account("ann", Role.READ)
    ann, other = signed_in(site, "ann"), signed_in(site, "ann")
    form = {"current": STALE, "new": NEW, "again": NEW}
    refused = ann.post("/account/password", data=form, headers={"Accept": "text/html"})
    assert refused.status_code == 400  # no way to the login: the session is good
    assert "The current password is wrong: nothing was changed" in refused.text
    assert ann.post("/account/password", data=form | {"current": PASSWORD, "again": STALE}).status_code == 400
    assert ann.get("/account").status_code == 200
    assert ann.post("/account/password", data=form | {"current": PASSWORD}).headers["location"] == "/login"
    for client in (ann, other):
        assert client.get("/account", headers={"Accept": "application/json"}).status_code == 401
    signed_in(site, "ann", NEW)
    assert roles(site) == {"ann": "READ"}


def test_ones_own_tokens_are_shown_once_and_revoked(site: Site) -> None:
    site.account("ann", Role.WRITE)
    ann = signed_in(site, "ann")
    page = ann.post("/account/tokens", data={"label": "nightly <script>", "days": "30"}).text
    [token] = re.findall(r"vxn_[\w-]+", page)
    assert "<script>" not in page.partition("<main")[2]
    assert token not in ann.get("/account").text
    script = site.client(headers={"Authorization": f"Bearer {token}"})
    assert script.get("/api/v1/studies").status_code == 200
    assert ann.post("/account/tokens", data={"label": "nightly <script>", "days": "30"}).status_code == 400
    ann.post("/account/tokens/revoke", data={"label": "nightly <script>"})
    assert script.get("/api/v1/studies").status_code == 401


@pytest.mark.slow
def test_the_configuration_says_where_each_value_comes_from(
    start_site: StartSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "voxelnode.toml"
    file.write_text('[dicom]\nae_title = "FROMFILE"\n')
    monkeypatch.setenv("VOXELNODE_WEB__SESSION_HOURS", "5")
    loaded, site = load(file), start_site()
    site.services.settings.note_sources(loaded.loaded_from)
    client = site.client()
    page = client.get("/administration/configuration").text
    shown = re.findall(r"<code>([\w.]+)</code></th>.*</td><td class=\"wrap\">([^<]+)</td>", page)
    assert shown == [("dicom.ae_title", str(file)), ("web.session_hours", "environment")]
    assert page.index("series.quiet_seconds") > page.index("web.session_hours")


@pytest.mark.slow
def test_peers_routes_and_hooks_are_shown_paused_and_tried_again(start_site: StartSite) -> None:
    site = start_site(
        authentication="always",
        tables={
            "peers": {
                "pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": 1},
                "mirror": {"ae_title": "PACS", "host": "127.0.0.1", "port": 2},
                "ct": {"ae_title": "CT1"},
            },
            "routes": {"night": {"to": ["pacs"], "where": "modality == 'CT'"}},
            "hooks": {
                "bell": {"kind": "command", "on": ["instance-stored"], "command": ["/bin/true"]},
                "mute": {"kind": "command", "on": ["instance-stored"], "command": ["/bin/false"]},
            },
        },
    )
    site.account("chief", Role.ADMIN)
    chief = signed_in(site, "chief")
    site.store.index.deliveries.begin("route", {lane_to("night", "pacs"): ("study-quiet",)})
    site.store.index.deliveries.begin("hook", {Lane("hook", "bell"): ("study-quiet",), Lane("hook", "mute"): ()})
    shown = chief.get("/administration/connections").text
    for reported in (
        "PACS",
        "127.0.0.1:1",
        "[peers.pacs] and [peers.mirror] have one AE title and two addresses",
        "the node never calls it",
        "modality == &#39;CT&#39;",
        "/bin/true",
        'href="/routes"',
        "ready",
    ):
        assert reported in shown, reported
    assert chief.post("/routes/night/pacs", data={"action": "pause"}).headers["location"] == "/routes"
    assert "paused" in chief.get("/routes").text
    assert chief.post("/administration/hooks/bell", data={"action": "retry"}).status_code == 303
    assert chief.post("/administration/hooks/bel", data={"action": "retry"}).status_code == 404
    assert chief.post("/api/v1/hooks/mute/pause").json() == {"action": "pause", "changed": 1}
    assert [(one["hook"], one["paused"]) for one in chief.get("/api/v1/hooks").json()["items"]] == [
        ("bell", False),
        ("mute", True),
    ]
    assert chief.post("/routes/night/ct", data={"action": "pause"}).status_code == 404
    assert "no series yet" in chief.post("/administration/hooks/bell/test").text
    site.take(make.instance())
    assert "chip good" in chief.post("/administration/hooks/bell/test").text
    assert "chip bad" in chief.post("/administration/hooks/mute/test").text
    assert chief.post("/administration/hooks/bel/test").status_code == 404
    changes = chief.get("/administration/changes").text
    types = {line["detail"]: line["event"]["type"]["code"] for line in site.audited("Security Alert")}
    assert types["route night to pacs: pause"] == types["hook mute: test message"] == "110131", types
    for reported in (
        "route night to pacs: pause",
        "hook bell: retry of 0 messages",
        "hook mute: test message",
        "chief",
    ):
        assert reported in changes, reported
    site.account("ann", Role.WRITE)
    ann = signed_in(site, "ann")
    for path in ("connections", "retention", "changes"):
        assert ann.get(f"/administration/{path}").status_code == 403, path
        assert chief.get(f"/administration/{path}").status_code == 200, path
    assert ann.post("/administration/hooks/bell", data={"action": "retry"}).status_code == 403
    assert ann.post("/administration/set/peers", data={"name": "ct2", "ae_title": "CT2"}).status_code == 403
    assert ann.post("/administration/hooks/bell/test").status_code == 403


@pytest.mark.slow
def test_retention_shows_what_it_would_delete_and_waits_for_a_person(start_site: StartSite) -> None:
    site = start_site(tables={"retention": {"maximum_studies": 1, "only_converted": False}})
    for uid in ("1.2.1", "1.2.2"):
        site.take(*make.ct_series(2, study_uid=uid, series_uid=f"{uid}.1", PatientName=f"Old^{uid[-1]}"))
    client = site.client()
    shown = client.get("/administration/retention").text
    assert "1 of 2 studies would be deleted now" in shown
    assert "Old, 1" in shown
    assert "Old, 2" not in shown
    assert "more than 1 studies" in shown
    assert "Confirm</button>" not in shown
    assert client.post("/administration/retention/confirm").status_code == 303
    assert "unlimited" in start_site().client().get("/administration/retention").text


@pytest.mark.slow
def test_the_newest_changes_say_who_did_what(site: Site, chief: httpx2.Client) -> None:
    site.take(*make.ct_series(2, study_uid="1.2.3", PatientName="Doe^Jane", StudyDate="20240102"))
    chief.post("/studies/1.2.3/labels", data={"label": "checked"})
    chief.post("/administration/accounts", data={"name": "ann", "role": "write"})
    with (site.root / "audit.jsonl").open("a") as log:
        log.write('{"half": ')
    shown = chief.get("/administration/changes").text
    assert "labels changed" in shown
    assert shown.count("account ann: role write") == 1, "as ordered and as done"
    assert re.search(r'<a href="/studies/1\.2\.3">[^<]*Doe[^<]*, 2024-01-02</a>', shown)
    assert shown.index("account ann") < shown.index("labels changed"), "newest first"


@pytest.mark.slow
def test_a_form_that_breaks_a_rule_is_reported_in_plain_words_and_can_be_sent_again(chief: httpx2.Client) -> None:
    form = {"name": "ct9", "ae_title": "X" * 17, "may": "echo", "host": "127.0.0.1:104"}
    answer = chief.post("/administration/set/peers", data=form, headers={"Accept": "text/html"})
    assert answer.status_code == 400
    for words in ("This was not accepted", "ae_title: must have at most 16 characters", "has a port: write host"):
        assert words in answer.text, words
    for words in ("Value error", "String should", "cannot be shown"):
        assert words not in answer.text, words


def test_the_newest_changes_tell_a_deletion_from_its_end(site: Site, chief: httpx2.Client) -> None:
    site.take(*make.ct_series(2, study_uid="1.2.3"))
    assert chief.delete("/api/v1/studies/1.2.3").is_success
    [trash] = chief.get("/api/v1/trash").json()
    assert chief.post(f"/api/v1/trash/{trash['number']}/restore").is_success
    with (site.root / "audit.jsonl").open("a") as log:
        log.write("no line\n")
    shown = chief.get("/administration/changes").text
    assert "1 line of the audit log cannot be read" in shown
    assert shown.count("delete study, by") == 1, "as ordered and as done"
    assert shown.count("bring back from the trash") == 1
    assert shown.count("DICOM Study Deleted") == 1, "of the deletion alone"


@pytest.fixture
def kept_log() -> None:
    """Keep lines of all levels, as a node does."""
    logs.configure("debug", "json")
    logs.keep_newest()
    logs.keep_newest()


@pytest.mark.slow
@pytest.mark.usefixtures("kept_log")
def test_the_log_is_searched_and_taken_away_and_shows_requests_if_wanted(
    start_site: StartSite, visit: Callable[[str], Visitor]
) -> None:
    logs.log.warning("something_to_see", detail="the needle")
    logs.log.warning("something_else")
    page = visit(start_site().url).open("/administration/log")
    rows = page.locator("#log-rows tr:visible")
    expect(rows.filter(has_text="something")).to_have_count(2)
    expect(rows.filter(has_text="http_request")).to_have_count(0)
    page.keyboard.press("/")
    page.keyboard.type("needle")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("something_to_see")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    lines = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
    assert "something_else" in {line["event"] for line in lines}
    page.get_by_role("button", name="HTTP requests").click()
    expect(page.get_by_role("button", name="HTTP requests", pressed=True)).to_be_visible()
    expect(rows.filter(has_text="http_request").first).to_be_visible()
    page.get_by_role("link", name="Warning and above").click()
    expect(page.get_by_role("button", name="HTTP requests", pressed=True)).to_be_visible()


@pytest.mark.slow
@pytest.mark.usefixtures("kept_log")
def test_the_newest_lines_of_the_log_are_shown_by_level(start_site: StartSite) -> None:
    site = start_site()
    site.take(*make.ct_series(2, PatientName="SECRET^NAME"))
    site.convert()
    logs.log.warning("something_to_see", detail="<b>bold</b>")
    logs.log.error("worse")
    client = site.client()
    for _ in range(logs.KEPT_LINES + 1):
        logs.log.info("http_request", route="/news")
    everything = client.get("/administration/log", params={"level": "debug"}).text
    assert "http_request" not in everything
    both = client.get("/administration/log", params={"requests": True, "download": True})
    assert both.headers["content-disposition"] == 'attachment; filename="voxelnode-log.jsonl"'
    lines = [json.loads(line) for line in both.text.splitlines()]
    assert lines == sorted(lines, key=lambda line: str(line["timestamp"]))
    events = [line["event"] for line in lines]
    assert events.count("http_request") == logs.KEPT_LINES
    assert events.index("something_to_see") < events.index("http_request"), "no request pushes others out"
    assert everything.count("something_to_see") == 1, "kept once"
    assert "&lt;b&gt;bold&lt;/b&gt;" in everything
    assert "series_converted" in everything
    assert "SECRET" not in everything
    errors = client.get("/administration/log", params={"level": "error"}).text
    assert "worse" in errors
    assert "something_to_see" not in errors
