"""The rules of a Modality Performed Procedure Step: what creates it, what changes it, when it is over (PS3.4 F.7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from node.dicom.attributes import is_identifier
from node.dicom.json_model import Json, json_model
from node.dicom.status import INVALID_ATTRIBUTE_VALUE, MISSING_ATTRIBUTE
from node.dicom.values import standard_tag
from node.dicom.worklist import entry_text
from node.errors import VoxelnodeError
from node.index.nouns.performed_steps import ListedSeries, PerformedStep, State

SCHEDULED = "ScheduledStepAttributesSequence"
STATUS = "PerformedProcedureStepStatus"
FINAL: tuple[State, ...] = ("COMPLETED", "DISCONTINUED")

REQUIRED = (
    SCHEDULED, "PerformedProcedureStepID", "PerformedStationAETitle",
    "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", STATUS, "Modality",
)  # fmt: skip
"""Attributes of type 1 in an N-CREATE (PS3.4 table F.7.2-1)."""

REQUIRED_AT_END = ("PerformedProcedureStepEndDate", "PerformedProcedureStepEndTime")
"""Attributes that a final state requires; COMPLETED also requires `SERIES`."""

SERIES = "PerformedSeriesSequence"

FIXED = frozenset(
    {
        SCHEDULED, "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
        "PerformedProcedureStepID", "PerformedStationAETitle", "PerformedProcedureStepStartDate",
        "PerformedProcedureStepStartTime", "Modality", "StudyID",
    }
)  # fmt: skip
"""Attributes that an N-SET must not change (PS3.4 table F.7.2-1: not allowed)."""

STEP_IS_OVER = 0xA710
"""*Error ID* (0000,0903): the step may no longer be updated (PS3.4 F.7.2.2.4)."""

REFERENCES = ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence")
"""The instances of a series in a step (PS3.3 C.4.15)."""


class StepRefused(VoxelnodeError):
    """A rule of PS3.4 F.7.2 is broken; `status` is that of the response, `tags` the attributes, if it names any."""

    def __init__(self, status: int, message: str, keywords: Sequence[str] = (), error_id: int | None = None) -> None:
        super().__init__(message)
        self.status, self.error_id = status, error_id
        self.tags: tuple[BaseTag, ...] = tuple(standard_tag(keyword) for keyword in keywords)


def created(sop_instance_uid: str, attributes: Dataset) -> PerformedStep:
    """Return the step that an N-CREATE describes.

    Raises
    ------
    StepRefused
    """
    model = _model(attributes)
    missing = [keyword for keyword in REQUIRED if not _values(model, keyword)]
    missing += [SCHEDULED] if not missing and not _items(model, SCHEDULED) else []
    if missing:
        raise StepRefused(MISSING_ATTRIBUTE, f"{missing[0]} is missing (PS3.4 table F.7.2-1)", missing)
    if entry_text(model, STATUS) != "IN PROGRESS":
        raise StepRefused(INVALID_ATTRIBUTE_VALUE, "a new step must be IN PROGRESS (PS3.4 F.7.2.1.2)", [STATUS])
    for item in _items(model, SCHEDULED):
        if not is_identifier(entry_text(item, "StudyInstanceUID")):
            message = "Study Instance UID is missing in an item (PS3.4 table F.7.2-1)"
            raise StepRefused(MISSING_ATTRIBUTE, message, ["StudyInstanceUID"])
    return _step(sop_instance_uid, model)


def changed(sop_instance_uid: str, before: Json, modification: Dataset) -> PerformedStep:
    """Return the step after an N-SET: attributes that it has are replaced, sequences as a whole (PS3.4 F.7.2.2.2).

    Raises
    ------
    StepRefused
    """
    new = _model(modification)
    for keyword in sorted(FIXED):
        tag = f"{standard_tag(keyword):08X}"
        if new.get(tag, {}).get("Value") not in (None, before.get(tag, {}).get("Value")):
            raise StepRefused(INVALID_ATTRIBUTE_VALUE, f"{keyword} must not change (PS3.4 table F.7.2-1)", [keyword])
    after = {**before, **new}
    state = entry_text(after, STATUS)
    if state not in ("IN PROGRESS", *FINAL):
        message = "the status must be IN PROGRESS, COMPLETED or DISCONTINUED (PS3.3 C.4.14)"
        raise StepRefused(INVALID_ATTRIBUTE_VALUE, message, [STATUS])
    required = (*REQUIRED_AT_END, SERIES) if state == "COMPLETED" else REQUIRED_AT_END if state in FINAL else ()
    missing = [keyword for keyword in required if not _values(after, keyword)]
    if missing:
        raise StepRefused(MISSING_ATTRIBUTE, f"a {state} step needs {missing[0]} (PS3.4 table F.7.2-1)", missing)
    return _step(sop_instance_uid, after)


def _step(sop_instance_uid: str, model: Json) -> PerformedStep:
    scheduled = _items(model, SCHEDULED)
    studies = dict.fromkeys(entry_text(item, "StudyInstanceUID") or "" for item in scheduled)
    steps = [(entry_text(item, "StudyInstanceUID"), entry_text(item, "ScheduledProcedureStepID")) for item in scheduled]
    state: State = next(known for known in ("IN PROGRESS", *FINAL) if known == entry_text(model, STATUS))
    return PerformedStep(
        sop_instance_uid=sop_instance_uid,
        state=state,
        study_instance_uid=next(iter(studies)) if len(studies) == 1 else "",
        patient_id=_short(model, "PatientID", 64),
        accession_number=_short(scheduled[0], "AccessionNumber", 16) if scheduled else None,
        performed_procedure_step_id=_short(model, "PerformedProcedureStepID", 16),
        modality=_short(model, "Modality", 16),
        station_ae_title=_short(model, "PerformedStationAETitle", 16),
        scheduled=tuple((study, step) for study, step in steps if study and step),
        series=tuple(_listed(model)),
        attributes=model,
    )


def _listed(model: Json) -> Iterator[ListedSeries]:
    """Yield the series that a step lists; what is no UID is left out."""
    for series in _items(model, SERIES):
        uid = entry_text(series, "SeriesInstanceUID")
        references = (item for keyword in REFERENCES for item in _items(series, keyword))
        uids = (entry_text(item, "ReferencedSOPInstanceUID") for item in references)
        if uid is not None and is_identifier(uid):
            yield ListedSeries(uid, tuple(dict.fromkeys(one for one in uids if one is not None and is_identifier(one))))


def _model(ds: Dataset) -> Json:
    """Return a data set in the DICOM JSON Model: text as it is in UTF-8, and without long values."""
    model = json_model(ds, lambda path: None)
    model.pop("00080005", None)
    return model


def _values(model: Json, keyword: str) -> list[Any]:
    values: list[Any] = model.get(f"{standard_tag(keyword):08X}", {}).get("Value", [])
    return [value for value in values if value not in (None, "")]


def _items(model: Json, keyword: str) -> list[Json]:
    return [item for item in _values(model, keyword) if isinstance(item, dict)]


def _short(model: Json, keyword: str, width: int) -> str | None:
    """Return a text for a column: without characters that could harm a terminal, and cut to its width."""
    text = "".join(character for character in entry_text(model, keyword) or "" if character.isprintable())
    return text[:width] or None
