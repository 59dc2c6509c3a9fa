"""Routes over HTTP: STOW-RS to another node, and what REST and pages show and change."""

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from node.api import Audit, Role, Route
from node.children.decoder import Decoder
from node.extensions.destinations.settings import DicomwebSettings, FolderSettings
from node.index.rules.work.routes import lane_to
from node.lifecycle.erasure import holders
from node.routing.router import RouteWorkers, lanes_of
from tests import make
from tests.web.conftest import Site, StartSite


def route_of(there: str, tokens: Path | None = None, **keys: Any) -> dict[str, Any]:
    web = DicomwebSettings(url=f"{there}/dicom-web", token_file=tokens)
    return {"destinations": {"CLOUD": web}, "routes": {"up": Route(when="instance-stored", to=("CLOUD",), **keys)}}


def run(site: Site, *names: str, decoder: Decoder | None = None) -> None:
    """Send what is due at destinations; with another's decoder, which is running already."""
    own = Decoder(workers=1)
    audit = Audit(site.root, "SOURCE")
    index = site.store.index
    router = RouteWorkers(
        site.services.settings, site.store.archive, index, site.store.metrics, audit, decoder or own, lambda name: None
    )
    index.deliveries.begin("route", {one.lane: one.events for one in router.workers})
    workers = [one for one in router.workers if str(one.lane).removeprefix("route/") in names]
    try:
        for worker in workers:
            while worker.step() == 0.0:
                pass
    finally:
        for worker in workers:
            worker._rest()
            worker._preparer.close()
        audit.close()
        own.close()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    return tmp_path / "token"


@pytest.mark.slow
def test_a_route_stores_by_stow_and_is_shown_paused_retried_and_made_send(start_site: StartSite, token: Path) -> None:
    there = start_site(authentication="always")
    there.account("writer", Role.WRITE)
    token.write_text("wrong")
    here = start_site(route_of(there.url, token, confirm=True))
    run(here, "up/CLOUD")
    series = make.ct_series(3, study_uid="1.2.3", series_uid="1.2.3.1")
    here.take(*series)
    run(here, "up/CLOUD")
    client = here.client()
    [row] = [row for row in client.get("/api/v1/routes").json()["items"] if row["route"]]
    assert "401" in row["trouble"]
    assert "token_file" in row["trouble"]
    assert row["trouble_since"].endswith("Z")
    held = [row.get(name) for name in ("instances_behind", "series_behind", "waiting", "given_up", "waiting_since")]
    assert held == [3, None, 0, 0, None]
    assert "check the token" in client.get("/routes").text
    token.write_text(there.token("writer"))
    path = "/api/v1/routes/up/CLOUD"
    assert client.post(f"{path}/pause").json() == {"action": "pause", "changed": 1}
    run(here, "up/CLOUD")
    with there.store.index.reading() as index:
        assert index.count_levels()["instances"] == 0
    assert client.post(f"{path}/resume").json()["changed"] == 1
    assert client.post(f"{path}/retry").status_code == 200
    run(here, "up/CLOUD")
    with there.store.index.reading() as index:
        assert index.count_levels()["instances"] == 3
    [row] = [row for row in client.get("/api/v1/routes").json()["items"] if row["route"]]
    assert (row["trouble"], row["delivered"], row["unconfirmed"]) == (None, 3, 0)
    page = client.get("/routes").text
    assert "Delivered lately" in page
    assert "Voxel, Test" in page
    with here.store.index.reading() as index:
        [holder] = holders(index, here.services.settings, ["1.2.3"])
    assert (holder.who, holder.how, holder.patient_id) == ("CLOUD", "route up, 3 instances", "TEST-1")
    assert client.post("/api/v1/routes/up/NOWHERE/retry").status_code == 404
    assert client.post("/api/v1/studies/1.2.3/send", params={"to": "NOWHERE"}).status_code == 400
    assert client.post("/api/v1/studies/1.2.9/send", params={"to": "CLOUD"}).status_code == 404
    assert client.post("/api/v1/studies/1.2.3/send", params={"to": "CLOUD"}).json() == {"instances": 3}
    sent = client.post("/studies/1.2.3/series/1.2.3.1/send", data={"to": "CLOUD"}, follow_redirects=True)
    assert "by hand" in sent.text
    [message, *_] = client.get("/api/v1/work", params={"kind": "route", "state": "waiting", "name": ""}).json()["items"]
    assert (message["event"], message["destination"]) == ("send", "CLOUD")
    run(here, "/CLOUD")
    assert client.get("/api/v1/work?kind=route&state=waiting&total=true").json()["total"] == 0
    assert here.audited("Export")[0]["objects"][0]["study_instance_uid"] == "1.2.3"
    assert 'voxelnode_route_waiting{destination="CLOUD",route="up"} 0.0' in client.get("/metrics").text


def test_a_damaged_instance_is_a_dead_letter_and_the_others_arrive(start_site: StartSite) -> None:
    there = start_site()
    here = start_site(route_of(there.url))
    run(here, "up/CLOUD")
    good = make.ct_series(2)
    [other] = make.ct_series(1)
    here.take(*good, other)
    path = next(
        path for path in here.root.glob("objects/*/*.dcm") if other.SOPInstanceUID.encode() in path.read_bytes()
    )
    path.write_bytes(path.read_bytes()[:-2])
    run(here, "up/CLOUD")
    with there.store.index.reading() as index:
        assert index.count_levels()["instances"] == 2
    [dead] = here.client().get("/api/v1/work?kind=route&state=failed").json()["items"]
    assert "send the instance to this node again" in dead["reason"]


@pytest.mark.slow
def test_a_series_is_deleted_only_when_every_destination_keeps_it_and_nobody_waits_for_it(
    start_site: StartSite, tmp_path: Path
) -> None:
    folders = {name: FolderSettings(folder=tmp_path / name, layout="archive") for name in ("one", "two")}
    for folder in folders:
        (tmp_path / folder).mkdir()
    keys: dict[str, Any] = {"when": "instance-stored", "confirm": True, "delete_confirmed": True}
    routes = {"away": Route(to=("one", "two"), **keys), "other": Route(when="volume-written", to=("one",))}
    routes["last"] = Route(when="study-quiet", to=("two",))
    here = start_site({"destinations": folders, "routes": routes})
    index = here.store.index
    index.deliveries.begin("route", lanes_of(here.services.settings))
    first, late = make.ct_series(4, study_uid="1.2.3", series_uid="1.2.3.1"), []
    late = first[3:]

    def left() -> int:
        here.store.actions.delete_confirmed("away")
        with index.reading() as reading:
            return reading.count_levels()["instances"]

    here.take(*first[:3])
    run(here, "away/one")
    run(here, "away/two")
    assert left() == 3  # it is not converted yet
    here.convert()
    assert left() == 3  # the other route has not sent it yet
    run(here, "other/one")
    here.take(*late)
    run(here, "away/one")
    here.convert()
    run(here, "other/one")
    assert left() == 4  # one destination lacks the late instance
    run(here, "away/two")
    assert left() == 4  # an event to come is awaited, too
    assert index.studies.mark_quiet(dt.timedelta(0), dt.datetime.now(dt.UTC) + dt.timedelta(days=1)) == 1
    assert left() == 4
    run(here, "last/two")
    assert left() == 0
    assert len(list((tmp_path / "two").rglob("*.dcm"))) == 4
    [deleted] = [
        line for line in here.audited("DICOM Instances Accessed") if line["detail"].startswith("done: delete series")
    ]
    assert deleted["participants"][0]["user"] == "route away"


def test_work_says_of_what_was_skipped_that_it_was_to_be_sent(site: Site) -> None:
    site.take(*make.ct_series(2, study_uid="1.2.3", series_uid="1.2.3.1"))
    lane, now = lane_to("trial", "bids"), site.services.ingest.now()
    site.store.index.routes.note_skipped(lane, "1.2.3", {"1.2.3.1": "no rule names it"}, now)
    page = site.client().get("/work?kind=route").text
    assert "skipped" in page
    assert "send to bids" in page
    assert "sent to" not in page
