"""Frames of an instance, whatever kind it is: each with its pixels, its place, and what tells it from the others.

A classic instance has one; an enhanced one takes them from its functional groups (PS3.3 C.7.6.16.2: the frame's own
group, else the shared one); a mosaic has one for each tile; a reconstructed nuclear medicine image counts them by its
vectors; a cine has frames without a place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from threading import Lock
from types import MappingProxyType
from typing import Any

import numpy as np
from pydicom import Dataset

from node.errors import ConversionRefused
from node.volume import vendors
from node.volume.elements import instant, item, number, numbers, seconds_of_day, text, texts
from node.volume.geometry import POSITION_TOLERANCE_MM
from node.volume.model import Array, Frame
from node.volume.read.diffusion import diffusion_of
from node.volume.read.functional_groups import Common, of_each_frame
from node.volume.read.nm_phases import Timing, phase_timing
from node.volume.read.pixels import FrameReader, frame_reader
from node.volume.read.planes import acquired_at, checked_place, is_distance, is_map, pixel_spacing, place, rescale
from node.volume.reasons import Reason
from node.volume.tiling import Tiling

PROJECTIONS = frozenset({"CR", "DX", "MG", "IO", "PX", "RG", "RTIMAGE", "XC", "ES", "GM", "OP"})
"""Modalities whose instances are pictures of their own, even where they have one size."""

SCALED = frozenset({"CT", "PT"})
"""Modalities whose images must tell their scaling (PS3.3 C.8.2.1, C.8.9.4): its absence does not mean 1 and 0."""

SECTIONS = frozenset({"CT", "MR", "PT"})
"""Modalities whose instances are slices of a body, even where they do not tell their place."""


def frames_of(ds: Dataset) -> list[Frame]:
    """Return the frames of one instance in its own order.

    Raises
    ------
    ConversionRefused
        The pixels contradict the header (`contradictory`, `too-large`, `undecodable`), the geometry is impossible
        (`bad-geometry`), or the layout of a mosaic cannot be known (`unproven-layout`).
    """
    reader = frame_reader(ds)
    common = _common(ds, reader)
    tiling = vendors.tiling(ds)
    if tiling is not None:
        return _tiles(ds, reader, common, tiling)
    grouped = of_each_frame(ds, reader.frames, common, reader.modality_lut)
    if grouped is not None:
        return [_frame(reader, common, index, **own) for index, own in enumerate(grouped)]
    positions = _reconstructed_positions(ds, reader.frames)
    if positions is not None:
        return _reconstructed(ds, reader, common, positions)
    return _plain(ds, reader, common)


def _common(ds: Dataset, reader: FrameReader) -> Common:
    """What all frames of an instance share, as arguments of `Frame`."""
    image_type = texts(ds, "ImageType")
    modality = text(ds, "Modality") or ""
    instance_number = number(ds, "InstanceNumber")
    slope, intercept = (1.0, 0.0) if reader.modality_lut else rescale(ds)
    diffusion = diffusion_of(ds) if modality == "MR" else None
    slice_time_s = vendors.slice_time_s(ds) if modality == "MR" else None
    echo_time = number(ds, "EchoTime")
    duration_ms = number(ds, "ActualFrameDuration")
    return {
        "sop_instance_uid": text(ds, "SOPInstanceUID") or "",
        "rows": reader.rows,
        "columns": reader.columns,
        "dtype": np.dtype(reader.dtype),
        "colour": reader.colour,
        "lossy": reader.lossy,
        "pixel_spacing": pixel_spacing(ds, placed="ImagePositionPatient" in ds),
        "slope": slope,
        "intercept": intercept,
        "slice_thickness_mm": number(ds, "SliceThickness"),
        "spacing_between_slices_mm": number(ds, "SpacingBetweenSlices"),
        "instance_number": None if instance_number is None else int(instance_number),
        "diffusion": diffusion,
        "acquisition_time_s": seconds_of_day(text(ds, "AcquisitionTime")) if slice_time_s is None else slice_time_s,
        "duration_s": duration_ms / 1000 if duration_ms and duration_ms > 0 else None,
        "split_key": {
            "sop_class": text(ds, "SOPClassUID"),
            "patient": text(ds, "PatientID"),
            "modality": modality or None,
            "frame_of_reference": text(ds, "FrameOfReferenceUID"),
            "derived": image_type[:1] == ("DERIVED",),
            "localizer": image_type[2:3] == ("LOCALIZER",),
            "component": (vendors.component(ds) or "magnitude") if modality == "MR" else None,
            "echo_time": echo_time or None,
            "echo": numbers(ds, "EchoNumbers"),
            "inversion_time": number(ds, "InversionTime") or None,
            "map": is_map(diffusion),
            "quantity": texts(ds, "DoseUnits") + texts(ds, "DoseType") if modality == "RTDOSE" else None,
            "inverted": text(ds, "PhotometricInterpretation") == "MONOCHROME1",
            "scaled": modality not in SCALED or reader.modality_lut or _is_scaled(ds),
        },
        "variant_key": {
            "image_type": image_type,
            "kernel": texts(ds, "ConvolutionKernel"),
            "sequence": text(ds, "SequenceName"),
            "kvp": number(ds, "KVP"),
            "flip_angle": number(ds, "FlipAngle"),
            "repetition_time": number(ds, "RepetitionTime"),
            "slice_thickness": number(ds, "SliceThickness"),
            "raw_data_run": vendors.raw_data_run(ds) if modality == "MR" else None,
            "intercept": intercept if modality == "MR" else None,  # of phase images it is below zero
            "lossy": reader.lossy,  # PS3.3 C.7.6.1.1.5: a lossy version is an image of its own
        },
        "time_key": {
            "temporal_position": number(ds, "TemporalPositionIdentifier"),
            "trigger_time": number(ds, "TriggerTime"),
            "cardiac_phase": number(ds, "NominalPercentageOfCardiacPhase"),
            "frame_reference_time": number(ds, "FrameReferenceTime"),
            "acquisition_number": number(ds, "AcquisitionNumber"),
            "acquisition_time": acquired_at(ds),
            "content_time": instant(text(ds, "ContentDate"), text(ds, "ContentTime")),
            "slice_location": number(ds, "SliceLocation") if reader.frames == 1 and modality in SECTIONS else None,
        },
    }


def _is_scaled(ds: Dataset) -> bool:
    """Whether a data set has both Rescale Slope and Rescale Intercept."""
    return all(number(ds, keyword) is not None for keyword in ("RescaleSlope", "RescaleIntercept"))


def _frame(reader: FrameReader, common: Common, index: int, **own: Any) -> Frame:
    """Frame `index` (from 0) of an instance: what is common, and what is its own."""
    keys: Common = {
        name: _shared(tuple((common[name] | own.pop(name, {})).items())) for name in ("split_key", "variant_key")
    }
    numbers_of_frame = {"instance": (common["instance_number"] or 0, index + 1)}
    keys["time_key"] = common["time_key"] | own.pop("time_key", {}) | numbers_of_frame
    given: Common = {"frame_number": index + 1, "read": partial(reader, index)}
    return Frame(**(given | common | keys | own))


@lru_cache(maxsize=1024)
def _shared(items: tuple[tuple[str, Any], ...]) -> Mapping[str, Any]:
    """One mapping for all frames of a series that are alike: of twenty thousand their own would be a tenth of all."""
    return MappingProxyType(dict(items))


def _plain(ds: Dataset, reader: FrameReader, common: Common) -> list[Frame]:
    """Frames at the one place that the data set gives, or at none."""
    position, orientation = place(ds)
    own_stack = {}
    if position is None and (reader.frames > 1 or text(ds, "Modality") in PROJECTIONS):
        own_stack = {"instance": common["sop_instance_uid"]}  # a clip, or a picture: not a part of a stack
    common["split_key"] |= own_stack
    timing = _frame_timing(ds, reader.frames, common["duration_s"])
    steps, slices = [start for start, _ in timing], _slice_numbers(ds, reader.frames)
    if reader.frames == 1:
        slices = [common["time_key"]["slice_location"]]
    counted = _counted(ds, reader.frames)
    if position is not None and reader.frames > 1 and None in steps:
        raise ConversionRefused(
            Reason.UNPROVEN_LAYOUT,
            f"{reader.frames} frames, one Image Position (Patient) (0020,0032), and nothing that tells whether they "
            "follow each other in time or in space",
        )
    return [
        _frame(
            reader,
            common,
            index,
            position=position,
            orientation=orientation,
            duration_s=timing[index][1],
            time_key={"frame_time": steps[index], "slice": slices[index], "dimensions": counted[index]},
        )
        for index in range(reader.frames)
    ]


# Tiles of a mosaic


def _tiles(ds: Dataset, reader: FrameReader, common: Common, tiling: Tiling) -> list[Frame]:
    """One frame for each tile of each frame of a mosaic."""
    orientation = None
    if tiling.positions is not None and tiling.orientation is not None:
        _, orientation = checked_place((0.0, 0.0, 0.0), tuple(map(float, tiling.orientation)))
    own = {"rows": tiling.tile_rows, "columns": tiling.tile_columns, "orientation": orientation}
    start = common["acquisition_time_s"]
    out = []
    for index in range(reader.frames):
        mosaic = _Mosaic(partial(reader, index), tiling)
        for tile in range(tiling.count):
            frame = _frame(reader, common | own, index)
            frame.read = partial(mosaic.tile, tile)
            if tiling.positions is not None and orientation is not None:
                frame.position = np.asarray(tiling.positions[tile], float)
            if tiling.slice_times_s is not None:
                frame.acquisition_time_s = (start or 0.0) + tiling.slice_times_s[tile]
            out.append(frame)
    return out


class _Mosaic:
    """A frame of tiles, decoded once and kept until every tile was read."""

    def __init__(self, read: Callable[[], Array], tiling: Tiling) -> None:
        self._read, self._tiling = read, tiling
        self._plane: Array | None = None
        self._left = tiling.count
        self._lock = Lock()  # tiles are read by several threads

    def tile(self, index: int) -> Array:
        """Stored values of one tile; tiles are counted row by row."""
        with self._lock:
            plane = self._read() if self._plane is None else self._plane
            self._left -= 1
            self._plane = plane if self._left > 0 else None
        return self._tiling.cut(plane, index)


# Reconstructed nuclear medicine, and frames without a place


def _reconstructed_positions(ds: Dataset, frames: int) -> tuple[Array, Array] | None:
    """Positions (frames, 3) and orientation of a reconstructed NM image (PS3.3 C.8.4.15); None of any other.

    The place is that of the detector; some writers leave it at the top of the data set.
    """
    detector = item(ds, "DetectorInformationSequence")
    slices, spacing = numbers(ds, "SliceVector"), number(ds, "SpacingBetweenSlices")
    if slices is None and detector is not None and number(ds, "NumberOfSlices") == frames:
        slices = tuple(range(1, frames + 1))
    if slices is None or len(slices) != frames or spacing is None or not is_distance(spacing, POSITION_TOLERANCE_MM):
        return None
    places = [place(told) for told in (detector, ds) if told is not None]
    position, orientation = next((found for found in places if found[0] is not None), (None, None))
    if position is None or orientation is None:
        return None
    normal = np.cross(orientation[:3], orientation[3:])
    return position + (np.asarray(slices) - 1)[:, None] * spacing * normal, orientation


def _reconstructed(ds: Dataset, reader: FrameReader, common: Common, positions: tuple[Array, Array]) -> list[Frame]:
    """Frames of a reconstructed NM image, ordered at one place by the other vectors that count them."""
    counted = _counted(ds, reader.frames)
    return [
        _frame(
            reader,
            common,
            index,
            position=positions[0][index],
            orientation=positions[1],
            time_key={"dimensions": counted[index]},
        )
        for index in range(reader.frames)
    ]


def _counted(ds: Dataset, frames: int) -> list[tuple[float, ...] | None]:
    """What the vectors of an NM image count, beside slices: energy windows, intervals, time slots, detectors."""
    names = ("EnergyWindowVector", "RRIntervalVector", "TimeSlotVector", "DetectorVector")
    vectors = [vector for vector in (numbers(ds, name) for name in names) if vector and len(vector) == frames]
    return list(zip(*vectors, strict=True)) if vectors else [None] * frames


def _slice_numbers(ds: Dataset, frames: int) -> list[float | None]:
    """What orders the slices of an instance without places: Slice Vector (0054,0080), Slice Location Vector."""
    for keyword in ("SliceVector", "SliceLocationVector"):
        vector = numbers(ds, keyword)
        if vector is not None and len(vector) == frames and all(map(math.isfinite, vector)):
            return list(vector)
    return [None] * frames


def _frame_timing(ds: Dataset, frames: int, duration_s: float | None) -> list[Timing]:
    """Start and duration of each frame: of the phases of nuclear medicine, or of a cine."""
    return phase_timing(ds, frames) or [(start, duration_s) for start in _frame_times(ds, frames)]


def _frame_times(ds: Dataset, frames: int) -> list[float | None]:
    """Start of each frame of a cine in seconds (PS3.3 C.7.6.5).

    Frame Time Vector (0018,1065) or Frame Time (0018,1063), both in ms; else Cine Rate (0018,0040), in frames a second.
    """
    vector = numbers(ds, "FrameTimeVector")
    if vector is not None and len(vector) == frames and all(map(math.isfinite, vector)):
        return [float(value) / 1000 for value in np.cumsum(vector)]
    step_ms, rate = number(ds, "FrameTime"), number(ds, "CineRate")
    if not step_ms and rate:
        step_ms = 1000 / rate
    if not step_ms or step_ms < 0 or frames == 1:
        return [None] * frames
    return [index * step_ms / 1000 for index in range(frames)]
