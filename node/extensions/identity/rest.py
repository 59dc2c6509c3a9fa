"""REST: merge a patient into another one, correct one, undo either, and the plan of each."""

from typing import Annotated

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field

from node.api import (
    ADMINS,
    MAX_ISSUER_CHARACTERS,
    OF_CHANGES,
    Change,
    CurrentCall,
    Decision,
    PatientResource,
    ReadIndex,
    RowId,
    api_router,
    only_row,
    problems,
)

router = api_router(ADMINS, "patients")

PatientNumber = Annotated[RowId, Path(description="`id` of the patient")]
StudyUid = Annotated[str | None, Field(max_length=64, description="Study Instance UID")]
DryRun = Annotated[bool, Query(description="only list the studies that would move")]


class MergeRequest(BaseModel):
    """The patient into which another one is merged."""

    model_config = ConfigDict(extra="forbid")

    into: RowId


class CorrectRequest(BaseModel):
    """What is right of a patient, or of the one of `study`; null: what is there; empty: it is not known."""

    model_config = ConfigDict(extra="forbid")

    patient_id: str | None = None
    issuer_of_patient_id: str | None = None
    patient_name: str | None = None
    patient_birth_date: Annotated[str | None, Field(description="YYYYMMDD")] = None
    patient_sex: str | None = None
    study: StudyUid = None


class SeparateRequest(BaseModel):
    """The issuer of the Patient ID of this person; empty: the one in the files; null: as it is.

    `study`: the study whose correction is undone; null: what was decided of the patient.
    """

    model_config = ConfigDict(extra="forbid")

    issuer: Annotated[str | None, Field(max_length=MAX_ISSUER_CHARACTERS)] = None
    study: StudyUid = None


class MergeResult(Decision):
    """The studies that were moved, or would be in a dry run."""

    studies: list[str]


def _patient(index: ReadIndex, id: int) -> PatientResource:
    return PatientResource.of(only_row(index.patients, "patient", id=id))


@router.post("/patients/{id}/merge", responses=problems(*OF_CHANGES))
def merge_patient(
    call: CurrentCall, change: Change, id: PatientNumber, merge: MergeRequest, dry_run: DryRun = False
) -> MergeResult:
    """Merge this patient into another one, which gets its current and future studies."""
    return change.make(
        MergeResult,
        lambda index: _patient(index, id),
        lambda terms: call.act("merge-patients", source=id, target=merge.into, terms=terms, dry_run=dry_run),
    )


@router.post("/patients/{id}/correct", responses=problems(*OF_CHANGES))
def correct_patient(
    call: CurrentCall, change: Change, id: PatientNumber, correct: CorrectRequest, dry_run: DryRun = False
) -> MergeResult:
    """Correct who this patient is, or of whom one study is; see `voxelnode patient correct`."""
    values = correct.model_dump(exclude={"study"})
    return change.make(
        MergeResult,
        lambda index: _patient(index, id),
        lambda terms: call.act(
            "correct-patient", patient=id, correction=values, study=correct.study, terms=terms, dry_run=dry_run
        ),
    )


@router.post("/patients/{id}/separate", responses=problems(*OF_CHANGES))
def separate_patient(
    call: CurrentCall, change: Change, id: PatientNumber, separate: SeparateRequest, dry_run: DryRun = False
) -> MergeResult:
    """Undo the merge or correction of this patient, or give its Patient ID an issuer, or both; see
    `voxelnode patient separate`."""
    return change.make(
        MergeResult,
        lambda index: _patient(index, id),
        lambda terms: call.act("separate-patient", patient=id, **separate.model_dump(), terms=terms, dry_run=dry_run),
    )
