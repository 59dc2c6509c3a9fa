"""Every decision about a study says who else has it, as whose, and what mends it there."""

from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from node.api import AuditAction, AuditEvent, AuditMessage, DueInstance, OpenedRoot, Settings
from node.audit.audit_log import APPLICATION, DESTINATION, SOURCE, Participant, Result
from node.control.repository import Repository
from node.extensions.channels.settings import WebhookSettings
from node.extensions.worklist.hl7 import parse
from node.extensions.worklist.mllp import changes_of, make_changes, update_of
from node.index.rows.records import Lane
from node.index.rules.people.person_plans import PatientLink
from node.index.rules.work.messages import PendingEvent
from node.index.rules.work.routes import SentInstance, lane_to
from node.receive.ingest import Origin
from node.settings.core import RetentionSettings, Route
from node.settings.peers import Peer
from tests import make
from tests.integration.conftest import bring
from tests.rows import view_rows

NOBODY_ELSE = {
    *("set-account", "set-role", "remove-account", "add-token", "remove-token", "end-sessions", "remove-factor"),
    *("set-table", "remove-table", "reload", "test-hook", "drain-host", "forget-host", "confirm-retention"),
    *("set-project", "remove-project", "set-project-member", "remove-project-member", "limit-account"),
    *("set-labels", "change-labels", "comment", "remove-comment", "change-project-contents"),
    *("make-share", "revoke-share", "retrieve", "cancel-work", "retry-work", "cancel-job", "note-export"),
    *("keep-conflict", "reopen-conflict", "purge-quarantined", "write-off-lost"),
}
"""Decisions that change nothing of what anybody was sent."""


class Desk:
    """A root with one study of two instances that a peer, a hook, a data set and a person have."""

    def __init__(self, repository: Repository) -> None:
        self.repository, self.index = repository, repository.index
        self.series = make.ct_series(2, PatientID="OLD", PatientName="Old^Name")
        self.study = str(self.series[0].StudyInstanceUID)
        self.take(*self.series, *make.ct_series(1, PatientID="NEW"))
        self.send()
        node, anna = Participant("VOXELNODE", SOURCE, is_requestor=True), Participant("anna", "", "10.0.0.9", True)
        for event, *people in (
            (AuditEvent.EXPORT, node, Participant("hook mail", DESTINATION)),
            (AuditEvent.EXPORT, node, Participant("DATASET", DESTINATION)),
            (AuditEvent.INSTANCES_TRANSFERRED, anna, Participant("VOXELNODE", APPLICATION)),
        ):
            objects = [{"study_instance_uid": self.study, "patient_id": "OLD"}]
            repository.audit.note(AuditMessage(event, AuditAction.READ, Result.SUCCESS, people, objects))

    def take(self, *instances: Any) -> None:
        bring(self.repository.ingest, *instances, origin=Origin("dicom", "CT1", "VOXELNODE", "127.0.0.1:1"))

    def due(self) -> list[DueInstance]:
        pending = PendingEvent("1", "replay", self.index.now(), self.study)
        return self.index.routes.due(lane_to("all", "PACS"), [pending])["1"]

    def send(self) -> None:
        """Let the peer take what it has not taken as it leaves now."""
        sent = [SentInstance(one, one.sop_class_uid, one.sop_instance_uid, "sent") for one in self.due()]
        self.index.routes.record_sent(lane_to("all", "PACS"), sent, self.index.now())

    def act(self, action: str, **arguments: Any) -> dict[str, Any]:
        return dict(self.repository.actions.by_name[action](who="test", **arguments))

    def patient(self, patient_id: str) -> int:
        [row] = view_rows(self.repository.archive.root, "SELECT id FROM v_patients WHERE patient_id = :i", i=patient_id)
        return int(row["id"])

    def correct(self, **more: Any) -> dict[str, Any]:
        return self.act("correct-patient", patient=self.patient("OLD"), correction={"patient_id": "RIGHT"}, **more)

    def other_version(self) -> dict[str, Any]:
        """Take another version of an instance; return its conflict."""
        self.series[0].PatientComments = "other"
        self.take(self.series[0])
        return view_rows(self.repository.archive.root, "SELECT id, path FROM v_conflicts WHERE path IS NOT NULL")[0]

    def delete(self) -> int:
        self.act("delete", level="study", uid=self.study, study_instance_uid=None)
        with self.index.reading() as index:
            return int(index.trash.all()[0]["number"])


@pytest.fixture
def desk(settings: Settings, tmp_path: Path) -> Iterator[Desk]:
    dataset = {"DATASET": {"kind": "bids", "bids": tmp_path}}
    more: dict[str, Any] = {
        "peers": {"PACS": Peer(ae_title="PACS", host="127.0.0.1", port=1)},
        "destinations": Settings.model_validate({"destinations": dataset}).destinations,
        "hooks": {"mail": WebhookSettings(kind="webhook", on=("study-quiet",), url="http://127.0.0.1:1")},
        "routes": {"all": Route(to=("PACS",)), "bids": Route(to=("DATASET",), when="study-quiet")},
        "retention": RetentionSettings(trash_days=7),
    }
    with Repository(settings.model_copy(update=more)) as repository:
        repository.index.deliveries.begin("route", {lane_to("all", "PACS"): ["series-complete"]})
        repository.index.deliveries.begin("hook", {Lane("hook", "mail"): ["study-quiet"]})
        yield Desk(repository)


DECISIONS: dict[str, Callable[[Desk], dict[str, Any]]] = {
    "correct-patient": Desk.correct,
    "merge-patients": lambda d: d.act("merge-patients", source=d.patient("OLD"), target=d.patient("NEW")),
    "separate-patient": lambda d: d.correct() and d.act("separate-patient", patient=d.patient("OLD")),
    "delete": lambda d: d.act("delete", level="instance", uid=d.series[0].SOPInstanceUID, study_instance_uid=None),
    "erase": lambda d: d.act("erase", objects=[("study", d.study, d.study)], trash=[]),
    "restore-trash": lambda d: d.act("restore-trash", number=d.delete()),
    "empty-trash": lambda d: d.act("empty-trash", number=d.delete()),
    "accept-conflict": lambda d: d.act("accept-conflict", conflict=d.other_version()["id"]),
    "release-quarantined": lambda d: d.act(
        "release-quarantined", name=Path(d.other_version()["path"]).name, replace=True
    ),
}


def test_each_decision_that_the_node_knows_is_tried_or_changes_nothing_elsewhere(desk: Desk) -> None:
    actions = desk.repository.actions.by_name
    ordered = {name for name, action in actions.items() if "who" in signature(action).parameters}
    others = ordered ^ (NOBODY_ELSE | DECISIONS.keys())
    assert not others, sorted(others)


@pytest.mark.parametrize("name", DECISIONS)
def test_a_decision_names_who_has_the_study_as_whom_and_what_mends_it(desk: Desk, name: str) -> None:
    found = {one["who"]: one for one in DECISIONS[name](desk)["holders"]}
    named = {"hook mail", "DATASET", "anna 10.0.0.9"}
    assert found.keys() - {"PACS"} == named
    assert ("PACS" in found) == (name not in ("restore-trash", "empty-trash")), "its rows went with the study"
    assert {one["patient_id"] for one in found.values()} == {"OLD"}
    assert "voxelnode bids" in found["DATASET"]["remedy"]
    if name in ("delete", "erase", "empty-trash"):
        assert {one["remedy"] for who, one in found.items() if who != "DATASET"} == {"have it deleted there"}
    elif "PACS" in found:
        replayed = f"`voxelnode routes replay all/PACS --where 'study_instance_uid == \"{desk.study}\"'`"
        assert found["PACS"]["remedy"].startswith(replayed)
        assert found["PACS"]["remedy"].endswith("of OLD deleted there") == (
            name in ("correct-patient", "merge-patients")
        )
        assert "hooks replay mail --again" in found["hook mail"]["remedy"]


@pytest.mark.parametrize(
    ("kind", "segments"),
    [
        ("ADT^A40", ("PID|||NEW", "MRG|OLD")),
        ("ADT^A47", ("PID|||RIGHT", "MRG|OLD")),
        ("ADT^A08", ("PID|||OLD||Right^Name",)),
        ("ADT^A31", ("PID|||OLD||Old^Name||19700101|F",)),
    ],
)
def test_the_answer_to_a_message_that_changes_studies_names_who_has_them(
    desk: Desk, kind: str, segments: tuple[str, ...]
) -> None:
    message = parse("\r".join((f"MSH|^~\\&|RIS|H|||20260101||{kind}|1|P|2.5.1", *segments, "")).encode())
    links = changes_of(message) or [PatientLink(False, one, one, is_correction=True) for one in update_of(message)]
    opened = OpenedRoot(desk.repository.actions._settings, desk.repository.ingest, desk.repository.audit)
    done, told = make_changes(opened, links, "HL7 10.0.0.1")
    assert ("1 study" in done, told) == (True, "elsewhere as before: PACS, hook mail, DATASET, anna 10.0.0.9")
    assert make_changes(opened, links, "HL7 10.0.0.1") == ("nothing to change",)


def test_a_data_set_that_a_command_made_is_mended_by_that_command(desk: Desk) -> None:
    made = "voxelnode bids to /data/a b, key k1: done, 2 conversions written"
    desk.repository.audit.note(AuditMessage.by("root", AuditEvent.EXPORT, AuditAction.READ, made))
    [mended] = [one["remedy"] for one in desk.correct()["holders"] if one["who"] == "root"]
    assert mended == "`voxelnode bids '/data/a b' --prune`"


def test_what_was_sent_again_is_known_by_both_identities_and_an_undo_sends_it_once_more(desk: Desk) -> None:
    desk.correct()
    assert not any(one.is_sent for one in desk.due())
    desk.send()
    assert all(one.is_sent for one in desk.due())
    undone = desk.act("separate-patient", patient=desk.patient("OLD"))
    assert [one["patient_id"] for one in undone["holders"] if one["who"] == "PACS"] == ["RIGHT"]
    assert not any(one.is_sent for one in desk.due()), "the peer has the study as the corrected person's"
