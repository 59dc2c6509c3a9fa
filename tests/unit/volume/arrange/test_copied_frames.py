"""Copies under other identities are left out; times that only look like copies stay."""

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import pytest
from pydicom import FileDataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import generate_uid

from node.volume.assemble import assemble
from node.volume.reasons import Reason, WarningKind
from tests import make
from tests.unit.volume.grids import grids, in_turn, planes, warned

TIMES, SLICES = 4, 3


def again(series: Sequence[FileDataset], **attributes: object) -> list[FileDataset]:
    """Return copies under new identities; an attribute is the same for all copies."""
    copies = [deepcopy(ds) for ds in series]
    for ds in copies:
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        make.changed(ds, **attributes)
    return copies


def numbered_from(first: int, series: Sequence[FileDataset]) -> list[FileDataset]:
    for number, ds in enumerate(series, start=first):
        ds.InstanceNumber = number
    return list(series)


def series_in_time(times: int = TIMES, *, clock: bool = True) -> list[FileDataset]:
    return make.time_series(times, SLICES, **({} if clock else {"AcquisitionTime": None}))


def blank(series: Sequence[FileDataset], *times: int) -> None:
    for index, ds in enumerate(series):
        if not times or index // SLICES in times:
            ds.PixelData = bytes(len(ds.PixelData))


# Copies


@pytest.mark.parametrize("changed", [{}, {"ContentTime": "235900"}, {"SeriesTime": "235900"}])
def test_a_copy_of_a_slice_is_left_out_and_reported(changed: dict[str, str]) -> None:
    series = make.ct_series(5)
    copy = numbered_from(6, again(series[2:3], **changed))
    assembly = assemble([*copy, *series])
    assert grids(assembly) == [[planes(series)]]
    [exclusion] = assembly.exclusions
    assert (exclusion.sop_instance_uid, exclusion.reason) == (copy[0].SOPInstanceUID, Reason.DUPLICATE_SLICE)
    assert warned(assembly) == {WarningKind.DUPLICATE_SLICE}


def test_a_series_sent_again_under_new_identities_is_one_volume() -> None:
    series = make.ct_series(5)
    assembly = assemble([*series, *again(series, ContentTime="235900")])
    [[grid]] = grids(assembly)
    assert len(grid) == 5
    assert len(assembly.exclusions) == 5
    assert warned(assembly) == {WarningKind.DUPLICATE_SLICE}


@pytest.mark.parametrize("clock", [True, False])
def test_a_series_in_time_sent_again_keeps_its_times(clock: bool) -> None:
    series = series_in_time(clock=clock)
    assembly = assemble([*series, *again(series)])
    assert [len(grid) for grid in grids(assembly)] == [TIMES]
    assert len(assembly.exclusions) == len(series)


def test_a_part_of_a_series_in_time_sent_again_is_left_out() -> None:
    series = series_in_time()
    assembly = assemble([*series, *again(series[4:9])])
    assert len(grids(assembly)[0]) == TIMES
    assert {exclusion.reason for exclusion in assembly.exclusions} == {Reason.DUPLICATE_SLICE}


def test_a_copy_whose_number_begins_another_time_is_no_lost_time() -> None:
    series = series_in_time()
    copy = numbered_from(len(series) + 1, again(series[:1]))
    assembly = assemble([*series, *copy])
    assert grids(assembly) == [in_turn(series, SLICES)]
    assert warned(assembly) == {WarningKind.DUPLICATE_SLICE}


@pytest.mark.filterwarnings("ignore")  # pydicom's about the value
def test_a_copy_of_an_instance_with_an_unreadable_value_is_not_called_one() -> None:
    series = make.ct_series(5)
    copy = again(series[2:3])
    unreadable = RawDataElement(Tag("AnatomicRegionSequence"), "SQ", 6, b"\xfe\xff\x00\xe0\x08\x00", 0, False, True)
    for ds in (series[2], *copy):
        ds[unreadable.tag] = unreadable
    [exclusion] = assemble([*series, *copy]).exclusions
    assert exclusion.reason is Reason.SAME_POSITION_TWICE


# Times that are not copies


@pytest.mark.parametrize("clock", [True, False])
@pytest.mark.parametrize("times", [(1,), (0, 2), ()])
def test_blank_times_stay(clock: bool, times: tuple[int, ...]) -> None:
    series = series_in_time(clock=clock)
    blank(series, *times)
    assembly = assemble(series)
    assert grids(assembly) == [in_turn(series, SLICES)]
    assert assembly.exclusions == ()
    assert (WarningKind.EQUAL_TIMES in warned(assembly)) == (not clock and len(times) != 1)


def test_times_that_repeat_stay_and_are_reported() -> None:
    series = series_in_time(6, clock=False)
    for index, ds in enumerate(series):
        ds.PixelData = series[index % (2 * SLICES)].PixelData
    assembly = assemble(series)
    assert grids(assembly) == [in_turn(series, SLICES)]
    [detail] = [warning.detail for warning in assembly.volumes[0].warnings]
    assert detail.startswith("4 times have the same voxels")


@pytest.mark.parametrize("keyword", ["ContentTime", "TriggerTime", "TemporalPositionIdentifier", "DiffusionBValue"])
def test_blank_times_that_any_attribute_tells_apart_stay(keyword: str) -> None:
    series = series_in_time(clock=False)
    blank(series)
    for index, ds in enumerate(series):
        time = index // SLICES
        ds.InstanceNumber = index % SLICES + 1
        setattr(ds, keyword, f"1015{time:02d}" if keyword == "ContentTime" else time + 1)
    assert grids(assemble(series)) == [in_turn(series, SLICES)]


def test_a_blank_weighting_stays_in_the_table() -> None:
    series = series_in_time(clock=False)
    blank(series, 1, 3)
    for index, ds in enumerate(series):
        ds.DiffusionBValue = (0.0, 500.0, 1000.0, 500.0)[index // SLICES]
    [volume] = assemble(series).volumes
    assert [entry.b_value for entry in volume.diffusion] == [0.0, 500.0, 1000.0, 500.0]


def test_blank_times_of_which_one_lost_a_slice_lose_no_other_time() -> None:
    series = series_in_time(clock=False)
    blank(series)
    lost = series.pop(4)
    assembly = assemble(series)
    left = [ds for ds in series if ds.InstanceNumber not in (4, 6)]
    assert grids(assembly) == [in_turn(left, SLICES)]
    assert lost.InstanceNumber == 5
    assert {exclusion.reason for exclusion in assembly.exclusions} == {Reason.INCOMPLETE}
    assert WarningKind.MISSING_TIME in warned(assembly)


def test_a_fact_of_the_vendor_makes_two_frames_of_equal_pixels_two_frames() -> None:
    series = make.ct_series(5)
    other = again(series[2:3])
    for number, ds in enumerate((series[2], *other)):
        ds.private_block(0x0021, "EXAMPLE", create=True).add_new(0x5E, "DS", str(number))
    [exclusion] = assemble([*series, *other]).exclusions
    assert exclusion.reason is Reason.SAME_POSITION_TWICE


def test_a_volume_sent_again_with_numbers_that_go_on_is_kept_as_two_times_and_reported() -> None:
    series = make.ct_series(5)
    assembly = assemble([*series, *numbered_from(6, again(series))])
    assert [len(grid) for grid in grids(assembly)] == [2]
    assert WarningKind.EQUAL_TIMES in warned(assembly)
    assert np.array_equal(assembly.volumes[0].voxels[0], assembly.volumes[0].voxels[1])


def test_a_time_of_copies_of_several_times_is_reported() -> None:
    series = series_in_time(clock=False)
    mixed = [*series[:1], *series[SLICES + 1 : 2 * SLICES]]
    assembly = assemble([*series, *numbered_from(len(series) + 1, again(mixed))])
    assert [len(grid) for grid in grids(assembly)] == [len(series) // SLICES + 1]
    assert WarningKind.EQUAL_TIMES in warned(assembly)


def test_times_that_numbers_alone_tell_are_unknown_if_one_instance_has_none() -> None:
    series = series_in_time(2, clock=False)
    series[SLICES].InstanceNumber = None
    [refusal] = assemble(series).refusals
    assert refusal.reason is Reason.SAME_POSITION_TWICE
