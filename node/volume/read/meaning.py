"""What the attributes of an image say of its values: how they were acquired, reconstructed and derived.

The rule: every attribute of the standard counts, what is unknown too, except those that differ between the images of
one volume. `GROUPS`, `REPRESENTATIONS` and `VARYING` are these, each with its reason. A sequence is decided once: what
is in one that counts does too, whatever its group, but for identifiers and bulk data. Two images of one volume that
differ in another attribute are two kinds of image, or the volume has a warning that names it: `differs` alone says so.
"""

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import chain
from operator import is_
from types import MappingProxyType
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_description, dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

from node.dicom.values import CONVERSION_ERRORS, Element, held_elements, items, one_item, parsed, standard_tag
from node.volume.describe.bids_fields import BIDS_FIELDS
from node.volume.model import Frame

Path = tuple[int, ...]
"""The tags of the sequences that an attribute is in, and its own; a functional group is in `PER_FRAME`."""

Meaning = Mapping[Path, Hashable]
"""Values by path, without those that are empty; those of several items follow each other."""

PER_FRAME = standard_tag("PerFrameFunctionalGroupsSequence")

GROUPS = frozenset({0x0008, 0x0014, 0x0018, 0x0022, 0x0024, 0x0028, 0x0048, 0x0050, 0x0052, 0x0054, 0x3004, 0x300C})
"""Groups of attributes about images. The others are about patient, order, archive, display, plans and pixels."""

BULK = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UI"})
"""Representations of identifiers and bulk data, such as tables that are applied."""

REPRESENTATIONS = BULK | {"AE", "AT", "DA", "DT", "PN", "TM", "UR"}
"""The same of what images state of themselves; titles, pointers, moments, and persons too."""

CONVERTED = ("UnassignedSharedConvertedAttributesSequence", "UnassignedPerFrameConvertedAttributesSequence")
"""Where a legacy converted instance keeps classic attributes without a macro (PS3.3 C.7.6.16.2.25.1, .2)."""

VARYING = {
    "what an instance is called, who made it, and what it refers to": (
        *("SpecificCharacterSet", "AccessionNumber", "StudyDescription", "InstitutionName", "InstitutionAddress"),
        *("InstitutionCodeSequence", "InstitutionalDepartmentName", "StationName", "TimezoneOffsetFromUTC"),
        *("DeviceSerialNumber", "DeviceID", "PlateID", "CassetteID", "GantryID", "DetectorID", "LanguageCodeSequence"),
        *("PatientID", "LongitudinalTemporalInformationModified", "IssuerOfAccessionNumberSequence"),
        *("ProcedureCodeSequence", "ReferencedStudySequence", "ReferencedSeriesSequence", "ReferencedImageSequence"),
        *("ReferencedPerformedProcedureStepSequence", "ReferencedInstanceSequence", "SourceImageSequence"),
        *("ReferencedRawDataSequence", "ReferencedWaveformSequence", "ReferencedPatientSequence"),
        *("ReferencedImageEvidenceSequence", "SourceImageEvidenceSequence", "ConversionSourceAttributesSequence"),
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
        *("ReconstructionFieldOfView", "RadialPosition", "TableAngle", "ScanArc", "StartAngle"),
        *("PositionerPrimaryAngle", "PositionerSecondaryAngle", "PositionerPrimaryAngleIncrement"),
        *("PositionerSecondaryAngleIncrement", "PositionerPositionSequence", "CTPositionSequence"),
        *("GridFrameOffsetVector", "DetectorPrimaryAngle", "VolumeLocalizationSequence", "SliceLocationVector"),
        *("ZoomCenter", "ImageCenterPointCoordinatesSequence", "PlanePositionVolumeSequence"),
        *("PlanePositionSlideSequence", "ImagePositionPatient", "StackID", "ImageOrientationPatient"),
        *("InStackPositionNumber", "PlaneOrientationVolumeSequence", "PlanePositionSequence"),
        *("PlaneOrientationSequence", "OphthalmicFrameLocationSequence"),
    ),
    "when a time was acquired: moments, phases of heart and breath, durations": (
        *("TriggerTime", "TriggerTimeOffset", "NominalInterval", "FrameTime", "FrameTimeVector", "FrameDelay"),
        *("ImageTriggerDelay", "BeatRejectionFlag", "LowRRValue", "HighRRValue", "IntervalsAcquired"),
        *("IntervalsRejected", "PVCRejection", "SkipBeats", "HeartRate", "CardiacNumberOfImages", "TriggerWindow"),
        *("ActualFrameDuration", "AcquisitionDuration", "FrameAcquisitionDuration", "EffectiveDuration"),
        *("TriggerVector", "CardiacSynchronizationSequence", "CardiacRRIntervalSpecified"),
        *("AcquisitionStartConditionData", "AcquisitionTerminationConditionData", "AcquisitionTerminationCondition"),
        *("AcquisitionStartCondition", "FrameReferenceTime", "GatedInformationSequence", "PhaseInformationSequence"),
        *("DataInformationSequence", "TimeSlotInformationSequence"),
        *("EventElapsedTimes", "EventTimerNames", "EventTimerSequence", "TimeSliceVector"),
        *("RWaveTimeVector", "ASLContext", "CineRate", "EndingRespiratoryAmplitude", "TemporalPositionSequence"),
        *("FunctionalMRSequence", "CardiacCyclePosition", "ExcludedIntervalsSequence"),
        *("ActualRespiratoryTriggerDelayTime", "StartingRespiratoryAmplitude", "TemporalPositionIndex"),
        *("RespiratoryCyclePosition", "RespiratoryIntervalTime"),
    ),
    "moments of acquisition or making, in a sequence": (
        *("AcquisitionDate", "SourceEndDateTime", "ObservationDateTime", "DateOfManufacture", "DateOfInstallation"),
        *("AcquisitionTime", "AcquisitionDateTime", "SourceStartDateTime", "DateOfLastCalibration"),
        *("TimeOfLastCalibration", "FrameAcquisitionDateTime", "DateOfLastDetectorCalibration"),
        *("TimeOfLastDetectorCalibration", "FrameReferenceDateTime", "StartAcquisitionDateTime"),
        *("EndAcquisitionDateTime", "ObservationStartDateTime"),
    ),
    "counts of frames, slices and times": (
        *("NumberOfFrames", "ImageIndex", "NumberOfSlices", "NumberOfTimeSlices", "NumberOfEnergyWindows"),
        *("EnergyWindowVector", "NumberOfDetectors", "DetectorVector", "NumberOfPhases", "PhaseVector"),
        *("NumberOfFramesInPhase", "NumberOfRotations", "RotationVector", "NumberOfFramesInRotation"),
        *("NumberOfRRIntervals", "RRIntervalVector", "NumberOfTimeSlots", "TimeSlotVector", "SliceVector"),
        *("AngularViewVector", "NumberOfTriggersInPhase", "ReconstructionAngle", "StartTrim", "StopTrim"),
        *("NumberOfStages", "NumberOfViewsInStage", "NumberOfEventTimers", "DimensionOrganizationSequence"),
        *("FrameAcquisitionNumber", "DimensionIndexSequence", "DimensionIndexValues"),
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
        *("SmallestImagePixelValueInPlane", "LargestImagePixelValueInPlane", "DVHSequence"),
    ),
    "how samples are stored and rescaled, which frames carry themselves": (
        *("SamplesPerPixel", "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
        *("Rows", "Columns", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept"),
        *("LUTDescriptor", "LUTData", "PhotometricInterpretation", "RedPaletteColorLookupTableDescriptor"),
        *("GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor", "DoseGridScaling"),
        *("RealWorldValueSlope", "RealWorldValueLUTData", "DoubleFloatRealWorldValueFirstValueMapped"),
        *("DoubleFloatRealWorldValueLastValueMapped", "RealWorldValueLastValueMapped", "LossyImageCompression"),
        *("PixelValueTransformationSequence", "RealWorldValueFirstValueMapped", "RealWorldValueIntercept"),
        *("LossyImageCompressionMethod", *CONVERTED),
    ),
    "how pictures of it are shown": (
        *("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction", "VOILUTSequence"),
        *("ColorSpace", "FrameVOILUTSequence", "RecommendedDisplayFrameRate", "PreferredPlaybackSequencing"),
        *("RecommendedViewingMode", "RepresentativeFrameNumber", "FrameNumbersOfInterest"),
        *("FrameOfInterestDescription", "QualityControlImage", "BurnedInAnnotation", "RecognizableVisualFeatures"),
        *("RecommendedDisplayFrameRateInFloat", "StoredValueColorRangeSequence"),
    ),
}
"""Keywords of attributes that differ between the images of one volume, by the reason."""

OF_DIFFUSION = ("NumberOfAverages", "SequenceName", "PulseSequenceName", "ImageComments", "FrameComments")
"""Attributes that may differ between the weightings of a diffusion series, too: Canon has the gradient in comments."""

BESIDE = (
    *("AcquisitionContextSequence", "SpecimenDescriptionSequence", "RespiratoryTriggerType", "DecayCorrectionDateTime"),
    *("AcquisitionContextDescription", "RealWorldValueMappingSequence", "PerformedProtocolCodeSequence", "Laterality"),
    *("PerformedProcedureStepDescription", "CommentsOnThePerformedProcedureStep", "RespiratoryTriggerDelayThreshold"),
    *("StageCodeSequence", "ContentLabel", "ImageLaterality", "FrameLaterality"),
    *("ContentDescription", "ImageComments", "FrameAnatomySequence", "ContrastBolusStartTime", "ContrastBolusStopTime"),
)
"""Attributes of other groups that count, and moments to which values refer."""

CODEC = re.compile(r"[^,;[\]]*(compress(?!ed.sens)|jpeg|loss(y|less)|selection v|point tr|quality f)[^,;[\]]*", re.I)
"""What a codec writes of itself into Derivation Description (0008,2111), of each image with its own ratio."""

MOTION = re.compile(r"motion:.*|reference volume for motion.*", re.I | re.S)
"""What Siemens' correction of motion writes of each time into Image Comments (0020,4000)."""

OF_PROGRAMS = {standard_tag("DerivationDescription"): CODEC, standard_tag("ImageComments"): MOTION}
"""What texts of a time or an image by itself are left out of attributes that count."""

CODEC_CODES = ("113040", "121327")
"""The same in Derivation Code Sequence (0008,9215), PS3.16 CID 7203: lossy compression, and full fidelity."""

CODES = 0x000801
"""Beginning of the tags of what a code consists of (PS3.3 8.8)."""

BOLUS = "ContrastBolus"
"""Beginning of the keywords of attributes that change while a dynamic series goes on."""

DESCRIBING = ("RadiopharmaceuticalInformationSequence", "RealWorldValueMappingSequence")
"""Sequences of an image that have fields of the sidecar."""

OF_LABELLING = ("ASLSlabSequence", "ASLBolusCutoffTimingSequence")
"""The same of a functional group."""

MAPPING = standard_tag("RealWorldValueMappingSequence")

PARAMETER_TOLERANCE = 0.01
"""Allowed relative difference of numbers, since scanners write measured and rounded values."""

_NUMERIC = frozenset({"DS", "IS", "US", "SS", "UL", "SL", "FL", "FD"})
_EXCLUDED = frozenset(standard_tag(keyword) for keywords in VARYING.values() for keyword in keywords)
_BESIDE = frozenset(map(standard_tag, BESIDE))
_OF_DIFFUSION = frozenset(map(standard_tag, OF_DIFFUSION))


class _Counted(dict[int, bool]):
    """Whether an attribute counts, by its tag. `is_inside`: in a sequence that does."""

    def __init__(self, *, is_inside: bool) -> None:
        super().__init__()
        self.is_inside = is_inside

    def __missing__(self, tag: int) -> bool:
        vr = dictionary_VR(tag) if dictionary_has_tag(tag) else ""
        is_image = tag in _BESIDE or (tag >> 16 in GROUPS and vr not in REPRESENTATIONS)
        counts = not tag >> 16 & 1 and vr not in BULK if self.is_inside else is_image
        return self.setdefault(tag, bool(counts and tag & 0xFFFF and tag not in _EXCLUDED))


counted, counted_inside = _Counted(is_inside=False), _Counted(is_inside=True)


class _Last:
    """The contents of the last elements, so that instances that share their elements share one object."""

    _known: tuple[list[Element], Meaning] = ([], MappingProxyType({}))

    def of(self, ds: Dataset, found: list[Element]) -> Meaning:
        elements, meaning = self._known
        if len(found) != len(elements) or not all(map(is_, found, elements)):
            meaning = shared(tuple(_leaves(ds, found)))
            self._known = found, meaning
        return meaning


_last_counted, _last_told = _Last(), _Last()


def meaning_of(ds: Dataset) -> Meaning:
    """Return the attributes of a data set that count; the same object for data sets that agree in all."""
    return _last_counted.of(ds, [element for tag, element in held_elements(ds).items() if counted[tag]])


def _leaves_inside(item: Dataset) -> Iterator[tuple[Path, Any]]:
    return _leaves(item, [element for tag, element in held_elements(item).items() if counted_inside[tag]])


@cache
def _field_tags(*, uncounted: bool = False) -> tuple[BaseTag, ...]:
    """Return the attributes that fields of the sidecar are read from; `uncounted`: that do not count at the top."""
    keywords = (keyword for field in BIDS_FIELDS for keyword in field.keywords)
    return tuple(tag for tag in dict.fromkeys(map(standard_tag, keywords)) if not (uncounted and counted[tag]))


def told_of(ds: Dataset, *groups: Dataset) -> Meaning:
    """Return the attributes that fields of the sidecar are read from, without those that count at the top.

    `groups`: functional groups of the frame; what the first of them states counts.
    """
    own = held_elements(ds)
    first = _last_told.of(ds, [own[tag] for tag in _field_tags(uncounted=True) if tag in own])
    if not groups and not any(standard_tag(keyword) in own for keyword in DESCRIBING):
        return first
    told = dict(first)
    for several in reversed(list(sequences_of(ds, *groups))):
        own = held_elements(item := one_item(several))
        told |= dict(_leaves(item, [own[tag] for tag in _field_tags() if tag in own]))
    return shared(tuple(sorted(told.items())))


def sequences_of(ds: Dataset, *groups: Dataset) -> Iterator[Sequence[Dataset]]:
    """Yield the items of each sequence that fields of the sidecar are read from: of functional groups, of the image."""
    for group in groups:
        for keyword in map(keyword_for_tag, list(held_elements(group))):
            if keyword.endswith("Sequence"):
                yield items(group, keyword)
                yield from (items(one_item(items(group, keyword)), inner) for inner in OF_LABELLING)
    for keyword in DESCRIBING:
        yield items(ds, keyword)


def meaning_of_frame(instance: Meaning, *groups: Dataset) -> Meaning:
    """Return the attributes of one frame that count, those of its macros too; the last group counts first."""
    found = dict(instance)
    for group in groups:
        found |= {(PER_FRAME, *path): content for path, content in _leaves_inside(group)}
    return shared(tuple(sorted(found.items())))


@lru_cache(maxsize=1024)
def shared(contents: tuple[tuple[Path, Hashable], ...]) -> Meaning:
    return MappingProxyType(dict(contents))


def _leaves(ds: Dataset, elements: Sequence[Element]) -> Iterator[tuple[Path, Any]]:
    """Yield paths and values of elements of a data set; of a sequence, those of its items that count."""
    for element in elements:
        tag = element.tag
        vr = dictionary_VR(tag) if dictionary_has_tag(tag) else str(element.VR)
        content: Any
        try:
            if vr == "SQ":
                yield from _leaves_of_items(int(tag), ds[tag].value)
                continue
            content = _content(ds, tag, element, vr)
        except CONVERSION_ERRORS:
            content = ("unreadable",)
        if tag in OF_PROGRAMS and isinstance(content, tuple):
            content = tuple(filter(None, (OF_PROGRAMS[tag].sub("", part).strip(" ,;[]") for part in content)))
        if content not in ((), None):
            yield (int(tag),), content


def _leaves_of_items(tag: int, several: Sequence[Dataset]) -> list[tuple[Path, Any]]:
    kept = [dict(_leaves_inside(item)) for item in several if item.get("CodeValue") not in CODEC_CODES]
    found: dict[Path, list[Any]] = {}
    for index, own in enumerate(kept):
        for path, content in own.items():
            found.setdefault((tag, *path), []).append((content, f"item {index}"))
    return [
        (path, tuple(chain(*(content if len(own) == len(kept) else (*content, item) for content, item in own))))
        for path, own in found.items()
    ]


def _content(ds: Dataset, tag: BaseTag, element: Element, vr: str) -> Hashable:
    value: Any = element.value
    if isinstance(element, RawDataElement) and isinstance(value, bytes):
        if vr in _NUMERIC:
            return parsed(value, vr if element.VR in (None, "UN") else str(element.VR), element.is_little_endian)
        if value.isascii():
            return tuple(filter(None, (part.strip() for part in value.decode().strip(" \0").split("\\"))))
    value = ds[tag].value
    parts = value if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else (value,)
    return tuple(float(part) if vr in _NUMERIC else str(part).strip(" \0") for part in parts if part not in ("", None))


def differs(frames: Sequence[Frame], kind: str = "") -> dict[Any, list[Any]]:
    """Return by path the values of the attributes in which frames differ, None where one has none.

    `kind`: ``meaning``, also what may differ in a diffusion series; ``told``, what else fields of the sidecar are read
    from; ``private`` fields, by their names.
    """
    several = list({id(own): own for own in (getattr(frame, kind or "meaning") for frame in frames)}.values())
    if len(several) < 2:
        return {}
    is_weighted = not kind and any(frame.diffusion is not None and frame.diffusion.b_value > 0 for frame in frames)
    found = {}
    for path in dict.fromkeys(path for own in several for path in own):
        values = list({str(value): value for value in (own.get(path) for own in several)}.values())
        if not are_alike(values) and not (is_weighted and path[-1] in _OF_DIFFUSION):
            found[path] = values
    return dict(sorted(found.items()))


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


def name_of(*path: int) -> str:
    """Return the name of an attribute with its tag, as a warning has it, and of the sequence that has it.

    A functional group is not named, and a code goes by the attribute that it is of.
    """
    own = path[2:] if path[0] == PER_FRAME and len(path) > 2 else path
    named = [tag for tag in own if tag >> 8 != CODES] or own
    name = dictionary_description(named[-1]) if dictionary_has_tag(named[-1]) else "an unknown attribute"
    of_sequence = f" of {name_of(named[0])}" if len(named) > 1 else ""
    return f"{name} ({named[-1] >> 16:04X},{named[-1] & 0xFFFF:04X}){of_sequence}"
