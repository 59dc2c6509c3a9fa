"""What the journal holds gets into archive and index, once, whenever the process died and whatever a power cut took."""

from __future__ import annotations

import datetime as dt
import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from pydicom import FileDataset

from node.api import Audit, Index, NotUnderstood, OutOfResources
from node.archive.filesystem import Archive
from node.files.acknowledged import Acknowledged
from node.index.look.finder import QueryRefused
from node.index.rows.records import Deletion, DeletionPlan, Outcome
from node.index.rules.intake import instances
from node.journal.journal import Journal
from node.lifecycle.deletion import Order, delete, resume_deletions
from node.receive import apply, pace
from node.receive.accounting import note_lost, unaccounted, write_off
from node.receive.apply import Applier
from node.receive.ingest import Ingest, Origin
from node.receive.recovery import recover
from node.receive.senders import quiet_seconds_of
from node.runtime.metrics import Metrics
from node.settings.core import OverwritePolicy
from tests import make
from tests.ingest import large_instance
from tests.integration.conftest import announced, data_set_bytes
from tests.made_once import empty_folder, lose_index, put_index_back, save_index
from tests.rows import give_locks_up_after, index_locked, read_rows, write_rows

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
ORIGIN = Origin("dicom", "MODALITY", "VOXELNODE", "127.0.0.1:1")


@dataclass
class Parts:
    """The parts of a node that receive; the applier makes a step only when it is told to."""

    folder: Path
    archive: Archive
    index: Index
    journal: Journal
    applier: Applier
    ingest: Ingest

    def receive(self, ds: FileDataset) -> Future[Outcome]:
        """Have an instance acknowledged."""
        incoming = self.ingest.begin(announced(ds), ORIGIN)
        data = data_set_bytes(ds)
        for begin in range(0, len(data), 1 << 16):
            incoming.take_fragment(data[begin : begin + (1 << 16)])
        outcome: Future[Outcome] = Future()
        incoming.finish(outcome)
        return outcome

    def receive_all(self, instances: Iterable[FileDataset]) -> list[Future[Outcome]]:
        return [self.receive(ds) for ds in instances]

    def apply(self, *instances: FileDataset) -> None:
        """Have instances acknowledged, and indexed in one step."""
        self.receive_all(instances)
        self.applier.step()

    def plan(self, ds: FileDataset) -> DeletionPlan:
        """Plan to delete the study of an instance, as beside a node that applies."""
        self.index.ahead = self.applier
        return self.index.deletions.plan("study", str(ds.StudyInstanceUID), None)

    def delete(self, plan: DeletionPlan, asked: dt.datetime = NOW) -> None:
        with closing(Audit(self.folder, "VOXELNODE", now=lambda: NOW)) as audit:
            delete(self.archive, self.index, audit, plan, Order("someone", "by command"), asked)

    def start(self) -> apply.Replayed:
        """Do what a start does before the node listens."""
        replayed = self.applier.replay()
        recover(self.archive, self.index, self.ingest.quiet_seconds, NOW)
        self.applier.checkpoint()
        return replayed

    def rows(self, query: str = "SELECT * FROM v_images ORDER BY sop_instance_uid") -> list[dict[str, Any]]:
        return read_rows(self.index.root, query)

    def require(self, *sent: FileDataset) -> None:
        """Exactly these instances are indexed, their files are as they were sent, and there are no others."""
        rows = {row["sop_instance_uid"]: row for row in self.rows()}
        assert rows.keys() == {str(ds.SOPInstanceUID) for ds in sent}
        for ds in sent:
            row = rows[str(ds.SOPInstanceUID)]
            assert Path(row["path"]).read_bytes()[row["data_set_offset"] :] == data_set_bytes(ds)
            assert not row["file_missing"]
        assert {str(path) for path in self.folder.glob("objects/*/*")} == {row["path"] for row in rows.values()}
        assert not list(self.folder.glob("incoming/*"))


Open = Callable[..., Parts]


@pytest.fixture
def open_parts(tmp_path: Path) -> Iterator[Open]:
    """Open a root; the process that had it before died without another word."""
    with ExitStack() as ends:

        def open_(policy: OverwritePolicy = "never", *, is_awaited: bool = False) -> Parts:
            ends.close()
            metrics, folder = Metrics(), tmp_path / "root"
            archive = Archive(folder)
            index = ends.enter_context(closing(Index(folder, metrics)))
            journal = ends.enter_context(closing(Journal(folder / "journal", 4 << 20)))
            applier = Applier(journal, archive, index, metrics, is_awaited=is_awaited)
            ends.callback(applier.stop)
            quiet = quiet_seconds_of(60, {})
            ingest = Ingest(
                archive, index, journal, applier, metrics, quiet, 100_000_000, lambda: NOW, overwrite_policy=policy
            )
            return Parts(folder, archive, index, journal, applier, ingest)

        yield open_


@pytest.fixture
def started(open_parts: Open) -> Callable[..., Parts]:
    """Open a root and replay its journal."""

    def start(**options: Any) -> Parts:
        parts = open_parts(**options)
        parts.start()
        return parts

    return start


Started = Callable[..., Parts]


def test_what_was_only_acknowledged_is_there_after_a_start(started: Started) -> None:
    sent = [*make.ct_series(3), large_instance()]
    parts = started()
    parts.receive_all(sent)
    assert parts.rows() == []
    started().require(*sent)
    started().require(*sent)


@pytest.mark.parametrize("policy", ["never", "keep_both"])
def test_records_whose_rows_are_there_already_cost_no_file(started: Started, policy: OverwritePolicy) -> None:
    """Where the index does not tell that they were applied: the file of a row is no copy of itself."""
    first, second = make.ct_series(2)
    parts = started(policy=policy)
    parts.apply(first, second, first, make.corrected(first), make.corrected(first), first)
    rows, conflicts = parts.rows(), parts.rows("SELECT * FROM v_conflicts")
    content = {path: path.read_bytes() for path in parts.folder.glob("*/*/*.dcm")}
    write_rows(parts.folder, "DELETE FROM about WHERE substr(key, 1, 8) = 'applied/'")
    parts = started(policy=policy)
    assert parts.rows() == rows
    assert parts.rows("SELECT * FROM v_conflicts") == conflicts
    assert {path: path.read_bytes() for path in parts.folder.glob("*/*/*.dcm")} == content


def test_a_batch_whose_files_cannot_be_moved_is_settled_later_and_not_applied_again(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = make.ct_series(3)
    parts = started()
    outcomes = parts.receive_all([first, make.corrected(first), second])
    real = os.rename

    def no_room(source: Any, target: Any) -> None:
        if "quarantine" in os.path.realpath(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    with monkeypatch.context() as full:
        full.setattr(os, "rename", no_room)
        for _ in range(2):
            with pytest.raises(OutOfResources):
                parts.applier.step()
    outcomes.append(parts.receive(third))
    while parts.applier.step() is not None:
        pass
    assert [outcome.result(0) for outcome in outcomes] == [
        Outcome.STORED,
        Outcome.OTHER_BYTES,
        Outcome.STORED,
        Outcome.STORED,
    ]
    parts.require(first, second, third)
    assert len(list(parts.folder.glob("quarantine/*.dcm"))) == 1


@pytest.mark.parametrize("loss", ["gone", "empty", "torn", "zeros"])
def test_a_file_that_a_power_cut_took_is_written_again(started: Started, loss: str) -> None:
    sent = make.ct_series(3)
    parts = started()
    parts.apply(*sent)
    parts.require(*sent)
    path = Path(parts.rows()[1]["path"])
    content = path.read_bytes()
    path.unlink()
    if loss != "gone":
        path.write_bytes({"empty": b"", "torn": content[:500], "zeros": bytes(len(content))}[loss])
    parts = started()
    parts.require(*sent)


@pytest.mark.parametrize("lost", ["file", "bytes", "bytes and rows"])
def test_a_file_in_quarantine_that_a_power_cut_took_is_back(started: Started, tmp_path: Path, lost: str) -> None:
    [ds] = make.ct_series(1)
    parts = started()
    parts.apply(ds)
    save_index(parts.folder, tmp_path / "old")
    parts.apply(make.corrected(ds))
    [path] = parts.folder.glob("quarantine/*.dcm")
    content = path.read_bytes()
    path.unlink() if lost == "file" else path.write_bytes(b"")
    if lost == "bytes and rows":
        parts.index.close()
        put_index_back(parts.folder, tmp_path / "old")
    parts = started()
    assert path.read_bytes() == content
    parts.require(ds)


def test_the_moved_part_of_a_large_instance_is_moved_again_where_a_power_cut_undid_it(started: Started) -> None:
    ds = large_instance()
    parts = started()
    parts.receive(ds)
    [part] = parts.folder.glob("incoming/*.part")
    parts.applier.step()
    Path(parts.rows()[0]["path"]).rename(part)
    started().require(ds)


def test_a_file_that_somebody_removes_while_its_row_is_written_holds_up_nothing(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, other = large_instance(), make.ct_series(1)[0]
    parts = started()
    keep_part = parts.archive.keep_part

    def removed(key: str) -> bool:
        kept = keep_part(key)
        parts.archive.path(key).unlink()
        return kept

    monkeypatch.setattr(parts.archive, "keep_part", removed)
    parts.receive(gone)
    parts.apply(other)
    assert {row["sop_instance_uid"] for row in parts.rows()} == {str(gone.SOPInstanceUID), str(other.SOPInstanceUID)}
    documents = parts.rows("SELECT sop_instance_uid FROM images JOIN image_documents ON image_id = images.id")
    assert [row["sop_instance_uid"] for row in documents] == [str(other.SOPInstanceUID)]
    monkeypatch.undo()
    parts.apply(gone)  # its sender has it still
    parts.require(gone, other)
    assert len(parts.rows("SELECT 1 FROM image_documents")) == 2


def test_a_deleted_instance_does_not_come_back_from_the_journal(started: Started) -> None:
    first, second = make.ct_series(1)[0], make.ct_series(1)[0]
    parts = started()
    parts.apply(first, second)
    parts.delete(parts.plan(first))
    started().require(second)
    lose_index(parts.folder)
    started().require(second)  # the index was rebuilt


@pytest.mark.parametrize("after", [-1, 1])
def test_an_instance_that_comes_while_its_study_is_deleted_is_kept_and_nothing_is_called_lost(
    started: Started, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Its receipt is after the deletion was asked for, or before, if it waited in the journal."""
    first, late = make.ct_series(2)
    parts = started()
    parts.apply(first)
    plan = parts.plan(first)
    order = parts.index.deletions.order
    applying = threading.Thread(target=parts.applier.step)

    def order_while_one_comes(*arguments: Any, **more: Any) -> Deletion:
        parts.receive(late)
        applying.start()
        applying.join(0.5)  # it ends before the deletion is ordered, unless the deletion keeps it waiting
        return order(*arguments, **more)

    monkeypatch.setattr(parts.index.deletions, "order", order_while_one_comes)
    parts.delete(plan, NOW - dt.timedelta(seconds=after))
    applying.join()
    parts.applier.checkpoint()
    assert note_lost(parts.archive, parts.index, NOW) == 0
    owed = [one for some in unaccounted(parts.folder, lambda some: list(range(len(some)))) for one in some]
    assert [one.sop_instance_uid for one in owed] == [str(late.SOPInstanceUID)], "what the ledger tells a new index"
    parts.require(late)
    lose_rows(parts)
    assert note_lost(parts.archive, parts.index, NOW) == 1


def lose_rows(parts: Parts) -> None:
    """An accident, of which the ledger knows."""
    write_rows(parts.folder, "DELETE FROM image_documents")
    write_rows(parts.folder, "DELETE FROM images")


@pytest.mark.parametrize("after", [-1, 1])
def test_what_was_sent_again_before_a_deletion_is_resumed_is_owed(
    started: Started, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    [ds] = make.ct_series(1)
    parts = started()
    parts.apply(ds)
    plan = parts.plan(ds)

    with monkeypatch.context() as kill:
        kill.setattr("node.lifecycle.deletion.reached", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            parts.delete(plan)
    monkeypatch.setattr(parts.ingest, "now", lambda: NOW + dt.timedelta(seconds=after))
    parts.apply(ds)
    parts.applier.checkpoint()
    assert resume_deletions(parts.archive, parts.index, NOW) == 1
    parts.require(ds)
    lose_rows(parts)
    assert note_lost(parts.archive, parts.index, NOW) == 1


def test_what_is_sent_again_while_it_is_written_off_is_owed(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    [ds] = make.ct_series(1)
    parts = started()

    def take() -> None:
        parts.apply(ds)
        parts.applier.checkpoint()

    def lose() -> int:
        lose_rows(parts)
        for path in parts.folder.glob("objects/*/*"):
            path.unlink()
        return note_lost(parts.archive, parts.index, NOW)

    take()
    assert lose() == 1
    lost_of = parts.index.lost.of

    def lost_before_it_came(uid: str | None) -> list[Acknowledged]:
        lost = lost_of(uid)
        take()
        return lost

    monkeypatch.setattr(parts.index.lost, "of", lost_before_it_came)
    with closing(Audit(parts.folder, "VOXELNODE", now=lambda: NOW)) as audit:
        assert write_off(parts.archive, parts.index, audit, None, "gone", "someone", NOW) == 1
    parts.require(ds)
    assert lose() == 1
    parts.apply(make.corrected(ds))
    parts.applier.checkpoint()
    assert note_lost(parts.archive, parts.index, NOW) == 0, "another version stands for the one that was lost"


def test_a_new_index_is_made_of_files_and_journal(started: Started) -> None:
    first, second, third = make.ct_series(3)
    parts = started()
    parts.apply(first)
    parts.applier.checkpoint()
    parts.apply(second)
    parts.receive(third)
    lose_index(parts.folder)
    started().require(first, second, third)


def test_an_index_that_is_older_than_the_journal_takes_what_it_lacks_from_it(started: Started, tmp_path: Path) -> None:
    sent = make.ct_series(4)
    parts = started()
    parts.apply(sent[0])
    save_index(parts.folder, tmp_path / "old")
    for ds in sent[1:]:
        parts.apply(ds)
    parts.index.close()
    put_index_back(parts.folder, tmp_path / "old")
    started().require(*sent)


def test_an_index_of_another_journal_takes_all_of_this_one(started: Started) -> None:
    first, second, third = make.ct_series(3)
    parts = started()
    parts.apply(first, second)
    parts.applier.checkpoint()
    empty_folder(parts.folder / "journal")
    parts = started()
    parts.require(first, second)
    parts.receive(third)  # number 1 of a new journal
    started().require(first, second, third)


def test_a_journal_whose_headers_are_all_damaged_costs_no_file(started: Started) -> None:
    sent = make.ct_series(3)
    parts = started()
    parts.apply(*sent)
    for path in parts.folder.glob("journal/*.journal"):
        content = path.read_bytes()
        path.write_bytes(content[:20] + bytes([content[20] ^ 1]) + content[21:])
    started().require(*sent)


def test_a_root_from_before_the_journal_is_opened_with_all_its_instances(started: Started) -> None:
    first, second = make.ct_series(2)
    parts = started()
    parts.apply(first)
    write_rows(parts.folder, "DELETE FROM about WHERE substr(key, 1, 8) IN ('applied/', 'checkpoi')")
    empty_folder(parts.folder / "journal")
    parts = started()
    parts.require(first)
    parts.apply(second)
    started().require(first, second)


def events(parts: Parts, name: str) -> list[dict[str, Any]]:
    return parts.rows(f"SELECT * FROM v_events WHERE kind = '{name}'")


POISON: dict[str, Callable[[bytes, bytes], tuple[bytes, bytes]]] = {
    "facts that are no JSON": lambda facts, payload: (b"{", payload),
    "facts of another version": lambda facts, payload: (facts.replace(b'"peer"', b'"pear"'), payload),
    "a data set that is none": lambda facts, payload: (facts, b"no DICOM at all"),
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("poison", POISON)
@pytest.mark.parametrize("live", [True, False])
def test_a_record_that_cannot_be_applied_is_set_aside_and_nothing_stops_behind_it(
    open_parts: Open, started: Started, poison: str, live: bool
) -> None:
    first, poisoned, last = make.ct_series(3)
    parts = started()
    parts.receive(first)
    parts.receive(poisoned)
    record = parts.journal.read(parts.journal.start, 2, 1 << 30)[0][1]
    facts, payload = POISON[poison](record.facts, record.payload)
    for path in [*parts.folder.glob("journal/*")]:  # the same journal without the record that was not poisoned
        parts.journal.close()
        path.unlink()
    parts = started()
    parts.receive(first)
    parts.journal.append(facts, payload)
    parts.receive(last)
    if live:
        with pytest.MonkeyPatch.context() as patch:  # what the thread that received has handed over is not at hand
            patch.setattr(parts.journal, "_known", {})
            parts.applier.step()
        assert parts.applier.lag == 0
    parts = open_parts()
    for _ in range(2):
        parts.applier.replay()
        parts = open_parts()  # no checkpoint: everything is compared again
    parts.start()
    parts.require(first, last)
    [event] = events(parts, "instance-set-aside")
    [kept] = parts.folder.glob("quarantine/*")
    assert kept.read_bytes() == payload
    assert kept.name in event["detail"]


def test_senders_that_wait_for_the_index_share_commits(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, committed = started(is_awaited=True), Mock()
    monkeypatch.setattr(parts.applier._metrics.commit_instances, "observe", committed)
    parts.applier.start()
    first, second, third, fourth = make.ct_series(4)
    assert parts.receive(first).result(30) is Outcome.STORED  # alone, it waits for nobody
    monkeypatch.setattr(pace, "GATHER_SECONDS", 60.0)
    parts.applier._note(company=2, took=60.0)
    outcome = parts.receive(second)
    assert parts.receive(third).result(30) is outcome.result(30) is Outcome.STORED
    parts.applier._note(took=0.0)
    assert parts.receive(fourth).result(30) is Outcome.STORED  # the other has nothing more to send
    assert [batch.args for batch in committed.call_args_list] == [(1,), (2,), (1,)]


def test_an_instance_that_an_index_refuses_goes_aside_alone(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = make.ct_series(5)
    refused = str(sent[2].SOPInstanceUID)
    real = instances.add_instances

    def add_instances(connection: Any, batch: Any, *more: Any, **named: Any) -> Any:
        if any(one.attributes.sop_instance_uid == refused for one in batch):
            raise ValueError("such a value")
        return real(connection, batch, *more, **named)

    monkeypatch.setattr(instances, "add_instances", add_instances)
    parts = started()
    outcomes = parts.receive_all(sent)
    while parts.applier.step() is not None:
        pass
    rest = [ds for ds in sent if str(ds.SOPInstanceUID) != refused]
    parts.require(*rest)
    with pytest.raises(NotUnderstood, match="ValueError"):  # sending it again does not help
        outcomes[2].result(0)
    assert [outcomes[number].result(0) for number in (0, 1, 3, 4)] == [Outcome.STORED] * 4
    [kept] = parts.folder.glob("quarantine/*")
    assert kept.read_bytes().endswith(data_set_bytes(sent[2]))
    parts = started()
    parts.require(*rest)
    assert len(events(parts, "instance-set-aside")) == 1


def test_a_damaged_record_is_reported_and_its_segment_and_the_part_files_are_kept(started: Started) -> None:
    first, large, last = make.ct_series(1)[0], large_instance(), make.ct_series(1)[0]
    parts = started()
    parts.receive_all([first, large, last])
    [part] = parts.folder.glob("incoming/*.part")
    content_of_large = part.read_bytes()
    path = max(parts.folder.glob("journal/*.journal"), key=lambda path: path.read_bytes().count(b"VXJR"))
    content = bytearray(path.read_bytes())
    second = content.index(b"VXJR", content.index(b"VXJR") + 4)
    content[second + 60] ^= 1
    path.write_bytes(content)
    parts = started()
    parts.require(first, last)
    assert "records 2 to 2" in events(parts, "journal-damaged")[0]["detail"]
    kept = {path.name: path.read_bytes() for path in parts.folder.glob("quarantine/*")}
    assert kept.pop(f"{part.stem}.dcm") == content_of_large
    assert list(kept.values()) == [bytes(content)]


@pytest.mark.parametrize("others", [[], [b"has the name already"]])
def test_a_lost_segment_is_reported_and_the_part_files_are_kept(started: Started, others: list[bytes]) -> None:
    large, parts = large_instance(), started()
    parts.receive(large)
    [part] = parts.folder.glob("incoming/*.part")
    content = part.read_bytes()
    for segment in parts.folder.glob("journal/*.journal"):
        segment.unlink()
    for other in others:
        (parts.folder / "quarantine" / f"{part.stem}.dcm").write_bytes(other)
    (parts := started()).require()
    assert f"missing with its segment {segment.name}" in events(parts, "journal-damaged")[0]["detail"]
    [aside] = events(parts, "instance-set-aside")
    assert (parts.folder / aside["detail"].split(": ")[1]).read_bytes() == content
    assert {path.read_bytes() for path in parts.folder.glob("quarantine/*.dcm")} == {content, *others}


def test_a_step_that_leaves_records_is_followed_at_once(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "MAX_BATCH", 2)
    parts = started()
    parts.receive_all(make.ct_series(5))
    assert [parts.applier.step() for _ in range(3)] == [0.0, 0.0, None]
    assert parts.applier.lag == 0


def test_a_checkpoint_beside_a_batch_syncs_every_file_before_its_record_is_freed(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    [ds] = make.ct_series(1)
    parts = started()
    parts.apply(make.ct_series(1)[0])
    synced: set[str] = set()
    real_write, real_sync = parts.archive.write, parts.archive.sync

    def sync(keys: set[str]) -> None:
        synced.update(key for key in keys if parts.archive.path(key).exists())
        real_sync(keys)

    def write(key: str, content: bytes) -> None:
        parts.applier.checkpoint()  # as a deletion makes it, on another thread
        real_write(key, content)

    monkeypatch.setattr(parts.archive, "sync", sync)
    monkeypatch.setattr(parts.archive, "write", write)
    parts.apply(ds)
    parts.applier.checkpoint()
    assert parts.journal.freed == 2
    assert {row["path"] for row in parts.rows()} == {str(parts.archive.path(key)) for key in synced}


def test_an_index_that_is_locked_for_long_delays_rows_and_no_acknowledgement(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_locks_up_after(0.05, monkeypatch)
    monkeypatch.setattr(Applier.catch_up, "__defaults__", (0.05,))
    monkeypatch.setattr("node.runtime.background.PAUSE_SECONDS", 0.05)
    sent = make.ct_series(3)
    parts = started()
    parts.index.ahead = parts.applier
    with index_locked(parts.folder):
        parts.applier.start()
        outcomes = parts.receive_all(sent)
        with pytest.raises(QueryRefused, match="3 instances behind"), parts.index.reading():
            pass
        assert not any(outcome.done() for outcome in outcomes)
        assert parts.applier.lag == 3
        assert parts.applier.lag_seconds > 0
    assert [outcome.result(30) for outcome in outcomes] == [Outcome.STORED] * 3
    with parts.index.reading():
        parts.require(*sent)


@pytest.mark.slow
def test_commits_that_fail_leave_one_file_a_record_however_often_they_are_tried(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_locks_up_after(0.01, monkeypatch)
    [ds] = make.ct_series(1)
    parts = started()
    with index_locked(parts.folder):
        for _ in range(3):
            parts.receive(ds)  # the sender repeats what it sent
        for _ in range(3):
            with pytest.raises(OutOfResources):
                parts.applier.step()
            assert len(list(parts.folder.glob("objects/*/*"))) == 3
    parts.applier.step()
    parts.require(ds)


def test_a_query_waits_for_what_was_acknowledged_before_it(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    [ds] = make.ct_series(1)
    parts = started()
    parts.index.ahead = parts.applier
    begun, go_on = threading.Event(), threading.Event()
    real = parts.applier.apply

    def slowly(records: Any) -> None:
        begun.set()
        assert go_on.wait(30)
        real(records)

    monkeypatch.setattr(parts.applier, "apply", slowly)
    parts.applier.start()
    parts.receive(ds)

    def study_count() -> int:
        with parts.index.reading():
            return len(parts.rows("SELECT * FROM v_studies"))

    with ThreadPoolExecutor(1) as threads:
        counted = threads.submit(study_count)
        assert begun.wait(30)
        assert not counted.done()
        go_on.set()
        assert counted.result(30) == 1


def test_a_batch_waits_while_senders_send_until_it_is_full_or_late(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "GATHER_SECONDS", 1000.0)
    monkeypatch.setattr(pace, "YIELD_SECONDS", 1000.0)
    monkeypatch.setattr(pace, "MAX_GATHERED", 3)
    monkeypatch.setattr(apply, "MAX_BATCH", 2)
    parts, committed = started(), Mock()
    monkeypatch.setattr(parts.applier._metrics.commit_instances, "observe", committed)
    first, *others, last = make.ct_series(5)
    parts.applier.start()
    for ds in (first, *others):
        parts.receive(ds)
        if ds is first:
            assert parts.applier.catch_up()
    assert parts.applier._wait_until(lambda: not parts.applier.lag, 30)
    monkeypatch.setattr(pace, "YIELD_SECONDS", 0.0)
    parts.receive(last)
    assert parts.applier._wait_until(lambda: not parts.applier.lag, 30)
    assert [batch.args for batch in committed.call_args_list] == [(1,), (2,), (1,), (1,)]


def test_batches_wait_for_senders_no_longer_while_somebody_reads(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, due = started(), Mock()
    monkeypatch.setattr(parts.applier, "wake_not_before", due)
    first, second, *others = make.ct_series(4)
    parts.receive(first)
    parts.receive(second)
    assert due.call_args_list[0] != due.call_args_list[1]  # each record lets the batch wait longer
    parts.applier.step()
    parts.applier.require_caught_up()
    for ds in others:
        parts.receive(ds)
    assert due.call_args_list[2] == due.call_args_list[3]


def test_a_failed_read_of_the_journal_stops_intake(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = started()
    parts.receive(make.ct_series(1)[0])

    monkeypatch.setattr(parts.journal, "read", Mock(side_effect=OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OutOfResources, match="EIO"):
        parts.applier.step()
    with pytest.raises(OutOfResources, match="intake has stopped"):
        parts.receive(make.ct_series(1)[0])


@pytest.mark.parametrize("large", [False, True])
def test_an_instance_whose_append_fails_is_refused_and_leaves_nothing(
    started: Started, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    [ds] = make.ct_series(1)
    parts = started()
    parts.receive(ds)

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("node.journal.segment.os.pwritev", fail)
        for _ in range(5):
            with pytest.raises(OutOfResources, match="ENOSPC"):
                parts.receive(large_instance() if large else make.ct_series(1)[0])
    assert len(parts.archive.folders()) <= 1
    while parts.applier.step() is not None:
        pass
    parts.require(ds)
    started().require(ds)


def test_an_instance_that_ends_after_the_node_has_stopped_is_refused(started: Started) -> None:
    [ds] = make.ct_series(1)
    parts = started()
    incoming = parts.ingest.begin(announced(ds), ORIGIN)
    incoming.take_fragment(data_set_bytes(ds))
    parts.journal.close()
    with pytest.raises(OutOfResources, match="closed"):
        incoming.finish()
