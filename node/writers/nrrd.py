"""NRRD: a ``.nrrd`` file of header and voxels, in DICOM's LPS+ (https://teem.sourceforge.net/nrrd/format.html)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from isal import igzip_threaded

from node.volume.model import Volume
from node.writers.base import NewFile, WrittenFile, grid_of, real_dtype, real_slabs
from node.writers.nifti import COMPRESSION_LEVEL
from node.writers.options import WriteOptions

TYPES = {"float32": "float", "float64": "double"}
"""NRRD's names of the types that NumPy calls otherwise."""


def write_nrrd(volume: Volume, folder: Path, stem: str, options: WriteOptions) -> WrittenFile:
    """Write a ``.nrrd``.

    NRRD has no slope and intercept, so real values are written: integers if these are exact, else floating point. Times
    are the last axis, of kind list as in Slicer's sequences, and the three channels of colour the first one.
    """
    dtype = real_dtype(volume)
    with NewFile(folder / f"{stem}.nrrd") as stream:
        stream.write(_header(volume, dtype, options).encode("ascii"))
        if options.compress:
            threads = min(4, os.cpu_count() or 1)
            with igzip_threaded.open(stream, "wb", compresslevel=COMPRESSION_LEVEL, threads=threads) as packed:
                for slab in real_slabs(volume, dtype):
                    packed.write(slab)
        else:
            for slab in real_slabs(volume, dtype):
                stream.write(slab)
    return stream.written(volume.kind, "nrrd", grid_of(volume, dtype))


def _header(volume: Volume, dtype: np.dtype[Any], options: WriteOptions) -> str:
    """Return the header with the empty line that ends it. Version 4 is the first one with a space."""
    sizes = [3] * volume.colour + list(volume.shape)
    axes = [None] * volume.colour + [0, 1, 2] + [None] * (volume.times > 1)
    fields = {
        "type": TYPES.get(dtype.name, dtype.name),
        "dimension": len(sizes),
        "sizes": _joined(sizes),
        "kinds": _joined(
            (["RGB-color"] if volume.colour else []) + ["domain"] * 3 + (["list"] if volume.times > 1 else [])
        ),
        "endian": "little",
        "encoding": "gzip" if options.compress else "raw",
    }
    if volume.affine_lps is None:
        fields["spacings"] = _joined("nan" if axis is None else repr(volume.spacing_mm[axis]) for axis in axes)
    else:
        columns = volume.affine_lps[:3, :3].T.tolist()
        fields["space"] = "left-posterior-superior"
        fields["space directions"] = _joined("none" if axis is None else _vector(columns[axis]) for axis in axes)
        fields["space origin"] = _vector(volume.affine_lps[:3, 3].tolist())
        fields["space units"] = _joined(['"mm"'] * 3)
    lines = (f"{name}: {content}\n" for name, content in fields.items())
    return "NRRD0004\n" + "".join(lines) + "\n"


def _joined(parts: Iterable[object]) -> str:
    return " ".join(map(str, parts))


def _vector(numbers: Iterable[float]) -> str:
    return f"({','.join(repr(number) for number in numbers)})"
