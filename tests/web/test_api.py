"""REST: lists, single things, files, changes, events."""

import base64
import datetime as dt
import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args
from unittest.mock import Mock

import httpx2
import pytest

from node.index.rows.models.levels import SERIES_STATES
from node.index.rows.records import CountedRefusal, Refused
from node.selector.fields import SeriesState
from node.web.problem_types import PRECONDITION_FAILED, RANGE_NOT_SATISFIABLE, UNKNOWN_PARAMETER
from tests import make
from tests.web.conftest import Site, StartSite, every_route, until

LISTS = [
    "patients", "studies", "series", "instances", "volumes",
    "work", "failures", "exclusions", "rejections", "lost", "conflicts", "history",
]  # fmt: skip


def items(site: Site, path: str, **query: Any) -> list[dict[str, Any]]:
    """Every item of a list, page by page."""
    client, found, after = site.client(), [], None
    while True:
        page = client.get(f"/api/v1/{path}", params={**query, **({"after": after} if after else {})}).json()
        found += page["items"]
        after = page["next"]
        if after is None:
            return found


@pytest.mark.slow
def test_a_study_is_reported_with_what_became_of_it(filled: Site) -> None:
    study = filled.client().get("/api/v1/studies/1.2.3").json()
    assert (study["series"], study["instances"], study["modalities"]) == (1, 5, ["CT"])
    assert study["states"] == {"converted": 1}
    assert study["patient_name"] == "Voxel^Test"
    series = filled.client().get("/api/v1/studies/1.2.3/series/1.2.3.1").json()
    assert (series["state"], series["verdict"], series["instances"], series["revision"]) == (
        "converted", "complete", 5, 1,
    )  # fmt: skip
    assert dt.datetime.fromisoformat(series["last_received_at"]).tzinfo is not None


@pytest.mark.slow
def test_series_are_selected_by_an_expression_page_by_page(filled: Site) -> None:
    everything = items(filled, "series")
    assert items(filled, "series", where='modality == "CT" or not modality == "CT"', limit=1) == everything
    assert [one["series_instance_uid"] for one in items(filled, "series", where="slices == 5")] == ["1.2.3.1"]
    assert items(filled, "series", where='slices == 5 and modality == "MR"') == []
    assert items(filled, "series", where="slices == 5", modality="MR") == []
    wrong = filled.client().get("/api/v1/series", params={"where": 'modalty == "CT"'})
    assert wrong.status_code == 400
    assert wrong.json()["detail"] == 'at character 1: unknown field "modalty", did you mean "modality"?'


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["1.2.4", "1.2.3"]),
        ({"modality": "CT"}, ["1.2.3"]),
        ({"words": "voxel test-1"}, ["1.2.4", "1.2.3"]),
        ({"words": "nobody"}, []),
        ({"patient_id": "TEST-1", "condition": "complete"}, ["1.2.4", "1.2.3"]),
        ({"condition": "incomplete"}, []),
        ({"patient_id": "TEST"}, []),
        ({"first_date": "2999-01-01"}, []),
        ({"order": "date"}, ["1.2.4", "1.2.3"]),
    ],
    ids=str,
)
def test_studies_are_found_by_what_is_known_of_them(filled: Site, query: dict[str, str], expected: list[str]) -> None:
    assert [study["study_instance_uid"] for study in items(filled, "studies", **query)] == expected


@pytest.mark.slow
@pytest.mark.parametrize("order", ["received", "date"])
def test_pages_put_together_are_the_list(site: Site, order: str) -> None:
    for number, date in enumerate(["20200101", "20210101", "", "20210101", "", "20190101", "20210101"]):
        site.take(make.instance(study_uid=f"1.{number}", StudyDate=date))
    whole = items(site, "studies", order=order, limit=1000)
    for limit in (1, 2, 3, 7):
        assert items(site, "studies", order=order, limit=limit) == whole
    assert len(whole) == 7
    assert [one["sop_instance_uid"] for one in items(site, "instances", limit=2)] == [
        one["sop_instance_uid"] for one in items(site, "instances", limit=1000)
    ]


def test_what_comes_meanwhile_shifts_no_page(site: Site) -> None:
    for number in range(4):
        site.take(make.instance(study_uid=f"1.{number}"))
    client = site.client()
    first = client.get("/api/v1/studies", params={"limit": 2}).json()
    site.take(make.instance(study_uid="1.9"))
    second = client.get("/api/v1/studies", params={"limit": 2, "after": first["next"]}).json()
    uids = [study["study_instance_uid"] for study in first["items"] + second["items"]]
    assert uids == ["1.3", "1.2", "1.1", "1.0"]


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"limit": 10**9}, 422),
        ({"limit": 0}, 422),
        ({"after": "x"}, 400),
        ({"after": "W10"}, 400),  # []
        ({"after": "WyJhIl0"}, 400),  # ["a"]
        ({"after": "Wy0xXQ"}, 400),  # [-1]
        ({"after": "WzE4NDQ2NzQ0MDczNzA5NTUxNjE2XQ"}, 400),  # [2**64]
        ({"after": "W" * 300}, 422),
    ],
    ids=["huge", "none", "no base64", "empty", "text", "negative", "past the end", "long"],
)
def test_a_list_has_a_bound_and_takes_no_forged_cursor(
    filled: Site, path: str, query: dict[str, Any], status: int
) -> None:
    answer = filled.client().get(f"/api/v1/{path}", params=query)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["remedy"]


@pytest.mark.parametrize(
    ("path", "query", "reported"),
    [
        ("studies", "patientid=1", "(do you mean patient_id?)"),
        ("series", "verdicts=complete&limit=1", "(do you mean verdict?)"),
        ("volumes", "Format=nifti", "(do you mean format?)"),
        ("volumes/1", "x%0Ay=1", r"'x\ny'; the resource takes no parameters"),
        ("events", "since=1", "the resource takes after"),
        ("studies", "&".join(f"{'q' * 5000}{number}" for number in range(9)), "accession_number"),
    ],
    ids=["near", "one of two", "case", "none", "stream", "many and long"],
)
def test_a_misspelt_filter_is_refused_with_the_right_name(empty: Site, path: str, query: str, reported: str) -> None:
    answer = empty.client().get(f"/api/v1/{path}?{query}")
    assert (answer.status_code, answer.json()["type"]) == (422, UNKNOWN_PARAMETER.uri)
    assert reported in answer.json()["detail"]
    assert len(answer.json()["detail"]) < 1000


def test_a_misspelt_filter_of_a_change_changes_nothing(site: Site) -> None:
    site.take(make.instance(study_uid="1.2.3"))
    assert site.client().delete("/api/v1/studies/1.2.3", params={"dryrun": "true"}).status_code == 422
    assert items(site, "studies")


def test_strangers_are_not_told_the_parameters(guarded: Site) -> None:
    assert guarded.client().get("/api/v1/studies", params={"x": 1}).status_code == 401


def test_dicomweb_ignores_unknown_parameters(empty: Site) -> None:
    """PS3.18 8.3."""
    assert empty.client().get("/dicom-web/studies", params={"patientid": 1}).status_code == 200


@pytest.mark.parametrize(
    ("path", "query", "total"),
    [
        ("studies", {}, 2),
        ("studies", {"modality": "CT"}, 1),
        ("studies", {"words": "nobody"}, 0),
        ("series", {"state": ["converted", "failed"]}, 1),
        ("series", {"study_instance_uid": "1.2.3"}, 1),
        ("instances", {"series_instance_uid": "1.2.3.1"}, 5),
        ("patients", {"name": "voxel"}, 1),
        ("work", {}, 0),
        ("quarantine", {}, 0),
    ],
    ids=str,
)
def test_a_list_is_counted_when_it_is_asked_for(filled: Site, path: str, query: dict[str, Any], total: int) -> None:
    def page(**more: Any) -> dict[str, Any]:
        reported: dict[str, Any] = filled.client().get(f"/api/v1/{path}", params={**query, **more}).json()
        return reported

    assert page()["total"] is None
    first = page(total=True, limit=1)
    assert (first["total"], len(first["items"])) == (total, min(total, 1))
    if first["next"] is not None:
        assert page(total=True, limit=1, after=first["next"])["total"] == total


@pytest.mark.slow
def test_every_list_can_be_counted(filled: Site) -> None:
    paths = filled.client().get("/api/v1/openapi.json").json()["paths"]
    lists = [
        path
        for path, operations in paths.items()
        if "limit" in [parameter["name"] for parameter in operations.get("get", {}).get("parameters", ())]
    ]
    assert len(lists) > 10
    for path in lists:
        path = path.replace("{id}", "1")
        reported = filled.client().get(path, params={"total": True, "limit": 1000}).json()
        assert reported["total"] == len(reported["items"]), path


def encoding(site: Site, path: str, accepted: str) -> tuple[str, str]:
    answer = site.client().get(f"/api/v1/{path}", headers={"Accept-Encoding": accepted})
    assert answer.status_code == 200
    return answer.headers.get("content-encoding", ""), answer.headers.get("vary", "")


def test_lists_are_compressed_if_the_client_accepts_it(filled: Site) -> None:
    client = filled.client()
    plain = client.get("/api/v1/instances", headers={"Accept-Encoding": "identity"})
    packed = client.get("/api/v1/instances", headers={"Accept-Encoding": "gzip"})
    assert packed.json() == plain.json()
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"]) / 3
    assert encoding(filled, "instances", "br, gzip;q=0.5") == ("gzip", "Accept-Encoding")
    assert encoding(filled, "openapi.json", "gzip") == ("gzip", "Accept-Encoding")
    for refused in ("", "br", "gzip;q=0", "identity"):
        assert encoding(filled, "instances", refused) == ("", "Accept-Encoding"), refused


def test_files_streams_and_short_answers_are_not_compressed(filled: Site) -> None:
    one = volume(filled)
    picture = items(filled, "volumes", kind="thumbnail")[0]
    for path in (f"volumes/{one['id']}/file", f"volumes/{picture['id']}/file", f"volumes/{one['id']}", "problems/gone"):
        assert encoding(filled, path, "gzip") == ("", ""), path
    with filled.client().stream("GET", "/api/v1/events", headers={"Accept-Encoding": "gzip"}) as answer:
        assert "content-encoding" not in answer.headers
    part = filled.client().get(one["url"], headers={"Range": "bytes=0-1", "Accept-Encoding": "gzip"})
    assert (part.status_code, "content-encoding" in part.headers) == (206, False)


def test_patients_and_their_merging(site: Site) -> None:
    site.take(make.instance(PatientID="A", PatientName="Ümlaut^Eva", study_uid="1.1"))
    site.take(make.instance(PatientID="B", PatientName="100%^Per_cent", study_uid="1.2"))
    one, other = sorted(items(site, "patients"), key=lambda patient: patient["patient_id"])
    assert [patient["patient_id"] for patient in items(site, "patients", name="100%")] == ["B"]
    assert items(site, "patients", name="%") == []
    done = site.client().post(f"/api/v1/patients/{one['id']}/merge", json={"into": other["id"]})
    assert done.json() == {"studies": ["1.1"], "holders": []}
    assert [patient["studies"] for patient in items(site, "patients", patient_id="B")] == [2]
    again = site.client().post(f"/api/v1/patients/{one['id']}/merge", json={"into": other["id"]})
    assert again.status_code == 404
    assert site.audited("Patient Record")
    path = f"/api/v1/patients/{one['id']}/separate"
    assert site.client().post(f"{path}?dry_run=true", json={}).json() == {"studies": ["1.1"], "holders": []}
    assert [patient["studies"] for patient in items(site, "patients", patient_id="B")] == [2]
    assert site.client().post(path, json={}).json() == {"studies": ["1.1"], "holders": []}
    assert [patient["studies"] for patient in items(site, "patients", patient_id="B")] == [1]
    assert site.client().post(path, json={}).status_code == 400
    assert site.client().post(path, json={"issuer": "CLINIC"}).json() == {"studies": ["1.1"], "holders": []}
    assert [one["issuer_of_patient_id"] for one in items(site, "patients", patient_id="A")] == ["CLINIC"]


def repr_digest(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def test_an_instance_comes_back_byte_for_byte(filled: Site) -> None:
    [one] = items(filled, "instances", study_instance_uid="1.2.4")
    path = f"/api/v1/instances/{one['sop_instance_uid']}/file"
    answer = filled.client().get(path, headers={"Want-Repr-Digest": "unixsum=1, sha-256=5"})
    assert answer.headers["content-type"] == "application/dicom"
    assert answer.headers["repr-digest"] == repr_digest(answer.content)
    assert "repr-digest" not in filled.client().get(path, headers={"Want-Repr-Digest": "sha-256=0"}).headers
    with filled.store.index.reading() as index:
        row = index.instances.row(one["sop_instance_uid"])
    assert answer.content == Path(row["path"]).read_bytes()
    assert hashlib.sha256(answer.content[row["data_set_offset"] :]).hexdigest() == one["sha256"]


def volume(site: Site, format: str = "nifti", kind: str = "volume") -> dict[str, Any]:
    return items(site, "volumes", series_instance_uid="1.2.3.1", format=format, kind=kind)[0]


def test_a_volume_is_reported_and_downloaded(filled: Site) -> None:
    one = volume(filled)
    assert one["shape"][-1] == 5 or 5 in one["shape"]
    assert filled.client().get(f"/api/v1/volumes/{one['id']}").json() == one
    assert [len(row) for row in one["affine_lps"]] == [4] * 4
    assert items(filled, "volumes", kind="thumbnail")[0]["affine_lps"] is None
    answer = filled.client().get(one["url"])
    assert hashlib.sha256(answer.content).hexdigest() == one["sha256"]
    assert one["name"] in answer.headers["content-disposition"]
    assert answer.headers["etag"] == f'"{one["sha256"]}"'
    assert answer.headers["repr-digest"] == repr_digest(answer.content)
    assert filled.client().head(one["url"]).headers["content-length"] == str(one["bytes"])


def test_a_volume_comes_in_parts_and_not_twice(filled: Site) -> None:
    one, client = volume(filled), filled.client()
    whole = client.get(one["url"]).content
    part = client.get(one["url"], headers={"Range": "bytes=10-19", "If-Range": f'"{one["sha256"]}"'})
    assert (part.status_code, part.content) == (206, whole[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{one['bytes']}"
    assert client.get(one["url"], headers={"Range": "bytes=-5"}).content == whole[-5:]
    stale = client.get(one["url"], headers={"Range": "bytes=10-19", "If-Range": '"another revision"'})
    assert (stale.status_code, stale.content) == (200, whole)
    beyond = client.get(one["url"], headers={"Range": f"bytes={one['bytes']}-"})
    assert (beyond.status_code, beyond.json()["type"]) == (416, RANGE_NOT_SATISFIABLE.uri)
    assert beyond.headers["content-range"] == f"bytes */{one['bytes']}"
    for unread in ("lines=1-2", "bytes", "bytes=9-1", "bytes=x", "bytes="):
        ignored = client.get(one["url"], headers={"Range": unread})
        assert (ignored.status_code, ignored.content) == (200, whole), unread
    for tags in (f'"{one["sha256"]}"', f'"x", W/"{one["sha256"]}"', "*"):
        assert client.get(one["url"], headers={"If-None-Match": tags}).status_code == 304


def test_a_name_that_is_not_its_own_finds_no_volume(filled: Site) -> None:
    one = volume(filled)
    assert filled.client().get(f"/api/v1/volumes/{one['id']}/file/other.nii").status_code == 404
    assert filled.client().get(f"/api/v1/volumes/{one['id']}/file/..%2findex.sqlite").status_code == 404


def test_a_file_that_has_gone_is_reported_with_the_remedy(site: Site) -> None:
    ds = make.instance()
    site.take(ds)
    for path in (site.root / "objects").rglob("*.dcm"):
        path.unlink()
    answer = site.client().get(f"/api/v1/instances/{ds.SOPInstanceUID}/file")
    assert answer.status_code == 410
    assert "fsck" in answer.json()["detail"]


def test_states_of_series_are_those_of_the_index() -> None:
    assert get_args(SeriesState) == SERIES_STATES


@pytest.mark.slow
def test_what_gave_no_volume_is_reported_with_its_reason(site: Site) -> None:
    one, other = make.ct_series(2, series_uid="1.5", study_uid="1.4")
    other.PixelSpacing = one.PixelSpacing = ["0", "0"]
    site.take(one, other)
    assert [job["state"] for job in items(site, "series")] == ["receiving"]
    site.convert()
    [failure] = items(site, "failures")
    assert failure["series_instance_uid"] == "1.5"
    assert failure["detail"]
    assert items(site, "failures", reason=failure["reason"]) == [failure]
    assert items(site, "failures", reason="another") == []
    assert [job["state"] for job in items(site, "series", state="refused")] == ["refused"]
    [verdict] = items(site, "series")
    assert verdict["verdict_reason"]
    status = site.client().get("/api/v1/status").json()
    assert status["failures"] == {failure["reason"]: 1}
    assert {dt.datetime.fromisoformat(sender["learnt_at"]).tzinfo for sender in status["senders"]} == {dt.UTC}
    assert "series-refused" in [event["kind"] for event in items(site, "history", series_instance_uid="1.5")]


def test_what_was_refused_is_reported_with_the_remedy(site: Site) -> None:
    refused = Refused("association", "calling AE title", "not known", "add it to [peers]", "192.0.2.1", "STRANGER")
    now = dt.datetime.now(dt.UTC)
    site.store.index.rejections.record([CountedRefusal(refused, 3, now, now)])
    [reported] = items(site, "rejections", rule="calling AE title")
    assert (reported["count"], reported["calling_ae_title"], reported["remedy"]) == (3, "STRANGER", "add it to [peers]")


@pytest.mark.slow
def test_a_series_is_converted_again_by_order(site: Site) -> None:
    site.take(*make.ct_series(3, study_uid="1.2", series_uid="1.3"))
    site.convert()
    path = "/api/v1/studies/1.2/series/1.3"
    answer = site.client().post("/api/v1/studies/1.2/reconvert?series_instance_uid=1.3")
    assert (answer.status_code, answer.json()) == (202, {"owed": 1})
    assert site.client().get(path).json()["state"] == "receiving"
    assert site.client().post("/api/v1/studies/1.2/reconvert").json() == {"owed": 0}
    for absent in ("1.9/reconvert", "1.2/reconvert?series_instance_uid=1.4"):
        assert site.client().post(f"/api/v1/studies/{absent}").status_code == 404
    assert site.audited("DICOM Instances Accessed")[-1]["objects"][0]["patient_id"] == "TEST-1"


def test_a_deletion_is_tried_then_done_and_audited(site: Site) -> None:
    site.take(*make.ct_series(3, study_uid="1.2", series_uid="1.3"))
    client = site.client()
    tried = client.delete("/api/v1/studies/1.2/series/1.3", params={"dry_run": True}).json()
    assert (tried["instances"], tried["deleted"]) == (3, False)
    assert len(items(site, "instances")) == 3
    [first, *_] = items(site, "instances")
    erase = {"erase": True}
    assert client.delete(f"/api/v1/instances/{first['sop_instance_uid']}", params=erase).json()["deleted"]
    done = client.delete("/api/v1/studies/1.2", params=erase).json()
    assert (done["instances"], done["deleted"]) == (2, True)
    assert items(site, "instances") == []
    assert not list((site.root / "objects").rglob("*.dcm"))
    assert client.delete("/api/v1/studies/1.2").status_code == 404
    [*_, line] = site.audited("DICOM Study Deleted")
    assert line["participants"][0]["user"] == "local"


def test_reading_is_audited_once_a_minute_with_the_patient(site: Site) -> None:
    site.take(make.instance(study_uid="1.2"))
    client = site.client()
    for _ in range(3):
        client.get("/api/v1/studies/1.2")
    [line] = site.audited("DICOM Instances Accessed")
    assert line["objects"] == [{"study_instance_uid": "1.2", "patient_id": "TEST-1"}]
    client.get("/api/v1/studies", params={"words": "Voxel"})
    assert site.audited("Query")[-1]["detail"] == "studies words=Voxel; 1 found"


class HttpListener:
    """Reads a stream of events on a thread of its own."""

    def __init__(self, site: Site, **headers: str) -> None:
        self.events: list[dict[str, str]] = []
        self.opened = threading.Event()
        self._client = site.network_client(headers=headers)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        assert self.opened.wait(10)

    def _read(self) -> None:
        with self._client.stream("GET", "/api/v1/events", timeout=30) as answer:
            for event in blocks(answer.iter_lines()):
                self.opened.set()
                if "id" in event:
                    self.events.append(event)

    def ended(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


def blocks(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """The fields of each block of a stream, HTML 9.2.6."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
        else:
            yield fields
            fields = {}


@pytest.mark.slow
def test_events_come_as_they_happen_and_none_is_missed_after_a_break(start_site: StartSite) -> None:
    site = start_site()
    site.take(*make.ct_series(3, study_uid="1.2", series_uid="1.3"))
    site.convert()
    listener = HttpListener(site)
    assert site.client().post("/api/v1/studies/1.2/reconvert").json() == {"owed": 1}
    until(lambda: any(event["event"] == "series-reopened" for event in listener.events))
    last = listener.events[-1]["id"]
    site.convert()
    resumed = HttpListener(site, **{"Last-Event-ID": last})
    until(lambda: any(event["event"] == "series-unchanged" for event in resumed.events))
    assert [event["id"] for event in resumed.events] == sorted({event["id"] for event in resumed.events}, key=int)
    assert int(resumed.events[0]["id"]) == int(last) + 1
    site.server.stop(5)
    listener.ended()
    resumed.ended()


def test_a_stream_behind_an_event_that_is_not_there_is_refused(filled: Site) -> None:
    client, newest = filled.client(), max(int(row["id"]) for row in items(filled, "history"))
    for asked in ({"params": {"after": newest + 1}}, {"headers": {"Last-Event-ID": str(newest + 1)}}):
        answer = client.get("/api/v1/events", **asked)
        assert (answer.status_code, answer.json()["type"]) == (400, "/api/v1/problems/wrong-cursor")
        assert f"the newest event is {newest}, and {newest + 1} is of another index" in answer.json()["detail"]
    for asked in ({"params": {"after": "abc"}}, {"headers": {"Last-Event-ID": "abc"}}, {"params": {"after": -1}}):
        assert client.get("/api/v1/events", **asked).status_code == 422


def test_what_nobody_expected_is_500_without_a_trace(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.web.api.routing.PageRequest.read", Mock(side_effect=RuntimeError("secret")))
    answer = site.client().get("/api/v1/failures")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_an_instance_is_a_plain_file_for_clients_that_accept_only_this(filled: Site) -> None:
    path = f"/api/v1/instances/{items(filled, 'instances')[0]['sop_instance_uid']}/file"
    answers = [
        filled.client().get(path, headers={"Accept": accepted}) for accepted in ("application/octet-stream", "*/*")
    ]
    assert [answer.headers["content-type"] for answer in answers] == ["application/octet-stream", "application/dicom"]
    assert {answer.headers["vary"] for answer in answers} == {"Accept"}
    assert answers[0].content == answers[1].content
    unchanged = filled.client().get(path, headers={"If-None-Match": answers[0].headers["etag"]})
    assert (unchanged.status_code, unchanged.headers["cache-control"]) == (304, "private, no-cache")


# Changes over REST: only to what the client has seen.


STUDY, SERIES, INSTANCE = "1.2.3", "1.2.3.1", "1.2.3.1.1"


@pytest.fixture
def stored(site: Site) -> Site:
    """One study of two instances, another version of one of them, and a second patient."""
    first = make.instance(study_uid=STUDY, series_uid=SERIES, sop_instance_uid=INSTANCE, PatientID="A")
    second = make.instance(study_uid=STUDY, series_uid=SERIES, sop_instance_uid="1.2.3.1.2", PatientID="A")
    site.take(first, second, make.corrected(first))
    site.take(make.instance(study_uid="1.2.4", PatientID="B"))
    return site


def paths(site: Site) -> dict[str, str]:
    """The path of one resource of each kind that can be changed."""
    client = site.client()
    patient = client.get("/api/v1/patients", params={"patient_id": "A"}).json()["items"][0]["id"]
    conflict = client.get("/api/v1/conflicts").json()["items"][0]["id"]
    quarantined = client.get("/api/v1/quarantine").json()["items"][0]["name"]
    return {
        "patient": f"/api/v1/patients/{patient}",
        "study": f"/api/v1/studies/{STUDY}",
        "series": f"/api/v1/studies/{STUDY}/series/{SERIES}",
        "instance": f"/api/v1/instances/{INSTANCE}",
        "conflict": f"/api/v1/conflicts/{conflict}",
        "quarantined": f"/api/v1/quarantine/{quarantined}",
    }


def change(site: Site, kind: str, verb: str, **options: Any) -> httpx2.Response:
    url = paths(site)[kind]
    if verb == "delete":
        return site.client().delete(url, **options)
    if verb == "merge":
        target = site.client().get("/api/v1/patients", params={"patient_id": "B"}).json()["items"][0]["id"]
        options["json"] = {"into": target}
    return site.client().post(address(url, verb), **options)


def address(url: str, verb: str) -> str:
    """Where a change of a resource is asked for: a series is converted again as one of its study."""
    study, _, series = url.partition("/series/")
    return f"{study}/{verb}?series_instance_uid={series}" if series else f"{url}/{verb}"


@pytest.mark.slow
def test_what_can_be_changed_has_an_entity_tag(stored: Site) -> None:
    client = stored.client()
    for kind, path in paths(stored).items():
        answer = client.get(path)
        etag = answer.headers["etag"]
        assert client.get(path).headers["etag"] == etag, kind
        for tags in (etag, f'"x", W/{etag}', "*"):
            again = client.get(path, headers={"If-None-Match": tags})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag), kind
        assert client.get(path, headers={"If-None-Match": '"x"'}).json() == answer.json()


CHANGES = [
    ("patient", "merge"),
    ("study", "reconvert"),
    ("study", "delete"),
    ("series", "reconvert"),
    ("series", "delete"),
    ("instance", "delete"),
    ("conflict", "accept"),
    ("conflict", "keep"),
    ("quarantined", "release"),
    ("quarantined", "delete"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "verb"), CHANGES)
def test_a_change_is_made_only_to_what_the_client_has_seen(stored: Site, kind: str, verb: str) -> None:
    client, path = stored.client(), paths(stored)[kind]
    etag = client.get(path).headers["etag"]
    for tags in ('"x"', f"W/{etag}", etag.strip('"'), ""):
        refused = change(stored, kind, verb, headers={"If-Match": tags})
        assert (refused.status_code, refused.json()["type"]) == (412, PRECONDITION_FAILED.uri), tags
        assert refused.headers["etag"] == etag
    assert client.get(path).headers["etag"] == etag
    params = {"replace": "true"} if verb == "release" else None
    done = change(stored, kind, verb, headers={"If-Match": f'"x", {etag}'}, params=params)
    assert done.status_code in (200, 202), done.text


def test_any_entity_tag_means_that_it_is_there(stored: Site) -> None:
    headers = {"If-Match": "*"}
    assert stored.client().delete(f"/api/v1/instances/{INSTANCE}", headers=headers).status_code == 200
    assert stored.client().delete(f"/api/v1/instances/{INSTANCE}", headers=headers).status_code == 404


def test_an_entity_tag_changes_with_what_it_is_of(stored: Site) -> None:
    client = stored.client()
    before = {kind: client.get(path).headers["etag"] for kind, path in paths(stored).items()}
    stored.take(make.instance(study_uid=STUDY, series_uid=SERIES, sop_instance_uid="1.2.3.1.3", PatientID="A"))
    after = {kind: client.get(path).headers["etag"] for kind, path in paths(stored).items()}
    assert {kind for kind in before if before[kind] != after[kind]} == {"study", "series"}


@pytest.mark.parametrize("level", ["study", "series"])
def test_what_arrives_between_the_comparison_and_the_deletion_is_not_deleted(
    stored: Site, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    require: Callable[..., None] = stored.services.audit.require

    def arriving(message: Any) -> None:
        require(message)
        stored.take(make.instance(study_uid=STUDY, series_uid=SERIES, sop_instance_uid="1.2.3.1.9", PatientID="A"))

    path = paths(stored)[level]
    etag = stored.client().get(path).headers["etag"]
    monkeypatch.setattr(stored.services.audit, "require", arriving)
    assert stored.client().delete(path, headers={"If-Match": etag}).status_code == 412
    assert stored.client().get(path).json()["instances"] == 3
    assert "; the index did not change" in (stored.root / "audit.jsonl").read_text()


def test_a_dry_run_has_conditions_too(stored: Site) -> None:
    refused = change(stored, "study", "delete", headers={"If-Match": '"x"'}, params={"dry_run": "true"})
    assert refused.status_code == 412


# Numbers in addresses and queries that no row can have: told as such, never an error of ours.


MORE_THAN_A_ROW_HAS = (2**63, -(2**63) - 1, 10**40)


@pytest.mark.slow
def test_a_number_that_no_row_can_have_is_reported(filled: Site) -> None:
    client, failed, asked = filled.client(), [], 0
    for path, route in every_route(filled.app.routes):
        numbers = {
            parameter.alias
            for parameter in route.dependant.path_params + route.dependant.query_params
            if "int" in str(parameter.field_info.annotation)
        }
        for method in sorted(route.methods - {"DELETE"}) if numbers and path != "/api/v1/events" else ():
            number = MORE_THAN_A_ROW_HAS[asked % len(MORE_THAN_A_ROW_HAS)]
            in_path = numbers & set(re.findall(r"{(\w+)", path))
            values = {name: number if name in in_path else 1 for name in re.findall(r"{(\w+)", path)}
            url = path.replace(":path}", "}").format(**values)
            asked += 1
            form = {"data": {"action": "cancel"}} if method == "POST" and not path.startswith("/api") else {}
            answer = client.request(method, url, params=dict.fromkeys(numbers - in_path, number), **form)
            if answer.status_code >= 500 or (in_path and answer.status_code < 400):
                failed.append((method, url, answer.status_code))
    assert asked > 20
    assert not failed, failed


@pytest.mark.parametrize(
    "query",
    [
        "/dicom-web/studies?offset={}",
        "/dicom-web/studies?limit={}",
        "/dicom-web/series?SeriesNumber={}",
        "/dicom-web/instances?InstanceNumber={}",
        "/dicom-web/studies?NumberOfStudyRelatedInstances={}",
        "/studies?page={}",
        "/?q={}",
        "/problems?page={}",
    ],
)
def test_a_search_for_a_number_that_no_row_can_have_is_no_error_of_ours(filled: Site, query: str) -> None:
    for number in MORE_THAN_A_ROW_HAS:
        assert filled.client().get(query.format(number)).status_code < 500
