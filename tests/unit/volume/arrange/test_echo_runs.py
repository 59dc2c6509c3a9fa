"""Echoes that only the runs of raw data tell apart."""

from typing import Any

import numpy as np
import pytest
from pydicom import FileDataset

from node.volume.assemble import assemble
from node.volume.reasons import WarningKind
from tests import make
from tests.unit.volume.grids import numbered, of_one_series

SLICES = 4


def of_one_echo_by_its_header(times: int, echoes: int, **private: Any) -> list[FileDataset]:
    """Volumes of several echoes, time by time, with the number, time and Instance Numbers of the first one."""
    uids = of_one_series()
    out = []
    for volume in range(times * echoes):
        time, echo = divmod(volume, echoes)
        pixels = make.pattern(SLICES, 16, 12, seed=volume + 1)
        series = make.mr_series(SLICES, Manufacturer="GE MEDICAL SYSTEMS", pixels=pixels, **uids)
        for place, ds in enumerate(series):
            ds.InstanceNumber = time * SLICES + place + 1
            block = ds.private_block(0x0019, "GEMS_ACQU_01", create=True)
            block.add_new(0xA2, "SL", 500 + echo * SLICES + place)
            block.add_new(0xA9, "DS", private.get("reported", str(echoes)))
        out += series
    return out


@pytest.mark.parametrize("times", [1, 3])
def test_echoes_of_ge_that_only_their_raw_data_tell_apart_are_no_times(times: int) -> None:
    series = of_one_echo_by_its_header(times, 2)
    assembly = assemble(series)
    assert [volume.suffix for volume in assembly.volumes] == ["e1", "e2"]
    stored = np.array([ds.pixel_array for ds in series]).reshape(times, 2, SLICES, 16, 12)
    for echo, volume in enumerate(assembly.volumes):
        assert np.array_equal(volume.voxels, stored[:, echo])
        assert [warning.name for warning in volume.warnings] == [WarningKind.PARAMETER_VARIES]


@pytest.mark.parametrize("reported", ["0.000000", "3"])
def test_runs_of_raw_data_that_are_not_as_many_as_echoes_divide_nothing(reported: str) -> None:
    [volume] = assemble(numbered(of_one_echo_by_its_header(3, 2, reported=reported))).volumes
    assert volume.voxels.shape[:2] == (6, SLICES)
