"""The trash: what was deleted and can come back, until it is emptied.

A deletion removes the rows of instances, so that nothing lists, converts or serves them. In the trash, the rows are as
they were: those of the instances and of every table that refers to them (`leaving`), with the files of instances,
conflicts and volumes, which stay where they are. To bring them back is to insert these rows again in one transaction,
so that nothing counts as received, made or sent once more (`_Undo`). Emptying the trash names the files in the
tombstone of the deletion, which then removes them like any other.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Date,
    Select,
    Table,
    Time,
    and_,
    delete,
    func,
    or_,
    select,
    union,
    update,
)

from node.errors import UsageError
from node.index.engine.backend import backend_of
from node.index.engine.extension_tables import every_table, forget_study
from node.index.engine.rows import ReadRepository
from node.index.engine.sql import insert, listed_in, looked_up_in
from node.index.engine.writer import IndexRepository, on_reader, on_writer, reads
from node.index.models.history import ConversionRow, EventRow, FailureRow, TombstoneRow, TrashRow
from node.index.models.levels import STORE, ImageRow, PatientRow, SeriesRow, StudyRow, Utc
from node.index.models.work import OwedEventRow, WorkRow
from node.index.nouns.documents import bring_back_documents
from node.index.nouns.emptied import conversions_holding
from node.index.nouns.events import record_event
from node.index.nouns.instance_files import HeldFile, folders_of, owe_host_removals, owe_trashed
from node.index.nouns.lost import of_plan
from node.index.nouns.projects import Content, enter_projects
from node.index.nouns.records import Deletion, DeletionPlan, InstanceFile, Level
from node.index.nouns.reopening import convert_referring, reopen
from node.index.nouns.verdicts import doubt_parts, judge_doubted
from node.index.nouns.views import TrashViews
from node.index.work import jobs
from node.index.work.deliveries import CHANGES
from node.index.work.ledger import begin_again

_IN_TRASH = TombstoneRow.content.is_not(None)

FILES = "images", "conflicts"
"""Tables whose rows name a file of an instance."""

CHECKED = (*FILES, "volumes")
"""Tables whose rows name files that are compared when they come back."""

_LEVELS = "patients", "studies", "series"

_BY_VALUE = {"owed_images": ("image_id", "images", "id"), "results": ("sop_instance_uid", "images", "sop_instance_uid")}
"""Columns that name a row of another table without a foreign key, as (column, table, its column)."""

_NOT_KEPT = frozenset({"open_associations", "project_series"})
"""Tables whose rows are not those of the deleted: an association ends meanwhile, and projects say what is in them now.
"""

_PERSONS = StudyRow.patient_id, StudyRow.named_patient_id, StudyRow.corrected_patient_id

CHUNK_ROWS = 500

Rows = Sequence[dict[str, Any]]


class NotInTrash(UsageError):
    """Nothing in the trash has this number: `voxelnode trash` lists all."""


@dataclass(frozen=True, slots=True)
class TrashedFile:
    """A file that comes back, or the folder of a revision; `kind` is the table of its `rows`."""

    kind: str
    key: str
    holder: str | None
    rows: Rows

    @property
    def found(self) -> InstanceFile | HeldFile:
        """The file of an instance or of a conflict, as its row has it."""
        row = self.rows[0]
        if self.kind == "conflicts":
            return HeldFile(self.key, row["sha256"] or "", holder=row["host"])
        row = row | {"holder": row["spool_host"]}
        return InstanceFile(*(row[name] for name in InstanceFile.__match_args__))


def in_trash(connection: Connection, level: Level, uid: str) -> list[int]:
    """Return the deletions in the trash of a study or a series and all that it had, or of an instance itself."""
    is_it = and_(TombstoneRow.level == level, TombstoneRow.uid == uid)
    if level != "instance":
        is_it = or_(is_it, TombstoneRow.content[f"{level}_instance_uid"].as_string() == uid)
    return list(connection.scalars(select(TombstoneRow.id).where(is_it, _IN_TRASH).order_by(TombstoneRow.id)))


def _entry(connection: Connection, number: int) -> dict[str, Any]:
    entries = ReadTrash(connection).entries(number)
    if not entries:
        raise NotInTrash
    return entries[0]


class TrashRepository(IndexRepository):
    """What was deleted, from the deletion until it is back or gone."""

    @on_writer
    def bring_back(self, connection: Connection, number: int, now: dt.datetime) -> None:
        """Take a deletion out of the trash: its rows are as before, and its files are to be compared with them.

        Files of instances that came again meanwhile have no row of their own yet. Raises NotInTrash.
        """
        entry = _entry(connection, number)
        taken = update(TombstoneRow).where(TombstoneRow.id == number, _IN_TRASH)
        if not connection.execute(taken.values(content=None, restored_at=now)).rowcount:
            raise NotInTrash  # somebody was quicker
        study = entry["study_instance_uid"]
        _Undo(connection, number, study, stays=bool(entry.get("stays")), now=now).run()
        connection.execute(delete(TrashRow).where(TrashRow.deletion == number, TrashRow.kind.not_in(CHECKED)))
        record_event(connection, "restored", now, study_instance_uid=study, detail=f"{entry['level']}, from the trash")

    entry = reads(_entry)

    @on_reader
    def size(self, connection: Connection) -> tuple[int, int]:
        """Return how many files of instances are in the trash, and their bytes."""
        size = select(func.count(), func.coalesce(func.sum(TrashRow.bytes), 0)).join(TombstoneRow)
        files, size_bytes = connection.execute(size.where(_IN_TRASH, TrashRow.kind.in_(FILES))).one()
        return int(files), int(size_bytes)

    @on_reader
    def restoring(self, connection: Connection) -> list[int]:
        """Return the deletions that are being undone, and whose files are not all compared."""
        rows = select(TrashRow.deletion).join(TombstoneRow).where(TombstoneRow.restored_at.is_not(None)).distinct()
        return list(connection.scalars(rows))

    @on_reader
    def files(
        self,
        connection: Connection,
        number: int | None,
        kinds: Collection[str] = CHECKED,
        after: int = 0,
        limit: int | None = None,
    ) -> list[tuple[int, TrashedFile]]:
        """Return files of a deletion, or of all in the trash, behind a number in their order, with these numbers."""
        rows = select(TrashRow).where(TrashRow.kind.in_(kinds), TrashRow.key.is_not(None), TrashRow.id > after)
        rows = (
            rows.where(TrashRow.deletion == number) if number is not None else rows.join(TombstoneRow).where(_IN_TRASH)
        )
        return [
            (row.id, TrashedFile(row.kind, row.key, row.holder, _decoded(row.kind, row.content)))
            for row in connection.execute(rows.order_by(TrashRow.id).limit(limit))
        ]

    @on_reader
    def of(self, connection: Connection, level: Level, uid: str) -> list[int]:
        """Return what `in_trash` does."""
        return in_trash(connection, level, uid)

    @on_reader
    def holders(self, connection: Connection, number: int) -> set[str]:
        """Return the hosts that alone have files of a deletion."""
        rows = select(TrashRow.holder).where(TrashRow.deletion == number, TrashRow.holder.is_not(None)).distinct()
        return {str(holder) for holder in connection.scalars(rows)}

    @on_reader
    def has_objects(self, connection: Connection) -> bool:
        """Return whether files in the trash are in the object store."""
        return connection.execute(select(TrashRow.id).where(TrashRow.place == STORE).limit(1)).first() is not None

    @on_writer
    def compared(self, connection: Connection, numbers: Collection[int]) -> None:
        """Note that files, by their numbers, are back, or that it is recorded why they are not."""
        connection.execute(delete(TrashRow).where(listed_in(TrashRow.id, list(numbers))))

    @on_reader
    def due(self, connection: Connection, now: dt.datetime) -> list[int]:
        """Return the deletions whose time in the trash is over."""
        return list(connection.scalars(select(TombstoneRow.id).where(TombstoneRow.trash_until <= now, _IN_TRASH)))

    @on_reader
    def oldest(self, connection: Connection) -> int | None:
        """Return the deletion that has been in the trash for the longest time, or None."""
        return connection.scalar(select(func.min(TombstoneRow.id)).where(_IN_TRASH))

    @on_writer
    def empty(self, connection: Connection, number: int, now: dt.datetime) -> Deletion:
        """Order the removal of the files of a deletion. Raises NotInTrash."""
        study = _entry(connection, number)["study_instance_uid"]
        taken = update(TombstoneRow).where(TombstoneRow.id == number, _IN_TRASH)
        gone = taken.values(content=None, finished_at=None).returning(TombstoneRow)
        row = connection.execute(gone).first()
        if row is None:
            raise NotInTrash
        forget_study(connection, study)
        jobs.forget_study(connection, study)
        owe_trashed(connection, number, now)
        left = delete(TrashRow).where(TrashRow.deletion == number).returning(TrashRow.kind, TrashRow.key)
        keys = {key for kind, key in connection.execute(left).all() if kind in CHECKED and key is not None}
        paths = sorted({*row.paths, *keys})
        owe_host_removals(connection, paths, now)
        connection.execute(update(TombstoneRow).where(TombstoneRow.id == number).values(paths=paths))
        return Deletion(number, tuple(paths), row.level, row.uid, row.ordered_at, went_to_trash=True)


class ReadTrash(ReadRepository, TrashViews):
    """What is in the trash."""

    entry = reads(_entry)


def content_of(connection: Connection, study_instance_uid: str, series_instance_uid: str | None) -> dict[str, Any]:
    """Return what people know a study by; it is kept while the study, or a part of it, is in the trash.

    `series_instance_uid`: of a deletion of a series or of an instance.
    """
    row = connection.execute(
        select(
            *(PatientRow.patient_id, PatientRow.patient_name),
            *(StudyRow.study_date, StudyRow.study_description, StudyRow.accession_number),
        )
        .join(StudyRow, StudyRow.patient_id == PatientRow.id)
        .where(StudyRow.study_instance_uid == study_instance_uid)
    ).first()
    known = {name: _encoded(value) for name, value in row._mapping.items()} if row is not None else {}
    return {"study_instance_uid": study_instance_uid, "series_instance_uid": series_instance_uid, **known}


def put_in_trash(connection: Connection, deletion: int, rows: Mapping[str, Rows]) -> None:
    """Add rows to the trash, by their tables: one of the trash for each file, folder, series or study."""
    conversions = rows.get("conversions", ())
    gone = {
        row["id"] for row in conversions if row["files_removed_at"] is not None
    }  # an earlier deletion has the files
    values = [
        {"deletion": deletion, "kind": kind, "key": key, **_described(kind, some)}
        | {"content": [{name: _encoded(value) for name, value in row.items()} for row in some]}
        for kind, of_kind in rows.items()
        for key, some in _by_key(kind, of_kind, gone)
    ]
    if values:
        connection.execute(insert(TrashRow), values)


_KEYS: Mapping[str, Callable[[dict[str, Any]], str | None]] = {
    "images": lambda row: row["key"],
    "conflicts": lambda row: row["key"],
    "revision_files": lambda row: row["key"],
    "volumes": lambda row: min(folders_of([row["path"]])),
    "series": lambda row: row["series_instance_uid"],
    "results": lambda row: row["study_instance_uid"],
}
"""By what rows in the trash are looked up."""


def _by_key(kind: str, rows: Rows, gone: Collection[int]) -> Iterator[tuple[str | None, Rows]]:
    if kind in _KEYS:
        for key, some in groupby(rows, _KEYS[kind]):
            of_key = list(some)
            yield None if of_key[0].get("conversion_id") in gone else key, of_key
        return
    yield from ((None, rows[begin : begin + CHUNK_ROWS]) for begin in range(0, len(rows), CHUNK_ROWS))


def _described(kind: str, rows: Rows) -> dict[str, Any]:
    """Return the columns of the trash about the files of some rows."""
    row = rows[0]
    has_bytes = kind in ("images", "volumes")
    return {
        "bytes": sum(one["bytes"] for one in rows) if has_bytes else 0,
        "place": row["place"] if kind in ("images", "revision_files") else None,
        "holder": row["spool_host" if kind == "images" else "host"] if kind in FILES else None,
    }


def leaving(connection: Connection, plan: DeletionPlan, series: Sequence[int], *, stays: bool) -> dict[str, Rows]:
    """Return the rows that a deletion is about to remove or to change, by their tables; without those of conflicts.

    `stays`: the series of a deleted instance has others: it stays, and is converted without it.
    """
    its = ImageRow.sop_instance_uid == plan.uid if stays else ImageRow.series_id.in_(series)
    chosen: dict[str, Select[Any]] = {"images": select(ImageRow.id).where(its)}
    of_series = SeriesRow.id.in_(series)
    conditions: dict[str, ColumnElement[bool]] = {}
    if not stays:
        chosen["series"] = select(SeriesRow.id).where(of_series)
    for name, table in every_table().items():
        if name in _NOT_KEPT:
            continue
        columns = [
            (key.parent, key.column.table.name, "id") for key in table.foreign_keys if key.ondelete != "SET NULL"
        ]
        if name in _BY_VALUE:
            column, target, of_target = _BY_VALUE[name]
            columns.append((table.c[column], target, of_target))
        below = [
            column.in_(chosen[target].with_only_columns(every_table()[target].c[of_target]))
            for column, target, of_target in columns
            if target in chosen
        ]
        if below and name not in chosen:
            chosen[name] = select(table).where(or_(*below))
    conditions = {name: query.whereclause for name, query in chosen.items() if query.whereclause is not None}
    if stays:
        conditions |= _changing(plan.uid, series)
    study = select(SeriesRow.study_id).where(of_series)
    patient = union(*(select(column).where(StudyRow.id.in_(study), column.is_not(None)) for column in _PERSONS))
    conditions |= {
        "series": of_series,
        "studies": StudyRow.id.in_(study),
        "patients": or_(
            PatientRow.id.in_(patient.subquery().select()), PatientRow.merged_into.in_(patient.subquery().select())
        ),
        **_pending(plan),
    }
    return {
        name: [dict(row) for row in connection.execute(select(table).where(conditions[name])).mappings()]
        for name, table in every_table().items()
        if name in conditions
    }


def _changing(sop_instance_uid: str, series: Sequence[int]) -> Mapping[str, ColumnElement[bool]]:
    """Return the rows that change when an instance leaves its series: its conversions, and the files that hold it."""
    holding = conversions_holding(series[0], sop_instance_uid)
    conditions = {
        name: every_table()[name].c.series_id.in_(series) for name in ("conversions", "failures", "series_documents")
    }
    return conditions | {
        name: every_table()[name].c.conversion_id.in_(holding) for name in ("volumes", "revision_files")
    }


def _pending(plan: DeletionPlan) -> dict[str, ColumnElement[bool]]:
    """Return what is lost, owed to subscribers and worked on of what is deleted."""
    above = {"study": (), "series": ("series_instance_uid",), "instance": ("sop_instance_uid",)}[plan.level]
    open_work = [WorkRow.study_instance_uid == plan.study_instance_uid, WorkRow.outcome.is_(None)]
    events = [EventRow.study_instance_uid == plan.study_instance_uid, EventRow.kind.not_in(CHANGES)]
    for name in above:
        open_work.append(getattr(WorkRow, name) == plan.uid)
        events.append(getattr(EventRow, name) == plan.uid)
    return {
        "lost_instances": and_(*of_plan(plan)),
        "owed_events": OwedEventRow.event_id.in_(select(EventRow.id).where(*events)),
        "work": and_(*open_work, WorkRow.kind.in_(("hook", "route", "job"))),
    }


class _Undo:
    """Rows of a deletion that are inserted again.

    What is there already stays as it is: a study or a series that came again, and instances of it. A series is as
    before, without another conversion, if it is not there, or if it has not changed since an instance left it. Any
    other one has other instances now, and is converted again.
    """

    def __init__(self, connection: Connection, number: int, study: str, *, stays: bool, now: dt.datetime) -> None:
        self._connection, self._study, self._stays, self._now = connection, study, stays, now
        self._rows: dict[str, list[dict[str, Any]]] = {}
        query = select(TrashRow.kind, TrashRow.content).where(TrashRow.deletion == number).order_by(TrashRow.id)
        for kind, content in connection.execute(query):
            if kind in every_table():  # else of an extension that is not installed any more
                self._rows.setdefault(kind, []).extend(_decoded(kind, content))
        self._ids: dict[str, dict[int, int]] = {}  # by table: of a row that was deleted, what it has now
        self._new: set[int] = set()  # series that are inserted
        self._as_before: set[int] = set()

    def run(self) -> None:
        """Insert all rows, and let what has changed with them be judged or converted again."""
        held = {self._study, *(row["series_instance_uid"] for row in self._rows["series"])}
        backend_of(self._connection).hold(self._connection, held | {row["identity"] for row in self._rows["patients"]})
        study = self._bring_study()
        for row in self._rows["series"]:
            self._bring_series(row, study)
        grown = self._bring_images()
        self._bring_conversions()
        self._bring_documents()
        done = {*_LEVELS, "images", "conversions", "series_documents", "image_documents", "work"}
        for name in every_table():
            if name in self._rows.keys() - done:
                self._insert(name, self._rows[name])
        self._bring_work()
        for series in sorted(grown - self._as_before):
            reopen(self._connection, series, self._study, None, self._now, "instances of it are back from the trash")
        for series in sorted(self._as_before):
            doubt_parts(self._connection, series, self._now)
        judge_doubted(self._connection, {study}, self._now)
        for row in self._rows["series"]:
            uids, revision = [row["series_instance_uid"]], row["revision"]
            convert_referring(self._connection, uids, self._now, "is back from the trash", used=revision)

    def _bring_study(self) -> int:
        [row] = self._rows["studies"]
        found = self._connection.scalar(select(StudyRow.id).where(StudyRow.study_instance_uid == self._study))
        if found is None:
            known = self._ids.setdefault("patients", {})
            for patient in sorted(self._rows["patients"], key=lambda one: one["merged_into"] is not None):
                there = self._patient(patient)
                if there is None:
                    self._insert("patients", [patient])
                else:
                    known[patient["id"]] = there
            row = row | {column.name: known.get(row[column.name]) for column in _PERSONS[1:]}
            person = known[row["patient_id"]]
            other = self._connection.scalar(select(PatientRow.merged_into).where(PatientRow.id == person))
            if other is not None:  # somebody has merged the patient meanwhile
                known[row["patient_id"]] = other
                row |= {"named_patient_id": person, "identified_at": self._now}
            self._insert("studies", [row])
        else:
            self._ids["studies"] = {row["id"]: found}
        return self._ids["studies"][row["id"]]

    def _patient(self, row: dict[str, Any]) -> int | None:
        """Return the row that a person has by now."""
        same = [
            getattr(PatientRow, name).is_not_distinct_from(row[name])
            for name in ("patient_name", "patient_birth_date", "patient_sex")
        ]
        is_it = or_(PatientRow.id == row["id"], and_(*same))
        found = select(PatientRow.id).where(PatientRow.identity == row["identity"], is_it)
        return self._connection.scalar(found.order_by(PatientRow.id != row["id"]).limit(1))

    def _bring_series(self, row: dict[str, Any], study: int) -> None:
        there = self._connection.execute(
            select(SeriesRow.id, SeriesRow.receptions)
            .where(SeriesRow.study_id == study, SeriesRow.series_instance_uid == row["series_instance_uid"])
            .with_for_update()
        ).first()
        known = self._ids.setdefault("series", {})
        values = row | {"claim": None, "claimed_by": None, "claimed_receptions": None}
        if row["state"] == "converting":
            values |= {"state": "receiving", "due_at": self._now}
        if there is None:
            self._insert("series", [values])
            self._new.add(known[row["id"]])
            content = Content(self._study, row["series_instance_uid"])
            enter_projects(self._connection, known[row["id"]], content, None, self._now)
            if not self._stays:
                self._as_before.add(known[row["id"]])
            return
        known[row["id"]] = there.id
        if self._stays and there.receptions == row["receptions"] + 1:  # nothing but the deletion has changed it
            self._as_before.add(there.id)
            values |= {"id": there.id, "study_id": study}
            self._connection.execute(update(SeriesRow).where(SeriesRow.id == there.id).values(values))
            self._connection.execute(delete(FailureRow).where(FailureRow.series_id == there.id))

    def _bring_images(self) -> set[int]:
        """Insert the instances that did not come again; return the series that have instances again."""
        rows = self._rows["images"]
        columns = ImageRow.sop_instance_uid, ImageRow.id, ImageRow.sha256
        uids = [row["sop_instance_uid"] for row in rows]
        there = {
            uid: (id, sha256)
            for uid, id, sha256 in self._connection.execute(
                select(*columns).where(looked_up_in(ImageRow.sop_instance_uid, uids))
            )
        }
        new = [row for row in rows if row["sop_instance_uid"] not in there]
        self._insert("images", new)
        for row in rows:
            id, sha256 = there.get(row["sop_instance_uid"], (0, ""))
            if sha256 == row["sha256"]:
                self._ids["images"][row["id"]] = id
            if id:
                self._as_before.discard(self._ids["series"][row["series_id"]])
        return {self._ids["series"][row["series_id"]] for row in new}

    def _bring_conversions(self) -> None:
        """Insert revisions, or change those that are there; they are current where a series is as before."""
        rows, known = self._rows.get("conversions", []), self._ids.setdefault("conversions", {})
        of = ConversionRow
        held = {row["conversion_id"] for row in self._rows.get("volumes", [])}
        if self._stays:
            later = update(of).where(of.series_id.in_(self._as_before), of.superseded.is_(False))
            self._connection.execute(later.values(superseded=True, owes_sidecars=0))
        for row in rows:
            series = self._ids["series"][row["series_id"]]
            values = {} if series in self._as_before else {"superseded": True, "owes_sidecars": 0}
            its = of.series_id == series, of.revision == row["revision"]
            there = self._connection.execute(select(of.id, of.created_at, of.files_removed_at).where(*its)).first()
            if there is None:
                self._insert("conversions", [row | values])
            elif there.created_at == row["created_at"]:
                known[row["id"]] = there.id
                values = {name: row[name] for name in ("superseded", "owes_sidecars", "files_removed_at")} | values
                if row["id"] not in held or there.files_removed_at is None:
                    values["files_removed_at"] = there.files_removed_at
                self._connection.execute(update(of).where(of.id == there.id).values(values))

    def _bring_documents(self) -> None:
        bases = {self._ids["series"][row["series_id"]]: row for row in self._rows.get("series_documents", [])}
        series_of = {row["id"]: self._ids["series"][row["series_id"]] for row in self._rows["images"]}
        new = [row for series, row in bases.items() if series in self._new]
        self._insert("series_documents", new)
        owns: dict[int, dict[int, str]] = {}
        rows = []
        for row in self._rows.get("image_documents", []):
            series, image = series_of[row["image_id"]], self._ids["images"].get(row["image_id"])
            if series in self._new:
                rows.append(row)
            elif image is not None and series in bases:
                owns.setdefault(series, {})[image] = row["document"]
        self._insert("image_documents", rows)
        for series, of_images in owns.items():
            bring_back_documents(self._connection, series, bases[series]["document"], of_images)

    def _bring_work(self) -> None:
        """Let messages wait again that were dropped meanwhile, and jobs begin again that the deletion has cancelled."""
        for row in self._rows.get("work", []):
            its = [WorkRow.id == row["id"], WorkRow.outcome == "dropped"]
            if row["kind"] == "job":
                outcome = self._connection.scalar(select(WorkRow.outcome).where(WorkRow.id == row["id"]))
                if outcome != "cancelled":
                    continue
                jobs.replay(self._connection, row["name"], [row["cause"]])
                its = [WorkRow.kind == "hook", WorkRow.name == row["name"], WorkRow.key == row["cause"]]
            begin_again(self._connection, self._now, *its)

    def _insert(self, name: str, rows: Rows) -> None:
        """Insert rows with the ids that they had, as far as these are free, and with those that what they name has now.

        Rows that name what is not there any more are left out, such as those of a series that another one replaces.
        """
        table = every_table()[name]
        for column, target in _references(table):
            known = self._ids.get(target)
            if known is None:
                values = {row[column] for row in rows if row[column] is not None}
                id = every_table()[target].c.id
                known = {found: found for found in self._connection.scalars(select(id).where(listed_in(id, values)))}
            rows = [
                row | {column: known.get(row[column])} for row in rows if row[column] is None or row[column] in known
            ]
        if name in ("failures", "series_references", "awaited_senders"):
            rows = [row for row in rows if row["series_id"] in self._as_before]
        if "id" in table.c:
            known = self._ids.setdefault(name, {})
            ids = [row["id"] for row in rows]
            taken = set(self._connection.scalars(select(table.c.id).where(listed_in(table.c.id, ids))))
            for row in rows:
                if row["id"] in taken:
                    other = insert(table).values({name: value for name, value in row.items() if name != "id"})
                    new = self._connection.scalar(other.on_conflict_do_nothing().returning(table.c.id))
                    known |= {row["id"]: new} if new is not None else {}
            rows = [row for row in rows if row["id"] not in taken]
            known |= {row["id"]: row["id"] for row in rows}
        if rows:
            self._connection.execute(insert(table).on_conflict_do_nothing(), rows)


def _references(table: Table) -> list[tuple[str, str]]:
    """Return the columns of a table that have the id of a row of another one, and which."""
    column, target, of_target = _BY_VALUE.get(table.name, ("", "", ""))
    by_value = [(column, target)] if of_target == "id" else []
    return [(key.parent.name, key.column.table.name) for key in table.foreign_keys] + by_value


def _encoded(value: Any) -> Any:
    return value.isoformat() if isinstance(value, dt.date | dt.time) else value


def _decoded(kind: str, rows: Rows) -> Rows:
    """Return rows from the trash with the values of their columns; columns that a newer version has get defaults."""
    if kind not in every_table():
        return rows
    columns = every_table()[kind].c
    return [{name: _value(columns[name].type, value) for name, value in row.items() if name in columns} for row in rows]


def _value(kind: Any, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(kind, Utc):
        return dt.datetime.fromisoformat(value)
    if isinstance(kind, Date):
        return dt.date.fromisoformat(value)
    return dt.time.fromisoformat(value) if isinstance(kind, Time) else value
