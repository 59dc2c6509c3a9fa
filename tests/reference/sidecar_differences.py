"""Why a field of a sidecar differs from that of dcm2niix: rules, each with the fields it holds for.

The table of docs/sidecar.md has the same reasons.
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from pydicom import Dataset
from pydicom.multival import MultiValue

from node.volume.describe.sidecar_fields import IDENTIFYING


class Pair(NamedTuple):
    """The sidecars of one volume, and the data set of its first image."""

    theirs: dict[str, Any]
    ours: dict[str, Any]
    ds: Dataset


class Difference(NamedTuple):
    """Fields that may differ, when, and the reason."""

    fields: frozenset[str]
    holds: Callable[[str, Pair], bool]
    reason: str


def _anywhere(pair: Pair, keyword: str) -> Any:
    """The value of an attribute at any depth of the data set."""
    return next((element.value for element in pair.ds.iterall() if element.keyword == keyword), None)


def _absent(name: str, pair: Pair) -> bool:
    return name not in pair.ours


def _always(_name: str, _pair: Pair) -> bool:
    return True


def _as_texts(name: str, pair: Pair) -> bool:
    """Lists instead of texts with backslashes, and backslashes instead of spaces."""
    ours = pair.ours.get(name)
    joined = "\\".join(ours) if isinstance(ours, list) else ours
    return joined is not None and joined.replace("\\", " ") == str(pair.theirs[name]).replace("\\", " ")


def _same_maker(name: str, pair: Pair) -> bool:
    return str(pair.ours.get(name, "")).upper().startswith(str(pair.theirs[name]).upper())


def _same_kinds(name: str, pair: Pair) -> bool:
    """Underscores are separators to dcm2niix, and it adds the component."""
    kinds = "_".join(pair.ours.get(name, ())).split("_")
    theirs = [kind.strip() for kind in pair.theirs[name]]
    added = {"MAGNITUDE", "PHASE", "REAL", "IMAGINARY", "FIELDMAPHZ"}
    return [kind for kind in theirs if kind not in added] == [kind for kind in kinds if kind and kind not in added]


def _seconds(time: str) -> float:
    hours, minutes, seconds = map(float, time.split(":"))
    return hours * 3600 + minutes * 60 + seconds


def _same_time(name: str, pair: Pair) -> bool:
    return name in pair.ours and math.isclose(_seconds(pair.ours[name]), _seconds(pair.theirs[name]), abs_tol=1e-3)


def _earlier(name: str, pair: Pair) -> bool:
    return name in pair.ours and _seconds(pair.ours[name]) < _seconds(pair.theirs[name])


def _identifies(name: str, pair: Pair) -> bool:
    """The value repeats a word that identifies somebody."""
    words = {word for keyword in IDENTIFYING for word in re.split(r"[\W_]+", str(pair.ds.get(keyword, "")).casefold())}
    own = re.split(r"[\W_]+", str(pair.ds.get(_KEYWORDS.get(name, name), pair.theirs[name])).casefold())
    return name not in pair.ours and any(len(word) > 2 and word in words for word in own)


_KEYWORDS = {
    "BodyPart": "BodyPartExamined",
    "ManufacturersModelName": "ManufacturerModelName",
    "EchoNumber": "EchoNumbers",
}


def _as_stated(name: str, pair: Pair) -> bool:
    """dcm2niix took the value from an item of a sequence, or made it up; ours is that of the image."""
    keyword = _KEYWORDS.get(name, name)
    stated = pair.ds.get(keyword, _anywhere(pair, keyword) if name == "EchoNumber" else None)
    if isinstance(stated, MultiValue):
        stated = list(stated)
    return pair.ours.get(name) == (None if stated is None or stated == "" else stated)


def _unnumbered(_name: str, pair: Pair) -> bool:
    return not pair.ds.get("SeriesNumber")


def _no_acceleration(name: str, pair: Pair) -> bool:
    return name not in pair.ours and pair.theirs[name] == 1


def _not_in_parallel(name: str, pair: Pair) -> bool:
    return name not in pair.ours and pair.ours.get("ParallelReductionFactorInPlane") == 1


def _typed_sequence(name: str, pair: Pair) -> bool:
    return name not in pair.ours and str(pair.theirs[name]).startswith("%CustomerSeq%")


def _renamed(name: str, pair: Pair) -> bool:
    other = name.replace("PhilipsRWV", "RealWorldValue")
    return math.isclose(pair.ours.get(other, math.nan), pair.theirs[name], rel_tol=1e-4, abs_tol=1e-9)


def _not_echo_planar(name: str, pair: Pair) -> bool:
    return name not in pair.ours and "EPI" not in pair.ours.get("PulseSequenceType", "")


def _cropped(name: str, pair: Pair) -> bool:
    return name not in pair.ours and pair.ours["ReconMatrixPE"] < pair.ours["AcquisitionMatrixPE"]


def _beyond_a_repetition(name: str, pair: Pair) -> bool:
    return name not in pair.ours and max(pair.theirs[name]) >= pair.ours["RepetitionTime"]


def _rounded_times(name: str, pair: Pair) -> bool:
    ours, theirs = pair.ours.get(name, ()), pair.theirs[name]
    return len(ours) == len(theirs) and all(abs(a - b) < 0.02 for a, b in zip(ours, theirs, strict=True))


def _uneven_times(name: str, pair: Pair) -> bool:
    steps = np.diff(np.unique(pair.theirs[name]))
    return name not in pair.ours and steps.size > 1 and not np.allclose(steps, steps[0], rtol=0.1)


def _vendor(manufacturer: str) -> Callable[[str, Pair], bool]:
    return lambda name, pair: (
        name not in pair.ours and str(pair.ds.get("Manufacturer", "")).upper().startswith(manufacturer)
    )


def _spoiled_by(name: str, pair: Pair) -> bool:
    return pair.ours.get(name) == _anywhere(pair, "Spoiling") == "RF"


def _stated_elsewhere(name: str, pair: Pair) -> bool:
    kind = pair.ours.get(name, "")
    if kind == "Spoiled Gradient Echo":
        return _anywhere(pair, "Spoiling") not in (None, "NONE")
    return kind == "EPI" or (kind.endswith("EPI") and _anywhere(pair, "EchoPlanarPulseSequence") == "YES")


def _of_other_frames(name: str, pair: Pair) -> bool:
    return name in pair.ours and "MIXED" in pair.theirs["ImageType"]


def _names(*names: str) -> frozenset[str]:
    return frozenset(names)


DIFFERENCES = (
    Difference(
        _names(
            *("PatientName", "PatientID", "PatientAge", "PatientSex", "PatientBirthDate", "PatientWeight"),
            *("PatientSize", "AccessionNumber", "StudyID", "ReferringPhysicianName", "AcquisitionDateTime"),
            *("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName"),
            *("DeviceSerialNumber", "StudyDescription", "SeriesDescription", "ProtocolName"),
            *("ProcedureStepDescription", "SequenceName", "ImageComments", "DeidentificationMethod", "WipMemBlock"),
        ),
        _absent,
        "patient, staff, site and device; dates; texts that people type",
    ),
    Difference(
        _names("PulseSequenceDetails"), _typed_sequence, "names of sequences that are not the vendor's are typed"
    ),
    Difference(
        _names(
            *("Manufacturer", "ManufacturersModelName", "BodyPart", "SoftwareVersions", "SeriesNumber"),
            *("ReceiveCoilName", "CoilString"),
        ),
        _identifies,
        "the text repeats a word that identifies the patient",
    ),
    Difference(_names("BidsGuess"), _absent, "a guess"),
    Difference(_names("ConversionSoftware", "ConversionSoftwareVersion"), _always, "another program"),
    Difference(_names("Manufacturer"), _same_maker, "not abbreviated"),
    Difference(
        _names("ScanningSequence", "SequenceVariant", "ScanOptions", "ConvolutionKernel", "SoftwareVersions"),
        _as_texts,
        "several values: a list, or separated by spaces",
    ),
    Difference(_names("ImageType", "ImageTypeText"), _same_kinds, "as stated, not split at underscores"),
    Difference(_names("ImageType", "ScanningSequence"), _of_other_frames, "of the frames of the volume"),
    Difference(_names("AcquisitionTime"), _same_time, "the same moment with other digits"),
    Difference(_names("AcquisitionTime"), _earlier, "the earliest plane"),
    Difference(
        _names(
            *("Manufacturer", "ManufacturersModelName", "SoftwareVersions", "EchoNumber", "AcquisitionNumber"),
            "ImageType",
        ),
        _as_stated,
        "as the first image states it",
    ),
    Difference(
        _names("AcquisitionNumber", "NumberOfAverages"),
        lambda name, pair: name not in pair.ours,
        "of each time, or none, if the images differ; dcm2niix has that of the first",
    ),
    Difference(_names("SeriesNumber"), _unnumbered, "none; dcm2niix makes one up"),
    Difference(_names("MatrixCoilMode"), _not_in_parallel, "parallel imaging is off; dcm2niix writes SENSE"),
    Difference(
        _names("ParallelReductionFactorInPlane", "ParallelReductionFactorOutOfPlane"),
        _no_acceleration,
        "nothing states it; dcm2niix writes 1",
    ),
    Difference(_names("MultibandAccelerationFactor"), _vendor("SIEMENS"), "nothing states it; dcm2niix infers it"),
    Difference(_names("TablePosition"), _vendor("PHILIPS"), "no known element states it"),
    Difference(_names("PhilipsRWVSlope", "PhilipsRWVIntercept"), _renamed, "named RealWorldValueSlope and Intercept"),
    Difference(
        _names("EstimatedEffectiveEchoSpacing", "EstimatedTotalReadoutTime"),
        _not_echo_planar,
        "the readout is not echo-planar",
    ),
    Difference(
        _names("EffectiveEchoSpacing", "TotalReadoutTime"),
        _cropped,
        "fewer lines than acquired: cropped or reduced, unknown which",
    ),
    Difference(_names("SliceTiming"), _beyond_a_repetition, "separate passes, longer than a repetition"),
    Difference(_names("SliceTiming"), _uneven_times, "uneven times that nothing confirms"),
    Difference(_names("SliceTiming"), _rounded_times, "dcm2niix has times in 32 bits"),
    Difference(_names("SpoilingType"), _spoiled_by, "Spoiling (0018,9016) is RF, not COMBINED"),
    Difference(
        _names("PulseSequenceType"),
        _stated_elsewhere,
        "Echo Planar Pulse Sequence and Spoiling count; an unstated echo of diffusion is left out",
    ),
)
