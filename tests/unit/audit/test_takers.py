"""Who has a study, by the audit log: for whoever erases it here."""

import datetime as dt
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from node.audit.audit_files import FILE_NAME, set_full_file_aside, takers_of
from node.audit.audit_log import (
    APPLICATION,
    DESTINATION,
    SOURCE,
    Audit,
    AuditAction,
    AuditEvent,
    AuditMessage,
    Participant,
    Result,
)
from tests.acceptance.served import until

STUDY, OTHER = "1.2.840.1", "1.2.840.10"
NODE = Participant("VOXELNODE", SOURCE, is_requestor=True)


def line(
    event: AuditEvent, *who: Participant, action: AuditAction = AuditAction.READ, studies: Sequence[str] = (STUDY,),
    result: Result = Result.SUCCESS, detail: str = "",
) -> AuditMessage:  # fmt: skip
    return AuditMessage(event, action, result, who, [{"study_instance_uid": uid} for uid in studies], detail)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """An audit log in two files."""
    sent, exported = AuditEvent.INSTANCES_TRANSFERRED, AuditEvent.EXPORT
    with closing(Audit(tmp_path, "VOXELNODE")) as audit:
        audit.note(line(sent, NODE, Participant("PACS", DESTINATION), studies=[OTHER, STUDY]))
        audit.note(line(sent, NODE, Participant("PACS", DESTINATION)))
        audit.note(
            line(exported, NODE, Participant("hook triage", DESTINATION, "10.0.0.7"), result=Result.MINOR_FAILURE)
        )
        audit.note(line(sent, Participant("anna", "", "10.0.0.9", is_requestor=True)))
        audit.note(line(sent, Participant("VOXELNODE", DESTINATION), action=AuditAction.CREATE))  # it came here
        audit.note(line(AuditEvent.QUERY, Participant("bert", "")))
        audit.note(line(sent, NODE, Participant("ELSEWHERE", DESTINATION), studies=[OTHER]))
        audit.note(line(sent, NODE, Participant("AWAY", DESTINATION), result=Result.SERIOUS_FAILURE))
    set_full_file_aside(tmp_path)
    with closing(Audit(tmp_path, "VOXELNODE")) as audit:
        for outcome in ("begun", "done, 3 conversions copied"):
            command = f"voxelnode db export to /srv/share: {outcome}"
            audit.note(line(exported, Participant("root", APPLICATION, is_requestor=True), studies=(), detail=command))
    return tmp_path


def test_everybody_who_was_sent_a_study_or_took_it_is_named_once(written: Path) -> None:
    assert [(taker.who, taker.how) for taker in takers_of(written, [STUDY])] == [
        ("PACS", "DICOM Instances Transferred"),
        ("hook triage 10.0.0.7", "Export"),
        ("anna 10.0.0.9", "DICOM Instances Transferred"),
        ("root", "voxelnode db export to /srv/share"),
    ]


def test_lines_of_other_hosts_count_and_the_last_time_stands(written: Path, tmp_path: Path) -> None:
    own = {taker.who: taker for taker in takers_of(written, [STUDY])}
    own_at = dt.datetime.fromisoformat(own["PACS"].last_at)
    until(lambda: dt.datetime.now(dt.UTC) >= own_at + dt.timedelta(milliseconds=1), 10, "the next time of a line")
    other = tmp_path / "other"
    other.mkdir()
    with closing(Audit(other, "VOXELNODE")) as audit:
        audit.note(line(AuditEvent.EXPORT, NODE, Participant("carl", DESTINATION)))
        audit.note(line(AuditEvent.INSTANCES_TRANSFERRED, NODE, Participant("PACS", DESTINATION)))
    copies = (other / FILE_NAME).read_bytes().splitlines(keepends=True)
    everybody = {taker.who: taker for taker in takers_of(written, [STUDY], copies)}
    assert everybody.keys() == {*own, "carl"}
    assert everybody["PACS"].last_at > own["PACS"].last_at
    elsewhere = (written / "audit-000001.jsonl").read_bytes().splitlines(keepends=True)
    assert everybody["PACS"] in takers_of(other, [STUDY], elsewhere), "whichever host looks"


def test_a_torn_line_hides_no_other(written: Path) -> None:
    with (written / FILE_NAME).open("ab") as file:
        file.write(b'{"event": {"code": "110106"}, "objects": [], "study": "1.2.840.1"\n[]\n')
    assert len(takers_of(written, [STUDY])) == 4


def test_a_root_without_an_audit_log_names_nobody(tmp_path: Path) -> None:
    assert takers_of(tmp_path, [STUDY]) == []
