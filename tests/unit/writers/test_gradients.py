"""Which series have a gradient table: diffusion series, and no others of scanners that write a weighting everywhere."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom import FileDataset

from node.volume.assemble import assemble
from node.volume.model import Volume
from tests import make

SLICES = 3


def series(b_values: list[float], **attributes: Any) -> list[FileDataset]:
    """Volumes one after the other, with a b-value of the standard and of GE in each image."""
    found = make.time_series(len(b_values), SLICES, Manufacturer="GE MEDICAL SYSTEMS", **attributes)
    for index, ds in enumerate(found):
        ds.DiffusionBValue = b_values[index // SLICES]
        block = ds.private_block(0x0043, "GEMS_PARM_01", create=True)
        block.add_new(0x39, "IS", [int(b_values[index // SLICES]), 8, 0, 0])
    return found


def only(datasets: list[FileDataset]) -> Volume:
    [volume] = assemble(datasets).volumes
    return volume


def b_values_of(volume: Volume) -> list[float] | None:
    return None if volume.diffusion is None else [weighting.b_value for weighting in volume.diffusion]


def test_a_series_of_which_no_image_is_weighted_has_no_table() -> None:
    assert only(series([0, 0])).diffusion is None


def test_a_series_of_which_one_volume_is_weighted_has_one() -> None:
    assert b_values_of(only(series([0, 1000]))) == [0, 1000]


@pytest.mark.parametrize("times", [1, 2])
def test_unweighted_volumes_of_a_diffusion_sequence_keep_theirs(times: int) -> None:
    volume = only(series([0.0] * times, ImageType=r"ORIGINAL\PRIMARY\DIFFUSION\NONE"))
    assert b_values_of(volume) == [0] * times
