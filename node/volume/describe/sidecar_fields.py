"""Facts about a stack for its sidecar, in the terms of BIDS, from an allow-list.

What is not in `BIDS_FIELDS` never reaches a sidecar. Names that people type (study, series and protocol descriptions,
sequence names, institution, station, operators, comments) and serial numbers are left out: in practice they hold
names of patients and staff. Of the facts that are in the list, a text that repeats a word of the patient's or the
staff's names or identifiers is left out too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

from node.dicom.private import private_items
from node.dicom.values import items, value, whole
from node.volume.arrange.temporal.slice_timing import slice_timing
from node.volume.describe.bids_fields import BIDS_FIELDS, BidsField
from node.volume.describe.phase_encoding import XA_FRAME, phase_encoding
from node.volume.model import Frame
from node.volume.vendors import acquisition_fields, pause_s
from node.volume.vendors.philips import FRAME as PHILIPS_FRAME
from node.volume.vendors.siemens import XA_SERIES

PRIVATE_GROUPS = (
    XA_FRAME,
    XA_SERIES,
    PHILIPS_FRAME,
)
"""Where vendors keep what they know of a frame or of all frames of an enhanced object."""

MAX_TEXT_LENGTH = 64
"""Characters of LO, PS3.5 6.2: no allowed attribute is longer."""

IDENTIFYING = (
    "PatientName",
    "PatientID",
    "OtherPatientIDs",
    "OtherPatientNames",
    "PatientBirthName",
    "PatientBirthDate",
    "PatientMotherBirthName",
    "PatientAddress",
    "AccessionNumber",
    "InstitutionName",
    "InstitutionAddress",
    "InstitutionalDepartmentName",
    "ReferringPhysicianName",
    "PhysiciansOfRecord",
    "PerformingPhysicianName",
    "NameOfPhysiciansReadingStudy",
    "RequestingPhysician",
    "OperatorsName",
    "ContentCreatorName",
    "StationName",
    "DeviceSerialNumber",
)
"""Attributes whose words may not come back in a fact."""

NEVER_IDENTIFYING = frozenset(
    {
        *("Modality", "ImageType", "PatientPosition", "Units"),
        *("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPClassUID"),
    }
)
"""Kept even when they repeat such a word: coded by the standard (a phantom may be called ``CT``), or identifiers of
objects, in which vendors put the serial number of the device.
"""


def describe(ds: Dataset, frames: Sequence[Frame]) -> dict[str, Any]:
    """Return the allowed facts about one stack, with BIDS' names and units (seconds, millimetres, degrees, tesla).

    Parameters
    ----------
    ds : Dataset
        The first data set of the stack.
    frames : sequence of Frame
        All planes of the stack in their order: slices of the first time first.

    Notes
    -----
    Attributes of enhanced objects come from the shared functional groups and from those of the first frame
    (PS3.3 C.7.6.16). `PhaseEncodingDirection` and `SliceTiming` are along the axes and slices of the volume as the
    stack has them: i along a row, j down a column, k in the order of the frames.
    """
    places = list(_places(ds, frames[0].frame_number if frames else 1))
    words = {word for keyword in IDENTIFYING for word in _words(str(value(ds, keyword) or ""))}
    facts: dict[str, Any] = {}
    for fact in BIDS_FIELDS:
        found = _read(fact, places)
        if found is not None and (fact.name in NEVER_IDENTIFYING or not _repeats(found, words)):
            facts[fact.name] = found
    if facts.get("Modality") == "MR":
        told = acquisition_fields(places)
        facts |= {name: _bounded(fact) for name, fact in told.items() if not (name in facts or _repeats(fact, words))}
        facts |= phase_encoding(places, *_plane(ds, frames))
        repetition_time_s = facts.get("RepetitionTime")
        if repetition_time_s is not None:
            facts["RepetitionTime"] = repetition_time_s = _seconds(repetition_time_s + pause_s(ds))
        timing = slice_timing(ds, frames, repetition_time_s, int(facts.get("MultibandAccelerationFactor", 1)))
        if timing is not None:
            facts["SliceTiming"] = timing
    return facts


def _places(ds: Dataset, frame_number: int) -> Iterator[Dataset]:
    """Yield where facts may be: the data set, the functional groups of one frame, the shared ones, the vendor's."""
    yield ds
    per_frame = items(ds, "PerFrameFunctionalGroupsSequence")
    shared = items(ds, "SharedFunctionalGroupsSequence")
    for groups in (*per_frame[frame_number - 1 : frame_number], *shared[:1]):
        yield groups
        for keyword in map(keyword_for_tag, groups.keys()):
            if keyword.endswith("Sequence"):
                yield from items(groups, keyword)[:1]
    yield from items(ds, "RadiopharmaceuticalInformationSequence")[:1]
    yield from items(ds, "RealWorldValueMappingSequence")[:1]
    for group in (ds, *per_frame[frame_number - 1 : frame_number], *shared[:1]):
        for tag in PRIVATE_GROUPS:
            yield from private_items(group, tag)[:1]


def _plane(ds: Dataset, frames: Sequence[Frame]) -> tuple[int, int]:
    """Return rows and columns of one plane, which may be a tile of what the data set holds."""
    return (frames[0].rows, frames[0].columns) if frames else (whole(ds, "Rows") or 0, whole(ds, "Columns") or 0)


def _read(fact: BidsField, places: Sequence[Dataset]) -> Any:
    """Return the first value of a fact that is there; None where there is none, or nothing a sidecar can hold."""
    for keyword in fact.keywords:
        for place in places:
            found = fact.read(place, keyword)
            if found is None or found in ("", ()):
                continue
            if isinstance(found, tuple):
                return [_bounded(each) for each in found]
            return _bounded(found) if fact.factor is None else _seconds(found * fact.factor)
    return None


def _bounded(found: Any) -> Any:
    return found[:MAX_TEXT_LENGTH] if isinstance(found, str) else found


def _seconds(found: float) -> float:
    """Return a product without the noise of binary fractions: 2435.37 ms are 2.43537 s."""
    return float(f"{found:.12g}")


def _words(found: str) -> Iterator[str]:
    """Yield the words that could name somebody: three characters and more."""
    return (word for word in re.split(r"[\W_]+", found.casefold()) if len(word) > 2)


def _repeats(found: Any, words: set[str]) -> bool:
    several = found if isinstance(found, list) else [found]
    return any(word in words for each in several if isinstance(each, (str, int)) for word in _words(str(each)))
