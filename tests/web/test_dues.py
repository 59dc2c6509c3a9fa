"""Every moment ahead that the index knows is shown where its subject is shown."""

import datetime as dt
import re

import pytest

from node.index.rows.extension_tables import every_table
from node.index.rows.records import Lane
from node.index.rules.people.accounts import Role
from node.index.rules.work.routes import lane_to
from tests import make
from tests.preloaded import run
from tests.rows import write_rows
from tests.web.conftest import PASSWORD, Site, StartSite

SERIES, STUDY, CONNECTIONS = "1.2.3.4", "1.2.3", "/administration/connections"
AHEAD = {
    "series.due_at": (f"info {STUDY}", "series --json", "/api/v1/series", "/queue"),
    "awaited_senders.quiet_at": (f"info {SERIES}",),
    "awaited_senders.grace_until": (f"info {SERIES}",),
    "open_associations.open_until": (f"info {SERIES}",),
    "work.due_at": ("hooks list", "hooks deliveries", "status", "/api/v1/work", "/work", CONNECTIONS),
    "subscribers.retry_at": ("routes list", "status", "/api/v1/routes", "/routes"),
    "tombstones.trash_until": ("trash", "info 1.2.9", "/api/v1/trash", "/problems/trash"),
    "tokens.expires_at": ("account list --json", "/administration"),
    "web_sessions.expires_at": ("account sessions chief",),
    "shares.expires_at": ("share list", f"/api/v1/studies/{STUDY}/shares"),
    "hosts.lease_until": (),  # as the state of the host
    "studies.quiet_at": (),  # it is past
}
"""The columns of such moments, and where each is shown."""


def test_every_column_of_a_moment_ahead_is_in_the_table() -> None:
    columns = {f"{table.name}.{one.name}" for table in every_table().values() for one in table.columns}
    assert {name for name in columns if re.search(r"\.(due|retry|expires|quiet)_at$|_until$", name)} == set(AHEAD)


def let_wait(site: Site) -> None:
    """Have a message wait for each hook and each destination."""
    columns = 'name, destination, kind, "key", event, requested_by, state, attempts, payload, study_instance_uid'
    of_lane = f"SELECT name, destination, kind, name, 'volume-written', kind, 'waiting', 1, '{{}}', '{STUDY}'"
    moments = "happened_at, created_at, changed_at"
    of_all = f"INSERT INTO work ({columns}, {moments}) {of_lane}, at, at, at FROM subscribers, "
    write_rows(site.root, f"{of_all} (SELECT '2026-01-01 00:00:00' AS at) moments WHERE name <> ''")


@pytest.mark.slow
def test_every_moment_ahead_is_shown_where_its_subject_is(start_site: StartSite) -> None:
    hook = {"kind": "command", "on": ["volume-written"], "command": ["/bin/true"]}
    peer = {"ae_title": "PACS", "host": "127.0.0.1", "port": 1}
    tables = {"peers": {"pacs": peer}, "routes": {"night": {"to": ["pacs"]}}, "hooks": {"bell": hook}}
    site, far = start_site(tables=tables), dt.datetime(2031, 1, 1, tzinfo=dt.UTC)
    index, client = site.store.index, site.client()
    index.deliveries.begin("route", {lane_to("night", "pacs"): ("series-complete",)})
    index.deliveries.begin("hook", {Lane("hook", "bell"): ("volume-written",)})
    site.account("chief", Role.ADMIN)
    site.token("chief", far)
    browser = site.client(headers={"Origin": site.origin})
    browser.post("/login", data={"name": "chief", "password": PASSWORD})
    for study in (STUDY, "1.2.9"):
        site.take(make.instance(StudyInstanceUID=study, SeriesInstanceUID=f"{study}.4", SOPInstanceUID=f"{study}.5"))
    done = [client.post(f"/api/v1/studies/{STUDY}/shares", json={}), client.delete("/api/v1/studies/1.2.9")]
    assert [answer.is_success for answer in done] == [True] * 2, [answer.text for answer in done]
    let_wait(site)
    write_rows(
        site.root,
        "INSERT INTO open_associations (host, association, series_id, calling_ae_title, open_until, number, begun) "
        "SELECT '', 'a', series_id, calling_ae_title, quiet_at, 1, '1:1' FROM awaited_senders LIMIT 1",
    )
    write_rows(site.root, "UPDATE subscribers SET trouble = 'it is away' WHERE kind = 'route'")
    days = {name: f"2031-05-{day:02}" for day, name in enumerate(AHEAD, 1)}
    for name, day in days.items():
        table, column = name.split(".")
        write_rows(site.root, f"UPDATE {table} SET {column} = '{day} 12:00:00'")

    def told(place: str) -> str:
        if place[0] == "/":
            return client.get(place).text
        done = run(*place.split(), "--root", site.root)
        return done.stdout + done.stderr

    places = [(name, place) for name, places in AHEAD.items() for place in places]
    missing = [(name, place) for name, place in places if days[name] not in told(place)]
    assert not missing, missing


@pytest.mark.slow
def test_what_the_configuration_makes_of_moments_is_shown_as_well(start_site: StartSite) -> None:
    """Hours of sending, a request for commitment without an answer, a study that will be quiet, and retention."""
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    opening = (now + dt.timedelta(hours=2)).astimezone().replace(minute=0, second=0)
    hours = f"{opening:%H}:00-{opening + dt.timedelta(hours=1):%H}:00"
    routes = {"night": {"between": hours}, "proof": {"confirm": True}, "calm": {"when": "study-quiet"}}
    tables = {"peers": {"pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": 1}}, "retention": {"days": 3000.0}}
    site = start_site(tables=tables | {"routes": {name: {"to": ["pacs"], **one} for name, one in routes.items()}})
    site.store.index.deliveries.begin("route", {lane_to("night", "pacs"): ()})
    let_wait(site)
    lanes = {lane_to(name, "pacs"): ["study-quiet"] * (name == "calm") for name in routes}
    site.store.index.deliveries.begin("route", lanes)
    site.take(make.instance(StudyInstanceUID=STUDY))
    site.convert()
    of_image = f"id, 'proof', 'pacs', '0', '1.2', '1.2', 'asked', '{now:%F %T}', '{now:%F %T}', 1 FROM images"
    columns = "image_id, route, destination, sha256, sop_class_uid, sop_instance_uid, state, sent_at, asked_at, asks"
    write_rows(site.root, f"INSERT INTO sent_instances ({columns}) SELECT {of_image}")
    rows = {row["route"]: row for row in site.client().get("/api/v1/routes").json()["items"]}
    assert dt.datetime.fromisoformat(rows["night"]["due_at"]) == opening
    assert dt.datetime.fromisoformat(rows["proof"]["due_at"]) == now + dt.timedelta(hours=1)
    assert rows["calm"]["due_at"] == rows["calm"]["study_quiet_at"]
    page = site.client().get("/routes").text
    assert page.count("next <time") == 3
    assert f"the route sends between {hours}" in page
    assert "retention deletes it: older than 3000 days" in site.client().get(f"/studies/{STUDY}").text
