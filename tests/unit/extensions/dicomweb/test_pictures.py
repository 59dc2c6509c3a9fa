"""The last steps of a rendered picture: colours of a space, and text that is burned in."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms
from pydicom import Dataset
from pydicom.sequence import Sequence

from node.errors import ConversionRefused
from node.extensions.dicomweb.annotation import patient_lines, technique_lines, visible
from node.extensions.dicomweb.colour_profiles import ColourSpace, source_profile
from node.extensions.dicomweb.lettering import plain
from node.extensions.dicomweb.pictures import annotated, profile_of, with_profile


def jpeg(profile: bytes | None) -> bytes:
    stream = BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG", icc_profile=profile)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("space", "expected"),
    [  # of red, green, blue, white and grey; computed with the matrices of each standard
        ("adobergb", [(219, 0, 0), (144, 255, 60), (0, 0, 250), (255, 255, 255), (127, 127, 127)]),
        ("rommrgb", [(179, 70, 26), (138, 237, 78), (86, 36, 235), (255, 255, 255), (109, 109, 109)]),
    ],
)
def test_colours_are_those_of_the_space(space: ColourSpace, expected: list[tuple[int, ...]]) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (128, 128, 128)]
    image = Image.fromarray(np.array([colours], np.uint8))
    converted, profile = with_profile(image, "srgb", space)
    np.testing.assert_allclose(np.asarray(converted)[0], expected, atol=2)
    assert profile == profile_of(space)
    assert ImageCms.ImageCmsProfile(BytesIO(profile)).profile.connection_space == "XYZ "
    back = ImageCms.profileToProfile(
        converted, *(ImageCms.ImageCmsProfile(BytesIO(one)) for one in (profile, profile_of("srgb")))
    )
    np.testing.assert_allclose(np.asarray(back)[0], colours, atol=10)  # eight bits of a wide space


def test_a_profile_is_that_of_the_data_set_or_of_the_compressed_frame() -> None:
    mine, embedded = profile_of("adobergb"), profile_of("rommrgb")
    ds, path = Dataset(), Dataset()
    assert source_profile(ds, 1, None) == source_profile(ds, 1, b"not a JPEG") == "srgb"
    ds.ColorSpace = "ADOBERGB"
    assert source_profile(ds, 1, None) == "adobergb"
    assert source_profile(ds, 1, jpeg(embedded)) == embedded
    path.ICCProfile = mine
    ds.OpticalPathSequence = Sequence([path])
    assert source_profile(ds, 1, jpeg(embedded)) == mine
    grey, profile = with_profile(Image.new("L", (2, 2), 128), mine, None)
    assert (grey.mode, grey.getpixel((0, 0)), profile) == ("RGB", (128, 128, 128), profile_of("srgb"))


@pytest.mark.parametrize(
    "wrong", [b"x", b"\0" * 1000, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()]
)
def test_a_profile_that_is_not_of_rgb_is_refused(wrong: bytes) -> None:
    for wanted in (None, "srgb"):
        with pytest.raises(ConversionRefused, match="ICC Profile"):
            with_profile(Image.new("RGB", (2, 2)), wrong, wanted)  # type: ignore[arg-type]


def test_lines_tell_patient_and_image_in_letters_that_can_be_drawn() -> None:
    ds = Dataset()
    assert patient_lines(ds) == ["no name", "ID unknown"]
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Müller^Änn^^Dr", "47\x1b[1m", "19700102", "F"
    assert patient_lines(ds) == ["Müller, Änn Dr", "ID 47?[1m", "born 1970-01-02  F"]
    ds.StudyDate, ds.StudyTime, ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "20261121", "101500", "CT", 3, 12
    ds.ImagePositionPatient, ds.NumberOfFrames = [1, -2.5, 3], 4
    assert technique_lines(ds, 2) == [
        "2026-11-21 10:15", "CT  series 3", "image 12  frame 2 of 4", "position x1.0 y-2.5 z3.0 mm",
    ]  # fmt: skip
    assert plain("ヤ") == "?"
    assert (plain("é"), plain("홍"), plain("½")) == ("e", "?", "?")
    assert len(visible("x" * 1000)) == 123


@pytest.mark.parametrize("size", [(1, 1), (8, 200), (60, 40), (512, 512), (4000, 300)])
def test_text_stays_in_the_picture_and_what_does_not_fit_is_marked(size: tuple[int, int]) -> None:
    image = Image.new("L", size, 128)
    marked = annotated(image, ["Wolfeschlegelsteinhausenbergerdorff, Ann", "ID 1"], ["CT", "series 1"])
    assert (marked.size, marked.mode) == (size, "L")
    assert image.getextrema() == (128, 128)
    if size == (512, 512):
        assert marked.getextrema() == (0, 255)
