"""The trash: what was deleted and can come back, until it is emptied.

A deletion removes the rows of instances, so that nothing lists, converts or serves them. In the trash, the rows are as
they were: those of the instances and of every table that refers to them (`leaving`), with the files of instances,
conflicts and volumes, which stay where they are. To bring them back is to insert these rows again in one transaction,
so that nothing counts as received, made or sent once more (`_Undo`). Emptying the trash names the files in the
tombstone of the deletion, which then removes them like any other.
"""

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, delete, func, not_, or_, select, update

from node.dicom.attributes import PATIENT
from node.index.rows.backend import backend_of
from node.index.rows.extension_tables import every_table, forget_study
from node.index.rows.files import HeldFile
from node.index.rows.models.history import ConversionRow, FailureRow, TombstoneRow, TrashRow
from node.index.rows.models.levels import STORE, ImageRow, PatientRow, SeriesDocumentRow, SeriesRow, StudyRow
from node.index.rows.models.work import WorkRow
from node.index.rows.records import UIDS, Deletion, InstanceFile, Level, NotInTrash
from node.index.rows.repositories import IndexRepository, on_reader, on_writer
from node.index.rows.sql import insert, listed_in, looked_up_in
from node.index.rules.custody.deletions import FILES, NAMING, PERSON_COLUMNS, Rows, references_of_table
from node.index.rules.intake.levels import delete_empty_patient, note_decided
from node.index.rules.intake.stated import settle
from node.index.rules.people.accounts import Content, enter_projects
from node.index.rules.people.identifiers import PERSONS, known_person
from node.index.rules.people.persons import APART
from node.index.rules.series.reopening import convert_referring, reopen
from node.index.rules.series.verdicts import doubt_parts, judge_doubted
from node.index.rules.work.events import NEWEST_EVENT, owe_host_removals, owe_trashed, record_event
from node.index.rules.work.ledger import begin_again
from node.index.rules.work.messages import forget_jobs, replay_jobs

_IN_TRASH = TombstoneRow.content.is_not(None)
_HAS_FILE = and_(TrashRow.kind.in_(FILES), TrashRow.key.is_not(None))
"""A conflict of attributes has no file, nor has a version whose file was purged or taken."""


@dataclass(frozen=True, slots=True)
class TrashedFile:
    """The file of an instance or of a conflict, with its row: `kind` is the table."""

    kind: str
    key: str
    holder: str | None
    row: Mapping[str, Any]

    @property
    def found(self) -> InstanceFile | HeldFile:
        """The file as its row has it."""
        row = self.row
        if self.kind == "conflicts":
            return HeldFile(self.key, row["sha256"] or "", holder=row["host"])
        return InstanceFile(*(row["spool_host" if name == "holder" else name] for name in InstanceFile.__match_args__))


def in_trash(connection: Connection, level: Level, uid: str) -> list[int]:
    """Return the deletions in the trash of a study or a series and all that it had, or of an instance itself."""
    is_it = and_(TombstoneRow.level == level, TombstoneRow.uid == uid)
    if level != "instance":
        is_it = or_(is_it, TombstoneRow.content[f"{level}_instance_uid"].as_string() == uid)
    return list(connection.scalars(select(TombstoneRow.id).where(is_it, _IN_TRASH).order_by(TombstoneRow.id)))


def _content(connection: Connection, number: int) -> dict[str, Any]:
    content = connection.scalar(select(TombstoneRow.content).where(TombstoneRow.id == number, _IN_TRASH))
    if content is None:
        raise NotInTrash
    return dict(content)


class TrashRepository(IndexRepository):
    """What was deleted, from the deletion until it is back or gone."""

    @on_writer
    def bring_back(self, connection: Connection, number: int, now: dt.datetime) -> None:
        """Take a deletion out of the trash: its rows are as before, and its files are to be compared with them.

        Files of instances that came again meanwhile have no row of their own yet. Raises NotInTrash.
        """
        content = _content(connection, number)
        taken = update(TombstoneRow).where(TombstoneRow.id == number, _IN_TRASH).returning(TombstoneRow.level)
        level = connection.scalar(taken.values(content=None, restored_at=now, last_event=NEWEST_EVENT))
        if level is None:
            raise NotInTrash  # somebody was quicker
        study = content["study_instance_uid"]
        _Undo(connection, number, study, stays=bool(content.get("stays")), now=now).run()
        connection.execute(delete(TrashRow).where(TrashRow.deletion == number, not_(_HAS_FILE)))
        record_event(connection, "restored", now, study_instance_uid=study, detail=f"{level}, from the trash")

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
        self, connection: Connection, number: int, after: int = 0, limit: int | None = None
    ) -> list[tuple[int, TrashedFile]]:
        """Return files of instances of a deletion, behind a number in their order, with these numbers."""
        its = TrashRow.deletion == number, _HAS_FILE, TrashRow.id > after
        return [
            (row.id, TrashedFile(row.kind, row.key, row.holder, _decoded(row.kind, row.content)))
            for row in connection.execute(select(TrashRow).where(*its).order_by(TrashRow.id).limit(limit))
        ]

    @on_reader
    def of(self, connection: Connection, level: Level, uid: str) -> tuple[set[int], set[int]]:
        """Return the deletions in the trash of a study, series or instance alone, and those that have others as well.

        A deletion has one study, which `in_trash` knows.
        """
        is_it = TrashRow.content[UIDS[level]].as_string() == uid
        named = TrashRow.kind.in_(FILES if level == "instance" else ("series",))
        rows = connection.execute(select(TrashRow.deletion, is_it).join(TombstoneRow).where(_IN_TRASH, named)).all()
        having, others = ({number for number, its in rows if bool(its) is wanted} for wanted in (True, False))
        alone = {*in_trash(connection, level, uid), *(having - others)}
        return alone, having - alone

    @on_reader
    def has_objects(self, connection: Connection) -> bool:
        """Return whether files in the trash are in the object store."""
        return connection.execute(select(TrashRow.id).where(TrashRow.place == STORE).limit(1)).first() is not None

    @on_writer
    def compared(self, connection: Connection, numbers: Collection[int]) -> None:
        """Note that files, by their numbers, are back, or that it is recorded why they are not."""
        connection.execute(delete(TrashRow).where(listed_in(TrashRow.id, list(numbers))))

    @on_reader
    def has_any(self, connection: Connection) -> bool:
        """Return whether any deletion is in the trash."""
        return connection.execute(select(TombstoneRow.id).where(_IN_TRASH).limit(1)).first() is not None

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
        study = _content(connection, number)["study_instance_uid"]
        taken = update(TombstoneRow).where(TombstoneRow.id == number, _IN_TRASH)
        gone = taken.values(content=None, finished_at=None).returning(TombstoneRow)
        row = connection.execute(gone).first()
        if row is None:
            raise NotInTrash
        forget_study(connection, study)
        forget_jobs(connection, study)
        owe_trashed(connection, number, now)
        left = delete(TrashRow).where(TrashRow.deletion == number).returning(TrashRow.kind, TrashRow.key)
        keys = {key for kind, key in connection.execute(left).all() if kind in NAMING and key is not None}
        paths = sorted({*row.paths, *keys})
        owe_host_removals(connection, paths, now)
        connection.execute(update(TombstoneRow).where(TombstoneRow.id == number).values(paths=paths))
        return Deletion(number, tuple(paths), row.level, row.uid, row.listed, went_to_trash=True)

    @on_writer
    def forget_patients(self, connection: Connection, number: int) -> None:
        """Forget who somebody has decided that the patients of a deletion are, unless they have other studies."""
        its = TrashRow.deletion == number, TrashRow.kind == "patients"
        identities = select(TrashRow.content["identity"].as_string()).where(*its)
        for id in connection.scalars(select(PatientRow.id).where(PatientRow.identity.in_(identities))).all():
            delete_empty_patient(connection, id, forgets=True)


class _Undo:
    """Rows of a deletion that are inserted again.

    What is there already stays as it is: a study or a series that came again, and instances of it. A series is as
    before, without another conversion, if it is not there, or if it has not changed since an instance left it. Any
    other one has other instances now, and is converted again.
    """

    def __init__(self, connection: Connection, number: int, study: str, *, stays: bool, now: dt.datetime) -> None:
        self._connection, self._study, self._stays, self._now = connection, study, stays, now
        self._rows: dict[str, list[dict[str, Any]]] = {name: [] for name in every_table()}
        query = select(TrashRow.kind, TrashRow.content).where(TrashRow.deletion == number).order_by(TrashRow.id)
        for kind, content in connection.execute(query):
            if kind in self._rows:  # else of an extension that is not installed any more
                self._rows[kind].append(_decoded(kind, content))
        self._ids: dict[str, dict[int, int]] = {}  # by table: of a row that was deleted, what it has now
        self._new: set[int] = set()  # series that are inserted
        self._as_before: set[int] = set()

    def run(self) -> None:
        """Insert all rows, and let what has changed with them be judged or converted again.

        A deletion that another version put into the trash has files alone: they are indexed again.
        """
        if not self._rows["studies"]:
            return
        held = {self._study, *(row["series_instance_uid"] for row in self._rows["series"])}
        backend_of(self._connection).hold(self._connection, held | {row["identity"] for row in self._rows["patients"]})
        study = self._bring_study()
        for row in self._rows["series"]:
            self._bring_series(row, study)
        grown = self._bring_images()
        self._bring_conversions()
        for name, rows in self._rows.items():
            if name not in ("patients", "studies", "series", "images", "conversions", "work"):
                self._insert(name, rows)
        self._bring_work()
        for series in sorted(grown - self._as_before):
            reopen(self._connection, series, self._study, None, self._now, "instances of it are back from the trash")
        for series in sorted(self._as_before):
            doubt_parts(self._connection, series, self._now)
        settle(self._connection, study, self._now)
        judge_doubted(self._connection, {study}, self._now)
        for row in self._rows["series"]:
            uids, revision = [row["series_instance_uid"]], row["revision"]
            convert_referring(self._connection, uids, self._now, "is back from the trash", used=revision)

    def _bring_study(self) -> int:
        """Return the row id of the study. Who its patient is holds if nobody has decided that meanwhile."""
        [row] = self._rows["studies"]
        of = StudyRow
        query = select(of.id, of.patient_id, of.identified_at).where(of.study_instance_uid == self._study)
        there = self._connection.execute(query).first()
        if there is not None:
            self._ids["studies"] = {row["id"]: there.id}
            if row["identified_at"] is None or there.identified_at is not None:
                return int(there.id)
        known = self._ids.setdefault("patients", {})
        named = {row[column.name] for column in PERSON_COLUMNS}
        for patient in (one for one in self._rows["patients"] if one["id"] in named):
            if (found := self._patient(patient)) is None:  # a merge holds until it is undone: there is none any more
                self._insert("patients", [patient | APART])
            else:
                known[patient["id"]] = found
        persons = {column.name: known.get(row[column.name]) for column in PERSON_COLUMNS}
        its = persons["corrected_patient_id"] or persons["named_patient_id"] or persons["patient_id"]
        into = self._connection.scalar(select(PatientRow.merged_into).where(PatientRow.id == its)) or its
        persons["patient_id"] = into
        if persons["corrected_patient_id"] is None:
            persons["named_patient_id"] = its if into != its else None
        if there is None:
            self._ids["patients"] |= {id: id for id in persons.values() if id is not None}
            self._insert("studies", [row | persons])
        else:
            values = persons | {name: row[name] for name in ("identified_at", "decided_by")}
            self._connection.execute(update(of).where(of.id == there.id).values(values))
        if into != known.get(row["patient_id"]):  # somebody has merged or separated the patient meanwhile
            note_decided(self._connection, [self._study], self._now)
        for person in {*known.values(), *([there.patient_id] if there is not None else [])}:
            delete_empty_patient(self._connection, person)
        return self._ids["studies"][row["id"]]

    def _patient(self, row: dict[str, Any]) -> int | None:
        """Return the row that a person has by now."""
        is_it = PatientRow.id == row["id"], PatientRow.identity == row["identity"]
        if (found := self._connection.scalar(select(PatientRow.id).where(*is_it))) is not None:
            return found
        rows = self._connection.execute(PERSONS, {"identity": row["identity"]}).all()
        known = known_person(self._connection, rows, {one.column: row[one.column] for one in PATIENT}, row["identity"])
        return int(known.id) if known is not None else None

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
        """Insert the instances that did not come again; return the series that have instances again.

        Those of a series that is there are searched in their files: the series has another document by now.
        """
        rows, series = self._rows["images"], self._ids["series"]
        uids = looked_up_in(ImageRow.sop_instance_uid, [row["sop_instance_uid"] for row in rows])
        query = select(ImageRow.sop_instance_uid, ImageRow.id, ImageRow.sha256).where(uids)
        there = {uid: (id, sha256) for uid, id, sha256 in self._connection.execute(query)}
        new = [row for row in rows if row["sop_instance_uid"] not in there]
        self._insert("images", new)
        known = self._ids.setdefault("images", {})
        for row in rows:
            id, sha256 = there.get(row["sop_instance_uid"], (0, ""))
            if sha256 == row["sha256"]:
                known[row["id"]] = id
            if id:
                self._as_before.discard(series[row["series_id"]])
        documented = {row["id"] for row in new if series[row["series_id"]] in self._new}
        documents = self._rows["image_documents"]
        self._rows["image_documents"] = [row for row in documents if row["image_id"] in documented]
        partial = SeriesDocumentRow.series_id.in_(set(series.values()) - self._new)
        self._connection.execute(update(SeriesDocumentRow).where(partial).values(is_partial=True))
        return {series[row["series_id"]] for row in new}

    def _bring_conversions(self) -> None:
        """Insert revisions, or change those that are there; they are current where a series is as before."""
        of = ConversionRow
        held = {row["conversion_id"] for row in self._rows["volumes"]}
        if self._stays:
            later = update(of).where(of.series_id.in_(self._as_before), of.superseded.is_(False))
            self._connection.execute(later.values(superseded=True, owes_sidecars=0))
        known = self._ids.setdefault("conversions", {})
        for row in self._rows["conversions"]:
            series = self._ids["series"][row["series_id"]]
            if series not in self._as_before:
                row |= {"superseded": True, "owes_sidecars": 0}
            its = of.series_id == series, of.revision == row["revision"]
            there = self._connection.execute(select(of.id, of.created_at, of.files_removed_at).where(*its)).first()
            if there is None:
                self._insert("conversions", [row])
            elif there.created_at == row["created_at"]:
                known[row["id"]] = there.id
                values = {name: row[name] for name in ("superseded", "owes_sidecars", "files_removed_at")}
                if row["id"] not in held or there.files_removed_at is None:
                    values["files_removed_at"] = there.files_removed_at
                self._connection.execute(update(of).where(of.id == there.id).values(values))

    def _bring_work(self) -> None:
        """Let messages wait again that were dropped meanwhile, and jobs begin again that the deletion has cancelled."""
        for row in self._rows["work"]:
            its = [WorkRow.id == row["id"], WorkRow.outcome == "dropped"]
            if row["kind"] == "job":
                outcome = self._connection.scalar(select(WorkRow.outcome).where(WorkRow.id == row["id"]))
                if outcome != "cancelled":
                    continue
                replay_jobs(self._connection, row["name"], [row["cause"]])
                its = [WorkRow.kind == "hook", WorkRow.name == row["name"], WorkRow.key == row["cause"]]
            begin_again(self._connection, self._now, *its)

    def _insert(self, name: str, rows: Rows) -> None:
        """Insert rows with the ids that they had, as far as these are free, and with those that what they name has now.

        Rows that name what is not there any more are left out, such as those of a series that another one replaces.
        """
        if not rows:
            return
        table = every_table()[name]
        for column, other, _ in references_of_table(table):
            known = self._ids.get(other.table.name)
            if known is None:
                ids = other.in_({row[column.name] for row in rows})
                known = {id: id for id in self._connection.scalars(select(other).where(ids))}
            if other.name == "id":
                rows = [
                    row | {column.name: known.get(row[column.name])}
                    for row in rows
                    if row[column.name] in {None, *known}
                ]
        if name in ("failures", "series_references", "awaited_senders"):
            rows = [row for row in rows if row["series_id"] in self._as_before]
        taken: set[int] = set()
        if "id" in table.c:
            had = listed_in(table.c.id, [row["id"] for row in rows])
            taken = set(self._connection.scalars(select(table.c.id).where(had)))
        free = [row for row in rows if row.get("id") not in taken]
        if free:  # first, or an id of theirs could go to one of the others
            self._connection.execute(insert(table).on_conflict_do_nothing(), free)
        if "id" in table.c:
            known = self._ids.setdefault(name, {})
            known |= {row["id"]: row["id"] for row in free}
            for row in (row for row in rows if row["id"] in taken):
                anew = insert(table).values({name: value for name, value in row.items() if name != "id"})
                new = self._connection.scalar(anew.on_conflict_do_nothing().returning(table.c.id))
                known |= {row["id"]: new} if new is not None else {}


def _decoded(kind: str, row: dict[str, Any]) -> dict[str, Any]:
    """Return a row from the trash with the values of its columns; columns that a newer version has get defaults."""
    types = {column.name: getattr(column.type, "impl", column.type).python_type for column in every_table()[kind].c}
    return {
        name: types[name].fromisoformat(value) if value and issubclass(types[name], dt.date | dt.time) else value
        for name, value in row.items()
        if name in types
    }
