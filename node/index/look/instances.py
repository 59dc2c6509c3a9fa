"""What is read of instances and of volumes: rows of the documented views, pages, and numbers."""

import datetime as dt
import json
from collections.abc import Sequence
from typing import Any, ClassVar

from node.index.rows.records import InstanceFile
from node.index.rows.view_rows import DISTINCT, LISTS, Kinds, PagedViews, Row, known, moment

MAX_NEWEST_SERIES = 1000
"""Newest series by which it is known when a sender stored something."""

_OF_REVISION = "AND revision = :revision LIMIT :limit"

_ABOVE_IMAGE = "JOIN series se ON se.id = i.series_id JOIN studies st ON st.id = se.study_id"
_OF_STUDY = "FROM v_images WHERE study_instance_uid = :study GROUP BY series_instance_uid"


class InstanceViews(PagedViews):
    """Rows of ``images`` and ``v_images``; the rows of `page` include `key`, the archive key of the file."""

    listing = (
        "SELECT i.*, st.study_instance_uid, se.series_instance_uid, p.patient_id FROM images i "
        "JOIN series se ON se.id = i.series_id JOIN studies st ON st.id = se.study_id "
        "JOIN patients p ON p.id = st.patient_id"
    )
    kinds: ClassVar[Kinds] = {"content_date": dt.date.fromisoformat, "file_missing": bool}

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

    def count_damaged(self) -> int:
        """Count the instances that `damaged` returns, without a look at each."""
        return self._number("SELECT count(*) FROM images WHERE file_missing")

    def damaged(self) -> list[Row]:
        """Return the instances with a missing or damaged file, by series, with the patient."""
        return self._rows(
            "SELECT p.patient_id, p.patient_name, st.study_instance_uid, se.series_instance_uid, i.sop_instance_uid, "
            f"i.calling_ae_title, i.peer, i.received_at, i.file_missing FROM images i {_ABOVE_IMAGE} "
            "JOIN patients p ON p.id = st.patient_id WHERE i.file_missing "
            "ORDER BY i.series_id, i.instance_number, i.sop_instance_uid"
        )

    def count_unavailable(self, study: str, series: str | None = None, sop_instance: str | None = None) -> int:
        """Count the instances of a study, of a series, or the one, whose file is known to be missing or damaged."""
        rest = "AND file_missing" + ("" if sop_instance is None else " AND sop_instance_uid = :instance")
        source = "SELECT count(*) AS missing FROM v_images"
        rows = self._rows_of_study(source, study, series, rest, instance=sop_instance)
        return int(rows[0]["missing"])

    def bytes_by_series(self, study_instance_uid: str) -> dict[str, int]:
        """Return the bytes of the instances of each series of a study, by Series Instance UID."""
        return self._counts(f"SELECT series_instance_uid, sum(bytes) AS bytes {_OF_STUDY}", study=study_instance_uid)

    def count_by_study(self, study_instance_uids: Sequence[str]) -> dict[str, int]:
        """Count the instances of those of some studies that are stored."""
        of_them = self._queries.say.named("study_instance_uid", ":uids")
        counted = f"SELECT study_instance_uid, count(*) AS count FROM images i {_ABOVE_IMAGE}"
        uids = json.dumps(list(study_instance_uids))
        return self._counts(f"{counted} WHERE {of_them} GROUP BY study_instance_uid", uids=uids)

    def count_by_series(self, study_instance_uid: str) -> dict[str, int]:
        """Count the instances of each stored series of a study."""
        return self._counts(f"SELECT series_instance_uid, count(*) AS count {_OF_STUDY}", study=study_instance_uid)

    def calling_ae_titles(self, study_instance_uid: str, series_instance_uid: str | None = None) -> list[str]:
        """Return the distinct AE titles that sent instances of a study or a series, sorted."""
        source, rest = "SELECT DISTINCT calling_ae_title FROM v_images", "AND calling_ae_title IS NOT NULL"
        rows = self._rows_of_study(source, study_instance_uid, series_instance_uid, rest)
        return sorted(row["calling_ae_title"] for row in rows)

    def summary(self, study_instance_uid: str, series_instance_uid: str) -> Row:
        """Return a summary of the instances of a series: counts, sizes, times, encodings and senders.

        ``classes``, ``syntaxes`` and ``senders`` are lists; a sender is source, calling AE title and peer, separated by
        blanks.
        """
        sender = "i.source || ' ' || coalesce(i.calling_ae_title, '') || ' ' || coalesce(i.peer, '')"
        lists = {"classes": "i.sop_class_uid", "syntaxes": "i.transfer_syntax_uid", "senders": sender}
        [found] = self._rows_of_study(
            "SELECT count(*) AS instances, sum(i.bytes) AS bytes, min(i.received_at) AS first_at, "
            'max(i.received_at) AS last_at, max(i."rows") AS "rows", max(i."columns") AS "columns", '
            "count(CASE WHEN i.file_missing THEN 1 END) AS missing, "
            + ", ".join(f"{self._queries.say(DISTINCT, column)} AS {name}" for name, column in lists.items())
            + f" FROM images i {_ABOVE_IMAGE}",
            study_instance_uid,
            series_instance_uid,
        )
        return known(found, dict.fromkeys(lists, json.loads))


EXCLUSIONS = (
    "SELECT x.*, st.study_instance_uid, se.series_instance_uid, c.revision, c.superseded "
    "FROM exclusions x JOIN conversions c ON c.id = x.conversion_id "
    "JOIN series se ON se.id = c.series_id JOIN studies st ON st.id = se.study_id"
)
"""The query of what conversions left out."""


class VolumeViews(PagedViews):
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

    def excluding(self, sop_instance_uid: str) -> list[Row]:
        """Return the revisions that excluded an instance, with the reasons."""
        source = "SELECT revision, frames, reason, detail FROM v_exclusions"
        return self._rows(f"{source} WHERE sop_instance_uid = :uid ORDER BY revision", uid=sop_instance_uid)

    def excluded(self, study_instance_uid: str, series_instance_uid: str, revision: int, limit: int) -> list[Row]:
        """Return the instances that a revision excluded."""
        series, source = (study_instance_uid, series_instance_uid), "SELECT sop_instance_uid, frames, reason, detail"
        rest = "AND revision = :revision LIMIT :limit"
        return self._rows_of_study(f"{source} FROM v_exclusions", *series, rest, revision=revision, limit=limit)
