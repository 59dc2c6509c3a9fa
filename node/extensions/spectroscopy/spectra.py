"""The spectra of one series: what belongs together becomes one NIfTI-MRS file."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydicom import Dataset

from node.completeness import Evidence
from node.conversion.datasets import FileSource, Objects, Output, WrittenObjects
from node.conversion.job import converted_file
from node.dicom.values import text
from node.errors import ConversionRefused
from node.extensions.spectroscopy import MR_SPECTROSCOPY, PHILIPS_SPECTRUM
from node.extensions.spectroscopy.enhanced import read_enhanced
from node.extensions.spectroscopy.siemens import is_spectrum, read_classic
from node.extensions.spectroscopy.signals import Complex, Signals
from node.index.rows.converted import ConvertedFile
from node.version import __version__
from node.volume.describe.sidecar_fields import describe, identifying_words, repeats
from node.volume.model import Frame, Geometry, VolumeKind
from node.volume.reasons import Exclusion, Reason, Refusal, VolumeWarning, WarningKind
from node.writers.base import FileGrid
from node.writers.nifti import LPS_TO_RAS, new_header, write_single
from node.writers.sidecar import write_sidecar

FREQUENCY_TOLERANCE_MHZ = 1e-3
PLACE_TOLERANCE_MM = 0.1
"""Signals that differ by less are of one acquisition: scanners adjust the frequency between averages."""


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


class SpectraOfSeries(Objects):
    """The spectra of a series (`node.conversion.datasets.Objects`)."""

    def __init__(self) -> None:
        super().__init__()
        self._signals: list[Signals] = []
        self._seen: set[str] = set()
        self._groups: list[list[Signals]] | None = None

    def take(self, ds: Dataset) -> bool:
        """See `Objects`."""
        sop_class = text(ds, "SOPClassUID")
        if sop_class == PHILIPS_SPECTRUM:
            detail = (
                "Philips' private MR Spectrum Storage, whose layout is not documented; export the spectra as MR "
                "Spectroscopy Storage"
            )
            raise ConversionRefused(Reason.UNPROVEN_LAYOUT, detail)
        if sop_class != MR_SPECTROSCOPY and not is_spectrum(ds):
            return False
        uid = text(ds, "SOPInstanceUID")
        if uid in self._seen:
            return True
        self._seen.add(uid)
        signals = read_enhanced(ds) if sop_class == MR_SPECTROSCOPY else [read_classic(ds)]
        fields = describe(ds, [_frame(uid, signals[0])])
        words = identifying_words(ds)
        for signal in signals:
            facts = {name: fact for name, fact in signal.facts.items() if not repeats(fact, words)}
            self._signals.append(replace(signal, fields=fields, facts=facts))
        return True

    def evidence(self) -> list[Evidence]:
        """Return how many averages are missing of those that the protocol of the scanner plans."""
        found = []
        for group in self._grouped():
            planned = group[0].planned_averages
            if group[0].role or not planned or len({signal.coil for signal in group}) > 1:
                continue
            delivered = round(sum((signal.averages or 0) * signal.voxels.shape[4] for signal in group))
            if 0 < delivered < planned:
                fact = f"{delivered} of {planned} averages that the protocol plans"
                missing = planned - delivered
                found.append(Evidence("headers", fact, f"{missing} averages", missing, doubtful=True))
        return found

    def write(self, output: Output) -> WrittenObjects:
        """See `Objects`."""
        files: list[ConvertedFile] = []
        sources: list[FileSource] = []
        made = list(self._made())
        suffixes = _suffixes([spectra.signals for spectra in made])
        for stack, (spectra, suffix) in enumerate(zip(made, suffixes, strict=True), start=output.stack):
            files.append(write_spectra(replace(spectra, suffix=suffix), replace(output, stack=stack)))
            sources += [FileSource(stack, signal.sop_instance_uid, len(signal.frames)) for signal in spectra.signals]
        return WrittenObjects(files, sources)

    def _grouped(self) -> list[list[Signals]]:
        """Return the signals that belong together, each group in the order of Instance Numbers; drop copies."""
        if self._groups is None:
            self._groups = _groups(self._without_copies())
        return self._groups

    def _without_copies(self) -> list[Signals]:
        """Return the signals in order. Noise never repeats: equal signals are copies under another UID."""
        by_plane: dict[bytes, Signals] = {}
        ordered = sorted(self._signals, key=lambda signal: (signal.number or 0, signal.sop_instance_uid))
        distinct = []
        for signal in ordered:
            content = signal.voxels.tobytes()
            if not signal.voxels.any() or by_plane.setdefault(content, signal) is signal:
                distinct.append(signal)
                continue
            detail = "a copy of the signals of an instance under another SOP Instance UID (0008,0018)"
            self.exclusions.append(
                Exclusion(signal.sop_instance_uid, len(signal.frames), Reason.DUPLICATE_SLICE, detail)
            )
        return distinct

    def _made(self) -> Iterator[Spectra]:
        for group in self._grouped():
            try:
                yield _combined(group)
            except ConversionRefused as refused:
                uids = tuple(signal.sop_instance_uid for signal in group)
                self.refusals.append(Refusal(Reason(refused.reason), refused.detail, uids))


def _frame(uid: str, signal: Signals) -> Frame:
    """Return a frame as the fields of sidecars are read from one."""
    columns, rows = signal.voxels.shape[:2]
    return Frame(uid, signal.frames[0], lambda: np.zeros((rows, columns), np.int16), rows, columns)


def _traits(signal: Signals) -> tuple[Any, ...]:
    """Return what signals of one file share exactly."""
    dwell_s, echo_s = round(signal.dwell_s, 12), signal.facts.get("EchoTime")
    return signal.voxels.shape[:4], dwell_s, signal.nucleus, echo_s, signal.role


def _groups(signals: Sequence[Signals]) -> list[list[Signals]]:
    by_traits: dict[tuple[Any, ...], list[list[Signals]]] = defaultdict(list)
    for signal in signals:
        alike = by_traits[_traits(signal)]
        group = next((group for group in alike if _is_of(signal, group[0])), None)
        if group is None:
            alike.append([signal])
        else:
            group.append(signal)
    return [group for alike in by_traits.values() for group in alike]


def _is_of(signal: Signals, first: Signals) -> bool:
    if abs(signal.frequency_mhz - first.frequency_mhz) > FREQUENCY_TOLERANCE_MHZ:
        return False
    one, other = signal.place.affine_lps, first.place.affine_lps
    if one is None or other is None:
        return one is other
    return bool(np.abs(one - other).max() <= PLACE_TOLERANCE_MM)


def _suffixes(groups: Sequence[Sequence[Signals]]) -> list[str]:
    """Return names that tell the files of a series apart; one alone needs none."""
    mains = [group[0] for group in groups if not group[0].role]
    echoes = sorted({main.facts.get("EchoTime", 0.0) for main in mains})
    names = []
    for group in groups:
        first = group[0]
        if first.role:
            names.append(first.role)
        elif len(mains) == 1:
            names.append("")
        elif len(echoes) == len(mains):
            names.append(f"e{echoes.index(first.facts.get('EchoTime', 0.0)) + 1}")
        else:
            names.append(str(mains.index(first) + 1))
    seen: dict[str, int] = defaultdict(int)
    for index, name in enumerate(names):
        seen[name] += 1
        if seen[name] > 1:
            names[index] = f"{name}-{seen[name]}"
    return names


def _combined(group: Sequence[Signals]) -> Spectra:
    """Return the spectra of a group with the dimensions that are more than one.

    Raises ConversionRefused: nothing tells their order, or elements of the coil lack transients.
    """
    first = group[0]
    if len(group) > 1 and (None in (numbers := [signal.number for signal in group]) or len(set(numbers)) < len(group)):
        detail = f"{len(group)} spectra of one voxel without different Instance Numbers (0020,0013), which order them"
        raise ConversionRefused(Reason.UNPROVEN_LAYOUT, detail)
    warnings = [VolumeWarning(WarningKind.PARAMETER_VARIES, doubt) for doubt in first.doubts]
    if first.place.affine_lps is None:
        warnings.append(VolumeWarning(WarningKind.NO_GEOMETRY, first.place.doubt))
    coils = list(dict.fromkeys(signal.coil for signal in group))
    tags: dict[str, Any] = {}
    if first.conditions:
        voxels, tags = _edited(group)
    elif len(coils) > 1:
        voxels, tags = _by_coil(group, coils)
    else:
        voxels = np.concatenate([signal.voxels for signal in group], axis=4)
        if voxels.shape[4] > 1:
            tags = {"dim_5": "DIM_DYN"}
    if not tags:
        voxels = voxels[..., 0]
    return Spectra(voxels, tuple(group), tags, tuple(warnings))


def _by_coil(group: Sequence[Signals], coils: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """Return (..., coils, transients), and the names of these dimensions."""
    of_coils = [np.concatenate([signal.voxels for signal in group if signal.coil == coil], axis=4) for coil in coils]
    counts = {voxels.shape[4] for voxels in of_coils}
    if len(counts) > 1:
        detail = f"elements of the receive coil have between {min(counts)} and {max(counts)} spectra; send the rest"
        raise ConversionRefused(Reason.INCOMPLETE, detail)
    voxels = np.stack(of_coils, axis=4)
    if counts == {1}:
        return voxels[..., 0], {"dim_5": "DIM_COIL"}
    return voxels, {"dim_5": "DIM_COIL", "dim_6": "DIM_DYN"}


def _edited(group: Sequence[Signals]) -> tuple[Any, dict[str, Any]]:
    """Return (..., transients, conditions), and the names of these dimensions."""
    voxels = np.concatenate([signal.voxels for signal in group], axis=4)
    conditions = np.array([condition for signal in group for condition in signal.conditions])
    on, off = (voxels[..., conditions == name] for name in ("ON", "OFF"))
    if on.shape[4] != off.shape[4]:
        detail = f"the edited acquisition has {on.shape[4]} spectra ON and {off.shape[4]} OFF"
        raise ConversionRefused(Reason.CONTRADICTORY, detail)
    tags = {"dim_5": "DIM_DYN", "dim_6": "DIM_EDIT", "dim_6_header": {"EditCondition": ["ON", "OFF"]}}
    return np.stack((on, off), axis=5), tags


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
