"""What contradicts an order of the frames in time."""

from collections.abc import Sequence

import numpy as np
import pytest

from node.volume.arrange.contradictions import settle
from node.volume.arrange.whole_times import Bin
from tests.volumes import axial_frame

TIMES = 3
ORDERED, TURNED = (1, 2, 3), (3, 2, 1)
Ranks = tuple[int, int, int]


def of_one_instance(in_file: Sequence[Ranks], clocks: Sequence[Ranks] | None) -> list[Bin]:
    """Frames of one instance by slice, in the order of their index: their places in the file, and their clocks."""
    pixels = np.zeros((2, 2), np.int16)
    bins = []
    for slice_, places in enumerate(in_file):
        frames = []
        for time in range(TIMES):
            keys = {"dimensions": time, "instance": (1, TIMES * slice_ + places[time])}
            if clocks is not None:
                keys["acquisition_time"] = float(clocks[slice_][time])
            frames.append(axial_frame(time, pixels, (0, 0, slice_), sop_instance_uid="1.2", time_key=keys))
        bins.append(frames)
    return bins


ASTRAY, CLOCK = "frames of 1 of 4 slices are not in the order", "and Acquisition Time (0008,0032)"


@pytest.mark.parametrize(
    ("in_file", "clocks", "doubt"),
    [
        ([ORDERED] * 4, None, None),
        ([ORDERED] * 4, [ORDERED] * 4, None),  # all agree
        ([ORDERED] * 4, [TURNED] * 4, None),  # the clock alone
        ([TURNED] * 4, None, None),  # the file alone
        ([TURNED] * 4, [ORDERED] * 4, None),
        ([TURNED] * 4, [TURNED] * 4, CLOCK),  # both
        ([TURNED] * 4, [TURNED] * 3 + [ORDERED], None),  # each tells something else
        ([TURNED] + [ORDERED] * 3, None, ASTRAY),
        ([TURNED] + [ORDERED] * 3, [ORDERED] * 4, ASTRAY),
        ([TURNED] * 2 + [ORDERED] * 2, None, None),  # more than a third: an order of its own
        ([TURNED] * 2 + [ORDERED] * 2, [TURNED] * 2 + [ORDERED] * 2, CLOCK),
        ([TURNED] + [ORDERED] * 2, None, "frames of 1 of 3 slices"),
    ],
)
def test_an_index_is_doubted_if_the_clock_and_the_file_or_nearly_all_slices_agree_on_another_order(
    in_file: list[Ranks], clocks: list[Ranks] | None, doubt: str | None
) -> None:
    found = settle("dimensions", of_one_instance(in_file, clocks)).doubt
    assert (found is None) == (doubt is None), found
    assert (doubt or "") in (found or "")
