"""The rows above an instance: patient, study and series, made where they are new, and what contradicts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Connection, bindparam, insert, select
from sqlalchemy.orm import aliased

from node.dicom.attributes import InstanceAttributes
from node.index.events import EventKind, record_event
from node.index.models import ConflictRow, PatientRow, SeriesRow, StudyRow
from node.index.prepared import Prepared
from node.index.records import StoredFile
from node.settings.model import OverwritePolicy

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Arrived:
    """One instance to be indexed; its series is due `quiet_seconds` after it, unless another one arrives."""

    attributes: InstanceAttributes
    file: StoredFile
    quiet_seconds: float
    overwrite_policy: OverwritePolicy = "never"


FIND_SERIES = Prepared(
    select(SeriesRow.id, PatientRow.identity, SeriesRow.state)
    .join(StudyRow, StudyRow.id == SeriesRow.study_id)
    .join(PatientRow, PatientRow.id == StudyRow.patient_id)
    .where(StudyRow.study_instance_uid == bindparam("study"), SeriesRow.series_instance_uid == bindparam("series"))
)


def patient_identity(attributes: InstanceAttributes) -> str:
    """What makes a patient one patient: issuer and ID; without an ID, the study (strangers are never merged)."""
    patient_id = attributes.patient["patient_id"]
    if not patient_id:
        return f"study {attributes.study['study_instance_uid']}"
    return f"{attributes.patient['issuer_of_patient_id'] or ''}\\{patient_id}"


def series_row(connection: Connection, one: Arrived, identity: str) -> int:
    """The row of the series, made with study and patient where they are new."""
    study_uid, series_uid = one.attributes.study["study_instance_uid"], one.attributes.series["series_instance_uid"]
    row = FIND_SERIES.execute(connection, {"study": study_uid, "series": series_uid}).fetchone()
    if row is not None:
        series_id, of_study, state = row
        if of_study != identity:
            _record_patient_conflict(connection, one, identity, of_study)
        tell_reopened(connection, one, state)
        return int(series_id)
    study_id = _study(connection, one, identity)
    if connection.execute(select(SeriesRow.id).where(SeriesRow.series_instance_uid == series_uid)).first():
        detail = "this series has arrived in another study too; both are kept apart"
        record_conflict(connection, "series-in-two-studies", one, detail)
    values = {**one.attributes.series, "study_id": study_id, "last_received_at": one.file.received_at}
    return _inserted(connection, SeriesRow, values)


def _study(connection: Connection, one: Arrived, identity: str) -> int:
    """The row of the study of a series that is new, made with its patient where they are new."""
    uid = one.attributes.study["study_instance_uid"]
    find = select(StudyRow.id.label("study"), PatientRow).join(PatientRow, PatientRow.id == StudyRow.patient_id)
    row = connection.execute(find.where(StudyRow.study_instance_uid == uid)).first()
    if row is not None:
        if row.identity != identity:
            _record_patient_conflict(connection, one, identity, row.identity)
        else:
            _compare_persons(connection, one, row)
        return int(row.study)
    patient = connection.execute(select(PatientRow).where(PatientRow.identity == identity)).first()
    if patient is None:
        patient_id = _inserted(connection, PatientRow, {**one.attributes.patient, "identity": identity})
        if not one.attributes.patient["patient_id"]:
            detail = "this study has no Patient ID (0010,0020); it has a patient of its own"
            record_conflict(connection, "no-patient-id", one, detail)
    else:
        patient_id = patient.merged_into or patient.id
        _compare_persons(connection, one, patient)
    return _inserted(connection, StudyRow, {**one.attributes.study, "patient_id": patient_id})


def _compare_persons(connection: Connection, one: Arrived, known: Any) -> None:
    """Tell once for each study when name, birth date or sex contradict each other; what one leaves out does not."""
    arriving = one.attributes.patient
    pairs = [(known.patient_birth_date, arriving["patient_birth_date"]), (known.patient_sex, arriving["patient_sex"])]
    pairs.append((_folded(known.patient_name), _folded(arriving["patient_name"])))
    if not any(mine and theirs and mine != theirs for mine, theirs in pairs):
        return
    seen = select(ConflictRow.id).where(
        ConflictRow.kind == "shared-patient-id",
        ConflictRow.study_instance_uid == one.attributes.study["study_instance_uid"],
    )
    if connection.execute(seen).first() is None:
        detail = "this Patient ID has arrived with another name, birth date or sex; the study stays with its Patient ID"
        record_conflict(connection, "shared-patient-id", one, detail)


def _folded(name: object) -> str:
    """The alphabetic component group of a PN (PS3.5 6.2.1) as far as two writings of one name agree."""
    return " ".join(str(name or "").partition("=")[0].replace("^", " ").casefold().split())


def _inserted(
    connection: Connection, table: type[PatientRow | StudyRow | SeriesRow], values: Mapping[str, object]
) -> int:
    key = connection.execute(insert(table).values(values)).inserted_primary_key
    return int(key[0]) if key is not None else 0


def _record_patient_conflict(connection: Connection, one: Arrived, identity: str, of_study: str) -> None:
    """Tell once for each series, unless the two patients were merged."""
    known, arriving = aliased(PatientRow), aliased(PatientRow)
    merged = select(known.id).where(
        known.identity == of_study, arriving.identity == identity, arriving.merged_into == known.id
    )
    seen = select(ConflictRow.id).where(
        ConflictRow.kind == "study-of-two-patients",
        ConflictRow.study_instance_uid == one.attributes.study["study_instance_uid"],
        ConflictRow.series_instance_uid == one.attributes.series["series_instance_uid"],
    )
    if connection.execute(merged).first() is None and connection.execute(seen).first() is None:
        detail = "this study has arrived under another patient; it stays with the first one"
        record_conflict(connection, "study-of-two-patients", one, detail)


def tell_reopened(connection: Connection, one: Arrived, state: str) -> None:
    """Record that an instance came for a series that was converted, refused or set aside."""
    if state not in ("receiving", "converting"):
        record_arrival_event(connection, "series-reopened", one, f"an instance arrived after the series was {state}")


def record_arrival_event(connection: Connection, kind: EventKind, one: Arrived, detail: str) -> None:
    """Record an event of an instance that has just come."""
    record_event(
        connection,
        kind,
        one.file.received_at,
        study_instance_uid=str(one.attributes.study["study_instance_uid"]),
        series_instance_uid=str(one.attributes.series["series_instance_uid"]),
        sop_instance_uid=one.attributes.sop_instance_uid,
        detail=detail,
    )


def record_conflict(
    connection: Connection,
    kind: str,
    one: Arrived,
    detail: str,
    key: str | None = None,
    sha256: str | None = None,
) -> None:
    """Record two things that claim one identity; `key` and `sha256` are of bytes kept beside those of the row."""
    uids = {
        "study_instance_uid": one.attributes.study["study_instance_uid"],
        "series_instance_uid": one.attributes.series["series_instance_uid"],
        "sop_instance_uid": one.attributes.sop_instance_uid,
    }
    connection.execute(
        insert(ConflictRow).values(
            kind=kind,
            detail=detail,
            key=key,
            sha256=sha256,
            calling_ae_title=one.file.calling_ae_title or None,
            found_at=one.file.received_at,
            **uids,
        )
    )
    log.warning("conflict", kind=kind, detail=detail, **uids)
