"""What instances state of their patient, study and series, and the rows of these, which are of all instances below.

A value of a row is stated by an instance if any states one; one that images state counts before one that only other
objects do, then the most frequent, then the least. So the rows follow from the instances, in whatever order these come,
leave, and come back. Each instance has the number of its statement (`images.stated`), and `series.stated` is that of
one with which the rows agree: who adds an instance that states the same changes nothing, and nothing is counted.

A patient is a person (`node.index.nouns.levels`): a study is of the person whom its instances name. What no instance
has stated of a person came from somebody else, such as an order, and stays.
"""

import datetime as dt
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from hashlib import blake2b
from types import SimpleNamespace
from typing import Any, NamedTuple

from sqlalchemy import JSON, Connection, Date, Time, and_, bindparam, delete, exists, func, or_, select, update
from sqlalchemy.orm import join

from node.dicom.attributes import PATIENT, SERIES, STUDY, TIMEZONE_OFFSET, InstanceAttributes
from node.index.engine.backend import backend_of
from node.index.engine.hot_statements import PreparedStatement
from node.index.engine.sql import insert, looked_up_in
from node.index.models.history import ConflictRow
from node.index.models.levels import ImageRow, PatientRow, SeriesRow, StatementRow, StudyRow
from node.index.models.work import WorkRow
from node.index.nouns import identifiers, levels
from node.index.nouns.events import EventUids, record_event
from node.index.nouns.identifiers import NAMED
from node.index.nouns.persons import note_decided
from node.index.nouns.records import Received
from node.index.work.ledger import begin_again
from node.index.work.messages import UNWANTED
from node.registry import ORDERED_PATIENTS, ORDERS, resolve

_IDENTITY = "patient_id", "issuer_of_patient_id"
_PERSON = tuple(one.column for one in PATIENT if one.column not in _IDENTITY)
_OF_STUDY = tuple(one.column for one in STUDY[1:])
_OF_SERIES = *(one.column for one in SERIES[1:]), "request_attributes"
_OF_ROWS = *_PERSON, *_OF_STUDY, *_OF_SERIES
_STATED = frozenset({*_IDENTITY, *_OF_ROWS})

_OF_STUDIES, _OF_EACH = ("no-patient-id", "shared-patient-id"), ("study-of-two-patients", levels.DIFFERENCES)
"""Kinds of conflicts that follow from what instances state, the latter of each series."""

_TWO_PATIENTS = "instances of it name another patient; the study is of the one whom most of its images name"

_READ: Mapping[Any, Any] = {Date: dt.date.fromisoformat, Time: dt.time.fromisoformat, JSON: json.loads}

Values = Mapping[str, Any]
"""By column, as SQLite has them: without those that an instance does not state."""


class Statement(NamedTuple):
    """What an instance states; `text`: its `Values` in JSON."""

    number: int
    is_image: bool
    text: str


class _Weighed(NamedTuple):
    """A statement of a series, with the number of its instances there."""

    series_id: int
    number: int
    is_image: bool
    values: Values
    instances: int


Stated = Sequence[_Weighed]

_known: dict[str, tuple[tuple[object, ...], Statement]] = {}  # of the last instance of a series


def statement_of(attributes: InstanceAttributes) -> Statement:
    """Return what an instance states."""
    all_levels = attributes.patient, attributes.study, attributes.series, bool(attributes.image["rows"])
    known = _known.get(attributes.series_instance_uid)
    if known is not None and known[0] == all_levels:
        return known[1]
    named = (pair for level in all_levels[:3] for pair in level.items() if pair[0] in _STATED)
    text = json.dumps({name: _encoded(value) for name, value in named if value is not None}, sort_keys=True)
    digest = blake2b(f"{all_levels[3]} {text}".encode(), digest_size=8).digest()
    statement = Statement(int.from_bytes(digest, "big", signed=True), all_levels[3], text)
    if len(_known) >= 1000:
        _known.clear()
    _known[attributes.series_instance_uid] = all_levels, statement
    return statement


def _encoded(value: Any) -> Any:
    if isinstance(value, dt.time):
        return value.isoformat("microseconds")
    return value.isoformat() if isinstance(value, dt.date) else json.dumps(value) if isinstance(value, list) else value


@lru_cache(maxsize=4096)
def _values(text: str) -> Values:
    values: Values = json.loads(text)
    return values


_LEVELS: Any = (PatientRow, _PERSON), (StudyRow, _OF_STUDY), (SeriesRow, _OF_SERIES)
_COLUMNS = [row.__table__.c[one] for row, of in _LEVELS for one in of]
_ROWS = PreparedStatement(
    select(SeriesRow.id, SeriesRow.study_id, PatientRow.identity, *_COLUMNS)
    .select_from(join(SeriesRow, StudyRow).join(PatientRow, PatientRow.id == NAMED))
    .where(looked_up_in(SeriesRow.id, bindparam("ids", type_=JSON)))
)
_INSERT = PreparedStatement(insert(StatementRow).on_conflict_do_nothing(), ("series_id", *Statement._fields))
_AGREE = PreparedStatement(update(SeriesRow).where(SeriesRow.id == bindparam("id")).values(stated=bindparam("number")))

New = Mapping[int, Mapping[int, tuple[Statement, Received]]]
"""What new instances state, with one of them, by series and by the number of the statement."""


def follow_stated(
    connection: Connection, new: New, agreed: Mapping[int, int | None], left: Collection[int], last: Received
) -> None:
    """Let rows follow what new instances state, of which `last` is the last.

    `agreed`: `series.stated` of their series. `left`: studies of which instances have been replaced.
    """
    new = {series: stated for series, stated in new.items() if [agreed.get(series)] != [*stated]}
    if not new and not left:
        return
    added = [{"series_id": id, **one._asdict()} for id, stated in new.items() for one, _ in stated.values()]
    _INSERT.execute_each(connection, added)
    found: dict[int, Received | None] = dict.fromkeys(left, last)
    for series, study, identity, *values in _ROWS.execute(connection, {"ids": sorted(new)}).fetchall():
        for statement, received in new[series].values():
            if not _agrees(_values(statement.text), identity, values):
                found[study] = received
    _AGREE.execute_each(connection, [{"id": id, "number": next(iter(new[id]))} for id in new if agreed.get(id) is None])
    for study in sorted(found):
        settle(connection, study, last.file.received_at, found[study], is_decided=last.overwrite_policy == "accept")


def _agrees(stated: Values, identity: str, values: Sequence[Any]) -> bool:
    given = zip(map(stated.get, _OF_ROWS), values, strict=True)
    return _is_of(stated, identity) and all(mine in (None, theirs) for mine, theirs in given)


def _is_of(stated: Values, identity: str) -> bool:
    """Return whether an instance names a patient of this identity; what it does not state is no contradiction."""
    issuer, _, patient_id = identity.partition("\\")
    patient, given = map(stated.get, _IDENTITY)
    return patient is None or (patient == patient_id and given in (None, issuer))


def settle(
    connection: Connection, study: int, now: dt.datetime, received: Received | None = None, *, is_decided: bool = False
) -> None:
    """Let the rows of a study follow from what all of its instances state.

    `received`: an instance that has come, if that is why. `is_decided`: a person has accepted it.
    """
    in_study = SeriesRow.study_id == study
    connection.execute(update(SeriesRow).where(in_study).values(stated=None))  # whoever adds to one of them waits
    row = connection.execute(select(StudyRow.__table__).where(StudyRow.id == study)).first()
    if row is not None:
        weighed = _weighed(connection, in_study)
        there = [one for one in weighed if one.instances]
        _Settled(connection, row, there, now, received).follow(is_decided=is_decided)
        for gone in (one for one in weighed if not one.instances):
            is_it = StatementRow.series_id == gone.series_id, StatementRow.number == gone.number
            connection.execute(delete(StatementRow).where(*is_it))


def settle_person(connection: Connection, person: int, former: Iterable[Values] = ()) -> set[str]:
    """Let the row of a person follow from all instances that name him or her; return the columns that have changed.

    `former`: what instances stated that name him or her no more.
    """
    row = connection.execute(select(PatientRow.__table__).where(PatientRow.id == person)).first()
    if row is None:
        return set()
    are_named = or_(StudyRow.patient_id.in_((person, row.merged_into)), StudyRow.corrected_patient_id.is_not(None))
    weighed = [one for one in _weighed(connection, NAMED.in_((person,)), are_named) if _is_of(one.values, row.identity)]
    if not any(one.instances for one in weighed):  # a merge or a correction holds for the person who was named
        return set()
    found = chosen([one for one in weighed if one.instances], _PERSON)
    known = [*(one.values for one in weighed), *former]
    own = {name: _encoded(getattr(row, name)) for name in found}
    values = {name: found[name] for name in own if own[name] in {None, *(of.get(name) for of in known)}}
    return _write(connection, PatientRow, row, values)


def person_below(connection: Connection, study: int | None) -> tuple[int | None, list[Values]]:
    """Return the person whom the instances of a study name, and what they state."""
    person = connection.scalar(select(NAMED).where(StudyRow.id == study))
    return person, [one.values for one in _weighed(connection, SeriesRow.study_id == study)]


class _Settled:
    """A study, what its instances state, and the rows that follow."""

    def __init__(
        self, connection: Connection, row: Any, weighed: Stated, now: dt.datetime, received: Received | None
    ) -> None:
        self._connection, self._row, self._weighed, self._now, self._received = connection, row, weighed, now, received
        self._uid, self._holding = row.study_instance_uid, set[tuple[str, str | None]]()
        self._stated = chosen(weighed, (*_IDENTITY, *_PERSON))
        self._whose, self._identity = _typed(PatientRow, self._stated), identifiers.identity_of(self._stated, self._uid)

    def follow(self, *, is_decided: bool) -> None:
        """Change the rows of patient, study and series; record what has changed, and in what instances differ."""
        query = select(SeriesRow.__table__).where(SeriesRow.study_id == self._row.id).order_by(SeriesRow.id)
        rows = self._connection.execute(query).all()
        backend_of(self._connection).hold(self._connection, [self._uid, self._identity])
        person, changed = self._follow_person(is_decided=is_decided)
        self._compare({one.id: one.series_instance_uid for one in rows}, person)
        row = self._person(person)
        above = [_encoded(getattr(row, name)) for name in _PERSON]
        above += self._follow(StudyRow, self._row, self._weighed, None, changed)
        same = []
        for row in rows:
            weighed = [one for one in self._weighed if one.series_id == row.id]
            values = [*above, *self._follow(SeriesRow, row, weighed, row.series_instance_uid, set())]
            agreeing = (one.number for one in weighed if _agrees(one.values, self._identity, values))
            same.append({"id": row.id, "number": next(agreeing, None)})
        _AGREE.execute_each(self._connection, same)
        self._withdraw()

    def _follow(self, level: Any, row: Any, weighed: Stated, series: str | None, changed: set[str]) -> Iterable[Any]:
        """Change a row; return its values."""
        values = chosen(weighed, _OF_STUDY if level is StudyRow else _OF_SERIES)
        changed |= _write(self._connection, level, row, values)
        several = [name for name in values if len({one.values.get(name) for one in weighed} - {None}) > 1]
        if several:
            detail = f"its instances state several values of {', '.join(several)}; that of most images counts"
            self._record(levels.DIFFERENCES, series, None, detail, decided_by="most images", decision="kept")
        if changed:
            self._ask_again(series, changed)
        return values.values()

    def _person(self, person: int) -> Any:
        return self._connection.execute(select(PatientRow.__table__).where(PatientRow.id == person)).one()

    def _follow_person(self, *, is_decided: bool) -> tuple[int, set[str]]:
        """Let the study be of the person whom its instances name; a correction of the study itself stands.

        Returns his or her row id, and what has changed.
        """
        before = self._person(self._row.named_patient_id or self._row.patient_id)
        can_be = identifiers.can_be(before, self._whose) or self._names(before)
        if can_be and before.identity == self._identity:
            return before.id, settle_person(self._connection, before.id)
        named, patient = levels.place_person(self._connection, self._received, self._whose, self._identity)
        values: dict[str, Any] = {"named_patient_id": named}
        if self._row.corrected_patient_id is None:
            values = {"patient_id": patient, "named_patient_id": named if named != patient else None}
        of_study = update(StudyRow).where(StudyRow.id == self._row.id)
        self._connection.execute(of_study.values(values))
        note_decided(self._connection, [self._uid], self._now)
        if is_decided:  # other instances of the study name the former patient
            self._connection.execute(of_study.values(identified_at=self._now))
        settle_person(self._connection, before.id, [one.values for one in self._weighed])
        levels.delete_empty_patient(self._connection, before.id)
        resolve(ORDERED_PATIENTS)(self._connection, [before.patient_id, self._whose["patient_id"]], self._now)
        return named, {"patient", *settle_person(self._connection, named)}

    def _names(self, before: Any) -> bool:
        """Return whether this study alone is of a person without a name, who gets that of the study."""
        known = self._connection.execute(identifiers.PERSONS, {"identity": self._identity}).all()
        others = select(StudyRow.id).where(NAMED.in_((before.id,)), StudyRow.id != self._row.id)
        is_known = identifiers.same_person([row for row in known if row.id != before.id], self._whose) is not None
        is_alone = not is_known and self._connection.execute(others.limit(1)).first() is None
        return is_alone and not before.patient_name and not identifiers.contradict(before, self._whose)

    def _compare(self, series: Mapping[int, str], person: int) -> None:
        """Record what people are to decide about instances that name other people than the study is of."""
        of_study = select(StudyRow.patient_id).where(StudyRow.id == self._row.id)
        patient = self._person(self._connection.execute(of_study).scalar_one())
        known = self._connection.execute(identifiers.PERSONS, {"identity": self._identity}).all()
        if any(identifiers.contradict(row, self._whose) for row in known if row.id != person):
            self._holding.add(("shared-patient-id", None))
        if not self._whose["patient_id"]:
            self._holding.add(("no-patient-id", None))
        for one in self._weighed:
            theirs = _typed(PatientRow, {name: one.values.get(name) for name in self._whose})
            if not _is_of(one.values, self._identity):
                uid, decided = series[one.series_id], identifiers.decided_patient(self._connection, theirs)
                its = identifiers.identity_of(theirs, self._uid), None if decided is None else decided.identity
                if patient.identity not in its:
                    which = ImageRow.series_id == one.series_id, ImageRow.stated == one.number
                    sop = self._connection.scalar(select(func.min(ImageRow.sop_instance_uid)).where(*which))
                    self._record("study-of-two-patients", uid, sop, _TWO_PATIENTS)
            elif identifiers.contradict(SimpleNamespace(**self._whose), theirs):
                self._holding.add(("shared-patient-id", None))
                are_same = or_(PatientRow.id.in_((person, patient.id)), PatientRow.merged_into == patient.id)
                same = self._connection.execute(select(PatientRow.__table__).where(are_same)).all()
                levels.compare_persons(self._connection, self._received, same, theirs, patient.id)

    def _record(self, kind: str, series: str | None, sop: str | None, detail: str, **decided: str) -> None:
        self._holding.add((kind, series))
        uids: EventUids = {"series_instance_uid": series, "sop_instance_uid": sop}
        levels.record_of_level(self._connection, kind, self._received, uids, detail, **decided)

    def _withdraw(self) -> None:
        """Delete the conflicts of this study that nobody has decided and that hold no more."""
        row, of_study = ConflictRow, ConflictRow.study_instance_uid == self._uid
        is_open = or_(row.decision.is_(None), row.kind == levels.DIFFERENCES), row.kind.in_((*_OF_STUDIES, *_OF_EACH))
        found = self._connection.execute(select(row.id, row.kind, row.series_instance_uid).where(of_study, *is_open))
        gone = [id for id, kind, uid in found if (kind, uid if kind in _OF_EACH else None) not in self._holding]
        if gone:
            self._connection.execute(delete(row).where(row.id.in_(gone)))

    def _ask_again(self, series: str | None, changed: Collection[str]) -> None:
        """Record what has changed, and let others decide again who have decided by what it was."""
        uids: Any = {"study_instance_uid": self._uid, "series_instance_uid": series}
        detail = f"{', '.join(sorted(changed))}: as most of the images below have it"
        record_event(self._connection, "attributes-changed", self._now, detail=detail, **uids)
        of_work = SeriesRow.series_instance_uid == WorkRow.series_instance_uid, SeriesRow.revision == WorkRow.revision
        is_newest = or_(WorkRow.revision.is_(None), exists().where(SeriesRow.study_id == self._row.id, *of_work))
        left_out = WorkRow.study_instance_uid == self._uid, WorkRow.reason.in_(UNWANTED), WorkRow.outcome == "dropped"
        begin_again(self._connection, self._now, *left_out, is_newest)
        if series is None:
            stale = ConflictRow.study_instance_uid == self._uid, ConflictRow.kind == "other-patient-than-ordered"
            self._connection.execute(delete(ConflictRow).where(*stale, ConflictRow.decision.is_(None)))
            query = select(StudyRow.patient_id, StudyRow.accession_number).where(StudyRow.id == self._row.id)
            patient, accession = self._connection.execute(query).one()
            row = self._person(patient)
            whose = {name: getattr(row, name) for name in self._whose if name in levels.Imaged.__slots__}
            sender = self._received.file.calling_ae_title or None if self._received is not None else None
            study = levels.Imaged(self._uid, patient, **whose)
            resolve(ORDERS)(self._connection, study, accession or "", sender, self._now)


def chosen(weighed: Stated, names: Sequence[str]) -> dict[str, Any]:
    """Return the value of each column that follows from statements.

    A person is stated as a whole, and so is a moment: what contradicts the first of its values does not count.
    """
    found: dict[str, Any] = {}
    for name in names:
        votes, totals, fold = Counter[Any](), Counter[str](), partial(_folded, name)
        stating = [one for one in weighed if name in one.values and _fits(one.values, name, found)]
        of_images = [one for one in stating if one.is_image]
        for one in of_images or stating:
            votes[one.values[name]] += one.instances
            totals[fold(one.values[name])] += one.instances
        order = partial(min, key=lambda value: (-totals[fold(value)], fold(value), -votes[value], value))
        found[name] = order(votes) if votes else None
    return found


def _fits(stated: Values, name: str, found: Values) -> bool:
    """Return whether an instance does not contradict what was found before of the same person or moment."""
    moments = ("study", "series") if name == TIMEZONE_OFFSET.column else (name.removesuffix("_time"),)
    of_moments = {f"{one}_{of}" for one in moments for of in ("date", "time")}
    others = (other for other in found if name in _PERSON or name in _IDENTITY or other in of_moments)
    return all(
        None in (stated.get(one), found[one]) or _folded(one, stated[one]) == _folded(one, found[one]) for one in others
    )


def _folded(name: str, value: Any) -> str:
    return identifiers.folded_name(value) if name == "patient_name" else str(value)


def _weighed(connection: Connection, *which: Any) -> list[_Weighed]:
    """Return the statements of some series, also those that no instance has any more."""
    of = ImageRow.series_id, ImageRow.stated
    images = select(*of, func.count().label("count")).select_from(join(ImageRow, SeriesRow).join(StudyRow))
    counted = images.where(*which).group_by(*of).subquery()
    has_it = and_(counted.c.series_id == StatementRow.series_id, counted.c.stated == StatementRow.number)
    columns = StatementRow.series_id, StatementRow.number, StatementRow.is_image, StatementRow.text, counted.c.count
    query = select(*columns).select_from(join(StatementRow, SeriesRow).join(StudyRow)).outerjoin(counted, has_it)
    found = connection.execute(query.where(*which)).all()
    return [_Weighed(series, number, is_image, _values(text), n or 0) for series, number, is_image, text, n in found]


def _typed(level: Any, values: Values) -> dict[str, Any]:
    types = {name: type(level.__table__.c[name].type) for name in values}
    return {
        name: value if value is None else _READ.get(types[name], lambda it: it)(value) for name, value in values.items()
    }


def _write(connection: Connection, level: Any, row: Any, values: Values) -> set[str]:
    """Change a row; return the names of the columns that have changed."""
    changed = {name: value for name, value in values.items() if _encoded(getattr(row, name)) != value}
    new = _typed(level, changed)
    for name in changed:
        new |= identifiers.name_groups(changed[name], name) if f"{name}_alphabetic" in level.__table__.c else {}
    if new:
        connection.execute(update(level).where(level.id == row.id).values(new))
    return {*changed}
