"""Series of a subject, with the files that a node would have written for them."""

import datetime as dt
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from isal import igzip

from node.extensions.bids.planned import SeriesVolume, SubjectSeries
from node.extensions.bids.rules import Rules, read_rules
from node.extensions.bids.subjects import SubjectPatient
from node.selector.fields import FIELDS

EPI = {"PulseSequenceType": "Gradient Echo EPI", "RepetitionTime": 2.0, "EchoTime": 0.03, "PhaseEncodingDirection": "j"}
AXIAL = {"ImageOrientationPatientDICOM": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0], "EffectiveEchoSpacing": 0.0005}
MORNING = dt.datetime(2026, 1, 31, 8)


def facts(**known: Any) -> dict[str, Any]:
    """The facts of a series: nothing but these and what every complete MR series has."""
    nothing = {name: [] if field.several else None for name, field in FIELDS.items()}
    return {**nothing, "modality": "MR", "verdict": "complete", "series_number": 1, **known}


def geometry(times: int = 1, **changes: Any) -> dict[str, Any]:
    size = {"columns": 4, "rows": 4, "slices": 3, "times": times}
    spacing = {"column_spacing_mm": 1.0, "row_spacing_mm": 1.0, "slice_spacing_mm": 1.0}
    return {**size, **spacing, "geometry": "regular", "orientation": "axial", "warnings": [], **changes}


def nifti(times: int, value: int, repetition_time_s: float) -> bytes:
    """A volume of NIfTI-1 with the size of `geometry`."""
    image = nibabel.Nifti1Image(np.full((4, 4, 3, times)[: 3 + (times > 1)], value, np.int16), np.eye(4))
    image.header.set_xyzt_units("mm", "sec")
    if times > 1:
        image.header.set_zooms((1, 1, 1, repetition_time_s))
    return igzip.compress(image.to_bytes(), mtime=0)


class Listed:
    """A source of series that are all of one patient."""

    not_selected = 0

    def __init__(self, *series: SubjectSeries) -> None:
        self.series = series

    def patients(self, number: int | None = None) -> dict[int, SubjectPatient]:
        return {1: SubjectPatient("\\P1", "P1")}

    def patient_of(self, study_instance_uid: str) -> int | None:
        return 1

    def series_of(self, patients: Sequence[int]) -> Iterator[SubjectSeries]:
        yield from self.series

    def series_keys(self) -> None:
        """Others may be elsewhere."""


class Scanner:
    """Makes series in a folder; each has the next UID and begins a minute after the one before."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, 0

    def series(
        self,
        description: str,
        *suffixes: str,
        times: int = 1,
        study: int = 1,
        gradients: bool = False,
        sidecars: dict[str, dict[str, Any]] | None = None,
        modality: str = "MR",
        **sidecar: Any,
    ) -> SubjectSeries:
        """A complete series with one volume for each suffix."""
        self.made += 1
        started = MORNING + dt.timedelta(days=study, minutes=self.made)
        volumes = []
        for stack, suffix in enumerate(suffixes or ("",)):
            stem = self.folder / f"{self.made}-{stack}"
            content = nifti(times, self.made, float(sidecar.get("RepetitionTime", 0)))
            stem.with_suffix(".nii.gz").write_bytes(content)
            fields = {"Modality": modality, "AcquisitionTime": started.time().isoformat(), **sidecar}
            fields |= (sidecars or {}).get(suffix, {})
            stem.with_suffix(".json").write_text(json.dumps(fields))
            if gradients:
                stem.with_suffix(".bval").write_text("0 1000\n")
                stem.with_suffix(".bvec").write_text("0 1\n0 0\n0 0\n")
            digest = hashlib.sha256(content).hexdigest()
            volumes.append(SeriesVolume(stack, suffix, stem.with_suffix(".nii.gz"), digest, geometry(times)))
        known = facts(
            modality=modality, series_description=description, series_number=self.made, study_date=started.date()
        )
        return SubjectSeries(
            1, f"1.2.{study}", f"1.2.{study}.{self.made}", known, MORNING, started, None, None, tuple(volumes)
        )


def rules_of(text: str, folder: Path) -> Rules:
    (folder / "rules.toml").write_text(text)
    return read_rules(folder / "rules.toml")
