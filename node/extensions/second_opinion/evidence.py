"""Which values of the headers decide a difference between two conversions of one series."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.errors import InvalidDicomError
from pydicom.tag import Tag

MAX_SHOWN = 4
"""Different values of one attribute that a row has; of more, there are the first and the last, and their number."""

_PLANES = ("ImagePositionPatient", "ImageOrientationPatient", "SliceLocation", "InstanceNumber")
_TIMES = (
    *("NumberOfTemporalPositions", "TemporalPositionIdentifier", "NumberOfTimeSlices", "NumberOfSlices"),
    *("AcquisitionNumber", "AcquisitionTime", "TriggerTime", "EchoTime", "EchoNumbers", "NumberOfFrames"),
)
_PHASE = ("InPlanePhaseEncodingDirection", "(0051,100E)", "(0018,9034)", "(0021,111C)", "(0043,102A)")

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "volumes": (*_PLANES, *_TIMES, "ImageType", "ImageComments", "Rows", "Columns", "SOPClassUID"),
    "shape": (*_PLANES, *_TIMES, "ImageType", "Rows", "Columns", "(0019,100A)", "PhotometricInterpretation"),
    "place": (
        *(*_PLANES, "PixelSpacing", "SpacingBetweenSlices", "SliceThickness", "GantryDetectorTilt"),
        "GridFrameOffsetVector",
    ),
    "values": (
        *("RescaleSlope", "RescaleIntercept", "RealWorldValueSlope", "RealWorldValueIntercept", "(2005,100E)"),
        *("BitsStored", "HighBit", "PixelRepresentation", "PhotometricInterpretation"),
        *("LossyImageCompression", "ModalityLUTSequence", "DoseGridScaling", "MaximumFractionalValue"),
    ),
    "order of times": (*_TIMES, "DiffusionBValue", "(0019,100C)", "(2001,1003)", "InstanceNumber"),
    "RepetitionTime": ("RepetitionTime", *_TIMES, "FrameTime", "FrameAcquisitionDuration", "MRAcquisitionType"),
    "EchoTime": ("EchoTime", "EffectiveEchoTime", "EchoNumbers"),
    "SliceTiming": (
        *("AcquisitionTime", "TriggerTime", "FrameAcquisitionDateTime", "(0019,1029)", "(0021,105E)", "(0043,1028)"),
        *("RepetitionTime", "InstanceNumber", "MRAcquisitionType"),
    ),
    "PhaseEncodingDirection": _PHASE,
    "EffectiveEchoSpacing": ("PixelBandwidth", "(0019,1028)", "(0043,102C)", "(2001,1022)", "AcquisitionMatrix"),
    "TotalReadoutTime": ("PixelBandwidth", "(0019,1028)", "(0043,102C)", "(2001,1022)", "AcquisitionMatrix"),
    "gradients": (
        *("DiffusionBValue", "DiffusionGradientOrientation", "DiffusionBMatrixSequence", "(0019,100C)", "(0019,100E)"),
        *("(0043,1039)", "(0019,10BB)", "(2001,1003)", "(2001,1004)", "(2005,10B0)", "(0029,1010)"),
    ),
}
"""By what differs: standard attributes by keyword, private ones by tag, which one vendor each writes. No attribute
names a person, and of a binary value only the length is shown."""


def decided_by(differences: Collection[str], files: Sequence[Path]) -> dict[str, dict[str, str]]:
    """Return, by what differs, the values in the files of a series that decide it, by the names of their attributes.

    Each header is read once. Attributes that differ between instances come first: they decide more often.
    """
    tags = {_tag(name): name for what in differences for name in ATTRIBUTES[what]}
    found: dict[str, list[str]] = {}
    for file in files if differences else ():
        try:
            ds = dcmread(file, stop_before_pixels=True, force=True)
        except (OSError, ValueError, InvalidDicomError, NotImplementedError):
            continue
        for name, text in _values(ds, tags):
            values = found.setdefault(name, [])
            if text not in values:
                values.append(text)
    return {
        what: {
            name: _shown(found[name])
            for name in sorted(filter(found.__contains__, ATTRIBUTES[what]), key=lambda name: len(found[name]) == 1)
        }
        for what in differences
    }


def _tag(name: str) -> int:
    if name.startswith("("):
        return int(Tag(*(int(part, 16) for part in name.strip("()").split(","))))
    tag = tag_for_keyword(name)
    assert tag is not None, f"{name} is not a keyword of PS3.6"
    return tag


def _values(ds: Dataset, tags: dict[int, str]) -> Iterator[tuple[str, str]]:
    """Yield the attributes at any depth: those of an enhanced image are in its functional groups."""
    for element in ds.iterall():
        name = tags.get(int(element.tag))
        if name is None:
            continue
        if element.VR == "SQ":
            yield name, f"{len(element.value)} items"
        elif isinstance(element.value, bytes):
            yield name, f"{len(element.value)} bytes"
        elif element.value is not None:
            yield name, _text(element.value)


def _text(value: Any) -> str:
    text = "\\".join(map(str, value)) if isinstance(value, list) or hasattr(value, "append") else str(value)
    return text if len(text) <= 64 else f"{text[:60]}..."


def _shown(values: list[str]) -> str:
    if len(values) <= MAX_SHOWN:
        return ", ".join(values)
    return f"{values[0]}, {values[1]}, ... {values[-1]} ({len(values)} values)"
