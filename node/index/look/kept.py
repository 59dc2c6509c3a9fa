"""What is read of deletions, of what is in the trash, and of what is lost."""

import json
from collections import defaultdict

from node.index.rows.about_keys import GAPS
from node.index.rows.converted import SeriesKey
from node.index.rows.records import NotInTrash, removes_instances
from node.index.rows.view_rows import PagedViews, Row, ViewRows, moment, timed


class LostViews(PagedViews):
    """Rows of ``lost_instances`` and ``v_lost_instances``."""

    listing = "SELECT * FROM lost_instances"

    def newest(self, limit: int, skip: int = 0) -> list[Row]:
        """Return at most `limit` rows of ``v_lost_instances``, the last received first."""
        query = "SELECT * FROM v_lost_instances ORDER BY received_at DESC, sop_instance_uid LIMIT :limit OFFSET :skip"
        return self._rows(query, limit=limit, skip=skip)

    def count(self) -> int:
        """Count the lost instances."""
        return self._number("SELECT count(*) FROM v_lost_instances")

    def naming(self, uid: str) -> list[Row]:
        """Return the rows of ``v_lost_instances`` with a UID of any level, the last received first."""
        is_named = ":uid IN (sop_instance_uid, series_instance_uid, study_instance_uid)"
        return self._rows(f"SELECT * FROM v_lost_instances WHERE {is_named} ORDER BY received_at DESC", uid=uid)

    def by_series(self) -> dict[SeriesKey, set[str]]:
        """Return the lost instances of each series."""
        found: defaultdict[SeriesKey, set[str]] = defaultdict(set)
        for row in self._rows("SELECT * FROM v_lost_instances"):
            found[row["study_instance_uid"], row["series_instance_uid"]].add(row["sop_instance_uid"])
        return found

    def gaps(self) -> list[Row]:
        """Return what a start could not read of the journal and nobody has accepted: `noticed_at` and `detail`."""
        return list(json.loads(self._about(GAPS) or "[]"))


class TrashViews(ViewRows):
    """What was deleted, and what of it is in the trash."""

    def has_deleted(self, *uids: str) -> bool:
        """Return whether any of these UIDs, of any level, was deleted."""
        return any(self._rows("SELECT 1 FROM v_deletions WHERE uid = :uid LIMIT 1", uid=uid) for uid in uids)

    def of_uid(self, uid: str) -> list[Row]:
        """Return the deletions of instances by a UID, newest first, without those that were undone."""
        columns = "level, uid, reason, ordered_at, paths, trash_until, content IS NOT NULL AS is_in_trash"
        named = "FROM tombstones WHERE uid = :uid AND restored_at IS NULL ORDER BY id DESC"
        rows = self._rows(f"SELECT {columns} {named}", uid=uid)
        return [
            timed(row)
            for row in rows
            if removes_instances(json.loads(row.pop("paths"))) or row["trash_until"] is not None
        ]

    def all(self) -> list[Row]:
        """Return what is in the trash, the newest deletion first."""
        return self.entries()

    def entries(self, number: int | None = None) -> list[Row]:
        """Return the deletions in the trash, the newest first; with `number`, this deletion alone."""
        rows = self._rows(
            "SELECT t.id AS number, t.level, t.uid, t.reason, t.ordered_at AS deleted_at, t.trash_until AS until, "
            "coalesce(f.files, 0) AS files, coalesce(f.bytes, 0) AS bytes, t.content FROM tombstones t LEFT JOIN "
            "(SELECT deletion, count(CASE WHEN kind IN ('images', 'conflicts') THEN \"key\" END) AS files, "
            "sum(bytes) AS bytes FROM trash GROUP BY deletion) f ON f.deletion = t.id "
            "WHERE t.content IS NOT NULL AND (t.id = :number OR :number IS NULL) ORDER BY t.id DESC",
            number=number,
        )
        return [_known_content(row) for row in rows]

    def entry(self, number: int) -> Row:
        """Return a deletion in the trash. Raises NotInTrash."""
        for row in self.entries(number):
            return row
        raise NotInTrash

    def volumes(self) -> set[str]:
        """Return the paths of volumes that belong to something in the trash."""
        rows = self._rows("SELECT \"key\" FROM trash WHERE kind = 'volumes'")
        return {row["key"] for row in rows if row["key"] is not None}

    def naming(self, text: str) -> list[Row]:
        """Return the deletions in the trash of a UID, a Patient ID, an Accession Number or a part of a name.

        The newest comes first.
        """
        rows = self._rows(
            "SELECT id AS number, level, uid, ordered_at AS deleted_at, trash_until AS until, content "
            "FROM tombstones WHERE content IS NOT NULL ORDER BY id DESC"
        )
        words, names = folded(text), ("uid", "study_instance_uid", "series_instance_uid", *OF_PATIENT)
        may_be = (
            row for row in rows if text == row["uid"] or words in folded(row["content"]) or "\\" in row["content"]
        )
        return [
            row
            for row in map(_known_content, may_be)  # which takes longer than to look at the text
            if text in (row.get(name) for name in names) or (words and words in folded(row.get("patient_name") or ""))
        ]

    def quarantine_keys(self) -> set[str]:
        """Return the keys of files in quarantine that belong to something in the trash."""
        return {row["key"] for row in self._rows("SELECT \"key\" FROM trash WHERE kind = 'conflicts'")}


OF_PATIENT = "patient_id", "accession_number"
"""By which a study is looked for, as a whole."""


def folded(text: str) -> str:
    """Return a name as it is compared with others: its parts with single spaces between them, without case."""
    return " ".join(text.replace("^", " ").split()).casefold()


def _known_content(row: Row) -> Row:
    """Return a row of the trash with what people know the deletion by."""
    until = row["until"] and moment(row["until"])
    return {**row, "deleted_at": moment(row["deleted_at"]), "until": until, **json.loads(row.pop("content"))}
