"""Who has a study, by the audit log: for whoever erases it here."""

import datetime as dt
import math
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from node.audit import audit_files
from node.audit.audit_files import FILE_NAME, last_line, last_lines, lines_naming, set_full_file_aside, takers_of
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
from tests.waiting import until

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


# Lines of the audit log that name something are found from the end, in blocks, across the files of the log.


@pytest.mark.parametrize("block", [1, 7, 20, 1000])
@pytest.mark.parametrize("end", ["", "\n"])
def test_each_line_that_names_something_is_found_once_newest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, end: str
) -> None:
    monkeypatch.setattr(audit_files, "BLOCK_BYTES", block)
    texts = ["1.2", "1.20", "1.2", "x", "Müller", "1.2"]
    lines = [f'{{"number": {number}, "uid": "{text}"}}' for number, text in enumerate(texts)]
    (tmp_path / "audit-000001.jsonl").write_text("\n".join(lines[:2]) + "\n", encoding="utf-8")
    (tmp_path / "audit-000002.jsonl").write_bytes(b"")
    (tmp_path / "audit.jsonl").write_text("\n".join(lines[2:]) + end, encoding="utf-8")
    found = [[line.decode().rstrip() for line in lines_naming(tmp_path, text, math.inf)] for text in ("1.2", "Müller")]
    assert found == [[lines[5], lines[2], lines[0]], [lines[4]]]
    for count in range(1, 8):
        last, total = last_lines(tmp_path, count)
        assert ([line.decode().rstrip() for line in last], total) == (lines[-count:], 6 if end else 5)
        assert last[-1] == last_line(tmp_path) == (lines[5] + end).encode()


def test_a_search_ends_at_its_deadline_but_after_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_files, "BLOCK_BYTES", 16)
    (tmp_path / "audit.jsonl").write_text('{"uid": "1.2"}\n' * 3)
    assert len(list(lines_naming(tmp_path, "1.2", -math.inf))) == 1
    assert len(list(lines_naming(tmp_path, "1.2", math.inf))) == 3
