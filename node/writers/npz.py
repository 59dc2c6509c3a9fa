"""NumPy's ``.npz``, readable without pickle: stored values, their scaling, their position."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from node.volume.model import Volume
from node.writers.base import NewFile, WrittenFile, grid_of
from node.writers.nifti import LPS_TO_RAS
from node.writers.options import WriteOptions
from node.writers.sidecar import stack_fields, without_verdict


def write_npz(volume: Volume, folder: Path, stem: str, options: WriteOptions) -> WrittenFile:
    """Write one ``.npz``, never compressed: zipfile's zlib takes forty times as long as the plain file.

    Its arrays:

    ``data`` : (slices, rows, columns), stored values; times come first and colour last, if present.
    ``slope``, ``intercept`` : real values are ``data * slope + intercept``.
    ``affine`` : (4, 4), voxel index (column, row, slice) to RAS+ mm; all NaN without a position in the patient.
    ``spacing`` : (3,) mm, between columns, rows, slices. ``time_step`` : seconds, NaN without a fixed step.
    ``series_uid`` : text. ``json`` : text, the sidecar fields of the series as JSON, without ``completeness``.
    """
    path = folder / f"{stem}.npz"
    return write_arrays(path, arrays_of(volume)).written(volume.kind, "npz", grid_of(volume))


def arrays_of(volume: Volume) -> dict[str, Any]:
    """Return the arrays of a file by name; see `write_npz`."""
    nowhere = np.full((4, 4), np.nan)
    return {
        "data": volume.voxels if volume.times > 1 else volume.voxels[0],
        "slope": np.float64(volume.slope),
        "intercept": np.float64(volume.intercept),
        "affine": nowhere if volume.affine_lps is None else LPS_TO_RAS @ volume.affine_lps,
        "spacing": np.array(volume.spacing_mm, np.float64),
        "time_step": np.float64(np.nan if volume.time_step_s is None else volume.time_step_s),
        "series_uid": np.str_(volume.attributes.get("SeriesInstanceUID", "")),
        "json": np.str_(json.dumps(without_verdict(stack_fields(volume)), ensure_ascii=False)),
    }


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> NewFile:
    """Write arrays as one ``.npz``; return the file, which is there."""
    with NewFile(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")  # dated 1980; a plain name would get the current time
            with archive.open(member, "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)
    return stream
