"""Fast reading of single values."""

import ast
import datetime as dt
import math
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.dicom.values import number, stated_numbers, texts
from node.volume.elements import ClocksUnknown, Instant, instant, stated_instant, text
from tests import make
from tests.make import ct_series

ROOT = Path(__file__).resolve().parents[3]


def raw(keyword_tag, vr, data):
    ds = Dataset()
    ds[keyword_tag] = RawDataElement(Tag(keyword_tag), vr, len(data), data, 0, False, True)
    return ds


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_values_are_the_same_in_every_encoding_and_after_pydicom_touched_them(syntax):
    (source,) = ct_series(1, PixelSpacing=r"0.75\0.5")
    source.file_meta.TransferSyntaxUID = syntax
    source.set_original_encoding(syntax.is_implicit_VR, syntax.is_little_endian)
    file = make.as_file(source)
    for touched in (False, True):
        ds = dcmread(BytesIO(file))
        if touched:
            list(ds)
        assert stated_numbers(ds, "PixelSpacing") == (0.75, 0.5)
        assert number(ds, "Rows") == 16
        assert texts(ds, "ImageType") == ("ORIGINAL", "PRIMARY", "AXIAL")
        assert text(ds, "SOPInstanceUID") == source.SOPInstanceUID
        assert number(ds, "EchoTime") is None
        assert texts(ds, "ConvolutionKernel") == ()


def test_what_is_no_number_is_not_a_number_and_never_an_exception():
    values = stated_numbers(raw(0x00280030, "DS", b"0.5\\abc "), "PixelSpacing")
    assert values[0] == 0.5
    assert math.isnan(values[1])
    assert number(raw(0x00280030, "DS", b"nan "), "PixelSpacing") is None
    assert stated_numbers(raw(0x00280030, "DS", b"  "), "PixelSpacing") is None


def test_a_binary_value_that_is_cut_gives_the_numbers_that_are_whole():
    assert stated_numbers(raw(0x00280010, "US", b"\x10\x00\x01"), "Rows") == (16,)
    assert stated_numbers(raw(0x00280010, "US", b"\x10"), "Rows") is None


def test_a_word_that_is_no_keyword_is_a_fault_of_the_program():
    with pytest.raises(LookupError):
        stated_numbers(Dataset(), "NoSuchKeyword")


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("101530.25", 36930.25), ("1015", 36900), ("10", 36000), ("10:15:30", 36930)]
    + [(wrong, None) for wrong in ("", None, "x", "915", "2460", "101561", "256199")],
)
def test_times_are_seconds_since_midnight(time, seconds):
    assert (instant(time=time) or Instant(None)).second_s == seconds


def test_a_day_that_does_not_exist_leaves_the_time_of_day():
    assert instant(day="20249999", time="000001") == Instant(1)
    assert (instant("2024"), instant("20240102100000+2500", zone="+0100")) == (None, Instant(36000, 8767))


MOMENTS = st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2040, 1, 1))
OFFSETS = st.none() | st.integers(-12 * 4, 14 * 4).map(lambda quarters: 15 * quarters)
FORMS = st.tuples(
    st.sampled_from(("DT", "DT with the zone of the data set", "DA and TM")), st.sampled_from((10, 12, 14, 16, 20))
)


def stated(moment, minutes, form, digits):
    """Return the elements of a moment by the clock that is so many minutes ahead of UTC, and what is left of it."""
    zone = "" if minutes is None else f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}{abs(minutes) % 60:02}"
    shown = moment + dt.timedelta(minutes=minutes or 0)
    written = (shown.strftime("%Y%m%d%H%M%S") + f".{shown.microsecond:06}")[: digits + (digits > 14)].rstrip(".")
    kept = shown.replace(
        microsecond=0 if digits <= 14 else shown.microsecond // 10 ** (20 - digits) * 10 ** (20 - digits)
    )
    kept = kept.replace(second=0 if digits < 14 else kept.second, minute=0 if digits < 12 else kept.minute)
    elements = {"AcquisitionDateTime": written + (zone if form == "DT" else "")}
    if form == "DA and TM":
        elements = {"AcquisitionDate": written[:8], "AcquisitionTime": written[8:]}
    return make.dataset(
        **elements, **({} if form == "DT" or not zone else {"TimezoneOffsetFromUTC": zone})
    ), kept - dt.timedelta(minutes=minutes or 0)


@given(MOMENTS, MOMENTS | st.none(), OFFSETS, OFFSETS, FORMS, FORMS)
def test_two_moments_are_compared_by_their_offsets_or_not_at_all(one, other, minutes, other_minutes, form, other_form):
    first, meant = stated(one, minutes, *form)
    later, meant_later = stated(other or one + dt.timedelta(seconds=1), other_minutes, *other_form)
    moments = [stated_instant(ds, "AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime") for ds in (first, later)]
    if (minutes is None) != (other_minutes is None):
        with pytest.raises(ClocksUnknown):
            moments[1].since(moments[0])
    else:
        assert moments[1].since(moments[0]) == pytest.approx((meant_later - meant).total_seconds(), abs=1e-5)


ZONE = tag_for_keyword("TimezoneOffsetFromUTC")
JOIN = {"combine", "strptime", "toordinal", "fromordinal"}
READ = {"text", "texts", "value", "private_text", "stated_numbers", "number"}
ELSEWHERE = {
    "node/volume/elements.py": "makes moments",
    "node/volume/vendors/uih.py": "writes the time of the first plane again",
    "node/extensions/media/directory.py": "writes the last of several again",
    "node/extensions/bids/sources.py": "typed columns of the index, which has no offsets",
    "node/extensions/bids/plan.py": "typed columns of the index, which has no offsets",
    "node/extensions/worklist/modality_worklist.py": "the midnight of a day of this node",
}


def calls_of_times(node):
    """Yield the names of the calls that read a date and time or join one, except those that are given to `instant`."""
    name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
    if name == "instant":
        return
    keywords = [own.value for own in node.args if isinstance(own, ast.Constant)] if name in READ else []
    tags = [tag for keyword in keywords if (tag := tag_for_keyword(str(keyword)))]
    if name in JOIN or ZONE in tags or {dictionary_VR(tag) for tag in tags} & {"DT", "TM"}:
        yield name
    for child in ast.iter_child_nodes(node):
        yield from calls_of_times(child)


@pytest.mark.slow
def test_nothing_else_makes_a_moment_of_dates_and_times():
    paths = {path: path.relative_to(ROOT).as_posix() for path in (ROOT / "node").rglob("*.py")}
    found = {name for path, name in paths.items() if list(calls_of_times(ast.parse(path.read_text())))}
    assert found == ELSEWHERE.keys()
