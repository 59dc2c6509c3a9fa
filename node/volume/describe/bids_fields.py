"""The allow-list: every field that a sidecar may contain, and how it is read."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from pydicom.dataset import Dataset

from node.dicom.values import items, number, numbers, text, texts, value, whole

DATE_CHARACTERS = 8
"""Characters of a Date Time (DT) before its time of day, PS3.5 6.2."""

_WIDTH = re.compile(r"(?<=[A-Za-z])\s*(\d+(?:\.\d+)?)$", re.ASCII)

MAX_MEGAHERTZ = 1000.0
"""Larger values (above 23 tesla) are frequencies in hertz."""


def joined_texts(ds: Dataset, keyword: str) -> str:
    return " ".join(part for part in texts(ds, keyword) if part)


def time_of_day(ds: Dataset, keyword: str) -> str:
    """Return HH:MM:SS.FFFFFF of a complete Time (TM) or Date Time (DT), PS3.5 6.2.

    A time without its date identifies nobody.
    """
    time = str(value(ds, keyword) or "")
    if keyword.endswith("DateTime"):
        time = re.sub(r"[+-]\d{4}$", "", time)[DATE_CHARACTERS:]
    match = re.fullmatch(r"(\d\d)(\d\d)(\d\d)(\.\d{1,6})?", time, re.ASCII)
    return "{}:{}:{}{}".format(*match.groups("")) if match else ""


def positive(ds: Dataset, keyword: str) -> float | None:
    """Return a number above zero; zero means that the value is unknown."""
    first = number(ds, keyword)
    return first if first is not None and first > 0 else None


def direction(ds: Dataset, keyword: str) -> tuple[float, ...] | None:
    """Return a direction in the patient (LPS); zeros mean that there is none."""
    stated = numbers(ds, keyword, 3)
    return stated if stated and any(stated) else None


def count(ds: Dataset, keyword: str) -> int | None:
    """Return a whole number above zero."""
    first = whole(ds, keyword)
    return first if first and first > 0 else None


def megahertz(ds: Dataset, keyword: str) -> float | None:
    frequency = positive(ds, keyword)
    return frequency if frequency is not None and frequency <= MAX_MEGAHERTZ else None


def flag(ds: Dataset, keyword: str) -> bool | None:
    return {"YES": True, "Y": True, "NO": False, "N": False}.get(text(ds, keyword))


def applied(ds: Dataset, keyword: str) -> bool | None:
    """Return whether a technique is applied: its attribute is not NONE (PS3.3 C.8.13.5.4 to C.8.13.5.6)."""
    return text(ds, keyword) != "NONE" if text(ds, keyword) else None


def raw(ds: Dataset, keyword: str) -> bool | None:
    """Return false for an image that was derived from others (PS3.3 C.7.6.1.1.2)."""
    return False if texts(ds, keyword)[:1] == ("DERIVED",) else None


def reconstruction(ds: Dataset, keyword: str, *, labels: bool) -> tuple[Any, ...]:
    """Return subsets and iterations in a method such as ``PSF+TOF3i21s``, or their names."""
    match = re.search(r"(?P<iterations>\d+)i(?P<subsets>\d+)s|i(?P<i>\d+)s(?P<s>\d+)", text(ds, keyword))
    if not match:
        return ()
    found = {"subsets": match["subsets"] or match["s"], "iterations": match["iterations"] or match["i"]}
    return tuple(found) if labels else tuple(map(int, found.values()))


def unit_of_activity(ds: Dataset, keyword: str) -> str:
    """Return the unit of a specific activity, which PS3.3 C.8.9.2 gives per micromole."""
    return "Bq/umol" if positive(ds, keyword) else ""


def filter_of_emission(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the kernel of PET without its width, which is a filter after reconstruction (PS3.3 C.8.9.1)."""
    if text(ds, "Modality") != "PT":
        return ()
    return tuple(_WIDTH.sub("", kernel).strip() or kernel for kernel in texts(ds, keyword))


def time_of_emission(ds: Dataset, keyword: str) -> str:
    """Return the time of day of a series of PET, to which decay correction may refer."""
    return time_of_day(ds, keyword) if text(ds, "Modality") == "PT" else ""


def filter_size(ds: Dataset, keyword: str) -> float | None:
    """Return the width in mm at the end of the kernel of PET, such as ``XYZ Gauss4.00``."""
    match = _WIDTH.search(text(ds, keyword)) if text(ds, "Modality") == "PT" else None
    return float(match[1]) if match and float(match[1]) > 0 else None


SCHEMES = frozenset({"SRT", "SNM3", "99SDM", "SCT", "DCM", "UMLS", "RADLEX"})
"""Coding schemes whose meanings are not typed by hand (PS3.16 8)."""

ELEMENTS = {
    name: symbol
    for symbol, *names in (
        *(("C", "Carbon"), ("N", "Nitrogen"), ("O", "Oxygen"), ("F", "Fluorine"), ("Na", "Sodium")),
        *(("Cu", "Copper"), ("Ga", "Gallium"), ("Ge", "Germanium"), ("Br", "Bromine"), ("Rb", "Rubidium")),
        *(("Y", "Yttrium"), ("Zr", "Zirconium"), ("I", "Iodine"), ("Sc", "Scandium"), ("Tb", "Terbium")),
    )
    for name in (symbol, *names)
}
"""Symbols of the chemical elements in tracers, by name and by symbol."""

CONTRAST_AGENTS = {
    **dict.fromkeys(("iodine", "iodinated", "iohexol", "omnipaque", "accupaque"), "IODINE"),
    **dict.fromkeys(("iodixanol", "visipaque", "iopamidol", "isovue", "iopamiro", "solutrast"), "IODINE"),
    **dict.fromkeys(("iopromide", "ultravist", "iomeprol", "iomeron", "imeron", "ioversol", "optiray"), "IODINE"),
    **dict.fromkeys(("iobitridol", "xenetix", "oxilan", "conray", "cysto", "gastrografin"), "IODINE"),
    **dict.fromkeys(("gadolinium", "gd", "dtpa", "gadopentetate", "magnevist", "magnograf"), "GADOLINIUM"),
    **dict.fromkeys(("gadobutrol", "gadovist", "gadavist", "gadoterate", "dotarem", "clariscan"), "GADOLINIUM"),
    **dict.fromkeys(("gadobenate", "multihance", "gadoteridol", "prohance", "gadodiamide"), "GADOLINIUM"),
    **dict.fromkeys(("omniscan", "gadoxetate", "primovist", "eovist", "gadopiclenol", "elucirem"), "GADOLINIUM"),
    **dict.fromkeys(("barium", "bariumsulfate"), "BARIUM"),
    "xenon": "XENON",
    "carbondioxide": "CARBON DIOXIDE",
}
"""Active ingredients by the names of agents. Other words in the same text may have been typed by hand."""

NO_AGENT = frozenset({"", "0", "n", "no", "none", "nil", "na", "nein", "non", "without", "unknown", "unenhanced"})
"""First words of texts which say that there was no contrast agent, or nothing."""

HERTZ = "Hz"
TRACERS = frozenset(
    {
        *("acetate", "ammonia", "choline", "dopa", "dotanoc", "dotatate", "dotatoc", "fapi", "faza", "fdg", "fdopa"),
        *("fes", "fet", "florbetaben", "florbetapir", "flortaucipir", "fluciclovine", "fluorodeoxyglucose"),
        *("flutemetamol", "flt", "fmiso", "methionine", "mk6240", "naf", "pib", "psma", "raclopride"),
        *("rubidium", "water"),
    }
)
"""Names of tracers. Other words in the same text may have been typed by hand."""

UNITS = {"BQML": "Bq/mL", "GML": "g/mL", "CM2ML": "cm2/mL", "MLMINML": "mL/min/mL", "UMOLMINML": "umol/min/mL"}


class BidsField(NamedTuple):
    """One allowed field: its BIDS name, the keywords it may come from, its reader, and a unit factor."""

    name: str
    keywords: tuple[str, ...]
    read: Callable[[Dataset, str], Any]
    factor: float | None = None


MILLI = 0.001


def _spoiled(ds: Dataset, keyword: str) -> bool | None:
    """Return whether a sequence is spoiled; a missing SP in Sequence Variant (PS3.3 C.8.3.1) means nothing."""
    return (True if "SP" in texts(ds, keyword) else None) if keyword == "SequenceVariant" else applied(ds, keyword)


def _transferred(ds: Dataset, keyword: str) -> bool | None:
    """Return whether magnetization transfer is applied, by the same rules as `_spoiled`."""
    return (True if "MTC" in texts(ds, keyword) else None) if keyword == "SequenceVariant" else applied(ds, keyword)


def _labelling(ds: Dataset, keyword: str) -> str:
    """Return the abbreviation of the kind of arterial spin labelling (PS3.3 C.8.13.5.14)."""
    return {"CONTINUOUS": "CASL", "PSEUDOCONTINUOUS": "PCASL", "PULSED": "PASL"}.get(text(ds, keyword), "")


def _way_of_spoiling(ds: Dataset, keyword: str) -> str:
    return {"RF": "RF", "GRADIENT": "GRADIENT", "RF_AND_GRADIENT": "COMBINED"}.get(text(ds, keyword), "")


def _code(ds: Dataset, keyword: str) -> str:
    """Return the value of the first code of a sequence, PS3.3 8.8."""
    return next((text(item, "CodeValue") for item in items(ds, keyword)), "")


def _tracer(ds: Dataset, keyword: str) -> str:
    """Return the meaning of a code from a scheme of PS3.16 8, not of the site; or from a text, a word of `TRACERS`."""
    if keyword == "Radiopharmaceutical":
        return next((word for word in re.findall(r"\w+", text(ds, keyword)) if word.casefold() in TRACERS), "")
    return next(
        (text(item, "CodeMeaning") for item in items(ds, keyword) if text(item, "CodingSchemeDesignator") in SCHEMES),
        "",
    )


def _nuclide(ds: Dataset, keyword: str) -> str:
    """Return a radionuclide as F18, from a meaning such as ``^18^Fluorine`` or ``F-18`` (PS3.16 CID 4020)."""
    meaning = next((text(item, "CodeMeaning") for item in items(ds, keyword)), "")
    mass = re.search(r"\d+", meaning, re.ASCII)
    element = next((word for word in re.findall(r"[A-Za-z]+", meaning) if word.capitalize() in ELEMENTS), "")
    return f"{ELEMENTS[element.capitalize()]}{mass[0]}" if mass and element else ""


def _agent(ds: Dataset, keyword: str) -> str:
    """Return the text of Contrast/Bolus Agent (0018,0010), or the meanings of its codes (0018,0012)."""
    if keyword.endswith("Sequence"):
        return " ".join(text(item, "CodeMeaning") for item in items(ds, keyword))
    return text(ds, keyword)


def _ingredient(ds: Dataset, keyword: str) -> str:
    """Return the active ingredient of a contrast agent, by the terms of PS3.3 C.7.6.4.1, which are those of BIDS."""
    named = _agent(ds, keyword)
    if named in CONTRAST_AGENTS.values():
        return named
    words = re.findall(r"[a-z]+", named.casefold().replace("carbon dioxide", "carbondioxide"))
    found = {CONTRAST_AGENTS[word] for word in words if word in CONTRAST_AGENTS}
    return found.pop() if len(found) == 1 else ""


def _is_agent_stated(ds: Dataset, keyword: str) -> bool | None:
    first = re.match(r"[a-z0-9]*", re.sub(r"[^a-z0-9 ]", "", _agent(ds, keyword).casefold()).strip())
    return True if first is not None and first[0] not in NO_AGENT else None


def _unit(ds: Dataset, keyword: str) -> str:
    """Return Units (0054,1001; PS3.3 C.8.9.1.1.3) in BIDS' notation; for field maps the Rescale Type (0028,1054)."""
    stated = text(ds, keyword)
    if keyword == "RescaleType":
        return stated if stated == HERTZ else ""
    return UNITS.get(stated, stated)


def _kinds(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """Return Image Type (0008,0008), unless the frames of an instance differ in it (PS3.3 C.8.16.1)."""
    kinds = texts(ds, keyword)
    return () if "MIXED" in kinds and items(ds, "PerFrameFunctionalGroupsSequence") else kinds


def _component(ds: Dataset, keyword: str) -> str:
    """Return Complex Image Component (0008,9208), unless the frames of an instance differ in it (PS3.3 C.8.13.3.1)."""
    component = text(ds, keyword)
    return "" if component == "MIXED" else component


def _corrected(ds: Dataset, keyword: str) -> bool | None:
    """Return whether the distortion by gradients was corrected, of Siemens' Image Type."""
    kinds = {"ND", "DIS2D", "DIS3D"}.intersection(texts(ds, keyword))
    return "ND" not in kinds if kinds else None


AGENT_KEYWORDS = ("ContrastBolusIngredient", "ContrastBolusAgent", "ContrastBolusAgentSequence")

BIDS_FIELDS = (
    BidsField("Modality", ("Modality",), text),
    BidsField("Manufacturer", ("Manufacturer",), text),
    BidsField("ManufacturersModelName", ("ManufacturerModelName",), text),
    BidsField("SoftwareVersions", ("SoftwareVersions",), joined_texts),
    BidsField("MagneticFieldStrength", ("MagneticFieldStrength",), number),
    BidsField("ImagingFrequency", ("ImagingFrequency", "TransmitterFrequency"), megahertz),
    BidsField("ImagedNucleus", ("ImagedNucleus", "ResonantNucleus"), text),
    BidsField("BodyPart", ("BodyPartExamined",), text),
    BidsField("ContrastBolusIngredient", AGENT_KEYWORDS, _ingredient),
    BidsField("contrast_agent_stated", AGENT_KEYWORDS[-2:], _is_agent_stated),
    BidsField("PatientPosition", ("PatientPosition",), text),
    BidsField("SeriesNumber", ("SeriesNumber",), whole),
    BidsField("AcquisitionNumber", ("AcquisitionNumber",), whole),
    BidsField("AcquisitionTime", ("AcquisitionTime", "AcquisitionDateTime", "FrameAcquisitionDateTime"), time_of_day),
    BidsField("ImageType", ("ImageType", "FrameType"), _kinds),
    BidsField("RawImage", ("ImageType",), raw),
    BidsField("ComplexImageComponent", ("ComplexImageComponent",), _component),
    BidsField("AcquisitionDuration", ("AcquisitionDuration",), positive),
    BidsField("ImageOrientationPatientDICOM", ("ImageOrientationPatient",), numbers),
    BidsField("SliceThickness", ("SliceThickness",), positive),
    BidsField("SpacingBetweenSlices", ("SpacingBetweenSlices",), number),
    # magnetic resonance
    BidsField("MRAcquisitionType", ("MRAcquisitionType",), text),
    BidsField("ScanningSequence", ("ScanningSequence",), texts),
    BidsField("SequenceVariant", ("SequenceVariant",), texts),
    BidsField("ScanOptions", ("ScanOptions",), texts),
    BidsField("AcquisitionContrast", ("AcquisitionContrast",), text),
    BidsField("EchoPulseSequence", ("EchoPulseSequence",), text),
    BidsField("SpoilingState", ("Spoiling", "SequenceVariant"), _spoiled),
    BidsField("SpoilingType", ("Spoiling",), _way_of_spoiling),
    BidsField("MTState", ("MagnetizationTransfer", "SequenceVariant"), _transferred),
    BidsField("NonlinearGradientCorrection", ("ImageType",), _corrected),
    BidsField("ReceiveCoilName", ("ReceiveCoilName",), text),
    BidsField("CoilString", ("ReceiveCoilName",), text),
    BidsField("EchoNumber", ("EchoNumbers",), whole),
    BidsField("EchoTime", ("EchoTime", "EffectiveEchoTime"), positive, MILLI),
    BidsField("RepetitionTime", ("RepetitionTime",), positive, MILLI),
    BidsField("InversionTime", ("InversionTime", "InversionTimes"), positive, MILLI),
    BidsField("FlipAngle", ("FlipAngle",), positive),
    BidsField("VariableFlipAngleFlag", ("VariableFlipAngleFlag",), flag),
    BidsField("EchoTrainLength", ("EchoTrainLength", "GradientEchoTrainLength", "RFEchoTrainLength"), count),
    BidsField("NumberOfAverages", ("NumberOfAverages",), number),
    BidsField("PercentSampling", ("PercentSampling",), number),
    BidsField("PercentPhaseFOV", ("PercentPhaseFieldOfView",), number),
    BidsField("PhaseEncodingSteps", ("NumberOfPhaseEncodingSteps", "MRAcquisitionPhaseEncodingStepsInPlane"), whole),
    BidsField("PhaseEncodingStepsOutOfPlane", ("MRAcquisitionPhaseEncodingStepsOutOfPlane",), count),
    BidsField("FrequencyEncodingSteps", ("MRAcquisitionFrequencyEncodingSteps",), count),
    BidsField("NumberOfKSpaceTrajectories", ("NumberOfKSpaceTrajectories",), count),
    BidsField("PixelBandwidth", ("PixelBandwidth",), number),
    BidsField("ParallelAcquisitionTechnique", ("ParallelAcquisitionTechnique",), text),
    BidsField("ParallelReductionFactorInPlane", ("ParallelReductionFactorInPlane",), number),
    BidsField("ParallelReductionFactorOutOfPlane", ("ParallelReductionFactorOutOfPlane",), number),
    BidsField("PartialFourierDirection", ("PartialFourierDirection",), text),
    BidsField("SAR", ("SAR",), number),
    BidsField("VelocityEncodingMaximumValue", ("VelocityEncodingMaximumValue",), positive),
    BidsField("VelocityEncodingDirection", ("VelocityEncodingDirection",), direction),
    BidsField("ArterialSpinLabelingType", ("ArterialSpinLabelingContrast",), _labelling),
    BidsField("LabelingDuration", ("ASLPulseTrainDuration",), positive, MILLI),
    BidsField("LabelingOrientation", ("ASLSlabOrientation",), partial(numbers, count=3)),
    BidsField("LabelingSlabThickness", ("ASLSlabThickness",), positive),
    BidsField("VascularCrushing", ("ASLCrusherFlag",), flag),
    BidsField("VascularCrushingVENC", ("ASLCrusherFlowLimit",), positive),
    BidsField("BolusCutOffFlag", ("ASLBolusCutoffFlag",), flag),
    BidsField("BolusCutOffDelayTime", ("ASLBolusCutoffDelayTime",), positive, MILLI),
    BidsField("BolusCutOffTechnique", ("ASLBolusCutoffTechnique",), text),
    # X-ray and computed tomography
    BidsField("KVP", ("KVP",), number),
    BidsField("XRayTubeCurrent", ("XRayTubeCurrent", "XRayTubeCurrentInmA"), number),
    BidsField("XRayExposure", ("Exposure", "ExposureInmAs"), number),
    BidsField("ExposureTime", ("ExposureTime", "ExposureTimeInms"), number, MILLI),
    BidsField("GantryDetectorTilt", ("GantryDetectorTilt",), number),
    BidsField("SpiralPitchFactor", ("SpiralPitchFactor",), number),
    BidsField("SingleCollimationWidth", ("SingleCollimationWidth",), number),
    BidsField("TotalCollimationWidth", ("TotalCollimationWidth",), number),
    BidsField("DataCollectionDiameter", ("DataCollectionDiameter",), number),
    BidsField("ReconstructionDiameter", ("ReconstructionDiameter",), number),
    BidsField("ConvolutionKernel", ("ConvolutionKernel",), texts),
    # positron emission tomography
    BidsField("Units", ("Units", "RescaleType"), _unit),
    BidsField("RescaleType", ("RescaleType",), text),
    BidsField("RealWorldValueSlope", ("RealWorldValueSlope",), number),
    BidsField("RealWorldValueIntercept", ("RealWorldValueIntercept",), number),
    BidsField("RealWorldValueUnits", ("MeasurementUnitsCodeSequence",), _code),
    BidsField("DecayCorrection", ("DecayCorrection",), text),
    BidsField("CorrectedImage", ("CorrectedImage",), texts),
    BidsField("SeriesType", ("SeriesType",), texts),
    BidsField("SeriesTime", ("SeriesTime",), time_of_emission),
    BidsField("InjectedRadioactivity", ("RadionuclideTotalDose",), number),
    BidsField("InjectedVolume", ("RadiopharmaceuticalVolume",), positive),
    BidsField("RadionuclideHalfLife", ("RadionuclideHalfLife",), number),
    BidsField("RadionuclidePositronFraction", ("RadionuclidePositronFraction",), positive),
    BidsField("MolarActivity", ("RadiopharmaceuticalSpecificActivity",), positive),
    BidsField("MolarActivityUnits", ("RadiopharmaceuticalSpecificActivity",), unit_of_activity),
    BidsField("TracerRadionuclide", ("RadionuclideCodeSequence",), _nuclide),
    BidsField("TracerName", ("RadiopharmaceuticalCodeSequence", "Radiopharmaceutical"), _tracer),
    BidsField("DoseCalibrationFactor", ("DoseCalibrationFactor",), positive),
    BidsField("ReconMethodName", ("ReconstructionMethod",), text),
    BidsField("ReconstructionMethod", ("ReconstructionMethod",), text),
    BidsField("ReconMethodParameterLabels", ("ReconstructionMethod",), partial(reconstruction, labels=True)),
    BidsField("ReconMethodParameterValues", ("ReconstructionMethod",), partial(reconstruction, labels=False)),
    BidsField("ReconFilterType", ("ConvolutionKernel",), filter_of_emission),
    BidsField("ReconFilterSize", ("ConvolutionKernel",), filter_size),
    BidsField("AttenuationCorrection", ("AttenuationCorrectionMethod",), text),
    BidsField("AttenuationCorrectionMethod", ("AttenuationCorrectionMethod",), text),
    BidsField("ScatterCorrectionMethod", ("ScatterCorrectionMethod",), text),
    BidsField("RandomsCorrectionMethod", ("RandomsCorrectionMethod",), text),
    # identifiers of the objects, which separate the sidecars of one study
    BidsField("StudyInstanceUID", ("StudyInstanceUID",), text),
    BidsField("SeriesInstanceUID", ("SeriesInstanceUID",), text),
    BidsField("FrameOfReferenceUID", ("FrameOfReferenceUID",), text),
    BidsField("SOPClassUID", ("SOPClassUID",), text),
)
