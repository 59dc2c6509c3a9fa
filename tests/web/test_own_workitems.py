"""What the node sends and retrieves, and has hooks do, as workitems: watched, searched and cancelled over UPS-RS."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator

import pytest
from pydicom import Dataset

from node.index.nouns.events import record_event
from node.index.work.ledger import Ended
from node.index.work.messages import PendingEvent
from node.index.work.payloads import Counts
from node.settings.model import Route
from tests import make
from tests.peers import Pacs
from tests.web.conftest import Site
from tests.web.test_created_workitems import change, update
from tests.web.test_routes import run
from tests.web.test_workitems import WORKITEMS, found, value

STUDY, SERIES = "1.2.3", "1.2.3.1"
HAND, RULE = "/PACS", "quiet/PACS"
UID, STATE, PROGRESS = "00080018", "00741000", "00741002"
JSON = {"Content-Type": "application/dicom+json"}


@pytest.fixture(scope="module")
def pacs() -> Iterator[Pacs]:
    with Pacs() as peer:
        yield peer


@pytest.fixture
def site(start_site: Callable[..., Site], pacs: Pacs) -> Site:
    """A site with a CT of twelve slices, a peer, and a route to it by rule."""
    pacs.forget()
    peers = {"PACS": {"ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port}}
    site = start_site({"peers": peers, "routes": {"quiet": Route(when="series-quiet", to=("PACS",))}})
    site.take(*make.ct_series(12, study_uid=STUDY, series_uid=SERIES, PatientID="4711", PatientName="Doe^Ann"))
    return site


def cancel(site: Site, uid: str) -> tuple[int, str]:
    answer = site.client().post(f"{WORKITEMS}/{uid}/cancelrequest")
    return answer.status_code, answer.headers.get("warning", "")


def state_of(site: Site, uid: str) -> str:
    [item] = site.client().get(f"{WORKITEMS}/{uid}").json()
    state: str = value(item, STATE)
    return state


def quiet(site: Site) -> None:
    """Let the series become quiet, without converting it."""
    uids = {"study_instance_uid": STUDY, "series_instance_uid": SERIES}
    site.store.index._writer.run(lambda it: record_event(it, "series-quiet", site.store.ingest.now(), **uids))


@pytest.mark.slow
def test_what_a_person_sends_is_watched_searched_and_cancelled(site: Site, pacs: Pacs) -> None:
    run(site, HAND)
    client = site.client()
    assert client.post(f"/api/v1/studies/{STUDY}/send", params={"to": "PACS"}).json() == {"instances": 12}
    [item] = found(site, WorklistLabel="Sends", ProcedureStepState="SCHEDULED", PatientID="4711")
    first = value(item, UID)
    assert value(item, "00741204") == "Send to PACS"
    assert value(item, "00404018", "00080100") == "110106"
    assert value(item, "00404021", "0020000D") == STUDY
    assert value(item, "00404070", "00404071", "21000140") == "PACS"
    assert value(item, "00100010")["Alphabetic"] == "Doe^Ann"
    assert client.get(f"{value(item, '00404021', '0040E025', '00081190')}/metadata").status_code == 200
    [whole] = client.get(f"{WORKITEMS}/{first}").json()
    assert len(whole["00404021"]["Value"][0]["00081199"]["Value"]) == 12
    assert (
        change(site, first, "IN PROGRESS", "9.9").status_code,
        update(site, first, WorklistLabel="x").status_code,
    ) == (
        409,
        409,
    )
    assert cancel(site, first)[0] == 202
    again = client.post(f"/api/v1/studies/{STUDY}/send", params={"to": "PACS"})
    assert (again.status_code, "being cancelled" in again.json()["detail"]) == (409, True)
    run(site, HAND)
    assert pacs.taken == []
    [ended] = client.get(f"{WORKITEMS}/{first}").json()
    assert value(ended, PROGRESS, "00741238") == "cancelled by local"
    status, warning = cancel(site, first)
    assert (status, "already in the requested state of CANCELED" in warning) == (202, True)
    client.post(f"/api/v1/studies/{STUDY}/send", params={"to": "PACS"})
    [item] = found(site, ProcedureStepState="SCHEDULED", WorklistLabel="Sends")
    second = value(item, UID)
    run(site, HAND)
    assert state_of(site, second) == "COMPLETED"
    assert (first != second, len(pacs.taken)) == (True, 12)
    [done] = found(site, SOPInstanceUID=second)
    [performed] = Dataset.from_json(done).UnifiedProcedureStepPerformedProcedureSequence
    assert performed.PerformedStationNameCodeSequence[0].CodeValue == "VOXELNODE"
    assert performed.PerformedProcedureStepEndDateTime >= performed.PerformedProcedureStepStartDateTime
    assert (cancel(site, second)[0], client.get("/api/v1/workitems").json()["items"]) == (409, [])
    assert client.post(f"/api/v1/workitems/{second}/end").status_code == 404
    # The patient is read with the workitem: none of it is left after a deletion.
    assert client.delete(f"/api/v1/studies/{STUDY}").status_code in (200, 204)
    assert found(site, PatientID="4711") == []
    [left] = found(site, SOPInstanceUID=second)
    assert "Value" not in left["00100010"]


@pytest.mark.slow
def test_a_send_by_rule_says_how_far_it_is_and_ends_where_it_was_cancelled(
    site: Site, pacs: Pacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.routing.worker.SETTLE_SECONDS", 0.0)
    run(site, RULE)
    cancelled: list[int] = []

    def cancels(uid: str) -> int:
        items = found(site, ProcedureStepState="IN PROGRESS", WorklistLabel="Sends")
        if items and not cancelled:
            cancelled.append(cancel(site, value(items[0], UID))[0])
        return 0x0000

    pacs.answer = cancels
    quiet(site)
    run(site, RULE)
    assert cancelled == [202]
    assert 0 < len(pacs.taken) < 12
    [item] = found(site, WorklistLabel="Sends")
    assert value(item, STATE) == "CANCELED"
    assert value(item, "00404041") == "READY"
    run(site, RULE)
    assert len(pacs.taken) < 12  # nothing is sent again


@pytest.mark.slow
def test_a_destination_that_refuses_for_good_cancels_with_the_reason_and_a_retry_is_another_workitem(
    site: Site, pacs: Pacs
) -> None:
    run(site, HAND, RULE)
    quiet(site)
    pacs.answer = lambda uid: 0xC001
    run(site, RULE)
    behind = [row["instances_behind"] for row in site.client().get("/api/v1/routes").json()["items"] if row["route"]]
    assert behind == [None]  # it sends no single instances
    [failed] = found(site, WorklistLabel="Sends")
    assert value(failed, STATE) == "CANCELED"
    assert "0xC001" in value(failed, PROGRESS, "00741238")
    assert value(failed, PROGRESS, "0074100E", "00080100") == "110501"
    pacs.answer = lambda uid: 0x0000
    assert site.client().post("/api/v1/routes/quiet/PACS/retry").status_code == 200
    run(site, RULE)
    [done] = found(site, WorklistLabel="Sends")
    assert value(done, STATE) == "COMPLETED"
    assert value(done, UID) != value(failed, UID)  # a workitem never leaves its final state
    # A destination that is no longer configured sends nothing any more.
    site.client().post(f"/api/v1/studies/{STUDY}/send", params={"to": "PACS"})
    site.store.index.deliveries.begin("route", {})
    assert found(site, WorklistLabel="Sends", ProcedureStepState="SCHEDULED,IN PROGRESS") == []


@pytest.mark.slow
def test_retrievals_and_jobs_are_workitems_that_are_watched_and_cancelled(site: Site) -> None:
    client, rows, now = site.client(), site.store.index.work, site.store.ingest.now()
    wanted = {"items": [{"study_instance_uid": uid} for uid in (STUDY, "1.2.9")]}
    assert client.post("/api/v1/peers/PACS/retrievals", json=wanted).status_code == 202
    [other, one] = found(site, WorklistLabel="Retrievals")
    assert value(one, "00404021", "0040E021", "00080054") == "PACS"
    uid, unknown = value(one, UID), value(other, UID)
    [first] = [work.id for work in rows.due(("retrieval",), now)]
    rows.begin(first, now)
    rows.report(first, 25, Counts(announced=12, stored=3), now)
    assert value(found(site, SOPInstanceUID=uid)[0], PROGRESS, "00741004") == "25"
    rows.record(first, Ended("succeeded", "12 instances came", Counts(12, 12)), now)
    assert cancel(site, unknown)[0] == 202
    assert (state_of(site, uid), state_of(site, unknown)) == ("COMPLETED", "CANCELED")
    [done] = client.get(f"{WORKITEMS}/{uid}").json()
    assert len(value(done, "00741216", "00404033")["00081199"]["Value"]) == 12
    pending = PendingEvent("m", "volume-written", now, STUDY, SERIES, None, 1)
    job, _ = site.store.index.jobs.begin("lung", pending, now, dt.timedelta(days=1))
    site.store.index.jobs.begin_here(job.id, now)
    [item] = found(site, WorklistLabel="Jobs", ProcedureStepState="IN PROGRESS")
    assert value(item, "00741204") == "Job of hook lung"
    shown = client.get("/work").text
    assert ("Doe, Ann" in shown, "4711" in shown) == (True, True)
    assert cancel(site, value(item, UID))[0] == 202
    assert client.get(f"/api/v1/jobs/{job.job_id}").json()["state"] == "cancelled"
    [item] = found(site, SOPInstanceUID=value(item, UID))
    assert value(item, STATE) == "CANCELED"
