"""Entries of the modality worklist over REST."""

import datetime as dt
from typing import Any

import pytest

from node.extensions.worklist.modality_worklist import checked, model_of, scheduled_step
from node.extensions.worklist.performed_steps import PerformedStepRepository, created
from node.extensions.worklist.scheduled_rows import ScheduledStepRepository
from tests import make
from tests.protocol.test_performed_steps import begun
from tests.protocol.test_worklist import entry as file_entry
from tests.web.conftest import Site

ENTRIES = "/api/v1/worklist"

FORM = {
    "patient_id": "P1", "patient_name": "Müller^Jörg=山田^太郎", "patient_birth_date": "1970-01-01", "patient_sex": "O",
    "accession_number": "A1", "modality": "CT", "station_ae_title": "CT1", "start_date": "2026-11-21",
    "start_time": "10:15", "description": "Thorax",
}  # fmt: skip


def test_an_entry_is_added_shown_changed_and_removed(site: Site) -> None:
    client = site.client()
    answer = client.post(ENTRIES, json=FORM)
    assert answer.status_code == 201, answer.text
    added = answer.json()
    assert added["study_instance_uid"].startswith("2.25.")
    assert added["scheduled_procedure_step_id"] == added["requested_procedure_id"]
    assert (added["source"], added["state"], added["start_time"]) == ("rest", "scheduled", "10:15:00")
    assert added["patient_name"] == FORM["patient_name"]
    assert client.get(f"{ENTRIES}/{added['id']}").json() == added
    [listed] = client.get(ENTRIES, params={"modality": "CT", "start_date": "2026-11-21"}).json()["items"]
    assert listed == {name: value for name, value in added.items() if name != "attributes"}
    assert client.get(ENTRIES, params={"modality": "MR"}).json()["items"] == []
    changed = client.put(f"{ENTRIES}/{added['id']}", json={**FORM, "start_date": "2026-11-22"}).json()
    assert changed["start_date"] == "2026-11-22"
    same = ("id", "study_instance_uid", "scheduled_procedure_step_id", "requested_procedure_id", "created_at")
    assert [changed[name] for name in same] == [added[name] for name in same]
    assert client.delete(f"{ENTRIES}/{added['id']}").json() == {"removed": added["id"]}
    assert client.get(f"{ENTRIES}/{added['id']}").status_code == 404
    assert [line["action"] for line in site.audited("Procedure Record")] == ["C", "U", "D"]


def test_dicom_json_is_kept_and_plain_fields_count_more(site: Site) -> None:
    model = file_entry(7).to_json_dict()
    answer = site.client().post(ENTRIES, json={"attributes": model, "modality": "MR", "accession_number": "OTHER"})
    assert answer.status_code == 201, answer.text
    added = answer.json()
    assert (added["patient_id"], added["modality"], added["accession_number"]) == ("P7", "MR", "OTHER")
    [step] = added["attributes"]["00400100"]["Value"]
    assert step["00400008"]["Value"][0]["00080104"]["Value"] == ["Chest"]
    assert "00080005" not in added["attributes"]  # an answer says how it is encoded
    again = site.client().post(ENTRIES, json={"attributes": model})
    assert (again.status_code, "change it by PUT" in again.json()["detail"]) == (409, True)


NESTED: dict[str, Any] = {}
for _ in range(20):
    NESTED = {"00400100": {"vr": "SQ", "Value": [NESTED]}}


@pytest.mark.sample(5)
@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"patient_id": None}, "PatientID (0010,0020) is missing"),
        ({"patient_name": " "}, "PatientName (0010,0010) is missing"),
        ({"modality": None}, "Modality (0008,0060) is missing"),
        ({"start_date": None}, "ScheduledProcedureStepStartDate (0040,0002) is missing"),
        ({"patient_id": "a\nb"}, "PatientID (0010,0020): no control characters"),
        ({"description": "a\\b"}, "no control characters or backslashes"),
        ({"start_time": "25:00"}, "ScheduledProcedureStepStartTime (0040,0003): must be a time"),
        ({"attributes": {"00100030": {"vr": "DA", "Value": ["2026"]}}}, "(0010,0030): must be a date"),
        ({"attributes": {"00100020": {"vr": "LO", "Value": "P"}}}, "must be an array"),
        ({"attributes": {"00100020": {"vr": "LO", "Value": [{}]}}}, "must be text or a number"),
        ({"attributes": {"0010002": {}}}, "eight hexadecimal digits"),
        ({"attributes": {"00400100": {"vr": "SQ", "Value": [3]}}}, "a JSON object"),
        ({"attributes": {"00400100": {"vr": "SQ", "Value": [{}, {}]}}}, "must have one item"),
        ({"attributes": NESTED}, "nested deeper"),
        ({"attributes": {"00081110": {"vr": "SQ", "Value": [{}] * 30 + [{"00080050": {}}] * 3000}}}, "more than 1000"),
        ({"attributes": {"00104000": {"vr": "LT", "Value": ["x" * 20_000]}}}, "longer than 10240"),
    ],
)  # fmt: skip
def test_an_entry_that_breaks_a_rule_is_refused_with_it(site: Site, change: dict[str, Any], rule: str) -> None:
    form = {name: value for name, value in {**FORM, **change}.items() if value is not None}
    answer = site.client().post(ENTRIES, json=form)
    assert (answer.status_code, rule in answer.json()["detail"]) == (400, True), answer.text
    assert site.client().get(ENTRIES).json()["items"] == []


def test_private_and_binary_elements_are_left_out(site: Site) -> None:
    attributes = {"00091001": {"vr": "LO", "Value": ["x"]}, "7FE00010": {"vr": "OW", "InlineBinary": "AAAA"},
                  "00101030": {"vr": "DS", "Value": [70.5]}, "001021C0": {"vr": "US", "Value": [1]}}  # fmt: skip
    kept = site.client().post(ENTRIES, json={**FORM, "attributes": attributes}).json()["attributes"]
    assert kept["00101030"] == {"vr": "DS", "Value": ["70.5"]}
    assert kept["001021C0"] == {"vr": "US", "Value": [1]}
    assert not {"00091001", "7FE00010"} & kept.keys()


def test_the_entry_of_a_file_is_changed_by_its_file_only(site: Site) -> None:
    step = scheduled_step(checked(model_of(file_entry(1))))
    site.services.index.repository(ScheduledStepRepository).replace_files(
        {"a.wl": ("1", step)}, (), dt.datetime.now(dt.UTC)
    )
    [listed] = site.client().get(ENTRIES).json()["items"]
    for method in ("PUT", "DELETE"):
        answer = site.client().request(method, f"{ENTRIES}/{listed['id']}", json=FORM)
        assert (answer.status_code, "that of a file" in answer.json()["detail"]) == (409, True)


@pytest.mark.slow
def test_the_page_shows_what_was_performed_and_received_for_each_entry(site: Site) -> None:
    in_menu = '<a href="/worklist"'
    assert in_menu not in site.client().get("/").text
    site.take(*make.ct_series(2, study_uid="1.2.3", series_uid="1.2.3.1", PatientID="P2", AccessionNumber="A1"))
    site.client().post(ENTRIES, json={**FORM, "patient_name": "<b>Doe", "study_instance_uid": "1.2.4"})
    site.services.index.repository(PerformedStepRepository).create(
        created("1.9", begun("1.2.4")), "CT1", site.services.ingest.now()
    )
    page = site.client().get("/worklist").text
    assert in_menu in page
    assert "&lt;b&gt;Doe" in page
    assert '<a href="/studies/1.2.3">1 series</a> <span class="chip warning">P2</span>' in page
    assert "IN PROGRESS, 0 series, 0 instances" in page
    assert "2026-11-21 10:15" in page
    [conflict] = site.client().get("/api/v1/conflicts").json()["items"]
    assert (conflict["kind"], conflict["study_instance_uid"]) == ("other-patient-than-ordered", "1.2.3")
    assert "Find out whose images these are" in site.client().get("/problems/conflicts").text
    assert "Nothing is scheduled" in site.client().get("/worklist?number=2").text
