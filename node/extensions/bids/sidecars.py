"""Sidecars of a data set: what BIDS defines or allows of the node's own, and what it requires of each suffix.

Tables of a data set are text separated by tabs; rows and columns that others added stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from node.extensions.bids.names import Named
from node.volume.describe.sidecar_fields import MIN_IDENTIFYING_NUMBER

_OF_BIDS = re.compile(r"[A-Z][A-Za-z0-9]*")
"""Names of fields that BIDS defines, or that follow its form; keys of the node itself are in small letters."""

TYPED = {"SeriesDescription": "series_description", "ProtocolName": "protocol_name"}
"""Texts that people typed, and the facts that have them."""

TIMES_OF_DAY = frozenset({"AcquisitionTime", "SeriesTime"})

MAX_TASK_LETTERS = 64

_EMISSION = (
    *("Manufacturer", "ManufacturersModelName", "Units", "TracerName", "TracerRadionuclide", "InjectedRadioactivity"),
    *("InjectedRadioactivityUnits", "InjectedMass", "InjectedMassUnits", "SpecificRadioactivity"),
    *("SpecificRadioactivityUnits", "ModeOfAdministration", "TimeZero", "ScanStart", "InjectionStart"),
    *("FrameTimesStart", "FrameDuration", "AcquisitionMode", "ImageDecayCorrected", "ImageDecayCorrectionTime"),
    *("ReconMethodName", "ReconMethodParameterLabels", "ReconFilterType", "AttenuationCorrection"),
)
_LABELLED = (
    *("ArterialSpinLabelingType", "PostLabelingDelay", "BackgroundSuppression", "M0Type", "TotalAcquiredPairs"),
    *("RepetitionTimePreparation", "EchoTime", "MagneticFieldStrength", "MRAcquisitionType"),
)
_SPECTRA = ("EchoTime", "ResonantNucleus", "SpectrometerFrequency", "SpectralWidth")
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "bold": ("RepetitionTime|VolumeTiming",),
    "phasediff": ("EchoTime1", "EchoTime2"),
    "phase1": ("EchoTime",),
    "phase2": ("EchoTime",),
    "fieldmap": ("Units",),
    "epi": ("PhaseEncodingDirection", "TotalReadoutTime|EffectiveEchoSpacing"),
    "asl": _LABELLED,
    "m0scan": ("RepetitionTimePreparation", "EchoTime"),
    "pet": _EMISSION,
    "svs": _SPECTRA,
    "mrsi": _SPECTRA,
    "mrsref": _SPECTRA,
    "VFA": ("PulseSequenceType", "RepetitionTimeExcitation"),
    "MP2RAGE": ("FlipAngle", "RepetitionTimeExcitation", "RepetitionTimePreparation", "NumberShots"),
    "MTS": ("RepetitionTimeExcitation",),
    "MPM": ("RepetitionTimeExcitation",),
}
"""Fields without which a file of a suffix is not valid; of names separated by a bar, one is enough."""

REQUIRED_BY_ENTITY = {"echo": "EchoTime", "flip": "FlipAngle", "inv": "InversionTime", "mt": "MTState"}


def sidecar_of(
    sidecar: Mapping[str, Any], facts: Mapping[str, Any], named: Named, *, anonymous: bool, times_of_day: bool
) -> dict[str, Any]:
    """Return the sidecar of a file in a data set.

    `sidecar`: as the node wrote it: names and units of BIDS (docs/sidecar.md); `facts`: by the names of
    `node.extensions.bids.volume_fields.RULE_FIELDS`; `anonymous`: without UIDs, texts that people typed, and numbers
    that may be identifiers; `times_of_day`: with the times at which the images were made.
    """
    fields = {name: content for name, content in sidecar.items() if _OF_BIDS.fullmatch(name)}
    if anonymous:
        left_out = {name for name in fields if name.endswith("UID")} | TYPED.keys()
        number = fields.get("SeriesNumber", 0)
        left_out |= {"SeriesNumber"} if not isinstance(number, int) or number >= MIN_IDENTIFYING_NUMBER else set()
        fields = {name: content for name, content in fields.items() if name not in left_out}
    else:
        fields |= {name: facts[fact] for name, fact in TYPED.items() if facts.get(fact)}
    if not times_of_day:
        fields = {name: content for name, content in fields.items() if name not in TIMES_OF_DAY}
    if "VolumeTiming" in fields:  # BIDS excludes one by the other
        fields.pop("DelayTime", None)
    if "task" in named.entities:
        fields["TaskName"] = named.entities["task"][:MAX_TASK_LETTERS]
    if "ReconMethodParameterLabels" in fields:  # of the node, these are numbers of subsets and of iterations
        fields["ReconMethodParameterUnits"] = ["none"] * len(fields["ReconMethodParameterLabels"])
    if named.kind.datatype == "mrs":  # where BIDS has other values for it than DICOM
        fields.pop("ScanningSequence", None)
    if named.entities.get("part") == "phase":
        fields["Units"] = "arbitrary"  # the scale of phase images is the vendor's
    return fields


def missing_fields(named: Named, fields: Mapping[str, Any]) -> list[str]:
    """Return the fields that BIDS requires of a file and that its sidecar lacks."""
    required = [*REQUIRED.get(named.kind.suffix, ())]
    required += [name for entity, name in REQUIRED_BY_ENTITY.items() if entity in named.entities]
    if named.kind.suffix == "asl":
        pulsed = fields.get("ArterialSpinLabelingType") == "PASL"
        required += ["BolusCutOffFlag"] if pulsed else ["LabelingDuration"]
        if pulsed and fields.get("BolusCutOffFlag"):
            required += ["BolusCutOffDelayTime", "BolusCutOffTechnique"]
        if fields.get("MRAcquisitionType") == "2D":
            required.append("SliceTiming")
    if named.kind.suffix == "pet":
        if "none" not in fields.get("ReconMethodParameterLabels", ()):
            required += ["ReconMethodParameterValues", "ReconMethodParameterUnits"]
        if fields.get("ReconFilterType") not in ("none", ["none"]):
            required.append("ReconFilterSize")
    return [names for names in required if not any(name in fields for name in names.split("|"))]


def json_text(content: Mapping[str, Any]) -> bytes:
    """Return JSON with one field on a line, so that a change of one field is a change of one line."""
    lines = (f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in content.items())
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode("utf-8", "replace")


MISSING = "n/a"

Rows = dict[str, dict[str, str]]
"""Rows by the value of their first column."""


def read_table(file: Path, key: str) -> tuple[list[str], Rows]:
    """Return columns and rows of a table; a missing file is a table with the column `key` and no rows."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        lines = []
    cells = [line.split("\t") for line in lines if line.strip()]
    if not cells or key not in cells[0]:
        return [key], {}
    columns, place = cells[0], cells[0].index(key)
    rows = [row + [MISSING] * (len(columns) - len(row)) for row in cells[1:]]
    return columns, {row[place]: dict(zip(columns, row, strict=False)) for row in rows}


def table_text(columns: Iterable[str], rows: Mapping[str, Mapping[str, str]]) -> bytes:
    """Return a table with its rows in the order of their keys; cells without a value are ``n/a``."""
    columns = list(columns)
    lines = ["\t".join(columns)]
    lines += ["\t".join(rows[key].get(column) or MISSING for column in columns) for key in sorted(rows)]
    return ("\n".join(lines) + "\n").encode()


def with_columns(columns: list[str], added: Iterable[str]) -> list[str]:
    """Return columns with those of `added` that are not among them, at the end."""
    return [*columns, *(column for column in added if column not in columns)]
