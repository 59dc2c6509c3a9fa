"""Two quantities in one series are two volumes: field maps beside magnitudes, signed times beside unsigned ones."""

from collections.abc import Sequence

import numpy as np
import pytest
from pydicom import FileDataset

from node.volume.assemble import assemble
from node.volume.reasons import Reason, WarningKind
from tests import make
from tests.unit.volume.grids import frames, grids, of_one_series, planes, warned

SLICES = 4


def flagged(series: Sequence[FileDataset], flag: int, sequence: str = "", internal: str = "") -> list[FileDataset]:
    """Return a series of GE with a collapse flag and the names of its sequence."""
    for ds in series:
        ds.Manufacturer = "GE MEDICAL SYSTEMS"
        ds.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x30, "SS", flag)
        names = ds.private_block(0x0019, "GEMS_ACQU_01", create=True)
        names.add_new(0x9C, "LO", sequence)
        names.add_new(0x9E, "LO", internal)
    return list(series)


def two(
    low: int = 0, first: int = 1, *, component: str = r"DERIVED\PRIMARY\OTHER", **options: object
) -> tuple[list[FileDataset], list[FileDataset]]:
    """Return two volumes at the same places; the values of the second one begin at `low`."""
    shared = of_one_series(ImageType=component)
    volumes = []
    for number, lowest in enumerate((0, low)):
        pixels = make.pattern(SLICES, make.ROWS, make.COLUMNS, seed=number) + np.int16(lowest)
        numbers = list(range(first + SLICES * number, first + SLICES * (number + 1)))
        volumes.append(make.mr_series(SLICES, pixels=pixels, InstanceNumber=numbers, **(shared | options)))
    return volumes[0], volumes[1]


# GE's field maps


@pytest.mark.parametrize(("sequence", "internal"), [("B0map", "B0map"), ("B0rf", "B0map"), ("3db0map", "EFGRE3D")])
def test_the_field_map_of_ge_is_no_time_of_its_magnitude(sequence: str, internal: str) -> None:
    magnitude, field_map = two(-500)
    assembly = assemble(flagged(magnitude, 1, sequence, internal) + flagged(field_map, 0, sequence, internal))
    assert grids(assembly) == [[planes(magnitude)], [planes(field_map)]]
    assert [volume.suffix for volume in assembly.volumes] == ["", "fieldmap"]
    assert [volume.attributes.get("Units") for volume in assembly.volumes] == [None, "Hz"]


def test_one_flag_for_all_images_says_nothing_about_a_field_map() -> None:
    magnitude, _ = two()
    assembly = assemble(flagged(magnitude, 0, "B0map", "B0map"))
    assert [(volume.suffix, volume.attributes.get("Units")) for volume in assembly.volumes] == [("", None)]


def test_flags_of_another_sequence_are_variants() -> None:
    first, second = two()
    assembly = assemble(flagged(first, 0, "EFGRE3D") + flagged(second, 8, "EFGRE3D"))
    assert grids(assembly) == [[planes(first)], [planes(second)]]
    assert [volume.suffix for volume in assembly.volumes] == ["1", "2"]


def test_flags_of_a_diffusion_series_divide_no_times() -> None:
    first, second = two()
    for ds in second:
        ds.DiffusionBValue = 1000.0
    assembly = assemble(flagged(first, 14, "EPI2") + flagged(second, 16, "EPI2"))
    assert grids(assembly) == [[planes(first), planes(second)]]


# Frames that nothing calls times


def without_dimensions(slices: int, frames: int) -> FileDataset:
    """Return an enhanced MR whose frames at one position have nothing but their order."""
    ds = make.enhanced_mr(slices, frames)
    del ds.DimensionIndexSequence
    for group in ds.PerFrameFunctionalGroupsSequence:
        del group.FrameContentSequence
    return ds


def test_frames_of_an_instance_at_one_position_that_nothing_calls_times_are_refused() -> None:
    [refusal] = assemble([without_dimensions(1, 16)]).refusals
    assert refusal.reason is Reason.UNPROVEN_LAYOUT
    assert "16 frames at one Image Position" in refusal.detail


def test_frames_of_an_instance_at_several_positions_are_reported_as_assumed_times() -> None:
    ds = without_dimensions(3, 4)
    assembly = assemble([ds])
    assert grids(assembly) == [frames(ds, 4, 3)]
    assert warned(assembly) == {WarningKind.TIMES_ASSUMED}


@pytest.mark.parametrize(("clock", "reported"), [(None, {WarningKind.TIMES_ASSUMED}), (["101500", "101502"], set())])
def test_instances_at_one_position_that_only_numbers_order_are_reported(
    clock: list[str] | None, reported: set[WarningKind]
) -> None:
    shared = of_one_series()
    assembly = assemble(make.mr_series(2, positions=np.zeros((2, 3)), AcquisitionTime=clock, **shared))
    assert [len(grid) for grid in grids(assembly)] == [2]
    assert warned(assembly) == reported


# Signs


@pytest.mark.parametrize("low", [-500, -1000])
def test_a_signed_time_and_an_unsigned_one_are_two_quantities(low: int) -> None:
    magnitude, signed = two(low)
    assembly = assemble(magnitude + signed)
    assert grids(assembly) == [[planes(magnitude)], [planes(signed)]]
    assert warned(assembly) == {WarningKind.SEVERAL_QUANTITIES}


def test_times_of_two_quantities_stay_times_of_each() -> None:
    shared = of_one_series(ImageType=r"DERIVED\PRIMARY\OTHER")
    lows = (0, -400, 0, -400, 0)
    series = [
        ds
        for time, low in enumerate(lows)
        for ds in make.mr_series(
            SLICES,
            pixels=make.pattern(SLICES, make.ROWS, make.COLUMNS, seed=time) + np.int16(low),
            InstanceNumber=list(range(SLICES * time + 1, SLICES * time + SLICES + 1)),
            **shared,
        )
    ]
    assert [len(grid) for grid in grids(assemble(series))] == [3, 2]


def test_pixels_of_two_representations_are_two_quantities() -> None:
    signed, unsigned = two()
    for ds in unsigned:
        ds.PixelRepresentation = 0
    assert grids(assemble(signed + unsigned)) == [[planes(signed)], [planes(unsigned)]]


def few_negative(series: Sequence[FileDataset]) -> None:
    for ds in series:
        values = ds.pixel_array.copy()
        values[0, :4] = -3
        make.set_pixels(ds, values)


@pytest.mark.parametrize("is_blank", [True, False])
def test_a_time_that_is_blank_or_has_few_negative_values_is_a_time(is_blank: bool) -> None:
    first, second = two()
    for ds in first if is_blank else ():
        make.set_pixels(ds, np.zeros((make.ROWS, make.COLUMNS), np.int16))
    few_negative(second)
    assert [len(grid) for grid in grids(assemble(first + second))] == [2]


def test_negative_values_of_computed_tomography_are_of_one_quantity() -> None:
    first, second = two(-1000, Modality="CT", RescaleSlope="1", RescaleIntercept="0")
    assert [len(grid) for grid in grids(assemble(first + second))] == [2]


def test_a_rescaling_that_makes_values_negative_counts() -> None:
    magnitude, signed = two()
    for ds in (*magnitude, *signed):
        ds.RescaleSlope, ds.RescaleIntercept = "2", "-600"
    for ds in magnitude:
        make.set_pixels(ds, ds.pixel_array + np.int16(300))
    assert len(grids(assemble(magnitude + signed))) == 2
