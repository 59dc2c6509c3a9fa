"""Arterial spin labelling of Philips: label type, phase and repetition tell the times apart, whatever the numbers."""

from itertools import product

import numpy as np
import pytest
from pydicom import FileDataset

from node.volume.assemble import assemble
from tests import make
from tests.unit.volume.grids import grids, in_turn

SLICES, PHASES, REPEATS = 4, 3, 2
KINDS = ("CONTROL", "LABEL")

NUMBERED = {
    "volume by volume": lambda repeat, kind, phase, place: (repeat, kind, phase, place),
    "slices of all phases": lambda repeat, kind, phase, place: (repeat, kind, place, phase),
    "slices of label and control": lambda repeat, kind, phase, place: (repeat, phase, place, kind),
    "slice by slice": lambda repeat, kind, phase, place: (place, repeat, kind, phase),
}


def labelled(numbered: str, kinds: tuple[str, ...] = KINDS) -> list[FileDataset]:
    """A multi-phase series, volume by volume; the clock is that of the series."""
    volumes = list(product(range(REPEATS), range(2), range(PHASES)))
    series = make.time_series(
        len(volumes),
        SLICES,
        Manufacturer="Philips Medical Systems",
        AcquisitionTime="101500",
        TriggerTime=[str(300 + 250 * phase) for _, _, phase in volumes],
        TemporalPositionIdentifier=[repeat + 1 for repeat, _, _ in volumes],
    )
    places = [(*volume, place) for volume in volumes for place in range(SLICES)]
    order = sorted(places, key=lambda place: NUMBERED[numbered](*place))
    for ds, place in zip(series, places, strict=True):
        ds.InstanceNumber = order.index(place) + 1
        ds.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x08, "IS", place[2] + 1)
        ds.private_block(0x2005, "Philips MR Imaging DD 005", create=True).add_new(0x29, "CS", kinds[place[1]])
    return series


@pytest.mark.sample(4)
@pytest.mark.parametrize("kinds", [KINDS, KINDS[::-1]], ids="-".join)
@pytest.mark.parametrize("numbered", NUMBERED)
def test_phases_of_label_and_control_are_times_in_order_of_acquisition(numbered: str, kinds: tuple[str, ...]) -> None:
    series = labelled(numbered, kinds)
    [volume] = (assembly := assemble(series)).volumes
    assert [one.name for one in volume.warnings] == ["irregular-time-steps"], "phases start again after each label"
    [grid] = grids(assembly)
    wanted = in_turn(series, SLICES)
    assert sorted(grid) == sorted(wanted)
    if numbered != "slices of label and control":  # their numbers run by phase, then by label and control
        assert grid == wanted


def test_without_the_label_type_the_times_of_such_numbers_stay_unknown() -> None:
    series = labelled("slices of all phases")
    for ds in series:
        del ds[0x20051029]
    assert [refused.reason for refused in assemble(series).refusals] == ["same-position-twice"]


def test_an_image_without_label_type_in_the_series_leaves_the_order_to_numbers() -> None:
    series = labelled("volume by volume")
    for ds in series[:SLICES]:
        ds[0x20051029].value = "USERDEF"
    [volume] = assemble(series).volumes
    assert np.shape(volume.voxels)[0] == 2 * PHASES * REPEATS
