"""Modality Performed Procedure Steps over real associations, and what they say of series."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from pydicom import DataElement, Dataset, FileDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import build_context
from pynetdicom.dimse_primitives import N_CREATE

from node.association.association import encoded_command, primitive_of
from node.association.framing import encoded, message_pdus
from node.audit.audit_log import Audit
from node.completeness import MPPS
from node.dicom.command import decode_command
from node.extensions.worklist import PERFORMED_PROCEDURE_STEP, PERFORMED_PROCEDURE_STEP_RETRIEVE
from node.extensions.worklist.listed import StepViews
from node.extensions.worklist.performed_steps import PerformedStepRepository, created
from tests import make
from tests.make import dataset
from tests.protocol.conftest import CT_IMAGE_STORAGE, Acceptor, Raw, Running, StartNode, associate, associate_rq
from tests.protocol.test_worklist import entry, ids, keys, look_at_the_worklist, plan

STEP = "1.2.826.0.1.99"


def begun(study: str = "1.2.1", **changes: Any) -> Dataset:
    """The attributes of an N-CREATE; None leaves one out."""
    scheduled = dataset(
        StudyInstanceUID=study, AccessionNumber="A1", ScheduledProcedureStepID="S1", RequestedProcedureID="R1",
        ReferencedStudySequence=None, RequestedProcedureDescription=None, ScheduledProcedureStepDescription=None,
        ScheduledProtocolCodeSequence=None,
    )  # fmt: skip
    attributes = {
        "SpecificCharacterSet": "ISO_IR 100", "ScheduledStepAttributesSequence": [scheduled],
        "PatientName": "Müller^Jörg", "PatientID": "P1", "PatientBirthDate": "", "PatientSex": "",
        "PerformedProcedureStepID": "PPS1", "PerformedStationAETitle": "CT1",
        "PerformedProcedureStepStartDate": "20261121", "PerformedProcedureStepStartTime": "101500",
        "PerformedProcedureStepStatus": "IN PROGRESS", "Modality": "CT", "PerformedSeriesSequence": None,
    }  # fmt: skip
    return dataset(**{name: value for name, value in {**attributes, **changes}.items() if value != "-"})


def over(state: str = "COMPLETED", *instances: Dataset, **changes: Any) -> Dataset:
    """The attributes of the last N-SET."""
    series: dict[str, list[Dataset]] = {}
    for ds in instances:
        series.setdefault(str(ds.SeriesInstanceUID), []).append(ds)
    listed = [
        dataset(
            SeriesInstanceUID=uid, ProtocolName="Thorax", ReferencedNonImageCompositeSOPInstanceSequence=None,
            ReferencedImageSequence=[
                dataset(ReferencedSOPClassUID=ds.SOPClassUID, ReferencedSOPInstanceUID=ds.SOPInstanceUID) for ds in some
            ],
        )
        for uid, some in series.items()
    ]  # fmt: skip
    attributes = {
        "PerformedProcedureStepStatus": state, "PerformedProcedureStepEndDate": "20261121",
        "PerformedProcedureStepEndTime": "103000", "PerformedSeriesSequence": listed,
    }  # fmt: skip
    return dataset(**{name: value for name, value in {**attributes, **changes}.items() if value != "-"})


class Modality:
    """An SCU of performed procedure steps."""

    def __init__(self, node: Acceptor, syntax: str = ExplicitVRLittleEndian) -> None:
        self.assoc = associate(node, build_context(PERFORMED_PROCEDURE_STEP, syntax))
        assert self.assoc.is_established

    def __enter__(self) -> Modality:
        return self

    def __exit__(self, *_: object) -> None:
        self.assoc.release()

    def create(self, ds: Dataset, uid: str | None = STEP) -> Dataset:
        status: Dataset = self.assoc.send_n_create(ds, PERFORMED_PROCEDURE_STEP, uid)[0]
        return status

    def set(self, ds: Dataset, uid: str = STEP) -> Dataset:
        status: Dataset = self.assoc.send_n_set(ds, PERFORMED_PROCEDURE_STEP, uid)[0]
        return status

    def perform(self, study: str, state: str, *instances: Dataset, uid: str = STEP) -> None:
        assert self.create(begun(study), uid).Status == 0
        assert self.set(over(state, *instances), uid).Status == 0


def store(node: Running, *instances: FileDataset) -> None:
    assoc = associate(node, build_context(CT_IMAGE_STORAGE, ExplicitVRLittleEndian))
    for ds in instances:
        assert assoc.send_c_store(ds).Status == 0
    assoc.release()
    node.ingest.applier.catch_up()


def is_due(node: Running) -> bool:
    """Whether a series would be converted now: its quiet time is a minute."""
    return node.ingest.index.series.is_due(dt.datetime.now(dt.UTC))


def steps(node: Running) -> list[dict[str, Any]]:
    with node.ingest.index.reading() as index:
        return index.views(StepViews).performed.page(None, 100)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_step_is_created_changed_and_completed(node: Running, syntax: str) -> None:
    images = make.ct_series(3)
    with Modality(node, syntax) as modality:
        assert modality.create(begun()).Status == 0
        [row] = steps(node)
        assert (row["state"], row["patient_id"], row["accession_number"]) == ("IN PROGRESS", "P1", "A1")
        assert modality.set(dataset(CommentsOnThePerformedProcedureStep="half way")).Status == 0
        assert modality.set(over("COMPLETED", *images)).Status == 0
    [row] = steps(node)
    assert (row["state"], row["series"], row["instances"], row["calling_ae_title"]) == ("COMPLETED", 1, 3, "GOOD")
    with node.ingest.index.reading() as index:
        attributes = (index.views(StepViews).performed_step(STEP) or {})["attributes"]
    assert attributes["00100010"]["Value"] == [{"Alphabetic": "Müller^Jörg"}]
    assert attributes["00400280"]["Value"] == ["half way"]


def test_a_step_that_breaks_a_rule_is_not_created(node: Running) -> None:
    with Modality(node) as modality:
        for changes, status, named in (
            ({"PerformedProcedureStepStatus": "COMPLETED"}, 0x0106, "must be IN PROGRESS"),
            ({"PerformedProcedureStepStatus": "DONE"}, 0x0106, "must be IN PROGRESS"),
            ({"PerformedProcedureStepStatus": "-"}, 0x0120, "PerformedProcedureStepStatus"),
            ({"ScheduledStepAttributesSequence": None}, 0x0121, "ScheduledStepAttributesSequence"),
            ({"ScheduledStepAttributesSequence": [Dataset()]}, 0x0120, "Study Instance UID"),
            ({"Modality": ""}, 0x0121, "Modality"),
            ({"Modality": "", "PerformedProcedureStepID": "-"}, 0x0120, "PerformedProcedureStepID"),
            ({"ScheduledStepAttributesSequence": []}, 0x0121, "ScheduledStepAttributesSequence"),
            ({"ScheduledStepAttributesSequence": [dataset(StudyInstanceUID="")]}, 0x0121, "Study Instance UID"),
        ):
            answer = modality.create(begun(**changes))
            assert (answer.Status, named in answer.ErrorComment) == (status, True), changes
    assert steps(node) == []


@pytest.mark.own_acceptor("pynetdicom sends no Attribute Identifier List")
def test_the_missing_attributes_are_listed_by_their_tags(node: Running) -> None:
    """pynetdicom's requestor drops the list."""
    with Raw(node) as raw:
        raw.send(associate_rq(build_context(PERFORMED_PROCEDURE_STEP, ImplicitVRLittleEndian)))
        assert raw.receive()
        request = primitive_of(N_CREATE, MessageID=1, AffectedSOPClassUID=PERFORMED_PROCEDURE_STEP)
        data = encoded(begun(Modality="", PerformedProcedureStepID=None), ImplicitVRLittleEndian)
        raw.send(message_pdus(1, encoded_command(request, True), 16000, data))
        received = raw.receive()
    response = decode_command(received[1][6:])
    assert response.status == 0x0121
    listed = response.elements[0x1005]
    assert listed == bytes.fromhex("4000 5302 0800 6000")  # (0040,0253), (0008,0060)


def test_a_second_step_with_the_same_uid_is_refused(node: Running) -> None:
    with Modality(node) as modality:
        assert modality.create(begun()).Status == 0
        assert modality.create(begun(PatientID="P2")).Status == 0x0111
    assert [row["patient_id"] for row in steps(node)] == ["P1"]


def test_a_step_is_read_as_a_whole_or_by_the_attributes_that_are_asked_for(node: Running) -> None:
    with Modality(node) as modality:
        assert modality.create(begun()).Status == 0
    assoc = associate(node, build_context(PERFORMED_PROCEDURE_STEP_RETRIEVE))
    status, whole = assoc.send_n_get(None, PERFORMED_PROCEDURE_STEP_RETRIEVE, STEP)
    assert status.Status == 0
    assert (whole.PatientName, whole.PerformedProcedureStepStatus) == ("Müller^Jörg", "IN PROGRESS")
    assert whole.ScheduledStepAttributesSequence[0].StudyInstanceUID
    _, some = assoc.send_n_get([0x00080060, 0x00081030], PERFORMED_PROCEDURE_STEP_RETRIEVE, STEP)
    assert [element.keyword for element in some] == ["Modality"]
    assert assoc.send_n_get(None, PERFORMED_PROCEDURE_STEP_RETRIEVE, "1.2.3.4")[0].Status == 0x0112
    assoc.release()


def test_an_unknown_step_is_not_changed(node: Running) -> None:
    with Modality(node) as modality:
        assert modality.set(over("COMPLETED", *make.ct_series(1)), "1.2.3").Status == 0x0112


@pytest.mark.parametrize("state", ["COMPLETED", "DISCONTINUED"])
def test_a_step_that_is_over_is_never_changed(node: Running, state: str) -> None:
    images = make.ct_series(1)
    with Modality(node) as modality:
        modality.perform("1.2.1", state, *images)
        for change in (over("COMPLETED", *images), dataset(PerformedProcedureStepStatus="IN PROGRESS")):
            answer = modality.set(change)
            assert (answer.Status, answer.ErrorID) == (0x0110, 0xA710)
    assert steps(node)[0]["state"] == state


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (dataset(PerformedProcedureStepStatus="PAUSED"), 0x0106),
        (dataset(PatientID="P2"), 0x0106),
        (dataset(PatientID="P1"), 0x0000),  # as it was
        (over("COMPLETED", PerformedSeriesSequence=None), 0x0121),
        (over("COMPLETED", *make.ct_series(1), PerformedProcedureStepEndDate="-"), 0x0121),
        (over("DISCONTINUED", PerformedSeriesSequence=None), 0x0000),
    ],
)  # fmt: skip
def test_a_change_follows_the_rules(node: Running, change: Dataset, status: int) -> None:
    with Modality(node) as modality:
        assert modality.create(begun()).Status == 0
        assert modality.set(change).Status == status


def test_a_sequence_that_is_none_is_refused(node: Running) -> None:
    wrong = begun()
    wrong["ScheduledStepAttributesSequence"] = DataElement("ScheduledStepAttributesSequence", "LO", "text")
    with Modality(node) as modality:
        assert modality.create(wrong).Status == 0x0121
    assert steps(node) == []


def test_a_step_is_removed_some_days_after_its_last_message(node: Running) -> None:
    steps, now = node.ingest.index.repository(PerformedStepRepository), dt.datetime.now(dt.UTC)
    for uid, days in (("1.2.8", 32), ("1.2.9", 29)):
        assert steps.create(created(uid, begun()), "CT1", now - dt.timedelta(days=days))
    look_at_the_worklist(node, keep_days=30)
    assert [steps.current(uid) is not None for uid in ("1.2.8", "1.2.9")] == [False, True]


def test_the_scheduled_step_follows_the_performed_one(node: Running) -> None:
    plan(node, entry(1), entry(2))
    with Modality(node) as modality:
        assert modality.create(begun("1.2.1")).Status == 0
        assert ids(node, keys({"ScheduledProcedureStepStatus": "STARTED"})) == ["P1"]
        assert modality.set(over("COMPLETED", *make.ct_series(1))).Status == 0
        assert modality.create(begun("1.2.1"), "1.2.826.0.1.98").Status == 0
        assert modality.set(over("DISCONTINUED"), "1.2.826.0.1.98").Status == 0
    assert ids(node, keys()) == ["P2"], "a completed step stays completed"


@pytest.mark.parametrize(("accession", "started"), [("A1", ["P1"]), ("A2", ["P2"]), ("", []), ("A9", []), (None, [])])
def test_a_step_without_an_id_is_the_one_of_its_study_and_accession_number(
    node: Running, accession: str | None, started: list[str]
) -> None:
    plan(node, entry(1), entry(2, StudyInstanceUID="1.2.1"), entry(3))
    for study in ("1.2.1", "1.2.3", "1.2.9"):
        step = begun(study)
        scheduled = step.ScheduledStepAttributesSequence[0]
        scheduled.ScheduledProcedureStepID, scheduled.AccessionNumber = None, accession if study == "1.2.1" else None
        with Modality(node) as modality:
            assert modality.create(step, f"{STEP}.{study}").Status == 0
    assert sorted(ids(node, keys({"ScheduledProcedureStepStatus": "STARTED"}))) == [*started, "P3"]


def test_what_a_modality_reports_is_audited(start_node: StartNode, tmp_path: Path) -> None:
    with Modality(start_node(audit=Audit(tmp_path, "VOXELNODE"))) as modality:
        modality.perform("1.2.1", "COMPLETED", *make.ct_series(1))
        modality.create(begun())
    lines = [line for line in (tmp_path / "audit.jsonl").read_text().splitlines() if "Procedure Record" in line]
    assert len(lines) == 3
    assert '"performed procedure step COMPLETED"' in lines[1]
    assert "refused, 0x0111" in lines[2]


@pytest.mark.parametrize(
    ("stored", "state", "study", "is_due_then"),
    [
        (3, "COMPLETED", "1.2.1", False),
        (4, "COMPLETED", "1.2.1", False),
        (5, "COMPLETED", "1.2.1", True),
        (3, "DISCONTINUED", "1.2.1", True),
        (5, "COMPLETED", "1.2.999", False),
    ],
)
def test_a_series_is_due_once_everything_that_was_made_is_here_or_the_step_was_given_up(
    node: Running, stored: int, state: str, study: str, is_due_then: bool
) -> None:
    images = make.ct_series(5, study_uid="1.2.1")
    store(node, *images[:stored])
    assert not is_due(node)
    with Modality(node) as modality:
        modality.perform(study, state, *images)
    assert is_due(node) == is_due_then
    if stored < 5:
        store(node, *images[stored:])
        assert is_due(node)


def test_a_series_that_is_here_is_due_when_the_step_is_completed(node: Running) -> None:
    images = make.ct_series(3, study_uid="1.2.1")
    store(node, *images)
    assert not is_due(node)
    with Modality(node) as modality:
        modality.perform("1.2.1", "COMPLETED", *images)
    assert is_due(node)
    claimed = node.ingest.index.series.claim_due(dt.datetime.now(dt.UTC))
    assert (claimed.expectation.performed.listed, claimed.expectation.performed.missing) == (3, 0)


def test_a_series_that_is_closed_gets_another_verdict(node: Running) -> None:
    images = make.ct_series(5, study_uid="1.2.1")
    store(node, *images[:3])
    now, series = dt.datetime.now(dt.UTC), node.ingest.index.series
    series.record_damaged(series.claim_due(now + dt.timedelta(hours=1)), "for the test", (), now)
    with Modality(node) as modality:
        modality.perform("1.2.1", "COMPLETED", *images)
    [row] = node.rows("SELECT * FROM v_series")
    assert (row["verdict"], row["verdict_rule"], row["missing_instances"]) == ("incomplete", "mpps", 2)
    assert (row["expected_instances"], row["expected_source"]) == (5, MPPS)
    assert all(str(ds.SOPInstanceUID) in row["verdict_reason"] for ds in images[3:])
    [event] = node.rows("SELECT detail FROM v_events WHERE kind = 'series-confirmed'")
    assert event["detail"] == row["verdict_reason"]


def test_two_steps_may_make_one_series(node: Running) -> None:
    images = make.ct_series(4, study_uid="1.2.1")
    store(node, *images[:2])
    with Modality(node) as modality:
        modality.perform("1.2.1", "COMPLETED", *images[:2])
        assert is_due(node)
        modality.perform("1.2.1", "COMPLETED", *images[2:], uid=str(generate_uid()))
    claimed = node.ingest.index.series.claim_due(dt.datetime.now(dt.UTC))
    assert (claimed.expectation.performed.listed, claimed.expectation.performed.missing) == (4, 2)
