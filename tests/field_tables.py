"""Tables of the documents that are made from the code: ``python -m tests.field_tables`` writes them.

docs/sidecar.md has every field of a stack, where it comes from, and its unit; docs/select.md and docs/bids.md have the
fields of selectors and of rules; docs/configuration.md has the keys of the configuration.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pydantic.fields import FieldInfo

from node.dicom.values import standard_tag
from node.extensions.bids.rules import VOLUME_FIELDS
from node.selector.fields import FIELDS, Field
from node.settings.tables import SAMPLE_NAMES, as_toml, keys, kinds, meaning, purpose, sections
from node.volume.describe.bids_fields import BIDS_FIELDS
from node.volume.describe.emission import FRAME_FACTORS
from node.volume.vendors import VENDOR_FIELDS

DOCS = Path(__file__).parents[1] / "docs"

BEGIN, END = "<!-- fields: begin -->", "<!-- fields: end -->"

DERIVED = {
    "AcquisitionTime": "the earliest plane; Philips: the first image",
    "RepetitionTime": "of several volumes their step; GE: (0043,xx7C) is added",
    "PhaseEncodingDirection": "axis and sign, along rows and columns as stored; Siemens: CSA or (0021,xx1C) "
    "PhaseEncodingDirectionPositive; GE: (0018,9034), else (0043,xx2A)",
    "PhaseEncodingAxis": "InPlanePhaseEncodingDirection (0018,1312), if the sign is unknown",
    "InPlanePhaseEncodingDirectionDICOM": "InPlanePhaseEncodingDirection (0018,1312)",
    "AcquisitionMatrixPE": "AcquisitionMatrix (0018,1310), MRAcquisitionPhaseEncodingStepsInPlane (0018,9231)",
    "ReconMatrixPE": "size of a plane in phase direction",
    "EffectiveEchoSpacing": "echo-planar; Siemens: bandwidth in phase direction; GE: (0043,xx2C), (0043,xx83), "
    "AcquisitionMatrix, ScanOptions; UIH: AcquisitionDuration (0018,9073) of a plane",
    "TotalReadoutTime": "EffectiveEchoSpacing times the intervals of ReconMatrixPE",
    "BandwidthPerPixelPhaseEncode": "Siemens: (0019,xx28), (0021,xx53), CSA; echo-planar",
    "DerivedVendorReportedEchoSpacing": "Siemens: BandwidthPerPixelPhaseEncode without acceleration and oversampling",
    "EstimatedEffectiveEchoSpacing": "Philips: EstimatedTotalReadoutTime over the intervals of ReconMatrixPE",
    "EstimatedTotalReadoutTime": "Philips, echo-planar: WaterFatShift, ImagingFrequency and (2001,xx13)",
    "SliceTiming": "times of the planes: AcquisitionTime, mosaic, grid; GE: (0021,xx5E), TriggerTime (0018,1060) of "
    "echo-planar scans, protocol SLICEORDER",
    "PulseSequenceType": "ScanningSequence, SequenceVariant, EchoPulseSequence, acceleration",
    "PhaseEncodingStepsNoPartialFourier": "Philips: PhaseEncodingSteps, if PartialFourier (0018,9081) is YES",
    "RepetitionTimeExcitation": "RepetitionTime (0018,0080), if volumes follow at another time",
    "RepetitionTimePreparation": "RepetitionTime (0018,0080) of labelled images",
    "VolumeTiming": "starts of the volumes without a fixed step",
    "FrameTimesStart": "starts of the frames of PET and NM",
    "FrameDuration": "ActualFrameDuration (0018,1242), FrameAcquisitionDuration (0018,9220)",
    "InjectedRadioactivityUnits": "Bq",
    "TimeZero": "the start of the scan, as time of day",
    "ScanStart": "0, because the scan begins at time zero",
    "InjectionStart": "RadiopharmaceuticalStartDateTime (0018,1078), StartTime (0018,1072), after time zero",
    "ImageDecayCorrected": "DecayCorrection (0054,1102), DecayCorrected (0018,9758)",
    "ImageDecayCorrectionTime": "moment of DecayCorrection, after time zero",
    "SUVType": "of uptake volumes: BW, LBM, LBMJAMES128 or BSA",
    "ConversionSoftware": "voxelnode",
    "ConversionSoftwareVersion": "its version",
}
"""Fields that are computed, and from what."""

UNITS = {
    "s": (
        *("AcquisitionDuration", "EchoTime", "EchoTime1", "EchoTime2", "RepetitionTime", "RepetitionTimeExcitation"),
        *(
            "RepetitionTimePreparation",
            "InversionTime",
            "LabelingDuration",
            "PostLabelingDelay",
            "BolusCutOffDelayTime",
        ),
        *("DwellTime", "DelayTime", "EffectiveEchoSpacing", "TotalReadoutTime", "DerivedVendorReportedEchoSpacing"),
        *("VendorReportedEchoSpacing", "EstimatedEffectiveEchoSpacing", "EstimatedTotalReadoutTime", "SliceTiming"),
        *("VolumeTiming", "ExposureTime", "FrameTimesStart", "FrameDuration", "FrameReferenceTime", "ScanStart"),
        *("InjectionStart", "ImageDecayCorrectionTime", "RadionuclideHalfLife"),
    ),
    "mm": (
        *("SliceThickness", "SpacingBetweenSlices", "LabelingSlabThickness", "TablePosition", "ReconFilterSize"),
        *("SingleCollimationWidth", "TotalCollimationWidth", "DataCollectionDiameter", "ReconstructionDiameter"),
    ),
    "degrees": ("FlipAngle", "GantryDetectorTilt"),
    "T": ("MagneticFieldStrength",),
    "MHz": ("ImagingFrequency",),
    "Hz": ("BandwidthPerPixelPhaseEncode",),
    "Hz/pixel": ("PixelBandwidth",),
    "W/kg": ("SAR",),
    "pixels": ("WaterFatShift",),
    "V": ("TxRefAmp",),
    "cm/s": ("VascularCrushingVENC", "VelocityEncodingMaximumValue"),
    "kV": ("KVP",),
    "mA": ("XRayTubeCurrent",),
    "mAs": ("XRayExposure",),
    "%": ("PercentSampling", "PercentPhaseFOV", "ScatterFraction"),
    "Bq": ("InjectedRadioactivity",),
    "ml": ("InjectedVolume",),
}
UNIT_OF = {name: unit for unit, names in UNITS.items() for name in names}

OTHER_NAMES = {
    "RealWorldValueSlope": "PhilipsRWVSlope",
    "RealWorldValueIntercept": "PhilipsRWVIntercept",
    "PostLabelingDelay": "InitialPostLabelDelay",
}
"""Fields that dcm2niix writes under another name, as well or instead."""

DCM2NIIX = frozenset(
    {
        *("Modality", "MagneticFieldStrength", "ImagingFrequency", "Manufacturer", "InternalPulseSequenceName"),
        *("ManufacturersModelName", "BodyPart", "PatientPosition", "SoftwareVersions", "MRAcquisitionType"),
        *("ScanningSequence", "SequenceVariant", "PulseSequenceType", "ScanOptions", "ImageType", "ImageTypeText"),
        *("NonlinearGradientCorrection", "RawImage", "SeriesNumber", "AcquisitionTime", "AcquisitionNumber"),
        *("SeriesInstanceUID", "StudyInstanceUID", "PhilipsRescaleSlope", "PhilipsRescaleIntercept"),
        *("PhilipsScaleSlope", "UsePhilipsFloatNotDisplayScaling", "ExposureTime", "XRayTubeCurrent", "XRayExposure"),
        *("SliceThickness", "SpacingBetweenSlices", "SAR", "NumberOfAverages", "TablePosition", "EchoTime"),
        *("EchoTime1", "EchoTime2", "EchoNumber", "RepetitionTime", "RepetitionTimeExcitation", "InversionTime"),
        *("FlipAngle", "VariableFlipAngleFlag", "MTState", "SpoilingState", "SpoilingType", "WaterFatShift"),
        *("EstimatedEffectiveEchoSpacing", "EstimatedTotalReadoutTime", "PhaseEncodingPolarityGE", "ShimSetting"),
        *("PrescanReuseString", "CoilString", "NumberOfDiffusionDirectionGE", "NumberOfDiffusionT2GE"),
        *("PhaseEncodingDirectionDisplayed", "PartialFourier", "Interpolation2D", "DiffusionScheme"),
        *("BaseResolution", "DelayTime", "TxRefAmp", "PhaseResolution", "PhaseOversampling"),
        *("VendorReportedEchoSpacing", "ReceiveCoilName", "ReceiveCoilActiveElements", "PulseSequenceDetails"),
        *("RefLinesPE", "CoilCombinationMethod", "ConsistencyInfo", "MatrixCoilMode", "MultibandAccelerationFactor"),
        *("PercentPhaseFOV", "PercentSampling", "EchoTrainLength", "PartialFourierDirection", "PhaseEncodingSteps"),
        *("FrequencyEncodingSteps", "PhaseEncodingStepsOutOfPlane", "AcquisitionMatrixPE", "ReconMatrixPE"),
        *("BandwidthPerPixelPhaseEncode", "ParallelReductionFactorInPlane", "ParallelAcquisitionTechnique"),
        *("ParallelReductionFactorOutOfPlane", "EffectiveEchoSpacing", "DerivedVendorReportedEchoSpacing"),
        *("TotalReadoutTime", "PixelBandwidth", "AcquisitionDuration", "NumberOfKSpaceTrajectories", "DwellTime"),
        *("PhaseEncodingAxis", "PhaseEncodingDirection", "SliceTiming", "ImageOrientationPatientDICOM"),
        *("ImageOrientationText", "InPlanePhaseEncodingDirectionDICOM", "TracerName", "TracerRadionuclide"),
        *("RadionuclidePositronFraction", "InjectedRadioactivity", "InjectedRadioactivityUnits", "MolarActivity"),
        *("MolarActivityUnits", "InjectedVolume", "RadionuclideHalfLife", "DoseCalibrationFactor", "DecayCorrection"),
        *("AttenuationCorrectionMethod", "AttenuationCorrection", "ReconstructionMethod", "ScatterFraction"),
        *("RandomsCorrectionMethod", "ScatterCorrectionMethod", "ReconMethodName", "ReconMethodParameterLabels"),
        *("ReconMethodParameterValues", "ConvolutionKernel", "ReconFilterType", "ReconFilterSize", "Units"),
        *(
            "SeriesTime",
            "ScanStart",
            "ImageDecayCorrected",
            "ImageDecayCorrectionTime",
            "FrameDuration",
            "FrameTimesStart",
        ),
        *("DecayCorrectionFactor", "FrameReferenceTime", "LabelingDuration", "PostLabelingDelay"),
        *("ArterialSpinLabelingType", "LabelingOrientation", "VascularCrushing", "VascularCrushingVENC"),
        *("NumberOfPointsPerArm", "NumberOfArms", "NumberOfExcitations", "RepetitionTimePreparation"),
        *("ConversionSoftware", "ConversionSoftwareVersion", "AveragesDouble", "PartialFourierEnabled"),
        "PhaseEncodingStepsNoPartialFourier",
    }
)
"""Fields that dcm2niix writes under the same name."""

VENDOR_NAMES = {"SIEMENS": "Siemens", "GE ": "GE", "PHILIPS": "Philips", "UIH": "UIH"}


def sources() -> dict[str, list[str]]:
    """Return, by field, the elements that it comes from: those of the standard first, then those of each vendor."""
    found: dict[str, list[str]] = defaultdict(list)
    for field in BIDS_FIELDS:
        found[field.name] += [", ".join(_notation(field.name, keyword) for keyword in field.keywords)]
    for name, keyword, _ in FRAME_FACTORS:
        found[name].append(_notation(name, keyword))
    for vendor, table in VENDOR_FIELDS.items():
        by_name: dict[str, list[str]] = defaultdict(list)
        for own in table:
            by_name[own.name].append(own.source)
        for name, several in by_name.items():
            found[name].append(f"{VENDOR_NAMES[vendor]}: {'; '.join(several)}")
    for name, text in DERIVED.items():
        found[name].append(text)
    return found


def _notation(field: str, keyword: str) -> str:
    """Return the tag of an attribute, behind its keyword unless the field has that name."""
    tag = standard_tag(keyword)
    number = f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
    return number if keyword == field else f"{keyword} {number}"


def sidecar_list() -> Iterator[str]:
    """Yield the lines of the list in Markdown, fields in alphabetical order."""
    for name, places in sorted(sources().items()):
        unit = f" [{UNIT_OF[name]}]" if name in UNIT_OF else ""
        alias = f"; dcm2niix: `{OTHER_NAMES[name]}`" if name in OTHER_NAMES else ""
        alone = "" if alias or name in DCM2NIIX else " *"
        yield f"- `{name}`: {'; '.join(places)}{unit}{alias}{alone}"


def selector_list(fields: Mapping[str, Field]) -> Iterator[str]:
    """Yield the lines of the list of fields in Markdown."""
    yield "Text, unless a type is named:\n"
    for name, field in fields.items():
        kind = ", ".join([field.type] * (field.type != "text") + ["several"] * field.several)
        choices = f": {', '.join(f'`{choice}`' for choice in field.choices)}" if field.choices else ""
        yield f"- `{name}`{f' ({kind})' if kind else ''}: {field.meaning}{choices}"


def configuration_tables() -> Iterator[str]:
    """Yield the lines in Markdown about each section of the configuration: its purpose, and a table of its keys."""
    for name, model in sections():
        yield f"### [{name}{'.NAME' * (name in SAMPLE_NAMES)}]"
        yield from ("", purpose(model), "", *table_of(keys(model)), "")
        for kind, of_kind, own in kinds(name):
            yield f'#### [{name}.NAME], kind = "{kind}"'
            yield from ("", purpose(of_kind), "", *table_of(own), "")


def table_of(fields: list[tuple[str, FieldInfo]]) -> Iterator[str]:
    """Yield the table in Markdown of keys."""
    yield from ("| Key | Default | Meaning |", "|---|---|---|")
    for key, field in fields:
        default = "required" if field.is_required() else field.get_default(call_default_factory=True)
        shown = "unset" if default is None else default if field.is_required() else f"`{as_toml(default)}`"
        text = re.sub(r"docs/([\w-]+\.md)", r"[\1](\1)", meaning(field)).replace("|", r"\|")
        yield f"| `{key}` | {shown} | {text} |"


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "sidecar.md": sidecar_list,
    "select.md": lambda: selector_list(FIELDS),
    "bids.md": lambda: selector_list(VOLUME_FIELDS),
    "configuration.md": configuration_tables,
}
"""The table or list of each document."""


def with_table(name: str) -> str:
    """Return a document with its current table between the two marks."""
    before, _, rest = (DOCS / name).read_text(encoding="utf-8").partition(BEGIN)
    lines = "\n".join(TABLES[name]())
    return f"{before}{BEGIN}\n{lines}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    for document in TABLES:
        (DOCS / document).write_text(with_table(document), encoding="utf-8")
