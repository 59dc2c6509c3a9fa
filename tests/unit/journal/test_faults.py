"""A disk that is full or fails under a journal."""

from __future__ import annotations

import errno
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import Mock

import pytest

from node.journal.inspection import MARK_FILE
from node.journal.segment import Damage, Record, SegmentGone
from tests.unit.journal.conftest import PAYLOAD, PER_SEGMENT, Opened, fill


class Fault:
    """Let a function of `os` fail; with `after`, it does its work first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, error: int, *, after: bool = False) -> None:
        self.calls, self.on = 0, True
        real = getattr(os, name)

        def call(*arguments: Any) -> Any:
            self.calls += 1
            if self.on and not after:
                raise OSError(error, os.strerror(error))
            result = real(*arguments)
            if self.on:
                raise OSError(error, os.strerror(error))
            return result

        monkeypatch.setattr(f"node.journal.segment.os.{name}", call)

    def __enter__(self) -> Fault:
        return self

    def __exit__(self, *_: object) -> None:
        self.on = False


def found(opened: Opened) -> list[tuple[int, bytes]]:
    left: list[Record | Damage] = opened.left()
    assert not [gap for gap in left if isinstance(gap, Damage)]
    return [(record.sequence, record.facts) for record in left if isinstance(record, Record)]


@pytest.mark.parametrize(
    ("name", "error", "after"),
    [
        ("pwritev", errno.ENOSPC, False),
        ("pwritev", errno.ENOSPC, True),
        ("pwrite", errno.ENOSPC, False),
        ("pwrite", errno.ENOSPC, True),
        ("open", errno.EMFILE, False),
    ],
)
def test_an_append_without_room_or_descriptor_is_refused_and_the_next_one_is_not(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, name: str, error: int, after: bool
) -> None:
    journal = opened.filled(PER_SEGMENT)  # the next record needs a new segment
    with Fault(monkeypatch, name, error, after=after), pytest.raises(OSError, match=os.strerror(error)):
        journal.append(b"refused", PAYLOAD)
    assert fill(journal, 1) == [PER_SEGMENT + 1]
    assert found(opened) == [(number, b"%d" % number) for number in range(1, PER_SEGMENT + 2)]


def test_a_segment_that_cannot_grow_is_an_error_that_names_it(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = opened.filled(1)._used[-1]
    with Fault(monkeypatch, "pwrite", errno.ENOSPC), pytest.raises(OSError, match="No space left") as reported:
        segment.grow(segment.capacity + 1)
    assert reported.value.filename == str(segment.path)


@pytest.mark.parametrize("name", ["pwrite", "fdatasync"])
def test_a_clean_segment_that_cannot_be_begun_is_an_error_and_ends_the_appends(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    journal = opened.filled(2)
    with Fault(monkeypatch, name, errno.EIO), pytest.raises(OSError, match="Input/output error"):
        journal.begin_clean()
    for attempt in (journal.begin_clean, lambda: journal.append(b"refused")):
        with pytest.raises(OSError, match="Input/output error"):
            attempt()


def test_a_refused_record_never_replaces_an_acknowledged_one(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened.filled(PER_SEGMENT - 1)
    with Fault(monkeypatch, "fdatasync", errno.ENOSPC, after=True), pytest.raises(OSError, match="No space left"):
        journal.append(b"refused", b"short")  # whole, in the room that the first segment has left
    assert journal.append(b"acknowledged", 2 * PAYLOAD) == PER_SEGMENT  # too long for it
    assert fill(journal, 1) == [PER_SEGMENT + 1]
    assert found(opened)[PER_SEGMENT - 1 :] == [(PER_SEGMENT, b"acknowledged"), (PER_SEGMENT + 1, b"6")]


def test_no_part_of_a_refused_batch_follows_other_records(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened.ready(segment_bytes=1 << 20)
    journal.append(b"first")
    fault = Fault(monkeypatch, "fdatasync", errno.ENOSPC, after=True)
    with journal._leading, ThreadPoolExecutor(3) as threads:
        refused = [threads.submit(journal.append, b"refused") for _ in range(3)]
        while len(journal._waiting) < 3:
            pass
        journal._leading.release()
        try:
            for append in refused:
                with pytest.raises(OSError, match="No space left"):
                    append.result(timeout=10)
        finally:
            journal._leading.acquire()
    fault.on = False
    assert journal.append(b"follows") == 2  # as long as a refused one
    assert found(opened) == [(1, b"first"), (2, b"follows")]


@pytest.mark.parametrize("name", ["fdatasync", "pwritev"])
def test_after_an_error_of_the_disk_no_append_succeeds_until_the_journal_is_opened_anew(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    journal = opened.filled(2)
    with Fault(monkeypatch, name, errno.EIO) as fault, pytest.raises(OSError, match="Input/output error"):
        journal.append(b"refused", PAYLOAD)
    calls = fault.calls
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output error"):
            journal.append(b"refused", PAYLOAD)
    assert fault.calls == calls  # and no sync was tried again
    assert [record.sequence for record in journal.read(journal.start, 10, 1 << 30)[0]] == [1, 2]
    journal = opened.ready()
    last = journal.last
    assert last in (2, 3)  # the record whose sync failed may be there: a sender that was refused sends it again
    assert fill(journal, 1) == [last + 1]


def test_all_that_share_a_failed_sync_are_refused(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened.ready()
    Fault(monkeypatch, "fdatasync", errno.EIO)

    def append(number: int) -> bool:
        try:
            return bool(journal.append(b"%d" % number))
        except OSError:
            return False

    with ThreadPoolExecutor(8) as threads:
        assert not any(threads.map(append, range(40)))
    assert journal.last == 0


def test_a_failed_sync_of_a_preallocation_ends_the_appends(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened.filled(3)
    with monkeypatch.context() as failing:
        failing.setattr(os, "fsync", Mock(side_effect=OSError(errno.EIO, "Input/output error")))
        with pytest.raises(OSError, match="Input/output"):
            journal.prepare()
    with pytest.raises(OSError, match="Input/output"):
        journal.append(b"refused")


def test_the_sync_of_a_preallocation_cannot_take_the_error_of_an_append_from_it(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reports an error of writing back once for each open file: the appends need one of their own."""
    journal = opened.ready()
    of_appends: set[int] = set()
    of_others: set[int] = set()
    real_data_sync, real_sync = os.fdatasync, os.fsync

    def fdatasync(descriptor: int) -> None:
        of_appends.add(descriptor)
        real_data_sync(descriptor)

    def fsync(descriptor: int) -> None:
        of_others.add(descriptor)
        real_sync(descriptor)

    fill(journal, 3)
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    monkeypatch.setattr(os, "fsync", fsync)
    journal.prepare()
    fill(journal, 2)
    assert of_appends
    assert of_others
    assert not of_appends & of_others


def test_a_write_that_is_cut_short_is_finished(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened.ready()
    real = os.pwritev

    def short(descriptor: int, buffers: list[bytes], at: int) -> int:
        return real(descriptor, [b"".join(buffers)[:17]], at)

    monkeypatch.setattr("node.journal.segment.os.pwritev", short)
    fill(journal, 3)
    assert [number for number, _ in found(opened)] == [1, 2, 3]


def test_a_batch_of_more_buffers_than_a_write_takes_is_whole(opened: Opened) -> None:
    opened.ready().append(b"many", *[b"x"] * 1500)
    [record] = opened.left()
    assert record.payload == b"x" * 1500


@pytest.mark.parametrize("spare", [False, True])
def test_a_segment_that_was_only_begun_hides_no_record_of_the_one_that_was_begun_instead(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, spare: bool
) -> None:
    journal = opened.filled(2 * PER_SEGMENT)
    if spare:  # of a lower number than the one that is begun in vain
        journal.prepare()
        journal.free(PER_SEGMENT)
    # as a kill between the header of a segment and its first record
    with Fault(monkeypatch, "pwritev", errno.EIO), pytest.raises(OSError, match="Input/output error"):
        journal.append(b"refused", PAYLOAD)
    journal = opened.ready()
    begun = 2 * PER_SEGMENT + 1
    assert fill(journal, PER_SEGMENT + 1) == list(range(begun, begun + PER_SEGMENT + 1))
    first = PER_SEGMENT + 1 if spare else 1
    assert [number for number, _ in found(opened)] == list(range(first, begun + PER_SEGMENT + 1))


def test_without_a_mark_nothing_is_used_again(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened.filled(2 * PER_SEGMENT)

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            journal.free(PER_SEGMENT)
    assert journal.freed == 0
    assert json.loads((opened.folder / MARK_FILE).read_bytes())["freed"] == 0
    assert journal.has_whole_segment(PER_SEGMENT)
    journal.free(PER_SEGMENT)
    assert journal.freed == PER_SEGMENT


def test_a_record_that_cannot_be_read_back_is_an_error_and_not_skipped(opened: Opened) -> None:
    journal = opened.filled(3)
    [path] = opened.segments()
    content = bytearray(path.read_bytes())
    content[content.index(b"VXJR", content.index(b"VXJR") + 1) + 3000] ^= 1
    path.write_bytes(content)
    with pytest.raises(OSError, match="record"):
        journal.read(journal.start, 10, 1 << 30)


@pytest.mark.parametrize("number", [0, 1], ids=["freed", "written to"])
def test_a_segment_that_is_gone_is_reported_before_the_next_append(opened: Opened, number: int) -> None:
    journal = opened.filled(PER_SEGMENT + 1)
    journal.free(PER_SEGMENT)
    opened.segments()[number].unlink()
    assert "was removed" in str(journal.problem())
    with pytest.raises(SegmentGone, match="was removed"):
        journal.append(b"refused")


@pytest.mark.parametrize("harm", ["removed", "replaced", "cut", "folder removed", "folder replaced"])
def test_nothing_is_acknowledged_into_a_segment_that_is_not_at_its_path(opened: Opened, harm: str) -> None:
    journal = opened.filled(3)
    assert journal.problem() is None
    [path] = opened.segments()
    elsewhere = opened.folder.with_name("elsewhere")
    match harm:
        case "removed":
            path.unlink()
        case "replaced":
            path.with_name("copy").write_bytes(path.read_bytes())
            path.with_name("copy").replace(path)
        case "cut":
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size - 1)
        case "folder removed":
            opened.folder.rename(elsewhere)
        case "folder replaced":
            opened.folder.rename(elsewhere)
            shutil.copytree(elsewhere, opened.folder)
    how = harm.removeprefix("folder ")
    with pytest.raises(SegmentGone, match=f"was {how}.*while the node was running"):
        journal.append(b"4", b"not acknowledged")
    assert journal.last == 3
    assert how in str(journal.problem())
    records, _ = journal.read(journal.start, 10, 1 << 30)
    assert [record.sequence for record in records] == [1, 2, 3]
    if elsewhere.exists():
        return
    journal.free(3)  # made durable elsewhere
    journal.close()
    assert [one for one in opened.left() if isinstance(one, Damage)] == []
