"""Series of every kind whose voxels tell the plane and the pixel that they are of, as a sender would write them.

A `Case` describes one series: what it holds, how it is numbered, which attributes tell its times, and what was changed,
lost or falsified afterwards. `build` makes its data sets, together with the truth about each plane.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import dictionary_VR
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    MRImageStorage,
    NuclearMedicineImageStorage,
    PositronEmissionTomographyImageStorage,
    RTDoseStorage,
    SegmentationStorage,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

from node.volume.arrange.sources import SOURCES
from node.volume.read.meaning import counted
from tests import make

ROWS, COLUMNS = 8, 6
OTHER_ROWS = 7
"""Rows of the images of another matrix."""

CELLS = ROWS * COLUMNS
PIXEL_SPACING_MM = (2.0, 1.5)
ORIGIN_MM = (-20.0, -30.0, 40.0)
STEP_S = 2.0
SLICE_S = 0.1
ECHO_MS = 12.5
ORIENTATIONS = {"axial": make.AXIAL, "sagittal": make.SAGITTAL, "coronal": make.CORONAL, "oblique": make.OBLIQUE}
DIRECTIONS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.6, 0.8, 0.0), (0.0, 0.6, 0.8), (0.8, 0.0, 0.6))
B_VALUE = 1000.0

CLASSIC = {
    "mr": MRImageStorage,
    "dwi": MRImageStorage,
    "ct": CTImageStorage,
    "pt": PositronEmissionTomographyImageStorage,
}
ENHANCED = {
    "mr-enhanced": EnhancedMRImageStorage,
    "dwi-enhanced": EnhancedMRImageStorage,
    "ct-enhanced": EnhancedCTImageStorage,
    "pt-enhanced": EnhancedPETImageStorage,
}
OTHERS = ("nm", "us", "dose", "seg")
KINDS = (*CLASSIC, *ENHANCED, *OTHERS)
MODALITIES = {"mr": "MR", "dwi": "MR", "ct": "CT", "pt": "PT"}

Change = tuple[Any, ...]
"""A change by name, and its arguments: see `_CHANGES`."""


def _clock(plane: Plane) -> str:
    return f"{101500 + plane.start_s:013.6f}"


_CLASSIC_VALUES: dict[str, Callable[[Plane], Any]] = {
    "AcquisitionTime": _clock,
    "AcquisitionDateTime": lambda plane: f"20240102{_clock(plane)}",
    "ContentTime": _clock,
    "TemporalPositionIdentifier": lambda plane: plane.time + 1,
    "AcquisitionNumber": lambda plane: plane.time + 1,
    "FrameReferenceTime": lambda plane: make.decimal(1000 * STEP_S * plane.time + 500),
    "TriggerTime": lambda plane: make.decimal(1000 * STEP_S * plane.time),
    "NominalPercentageOfCardiacPhase": lambda plane: 10.0 * plane.time,
}
"""What classic instances state of the time of a plane, by keyword."""

_FRAME_VALUES: dict[str, tuple[str, Callable[[Plane], Any]]] = {
    "FrameAcquisitionDateTime": ("FrameContentSequence", lambda plane: f"20240102{_clock(plane)}"),
    "FrameReferenceDateTime": ("FrameContentSequence", lambda plane: f"20240102{_clock(plane)}"),
    "TemporalPositionIndex": ("FrameContentSequence", lambda plane: plane.time + 1),
    "FrameAcquisitionNumber": ("FrameContentSequence", lambda plane: plane.time + 1),
    "NominalCardiacTriggerDelayTime": ("CardiacSynchronizationSequence", lambda plane: 1000 * STEP_S * plane.time),
    "NominalPercentageOfCardiacPhase": ("CardiacSynchronizationSequence", lambda plane: 10.0 * plane.time),
    "TemporalPositionTimeOffset": ("TemporalPositionSequence", lambda plane: STEP_S * plane.time),
}
"""What frames state of their time, by keyword: the functional group and the value."""

_OF_THEIR_KINDS = frozenset(
    {
        *("InstanceNumber", "DimensionIndexValues", "ImageIndex", "TimeSlotVector", "FrameTime"),
        *("PhaseVector", "TimeSliceVector", "FrameTimeVector", "CineRate"),
    }
)
"""What series of some kind state anyhow, or in place of another one of these."""

_ALIASES = {
    "clock": ("AcquisitionTime", "FrameAcquisitionDateTime"),
    "slice-clock": ("AcquisitionTime", None),
    "temporal": ("TemporalPositionIdentifier", "TemporalPositionIndex"),
    "acquisition": ("AcquisitionNumber", None),
    "frame-reference": ("FrameReferenceTime", None),
    "dimensions": ("DimensionIndexValues", "DimensionIndexValues"),
}

_STATED = [keyword for source in SOURCES for keyword in source.keywords]
"""What orders or labels frames: a new attribute of the table has no value here, and fails."""

assert set(_STATED) == {*_CLASSIC_VALUES, *_FRAME_VALUES, *_OF_THEIR_KINDS}, "an attribute of the table has no label"


def _labels(values: Collection[str], rank: int) -> dict[str, str]:
    """Return the keywords by label: by their short names, and all others by themselves."""
    short = {label: own for label, keywords in _ALIASES.items() if (own := keywords[rank]) is not None}
    others = {keyword: keyword for keyword in _STATED if keyword in values and keyword not in short.values()}
    return short | others


LABELS = _labels(_CLASSIC_VALUES, 0)
"""Attributes that tell the time of a plane, by the name of the label."""

ENHANCED_LABELS = _labels(_FRAME_VALUES, 1)

NUMBERINGS = ("times", "slices", "backwards", "echoes", "shuffled", "restarting", "none")
"""What Instance Numbers, or the order of the frames of one instance, follow; the last three tell no time."""

TELLING_NUMBERINGS = frozenset(NUMBERINGS[:4])


MAX_SLICES = 7
"""More slices than any case has make no other kind of series."""

MIN_SLICES_OF_ORDER = 3
"""Fewer slices have no majority whose frames show the order of an instance."""


@dataclass(frozen=True, repr=False)
class Case:
    """A series. Its `repr` makes it again."""

    kind: str
    times: int = 1
    slices: int = 4
    echoes: int = 1
    components: int = 1
    orientation: str = "axial"
    spacing_mm: float = 2.5
    shear_mm: float = 0.0
    labels: tuple[str, ...] = ("clock",)
    numbering: str = "times"
    changes: tuple[Change, ...] = ()
    arrival: int = 0

    def __repr__(self) -> str:
        reported = (
            f"{each.name}={value!r}" for each in fields(self) if (value := getattr(self, each.name)) != each.default
        )
        return f"Case({', '.join(reported)})"

    @property
    def is_enhanced(self) -> bool:
        return self.kind in ENHANCED

    @property
    def modality(self) -> str:
        return MODALITIES.get(self.kind.partition("-")[0], self.kind.upper())


@dataclass(frozen=True, eq=False)
class Plane:
    """The truth about one plane: what it is, where it is, and its values after rescaling."""

    time: int
    slice: int
    echo: int
    component: int
    position: NDArray[np.float64]
    orientation: tuple[float, ...]
    values: NDArray[np.float64]
    start_s: float
    b_value: float | None = None
    direction: tuple[float, float, float] | None = None
    is_copy: bool = False
    states: tuple[tuple[str, Any], ...] = ()
    """What its image states of what its values mean, by path."""

    @property
    def group(self) -> tuple[int, int, tuple[int, ...]]:
        """What must never be in one volume with others: echo, component, matrix."""
        return self.echo, self.component, self.values.shape[:2]

    @property
    def axes(self) -> NDArray[np.float64]:
        """Unit vectors along a row, down a column, and along the normal, one below the other."""
        across, down = self.orientation[:3], self.orientation[3:]
        return np.array([across, down, np.cross(across, down)])

    def place(self, row: int, column: int) -> NDArray[np.float64]:
        """Return the place of a pixel in mm, LPS."""
        across, down, _ = self.axes
        return self.position + across * column * PIXEL_SPACING_MM[1] + down * row * PIXEL_SPACING_MM[0]


@dataclass(eq=False)
class Series:
    """The data sets of a case, in the order of their arrival, and the truth about each of their frames."""

    case: Case
    datasets: list[FileDataset]
    planes: dict[tuple[str, int], Plane]
    lost: list[Plane] = field(default_factory=list)
    false: frozenset[str] = frozenset()
    """Keywords whose values were falsified, or are missing in some instances."""

    @property
    def honest_labels(self) -> list[str]:
        """The attributes of all instances that tell the time, and that nobody falsified."""
        if self.case.kind == "nm":  # frames are counted by their vectors alone: no second attribute tells their time
            return ["TimeSlotVector"] if "TimeSlotVector" not in self.false else []
        if self.case.kind in OTHERS:
            return [keyword for keyword in ("FrameTime", "order") if keyword not in self.false][:1]
        is_order_proof = self.case.slices >= MIN_SLICES_OF_ORDER and self.case.numbering in TELLING_NUMBERINGS
        left = Counter((plane.group, plane.slice) for plane in self.planes.values())
        is_order_proof &= max(left.values(), default=0) > 1  # one frame at each position has no order in time
        if "FrameContentSequence" in self.false and not is_order_proof:
            return []  # all labels are in it: only frames in the order of times, in most slices, contradict it
        names = ENHANCED_LABELS if self.case.is_enhanced else LABELS
        known = [names[label] for label in self.case.labels if label in names]
        if self.case.numbering in TELLING_NUMBERINGS and not self.case.is_enhanced:
            known.append("InstanceNumber")
        return [keyword for keyword in known if keyword not in self.false]


@dataclass(eq=False)
class _Draft:
    """A series while it is made: planes with their data set, or with the functional groups of their frame."""

    case: Case
    planes: list[tuple[Plane, Dataset]]
    lost: list[Plane] = field(default_factory=list)
    false: set[str] = field(default_factory=set)


def build(case: Case) -> Series:
    """Return the data sets of a case and the truth about them."""
    if case.kind in CLASSIC:
        return _classic(case)
    if case.kind in ENHANCED:
        return _enhanced(case)
    return {"nm": _nuclear, "us": _ultrasound, "dose": _dose, "seg": _segmentation}[case.kind](case)


# Planes


def _planes(case: Case) -> list[Plane]:
    """Return the planes in the order of Instance Numbers or frames."""
    orientation = ORIENTATIONS[case.orientation]
    still = make.stack_positions(case.slices, case.spacing_mm, ORIGIN_MM, orientation, (0.0, case.shear_mm))
    normal = np.cross(orientation[:3], orientation[3:])
    axes = np.array([orientation[:3], orientation[3:], normal])
    offsets = np.zeros((case.times, case.slices, 3))
    for name, *arguments in case.changes:
        if name == "drift":
            step_mm, axis = arguments
            offsets += step_mm * np.arange(case.times)[:, None, None] * axes[axis]
        elif name == "jitter":
            amplitude_mm, seed, of_times = arguments
            noise = np.random.default_rng(seed).uniform(
                -amplitude_mm, amplitude_mm, (case.times, 1 if of_times else case.slices, 1)
            )
            offsets += noise * axes[2]
    numbers = product(range(case.times), range(case.slices), range(case.echoes), range(case.components))
    planes = []
    for code, (time, slice_, echo, component) in enumerate(numbers):
        slope, intercept = _rescaling(case, slice_)
        start_s = STEP_S * time
        if "slice-clock" in case.labels:
            start_s += SLICE_S * _rank_of_slice(slice_, case.slices)
        weighting = _weighting(case, time)
        planes.append(
            Plane(
                time,
                slice_,
                echo,
                component,
                still[slice_] + offsets[time, slice_],
                orientation,
                _stored(code) * slope + intercept,
                start_s,
                *weighting,
            )
        )
    return [planes[index] for index in _order(case, planes)]


def _order(case: Case, planes: Sequence[Plane]) -> list[int]:
    """Return the indices of planes in the order that the numbers of a case follow."""
    keys: dict[str, Callable[[Plane], Any]] = {
        "times": lambda plane: (plane.time, plane.echo, plane.component, plane.slice),
        "restarting": lambda plane: (plane.time, plane.echo, plane.component, plane.slice),
        "slices": lambda plane: (plane.slice, plane.time, plane.echo, plane.component),
        "backwards": lambda plane: (plane.time, plane.echo, plane.component, -plane.slice),
        "echoes": lambda plane: (plane.echo, plane.component, plane.time, plane.slice),
        "none": lambda plane: (plane.time, plane.echo, plane.component, plane.slice),
    }
    indices = list(range(len(planes)))
    if case.numbering == "shuffled":
        random.Random(case.arrival).shuffle(indices)
        return indices
    return sorted(indices, key=lambda index: keys[case.numbering](planes[index]))


def _rank_of_slice(slice_: int, slices: int) -> int:
    """Return when a slice is excited: every second one first."""
    order = [*range(0, slices, 2), *range(1, slices, 2)]
    return order.index(slice_)


def _stored(code: int, rows: int = ROWS) -> NDArray[np.uint16]:
    """Return stored values that tell a plane's code and each pixel's number."""
    return (code * CELLS + np.arange(CELLS).reshape(ROWS, COLUMNS)[:rows]).astype(np.uint16)


def _rescaling(case: Case, slice_: int) -> tuple[float, float]:
    if case.modality == "CT":
        return 1.0, -1024.0
    return (1.0 + 0.5 * slice_, 0.0) if case.modality == "PT" else (1.0, 0.0)


def _weighting(case: Case, time: int) -> tuple[float | None, tuple[float, float, float] | None]:
    if not case.kind.startswith("dwi"):
        return None, None
    return (B_VALUE, DIRECTIONS[time - 1]) if time else (0.0, None)


# Classic series: one instance for each plane


def _classic(case: Case) -> Series:
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid(), "FrameOfReferenceUID": generate_uid()}
    draft = _Draft(case, [])
    for number, plane in enumerate(_planes(case), start=1):
        slope, intercept = _rescaling(case, plane.slice)
        ds = make.instance(
            **uids,
            sop_class_uid=CLASSIC[case.kind],
            modality=case.modality,
            ImagePositionPatient=[make.decimal(value) for value in plane.position],
            ImageOrientationPatient=[make.decimal(value) for value in plane.orientation],
            PixelSpacing=[make.decimal(value) for value in PIXEL_SPACING_MM],
            SliceThickness=make.decimal(case.spacing_mm),
            SpacingBetweenSlices=make.decimal(case.spacing_mm),
            SliceLocation=make.decimal(plane.slice * case.spacing_mm),
            InstanceNumber=_instance_number(case, plane, number),
            **_of_modality(case, plane, slope, intercept),
            **_of_time(case, plane),
        )
        stored = np.rint((plane.values - intercept) / slope).astype(np.uint16)
        draft.planes.append((plane, make.set_pixels(ds, stored)))
    _change(draft)
    datasets = [ds for _, ds in draft.planes]
    truths = {(str(ds.SOPInstanceUID), 1): plane for plane, ds in draft.planes}
    random.Random(case.arrival).shuffle(datasets)
    return Series(case, datasets, truths, draft.lost, frozenset(draft.false))  # type: ignore[arg-type]


def _instance_number(case: Case, plane: Plane, number: int) -> int | None:
    if case.numbering == "none":
        return None
    return plane.slice + 1 if case.numbering == "restarting" else number


def _of_modality(case: Case, plane: Plane, slope: float, intercept: float) -> dict[str, Any]:
    if case.modality == "MR":
        kind = "DIFFUSION" if plane.b_value is not None else "ND"
        own: dict[str, Any] = {
            "ImageType": ["ORIGINAL", "PRIMARY", "MP"[plane.component], kind],
            "RepetitionTime": make.decimal(STEP_S * 1000),
            "EchoTime": make.decimal(ECHO_MS * (plane.echo + 1)),
            "EchoNumbers": plane.echo + 1,
        }
        if plane.b_value is not None:
            own |= {"DiffusionBValue": plane.b_value}
            own |= {"DiffusionDirectionality": "NONE" if plane.direction is None else "DIRECTIONAL"}
            own |= {} if plane.direction is None else {"DiffusionGradientOrientation": list(plane.direction)}
        return own
    rescaled = {"RescaleSlope": make.decimal(slope), "RescaleIntercept": make.decimal(intercept)}
    if case.modality == "CT":
        return {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "KVP": "80", **rescaled}
    dynamic = case.times > 1
    counts = {"NumberOfTimeSlices": case.times, "ImageIndex": plane.time * case.slices + plane.slice + 1}
    return {
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "Units": "BQML",
        "SeriesType": ["DYNAMIC" if dynamic else "STATIC", "IMAGE"],
        "NumberOfSlices": case.slices,
        **(counts if dynamic else {"ImageIndex": plane.slice + 1}),
        **rescaled,
    }


def _of_time(case: Case, plane: Plane) -> dict[str, Any]:
    """Return the attributes that tell the time of a plane."""
    known = {LABELS[label] for label in case.labels if label in LABELS}
    own = {keyword: value(plane) for keyword, value in _CLASSIC_VALUES.items() if keyword in known}
    if "TemporalPositionIdentifier" in own:
        own["NumberOfTemporalPositions"] = case.times
    if "FrameReferenceTime" in own:
        own["ActualFrameDuration"] = "2000"
    return own


# Changes of planes and their data sets


def _change(draft: _Draft) -> None:
    """Apply the changes of a case, in its order."""
    for name, *arguments in draft.case.changes:
        if name in _CHANGES:
            _CHANGES[name](draft, *arguments)


def _without(draft: _Draft, is_lost: Callable[[int, Plane], bool]) -> None:
    kept = [entry for index, entry in enumerate(draft.planes) if not is_lost(index, entry[0])]
    if kept:
        draft.lost += [plane for index, (plane, _) in enumerate(draft.planes) if is_lost(index, plane)]
        draft.planes = kept


def _lose(draft: _Draft, *indices: int) -> None:
    lost = {index % len(draft.planes) for index in indices}
    _without(draft, lambda index, _: index in lost)


def _lose_time(draft: _Draft, time: int) -> None:
    _without(draft, lambda _, plane: plane.time == time % draft.case.times)


def _lose_slice(draft: _Draft, slice_: int) -> None:
    _without(draft, lambda _, plane: plane.slice == slice_ % draft.case.slices)


def _lose_but_one(draft: _Draft, seed: int) -> None:
    """Lose all times of each slice but one, which is another one from slice to slice."""
    kept = [
        random.Random(seed * MAX_SLICES + slice_).randrange(draft.case.times) for slice_ in range(draft.case.slices)
    ]
    _without(draft, lambda _, plane: plane.time != kept[plane.slice])


def _copy(draft: _Draft, is_numbered: bool, *indices: int) -> None:
    """Add copies under other SOP Instance UIDs, with the number of their original or one of their own.

    A frame of an enhanced instance is stored twice in it.
    """
    for rank, index in enumerate(sorted({index % len(draft.planes) for index in indices})):
        plane, ds = draft.planes[index]
        again = deepcopy(ds)
        if not draft.case.is_enhanced:
            again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        if is_numbered and not draft.case.is_enhanced:
            again.InstanceNumber = 5000 + rank
            draft.false.add("InstanceNumber")
        draft.planes.append((replace(plane, is_copy=True), again))


def _lie(draft: _Draft, keyword: str, how: str, seed: int) -> None:
    """Falsify an attribute: one value in all, two exchanged, all mixed or reversed, or one that is wrong."""
    holders = [holder for holder in (_holder(ds, keyword) for _, ds in draft.planes) if holder is not None]
    values = [deepcopy(holder[keyword].value) for holder in holders]
    if len({str(value) for value in values}) < 2 and how != "wrong":
        return
    dice = random.Random(seed)
    draft.false.add(keyword)
    if how == "constant":
        values = [values[0]] * len(values)
    elif how == "exchange":
        one, other = dice.sample(range(len(values)), 2)
        values[one], values[other] = values[other], values[one]
    elif how == "mix":
        dice.shuffle(values)
    elif how == "reverse":
        values.reverse()
    elif values:
        chosen = dice.randrange(len(values))
        values[chosen] = _wrong(keyword, values[chosen], values[dice.randrange(len(values))])
    for holder, value in zip(holders, values, strict=True):
        holder[keyword].value = value


def _wrong(keyword: str, value: Any, other: Any) -> Any:
    """Return another value: that of another plane for a label, else a number that is off."""
    if keyword in ("DimensionIndexValues", "ImagePositionPatient"):
        return other
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return make.decimal(float(value) * 1.5 + 1)
    return other if isinstance(value, str) else list(value)[::-1]  # a word, or a vector


def _drop(draft: _Draft, keyword: str, *indices: int) -> None:
    """Leave an attribute out of some instances, or of all."""
    chosen = {index % len(draft.planes) for index in indices} or set(range(len(draft.planes)))
    for index in chosen:
        holder = _holder(draft.planes[index][1], keyword)
        if holder is not None:
            draft.false.add(keyword)
            del holder[keyword]


def _holder(ds: Dataset, keyword: str) -> Dataset | None:
    """Return what holds an attribute: a data set, or the item of a functional group; None if nothing does."""
    if keyword in ds:
        return ds
    inner = (element.value[0] for element in ds if element.VR == "SQ" and element.value)
    return next((found for item in inner if (found := _holder(item, keyword)) is not None), None)


def _matrix(draft: _Draft, *indices: int) -> None:
    """Give some instances another matrix."""
    for index in {index % len(draft.planes) for index in indices}:
        plane, ds = draft.planes[index]
        stored = ds.pixel_array[:OTHER_ROWS]
        draft.planes[index] = replace(plane, values=plane.values[:OTHER_ROWS]), make.set_pixels(ds, stored)


def _differ(draft: _Draft, path: str, of_time: bool, *indices: int) -> None:
    """Let an attribute of what values mean have another value in some images, or in a time.

    `path`: its keyword, after those of the sequences that it is in; with ``+``, in the second of two items.
    """
    chosen = {index % len(draft.planes) for index in indices}
    if of_time:
        times = {draft.planes[index][0].time for index in chosen}
        chosen = {index for index, (plane, _) in enumerate(draft.planes) if plane.time in times}
    values = (2, 1) if dictionary_VR(path.split("/")[-1]) not in _TEXTS else ("OTHER", "ONE")
    for index in range(len(draft.planes)):
        _state(draft, index, path, values[index not in chosen], values[1])


GATE = "RespiratorySynchronizationSequence/NominalPercentageOfRespiratoryPhase"


def _gate(draft: _Draft) -> None:
    """Let each time be of its own phase of the breath."""
    for index, (plane, _) in enumerate(draft.planes):
        _state(draft, index, GATE, 10.0 * plane.time, 0.0)


def _state(draft: _Draft, index: int, path: str, value: Any, first: Any) -> None:
    """Let an image state a value, in the place of another; `first`: that of the first of two items."""
    plane, ds = draft.planes[index]
    *sequences, keyword = path.split("/")
    holders = [ds]
    if draft.case.is_enhanced and path != GATE:
        if "MRImagingModifierSequence" not in ds:
            ds.MRImagingModifierSequence = [Dataset()]
        holders = [ds.MRImagingModifierSequence[0]]
    for name in sequences:
        own = [Dataset() for _ in range(1 + name.endswith("+"))]
        setattr(holders[-1], name.rstrip("+"), own)
        holders = own
    for holder in holders:
        setattr(holder, keyword, value if holder is holders[-1] else first)
    top = (sequences or [keyword])[0].rstrip("+")
    others = (own for own in plane.states if own[0].split("/")[0].rstrip("+") != top)
    draft.planes[index] = replace(plane, states=(*others, (path, value))), ds
    draft.false.add(keyword)


_TEXTS = {"CS", "LO", "SH", "ST", "LT", "UT", "UC"}

_SIMPLE = {*_TEXTS, "DS", "IS", "US", "UL", "FL", "FD"}

MEANINGS = tuple(
    keyword
    for tag, (vr, multiplicity, _, _, keyword) in sorted(DicomDictionary.items())
    if counted[tag] and vr in _SIMPLE and multiplicity == "1" and keyword
)
"""Every attribute that says what the values of an image mean: those of the rule, so that a new one is drawn at once."""

SEQUENCES = tuple(
    keyword
    for tag, (vr, _, _, _, keyword) in sorted(DicomDictionary.items())
    if counted[tag] and vr == "SQ" and keyword
)
"""Every sequence of the rule."""

_CHANGES: dict[str, Callable[..., None]] = {
    "lose": _lose,
    "lose-time": _lose_time,
    "lose-slice": _lose_slice,
    "lose-but-one": _lose_but_one,
    "copy": _copy,
    "lie": _lie,
    "drop": _drop,
    "matrix": _matrix,
    "differ": _differ,
    "gate": _gate,
}


# Enhanced series: functional groups


def _enhanced(case: Case) -> Series:
    draft = _Draft(case, [(plane, _groups(case, plane)) for plane in _planes(case)])
    _change(draft)
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid(), "FrameOfReferenceUID": generate_uid()}
    by_time = "instances" in case.labels
    parts: dict[int, list[tuple[Plane, Dataset]]] = {}
    for plane, groups in draft.planes:
        parts.setdefault(plane.time if by_time else 0, []).append((plane, groups))
    series = Series(case, [], {}, draft.lost, frozenset(draft.false))
    for number, (_, frames) in enumerate(sorted(parts.items()), start=1):
        ds = _enhanced_instance(case, frames, uids | {"InstanceNumber": number})
        series.datasets.append(ds)
        for frame_number, (plane, _) in enumerate(frames, start=1):
            series.planes[str(ds.SOPInstanceUID), frame_number] = plane
    random.Random(case.arrival).shuffle(series.datasets)
    return series


def _enhanced_instance(case: Case, frames: Sequence[tuple[Plane, Dataset]], attributes: dict[str, Any]) -> FileDataset:
    ds = make.instance(
        sop_class_uid=ENHANCED[case.kind],
        modality=case.modality,
        ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        **attributes,
    )
    stored = []
    for plane, _ in frames:
        slope, intercept = _rescaling(case, plane.slice)
        stored.append(np.rint((plane.values - intercept) / slope).astype(np.uint16))
    make.set_pixels(ds, np.stack(stored))
    ds.NumberOfFrames = len(frames)
    measures = make.dataset(
        PixelSpacing=[make.decimal(value) for value in PIXEL_SPACING_MM],
        SliceThickness=make.decimal(case.spacing_mm),
        SpacingBetweenSlices=make.decimal(case.spacing_mm),
    )
    turned = make.dataset(ImageOrientationPatient=[make.decimal(value) for value in frames[0][0].orientation])
    ds.SharedFunctionalGroupsSequence = [Dataset()]
    ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = [measures]
    ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence = [turned]
    pointers = [0x00209057, 0x00209128] if "dimensions" in case.labels else [0x00209057]
    ds.DimensionIndexSequence = [make.dimension(pointer, 0x00209111) for pointer in pointers]
    ds.PerFrameFunctionalGroupsSequence = [groups for _, groups in frames]
    return ds


def _groups(case: Case, plane: Plane) -> Dataset:
    """Return the functional groups of one frame."""
    groups = Dataset()
    content = make.dataset(StackID="1", InStackPositionNumber=plane.slice + 1)
    timed = "dimensions" in case.labels
    content.DimensionIndexValues = [plane.slice + 1, plane.time + 1] if timed else plane.slice + 1
    groups.FrameContentSequence = [content]
    known = {ENHANCED_LABELS[label] for label in case.labels if label in ENHANCED_LABELS}
    for keyword, (macro, value) in _FRAME_VALUES.items():
        if keyword in known:
            if macro not in groups:
                setattr(groups, macro, [Dataset()])
            setattr(groups[macro][0], keyword, value(plane))
    groups.PlanePositionSequence = [
        make.dataset(ImagePositionPatient=[make.decimal(value) for value in plane.position])
    ]
    slope, intercept = _rescaling(case, plane.slice)
    if case.modality != "MR":
        groups.PixelValueTransformationSequence = [
            make.dataset(RescaleSlope=make.decimal(slope), RescaleIntercept=make.decimal(intercept), RescaleType="US")
        ]
        return groups
    component = ("MAGNITUDE", "PHASE")[plane.component]
    frame_type = ["ORIGINAL", "PRIMARY", "DIFFUSION" if plane.b_value is not None else "VOLUME", "NONE"]
    groups.MRImageFrameTypeSequence = [make.dataset(FrameType=frame_type, ComplexImageComponent=component)]
    groups.MREchoSequence = [make.dataset(EffectiveEchoTime=ECHO_MS * (plane.echo + 1))]
    if plane.b_value is not None:
        weighting = make.dataset(
            DiffusionBValue=plane.b_value, DiffusionDirectionality="NONE" if plane.direction is None else "DIRECTIONAL"
        )
        if plane.direction is not None:
            gradient = make.dataset(DiffusionGradientOrientation=list(plane.direction))
            weighting.DiffusionGradientDirectionSequence = [gradient]
        groups.MRDiffusionSequence = [weighting]
    return groups


# Nuclear medicine, ultrasound, dose, segmentation: one instance that counts its frames by itself


def _frames(case: Case) -> list[Plane]:
    """Return the planes of one instance after those that it never had are left out."""
    draft = _Draft(case, [(plane, Dataset()) for plane in _planes(case)])
    for name, *arguments in case.changes:
        if name.startswith("lose"):
            _CHANGES[name](draft, *arguments)
    return [plane for plane, _ in draft.planes]


def _of_one_instance(case: Case, ds: FileDataset, planes: Sequence[Plane]) -> Series:
    draft = _Draft(case, [(planes[0], ds)])
    for name, *arguments in case.changes:
        if name in ("lie", "drop"):
            _CHANGES[name](draft, *arguments)
    truths = {(str(ds.SOPInstanceUID), number): plane for number, plane in enumerate(planes, start=1)}
    return Series(case, [ds], truths, [], frozenset(draft.false))


def _nuclear(case: Case) -> Series:
    """Return reconstructed slices, of several time slots of one R-R interval if there are several times."""
    planes = _frames(case)
    ds = make.instance(
        sop_class_uid=NuclearMedicineImageStorage,
        modality="NM",
        ImageType=["ORIGINAL", "PRIMARY", "RECON GATED TOMO" if case.times > 1 else "RECON TOMO", "EMISSION"],
        FrameOfReferenceUID=generate_uid(),
        SliceThickness=make.decimal(case.spacing_mm),
        SpacingBetweenSlices=make.decimal(case.spacing_mm),
        PixelSpacing=[make.decimal(value) for value in PIXEL_SPACING_MM],
        NumberOfSlices=case.slices,
        SliceVector=[plane.slice + 1 for plane in planes],
        FrameIncrementPointer=[0x00540080],
    )
    if case.times > 1:
        ds.TimeSlotVector = [plane.time + 1 for plane in planes]
        ds.RRIntervalVector = [1] * len(planes)
        ds.NumberOfTimeSlots, ds.NumberOfRRIntervals = case.times, 1
        ds.FrameIncrementPointer = [0x00540060, 0x00540070, 0x00540080]
    first = next((plane for plane in planes if plane.slice == 0), planes[0])
    origin = first.position - first.slice * case.spacing_mm * np.cross(first.orientation[:3], first.orientation[3:])
    ds.DetectorInformationSequence = [
        make.dataset(
            ImagePositionPatient=[make.decimal(value) for value in origin],
            ImageOrientationPatient=[make.decimal(value) for value in first.orientation],
        )
    ]
    make.set_pixels(ds, np.stack([plane.values.astype(np.uint16) for plane in planes]))
    ds.NumberOfFrames = len(planes)
    return _of_one_instance(case, ds, planes)


def _ultrasound(case: Case) -> Series:
    """Return a clip without a position, in colour."""
    planes = [
        replace(plane, values=np.stack([plane.values % 251, plane.values // 251, np.full_like(plane.values, 7)], -1))
        for plane in _frames(case)
    ]
    ds = make.instance(
        sop_class_uid=UltrasoundMultiFrameImageStorage,
        modality="US",
        ImageType=["ORIGINAL", "PRIMARY"],
        FrameTime=make.decimal(1000 * STEP_S),
        FrameIncrementPointer=0x00181063,
    )
    make.set_pixels(ds, np.stack([plane.values.astype(np.uint8) for plane in planes]))
    ds.NumberOfFrames = len(planes)
    return _of_one_instance(case, ds, planes)


def _dose(case: Case) -> Series:
    """Return a dose grid; its planes come in the order of the case's numbers."""
    planes = _frames(case)
    scaling = 0.001
    normal = np.cross(planes[0].orientation[:3], planes[0].orientation[3:])
    offsets = [float((plane.position - planes[0].position) @ normal) for plane in planes]
    ds = make.instance(
        sop_class_uid=RTDoseStorage,
        modality="RTDOSE",
        FrameOfReferenceUID=generate_uid(),
        ImagePositionPatient=[make.decimal(value) for value in planes[0].position],
        ImageOrientationPatient=[make.decimal(value) for value in planes[0].orientation],
        PixelSpacing=[make.decimal(value) for value in PIXEL_SPACING_MM],
        SliceThickness=make.decimal(case.spacing_mm),
        DoseUnits="GY",
        DoseType="PHYSICAL",
        DoseSummationType="PLAN",
        DoseGridScaling=make.decimal(scaling),
        GridFrameOffsetVector=[make.decimal(offset) for offset in offsets],
        FrameIncrementPointer=0x3004000C,
    )
    make.set_pixels(ds, np.stack([plane.values.astype(np.uint32) for plane in planes]))
    ds.NumberOfFrames = len(planes)
    return _of_one_instance(case, ds, [replace(plane, values=plane.values * scaling) for plane in planes])


SEGMENTS = 2


def _segmentation(case: Case) -> Series:
    """Return a binary segmentation of two segments that do not touch; each plane has a pattern of its own."""
    planes = _frames(replace(case, times=1, echoes=SEGMENTS))
    patterns = []
    for plane in planes:
        cells = np.arange(CELLS).reshape(ROWS, COLUMNS)
        is_own = (cells % SEGMENTS == plane.echo) & ((cells * 7 + plane.slice * 5) % 11 < 5)
        patterns.append(is_own)
    ds = make.instance(
        sop_class_uid=SegmentationStorage,
        modality="SEG",
        ImageType=["DERIVED", "PRIMARY"],
        FrameOfReferenceUID=generate_uid(),
        SegmentationType="BINARY",
        ContentLabel="TRUTH",
        SegmentsOverlap="NO",
    )
    ds.SegmentSequence = [_segment(number) for number in range(1, SEGMENTS + 1)]
    ds.Rows, ds.Columns, ds.NumberOfFrames = ROWS, COLUMNS, len(planes)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 1
    ds.HighBit = ds.PixelRepresentation = 0
    ds.LossyImageCompression = "00"
    ds.PixelData = np.packbits(np.stack(patterns).ravel(), bitorder="little").tobytes()
    ds["PixelData"].VR = "OB"
    organization = generate_uid()
    ds.DimensionOrganizationSequence = [make.dataset(DimensionOrganizationUID=organization)]
    ds.DimensionIndexSequence = [make.dimension(0x0062000B, 0x0062000A), make.dimension(0x00200032, 0x00209113)]
    for item in ds.DimensionIndexSequence:
        item.DimensionOrganizationUID = organization
    shared = Dataset()
    shared.PlaneOrientationSequence = [
        make.dataset(ImageOrientationPatient=[make.decimal(value) for value in planes[0].orientation])
    ]
    shared.PixelMeasuresSequence = [
        make.dataset(
            PixelSpacing=[make.decimal(value) for value in PIXEL_SPACING_MM],
            SliceThickness=make.decimal(case.spacing_mm),
            SpacingBetweenSlices=make.decimal(case.spacing_mm),
        )
    ]
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = [_frame_of_segment(plane) for plane in planes]
    truths = [
        replace(plane, values=pattern * (plane.echo + 1.0)) for plane, pattern in zip(planes, patterns, strict=True)
    ]
    return _of_one_instance(case, ds, truths)


def _segment(number: int) -> Dataset:
    tissue = make.coded("85756007", "SCT", "Tissue")
    item = make.dataset(SegmentNumber=number, SegmentLabel=f"segment {number}", SegmentAlgorithmType="MANUAL")
    item.SegmentedPropertyCategoryCodeSequence = [tissue]
    item.SegmentedPropertyTypeCodeSequence = [tissue]
    return item


def _frame_of_segment(plane: Plane) -> Dataset:
    groups = make.dataset(FrameContentSequence=[make.dataset(DimensionIndexValues=[plane.echo + 1, plane.slice + 1])])
    position = make.dataset(ImagePositionPatient=[make.decimal(value) for value in plane.position])
    groups.PlanePositionSequence = [position]
    groups.SegmentIdentificationSequence = [make.dataset(ReferencedSegmentNumber=plane.echo + 1)]
    return groups


def every(series: Series) -> Iterator[Plane]:
    """Yield the planes that a series still has, without copies."""
    return (plane for plane in series.planes.values() if not plane.is_copy)
