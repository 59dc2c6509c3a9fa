"""Merging two patients and separating them again: whose the studies are, now and when more of them come."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from node.api import Audit, PersonRepository, UsageError
from node.children.pseudonyms import made_key
from node.dicom.keys import Level, QueryModel
from node.dicom.matching import read_query
from node.extensions.bids.export import Exporter
from node.extensions.bids.rules import read_rules
from node.extensions.bids.sources import IndexSource
from node.extensions.bids.subjects import Pseudonyms
from node.index.look.study_search import StudyFilter
from node.index.rules.people.person_plans import Correction, NoSuchPatient, PatientLink, Person
from node.lifecycle.deletion import empty
from tests import make
from tests.integration.conftest import Root
from tests.integration.test_find import identifier
from tests.integration.test_trash import bring_back, trash
from tests.rows import read_rows


def number(root: Root, patient_id: str) -> int:
    [row] = root.rows("SELECT id FROM v_patients WHERE patient_id = :id", id=patient_id)
    return int(row["id"])


def persons(root: Root) -> PersonRepository:
    return root.index.repository(PersonRepository)


def take(root: Root, patient_id: str = "", **more: Any) -> str:
    [ds] = make.ct_series(1, **{"PatientID": patient_id, **more})
    root.take(ds)
    return str(ds.StudyInstanceUID)


def owners(root: Root) -> dict[str, str]:
    query = "SELECT study_instance_uid, patient_id FROM v_studies"
    return {row["study_instance_uid"]: row["patient_id"] for row in root.rows(query)}


def test_the_studies_of_one_are_those_of_the_other_from_then_on(root: Root) -> None:
    first, second = take(root, "OLD"), take(root, "NEW")
    old = number(root, "OLD")
    assert persons(root).merge(old, number(root, "NEW"), root.clock()).studies == (first,)
    later = take(root, "OLD")
    assert owners(root) == {first: "NEW", second: "NEW", later: "NEW"}
    assert root.rows("SELECT 1 FROM v_conflicts") == []
    persons(root).separate(old, root.clock())
    assert owners(root) == {first: "OLD", second: "NEW", later: "OLD"}
    events = [(row["kind"], row["study_instance_uid"]) for row in root.rows("SELECT * FROM v_events ORDER BY id")]
    assert events[0] == ("patient-merged", first)
    assert set(events[1:]) == {("patient-separated", first), ("patient-separated", later)}


def test_nobody_is_merged_with_himself_or_with_nobody(root: Root) -> None:
    take(root, "A")
    with pytest.raises(NoSuchPatient, match="into itself"):
        persons(root).merge(number(root, "A"), number(root, "A"), root.clock())
    with pytest.raises(NoSuchPatient, match="no patient #99"):
        persons(root).merge(number(root, "A"), 99, root.clock())


def table_rows(root: Root) -> dict[str, list[str]]:
    """Everything in the index but its log of events."""
    tables = ("patients", "studies", "series", "images", "conflicts", "scheduled_steps", "tombstones")
    return {name: sorted(map(repr, read_rows(root.folder, f"SELECT * FROM {name}"))) for name in tables}


def files(root: Root) -> set[Path]:
    return {path.relative_to(root.folder) for path in (root.folder / "objects").rglob("*")}


def answers(root: Root) -> list[Any]:
    """What the list of studies and C-FIND answer to everything that any study or patient is known by."""
    found: list[Any] = []
    with root.index.reading() as index:
        for words in ("", "ann", "bob", "carl", "P1", "P2"):
            found.append([repr(one) for one in index.studies.listed(StudyFilter(words), limit=100)])
    keys = {"PatientName": "", "PatientID": "", "PatientSex": "", "PatientBirthDate": "", "IssuerOfPatientID": ""}
    for wanted in ({}, {"PatientID": "P1"}, {"PatientID": "P2"}, {"PatientName": "Ann*"}, {"PatientSex": "F"}):
        for level, model in ((Level.PATIENT, QueryModel.PATIENT_ROOT), (Level.STUDY, QueryModel.STUDY_ROOT)):
            uid = {"StudyInstanceUID": ""} if level == Level.STUDY else {}
            query = read_query(identifier(level, {**keys, **uid, **wanted}), model)
            found.append(sorted(str(answer) for answer in root.index.find(query)))
    return found


PEOPLE = [
    {"PatientID": "P1", "PatientName": "Ann^A", "PatientBirthDate": "19700101", "PatientSex": "F"},
    {"PatientID": "P1", "PatientName": "Bob^B", "PatientBirthDate": "19800101", "PatientSex": "M"},
    {"PatientID": "P1", "PatientName": "Carl^C", "PatientBirthDate": "19900101", "PatientSex": "M"},
    {"PatientID": "P2", "PatientName": "Ann^A", "PatientBirthDate": "19700101", "PatientSex": "F"},
    {"PatientID": "P3", "PatientName": "Dora", "PatientBirthDate": "", "PatientSex": ""},
]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 12))])
def test_merges_that_are_undone_leave_index_answers_and_files_as_they_were(root: Root, seed: int) -> None:
    chance = random.Random(seed)
    for person in PEOPLE:
        for _ in range(chance.randint(1, 2)):
            take(root, **person)
    states = []
    for _ in range(chance.randint(2, 4)):
        alone = [row["id"] for row in root.rows("SELECT id FROM v_patients WHERE merged_into IS NULL")]
        source, target = chance.sample(sorted(alone), 2)
        states.append((source, target, table_rows(root), answers(root), files(root)))
        planned = persons(root).planned_merge(source, target)
        assert persons(root).merge(source, target, root.clock(), who="somebody") == planned
        assert table_rows(root) != states[-1][2]
    for source, target, before, answered, there in reversed(states):
        planned = persons(root).planned_separation(source)
        assert persons(root).separate(source, root.clock()) == planned
        assert table_rows(root) == before, (source, target)
        assert answers(root) == answered
        assert files(root) == there


def test_a_patient_in_the_middle_of_a_chain_takes_those_who_were_merged_into_it_before(root: Root) -> None:
    studies = {patient_id: take(root, patient_id) for patient_id in ("A", "B", "C")}
    a, b, c = (number(root, patient_id) for patient_id in ("A", "B", "C"))
    persons(root).merge(a, b, root.clock())
    persons(root).merge(b, c, root.clock())
    with pytest.raises(NoSuchPatient, match=f"#{a} was merged into #{c}"):
        persons(root).merge(a, b, root.clock())
    persons(root).separate(b, root.clock())
    assert owners(root) == {studies["A"]: "B", studies["B"]: "B", studies["C"]: "C"}
    persons(root).separate(a, root.clock())
    assert owners(root) == {uid: patient_id for patient_id, uid in studies.items()}


def test_a_merge_decides_the_conflict_of_a_shared_patient_id_and_its_end_opens_it_again(root: Root) -> None:
    for person in PEOPLE[:3]:
        take(root, **person)
    decisions = "SELECT decision, decided_by FROM v_conflicts ORDER BY id"
    one, two, three = (row["id"] for row in root.rows("SELECT id FROM v_patients ORDER BY id"))
    persons(root).merge(two, one, root.clock(), who="doe")
    assert [row["decision"] for row in root.rows(decisions)] == [None, None], "the third still shares the Patient ID"
    persons(root).merge(three, one, root.clock(), who="doe")
    assert [tuple(row.values()) for row in root.rows(decisions)] == [("merged", "doe")] * 2
    persons(root).separate(two, root.clock())
    assert [tuple(row.values()) for row in root.rows(decisions)] == [(None, None)] * 2, "one of three is apart again"
    first, second = (row["id"] for row in root.rows("SELECT id FROM v_conflicts ORDER BY id"))
    with pytest.raises(UsageError, match="kept apart"):
        persons(root).reopen(first)
    root.index.conflicts.decide([first, second], "kept", "doe", root.clock())
    persons(root).reopen(first)
    assert [row["decision"] for row in root.rows(decisions)] == [None, "kept"]


def test_an_issuer_tells_two_people_with_one_patient_id_apart_and_stays(root: Root) -> None:
    ann, bob = take(root, **PEOPLE[0]), take(root, **PEOPLE[1])
    [row] = root.rows("SELECT patient FROM v_studies WHERE study_instance_uid = :uid", uid=bob)
    assert persons(root).separate(row["patient"], root.clock(), "CLINIC-B").studies == (bob,)
    later = take(root, **PEOPLE[1])
    query = "SELECT s.study_instance_uid, p.issuer_of_patient_id FROM v_studies s JOIN v_patients p ON p.id = s.patient"
    issuers = {row["study_instance_uid"]: row["issuer_of_patient_id"] for row in root.rows(query)}
    assert issuers == {ann: None, bob: "CLINIC-B", later: "CLINIC-B"}
    persons(root).separate(row["patient"], root.clock(), "")
    assert {row["issuer_of_patient_id"] for row in root.rows(query)} == {None}


def test_what_is_not_merged_is_not_separated_and_an_issuer_has_rules(root: Root) -> None:
    take(root, "A")
    with pytest.raises(UsageError, match="merged into nobody"):
        persons(root).separate(number(root, "A"), root.clock())
    with pytest.raises(UsageError, match="at most 64 printable"):
        persons(root).separate(number(root, "A"), root.clock(), "a\\b")
    with pytest.raises(NoSuchPatient, match="no patient #99"):
        persons(root).separate(99, root.clock())


def right(**values: str) -> Correction:
    return Correction(**values)


def found_ids(root: Root) -> dict[str, tuple[str, str]]:
    """The Patient ID and the name that C-FIND answers for each study, which are those that its copies have."""
    keys = {"PatientID": "", "PatientName": "", "StudyInstanceUID": ""}
    query = read_query(identifier(Level.STUDY, keys), QueryModel.STUDY_ROOT)
    answers = {str(one["StudyInstanceUID"]): (one["PatientID"], one["PatientName"]) for one in root.index.find(query)}
    with root.index.reading() as index:
        for one in index.files.stored():
            if one.identity is not None:
                said = one.identity.patient_id, one.identity.patient_name
                assert said == answers[one.study_instance_uid]
    return answers


def test_a_correction_holds_for_what_comes_later_with_the_wrong_identity(root: Root) -> None:
    first, other = make.ct_series(2, PatientID="C-7", PatientName="Wrong^Name"), take(root, "C-9")
    root.take(first[0])
    uid = str(first[0].StudyInstanceUID)
    wrong = number(root, "C-7")
    correction = right(patient_id="C-1", patient_name="Right^Name")
    planned, *_ = persons(root).planned_correction(wrong, correction, None)
    assert persons(root).correct(wrong, correction, root.clock()) == planned
    root.take(first[1])
    owned = {uid: ("C-1", "Right^Name"), take(root, "C-7", PatientName="Wrong^Name"): ("C-1", "Right^Name")}
    assert {study: who for study, who in found_ids(root).items() if study != other} == owned
    assert root.rows("SELECT 1 FROM v_conflicts") == []
    persons(root).separate(wrong, root.clock())
    assert found_ids(root)[uid] == ("C-7", "Wrong^Name")
    assert root.rows("SELECT 1 FROM v_patients WHERE patient_id = 'C-1'") == []


def test_one_study_is_corrected_twice_and_a_late_series_of_it_is_no_conflict(root: Root) -> None:
    wrong, kept = make.ct_series(1, PatientID="C-7"), take(root, "C-7")
    root.take(wrong[0])
    uid, patient, table = str(wrong[0].StudyInstanceUID), number(root, "C-7"), table_rows(root)
    persons(root).correct(patient, right(patient_id="C-1"), root.clock(), uid)
    persons(root).correct(number(root, "C-1"), right(patient_name="Other^Name"), root.clock(), uid)
    root.take(*make.ct_series(1, PatientID="C-7", StudyInstanceUID=uid)[:1])
    assert [found_ids(root)[study][0] for study in (uid, kept)] == ["C-1", "C-7"]
    assert found_ids(root)[uid][1] == "Other^Name"
    assert root.rows("SELECT 1 FROM v_conflicts") == []
    with pytest.raises(UsageError, match="who the files name"):
        persons(root).correct(number(root, "C-1"), right(patient_id="C-7"), root.clock(), uid)
    persons(root).separate(number(root, "C-1"), root.clock(), study=uid)
    for name in ("patients", "studies"):
        assert table_rows(root)[name] == table[name]


@pytest.mark.parametrize("order", [0, 1])
def test_a_correction_and_merges_of_both_sides_are_undone_in_any_order(root: Root, order: int) -> None:
    uids = {name: take(root, name) for name in ("A", "B", "C", "D")}
    ids = {name: number(root, name) for name in uids}
    before = table_rows(root)
    persons(root).correct(ids["A"], right(patient_id="B"), root.clock(), uids["A"])
    persons(root).merge(ids["B"], ids["C"], root.clock())
    persons(root).merge(ids["C"], ids["D"], root.clock())
    assert {who for who, _ in found_ids(root).values()} == {"D"}
    undos = [
        lambda: persons(root).separate(ids["B"], root.clock()),
        lambda: persons(root).separate(ids["A"], root.clock(), study=uids["A"]),
        lambda: persons(root).separate(ids["C"], root.clock()),
    ]
    for undo in undos if order else reversed(undos):
        undo()
        found_ids(root)
    assert table_rows(root) == before


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"patient_id": "SHARED"}, "people are known by this Patient ID"),
        ({"patient_id": "TAKEN", "patient_name": "Nobody"}, "none of them are so described"),
        ({"patient_id": ""}, "not empty"),
        ({"patient_id": "A\\B"}, "backslash"),
        ({"patient_birth_date": "19701301"}, "YYYYMMDD"),
        ({"patient_sex": "X"}, "M, F or O"),
        ({"patient_id": "C-7"}, "already"),
    ],
)
def test_a_correction_that_says_nothing_or_nobody_is_refused(root: Root, values: dict[str, str], match: str) -> None:
    take(root, "C-7")
    take(root, "TAKEN", PatientName="Some^Body")
    take(root, "SHARED", PatientName="Some^Body")
    take(root, "SHARED", PatientName="Other^Body")
    before = table_rows(root)
    with pytest.raises(UsageError, match=match):
        persons(root).correct(number(root, "C-7"), right(**values), root.clock())
    assert table_rows(root) == before


def test_what_comes_back_from_the_trash_is_of_the_right_patient_still(root: Root, audit: Audit) -> None:
    uid, other = take(root, "C-7", PatientBirthDate="19700101"), take(root, "C-7")
    persons(root).correct(number(root, "C-7"), right(patient_id="C-1"), root.clock(), uid)
    for is_sent_again in (False, False, True):
        deleted = trash(root, "study", uid)
        assert root.rows("SELECT 1 FROM v_patients WHERE patient_id = 'C-1'") == []
        if is_sent_again:
            take(root, "C-7", PatientBirthDate="19700101", study_uid=uid)
            assert found_ids(root)[uid][0] == "C-7"
        bring_back(root, audit, deleted)
        assert {study: who for study, (who, _) in found_ids(root).items()} == {uid: "C-1", other: "C-7"}


DECISIONS: dict[str, Callable[[Root], object]] = {
    "merge": lambda root: persons(root).merge(number(root, "OLD"), number(root, "NEW"), root.clock()),
    "correction": lambda root: persons(root).correct(number(root, "OLD"), right(patient_id="NEW"), root.clock()),
    "link": lambda root: persons(root).link(
        [PatientLink(True, *(Person(one, "", "", None, "") for one in ("OLD", "NEW")))], root.clock()
    ),
}


def deleted(root: Root, audit: Audit, uid: str) -> None:
    root.delete("study", uid)


def emptied(root: Root, audit: Audit, uid: str) -> None:
    empty(root.archive, root.index, audit, trash(root, "study", uid), "somebody", "by hand", root.clock())


def brought_back(root: Root, audit: Audit, uid: str) -> None:
    bring_back(root, audit, trash(root, "study", uid))
    assert owners(root)[uid] == "NEW"


@pytest.mark.diagonal
@pytest.mark.parametrize("end", [deleted, emptied, brought_back])
@pytest.mark.parametrize("decision", DECISIONS)
def test_a_decision_holds_until_it_is_undone_whatever_becomes_of_the_studies(
    root: Root, audit: Audit, decision: str, end: Callable[[Root, Audit, str], None]
) -> None:
    studies = [take(root, one) for one in (("OLD", "NEW") if decision == "merge" else ("OLD",))]
    DECISIONS[decision](root)
    for uid in studies:
        end(root, audit, uid)
    later = take(root, "OLD")
    assert owners(root)[later] == "NEW"
    persons(root).separate(number(root, "OLD"), root.clock())
    assert owners(root)[later] == "OLD"
    for uid in owners(root):
        root.delete("study", uid)
    assert root.rows("SELECT * FROM v_patients") == []


@pytest.mark.sample(2)
@pytest.mark.parametrize("others_stay", [False, True])
@pytest.mark.parametrize("decision", DECISIONS)
def test_what_was_decided_while_a_study_was_in_the_trash_holds_for_it(
    root: Root, audit: Audit, decision: str, *, others_stay: bool
) -> None:
    uid, other = take(root, "OLD"), take(root, "NEW") if others_stay or decision == "merge" else ""
    before = table_rows(root)["studies"]
    if decision != "correction" or not other:  # else it would be of a person who is there, and no new one
        DECISIONS[decision](root)
    gone = trash(root, "study", uid)
    if owners(root).get(uid, "NEW") == "NEW" and root.rows("SELECT 1 FROM v_patients WHERE merged_into IS NOT NULL"):
        persons(root).separate(number(root, "OLD"), root.clock())
    bring_back(root, audit, gone)
    assert found_ids(root)[uid][0] == "OLD"
    assert table_rows(root)["studies"] == before
    gone = trash(root, "study", uid)
    if decision == "link":
        DECISIONS[decision](root)
        bring_back(root, audit, gone)
        assert found_ids(root)[uid][0] == "NEW"


def test_a_decision_is_taken_back_by_what_the_screen_shows(root: Root) -> None:
    study = take(root, "OLD", PatientName="Old^Name")
    persons(root).correct(number(root, "OLD"), Correction("NEW"), root.clock(), who="anna")
    [shown] = root.rows("SELECT stored_patient_id, stored_patient_name, decided_by, decided_at FROM v_studies")
    assert tuple(shown.values())[:3] == ("OLD", "Old^Name", "anna")
    assert shown["decided_at"]
    later = take(root, "OLD", PatientName="Old^Name")
    assert {row["decided_by"] for row in root.rows("SELECT decided_by FROM v_studies")} == {"anna"}
    assert set(persons(root).separate(number(root, "NEW"), root.clock()).studies) == {study, later}
    persons(root).correct(number(root, "OLD"), Correction("NEW"), root.clock(), study, who="bert")
    assert owners(root) == {study: "NEW", later: "OLD"}
    persons(root).separate(number(root, "NEW"), root.clock())
    assert owners(root) == {study: "OLD", later: "OLD"}
    assert {row["decided_by"] for row in root.rows("SELECT decided_by FROM v_studies")} == {None}


@pytest.mark.parametrize("is_of_study", [True, False])
def test_what_a_correction_has_decided_is_open_again_once_it_is_taken_back(root: Root, *, is_of_study: bool) -> None:
    uid, decisions = take(root), "SELECT decision FROM v_conflicts"
    [row] = root.rows("SELECT id FROM v_patients")
    persons(root).correct(row["id"], right(patient_id="C-1"), root.clock(), uid if is_of_study else None)
    assert root.rows(decisions) == [{"decision": "merged"}]
    persons(root).separate(number(root, "C-1"), root.clock())
    assert root.rows(decisions) == [{"decision": None}]


def test_of_several_decisions_a_person_chooses_the_one_that_is_taken_back(root: Root) -> None:
    studies = [take(root, one) for one in ("A", "B", "INTO")]
    for one in ("A", "B"):
        persons(root).merge(number(root, one), number(root, "INTO"), root.clock())
    with pytest.raises(UsageError, match=r"choose one: #1 .A., #2 .B."):
        persons(root).separate(number(root, "INTO"), root.clock())
    assert set(owners(root).values()) == {"INTO"}
    assert persons(root).separate(number(root, "A"), root.clock()).studies == (studies[0],)
    persons(root).correct(number(root, "A"), Correction("INTO"), root.clock(), studies[0])
    with pytest.raises(UsageError, match=rf"choose one: #2 .B., --study {studies[0]}"):
        persons(root).separate(number(root, "INTO"), root.clock())


@pytest.mark.slow
def test_a_data_set_reports_the_subject_that_had_a_study_until_its_correction_was_undone(
    root: Root, tmp_path: Path
) -> None:
    series = make.mr_series(5, SeriesDescription="t1_mprage", PatientID="OLD")
    root.take_all(series)
    root.convert_due()
    rules, key = read_rules(None), Pseudonyms(made_key(tmp_path / "key"))

    def left() -> list[str]:
        with root.index.reading() as index:
            exporter = Exporter(IndexSource(index, lambda file: root.folder / file.key), rules, key)
            return [one.path.partition("/")[0] for one in exporter.export(tmp_path / "out", study).left]

    study = str(series[0].StudyInstanceUID)
    assert left() == []
    [former] = (path.name for path in (tmp_path / "out").glob("sub-*"))
    persons(root).correct(number(root, "OLD"), Correction("NEW"), root.clock())
    assert left() == [former]
    [wrong] = {path.name for path in (tmp_path / "out").glob("sub-*")} - {former}
    persons(root).separate(number(root, "NEW"), root.clock())
    assert left() == left() == [wrong]
