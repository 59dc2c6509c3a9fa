"""The audit log: its lines, its chain, and what it does when it cannot be written."""

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from structlog.testing import capture_logs

from node.audit import audit_log as module
from node.audit.audit_files import FIRST, audit_files, copy_problems, digest_of, last_lines, set_full_file_aside, verify
from node.audit.audit_log import (
    SOURCE,
    Audit,
    AuditAction,
    AuditEvent,
    AuditFailed,
    AuditMessage,
    Participant,
    Result,
    Transfers,
)
from node.dicom.attributes import InstanceAttributes
from node.extensions.postgresql.membership import LogTail
from node.receive.ingest import Origin

WHO = [Participant("CT1", SOURCE, "10.0.0.1", is_requestor=True)]
STUDY = [{"study_instance_uid": "1.2"}]
SENDER = Origin("dicom", "CT1", "VOXELNODE", "10.0.0.1:4000", "a1")


def lines(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "audit.jsonl").read_text(encoding="utf-8").splitlines()]


def tell(audit: Audit, detail: str = "") -> None:
    audit.require(
        AuditMessage(AuditEvent.STUDY_DELETED, AuditAction.DELETE, Result.SUCCESS, WHO, [{"uid": "1.2"}], detail)
    )


def attributes(study: str, patient_id: str = "P1", sop_class: str = "1.2.840.10008.5.1.4.1.1.2") -> InstanceAttributes:
    image = {"sop_class_uid": sop_class, "sop_instance_uid": "1.9"}
    return InstanceAttributes({"patient_id": patient_id}, {"study_instance_uid": study}, {}, image)


def test_a_line_holds_the_codes_of_the_standard(tmp_path: Path) -> None:
    tell(Audit(tmp_path, "VOXELNODE"), "ordered")
    [line] = lines(tmp_path)
    assert line["event"] == {"code": "110105", "scheme": "DCM", "meaning": "DICOM Study Deleted"}
    assert (line["action"], line["outcome"], line["detail"], line["previous"]) == ("D", 0, "ordered", FIRST)
    assert line["participants"] == [{"user": "CT1", "role": "110153", "address": "10.0.0.1", "requestor": True}]
    assert line["source"]["ae_title"] == "VOXELNODE"


def test_the_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    Audit(tmp_path, "VOXELNODE")
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_the_chain_goes_on_over_a_restart(tmp_path: Path) -> None:
    for _ in range(3):
        audit = Audit(tmp_path, "VOXELNODE")
        tell(audit)
        tell(audit, "x" * 100_000)
        audit.close()
    assert len(lines(tmp_path)) == 6
    assert verify(tmp_path) == []


@pytest.mark.parametrize("forged", ["changed", "removed", "inserted"])
def test_a_forged_line_is_found(tmp_path: Path, forged: str) -> None:
    audit = Audit(tmp_path, "VOXELNODE")
    for number in range(4):
        tell(audit, f"number {number}")
    path = tmp_path / "audit.jsonl"
    written = path.read_text().splitlines(keepends=True)
    match forged:
        case "changed":
            written[1] = written[1].replace("number 1", "number 9")
        case "removed":
            del written[1]
        case "inserted":
            written.insert(1, written[1])
    path.write_text("".join(written))
    [problem] = verify(tmp_path)
    assert problem.startswith("line 2 " if forged == "removed" else "line 3 ")


def test_a_line_torn_by_a_power_cut_stays_and_the_chain_goes_on(tmp_path: Path) -> None:
    audit = Audit(tmp_path, "VOXELNODE")
    tell(audit)
    tell(audit)
    audit.close()
    path = tmp_path / "audit.jsonl"
    os.truncate(path, path.stat().st_size - 20)
    tell(Audit(tmp_path, "VOXELNODE"), "after")
    assert verify(tmp_path) == ["line 2 is not a line of the audit log: torn by a power cut, or inserted"]
    assert json.loads(path.read_text().splitlines()[-1])["detail"] == "after"


def test_a_full_disk_is_reported_and_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = Audit(tmp_path, "VOXELNODE")
    tell(audit)
    write = os.write
    with monkeypatch.context() as disk:
        disk.setattr("node.audit.audit_log.os.write", lambda descriptor, data: write(descriptor, data[:10]))
        with pytest.raises(AuditFailed, match="No space left"):
            tell(audit, "lost")
    tell(audit, "after")
    assert [line["detail"] for line in lines(tmp_path)] == ["", "after"]
    assert verify(tmp_path) == []


def test_a_note_that_cannot_be_written_is_reported_and_raises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    audit = Audit(tmp_path, "VOXELNODE")
    with monkeypatch.context() as disk:
        disk.setattr("node.audit.audit_log.os.write", lambda descriptor, data: 0)
        audit.note(AuditMessage(AuditEvent.QUERY, AuditAction.EXECUTE, Result.SUCCESS, WHO, detail="lost"))
    audit.note(AuditMessage(AuditEvent.QUERY, AuditAction.EXECUTE, Result.SUCCESS, WHO, detail="after"))
    assert [line["detail"] for line in lines(tmp_path)] == ["after"]
    assert verify(tmp_path) == []
    assert "not_audited" in capsys.readouterr().out


def test_what_is_required_and_what_tells_of_a_change_is_durable_and_a_reading_need_not_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(
        "node.audit.audit_log.os.fdatasync", lambda descriptor: synced.append(lines(tmp_path)[-1]["detail"])
    )
    audit = Audit(tmp_path, "VOXELNODE")
    audit.require(AuditMessage(AuditEvent.QUERY, AuditAction.EXECUTE, Result.SUCCESS, WHO, detail="required"))
    audit.note(AuditMessage(AuditEvent.PATIENT_RECORD, AuditAction.UPDATE, Result.SUCCESS, WHO, detail="changed"))
    audit.note(AuditMessage(AuditEvent.QUERY, AuditAction.EXECUTE, Result.SUCCESS, WHO, detail="read"))
    assert synced == ["required", "changed"]


def test_a_name_that_is_no_text_has_a_line(tmp_path: Path) -> None:
    tell(Audit(tmp_path, "VOXELNODE"), os.fsdecode(b"CT \xff"))
    assert lines(tmp_path)[0]["detail"] == "CT \udcff"
    assert verify(tmp_path) == []


def test_a_file_that_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").mkdir()
    with pytest.raises(AuditFailed, match=r"audit\.jsonl"):
        Audit(tmp_path, "VOXELNODE")


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.audit.audit_log.MAXIMUM_BYTES", 10_000)


@pytest.mark.usefixtures("small_files")
def test_a_full_file_is_set_aside_and_the_chain_goes_on(tmp_path: Path) -> None:
    for start in range(3):
        audit = Audit(tmp_path, "VOXELNODE")
        for number in range(5):
            tell(audit, f"{start} {number} " + "x" * 3000)
        audit.close()
    names = [path.name for path in audit_files(tmp_path)]
    assert names == [*(f"audit-{number:06d}.jsonl" for number in range(1, len(names))), "audit.jsonl"]
    assert len(names) > 3
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in audit_files(tmp_path))
    assert verify(tmp_path) == []
    details = [json.loads(line)["detail"][:3] for line in last_lines(tmp_path, 15)[0]]
    assert details == [f"{start} {number}" for start in range(3) for number in range(5)]
    audit_files(tmp_path)[0].unlink()  # kept elsewhere
    assert verify(tmp_path) == []
    audit_files(tmp_path)[1].unlink()
    [problem] = verify(tmp_path)
    assert "does not follow" in problem


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("forged", ["changed", "removed"])
def test_a_line_forged_in_a_full_file_is_found(tmp_path: Path, forged: str) -> None:
    audit = Audit(tmp_path, "VOXELNODE")
    for number in range(12):
        tell(audit, f"{number} " + "x" * 3000)
    full = audit_files(tmp_path)[1]
    kept = full.read_bytes().splitlines(keepends=True)
    full.write_bytes(b"".join([*kept[:-1], *([kept[-1].replace(b"xxx", b"yyy")] if forged == "changed" else [])]))
    assert len(verify(tmp_path)) == 1  # the last line of a file is held by the first of the next


def test_a_start_after_a_crash_between_two_files_goes_on_with_the_chain(tmp_path: Path) -> None:
    audit = Audit(tmp_path, "VOXELNODE")
    tell(audit)
    audit.close()
    set_full_file_aside(tmp_path)  # and then the process died
    tell(Audit(tmp_path, "VOXELNODE"))
    assert len(audit_files(tmp_path)) == 2
    assert verify(tmp_path) == []


def test_a_file_that_cannot_be_set_aside_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = Audit(tmp_path, "VOXELNODE")
    monkeypatch.setattr("node.audit.audit_files.os.rename", Mock(side_effect=OSError(13, os.strerror(13))))
    for number in range(12):
        tell(audit, f"{number} " + "x" * 3000)
    assert len(lines(tmp_path)) == 12
    assert verify(tmp_path) == []


def test_an_association_is_one_line_with_its_studies(tmp_path: Path) -> None:
    transfers = Transfers(Audit(tmp_path, "VOXELNODE"))
    for study in ("1.1", "1.1", "1.2"):
        transfers.brought(SENDER, attributes(study))
    transfers.ended(SENDER, "released")
    [line] = lines(tmp_path)
    assert line["event"]["code"] == "110104"
    assert (line["action"], line["outcome"], line["detail"]) == ("C", 0, "released")
    assert [participant["user"] for participant in line["participants"]] == ["CT1", "VOXELNODE"]
    assert line["participants"][0]["address"] == "10.0.0.1"
    assert [(study["study_instance_uid"], study["patient_id"]) for study in line["objects"]] == [
        ("1.1", "P1"),
        ("1.2", "P1"),
    ]
    assert line["objects"][0]["sop_classes"] == {"1.2.840.10008.5.1.4.1.1.2": 2}


def test_an_association_that_brought_nothing_has_no_line(tmp_path: Path) -> None:
    Transfers(Audit(tmp_path, "VOXELNODE")).ended(SENDER, "released")
    assert lines(tmp_path) == []


def test_an_association_that_broke_off_has_an_outcome_that_says_so(tmp_path: Path) -> None:
    transfers = Transfers(Audit(tmp_path, "VOXELNODE"))
    transfers.brought(SENDER, attributes("1.1"))
    transfers.ended(SENDER, "aborted")
    assert [(line["outcome"], line["detail"]) for line in lines(tmp_path)] == [(4, "aborted")]


def test_a_long_association_is_reported_in_several_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE_SECONDS", -1.0)
    transfers = Transfers(Audit(tmp_path, "VOXELNODE"))
    transfers.brought(SENDER, attributes("1.1"))
    transfers.brought(SENDER, attributes("1.1"))
    assert [line["detail"] for line in lines(tmp_path)] == ["under way", "under way"]


def test_an_import_is_reported_as_one(tmp_path: Path) -> None:
    transfers = Transfers(Audit(tmp_path, "VOXELNODE"))
    transfers.brought(Origin("import", peer="workstation"), attributes("1.1"))
    transfers.close()
    [line] = lines(tmp_path)
    assert (line["event"]["code"], line["participants"][0]["role"]) == ("110107", "110155")


def test_storing_goes_on_when_the_audit_log_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transfers = Transfers(Audit(tmp_path, "VOXELNODE"))
    transfers.brought(SENDER, attributes("1.1"))

    with monkeypatch.context() as disk, capture_logs() as logged:
        disk.setattr("node.audit.audit_log.os.write", Mock(side_effect=OSError(28, os.strerror(28))))
        transfers.ended(SENDER, "released")
        monkeypatch.setattr(module, "MAX_LINE_SECONDS", -1.0)
        transfers.brought(SENDER, attributes("1.2"))
    assert [line["log_level"] for line in logged] == ["error"] * 2, "each line that is not in it is told"
    assert lines(tmp_path) == []
    transfers.brought(SENDER, attributes("1.3"))
    assert [line["objects"][0]["study_instance_uid"] for line in lines(tmp_path)] == ["1.3"]


def test_lines_are_read_behind_one_of_them_while_others_are_written_and_files_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.audit.audit_log.MAXIMUM_BYTES", 1 << 16)
    audit = Audit(tmp_path, "VOXELNODE")
    tail = LogTail(tmp_path, "")
    read: list[bytes] = []
    for number in range(9):
        tell(audit, f"{number} " + "x" * 30_000)
        if number % 4 == 3:
            read += tail.read(2)
    read += tail.read(100)
    assert len(audit_files(tmp_path)) > 3
    assert read == last_lines(tmp_path, 9)[0]
    assert tail.read(1) == []
    with (tmp_path / "audit.jsonl").open("ab") as file:
        file.write(b"torn")
    assert tail.read(1) == []
    tail.close()
    behind = LogTail(tmp_path, digest_of(read[5]))
    assert behind.read(100) == read[6:]
    behind.close()
    unknown = LogTail(tmp_path, "0" * 64)
    assert unknown.read(1) == read[:1]
    unknown.close()


def test_a_copy_shows_what_was_removed_from_it_or_from_the_log(tmp_path: Path) -> None:
    audit = Audit(tmp_path, "VOXELNODE")
    for number in range(5):
        tell(audit, str(number))
    copies = list(enumerate(last_lines(tmp_path, 5)[0], start=1))
    assert list(copy_problems(copies)) == []
    assert list(copy_problems(copies[2:])) == []  # the oldest ones may be removed
    assert list(copy_problems([*copies[:2], *copies[3:]])) == ["lines 3 to 3 are missing"]
    audit.close()
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))  # its end
    tell(Audit(tmp_path, "VOXELNODE"), "after")
    copies.append((6, last_lines(tmp_path, 1)[0][0]))
    [problem] = copy_problems(copies)
    assert problem.startswith("line 6 does not follow")
    path.unlink()
    tell(Audit(tmp_path, "VOXELNODE"), "in a new root")
    [problem] = copy_problems([*copies[:5], (6, last_lines(tmp_path, 1)[0][0])])
    assert problem.startswith("line 6 begins a new log")
    [torn] = copy_problems([(1, b"torn\n")])
    assert torn.startswith("line 1 is not a line")


def test_of_refusals_the_first_of_each_kind_and_the_number_of_the_others_are_written(tmp_path: Path) -> None:
    audit = Audit(tmp_path, "VOXELNODE")
    refused = AuditMessage(AuditEvent.QUERY, AuditAction.EXECUTE, Result.MINOR_FAILURE, WHO)
    moved = AuditMessage(AuditEvent.INSTANCES_TRANSFERRED, AuditAction.READ, Result.MINOR_FAILURE, WHO, STUDY)
    for number in range(200):
        audit.note(replace(refused, detail="0 answers, 0xA900"))
        audit.note(replace(refused, detail=f"0 answers, 0xC00{number // 199}"))
        for kept in (moved, replace(refused, result=Result.SUCCESS), replace(refused, result=Result.SERIOUS_FAILURE)):
            audit.note(kept)
        audit.note(replace(refused, participants=[Participant("a person of this machine", SOURCE, is_requestor=True)]))
    audit.close()
    *others, last = lines(tmp_path)
    details = Counter(line["detail"] for line in others if line["detail"])
    assert details == {"0 answers, 0xA900": 3, "0 answers, 0xC000": 2, "0 answers, 0xC001": 1}
    assert len(others) == 6 + 4 * 200
    assert last["detail"].startswith("QUERY: 394 more were refused within a minute")
    assert last["participants"][0]["address"] == "10.0.0.1"
    assert verify(tmp_path) == []
