"""What the values of an image mean: every attribute of the standard counts, except those that differ in one volume."""

import pytest
from pydicom import Dataset
from pydicom.datadict import dictionary_VR

from node.volume.assemble import assemble
from node.volume.read.meaning import VARYING, meaning_of
from node.volume.reasons import WarningKind
from tests import make

TEXTS = {"CS", "LO", "SH", "ST", "LT", "UT", "UC"}
NUMBERS = {"IS", "DS", "US", "UL", "FD", "FL"}


def value_of(keyword, number):
    return str(number) if dictionary_VR(keyword) in TEXTS else number


def details_of(datasets):
    """Return the number of volumes, and the details of the warnings that parameters or quantities vary."""
    volumes = assemble(datasets).volumes
    kinds = (WarningKind.PARAMETER_VARIES, WarningKind.SEVERAL_QUANTITIES)
    return len(volumes), {own.detail for volume in volumes for own in volume.warnings if own.name in kinds}


def test_what_differs_between_the_images_of_one_volume_has_no_warning():
    stated = [keyword for own in VARYING.values() for keyword in own if dictionary_VR(keyword) in TEXTS | NUMBERS]
    assert len(stated) > 100
    measured = ("SAR", "XRayTubeCurrent", "HeartRate", "TableHeight", "LargestImagePixelValue", "B1rms")
    series = make.time_series(3, 3)
    for number, ds in enumerate(series, start=1):
        other = Dataset()
        for keyword in stated:
            setattr(other, keyword, value_of(keyword, number))
        assert not meaning_of(other)
        for keyword in measured:
            setattr(ds, keyword, value_of(keyword, number))
    assert details_of(series) == (1, set())


ENCODED = "Lossless JPEG compression, selection value 1, point transform 0, compression ratio 2.{} [{}]"


@pytest.mark.parametrize(
    ("keyword", "values", "count", "told"),
    [
        ("ContrastBolusAgent", (None, "Gadovist"), 1, ["Contrast/Bolus Agent (0018,0010)"]),
        ("DerivationDescription", ["LossLess compression with JPEG 2K, compression ratio 2.{}"] * 2, 1, []),
        ("DerivationDescription", ("iodine map", ENCODED.format("{}", "iodine map")), 1, []),
        ("DerivationDescription", [ENCODED.format("{}", kind) for kind in ("iodine map", "water map")], 2, []),
        ("DerivationDescription", ("Compressed sensing", None), 2, []),
        ("DerivationCodeSequence", ([make.dataset(CodeValue=code) for code in ("113040", "121327")], None), 1, []),
        ("LossyImageCompressionMethod", ("ISO_10918_1", "ISO_15444_1"), 2, []),
    ],
)
@pytest.mark.parametrize("slices", [1, 4])
def test_a_bolus_is_named_and_what_a_codec_says_of_itself_is_not(keyword, values, count, told, slices):
    series = make.time_series(2, slices)
    for number, ds in enumerate(series):
        value = values[number >= slices]
        setattr(ds, keyword, value.format(number) if isinstance(value, str) else value)
    details = {f"{name} differs within the volume: 2 values; compare its images before use" for name in told}
    assert details_of(series) == (count, details)


def mapping(unit, slope):
    code = make.dataset(CodeValue=unit, CodingSchemeDesignator="UCUM")
    return [make.dataset(RealWorldValueSlope=slope, RealWorldValueIntercept=0.0, MeasurementUnitsCodeSequence=[code])]


def test_unit_and_slope_of_real_world_values_are_part_of_what_a_volume_is():
    def mapped(*mappings):
        series = sorted(make.time_series(2, 3), key=lambda ds: int(ds.InstanceNumber))
        for ds, own in zip(series, mappings, strict=True):
            ds.RescaleSlope, ds.RescaleIntercept = str(own[1]), "0"
            ds.RealWorldValueMappingSequence = mapping(own[0], own[1] * own[2])
        return details_of(series)

    assert mapped(*[("ms", 1.0, 2.0)] * 3, *[("ms", 1.0, 4.0)] * 3) == (2, set())
    assert mapped(*[("Bq/ml", slope, 2.0) for slope in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)]) == (1, set())
    tables = sorted(make.time_series(2, 3), key=lambda ds: int(ds.InstanceNumber))
    for number, ds in enumerate(tables):
        ds.RealWorldValueMappingSequence = [make.dataset(RealWorldValueLUTData=[0.5, 1.0 + (number > 2)])]
    assert details_of(tables) == (2, set())
    count, details = mapped(*[("ms", 1.0, 2.0)] * 3, *[("1/s", 1.0, 2.0)] * 3)
    assert count == 2
    assert "(0040,9096)" in details.pop()
