"""Every attribute of every image module of the standard: it tells images apart, or is on a list with its reason."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import pytest
from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map
from pydicom import DataElement, Dataset, FileDataset
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword

from node.volume.assemble import assemble
from node.volume.read.meaning import BULK, REPRESENTATIONS, VARYING, meaning_of, meaning_of_frame
from node.volume.reasons import WarningKind
from tests import make

IODS = (
    *("ct-image", "mr-image", "positron-emission-tomography-image", "nuclear-medicine-image", "rt-dose"),
    *("x-ray-angiographic-image", "secondary-capture-image", "enhanced-ct-image", "enhanced-mr-image"),
    *("enhanced-pet-image", "x-ray-3d-angiographic-image", "legacy-converted-enhanced-ct-image"),
    *("parametric-map", "ultrasound-multi-frame-image", "enhanced-us-volume", "breast-tomosynthesis-image"),
)

OF_OTHERS = frozenset({"Patient", "Study"})
"""Entities whose modules are those of all series of a patient or a study."""

EXCEPTIONS = {
    "names and numbers of the series, of an instance and of its parts": (
        *("SeriesNumber", "AcquisitionNumber", "ImagesInAcquisition", "InstanceNumber", "PyramidLabel"),
        *("InConcatenationNumber", "InConcatenationTotalNumber", "ConcatenationFrameOffsetNumber"),
        *("ConversionSourceAttributesSequence", "PerformedProcedureStepID", "RequestAttributesSequence"),
        *("ContainerIdentifier", "IssuerOfTheContainerIdentifierSequence", "ContainerTypeCodeSequence"),
        *("AlternateContainerIdentifierSequence", "ContainerDescription", "ContainerComponentSequence"),
        *("ConceptNameCodeSequence", "PerformedProtocolType", "DocumentClassCodeSequence", "SourceInstanceSequence"),
        *("HL7StructuredDocumentReferenceSequence", "ContentCreatorIdentificationCodeSequence", "BarcodeValue"),
        *("AlternateContentDescriptionSequence", "ReferencedSpatialRegistrationSequence", "EntityLongLabel"),
        *("ClinicalTrialCoordinatingCenterName", "ClinicalTrialSeriesID", "ClinicalTrialSeriesDescription"),
        *("IssuerOfClinicalTrialSeriesID", "ReferencedTreatmentRecordSequence"),
    ),
    "the place of a plane, of the patient and of a device": (
        *("PositionReferenceIndicator", "PatientOrientation", "SliceLocation", "AnatomicalOrientationType"),
        *("UltrasoundAcquisitionGeometry", "ApexPosition", "VolumeToTransducerMappingMatrix"),
        *("VolumeToTableMappingMatrix", "VolumeToTransducerRelationship", "PatientFrameOfReferenceSource"),
        *("IsocenterPosition", "PatientTreatmentPreparationSequence", "PatientToEquipmentRelationshipSequence"),
        *("ImagingEquipmentToTreatmentDeliveryDeviceRelationshipSequence", "PatientEquipmentRelationshipCodeSequence"),
        *("ScanStartPositionSequence", "ScanStopPositionSequence", "ScanArcType", "DetectorPositioningType"),
    ),
    "times, which order frames": ("TemporalPositionIdentifier", "NumberOfTemporalPositions", "TemporalResolution"),
    "counts and dimensions": ("DimensionOrganizationType",),
    "sound, pictures beside the image, and how it is shown": (
        *("MultiplexedAudioChannelsDescriptionCodeSequence", "IconImageSequence", "PresentationLUTShape"),
    ),
    "the state of an object in an archive, signatures and former values": (
        *("SOPInstanceStatus", "SOPAuthorizationComment", "AuthorizationEquipmentCertificationNumber"),
        *("EncryptedAttributesSequence", "OriginalAttributesSequence", "InstanceOriginStatus"),
        *("MACParametersSequence", "DigitalSignaturesSequence"),
    ),
    "pixels": ("EncapsulatedPixelDataValueTotalLength",),
}
"""Attributes at the top of an image that do not count, by the reason; beside those of `VARYING`."""

MOMENTS = {"DA": ("20240101", "20240102"), "TM": ("101500", "101600"), "DT": ("20240101", "20240102")}
NUMBERS = frozenset({"DS", "IS", "US", "SS", "UL", "SL", "FL", "FD", "UV", "SV", "AT"})
TABLES = frozenset({"OB or OW", "US or OW"})
"""Representations of pixels and of lookup tables, which are applied."""

GROUPS_OF_A_FRAME = "PerFrameFunctionalGroupsSequence"
PARTS = 6
"""Into how many tests the walk through the whole conversion is divided."""


@cache
def leaves() -> dict[tuple[str, ...], str]:
    """Return an IOD by the keywords of the sequences that an attribute is in, and its own."""
    found: dict[tuple[str, ...], str] = {}
    modules = get_module_attribute_map()
    for iod in IODS:
        for module in get_iod_module_map()[iod]:
            for own in modules[module["key"]] if module["ie"] not in OF_OTHERS else ():
                path = (*own["path"], own["keyword"])
                is_leaf = (tag := tag_for_keyword(path[-1])) is not None and dictionary_VR(tag) != "SQ"
                if is_leaf and path[0] != "SharedFunctionalGroupsSequence":
                    found.setdefault(path, iod)
    return found


def pair_of(keyword: str) -> tuple[Any, Any]:
    vr = dictionary_VR(keyword)
    return MOMENTS.get(vr, (1, 2) if vr in NUMBERS else ("ONE", "OTHER"))


def stated(path: Sequence[str], value: object) -> Dataset:
    """Return a data set that states one attribute, in its sequences."""
    ds, tag = Dataset(), tag_for_keyword(path[0])
    assert tag is not None
    of_items = [stated(path[1:], value)] if path[1:] else None
    ds[tag] = DataElement(tag, dictionary_VR(tag), of_items or value, validation_mode=IGNORE)
    return ds


def tells(path: Sequence[str]) -> bool:
    """Return whether images are told apart that differ in an attribute."""
    if path[0] == GROUPS_OF_A_FRAME:
        one, other = (meaning_of_frame({}, stated(path[1:], value)) for value in pair_of(path[-1]))
    else:
        one, other = (meaning_of(stated(path, value)) for value in pair_of(path[-1]))
    return one != other


def telling() -> Iterator[tuple[str, ...]]:
    """Yield the paths of attributes that no list names, and whose representation says what an image is."""
    for path in leaves():
        is_named = not ALL_LISTED.isdisjoint(path)
        if not is_named and dictionary_VR(path[-1]) not in TABLES | (REPRESENTATIONS if len(path) == 1 else BULK):
            yield path


LISTED = frozenset(keyword for own in EXCEPTIONS.values() for keyword in own)
ALL_LISTED = LISTED.union(*VARYING.values())


@pytest.mark.slow
def test_every_leaf_tells_images_apart_or_is_listed_with_its_reason() -> None:
    assert len(leaves()) > 7500
    assert [path for path in telling() if not tells(path)] == []
    assert {path[0] for path in leaves()} >= LISTED  # an exception that no image has
    assert [path for path in leaves() if path[0] in LISTED and tells(path)] == []  # one that is none


def made(path: Sequence[str], count_of_other: int) -> list[FileDataset]:
    """Return two times of three slices, the last of which state another value."""
    if path[0] == GROUPS_OF_A_FRAME:
        (ds,) = series = [make.enhanced_mr(3, times=2)]
        holders, path = list(ds.PerFrameFunctionalGroupsSequence), path[1:]
    else:
        holders = series = sorted(make.time_series(2, 3), key=lambda ds: int(ds.InstanceNumber))
    for number, holder in enumerate(holders):
        for element in stated(path, pair_of(path[-1])[number >= len(holders) - count_of_other]):
            if element.keyword in holder and element.VR == "SQ":
                holder[element.tag].value[0].update(element.value[0])
            else:
                holder[element.tag] = element
    return series


@cache
def one_of_each() -> list[tuple[str, ...]]:
    """Return one attribute of each at the top, and of each in a functional group."""
    chosen: dict[tuple[str, ...], tuple[str, ...]] = {}
    for path in sorted(telling(), key=len):
        chosen.setdefault(path[: 3 if path[0] == GROUPS_OF_A_FRAME else 1], path)
    return list(chosen.values())


@pytest.mark.slow
@pytest.mark.parametrize("count_of_other", [3, 1])
@pytest.mark.parametrize("part", range(PARTS))
def test_images_at_one_place_that_differ_in_any_attribute_are_volumes_or_named(part: int, count_of_other: int) -> None:
    assert len(one_of_each()) > 450
    silent = []
    for path in one_of_each()[part::PARTS]:
        assembly = assemble(made(path, count_of_other))
        warned = {warning.name for volume in assembly.volumes for warning in volume.warnings}
        if len(assembly.volumes) == 1 and WarningKind.PARAMETER_VARIES not in warned:
            silent.append(path)
    assert silent == []
