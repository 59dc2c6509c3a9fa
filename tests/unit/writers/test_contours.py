"""Outlines of masks, against a second implementation: filling them again by the even-odd rule."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from node.volume.model import Geometry
from node.writers.options import WriteOptions
from node.writers.pictures import outlines
from node.writers.write import write_volume
from tests.volumes import volume


def filled(polygons: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centres a ray to the left leaves through an odd number of edges."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    inside = np.zeros(shape, bool)
    for polygon in polygons:
        for (x, y), (next_x, next_y) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            assert (x == next_x) != (y == next_y)  # along one axis, and never of no length
            if x == next_x:
                inside ^= (columns > x) & (rows > min(y, next_y)) & (rows < max(y, next_y))
    return inside


@pytest.mark.slow
@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1)))
def test_an_outline_that_is_filled_again_gives_the_mask(mask: np.ndarray) -> None:
    polygons = outlines(mask)
    assert np.array_equal(filled(polygons, mask.shape), mask != 0)
    for polygon in polygons:  # every corner turns
        vertical = (np.roll(polygon, -1, axis=0) - polygon)[:, 0] == 0
        assert (vertical != np.roll(vertical, 1)).all()


def test_a_hole_has_an_outline_against_the_clock_and_pixels_at_a_corner_have_their_own() -> None:
    ring = np.ones((3, 3), np.uint8)
    ring[1, 1] = 0
    areas = []
    for polygon in outlines(ring):
        x, y = polygon.T
        areas.append((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)
    assert sorted(areas) == [-1, 9]
    assert [len(polygon) for polygon in outlines(np.eye(2, dtype=np.uint8))] == [4, 4]


OPTIONS = WriteOptions(formats=("nifti",), thumbnails=False, body_contours=True)


def box() -> np.ndarray:
    hounsfield = np.full((1, 4, 40, 60), -1000, np.int16)
    hounsfield[:, 1:3, 10:30, 5:55] = 40
    return hounsfield


def test_contours_are_in_the_patient_and_name_their_images(tmp_path: Path) -> None:
    affine = np.array([[0.0, 0, 3, 10], [2, 0, 0, 20], [0, -2, 0, 30], [0, 0, 0, 1]])
    ct = volume(box(), affine, modality="CT", attributes={"SeriesInstanceUID": "1.2", "FrameOfReferenceUID": "1.3"})
    files = write_volume(ct, tmp_path, "volume", OPTIONS)
    assert [(file.kind, file.format, file.path.name) for file in files][1:] == [
        ("contours", "json", "volume_contours.json")
    ]
    reported = json.loads(files[1].path.read_text())
    assert (reported["SeriesInstanceUID"], reported["FrameOfReferenceUID"], reported["threshold_hu"]) == (
        "1.2",
        "1.3",
        -300,
    )
    assert [(each["time"], each["slice"], each["sop_instance_uid"]) for each in reported["contours"]] == [
        (0, 1, "1.2.0.1"),
        (0, 2, "1.2.0.2"),
    ]
    corners = np.array([[4.5, 9.5], [54.5, 9.5], [54.5, 29.5], [4.5, 29.5]])
    expected = {(10 + 3.0 * 2, 20 + 2 * column, 30 - 2 * row) for column, row in corners}
    assert {tuple(point) for point in reported["contours"][1]["points_lps_mm"]} == expected


def test_where_no_affine_is_exact_there_are_no_contours(tmp_path: Path) -> None:
    uneven = volume(box(), modality="CT", geometry=Geometry.IRREGULAR)
    for number, ct in enumerate((uneven, replace(uneven, affine_lps=None, geometry=Geometry.NONE))):
        assert len(write_volume(ct, tmp_path, f"volume_{number}", OPTIONS)) == 1
