"""The modality worklist: Scheduled Procedure Steps from every source (PS3.4 K.6)."""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update
from sqlalchemy.orm import join

from node.dicom.json_model import Json, entry_text, text_element
from node.dicom.key_values import Match
from node.dicom.values import standard_tag
from node.errors import UsageError
from node.extensions.worklist.orders import PATIENT_TAGS, ScheduledStepRow, compare, identified
from node.index.look.conditions import condition_on
from node.index.rows.models.history import PerformedStepRow
from node.index.rows.models.levels import PatientRow, StudyRow
from node.index.rows.repositories import IndexRepository, on_reader, on_writer
from node.index.rows.sql import starts_with
from node.index.rules.custody.leaving import old_before
from node.index.rules.intake.levels import PERSON, Imaged

PAGE = 500
SCHEDULED, IN_PROGRESS, HELD, COMPLETED = "scheduled", "in-progress", "held", "completed"
ENDED = (COMPLETED, "discontinued", "canceled")
"""States of a step that is over: modalities are not given it any more, nor one that is held."""

_ISSUER = PATIENT_TAGS["IssuerOfPatientID"]
_FILLER = f"{standard_tag('FillerOrderNumberImagingServiceRequest'):08X}"


@dataclass(frozen=True, slots=True)
class ScheduledStep:
    """A worklist entry: its attributes in the DICOM JSON Model, and those by which the index finds it."""

    patient_id: str | None
    patient_name: str | None
    accession_number: str | None
    study_instance_uid: str | None
    requested_procedure_id: str | None
    scheduled_procedure_step_id: str | None
    modality: str | None
    station_ae_title: str | None
    start_date: dt.date | None
    start_time: dt.time | None
    description: str | None
    attributes: Json

    @property
    def key(self) -> str:
        """What distinguishes the step from others: its study and its ID."""
        return f"{self.study_instance_uid or ''}\\{self.scheduled_procedure_step_id or ''}"


@dataclass(frozen=True, slots=True)
class OrderedStep:
    """A step of an order message: by what its entry is known, the state that it has now, and the entry.

    `placer`, `filler`: numbers of the order with their namespaces, as `NUMBER^NAMESPACE`; one of them may be empty.
    `step_id`, `position`: of the step in the order; the ID may be empty.
    `is_whole`: the message names no step: what it says is of every one.
    `state`: None: as it is; of a new entry, scheduled.
    `step`: None if the message makes no entry, for what it `lacks`.
    `make`: makes the entry with identifiers that the message lacks.
    `patient_id`, `issuer`: of the patient whom the message names; empty: none.
    """

    placer: str
    filler: str
    step_id: str
    position: int
    is_whole: bool
    state: str | None
    step: ScheduledStep | None
    lacks: str
    make: Callable[[Mapping[str, str]], ScheduledStep]
    patient_id: str = ""
    issuer: str = ""

    @property
    def number(self) -> str:
        """What the keys of the entries of the order begin with; one without a number of the placer has a backslash."""
        return self.placer or f"\\{self.filler}"

    @property
    def name(self) -> str:
        """What the key of the entry ends with."""
        return self.step_id or str(self.position)


class ScheduledStepRepository(IndexRepository):
    """The entries of the modality worklist."""

    @on_writer
    def add(self, connection: Connection, source: str, step: ScheduledStep, now: dt.datetime) -> int | None:
        """Add an entry; return its number, or None if the source has one for the same step of the same study."""
        values = {**_values(connection, step), "source": source, "source_key": step.key}
        values |= {"created_at": now, "changed_at": now}
        is_there = ScheduledStepRow.source == source, ScheduledStepRow.source_key == step.key
        if connection.execute(select(ScheduledStepRow.id).where(*is_there)).first() is not None:
            return None
        added = insert(ScheduledStepRow).values({**values, "state": "scheduled"}).returning(ScheduledStepRow.id)
        id = int(connection.execute(added).scalar_one())
        _compare(connection, step, now)
        return id

    @on_writer
    def apply_orders(self, connection: Connection, orders: Sequence[OrderedStep], now: dt.datetime) -> None:
        """Add or change the entries of an order message, and their states.

        What holds or ends an order changes no other value of its entries; an entry that is not there is added in its
        state. A completed step stays completed. Raises UsageError, with nothing changed: an order is not there, and the
        message makes no entry, it does not say which of several is meant, or what it holds or ends is of another
        patient.
        """
        row = ScheduledStepRow
        for order in orders:
            found = _of_order(connection, order)
            mine = _of_step(order, found)
            if not mine and order.step is None:
                raise UsageError(f"no entry has the number of this order, and {order.lacks}")
            if order.state in (HELD, *ENDED):
                _require_patient(connection, order, mine)
            if not mine or (order.step is not None and order.state not in (HELD, *ENDED)):
                mine = [_put_order(connection, order, mine, now)]
            if order.state is None:
                continue
            changed = update(row).where(row.id.in_([one.id for one in mine])).values(state=order.state, changed_at=now)
            changed = changed.where(row.state != COMPLETED)
            if order.state not in ENDED:  # what a modality works on: its word counts more
                performed = select(PerformedStepRow.id).where(
                    PerformedStepRow.study_instance_uid == row.study_instance_uid,
                    PerformedStepRow.state == "IN PROGRESS",
                )
                changed = changed.where(~((row.state == IN_PROGRESS) & performed.exists()))
            connection.execute(changed)

    @on_writer
    def change(self, connection: Connection, id: int, step: ScheduledStep, now: dt.datetime) -> None:
        """Change an entry."""
        _change(connection, ScheduledStepRow.id == id, step, now)
        _compare(connection, step, now)

    @on_writer
    def update_patient(
        self,
        connection: Connection,
        patient_id: str,
        issuer: str,
        changed: Callable[[Json], ScheduledStep],
        now: dt.datetime,
    ) -> int:
        """Change the entries of a patient that are not over; return how many. Those from files stay as their files are.

        `issuer`: entries with another issuer are of somebody else; empty: not known. `changed` returns an entry with
        the new values.

        Raises UsageError, with nothing changed, if the issuer is not known and the entries have several.
        """
        row = ScheduledStepRow
        query = select(row.id, row.attributes, row.identified).where(
            row.patient_id == patient_id, row.state.not_in(ENDED), row.source != "file"
        )
        found = [(id, entry | (whose or {}), whose is None) for id, entry, whose in connection.execute(query)]
        if not issuer and len({entry_text(entry, "IssuerOfPatientID") or "" for _, entry, _ in found} - {""}) > 1:
            raise UsageError("entries of several issuers have this Patient ID: name the issuer in PID-3.4")
        meant = [one for one in found if not issuer or entry_text(one[1], "IssuerOfPatientID") in (None, "", issuer)]
        for id, step, is_own in [(id, changed(entry), is_own) for id, entry, is_own in meant]:
            if is_own:
                _change(connection, row.id == id, step, now)
                _compare(connection, step, now)
            else:  # the order itself is of a patient who was merged into this one
                whose = {tag: step.attributes[tag] for tag in PATIENT_TAGS.values() if tag in step.attributes}
                values = {"patient_name": step.patient_name, "identified": whose, "changed_at": now}
                connection.execute(update(row).where(row.id == id).values(values))
        return len(meant)

    @on_writer
    def remove(self, connection: Connection, id: int) -> None:
        """Remove an entry."""
        connection.execute(delete(ScheduledStepRow).where(ScheduledStepRow.id == id))

    @on_writer
    def replace_files(
        self,
        connection: Connection,
        changed: Mapping[str, tuple[str, ScheduledStep | None]],
        gone: Sequence[str],
        now: dt.datetime,
    ) -> None:
        """Let the worklist have what the files of a folder say.

        `changed`: name of a file -> its version and its entry; None: it has none. `gone`: names of files that are no
        more.
        """
        for name, (version, step) in changed.items():
            if step is not None:
                _put(connection, "file", name, version, step, now)
        lost = [*gone, *(name for name, (_, step) in changed.items() if step is None)]
        for at in range(0, len(lost), PAGE):
            named = ScheduledStepRow.source_key.in_(lost[at : at + PAGE])
            connection.execute(delete(ScheduledStepRow).where(ScheduledStepRow.source == "file", named))

    @on_reader
    def old_before(self, connection: Connection, now: dt.datetime, keep_time: dt.timedelta) -> dt.datetime | None:
        """See `node.index.rules.custody.leaving.old_before`."""
        return old_before(connection, now, keep_time)

    @on_writer
    def remove_old(self, connection: Connection, before: dt.date) -> int:
        """Remove steps that were to start before a day; return how many."""
        steps = delete(ScheduledStepRow).where(ScheduledStepRow.start_date < before, ScheduledStepRow.source != "file")
        return connection.execute(steps).rowcount

    @on_reader
    def file_versions(self, connection: Connection) -> dict[str, str]:
        """Return the names and versions of the files that have entries."""
        rows = select(ScheduledStepRow.source_key, ScheduledStepRow.source_version)
        return {str(row[0]): str(row[1]) for row in connection.execute(rows.where(ScheduledStepRow.source == "file"))}

    def candidates(self, wanted: Mapping[str, Sequence[Match]]) -> Iterator[tuple[str, Json]]:
        """Yield the state and the attributes of open entries, by start; an entry that ends meanwhile may be missing.

        `wanted`: column -> its matches, one of which must hold.
        """
        after: tuple[Any, ...] | None = None
        while page := self._candidates(wanted, after):
            for row in page:
                yield row.state, row.attributes | (row.identified or {})
            last = page[-1]
            after = (last.start_date, last.id)

    @on_reader
    def _candidates(
        self, connection: Connection, wanted: Mapping[str, Sequence[Match]], after: tuple[Any, ...] | None
    ) -> Sequence[Any]:
        row = ScheduledStepRow
        query = select(row.id, row.start_date, row.state, row.attributes, row.identified).where(
            row.state.not_in((HELD, *ENDED))
        )
        for column, matches in wanted.items():
            query = query.where(or_(*(condition_on(match, column, row) for match in matches)))
        if after is not None:
            date, id = after
            same = row.start_date.is_(None) if date is None else row.start_date == date
            later = row.start_date.is_not(None) if date is None else row.start_date > date
            query = query.where(or_(later, and_(same, row.id > id)))
        return connection.execute(query.order_by(row.start_date.nulls_first(), row.id).limit(PAGE)).all()


def _values(connection: Connection, step: ScheduledStep) -> dict[str, Any]:
    return asdict(step) | identified(connection, step.attributes)


def follow_patients(connection: Connection, patient_ids: Sequence[str], now: dt.datetime) -> None:
    """Let scheduled and performed steps of these Patient IDs be of the patients who these are by now."""
    row, performed = ScheduledStepRow, PerformedStepRow
    scheduled = select(row.id, row.attributes).where(row.patient_id.in_(patient_ids))
    for id, attributes in connection.execute(scheduled).all():
        values = {**identified(connection, attributes), "changed_at": now}
        connection.execute(update(row).where(row.id == id).values(values))
    reported = select(performed.id, performed.attributes).where(performed.patient_id.in_(patient_ids))
    for id, attributes in connection.execute(reported).all():
        whose = identified(connection, attributes)["patient_id"]
        connection.execute(update(performed).where(performed.id == id).values(patient_id=whose))


def _put(
    connection: Connection, source: str, source_key: str, version: str | None, step: ScheduledStep, now: dt.datetime
) -> None:
    _compare(connection, step, now)
    is_it = and_(ScheduledStepRow.source == source, ScheduledStepRow.source_key == source_key)
    if _change(connection, is_it, step, now, source_version=version):
        return
    values = {**_values(connection, step), "source": source, "source_key": source_key, "source_version": version}
    connection.execute(
        insert(ScheduledStepRow).values({**values, "state": "scheduled", "created_at": now, "changed_at": now})
    )


def _of_order(connection: Connection, order: OrderedStep) -> list[Any]:
    """Return the entries of an order: with its number of the placer, else, if one of the two has none, of the filler.

    A number without a namespace may be of any. Raises UsageError if several orders have it.
    """
    row = ScheduledStepRow
    columns = row.source_key, row.scheduled_procedure_step_id, row.study_instance_uid, row.requested_procedure_id
    issuer = row.attributes[(_ISSUER, "Value", 0)].as_string().label("issuer")
    query = select(row.id, row.patient_id, issuer, *columns).where(row.source == "hl7").order_by(row.id)
    for number in filter(None, (order.placer, order.filler and f"\\{order.filler}")):
        bare, _, namespace = number.partition("^")
        for start in (f"{number}\\", f"{bare}\\" if namespace else f"{bare}^"):
            rows = connection.execute(query.where(starts_with(row.source_key, start))).all()
            if found := [one for one in rows if one.source_key.startswith(start)]:  # letters differ by their case
                return _of_one_order(found)
    if order.placer:
        return []
    filled = row.attributes[(_FILLER, "Value", 0)].as_string() == order.filler.partition("^")[0]
    return _of_one_order(list(connection.execute(query.where(filled)).all()))


def _require_patient(connection: Connection, order: OrderedStep, found: Sequence[Any]) -> None:
    """Raise UsageError if entries are of another patient than the message names."""
    texts = {"PatientID": order.patient_id, "IssuerOfPatientID": order.issuer}
    named = {PATIENT_TAGS[keyword]: text_element("LO", text) for keyword, text in texts.items()}
    ids = order.patient_id, identified(connection, named)["patient_id"]
    for entry in found:
        is_same = entry.patient_id in ids or not order.patient_id
        if not is_same or len({order.issuer, entry.issuer} - {"", None}) > 1:
            raise UsageError("the order is of another patient than the one in PID-3")


def _of_one_order(found: list[Any]) -> list[Any]:
    if len({_named(one)[0] for one in found}) > 1:
        raise UsageError("several orders have this number: name its namespace in ORC-2.2 or ORC-3.2")
    return found


def _named(entry: Any) -> tuple[str, str]:
    """Return the number of the order of an entry, and the name of its step in it."""
    number, _, name = entry.source_key.rpartition("\\")
    return number, name


def _of_step(order: OrderedStep, found: Sequence[Any]) -> list[Any]:
    """Return the entries of an order that a step is: one, or all; an entry without an ID is the step that gets one."""
    if order.is_whole:
        return list(found)
    nameless = [one for one in found if _named(one)[1] != one.scheduled_procedure_step_id]
    same = [one for one in found if _named(one)[1] == order.name]
    if same or not nameless or not order.step_id:
        return same
    if len(nameless) > 1:
        raise UsageError("the order has several steps without an ID: cancel it, and order them anew")
    return nameless


def _put_order(connection: Connection, order: OrderedStep, found: Sequence[Any], now: dt.datetime) -> Any:
    """Add the entry of a step of an order, or change the one that is `found`; return it."""
    assert order.step is not None
    row, key, step = ScheduledStepRow, f"{order.number}\\{order.name}", order.step
    if len(found) > 1:
        raise UsageError("the order has several steps: name one in IPC-4 or OBR-20")
    for entry in found:
        number, name = _named(entry)
        is_fuller = not number.startswith(order.number) and order.placer
        key = f"{order.number if is_fuller else number}\\{name if order.is_whole else order.name}"
        columns = "study_instance_uid", "requested_procedure_id", "scheduled_procedure_step_id"
        step = order.make({column: value for column in columns if (value := getattr(entry, column))})
        connection.execute(update(row).where(row.id == entry.id).values(source_key=key))
    _put(connection, "hl7", key, None, step, now)
    return connection.execute(select(row).where(row.source == "hl7", row.source_key == key)).one()


def _compare(connection: Connection, step: ScheduledStep, now: dt.datetime) -> None:
    """Record a conflict for each study that an entry is for and that is of another patient."""
    named = [StudyRow.study_instance_uid == step.study_instance_uid] if step.study_instance_uid else []
    named += [StudyRow.accession_number == step.accession_number] if step.accession_number else []
    if not named:
        return
    columns = StudyRow.study_instance_uid, PatientRow.id, *(getattr(PatientRow, name) for name in PERSON)
    for row in connection.execute(select(*columns).select_from(join(StudyRow, PatientRow)).where(or_(*named))).all():
        compare(connection, Imaged(*row), [step.attributes], None, now)


def _change(connection: Connection, where: Any, step: ScheduledStep, now: dt.datetime, **values: Any) -> bool:
    values |= {**_values(connection, step), "changed_at": now}
    changed = update(ScheduledStepRow).where(where).values(values)
    return connection.execute(changed).rowcount == 1


def set_state(
    connection: Connection, study_instance_uid: str, step_id: str, accession_number: str = "", *, state: str
) -> None:
    """Note what a modality does with the step of a study, in the transaction of `connection`; a completed one stays so.

    A step without an ID is the only one of its study, or of the Accession Number among those of the study.
    """
    row = ScheduledStepRow
    is_it = [row.study_instance_uid == study_instance_uid]
    if step_id:
        is_it += [row.scheduled_procedure_step_id == step_id]
    elif accession_number:
        is_it += [func.coalesce(row.accession_number, "").in_(("", accession_number))]
    ids = connection.scalars(select(row.id).where(*is_it)).all()
    if step_id or len(ids) == 1:
        connection.execute(update(row).where(row.id.in_(ids), row.state != COMPLETED).values(state=state))
