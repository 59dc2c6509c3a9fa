"""Every route that returns patient data writes a line of the audit log: what, who, and how many."""

import datetime as dt
import re
from collections.abc import Iterator
from typing import Any

import pytest

from node.children.pseudonyms import new_key_file
from node.extensions.worklist.performed_steps import PerformedStepRepository, created
from node.index.rules.work.messages import PendingEvent
from tests import make
from tests.protocol.test_performed_steps import begun
from tests.web.conftest import Site, every_route, open_site, until

STUDY, SERIES, INSTANCE = "1.2.7", "1.2.7.1", "1.2.7.1.99"
NAME = "Walked^Patient"
MARKS = (STUDY, NAME, "PID-WALK")
"""Text by which patient data is recognised; all other content than text is taken for patient data."""

TEXT = (
    "text/", "application/json", "application/dicom+json", "application/problem+json",
    "application/vnd.sun.wadl+xml",
)  # fmt: skip
NOT_READ = re.compile(
    "|".join(
        (
            # Changes, which are recorded as such.
            r"PUT .*",
            r"DELETE (?!/api/v1/(studies|instances)/).*",  # those have a dry run, which tells what is there
            r"OPTIONS /dicom-web/.+",
            r"POST /(account|administration|login|logout|comments|peers|routes|status|downloads|work|bids)\b.*",
            r"POST /problems/(acknowledge|withdraw|causes|conflicts|quarantine|trash)\b.*",
            r"POST /patients/.*",
            r"POST /(selected|studies/{study_instance_uid}/selected)/.*",
            r"POST /studies/.*/(labels|comments|send|delete|links)\b.*",
            r"POST /dicom-web/studies(/{study})?",
            r"POST /api/v1/(conflicts|downloads|hooks|jobs|patients|peers|projects|quarantine|routes|trash|work)/.*",
            r"POST /api/v1/(worklist|studies/.*/(comments|send|shares))",
            # Of a selection, a peer, a link or a download: see test_peers, test_shares, test_bids_grid, test_persons,
            # test_medium_downloads and test_prepared.
            r"(GET|POST) /shared/.*",
            r"GET (/api/v1)?/peers/.*series",
            r"GET /(bids|patients/(merge|separate)|downloads/.*|api/v1/work/{work}/file)",
            r"GET /studies/.*/(medium|deidentified)\.zip",
            r"GET /api/v1/projects/{project}/members",
        )
    )
)
"""Routes, with their method, that change something, or that need more than this root has."""

WITHOUT_PATIENTS = {
    "/healthz", "/readyz", "/metrics", "/login", "/login/factor",
    "/login/oidc", "/login/oidc/callback", "/api/v1/openapi.json",
    "/api/v1/status", "/ohif", "/ohif/{path:path}", "/badges", "/upload", "/status", "/status/numbers",
    "/dicom-web", "/dicom-web/", "/help/{topic}",
    "/api/v1/rejections", "/api/v1/lost", "/problems/rejections", "/api/v1/failures", "/problems", "/api/v1/exclusions",
    "/api/v1/problems/{slug}", "/api/v1/routes", "/api/v1/peers", "/peers", "/routes/rows",
    "/problems/acknowledged", "/problems/unconvertible", "/problems/causes/{cause}",
    "/account", "/api/v1/account",
    "/administration", "/administration/configuration", "/administration/log",
    "/administration/connections", "/administration/retention",
    "/api/v1/trash", "/problems/trash", "/api/v1/projects", "/api/v1/hooks",
}  # fmt: skip
"""Routes that return no patient data here: those of the node itself, and lists that are empty in this root."""


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A root in which every route has something to return."""
    folder = tmp_path_factory.mktemp("walked")
    new_key_file(folder / "key")
    with open_site(folder / "root", {"deidentify": {"trial": {"key": folder / "key"}}}) as site:
        patient = {"PatientName": NAME, "PatientID": "PID-WALK"}
        images = make.ct_series(3, study_uid=STUDY, series_uid=SERIES, **patient)
        images[0].SOPInstanceUID = images[0].file_meta.MediaStorageSOPInstanceUID = INSTANCE
        site.take(*images, make.corrected(images[0]))
        site.convert()
        planned = {"modality": "CT", "station_ae_title": "CT1", "start_date": "2026-11-21", "study_instance_uid": STUDY}
        site.client().post("/api/v1/worklist", json={"patient_id": "PID-WALK", "patient_name": NAME, **planned})
        site.services.index.repository(PerformedStepRepository).create(
            created(INSTANCE, begun(STUDY)), "CT1", site.services.ingest.now()
        )
        pending = PendingEvent("walked", "series-quiet", site.services.ingest.now(), STUDY, SERIES)
        site.services.index.jobs.begin("hook", pending, site.services.ingest.now(), dt.timedelta(days=1))
        site.services.index.work.add_retrievals("pacs", [(STUDY, None)], "walker", site.services.ingest.now())
        site.client().put("/api/v1/projects/walked", json={})
        site.client().post("/api/v1/projects/walked/contents", json={"add": [{"study_instance_uid": STUDY}]})
        yield site


@pytest.mark.slow
def test_each_route_that_returns_patient_data_leaves_a_line(walked: Site) -> None:
    client, trail = walked.client(), walked.app.state.access.trail
    volume = client.get("/api/v1/volumes").json()["items"][-1]
    quarantined = client.get("/api/v1/quarantine").json()["items"][0]["name"]
    parameters: dict[str, Any] = {
        "study_instance_uid": STUDY, "series_instance_uid": SERIES, "sop_instance_uid": INSTANCE, "study": STUDY,
        "series": SERIES, "instance": INSTANCE, "id": volume["id"], "name": volume["name"], "revision": 1,
        "frames": 1, "entry": 1, "path": "7FE00010", "slug": "not-found", "topic": "pages",
        "conflict": client.get("/api/v1/conflicts").json()["items"][0]["id"],
        "aetitle": "WATCHER", "route": "-", "destination": "NOWHERE", "action": "retry", "cause": "geometry",
        "hook": "-", "decision": "keep",
        "job": client.get("/api/v1/work?kind=job").json()["items"][0]["key"],
        "work": client.get("/api/v1/work?kind=retrieval").json()["items"][0]["id"], "peer": "pacs",
        "project": "walked",
        "comment": client.post(f"/api/v1/studies/{STUDY}/comments", json={"comment": "a word"}).json()["id"],
    }  # fmt: skip
    silent, reported = set(), set()
    for path, route in every_route(walked.app.routes):
        for method in sorted(route.methods - {"HEAD"}):
            if NOT_READ.fullmatch(f"{method} {path}") or path == "/api/v1/events":
                continue
            values = {**parameters, "name": quarantined} if "quarantine" in path else parameters
            if "thumbnails" in path:
                values = {**parameters, "name": "volume_thumbnail.png"}
            url = re.sub(r"{(\w+)(:path)?}", lambda found, v=values: str(v[found[1]]), path)
            query = {"dry_run": "true"} if method == "DELETE" else _query(path)
            trail._recorded.clear()
            before = lines(walked)
            answer = client.request(method, url, params=query, follow_redirects=False)
            assert answer.status_code < 500
            new = lines(walked)[len(before) :]
            is_patient_data = answer.status_code < 300 and (
                not answer.headers.get("content-type", "").startswith(TEXT)
                or any(mark in answer.text.removeprefix(url) for mark in MARKS)
            )
            if is_patient_data and not new:
                silent.add((method, path))
            if new:
                reported.add(path)
            elif path not in WITHOUT_PATIENTS:
                silent.add((method, path))
    assert silent == set()
    assert len(reported) > 60
    assert "/worklist" in reported


def _query(path: str) -> dict[str, str]:
    """Return what a route demands beside its path."""
    if path == "/dicom-web/wado":
        return {"requestType": "WADO", "studyUID": STUDY, "seriesUID": SERIES, "objectUID": INSTANCE}
    if path.startswith("/patients/"):
        return {"a": "1", "source": "1", "target": "1"}
    if path == "/news":
        return {"since": "0"}
    if "/selected/" in path:
        return {"study": STUDY, "series": SERIES}
    return {"profile": "trial"} if "deidentified" in path else {}


@pytest.mark.slow
def test_a_line_tells_what_who_and_how_many(walked: Site) -> None:
    client, trail = walked.client(), walked.app.state.access.trail
    for path, detail in (
        ("/api/v1/instances", "instances; 3 found"),
        ("/dicom-web/instances", "QIDO-RS /dicom-web/instances?; 3 found"),
        ("/", "studies: the newest; 1 found"),
        ("/news?since=0", "studies: how many are new; 1 found"),
        ("/queue", "queue; "),
        ("/problems", "problems: unsettled, page 1; "),
    ):
        trail._recorded.clear()
        assert client.get(path).status_code == 200
        line = lines(walked)[-1]
        assert line["detail"].startswith(detail)
        assert line["participants"][0]["user"] == "local"
    trail._recorded.clear()
    client.get(f"/dicom-web/studies/{STUDY}")
    assert lines(walked)[-1]["objects"] == [{"study_instance_uid": STUDY, "instances": 3}]


def test_a_stream_of_events_leaves_a_line(walked: Site) -> None:
    walked.app.state.access.trail._recorded.clear()
    with walked.client().stream("GET", "/api/v1/events") as answer:
        assert answer.status_code == 200
        until(lambda: any(line["detail"] == "events as they happen" for line in lines(walked)))


def lines(site: Site) -> list[dict[str, Any]]:
    """Lines of the audit log about reads; of an export the first, because the last one comes after the answer."""
    kinds = ("Query", "DICOM Instances Accessed", "DICOM Instances Transferred")
    found = [line for kind in kinds for line in site.audited(kind)]
    found += [line for line in site.audited("Export") if line["detail"].endswith(": begun")]
    return sorted(found, key=lambda line: str(line["at"]))
