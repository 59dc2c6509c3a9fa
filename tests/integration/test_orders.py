"""Images of another patient than the one for whom they were ordered are a conflict, whichever came first."""

import datetime as dt
from typing import Any

import pytest

from node.extensions.worklist.modality_worklist import step_of
from node.extensions.worklist.scheduled_rows import OrderedStep, ScheduledStepRepository
from tests import make
from tests.integration.conftest import Root
from tests.integration.test_patients import number, persons

NOW = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
PERSON = {"PatientID": "P1", "PatientName": "Doe^Ann", "PatientBirthDate": "19700102", "PatientSex": "F"}
ORDER = {
    "patient_id": "P1", "patient_name": "DOE^ANN", "patient_birth_date": "19700102", "patient_sex": "F",
    "modality": "CT", "station_ae_title": "CT1", "start_date": "20261121",
}  # fmt: skip


def order(root: Root, **fields: str) -> None:
    step = step_of({**ORDER, **fields})
    ordered = OrderedStep("1", "", "", 0, True, "scheduled", step, "", lambda kept: step)
    root.index.repository(ScheduledStepRepository).apply_orders([ordered], NOW)


def take(root: Root, **attributes: Any) -> str:
    [ds] = make.ct_series(1, **{**PERSON, "AccessionNumber": "A1"} | attributes)
    root.take(ds)
    return str(ds.StudyInstanceUID)


def details(root: Root) -> dict[str, str]:
    rows = root.rows("SELECT kind, study_instance_uid, detail FROM v_conflicts")
    return {row["study_instance_uid"]: row["detail"] for row in rows if row["kind"] == "other-patient-than-ordered"}


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({}, None),
        ({"accession_number": "A2", "patient_id": "P2"}, None),
        ({"patient_birth_date": "", "patient_sex": ""}, None),
        ({"patient_name": "Doe^Anne"}, "another name;"),
        ({"patient_birth_date": "19700201", "patient_sex": "M"}, "another birth date and sex;"),
        ({"patient_id": "P2", "patient_name": "Roe"}, "another Patient ID;"),
    ],
)
def test_a_study_is_compared_with_its_order(root: Root, fields: dict[str, str], what: str | None) -> None:
    order(root, **{"accession_number": "A1"} | fields)
    study = take(root)
    take(root, StudyInstanceUID=study)  # a second series is no second conflict
    assert len(details(root)) == (what is not None)
    assert what is None or what in details(root)[study]
    assert "Doe" not in str(details(root))


def test_an_order_that_comes_later_is_compared_with_the_studies_that_are_there(root: Root) -> None:
    first, second = take(root), take(root, AccessionNumber="A9")
    order(root, accession_number="A1", patient_name="Roe^Ann")
    assert set(details(root)) == {first}
    order(root, study_instance_uid=second, patient_id="P2")
    order(root, study_instance_uid=second, patient_id="P3")
    assert set(details(root)) == {first, second}


def test_a_patient_who_was_merged_is_the_one_of_the_order(root: Root) -> None:
    take(root, PatientID="OLD", AccessionNumber="")
    take(root, AccessionNumber="")
    persons(root).merge(number(root, "OLD"), number(root, "P1"), NOW)
    order(root, accession_number="A1", patient_id="OLD")
    take(root)
    order(root, accession_number="A1")
    take(root, PatientID="OLD")
    assert details(root) == {}
