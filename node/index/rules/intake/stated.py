"""What instances state of their patient, study and series, and the rows of these, which are of all instances below.

A value of a row is stated by an instance if any states one; one that images state counts before one that only other
objects do, then the most frequent, then the least. So the rows follow from the instances, in whatever order these come,
leave, and come back. Each instance has the number of its statement (`ImageRow.stated`), and `SeriesRow.stated` is that
of one with which the rows agree: who adds an instance that states the same changes nothing, and nothing is counted.

A patient is a person (`node.index.rules.intake.levels`): a study is of the person whom its instances name. What no
instance has stated of a person came from somebody else, such as an order, and stays.
"""

import datetime as dt
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from hashlib import blake2b
from types import SimpleNamespace
from typing import Any, NamedTuple

from sqlalchemy import JSON, Connection, Date, and_, bindparam, delete, exists, func, or_, select, update
from sqlalchemy.orm import join

from node.dicom.attributes import PATIENT, SERIES, STUDY, TIMEZONE_OFFSET, InstanceAttributes
from node.index.rows.backend import backend_of
from node.index.rows.hot_statements import PreparedStatement
from node.index.rows.models.history import ConflictRow
from node.index.rows.models.levels import ImageRow, PatientRow, SeriesRow, StatementRow, StudyRow
from node.index.rows.models.work import WorkRow
from node.index.rows.records import Received
from node.index.rows.sql import insert, looked_up_in
from node.index.rules.intake import levels
from node.index.rules.people import identifiers
from node.index.rules.people.identifiers import NAMED
from node.index.rules.work.events import record_event
from node.index.rules.work.ledger import begin_again
from node.index.rules.work.messages import UNWANTED
from node.registry import ORDERED_PATIENTS, resolve
from node.runtime.budget import remember

_IDENTITY = "patient_id", "issuer_of_patient_id"
_PERSON = tuple(one.column for one in PATIENT if one.column not in _IDENTITY)
_OF_STUDY = tuple(one.column for one in STUDY[1:])
_OF_SERIES = *(one.column for one in SERIES[1:]), "request_attributes"
_OF_ROWS = *_PERSON, *_OF_STUDY, *_OF_SERIES
_STATED = frozenset({*_IDENTITY, *_OF_ROWS})

_TWO_PATIENTS = "study-of-two-patients"
_OF_ANOTHER = "instances of it name another patient; the study is of the one whom most of its images name"

_READ: Mapping[Any, Any] = {Date: dt.date.fromisoformat, JSON: json.loads}

Values = Mapping[str, Any]
"""By column, as SQLite has them: without those that an instance does not state."""


class Statement(NamedTuple):
    """What an instance states; `text`: its `Values` in JSON."""

    number: int
    is_image: bool
    text: str


Weighed = tuple[int, int, bool, Values, int]
"""A statement of a series: the series, the number, whether it is of images, what, and of how many instances there."""

Stated = Sequence[Weighed]

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
    remember(_known, attributes.series_instance_uid, (all_levels, statement), 1000)
    return statement


def _encoded(value: Any) -> Any:
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

_RECEIVED = select(func.sum(SeriesRow.receptions)).where(SeriesRow.study_id == bindparam("id"))
_DIFFER = PreparedStatement(
    update(StudyRow)
    .where(StudyRow.id == bindparam("id"))
    .values(uncounted=StudyRow.uncounted + bindparam("number"))
    .returning(StudyRow.uncounted, _RECEIVED.scalar_subquery())
)

New = Mapping[int, Mapping[int, tuple[Statement, Sequence[Received]]]]
"""What new instances state, with these, by series and by the number of the statement."""


def follow_stated(
    connection: Connection, new: New, agreed: Mapping[int, int | None], left: Collection[int], last: Received
) -> None:
    """Let rows follow what new instances state, of which `last` is the last.

    All instances of a study are counted again once those that came since then and state something else than its rows
    are nearly an eighth of all, so that an instance costs the same however many there are. `StudyRow.uncounted` owes
    the rest to the next claim of one of its series.

    `agreed`: `SeriesRow.stated` of their series. `left`: studies of which instances have been replaced.
    """
    new = {series: stated for series, stated in new.items() if [agreed.get(series)] != [*stated]}
    if not new and not left:
        return
    added = [{"series_id": id, **one._asdict()} for id, stated in new.items() for one, _ in stated.values()]
    _INSERT.execute_each(connection, added)
    differing: dict[int, list[Received]] = {study: [] for study in left}
    same = {}
    for series, study, identity, *values in _ROWS.execute(connection, {"ids": sorted(new)}).fetchall():
        for statement, instances in new[series].values():
            if not _agrees(_values(statement.text), identity, values):
                differing.setdefault(study, []).extend(instances)
            elif agreed.get(series) is None:
                same[series] = {"id": series, "number": statement.number}
    _AGREE.execute_each(connection, [*same.values()])
    for study, instances in sorted(differing.items()):
        found = _DIFFER.execute(connection, {"id": study, "number": len(instances)}).fetchall()
        for uncounted, received in found:  # none of a study that has gone with its last instance
            if study in left or uncounted > received // 8 - 8:
                settle(connection, study, last.file.received_at, instances[-1] if instances else last)


def _agrees(stated: Values, identity: str, values: Sequence[Any]) -> bool:
    given = zip(map(stated.get, _OF_ROWS), values, strict=True)
    return _is_of(stated, identity) and all(mine in (None, theirs) for mine, theirs in given)


def _is_of(stated: Values, identity: str) -> bool:
    """Return whether an instance names a patient of this identity; what it does not state is no contradiction."""
    issuer, _, patient_id = identity.partition("\\")
    patient, given = map(stated.get, _IDENTITY)
    return patient is None or (patient == patient_id and given in (None, issuer))


def settle(connection: Connection, study: int, now: dt.datetime, received: Received | None = None) -> None:
    """Let the rows of a study follow from what all of its instances state.

    `received`: an instance that has come, if that is why.
    """
    in_study = SeriesRow.study_id == study
    connection.execute(update(SeriesRow).where(in_study).values(stated=None))  # whoever adds to one of them waits
    counted = update(StudyRow).where(StudyRow.id == study).values(uncounted=0)
    row = connection.execute(counted.returning(StudyRow.__table__)).first()
    if row is not None:
        weighed = _weighed(connection, in_study)
        _Settled(connection, row, weighed, now, received).follow()
        for series, number, *_, instances in weighed:
            if not instances:
                is_it = StatementRow.series_id == series, StatementRow.number == number
                connection.execute(delete(StatementRow).where(*is_it))


def settle_person(connection: Connection, person: int, former: Iterable[Values] = ()) -> set[str]:
    """Let the row of a person follow from all instances that name him or her; return the columns that have changed.

    `former`: what instances stated that name him or her no more.
    """
    row = _person(connection, person)
    if row is None:
        return set()
    are_named = or_(StudyRow.patient_id.in_((person, row.merged_into)), StudyRow.corrected_patient_id.is_not(None))
    weighed = [one for one in _weighed(connection, NAMED.in_((person,)), are_named) if _is_of(one[3], row.identity)]
    there = [one for one in weighed if one[4]]
    if not there:  # a merge or a correction holds for the person who was named
        return set()
    found, known = chosen(there, _PERSON), [*(one[3] for one in weighed), *former]
    own = {name: _encoded(getattr(row, name)) for name in found}
    values = {name: found[name] for name in own if own[name] in {None, *(of.get(name) for of in known)}}
    return _write(connection, PatientRow, row, values)


def person_below(connection: Connection, study: int | None) -> tuple[int | None, list[Values]]:
    """Return the person whom the instances of a study name, and what they state."""
    person = connection.scalar(select(NAMED).where(StudyRow.id == study))
    return person, [one[3] for one in _weighed(connection, SeriesRow.study_id == study)]


def _person(connection: Connection, person: int) -> Any:
    return connection.execute(select(PatientRow.__table__).where(PatientRow.id == person)).first()


class _Settled:
    """A study, what its instances state, and the rows that follow."""

    def __init__(
        self, connection: Connection, row: Any, weighed: Stated, now: dt.datetime, received: Received | None
    ) -> None:
        self._connection, self._row, self._now, self._received = connection, row, now, received
        self._known = weighed  # also what no instance states any more
        self._weighed = [one for one in weighed if one[4]]
        self._uid = row.study_instance_uid
        self._holding: dict[tuple[str, str | None], dict[str, Any] | None] = {}
        stated = chosen(self._weighed, (*_IDENTITY, *_PERSON))
        self._whose, self._identity = _typed(PatientRow, stated), identifiers.identity_of(stated, self._uid)
        self._sender = None if received is None else received.file.calling_ae_title or None

    def follow(self) -> None:
        """Change the rows of patient, study and series; record what has changed, and in what instances differ."""
        query = select(SeriesRow.__table__).where(SeriesRow.study_id == self._row.id).order_by(SeriesRow.id)
        rows = self._connection.execute(query).all()
        backend_of(self._connection).hold(self._connection, [self._uid, self._identity])
        person, changed = self._follow_person()
        self._compare({one.id: one.series_instance_uid for one in rows}, person)
        row = _person(self._connection, person)
        above = [_encoded(getattr(row, name)) for name in _PERSON]
        above += self._follow(StudyRow, self._row, self._weighed, None, changed)
        same, of_series = [], dict[int, list[Weighed]]()
        for one in self._weighed:
            of_series.setdefault(one[0], []).append(one)
        for row in rows:
            weighed = of_series.get(row.id, [])
            values = [*above, *self._follow(SeriesRow, row, weighed, row.series_instance_uid, set())]
            agreeing = (number for _, number, _, stated, _ in weighed if _agrees(stated, self._identity, values))
            same.append({"id": row.id, "number": next(agreeing, None)})
        _AGREE.execute_each(self._connection, same)
        self._record()

    def _follow(self, level: Any, row: Any, weighed: Stated, series: str | None, changed: set[str]) -> Iterable[Any]:
        """Change a row; return its values."""
        values = chosen(weighed, _OF_STUDY if level is StudyRow else _OF_SERIES)
        changed |= _write(self._connection, level, row, values)
        folds = {name: {_folded(name, one[3][name]) for one in weighed if name in one[3]} for name in values}
        several = [name for name, folded in folds.items() if len(folded) > 1]
        if several:
            detail = f"its instances state several values of {', '.join(several)}; that of most images counts"
            decided = {"decision": "kept", "decided_at": self._now, "decided_by": "most images"}
            self._holding[levels.DIFFERENCES, series] = {"detail": detail, **decided}
        if changed:
            self._ask_again(series, changed)
        return values.values()

    def _follow_person(self) -> tuple[int, set[str]]:
        """Let the study be of the person whom its instances name; a correction of the study itself stands.

        Returns his or her row id, and what has changed.
        """
        before = _person(self._connection, self._row.named_patient_id or self._row.patient_id)
        can_be = identifiers.can_be(before, self._whose) or self._names(before)
        if can_be and before.identity == self._identity:
            its = [_encoded(getattr(before, name)) for name in _PERSON]
            if all(n and [*map(stated.get, _PERSON)] == its for _, _, _, stated, n in self._known):
                return before.id, set()  # more of what the row has changes nothing
            return before.id, settle_person(self._connection, before.id)
        named, patient, kinds = levels.place_person(self._connection, self._whose, self._identity)
        self._holding |= {(kind, None): {"detail": levels.DETAILS[kind]} for kind in kinds}
        values: dict[str, Any] = {"named_patient_id": named}
        if self._row.corrected_patient_id is None:
            values = {"patient_id": patient, "named_patient_id": named if named != patient else None}
        of_study = update(StudyRow).where(StudyRow.id == self._row.id)
        self._connection.execute(of_study.values(values))
        levels.note_decided(self._connection, [self._uid], self._now)
        if (
            self._received is not None and self._received.overwrite_policy == "accept"
        ):  # other instances of the study name the former patient
            self._connection.execute(of_study.values(identified_at=self._now))
        settle_person(self._connection, before.id, [one[3] for one in self._weighed])
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

    def _compare(self, series: Mapping[Any, str], person: int) -> None:
        """Note what people are to decide about instances that name other people than the study is of."""
        of_study = select(StudyRow.patient_id).where(StudyRow.id == self._row.id)
        patient = _person(self._connection, self._connection.execute(of_study).scalar_one())
        known = self._connection.execute(identifiers.PERSONS, {"identity": self._identity}).all()
        if any(identifiers.contradict(row, self._whose) for row in known if row.id != person):
            self._holding.setdefault((levels.SHARED, None), None)
        else:  # the person whom it contradicted is gone
            self._holding.pop((levels.SHARED, None), None)
        if not self._whose["patient_id"]:
            self._holding[levels.NO_ID, None] = {"detail": levels.DETAILS[levels.NO_ID]}
        stated = {(one[0], *map(one[3].get, self._whose)): one[1] for one in self._weighed}
        for (id, *values), number in stated.items():
            given = dict(zip(self._whose, values, strict=True))
            theirs = _typed(PatientRow, given)
            if not _is_of(given, self._identity):
                decided = identifiers.decided_patient(self._connection, theirs)
                its = identifiers.identity_of(theirs, self._uid), None if decided is None else decided.identity
                if patient.identity not in its:
                    which = ImageRow.series_id == id, ImageRow.stated == number
                    sop = self._connection.scalar(select(func.min(ImageRow.sop_instance_uid)).where(*which))
                    two = {"detail": _OF_ANOTHER, "sop_instance_uid": sop}
                    self._holding[_TWO_PATIENTS, series[id]] = two
            elif identifiers.contradict(SimpleNamespace(**self._whose), theirs):
                are_same = or_(PatientRow.id.in_((person, patient.id)), PatientRow.merged_into == patient.id)
                same = self._connection.execute(select(PatientRow.__table__).where(are_same)).all()
                is_shared = levels.is_shared(self._connection, same, theirs, patient.id)
                told = {"detail": levels.DETAILS[levels.SHARED]} if is_shared else None
                self._holding[levels.SHARED, None] = self._holding.get((levels.SHARED, None)) or told

    def _record(self) -> None:
        """Let the conflicts of this study be those that hold, and those that somebody has decided."""
        row, kinds = ConflictRow, (*levels.DETAILS, _TWO_PATIENTS, levels.DIFFERENCES)
        of_study = select(row.__table__).where(row.study_instance_uid == self._uid, row.kind.in_(kinds))
        for one in self._connection.execute(of_study).all():
            key = one.kind, None if one.kind in levels.DETAILS else one.series_instance_uid
            new = self._holding.get(key, {"detail": None})
            is_decided = one.decision is not None and one.kind != levels.DIFFERENCES
            if new is None or new["detail"] == one.detail or is_decided:
                self._holding[key] = None
            else:
                self._connection.execute(delete(row).where(row.id == one.id))
        for (kind, series), new in self._holding.items():
            if new is not None:
                uids = {
                    "study_instance_uid": self._uid,
                    "series_instance_uid": series,
                    "calling_ae_title": self._sender,
                }
                levels.insert_conflict(self._connection, {"kind": kind, "found_at": self._now, **uids, **new})

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
            levels.ask_orders(self._connection, self._row.id, self._sender, self._now)


def chosen(weighed: Stated, names: Sequence[str]) -> dict[str, Any]:
    """Return the value of each column that follows from statements.

    A person is stated as a whole, and so is a moment: what contradicts the first of its values does not count.
    """
    alike, found = Counter[Any](), dict[str, Any]()
    for _, _, is_image, values, instances in weighed:
        alike[is_image, *map(values.get, names)] += instances
    stated = [(is_image, dict(zip(names, values, strict=True)), n) for (is_image, *values), n in alike.items()]
    for name in names:
        votes, totals, fold, bound = Counter[Any](), Counter[str](), partial(_folded, name), _bound(name, found)
        stating = [one for one in stated if one[1][name] is not None and (not bound or _fits(one[1], bound))]
        for _, values, instances in [one for one in stating if one[0]] or stating:
            votes[values[name]] += instances
        for value, count in votes.items():
            totals[fold(value)] += count
        order = partial(min, key=lambda value: (-totals[fold(value)], fold(value), -votes[value], value))
        found[name] = order(votes) if votes else None
    return found


def _bound(name: str, found: Values) -> Values:
    """Return what was found before of the same person or moment."""
    moments = ("study", "series") if name == TIMEZONE_OFFSET.column else (name.removesuffix("_time"),)
    of_moments = {f"{one}_{of}" for one in moments for of in ("date", "time")}
    is_person = name in _PERSON or name in _IDENTITY
    return {
        other: _folded(other, value)
        for other, value in found.items()
        if value is not None and (is_person or other in of_moments)
    }


def _fits(stated: Values, bound: Values) -> bool:
    return all(stated[one] is None or _folded(one, stated[one]) == value for one, value in bound.items())


def _folded(name: str, value: Any) -> str:
    if name.endswith("_time"):
        return dt.time.fromisoformat(value).isoformat("microseconds")
    return identifiers.folded_name(value) if name == "patient_name" else str(value)


def _weighed(connection: Connection, *which: Any) -> list[Weighed]:
    """Return the statements of some series, also those that no instance has any more."""
    of = ImageRow.series_id, ImageRow.stated
    images = select(*of, func.count().label("count")).select_from(join(ImageRow, SeriesRow).join(StudyRow))
    counted = images.where(*which).group_by(*of).subquery()
    has_it = and_(counted.c.series_id == StatementRow.series_id, counted.c.stated == StatementRow.number)
    columns = StatementRow.series_id, StatementRow.number, StatementRow.is_image, StatementRow.text, counted.c.count
    query = select(*columns).select_from(join(StatementRow, SeriesRow).join(StudyRow)).outerjoin(counted, has_it)
    found = connection.execute(query.where(*which)).all()
    return [(series, number, is_image, _values(text), n or 0) for series, number, is_image, text, n in found]


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
