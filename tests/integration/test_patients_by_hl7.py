"""Patients that HL7 messages merge and take apart: the same rows as by command."""

import datetime as dt
from typing import Any

import pytest
from pydicom import config

from node.api import Audit, OpenedRoot, Settings, UsageError
from node.dicom.json_model import entry_text
from node.extensions.worklist.hl7 import MessageRefused, parse
from node.extensions.worklist.listed import StepViews
from node.extensions.worklist.mllp import MllpListener, changes_of, make_changes, update_entries, update_of
from node.extensions.worklist.modality_worklist import step_of
from node.extensions.worklist.performed_steps import PerformedStep, PerformedStepRepository
from node.extensions.worklist.scheduled_rows import OrderedStep, ScheduledStepRepository
from node.extensions.worklist.settings import WorklistSettings
from node.index.rules.people.person_plans import PatientLink, Person
from node.index.rules.people.persons import HELD, PersonRepository
from node.receive.ingest import Origin
from node.runtime.metrics import Metrics
from tests import make
from tests.integration.conftest import Root
from tests.integration.test_patients import PEOPLE, found_ids, number, owners, persons, table_rows, take
from tests.protocol.test_hl7 import Sender, written
from tests.waiting import running


@pytest.fixture
def changes(root: Root, settings: Settings) -> OpenedRoot:
    return OpenedRoot(settings, root.ingest, Audit(root.folder, "VOXELNODE", now=root.clock))


def sent(changes: OpenedRoot, *segments: str, kind: str = "ADT^A40") -> list[str]:
    text = "\r".join((f"MSH|^~\\&|RIS|HOSPITAL|||20260101||{kind}|1|P|2.5.1", *segments, ""))
    return list(make_changes(changes, changes_of(parse(text.encode())), "HL7 10.0.0.1"))


def test_a_temporary_patient_is_merged_into_one_without_studies(root: Root, changes: OpenedRoot) -> None:
    study = take(root, "TEMP")
    before = table_rows(root)
    assert sent(changes, "PID|||REAL^^^HOSPITAL||Real^Person||19700101|F", "MRG|TEMP") == ["merged: 1 study"]
    assert owners(root) == {study: "REAL"}
    shown = root.index.repository(PersonRepository).shown(number(root, "REAL"), 1)
    assert (shown["patient_name"], shown["issuer_of_patient_id"], shown["count"]) == ("Real^Person", "HOSPITAL", 1)
    assert sent(changes, "PID|||REAL^^^HOSPITAL", "PID|||TEMP", kind="ADT^A37") == ["separated: 1 study"]
    assert table_rows(root) == before
    assert sent(changes, "PID|||REAL^^^HOSPITAL", "PID|||TEMP", kind="ADT^A37") == ["nothing to change"]
    assert "HL7 10.0.0.1" in (root.folder / "audit.jsonl").read_text()


def test_who_is_not_here_or_not_alone_changes_nothing(root: Root, changes: OpenedRoot) -> None:
    for person in (*PEOPLE[:2], {"patient_id": "OLD"}):
        take(root, **person)
    before, events = table_rows(root), root.rows("SELECT * FROM v_events")
    with pytest.raises(UsageError, match="people share this Patient ID"):
        sent(changes, "PID|||NEW", "MRG|OLD", "PID|||NEW", "MRG|UNKNOWN", "PID|||NEW", "MRG|P1")
    with pytest.raises(UsageError, match="people share this Patient ID"):
        sent(changes, "PID|||NEW", "MRG|P1")
    with pytest.raises(UsageError, match="name the same patient"):
        sent(changes, "PID|||A", "MRG|B", "PID|||C", "MRG|C")
    for segments in (("PID|||A",), ("PID|||A", "MRG|"), ("MRG|A",)):
        with pytest.raises(MessageRefused, match="PID"):
            sent(changes, *segments)
    assert (table_rows(root), root.rows("SELECT * FROM v_events")) == (before, events)


SOURCES = ("dicom", "get", "stow", "import", "recovered")
"""Every door by which an instance comes."""


def test_a_merge_before_its_images_holds_for_what_comes_by_every_door(root: Root, changes: OpenedRoot) -> None:
    for outcome in (HELD, "nothing to change"):
        assert sent(changes, "PID|||NEW||New^Name|||U", f"MRG|{'~'.join(SOURCES)}") == [outcome] * len(SOURCES)
    studies = []
    for source in SOURCES:
        for _ in range(2):
            [ds] = make.ct_series(1, PatientID=source, PatientName="Trauma^One", PatientBirthDate="19700101")
            root.take(ds, Origin(source, "CT1", "VOXELNODE", "127.0.0.1:1"))
            studies.append(str(ds.StudyInstanceUID))
    own = take(root, "NEW", PatientName="New^Name")
    assert owners(root) == dict.fromkeys([*studies, own], "NEW")
    assert root.rows("SELECT * FROM v_conflicts") == []
    assert len({row["id"] for row in root.rows("SELECT id FROM v_patients WHERE patient_id = 'NEW'")}) == 1
    assert sent(changes, "PID|||NEW", "PID|||dicom", kind="ADT^A37") == ["separated: 2 studies"]
    assert {uid: whose for uid, whose in owners(root).items() if whose != "NEW"} == dict.fromkeys(studies[:2], "dicom")


def test_each_identifier_of_a_merge_goes_into_the_one_of_its_authority() -> None:
    text = "MSH|^~\\&|||||||ADT^A40|1\rPID|||1^^^A^MR~5^^^B~9^^^C\rMRG|5^^^B~6^^^B~2^^^A^MR~3^^^A^PI~7^^^D\r"
    pairs = [(link.one.patient_id, link.other.patient_id) for link in changes_of(parse(text.encode())) or ()]
    assert sorted(pairs) == [("2", "1"), ("3", "1"), ("6", "5"), ("7", "1")]


@pytest.mark.parametrize("authority", ["", "^^^HOSPITAL"])
def test_chains_in_any_order_end_at_the_last_and_the_other_way_round_corrects(
    root: Root, changes: OpenedRoot, authority: str
) -> None:
    """Files say no issuer, as most do; the assigning authority of HL7 is no other patient."""
    links = {"AB": ("B", "A"), "BC": ("C", "B")}
    for name in ("BC", "AB") if authority else ("AB", "BC"):
        remaining, prior = links[name]
        [outcome] = sent(changes, f"PID|||{remaining}{authority}||Of^{remaining}", f"MRG|{prior}{authority}")
        assert outcome in (HELD, "merged")
    studies = {one: take(root, one, PatientName=f"Of^{one}") for one in "ABC"}
    assert owners(root) == dict.fromkeys(studies.values(), "C")
    assert sent(changes, f"PID|||C{authority}", f"MRG|A{authority}") == ["nothing to change"]
    before = table_rows(root)
    with pytest.raises(UsageError, match="was merged into another one"):
        sent(changes, f"PID|||D{authority}", f"MRG|A{authority}")
    assert table_rows(root) == before
    assert sent(changes, f"PID|||A{authority}", f"MRG|C{authority}") == ["merged: 3 studies"]
    assert owners(root) == dict.fromkeys(studies.values(), "A")
    assert sent(changes, f"PID|||C{authority}", f"PID|||A{authority}", kind="ADT^A37") == ["separated: 2 studies"]
    assert owners(root) == {studies["A"]: "A", studies["B"]: "C", studies["C"]: "C"}


def test_a_retired_patient_id_is_of_who_remains_unless_the_name_is_another(root: Root, changes: OpenedRoot) -> None:
    first = take(root, "OLD", PatientName="Trauma^One")
    own = take(root, "NEW", PatientName="Real^Name", PatientBirthDate="19700101")
    assert sent(changes, "PID|||NEW", "MRG|OLD") == ["merged: 1 study"]
    corrected = take(root, "OLD", PatientName="REAL^NAME")
    assert owners(root) == dict.fromkeys((first, own, corrected), "NEW")
    assert root.rows("SELECT * FROM v_conflicts") == []
    assert sent(changes, "PID|||NEW", "MRG|OLD") == ["nothing to change"]
    stranger = take(root, "OLD", PatientName="Another^Person", PatientBirthDate="19800101")
    assert owners(root)[stranger] == "OLD"
    assert [row["study_instance_uid"] for row in root.rows("SELECT * FROM v_conflicts")] == [stranger]


def test_steps_of_the_worklist_follow_a_merge_and_its_end(root: Root, changes: OpenedRoot) -> None:
    steps, performed = (root.index.repository(one) for one in (ScheduledStepRepository, PerformedStepRepository))
    person = {"patient_name": "Trauma^One", "modality": "CT", "station_ae_title": "CT1", "start_date": "20261121"}

    def whose() -> dict[str, tuple[str, str]]:
        """Patient ID and name by step, as a modality is answered and as the lists show them."""
        found = {}
        for _, entry in steps.candidates({}):
            found[entry_text(entry, "AccessionNumber")] = tuple(entry_text(entry, one) for one in WHOSE)
        with root.index.reading() as index:
            for row in index.views(StepViews).page(None, 100):
                assert found[row["accession_number"]] == (row["patient_id"], row["patient_name"])
            for row in index.views(StepViews).performed.page(None, 100):
                found[row["sop_instance_uid"]] = row["patient_id"]
        return found

    def add(order: int, source: str) -> None:
        step = step_of({**person, "patient_id": "OLD", "accession_number": source})
        if source == "file":
            steps.replace_files({"a.wl": ("1", step)}, (), root.clock())
        elif source == "hl7":
            ordered = OrderedStep(str(order), "", "", 0, True, "scheduled", step, "", lambda kept: step)
            steps.apply_orders([ordered], root.clock())
        else:
            assert steps.add("rest", step, root.clock()) is not None
        ended = PerformedStep(
            f"1.2.{order}", "COMPLETED", f"1.2.3.{order}", "OLD", None, None, None, None, (), (), step.attributes
        )
        assert performed.create(ended, "CT1", root.clock())

    take(root, "NEW", PatientName="New^Name")
    for order, source in enumerate(("rest", "hl7")):
        add(order, source)
    before = whose()
    assert sent(changes, "PID|||NEW", "MRG|OLD") == [HELD]
    add(2, "file")
    after = whose()
    assert after == dict.fromkeys(("rest", "hl7", "file"), ("NEW", "New^Name")) | dict.fromkeys(REPORTED, "NEW")
    [update] = update_of(parse(b"MSH|^~\\&|RIS||||2026||ADT^A08|1|P|2.5\rPID|||NEW||Maier^Eva||19710101|F\r"))
    assert update_entries(steps, update, root.clock()) == 2  # those of files stay
    assert sent(changes, "PID|||B", "MRG|A") == [HELD]
    assert {whose()[name] for name in ("rest", "hl7")} == {("NEW", "Maier^Eva")}, "of others, it changes nothing"
    assert sent(changes, "PID|||NEW", "PID|||OLD", kind="ADT^A37") == ["separated"]
    assert whose() == before | {"file": ("OLD", "Trauma^One"), "1.2.2": "OLD"}


WHOSE, REPORTED = ("PatientID", "PatientName"), ("1.2.0", "1.2.1", "1.2.2")


def test_the_port_takes_them_beside_orders(root: Root, changes: OpenedRoot) -> None:
    study = take(root, "OLD")
    take(root, "NEW")
    steps = root.index.repository(ScheduledStepRepository)
    listener = MllpListener(WorklistSettings(hl7_port=0), "VOXELNODE", steps, Metrics(), patients=changes)
    with running(listener), Sender(listener.port) as sender:
        header = b"MSH|^~\\&|RIS|HOSPITAL|||20260101||ADT^A40|M1|P|2.5.1\r"
        assert sender.send(header + b"PID|||NEW\rMRG|OLD\r") == ["MSA", "AA", "M1", "merged: 1 study"]
        assert sender.send(header + b"PID|||NEW\r")[1] == "AE"
        assert sender.send(written())[1] == "AA"
    assert owners(root)[study] == "NEW"


def test_pseudonyms_of_128_characters_are_merged(root: Root, changes: OpenedRoot) -> None:
    old, new = "f" * 127 + "1", "f" * 127 + "2"
    with config.disable_value_validation():
        first, second = take(root, old), take(root, new)
    assert owners(root) == {first: old, second: new}
    assert sent(changes, f"PID|||{new}", f"MRG|{old}") == ["merged: 1 study"]
    assert owners(root) == {first: new, second: new}
    with pytest.raises(MessageRefused, match="no text of more than 1024 bytes"):
        sent(changes, f"PID|||{new * 10}", f"MRG|{old}")


def test_merges_of_ids_that_are_not_known_are_bounded_and_one_that_changes_nothing_is_no_order(
    root: Root, changes: OpenedRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.index.rules.people.person_plans.MAX_HELD", 3)
    take(root, "KNOWN")
    for prior in ("N0", "N1", "N2"):
        assert sent(changes, "PID|||KNOWN", f"MRG|{prior}")[0].startswith("merged")
    audited = (root.archive.root / "audit.jsonl").read_text().count("\n")
    for wrong, words in (("N3", "3 merges hold"), ("N" * 65, "65 characters"), ("KNOWN", "the same patient")):
        with pytest.raises(UsageError, match=words.replace("65", "64")):
            sent(changes, "PID|||KNOWN", f"MRG|{wrong}")
    assert sent(changes, "PID|||KNOWN", "MRG|N0") == ["nothing to change"]
    assert (root.archive.root / "audit.jsonl").read_text().count("\n") == audited
    take(root, "N1")
    assert sent(changes, "PID|||KNOWN", "MRG|N4")[0].startswith("merged"), "one of them is stored now"


BORN, LATER = "19700101", "19800202"
EVERYDAY: list[tuple[dict[str, str], dict[str, str]]] = [
    *(
        ({"PatientName": one, "PatientBirthDate": BORN}, {"PatientName": other, "PatientBirthDate": BORN})
        for one, other in (
            ("Doe^Jane", "Doe^Jane^M"), ("Doe^Jane", "Doe^Jane^^Dr."), ("Doe^Jane", "Doe, Jane"), ("Doe^J", "Doe^Jane"),
            ("Müller^Jörg", "Mueller^Joerg"), ("Müller^Jörg", "MULLER^JORG"), ("Doe-Smith^Jane", "Doe Smith^Jane"),
            ("Maiden^Ann", "Wed^Ann"), ("Doe^Jane", "Jane^Doe"), ("Unknown^Trauma", "Real^Name"), ("Doe^Jane", ""),
            ("Yamada^Tarou=山田^太郎", "山田^太郎"),
        )
    ),
    ({"PatientName": "Doe^Jane", "PatientSex": "F"}, {"PatientName": "Doe^Jane", "PatientSex": "O"}),
    ({"PatientName": "Doe^Jane", "PatientBirthDate": BORN}, {"PatientName": "Roe^Ann"}),
    ({"PatientName": "Müller^Jo", "PatientBirthDate": BORN}, {"PatientName": "MUELLER^JO", "PatientBirthDate": LATER}),
    ({"PatientName": "Doe^Jane", "IssuerOfPatientID": "A"}, {"PatientName": "Doe^Jane"}),
    ({"PatientName": "Doe^Jane", "IssuerOfPatientID": "A"}, {"PatientName": "Doe^J", "PatientBirthDate": BORN}),
]  # fmt: skip
"""How two files of one patient differ."""


@pytest.mark.sample(6)
@pytest.mark.parametrize(("one", "other"), EVERYDAY)
def test_a_merge_holds_for_every_spelling_of_the_prior_id_whenever_it_comes(
    root: Root, changes: OpenedRoot, one: dict[str, str], other: dict[str, str]
) -> None:
    merge = "PID|||NEW||New^Name||19600101|F", "MRG|OLD"
    more: dict[str, Any] = {"SpecificCharacterSet": "ISO_IR 192"}
    studies = [take(root, "OLD", **more, **one), take(root, "OLD", **more, **other)]
    take(root, "OLD", **more, **one, study_uid=studies[0])  # most of its images
    before = table_rows(root)
    assert sent(changes, *merge) == ["merged: 2 studies"]
    assert sent(changes, *merge) == ["nothing to change"]
    late = [take(root, "OLD", **more, **each) for each in (one, other, {"PatientName": "Doe^Third^Way"})]
    late += [take(root, "OLD", **more, **other, study_uid=studies[0])]
    assert owners(root) == dict.fromkeys([*studies, *late], "NEW")
    assert root.rows("SELECT 1 FROM v_conflicts WHERE decision IS NULL") == []
    assert sent(changes, "PID|||NEW", "PID|||OLD", kind="ADT^A37") == ["separated: 5 studies"]
    for uid in late[:3]:
        root.delete("study", uid)
    assert table_rows(root)["patients"] == before["patients"]
    assert set(owners(root).values()) == {"OLD"}


@pytest.mark.sample(3)
@pytest.mark.parametrize(("one", "other"), EVERYDAY)
def test_a_merge_that_no_image_preceded_holds_for_every_spelling_of_the_prior_id(
    root: Root, changes: OpenedRoot, one: dict[str, str], other: dict[str, str]
) -> None:
    assert sent(changes, "PID|||NEW||New^Name|||F", "MRG|OLD") == [HELD]
    studies = [take(root, "OLD", SpecificCharacterSet="ISO_IR 192", **each) for each in (one, other, one)]
    assert owners(root) == dict.fromkeys(studies, "NEW")
    assert root.rows("SELECT 1 FROM v_conflicts") == []


@pytest.mark.parametrize(
    ("stored", "prior", "moved"),
    [
        (("OLD", "OLD "), "OLD", 2),
        (("OLD",), "OLD ", 1),
        (("OLD", "0OLD", "OLD.1", "old"), "OLD", 1),
        (("0815", "815"), "00815", 0),
        (("A/OLD", "OLD"), "OLD", 2),
        (("A/OLD", "OLD"), "OLD^^^A", 2),
        (("A/OLD", "OLD"), "OLD^^^B", 1),
        (("A/OLD", "B/OLD"), "OLD^^^B", 1),
        (("A/OLD", "B/OLD"), "OLD", None),
        (("OLD",), "OLD^^^A&1.2.3&ISO", 1),
        (("1.2.3/OLD", "4.5.6/OLD"), "OLD^^^&1.2.3&ISO", 1),
        (("OLD", "777", "999"), "777^^^GOV^SS~OLD^^^A^MR~999^^^A^AN", 1),
        (("OLD", "OLDER"), "OLD^^^A^MR~OLDER^^^B^PI", 2),
        (("OLD",), "OLD^^^A^SS", 1),
    ],
)  # fmt: skip
def test_an_authority_and_an_id_name_a_patient_and_nothing_else_does(
    root: Root, changes: OpenedRoot, stored: tuple[str, ...], prior: str, moved: int | None
) -> None:
    for one in stored:
        issuer, _, number = one.rpartition("/")
        take(root, number, **({"IssuerOfPatientID": issuer} if issuer else {}))
    before = table_rows(root)
    if moved is None:
        with pytest.raises(UsageError, match="people share this Patient ID"):
            sent(changes, "PID|||NEW", f"MRG|{prior}")
        assert table_rows(root) == before
    else:
        sent(changes, "PID|||NEW^^^A^MR~555^^^GOV^SS", f"MRG|{prior}")
        assert list(owners(root).values()).count("NEW") == moved


@pytest.mark.parametrize("kind", ["ADT^A08", "ADT^A31"])
def test_an_update_corrects_what_is_stored_and_is_undone_as_a_correction(
    root: Root, changes: OpenedRoot, kind: str
) -> None:
    studies = [take(root, "P1", PatientName=name, PatientBirthDate=BORN) for name in ("Doe^Jane", "Doe^J")]
    other = take(root, "P2", PatientName="Doe^Jane", PatientBirthDate=BORN)
    before = table_rows(root)

    def said(pid: str) -> str:
        return listener._answer(f"MSH|^~\\&|RIS||||2026||{kind}|1|P|2.5\r{pid}\r".encode(), "x").decode().split("|")[-1]

    steps = root.index.repository(ScheduledStepRepository)
    listener = MllpListener(WorklistSettings(hl7_port=0), "VOXELNODE", steps, Metrics(), patients=changes)
    for name, answer in (
        ("Wed^Jane", "stored: corrected: 2 studies"), ("Wed^Jane", "0 worklist entries updated"),
        ("Again^Jane", "stored: corrected: 2 studies"),
    ):  # fmt: skip
        assert said(f"PID|||X9^^^B^MR~P1^^^A^MR||{name}||1971|F").rstrip().endswith(answer)
    studies.append(take(root, "P1", PatientName="Doe^J^X", PatientBirthDate=BORN))
    found = found_ids(root)
    assert [found[uid] for uid in (*studies, other)] == [("P1", "Again^Jane")] * 3 + [("P2", "Doe^Jane")]
    assert len(root.rows("SELECT 1 FROM v_patients WHERE patient_id = 'P1' AND merged_into IS NULL")) == 1
    root.delete("study", studies.pop())
    for row in root.rows("SELECT id FROM v_patients WHERE merged_into IS NOT NULL"):
        persons(root).separate(row["id"], root.clock())
    assert {name: rows for name, rows in table_rows(root).items() if name != "tombstones"} == {
        name: rows for name, rows in before.items() if name != "tombstones"
    }
    assert said("PID|||P1||Wed^Jane").rstrip().endswith("2 studies")
    assert said("PID|||P1||Doe^Jane").rstrip().endswith("2 studies")
    assert found_ids(root)[studies[1]] == ("P1", "Doe^Jane")
    assert said("PID|||P9||Doe^Jane").rstrip().endswith("0 worklist entries updated")


@pytest.mark.parametrize("corrected", ["OLD", "NEW"])
def test_the_end_of_a_merge_is_not_that_of_a_correction_of_one_of_the_two(
    root: Root, changes: OpenedRoot, corrected: str
) -> None:
    studies = {one: take(root, one, PatientName=f"Of^{one}") for one in ("OLD", "NEW")}
    described = Person(corrected, "", "Right^Name", None, "")
    correct = PatientLink(False, described, described, is_correction=True)
    if corrected == "OLD":
        persons(root).link([correct], root.clock())
    assert sent(changes, "PID|||NEW", "MRG|OLD") == ["merged: 1 study"]
    if corrected == "NEW":
        persons(root).link([correct], root.clock())
    assert sent(changes, "PID|||NEW", "PID|||OLD", kind="ADT^A37") == ["separated: 1 study"]
    named = {one: "Right^Name" if one == corrected else f"Of^{one}" for one in studies}
    assert found_ids(root) == {uid: (one, named[one]) for one, uid in studies.items()}


def test_a_changed_identifier_keeps_the_rest_and_is_not_that_of_a_stranger(root: Root, changes: OpenedRoot) -> None:
    study = take(root, "TYPO", PatientName="Doe^Jane", PatientBirthDate=BORN)
    take(root, "TAKEN", PatientName="Roe^Ann", PatientBirthDate=LATER)
    before = table_rows(root)
    with pytest.raises(UsageError, match="another person"):
        sent(changes, "PID|||TAKEN", "MRG|TYPO", kind="ADT^A47")
    assert sent(changes, "PID|||RIGHT", "MRG|TYPO", kind="ADT^A47") == ["corrected: 1 study"]
    assert found_ids(root)[study] == ("RIGHT", "Doe^Jane")
    late = take(root, "TYPO", PatientName="Doe^J")
    assert found_ids(root)[late] == ("RIGHT", "Doe^Jane")
    root.delete("study", late)
    assert sent(changes, "PID|||RIGHT", "PID|||TYPO", kind="ADT^A37") == ["separated: 1 study"]
    assert table_rows(root)["studies"] == before["studies"]


# Images of another patient than the one for whom they were ordered are a conflict, whichever came first.


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


def ordered(root: Root, **attributes: Any) -> str:
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
    study = ordered(root)
    ordered(root, StudyInstanceUID=study)  # a second series is no second conflict
    assert len(details(root)) == (what is not None)
    assert what is None or what in details(root)[study]
    assert "Doe" not in str(details(root))


def test_an_order_that_comes_later_is_compared_with_the_studies_that_are_there(root: Root) -> None:
    first, second = ordered(root), ordered(root, AccessionNumber="A9")
    order(root, accession_number="A1", patient_name="Roe^Ann")
    assert set(details(root)) == {first}
    order(root, study_instance_uid=second, patient_id="P2")
    order(root, study_instance_uid=second, patient_id="P3")
    assert set(details(root)) == {first, second}


def test_a_patient_who_was_merged_is_the_one_of_the_order(root: Root) -> None:
    ordered(root, PatientID="OLD", AccessionNumber="")
    ordered(root, AccessionNumber="")
    persons(root).merge(number(root, "OLD"), number(root, "P1"), NOW)
    order(root, accession_number="A1", patient_id="OLD")
    ordered(root)
    order(root, accession_number="A1")
    ordered(root, PatientID="OLD")
    assert details(root) == {}
