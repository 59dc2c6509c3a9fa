"""The identity desk: who shares a Patient ID is compared, merged or kept apart, and each of that is undone."""

from typing import Any

import pytest

from tests import make
from tests.rows import read_rows, view_rows
from tests.web.conftest import Site

ANN = {"PatientID": "P1", "PatientName": "Ann^A", "PatientBirthDate": "19700101", "PatientSex": "F"}
BOB = {"PatientID": "P1", "PatientName": "Bob^<b>", "PatientBirthDate": "19800101", "PatientSex": "M"}


@pytest.fixture
def shared(site: Site) -> Site:
    """Two people with one Patient ID, and a third with another."""
    site.take(*make.ct_series(2, study_uid="1.1", **ANN))
    site.take(*make.ct_series(3, study_uid="1.2", **BOB))
    site.take(*make.ct_series(1, study_uid="1.3", **(ANN | {"PatientID": "P2"})))
    return site


def number(site: Site, study: str) -> int:
    [row] = view_rows(site.root, "SELECT patient FROM v_studies WHERE study_instance_uid = :study", study=study)
    return int(row["patient"])


def conflict(site: Site) -> dict[str, Any]:
    [row] = view_rows(site.root, "SELECT * FROM v_conflicts WHERE kind = 'shared-patient-id'")
    return row


def state(site: Site) -> list[list[str]]:
    tables = ("patients", "studies", "conflicts", "series", "images")
    return [sorted(map(repr, read_rows(site.root, f"SELECT * FROM {table}"))) for table in tables]


def test_the_persons_of_a_shared_patient_id_are_side_by_side_with_studies_and_senders(shared: Site) -> None:
    client = shared.client()
    path = f"/problems/conflicts/{conflict(shared)['id']}"
    assert path in client.get("/problems/conflicts").text
    shown = client.get(path).text
    for text in ("Ann, A", "Bob, &lt;b&gt;", "1970-01-01", "1980-01-01", "/studies/1.1", "/studies/1.2", "3 instances"):
        assert text in shown, text
    assert shown.count('class="differs"') == 3, "name, birth date and sex"
    assert shown.split("</table>")[0].split("Sent by")[1].count("MODALITY") == 2
    assert "Same person: merge" in shown
    assert "Different people: keep apart" in shown
    noted = [one for line in shared.audited("DICOM Instances Accessed") for one in line["objects"]]
    assert {"1.1", "1.2"} <= {one.get("study_instance_uid") for one in noted}


def test_a_shared_patient_id_is_flagged_on_the_pages_of_both_and_all_studies_are_those_of_one(shared: Site) -> None:
    client = shared.client()
    for study, other, words in (("1.1", "1.2", "P1%20Ann%20A"), ("1.2", "1.1", "P1%20Bob%20%3Cb%3E")):
        page = client.get(f"/studies/{study}").text
        compared = f'a={number(shared, study)}&amp;b={number(shared, other)}"'
        assert f'href="/patients/compare?{compared}' in page
        assert "shared ID" in page
        assert f'href="/#words={words}"' in page
    page = client.get("/studies/1.3").text
    assert "shared ID" not in page
    assert 'href="/#words=P2"' in page


def test_a_merge_is_previewed_done_listed_and_undone_without_a_trace(shared: Site) -> None:
    client, found = shared.client(), conflict(shared)
    pair = {"source": number(shared, "1.2"), "target": number(shared, "1.1"), "conflict": found["id"]}
    before = state(shared)
    preview = client.get("/patients/merge", params=pair).text
    assert "1 study moves" in preview
    assert "/studies/1.2" in preview
    assert state(shared) == before
    answer = client.post("/patients/merge", data=pair)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/problems/conflicts/{found['id']}")
    assert number(shared, "1.2") == number(shared, "1.1")
    assert conflict(shared)["decision"] == "merged"
    assert "Undo the merge" in client.get(answer.headers["location"]).text
    assert "/patients/separate?source=" in client.get("/problems/merged").text
    assert "1 study moves" in client.get("/patients/separate", params=pair).text
    assert client.post("/patients/separate", data=pair).status_code == 303
    assert state(shared) == before
    assert "No patients are merged" in client.get("/problems/merged").text
    details = [line["detail"] for line in shared.audited("Patient Record")]
    assert f"planned: merge patient #{pair['source']} into #{pair['target']}" in details
    assert [detail for detail in details if detail.startswith("ordered")] == [
        f"ordered: merge patient #{pair['source']} into #{pair['target']}",
        f"ordered: separate patient #{pair['source']}",
    ]


@pytest.mark.slow
def test_different_people_are_kept_apart_by_an_issuer_and_that_is_undone(shared: Site) -> None:
    client, found = shared.client(), conflict(shared)
    bob = number(shared, "1.2")
    pair = {"source": bob, "target": number(shared, "1.1"), "conflict": found["id"]}
    before = state(shared)
    assert "No study moves" in client.get("/patients/apart", params=pair).text
    decided = client.post("/patients/apart", data={**pair, "patient": bob, "issuer": "CLINIC-B"})
    assert decided.status_code == 303
    assert conflict(shared)["decision"] == "kept"
    issuers = {row["id"]: row["issuer_of_patient_id"] for row in view_rows(shared.root, "SELECT * FROM v_patients")}
    assert issuers[bob] == "CLINIC-B"
    assert "CLINIC-B" in client.get(decided.headers["location"]).text
    assert client.post("/patients/apart/undo", data=pair).status_code == 303
    assert state(shared) == before


@pytest.mark.slow
def test_any_two_patients_are_compared(shared: Site) -> None:
    client = shared.client()
    ann, other = number(shared, "1.1"), number(shared, "1.3")
    assert f"/patients/compare?a={ann}" in client.get("/studies/1.1").text
    assert "Name or Patient ID" in client.get("/patients/compare", params={"a": ann}).text
    found = client.post("/patients/compare", data={"a": ann, "words": "P2"}).text
    assert f"/patients/compare?a={ann}&amp;b={other}" in found
    assert "patients to compare with; 1 found" in {line["detail"] for line in shared.audited("Query")}
    by_name = client.post("/patients/compare", data={"a": ann, "words": "ann a"}).text
    assert f"b={other}" in by_name
    assert f"b={ann}" not in by_name
    shown = client.get("/patients/compare", params={"a": ann, "b": other}).text
    assert shown.count('class="differs"') == 1, "the Patient ID"
    client.post("/patients/merge", data={"source": other, "target": ann})
    assert "Undo the merge" in client.get("/patients/compare", params={"a": ann, "b": other}).text
    assert client.get("/patients/compare", params={"a": ann, "b": 999}).status_code == 404


@pytest.mark.parametrize(("method", "path"), [("GET", "merge"), ("POST", "merge"), ("GET", "separate")])
def test_who_is_not_there_is_not_found(shared: Site, method: str, path: str) -> None:
    values = {"source": 998, "target": 999}
    options = {"params": values} if method == "GET" else {"data": values}
    assert shared.client().request(method, f"/patients/{path}", **options).status_code == 404


def test_a_study_is_corrected_and_given_back_on_its_page(shared: Site) -> None:
    client, before, wrong = shared.client(), state(shared), number(shared, "1.1")
    link = f"/patients/correct?source={wrong}&amp;study=1.1"
    assert link in client.get("/studies/1.1").text
    assert "Undo its correction" not in client.get(link.replace("&amp;", "&")).text
    form = {"source": wrong, "study": "1.1", "patient_id": "P9", "patient_birth_date": "1985-02-03"}
    answer = client.post("/patients/correct", data=form, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/studies/1.1")
    assert "P9" in client.get("/studies/1.1").text
    assert "1985-02-03" in client.get("/studies/1.1").text
    right = {"source": number(shared, "1.1"), "study": "1.1"}
    assert "Undo its correction" in client.get("/patients/correct", params=right).text
    assert client.post("/patients/correct/undo", data=right).status_code == 303
    assert state(shared)[:2] == before[:2]
    lines = [line["detail"] for line in shared.audited("Patient Record")]
    assert "P9" not in str(lines)
    assert len(lines) == 4, "before and after each"
