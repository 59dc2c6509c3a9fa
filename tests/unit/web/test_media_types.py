"""What a client accepts, and in which form it gets frames and instances."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.extensions.dicomweb.media_types import ANY, dicom_form, frame_forms, media_ranges, names

EXPLICIT, JPEG_BASELINE, RLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.5"


def test_the_best_comes_first_and_what_is_not_wanted_not_at_all() -> None:
    found = media_ranges("image/png;q=0.5, image/jpeg;q=0.7, text/html;q=0, application/json")
    assert [each.type for each in found] == ["application/json", "image/jpeg", "image/png"]


@pytest.mark.parametrize(
    "reported",
    [
        'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.1',
        "multipart/related;type=application/dicom;transfer-syntax=1.2.840.10008.1.2.1",
        'Multipart/Related; Type="application/dicom"; Transfer-Syntax="1.2.840.10008.1.2.1"',
    ],
)
def test_parameters_may_be_quoted_or_not(reported: str) -> None:
    (one,) = media_ranges(reported)
    assert (one.type, one.multipart, one.transfer_syntax) == ("application/dicom", True, EXPLICIT)


def test_a_comma_in_quotes_ends_no_media_type() -> None:
    assert [each.type for each in media_ranges('a/b; x="1,2", c/d')] == ["a/b", "c/d"]


@given(st.text(alphabet=st.sampled_from('ab/;=", *\\q0.1-\0é\ufffd'), max_size=60))
def test_no_list_however_broken_is_an_error(reported: str) -> None:
    ranges = media_ranges(reported)
    dicom_form(ranges)
    frame_forms(ranges, RLE, True)
    names(ranges, "image/png")


@pytest.mark.parametrize(
    ("reported", "syntaxes", "multipart"),
    [
        ("*/*", {EXPLICIT}, True),
        ("application/dicom", {EXPLICIT}, False),
        ("application/*; transfer-syntax=*", {ANY}, False),
        ("multipart/related", {EXPLICIT}, True),
        ("multipart/*", {EXPLICIT}, True),
        ('multipart/related; type="application/dicom"; transfer-syntax=*', {ANY}, True),
        (
            f'multipart/related; type="application/dicom"; transfer-syntax={RLE}, application/dicom',
            {RLE, EXPLICIT},
            True,
        ),
    ],
)
def test_the_form_of_instances(reported: str, syntaxes: set[str], multipart: bool) -> None:
    form = dicom_form(media_ranges(reported))
    assert (form.transfer_syntaxes, form.multipart) == (syntaxes, multipart)


@pytest.mark.parametrize("reported", ["image/jpeg", 'multipart/related; type="image/jpeg"', "application/json"])
def test_what_is_no_instance_has_no_form(reported: str) -> None:
    assert dicom_form(media_ranges(reported)) is None


@pytest.mark.parametrize(
    ("reported", "stored", "expected"),
    [
        # accepted, how frames are stored, (media type, transfer syntax, in multipart, as stored)
        ("*/*", RLE, ("application/octet-stream", EXPLICIT, True, False)),
        ("*/*", EXPLICIT, ("application/octet-stream", EXPLICIT, True, True)),
        ("application/octet-stream; transfer-syntax=*", RLE, ("image/dicom-rle", RLE, False, True)),
        ("application/octet-stream; transfer-syntax=*", EXPLICIT, ("application/octet-stream", EXPLICIT, False, True)),
        ('multipart/related; type="image/jpeg"', JPEG_BASELINE, ("image/jpeg", JPEG_BASELINE, True, True)),
        ('multipart/related; type="image/jpeg"', RLE, None),
        ("image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.70", JPEG_BASELINE, None),
        ("image/*", JPEG_BASELINE, ("image/jpeg", JPEG_BASELINE, False, True)),
        ("image/*", EXPLICIT, None),
        ("image/x-dicom-rle", RLE, ("image/dicom-rle", RLE, False, True)),
        (f"application/octet-stream; transfer-syntax={RLE}", RLE, ("image/dicom-rle", RLE, False, True)),
        (f"application/octet-stream; transfer-syntax={RLE}", JPEG_BASELINE, None),
        ('multipart/related; type="image/jp2", multipart/related; type="application/octet-stream"; q=0.5', RLE,
         ("application/octet-stream", EXPLICIT, True, False)),
    ],
)  # fmt: skip
def test_the_form_of_frames(reported: str, stored: str, expected: tuple[str, str, bool, bool] | None) -> None:
    form = next(iter(frame_forms(media_ranges(reported), stored, stored != EXPLICIT)), None)
    if expected is None:
        assert form is None
    else:
        assert (form.media_type, form.transfer_syntax, form.multipart, form.as_stored) == expected


def test_a_refused_type_is_not_taken_through_a_wild_card() -> None:
    assert names(media_ranges("image/jpeg;q=0, image/*"), "image/jpeg", "image/png") == "image/png"
    assert names(media_ranges("image/*;q=0, */*"), "image/jpeg", "application/json") == "application/json"
    assert names(media_ranges("image/png;q=0.2, image/*;q=0.9"), "image/png", "image/jpeg") == "image/jpeg"
    single = dicom_form(media_ranges('multipart/related; type="application/dicom"; q=0, */*'))
    assert not single.multipart
    both = dicom_form(media_ranges("application/dicom; transfer-syntax=1.2.840.10008.1.2.5, */*;q=0.1"))
    assert both.transfer_syntaxes == {"1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1"}
