"""What a data set says about how it should look."""

import numpy as np
import pytest
from pydicom import Dataset

from node.volume.display import display_of
from tests import make


def displayed(**attributes):
    (ds,) = make.ct_series(1, **attributes)
    return display_of(ds, 1)


def test_windows_are_pairs_and_those_without_width_are_left_out():
    display = displayed(WindowCenter=r"40\500\1", WindowWidth=r"400\0\2", VOILUTFunction="LINEAR_EXACT")
    assert display.windows == ((40, 400), (1, 2))
    assert display.function == "LINEAR_EXACT"


def test_without_a_word_nothing_is_said():
    display = displayed()
    assert display.windows == ()
    assert display.voi_lut is display.padding is None
    assert display.function == "LINEAR"
    assert not display.inverted
    assert display.pixel_aspect == 1


def test_monochrome1_is_inverted_in_pictures():
    (ds,) = make.ct_series(1)
    ds.PhotometricInterpretation = "MONOCHROME1"
    assert display_of(ds, 1).inverted


@pytest.mark.parametrize(
    ("value", "limit", "padding"), [(-2000, None, (-2000, -2000)), (63536, None, (-2000, -2000)), (-5, -9, (-9, -5))]
)
def test_padding_is_in_stored_values_whatever_sign_it_was_written_with(value, limit, padding):
    (ds,) = make.ct_series(1)
    ds.add_new(0x00280120, "US" if value > 32767 else "SS", value)
    if limit is not None:
        ds.add_new(0x00280121, "SS", limit)
    assert display_of(ds, 1).padding == padding


def test_the_pixel_aspect_is_height_over_width():
    assert displayed(PixelAspectRatio=r"4\3").pixel_aspect == pytest.approx(4 / 3)
    assert displayed(PixelAspectRatio=r"0\3").pixel_aspect == 1


def test_a_lookup_table_gives_its_first_input_value_and_entries():
    (ds,) = make.ct_series(1)
    lut = Dataset()
    lut.add_new(0x00283002, "SS", [4, -2, 16])
    lut.add_new(0x00283006, "OW", np.array([0, 10, 20, 65535], "<u2").tobytes())
    ds.VOILUTSequence = [lut]
    first, table = display_of(ds, 1).voi_lut
    assert first == -2
    assert table.tolist() == [0, 10, 20, 65535]


def test_a_table_shorter_than_it_says_is_not_used():
    (ds,) = make.ct_series(1)
    lut = Dataset()
    lut.add_new(0x00283002, "SS", [9, 0, 16])
    lut.add_new(0x00283006, "OW", b"\0\0\1\0")
    ds.VOILUTSequence = [lut]
    assert display_of(ds, 1).voi_lut is None


def test_a_frame_has_its_own_window_else_that_of_all_frames():
    ds = make.enhanced_mr(2, 1)
    for groups, centre in ((ds.SharedFunctionalGroupsSequence[0], 100), (ds.PerFrameFunctionalGroupsSequence[1], 200)):
        groups.FrameVOILUTSequence = [make.dataset(WindowCenter=centre, WindowWidth=50)]
    assert display_of(ds, 1).windows == ((100, 50),)
    assert display_of(ds, 2).windows == ((200, 50),)
