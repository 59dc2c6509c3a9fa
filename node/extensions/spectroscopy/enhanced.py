"""MR Spectroscopy Storage (PS3.3 A.36.3): Siemens XA, Philips, and who follows the standard."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom import Dataset

from node.dicom.values import (
    PrivateTag,
    items,
    number,
    numbers,
    private_items,
    private_numbers,
    private_text,
    text,
    value,
    whole,
)
from node.errors import ConversionRefused
from node.extensions.spectroscopy.siemens import place_in_field
from node.extensions.spectroscopy.signals import (
    POSITION_TOLERANCE_MM,
    Complex,
    Signals,
    Slab,
    VoxelPlace,
    affine_of,
    axes_of,
    box_of_slabs,
    checked_nucleus,
    complex_points,
    positive,
    require_time_domain,
    size_along,
    step_of,
)
from node.volume.model import Float
from node.volume.reasons import Reason
from node.volume.vendors.philips import FRAME as PHILIPS_FRAME
from node.volume.vendors.siemens import XA_FRAME, XA_SERIES, protocol, protocol_integer

_DD001, _DD004, _DD006 = (f"Philips MR Imaging DD 00{number}" for number in (1, 4, 6))
_PHILIPS_ROW_KIND = PrivateTag(0x2005, _DD004, 0x04, "SS")
"""Of a frame: 0 is a spectrum, 1 a reference without water suppression."""
_PHILIPS_EDITED = PrivateTag(0x2005, _DD006, 0x97, "CS")
_PHILIPS_CONDITION = PrivateTag(0x2005, _DD006, 0x98, "SS")
"""Of a frame of an edited acquisition: 1 is ON, 0 is OFF."""
_PHILIPS_VOLUME = PrivateTag(0x2005, _DD001, 0x85, "SQ")
"""The box that is excited: sizes along, offsets and angles about front-back, feet-head and right-left."""
_PHILIPS_SIZES = tuple(PrivateTag(0x2005, _DD001, offset, "FL") for offset in (0x59, 0x57, 0x58))
_PHILIPS_ANGLES = tuple(PrivateTag(0x2005, _DD001, offset, "FL") for offset in (0x54, 0x55, 0x56))
_PHILIPS_STACK_ANGLES = tuple(PrivateTag(0x2005, _DD001, offset, "FL") for offset in (0x71, 0x72, 0x73))
_XA_COIL = PrivateTag(0x0021, "SIEMENS MR SDI 02", 0x4F, "LO")

ANGLE_TOLERANCE_DEGREES = 0.1

REFERENCE_RATIO = 10.0
"""Least ratio of the signal of water without suppression to that of metabolites, which is thousands."""

SUPPRESSED = frozenset(("WATER", "FAT_AND_WATER"))


class _Groups:
    """The functional groups of the frames of an instance."""

    def __init__(self, ds: Dataset, frames: int) -> None:
        self.shared = next(iter(items(ds, "SharedFunctionalGroupsSequence")), Dataset())
        own = items(ds, "PerFrameFunctionalGroupsSequence")
        if own and len(own) != frames:
            detail = f"Number of Frames (0028,0008) is {frames}, but {len(own)} have functional groups"
            raise ConversionRefused(Reason.CONTRADICTORY, detail)
        self.own: Sequence[Dataset] = own or [Dataset()] * frames

    def item(self, frame: int, sequence: str) -> Dataset:
        """Return the item of a macro for a frame, from 0; an empty one if there is none."""
        for group in (self.own[frame], self.shared):
            for macro in items(group, sequence)[:1]:
                return macro
        return Dataset()

    def numbers(self, frame: int, sequence: str, keyword: str, count: int) -> tuple[float, ...] | None:
        return numbers(self.item(frame, sequence), keyword, count)


def read_enhanced(ds: Dataset) -> list[Signals]:
    """Return the signals of an instance: its spectra, and the references without water suppression apart.

    Raises ConversionRefused.
    """
    data = value(ds, "SpectroscopyData")
    if not isinstance(data, bytes) or not data:
        raise ConversionRefused(Reason.INCOMPLETE, "the instance has no Spectroscopy Data (5600,0020)")
    rows, columns = whole(ds, "Rows") or 0, whole(ds, "Columns") or 0
    frames, points = whole(ds, "NumberOfFrames") or 0, whole(ds, "DataPointColumns") or 0
    require_time_domain(text(ds, "DataRepresentation"), text(ds, "SignalDomainColumns"))
    if (whole(ds, "DataPointRows") or 1) > 1:
        detail = "Data Point Rows (0028,9001) says that the spectra have two dimensions, which are not converted"
        raise ConversionRefused(Reason.UNPROVEN_LAYOUT, detail)
    counts = {"Rows": rows, "Columns": columns, "Number of Frames": frames, "Data Point Columns": points}
    big_endian = ds.original_encoding[1] is False
    stream = complex_points(data, counts, "Spectroscopy Data (5600,0020)", big_endian=big_endian)
    frequency_mhz = positive(number(ds, "TransmitterFrequency"), "Transmitter Frequency (0018,9098)")
    width_hz = positive(number(ds, "SpectralWidth"), "Spectral Width (0018,9052)")
    nucleus = checked_nucleus(text(ds, "ResonantNucleus"), frequency_mhz, number(ds, "MagneticFieldStrength"))
    groups = _Groups(ds, frames)
    grid = np.conj(stream).reshape(frames, rows, columns, points)
    roles, conditions = _roles(ds, groups, grid)
    signals = []
    for role in dict.fromkeys(roles):
        chosen = [frame for frame in range(frames) if roles[frame] == role]
        voxels, ordered, place = _arranged(ds, groups, grid, chosen)
        signals.append(
            Signals(
                sop_instance_uid=text(ds, "SOPInstanceUID"),
                number=whole(ds, "InstanceNumber"),
                voxels=voxels,
                frames=tuple(frame + 1 for frame in ordered),
                dwell_s=1 / width_hz,
                frequency_mhz=frequency_mhz,
                nucleus=nucleus,
                place=place,
                facts=_facts(ds, groups, chosen[0], width_hz, role),
                coil=_coil(groups, chosen[0]),
                role=role,
                conditions=tuple(conditions[frame] for frame in ordered) if conditions and not role else (),
                averages=number(groups.item(chosen[0], "MRAveragesSequence"), "NumberOfAverages"),
                planned_averages=protocol_integer(_protocol(groups), "lAverages"),
            )
        )
    return signals


def _protocol(groups: _Groups) -> Any:
    return next((protocol(item) for item in private_items(groups.shared, XA_SERIES)), {})


def _coil(groups: _Groups, frame: int) -> str:
    element = next((private_text(item, _XA_COIL) for item in private_items(groups.own[frame], XA_FRAME)), "")
    return element or text(groups.item(frame, "MRReceiveCoilSequence"), "ReceiveCoilName")


def _roles(ds: Dataset, groups: _Groups, grid: Complex) -> tuple[list[str], list[str]]:
    """Return the role of each frame, and its condition if the acquisition is edited."""
    frames = len(groups.own)
    described = private_items(ds, PHILIPS_FRAME)
    if len(described) != frames:
        described = [item for group in groups.own for item in private_items(group, PHILIPS_FRAME)[:1]]
    if frames and len(described) == frames:
        kinds = [private_numbers(item, _PHILIPS_ROW_KIND, 1) for item in described]
        if all(kind in ((0.0,), (1.0,)) for kind in kinds):
            roles = ["ref" if kind == (1.0,) else "" for kind in kinds]
            return roles, _conditions(ds, described, roles)
    if frames == 2 and grid.shape[1:3] == (1, 1) and text(ds, "WaterReferencedPhaseCorrection") == "YES":
        # Philips appends the reference, and says so only in private elements that were lost here.
        first, second = (float(np.abs(frame).max()) for frame in grid)
        if first > 0 and second > REFERENCE_RATIO * first:
            return ["", "ref"], []
    return [""] * frames, []


def _conditions(ds: Dataset, described: Sequence[Dataset], roles: Sequence[str]) -> list[str]:
    """Return ON or OFF for each frame of an edited acquisition of Philips; empty if it is none."""
    if private_text(ds, _PHILIPS_EDITED) != "Y":
        return []
    names = {"1": "ON", "0": "OFF"}
    found = []
    for item, role in zip(described, roles, strict=True):
        stated = private_numbers(item, _PHILIPS_CONDITION, 1)
        condition = private_text(item, _PHILIPS_CONDITION) or (f"{stated[0]:g}" if stated else "")
        if condition not in names and not role:
            detail = "the acquisition is edited (2005,xx97), but a frame has no condition (2005,xx98)"
            raise ConversionRefused(Reason.UNPROVEN_LAYOUT, detail)
        found.append(names.get(condition, ""))
    return found


def _arranged(
    ds: Dataset, groups: _Groups, grid: Complex, chosen: Sequence[int]
) -> tuple[Complex, list[int], VoxelPlace]:
    """Return the voxels of some frames as `Signals` has them, the frames in their order, and the place."""
    axes = axes_of(groups.numbers(chosen[0], "PlaneOrientationSequence", "ImageOrientationPatient", 6))
    positions = [groups.numbers(frame, "PlanePositionSequence", "ImagePositionPatient", 3) for frame in chosen]
    if grid.shape[1:3] == (1, 1):
        transients = _in_time(groups, chosen, positions)
        return _transients(grid, transients), transients, _box(ds, groups, chosen[0], axes, positions[0])
    if len(chosen) == 1:
        return _transients(grid, chosen), list(chosen), _plane(ds, groups, chosen[0], axes, positions[0])
    if axes is None or any(position is None for position in positions):
        detail = "several frames of spectroscopic imaging, but not each has a position and an orientation"
        raise ConversionRefused(Reason.UNPROVEN_LAYOUT, detail)
    stated = [position for position in positions if position is not None]
    even = step_of(stated, axes)
    if even is None:
        detail = "the frames of spectroscopic imaging are not planes at even distances, each at its own position"
        raise ConversionRefused(Reason.UNPROVEN_LAYOUT, detail)
    step_mm, order = even
    ordered = [chosen[index] for index in order]
    plane = _plane(ds, groups, ordered[0], axes, stated[order[0]])
    if plane.affine_lps is None or plane.spacing_mm is None:
        return _slices(grid, ordered), ordered, plane
    spacing_mm = (*plane.spacing_mm[:2], step_mm)
    first = plane.affine_lps[:3, 3]
    return _slices(grid, ordered), ordered, VoxelPlace(affine_of(axes, spacing_mm, first), spacing_mm)


def _transients(grid: Complex, frames: Sequence[int]) -> Complex:
    """Return (columns, rows, 1, points, frames)."""
    return grid[list(frames)].transpose(2, 1, 3, 0)[:, :, np.newaxis]


def _slices(grid: Complex, frames: Sequence[int]) -> Complex:
    """Return (columns, rows, frames, points, 1)."""
    return grid[list(frames)].transpose(2, 1, 0, 3)[..., np.newaxis]


def _in_time(groups: _Groups, chosen: Sequence[int], positions: Sequence[tuple[float, ...] | None]) -> list[int]:
    """Return the frames of a single voxel in the order of their acquisition.

    Raises ConversionRefused: they are several voxels, or nothing tells their order.
    """
    known = np.array([position for position in positions if position is not None], float)
    if len(known) and np.ptp(known, axis=0).max() > POSITION_TOLERANCE_MM:
        detail = "the frames of a single voxel have different positions"
        raise ConversionRefused(Reason.UNPROVEN_LAYOUT, detail)
    if len(chosen) == 1:
        return list(chosen)
    content = [groups.item(frame, "FrameContentSequence") for frame in chosen]
    for keyword in ("TemporalPositionIndex", "FrameAcquisitionNumber", "FrameAcquisitionDateTime"):
        marks = [value(item, keyword) for item in content]
        if None not in marks and len(set(marks)) == len(marks):
            return [frame for _, frame in sorted(zip(marks, chosen, strict=True))]
    detail = "several spectra of one voxel, and nothing tells whether they are acquisitions, coils or references"
    raise ConversionRefused(Reason.UNPROVEN_LAYOUT, detail)


def _slabs(ds: Dataset) -> list[Slab]:
    slabs = []
    for item in items(ds, "VolumeLocalizationSequence"):
        normal, centre = numbers(item, "SlabOrientation", 3), numbers(item, "MidSlabPosition", 3)
        thickness_mm = number(item, "SlabThickness")
        if normal is not None and centre is not None and thickness_mm is not None:
            slabs.append(Slab(np.array(normal, float), thickness_mm, np.array(centre, float)))
    return slabs


def _box(ds: Dataset, groups: _Groups, frame: int, axes: Float | None, centre: tuple[float, ...] | None) -> VoxelPlace:
    """Return where a single voxel is by its slabs (PS3.3 C.8.14.1.1), else Philips' volume, else its plane."""
    slabs = _slabs(ds)
    box = box_of_slabs(slabs, axes)
    if box is not None:
        return box
    if axes is None or centre is None:
        return VoxelPlace(None, None, "the position or orientation of the voxel is not stated")
    volume = next(iter(private_items(ds, _PHILIPS_VOLUME)), None)
    if volume is not None:
        return _philips_box(ds, volume, axes, centre)
    return _plane(ds, groups, frame, axes, centre)


def _philips_box(ds: Dataset, volume: Dataset, axes: Float, centre: tuple[float, ...]) -> VoxelPlace:
    """Return the volume that Philips states along the axes of the patient, turned as the image plane is.

    Pixel Spacing is that of the stack on which the volume was planned: it is 25 mm for a voxel of 15 mm.
    """
    sizes = [private_numbers(volume, tag, 1) for tag in _PHILIPS_SIZES]
    angles = [private_numbers(volume, tag, 1) for tag in _PHILIPS_ANGLES]
    planned = next(iter(private_items(ds, PrivateTag(0x2001, "Philips Imaging DD 001", 0x5F, "SQ"))), None)
    stack_angles = [private_numbers(planned, tag, 1) for tag in _PHILIPS_STACK_ANGLES] if planned is not None else []
    if any(size is None or size[0] <= 0 for size in sizes):
        return VoxelPlace(None, None, "Philips' volume (2005,xx85) states no size")
    spacing = size_along(axes, *(size[0] for size in sizes if size is not None))
    if spacing is None or not _is_oriented_alike(angles, stack_angles):
        return VoxelPlace(None, None, "Philips' volume (2005,xx85) is turned otherwise than the image plane")
    spacing_mm = (spacing[0], spacing[1], spacing[2])
    return VoxelPlace(affine_of(axes, spacing_mm, centre), spacing_mm)


def _is_oriented_alike(first: Sequence[Any], second: Sequence[Any]) -> bool:
    if len(first) != len(second) or None in first or None in second:
        return False
    return all(abs(one[0] - other[0]) <= ANGLE_TOLERANCE_DEGREES for one, other in zip(first, second, strict=True))


def _plane(
    ds: Dataset, groups: _Groups, frame: int, axes: Float | None, position: tuple[float, ...] | None
) -> VoxelPlace:
    """Return where the voxels of one frame are by its macros (PS3.3 C.7.6.16.2)."""
    rows, columns = whole(ds, "Rows") or 0, whole(ds, "Columns") or 0
    measures = groups.item(frame, "PixelMeasuresSequence")
    pixel, thickness_mm = numbers(measures, "PixelSpacing", 2), number(measures, "SliceThickness")
    if pixel is None or min(pixel) <= 0 or not thickness_mm or thickness_mm <= 0:
        return VoxelPlace(
            None, None, "Pixel Spacing (0028,0030) or Slice Thickness (0018,0050) of the voxels is not stated"
        )
    spacing_mm = (pixel[1], pixel[0], thickness_mm)
    if axes is None or position is None:
        return VoxelPlace(None, spacing_mm, "the position or orientation of the voxels is not stated")
    if "SIEMENS" in text(ds, "Manufacturer").upper() and (columns, rows) != (1, 1):
        return place_in_field(axes, spacing_mm, position, (columns, rows), _protocol(groups))
    return VoxelPlace(affine_of(axes, spacing_mm, position), spacing_mm)


def _facts(ds: Dataset, groups: _Groups, frame: int, width_hz: float, role: str) -> dict[str, Any]:
    """Return what NIfTI-MRS has names for, times in seconds."""
    timing = groups.item(frame, "MRTimingAndRelatedParametersSequence")
    echo = groups.item(frame, "MREchoSequence")
    facts: dict[str, Any] = {"SpectralWidth": width_hz}
    stated = {"EchoTime": number(echo, "EffectiveEchoTime"), "RepetitionTime": number(timing, "RepetitionTime")}
    facts |= {name: time_ms / 1000 for name, time_ms in stated.items() if time_ms is not None}
    coil = text(groups.item(frame, "MRTransmitCoilSequence"), "TransmitCoilName")
    if coil:
        facts["TxCoil"] = coil
    flip_angle = number(timing, "FlipAngle")
    if flip_angle is not None:
        facts["ExcitationFlipAngle"] = flip_angle
    if role == "ref":
        facts["WaterSuppressed"] = False
    elif text(ds, "SpectrallySelectedSuppression") in SUPPRESSED:
        facts["WaterSuppressed"] = True
    return facts
