"""The facts that a sidecar may tell, and how each is read: all that the allow-list allows."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from pydicom.dataset import Dataset

from node.dicom.values import items, number, numbers, text, texts, value, whole
from node.volume.vendors.philips import scale_slope

SCHEMES = frozenset({"SRT", "SNM3", "99SDM", "SCT", "DCM", "UMLS", "RADLEX"})
"""Coding schemes whose meanings nobody types (PS3.16 8)."""

ELEMENTS = {
    name: symbol
    for symbol, *names in (
        *(("C", "Carbon"), ("N", "Nitrogen"), ("O", "Oxygen"), ("F", "Fluorine"), ("Na", "Sodium")),
        *(("Cu", "Copper"), ("Ga", "Gallium"), ("Ge", "Germanium"), ("Br", "Bromine"), ("Rb", "Rubidium")),
        *(("Y", "Yttrium"), ("Zr", "Zirconium"), ("I", "Iodine"), ("Sc", "Scandium"), ("Tb", "Terbium")),
    )
    for name in (symbol, *names)
}
"""Symbols of the elements of tracers, by their names and themselves."""

HERTZ = "Hz"
TRACERS = frozenset(
    {
        *("acetate", "ammonia", "choline", "dopa", "dotanoc", "dotatate", "dotatoc", "fapi", "faza", "fdg", "fdopa"),
        *("fes", "fet", "florbetaben", "florbetapir", "flortaucipir", "fluciclovine", "fluorodeoxyglucose"),
        *("flutemetamol", "flt", "fmiso", "methionine", "mk6240", "naf", "pib", "psma", "raclopride"),
        *("rubidium", "water"),
    }
)
"""Words by which tracers go; what else stands beside them in a text, somebody may have typed."""

UNITS = {"BQML": "Bq/mL", "GML": "g/mL", "CM2ML": "cm2/mL", "MLMINML": "mL/min/mL", "UMOLMINML": "umol/min/mL"}

DATE_CHARACTERS = 8
"""Of a Date Time (DT) before its time of day, PS3.5 6.2."""

MOST_MEGAHERTZ = 1000.0
"""Above 23 tesla: a frequency that was written in hertz."""


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
    """Return HH:MM:SS.FFFFFF of a complete Time (TM) or Date Time (DT), PS3.5 6.2.

    Without its date it says nothing about a person.
    """
    found = str(value(ds, keyword) or "")
    if keyword.endswith("DateTime"):
        found = re.sub(r"[+-]\d{4}$", "", found)[DATE_CHARACTERS:]
    told = re.fullmatch(r"(\d\d)(\d\d)(\d\d)(\.\d{1,6})?", found, re.ASCII)
    return "{}:{}:{}{}".format(*told.groups("")) if told else ""


def _positive(ds: Dataset, keyword: str) -> float | None:
    """Return a number above zero: a time of zero stands for none."""
    found = number(ds, keyword)
    return found if found is not None and found > 0 else None


def _megahertz(ds: Dataset, keyword: str) -> float | None:
    found = _positive(ds, keyword)
    return found if found is not None and found <= MOST_MEGAHERTZ else None


def _applied(ds: Dataset, keyword: str) -> bool | None:
    """Whether an attribute of which NONE means no (PS3.3 C.8.13.5.4 to C.8.13.5.6) names a way of doing it."""
    return text(ds, keyword) != "NONE" if text(ds, keyword) else None


def _spoiled(ds: Dataset, keyword: str) -> bool | None:
    """Whether a sequence is spoiled; of Sequence Variant (PS3.3 C.8.3.1) only what is there says something."""
    return (True if "SP" in texts(ds, keyword) else None) if keyword == "SequenceVariant" else _applied(ds, keyword)


def _transferred(ds: Dataset, keyword: str) -> bool | None:
    """Whether magnetization transfer is applied, told as spoiling is."""
    return (True if "MTC" in texts(ds, keyword) else None) if keyword == "SequenceVariant" else _applied(ds, keyword)


def _labelling(ds: Dataset, keyword: str) -> str:
    """Return the kind of arterial spin labelling (PS3.3 C.8.13.5.14) by its abbreviation."""
    return {"CONTINUOUS": "CASL", "PSEUDOCONTINUOUS": "PCASL", "PULSED": "PASL"}.get(text(ds, keyword), "")


def _way_of_spoiling(ds: Dataset, keyword: str) -> str:
    return {"RF": "RF", "GRADIENT": "GRADIENT", "RF_AND_GRADIENT": "COMBINED"}.get(text(ds, keyword), "")


def _code(ds: Dataset, keyword: str) -> str:
    """Return the value of the first code of a sequence, PS3.3 8.8."""
    return next((text(item, "CodeValue") for item in items(ds, keyword)), "")


def _tracer(ds: Dataset, keyword: str) -> str:
    """Return the meaning of a code, if a scheme of PS3.16 8 and not the site made it; of a text a word of `TRACERS`."""
    if keyword == "Radiopharmaceutical":
        return next((word for word in re.findall(r"\w+", text(ds, keyword)) if word.casefold() in TRACERS), "")
    return next(
        (text(item, "CodeMeaning") for item in items(ds, keyword) if text(item, "CodingSchemeDesignator") in SCHEMES),
        "",
    )


def _nuclide(ds: Dataset, keyword: str) -> str:
    """Return a radionuclide as F18, of a meaning like ``^18^Fluorine`` or ``F-18`` (PS3.16 CID 4020)."""
    meaning = next((text(item, "CodeMeaning") for item in items(ds, keyword)), "")
    told = re.search(r"\d+", meaning, re.ASCII)
    element = next((word for word in re.findall(r"[A-Za-z]+", meaning) if word.capitalize() in ELEMENTS), "")
    return f"{ELEMENTS[element.capitalize()]}{told[0]}" if told and element else ""


def _unit(ds: Dataset, keyword: str) -> str:
    """Return Units (0054,1001; PS3.3 C.8.9.1.1.3) as BIDS writes units; of field maps the Rescale Type (0028,1054)."""
    stated = text(ds, keyword)
    if keyword == "RescaleType":
        return stated if stated == HERTZ else ""
    return UNITS.get(stated, stated)


def _filter_of_emission(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the kernel of PET, which is a filter after the reconstruction (PS3.3 C.8.9.1)."""
    return texts(ds, keyword) if text(ds, "Modality") == "PT" else ()


def _kinds(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """Return Image Type (0008,0008), unless the frames of an instance differ in it (PS3.3 C.8.16.1)."""
    found = texts(ds, keyword)
    return () if "MIXED" in found and items(ds, "PerFrameFunctionalGroupsSequence") else found


def _philips_scale_slope(ds: Dataset, _keyword: str) -> float | None:
    return scale_slope(ds)


FACTS = (
    Fact("Modality", ("Modality",), text),
    Fact("Manufacturer", ("Manufacturer",), text),
    Fact("ManufacturersModelName", ("ManufacturerModelName",), text),
    Fact("SoftwareVersions", ("SoftwareVersions",), _joined),
    Fact("MagneticFieldStrength", ("MagneticFieldStrength",), number),
    Fact("ImagingFrequency", ("ImagingFrequency", "TransmitterFrequency"), _megahertz),
    Fact("ImagedNucleus", ("ImagedNucleus", "ResonantNucleus"), text),
    Fact("BodyPart", ("BodyPartExamined",), text),
    Fact("PatientPosition", ("PatientPosition",), text),
    Fact("SeriesNumber", ("SeriesNumber",), whole),
    Fact("AcquisitionNumber", ("AcquisitionNumber",), whole),
    Fact("AcquisitionTime", ("AcquisitionTime", "AcquisitionDateTime", "FrameAcquisitionDateTime"), _time_of_day),
    Fact("ImageType", ("ImageType", "FrameType"), _kinds),
    Fact("ComplexImageComponent", ("ComplexImageComponent",), text),
    Fact("AcquisitionDuration", ("AcquisitionDuration",), _positive),
    Fact("ImageOrientationPatientDICOM", ("ImageOrientationPatient",), numbers),
    Fact("SliceThickness", ("SliceThickness",), _positive),
    Fact("SpacingBetweenSlices", ("SpacingBetweenSlices",), number),
    # magnetic resonance
    Fact("MRAcquisitionType", ("MRAcquisitionType",), text),
    Fact("ScanningSequence", ("ScanningSequence",), texts),
    Fact("SequenceVariant", ("SequenceVariant",), texts),
    Fact("ScanOptions", ("ScanOptions",), texts),
    Fact("EchoPulseSequence", ("EchoPulseSequence",), text),
    Fact("SpoilingState", ("Spoiling", "SequenceVariant"), _spoiled),
    Fact("SpoilingType", ("Spoiling",), _way_of_spoiling),
    Fact("MTState", ("MagnetizationTransfer", "SequenceVariant"), _transferred),
    Fact("ReceiveCoilName", ("ReceiveCoilName",), text),
    Fact("EchoNumber", ("EchoNumbers",), whole),
    Fact("EchoTime", ("EchoTime", "EffectiveEchoTime"), _positive, MILLI),
    Fact("RepetitionTime", ("RepetitionTime",), _positive, MILLI),
    Fact("InversionTime", ("InversionTime", "InversionTimes"), _positive, MILLI),
    Fact("FlipAngle", ("FlipAngle",), _positive),
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
    Fact("ArterialSpinLabelingType", ("ArterialSpinLabelingContrast",), _labelling),
    Fact("LabelingDuration", ("ASLPulseTrainDuration",), _positive, MILLI),
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
    Fact("Units", ("Units", "RescaleType"), _unit),
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
    Fact("InjectedVolume", ("RadiopharmaceuticalVolume",), _positive),
    Fact("RadionuclideHalfLife", ("RadionuclideHalfLife",), number),
    Fact("TracerRadionuclide", ("RadionuclideCodeSequence",), _nuclide),
    Fact("TracerName", ("RadiopharmaceuticalCodeSequence", "Radiopharmaceutical"), _tracer),
    Fact("DoseCalibrationFactor", ("DoseCalibrationFactor",), _positive),
    Fact("ReconMethodName", ("ReconstructionMethod",), text),
    Fact("ReconFilterType", ("ConvolutionKernel",), _filter_of_emission),
    Fact("AttenuationCorrection", ("AttenuationCorrectionMethod",), text),
    Fact("ScatterCorrectionMethod", ("ScatterCorrectionMethod",), text),
    Fact("RandomsCorrectionMethod", ("RandomsCorrectionMethod",), text),
    # what the objects are called, which sidecars of one study need to be told apart by
    Fact("StudyInstanceUID", ("StudyInstanceUID",), text),
    Fact("SeriesInstanceUID", ("SeriesInstanceUID",), text),
    Fact("FrameOfReferenceUID", ("FrameOfReferenceUID",), text),
    Fact("SOPClassUID", ("SOPClassUID",), text),
)
