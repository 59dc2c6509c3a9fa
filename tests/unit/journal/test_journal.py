"""What was appended is read back, in its order, by this process and by the next one."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import pytest

from node.journal import journal as journal_module
from node.journal.inspection import JournalUnusable, inspect, records, segment_files
from node.journal.journal import Cursor, Journal, JournalFull, _Waiting
from node.journal.segment import HEADER_BYTES, RECORD_HEAD_BYTES, Damage, Record, Segment
from tests.unit.journal.conftest import PAYLOAD, PER_SEGMENT, SEGMENT_BYTES, Opened, fill


def numbers(found: list[Record | Damage]) -> list[int]:
    """The numbers of records, among which there is no damage, and each of which is the one that was appended."""
    assert all(isinstance(record, Record) and record.facts == b"%d" % record.sequence for record in found), found
    return [record.sequence for record in found if isinstance(record, Record)]


def test_what_was_appended_is_read_back_by_the_same_process(opened: Opened) -> None:
    journal = opened.ready()
    assert journal.append(b"facts", b"first ", b"", b"second") == 1
    assert journal.append(b"", b"") == 2
    read, cursor = journal.read(journal.start, 10, 1 << 20)
    assert read == [Record(1, b"facts", b"first second"), Record(2, b"", b"")]
    assert journal.read(cursor, 10, 1 << 20) == ([], cursor)
    assert journal.append(b"third") == 3
    assert [record.sequence for record in journal.read(cursor, 10, 1 << 20)[0]] == [3]


def test_what_was_appended_is_replayed_by_the_next_process_until_it_is_freed(opened: Opened) -> None:
    opened.filled(12)
    for _ in range(2):
        assert numbers(opened.left()) == list(range(1, 13))
    journal = opened.ready()
    assert fill(journal, 1) == [13]
    journal.free(12)
    assert numbers(opened.left()) == [13]


def test_a_read_ends_at_so_many_records_or_bytes_and_goes_on_behind_them(opened: Opened) -> None:
    journal = opened.filled(12)
    cursor, taken = journal.start, []
    while True:
        read, cursor = journal.read(cursor, 3, 2 * len(PAYLOAD))
        if not read:
            break
        taken.append(numbers(list(read)))
    assert taken == [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11, 12]]
    assert [len(journal.read(Cursor(1, HEADER_BYTES), count, 1 << 30)[0]) for count in (1, 3)] == [1, 3]


def test_many_threads_share_syncs_and_every_append_is_durable_when_it_returns(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = opened.ready(segment_bytes=1 << 20)
    synced: list[int] = []
    waiting = threading.Semaphore(0)
    real = os.fdatasync

    def sync(descriptor: int) -> None:
        if not synced:
            for _ in range(7):
                assert waiting.acquire(timeout=10)  # the seven others are on their way while the first one syncs
        real(descriptor)
        synced.append(descriptor)

    monkeypatch.setattr("node.journal.segment.os.fdatasync", sync)
    returned: list[tuple[int, bytes]] = []

    def append(thread: int) -> None:
        for number in range(50):
            waiting.release()
            facts = b"%d of %d" % (number, thread)
            sequence = journal.append(facts, PAYLOAD[:100])
            on_disk = {record.sequence: record.facts for record in records(opened.folder)} if number == 49 else None
            assert on_disk is None or on_disk[sequence] == facts
            returned.append((sequence, facts))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(append, range(8)))
    assert sorted(sequence for sequence, _ in returned) == list(range(1, 401))
    assert len(synced) < 400
    assert [(record.sequence, record.facts) for record in opened.left() if isinstance(record, Record)] == sorted(
        returned
    )


def test_a_lone_thread_syncs_once_for_each_append(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened.ready()
    synced: list[int] = []
    monkeypatch.setattr("node.journal.segment.os.fdatasync", synced.append)
    fill(journal, 5)
    assert len(synced) == 5


def test_a_record_that_no_segment_can_hold_is_refused_and_the_largest_one_is_not(opened: Opened) -> None:
    journal = opened.ready()
    room = SEGMENT_BYTES - HEADER_BYTES - RECORD_HEAD_BYTES
    with pytest.raises(ValueError, match="does not fit"):
        journal.append(b"f", bytes(room))
    assert [journal.append(b"f", bytes(room - 1)) for _ in range(3)] == [1, 2, 3]
    assert [found.sequence for found in opened.left() if isinstance(found, Record)] == [1, 2, 3]


ROOM = SEGMENT_BYTES - HEADER_BYTES


@pytest.mark.parametrize(
    ("sizes", "segments"),
    [
        ((ROOM,), [1]),
        ((ROOM // 2, ROOM // 2), [2]),
        ((ROOM // 2, ROOM // 2 + 1), [1, 1]),
        ((ROOM // 2, ROOM // 2, ROOM // 2), [2, 1]),
        ((ROOM // 4, ROOM, ROOM // 4, ROOM // 4), [1, 1, 2]),
        ((ROOM // 2, ROOM // 2 + 1, ROOM // 2 - 1), [1, 2]),
    ],
)
def test_records_that_come_at_once_fill_segments_to_the_last_byte_and_not_beyond(
    opened: Opened, sizes: tuple[int, ...], segments: list[int]
) -> None:
    journal = opened.ready()
    batch = [
        _Waiting(b"%d" % number, (bytes(size - RECORD_HEAD_BYTES - 1),), size) for number, size in enumerate(sizes, 1)
    ]
    journal._write(list(batch))
    assert [(waiting.sequence, waiting.error) for waiting in batch] == [(n, None) for n in range(1, len(sizes) + 1)]
    assert max(path.stat().st_size for path in opened.segments()) <= SEGMENT_BYTES
    firsts = [*(segment.begins_at for segment in journal._used), len(sizes) + 1]
    assert [after - first for first, after in pairwise(firsts)] == segments
    assert numbers(opened.left()) == list(range(1, len(sizes) + 1))


def test_a_second_process_on_one_journal_is_refused_until_the_first_one_ends(opened: Opened) -> None:
    journal = opened.ready()
    with pytest.raises(JournalUnusable, match="in use by another process"):
        Journal(opened.folder)
    journal.append(b"1")
    journal.close()
    Journal(opened.folder).close()


def test_an_append_to_a_closed_journal_touches_no_file(opened: Opened) -> None:
    journal = opened.ready()
    journal.append(b"1", PAYLOAD)
    [segment] = journal._used
    journal.close()
    path = opened.folder / "other"
    with path.open("wb+") as first, path.open("wb+") as second:  # descriptors that the journal had
        assert segment._file in (first.fileno(), second.fileno())
        with pytest.raises(JournalUnusable, match="closed"):
            journal.append(b"2", PAYLOAD)
        assert path.read_bytes() == b""


def test_freed_segments_are_used_again_and_old_records_never_come_back(opened: Opened) -> None:
    journal = opened.ready(max_bytes=3 * SEGMENT_BYTES)
    for _ in range(20):
        journal.free(fill(journal, PER_SEGMENT - 1)[-1])
    assert len(opened.segments()) <= 3
    fill(journal, 2)
    assert numbers(opened.left()) == [81, 82]


def test_a_segment_is_not_used_again_before_the_mark_says_so(opened: Opened) -> None:
    journal = opened.filled(3 * PER_SEGMENT)
    before = {path: path.read_bytes() for path in opened.segments()}
    fill(journal, 1)
    journal.free(PER_SEGMENT - 1)  # one record short of a whole segment
    fill(journal, 2 * PER_SEGMENT)
    assert all(path.read_bytes() == content for path, content in before.items())
    assert not journal.has_whole_segment(PER_SEGMENT - 1)
    assert journal.has_whole_segment(PER_SEGMENT)


def test_a_process_that_died_before_its_first_record_leaves_nothing(opened: Opened) -> None:
    journal = opened.ready()
    last = fill(journal, 2 * PER_SEGMENT)[-1]
    journal.free(last)
    for _ in range(3):
        assert opened.ready().last == last
    assert fill(opened.ready(), 1) == [last + 1]
    assert numbers(opened.left()) == [last + 1]


def test_appends_wait_for_room_and_go_on_when_a_segment_is_freed(opened: Opened) -> None:
    journal = opened.filled(3 * PER_SEGMENT, max_bytes=3 * SEGMENT_BYTES)
    with ThreadPoolExecutor(1) as threads:
        appended = threads.submit(fill, journal, 1)
        assert not appended.done()
        journal.free(PER_SEGMENT)
        assert appended.result(timeout=10) == [3 * PER_SEGMENT + 1]


def test_a_journal_that_stays_full_refuses_and_accepts_again(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "ROOM_SECONDS", 0.01)
    journal = opened.filled(3 * PER_SEGMENT, max_bytes=3 * SEGMENT_BYTES)
    with pytest.raises(JournalFull, match="3 segments"):
        journal.append(b"refused", PAYLOAD)
    assert journal.last == 3 * PER_SEGMENT
    journal.free(PER_SEGMENT)
    assert fill(journal, 1) == [3 * PER_SEGMENT + 1]
    assert numbers(opened.left()) == list(range(PER_SEGMENT + 1, 3 * PER_SEGMENT + 2))


def test_a_full_journal_can_be_opened_and_replayed(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "ROOM_SECONDS", 0.01)
    fill(opened.ready(max_bytes=3 * SEGMENT_BYTES), 3 * PER_SEGMENT)
    for _ in range(2):
        journal = opened.open(max_bytes=3 * SEGMENT_BYTES)
        assert numbers(list(journal.replay())) == list(range(1, 3 * PER_SEGMENT + 1))
    journal.free(journal.last)
    assert fill(journal, 1) == [3 * PER_SEGMENT + 1]
    assert numbers(opened.left()) == [3 * PER_SEGMENT + 1]


def test_segments_that_are_prepared_beside_appends_lose_no_record(opened: Opened) -> None:
    journal = opened.ready(max_bytes=1000 * SEGMENT_BYTES)
    done = threading.Event()

    def prepare() -> int:
        rounds = 0
        while not done.is_set():
            journal.prepare()
            rounds += 1
        return rounds

    with ThreadPoolExecutor(5) as threads:
        prepared = threads.submit(prepare)
        appends = [threads.submit(lambda: [journal.append(b"", PAYLOAD) for _ in range(50)]) for _ in range(4)]
        taken = sorted(sequence for appended in appends for sequence in appended.result(timeout=60))
        done.set()
        assert prepared.result(timeout=10) > 0
    assert taken == list(range(1, 201))
    assert [(found.sequence, found.payload) for found in opened.left() if isinstance(found, Record)] == [
        (sequence, PAYLOAD) for sequence in taken
    ]


def test_a_prepared_segment_is_written_over_without_growing(opened: Opened) -> None:
    journal = opened.filled(PER_SEGMENT - 1)
    for _ in range(2):
        journal.prepare()
    sizes = {path: path.stat().st_size for path in opened.segments()}
    assert len(sizes) == 2  # one more than is written to: it is half full
    fill(journal, 1)
    assert {path: path.stat().st_size for path in opened.segments()} == sizes


@pytest.mark.parametrize("count", range(1, PER_SEGMENT + 1))
def test_a_segment_is_prepared_a_step_ahead_and_not_beyond_its_size(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(journal_module, "GROW_BYTES", 4 << 10)
    journal = opened.filled(count)
    journal.prepare()
    path, end = opened.segments()[0], journal._used[0].end
    ready = min(SEGMENT_BYTES, end + max(4 << 10, end // 2))
    assert ready - (2 << 10) <= path.stat().st_size <= ready
    assert max(path.stat().st_size for path in opened.segments()) <= SEGMENT_BYTES


def test_the_header_of_an_empty_segment_stays_when_it_grows(tmp_path: Path) -> None:
    with closing(Segment(tmp_path / "00000000.journal", create=True)) as segment:
        segment.begin(b"0123456789abcdef", 7)
        segment.write_head()
        assert segment.capacity == segment.path.stat().st_size == HEADER_BYTES
        segment.grow(2 * HEADER_BYTES)
        with closing(Segment(segment.path, read_only=True)) as again:
            assert again.head == segment.head


def test_no_segment_is_prepared_beyond_the_limit(opened: Opened) -> None:
    opened.filled(3 * PER_SEGMENT, max_bytes=3 * SEGMENT_BYTES).prepare()
    assert len(opened.segments()) == 3


def test_a_preallocation_without_room_is_no_error(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened.filled(PER_SEGMENT - 1)

    with monkeypatch.context() as full:
        full.setattr(Segment, "grow", Mock(side_effect=OSError(28, "No space left on device")))
        journal.prepare()
    assert fill(journal, 3) == [PER_SEGMENT, PER_SEGMENT + 1, PER_SEGMENT + 2]


def test_the_order_is_that_of_the_numbers_whatever_the_clock_and_the_names_of_the_files_say(opened: Opened) -> None:
    opened.filled(4 * PER_SEGMENT)
    paths = segment_files(opened.folder)
    for age, path in enumerate(paths):
        os.utime(path, (age * 1e6, age * -1e6))
    for path, name in zip(paths, reversed([path.name for path in paths]), strict=True):
        path.rename(path.with_name(f"{name}.moved"))
    for path in opened.folder.glob("*.moved"):
        path.rename(path.with_suffix(""))
    assert numbers(opened.left()) == list(range(1, 4 * PER_SEGMENT + 1))


def test_a_look_from_outside_sees_what_a_process_holds(opened: Opened, tmp_path: Path) -> None:
    assert inspect(tmp_path / "nowhere").segments == 0
    journal = opened.filled(7)
    journal.free(2)
    state = inspect(opened.folder)
    assert (state.identity, state.freed, state.last, state.damage) == (journal.identity, 2, 7, ())
    assert state.bytes == journal.size == sum(path.stat().st_size for path in opened.segments())
    assert numbers(list(records(opened.folder))) == [3, 4, 5, 6, 7]


def test_an_overwritten_journal_has_no_freed_byte_and_goes_on_counting(opened: Opened) -> None:
    journal = opened.filled(12)
    identity = journal.identity
    journal.begin_clean()
    assert numbers(opened.left()) == list(range(1, 13)), "nothing was freed: nothing is overwritten"
    journal = opened.ready()
    journal.begin_clean()
    journal.free(12)
    journal.overwrite_free()
    contents = [path.read_bytes().strip(b"\0") for path in segment_files(opened.folder)]
    assert not any(PAYLOAD in content for content in contents)
    assert len(list(filter(None, contents))) == 1, "the header of the segment that is written to"
    assert opened.left() == []
    journal = opened.ready()
    assert (journal.identity, fill(journal, 1)) == (identity, [13])
    assert numbers(opened.left()) == [13]


def test_a_start_reuses_what_is_freed_and_the_journal_does_not_grow(opened: Opened) -> None:
    for _ in range(8):
        journal = opened.ready(max_bytes=4 * SEGMENT_BYTES)
        journal.free(journal.last)  # a start makes what it applied durable
        fill(journal, 1)  # the process is killed
        assert len(opened.segments()) <= 2


def test_segments_beyond_the_limit_go_once_they_are_free(opened: Opened) -> None:
    journal = opened.ready()
    fill(journal, 10 * PER_SEGMENT)
    assert len(opened.segments()) >= 10
    journal = opened.ready(max_bytes=4 * SEGMENT_BYTES)
    assert journal.problem() is None
    journal.free(journal.last)
    assert len(opened.segments()) == 4
    assert journal.problem() is None
    assert fill(journal, 2 * PER_SEGMENT) == list(range(10 * PER_SEGMENT + 1, 12 * PER_SEGMENT + 1))
    journal.free(journal.last - 1)
    assert numbers(opened.left()) == [12 * PER_SEGMENT]


def test_a_look_beside_a_writer_takes_no_record_that_is_being_written_for_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer is ahead by two records just when the reader has passed the place of the first one."""
    with closing(Journal(tmp_path / "journal", 4 << 20)) as journal:
        list(journal.replay())
        journal.append(b"{}", b"first")
        record_at = Segment.record_at

        def record_at_with_writer(segment: Segment, *arguments: int) -> tuple[Record, int] | None:
            found = record_at(segment, *arguments)
            if found is None and journal.last == 1:
                journal.append(b"{}", b"second")
                journal.append(b"{}", b"third")
            return found

        monkeypatch.setattr(Segment, "record_at", record_at_with_writer)
        state = inspect(tmp_path / "journal")
        assert (state.last, state.damage) == (3, ())
