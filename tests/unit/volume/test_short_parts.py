"""Which slices of the largest part of a divided stack another part has."""

import numpy as np
import pytest

from node.volume.series import _range_within
from tests.volumes import volume

LARGEST = np.diag([2.0, 3.0, 4.0, 1.0])


@pytest.mark.parametrize(
    ("slices", "offset", "within"),
    [
        (8, (0, 0, 0), range(8)),
        (6, (0, 0, 0), range(6)),
        (6, (0, 0, 2), range(2, 8)),
        (6, (0, 0, -2), range(-2, 4)),
        (6, (0, 0, 2.04), range(2, 8)),
        (6, (0, 0, 2.5), None),  # between the slices
        (6, (0, 0, 4), range(4, 10)),
        (6, (0, 0, 5), range(5, 11)),
        (6, (0, 0, 6), None),  # it shares less than a half of its own
        (6, (0.2, 0, 6), range(6, 12)),  # too close to be planned apart
        (3, (0, 0, 0), range(3)),
        (2, (0, 0, 6), range(6, 8)),
        (4, (0, 0, 8), None),  # it continues the largest part
        (6, (2.4, 1.9, 0), range(6)),  # beside it
        (6, (2.6, 0, 0), None),
        (6, (0, 2.1, 0), None),
    ],
)
def test_a_part_has_the_slices_at_whose_places_it_lies(
    slices: int, offset: tuple[float, float, float], within: range | None
) -> None:
    affine = LARGEST.copy()
    affine[:3, 3] = LARGEST[:3, :3] @ offset
    largest = volume(np.zeros((1, 8, 4, 5), np.int16), LARGEST)
    assert _range_within(volume(np.zeros((1, slices, 4, 5), np.int16), affine), largest) == within
