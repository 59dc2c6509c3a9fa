"""NIfTI: ``.nii.gz`` and ``.nii``, and the ``.hdr``/``.img`` pair. LPS becomes RAS only here.

nibabel writes the header, and the voxels are streamed after it, because nibabel's images would copy all of them.
Voxels are written unchanged, with slope and intercept in the header. An array of (times, slices, rows, columns)
in C order is, byte for byte, NIfTI's (columns, rows, slices, times) with the first axis fastest, so nothing is
transposed. A field of the header is left at 0, which means unknown, unless the data set states it. Names and codes are
those of ``nifti1.h``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nibabel.nifti1 import Nifti1Extension, Nifti1Header, Nifti1PairHeader
from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader

from node.version import __version__
from node.volume.describe.scan_parameters import MAPS
from node.volume.model import Float, Volume, VolumeKind
from node.volume.rendering import is_sane, sample
from node.writers.base import (
    GZIP,
    SCALING_TOLERANCE,
    NewFile,
    WrittenFile,
    grid_of,
    slice_timing_of,
    stored_slabs,
    write_file,
    write_packed,
)
from node.writers.options import WriteOptions

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

MAX_NIFTI1_DIMENSION = 32767
"""NIfTI-1 has int16 dimensions; larger volumes are written as NIfTI-2."""

QFORM_TOLERANCE_VOXELS = 0.1
"""Largest error of a corner caused by the quaternion, in edges of the smallest voxel; above it, no qform is written.

A stack counts as sheared from the same shift."""

SLICE_TIME_TOLERANCE = 0.1
"""Largest deviation of a slice from an even order, in times per slice; scanners write rounded times."""

TRIGGER_TOLERANCE = 0.05
"""Allowed relative difference between the step of trigger times and the time step of the volume."""

COMMENT_CODE = 6
"""NIFTI_ECODE_COMMENT: plain text. No code is registered for JSON of any content, and readers skip comments."""


def write_nifti(
    volume: Volume, folder: Path, stem: str, options: WriteOptions, extension: bytes = b"", packed: Path | None = None
) -> WrittenFile:
    """Write a ``.nii.gz``, or ``.nii`` without compression.

    `extension`: the text of a header extension. `packed`: a file that has the stored values compressed by zlib.
    """
    head = nifti_header(volume, pair=False, extension=extension)
    file = write_single(head, stored_slabs(volume.voxels), folder, stem, options, packed)
    return file.written(volume.kind, "nifti", grid_of(volume))


def write_single(
    head: Any,
    voxels: Iterable[ReadableBuffer],
    folder: Path,
    stem: str,
    options: WriteOptions,
    packed: Path | None = None,
) -> NewFile:
    """Write ``STEM.nii.gz``, or ``STEM.nii`` without compression: a header of nibabel's, and voxels in pieces."""
    path = folder / f"{stem}.nii{'.gz' if options.compress else ''}"
    pieces = chain([header_bytes(head)], voxels)
    with NewFile(path) as stream:
        write_packed(stream, pieces, GZIP, packed) if options.compress else stream.writelines(pieces)
    return stream


def write_pair(volume: Volume, folder: Path, stem: str, options: WriteOptions, extension: bytes = b"") -> WrittenFile:
    """Write a NIfTI ``.hdr`` and its ``.img``, uncompressed, as readers of pairs expect."""
    image = folder / f"{stem}.img"
    with NewFile(image, digested=False) as stream:
        stream.writelines(stored_slabs(volume.voxels))
    header = write_file(folder / f"{stem}.hdr", header_bytes(nifti_header(volume, pair=True, extension=extension)))
    return header.written(volume.kind, "nifti-pair", grid_of(volume), (image,))


def header_bytes(head: Any) -> bytes:
    """Return a header with its extensions, which nibabel writes only into a file whose position it can ask for."""
    stream = BytesIO()
    head.write_to(stream)
    return stream.getvalue()


def new_header(
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    zooms: tuple[float, ...],
    extension: tuple[int, bytes] | None = None,
    *,
    large: bool,
    pair: bool = False,
) -> Any:
    """Return a header of nibabel's: NIfTI-2 if `large`, without a position in the patient.

    `shape`: (columns, rows, slices), then further axes. `zooms`: edges of a voxel in mm, then the step in seconds.
    `extension`: code and content.
    """
    header: Any = ((Nifti1Header, Nifti1PairHeader), (Nifti2Header, Nifti2PairHeader))[large][pair]
    head = header(endianness="<")
    head.set_data_dtype(dtype)
    head.set_data_shape(shape)
    head.set_zooms([*zooms, *[1.0] * (len(shape) - len(zooms))])
    head.set_xyzt_units("mm", "sec")
    head["descrip"] = f"voxelnode {__version__}".encode("ascii")
    if extension is not None:
        head.extensions.append(Nifti1Extension(*extension))
    return head


def nifti_header(volume: Volume, *, pair: bool, extension: bytes = b"") -> Any:
    """Return nibabel's header for `volume`; NIfTI-2 if a dimension or the scaling requires it.

    sform and qform both have code 1 (scanner), the qform only if a rotation and zooms can represent the affine. Without
    a position in the patient, both codes are 0, and the header gives only the voxel size.
    """
    large = max(volume.shape) > MAX_NIFTI1_DIMENSION or not _float32_holds_scaling(volume)
    dtype = RGB if volume.colour else volume.voxels.dtype
    zooms = (*volume.spacing_mm, volume.time_step_s or 0.0)[: len(volume.shape)]
    comment = (COMMENT_CODE, extension) if extension else None
    head = new_header(dtype, volume.shape, zooms, comment, large=large, pair=pair)
    head.set_slope_inter(volume.slope, volume.intercept)
    set_acquisition(head, volume)
    set_display_range(head, volume)
    set_intent(head, volume)
    if volume.affine_lps is not None:
        _place(head, LPS_TO_RAS @ volume.affine_lps, volume)
    return head


def _float32_holds_scaling(volume: Volume) -> bool:
    """Return whether slope and intercept in NIfTI-1's float32 are accurate well within one step of the voxels."""
    with np.errstate(over="ignore", under="ignore"):
        slope, intercept = float(np.float32(volume.slope)), float(np.float32(volume.intercept))
    off = abs(intercept - volume.intercept)
    return math.isclose(slope, volume.slope, rel_tol=1e-6) and off <= SCALING_TOLERANCE * abs(volume.slope)


def _place(head: Any, affine_ras: Float, volume: Volume) -> None:
    """Set the sform and, if it can represent the affine, the qform."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(volume.shape[:3]) - 1)
    head.set_sform(affine_ras, code="scanner")
    head.set_qform(affine_ras, code="scanner")
    off = (head.get_qform() - affine_ras)[:3, :3] @ corners.T
    if np.linalg.norm(off, axis=0).max() > QFORM_TOLERANCE_VOXELS * min(volume.spacing_mm):
        head["qform_code"] = 0


def set_acquisition(head: Any, volume: Volume) -> None:
    """Set the axes of an MR image (``dim_info``), the order of its slices, and the start of its time axis."""
    stated = volume.attributes.get("PhaseEncodingDirection") or volume.attributes.get("PhaseEncodingAxis") or ""
    phase = {"i": 0, "j": 1}.get(str(stated)[:1])
    if volume.modality == "MR" and volume.affine_lps is not None:
        head.set_dim_info(None if phase is None else 1 - phase, phase, 2)
        order = slice_order(slice_timing_of(volume) or ())
        if order is not None:
            head["slice_code"], head["slice_duration"] = order
            head["slice_start"], head["slice_end"] = 0, volume.shape[2] - 1
    head["toffset"] = _first_trigger_s(volume)


def slice_order(timing: Sequence[float]) -> tuple[int, float] | None:
    """Return NIfTI's code of the order in which slices were acquired, and the seconds per slice.

    None if no code describes the times: slices excited together, an uneven step, or an order without a code.

    `timing`: start of each slice in seconds, in the order of the slices.
    """
    count = len(timing)
    if count < 2:
        return None
    starts = np.array(timing) - min(timing)
    duration = float(starts.max()) / (count - 1)
    up = np.arange(count)
    even_first, odd_first = np.r_[up[::2], up[1::2]], np.r_[up[1::2], up[::2]]
    orders = (up, up[::-1], even_first, count - 1 - even_first, odd_first, count - 1 - odd_first)
    for code, order in enumerate(orders, start=1):  # NIFTI_SLICE_SEQ_INC to NIFTI_SLICE_ALT_DEC2
        if duration > 0 and np.abs(starts[order] - up * duration).max() <= SLICE_TIME_TOLERANCE * duration:
            return code, duration
    return None


def _first_trigger_s(volume: Volume) -> float:
    """Return the seconds from the trigger to the first time if trigger times are the time axis; else 0."""
    triggers = volume.attributes.get("of_each_time", {}).get("TriggerTime", ())
    if volume.time_step_s is None or len(triggers) != volume.times:
        return 0.0
    steps = np.diff(triggers)
    steady = np.abs(steps - volume.time_step_s).max() <= TRIGGER_TOLERANCE * volume.time_step_s
    return float(triggers[0]) if steady else 0.0


def set_display_range(head: Any, volume: Volume) -> None:
    """Set ``cal_min`` and ``cal_max`` to the first window of the data set that shows anything of the volume."""
    windows = () if volume.colour else volume.display.windows
    visible = sample(volume) if windows else np.empty(0)
    for centre, width in windows:
        if visible.size and is_sane(centre, width, float(visible.min()), float(visible.max())):
            head["cal_min"], head["cal_max"] = centre - width / 2, centre + width / 2
            return


def set_intent(head: Any, volume: Volume) -> None:
    """Set the intent of labels (``label``) and of maps (``estimate``: a parameter that was computed)."""
    intent = _intent(volume)
    if intent is not None:
        head.set_intent(intent[0], name=intent[1][:15])


def _intent(volume: Volume) -> tuple[str, str] | None:
    """Return intent and name (at most 15 characters) of a label volume or of a map; None of other images."""
    attributes = volume.attributes
    if volume.kind is VolumeKind.MASK:
        return "label", f"ROI {attributes['roi']['number']}" if "roi" in attributes else "body mask"
    if volume.modality == "SEG":
        return ("label", "segments") if volume.slope == 1 else ("estimate", "fraction")
    if volume.modality == "RTDOSE":
        return "estimate", "dose"
    if "SUVType" in attributes:
        return "estimate", f"SUV{str(attributes['SUVType']).lower()}"
    if volume.modality == "MR" and attributes.get("Units") == "Hz":
        return "estimate", "field map"
    named = next((word for word in attributes.get("ImageType", ()) if word in MAPS), None)
    return None if named is None else ("estimate", named)
