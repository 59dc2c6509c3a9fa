"""What the attributes of an image say of its values: how they were acquired, reconstructed and derived.

The rule: every attribute of the standard counts, what is unknown too, except those that differ between the images of
one volume. `GROUPS`, `REPRESENTATIONS` and `VARYING` are these, each with its reason. Two images of one volume that
differ in another attribute are two kinds of image, or the volume has a warning that names it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from operator import is_
from types import MappingProxyType
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.datadict import dictionary_description, dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

from node.dicom.values import CONVERSION_ERRORS, Element, held_elements, items, parsed, standard_tag
from node.volume.describe.bids_fields import BIDS_FIELDS
from node.volume.model import Frame

Meaning = Mapping[int, Hashable]
"""Values by tag, without those that are empty."""

GROUPS = frozenset({0x0008, 0x0014, 0x0018, 0x0022, 0x0024, 0x0028, 0x0048, 0x0052, 0x0054})
"""Groups of attributes about images. The others are about patient, order, archive, display, plans and pixels."""

REPRESENTATIONS = frozenset({"AE", "AT", "DA", "DT", "OB", "OD", "OF", "OL", "OV", "OW", "PN", "TM", "UI", "UR"})
"""Representations of titles, pointers, moments, persons, identifiers and bulk data, such as tables that are applied."""

VARYING = {
    "what an instance is called, who made it, and what it refers to": (
        *("SpecificCharacterSet", "AccessionNumber", "StudyDescription", "InstitutionName", "InstitutionAddress"),
        *("InstitutionCodeSequence", "InstitutionalDepartmentName", "StationName", "TimezoneOffsetFromUTC"),
        *("DeviceSerialNumber", "DeviceID", "PlateID", "CassetteID", "GantryID", "DetectorID", "LanguageCodeSequence"),
        *("PatientID", "LongitudinalTemporalInformationModified", "IssuerOfAccessionNumberSequence"),
        *("ProcedureCodeSequence", "ReferencedStudySequence", "ReferencedSeriesSequence", "ReferencedImageSequence"),
        *("ReferencedPerformedProcedureStepSequence", "ReferencedInstanceSequence", "SourceImageSequence"),
        *("ReferencedRawDataSequence", "ReferencedWaveformSequence", "ReferencedPatientSequence"),
        *("ReferencedImageEvidenceSequence", "SourceImageEvidenceSequence"),
        *("StudiesContainingOtherReferencedInstancesSequence", "ReferringPhysicianIdentificationSequence"),
        *("OperatorIdentificationSequence", "RelatedSeriesSequence", "AlternateRepresentationSequence"),
        *("PerformingPhysicianIdentificationSequence", "ContributingEquipmentSequence", "UDISequence"),
        *("PhysiciansOfRecordIdentificationSequence", "PhysiciansReadingStudyIdentificationSequence"),
        *("AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence", "TransducerIdentificationSequence"),
    ),
    "the place of a plane, and of the table": (
        *("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio", "ZoomFactor"),
        *("SpacingBetweenSlices", "GantryDetectorTilt", "GantryDetectorSlew", "TableHeight", "TableTraverse"),
        *("TablePosition", "TableXPositionToIsocenter", "TableYPositionToIsocenter", "TableZPositionToIsocenter"),
        *("DistanceSourceToPatient", "ReconstructionTargetCenterPatient", "DataCollectionCenterPatient"),
        *("ReconstructionFieldOfView", "DetectorInformationSequence", "RotationInformationSequence", "RadialPosition"),
        *("AngularPosition", "TableAngle", "ScanArc", "StartAngle", "PositionerPrimaryAngle"),
        *("PositionerSecondaryAngle", "PositionerPrimaryAngleIncrement", "PositionerSecondaryAngleIncrement"),
        *("PositionerPositionSequence", "CTPositionSequence", "MRSpatialSaturationSequence", "GridFrameOffsetVector"),
        *("DetectorPrimaryAngle", "VolumeLocalizationSequence", "SliceLocationVector", "ZoomCenter"),
        *("ImageCenterPointCoordinatesSequence",),
    ),
    "when a time was acquired: moments, phases of heart and breath, durations": (
        *("TriggerTime", "TriggerTimeOffset", "NominalInterval", "FrameTime", "FrameTimeVector", "FrameDelay"),
        *("ImageTriggerDelay", "BeatRejectionFlag", "LowRRValue", "HighRRValue", "IntervalsAcquired"),
        *("IntervalsRejected", "PVCRejection", "SkipBeats", "HeartRate", "CardiacNumberOfImages", "TriggerWindow"),
        *("ActualFrameDuration", "AcquisitionDuration", "FrameAcquisitionDuration", "EffectiveDuration"),
        *("TriggerVector", "CardiacSynchronizationSequence", "CardiacRRIntervalSpecified"),
        *("AcquisitionStartConditionData", "AcquisitionTerminationConditionData", "AcquisitionTerminationCondition"),
        *("AcquisitionStartCondition", "FrameReferenceTime", "GatedInformationSequence", "PhaseInformationSequence"),
        *("DataInformationSequence", "TimeSlotInformationSequence", "StageName", "StageNumber", "ViewName"),
        *("ViewNumber", "EventElapsedTimes", "EventTimerNames", "EventTimerSequence", "TimeSliceVector"),
        *("RWaveTimeVector", "ASLContext", "CineRate"),
    ),
    "counts of frames, slices and times": (
        *("NumberOfFrames", "ImageIndex", "NumberOfSlices", "NumberOfTimeSlices", "NumberOfEnergyWindows"),
        *("EnergyWindowVector", "NumberOfDetectors", "DetectorVector", "NumberOfPhases", "PhaseVector"),
        *("NumberOfFramesInPhase", "NumberOfRotations", "RotationVector", "NumberOfFramesInRotation"),
        *("NumberOfRRIntervals", "RRIntervalVector", "NumberOfTimeSlots", "TimeSlotVector", "SliceVector"),
        *("AngularViewVector", "NumberOfTriggersInPhase", "ReconstructionAngle", "StartTrim", "StopTrim"),
        *("NumberOfStages", "NumberOfViewsInStage", "NumberOfEventTimers"),
    ),
    "the gradient table of a diffusion series": (
        *("DiffusionBValue", "DiffusionGradientOrientation", "DiffusionDirectionality", "MRDiffusionSequence"),
        *("DiffusionGradientDirectionSequence", "DiffusionBMatrixSequence", "DiffusionBValueXX", "DiffusionBValueXY"),
        *("DiffusionBValueXZ", "DiffusionBValueYY", "DiffusionBValueYZ", "DiffusionBValueZZ"),
    ),
    "what is measured of each image or follows the body: dose, load, counts, statistics of pixels": (
        *("ExposureTime", "XRayTubeCurrent", "Exposure", "ExposureInuAs", "AveragePulseWidth", "ExposureTimeInuS"),
        *("XRayTubeCurrentInuA", "ExposureTimeInms", "XRayTubeCurrentInmA", "ExposureInmAs", "CTDIvol"),
        *("GeneratorPower", "CTExposureSequence", "EstimatedDoseSaving", "WaterEquivalentDiameter"),
        *("ImageAndFluoroscopyAreaDoseProduct", "ExposuresOnPlate", "RelativeXRayExposure", "ExposureIndex"),
        *("TargetExposureIndex", "DeviationIndex", "SAR", "dBdt", "B1rms", "SpecificAbsorptionRateValue"),
        *("SpecificAbsorptionRateSequence", "GradientOutput", "GradientOutputType", "DetectorTemperature"),
        *("CountsAccumulated", "DecayFactor", "ScatterFractionFactor", "DeadTimeFactor", "SliceSensitivityFactor"),
        *("PrimaryPromptsCountsAccumulated", "SecondaryCountsAccumulated", "MechanicalIndex", "BoneThermalIndex"),
        *("CranialThermalIndex", "SoftTissueThermalIndex", "SoftTissueFocusThermalIndex"),
        *("SoftTissueSurfaceThermalIndex", "LossyImageCompressionRatio", "SmallestImagePixelValue"),
        *("LargestImagePixelValue", "SmallestPixelValueInSeries", "LargestPixelValueInSeries"),
        *("SmallestImagePixelValueInPlane", "LargestImagePixelValueInPlane"),
    ),
    "how samples are stored and rescaled, which frames carry themselves": (
        *("SamplesPerPixel", "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
        *("Rows", "Columns", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept"),
        *("LUTDescriptor", "LUTData", "PhotometricInterpretation", "RedPaletteColorLookupTableDescriptor"),
        *("GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor"),
        *("RedPaletteColorLookupTableData",),
    ),
    "how pictures of it are shown": (
        *("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction", "VOILUTSequence"),
        *("ColorSpace", "FrameVOILUTSequence", "RecommendedDisplayFrameRate", "PreferredPlaybackSequencing"),
        *("RecommendedViewingMode", "RepresentativeFrameNumber", "FrameNumbersOfInterest"),
        *("FrameOfInterestDescription", "QualityControlImage", "BurnedInAnnotation", "RecognizableVisualFeatures"),
        *("RecommendedDisplayFrameRateInFloat",),
    ),
}
"""Keywords of attributes that differ between the images of one volume, by the reason."""

BESIDE = (
    *("ImageComments", "AcquisitionContextSequence", "Laterality", "ImageLaterality", "FrameLaterality"),
    *("FrameAnatomySequence", "RadiopharmaceuticalStartTime", "RadiopharmaceuticalStartDateTime"),
)
"""Attributes of other groups that count, and moments that all images of a volume share."""

NAMES = frozenset(map(standard_tag, ("ImageComments", "LossyImageCompression", "LossyImageCompressionMethod")))
"""Attributes that separate images, but no warning says that they differ: a text may describe each time by itself, such
as how its motion was undone, and pixels that a lossy codec changed have a warning of their own."""

DERIVATION = standard_tag("DerivationDescription")

CODEC = re.compile(r"[^,;[\]]*(compress(?!ed.sens)|jpeg|loss(y|less)|selection v|point tr|quality f)[^,;[\]]*", re.I)
"""What a codec writes of itself into Derivation Description (0008,2111), of each image with its own ratio."""

CODEC_CODES = ("113040", "121327")
"""The same in Derivation Code Sequence (0008,9215), PS3.16 CID 7203: lossy compression, and full fidelity."""

BOLUS = "ContrastBolus"
"""Beginning of the keywords of attributes that change while a dynamic series goes on."""

DESCRIBING = ("RadiopharmaceuticalInformationSequence", "RealWorldValueMappingSequence")
"""Sequences whose first item has fields of the sidecar."""

MAPPING = standard_tag("RealWorldValueMappingSequence")

PARAMETER_TOLERANCE = 0.01
"""Allowed relative difference of numbers, since scanners write measured and rounded values."""

_NUMERIC = frozenset({"DS", "IS", "US", "SS", "UL", "SL", "FL", "FD"})
_EXCLUDED = frozenset(standard_tag(keyword) for keywords in VARYING.values() for keyword in keywords)
_BESIDE = frozenset(map(standard_tag, BESIDE))


class _Counted(dict[int, bool]):
    """Whether an attribute counts, by its tag."""

    def __missing__(self, tag: int) -> bool:
        is_known = dictionary_has_tag(tag)
        counts = tag >> 16 in GROUPS and tag & 0xFFFF and tag not in _EXCLUDED
        self[tag] = tag in _BESIDE or bool(counts and not (is_known and dictionary_VR(tag) in REPRESENTATIONS))
        return self[tag]


counted = _Counted()


class _Last:
    """The contents of the last elements, so that instances that share their elements share one object."""

    _known: tuple[list[Element], Meaning] = ([], MappingProxyType({}))

    def of(self, ds: Dataset, found: list[Element]) -> Meaning:
        elements, meaning = self._known
        if len(found) != len(elements) or not all(map(is_, found, elements)):
            meaning = shared(tuple(_contents(ds, found)))
            self._known = found, meaning
        return meaning


_last_counted, _last_told = _Last(), _Last()


def meaning_of(ds: Dataset) -> Meaning:
    """Return the attributes of a data set that count; the same object for data sets that agree in all."""
    return _last_counted.of(ds, _counted_elements(ds))


def _counted_elements(ds: Dataset) -> list[Element]:
    return [element for tag, element in held_elements(ds).items() if counted[tag]]


@cache
def _field_tags() -> tuple[BaseTag, ...]:
    """Return the attributes that fields of the sidecar are read from."""
    keywords = (keyword for field in BIDS_FIELDS for keyword in field.keywords)
    return tuple(dict.fromkeys(map(standard_tag, keywords)))


@cache
def _uncounted_field_tags() -> tuple[BaseTag, ...]:
    return tuple(tag for tag in _field_tags() if not counted[tag])


def told_of(ds: Dataset, *groups: Dataset) -> Meaning:
    """Return the attributes that fields of the sidecar are read from, without those that count at the top.

    `groups`: functional groups of the frame. The items of sequences come first that describe the whole image.
    """
    own = held_elements(ds)
    first = _last_told.of(ds, [own[tag] for tag in _uncounted_field_tags() if tag in own])
    if not groups and not any(standard_tag(keyword) in own for keyword in DESCRIBING):
        return first
    told = dict(first)
    described = (item for keyword in DESCRIBING for item in items(ds, keyword)[:1])
    macros = (item for group in groups for tag in list(held_elements(group)) for item in _macro(group, tag))
    for item in (*described, *macros):
        own = held_elements(item)
        told |= dict(_contents(item, [own[tag] for tag in _field_tags() if tag in own]))
    return shared(tuple(sorted(told.items())))


def _macro(group: Dataset, tag: BaseTag) -> Sequence[Dataset]:
    keyword = keyword_for_tag(tag)
    return items(group, keyword)[:1] if keyword.endswith("Sequence") else ()


def meaning_of_frame(instance: Meaning, *groups: Dataset) -> Meaning:
    """Return the attributes of one frame that count, those of its macros too; the last group counts first."""
    found = dict(instance)
    for group in groups:
        for tag, content in _contents(group, _counted_elements(group)):
            if isinstance(content, tuple) and len(content) == 1 and isinstance(content[0], frozenset):
                found |= dict(content[0])
            else:
                found[tag] = content
    return shared(tuple(sorted(found.items())))


@lru_cache(maxsize=1024)
def shared(contents: tuple[tuple[int, Hashable], ...]) -> Meaning:
    return MappingProxyType(dict(contents))


def _contents(ds: Dataset, elements: Sequence[Element]) -> Iterator[tuple[int, Hashable]]:
    """Yield tags and values of elements of a data set; of a sequence, those of its items that count."""
    for element in elements:
        tag = element.tag
        vr = dictionary_VR(tag) if dictionary_has_tag(tag) else str(element.VR)
        try:
            content = _content(ds, tag, element, vr)
        except CONVERSION_ERRORS:
            content = ("unreadable",)
        if tag == DERIVATION and isinstance(content, tuple):
            content = tuple(filter(None, (CODEC.sub("", part).strip(" ,;[]") for part in content)))
        if content not in ((), None):
            yield int(tag), content


def _content(ds: Dataset, tag: BaseTag, element: Element, vr: str) -> Hashable:
    value: Any = element.value
    if vr != "SQ" and isinstance(element, RawDataElement) and isinstance(value, bytes):
        if vr in _NUMERIC:
            return parsed(value, vr if element.VR in (None, "UN") else str(element.VR), element.is_little_endian)
        if value.isascii():
            return tuple(filter(None, (part.strip() for part in value.decode().strip(" \0").split("\\"))))
    value = ds[tag].value
    if vr == "SQ":
        kept = (item for item in value if item.get("CodeValue") not in CODEC_CODES)
        return tuple(frozenset(_contents(item, _counted_elements(item))) for item in kept)
    parts = value if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else (value,)
    return tuple(float(part) if vr in _NUMERIC else str(part).strip(" \0") for part in parts if part not in ("", None))


def unlike(frames: Sequence[Frame], kind: str = "meaning") -> dict[Any, list[Any]]:
    """Return by tag the values of the attributes in which frames differ, None where one has none.

    What differs with the diffusion weighting alone, such as the number of averages, belongs to it.

    `kind`: ``private`` for private fields, by their names.
    """
    distinct: dict[Hashable, dict[int, Mapping[Any, Any]]] = defaultdict(dict)
    for frame in frames:
        own = getattr(frame, kind)
        distinct[_weighting(frame)][id(own)] = own
    found: dict[Any, list[Any]] = {}
    for meanings in distinct.values():
        several = list(meanings.values())
        for tag in dict.fromkeys(tag for meaning in several for tag in meaning) if len(several) > 1 else ():
            values = list({str(value): value for value in (meaning.get(tag) for meaning in several)}.values())
            if not are_alike(values):
                found.setdefault(tag, values)
    return dict(sorted(found.items()))


def _weighting(frame: Frame) -> Hashable:
    own = frame.diffusion
    if own is None:
        return None
    return round(own.b_value), None if own.direction_lps is None else tuple(np.round(own.direction_lps, 2).tolist())


def are_alike(values: Sequence[Any], tolerance: float = PARAMETER_TOLERANCE) -> bool:
    """Return whether values are equal, or numbers that differ by no more than measurement and rounding explain."""
    if all(value == values[0] for value in values):
        return True
    rows = [tuple(value) if isinstance(value, (tuple, list)) else (value,) for value in values]
    if len(set(map(len, rows))) > 1 or not all(isinstance(part, float) for row in rows for part in row):
        return False
    return not any(is_varying(column, tolerance) for column in zip(*rows, strict=True))


def is_varying(numbers: Sequence[float], tolerance: float = PARAMETER_TOLERANCE) -> bool:
    """Return whether numbers differ by more than measurement and rounding explain."""
    return bool(numbers) and max(numbers) - min(numbers) > tolerance * max(map(abs, numbers))


def name_of(tag: int) -> str:
    """Return the name of an attribute with its tag, as a warning has it."""
    name = dictionary_description(tag) if dictionary_has_tag(tag) else "an unknown attribute"
    return f"{name} ({tag >> 16:04X},{tag & 0xFFFF:04X})"
