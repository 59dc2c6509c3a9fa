"""What a child makes of written volumes for pages: a copy that a browser loads in a second, and a picture of masks.

The copy has some voxels of the first time. The picture shows masks over the slice of an image on which they have most.
"""

import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import SimpleITK as sitk
from isal import igzip, isal_zlib
from nibabel import nifti1, nifti2
from PIL import Image

from node.volume.derived import viewed
from node.volume.model import Array, Float, Geometry, Volume
from node.volume.planes import PlaneName
from node.volume.rendering import nearest_axes
from node.writers.base import COMPRESSION_LEVEL
from node.writers.bodymask import BODY_HU, body_mask, masked
from node.writers.itk import NOWHERE
from node.writers.nifti import LPS_TO_RAS, MAX_NIFTI1_DIMENSION, RGB
from node.writers.reading import read_voxels

PIECE_BYTES = 1 << 20

PAIR_MAGIC = {nifti1.Nifti1Header.sizeof_hdr: b"ni1", nifti2.Nifti2Header.sizeof_hdr: b"ni2"}
"""What the header of a NIfTI pair says of itself, by its size; that of Analyze has something else there."""


def reduced(
    path: Path, voxel_file: Path, max_voxels: int, *, only_body: bool = False, sidecar: Path | None = None
) -> bytes:
    """Return a ``.nii.gz`` with every n-th voxel of the first time of a volume, whatever its format.

    Voxels are picked, never averaged: values of label volumes and of phases have no mean. The steps along the axes
    make the voxels as nearly cubic as they can be.

    `path`: ``.nii``, ``.nii.gz``, ``.nrrd``, ``.npz``, or the header of a pair: ``.hdr`` (of NIfTI or Analyze),
        ``.mhd``; written by this package.
    `voxel_file`: the other file of a pair, else `path`.
    `max_voxels`: largest number of voxels of the copy.
    `only_body`: of a CT in HU: replace everything outside of the body, such as the table, with air.
    `sidecar`: the sidecar of the volume, which has the position that Analyze lacks; other formats need none.
    """
    with ExitStack() as files:
        head, stream = _opened(path, voxel_file, sidecar, files)
        columns, rows, slices = (*head.get_data_shape(), 1, 1)[:3]
        steps = steps_of((columns, rows, slices), head.get_zooms()[:3], max_voxels)
        pixel: np.dtype[Any] = head.get_data_dtype()
        planes = []
        for index in range(slices):
            if index % steps[2]:
                _skip(stream, columns * rows * pixel.itemsize)
                continue
            plane = np.frombuffer(stream.read(columns * rows * pixel.itemsize), pixel).reshape(rows, columns)
            planes.append(plane[:: steps[1], :: steps[0]])
    voxels = np.stack(planes)
    copy = _coarser(head, voxels, steps)
    if only_body:
        voxels = _body(voxels, copy)
    return bytes(igzip.compress(copy.binaryblock + bytes(4) + voxels.tobytes(), COMPRESSION_LEVEL))


def steps_of(shape: tuple[int, ...], spacing_mm: tuple[float, ...], max_voxels: int) -> list[int]:
    """Return by how many voxels to step along each axis, so that at most `max_voxels` are picked."""
    steps = [1] * len(shape)
    while math.prod(-(-size // step) for size, step in zip(shape, steps, strict=True)) > max_voxels:
        longer = [axis for axis, size in enumerate(shape) if steps[axis] < size]
        finest = min(longer, key=lambda axis: (steps[axis] + 1) * spacing_mm[axis])
        steps[finest] += 1
    return steps


class _Inflated:
    """The content of a zlib stream in a file, to be read from beginning to end."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._unpacker = isal_zlib.decompressobj()

    def close(self) -> None:
        self._file.close()

    def read(self, count: int) -> bytes:
        """Return `count` bytes, or fewer at the end.

        Raises EOFError if the file ends before the stream does.
        """
        pieces = []
        while count > 0 and not self._unpacker.eof:
            packed = self._unpacker.unconsumed_tail or self._file.read(PIECE_BYTES)
            piece = self._unpacker.decompress(packed, count)  # it may hold back some of what it has read
            if not packed and not piece:
                raise EOFError("the voxels are cut off")
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)


def _opened(path: Path, voxel_file: Path, sidecar: Path | None, files: ExitStack) -> tuple[Any, IO[bytes] | _Inflated]:
    """Return the NIfTI header of a volume, and its voxels from the first one on; `files` closes what is open.

    nibabel and SimpleITK read the headers only: both would read a compressed volume whole.
    """
    if path.suffix == ".nrrd":
        return _header_of_itk(path), _voxels_of_nrrd(path, files)
    if path.suffix == ".npz":
        return _opened_npz(path, files)
    if path.suffix == ".mhd":
        voxels = _Inflated(voxel_file) if voxel_file.suffix == ".zraw" else voxel_file.open("rb")
        files.callback(voxels.close)
        return _header_of_itk(path), voxels
    stream: IO[bytes] = files.enter_context(igzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb"))
    is_short = int.from_bytes(stream.read(4), "little") == nifti1.Nifti1Header.sizeof_hdr
    stream.seek(0)
    header: Any = nifti1.Nifti1Header if is_short else nifti2.Nifti2Header
    head = header.from_fileobj(stream, endianness="<", check=False)
    if voxel_file == path:
        stream.seek(int(head["vox_offset"]))
        return head, stream
    if head["magic"] != PAIR_MAGIC[head.sizeof_hdr]:
        head = _header_of_analyze(head, json.loads(sidecar.read_bytes()) if sidecar else {})
    return head, files.enter_context(voxel_file.open("rb"))


def _header_for(
    size: Sequence[int],
    spacing_mm: Sequence[float],
    dtype: Any,
    affine_lps: Float | None,
    scaling: tuple[float, float] = (1.0, 0.0),
) -> Any:
    """Return the NIfTI header for a grid of (columns, rows, slices, times); one without an affine has no place."""
    header: Any = nifti2.Nifti2Header if max(size) > MAX_NIFTI1_DIMENSION else nifti1.Nifti1Header
    head = header(endianness="<")
    head.set_data_dtype(dtype)
    head.set_data_shape(size)
    head.set_zooms([*spacing_mm[:3], *(1.0 for _ in size[3:])])
    head.set_slope_inter(*scaling)
    if affine_lps is not None:
        head.set_sform(LPS_TO_RAS @ affine_lps, code="scanner")
    return head


def _header_of_itk(path: Path) -> Any:
    """Return the header for a MetaImage or NRRD; a plane of two axes has no place in the patient."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    axes, components = reader.GetDimension(), reader.GetNumberOfComponents()
    stated = {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}
    is_colour = components > 1 and stated.get("NRRD_kinds[pixel]") != "list"  # a list is of times
    pixel = sitk.Image([1, 1], reader.GetPixelID(), components if components > 1 else 0)
    spacing = (*reader.GetSpacing(), 1.0)[:3]
    affine = None
    if axes > 2 and stated.get("NRRD_space") != NOWHERE:
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(reader.GetDirection(), (axes, axes))[:3, :3] * spacing
        affine[:3, 3] = reader.GetOrigin()[:3]
    dtype = RGB if is_colour else sitk.GetArrayViewFromImage(pixel).dtype
    return _header_for((*reader.GetSize(), 1)[:3], spacing, dtype, affine)


def _voxels_of_nrrd(path: Path, files: ExitStack) -> IO[bytes]:
    stream = files.enter_context(path.open("rb"))
    fields = list(iter(lambda: stream.readline().strip(), b""))
    return files.enter_context(igzip.open(stream, "rb")) if b"encoding: gzip" in fields else stream


def _opened_npz(path: Path, files: ExitStack) -> tuple[Any, IO[bytes]]:
    with np.load(path, allow_pickle=False) as arrays:
        affine, spacing = arrays["affine"], arrays["spacing"]
        scaling = float(arrays["slope"]), float(arrays["intercept"])
    stream = files.enter_context(files.enter_context(zipfile.ZipFile(path)).open("data.npy"))
    np.lib.format.read_magic(stream)
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    is_colour = dtype == np.uint8 and len(shape) > 3 and shape[-1] == 3
    size = shape[: len(shape) - is_colour][::-1]
    affine_lps = None if np.isnan(affine).any() else LPS_TO_RAS @ affine
    return _header_for(size, spacing.tolist(), RGB if is_colour else dtype, affine_lps, scaling), stream


def _header_of_analyze(head: Any, fields: Mapping[str, Any]) -> Any:
    """Return the header with the position that Analyze cannot hold; `affine_lps` in the fields of the sidecar has it.

    The voxels of `head` were turned: right to left, posterior to anterior, inferior to superior.
    """
    size = head.get_data_shape()
    spacing = list(head.get_zooms()[:3])
    if fields.get("affine_lps") is None:
        return _header_for(size, spacing, head.get_data_dtype(), None)
    affine = np.array(fields["affine_lps"], float)
    patient_axis = nearest_axes(affine[:3, :3])
    upright = np.eye(4)
    upright[:3, 3] = affine[:3, 3]
    for axis, count in enumerate(size[:3]):
        column = affine[:3, patient_axis.index(axis)]
        # To the left, to anterior and to superior: in LPS+, y has the other sign.
        sign = math.copysign(1, column[axis]) * (-1 if axis == 1 else 1)
        upright[:3, axis] = sign * column
        if sign < 0:
            upright[:3, 3] += (count - 1) * column
    return _header_for(size, spacing, head.get_data_dtype(), upright)


def _skip(stream: IO[bytes] | _Inflated, count: int) -> None:
    if not isinstance(stream, _Inflated):
        stream.seek(count, 1)
        return
    while count > 0:
        count -= len(stream.read(min(count, PIECE_BYTES))) or count


def _coarser(head: Any, voxels: Array, steps: list[int]) -> Any:
    """Return the header of the copy: each voxel stays where it was."""
    copy = type(head)(endianness="<")
    copy.set_data_dtype(head.get_data_dtype())
    copy.set_data_shape(voxels.shape[::-1])
    copy.set_zooms([zoom * step for zoom, step in zip(head.get_zooms()[:3], steps, strict=True)])
    copy.set_xyzt_units("mm", "sec")
    for name in ("scl_slope", "scl_inter", "cal_min", "cal_max"):
        copy[name] = head[name]
    copy["vox_offset"] = copy.sizeof_hdr + 4
    if head["sform_code"]:
        copy.set_sform(head.get_sform() @ np.diag([*steps, 1]), code=int(head["sform_code"]))
    return copy


def _body(voxels: Array, head: Any) -> Array:
    """Return a CT with air outside of the body."""
    slope, intercept = head.get_slope_inter()
    columns, rows, slices = (float(zoom) for zoom in head.get_zooms()[:3])
    volume = Volume(
        voxels=voxels[None],
        affine_lps=None,
        spacing_mm=(columns, rows, slices),
        geometry=Geometry.REGULAR,
        stack=0,
        suffix="",
        modality="CT",
        sources=(),
        slope=slope if slope is not None else 1.0,
        intercept=intercept if intercept is not None else 0.0,
    )
    only_body: Array = masked(volume, body_mask(volume, BODY_HU)).voxels[0]
    return only_body


COLOURS = ((230, 75, 60), (70, 190, 120), (80, 150, 240), (240, 190, 60), (190, 110, 220), (70, 200, 210))
"""Red, green and blue of the first masks, or labels of one mask; further ones begin again."""

OPACITY = 0.5

SOFT_TISSUE_HU = (-160.0, 240.0)
"""Window of CT: lower and upper end."""

SHARE_INSIDE = 0.25
"""Least share of the slice of a mask that the image must cover."""

PLANES: tuple[tuple[PlaneName, int, int], ...] = (("sagittal", 2, 1), ("coronal", 2, 0), ("axial", 1, 0))
"""Plane of slices that are stacked along x, y or z, and the patient axes of its rows and columns."""


def overlaid(masks: Sequence[Path], image: Path, *, is_ct: bool, pixels: int) -> bytes:
    """Return a PNG of masks over an image.

    `masks`: volumes of labels, as `node.writers.reading.read_voxels` reads them; 0 is outside. Those on another grid
        than the first one are left out.
    `image`: a volume in the same frame of reference; of several times, the first one is shown.
    `is_ct`: show the window of soft tissue rather than the range of the slice.
    `pixels`: longer side of the picture.

    Raises ValueError: a file cannot be read, the image has colours, or it is elsewhere.
    """
    first, affine = read_voxels(masks[0])
    labels = [_one_time(first)]
    for path in masks[1:]:
        others, where = read_voxels(path)
        if others.shape == first.shape and np.allclose(where, affine, atol=1e-3):
            labels.append(_one_time(others))
    index = int(np.argmax(sum(np.count_nonzero(one, axis=(0, 1)) for one in labels)))
    grey = _sampled(image, affine, (*labels[0].shape[:2], index), SOFT_TISSUE_HU if is_ct else None)
    shown = np.repeat(grey[..., None], 3, axis=-1)
    for number, one in enumerate(labels):
        for label in np.unique(one[..., index]):
            if label:
                inside = one[..., index] == label
                colour = COLOURS[(number + int(label) - 1) % len(COLOURS)]
                shown[inside] = (1 - OPACITY) * shown[inside] + OPACITY * np.array(colour)
    return _png(shown.astype(np.uint8), affine, pixels)


def _one_time(voxels: Array) -> Array:
    return voxels[..., 0] if voxels.ndim == 4 else voxels


def _sampled(path: Path, affine: Float, place: tuple[int, int, int], window: tuple[float, float] | None) -> Array:
    """Return (i, j) grey levels, 0 to 255, of an image at the voxels of a slice: the nearest value of each."""
    voxels, own = read_voxels(path)
    voxels = _one_time(voxels)
    if voxels.dtype.names is not None:
        raise ValueError("the image has colours")
    columns, rows, index = place
    i, j = np.indices((columns, rows))
    at = np.stack([i, j, np.full_like(i, index), np.ones_like(i)], axis=-1) @ (np.linalg.inv(own) @ affine).T
    nearest = np.rint(at[..., :3]).astype(int)
    inside = np.all((nearest >= 0) & (nearest < voxels.shape), axis=-1)
    if inside.mean() < SHARE_INSIDE:
        raise ValueError("the image is elsewhere")
    values = voxels[tuple(np.moveaxis(np.where(inside[..., None], nearest, 0), -1, 0))].astype(float)
    low, high = window or np.nanpercentile(values[inside], (1, 99)).tolist()
    levels: Array = np.clip((values - low) / max(high - low, 1e-9), 0, 1) * 255
    return np.where(inside, np.nan_to_num(levels), 0)


def _png(shown: Array, affine: Float, pixels: int) -> bytes:
    """Return (i, j, 3) colours as radiologists view their plane, with square pixels."""
    axes = nearest_axes(affine[:3, :3])
    plane, of_rows, of_columns = PLANES[axes[2]]
    oriented = np.stack([viewed(shown[:, :, None, colour], affine, plane)[0] for colour in range(3)], axis=-1)
    spacing = [float(np.linalg.norm(affine[:3, axes.index(axis)])) for axis in (of_rows, of_columns)]
    height, width = (size * step for size, step in zip(oriented.shape[:2], spacing, strict=True))
    scale = pixels / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    content = BytesIO()
    Image.fromarray(np.ascontiguousarray(oriented)).resize(size, Image.Resampling.LANCZOS).save(content, "PNG")
    return content.getvalue()
