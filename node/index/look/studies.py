"""Patients and studies: rows of the documented views, lists and pictures, and what retention and exports ask."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar

from node.completeness import Certainty, certainty
from node.index.rows.records import StoredStudy
from node.index.rows.view_rows import (
    DISTINCT,
    LIKE,
    MOMENT,
    NUMBER,
    Kinds,
    PagedViews,
    Row,
    ViewRows,
    known,
    literal,
    moment,
    pattern_of,
    years_of,
)

if TYPE_CHECKING:
    from node.index.look.study_search import MatchingStudies, StudyCursor, StudyFilter, StudyOrder

CHUNK_STUDIES = 1000
"""Studies that retention reads at a time."""

DERIVED_MODALITIES = ("SEG", "RTSTRUCT", "RTDOSE")
"""Their pictures show a study only if no image does."""


@dataclass(frozen=True, slots=True)
class ListedStudy:
    """A study with a summary of its series.

    `patient`: the `id` of the patient.
    `patient_age`: in years.
    `series`, `instances`: numbers of series and instances.
    `modalities`: distinct modalities of the series.
    `states`: number of series in each state.
    `due_at`: when the last of the series that are received will be due; None if none is.
    `certainties`: number of converted series of each certainty.
    `labels`: labels of the study.
    `stored_patient_id`, `stored_patient_name`: those of the files, if a person has decided who the patient is.
    """

    cursor: StudyCursor
    study_instance_uid: str
    patient: int
    patient_name: str | None
    patient_id: str | None
    patient_birth_date: dt.date | None
    patient_sex: str | None
    patient_age: float | None
    study_time: str | None
    accession_number: str | None
    study_description: str | None
    stored_patient_id: str | None
    stored_patient_name: str | None
    decided_by: str | None
    decided_at: dt.datetime | None
    series: int = 0
    instances: int = 0
    modalities: tuple[str, ...] = ()
    states: Mapping[str, int] = field(default_factory=dict)
    due_at: dt.datetime | None = None
    certainties: Mapping[Certainty, int] = field(default_factory=dict)
    last_received_at: dt.datetime | None = None
    labels: tuple[str, ...] = ()

    @property
    def study_date(self) -> dt.date | None:
        """The Study Date, by which studies are ordered as well."""
        return self.cursor.study_date


class PatientViews(PagedViews):
    """Rows of ``patients`` and ``v_patients``."""

    listing = "SELECT * FROM patients"
    kinds: ClassVar[Kinds] = {"patient_birth_date": dt.date.fromisoformat, "is_corrected": bool}

    def page(self, after: int | None, limit: int, **wanted: Any) -> list[Row]:
        """Return the next page of patients with their numbers of studies, newest first."""
        return self._with_counts(super().page(after, limit, **wanted), "studies", "studies", "patient_id")

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

    def matching(self, wanted: StudyFilter) -> MatchingStudies:
        """Return the studies that match a search."""
        from node.index.look.study_search import MatchingStudies

        return MatchingStudies(self._queries.connection, wanted)

    def summaries(self, study_ids: Sequence[int], order: StudyOrder = "received") -> list[ListedStudy]:
        """Return the rows of a list for studies of a page of `matching`, with cursors for its order."""
        from node.index.look.study_search import TEXTS, StudyCursor

        text = f"{TEXTS[order].class_.__tablename__}.{TEXTS[order].key}" if order in TEXTS else "NULL"
        rows = self._of_ids(
            f"SELECT studies.id, studies.study_date, {text} AS text, studies.study_instance_uid, "
            "patients.id AS patient, patients.patient_name, patients.patient_id, patients.patient_birth_date, "
            f"patients.patient_sex, {years_of('studies.patient_age')} AS patient_age, studies.study_time, "
            "studies.accession_number, studies.study_description, named.patient_id AS stored_patient_id, "
            "named.patient_name AS stored_patient_name, coalesce(studies.decided_by, named.decided_by) AS decided_by, "
            "studies.identified_at FROM studies JOIN patients ON patients.id = studies.patient_id "
            "LEFT JOIN patients named ON named.id = studies.named_patient_id",  # whom the files name, if another one
            "studies.id",
            study_ids,
        )
        found = {row["id"]: list(_known_study(row).values()) for row in rows}
        details = self._summaries(study_ids)
        return [ListedStudy(StudyCursor(*found[id][:3]), *found[id][3:], **details[id]) for id in study_ids]

    def listed(
        self,
        wanted: StudyFilter,
        order: StudyOrder = "received",
        after: StudyCursor | None = None,
        limit: int = 50,
        *,
        reverse: bool = False,
    ) -> list[ListedStudy]:
        """Return the rows of a list for the next studies; see `MatchingStudies`."""
        return self.summaries(self.matching(wanted).page(order, after, limit, reverse=reverse), order)

    def thumbnails(self, study_ids: Sequence[int]) -> dict[int, Row]:
        """Return the pictures of studies that have one, of their largest series, by the `id` of their cursors."""
        derived = ", ".join(f"'{modality}'" for modality in DERIVED_MODALITIES)
        rows = self._of_ids(
            "SELECT se.study_id, st.study_instance_uid, se.series_instance_uid, c.revision, v.path FROM volumes v "
            "JOIN conversions c ON c.id = v.conversion_id JOIN series se ON se.id = c.series_id "
            "JOIN studies st ON st.id = se.study_id",
            "se.study_id",
            study_ids,
            "AND v.kind = 'thumbnail' AND NOT c.superseded AND c.files_removed_at IS NULL "
            f"ORDER BY se.modality NOT IN ({derived}) NULLS FIRST, "
            f"{self._queries.say(NUMBER, 'v.shape', 2)} NULLS FIRST, se.id DESC, v.stack DESC",
        )
        return {row["study_id"]: row for row in rows}  # the last one of a study stays

    def patient_id(self, study_instance_uid: str) -> str | None:
        """Return the Patient ID of a study, for the audit log, or None if the study is not in the index."""
        query = "SELECT p.patient_id FROM studies st JOIN patients p ON p.id = st.patient_id"
        row = self._row(f"{query} WHERE st.study_instance_uid = :study", study=study_instance_uid)
        return None if row is None else row["patient_id"] or ""

    def bytes_of(self, study_instance_uids: Collection[str]) -> int:
        """Return how many bytes the instances of studies have."""
        return self._number(
            "SELECT coalesce(sum(i.bytes), 0) FROM images i JOIN series se ON se.id = i.series_id "
            f"JOIN studies st ON st.id = se.study_id WHERE {self._queries.say.named('st.study_instance_uid', ':uids')}",
            uids=json.dumps(list(study_instance_uids)),
        )

    def newest_number(self) -> int:
        """Return the number of the study that was received last, or 0 if there are none."""
        return self._number("SELECT coalesce(max(id), 0) FROM studies")

    def count_since(self, number: int) -> int:
        """Count the studies that were received after the study with this number; see `newest_number`."""
        return self._number("SELECT count(*) FROM studies WHERE id > :number", number=number)

    def _summaries(self, study_ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Return keyword arguments for `ListedStudy`, by the ids of studies."""
        series: dict[int, list[Row]] = {study_id: [] for study_id in study_ids}
        for row in self._of_ids(
            "SELECT se.study_id, se.modality, se.state, se.due_at, se.verdict, se.verdict_rule, se.last_received_at, "
            "(SELECT count(*) FROM images i WHERE i.series_id = se.id) AS instances FROM series se",
            "se.study_id",
            study_ids,
        ):
            series[row["study_id"]].append(row)
        labels: dict[int, list[str]] = {study_id: [] for study_id in study_ids}
        for row in self._of_ids(
            "SELECT st.id, l.label FROM studies st "
            "JOIN labels l ON l.study_instance_uid = st.study_instance_uid AND l.series_instance_uid = ''",
            "st.id",
            study_ids,
        ):
            labels[row["id"]].append(row["label"])
        return {id: {**_summary(rows), "labels": tuple(sorted(labels[id]))} for id, rows in series.items()}

    def series_keys(self) -> list[tuple[str, str]]:
        """Return study and series UID of all series."""
        query = "SELECT study_instance_uid, series_instance_uid FROM series se JOIN studies st ON st.id = se.study_id"
        return [(row["study_instance_uid"], row["series_instance_uid"]) for row in self._rows(query)]


def _known_study(row: Row) -> Row:
    kinds: Kinds = {
        **dict.fromkeys(("study_date", "patient_birth_date"), dt.date.fromisoformat),
        "identified_at": moment,
    }
    return known(row, kinds)


def _summary(rows: Sequence[Row]) -> dict[str, Any]:
    converted = [row for row in rows if row["verdict"] and row["state"] == "converted"]
    due_at = max((row["due_at"] for row in rows if row["state"] == "receiving" and row["due_at"]), default=None)
    last_received_at = max((row["last_received_at"] for row in rows), default=None)
    return {
        "series": len(rows),
        "instances": sum(row["instances"] for row in rows),
        "modalities": tuple(sorted({row["modality"] for row in rows if row["modality"]})),
        "states": Counter(row["state"] for row in rows),
        "due_at": due_at and moment(due_at),
        "certainties": Counter(certainty(row["verdict"], row["verdict_rule"]) for row in converted),
        "last_received_at": last_received_at and moment(last_received_at),
    }


def _stored_study(row: Row) -> StoredStudy:
    titles = frozenset(title or "" for title in json.loads(row["calling_ae_titles"]))
    received_at, restored_at = moment(row["last_received_at"]), row["restored_at"] and moment(row["restored_at"])
    last = max(received_at, restored_at) if restored_at else received_at
    is_back, came = (row["restored"] or -1) >= row["received"], (row["receptions"], row["received"], row["restored"])
    return StoredStudy(row["study_instance_uid"], last, bool(row["is_finished"]), titles, is_back=is_back, came=came)
