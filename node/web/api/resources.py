"""Patients, studies, series and instances: lists, single resources, files, deletion, reconversion."""

import datetime as dt
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import Depends, HTTPException, Path, Query, Response
from starlette.background import BackgroundTask

from node.audit.audit_files import Holder
from node.children.decoder import NotDecoded
from node.conversion.naming import folder_name
from node.dicom.attributes import MAX_TEXT_BYTES
from node.errors import counted
from node.index.look.study_search import StudyCondition, StudyCursor, StudyFilter
from node.index.look.views import ReadIndex
from node.index.rows.converted import SeriesKey
from node.index.rows.records import Level
from node.index.rows.repositories import Row, Terms
from node.index.rules.custody.deletions import plan_deletion
from node.selector import MAX_LENGTH, compile_selector
from node.selector.fields import SeriesState
from node.web import actions
from node.web.access import ADMINS, MEMBERS, WRITERS, WRITING_MEMBERS, Call, CurrentCall
from node.web.api import models
from node.web.api.models import RowId
from node.web.api.routing import (
    OF_CHANGES,
    Change,
    Page,
    RequestedPage,
    UidFilters,
    api_router,
    cursor,
    downloads,
    only_row,
    parse_cursor,
    problems,
    query_detail,
    single,
    tagged,
)
from node.web.audit_trail import of_study
from node.web.errors import ResourceNotFound
from node.web.files import (
    DAMAGED,
    OCTETS,
    Damaged,
    add_digest,
    digest_of,
    file_response,
    leaving_file,
    type_or_octets,
    wants_digest,
)
from node.web.problem_types import AMBIGUOUS, CONFLICT, INVALID_REQUEST, WRONG_CURSOR

router = api_router(MEMBERS)

MAX_SERIES = 100_000
"""Largest number of series in one study; real studies have far fewer."""

StudyUid = Annotated[str, Path(max_length=64, description="Study Instance UID")]
SeriesUid = Annotated[str, Path(max_length=64, description="Series Instance UID")]


OneSeries = Annotated[str | None, Query(min_length=1, max_length=64, description="only this series of the study")]


def _series_key(study_instance_uid: StudyUid, series_instance_uid: SeriesUid) -> SeriesKey:
    return study_instance_uid, series_instance_uid


RequestedSeries = Annotated[SeriesKey, Depends(_series_key)]
"""Parameter of a route: the series in its path."""


def _study_or_series(study_instance_uid: StudyUid, series_instance_uid: OneSeries = None) -> tuple[str, str | None]:
    return study_instance_uid, series_instance_uid


StudyOrSeries = Annotated[tuple[str, str | None], Depends(_study_or_series)]
"""Parameter of a route: the study in its path, or the series of it in its query."""

To = Annotated[str, Query(max_length=64, description="name of a peer with a host, or of a destination")]
InstanceUid = Annotated[str, Path(max_length=64, description="SOP Instance UID")]
PatientNumber = Annotated[RowId, Path(description="`id` of the patient")]
DICOM = "application/dicom"

DryRun = Annotated[bool, Query(description="only report what would be deleted")]
Erase = Annotated[bool, Query(description="remove the files at once, instead of keeping them in the trash")]
OptionalPatientId = Annotated[str | None, Query(max_length=MAX_TEXT_BYTES, description="Patient ID")]
Text = Annotated[str, Query(max_length=MAX_TEXT_BYTES)]
"""Parts of texts of instances, or the whole of them."""


@router.get("/patients", responses=problems(WRONG_CURSOR), tags=["patients"])
def list_patients(
    page: RequestedPage,
    patient_id: OptionalPatientId = None,
    name: Annotated[Text | None, Query(description="beginning of the name, case-insensitive")] = None,
) -> Page[models.PatientResource]:
    """Patients, newest first."""
    wanted = {"patient_id": patient_id, "name": name}
    return page.read("patients", models.PatientResource, lambda index: index.patients, **wanted)


@router.get("/patients/{id}", responses=single(), tags=["patients"])
def show_patient(call: CurrentCall, response: Response, id: PatientNumber) -> models.PatientResource:
    """One patient."""
    with call.node.index.reading() as index:
        patient = _patient(index, id)
    call.audit.accessed([{"patient_id": patient.patient_id or ""}])
    return tagged(response, patient)


@router.get("/studies", responses=problems(WRONG_CURSOR), tags=["studies"])
def list_studies(
    page: RequestedPage,
    words: Annotated[Text, Query(description="words in patient's name, ID or accession number")] = "",
    patient_id: OptionalPatientId = None,
    accession_number: Annotated[Text | None, Query(description="Accession Number")] = None,
    description: Annotated[Text, Query(description="part of the study or a series description")] = "",
    modality: Annotated[Text, Query(description="modality of at least one series")] = "",
    first_date: Annotated[dt.date | None, Query(description="earliest Study Date")] = None,
    last_date: Annotated[dt.date | None, Query(description="latest Study Date")] = None,
    condition: Annotated[
        StudyCondition | None,
        Query(
            description="open, refused, failed: at least one series is; suspect, incomplete: at least one converted "
            "series is; complete, verified: every converted series "
            "is; no-gap-seen: complete, but no count was announced for one of them"
        ),
    ] = None,
    label: Annotated[str, Query(max_length=64, description="label of the study or of a series")] = "",
    order: Annotated[
        Literal["received", "date"], Query(description="newest by time of reception, or by Study Date")
    ] = "received",
) -> Page[models.StudyResource]:
    """Studies, newest first, by time of reception or by Study Date."""
    wanted = StudyFilter(
        words,
        description,
        modality,
        first_date,
        last_date,
        condition,
        patient_id=patient_id,
        accession_number=accession_number,
        label=label,
    )
    position = parse_cursor(page.after)
    with page.call.node.index.searching() as index:
        studies = index.studies.listed(wanted, order, StudyCursor(*position) if position else None, page.limit)
        total = index.studies.matching(wanted).count() if page.total else None
    page.call.audit.queried(query_detail("studies", **asdict(wanted)), len(studies))
    last = studies[-1].cursor if len(studies) == page.limit else None
    items = [models.StudyResource.of(study) for study in studies]
    return Page(items=items, next=cursor(last.id, last.study_date) if last else None, total=total)


@router.get("/studies/{study_instance_uid}", responses=single(), tags=["studies"])
def show_study(call: CurrentCall, response: Response, study_instance_uid: StudyUid) -> models.StudyResource:
    """One study."""
    with call.node.index.reading() as index:
        study = _study(index, study_instance_uid)
    call.audit.accessed([of_study(study_instance_uid, study.patient_id)])
    return tagged(response, study)


@router.delete("/studies/{study_instance_uid}", responses=problems(*OF_CHANGES), tags=["studies"], dependencies=ADMINS)
def delete_study(
    call: CurrentCall, change: Change, study_instance_uid: StudyUid, dry_run: DryRun = False, erase: Erase = False
) -> models.DeletionResult:
    """Delete a study: rows, volumes and pictures; its DICOM files stay in the trash for a while."""
    delete = partial(_delete, call, "study", study_instance_uid, study_instance_uid, dry_run, erase)
    return change.make(models.DeletionResult, lambda index: _study(index, study_instance_uid), delete)


@router.post(
    "/studies/{study_instance_uid}/reconvert",
    status_code=202,
    responses=problems(*OF_CHANGES),
    tags=["studies"],
    dependencies=WRITING_MEMBERS,
)
def reconvert_study(call: CurrentCall, change: Change, key: StudyOrSeries) -> models.ReconvertResult:
    """Convert every series of a study again, or one; series whose volumes would be the same are left unchanged."""

    def act(terms: Terms) -> Mapping[str, Any]:
        with call.node.index.reading() as index:
            _seen(index, key)
            rows = index.series.page(None, MAX_SERIES, study_instance_uid=key[0], series_instance_uid=key[1])
        series = [row["series_instance_uid"] for row in rows]
        return actions.reconvert(call, key[0], series, terms)

    return change.make(models.ReconvertResult, lambda index: _seen(index, key), act)


@router.post(
    "/studies/{study_instance_uid}/send",
    status_code=202,
    responses=problems(*OF_CHANGES, CONFLICT),
    tags=["studies"],
    dependencies=WRITERS,
)
def send_study(call: CurrentCall, change: Change, key: StudyOrSeries, to: To) -> models.SendResult:
    """Send a study, or a series of it, to a peer or another destination, as routes do: it waits until it can be."""
    return change.make(models.SendResult, lambda index: _seen(index, key), lambda _: actions.send(call, to, *key))


@router.get("/series", responses=problems(INVALID_REQUEST, WRONG_CURSOR), tags=["series"])
def list_series(
    page: RequestedPage,
    uids: UidFilters,
    modality: Annotated[Text | None, Query(description="Modality")] = None,
    state: Annotated[list[SeriesState] | None, Query(max_length=6, description="any of these states")] = None,
    verdict: Annotated[str | None, Query(max_length=324, description="whether the series is complete")] = None,
    where: Annotated[
        str | None, Query(max_length=MAX_LENGTH, description="an expression, as `voxelnode select` has it")
    ] = None,
) -> Page[models.SeriesResource]:
    """Series, newest first."""
    selector = compile_selector(where) if where is not None else None
    wanted = {**uids, "modality": modality, "verdict": verdict, "states": state or (), "where": selector}
    return page.read("series", models.SeriesResource, lambda index: index.series, **wanted)


@router.get("/studies/{study_instance_uid}/series/{series_instance_uid}", responses=single(), tags=["series"])
def show_series(call: CurrentCall, response: Response, key: RequestedSeries) -> models.SeriesResource:
    """One series. It takes both UIDs, because the same Series Instance UID in two studies means two series."""
    with call.node.index.reading() as index:
        series = _series(index, key)
        patient_id = index.studies.patient_id(key[0])
    call.audit.accessed([of_study(key[0], patient_id)])
    return tagged(response, series)


@router.delete(
    "/studies/{study_instance_uid}/series/{series_instance_uid}",
    responses=problems(*OF_CHANGES),
    tags=["series"],
    dependencies=ADMINS,
)
def delete_series(
    call: CurrentCall, change: Change, key: RequestedSeries, dry_run: DryRun = False, erase: Erase = False
) -> models.DeletionResult:
    """Delete a series: rows, volumes and pictures; its DICOM files stay in the trash for a while."""
    delete = partial(_delete, call, "series", key[1], key[0], dry_run, erase)
    return change.make(models.DeletionResult, lambda index: _series(index, key), delete)


@router.get("/instances", responses=problems(WRONG_CURSOR), tags=["instances"])
def list_instances(page: RequestedPage, uids: UidFilters) -> Page[models.InstanceResource]:
    """Stored instances, newest first."""
    return page.read("instances", models.InstanceResource, lambda index: index.instances, **uids)


@router.get("/instances/{sop_instance_uid}", responses=single(), tags=["instances"])
def show_instance(call: CurrentCall, response: Response, sop_instance_uid: InstanceUid) -> models.InstanceResource:
    """One stored instance."""
    with call.node.index.reading() as index:
        row = _instance(index, sop_instance_uid)
    call.audit.accessed([of_study(row["study_instance_uid"], row["patient_id"])])
    return tagged(response, models.InstanceResource.of(row))


@router.head("/instances/{sop_instance_uid}/file", include_in_schema=False)
@router.get(
    "/instances/{sop_instance_uid}/file",
    tags=["instances"],
    response_class=Response,
    responses=downloads("A DICOM file (PS3.10)", DICOM, OCTETS),
)
def download_instance(call: CurrentCall, sop_instance_uid: InstanceUid) -> Response:
    """The file of an instance: File Meta Information, then the data set, byte for byte as received.

    If somebody decided who the patient is, it has that identity, and Original Attributes Sequence. It is
    application/dicom, or application/octet-stream if the request accepts only this. `sha256` of the instance is that of
    the stored data set; Repr-Digest has that of the file, for requests with `Want-Repr-Digest: sha-256=1`.
    """
    with call.node.index.reading() as index:
        row = _instance(index, sop_instance_uid)
        stored = next(index.files.stored(row["study_instance_uid"], None, [sop_instance_uid]), None)
    if stored is None:
        raise HTTPException(410, DAMAGED)
    kept = ExitStack()  # what is made for this answer is there until it is sent
    try:
        path = kept.enter_context(leaving_file(call.node, stored))
    except (Damaged, NotDecoded) as error:
        raise HTTPException(410, str(error)) from error
    call.audit.transferred([of_study(row["study_instance_uid"], row["patient_id"])])
    media_type = type_or_octets(call.request.headers, DICOM)
    response = file_response(path, media_type, f"{folder_name(sop_instance_uid)}.dcm", stored.version)
    response.background = BackgroundTask(kept.close)
    response.headers.add_vary_header("Accept")
    if wants_digest(call.request.headers):
        add_digest(response, digest_of(path))
    return response


@router.delete(
    "/instances/{sop_instance_uid}", responses=problems(*OF_CHANGES, AMBIGUOUS), tags=["instances"], dependencies=ADMINS
)
def delete_instance(
    call: CurrentCall, change: Change, sop_instance_uid: InstanceUid, dry_run: DryRun = False, erase: Erase = False
) -> models.DeletionResult:
    """Delete an instance, into the trash; its series is converted again without it."""
    delete = partial(_delete, call, "instance", sop_instance_uid, None, dry_run, erase)
    return change.make(
        models.DeletionResult, lambda index: models.InstanceResource.of(_instance(index, sop_instance_uid)), delete
    )


def _patient(index: ReadIndex, id: int) -> models.PatientResource:
    return models.PatientResource.of(only_row(index.patients, "patient", id=id))


def _study(index: ReadIndex, study_instance_uid: str) -> models.StudyResource:
    studies = index.studies.listed(StudyFilter(study_instance_uid=study_instance_uid), limit=1)
    if not studies:
        raise ResourceNotFound("study")
    return models.StudyResource.of(studies[0])


def _seen(index: ReadIndex, key: tuple[str, str | None]) -> models.StudyResource | models.SeriesResource:
    study, series = key
    return _study(index, study) if series is None else _series(index, (study, series))


def _series(index: ReadIndex, key: SeriesKey) -> models.SeriesResource:
    uids = {"study_instance_uid": key[0], "series_instance_uid": key[1]}
    return models.SeriesResource.of(only_row(index.series, "series", **uids))


def _instance(index: ReadIndex, sop_instance_uid: str) -> Row:
    return only_row(index.instances, "instance", sop_instance_uid=sop_instance_uid)


def _delete(
    call: Call, level: Level, uid: str, study_instance_uid: str | None, dry_run: bool, erase: bool, terms: Terms
) -> models.DeletionResult:
    with call.node.index.reading() as index:
        plan = plan_deletion(index.connection, level, uid, study_instance_uid)
    result = models.DeletionResult(
        level=level, uid=uid, series=plan.series, instances=plan.instances, bytes=plan.bytes, deleted=not dry_run
    )
    if dry_run:
        call.audit.accessed(
            [{"study_instance_uid": plan.study_instance_uid}], f"{counted(plan.instances, 'instance')} to delete"
        )
    else:
        done = actions.delete(call, level, uid, plan.study_instance_uid, terms, erase=erase)
        result.holders = [Holder(**one) for one in done.get("holders", ())]
    return result
