"""Grey values by the display rules of the standard, and planes that hang as radiologists hang them."""

from dataclasses import replace

import numpy as np
import pytest

from node.volume.model import Display, Volume
from node.volume.rendering import (
    Picture,
    Plane,
    Projection,
    Shades,
    linear,
    linear_exact,
    montage,
    nearest_axes,
    preview,
    project,
    sigmoid,
    thumbnail,
    voi_lut,
)
from tests.volumes import rotation, volume

LETTERS = {  # unit vectors in LPS
    "L": (1, 0, 0),
    "R": (-1, 0, 0),
    "P": (0, 1, 0),
    "A": (0, -1, 0),
    "S": (0, 0, 1),
    "I": (0, 0, -1),
}


def row(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)


def line(values: list[int], **changes: object) -> Volume:
    """A volume of one row, so that its picture is a list of grey values."""
    return volume(np.array(values, np.int16).reshape(1, 1, 1, -1), **changes)


def greys(one: Volume) -> list[int]:
    return thumbnail(one, Shades(one)).pixels.ravel().tolist()


def test_linear_follows_the_pseudo_code_of_the_standard() -> None:
    # PS3.3 C.11.2.1.2.1 for c = 2048, w = 4096, its own example: 0 and below is black, 4095 and above white
    np.testing.assert_allclose(linear(row(-1, 0, 4095, 4096), 2048, 4096), [0, 0, 1, 1])
    np.testing.assert_allclose(linear(row(2047.5), 2048, 4096), 0.5)
    np.testing.assert_allclose(linear(row(99, 100), 100, 1), [0, 1])  # its example of a width of 1


def test_linear_exact_has_neither_offset() -> None:
    np.testing.assert_allclose(linear_exact(row(-1, 0, 5, 10, 11), 5, 10), [0, 0, 0.5, 1, 1])


def test_sigmoid_is_one_half_at_the_centre_and_never_overflows() -> None:
    np.testing.assert_allclose(sigmoid(row(100, 150), 100, 50), [0.5, 1 / (1 + np.exp(-4))])
    np.testing.assert_allclose(sigmoid(row(-1e9, 1e9), 0, 1), [0, 1], atol=1e-12)


def test_a_voi_lut_is_read_from_its_first_value_and_its_ends_hold_beyond() -> None:
    table = np.array([0, 1023, 512], np.uint16)
    np.testing.assert_allclose(voi_lut(row(-5, 10, 11, 12, 99), 10, table) * 1023, [0, 0, 1023, 512, 512])


def test_the_lookup_table_goes_before_windows() -> None:
    display = Display(windows=((0.0, 10.0),), voi_lut=(0, np.array([255, 0], np.uint8)))
    assert greys(line([0, 1], display=display)) == [255, 0]


def test_the_first_sane_window_is_taken_in_rescaled_units() -> None:
    display = Display(windows=((5000.0, 10.0), (np.nan, 5.0), (40.0, 0.0), (0.0, 100.0)), function="LINEAR_EXACT")
    image = line([974, 1024, 1074, 3000], modality="CT", intercept=-1024.0, display=display)
    assert greys(image) == [0, 128, 255, 255]


def test_a_ct_without_a_window_shows_soft_tissue() -> None:
    assert greys(line([-1000, -160, 240, 3000], modality="CT")) == [0, 0, 255, 255]


def test_activity_is_black_on_white_without_a_window() -> None:
    shown = greys(line([0, 500, 1000], modality="PT"))
    assert shown[0] == 255
    assert shown[2] == 0


def test_monochrome1_is_inverted_in_pictures() -> None:
    display = Display(windows=((50.0, 100.0),), function="LINEAR_EXACT")
    plain, inverted = line([0, 100], display=display), line([0, 100], display=replace(display, inverted=True))
    assert (greys(plain), greys(inverted)) == ([0, 255], [255, 0])


def test_padding_does_not_stretch_the_percentiles_and_is_dark() -> None:
    shown = greys(line([-2000, *range(100, 201)], display=Display(padding=(-2000, -2000))))
    assert shown[0] == 0
    assert shown[51] == pytest.approx(128, abs=2)


@pytest.mark.parametrize("values", [[7, 7, 7], [0, 0, 0]])
def test_a_constant_volume_gives_a_picture(values: list[int]) -> None:
    assert len(set(greys(line(values)))) == 1


def test_what_is_no_number_is_dark() -> None:
    image = volume(np.array([np.nan, 0.0, 1.0, np.inf], np.float32).reshape(1, 1, 1, 4))
    assert greys(image)[0] == 0
    assert greys(image)[2] == 255


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16])
def test_values_that_occur_often_have_the_same_grey_as_each_by_itself(dtype: type[np.integer]) -> None:
    lowest, highest = np.iinfo(dtype).min, np.iinfo(dtype).max
    values = np.linspace(lowest, highest, 301).astype(dtype)
    display = Display(
        windows=((0.0, 100.0), (500.0, 9000.0)), padding=(int(values[40]), int(values[50])), inverted=True
    )
    often = volume(np.tile(values, 301).reshape(1, 1, 301, 301), slope=0.5, intercept=-7.5, display=display)
    shades = Shades(often)
    alone = [shades(np.array([value, lowest if value > 0 else highest], dtype))[0] for value in values]
    assert len(set(alone)) > 2
    np.testing.assert_array_equal(shades(often.voxels[0, 0]), np.tile(alone, 301).reshape(301, 301))


def test_colour_stays_as_it_is() -> None:
    voxels = np.arange(24, dtype=np.uint8).reshape(1, 1, 2, 4, 3)
    image = volume(voxels)
    np.testing.assert_array_equal(thumbnail(image, Shades(image)).pixels, voxels[0, 0])


def marked(columns_to: str, rows_to: str, slices_to: str) -> Volume:
    """A volume along the axes of the patient with voxels that say how far left, posterior and superior they are.

    The value is 100 * (place to the left) + 10 * (to posterior) + (to superior), each from 0.
    """
    affine = np.eye(4)
    affine[:3, :3] = np.array([LETTERS[each] for each in (columns_to, rows_to, slices_to)]).T * [1, 2, 4]
    index = np.stack(np.meshgrid(range(5), range(4), range(3), indexing="ij")).reshape(3, -1)  # column, row, slice
    place = np.sign(affine[:3, :3]) @ index
    place -= place.min(axis=1, keepdims=True)
    voxels = np.zeros((1, 3, 4, 5), np.int16)
    voxels[0, index[2], index[1], index[0]] = (np.array([100, 10, 1]) @ place).astype(np.int16)
    return volume(voxels, affine)


class Stored(Shades):
    """Shades that show stored values, so that a test can tell which voxel lies where."""

    def __call__(self, stored: np.ndarray) -> np.ndarray:
        return stored


ORIENTATIONS = [
    ("L", "P", "S"),
    ("L", "P", "I"),
    ("R", "A", "S"),
    ("P", "I", "R"),
    ("A", "S", "L"),
    ("L", "I", "P"),
    ("R", "S", "A"),
    ("P", "L", "S"),
]


@pytest.mark.parametrize("axes", ORIENTATIONS, ids="".join)
def test_planes_hang_with_right_or_anterior_at_the_left_and_anterior_or_superior_up(axes: tuple[str, ...]) -> None:
    image = marked(*axes)
    axial, coronal, sagittal = (picture.pixels.astype(int) for picture in preview(image, Stored(image)))
    left, posterior, superior = (lambda v: v // 100, lambda v: v // 10 % 10, lambda v: v % 10)
    for plane, right_edge, bottom, constant in (
        (axial, left, posterior, superior),
        (coronal, left, lambda v: -superior(v), posterior),
        (sagittal, posterior, lambda v: -superior(v), left),
    ):
        assert (np.diff(right_edge(plane), axis=1) == 1).all()
        assert (np.diff(bottom(plane), axis=0) == 1).all()
        assert np.ptp(constant(plane)) == 0


@pytest.mark.parametrize("axes", ORIENTATIONS, ids="".join)
def test_pixels_of_a_plane_keep_the_spacing_of_their_axes(axes: tuple[str, ...]) -> None:
    image = marked(*axes)
    along = {tuple(map(abs, LETTERS[letter])): spacing for letter, spacing in zip(axes, (1, 2, 4), strict=True)}
    x, y, z = along[1, 0, 0], along[0, 1, 0], along[0, 0, 1]
    assert [picture.pixel_size for picture in preview(image, Stored(image))] == [(y, x), (z, x), (z, y)]


def test_the_thumbnail_is_the_middle_slice_in_its_own_plane() -> None:
    image = marked("P", "I", "R")
    shown: Picture = thumbnail(image, Stored(image))
    assert shown.pixels.shape == (4, 5)
    assert (shown.pixels // 100 == 1).all()


def test_one_slice_is_shown_as_it_is_stored() -> None:
    image = marked("R", "A", "S")
    single = replace(image, voxels=image.voxels[:, :1])
    np.testing.assert_array_equal(thumbnail(single, Stored(single)).pixels, image.voxels[0, 0])


def test_without_a_place_the_pixel_aspect_makes_the_proportions() -> None:
    one = replace(line([0, 1]), affine_lps=None, spacing_mm=(1.0, 1.0, 1.0), display=Display(pixel_aspect=1.5))
    assert thumbnail(one, Shades(one)).pixel_size == (1.5, 1.0)


def test_a_montage_takes_every_nth_slice_from_the_first() -> None:
    image = volume(np.arange(10, dtype=np.int16).repeat(4).reshape(1, 10, 2, 2))
    for step in range(1, 12):
        shown = [picture.pixels[0, 0] for picture in montage(image, Stored(image), step)]
        assert shown == list(range(0, 10, step))


class Projected(Shades):
    def over(self, stored: np.ndarray, found: np.ndarray) -> np.ndarray:
        return np.where(found, stored, -2000)


@pytest.mark.parametrize("plane", list(Plane))
def test_projections_take_the_extremes_along_the_line_of_sight_without_padding(plane: Plane) -> None:
    rng = np.random.default_rng(7)
    voxels = rng.integers(-100, 100, (1, 6, 7, 8), dtype=np.int16)
    voxels[rng.random(voxels.shape) < 0.3] = -2000
    image = volume(voxels, display=Display(padding=(-2000, -2000)))
    axis = 2 - plane
    masked = np.ma.masked_equal(voxels[0], -2000)
    for projection, expected in ((Projection.MIP, masked.max(axis)), (Projection.MINIP, masked.min(axis))):
        seen = project(image, Projected(image), projection, plane).pixels
        seen = seen if plane is Plane.AXIAL else seen[::-1]
        np.testing.assert_array_equal(seen, expected.filled(-2000))


@pytest.mark.parametrize("plane", list(Plane))
def test_a_projection_of_a_part_ignores_the_rest(plane: Plane) -> None:
    rng = np.random.default_rng(8)
    voxels = rng.integers(-100, 100, (3, 6, 7, 8), dtype=np.int16)
    inside = rng.random(voxels.shape[1:]) < 0.3
    image = volume(voxels)
    expected = np.ma.masked_array(voxels[1], ~inside).min(2 - plane)
    seen = project(image, Projected(image), Projection.MINIP, plane, inside.astype(np.uint8)).pixels
    seen = seen if plane is Plane.AXIAL else seen[::-1]
    np.testing.assert_array_equal(seen, expected.filled(-2000))


def test_axes_of_a_volume_at_45_degrees_are_still_separated() -> None:
    for angle in (np.pi / 4, -np.pi / 4, 3 * np.pi / 4):
        directions = rotation(np.array([0, 0, angle]))
        assert sorted(nearest_axes(directions)) == [0, 1, 2]
        assert nearest_axes(directions)[2] == 2
