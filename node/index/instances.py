"""Put instances into all four levels, and make their series due, in one transaction."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection, bindparam, case, insert, select, update

from node.dicom.attributes import InstanceAttributes
from node.index.models import Conflict, Image, Patient, Series, Study
from node.index.records import Outcome, StoredFile

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Arrived:
    """One instance to be indexed; its series is due `quiet_seconds` after it, unless another one arrives."""

    attributes: InstanceAttributes
    file: StoredFile
    quiet_seconds: float


# Built once: compiling a statement costs more than running it.
_FIND_IMAGES = select(Image.sop_instance_uid, Image.sha256).where(
    Image.sop_instance_uid.in_(bindparam("uids", expanding=True))
)
_FIND_LOSER = select(Conflict.id).where(
    Conflict.sop_instance_uid == bindparam("uid"), Conflict.sha256 == bindparam("sha256"), Conflict.key.is_not(None)
)
_FIND_SERIES = (
    select(Series.id, Patient.identity)
    .join(Study, Study.id == Series.study_id)
    .join(Patient, Patient.id == Study.patient_id)
    .where(Study.study_instance_uid == bindparam("study"), Series.series_instance_uid == bindparam("series"))
)
_INSERT_IMAGES = insert(Image).inline()
_SERIES_GREW = (
    update(Series)
    .where(Series.id == bindparam("series"))
    .values(
        arrivals=Series.arrivals + bindparam("count"),
        last_received_at=bindparam("received"),
        due_at=bindparam("due"),
        attempts=0,
        # A series under conversion stays claimed; its outcome finds that `arrivals` has grown and makes it due again.
        state=case((Series.state == "converting", "converting"), else_="receiving"),
    )
)


def add_instances(connection: Connection, batch: Sequence[Arrived]) -> list[Outcome]:
    """Insert instances with their patients, studies and series, and move the `due_at` of each series that grew.

    Runs inside the writer's transaction; the outcomes are in the order of `batch`.

    Notes
    -----
    The first instance of a patient, study or series says what the level holds. A study that turns up under a second
    patient, and a series in a second study, are recorded in `conflicts`.
    """
    uids = [one.attributes.sop_instance_uid for one in batch]
    known = {uid: sha256 for uid, sha256 in connection.execute(_FIND_IMAGES, {"uids": uids})}
    outcomes: list[Outcome] = []
    images: list[dict[str, object]] = []
    grown: dict[int, tuple[int, Arrived]] = {}
    series: dict[tuple[object, ...], int] = {}
    for one in batch:
        outcome = _outcome(connection, one, known)
        outcomes.append(outcome)
        if outcome is not Outcome.STORED:
            continue
        known[one.attributes.sop_instance_uid] = one.file.sha256
        identity = patient_identity(one.attributes)
        place = (one.attributes.study["study_instance_uid"], one.attributes.series["series_instance_uid"], identity)
        if place not in series:
            series[place] = _series(connection, one, identity)
        series_id = series[place]
        images.append(_image(one, series_id))
        grown[series_id] = (grown.get(series_id, (0, one))[0] + 1, one)
    if images:
        connection.execute(_INSERT_IMAGES, images)
    for series_id, (count, last) in grown.items():
        received = last.file.received_at
        due = received + dt.timedelta(seconds=last.quiet_seconds)
        connection.execute(_SERIES_GREW, {"series": series_id, "count": count, "received": received, "due": due})
    return outcomes


def _outcome(connection: Connection, one: Arrived, known: Mapping[str, str]) -> Outcome:
    first = known.get(one.attributes.sop_instance_uid)
    if first is None:
        return Outcome.STORED
    if first == one.file.sha256:
        return Outcome.ALREADY_THERE
    loser = {"uid": one.attributes.sop_instance_uid, "sha256": one.file.sha256}
    if connection.execute(_FIND_LOSER, loser).first():
        return Outcome.ALREADY_THERE
    detail = f"first received with SHA-256 {first}, then with {one.file.sha256}; the first is kept"
    _record_conflict(connection, "instance-bytes", one, detail, key=one.file.quarantine_key)
    return Outcome.OTHER_BYTES


def _image(one: Arrived, series_id: int) -> dict[str, object]:
    file = one.file
    return {
        **one.attributes.image,
        "series_id": series_id,
        "transfer_syntax_uid": file.transfer_syntax_uid,
        "bytes": file.bytes,
        "sha256": file.sha256,
        "data_set_offset": file.data_set_offset,
        "key": file.key,
        "door": file.door,
        "calling_ae_title": file.calling_ae_title or None,
        "called_ae_title": file.called_ae_title or None,
        "peer": file.peer or None,
        "received_at": file.received_at,
    }


def patient_identity(attributes: InstanceAttributes) -> str:
    """What makes a patient one patient: issuer and ID; without an ID, the study (strangers are never merged)."""
    patient_id = attributes.patient["patient_id"]
    if not patient_id:
        return f"study {attributes.study['study_instance_uid']}"
    return f"{attributes.patient['issuer_of_patient_id'] or ''}\\{patient_id}"


def _series(connection: Connection, one: Arrived, identity: str) -> int:
    """The row of the series, made with study and patient where they are new."""
    study_uid, series_uid = one.attributes.study["study_instance_uid"], one.attributes.series["series_instance_uid"]
    row = connection.execute(_FIND_SERIES, {"study": study_uid, "series": series_uid}).first()
    if row is not None:
        series_id, of_study = row
        if of_study != identity:
            _record_patient_conflict(connection, one)
        return int(series_id)
    study_id = _study(connection, one, identity)
    if connection.execute(select(Series.id).where(Series.series_instance_uid == series_uid)).first():
        detail = "this series has arrived in another study too; both are kept apart"
        _record_conflict(connection, "series-in-two-studies", one, detail)
    values = {**one.attributes.series, "study_id": study_id, "last_received_at": one.file.received_at}
    return _inserted(connection, Series, values)


def _study(connection: Connection, one: Arrived, identity: str) -> int:
    find = select(Study.id, Patient.identity).join(Patient, Patient.id == Study.patient_id)
    uid = one.attributes.study["study_instance_uid"]
    row = connection.execute(find.where(Study.study_instance_uid == uid)).first()
    if row is not None:
        if row[1] != identity:
            _record_patient_conflict(connection, one)
        return int(row[0])
    patient = connection.execute(select(Patient.id).where(Patient.identity == identity)).scalar()
    if patient is None:
        patient = _inserted(connection, Patient, {**one.attributes.patient, "identity": identity})
    return _inserted(connection, Study, {**one.attributes.study, "patient_id": patient})


def _inserted(connection: Connection, table: type[Patient | Study | Series], values: Mapping[str, object]) -> int:
    key = connection.execute(insert(table).values(values)).inserted_primary_key
    return int(key[0]) if key is not None else 0


def _record_patient_conflict(connection: Connection, one: Arrived) -> None:
    seen = select(Conflict.id).where(
        Conflict.kind == "study-of-two-patients",
        Conflict.study_instance_uid == one.attributes.study["study_instance_uid"],
        Conflict.series_instance_uid == one.attributes.series["series_instance_uid"],
    )
    if connection.execute(seen).first() is None:
        detail = "this study has arrived under another patient; it stays with the first one"
        _record_conflict(connection, "study-of-two-patients", one, detail)


def _record_conflict(connection: Connection, kind: str, one: Arrived, detail: str, key: str | None = None) -> None:
    uids = {
        "study_instance_uid": one.attributes.study["study_instance_uid"],
        "series_instance_uid": one.attributes.series["series_instance_uid"],
        "sop_instance_uid": one.attributes.sop_instance_uid,
    }
    connection.execute(
        insert(Conflict).values(
            kind=kind,
            detail=detail,
            key=key,
            sha256=one.file.sha256,
            calling_ae_title=one.file.calling_ae_title or None,
            found_at=one.file.received_at,
            **uids,
        )
    )
    log.warning("conflict", kind=kind, detail=detail, **uids)


def known_keys(connection: Connection, keys: Sequence[str]) -> set[str]:
    """Those of `keys` (at most a folder's worth) that have a row."""
    return set(connection.scalars(select(Image.key).where(Image.key.in_(keys))))
