"""Read the frames of any instance: the pixels and position of each frame, and the attributes that separate frames.

A classic instance has one frame. An enhanced instance takes the attributes of each frame from its functional groups
(PS3.3 C.7.6.16.2: the frame's own group, else the shared one). A mosaic has one frame per tile. The frames of a
reconstructed nuclear medicine image are counted by its vectors. The frames of a cine have no position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from threading import Lock
from types import MappingProxyType
from typing import Any

import numpy as np
from pydicom import Dataset

from node.dicom.values import held, items, number, once_per_series, standard_tag, stated_numbers, texts
from node.errors import ConversionRefused
from node.volume import vendors
from node.volume.describe.sidecar_fields import private_fields
from node.volume.elements import stated_instant, text
from node.volume.model import Array, Frame, Tiling
from node.volume.read.diffusion import diffusion_of
from node.volume.read.functional_groups import (
    ANGLES,
    TURNED_MODALITIES,
    FrameArguments,
    classic_datasets,
    frame_arguments,
)
from node.volume.read.lookup_tables import units_of, with_mappings
from node.volume.read.meaning import meaning_of, told_of
from node.volume.read.pixels import FrameReader, frame_reader
from node.volume.read.planes import (
    SPACING_KEYWORDS,
    checked_plane,
    false_place,
    image_plane,
    is_rescaled,
    overlays_of,
    pixel_spacing,
    rescale,
)
from node.volume.read.vectors import (
    SECTIONAL_MODALITIES,
    Counts,
    assumption,
    counted_frames,
    frame_timing,
    reconstructed_positions,
    slice_step_mm,
    views_and_times,
)
from node.volume.reasons import Reason, VolumeWarning

SEPARATE_MODALITIES = frozenset({"CR", "DX", "MG", "IO", "PX", "RG", "RTIMAGE", "XC", "ES", "GM", "OP", "OPT", "NM"})
"""Modalities whose instances without a position are separate pictures, even if they all have one size."""

BREAST_PROJECTIONS = frozenset({"1.2.840.10008.5.1.4.1.1.13.1.4", "1.2.840.10008.5.1.4.1.1.13.1.5"})
"""Breast Projection X-Ray Image Storage, for presentation and for processing."""

VOLUME_MODALITIES = frozenset({"MG", "OPT"})
"""Modalities whose multi-frame instances are a volume each, although positions of both sides may be equal."""


def frames_of(ds: Dataset) -> list[Frame]:
    """Return the frames of one instance in the order in which the instance stores them.

    `ds`: one instance, with its pixel data.

    Positions in mm, LPS. The pixels are not decoded yet: `Frame.read` decodes them.

    Raises ConversionRefused: ``contradictory``, ``too-large`` or ``undecodable``: the pixels do not match the header.
        ``bad-geometry``: the position, orientation or spacing is impossible. ``unproven-layout``: the layout of a
        mosaic is unknown.
    """
    reader = frame_reader(ds)
    refuse_projections(ds, reader.frames)
    tiling = vendors.tiling(ds)
    plane = (reader.rows, reader.columns) if tiling is None else (tiling.tile_rows, tiling.tile_columns)
    common = _common(ds, reader, plane)
    if tiling is not None:
        return _tiles(ds, reader, common, tiling)
    classic = classic_datasets(ds, reader.frames)
    commons = [common if own is ds else _common(own, reader, plane) for own in classic]
    grouped = frame_arguments(ds, classic, commons, reader.modality_lut or reader.colour)
    if grouped is not None:
        keep_apart(ds, grouped)
        for index, own in enumerate(grouped):
            own["private"] = private_fields(classic[index], *plane, index + 1)
        return [_frame(reader, commons[index], index, **own) for index, own in enumerate(grouped)]
    positions = reconstructed_positions(ds, reader.frames)
    if positions is not None:
        return _reconstructed(ds, reader, common, positions)
    return _plain(ds, reader, common)


def _common(ds: Dataset, reader: FrameReader, plane: tuple[int, int]) -> FrameArguments:
    """Return the arguments of `Frame` that all frames of an instance share; `plane`: rows and columns of each."""
    meaning = meaning_of(ds)  # first: before anything has converted an element
    told = told_of(ds)
    modality = text(ds, "Modality") or ""
    instance_number = number(ds, "InstanceNumber")
    # Colours have no Modality LUT (PS3.3 C.11.1), even if there is a slope.
    slope, intercept = (1.0, 0.0) if reader.modality_lut or reader.colour else rescale(ds)
    mappings = items(ds, "RealWorldValueMappingSequence")
    diffusion = diffusion_of(ds) if modality == "MR" else None
    slice_time_s = vendors.slice_time_s(ds) if modality == "MR" else None
    acquired = stated_instant(ds, "", "", "AcquisitionTime")
    return {
        **_common_of_series(
            ds,
            placed=held(ds, standard_tag("ImagePositionPatient")) is not None and not false_place(ds),
            map=diffusion is not None and diffusion.derived,
            scaled=reader.modality_lut or reader.colour or is_rescaled(ds, mappings),
            signed=reader.dtype.kind == "i",
            lossy=reader.lossy,
            intercept=intercept,
            kind=vendors.mr_kind(ds) if modality == "MR" else None,
            real_world=units_of(mappings),
        ),
        "told": told,
        "private": private_fields(ds, *plane),
        "meaning": with_mappings(meaning, mappings, slope, intercept),
        "sop_instance_uid": text(ds, "SOPInstanceUID") or "",
        "rows": reader.rows,
        "columns": reader.columns,
        "dtype": reader.dtype,
        "colour": reader.colour,
        "lossy": reader.lossy,
        "widths": reader.widths,
        "overlays": overlays_of(ds),
        "slope": slope,
        "intercept": intercept,
        "instance_number": None if instance_number is None else int(instance_number),
        "diffusion": diffusion,
        "acquisition_time_s": (acquired and acquired.second_s) if slice_time_s is None else slice_time_s,
        "time_key": {
            **_time_key(ds),
            "time_slice": _time_slice(ds) if modality == "PT" else None,
            "trigger_time": number(ds, "TriggerTime"),
            "labelling": vendors.labelling(ds) if modality == "MR" else None,
            "angles": tuple(number(ds, f"Positioner{axis}Angle") for axis in ANGLES)
            if reader.frames == 1 and modality in TURNED_MODALITIES
            else None,
            "slice_location": number(ds, "SliceLocation")
            if reader.frames == 1 and modality in SECTIONAL_MODALITIES
            else None,
        },
    }


@once_per_series(
    *("TemporalPositionIdentifier", "NumberOfTemporalPositions", "NominalPercentageOfCardiacPhase"),
    *("FrameReferenceTime", "AcquisitionNumber", "AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime"),
    *("ContentDate", "ContentTime", "TimezoneOffsetFromUTC"),
)
def _time_key(ds: Dataset) -> FrameArguments:
    """Return the values that order frames in time, but those that differ between the slices of one time."""
    acquired = stated_instant(ds, "AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime")
    made = stated_instant(ds, "", "ContentDate", "ContentTime")
    return {
        "temporal_position": number(ds, "TemporalPositionIdentifier"),
        "temporal_positions": number(ds, "NumberOfTemporalPositions"),
        "cardiac_phase": number(ds, "NominalPercentageOfCardiacPhase"),
        "frame_reference_time": number(ds, "FrameReferenceTime"),
        "acquisition_number": number(ds, "AcquisitionNumber"),
        "acquisition_time": acquired and acquired.clock_s,
        "content_time": made and made.clock_s,
        "acquisition_offset": acquired and acquired.offset_s,
        "content_offset": made and made.offset_s,
    }


@once_per_series(
    *(*SPACING_KEYWORDS, "SliceThickness", "SpacingBetweenSlices", "ActualFrameDuration", "SOPClassUID", "PatientID"),
    *("Modality", "FrameOfReferenceUID", "ImageType", "EchoTime", "EchoNumbers", "InversionTime", "RepetitionTime"),
    *("EffectiveEchoTime", "InversionTimes", "LossyImageCompressionMethod"),
    *("FlipAngle", "SequenceName", "KVP", "ConvolutionKernel", "ContrastBolusAgent", "Units", "RescaleType"),
    *("CorrectedImage", "DoseUnits", "DoseType", "PhotometricInterpretation"),
)
def _common_of_series(
    ds: Dataset,
    *,
    placed: bool,
    map: bool,
    scaled: bool,
    signed: bool,
    lossy: bool,
    intercept: float,
    kind: vendors.MRKind | None,
    real_world: tuple[str, ...] | None,
) -> FrameArguments:
    """Return the arguments of `Frame` that most instances of a series share; `kind` is that of an MR image."""
    image_type = texts(ds, "ImageType")
    modality = text(ds, "Modality") or ""
    duration_ms = number(ds, "ActualFrameDuration")
    return {
        "pixel_spacing": pixel_spacing(ds, placed=placed),
        "slice_thickness_mm": number(ds, "SliceThickness"),
        "spacing_between_slices_mm": number(ds, "SpacingBetweenSlices"),
        "duration_s": duration_ms / 1000 if duration_ms and duration_ms > 0 else None,
        "split_key": _shared_mapping(
            {
                "sop_class": text(ds, "SOPClassUID"),
                "patient": text(ds, "PatientID"),
                "modality": modality or None,
                "frame_of_reference": text(ds, "FrameOfReferenceUID"),
                "derived": image_type[:1] == ("DERIVED",),
                "localizer": image_type[2:3] == ("LOCALIZER",),
                "component": (kind.component or "magnitude") if kind else None,
                "noise": kind is not None and kind.noise,
                "echo_time": number(ds, "EchoTime") or number(ds, "EffectiveEchoTime") or None,
                "echo": stated_numbers(ds, "EchoNumbers"),
                "inversion_time": number(ds, "InversionTime") or number(ds, "InversionTimes") or None,
                "map": map,
                "maps_field": kind is not None and kind.maps_field,
                "units": text(ds, "Units"),
                "rescale_type": text(ds, "RescaleType"),
                "real_world": real_world,
                "corrected": frozenset(texts(ds, "CorrectedImage")),
                "coil_element": vendors.coil_element(kind.coil) if kind else None,
                "quantity": texts(ds, "DoseUnits") + texts(ds, "DoseType") if modality == "RTDOSE" else None,
                "inverted": text(ds, "PhotometricInterpretation") == "MONOCHROME1",
                "scaled": scaled,
            }
        ),
        "variant_key": _shared_mapping(
            {
                "image_type": image_type,
                "kernel": texts(ds, "ConvolutionKernel"),
                "contrast": text(ds, "ContrastBolusAgent"),
                "sequence": text(ds, "SequenceName"),
                "kvp": number(ds, "KVP"),
                "flip_angle": number(ds, "FlipAngle"),
                "repetition_time": number(ds, "RepetitionTime"),
                "slice_thickness": number(ds, "SliceThickness"),
                "velocity": kind.velocity if kind else None,
                "coil": kind.coil if kind else None,
                "collapse_flag": kind.collapse_flag if kind else None,
                "signed": signed if kind else None,
                "raw_data_run": kind.raw_data_run if kind else None,
                "intercept": intercept if kind else None,  # below zero in phase images
                # PS3.3 C.7.6.1.1.5: a lossy version is a separate image
                "lossy": (lossy, *texts(ds, "LossyImageCompressionMethod")),
            }
        ),
    }


def _time_slice(ds: Dataset) -> int | None:
    """Return which time slice, or gate, of a dynamic or gated PET an image is of, from 0 (PS3.3 C.8.9.4.1.9)."""
    index, slices = number(ds, "ImageIndex"), number(ds, "NumberOfSlices")
    if not index or not slices or texts(ds, "SeriesType")[:1] not in (("DYNAMIC",), ("GATED",)):
        return None
    return int((index - 1) // slices)


def _frame(reader: FrameReader, common: FrameArguments, index: int, **own: Any) -> Frame:
    """Return frame `index` (from 0) of an instance, from the shared arguments, overridden by `own`."""
    keys: FrameArguments = {
        name: _shared_mapping(common[name] | own.pop(name)) for name in ("split_key", "variant_key") if name in own
    }
    numbers_of_frame = {"instance": (common["instance_number"] or 0, index + 1)}
    keys["time_key"] = common["time_key"] | own.pop("time_key", {}) | numbers_of_frame
    given: FrameArguments = {"frame_number": index + 1, "read": partial(reader, index)}
    return Frame(**(given | common | keys | own))


def _shared_mapping(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a mapping shared by all equal frames of a series: 20,000 copies would take a tenth of all memory."""
    return _shared(tuple(mapping.items()))


@lru_cache(maxsize=1024)
def _shared(items: tuple[tuple[str, Any], ...]) -> Mapping[str, Any]:
    return MappingProxyType(dict(items))


def _plain(ds: Dataset, reader: FrameReader, common: FrameArguments) -> list[Frame]:
    """Return frames at the single position that the data set gives, or without a position."""
    notes = false_place(ds)
    place: tuple[Any, Any] = (None, None) if notes else image_plane(ds)
    position, orientation = place
    own_stack = {}
    if position is None and (reader.frames > 1 or text(ds, "Modality") in SEPARATE_MODALITIES):
        own_stack = {"instance": common["sop_instance_uid"]}  # a clip or a picture is a stack of its own
    timing, slices, views, counted = counted_frames(ds, reader.frames, common["duration_s"])
    steps = [start for start, _ in timing]
    if reader.frames == 1:
        slices = [common["time_key"]["slice_location"]]
    if reader.frames > 1 and text(ds, "Modality") == "OPT" and None in slices and None in steps:
        raise unplaced_tomography(reader.frames)
    places = [position] * reader.frames
    uncounted = reader.frames > 1 and None in steps and None in slices and not reader.colour
    step_mm = slice_step_mm(ds, is_placed=position is not None) if uncounted else None
    if step_mm is not None:
        own_stack = {"instance": common["sop_instance_uid"]}
        notes = (*notes, assumption(step_mm, is_placed=position is not None))
        slices = [float(index) for index in range(reader.frames)]
        if position is not None:
            step = step_mm * np.cross(orientation[:3], orientation[3:])
            places = [position + index * step for index in range(reader.frames)]
    elif position is not None and reader.frames > 1 and None in steps:
        raise ConversionRefused(
            Reason.UNPROVEN_LAYOUT,
            f"the instance has {reader.frames} frames but only one Image Position (Patient) (0020,0032), and no "
            "attribute says whether the frames differ in time or in space; send it as an enhanced instance with "
            "functional groups, or as one instance per frame",
        )
    frames = [
        _frame(
            reader,
            common,
            index,
            position=places[index],
            orientation=orientation,
            notes=notes,
            duration_s=timing[index][1],
            split_key={**own_stack, "view": views[index]},
            time_key={"frame_time": steps[index], "slice": slices[index], "dimensions": counted[index]},
        )
        for index in range(reader.frames)
    ]
    _number_by_time(frames, counted)
    return frames


def _number_by_time(frames: Sequence[Frame], counted: Sequence[Counts | None]) -> None:
    """Let the frames of one instance without a position follow each other as its vectors count them."""
    if frames[0].position is None and None not in counted:
        order = sorted(range(len(frames)), key=lambda index: (counted[index], index))
        for rank, index in enumerate(order, start=1):
            frames[index].time_key["instance"] = (frames[index].instance_number or 0, rank)


def _tiles(ds: Dataset, reader: FrameReader, common: FrameArguments, tiling: Tiling) -> list[Frame]:
    """Return one frame for each tile of each frame of a mosaic."""
    orientation = None
    if tiling.positions is not None and tiling.orientation is not None:
        _, orientation = checked_plane((0.0, 0.0, 0.0), tuple(map(float, tiling.orientation)))
    own = {"rows": tiling.tile_rows, "columns": tiling.tile_columns, "orientation": orientation}
    start = common["acquisition_time_s"]
    frames = []
    for index in range(reader.frames):
        mosaic = _Mosaic(partial(reader, index), tiling)
        for tile in range(tiling.count):
            frame = _frame(reader, common | own, index)
            frame.read = partial(mosaic.tile, tile)
            if tiling.positions is not None and orientation is not None:
                frame.position = np.asarray(tiling.positions[tile], float)
            if tiling.slice_times_s is not None:
                frame.acquisition_time_s = (start or 0.0) + tiling.slice_times_s[tile]
            frames.append(frame)
    return frames


class _Mosaic:
    """Decode a frame of tiles once, and keep it until every tile has been read."""

    def __init__(self, read: Callable[[], Array], tiling: Tiling) -> None:
        self._read, self._tiling = read, tiling
        self._plane: Array | None = None
        self._left = tiling.count
        self._lock = Lock()  # several threads read tiles

    def tile(self, index: int) -> Array:
        """Return the stored values of one tile; tiles are counted row by row."""
        with self._lock:
            plane = self._read() if self._plane is None else self._plane
            self._left -= 1
            self._plane = plane if self._left > 0 else None
        return self._tiling.cut(plane, index)


def _reconstructed(
    ds: Dataset, reader: FrameReader, common: FrameArguments, positions: tuple[Array, Array, tuple[VolumeWarning, ...]]
) -> list[Frame]:
    """Return the frames of a reconstructed NM image; other vectors separate or order those that share a position."""
    views, counted = views_and_times(ds, reader.frames)
    timing = frame_timing(ds, reader.frames, common["duration_s"])
    return [
        _frame(
            reader,
            common,
            index,
            position=positions[0][index],
            orientation=positions[1],
            notes=positions[2],
            duration_s=timing[index][1],
            split_key={"view": views[index]},
            time_key={"frame_time": timing[index][0], "dimensions": counted[index]},
        )
        for index in range(reader.frames)
    ]


def refuse_projections(ds: Dataset, frames: int) -> None:
    """Raise ``projections`` for the projections that a breast tomosynthesis is reconstructed from."""
    if frames > 1 and text(ds, "SOPClassUID") in BREAST_PROJECTIONS:
        raise ConversionRefused(
            Reason.PROJECTIONS,
            f"the {frames} frames are projections from several angles (breast tomosynthesis, PS3.3 A.47); send the "
            "reconstructed slices",
        )


def keep_apart(ds: Dataset, grouped: Sequence[dict[str, Any]]) -> None:
    """Make an instance a stack of its own if another one's frames could be taken for further times of its slices.

    `grouped`: arguments of each `Frame`; their ``split_key`` gets the instance.

    Raises ConversionRefused ``unproven-layout``: nothing says where the frames of ophthalmic tomography lie.
    """
    modality = text(ds, "Modality")
    unplaced = [own for own in grouped if own["position"] is None]
    if modality == "OPT" and len(grouped) > 1 and any(own["time_key"]["slice"] is None for own in unplaced):
        raise unplaced_tomography(len(grouped))
    if len(grouped) > 1 and "ConcatenationUID" not in ds and (unplaced or modality in VOLUME_MODALITIES):
        for own in grouped:
            own["split_key"]["instance"] = text(ds, "SOPInstanceUID")


def unplaced_tomography(frames: int) -> ConversionRefused:
    """Return the refusal of an ophthalmic tomography whose frames have no place."""
    return ConversionRefused(
        Reason.UNPROVEN_LAYOUT,
        "neither Image Position (Patient) (0020,0032) nor In-Stack Position Number (0020,9057) says where the "
        f"{frames} frames of the tomography lie in the eye",
    )
