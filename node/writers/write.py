"""Write every file of one volume; NumPy's ``.npz``, readable without pickle, has stored values, scaling, position."""

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.analyze import AnalyzeHeader

from node.volume.model import Geometry, Volume, VolumeKind
from node.volume.reasons import WarningKind
from node.volume.rendering import oriented
from node.writers.base import FileGrid, NewFile, WrittenFile, grid_of, real_dtype, real_slabs, write_file
from node.writers.nifti import LPS_TO_RAS, MAX_NIFTI1_DIMENSION, RGB, write_nifti, write_pair
from node.writers.options import WriteOptions
from node.writers.sidecar import (
    ascii_json,
    sidecar_fields,
    stack_fields,
    without_verdict,
    write_gradients,
    write_sidecar,
)

PROMOTED_TYPES = {"int8": "int16", "uint16": "int32", "uint32": "float64"}
"""Types that Analyze lacks, and the smallest type that holds them exactly."""

EXTENTS = 16384
"""The minimum size of the data file that Analyze 7.5 requires in every header; `regular` is ``r`` in every header."""

LOST_AFFINE = "Analyze 7.5 has no position and no oblique orientation; both are in affine_lps"

TOO_LARGE = f"not written: Analyze 7.5 holds at most {MAX_NIFTI1_DIMENSION} voxels along an axis"


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


def fits_analyze(volume: Volume) -> bool:
    """Return whether the dimensions fit the int16 of the header."""
    return max(volume.shape) <= MAX_NIFTI1_DIMENSION


def write_analyze(volume: Volume, folder: Path, stem: str, options: WriteOptions) -> WrittenFile:
    """Write ``STEM_analyze.hdr`` and its ``.img``, never compressed. The volume must satisfy `fits_analyze`.

    Analyze 7.5 is for programs that cannot read newer formats. It has neither slope nor affine, and no unsigned or
    8-bit signed integers. Real values are written in the smallest type that holds them exactly. The voxels are flipped
    and transposed, never interpolated, into the order that readers assume: right to left, posterior to anterior,
    inferior to superior.
    """
    orientations = [oriented(volume, time) for time in range(volume.times)]
    size = orientations[0].voxels.shape[2::-1]
    real = real_dtype(volume)
    dtype = np.dtype(PROMOTED_TYPES.get(real.name, real.name))
    head = AnalyzeHeader(endianness="<")
    head.set_data_dtype(RGB if volume.colour else dtype)
    shape = size if volume.times == 1 else (*size, volume.times)
    head.set_data_shape(shape)
    spacing = orientations[0].spacing_mm[::-1]
    head.set_zooms(spacing if volume.times == 1 else (*spacing, volume.time_step_s or 0.0))
    head["regular"], head["extents"] = b"r", EXTENTS
    image = folder / f"{stem}_analyze.img"
    with NewFile(image, digested=False) as stream:
        for one in orientations:  # DICOM's y axis points to posterior, Analyze's to anterior
            time = replace(volume, voxels=np.ascontiguousarray(one.voxels[:, ::-1])[None])
            stream.writelines(real_slabs(time, dtype))
    header = write_file(folder / f"{stem}_analyze.hdr", head.binaryblock)
    grid = FileGrid(shape, spacing, "uint8" if volume.colour else dtype.name)
    return header.written(volume.kind, "analyze", grid, (image,))


ORTHOGONAL_COSINE = 1e-4
"""Largest cosine between two axes of an affine that ITK opens from NIfTI; it opens any MetaImage and NRRD."""

WITHOUT_SCALING = {"mhd": "MetaImage", "nrrd": "NRRD"}

Writer = Callable[[Volume, Path, str, WriteOptions], WrittenFile]

NIFTI_WRITERS = {"nifti": write_nifti, "nifti-pair": write_pair}

WRITERS: dict[str, Writer] = {"analyze": write_analyze, "npz": write_npz}


def write_volume(volume: Volume, folder: Path, stem: str, options: WriteOptions) -> list[WrittenFile]:
    """Write every file of one volume into an existing folder.

    Sidecar and gradient table are companions of every voxel file. Mask and masked volume of a CT are written to
    separate files named ``STEM_mask`` and ``STEM_masked``. A format that cannot hold the volume is skipped,
    and the sidecar says so.

    Raises FileExistsError: a file exists already: the stems in one folder must differ.
    """
    formats = [name for name in options.formats if name != "analyze" or fits_analyze(volume)]
    fields = sidecar_fields(volume, options, _notes(volume, options, stem))
    extension = ascii_json(without_verdict(fields)) if options.nifti_extension else b""
    writers = WRITERS | {name: partial(write, extension=extension) for name, write in NIFTI_WRITERS.items()}
    if WITHOUT_SCALING.keys() & set(formats):
        from node.writers.itk import write_metaimage, write_nrrd  # here, because SimpleITK takes 0.1 s to load

        writers |= {"mhd": write_metaimage, "nrrd": write_nrrd}
    first: dict[str, WrittenFile] = {}
    if options.compress and {"nifti", "mhd"} <= set(formats) and (volume.slope, volume.intercept) == (1, 0):
        # The real values are the stored ones: both formats have the same bytes, which are compressed once.
        first["mhd"] = writers["mhd"](volume, folder, stem, options)
        [data] = first["mhd"].companions
        writers["nifti"] = partial(write_nifti, extension=extension, packed=data)
    files = [first[name] if name in first else writers[name](volume, folder, stem, options) for name in formats]
    beside = (*write_gradients(volume, folder, stem), write_sidecar(fields, folder, stem))
    files = [replace(file, companions=(*file.companions, *beside)) for file in files]
    if volume.kind in (VolumeKind.MASK, VolumeKind.MASKED):
        return files
    if options.makes_pictures:
        from node.writers.pictures import write_pictures  # here, because it loads Pillow

        files += write_pictures(volume, folder, stem, options)
    if volume.modality == "CT" and not volume.colour:
        files += _write_body(volume, folder, stem, options)
    return files


def _write_body(volume: Volume, folder: Path, stem: str, options: WriteOptions) -> list[WrittenFile]:
    """Write what `options` request of the body in a CT: its mask, its outlines, the CT with air outside of it."""
    if not (options.body_masks or options.body_contours or options.masked_volumes):
        return []
    from node.writers.bodymask import body_mask, masked  # here: importing SimpleITK takes longer than a small volume
    from node.writers.pictures import has_exact_affine, write_contours

    files = []
    mask = body_mask(volume, options.body_threshold_hu)
    if options.body_masks:
        files += write_volume(mask, folder, f"{stem}_mask", options)
    if options.body_contours and has_exact_affine(volume):
        files.append(write_contours(mask, folder, stem, options.body_threshold_hu))
    if options.masked_volumes:
        files += write_volume(masked(volume, mask), folder, f"{stem}_masked", options)
    return files


def _is_sheared(volume: Volume) -> bool:
    if volume.affine_lps is None:
        return False
    axes = volume.affine_lps[:3, :3] / np.linalg.norm(volume.affine_lps[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > ORTHOGONAL_COSINE)


def _notes(volume: Volume, options: WriteOptions, stem: str) -> dict[str, str]:
    """Return, by format, the properties of this volume that it cannot represent, and who cannot open it."""
    notes: dict[str, str] = {}
    is_copied = all(warning.name is not WarningKind.NOT_RESAMPLED for warning in volume.warnings)
    if _is_sheared(volume):
        upright = f"{stem}_resampled, or " if volume.kind is VolumeKind.VOLUME and is_copied else ""
        for nifti in filter(NIFTI_WRITERS.__contains__, options.formats):
            notes[nifti] = f"ITK and its programs open no sheared NIfTI: give them {upright}the formats mhd or nrrd"
    if volume.geometry is Geometry.IRREGULAR and volume.kind is VolumeKind.VOLUME:
        copy = f"{stem}_resampled has" if is_copied else "no file has"
        says = f"one distance stands for all slices, which are uneven: {copy} each of them in its place"
        notes |= {name: f"{notes[name]}; {says}" if name in notes else says for name in options.formats}
    if "analyze" in options.formats and not fits_analyze(volume):
        notes["analyze"] = TOO_LARGE
    elif "analyze" in options.formats and volume.affine_lps is not None:
        notes["analyze"] = LOST_AFFINE
    if (volume.slope, volume.intercept) != (1, 0):
        for name, title in WITHOUT_SCALING.items():
            if name in options.formats:
                notes[name] = f"{title} has no slope and intercept; real values were written"
    return notes
