"""What commands and programs look at of patients, studies, series, instances and volumes, as of `views` the rest."""

import datetime as dt
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, ClassVar

from node.index.rows.records import InstanceFile, PlaceCount, StoredStudy
from node.index.rows.view_rows import (
    DISTINCT,
    LIKE,
    LISTS,
    MOMENT,
    Kinds,
    Newest,
    PagedViews,
    Row,
    ViewRows,
    certainty_of,
    literal,
    moment,
    pattern_of,
    written,
)

CHUNK_STUDIES = 1000
"""Studies that retention reads at a time."""


COMMON_STATES = ("converted", "not-an-image")
OTHER_STATES = ("receiving", "converting", "refused", "failed")
"""States that most series are in at last, and those of few."""


FEW_SERIES = 5000
"""Series that are looked up one by one and sorted, in some 10 ms."""


MAX_NEWEST_SERIES = 1000
"""Newest series by which it is known when a sender stored something."""


PLACES = ("folder", "spool", "store")
"""Where a file is: in the folder, there and owed to the object store, or in it."""

_OF_REVISION = "AND revision = :revision LIMIT :limit"

_WITH_STUDY = "v_series se JOIN v_studies st USING (study_instance_uid)"
"""Series, with the patients of their studies."""

_ABOVE_IMAGE = "JOIN series se ON se.id = i.series_id JOIN studies st ON st.id = se.study_id"


class PatientViews(PagedViews):
    """Rows of ``patients`` and ``v_patients``; those of a page have their numbers of studies."""

    listing = "SELECT p.*, (SELECT count(*) FROM studies st WHERE st.patient_id = p.id) AS studies FROM patients p"
    kinds: ClassVar[Kinds] = {"patient_birth_date": dt.date.fromisoformat, "is_corrected": bool}

    def _matching(self, *, name: str | None = None, **wanted: Any) -> tuple[str, dict[str, Any]]:
        """`name`: beginning of the name; case is ignored."""
        matching, values = super()._matching(**wanted)
        if name is None:
            return matching, values
        named = self._queries.say(LIKE, "patient_name", ":named")
        return f"{matching} AND {named}", {**values, "named": f"{literal(name)}%"}

    def all(self) -> list[Row]:
        """Return all rows of ``v_patients``, sorted by name."""
        return self._rows("SELECT * FROM v_patients ORDER BY patient_name NULLS FIRST, patient_id NULLS FIRST, id")

    def with_patient_id(self, patient_id: str) -> list[Row]:
        """Return the rows of ``v_patients`` with a Patient ID: one for each issuer."""
        return self._rows("SELECT * FROM v_patients WHERE patient_id = :patient_id ORDER BY id", patient_id=patient_id)

    def named(self, text: str, limit: int) -> list[Row]:
        """Return at most `limit` rows of ``v_patients`` whose name contains `text`, whose case is ignored, by name.

        A space in `text` stands for the separator between parts of a name.
        """
        named = self._queries.say(LIKE, "patient_name", ":pattern")
        query = f"SELECT * FROM v_patients WHERE {named} ORDER BY patient_name NULLS FIRST, id LIMIT :limit"
        return self._rows(query, pattern=pattern_of(text.split()), limit=limit)


_MESSAGE_WAITS = "kind IN ('hook', 'route') AND state IN ('waiting', 'running')"
"""Not by `outcome`: the index of `state` finds the few rows that wait."""


class StudyViews(ViewRows):
    """Rows of ``v_studies``, and what retention asks of studies."""

    def by_age(self, *, with_senders: bool) -> Iterator[StoredStudy]:
        """Yield every study as retention sees it, in the order in which they last received an instance.

        They are read in chunks: who stops early reads no more. `with_senders`: with their calling AE titles, for which
        all of their instances are read.
        """
        in_order, last = "ORDER BY se.last_received_at, se.id LIMIT :limit", self._queries.say(MOMENT, ":last")
        after = f"AND se.last_received_at >= {last} AND (se.last_received_at > {last} OR se.id > :newest)"
        rows = self._stored(in_order, with_senders=with_senders, limit=CHUNK_STUDIES)
        while rows:
            yield from map(_stored_study, rows)
            values = {"last": rows[-1]["last_received_at"], "newest": rows[-1]["newest"], "limit": CHUNK_STUDIES}
            rows = self._stored(f"{after} {in_order}", with_senders=with_senders, **values)

    def stored(self, study_instance_uid: str, *, with_senders: bool = False) -> StoredStudy | None:
        """Return one study as retention sees it; None if it is not there."""
        is_it = "AND st.study_instance_uid = :study"
        rows = self._stored(is_it, with_senders=with_senders, study=study_instance_uid)
        return _stored_study(rows[0]) if rows else None

    def owed(self) -> set[str]:
        """Return the studies of which a message to a hook or a destination of a route waits, or has no row yet.

        They are few beside all studies: whoever goes through these asks once.
        """
        of_subscriber = "FROM subscribers h JOIN {0} o ON o.subscriber_id = h.id JOIN {1}"
        rows = self._rows(
            f"SELECT study_instance_uid FROM work WHERE {_MESSAGE_WAITS} UNION SELECT e.study_instance_uid "
            f"{of_subscriber.format('owed_events', 'events e ON e.id = o.event_id')} "
            "UNION SELECT st.study_instance_uid FROM series se JOIN studies st ON st.id = se.study_id "
            "WHERE se.id IN (SELECT i.series_id "
            f"{of_subscriber.format('owed_images', 'images i ON i.id = o.image_id')})"
        )
        return {row["study_instance_uid"] for row in rows}

    def has_message(self, study_instance_uid: str) -> bool:
        """Return whether a message about a study waits that has a row, as one that a person has sent has at once."""
        query = f"SELECT count(*) FROM work WHERE study_instance_uid = :study AND {_MESSAGE_WAITS}"
        return self._number(query, study=study_instance_uid) > 0

    def _stored(self, rest: str, *, with_senders: bool, **values: Any) -> list[Row]:
        """Return studies, each by its series that received an instance last; `rest`: more conditions, order, limit."""
        titles = "'[]'"
        if with_senders:
            senders = self._queries.say(DISTINCT, "i.calling_ae_title")
            of_study = "FROM series o JOIN images i ON i.series_id = o.id WHERE o.study_id = st.id"
            titles = f"(SELECT {senders} {of_study})"
        return self._rows(
            # For an EXISTS in the place of min(), PostgreSQL would read all series.
            "SELECT se.id AS newest, st.study_instance_uid, se.last_received_at, (SELECT max(t.restored_at) FROM "
            "tombstones t WHERE t.uid = st.study_instance_uid) AS restored_at, (SELECT max(t.last_event) FROM "
            "tombstones t WHERE t.uid = st.study_instance_uid) AS restored, (SELECT max(o.last_event) FROM series o "
            "WHERE o.study_id = st.id) AS received, (SELECT sum(o.receptions) FROM series o "
            "WHERE o.study_id = st.id) AS receptions, (SELECT min(CASE WHEN o.state IN "
            "('converted', 'not-an-image') THEN 1 ELSE 0 END) FROM series o WHERE o.study_id = st.id) AS is_finished, "
            f"{titles} AS calling_ae_titles "
            "FROM series se JOIN studies st ON st.id = se.study_id WHERE NOT EXISTS (SELECT 1 FROM series o "
            f"WHERE o.study_id = st.id AND (o.last_received_at, o.id) > (se.last_received_at, se.id)) {rest}",
            **values,
        )

    def count(self) -> int:
        """Count all studies."""
        return self._number("SELECT count(*) FROM studies")

    def all(self) -> list[Row]:
        """Return all rows of ``v_studies``, by date."""
        return self._rows("SELECT * FROM v_studies ORDER BY study_date NULLS FIRST, study_instance_uid")

    def row(self, study_instance_uid: str) -> Row | None:
        """Return the row of ``v_studies`` of a study, or None."""
        return self._row("SELECT * FROM v_studies WHERE study_instance_uid = :study", study=study_instance_uid)

    def with_accession_number(self, accession_number: str) -> list[Row]:
        """Return the rows of ``v_studies`` with an Accession Number."""
        query = "SELECT * FROM v_studies WHERE accession_number = :number ORDER BY study_instance_uid"
        return self._rows(query, number=accession_number)

    def of_patients(self, patients: Sequence[int]) -> list[Row]:
        """Return the rows of ``v_studies`` of patients, by the `id` in ``v_patients``, sorted by date."""
        rows = [row for each in patients for row in self._rows("SELECT * FROM v_studies WHERE patient = :id", id=each)]
        return sorted(rows, key=lambda row: (row["study_date"] or "", row["study_instance_uid"]))

    def earlier_namesakes(self, study: Mapping[str, Any], tokens: Collection[str]) -> list[list[Row]]:
        """Return each study that was received before one and may be called alike, with a row for each of its series.

        `tokens`: those of the names of studies. With {patient_id}, the patients have one Patient ID; else one name, in
        upper or lower case, if there is one. With {study_date}, both have one date. The patients are found first: an
        archive may have no dates, or one date for all its studies.
        """
        by_id = "patient_id" in tokens or not study["patient_name"]
        names = ("patient_id",) if by_id else ("patient_name", "patient_name_alphabetic")
        is_alike = " OR ".join(f"p.{name} = one.{name}" for name in names)
        date = "COALESCE(CAST({}.study_date AS TEXT), '')"
        on_one_day = f"AND {date.format('st')} = {date.format('own')} " if "study_date" in tokens else ""
        rows = self._rows(
            "SELECT DISTINCT st.id, st.study_instance_uid, st.study_date, st.study_time, st.study_description, "
            "st.study_id, st.accession_number, p.patient_id, p.patient_name, se.modality "
            "FROM studies own JOIN patients one ON one.id = own.patient_id "
            f"JOIN patients p ON {is_alike} JOIN studies st ON st.patient_id = p.id AND st.id < own.id {on_one_day}"
            "LEFT JOIN series se ON se.study_id = st.id WHERE own.study_instance_uid = :study ORDER BY st.id",
            study=study["study_instance_uid"],
        )
        return [list(of_study) for _, of_study in groupby(rows, itemgetter("id"))]


def _stored_study(row: Row) -> StoredStudy:
    titles = frozenset(title or "" for title in json.loads(row["calling_ae_titles"]))
    received_at, restored_at = moment(row["last_received_at"]), row["restored_at"] and moment(row["restored_at"])
    last = max(received_at, restored_at) if restored_at else received_at
    is_back, came = (row["restored"] or -1) >= row["received"], (row["receptions"], row["received"], row["restored"])
    return StoredStudy(row["study_instance_uid"], last, bool(row["is_finished"]), titles, is_back=is_back, came=came)


class SeriesViews(ViewRows):
    """Rows of ``v_series``."""

    def row(self, study_instance_uid: str, series_instance_uid: str) -> Row | None:
        """Return the row of ``v_series`` of a series, or None."""
        return next(iter(self._rows_of_study("SELECT * FROM v_series", study_instance_uid, series_instance_uid)), None)

    def with_uid(self, series_instance_uid: str) -> list[Row]:
        """Return the rows of ``v_series`` with a Series Instance UID: one for each study that contains it."""
        query = "SELECT * FROM v_series WHERE series_instance_uid = :series ORDER BY study_instance_uid"
        return self._rows(query, series=series_instance_uid)

    def ending(self, end: str) -> list[Row]:
        """Return two of the studies and series whose UIDs end in `end`, digits and dots; this compares all of them."""
        query = (
            "SELECT study_instance_uid, '' AS series_instance_uid FROM studies WHERE study_instance_uid LIKE :end "
            "UNION SELECT study_instance_uid, series_instance_uid FROM series se JOIN studies st "
            "ON st.id = se.study_id WHERE series_instance_uid LIKE :end LIMIT 2"
        )
        return self._rows(query, end=f"%{end}")

    def waits(self, study_instance_uid: str, series_instance_uid: str) -> list[Row]:
        """Return what an open series waits for: ``calling_ae_title``, the moments of each sender."""
        source = (
            "SELECT aw.calling_ae_title, aw.quiet_at, aw.grace_until, (SELECT max(o.open_until) FROM open_associations "
            "o WHERE o.series_id = se.id AND o.calling_ae_title = aw.calling_ae_title) AS open_until "
            "FROM awaited_senders aw JOIN series se ON se.id = aw.series_id JOIN studies st ON st.id = se.study_id"
        )
        return self._rows_of_study(source, study_instance_uid, series_instance_uid, "ORDER BY aw.calling_ae_title")

    def of_study(self, study_instance_uid: str) -> list[Row]:
        """Return the rows of ``v_series`` of a study, by Series Number; series without a number come last."""
        order = "ORDER BY series_number IS NULL, series_number, series_instance_uid"
        return self._rows_of_study("SELECT * FROM v_series", study_instance_uid, None, order)

    def newest(
        self,
        limit: int,
        *,
        study: str | None = None,
        states: Sequence[str] = (),
        patient: str | None = None,
        modality: str | None = None,
        since: dt.datetime | None = None,
    ) -> Newest:
        """Return at most `limit` rows of ``v_series`` with their studies, the last to receive an instance first.

        `study`, `states`, `patient`, `modality`, `since`: Filters; without one, all match. `states`: alternatives, also
        the certainties of what is converted; `patient`: its Patient ID; `since`: of the last instance.
        """
        # The newest series of a common value are at the beginning of `ix_series_listed`. SQLite would read and sort all
        # of them by an index of `=`, and has none for NOT <>. PostgreSQL knows how many there are.
        of_modality = f"SELECT 1 FROM series WHERE modality = :modality LIMIT {FEW_SERIES}"
        counted = f"SELECT count(*) FROM ({of_modality}) few"
        is_rare = modality is not None and self._number(counted, modality=modality) < FEW_SERIES
        named = {f"state_{number}": state for number, state in enumerate(states)}
        is_in_state = " OR ".join(
            f"NOT se.state <> :{name}"
            if state in COMMON_STATES
            else f"se.state = :{name}"
            if state in OTHER_STATES
            else f"NOT se.state <> 'converted' AND {certainty_of('se')} = :{name}"
            for name, state in named.items()
        )
        values = {"study": study, "patient": patient, "modality": modality, "since": since and written(since), **named}
        filters = {
            "study": "se.study_id IN (SELECT id FROM studies WHERE study_instance_uid = :study)",
            "patient": "se.study_id IN (SELECT st.id FROM patients p JOIN studies st ON st.patient_id = p.id "
            "WHERE p.patient_id = :patient)",
            "modality": "se.modality = :modality" if is_rare else "NOT se.modality <> :modality",
            "since": f"se.last_received_at >= {self._queries.say(MOMENT, ':since')}",
        }
        conditions = [f"({is_in_state or '1 = 1'})", *(filters[name] for name in filters if values[name] is not None)]
        matching = f"SELECT se.id FROM series se WHERE {' AND '.join(conditions)}"
        newest = f"{matching} ORDER BY se.last_received_at DESC LIMIT :limit"
        rows = self._rows(
            f"SELECT v.*, p.patient_name, p.patient_id, st.study_date FROM ({newest}) k CROSS JOIN series own "
            "CROSS JOIN studies st CROSS JOIN patients p CROSS JOIN v_series v "
            "WHERE own.id = k.id AND st.id = own.study_id AND p.id = st.patient_id "
            "AND v.study_instance_uid = st.study_instance_uid AND v.series_instance_uid = own.series_instance_uid "
            "ORDER BY own.last_received_at DESC",
            limit=limit,
            **values,
        )
        return self._with_total(rows, limit, matching, **values)

    def under_way(self, limit: int) -> list[Row]:
        """Return the series that wait or are being converted, with their patients, earliest due first."""
        return self._rows(
            "SELECT se.study_instance_uid, se.series_instance_uid, se.series_number, se.series_description, "
            "se.modality, se.state, se.instances, se.expected_instances, se.verdict, se.certainty, se.revision, "
            "se.attempts, se.error, se.due_at, se.last_received_at, st.patient_name, st.patient_id "
            f"FROM {_WITH_STUDY} WHERE se.state IN ('receiving', 'converting') "
            "ORDER BY se.state, se.due_at NULLS FIRST LIMIT :limit",
            limit=limit,
        )

    def retried(self) -> list[Row]:
        """Return the series whose conversion failed and is tried again, with their patients, earliest due first."""
        return self._rows(
            "SELECT se.study_instance_uid, se.series_instance_uid, se.series_number, se.series_description, "
            "se.modality, se.attempts, se.error, se.due_at, st.patient_name, st.patient_id "
            f"FROM {_WITH_STUDY} WHERE se.state = 'receiving' AND se.attempts > 0 ORDER BY se.due_at"
        )

    def count_by_state(self) -> dict[str, int]:
        """Count the series by state."""
        return self._counts("SELECT state, count(*) AS count FROM series GROUP BY state ORDER BY state")

    def count_waiting(self, now: dt.datetime) -> int:
        """Count the series that are due: they wait for a converter, and for nothing else."""
        due = f"state = 'receiving' AND due_at <= {self._queries.say(MOMENT, ':now')}"
        return self._number(f"SELECT count(*) FROM series WHERE {due}", now=written(now))

    def count_doubted(self) -> dict[str, int]:
        """Count what `newest` lists in the states ``incomplete`` and ``suspect``, by state."""
        doubted = "study_id > 0 AND verdict IN ('suspect', 'incomplete')"  # of the index `ix_series_doubted`
        converted = f"FROM series WHERE {doubted} AND NOT state <> 'converted' GROUP BY verdict"
        return {"incomplete": 0, "suspect": 0} | self._counts(f"SELECT verdict, count(*) AS count {converted}")

    def last_received_at(self) -> str | None:
        """Return when the newest instance was received, in the format of ``v_series``, or None if there are none."""
        return self._text("SELECT max(last_received_at) FROM series")

    def next_due_at(self) -> str | None:
        """Return when the next waiting series is due, in the format of ``v_series``, or None if no series waits."""
        return self._text("SELECT min(due_at) FROM series WHERE state = 'receiving'")


class _FileViews(ViewRows):
    def _by_place(self, table: str) -> dict[str, tuple[int, int]]:
        """Return the number of rows of a table of files in each place, and their bytes."""
        place = "coalesce(place, 'folder')"
        rows = self._rows(
            f"SELECT {place} AS place, count(*) AS files, sum(bytes) AS bytes FROM {table} GROUP BY {place}"
        )
        return dict.fromkeys(PLACES, (0, 0)) | {row["place"]: (int(row["files"]), int(row["bytes"])) for row in rows}


class InstanceViews(_FileViews):
    """Rows of ``v_images``."""

    def current(self, sop_instance_uid: str) -> InstanceFile | None:
        """Return the current file of an instance, or None."""
        return self._instance_file("WHERE i.sop_instance_uid = :uid", uid=sop_instance_uid)

    def row(self, sop_instance_uid: str) -> Row | None:
        """Return the row of ``v_images`` of an instance, or None."""
        return self._row("SELECT * FROM v_images WHERE sop_instance_uid = :uid", uid=sop_instance_uid)

    def last_stored(self) -> dict[str, dt.datetime]:
        """Return when the senders of the newest series stored something for the last time, by AE title."""
        rows = self._rows(
            "SELECT calling_ae_title, max(received_at) AS last_at FROM images WHERE calling_ae_title IS NOT NULL "
            "AND series_id IN (SELECT id FROM series ORDER BY last_received_at DESC LIMIT :newest) "
            "GROUP BY calling_ae_title",
            newest=MAX_NEWEST_SERIES,
        )
        return {row["calling_ae_title"]: moment(row["last_at"]) for row in rows}

    def first_file(self, study_instance_uid: str, series_instance_uid: str | None = None) -> InstanceFile | None:
        """Return the file of the first instance of a study or series, by Instance Number; None if it has none."""
        of_series = "" if series_instance_uid is None else "AND se.series_instance_uid = :series "
        return self._instance_file(
            f"{_ABOVE_IMAGE} WHERE st.study_instance_uid = :study AND NOT i.file_missing {of_series}"
            "ORDER BY se.series_instance_uid, i.instance_number NULLS FIRST, i.sop_instance_uid LIMIT 1",
            study=study_instance_uid,
            series=series_instance_uid,
        )

    def _instance_file(self, rest: str, **values: Any) -> InstanceFile | None:
        row = self._row(
            'SELECT i.sop_instance_uid, i."key", i.data_set_offset, i.bytes, i.sha256, i.file_missing, i.place, '
            f"i.spool_host AS holder FROM images i {rest}",
            **values,
        )
        return None if row is None else InstanceFile(**{**row, "file_missing": bool(row["file_missing"])})

    def totals(self) -> Row:
        """Return the total numbers of ``instances`` and ``bytes``."""
        return self._rows("SELECT count(*) AS instances, coalesce(sum(bytes), 0) AS bytes FROM images")[0]

    def count_by_place(self) -> dict[str, PlaceCount]:
        """Return the instances in each place: ``folder``, ``spool``, ``store``. Reads all rows."""
        return {place: PlaceCount(*of_place) for place, of_place in self._by_place("images").items()}

    def count_by_holder(self) -> dict[str, int]:
        """Return how many instances are still to be moved to the store from the disk of each host."""
        held = "SELECT spool_host, count(*) AS count FROM images WHERE spool_host IS NOT NULL"
        return self._counts(f"{held} GROUP BY spool_host ORDER BY spool_host")

    def damaged(self) -> list[Row]:
        """Return the instances with a missing or damaged file, by series, with the patient."""
        return self._rows(
            "SELECT p.patient_id, p.patient_name, st.study_instance_uid, se.series_instance_uid, i.sop_instance_uid, "
            f"i.calling_ae_title, i.peer, i.received_at, i.file_missing FROM images i {_ABOVE_IMAGE} "
            "JOIN patients p ON p.id = st.patient_id WHERE i.file_missing "
            "ORDER BY i.series_id, i.instance_number, i.sop_instance_uid"
        )


class VolumeViews(_FileViews, PagedViews):
    """Rows of ``volumes``, ``v_volumes`` and ``v_catalog``; paths of a page are relative to the root."""

    listing = (
        "SELECT v.*, st.study_instance_uid, se.series_instance_uid, c.revision, c.superseded, c.converter, "
        "c.created_at, c.files_removed_at, p.patient_id FROM volumes v JOIN conversions c ON c.id = v.conversion_id "
        "JOIN series se ON se.id = c.series_id JOIN studies st ON st.id = se.study_id "
        "JOIN patients p ON p.id = st.patient_id"
    )
    kinds: ClassVar[Kinds] = {**dict.fromkeys(LISTS, json.loads), "superseded": bool}

    def of_series(self, study_instance_uid: str, series_instance_uid: str) -> list[Row]:
        """Return the rows of ``v_volumes`` of a series, newest revision first."""
        order = "ORDER BY revision DESC, stack, path"
        return self._rows_of_study("SELECT * FROM v_volumes", study_instance_uid, series_instance_uid, order)

    def folder(self, study_instance_uid: str, series_instance_uid: str, revision: int) -> str | None:
        """Return the folder of a revision, relative to the root; None if it has no files, or they were removed."""
        rest = "AND revision = :revision AND files_removed_at IS NULL LIMIT 1"
        source = f"SELECT path FROM ({self.listing}) listed"
        rows = self._rows_of_study(source, study_instance_uid, series_instance_uid, rest, revision=revision)
        return rows[0]["path"].rpartition("/")[0] if rows else None

    def totals(self, study_instance_uid: str, series_instance_uid: str | None = None) -> Row:
        """Return the numbers of ``files`` and ``bytes`` that a study or a series has and that were not removed."""
        source = "SELECT count(*) AS files, coalesce(sum(bytes), 0) AS bytes FROM v_volumes"
        rest = "AND files_removed_at IS NULL"
        return self._rows_of_study(source, study_instance_uid, series_instance_uid, rest)[0]

    def mean_seconds(self, limit: int) -> float | None:
        """Return how long the last conversions took, on average, in s; None if there were none."""
        last = "SELECT seconds FROM conversions ORDER BY id DESC LIMIT :limit"
        mean: float | None = self._value(f"SELECT avg(seconds) FROM ({last}) c", limit=limit)
        return mean

    def catalog(self) -> list[Row]:
        """Return all rows of ``v_catalog``, sorted by path."""
        return self._rows("SELECT * FROM v_catalog ORDER BY path")

    def all(self) -> list[Row]:
        """Return all rows of ``v_volumes``, sorted by path."""
        return self._rows("SELECT * FROM v_volumes ORDER BY path")

    def current(self, study_instance_uid: str, series_instance_uid: str | None = None) -> list[Row]:
        """Return the rows of ``v_volumes`` of a study or a series that are not superseded, sorted by path."""
        rest = "AND NOT superseded ORDER BY path"
        return self._rows_of_study("SELECT * FROM v_volumes", study_instance_uid, series_instance_uid, rest)

    def holding(self, study_instance_uid: str, sop_instance_uid: str) -> list[Row]:
        """Return the current rows of ``v_volumes`` that contain an instance, sorted by path."""
        return self._rows(
            "SELECT * FROM v_volumes WHERE study_instance_uid = :study AND NOT superseded "
            "AND (series_instance_uid, revision, stack) IN (SELECT series_instance_uid, revision, stack FROM v_sources "
            "WHERE study_instance_uid = :study AND sop_instance_uid = :uid) ORDER BY path",
            study=study_instance_uid,
            uid=sop_instance_uid,
        )

    def current_revisions(self, study_instance_uid: str) -> list[tuple[str, int]]:
        """Return (Series Instance UID, revision) of the current conversions of a study that have volumes."""
        return sorted({(row["series_instance_uid"], row["revision"]) for row in self.current(study_instance_uid)})

    def count_by_place(self) -> dict[str, tuple[int, int]]:
        """Return the number of files of revisions and their bytes by places: ``folder``, ``spool``, ``store``.

        Without an object store, there are none.
        """
        return self._by_place("revision_files")

    def count_current(self) -> int:
        """Count the files of kind ``volume`` that are not superseded."""
        return self._number(
            "SELECT count(*) FROM volumes v JOIN conversions c ON c.id = v.conversion_id "
            "WHERE NOT c.superseded AND v.kind = 'volume'"
        )

    def sources(self, study_instance_uid: str, series_instance_uid: str, revision: int, limit: int) -> list[Row]:
        """Return the instances that are in the volumes of a revision."""
        series, source = (study_instance_uid, series_instance_uid), "SELECT stack, frames, sop_instance_uid, sha256"
        return self._rows_of_study(f"{source} FROM v_sources", *series, _OF_REVISION, revision=revision, limit=limit)


class SourceViews(PagedViews):
    """Rows of ``volume_sources``: the instances in the stacks of conversions."""

    listing = "SELECT * FROM volume_sources"
