"""Fields of the sidecar in which the frames of a volume differ: of each time, or left out."""

import numpy as np
import pytest
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword

from node.volume.assemble import assemble
from node.volume.describe.bids_fields import BIDS_FIELDS
from node.volume.describe.sidecar_fields import OF_STACK, describe
from node.volume.model import Frame
from node.volume.read.frames import frames_of
from node.volume.read.meaning import counted, name_of
from node.volume.vendors import VENDOR_FIELDS
from node.volume.volumes import MEASURED_PRIVATE, varying_parameters
from tests import make

TEXTS = (
    *("YES", "NO", "ONE", "OTHER", "SP", "MTC", "RF", "GRADIENT", "NONE", "1H", "PULSED", "CONTINUOUS", "101500"),
    *("OSEM3i24s", "PSF 2i21s", "Gauss4.00", "Gauss 5.00", "IODINE", "GADOLINIUM", "0", "Hz", "water", "FDG"),
    *(["ORIGINAL", "PRIMARY", "ND"], ["DERIVED", "PRIMARY", "DIS2D"]),
)
"""Values of texts, of which each reader knows two."""

OF_ITEMS = {"Radio": "RadiopharmaceuticalInformationSequence", "RealWorld": "RealWorldValueMappingSequence"}


def with_value(ds, keyword, value):
    """Return a data set that states an attribute, itself or in the sequence that describes it."""
    sequence = next((name for begin, name in OF_ITEMS.items() if keyword.startswith(begin)), None)
    holder = Dataset() if sequence else ds
    if value is not None:
        tag = tag_for_keyword(keyword)
        holder[tag] = DataElement(tag, dictionary_VR(tag), value, validation_mode=IGNORE)
    if sequence:
        setattr(ds, sequence, [holder])
    return ds


def pairs_of(field):
    """Return the first attribute of a field that two values are known of, or one and none; None of sequences."""
    for keyword in field.keywords:
        tag = tag_for_keyword(keyword)
        if tag is None or dictionary_VR(tag) == "SQ":
            continue
        read = {}
        for value in (1, 3) if dictionary_VR(tag) in ("IS", "US", "UL", "DS", "FD", "FL") else TEXTS:
            ds = make.dataset(Modality="PT")
            ds[tag] = DataElement(tag, dictionary_VR(tag), value, validation_mode=IGNORE)
            content = field.read(ds, keyword)
            if content not in (None, "", ()):
                read.setdefault(str(content), value)
        if read:
            return keyword, [*read.values(), None][:2]
    return None


def of_slices(field, keyword, values):
    """Return the fields of three slices, the last of which has another value, and the warnings about them."""
    series = [with_value(*own) for own in zip(make.image_series(3, modality="PT"), [keyword] * 3, values, strict=True)]
    frames = [frames_of(ds)[0] for ds in series]
    return describe(series[0], frames, [frames]), {own.detail for own in varying_parameters(frames)}


KNOWN = {field.name: pairs for field in BIDS_FIELDS if field.name not in OF_STACK and (pairs := pairs_of(field))}


@pytest.mark.sample(25)
@pytest.mark.parametrize("field", [own for own in BIDS_FIELDS if own.name in KNOWN], ids=lambda field: field.name)
def test_a_field_in_which_one_frame_differs_is_left_out_and_named(field):
    keyword, (one, other) = KNOWN[field.name]
    alike, _ = of_slices(field, keyword, [one] * 3)
    assert field.name in alike
    settled, details = of_slices(field, keyword, [one, one, other])
    assert field.name not in settled
    if counted[tag_for_keyword(keyword)]:
        names = {name_of(tag_for_keyword(own)) for own in (keyword, *OF_ITEMS.values())}
        assert any(name in detail for name in names for detail in details)


def test_nearly_every_field_is_tried():
    untried = {field.name for field in BIDS_FIELDS} - set(KNOWN) - OF_STACK
    assert untried == {
        *("VelocityEncodingDirection", "LabelingOrientation", "RealWorldValueUnits", "TracerRadionuclide")
    }


@pytest.mark.parametrize("name", sorted({own.name for fields in VENDOR_FIELDS.values() for own in fields}))
def test_a_private_field_in_which_one_frame_differs_is_left_out_and_named(name):
    ds = make.instance(modality="MR")
    frames = [Frame("1", 1, lambda: np.zeros((1, 1)), 1, 1, private={name: value}) for value in ("a", "a", "b")]
    assert name not in describe(ds, frames, [frames])
    assert any(name in own.detail for own in varying_parameters(frames)) == (name not in MEASURED_PRIVATE)


def test_a_field_that_is_alike_in_each_time_is_of_each_time():
    series = sorted(make.time_series(2, 3), key=lambda ds: int(ds.InstanceNumber))
    for number, ds in enumerate(series):
        ds.XRayTubeCurrent, ds.AcquisitionNumber, ds.KVP = 100 if number < 3 else 200, number + 1, "120"
    (volume,) = assemble(series).volumes
    assert volume.attributes["of_each_time"]["XRayTubeCurrent"] == [100, 200]
    assert volume.attributes["KVP"] == 120
    assert {"XRayTubeCurrent", "AcquisitionNumber"}.isdisjoint(volume.attributes)


@pytest.mark.parametrize(
    ("macro", "keyword", "values", "fields"),
    [
        (
            *("MRFOVGeometrySequence", "InPlanePhaseEncodingDirection", ("ROW", "COLUMN")),
            {"InPlanePhaseEncodingDirectionDICOM", "PhaseEncodingAxis", "ReconMatrixPE"},
        ),
        ("MRModifierSequence", "PartialFourier", ("YES", "NO"), {"PartialFourierEnabled"}),
    ],
)
@pytest.mark.parametrize("is_enhanced", [False, True])
def test_a_field_that_an_attribute_decides_is_that_of_all_frames(is_enhanced, macro, keyword, values, fields):
    def made(*others):
        if is_enhanced:
            (ds,) = series = [make.enhanced_mr(4)]
            holders = [make.dataset() for _ in range(4)]
            for group, holder in zip(ds.PerFrameFunctionalGroupsSequence, holders, strict=True):
                setattr(group, macro, [holder])
        else:
            holders = series = make.mr_series(4)
        for ds in series:
            ds.Manufacturer = "Philips"
        for number, holder in enumerate(holders):
            setattr(holder, keyword, values[number in others])
        (volume,) = assemble(series).volumes
        return volume

    assert fields <= made().attributes.keys()
    volume = made(2)
    assert fields.isdisjoint(volume.attributes)
    assert any(name_of(tag_for_keyword(keyword)) in own.detail for own in volume.warnings)
