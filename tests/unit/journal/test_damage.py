"""A journal that a crash, a power cut or a bad disk has harmed: what is whole is read, and what is missing is told."""

import json
from pathlib import Path

import pytest

from node.journal import segment
from node.journal.inspection import MARK_FILE, JournalUnusable, inspect
from node.journal.segment import HEADER_BYTES, RECORD_HEAD_BYTES, Damage, Record, SegmentHead, segment_head
from node.receive.record import damaged_records
from tests.unit.journal.conftest import PAYLOAD, PER_SEGMENT, Opened, fill

RECORD_BYTES = RECORD_HEAD_BYTES + 1 + len(PAYLOAD)
"""Of a record of `fill` whose number has one digit."""


def offset(number: int) -> int:
    """Where record `number` begins in the first segment."""
    return HEADER_BYTES + (number - 1) * RECORD_BYTES


def flip(path: Path, at: int) -> None:
    """Flip one bit of a byte."""
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


def split(found: list[Record | Damage]) -> tuple[list[int], list[tuple[int, int, str]]]:
    """The numbers of the records, and the damage: first and last number, and the name of the segment."""
    return (
        [record.sequence for record in found if isinstance(record, Record)],
        [(gap.first, gap.last, gap.segment.name) for gap in found if isinstance(gap, Damage)],
    )


def test_a_record_that_is_torn_at_any_byte_ends_the_journal_without_damage(opened: Opened) -> None:
    journal = opened.ready()
    journal.append(b"1", b"whole")
    journal.append(b"facts", b"the last one")
    journal.close()
    [path] = opened.segments()
    whole = path.read_bytes()
    begin = HEADER_BYTES + RECORD_HEAD_BYTES + len(b"1whole")
    end = begin + RECORD_HEAD_BYTES + len(b"factsthe last one")
    assert whole[end:].strip(b"\0") == b""
    for cut in range(begin, end):
        path.write_bytes(whole[:cut] + bytes(len(whole) - cut))
        assert split(opened.left()) == ([1], []), f"cut at byte {cut - begin}"
        path.write_bytes(whole[:cut])  # the file itself ends there, which no crash does: its length was durable
        assert split(opened.left()) == ([1], [(2, 1, path.name)]), f"file cut at byte {cut - begin}"


def test_the_number_of_a_torn_record_is_given_to_the_next_one(opened: Opened) -> None:
    opened.filled(3)
    [path] = opened.segments()
    flip(path, offset(3))
    journal = opened.ready()
    assert journal.last == 2
    assert fill(journal, 2) == [3, 4]
    assert split(opened.left()) == ([1, 2, 3, 4], [])


@pytest.mark.parametrize("at", [0, 5, 15, RECORD_HEAD_BYTES - 1, RECORD_HEAD_BYTES, RECORD_HEAD_BYTES + 1000])
@pytest.mark.parametrize("number", [1, 3, PER_SEGMENT])
def test_a_flipped_bit_of_a_record_costs_this_record_only(opened: Opened, number: int, at: int) -> None:
    opened.filled(7)
    name = opened.segments()[0].name
    flip(opened.segments()[0], offset(number) + at)
    rest = [other for other in range(1, 8) if other != number]
    assert split(opened.left()) == (rest, [(number, number, name)])
    assert [(gap.first, gap.last) for gap in inspect(opened.folder).damage] == [(number, number)]


@pytest.mark.parametrize("damaged", [0, 1, 2, 3])
@pytest.mark.parametrize("freed", [0, 3, PER_SEGMENT, PER_SEGMENT + 2])
def test_a_damaged_header_of_a_segment_costs_no_record(opened: Opened, damaged: int, freed: int) -> None:
    journal = opened.filled(4 * PER_SEGMENT)
    if freed:
        journal.free(freed)
    flip(opened.segments()[damaged], 20)
    for _ in range(2):
        assert split(opened.left()) == (list(range(freed + 1, 4 * PER_SEGMENT + 1)), [])
    journal = opened.ready()
    assert fill(journal, 1) == [4 * PER_SEGMENT + 1]


def test_a_segment_with_a_damaged_header_is_not_used_again_before_it_is_freed(opened: Opened) -> None:
    opened.filled(3 * PER_SEGMENT)
    damaged = opened.segments()[1]
    flip(damaged, 20)
    content = damaged.read_bytes()
    journal = opened.ready()
    journal.free(PER_SEGMENT)
    fill(journal, 3 * PER_SEGMENT)
    assert damaged.read_bytes() == content


def test_the_only_segment_with_a_damaged_header_belongs_to_the_same_journal(opened: Opened) -> None:
    journal = opened.filled(4)
    journal.free(2)
    identity = journal.identity
    flip(opened.segments()[0], 20)
    journal = opened.open()
    assert journal.identity == identity
    assert split(list(journal.replay())) == ([3, 4], [])
    assert inspect(opened.folder).identity == identity


@pytest.mark.parametrize("cut", [None, 0, 100, HEADER_BYTES])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_segment_missing_or_cut_after_an_unclean_end_is_reported(opened: Opened, at: int, cut: int | None) -> None:
    opened.filled(3 * PER_SEGMENT)
    path = opened.segments()[at]
    if cut is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:cut])
    first = at * PER_SEGMENT + 1
    last = first + PER_SEGMENT - 1 if at < 2 else first - 1
    numbers = [number for number in range(1, 3 * PER_SEGMENT + 1) if not first <= number < first + PER_SEGMENT]
    seen = inspect(opened.folder)
    assert [(gap.first, gap.last, gap.segment.name) for gap in seen.damage] == [(first, last, path.name)]
    assert split(opened.left()) == (numbers, [(first, last, path.name)])
    assert [gap for gap in split(opened.left())[1] if gap[1] < gap[0]] == []  # it was told


def test_the_only_segment_is_missed_and_after_a_clean_end_none_is(opened: Opened) -> None:
    journal = opened.filled(3)
    [path] = opened.segments()
    path.unlink()
    assert split(opened.left()) == ([], [(1, 0, path.name)])
    journal = opened.ready()
    journal.free(fill(journal, 2)[-1])
    journal.close()
    for path in opened.segments():
        path.unlink()
    assert split(opened.left()) == ([], [])


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"journal": "another", "freed": 12}'])
def test_without_a_mark_of_its_own_a_journal_is_read_from_the_start(opened: Opened, content: bytes | None) -> None:
    journal = opened.ready()
    journal.free(fill(journal, 7)[-1])
    journal.close()
    mark = opened.folder / MARK_FILE
    if content is None:
        mark.unlink()
    else:
        mark.write_bytes(content)
    assert split(opened.left()) == (list(range(1, 8)), [])


def test_without_a_mark_segments_that_were_used_again_are_no_damage(opened: Opened) -> None:
    journal = opened.filled(3 * PER_SEGMENT)
    journal.free(2 * PER_SEGMENT)  # two segments are free
    fill(journal, PER_SEGMENT)  # and one of them is used again
    (opened.folder / MARK_FILE).unlink()
    numbers, gaps = split(opened.left())
    assert gaps == []
    assert numbers[-2 * PER_SEGMENT :] == list(range(2 * PER_SEGMENT + 1, 4 * PER_SEGMENT + 1))


def test_a_segment_of_a_newer_version_is_refused_with_the_remedy(opened: Opened) -> None:
    opened.filled(2)
    [path] = opened.segments()
    content = path.read_bytes()
    head = segment_head(content)
    newer = SegmentHead(segment.VERSION + 1, head.journal, head.salt, head.first).encoded()
    path.write_bytes(newer + content[len(newer) :])
    for _ in range(2):  # and nothing was changed by the first try
        with pytest.raises(JournalUnusable, match=r"newer version.*voxelnode journal drain"):
            opened.open()
    with pytest.raises(JournalUnusable, match="newer version"):
        inspect(opened.folder)
    assert path.read_bytes() == newer + content[len(newer) :]


def test_bytes_that_only_look_like_a_record_are_none(opened: Opened) -> None:
    journal = opened.filled(2)
    journal.append(b"3", opened.segments()[0].read_bytes()[offset(1) : offset(2)])  # a record within a record
    fill(journal, 1)
    flip(opened.segments()[0], offset(3))
    assert split(opened.left())[0] == [1, 2, 4]


def test_the_mark_names_the_journal_and_is_replaced_as_a_whole(opened: Opened) -> None:
    journal = opened.filled(3)
    journal.free(2)
    mark = json.loads((opened.folder / MARK_FILE).read_bytes())
    sizes = {path.name: path.stat().st_size for path in opened.segments()}
    known = {"version": segment.VERSION, "journal": journal.identity, "generation": ""}
    assert mark == known | {"freed": 2, "segments": sizes}


def test_a_number_that_is_known_elsewhere_is_not_given_again_if_its_record_is_damaged(opened: Opened) -> None:
    opened.filled(3)
    flip(opened.segments()[0], offset(3))
    journal = opened.open()
    assert split(list(journal.replay(known=3)))[0] == [1, 2]
    assert fill(journal, 1) == [4]
    assert split(opened.left()) == ([1, 2, 4], [(3, 3, opened.segments()[0].name)])


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (6, "records from 7 on, if there were any, are missing with it: it is not there, or was cut"),
        (7, "record 7, an acknowledged instance, cannot be read"),
        (8, "records 7 to 8, acknowledged instances, cannot be read"),
    ],
)
def test_what_is_damaged_is_said_in_words(last: int, said: str) -> None:
    assert damaged_records(Damage(7, last, Path("00000000.journal"))) == said
