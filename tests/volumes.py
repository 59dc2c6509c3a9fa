"""Builders of `Frame` and `Volume` objects for tests: voxels that are told apart, a place that is no accident."""

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import Dataset

from node.api import assemble
from node.volume.model import Frame, Geometry, Source, Volume, VolumeKind
from node.writers.options import WriteOptions
from tests.make import AXIAL

EVERYTHING = WriteOptions(
    formats=("nifti", "nifti-pair", "analyze", "mhd", "nrrd", "npz"),
    previews=True,
    projections=True,
    montages=True,
    body_masks=True,
    body_contours=True,
    masked_volumes=True,
)
"""Every format and every picture."""

DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")


def unpacked(path: Path) -> bytes:
    """Return the bytes of a file, with the voxels of NIfTI, NRRD and MetaImage not compressed.

    Once in thousands of files, igzip packs the same voxels otherwise.
    """
    content = path.read_bytes()
    if path.suffix == ".zraw":
        return zlib.decompress(content)
    if path.suffix in (".gz", ".nrrd") and (packed := content.find(b"\x1f\x8b\x08")) >= 0:
        return content[:packed] + gzip.decompress(content[packed:])
    return content


def only(*series: Dataset) -> Volume:
    """Return the volume that a series is."""
    (volume,) = assemble(series).volumes
    return volume


def volume(voxels: NDArray[Any] | None = None, affine_lps: NDArray[Any] | None = None, **changes: Any) -> Volume:
    """Return an axial MR volume of 5 x 4 x 3 voxels of 2 x 3 x 4 mm, with what `changes` replaces."""
    if voxels is None:
        voxels = np.arange(60, dtype=np.int16).reshape(1, 3, 4, 5)
    if affine_lps is None:
        affine_lps = np.diag([2.0, 3.0, 4.0, 1.0])
        affine_lps[:3, 3] = -10, 20, -30
    times, slices = voxels.shape[:2]
    spacing = np.linalg.norm(affine_lps[:3, :3], axis=0)
    facts: dict[str, Any] = {
        "voxels": voxels,
        "affine_lps": affine_lps,
        "spacing_mm": tuple(map(float, spacing)),
        "geometry": Geometry.REGULAR,
        "kind": VolumeKind.VOLUME,
        "stack": 0,
        "suffix": "",
        "modality": "MR",
        "sources": tuple(Source(f"1.2.{t}.{k}", 1, k, t) for t in range(times) for k in range(slices)),
        "time_step_s": 1.5 if times > 1 else None,
    }
    return Volume(**facts | changes)


def axial_frame(number: int, pixels: NDArray[Any], position: tuple[float, float, float], **changes: Any) -> Frame:
    """Return an axial frame of 1 mm pixels: the only one of its instance, which has this number."""
    facts: dict[str, Any] = {
        "sop_instance_uid": f"1.2.{number}",
        "frame_number": 1,
        "read": lambda: pixels,
        "rows": pixels.shape[0],
        "columns": pixels.shape[1],
        "position": np.array(position),
        "orientation": np.array(AXIAL),
        "pixel_spacing": (1.0, 1.0),
    }
    return Frame(**facts | changes)


def rotation(vector: NDArray[Any]) -> NDArray[Any]:
    """Return the rotation that an axis, as long as the angle in radians, stands for (Rodrigues)."""
    angle = np.linalg.norm(vector)
    if angle == 0:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


@st.composite
def affines(draw: st.DrawFn) -> NDArray[Any]:
    """Any orientation, handedness, spacing, place and gantry tilt."""
    number = st.floats(-3, 3, allow_nan=False, width=32)
    directions = rotation(np.array([draw(number) for _ in range(3)]))
    directions[:, 2] *= draw(st.sampled_from((1, -1)))
    directions[:, 2] += directions[:, 1] * np.tan(draw(st.sampled_from((0.0, 0.0, -0.4, 0.3))))  # tilted about the rows
    affine = np.eye(4)
    affine[:3, :3] = directions * [draw(st.floats(0.25, 8, width=32)) for _ in range(3)]
    affine[:3, 3] = [draw(st.floats(-400, 400, width=32)) for _ in range(3)]
    return affine


@st.composite
def volumes(draw: st.DrawFn) -> Volume:
    """Any volume: place, type, 3-D and 4-D, grey and colour, with scaling or without."""
    affine = draw(affines())
    shape = tuple(draw(st.integers(1, top)) for top in (3, 4, 5, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()) and draw(st.booleans()):
        return volume(rng.integers(0, 256, (*shape, 3), dtype=np.uint8), affine)
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    if dtype.kind == "f":
        voxels = rng.normal(size=shape).astype(dtype)
    else:
        limits = np.iinfo(dtype)
        voxels = rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
    slope, intercept = draw(st.sampled_from(((1.0, 0.0), (1.0, -1024.0), (2.0, -4096.0), (0.244200244, -500.0))))
    return volume(voxels, affine, slope=slope, intercept=intercept)
