"""RT structure sets: regions of interest as contours in the patient, and the image series that they were drawn on."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from pydicom.dataset import Dataset

from node.api import (
    ConversionRefused,
    Float,
    Reason,
    describe,
    identifying_words,
    items,
    number,
    numbers,
    repeats,
    text,
    whole,
)

CLOSED = frozenset(("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"))
"""Values of Contour Geometric Type (3006,0042) of contours that have an area."""

WITHOUT_AREA = frozenset(("POINT", "OPEN_PLANAR", "OPEN_NONPLANAR"))

MAX_REFERENCES = 64
"""Image series that one structure set may refer to; they are read one after the other."""

MAX_REGIONS = 2000
"""Regions of one structure set; each has a mask, or a row that tells why not."""

MAX_POINTS = 20_000_000
"""Points of all contours of a structure set."""

MAX_COORDINATE_MM = 1e5
"""Largest distance of a point from the origin of the frame of reference."""

MAX_NUMBER = 2**31 - 1
"""Largest value of an IS (PS3.5 6.2)."""

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


@dataclass(frozen=True, slots=True)
class Reference:
    """An image series in a frame of reference; the study is empty if the structure set does not name it."""

    frame_of_reference_uid: str
    study_instance_uid: str
    series_instance_uid: str

    @property
    def key(self) -> tuple[str, str]:
        """Study Instance UID and Series Instance UID."""
        return self.study_instance_uid, self.series_instance_uid


@dataclass(frozen=True, slots=True, eq=False)
class Contour:
    """A closed planar contour: (N, 3) points in mm, LPS, and the images that it was drawn on."""

    points: Float
    sop_instance_uids: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class RegionOfInterest:
    """A region of interest (ROI).

    `number`: ROI Number (3006,0022), which is unique in a structure set.
    `contours`: its closed contours; a point is inside if an odd number of them enclose it.
    `without_area`: the numbers of its other contours by Contour Geometric Type.
    `problem`, (Reason, str) or None: why it has no mask.
    `fields`: what the sidecar tells of it, without patient data.
    """

    number: int
    frame_of_reference_uid: str
    contours: tuple[Contour, ...]
    without_area: Mapping[str, int]
    problem: tuple[Reason, str] | None
    fields: Mapping[str, Any]

    def is_like(self, other: Self) -> bool:
        """Return whether two regions lead to the same mask."""
        mine, theirs = (
            (each.number, each.frame_of_reference_uid, each.without_area, each.problem, each.fields, len(each.contours))
            for each in (self, other)
        )
        return mine == theirs and all(
            np.array_equal(first.points, second.points)
            for first, second in zip(self.contours, other.contours, strict=True)
        )


@dataclass(frozen=True, slots=True, eq=False)
class StructureSet:
    """The content of one instance; `attributes` are the fields of the sidecar that all its masks share."""

    sop_instance_uid: str
    study_instance_uid: str
    patient_id: str
    references: tuple[Reference, ...]
    regions: tuple[RegionOfInterest, ...]
    attributes: Mapping[str, Any]

    def is_like(self, other: Self) -> bool:
        """Return whether two structure sets lead to the same masks."""
        mine, theirs = ((each.patient_id, each.references, each.attributes) for each in (self, other))
        return (
            mine == theirs
            and len(self.regions) == len(other.regions)
            and all(first.is_like(second) for first, second in zip(self.regions, other.regions, strict=True))
        )


def read_structure_set(ds: Dataset) -> StructureSet:
    """Return the regions of interest of a structure set.

    Raises ConversionRefused: ``too-large``: more series, regions or points than a structure set may have;
        ``not-an-image``: no regions.

    PS3.3 C.8.8.5, C.8.8.6 and C.8.8.8.
    """
    references = _references(ds)
    if len(references) > MAX_REFERENCES:
        detail = f"the structure set refers to {len(references)} series; the limit is {MAX_REFERENCES}"
        raise ConversionRefused(Reason.TOO_LARGE, detail)
    regions = _regions(ds)
    if not regions:
        raise ConversionRefused(Reason.NOT_AN_IMAGE, "the structure set has no regions of interest")
    return StructureSet(
        sop_instance_uid=text(ds, "SOPInstanceUID"),
        study_instance_uid=text(ds, "StudyInstanceUID"),
        patient_id=text(ds, "PatientID"),
        references=references,
        regions=regions,
        attributes=describe(ds, ()),
    )


def _references(ds: Dataset) -> tuple[Reference, ...]:
    """Return the other series that are referenced, each once; a UID that is none names nothing."""
    own = text(ds, "SeriesInstanceUID")
    found: dict[Reference, None] = {}
    for frame in items(ds, "ReferencedFrameOfReferenceSequence"):
        for study in items(frame, "RTReferencedStudySequence"):
            for series in items(study, "RTReferencedSeriesSequence"):
                uid, study_uid = text(series, "SeriesInstanceUID"), text(study, "ReferencedSOPInstanceUID")
                if uid != own and _is_uid(uid):
                    known_study = study_uid if _is_uid(study_uid) else ""
                    found[Reference(text(frame, "FrameOfReferenceUID"), known_study, uid)] = None
    return tuple(found)


def _is_uid(uid: str) -> bool:
    return len(uid) <= 64 and _UID.fullmatch(uid) is not None


def _regions(ds: Dataset) -> tuple[RegionOfInterest, ...]:
    """Return the regions in ascending order of their numbers."""
    drawn: dict[int, list[Dataset]] = {}
    for item in items(ds, "ROIContourSequence"):
        drawn.setdefault(_number(item, "ReferencedROINumber"), []).append(item)
    defined: dict[int, list[Dataset]] = {}
    for item in items(ds, "StructureSetROISequence"):
        defined.setdefault(_number(item, "ROINumber"), []).append(item)
    observed = {_number(item, "ReferencedROINumber"): item for item in items(ds, "RTROIObservationsSequence")}
    numbers_of_regions = sorted(drawn.keys() | defined.keys())
    if len(numbers_of_regions) > MAX_REGIONS:
        detail = f"the structure set has {len(numbers_of_regions)} regions; the limit is {MAX_REGIONS}"
        raise ConversionRefused(Reason.TOO_LARGE, detail)
    points = 0
    regions = []
    for roi in numbers_of_regions:
        region = _region(ds, roi, defined.get(roi, ()), drawn.get(roi, ()), observed.get(roi, Dataset()))
        points += sum(len(contour.points) for contour in region.contours)
        if points > MAX_POINTS:
            detail = f"the contours of the structure set have more than {MAX_POINTS} points"
            raise ConversionRefused(Reason.TOO_LARGE, detail)
        regions.append(region)
    return tuple(regions)


def _number(item: Dataset, keyword: str) -> int:
    """Return the number of a region; -1 if the item has none that is valid."""
    stated = whole(item, keyword)
    return stated if stated is not None and 0 <= stated <= MAX_NUMBER else -1


def _region(
    ds: Dataset, roi: int, defined: Sequence[Dataset], drawn: Sequence[Dataset], observed: Dataset
) -> RegionOfInterest:
    definition = defined[0] if defined else Dataset()
    contours: tuple[Contour, ...] = ()
    without_area: Counter[str] = Counter()
    problem = None
    try:
        if roi < 0:
            raise ConversionRefused(Reason.CONTRADICTORY, "(3006,0022) ROI Number is missing or not a whole number")
        if len(defined) != 1 or len(drawn) > 1:
            detail = (
                f"ROI {roi} must be once in (3006,0020) Structure Set ROI Sequence and at most once in (3006,0039) ROI "
                f"Contour Sequence; it is there {len(defined)} and {len(drawn)} times"
            )
            raise ConversionRefused(Reason.CONTRADICTORY, detail)
        contours, without_area = _contours(roi, drawn)
        if not contours:
            types = ", ".join(sorted(without_area))
            detail = f"ROI {roi} has only contours without an area: {types}" if types else f"ROI {roi} has no contours"
            raise ConversionRefused(Reason.NOT_AN_IMAGE, detail)
    except ConversionRefused as refused:
        problem = Reason(refused.reason), refused.detail
    return RegionOfInterest(
        number=roi,
        frame_of_reference_uid=text(definition, "ReferencedFrameOfReferenceUID"),
        contours=contours,
        without_area=without_area,
        problem=problem,
        fields=_fields(ds, roi, definition, drawn[0] if drawn else Dataset(), observed),
    )


def _contours(roi: int, drawn: Sequence[Dataset]) -> tuple[tuple[Contour, ...], Counter[str]]:
    """Return the closed contours of a region, and how many others of each type it has."""
    closed = []
    without_area: Counter[str] = Counter()
    for item in drawn:
        for index, contour in enumerate(items(item, "ContourSequence"), start=1):
            kind = text(contour, "ContourGeometricType").upper()
            if kind in WITHOUT_AREA:
                without_area[kind] += 1
            elif kind in CLOSED:
                images = items(contour, "ContourImageSequence")
                named = tuple(filter(None, (text(image, "ReferencedSOPInstanceUID") for image in images)))
                closed.append(Contour(_points(roi, index, contour), named))
            else:
                detail = f"contour {index} of ROI {roi} has no valid (3006,0042) Contour Geometric Type"
                raise ConversionRefused(Reason.CONTRADICTORY, detail)
    return tuple(closed), without_area


def _points(roi: int, index: int, contour: Dataset) -> Float:
    """Return the points of a contour: (N, 3) mm, LPS."""
    coordinates = np.array(numbers(contour, "ContourData") or ())
    problem = None
    if not coordinates.size:
        problem = "is missing, or not a list of finite numbers"
    elif coordinates.size % 3:
        problem = f"has {coordinates.size} numbers, which is not a multiple of 3"
    elif number(contour, "NumberOfContourPoints") not in (None, coordinates.size // 3):
        problem = f"has {coordinates.size // 3} points; (3006,0046) Number of Contour Points has another number"
    elif np.abs(coordinates).max() > MAX_COORDINATE_MM:
        problem = f"has a point farther than {MAX_COORDINATE_MM:g} mm from the origin"
    if problem is not None:
        detail = f"contour {index} of ROI {roi}: (3006,0050) Contour Data {problem}"
        raise ConversionRefused(Reason.CONTRADICTORY, detail)
    return coordinates.reshape(-1, 3)


def _fields(ds: Dataset, roi: int, definition: Dataset, drawn: Dataset, observed: Dataset) -> dict[str, Any]:
    """Return what the sidecar tells of a region: its name too, which is typed, unless it names the patient."""
    name = text(definition, "ROIName")[:64]
    colour = numbers(drawn, "ROIDisplayColor", 3)
    fields = {
        "number": roi,
        "name": None if repeats(name, identifying_words(ds)) else name,
        "interpreted_type": text(observed, "RTROIInterpretedType")[:16],
        "generation_algorithm": text(definition, "ROIGenerationAlgorithm")[:16],
        "colour": None if colour is None else [int(part) for part in colour if 0 <= part <= 255],
    }
    return {key: content for key, content in fields.items() if content not in (None, "", [])}
