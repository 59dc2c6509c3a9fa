"""Names of a study for people: its folder, and the beginning of the names of its files by series."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from node.conversion.naming import TakenNames, numbered, safe_name

VOLUME = "volume"
"""The beginning of the names of the files of a volume, in the folder of a revision."""

_DATA_FILE = re.compile(rb"(ElementDataFile = )volume[^\n.]*(\.z?raw)")


def patient_of(study: Mapping[str, Any]) -> str:
    """Return the first way to write the name of the patient of a row of ``v_studies``, else the Patient ID."""
    groups = (study["patient_name"] or "").split("=")
    return next((group for group in groups if group.strip(" ^")), None) or study["patient_id"] or "unknown"


def modalities_of(series: Sequence[Mapping[str, Any]]) -> str:
    """Return the modalities of the series of a study, as ``CT-PT``."""
    return "-".join(sorted({row["modality"] for row in series if row["modality"]}))


def study_name(study: Mapping[str, Any], series: Sequence[Mapping[str, Any]]) -> str:
    """Return the name of a study for people: ``Doe_John_2026-11-20_CT-PT``."""
    parts = (patient_of(study), study["study_date"], modalities_of(series))
    return safe_name("_".join(str(part) for part in parts if part))


def free_name(name: str, taken: TakenNames) -> str:
    """Return a name, or the first with a number behind it that is not taken; it is taken then."""
    free = next(one for one in numbered(name) if one not in taken)
    taken.add(free)
    return free


def ending_of(name: str) -> str:
    """Return the ending of the name of a file of a revision, after the name of its series."""
    return name.removeprefix(VOLUME) if name.startswith((f"{VOLUME}.", f"{VOLUME}_")) else f"_{name}"


def renamed_header(content: bytes, stem: str) -> bytes:
    """Return the header of a MetaImage whose voxels lie in a file beside it, which is called `stem` now."""
    return _DATA_FILE.sub(lambda found: found[1] + stem.encode() + found[2], content)
