"""NIfTI-MRS (https://wtclarke.github.io/mrs_nifti_standard): NIfTI-2 of complex signals in time, with a JSON header.

NIfTI-2, which the standard prefers, holds the dwell time as a float64.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from node.conversion.datasets import Output
from node.conversion.job import converted_file
from node.extensions.spectroscopy.signals import Complex, Signals
from node.index.nouns.converted import ConvertedFile
from node.version import __version__
from node.volume.model import Geometry, VolumeKind
from node.volume.reasons import VolumeWarning
from node.writers.base import FileGrid
from node.writers.nifti import LPS_TO_RAS, new_header, write_single
from node.writers.sidecar import write_sidecar

VERSION = b"mrs_v0_11"
EXTENSION_CODE = 44
"""NIFTI_ECODE_MRS."""

UNLOCALISED_MM = 10_000.0
"""The size of a voxel that is not localised, by the standard."""

FROM_SIDECAR = {
    "Manufacturer": "Manufacturer",
    "ManufacturersModelName": "ManufacturersModelName",
    "SoftwareVersions": "SoftwareVersions",
    "RxCoil": "ReceiveCoilName",
    "PatientPosition": "PatientPosition",
    "ProtocolName": "ProtocolName",
}
"""Names of NIfTI-MRS by the field of the sidecar that has the same, without what a sidecar may not have."""


@dataclass(frozen=True, slots=True, eq=False)
class Spectra:
    """The content of one file.

    `voxels`: (columns, rows, slices, points, ...) complex64.
    `signals`: their sources.
    `tags`: ``dim_5`` and so on of the header extension; empty without further dimensions.
    """

    voxels: Complex
    signals: tuple[Signals, ...]
    tags: Mapping[str, Any]
    warnings: tuple[VolumeWarning, ...]
    suffix: str = ""


def write_spectra(spectra: Spectra, output: Output) -> ConvertedFile:
    """Write a ``.nii.gz`` (or ``.nii``, without compression) with its sidecar.

    Raises FileExistsError: a file exists already: names in one folder must differ.
    """
    words = [output.name or "spectra", *(word for word in spectra.suffix.split("-") if word)]
    stem = "_".join(words)
    head = _header(spectra, output)
    stream = write_single(head, [spectra.voxels.astype("<c8").tobytes("F")], output.folder, stem, output.options)
    shape, place = _shape(spectra), spectra.signals[0].place
    written = stream.written(VolumeKind.SPECTRA, "nifti", FileGrid(shape, place.spacing_mm or (), "complex64"))
    geometry = _geometry(spectra)
    write_sidecar(_sidecar(spectra, output, geometry), output.folder, stem)
    return converted_file(
        written,
        output.folder,
        stack=output.stack,
        suffix=spectra.suffix,
        geometry=geometry,
        instances=len({signal.sop_instance_uid for signal in spectra.signals}),
        warnings=spectra.warnings,
        affine_lps=place.affine_lps,
        repetition_time_ms=_milliseconds(spectra, "RepetitionTime"),
        echo_time_ms=_milliseconds(spectra, "EchoTime"),
        inversion_time_ms=_milliseconds(spectra, "InversionTime"),
        flip_angle_degrees=spectra.signals[0].facts.get("ExcitationFlipAngle"),
        magnetic_field_strength_t=spectra.signals[0].fields.get("MagneticFieldStrength"),
    )


def _milliseconds(spectra: Spectra, name: str) -> float | None:
    seconds = spectra.signals[0].facts.get(name)
    return None if seconds is None else round(seconds * 1000, 6)


def _shape(spectra: Spectra) -> tuple[int, ...]:
    """Return (columns, rows, slices), with the number of transients of all kinds if there are several."""
    columns, rows, slices = spectra.voxels.shape[:3]
    transients = int(np.prod(spectra.voxels.shape[4:], dtype=int))
    return (columns, rows, slices, transients) if transients > 1 else (columns, rows, slices)


def _geometry(spectra: Spectra) -> Geometry:
    if spectra.signals[0].place.affine_lps is None:
        return Geometry.NONE
    return Geometry.REGULAR if spectra.voxels.shape[2] > 1 else Geometry.SINGLE


def _header(spectra: Spectra, output: Output) -> Any:
    """Return nibabel's header; without a position in the patient, the codes of qform and sform are 0."""
    place, first = spectra.signals[0].place, spectra.signals[0]
    zooms = (*(place.spacing_mm or (UNLOCALISED_MM,) * 3), first.dwell_s)
    content = json.dumps(_meta(spectra, output), ensure_ascii=False).encode("utf-8", "replace")
    head = new_header(spectra.voxels.dtype, spectra.voxels.shape, zooms, (EXTENSION_CODE, content), large=True)
    head["intent_name"] = VERSION
    if place.affine_lps is not None:
        affine_ras = LPS_TO_RAS @ place.affine_lps
        head.set_qform(affine_ras, code="scanner")
        head.set_sform(affine_ras, code="scanner")
    return head


def _meta(spectra: Spectra, output: Output) -> dict[str, Any]:
    first = spectra.signals[0]
    stated = {**first.fields, **output.fields}
    described = {name: stated[field] for name, field in FROM_SIDECAR.items() if isinstance(stated.get(field), str)}
    return {
        "SpectrometerFrequency": [first.frequency_mhz],
        "ResonantNucleus": [first.nucleus],
        **spectra.tags,
        **described,
        **first.facts,
        "ConversionMethod": f"voxelnode {__version__}",
        "kSpace": [False, False, False],
    }


def _sidecar(spectra: Spectra, output: Output, geometry: Geometry) -> dict[str, Any]:
    """Return the fields of the sidecar: those of the acquisition, then what the file holds and where it is from."""
    first = spectra.signals[0]
    planes: dict[str, list[int]] = defaultdict(list)
    for signal in spectra.signals:
        planes[signal.sop_instance_uid] += signal.frames
    fields = {**first.fields, **output.fields, **_of_bids(spectra)}
    affine = first.place.affine_lps
    return fields | {
        "ConversionSoftware": "voxelnode",
        "ConversionSoftwareVersion": __version__,
        "kind": VolumeKind.SPECTRA.value,
        "geometry": geometry.value,
        "stack": output.stack,
        "shape": list(spectra.voxels.shape),
        "dimensions": [spectra.tags[f"dim_{number}"] for number in (5, 6, 7) if f"dim_{number}" in spectra.tags],
        "spacing_mm": None if first.place.spacing_mm is None else [float(size) for size in first.place.spacing_mm],
        "affine_lps": None if affine is None else affine.tolist(),
        "warnings": [{"name": warning.name.value, "detail": warning.detail} for warning in spectra.warnings],
        "frames": planes,
    }


def _of_bids(spectra: Spectra) -> dict[str, Any]:
    """Return the fields that BIDS has for spectroscopy."""
    first = spectra.signals[0]
    fields: dict[str, Any] = {
        "ResonantNucleus": [first.nucleus],
        "SpectrometerFrequency": [first.frequency_mhz],
        "SpectralWidth": first.facts["SpectralWidth"],
        "DwellTime": first.dwell_s,
        "NumberOfSpectralPoints": int(spectra.voxels.shape[3]),
    }
    names = {
        "EchoTime": "EchoTime",
        "RepetitionTime": "RepetitionTime",
        "InversionTime": "InversionTime",
        "MixingTime": "MixingTime",
        "FlipAngle": "ExcitationFlipAngle",
        "WaterSuppression": "WaterSuppressed",
    }
    fields |= {name: first.facts[fact] for name, fact in names.items() if fact in first.facts}
    if first.place.spacing_mm is not None:
        fields["AcquisitionVoxelSize"] = [float(size) for size in first.place.spacing_mm]
    transients = sum((signal.averages or 0) * signal.voxels.shape[4] for signal in spectra.signals)
    if transients and transients == first.planned_averages:  # else one of the two counts something else
        fields["NumberOfTransients"] = first.planned_averages
    return fields
