"""The text files beside a volume: its JSON sidecar, and FSL's gradient table of a diffusion series.

Fields of the sidecar are BIDS' in CamelCase and our own in snake_case; nothing identifies a person. Instances that have
no voxels, such as measurements, become a JSON file of their own.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from node.version import __version__
from node.volume.model import Diffusion, Float, Volume, VolumeKind
from node.volume.reasons import WarningKind
from node.writers.base import FileGrid, WrittenFile, real_dtype, slice_timing_of, write_file
from node.writers.options import WriteOptions

SCALING = ("PhilipsRescaleSlope", "PhilipsRescaleIntercept", "PhilipsScaleSlope", "UsePhilipsFloatNotDisplayScaling")
"""Fields that are those of the first slice."""

TIME_OF_DAY_TOLERANCE_S = 1.0
"""Some scanners write Acquisition Time in whole seconds."""

NO_GRID = FileGrid((), (), "")


def sidecar_fields(volume: Volume, options: WriteOptions, notes: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of the sidecar.

    `notes`: for each format, the properties of this volume that it cannot represent.
    """
    return stack_fields(volume) | _bids(volume) | _ours(volume, options, notes)


def write_sidecar(fields: Mapping[str, Any], folder: Path, stem: str) -> Path:
    """Write ``STEM.json`` and return its path."""
    path = folder / f"{stem}.json"
    lines = (f"  {json.dumps(name)}: {_json(content)}" for name, content in fields.items())
    write_file(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode("utf-8", "replace"))
    return path


def without_verdict(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a sidecar for a file of voxels: the verdict may change, and they do not."""
    return {name: content for name, content in fields.items() if name != "completeness"}


def ascii_json(fields: Mapping[str, Any]) -> bytes:
    """Return the fields as JSON in ASCII, on one line."""
    return _json(fields, ensure_ascii=True).encode("ascii")


def stack_fields(volume: Volume) -> dict[str, Any]:
    """Return the fields of the stack that hold for this volume.

    Slice timing holds for the original slices only, and scaling factors if they are those of all slices.
    """
    fields = dict(volume.attributes)
    if slice_timing_of(volume) is None:
        fields.pop("SliceTiming", None)
    if any(warning.name is WarningKind.SLOPE_VARIES for warning in volume.warnings):
        for name in SCALING:
            fields.pop(name, None)
    return _repetition(volume, fields) if volume.modality == "MR" and volume.times > 1 else fields


def _repetition(volume: Volume, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with the time from one volume to the next as Repetition Time, as BIDS has it.

    The standard's Repetition Time is that of the excitations (PS3.3 C.8.3.1), of which a volume may take many. Volumes
    without a fixed step have Volume Timing instead, or neither if their times are not known.
    """
    excitation_s, step_s = fields.get("RepetitionTime"), volume.time_step_s
    if step_s is not None:
        fields["RepetitionTime"] = step_s
    else:
        fields.pop("RepetitionTime", None)
    if excitation_s is not None and (step_s is None or not math.isclose(excitation_s, step_s, rel_tol=1e-6)):
        fields["RepetitionTimeExcitation"] = excitation_s
    return fields


def _json(content: Any, *, ensure_ascii: bool = False) -> str:
    """Return JSON on one line; NumPy numbers become JSON numbers, and NaN raises ValueError."""
    return json.dumps(content, ensure_ascii=ensure_ascii, allow_nan=False, default=lambda number: number.item())


def _bids(volume: Volume) -> dict[str, Any]:
    """Return the BIDS fields that are computed from the volume."""
    fields: dict[str, Any] = {"ConversionSoftware": "voxelnode", "ConversionSoftwareVersion": __version__}
    if volume.modality in ("PT", "NM"):
        fields |= _frame_times(volume)
    elif volume.times > 1 and volume.time_step_s is None and volume.times_s is not None:
        fields["VolumeTiming"] = list(volume.times_s)
    return fields


def _frame_times(volume: Volume) -> dict[str, Any]:
    """Return start and duration of each frame; omit the starts if frames would overlap, because they are then wrong."""
    fields: dict[str, Any] = {}
    starts, durations = volume.times_s, volume.durations_s
    if starts is None and volume.times == 1:
        starts = (0.0,)
    if starts:
        ends = np.array(starts) + (durations or 0.0)
        if (ends[:-1] <= np.array(starts[1:]) + TIME_OF_DAY_TOLERANCE_S).all():
            fields["FrameTimesStart"] = list(starts)
    if durations is not None:
        fields["FrameDuration"] = list(durations)
    return fields


def _ours(volume: Volume, options: WriteOptions, notes: Mapping[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "kind": volume.kind.value,
        "geometry": volume.geometry.value,
        "stack": volume.stack,
        "shape": list(volume.shape),
        "spacing_mm": [float(distance) for distance in volume.spacing_mm],
        "affine_lps": None if volume.affine_lps is None else np.asarray(volume.affine_lps).tolist(),
        "time_step_s": volume.time_step_s,
        "rescale": {
            "stored": volume.voxels.dtype.name,
            "slope": volume.slope,
            "intercept": volume.intercept,
            "real": real_dtype(volume).name,
        },
        "warnings": [{"name": warning.name.value, "detail": warning.detail} for warning in volume.warnings],
        "options": asdict(options),
    }
    if volume.display.inverted:
        fields["inverted"] = True
    if notes:
        fields["formats"] = dict(notes)
    if volume.diffusion is not None and not _is_map(volume.diffusion):
        fields["b_values"] = [weighting.b_value for weighting in volume.diffusion]
    fields["sources"] = _sources(volume)
    return fields


def _sources(volume: Volume) -> dict[str, list[list[int]]]:
    """Return, by SOP Instance UID, [frame number, slice index, time index] of each of its planes."""
    planes: dict[str, list[list[int]]] = defaultdict(list)
    for source in volume.sources:
        planes[source.sop_instance_uid].append([source.frame_number, source.slice_index, source.time_index])
    return planes


def write_gradients(volume: Volume, folder: Path, stem: str) -> tuple[Path, ...]:
    """Write FSL's ``.bval``, and ``.bvec`` if directions are known; return the paths.

    Trace and isotropic images have a table if they have several b-values; their directions are zeros, and so is one
    that the images state as zeros. If no direction is known, no ``.bvec`` is written: zeros would mean that none is
    needed. Maps (ADC, FA) have no table: their images may state the b-value of the scan.
    """
    if volume.diffusion is None or not _has_table(volume.diffusion):
        return ()
    paths = [folder / f"{stem}.bval"]
    b_values = " ".join(f"{weighting.b_value:g}" for weighting in volume.diffusion)
    write_file(paths[0], f"{b_values}\n".encode("ascii"))
    vectors = image_directions(volume.diffusion, volume.affine_lps) if volume.affine_lps is not None else None
    if vectors is not None and _directions_are_known(volume.diffusion):
        lines = (" ".join(f"{component:.8f}" for component in row) for row in vectors)
        paths.append(folder / f"{stem}.bvec")
        write_file(paths[1], ("\n".join(lines) + "\n").encode("ascii"))
    return tuple(paths)


def _is_map(diffusion: tuple[Diffusion, ...]) -> bool:
    return any(weighting.derived and not weighting.trace for weighting in diffusion)


def _has_table(diffusion: tuple[Diffusion, ...]) -> bool:
    if _is_map(diffusion):
        return False
    several = len({weighting.b_value for weighting in diffusion}) > 1
    return several or not any(weighting.trace for weighting in diffusion)


def _directions_are_known(diffusion: tuple[Diffusion, ...]) -> bool:
    """Return whether a weighted volume has a direction, or whether none needs one."""
    directed = [weighting for weighting in diffusion if weighting.b_value > 0 and not weighting.trace]
    return not directed or any(weighting.direction_lps is not None for weighting in directed)


def image_directions(diffusion: tuple[Diffusion, ...], affine_lps: Float) -> Float:
    """Return the (3, times) gradient directions along the axes of the image, in FSL's convention.

    FSL reverses x if the affine has a positive determinant (in RAS+ and LPS+ alike). Unweighted volumes and volumes
    without a direction get zeros.

    `diffusion`: (times,) of Diffusion; directions are unit vectors in LPS. `affine_lps`: (4, 4) float64, mm; from voxel
    index (column, row, slice) to LPS+.
    """
    along_row = affine_lps[:3, 0] / np.linalg.norm(affine_lps[:3, 0])
    down_column = affine_lps[:3, 1] - along_row * (along_row @ affine_lps[:3, 1])
    down_column /= np.linalg.norm(down_column)
    positive = np.linalg.det(affine_lps[:3, :3]) > 0
    normal = np.cross(along_row, down_column) * (1 if positive else -1)
    axes = np.array([-along_row if positive else along_row, down_column, normal])
    zero = np.zeros(3)
    directions = [
        zero if weighting.direction_lps is None or weighting.b_value <= 0 else weighting.direction_lps
        for weighting in diffusion
    ]
    return axes @ np.array(directions, dtype=np.float64).T + 0.0  # + 0.0 removes negative zeros from the text


def write_document(record: Mapping[str, Any], kind: VolumeKind, folder: Path, stem: str) -> WrittenFile:
    """Write ``STEM.json``.

    Raises FileExistsError: a file exists already: the stems in one folder must differ.
    """
    parts = (f"  {json.dumps(name)}: {_lines(content)}" for name, content in record.items())
    text = "{\n" + ",\n".join(parts) + "\n}\n"
    return write_file(folder / f"{stem}.json", text.encode("utf-8", "replace")).written(kind, "json", NO_GRID)


def _lines(content: Any) -> str:
    if not isinstance(content, list):
        return json.dumps(content, ensure_ascii=False, allow_nan=False)
    items = (f"    {json.dumps(item, ensure_ascii=False, allow_nan=False)}" for item in content)
    return "[\n" + ",\n".join(items) + "\n  ]"
