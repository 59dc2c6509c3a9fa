"""What commands and programs look at: the documented views (docs/data.md), by queries that are written out.

`node.index.database.look` runs them without SQLAlchemy; the repositories of the nouns inherit them.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from node.counted import counted
from node.errors import with_last_line
from node.index.engine.about_keys import (
    APPLIED,
    RETENTION,
    SCRUB,
    STORE,
    STORE_CHECKSUMS,
    STORE_SPOOLED,
    AppliedPosition,
    RetentionState,
    retention_state,
)
from node.index.engine.view_rows import Row, ViewRows, certainty_of, moment, pattern_of, timed
from node.index.nouns.records import (
    InstanceFile,
    ListedAccount,
    ListedToken,
    PlaceCount,
    Role,
    StoredStudy,
    removes_instances,
)

MAX_CONFLICTS = 100
"""Conflicts that are shown of a study, a series or an instance."""

MAX_STRANGERS = 1000
"""Conflicts, the newest, among which a patient is looked for."""

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


def is_due(due_at: str | dt.datetime | None, now: dt.datetime) -> bool:
    """Return whether a series in state ``receiving`` has been quiet: it waits for a converter, and for nothing else."""
    due = dt.datetime.fromisoformat(due_at) if isinstance(due_at, str) else due_at
    return due is not None and due.replace(tzinfo=dt.UTC) <= now


class AboutViews:
    """Facts about the index, which each kind of view reads by their keys."""

    def _about(self, key: str) -> str | None:
        raise NotImplementedError

    def applied(self, journal: str) -> AppliedPosition:
        """Return the last record of a journal that is in the index."""
        return AppliedPosition.of(self._about(f"{APPLIED}/{journal}"))

    @property
    def scrub(self) -> str | None:
        """How far the background comparison of the archive is; see `node.lifecycle.scrub.scrub_state`."""
        return self._about(SCRUB)

    @property
    def retention(self) -> RetentionState:
        """What retention has seen, and what it waits for."""
        return retention_state(self._about(RETENTION))

    @property
    def archive_in_store(self) -> str | None:
        """The identity of the archive in its object store; None if it has none."""
        return self._about(STORE) or None

    @property
    def has_used_store(self) -> bool:
        """Whether the archive has made an object store its own: an empty one is then another one, or was emptied."""
        return self._about(STORE_SPOOLED) == "yes"

    @property
    def store_checksums(self) -> str | None:
        """How the object store takes an object whose checksum is wrong; None if it refuses it, or there is none."""
        return self._about(STORE_CHECKSUMS) or None


class AccountViews(ViewRows):
    """Accounts for HTTP."""

    def listed(self) -> list[ListedAccount]:
        """Return all accounts, sorted by name."""
        tokens: dict[int, list[ListedToken]] = {}
        for row in self._rows(
            "SELECT t.*, p.name AS project FROM tokens t LEFT JOIN projects p ON p.id = t.project_id ORDER BY t.id"
        ):
            role = Role[row["role"].upper()] if row["role"] else None
            routes = tuple((row["routes"] or "").split())
            ends = (row[name] and moment(row[name]) for name in ("expires_at", "used_at"))
            known = row["id"], row["label"], role, routes, row["project"], moment(row["created_at"])
            listed = ListedToken(*known, *ends)
            tokens.setdefault(row["account_id"], []).append(listed)
        return [
            ListedAccount(
                row["name"],
                Role[row["role"].upper()],
                row["password_hash"] is not None,
                row["totp_step"] is not None,
                moment(row["created_at"]),
                tuple(tokens.get(row["id"], ())),
            )
            for row in self._rows("SELECT * FROM accounts ORDER BY name")
        ]


class DeletionViews(ViewRows):
    """Deletions, and whether they are in the trash."""

    def of_uid(self, uid: str) -> list[Row]:
        """Return the deletions of instances by a UID, newest first, without those that were undone."""
        rows = self._rows(
            "SELECT level, uid, reason, ordered_at, paths, trash_until, content IS NOT NULL AS is_in_trash "
            "FROM tombstones WHERE uid = :uid AND restored_at IS NULL ORDER BY id DESC",
            uid=uid,
        )
        return [
            timed(row)
            for row in rows
            if removes_instances(json.loads(row.pop("paths"))) or row["trash_until"] is not None
        ]


class EventViews(ViewRows):
    """Rows of ``v_events``."""

    def of_series(self, study_instance_uid: str, series_instance_uid: str, limit: int) -> list[Row]:
        """Return the last events of a series, newest first."""
        source, rest = "SELECT kind, revision, detail, happened_at FROM v_events", "ORDER BY id DESC LIMIT :limit"
        return self._rows_of_study(source, study_instance_uid, series_instance_uid, rest, limit=limit)

    def set_aside(self) -> list[Row]:
        """Return kind and detail of the events whose detail ends with the key of a file in quarantine."""
        return self._rows("SELECT kind, detail FROM v_events WHERE kind IN ('instance-set-aside', 'journal-damaged')")


class ExclusionViews(ViewRows):
    """Rows of ``v_exclusions``."""

    def of_instance(self, sop_instance_uid: str) -> list[Row]:
        """Return the revisions that excluded an instance, with the reasons."""
        return self._rows(
            "SELECT revision, frames, reason, detail FROM v_exclusions WHERE sop_instance_uid = :uid ORDER BY revision",
            uid=sop_instance_uid,
        )

    def of_revision(self, study_instance_uid: str, series_instance_uid: str, revision: int, limit: int) -> list[Row]:
        """Return the instances that a revision excluded."""
        columns = "sop_instance_uid, frames, reason, detail"
        return self._rows_of_revision(columns, "v_exclusions", study_instance_uid, series_instance_uid, revision, limit)


class FailureViews(ViewRows):
    """Rows of ``v_failures``."""

    def of_study(self, study_instance_uid: str, series_instance_uid: str | None = None) -> list[Row]:
        """Return the rows of ``v_failures`` of a study or a series, by stack; failures of whole series come last."""
        order = "ORDER BY stack IS NULL, stack"
        return self._rows_of_study("SELECT * FROM v_failures", study_instance_uid, series_instance_uid, order)

    def of_revision(self, study_instance_uid: str, series_instance_uid: str, revision: int | None) -> list[Row]:
        """Return ``stack``, ``reason`` and ``detail`` of the failures of a revision."""
        source = "SELECT stack, reason, detail FROM v_failures"
        rest = "AND revision = :revision ORDER BY stack NULLS FIRST"
        return self._rows_of_study(source, study_instance_uid, series_instance_uid, rest, revision=revision)

    def newest(self, limit: int) -> list[Row]:
        """Return at most `limit` failures with series and patient, newest first; not those of what is no image."""
        return self._rows(
            "SELECT f.series_instance_uid, f.revision, f.stack, f.reason, f.detail, f.failed_at, se.series_number, "
            "se.modality, se.series_description, st.patient_name, st.patient_id, st.study_date "
            "FROM v_failures f JOIN v_series se USING (study_instance_uid, series_instance_uid) "
            "JOIN v_studies st USING (study_instance_uid) WHERE f.reason <> 'not-an-image' "
            "ORDER BY f.failed_at DESC LIMIT :limit",
            limit=limit,
        )

    def count(self) -> int:
        """Count the failures, without those of what is no image."""
        return self._number("SELECT count(*) FROM v_failures WHERE reason <> 'not-an-image'")


class InstanceViews(ViewRows):
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
            "JOIN series se ON se.id = i.series_id JOIN studies st ON st.id = se.study_id "
            f"WHERE st.study_instance_uid = :study AND NOT i.file_missing {of_series}"
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

    def count_files(self) -> int:
        """Count the instances whose file is not known to be missing or damaged."""
        return self._number("SELECT count(*) FROM images WHERE NOT file_missing")

    def count_by_place(self) -> dict[str, PlaceCount]:
        """Return the instances in each place: ``folder``, ``spool``, ``store``. Reads all rows."""
        rows = self._rows(
            "SELECT coalesce(place, 'folder') AS place, count(*) AS instances, sum(bytes) AS bytes FROM images "
            "GROUP BY coalesce(place, 'folder')"
        )
        counts = dict.fromkeys(PLACES, PlaceCount(0, 0))
        return counts | {row["place"]: PlaceCount(int(row["instances"]), int(row["bytes"])) for row in rows}

    def count_by_holder(self) -> dict[str, int]:
        """Return how many instances are still to be moved to the store from the disk of each host."""
        rows = self._rows(
            "SELECT spool_host, count(*) AS instances FROM images WHERE spool_host IS NOT NULL "
            "GROUP BY spool_host ORDER BY spool_host"
        )
        return {row["spool_host"]: int(row["instances"]) for row in rows}

    def damaged(self, limit: int) -> list[Row]:
        """Return at most `limit` instances with a missing or damaged file, by series, with the patient."""
        return self._rows(
            "SELECT p.patient_id, p.patient_name, st.study_instance_uid, se.series_instance_uid, i.sop_instance_uid, "
            "i.calling_ae_title, i.peer, i.received_at, i.file_missing FROM images i "
            "JOIN series se ON se.id = i.series_id JOIN studies st ON st.id = se.study_id "
            "JOIN patients p ON p.id = st.patient_id WHERE i.file_missing "
            "ORDER BY i.series_id, i.instance_number, i.sop_instance_uid LIMIT :limit",
            limit=limit,
        )

    def count_missing_files(self) -> int:
        """Count the instances whose file is known to be missing or damaged."""
        return self._number("SELECT count(*) FROM images WHERE file_missing")


class ConflictViews(ViewRows):
    """Rows of ``v_conflicts``."""

    def all(self, *, decided: bool) -> list[Row]:
        """Return rows of ``v_conflicts`` with what people know their series by, by kind and then oldest first.

        Those that are decided only if asked for.
        """
        which = "" if decided else "WHERE c.decision IS NULL"
        return self._rows(
            "SELECT c.*, p.patient_id, p.patient_name, st.study_date, se.series_number, se.series_description, "
            "se.modality FROM v_conflicts c LEFT JOIN studies st ON st.study_instance_uid = c.study_instance_uid "
            "LEFT JOIN patients p ON p.id = st.patient_id LEFT JOIN series se ON se.study_id = st.id "
            f"AND se.series_instance_uid = c.series_instance_uid {which} ORDER BY c.kind, c.found_at, c.id"
        )

    def of_strangers(self) -> list[Row]:
        """Return conflicts whose instances may name another patient, decided or not, newest first.

        One of each kind, study and series.
        """
        return self._rows(
            "SELECT c.* FROM v_conflicts c JOIN (SELECT max(id) AS id FROM conflicts WHERE kind = "
            "'study-of-two-patients' OR \"key\" IS NOT NULL GROUP BY kind, study_instance_uid, series_instance_uid) n "
            f"ON n.id = c.id ORDER BY c.id DESC LIMIT {MAX_STRANGERS}"
        )

    def count_open(self) -> dict[str, int]:
        """Count the conflicts that nobody has decided, by kind."""
        rows = self._rows("SELECT kind, count(*) AS count FROM v_conflicts WHERE decision IS NULL GROUP BY kind")
        return {str(row["kind"]): int(row["count"]) for row in rows}

    def about(self, study_instance_uid: str, series_instance_uid: str | None = None) -> list[Row]:
        """Return undecided conflicts of a study or a series, and of instances that are current in it, oldest first.

        Those of another patient come before the others.
        """
        of_series = "" if series_instance_uid is None else "AND series_instance_uid = :series"
        return self._rows(
            f"""
            SELECT * FROM v_conflicts WHERE decision IS NULL AND (
                (study_instance_uid = :study {of_series}) OR sop_instance_uid IN (
                    SELECT sop_instance_uid FROM v_images WHERE study_instance_uid = :study {of_series}))
            ORDER BY kind <> 'study-of-two-patients', id LIMIT {MAX_CONFLICTS}
            """,
            study=study_instance_uid,
            series=series_instance_uid,
        )

    def in_quarantine(self) -> list[Row]:
        """Return the conflicts whose file is in quarantine: ``key``, ``reason``, ``detail``, UIDs and ``sha256``."""
        return self._rows(
            'SELECT "key", kind AS reason, detail, study_instance_uid, series_instance_uid, sop_instance_uid, sha256 '
            "FROM conflicts WHERE \"key\" > 'quarantine/' AND \"key\" < 'quarantine0'"  # "0" follows "/"
        )

    def of_uid(self, uid: str) -> list[Row]:
        """Return undecided conflicts that name a study, a series or an instance, oldest first."""
        return self._rows(
            "SELECT * FROM v_conflicts WHERE decision IS NULL AND "
            f":uid IN (study_instance_uid, series_instance_uid, sop_instance_uid) ORDER BY id LIMIT {MAX_CONFLICTS}",
            uid=uid,
        )


class HookViews(ViewRows):
    """Rows of ``v_hooks`` and ``v_deliveries``."""

    def progress(self) -> dict[str, Row]:
        """Return the rows of ``v_hooks``, by name of the hook.

        ``trouble`` is why the last attempt failed of what waits, with the last line that a program printed.
        """
        waiting = self._rows(
            "SELECT hook, reason, output FROM v_deliveries WHERE state = 'waiting' AND reason IS NOT NULL "
            "ORDER BY last_at"
        )
        troubles = {row["hook"]: with_last_line(row["reason"], row["output"]) for row in waiting}
        rows = self._rows("SELECT * FROM v_hooks ORDER BY hook")
        return {row["hook"]: {**row, "trouble": troubles.get(row["hook"])} for row in rows}

    def deliveries(self, limit: int, *, hook: str | None = None, state: str | None = None) -> list[Row]:
        """Return the last `limit` rows of ``v_deliveries`` with the names of their series, oldest first.

        `hook`, `state`: filters; None matches all.
        """
        return self._rows(
            "SELECT d.*, se.series_number, se.modality, se.series_description FROM (SELECT * FROM v_deliveries "
            "WHERE (hook = :hook OR :hook IS NULL) AND (state = :state OR :state IS NULL) "
            "ORDER BY happened_at DESC LIMIT :limit) d "
            "LEFT JOIN v_series se USING (study_instance_uid, series_instance_uid) ORDER BY d.happened_at",
            hook=hook,
            state=state,
            limit=limit,
        )


class LostViews(ViewRows):
    """Rows of ``v_lost_instances``."""

    def newest(self, limit: int, skip: int = 0) -> list[Row]:
        """Return at most `limit` rows of ``v_lost_instances``, the last received first."""
        return self._rows(
            "SELECT * FROM v_lost_instances ORDER BY received_at DESC, sop_instance_uid LIMIT :limit OFFSET :skip",
            limit=limit,
            skip=skip,
        )

    def count(self) -> int:
        """Count the lost instances."""
        return self._number("SELECT count(*) FROM v_lost_instances")

    def naming(self, uid: str) -> list[Row]:
        """Return the rows of ``v_lost_instances`` with a UID of any level, the last received first."""
        return self._rows(
            "SELECT * FROM v_lost_instances WHERE :uid IN (sop_instance_uid, series_instance_uid, study_instance_uid) "
            "ORDER BY received_at DESC",
            uid=uid,
        )

    def gaps(self) -> list[Row]:
        """Return what a start could not read of the journal and nobody has accepted: `noticed_at` and `detail`."""
        rows = self._rows("SELECT value FROM about WHERE \"key\" = 'gaps'")
        return list(json.loads(rows[0]["value"])) if rows else []


class PatientViews(ViewRows):
    """Rows of ``v_patients``."""

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
        return self._rows(
            "SELECT * FROM v_patients WHERE patient_name LIKE :pattern ESCAPE '/' "
            "ORDER BY patient_name NULLS FIRST, id LIMIT :limit",
            pattern=pattern_of(text.split()),
            limit=limit,
        )


class RejectionViews(ViewRows):
    """Rows of ``v_rejections``."""

    def newest(self, limit: int, skip: int = 0) -> list[Row]:
        """Return at most `limit` rows of ``v_rejections``, last refusal first."""
        return self._rows(
            "SELECT * FROM v_rejections ORDER BY last_at DESC LIMIT :limit OFFSET :skip", limit=limit, skip=skip
        )


class RouteViews(ViewRows):
    """Rows of ``v_routes`` and ``v_route_messages``."""

    def destinations(self) -> list[Row]:
        """Return the rows of ``v_routes``."""
        return self._rows("SELECT * FROM v_routes ORDER BY route, destination")

    def sent_of_study(self, study_instance_uid: str) -> list[Row]:
        """Return how many instances of a study each destination has taken and confirmed, and what is left.

        ``reason`` is why the last message of the study failed, or why the destination cannot be reached. Who may be
        sent to by hand is left out while it has nothing.
        """
        return self._rows(
            """
            SELECT h.name AS route, h.destination, coalesce(s.sent, 0) AS sent, coalesce(s.confirmed, 0) AS confirmed,
                   s.last_at, coalesce(m.waiting, 0) AS waiting, coalesce(m.given_up, 0) AS given_up,
                   CASE WHEN m.waiting > 0 OR m.given_up > 0 THEN coalesce(h.trouble, m.reason) END AS reason
            FROM subscribers h
            LEFT JOIN (
                SELECT route, destination, count(*) AS sent, max(sent_at) AS last_at,
                       sum(CASE WHEN state = 'confirmed' THEN 1 ELSE 0 END) AS confirmed
                FROM v_sent_instances WHERE study_instance_uid = :study AND state <> 'lost'
                GROUP BY route, destination) s ON s.route = h.name AND s.destination = h.destination
            LEFT JOIN (
                SELECT route, destination, max(reason) AS reason,
                       sum(CASE WHEN state = 'waiting' THEN 1 ELSE 0 END) AS waiting,
                       sum(CASE WHEN state = 'given-up' THEN 1 ELSE 0 END) AS given_up
                FROM v_route_messages WHERE study_instance_uid = :study AND state IN ('waiting', 'given-up')
                GROUP BY route, destination) m ON m.route = h.name AND m.destination = h.destination
            WHERE h.kind = 'route' AND (h.name <> '' OR s.sent > 0 OR m.waiting > 0 OR m.given_up > 0)
            ORDER BY h.name, h.destination
            """,
            study=study_instance_uid,
        )

    def messages(
        self, limit: int, *, route: str | None = None, destination: str | None = None, state: str | None = None
    ) -> list[Row]:
        """Return the last `limit` rows of ``v_route_messages``, newest first, with the names of series and patients.

        One that waits for a destination that is paused or held has the reason of that, and when it goes on.

        `route`, `destination`, `state`: filters; None matches all.
        """
        rows = self._rows(
            "SELECT m.*, h.paused, h.trouble, h.retry_at, se.series_number, se.modality, se.series_description, "
            "st.patient_name, st.patient_id, "
            "st.study_date, st.study_description FROM (SELECT * FROM v_route_messages "
            "WHERE (route = :route OR :route IS NULL) AND (destination = :destination OR :destination IS NULL) "
            "AND (state = :state OR :state IS NULL) ORDER BY happened_at DESC, message_id LIMIT :limit) m "
            "LEFT JOIN v_series se USING (study_instance_uid, series_instance_uid) "
            "LEFT JOIN v_studies st USING (study_instance_uid) "
            "LEFT JOIN subscribers h ON h.kind = 'route' AND h.name = m.route AND h.destination = m.destination "
            "ORDER BY m.happened_at DESC",
            route=route,
            destination=destination,
            state=state,
            limit=limit,
        )
        return [_with_what_holds_it(row) for row in rows]

    def unseen(self, route: str, destination: str, limit: int) -> list[Row]:
        """Return at most `limit` series that a destination may want, as nobody has looked at them yet."""
        return self._rows(
            "SELECT DISTINCT e.series_instance_uid, se.series_number, se.modality, se.series_description, "
            "st.patient_name, st.patient_id FROM subscribers h JOIN owed_events o ON o.subscriber_id = h.id "
            "JOIN events e ON e.id = o.event_id LEFT JOIN v_series se USING (study_instance_uid, series_instance_uid) "
            "LEFT JOIN v_studies st USING (study_instance_uid) WHERE h.kind = 'route' AND h.name = :route "
            "AND h.destination = :destination AND e.series_instance_uid <> '' LIMIT :limit",
            route=route,
            destination=destination,
            limit=limit,
        )


def _with_what_holds_it(row: Row) -> Row:
    """Return a message with the state of its destination as its reason, if it waits for that."""
    paused, trouble, retry_at = (row.pop(name) for name in ("paused", "trouble", "retry_at"))
    if row["state"] == "waiting" and paused:
        row |= {"reason": "the route is paused", "due_at": None}
    elif row["state"] == "waiting" and trouble:
        row |= {"reason": trouble, "due_at": max(filter(None, (row["due_at"], retry_at)), default=None)}
    return row


class SenderViews(ViewRows):
    """Rows of ``v_senders``."""

    def all(self) -> list[Row]:
        """Return all rows of ``v_senders``, by AE title."""
        return self._rows("SELECT * FROM v_senders ORDER BY calling_ae_title")


class SeriesViews(ViewRows):
    """Rows of ``v_series``."""

    def row(self, study_instance_uid: str, series_instance_uid: str) -> Row | None:
        """Return the row of ``v_series`` of a series, or None."""
        return self._row(
            "SELECT * FROM v_series WHERE study_instance_uid = :study AND series_instance_uid = :series",
            study=study_instance_uid,
            series=series_instance_uid,
        )

    def with_uid(self, series_instance_uid: str) -> list[Row]:
        """Return the rows of ``v_series`` with a Series Instance UID: one for each study that contains it."""
        return self._rows(
            "SELECT * FROM v_series WHERE series_instance_uid = :series ORDER BY study_instance_uid",
            series=series_instance_uid,
        )

    def uids_ending(self, end: str, limit: int) -> list[str]:
        """Return at most `limit` Series Instance UIDs that end in `end`, digits and dots; this compares all of them."""
        rows = self._rows(
            "SELECT DISTINCT series_instance_uid FROM series WHERE series_instance_uid LIKE :pattern LIMIT :limit",
            pattern=f"%{end}",
            limit=limit,
        )
        return [row["series_instance_uid"] for row in rows]

    def waits(self, study_instance_uid: str, series_instance_uid: str) -> list[Row]:
        """Return what an open series waits for: ``calling_ae_title``, ``quiet_at``, ``grace_until`` of each sender."""
        return self._rows(
            "SELECT aw.calling_ae_title, aw.quiet_at, aw.grace_until FROM awaited_senders aw "
            "JOIN series se ON se.id = aw.series_id JOIN studies st ON st.id = se.study_id "
            "WHERE st.study_instance_uid = :study AND se.series_instance_uid = :series ORDER BY aw.calling_ae_title",
            study=study_instance_uid,
            series=series_instance_uid,
        )

    def of_study(self, study_instance_uid: str) -> list[Row]:
        """Return the rows of ``v_series`` of a study, by Series Number; series without a number come last."""
        return self._rows(
            "SELECT * FROM v_series WHERE study_instance_uid = :study "
            "ORDER BY series_number IS NULL, series_number, series_instance_uid",
            study=study_instance_uid,
        )

    def newest(
        self,
        limit: int,
        *,
        study: str | None = None,
        states: Sequence[str] = (),
        patient: str | None = None,
        modality: str | None = None,
    ) -> list[Row]:
        """Return at most `limit` rows of ``v_series`` with their studies, the last to receive an instance first.

        `study`, `states`, `patient`, `modality`: Filters; without one, all match. `states`: alternatives, also the
        certainties of what is converted; `patient`: its Patient ID.
        """
        # The newest series of a common value are at the beginning of `ix_series_listed`. SQLite would read and sort all
        # of them by an index of `=`, and has none for NOT <>. PostgreSQL knows how many there are.
        of_modality = f"SELECT 1 FROM series WHERE modality = :modality LIMIT {FEW_SERIES}"
        is_rare = (
            modality is not None
            and self._number(f"SELECT count(*) FROM ({of_modality}) few", modality=modality) < FEW_SERIES
        )
        named = {f"state_{number}": state for number, state in enumerate(states)}
        is_in_state = " OR ".join(
            f"NOT se.state <> :{name}"
            if state in COMMON_STATES
            else f"se.state = :{name}"
            if state in OTHER_STATES
            else f"NOT se.state <> 'converted' AND {certainty_of('se')} = :{name}"
            for name, state in named.items()
        )
        filters = (
            (study, "se.study_id IN (SELECT id FROM studies WHERE study_instance_uid = :study)"),
            (
                patient,
                "se.study_id IN (SELECT st.id FROM patients p JOIN studies st ON st.patient_id = p.id "
                "WHERE p.patient_id = :patient)",
            ),
            (states or None, f"({is_in_state})"),
            (modality, "se.modality = :modality" if is_rare else "NOT se.modality <> :modality"),
        )
        conditions = "".join(f" AND {condition}" for value, condition in filters if value is not None)
        newest = f"SELECT se.id FROM series se WHERE 1 = 1{conditions} ORDER BY se.last_received_at DESC LIMIT :limit"
        return self._rows(
            f"SELECT v.*, p.patient_name, p.patient_id, st.study_date FROM ({newest}) k CROSS JOIN series own "
            "CROSS JOIN studies st CROSS JOIN patients p CROSS JOIN v_series v "
            "WHERE own.id = k.id AND st.id = own.study_id AND p.id = st.patient_id "
            "AND v.study_instance_uid = st.study_instance_uid AND v.series_instance_uid = own.series_instance_uid "
            "ORDER BY own.last_received_at DESC",
            study=study,
            patient=patient,
            modality=modality,
            limit=limit,
            **named,
        )

    def under_way(self, limit: int) -> list[Row]:
        """Return the series that wait or are being converted, with their patients, earliest due first."""
        return self._rows(
            "SELECT se.study_instance_uid, se.series_instance_uid, se.series_number, se.series_description, "
            "se.modality, se.state, se.instances, se.expected_instances, se.verdict, se.certainty, se.revision, "
            "se.attempts, se.error, se.due_at, se.last_received_at, st.patient_name, st.patient_id "
            "FROM v_series se JOIN v_studies st USING (study_instance_uid) "
            "WHERE se.state IN ('receiving', 'converting') ORDER BY se.state, se.due_at NULLS FIRST LIMIT :limit",
            limit=limit,
        )

    def retried(self) -> list[Row]:
        """Return the series whose conversion failed and is tried again, with their patients, earliest due first."""
        return self._rows(
            "SELECT se.study_instance_uid, se.series_instance_uid, se.series_number, se.series_description, "
            "se.modality, se.attempts, se.error, se.due_at, st.patient_name, st.patient_id "
            "FROM v_series se JOIN v_studies st USING (study_instance_uid) "
            "WHERE se.state = 'receiving' AND se.attempts > 0 ORDER BY se.due_at"
        )

    def count_by_state(self) -> dict[str, int]:
        """Count the series by state."""
        rows = self._rows("SELECT state, count(*) AS series FROM series GROUP BY state ORDER BY state")
        return {row["state"]: int(row["series"]) for row in rows}

    def count_waiting(self) -> int:
        """Count the series that are due: they wait for a converter, and for nothing else."""
        now = dt.datetime.now(dt.UTC)
        rows = self._rows("SELECT due_at FROM series WHERE state = 'receiving'")
        return sum(is_due(row["due_at"], now) for row in rows)

    def count_incomplete(self) -> int:
        """Count the series whose verdict is ``incomplete`` or ``suspect``, without those that are open again."""
        doubted = "study_id > 0 AND verdict IN ('suspect', 'incomplete')"  # as in `node.index.nouns.problems`
        closed = "state NOT IN ('receiving', 'converting')"
        return self._number(f"SELECT count(*) FROM series WHERE {doubted} AND {closed}")

    def last_received_at(self) -> str | None:
        """Return when the newest instance was received, in the format of ``v_series``, or None if there are none."""
        (row,) = self._rows("SELECT max(last_received_at) AS last_received_at FROM series")
        last_received_at: str | None = row["last_received_at"]
        return last_received_at

    def next_due_at(self) -> str | None:
        """Return when the next waiting series is due, in the format of ``v_series``, or None if no series waits."""
        (row,) = self._rows("SELECT min(due_at) AS due_at FROM series WHERE state = 'receiving'")
        due_at: str | None = row["due_at"]
        return due_at


def _stored_study(row: Row) -> StoredStudy:
    titles = frozenset(title or "" for title in json.loads(row["calling_ae_titles"]))
    received_at, restored_at = moment(row["last_received_at"]), row["restored_at"] and moment(row["restored_at"])
    last = max(received_at, restored_at) if restored_at else received_at
    return StoredStudy(row["study_instance_uid"], last, bool(row["is_finished"]), titles, is_back=last > received_at)


_MESSAGE_WAITS = "kind IN ('hook', 'route') AND state IN ('waiting', 'running')"
"""Not by `outcome`: the index of `state` finds the few rows that wait."""


class StudyViews(ViewRows):
    """Rows of ``v_studies``, and what retention asks of studies."""

    def by_age(self, *, with_senders: bool) -> Iterator[StoredStudy]:
        """Yield every study as retention sees it, in the order in which they last received an instance.

        They are read in chunks: who stops early reads no more. `with_senders`: with their calling AE titles, for which
        all of their instances are read.
        """
        in_order, last = "ORDER BY se.last_received_at, se.id LIMIT :limit", self._queries.say.moment(":last")
        after = f"AND se.last_received_at >= {last} AND (se.last_received_at > {last} OR se.id > :newest)"
        rows = self._stored(in_order, with_senders=with_senders, limit=CHUNK_STUDIES)
        while rows:
            yield from map(_stored_study, rows)
            values = {"last": rows[-1]["last_received_at"], "newest": rows[-1]["newest"], "limit": CHUNK_STUDIES}
            rows = self._stored(f"{after} {in_order}", with_senders=with_senders, **values)

    def stored(self, study_instance_uid: str) -> StoredStudy | None:
        """Return one study as retention sees it, without its senders; None if it is not there."""
        rows = self._stored("AND st.study_instance_uid = :study", with_senders=False, study=study_instance_uid)
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
            senders = self._queries.say.distinct("i.calling_ae_title")
            of_study = "FROM series o JOIN images i ON i.series_id = o.id WHERE o.study_id = st.id"
            titles = f"(SELECT {senders} {of_study})"
        return self._rows(
            # For an EXISTS in the place of min(), PostgreSQL would read all series.
            "SELECT se.id AS newest, st.study_instance_uid, se.last_received_at, (SELECT max(t.restored_at) FROM "
            "tombstones t WHERE t.uid = st.study_instance_uid) AS restored_at, (SELECT min(CASE WHEN o.state IN "
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
        return self._rows(
            "SELECT * FROM v_studies WHERE accession_number = :number ORDER BY study_instance_uid",
            number=accession_number,
        )

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


class TrashViews(ViewRows):
    """What is in the trash."""

    def all(self) -> list[Row]:
        """Return what is in the trash, the newest deletion first."""
        return self.entries()

    def entries(self, number: int | None = None) -> list[Row]:
        """Return the deletions in the trash, the newest first; with `number`, this deletion alone."""
        rows = self._rows(
            "SELECT t.id AS number, t.level, t.uid, t.reason, t.ordered_at AS deleted_at, t.trash_until AS until, "
            "coalesce(f.files, 0) AS files, coalesce(f.bytes, 0) AS bytes, t.content FROM tombstones t LEFT JOIN "
            "(SELECT deletion, count(CASE WHEN kind IN ('images', 'conflicts') THEN \"key\" END) AS files, "
            "sum(bytes) AS bytes FROM trash GROUP BY deletion) f "
            "ON f.deletion = t.id "
            "WHERE t.content IS NOT NULL AND (t.id = :number OR :number IS NULL) ORDER BY t.id DESC",
            number=number,
        )
        return [_known_content(row) for row in rows]

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


def outstanding(row: Mapping[str, Any]) -> int:
    """Return how many messages of a row of ``v_routes`` or ``v_hooks`` wait, and how much has no message yet."""
    return sum(int(row.get(key) or 0) for key in ("waiting", "instances_behind", "series_behind", "events_behind"))


def unseen(*rows: Mapping[str, Any]) -> str:
    """Return how much no rule has been applied to yet, in words, of rows of ``v_routes`` or ``v_hooks``; empty if none.

    What is looked at becomes a message, or is left out by the rules of its route or hook.
    """
    series, instances, events = (
        sum(int(row.get(key) or 0) for row in rows) for key in ("series_behind", "instances_behind", "events_behind")
    )
    found = [counted(series, "series", "series")] * (series > 0) + [counted(instances, "instance")] * (instances > 0)
    found += [counted(events, "event")] * (events > 0)
    return f"{' and '.join(found)} not looked at yet" if found else ""


def awaited(*rows: Mapping[str, Any]) -> str:
    """Return how many messages of rows of ``v_routes`` or ``v_hooks`` wait or were given up, and `unseen`, in words."""
    waiting, given_up = (sum(int(row.get(key) or 0) for row in rows) for key in ("waiting", "given_up"))
    others = [f"{given_up} given up"] * (given_up > 0) + list(filter(None, [unseen(*rows)]))
    return ", ".join([f"{waiting} waiting"] * (waiting > 0 or not others) + others)


def is_held(row: Mapping[str, Any]) -> bool:
    """Return whether messages of a row of ``v_routes`` or ``v_hooks`` go on only once somebody does something.

    They wait for what cannot be reached, fails or is paused, or were given up.
    """
    return bool((row["trouble"] or row["paused"]) and outstanding(row)) or bool(row["given_up"])


OF_PATIENT = "patient_id", "accession_number"
"""By which a study is looked for, as a whole."""


def folded(text: str) -> str:
    """Return a name as it is compared with others: its parts with single spaces between them, without case."""
    return " ".join(text.replace("^", " ").split()).casefold()


def _known_content(row: Row) -> Row:
    """Return a row of the trash with what people know the deletion by."""
    until = row["until"] and moment(row["until"])
    return {**row, "deleted_at": moment(row["deleted_at"]), "until": until, **json.loads(row.pop("content"))}


class VolumeViews(ViewRows):
    """Rows of ``v_volumes`` and ``v_catalog``."""

    def mean_seconds(self, limit: int) -> float | None:
        """Return how long the last conversions took, on average, in s; None if there were none."""
        last = "SELECT seconds FROM conversions ORDER BY id DESC LIMIT :limit"
        mean: float | None = self._rows(f"SELECT avg(seconds) AS mean FROM ({last}) c", limit=limit)[0]["mean"]
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
        rows = self._rows(
            "SELECT coalesce(place, 'folder') AS place, count(*) AS files, sum(bytes) AS bytes FROM revision_files "
            "GROUP BY coalesce(place, 'folder')"
        )
        counts = dict.fromkeys(PLACES, (0, 0))
        return counts | {row["place"]: (int(row["files"]), int(row["bytes"])) for row in rows}

    def count_current(self) -> int:
        """Count the files of kind ``volume`` that are not superseded."""
        return self._number(
            "SELECT count(*) FROM volumes v JOIN conversions c ON c.id = v.conversion_id "
            "WHERE NOT c.superseded AND v.kind = 'volume'"
        )

    def sources(self, study_instance_uid: str, series_instance_uid: str, revision: int, limit: int) -> list[Row]:
        """Return the instances that are in the volumes of a revision."""
        columns = "stack, frames, sop_instance_uid, sha256"
        return self._rows_of_revision(columns, "v_sources", study_instance_uid, series_instance_uid, revision, limit)
