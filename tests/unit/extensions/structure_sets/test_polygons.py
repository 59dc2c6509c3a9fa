"""Polygons on a grid of pixels, against a second implementation in fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from node.extensions.structure_sets import contour_masks
from node.extensions.structure_sets.contour_masks import fill_polygon, window_of

ROWS, COLUMNS = 7, 9
COORDINATES = st.one_of(st.integers(-4, 12), st.integers(-64, 192).map(lambda sixteenths: sixteenths / 16))
POLYGONS = st.lists(st.tuples(COORDINATES, COORDINATES), min_size=1, max_size=12)


def filled(corners: list[tuple[float, float]], rows: int = ROWS, columns: int = COLUMNS) -> NDArray[np.bool_]:
    plane = np.zeros((rows, columns), bool)
    window = window_of(np.array(corners, float), rows, columns)
    plane[window] = fill_polygon(np.array(corners, float), window)
    return plane


def exactly(corners: list[tuple[float, float]]) -> NDArray[np.bool_]:
    """Count for each centre, in fractions, the edges that a ray to the left meets; a row belongs to the lower edge."""
    ends = [(Fraction(column), Fraction(row)) for column, row in corners]
    plane = np.zeros((ROWS, COLUMNS), bool)
    for row in range(ROWS):
        for column in range(COLUMNS):
            for (x0, y0), (x1, y1) in zip(ends, ends[1:] + ends[:1], strict=True):
                if (y0 <= row) != (y1 <= row) and x0 + (row - y0) * (x1 - x0) / (y1 - y0) <= column:
                    plane[row, column] ^= True
    return plane


@pytest.mark.slow
@settings(max_examples=80)
@given(POLYGONS)
def test_the_pixels_of_any_polygon_are_those_of_exact_arithmetic(corners: list[tuple[float, float]]) -> None:
    np.testing.assert_array_equal(filled(corners), exactly(corners))


@pytest.mark.slow
@given(POLYGONS, st.integers(0, 11))
def test_neither_direction_nor_first_corner_matters(corners: list[tuple[float, float]], first: int) -> None:
    turned = corners[first % len(corners) :] + corners[: first % len(corners)]
    np.testing.assert_array_equal(filled(turned), filled(corners))
    np.testing.assert_array_equal(filled(turned[::-1]), filled(corners))


@pytest.mark.slow
@given(POLYGONS)
def test_many_crossings_are_counted_in_pieces(corners: list[tuple[float, float]]) -> None:
    whole = filled(corners)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contour_masks, "MAX_CROSSINGS_AT_ONCE", 2)
        np.testing.assert_array_equal(filled(corners), whole)


@given(COORDINATES, COORDINATES)
def test_polygons_that_share_an_edge_fill_their_union_once(column: float, row: float) -> None:
    left = [(-1.0, -1.0), (column, -1.0), (row, 9.0), (-1.0, 9.0)]
    right = [(column, -1.0), (10.0, -1.0), (10.0, 9.0), (row, 9.0)]
    if -1 <= column <= 10 and -1 <= row <= 10:
        np.testing.assert_array_equal(filled(left) ^ filled(right), np.ones((ROWS, COLUMNS), bool))
        assert not (filled(left) & filled(right)).any()


def test_noise_of_a_conversion_does_not_decide_about_centres_on_an_edge() -> None:
    square = [(2.0, 2.0), (5.0, 2.0), (5.0, 5.0), (2.0, 5.0)]
    noisy = [(column + 1e-9 * (-1) ** index, row - 1e-9 * (-1) ** index) for index, (column, row) in enumerate(square)]
    np.testing.assert_array_equal(filled(noisy), filled(square))
    assert filled(square).sum() == 9


def test_a_keyhole_leaves_its_hole_out() -> None:
    outer = [(0.5, 0.5), (7.5, 0.5), (7.5, 6.5), (0.5, 6.5)]
    inner = [(2.5, 2.5), (2.5, 4.5), (5.5, 4.5), (5.5, 2.5)]
    keyhole = [*outer, outer[0], inner[0], *inner[1:], inner[0], outer[0]]
    np.testing.assert_array_equal(filled(keyhole), filled(outer) ^ filled(inner))
