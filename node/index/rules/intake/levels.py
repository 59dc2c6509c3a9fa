"""The rows above an instance: patient, study and series, inserted if new, and deleted when they are empty; and the
conflicts between them. What is in them is of all their instances: `node.index.rules.intake.stated`."""

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import JSON, Connection, Select, bindparam, case, delete, literal, or_, select, update
from sqlalchemy.orm import join

from node.index.rows.backend import Overtaken, backend_of
from node.index.rows.hot_statements import PreparedStatement
from node.index.rows.models.history import ConflictRow, EventKind
from node.index.rows.models.levels import Numbered, PatientRow, SeriesRow, StudyRow, Utc
from node.index.rows.records import Received
from node.index.rows.sql import insert, looked_up_in
from node.index.rules.people import identifiers
from node.index.rules.people.accounts import Content, enter_projects
from node.index.rules.work.events import record_event, uids_of
from node.registry import ORDERS, resolve

log = structlog.get_logger()

DIFFERENCES = "attributes-differ"
"""Kind of the conflicts of instances that state different things of their study or series."""

NO_ID, SHARED = "no-patient-id", "shared-patient-id"
DETAILS = {
    NO_ID: "this study has no Patient ID (0010,0020); it gets a patient of its own",
    SHARED: (
        "this Patient ID was received with another name, birth date or sex; each study is listed under the person whom "
        "most of its images name"
    ),
}
"""Kinds of the conflicts about who the patient of a study is, with what they say."""

PERSON = ("patient_id", "patient_name", *identifiers.AGE_AND_SEX)

_FIND_PLACES = PreparedStatement(
    select(StudyRow.study_instance_uid, SeriesRow.series_instance_uid, SeriesRow.id, SeriesRow.state)
    .select_from(join(SeriesRow, StudyRow))
    .where(looked_up_in(SeriesRow.series_instance_uid, bindparam("series", type_=JSON)))
)


@dataclass(frozen=True, slots=True)
class Imaged:
    """A study and its patient, as the images or a decision name him or her; `patient_row` is that patient."""

    study_instance_uid: str
    patient_row: int
    patient_id: str | None
    patient_name: str | None
    patient_birth_date: dt.date | None
    patient_sex: str | None


Place = tuple[int, str]
"""Row id and state of a series."""

Places = Mapping[tuple[str, str], Place]
"""Of series, by Study and Series Instance UID."""


def hold_new_places(connection: Connection, batch: Sequence[Received]) -> Places:
    """Let no other writer insert patients, studies and series that a batch is about to insert, or compare with.

    Returns the series of the batch that are there already.
    """
    places = _places(connection, {one.attributes.series_instance_uid for one in batch})
    names: set[str] = set()
    for attributes in (received.attributes for received in batch):
        if (place := (attributes.study_instance_uid, attributes.series_instance_uid)) not in places:
            names |= {*place, identifiers.patient_identity(attributes), f"\\{attributes.patient['patient_id'] or ''}"}
    if names:
        backend_of(connection).hold(connection, names)
    return places


def find_series(connection: Connection, received: Received) -> Place | None:
    """Return the row of the series of an instance, or None if the series is new."""
    key = received.attributes.study_instance_uid, received.attributes.series_instance_uid
    return _places(connection, key[1:]).get(key)


def _places(connection: Connection, series: Collection[str]) -> Places:
    found = _FIND_PLACES.execute(connection, {"series": [*series]})
    return {(study, uid): (row_id, state) for study, uid, row_id, state in found}


def series_row(connection: Connection, received: Received, places: Places) -> int:
    """Return the row id of the series of an instance; insert the series, its study and its patient if they are new."""
    attributes = received.attributes
    key = attributes.study_instance_uid, attributes.series_instance_uid
    known = places if key in places else _places(connection, key[1:])
    if key in known:
        series_id, state = known[key]
        if state not in ("receiving", "converting"):
            detail = f"an instance was received after the series was {state}"
            record_received_event(connection, "series-reopened", received, detail)
        return int(series_id)
    study_id = _study(connection, received)
    file = received.file
    if known and received.overwrite_policy != "accept":  # which moves it out of the series of the other study
        detail = "this series was also received in another study; the two are kept apart"
        record_conflict(connection, "series-in-two-studies", received, detail)
    values = {**attributes.series, "study_id": study_id, "last_received_at": file.received_at}
    series_id = _inserted(connection, SeriesRow, values)
    enter_projects(connection, series_id, Content(*key), file.called_ae_title, file.received_at)
    return series_id


def _study(connection: Connection, received: Received) -> int:
    """Return the row id of the study of a new series; insert the study and its patient if they are new."""
    uid = received.attributes.study_instance_uid
    if (known := connection.scalar(select(StudyRow.id).where(StudyRow.study_instance_uid == uid))) is not None:
        return int(known)
    identity = identifiers.patient_identity(received.attributes)
    person_id, patient_id, conflicts = place_person(connection, received.attributes.patient, identity)
    named = person_id if person_id != patient_id else None
    values = {**received.attributes.study, "patient_id": patient_id, "named_patient_id": named}
    study_id = _inserted(connection, StudyRow, values)
    note_decided(connection, [uid], received.file.received_at)
    for kind in conflicts:
        record_conflict(connection, kind, received, DETAILS[kind])
    ask_orders(connection, study_id, received.file.calling_ae_title or None, received.file.received_at)
    return study_id


_IMAGED = StudyRow.study_instance_uid, PatientRow.id, *map(PatientRow.__table__.c.get, PERSON)
_ORDERED: Select[Any] = select(StudyRow.accession_number, *_IMAGED).join(
    PatientRow, PatientRow.id == StudyRow.patient_id
)


def ask_orders(connection: Connection, study: int, sender: str | None, now: dt.datetime) -> None:
    """Let orders be compared with the patient of a study, as it is now."""
    accession_number, *imaged = connection.execute(_ORDERED.where(StudyRow.id == study)).one()
    resolve(ORDERS)(connection, Imaged(*imaged), accession_number or "", sender, now)


_GIVEN = select(PatientRow.id).where(PatientRow.id == StudyRow.patient_id, identifiers.HAS_GIVEN_ISSUER).exists()
_DECIDED = case((or_(StudyRow.named_patient_id.is_not(None), _GIVEN), bindparam("now", type_=Utc)))
_NOTE_DECIDED = PreparedStatement(
    update(StudyRow)
    .where(looked_up_in(StudyRow.study_instance_uid, bindparam("studies", type_=JSON)))
    .values(identified_at=_DECIDED)
)


def note_decided(connection: Connection, studies: Collection[str], now: dt.datetime) -> None:
    """Note that what leaves of studies has the identity of their patient from now on, or is as stored again."""
    _NOTE_DECIDED.execute(connection, {"studies": [*studies], "now": now})


def place_person(connection: Connection, new: Mapping[str, Any], identity: str) -> tuple[int, int, list[str]]:
    """Return the row id of the person with these attributes, of the patient who that person is, and kinds of conflicts.

    The person is inserted if new.

    A Patient ID that two people share has a row for each of them, so that a study has the name, the birth date and the
    sex of its own files. One person has one name, and no two birth dates or sexes. The two ids differ if somebody has
    merged the person into another patient.
    """
    rows = connection.execute(identifiers.PERSONS, {"identity": identity}).all()
    known = identifiers.known_person(connection, rows, new, identity)
    if known is None:
        values = {**new, "identity": identity}
        decided = identifiers.decided_patient(connection, new)
        if decided is not None:
            like = next((row for row in rows if row.merged_into == decided.id), decided)
            names = "is_corrected", "decided_by"
            values |= {"merged_into": decided.id} | {name: getattr(like, name) for name in names}
        person = _inserted(connection, PatientRow, values)
        patient = person if decided is None else int(decided.id)
    else:
        person, patient = int(known.id), int(known.merged_into or known.id)
    conflicts = [SHARED] if is_shared(connection, rows, new, patient) else []
    return person, patient, conflicts if new["patient_id"] else [*conflicts, NO_ID]


def is_shared(connection: Connection, known: Sequence[Any], new: Mapping[str, Any], patient: int) -> bool:
    """Return whether a person is new to the Patient ID and contradicts one whom it has named.

    `patient`: the one of the study; if somebody has decided that this is who the person is, there is no conflict.
    """
    if any(identifiers.can_be(row, new) for row in known) or not any(identifiers.contradict(row, new) for row in known):
        return False
    decided = identifiers.decided_patient(connection, new)
    return decided is None or decided.id != patient


def _inserted(connection: Connection, table: type[Numbered], values: Mapping[str, object]) -> int:
    inserted = insert(table).values(values).on_conflict_do_nothing().returning(table.id)
    if (row_id := connection.scalar(inserted)) is None:
        raise Overtaken(f"another writer has inserted a row of {table.__tablename__} meanwhile")
    return int(row_id)


def record_received_event(connection: Connection, kind: EventKind, received: Received, detail: str) -> None:
    """Record an event of an instance that was just received."""
    record_event(connection, kind, received.file.received_at, detail=detail, **uids_of(received.attributes))


def record_conflict(
    connection: Connection,
    kind: str,
    received: Received,
    detail: str,
    key: str | None = None,
    sha256: str | None = None,
    decided_by: str | None = None,
    holder: str | None = None,
    uids_of_file: Mapping[str, Any] | None = None,
    decision: str = "accepted",
    is_uncompared: bool = False,
) -> None:
    """Record an identity conflict; `key` and `sha256` are those of a second file of the instance that is kept.

    `holder` is the only host that has this file; see `Sharing`. `uids_of_file`: its study and series, if
    the received instance is of others.

    `decided_by` is given if there is nothing left to decide: the `decision` is that the received instance was accepted,
    or that the current one was kept. `is_uncompared`: that is right if both decode to the same.
    """
    uids, file = {**uids_of(received.attributes), **(uids_of_file or {})}, received.file
    values: dict[str, Any] = {"kind": kind, "detail": detail, "key": key, "sha256": sha256, "host": holder}
    values |= {"found_at": file.received_at, "calling_ae_title": file.calling_ae_title or None}
    if decided_by is not None:
        values |= {"decision": decision, "decided_at": file.received_at, "decided_by": decided_by}
    insert_conflict(connection, values | uids | {"is_uncompared": is_uncompared})


def insert_conflict(connection: Connection, values: Mapping[str, Any]) -> None:
    """Record a conflict, and report it."""
    connection.execute(insert(ConflictRow).values(values))
    told = "kind", "detail", "study_instance_uid", "series_instance_uid", "sop_instance_uid"
    log.warning("conflict", **{name: values.get(name) for name in told})


def delete_empty_levels(connection: Connection, study_id: int | None, *, forgets: bool = False) -> None:
    """Delete a study without series; then its patients, if left without studies. `forgets`: see the next function."""
    persons = StudyRow.patient_id, StudyRow.named_patient_id, StudyRow.corrected_patient_id
    deleted = connection.execute(
        delete(StudyRow)
        .where(StudyRow.id == study_id, ~select(SeriesRow.id).where(SeriesRow.study_id == StudyRow.id).exists())
        .returning(*persons)
    ).first()
    for patient_id in dict.fromkeys(deleted or ()):
        if patient_id is not None:
            delete_empty_patient(connection, patient_id, forgets=forgets)


def delete_empty_patient(connection: Connection, patient_id: int, *, forgets: bool = False) -> None:
    """Delete a patient without studies, unless the files of another's study name it.

    Merges and corrections hold for what comes later, so patients of whom one is the other stay. `forgets`: they go as
    well, unless one of them has a study, or is named.
    """
    group = or_(PatientRow.id == patient_id, PatientRow.merged_into == patient_id)
    of_group = select(PatientRow.id).where(group).scalar_subquery()
    named = or_(StudyRow.named_patient_id.in_(of_group), StudyRow.corrected_patient_id.in_(of_group))
    needed = (
        select(StudyRow.id).where(StudyRow.patient_id == patient_id),
        select(StudyRow.id).where(StudyRow.corrected_patient_id.is_not(None), named),
        select(PatientRow.id).where(PatientRow.id == patient_id, PatientRow.merged_into.is_not(None)),
        select(PatientRow.id).where(PatientRow.merged_into == patient_id, literal(not forgets)),
    )
    if not any(connection.execute(query.limit(1)).first() for query in needed):
        connection.execute(delete(PatientRow).where(PatientRow.merged_into == patient_id))
        connection.execute(delete(PatientRow).where(PatientRow.id == patient_id))
