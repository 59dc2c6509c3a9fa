"""Facts about a stack for its sidecar, in the terms of BIDS, from an allow-list.

What is not in `FACTS` never reaches a sidecar. Names that people type (study, series and protocol descriptions,
sequence names, institution, station, operators, comments) and serial numbers are left out: in practice they hold
names of patients and staff. Of the facts that are in the list, a text that repeats a word of the patient's or the
staff's names or identifiers is left out too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

from node.dicom.private import PrivateTag, private_items
from node.dicom.values import items, number, numbers, text, texts, value, whole
from node.volume.model import Frame
from node.volume.readout import XA_FRAME, phase_encoding
from node.volume.vendors import planned_slice_times_s
from node.volume.vendors.philips import scale_slope

PRIVATE_GROUPS = (
    XA_FRAME,
    PrivateTag(0x2005, "Philips MR Imaging DD 005", 0x0F, "SQ"),
)
"""Where vendors keep what they know of a frame of an enhanced object."""

LONGEST_TEXT = 64
"""Characters of LO, PS3.5 6.2: no allowed attribute is longer."""

SAME_POSITION_MM = 0.01
"""Planes nearer than this share a position."""


class Fact(NamedTuple):
    """One allowed fact: its BIDS name, the keywords it may come from, how it is read, and the unit's factor."""

    name: str
    keywords: tuple[str, ...]
    read: Callable[[Dataset, str], Any]
    factor: float | None = None


MILLI = 0.001


def _joined(ds: Dataset, keyword: str) -> str:
    return " ".join(each for each in texts(ds, keyword) if each)


def _time_of_day(ds: Dataset, keyword: str) -> str:
    """Return HH:MM:SS.FFFFFF of a complete Time (TM), PS3.5 6.2; without its date it says nothing about a person."""
    told = re.fullmatch(r"(\d\d)(\d\d)(\d\d)(\.\d{1,6})?", str(value(ds, keyword) or ""), re.ASCII)
    return "{}:{}:{}{}".format(*told.groups("")) if told else ""


def _code(ds: Dataset, keyword: str) -> str:
    """Return the value of the first code of a sequence, PS3.3 8.8."""
    return next((text(item, "CodeValue") for item in items(ds, keyword)), "")


def _philips_scale_slope(ds: Dataset, _keyword: str) -> float | None:
    return scale_slope(ds)


FACTS = (
    Fact("Modality", ("Modality",), text),
    Fact("Manufacturer", ("Manufacturer",), text),
    Fact("ManufacturersModelName", ("ManufacturerModelName",), text),
    Fact("SoftwareVersions", ("SoftwareVersions",), _joined),
    Fact("MagneticFieldStrength", ("MagneticFieldStrength",), number),
    Fact("ImagingFrequency", ("ImagingFrequency", "TransmitterFrequency"), number),
    Fact("ImagedNucleus", ("ImagedNucleus", "ResonantNucleus"), text),
    Fact("BodyPartExamined", ("BodyPartExamined",), text),
    Fact("PatientPosition", ("PatientPosition",), text),
    Fact("SeriesNumber", ("SeriesNumber",), whole),
    Fact("AcquisitionNumber", ("AcquisitionNumber",), whole),
    Fact("AcquisitionTime", ("AcquisitionTime",), _time_of_day),
    Fact("ImageType", ("ImageType", "FrameType"), texts),
    Fact("ComplexImageComponent", ("ComplexImageComponent",), text),
    Fact("ImageOrientationPatientDICOM", ("ImageOrientationPatient",), numbers),
    Fact("SliceThickness", ("SliceThickness",), number),
    Fact("SpacingBetweenSlices", ("SpacingBetweenSlices",), number),
    # magnetic resonance
    Fact("MRAcquisitionType", ("MRAcquisitionType",), text),
    Fact("ScanningSequence", ("ScanningSequence",), texts),
    Fact("SequenceVariant", ("SequenceVariant",), texts),
    Fact("ScanOptions", ("ScanOptions",), texts),
    Fact("EchoPulseSequence", ("EchoPulseSequence",), text),
    Fact("EchoNumber", ("EchoNumbers",), whole),
    Fact("EchoTime", ("EchoTime", "EffectiveEchoTime"), number, MILLI),
    Fact("RepetitionTime", ("RepetitionTime",), number, MILLI),
    Fact("InversionTime", ("InversionTime", "InversionTimes"), number, MILLI),
    Fact("FlipAngle", ("FlipAngle",), number),
    Fact("EchoTrainLength", ("EchoTrainLength",), whole),
    Fact("NumberOfAverages", ("NumberOfAverages",), number),
    Fact("PercentSampling", ("PercentSampling",), number),
    Fact("PercentPhaseFOV", ("PercentPhaseFieldOfView",), number),
    Fact("PhaseEncodingSteps", ("NumberOfPhaseEncodingSteps", "MRAcquisitionPhaseEncodingStepsInPlane"), whole),
    Fact("PixelBandwidth", ("PixelBandwidth",), number),
    Fact("ParallelAcquisitionTechnique", ("ParallelAcquisitionTechnique",), text),
    Fact("ParallelReductionFactorInPlane", ("ParallelReductionFactorInPlane",), number),
    Fact("ParallelReductionFactorOutOfPlane", ("ParallelReductionFactorOutOfPlane",), number),
    Fact("PartialFourierDirection", ("PartialFourierDirection",), text),
    Fact("SAR", ("SAR",), number),
    # X-ray and computed tomography
    Fact("KVP", ("KVP",), number),
    Fact("XRayTubeCurrent", ("XRayTubeCurrent", "XRayTubeCurrentInmA"), number),
    Fact("XRayExposure", ("Exposure", "ExposureInmAs"), number),
    Fact("ExposureTime", ("ExposureTime", "ExposureTimeInms"), number, MILLI),
    Fact("GantryDetectorTilt", ("GantryDetectorTilt",), number),
    Fact("SpiralPitchFactor", ("SpiralPitchFactor",), number),
    Fact("SingleCollimationWidth", ("SingleCollimationWidth",), number),
    Fact("TotalCollimationWidth", ("TotalCollimationWidth",), number),
    Fact("DataCollectionDiameter", ("DataCollectionDiameter",), number),
    Fact("ReconstructionDiameter", ("ReconstructionDiameter",), number),
    Fact("ConvolutionKernel", ("ConvolutionKernel",), texts),
    # positron emission tomography
    Fact("Units", ("Units",), text),
    Fact("RescaleType", ("RescaleType",), text),
    Fact("RealWorldValueSlope", ("RealWorldValueSlope",), number),
    Fact("RealWorldValueIntercept", ("RealWorldValueIntercept",), number),
    Fact("RealWorldValueUnits", ("MeasurementUnitsCodeSequence",), _code),
    # of Philips: (stored * RS + RI) / (RS * SS) are values that series can be compared by; the volume's, which are
    # those on the display, are stored * RS + RI
    Fact("PhilipsScaleSlope", ("MRScaleSlope",), _philips_scale_slope),
    Fact("DecayCorrection", ("DecayCorrection",), text),
    Fact("CorrectedImage", ("CorrectedImage",), texts),
    Fact("SeriesType", ("SeriesType",), texts),
    Fact("InjectedRadioactivity", ("RadionuclideTotalDose",), number),
    Fact("RadionuclideHalfLife", ("RadionuclideHalfLife",), number),
    # what the objects are called, which sidecars of one study need to be told apart by
    Fact("StudyInstanceUID", ("StudyInstanceUID",), text),
    Fact("SeriesInstanceUID", ("SeriesInstanceUID",), text),
    Fact("FrameOfReferenceUID", ("FrameOfReferenceUID",), text),
    Fact("SOPClassUID", ("SOPClassUID",), text),
)

IDENTIFYING = (
    "PatientName",
    "PatientID",
    "OtherPatientIDs",
    "OtherPatientNames",
    "PatientBirthName",
    "PatientBirthDate",
    "PatientMotherBirthName",
    "PatientAddress",
    "AccessionNumber",
    "InstitutionName",
    "InstitutionAddress",
    "InstitutionalDepartmentName",
    "ReferringPhysicianName",
    "PhysiciansOfRecord",
    "PerformingPhysicianName",
    "NameOfPhysiciansReadingStudy",
    "RequestingPhysician",
    "OperatorsName",
    "ContentCreatorName",
    "StationName",
    "DeviceSerialNumber",
)
"""Attributes whose words may not come back in a fact."""

NEVER_IDENTIFYING = frozenset(
    {
        *("Modality", "ImageType", "PatientPosition", "Units"),
        *("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPClassUID"),
    }
)
"""Kept even when they repeat such a word: coded by the standard (a phantom may be called ``CT``), or identifiers of
objects, in which vendors put the serial number of the device.
"""


def describe(ds: Dataset, frames: Sequence[Frame]) -> dict[str, Any]:
    """Return the allowed facts about one stack, with BIDS' names and units (seconds, millimetres, degrees, tesla).

    Parameters
    ----------
    ds : Dataset
        The first data set of the stack.
    frames : sequence of Frame
        All planes of the stack in their order: slices of the first time first.

    Notes
    -----
    Attributes of enhanced objects come from the shared functional groups and from those of the first frame
    (PS3.3 C.7.6.16). `PhaseEncodingDirection` and `SliceTiming` are along the axes and slices of the volume as the
    stack has them: i along a row, j down a column, k in the order of the frames.
    """
    places = list(_places(ds, frames[0].frame_number if frames else 1))
    words = {word for keyword in IDENTIFYING for word in _words(str(value(ds, keyword) or ""))}
    facts: dict[str, Any] = {}
    for fact in FACTS:
        found = _read(fact, places)
        if found is not None and (fact.name in NEVER_IDENTIFYING or not _repeats(found, words)):
            facts[fact.name] = found
    if facts.get("Modality") == "MR":
        facts |= phase_encoding(places, *_plane(ds, frames))
        repetition_time_s = facts.get("RepetitionTime")
        timing = slice_timing(frames, repetition_time_s) or _planned_timing(ds, frames, repetition_time_s)
        if timing is not None:
            facts["SliceTiming"] = timing
    return facts


def _places(ds: Dataset, frame_number: int) -> Iterator[Dataset]:
    """Yield where facts may be: the data set, the functional groups of one frame, the shared ones, the vendor's."""
    yield ds
    per_frame = items(ds, "PerFrameFunctionalGroupsSequence")
    shared = items(ds, "SharedFunctionalGroupsSequence")
    for groups in (*per_frame[frame_number - 1 : frame_number], *shared[:1]):
        yield groups
        for keyword in map(keyword_for_tag, groups.keys()):
            if keyword.endswith("Sequence"):
                yield from items(groups, keyword)[:1]
    yield from items(ds, "RadiopharmaceuticalInformationSequence")[:1]
    yield from items(ds, "RealWorldValueMappingSequence")[:1]
    for group in per_frame[frame_number - 1 : frame_number]:
        for tag in PRIVATE_GROUPS:
            yield from private_items(group, tag)[:1]


def _plane(ds: Dataset, frames: Sequence[Frame]) -> tuple[int, int]:
    """Return rows and columns of one plane, which may be a tile of what the data set holds."""
    return (frames[0].rows, frames[0].columns) if frames else (whole(ds, "Rows") or 0, whole(ds, "Columns") or 0)


def _read(fact: Fact, places: Sequence[Dataset]) -> Any:
    """Return the first value of a fact that is there; None where there is none, or nothing a sidecar can hold."""
    for keyword in fact.keywords:
        for place in places:
            found = fact.read(place, keyword)
            if found is None or found in ("", ()):
                continue
            if isinstance(found, str):
                return found[:LONGEST_TEXT]
            if isinstance(found, tuple):
                return [each[:LONGEST_TEXT] if isinstance(each, str) else each for each in found]
            return found if fact.factor is None else _seconds(found * fact.factor)
    return None


def _seconds(found: float) -> float:
    """Return a product without the noise of binary fractions: 2435.37 ms are 2.43537 s."""
    return float(f"{found:.12g}")


def _words(found: str) -> Iterator[str]:
    """Yield the words that could name somebody: three characters and more."""
    return (word for word in re.split(r"[\W_]+", found.casefold()) if len(word) > 2)


def _repeats(found: Any, words: set[str]) -> bool:
    several = found if isinstance(found, list) else [found]
    return any(word in words for each in several if isinstance(each, (str, int)) for word in _words(str(each)))


def slice_timing(frames: Sequence[Frame], repetition_time_s: float | None) -> list[float] | None:
    """Return when each slice of the first volume was acquired, in seconds after the first of them.

    None where the times are not known, are all one, or span more than a repetition: then they tell when volumes or
    whole passes were taken, not slices.
    """
    slices = _first_volume(frames)
    times = [frame.acquisition_time_s for frame in slices if frame.acquisition_time_s is not None]
    if len(times) != len(slices) or len(times) < 2 or repetition_time_s is None:
        return None
    since_first = np.array(times) - min(times)
    if not 0 < since_first.max() < repetition_time_s:
        return None
    return [round(float(each), 6) for each in since_first]


def _planned_timing(ds: Dataset, frames: Sequence[Frame], repetition_time_s: float | None) -> list[float] | None:
    """Return the slice timing that the protocol plans, where the images of a volume carry one time for all slices."""
    slices = _first_volume(frames)
    numbers = [frame.instance_number for frame in slices if frame.instance_number is not None]
    if repetition_time_s is None or len(slices) < 2 or len(set(numbers)) != len(slices) or len(slices) == len(frames):
        return None
    planned = planned_slice_times_s(ds, len(slices), repetition_time_s)
    if planned is None:
        return None
    order = np.argsort(np.argsort(numbers))
    return [round(planned[each], 6) for each in order]


def _first_volume(frames: Sequence[Frame]) -> Sequence[Frame]:
    """Return the frames before the first position comes again."""
    if not frames or frames[0].position is None:
        return ()
    for index, frame in enumerate(frames[1:], start=1):
        if frame.position is None:
            return ()
        if np.abs(frame.position - frames[0].position).max() < SAME_POSITION_MM:
            return frames[:index]
    return frames
