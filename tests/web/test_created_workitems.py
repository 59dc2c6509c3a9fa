"""Workitems that clients create, claim, update, complete and cancel over UPS-RS (PS3.18 11, PS3.4 CC)."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from node.dicom.json_model import Json, elements
from node.dicom.xml_model import native_model
from node.extensions.workitems.created import WorkitemRepository
from node.extensions.workitems.removal import Removal
from node.index.nouns.accounts import Role
from tests import make
from tests.unit.extensions.workitems.test_unified_steps import CODE, DONE, STEP
from tests.web.conftest import Site, open_site
from tests.web.test_workitems import WORKITEMS

JSON = {"Content-Type": "application/dicom+json"}
REQUEST = {"ReferencedRequestSequence": [{"StudyInstanceUID": "1.2.3", "AccessionNumber": "A1"}]}


@pytest.fixture(scope="module")
def worklist(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A root with three workitems of clients and a conversion, for searches and requests that are refused."""
    site = open_site(tmp_path_factory.mktemp("worklist") / "root")
    site.take(*make.ct_series(1, study_uid="1.2.3", series_uid="1.2.3.1", PatientID="4711"))
    create(site, "1.1", PatientID="4711", PatientName="Doe^Ann", **REQUEST)
    create(site, "1.2", PatientID="4712", PatientName="Roe^Ann", WorklistLabel="Reading")
    create(site, "1.3", ScheduledProcedureStepStartDateTime="20270101", ScheduledStationNameCodeSequence=[CODE])
    assert change(site, "1.3", "IN PROGRESS", "9.9").status_code == 200
    yield site
    site.close()


def body(attributes: dict[str, Any]) -> bytes:
    return json.dumps([elements(attributes)]).encode()


def create(site: Site, uid: str, **attributes: Any) -> Any:
    answer = site.client().post(f"{WORKITEMS}?{uid}", content=body(STEP | attributes), headers=JSON)
    assert answer.status_code == 201, answer.text
    return answer


def change(site: Site, uid: str, state: str, transaction_uid: str | None = None, **headers: str) -> Any:
    content = body({"ProcedureStepState": state, "TransactionUID": transaction_uid})
    return site.client().put(f"{WORKITEMS}/{uid}/state", content=content, headers=JSON | headers)


def update(site: Site, uid: str, query: str = "", **attributes: Any) -> Any:
    return site.client().post(f"{WORKITEMS}/{uid}{query}", content=body(attributes), headers=JSON)


def retrieved(site: Site, uid: str) -> Json:
    (item,) = site.client().get(f"{WORKITEMS}/{uid}").json()
    model: Json = item
    return model


def test_a_workitem_is_created_claimed_updated_and_completed(site: Site) -> None:
    made = create(site, "1.2.9", PatientID="4711", ScheduledStationNameCodeSequence=[CODE])
    assert made.headers["location"] == f"{site.origin}{WORKITEMS}/1.2.9"
    assert "created with modifications" in made.headers["warning"]
    assert change(site, "1.2.9", "IN PROGRESS", "7.7").status_code == 200
    assert update(site, "1.2.9", "?7.7", InputReadinessState="UNAVAILABLE").status_code == 200
    progress = [{"ProcedureStepProgress": "50", "ProcedureStepProgressDescription": "half"}]
    assert update(site, "1.2.9", ProcedureStepProgressInformationSequence=progress, TransactionUID="7.7").is_success
    refused = change(site, "1.2.9", "COMPLETED", "7.7")
    assert (refused.status_code, "inconsistent" in refused.headers["warning"]) == (409, True)
    performed = {"UnifiedProcedureStepPerformedProcedureSequence": [DONE]}
    assert update(site, "1.2.9", "?transaction-uid=7.7", **performed).status_code == 200
    assert change(site, "1.2.9", "COMPLETED", "7.7").status_code == 200
    again = change(site, "1.2.9", "COMPLETED", "7.7")
    assert (again.status_code, "already in the requested state of COMPLETED" in again.headers["warning"]) == (200, True)
    whole = retrieved(site, "1.2.9")
    assert "00081195" not in whole  # the Transaction UID is known to the performer only (PS3.18 11.5.2)
    assert whole["00741000"]["Value"] == ["COMPLETED"]
    assert whole["00404041"]["Value"] == ["UNAVAILABLE"]
    assert whole["00741002"]["Value"][0]["00741004"]["Value"] == ["50"]
    assert whole["00080018"]["Value"] == ["1.2.9"]
    details = [line["detail"] for line in site.audited("Procedure Record")]
    assert details == ["workitem 1.2.9", *(f"workitem 1.2.9: {what}" for what in (
        "IN PROGRESS", "updated", "updated", "updated", "COMPLETED"))]  # fmt: skip


def test_who_claims_first_has_the_workitem_and_alone_ends_it(site: Site) -> None:
    create(site, "1.1")
    create(site, "1.2")
    assert change(site, "1.1", "IN PROGRESS", "7.7").status_code == 200
    second = change(site, "1.1", "IN PROGRESS", "8.8")
    assert (second.status_code, "is incorrect" in second.headers["warning"]) == (400, True)
    reason = body({"ReasonForCancellation": "patient left", "ContactDisplayName": "Ann"})
    asked = site.client().post(f"{WORKITEMS}/1.1/cancelrequest", content=reason, headers=JSON)
    assert (asked.status_code, "cannot be contacted" in asked.headers["warning"]) == (409, True)
    assert change(site, "1.1", "CANCELED", "7.7").status_code == 200
    assert site.client().post(f"{WORKITEMS}/1.2/cancelrequest", content=reason, headers=JSON).status_code == 202
    (item,) = retrieved(site, "1.2")["00741002"]["Value"]
    assert item["00741238"]["Value"] == ["patient left"]
    again = site.client().post(f"{WORKITEMS}/1.2/cancelrequest")
    assert (again.status_code, "already in the requested state" in again.headers["warning"]) == (202, True)


@pytest.mark.parametrize(
    ("query", "uids"),
    [
        ("WorklistLabel=Worklist", ["1.3", "1.1"]),
        ("WorklistLabel=Read*", ["1.2"]),
        ("PatientName=ann&fuzzymatching=true&PatientID=4711", ["1.1"]),
        ("PatientID=4711", ["1.1", "conversion"]),
        ("PatientName=doe*", ["1.1"]),
        ("ReferencedRequestSequence.AccessionNumber=A1", ["1.1"]),
        ("StudyInstanceUID=1.2.3", ["1.1", "conversion"]),
        ("ScheduledStationNameCodeSequence.CodeValue=110005", ["1.3"]),
        ("ScheduledProcedureStepStartDateTime=2027", ["1.3", "conversion"]),
        ("ScheduledProcedureStepStartDateTime=-20261231&PatientID=4712", ["1.2"]),
        ("ProcedureStepState=IN PROGRESS", ["1.3"]),
        ("SOPInstanceUID=1.1,1.3", ["1.3", "1.1"]),
        ("limit=2&offset=2", ["1.1", "conversion"]),
        ("limit=1&offset=3", ["conversion"]),
        ("TransactionUID=9.9", []),
    ],
)
def test_a_search_matches_workitems_of_clients(worklist: Site, query: str, uids: list[str]) -> None:
    items = worklist.client().get(f"{WORKITEMS}?{query}").json()
    found = [item["00080018"]["Value"][0] for item in items]
    assert ["conversion" if uid.startswith("2.25.") else uid for uid in found] == uids
    assert all("00081195" not in item for item in items)


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [
        ("?1.1", body(STEP), 409),
        ("", body(STEP), 400),
        ("?1.x", body(STEP), 400),
        ("?1.5&workitem=1.6", body(STEP), 400),
        (f"?{'1' * 65}", body(STEP), 400),
        ("?1.2.840.10008.5.1.4.34.5", body(STEP), 400),
        ("?1.5", b"", 400),
        ("?1.5", b"[]", 400),
        ("?1.5", b"[1]", 400),
        ("?1.5", b'{"00100010": 1}', 400),
        ("?1.5", b'{"00100010": {"vr": "PN", "Value": {}}}', 400),
        ("?1.5", b"[" * 60_000, 400),
        ("?1.5", body(STEP | {"ProcedureStepLabel": "\x1b[31m"}), 400),
        ("?1.5", body({**STEP, "ScheduledProcedureStepPriority": None}), 400),
        ("?1.5", b" " * 1_000_001, 413),
        ("/1.1", body({"PatientName": "Roe"}), 400),
        ("/1.1?7.7", body({"ProcedureStepLabel": "Later"}), 409),
        ("/1.3", body({"ProcedureStepLabel": "Later"}), 400),
        ("/1.3?7.7", body({"ProcedureStepLabel": "Later"}), 400),
        ("/1.9", body({"ProcedureStepLabel": "Later"}), 404),
    ],
)
def test_a_workitem_that_cannot_be_is_refused(worklist: Site, path: str, content: bytes, status: int) -> None:
    answer = worklist.client().post(f"{WORKITEMS}{path}", content=content, headers=JSON)
    assert answer.status_code == status, answer.text
    assert "Roe" not in answer.text
    assert ("did not reference a claimed Workitem" in answer.headers.get("warning", "")) == path.startswith(
        ("/1.1?", "/1.3")
    )


@pytest.mark.parametrize(
    ("uid", "state", "transaction_uid", "status", "warning"),
    [
        ("1.1", "COMPLETED", "9.9", 409, "inconsistent with the state"),
        ("1.1", "CANCELED", None, 400, "is missing"),
        ("1.1", "SCHEDULED", "9.9", 409, "inconsistent"),
        ("1.3", "IN PROGRESS", "9.9", 409, "inconsistent"),
        ("1.3", "COMPLETED", "9.8", 400, "is incorrect"),
        ("1.9", "IN PROGRESS", "9.9", 404, None),
        ("1.1", "DONE", "9.9", 400, None),
    ],
)
def test_a_state_that_cannot_be_is_refused(
    worklist: Site, uid: str, state: str, transaction_uid: str | None, status: int, warning: str | None
) -> None:
    answer = change(worklist, uid, state, transaction_uid)
    assert answer.status_code == status
    assert (warning or "") in answer.headers.get("warning", "")


def test_the_node_performs_conversions_itself(worklist: Site) -> None:
    (uid,) = (item["00080018"]["Value"][0] for item in worklist.client().get(f"{WORKITEMS}?offset=3").json())
    assert change(worklist, uid, "IN PROGRESS", "9.9").status_code == 409
    assert update(worklist, uid, ProcedureStepLabel="Later").status_code == 409
    assert worklist.client().post(f"{WORKITEMS}?{uid}", content=body(STEP), headers=JSON).status_code == 409


def test_xml_is_understood_alone_and_in_a_part_of_its_own(site: Site) -> None:
    document = native_model(elements(STEP))
    alone = {"Content-Type": "application/dicom+xml"}
    parts = b"--b\r\nContent-Type: application/dicom+xml\r\n\r\n" + document + b"\r\n--b--\r\n"
    several = {"Content-Type": 'multipart/related; type="application/dicom+xml"; boundary=b'}
    for uid, content, form in (("1.7", document, alone), ("1.8", parts, several)):
        made = site.client().post(f"{WORKITEMS}?{uid}", content=content, headers=form)
        assert made.status_code == 201, made.text
        assert change(site, uid, "IN PROGRESS", "9.9").is_success
        assert change(site, uid, "CANCELED", "9.9").is_success
    nested = b"".join(b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (n, n) for n in range(2000))
    for content in (b"--b--", parts[:-5], parts[:-7] + parts, b"--b\r\n" * 100_000, b"--b\r\n" + nested):
        wrong = site.client().post(f"{WORKITEMS}?1.10", content=content, headers=several)
        assert wrong.status_code == 400


def test_only_writers_create_and_change(guarded: Site) -> None:
    reader, writer = ({"Authorization": f"Bearer {guarded.token(name)}"} for name in ("reader", "writer"))
    for headers, status in ((reader, 403), (writer, 201)):
        made = guarded.client().post(f"{WORKITEMS}?1.1", content=body(STEP), headers=JSON | headers)
        assert made.status_code == status
    assert change(guarded, "1.1", "IN PROGRESS", "7.7", **reader).status_code == 403
    assert guarded.client().post(f"{WORKITEMS}/1.1", content=body({}), headers=JSON | reader).status_code == 403


def test_an_administrator_ends_a_workitem_whose_performer_has_vanished(guarded: Site) -> None:
    writer, admin = ({"Authorization": f"Bearer {guarded.token(name)}"} for name in ("writer", "admin"))
    client = guarded.client()
    for uid in ("1.1", "1.2"):
        client.post(f"{WORKITEMS}?{uid}", content=body(STEP | {"PatientID": "4711"}), headers=JSON | writer)
        assert change(guarded, uid, "IN PROGRESS", "7.7", **writer).status_code == 200
    page = client.get("/work", headers=admin).text
    assert "/work/workitems/1.1/end" in page
    assert 'href="/work"' in page
    assert 'aria-current="page">Work<' in page
    assert 'aria-current="page">Work<' not in client.get("/worklist", headers=admin).text
    assert "/work/workitems/1.1/end" not in client.get("/work", headers=writer).text
    for path in ("/api/v1/workitems/1.1/end", "/work/workitems/1.1/end"):
        assert client.post(path, headers=writer).status_code == 403
    ended = client.post("/api/v1/workitems/1.1/end", headers=admin).json()
    assert (ended["state"], ended["patient_id"], ended["created_by"]) == ("CANCELED", "4711", "writer")
    assert client.post("/work/workitems/1.2/end", headers=admin).status_code == 303
    (model,) = client.get(f"{WORKITEMS}/1.1", headers=admin).json()
    assert model["00741002"]["Value"][0]["00741238"]["Value"] == ["ended by admin: its performer has vanished"]
    assert change(guarded, "1.1", "COMPLETED", "7.7", **writer).status_code == 409  # the performer is there again
    assert client.post("/api/v1/workitems/1.1/end", headers=admin).status_code == 409
    assert client.post("/api/v1/workitems/1.9/end", headers=admin).status_code == 404
    assert client.get("/api/v1/workitems", params={"state": "IN PROGRESS"}, headers=admin).json()["items"] == []
    line = guarded.audited("Procedure Record")[-1]
    assert line["detail"] == "workitem 1.2: ended by admin: its performer has vanished"
    assert line["objects"] == [{"patient_id": "4711"}]


def test_workitems_are_removed_some_days_after_their_end(site: Site) -> None:
    for uid in ("1.1", "1.2"):
        create(site, uid)
    change(site, "1.2", "IN PROGRESS", "7.7")
    change(site, "1.2", "CANCELED", "7.7")
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=60)
    Removal(site.store.index.repository(WorkitemRepository), 30, lambda: later).step()
    assert [item["00080018"]["Value"] for item in site.client().get(WORKITEMS).json()] == [["1.1"]]


def test_a_page_of_a_named_origin_may_claim(start_site: Callable[..., Site]) -> None:
    site = start_site(cors_origins=("https://viewer.example",), authentication="always")
    site.account("writer", Role.WRITE)
    token = {"Authorization": f"Bearer {site.token('writer')}"}
    page = {"Origin": "https://viewer.example"}
    for method in ("DELETE", "PUT"):
        asked = page | {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": "authorization"}
        allowed = site.client().options(f"{WORKITEMS}/1.1/state", headers=asked)
        assert (allowed.status_code, method in allowed.headers["access-control-allow-methods"]) == (200, True)
        elsewhere = site.client().options(f"{WORKITEMS}/1.1/state", headers=asked | {"Origin": "https://evil.example"})
        assert elsewhere.status_code == 400
    made = site.client().post(f"{WORKITEMS}?1.1", content=body(STEP), headers=JSON | page | token)
    assert made.status_code == 201
    assert change(site, "1.1", "IN PROGRESS", "7.7", **page).status_code == 403
    claimed = change(site, "1.1", "IN PROGRESS", "7.7", **page, **token)
    assert (claimed.status_code, claimed.headers["access-control-allow-origin"]) == (200, "https://viewer.example")
