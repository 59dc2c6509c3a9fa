"""A row of a level is of all its instances: whatever comes first, in whatever order they come, leave and come back."""

from contextlib import closing
from copy import deepcopy
from random import Random
from typing import Any

import pytest
from pydicom import FileDataset
from pydicom.datadict import keyword_for_tag
from pydicom.uid import generate_uid

from node.api import Audit, Settings
from node.control.care import rebuild_index
from node.dicom.attributes import PATIENT, SERIES, STUDY
from node.index.rows.records import Lane
from node.index.rules.intake import stated
from node.index.rules.people.persons import PersonRepository
from node.index.rules.work.ledger import Ended
from node.index.rules.work.messages import UNWANTED, Attempt
from tests import make
from tests.integration.conftest import Clock, Root, opened_root
from tests.integration.test_trash import bring_back, trash
from tests.rows import read_rows

pytestmark = pytest.mark.postgresql

ATTRIBUTES = {attribute.column: attribute for attribute in (*PATIENT, *STUDY[1:], *SERIES[1:])}
TEXTS = {"DA": ("20260102", "20251231"), "TM": ("101112.5", "091112"), "IS": ("7", "3"), "CS": ("M", "F")}
OWN = {"patient_age": ("041Y", "042Y"), "timezone_offset_from_utc": ("+0100", "-0500"), "modality": ("CT", "AU")}
OWN |= {"frame_of_reference_uid": ("1.2.3", "1.2.4")}


def texts(column: str) -> tuple[str, str]:
    """What images state of a column, and what another instance states."""
    vr = ATTRIBUTES[column].vr
    return OWN.get(column) or TEXTS.get(vr) or (f"of images {column}"[:16], f"another {column}"[:16])


def stating(instances: list[FileDataset], which: int = 0, **given: str | None) -> list[FileDataset]:
    """Let instances state something of every column; `given`: something else, None: nothing at all."""
    for ds in instances:
        for column, attribute in ATTRIBUTES.items():
            keyword = keyword_for_tag(attribute.tag)
            value = given.get(column, texts(column)[which])
            if value is None and keyword in ds:
                delattr(ds, keyword)
            elif value is not None:
                setattr(ds, keyword, value)
    return instances


def rows(root: Root) -> dict[str, list[str]]:
    """What the rows of all levels state."""
    stated = {"patients": PATIENT, "studies": STUDY, "series": SERIES}
    groups = ("alphabetic", "ideographic", "phonetic")
    found = {}
    for table, level in stated.items():
        names = [attribute.column for attribute in level]
        names += [f"{one.column}_{group}" for one in level if one.vr == "PN" for group in groups]
        names += ["request_attributes"] if level is SERIES else []
        found[table] = sorted(map(repr, read_rows(root.folder, f"SELECT {', '.join(names)} FROM {table}")))
    return found


def only(root: Root, table: str, *columns: str) -> list[Any]:
    [row] = read_rows(root.folder, f"SELECT {', '.join(columns)} FROM {table}")
    return list(row.values())


OF_LEVELS = [
    (table, attribute.column)
    for table, level in (("patients", PATIENT), ("studies", STUDY[1:]), ("series", SERIES[1:]))
    for attribute in level
]


@pytest.mark.parametrize("first", ["nothing", "something else", "a report"])
def test_every_column_is_that_of_the_images_whatever_came_first(root: Root, first: str) -> None:
    images = stating(make.ct_series(3))
    uids = {name: images[0][name].value for name in ("StudyInstanceUID", "SeriesInstanceUID")}
    [before] = make.ct_series(1, **uids) if first != "a report" else [make.structured_report(**uids)]
    nothing = dict.fromkeys(ATTRIBUTES) if first == "nothing" else {}
    root.take(stating([before], 1, **nothing)[0])
    former = rows(root)
    root.take_all(images)
    changed = rows(root)
    assert all(changed[table] != former[table] for table in changed)
    root.delete("instance", str(before.SOPInstanceUID))
    assert changed == rows(root), "as if the first one had never come"


def test_a_value_that_only_one_instance_states_is_that_of_its_level(root: Root) -> None:
    """Each column is stated by one instance of a series of its own, which is the first, the last, or between."""
    silent = stating(make.ct_series(len(OF_LEVELS)), **dict.fromkeys(ATTRIBUTES))
    for ds, (_, column) in zip(silent, OF_LEVELS, strict=True):
        setattr(ds, keyword_for_tag(ATTRIBUTES[column].tag), texts(column)[0])
    root.take_all(silent)
    for table, column in OF_LEVELS:
        assert only(root, table, column) != [None], column
    root.take_all(make.ct_series(1, SeriesInstanceUID=silent[0].SeriesInstanceUID, PatientID=""))
    assert len(read_rows(root.folder, "SELECT 1 FROM patients")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_rows_are_the_same_in_whatever_order_instances_come_leave_and_come_back(
    settings: Settings, seed: int
) -> None:
    random = Random(seed)
    images = stating(make.ct_series(7))
    stating(images[4:6], 1, patient_id=texts("patient_id")[0])
    stating(images[6:], **dict.fromkeys(ATTRIBUTES))
    stating(images[:1], series_number="9", study_date="20250101", study_time="010101", referring_physician_name=None)
    study = str(images[0].StudyInstanceUID)
    report = stating([make.structured_report(StudyInstanceUID=study)], 1)
    other = stating(make.ct_series(2, StudyInstanceUID=study), series_number="4", accession_number=None, study_id="B")
    instances = [*images, *report, *other]
    with opened_root(settings.storage.root, clock := Clock()) as root, closing(Audit(root.folder, "N")) as audit:
        root.take_all(stating(make.ct_series(1), patient_id="KEPT"))
        root.take_all(instances)
        expected = rows(root)
        for _ in range(3):
            root.delete("study", study)
            random.shuffle(instances)
            arrive(root, audit, instances, random)
            assert rows(root) == expected
    rebuild_index(settings)
    with opened_root(settings.storage.root, clock) as root:
        assert rows(root) == expected


def arrive(root: Root, audit: Audit, instances: list[FileDataset], random: Random) -> None:
    """Take instances; in between, others come and are deleted or replaced, and what is there goes and comes back."""
    persons, merged = root.index.repository(PersonRepository), None
    root.ingest.overwrite_policy = "replace"
    for number, ds in enumerate(instances):
        other = deepcopy(ds)
        if number % 3 == 0:
            root.take(stating([other], 1)[0])
        elif number % 3 == 1:
            other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            root.take(stating([other], random.randrange(2))[0])
        root.take(ds)
        if number % 3 == 1:
            root.delete("instance", str(other.SOPInstanceUID))
        level, uid = random.choice([("instance", ds.SOPInstanceUID), ("study", ds.StudyInstanceUID)])
        bring_back(root, audit, trash(root, level, str(uid)))
        if number == len(instances) // 2:
            kept, [merged] = ([row["id"] for row in read_rows(root.folder, sql)] for sql in PATIENTS)
            persons.merge(merged, kept[0], root.clock())
    persons.separate(merged, root.clock())


PATIENTS = (
    "SELECT id FROM patients WHERE patient_id = 'KEPT'",
    "SELECT patient_id AS id FROM studies WHERE patient_id NOT IN (SELECT id FROM patients WHERE patient_id = 'KEPT')",
)


def test_a_difference_is_reported_once_while_there_is_one(root: Root, audit: Audit) -> None:
    images = stating(make.ct_series(4))
    images[0].StudyDescription = images[1].StudyDescription = "another"
    root.take_all(images)
    told = root.rows("SELECT * FROM v_conflicts")
    assert [(row["kind"], row["decision"]) for row in told] == [("attributes-differ", "kept")]
    assert "study_description" in told[0]["detail"]
    numbers = [trash(root, "instance", str(ds.SOPInstanceUID)) for ds in images[:2]]
    assert root.rows("SELECT * FROM v_conflicts") == []
    bring_back(root, audit, numbers[0])
    assert [row["detail"] for row in root.rows("SELECT * FROM v_conflicts")] == [told[0]["detail"]]


def test_what_was_decided_by_a_former_value_is_asked_again(root: Root) -> None:
    images = stating(make.ct_series(4))
    other = stating([make.structured_report(StudyInstanceUID=images[0].StudyInstanceUID)], study_description=None)
    lane = Lane("hook", "of a trial")
    root.index.deliveries.begin("hook", {lane: ("series-quiet",)})
    root.take_all(other)
    root.convert_due()
    [left_out] = root.index.deliveries.work(lane, ("series-quiet",), root.clock()).new
    root.index.deliveries._sharing.require = lambda *_: None
    root.index.deliveries.record(lane, [Attempt(left_out, Ended("dropped", UNWANTED[0]), 0)], [left_out], root.clock())
    root.take_all(images)
    [asked] = root.index.deliveries.work(lane, ("series-quiet",), root.clock()).again
    assert asked.message_id == left_out.message_id
    [event] = root.rows("SELECT detail FROM v_events WHERE kind = 'attributes-changed'")
    assert "study_description" in event["detail"]


def test_many_instances_that_state_something_else_cost_no_more_than_few(root: Root, monkeypatch: Any) -> None:
    """Rows of a large study are counted again now and then, and the last time when it is quiet."""
    read: list[int] = []
    weighed = stated._weighed
    monkeypatch.setattr(stated, "_weighed", lambda *args: (found := weighed(*args), read.append(len(found)))[0])
    instances = [stating([ds], series_description=f"{199 - n:03}")[0] for n, ds in enumerate(make.ct_series(200))]
    for begin, end in ((0, 100), (100, 199)):
        root.take_all(instances[begin:end])
        assert sum(read) < 35 * end
    assert only(root, "series", "series_description") != ["001"]
    assert root.claim().series_instance_uid == instances[0].SeriesInstanceUID
    assert only(root, "series", "series_description") == ["001"]
    assert only(root, "studies", "uncounted") == [0]
