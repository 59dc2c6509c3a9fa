"""A mask becomes a DICOM segmentation (PS3.3 A.51), and is read back before it counts."""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from highdicom import (
    AlgorithmIdentificationSequence,
    PixelMeasuresSequence,
    PlaneOrientationSequence,
    PlanePositionSequence,
)
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentDescription
from nibabel import nifti1, nifti2
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from pydicom import Dataset, dcmread
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat

from node.errors import ConversionRefused, ResultRefused
from node.extensions.results.makers import ResultMaking, SourceStack, described, finished, local_time, sample_of
from node.extensions.results.manifest import Coded, Label
from node.files.reading import read_instance
from node.volume import segmentation
from node.volume.derived import upright_grid
from node.volume.geometry import (
    ORIENTATION_TOLERANCE,
    Placement,
    place_planes,
    position_numbers,
    position_tolerance,
    stack_axes,
)
from node.volume.model import Array, Float, Frame, Geometry
from node.volume.read.frames import frames_of
from node.writers.nifti import LPS_TO_RAS
from node.writers.reading import opened_nifti

TISSUE = Coded(value="85756007", scheme="SCT", meaning="Tissue")
"""Category and type of a segment that has none: CID 7150 and CID 7166 begin with it."""

_CLEARED = {
    "PatientID": "", "PatientName": "", "PatientBirthDate": "", "PatientSex": "", "AccessionNumber": "", "StudyID": "",
    "StudyDate": None, "StudyTime": None,
}  # fmt: skip
"""highdicom checks these of the source, and refuses what the archive took; `finished` copies them as they are."""


def make_segmentation(making: ResultMaking) -> dict[str, Any]:
    """Write the segmentation of a mask; return its identifiers, and the number of the segment of each label.

    Raises ResultRefused if the mask is on the grid of no volume of the source, has labels without a name, or does not
    read back.
    """
    if not making.source.stacks:
        raise ResultRefused("the series has no volume that the mask could be of")
    grids = _grids(making.source.stacks)
    try:
        like = [one.shape for lattice, _ in grids for one, _ in ((lattice, ""), *_mistaken(lattice))]
        voxels, affine = read_mask(making.file, max(map(prod, like)))
    except NotAMask as error:
        raise ResultRefused(str(error)) from error
    mask, lattice, headers = _placed(voxels, affine, grids)
    labels = _labels(mask, making.entry.labels, making.entry.name)
    numbers = _numbers(labels, making.entry.encoding)
    lookup = np.zeros(max(labels) + 1, np.uint16)
    lookup[list(numbers)] = list(numbers.values())
    numbered = lookup[mask].astype(np.uint8 if max(numbers.values()) < 256 else np.uint16)
    sample = sample_of(making)
    now = local_time(making, sample)
    ds = _dataset(making, numbered, lattice, headers, {numbers[label]: labels[label] for label in labels}, now)
    found = finished(ds, making, sample)
    _read_back(making, numbered, lattice)
    return {**found, "segments": {str(label): number for label, number in numbers.items()}}


@dataclass(frozen=True, slots=True, eq=False)
class Lattice:
    """The grid of a stack.

    `placement`: of its planes.
    `affine_lps`, (4, 4) float64, mm: from voxel index (column, row, slice) to LPS+.
    `shape`, (int, int, int): columns, rows, slices.
    `frames`: one for each slice, in ascending order along the normal: of several times, the first that is stored.
    """

    placement: Placement
    affine_lps: Float
    shape: tuple[int, int, int]
    geometry: Geometry
    frames: tuple[Frame, ...]


def _grids(stacks: Sequence[SourceStack]) -> list[tuple[Lattice, dict[str, Dataset]]]:
    """Return the grids of the volumes that have one; if none has, raise why the first has none."""
    grids, refusal = [], None
    for stack in stacks:
        try:
            grids.append(_grid(stack))
        except (ResultRefused, ConversionRefused) as error:
            refusal = refusal or ResultRefused(str(error))
    if refusal is not None and not grids:
        raise refusal
    return grids


def _grid(stack: SourceStack) -> tuple[Lattice, dict[str, Dataset]]:
    """Return the grid of a volume, and the headers of its instances by SOP Instance UID."""
    frames: list[Frame] = []
    headers: dict[str, Dataset] = {}
    for uid, path in stack.files:
        frames += frames_of(read_instance(path))
        headers[uid] = dcmread(path, stop_before_pixels=True)
    return lattice_of(frames), headers


def _placed(
    voxels: Array, affine: Float, grids: Sequence[tuple[Lattice, dict[str, Dataset]]]
) -> tuple[Array, Lattice, dict[str, Dataset]]:
    """Return the mask on the first grid that is its own; if there is none, raise why the first is not."""
    refusal = None
    for lattice, headers in grids:
        try:
            return on_lattice(voxels, affine, lattice), lattice, headers
        except ResultRefused as error:
            refusal = refusal or error
    for other, remedy in (one for lattice, _ in grids for one in _mistaken(lattice)):
        with suppress(ResultRefused):
            on_lattice(voxels, affine, other)
            refusal = ResultRefused(remedy)
    raise refusal or ResultRefused("the series has no volume that the mask could be of")


def _mistaken(lattice: Lattice) -> Iterator[tuple[Lattice, str]]:
    """Yield grids on which a model may put its mask instead of that of the volume, and what to do then."""
    if lattice.geometry in (Geometry.IRREGULAR, Geometry.SHEARED):
        affine, shape, _ = upright_grid(lattice.placement, *lattice.shape[:2])
        yield replace(lattice, affine_lps=affine, shape=shape), _RESAMPLED
    if lattice.geometry is Geometry.SHEARED:
        lengths = np.linalg.norm(lattice.affine_lps[:3, :3], axis=0)
        left, _, right = np.linalg.svd(lattice.affine_lps[:3, :3] / lengths)
        affine = lattice.affine_lps.copy()
        affine[:3, :3] = left @ right * lengths
        yield replace(lattice, affine_lps=affine), _UPRIGHT


def _labels(mask: Array, named: Mapping[int, Label], name: str) -> dict[int, Label]:
    """Return every label in ascending order. Without names, a single label has that of the file."""
    present = [int(value) for value in np.unique(mask) if value]
    if named:
        nameless = [value for value in present if value not in named]
        if nameless:
            raise ResultRefused(f"the mask has the value {nameless[0]}, for which `labels` has no name")
        return dict(sorted(named.items()))
    values = present or [1]
    return {value: Label(name=name if len(values) == 1 else f"{name} {value}") for value in values}


def _numbers(labels: dict[int, Label], encoding: str) -> dict[int, int]:
    """Return the segment number of each label: its value in a label map, else from 1 without gaps (PS3.3 C.8.20.4)."""
    if encoding == "labelmap":
        return {value: value for value in labels}
    return {value: number for number, value in enumerate(labels, 1)}


def _dataset(
    making: ResultMaking,
    mask: Array,
    lattice: Lattice,
    headers: dict[str, Dataset],
    labels: dict[int, Label],
    now: dt.datetime,
) -> Dataset:
    sources, placement = _sources(lattice, headers)
    if not all(source.get("FrameOfReferenceUID") for source in sources):
        raise ResultRefused(
            "the images of the volume have no Frame of Reference UID (0020,0052), which a segmentation must have: "
            "leave no mask for them, and other results of the job are stored"
        )
    for keyword, value in _CLEARED.items():
        setattr(sources[0], keyword, value)
    entry = making.entry
    algorithm = AlgorithmIdentificationSequence(entry.algorithm, _code(entry.algorithm_family), entry.algorithm_version)
    return Segmentation(
        source_images=sources,
        pixel_array=mask,
        segmentation_type="LABELMAP" if entry.encoding == "labelmap" else "BINARY",
        segment_descriptions=[
            SegmentDescription(
                number,
                label.name,
                _code(label.category),
                _code(label.type),
                SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm,
            )
            for number, label in labels.items()
        ],
        content_label="SEGMENTATION",
        omit_empty_frames=bool(mask.any()),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **described(making, now),
        **placement,
    )


def _sources(lattice: Lattice, headers: dict[str, Dataset]) -> tuple[list[Dataset], dict[str, Any]]:
    """Return the images that highdicom refers to, and the planes where they are not one for each slice."""
    uids = [frame.sop_instance_uid for frame in lattice.frames]
    first = headers[uids[0]]
    if len(set(uids)) == len(uids) and "PerFrameFunctionalGroupsSequence" not in first:
        _state_measured_spacing(first, lattice)
        return [headers[uid] for uid in uids], {}
    others = [headers[uid] for uid in dict.fromkeys(uids) if uid != uids[0]]
    return [first], {"further_source_images": others or None, **_planes(lattice)}


def _state_measured_spacing(first: Dataset, lattice: Lattice) -> None:
    """Correct the Spacing Between Slices that highdicom copies of the first image, even if it is given the planes."""
    if lattice.geometry in (Geometry.REGULAR, Geometry.SHEARED):
        first.SpacingBetweenSlices = DSfloat(_between_slices(lattice.affine_lps), auto_format=True)
    elif "SpacingBetweenSlices" in first:
        del first.SpacingBetweenSlices


def _between_slices(affine_lps: Float) -> float:
    """Return the distance between slices along their normal in mm, as Spacing Between Slices has it (PS3.3 C.7.6.2)."""
    normal = np.cross(affine_lps[:3, 0], affine_lps[:3, 1])
    return abs(float(affine_lps[:3, 2] @ normal / np.linalg.norm(normal)))


def _planes(lattice: Lattice) -> dict[str, Any]:
    """Return position, orientation and size of the slices, for images that have several."""
    affine, first = lattice.affine_lps, lattice.frames[0]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    orientation = [*(affine[:3, 0] / spacing[0]), *(affine[:3, 1] / spacing[1])]
    return {
        "plane_positions": [
            PlanePositionSequence("PATIENT", [float(value) for value in frame.position])
            for frame in lattice.frames
            if frame.position is not None
        ],
        "plane_orientation": PlaneOrientationSequence("PATIENT", [float(value) for value in orientation]),
        "pixel_measures": PixelMeasuresSequence(
            pixel_spacing=[float(spacing[1]), float(spacing[0])],
            slice_thickness=float(first.slice_thickness_mm or spacing[2]),
            spacing_between_slices=_between_slices(affine),
        ),
    }


def _code(coded: Coded | None) -> Code:
    value = coded or TISSUE
    return Code(value.value, value.scheme, value.meaning)


def _read_back(making: ResultMaking, mask: Array, lattice: Lattice) -> None:
    """Compare the file with the mask, by the reader that conversions use; raise ResultRefused if they differ.

    A plane is that of the slice at its position: where slices are missing, the file has planes between those of the
    mask, which are empty. Uneven slices have their true positions in the file, but no volume to compare.
    """
    try:
        volumes = segmentation.volumes(read_instance(making.into), 0)
    except ConversionRefused as error:
        if lattice.geometry is not Geometry.IRREGULAR:
            raise ResultRefused(f"the segmentation does not read back: {error}") from error
        return
    places = np.array([frame.position for frame in lattice.frames])
    half_step = np.linalg.norm(lattice.affine_lps[:3, 2]) / 2
    back, is_elsewhere = np.zeros_like(mask), False
    for volume in volumes:
        assert volume.affine_lps is not None
        for number, plane in enumerate(volume.voxels[0]):
            away = np.linalg.norm(places - volume.affine_lps[:3] @ (0, 0, number, 1), axis=1)
            if away.min() < half_step:
                back[away.argmin()] |= plane
            else:
                is_elsewhere |= bool(plane.any())
    if is_elsewhere or not np.array_equal(back, mask):
        raise ResultRefused("the segmentation does not read back as the mask that was given")


GRID_TOLERANCE_VOXELS = 0.05
"""Largest distance of a voxel of a mask from one of the grid, in voxels. The 32 bits of an affine in NIfTI cost a
thousandth of a voxel; a mask that was resampled to another grid is off by half of one."""


def lattice_of(frames: Sequence[Frame]) -> Lattice:
    """Return the grid of the frames of a stack.

    Raises ResultRefused if they have no position in the patient, or differ in orientation, size or pixel spacing.
    """
    if not frames:
        raise ResultRefused("no image of the volume can be read")
    first = frames[0]
    positions = [frame.position for frame in frames]
    orientations = [frame.orientation for frame in frames]
    spacing = first.pixel_spacing
    if spacing is None or any(vector is None for vector in (*positions, *orientations)):
        raise ResultRefused("the images of the volume have no position in the patient, so a mask has no place in it")
    stated = np.array(orientations, dtype=np.float64)
    sizes = {(frame.rows, frame.columns, frame.pixel_spacing) for frame in frames}
    if len(sizes) > 1 or np.abs(stated - stated[0]).max() > ORIENTATION_TOLERANCE:
        raise ResultRefused("the images of the volume differ in orientation, size or pixel spacing")
    axes = stack_axes(stated)
    placed = np.array(positions, dtype=np.float64)
    numbers = position_numbers((placed - placed[0]) @ axes.normal, position_tolerance(spacing))
    chosen = [int(np.flatnonzero(numbers == number)[0]) for number in range(int(numbers.max()) + 1)]
    placement = place_planes(placed[chosen], axes, spacing, first.slice_thickness_mm or 1.0)
    shape = (first.columns, first.rows, len(chosen))
    return Lattice(placement, placement.affine_lps, shape, placement.geometry, tuple(frames[index] for index in chosen))


def on_lattice(voxels: Array, affine_lps: Float, lattice: Lattice) -> Array:
    """Return a mask in the order of a lattice, (slices, rows, columns), without interpolation.

    A mask may have its axes in another order or direction than the volume, as tools leave them that prefer one
    orientation: it is on the grid if its voxels are those of the grid, one for one.

    `voxels` is (i, j, k); `affine_lps`, (4, 4) in mm, leads from its voxel index to LPS+. Raises ResultRefused if the
    voxels of the mask are not those of the lattice.
    """
    between = np.linalg.inv(lattice.affine_lps) @ affine_lps
    steps = between[:3, :3]
    largest = np.abs(steps).max(axis=0)
    rotation = np.rint(steps / np.where(largest > 0, largest, 1.0))
    if (np.abs(rotation).sum(axis=0) != 1).any() or (np.abs(rotation).sum(axis=1) != 1).any():
        raise ResultRefused(f"the axes of the mask are not those of the volume; {_REMEDY}")
    axis_of = [int(np.flatnonzero(rotation[axis])[0]) for axis in range(3)]  # axis of the mask for each of the lattice
    if tuple(voxels.shape[axis] for axis in axis_of) != lattice.shape:
        raise ResultRefused(
            f"the mask has {_times(voxels.shape)} voxels, the volume {_times(lattice.shape)} (columns, rows, slices); "
            f"{_REMEDY}"
        )
    flipped = [rotation[axis, axis_of[axis]] < 0 for axis in range(3)]
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(voxels.shape) - 1)
    there = corners @ steps.T + between[:3, 3]
    here = corners[:, axis_of]
    expected = np.where(flipped, np.array(lattice.shape) - 1 - here, here)
    off = np.abs(there - expected).max()
    if not off <= GRID_TOLERANCE_VOXELS:
        raise ResultRefused(
            f"the mask is up to {off:.3g} voxels away from the volume, in position, spacing or direction; {_REMEDY}"
        )
    arranged = np.transpose(voxels, axis_of)
    arranged = arranged[tuple(slice(None, None, -1) if flip else slice(None) for flip in flipped)]
    return np.ascontiguousarray(arranged.transpose(2, 1, 0))


_REMEDY = "a mask must have the grid of the volume that the message names: resample it there, by nearest neighbour"


_RESAMPLED = (
    "the mask has the grid of the resampled copy (volume_resampled): resample it to that of the volume, {path}, by "
    "nearest neighbour, as docs/results.md shows"
)
_UPRIGHT = (
    "the mask has the voxels of the volume, but axes at right angles, as ITK writes those of a tilted gantry: give it "
    "the affine of the volume, {path}"
)


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


MAX_LABEL = 65535
"""Largest value of a label: Segment Number (0062,0004) has 16 bits."""

TRANSFORM_TOLERANCE_VOXELS = 0.1
"""Largest distance at which the two positions that a NIfTI file may state are the same one."""


class NotAMask(ValueError):
    """The file is no label volume with a position; the message says why, without patient data."""


def read_mask(path: Path, max_voxels: int) -> tuple[Array, Float]:
    """Return a label volume, as stored, first axis of the file first; and the affine from (i, j, k) to LPS+ in mm.

    `max_voxels`: number of voxels above which the file is not read.

    Raises NotAMask.
    """
    try:
        image = opened_nifti(path)
        voxels = _voxels(image, max_voxels)
    except (ImageFileError, HeaderDataError, WrapStructError, EOFError, OSError, ValueError) as error:
        if isinstance(error, NotAMask):
            raise
        raise NotAMask(f"the file cannot be read as NIfTI ({type(error).__name__})") from error
    return voxels, LPS_TO_RAS @ _affine(image.header, voxels.shape)


def _voxels(image: nifti1.Nifti1Image | nifti2.Nifti2Image, max_voxels: int) -> Array:
    shape = tuple(int(size) for size in image.shape)
    if len(shape) < 3 or any(size != 1 for size in shape[3:]):
        raise NotAMask(f"the mask has {len(shape)} dimensions; a mask has three")
    if prod(shape) > max_voxels:
        raise NotAMask(f"the mask has {prod(shape)} voxels, more than the volume")
    values = np.asanyarray(image.dataobj).reshape(shape[:3])
    if values.dtype.names is not None or values.dtype.kind not in "buif":
        raise NotAMask("the voxels of the mask are colours or complex numbers, not labels")
    if not values.size or not (values.min() >= 0 and values.max() <= MAX_LABEL):
        raise NotAMask(f"a label is a number from 0 (nothing) to {MAX_LABEL}")
    labels = values.astype(np.uint8 if values.max() < 256 else np.uint16)
    if values.dtype.kind == "f" and not np.array_equal(labels, values):
        raise NotAMask("the mask has values that are not whole numbers: store labels, not probabilities")
    return labels


def _affine(header: nifti1.Nifti1Header, shape: tuple[int, ...]) -> Float:
    """Return the affine of a file in RAS+."""
    stated = [affine for affine, code in (header.get_sform(coded=True), header.get_qform(coded=True)) if code]
    if not stated:
        raise NotAMask("the mask has no position: sform_code and qform_code are 0; copy the affine of the volume")
    affine = np.asarray(stated[0], dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise NotAMask("the affine of the mask is not valid")
    if len(stated) == 2:
        corners = np.array([(*corner, 1.0) for corner in np.ndindex(2, 2, 2)])
        corners[:, :3] *= np.array(shape) - 1
        off = (np.linalg.inv(affine) @ (np.asarray(stated[1]) - affine) @ corners.T)[:3]
        if not np.abs(off).max() <= TRANSFORM_TOLERANCE_VOXELS:
            raise NotAMask("sform and qform of the mask state two different positions; write one into both")
    return affine
