"""Headers of NIfTI-1 and NIfTI-2, little-endian: names, types and codes of ``nifti1.h`` and ``nifti2.h``.

nibabel reads them in the tests. The converter does not load it: that would take a tenth of the conversion of a slice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])

SCANNER = 1
"""NIFTI_XFORM_SCANNER_ANAT: the code of an affine to the coordinates of the scanner."""

_MM_AND_SECONDS = 2 | 8
_DATA_TYPES = {
    np.dtype(name): code
    for name, code in {
        "uint8": 2, "int16": 4, "int32": 8, "float32": 16, "float64": 64, "int8": 256, "uint16": 512, "uint32": 768,
        "int64": 1024, "uint64": 1280, "complex64": 32,
    }.items()
} | {RGB: 128}  # fmt: skip
_INTENTS = {"estimate": 1001, "label": 1002}

_NIFTI1 = np.dtype(
    [
        ("sizeof_hdr", "<i4"), ("data_type", "S10"), ("db_name", "S18"), ("extents", "<i4"), ("session_error", "<i2"),
        ("regular", "S1"), ("dim_info", "u1"), ("dim", "<i2", 8), ("intent_p", "<f4", 3), ("intent_code", "<i2"),
        ("datatype", "<i2"), ("bitpix", "<i2"), ("slice_start", "<i2"), ("pixdim", "<f4", 8), ("vox_offset", "<f4"),
        ("scl_slope", "<f4"), ("scl_inter", "<f4"), ("slice_end", "<i2"), ("slice_code", "u1"), ("xyzt_units", "u1"),
        ("cal_max", "<f4"), ("cal_min", "<f4"), ("slice_duration", "<f4"), ("toffset", "<f4"), ("glmax", "<i4"),
        ("glmin", "<i4"), ("descrip", "S80"), ("aux_file", "S24"), ("qform_code", "<i2"), ("sform_code", "<i2"),
        ("quatern", "<f4", 3), ("qoffset", "<f4", 3), ("srow", "<f4", (3, 4)), ("intent_name", "S16"), ("magic", "S4"),
    ]
)  # fmt: skip
_NIFTI2 = np.dtype(
    [
        ("sizeof_hdr", "<i4"), ("magic", "S4"), ("eol_check", "S4"), ("datatype", "<i2"), ("bitpix", "<i2"),
        ("dim", "<i8", 8), ("intent_p", "<f8", 3), ("pixdim", "<f8", 8), ("vox_offset", "<i8"), ("scl_slope", "<f8"),
        ("scl_inter", "<f8"), ("cal_max", "<f8"), ("cal_min", "<f8"), ("slice_duration", "<f8"), ("toffset", "<f8"),
        ("slice_start", "<i8"), ("slice_end", "<i8"), ("descrip", "S80"), ("aux_file", "S24"), ("qform_code", "<i4"),
        ("sform_code", "<i4"), ("quatern", "<f8", 3), ("qoffset", "<f8", 3), ("srow", "<f8", (3, 4)),
        ("slice_code", "<i4"), ("xyzt_units", "<i4"), ("intent_code", "<i4"), ("intent_name", "S16"),
        ("dim_info", "u1"), ("unused", "S15"),
    ]
)  # fmt: skip


class NiftiHeader:
    """A header whose fields are read and set by their names; unset fields are 0, which means unknown.

    Numbered fields are one array: ``quatern`` (b, c, d), ``qoffset`` (x, y, z), and ``srow``, three rows of four.

    Parameters
    ----------
    dtype : numpy.dtype
        Of a stored voxel, in any byte order.
    shape : tuple of int
        (columns, rows, slices), and the number of times if there are several.
    zooms : tuple of float
        Edges of a voxel in mm, and the step between times in seconds.
    large : bool
        NIfTI-2 instead of NIfTI-1.
    pair : bool
        The voxels are in a file of their own.
    """

    def __init__(
        self, dtype: np.dtype[Any], shape: tuple[int, ...], zooms: tuple[float, ...], *, large: bool, pair: bool
    ) -> None:
        self._fields: NDArray[Any] = np.zeros((), _NIFTI2 if large else _NIFTI1)
        self["sizeof_hdr"] = self._fields.nbytes
        self["magic"] = f"n{'i' if pair else '+'}{'2' if large else '1'}".encode()
        if large:
            self["eol_check"] = b"\r\n\x1a\n"
        else:
            self["regular"] = b"r"
        self["datatype"], self["bitpix"] = _DATA_TYPES[dtype.newbyteorder("=")], dtype.itemsize * 8
        self["dim"] = (len(shape), *shape, *[1] * (7 - len(shape)))
        self["pixdim"] = (1.0, *zooms, *[1.0] * (7 - len(zooms)))
        self["xyzt_units"] = _MM_AND_SECONDS
        self["scl_slope"] = 1.0
        self["vox_offset"] = 0 if pair else self._fields.nbytes + 4

    def __getitem__(self, name: str) -> Any:
        return self._fields[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._fields[name] = value

    def __bytes__(self) -> bytes:
        return self._fields.tobytes()

    def set_axes(self, phase: int | None) -> None:
        """Set the axis (0 or 1) along which the phase was encoded; the other one is that of the frequency."""
        frequency = 0 if phase is None else 2 - phase
        self["dim_info"] = frequency | (0 if phase is None else phase + 1) << 2 | 3 << 4

    def set_intent(self, intent: str, name: str) -> None:
        """Set ``label`` or ``estimate``, and a name of at most 15 ASCII characters."""
        self["intent_code"], self["intent_name"] = _INTENTS[intent], name.encode("ascii")[:15]

    def set_sform(self, affine_ras: NDArray[Any]) -> None:
        """Set the affine from voxel indices to RAS+ in mm."""
        self["sform_code"], self["srow"] = SCANNER, affine_ras[:3]

    def set_qform(self, affine_ras: NDArray[Any]) -> NDArray[Any]:
        """Set the rotation and the zooms that are nearest to an affine; return the affine that readers compute."""
        zooms = np.linalg.norm(affine_ras[:3, :3], axis=0)
        axes = affine_ras[:3, :3] / zooms
        hand = 1.0 if np.linalg.det(axes) > 0 else -1.0
        axes[:, 2] *= hand
        left, _, right = np.linalg.svd(axes)  # without the shears
        self["pixdim"][:4] = (hand, *zooms)
        self["quatern"] = _quaternion(left @ right)[1:]
        self["qoffset"] = affine_ras[:3, 3]
        self["qform_code"] = SCANNER
        return self._read_qform()

    def _read_qform(self) -> NDArray[Any]:
        b, c, d = (float(part) for part in self["quatern"])
        rest = 1.0 - (b * b + c * c + d * d)
        rounding = 3 * float(np.finfo(self["quatern"].dtype).eps)  # below it, readers take a half turn
        a = rest**0.5 if rest > rounding else 0.0
        norm = a * a + b * b + c * c + d * d
        rotation = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
            ]
        )
        pixdim = np.array(self["pixdim"], float)
        affine = np.eye(4)
        affine[:3, :3] = rotation / norm * pixdim[1:4] * (1, 1, pixdim[0])
        affine[:3, 3] = self["qoffset"]
        return affine


def _quaternion(rotation: NDArray[Any]) -> NDArray[Any]:
    """Return a rotation as (a, b, c, d) with a >= 0, computed from the part that is farthest from 0."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    products = np.array(
        [
            [1 + xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, 1 + xx - yy - zz, xy + yx, xz + zx],
            [xz - zx, xy + yx, 1 - xx + yy - zz, yz + zy],
            [yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz],
        ]
    )  # 4 q q^T
    row = products[np.argmax(np.diag(products))]
    unit: NDArray[Any] = row / np.linalg.norm(row) * (1 if row[0] >= 0 else -1)
    return unit
