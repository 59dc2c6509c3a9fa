"""Identity conflicts (one UID or Patient ID, different content), and what people decided about them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from typing import Any, Literal

from sqlalchemy import Connection, and_, func, select, update
from sqlalchemy.orm import aliased

from node.index.engine.rows import IndexRepository, PagedRepository, Row, columns_but, on_reader, on_writer, reads
from node.index.engine.sql import listed_in
from node.index.models.history import SET_ASIDE, ConflictRow
from node.index.nouns.events import EventUids, record_event
from node.index.nouns.received import IN_ANOTHER_ENCODING, NOT_COMPARED, RECODED
from node.index.nouns.verdicts import judge_holding
from node.index.nouns.views import ConflictViews

Decision = Literal["accepted", "kept"]
"""Of the two versions, the one in the conflict is accepted, or the current one is kept."""


def host_of(connection: Connection, conflict: int) -> str | None:
    """Return the host whose disk has the file of a conflict; None: the archive of all hosts, if there is a file."""
    host: str | None = connection.scalar(select(ConflictRow.host).where(ConflictRow.id == conflict))
    return host


class ConflictRepository(IndexRepository):
    """The conflicts of a node; `node.index.nouns.levels.record_conflict` adds them."""

    host_of = reads(host_of)

    @on_writer
    def decide(
        self, connection: Connection, ids: Collection[int], decision: Decision, who: str, now: dt.datetime
    ) -> None:
        """Record what a person has decided about conflicts, and judge the series again that have the instances."""
        decided = update(ConflictRow).where(listed_in(ConflictRow.id, ids))
        decided = decided.values(decision=decision, decided_at=now, decided_by=who)
        judge_holding(connection, connection.scalars(decided.returning(ConflictRow.sop_instance_uid)).all(), now)

    def is_noted(self) -> bool:
        """Return whether a commit since the last call may have added to what is `not_compared`."""
        return self._writer.take_note(NOT_COMPARED)

    @on_reader
    def not_compared(self, connection: Connection) -> Sequence[Any]:
        """Return conflict, UID and key of the versions that this host is to compare with the current ones."""
        query = select(ConflictRow.id, ConflictRow.sop_instance_uid, ConflictRow.key).order_by(ConflictRow.id)
        of_host = ConflictRow.host.is_not_distinct_from(self._sharing.holder)
        return connection.execute(query.where(ConflictRow.decided_by == NOT_COMPARED, of_host)).all()

    @on_writer
    def compared(self, connection: Connection, conflict: int, now: dt.datetime, *, is_same: bool) -> None:
        """Record whether a version has the data set of the current one; if not, a person decides, or has done so."""
        found = update(ConflictRow).where(ConflictRow.id == conflict, ConflictRow.decided_by == NOT_COMPARED)
        if is_same:
            connection.execute(found.values(decided_by=RECODED))
            return
        detail = func.replace(ConflictRow.detail, IN_ANOTHER_ENCODING, "with other bytes")
        opened = found.values(decision=None, decided_at=None, decided_by=None, detail=detail).returning(
            ConflictRow.detail, *(getattr(ConflictRow, name) for name in EventUids.__annotations__)
        )
        for row in connection.execute(opened).mappings().all():
            record_event(connection, "instance-conflict", now, **row)
            judge_holding(connection, [row["sop_instance_uid"]], now)


class ReadConflicts(PagedRepository, ConflictViews):
    """Rows of ``conflicts`` and ``v_conflicts``."""

    listing = select(*columns_but(ConflictRow, "key", "host"))
    filters = (ConflictRow.study_instance_uid, ConflictRow.id)

    def one(self, conflict: int) -> Row | None:
        """Return one conflict with the ``key`` of its file; None if there is none."""
        query = self.listing.add_columns(ConflictRow.key).where(ConflictRow.id == conflict)
        row = self._connection.execute(query).mappings().first()
        return None if row is None else dict(row)

    host_of = reads(host_of)

    def sender_of_current(self, sop_instance_uid: str | None) -> Row | None:
        """Return ``calling_ae_title``, ``source`` and ``received_at`` of the current version, or None."""
        return self._row(
            "SELECT calling_ae_title, source, received_at FROM v_images WHERE sop_instance_uid = :uid",
            uid=sop_instance_uid,
        )

    def first_sender(self, study_instance_uid: str) -> Row | None:
        """Return what `sender_of_current` does, of the first instance of a study."""
        return self._row(
            "SELECT calling_ae_title, source, received_at FROM v_images WHERE study_instance_uid = :study "
            "ORDER BY received_at, sop_instance_uid LIMIT 1",
            study=study_instance_uid,
        )

    def alike(self, conflict: int) -> list[Row]:
        """Return the undecided conflicts of the same kind, study and sender as `one` does, oldest first."""
        named = aliased(ConflictRow)
        query = self.listing.add_columns(ConflictRow.key).join(
            named,
            and_(
                ConflictRow.kind == named.kind,
                ConflictRow.study_instance_uid.is_not_distinct_from(named.study_instance_uid),
                ConflictRow.calling_ae_title.is_not_distinct_from(named.calling_ae_title),
            ),
        )
        query = query.where(named.id == conflict, ConflictRow.decision.is_(None)).order_by(ConflictRow.id)
        return [dict(row) for row in self._connection.execute(query).mappings()]

    def lost_to_another(self, sop_instance_uids: Collection[str], calling_ae_title: str) -> set[str]:
        """Return those of the instances of which a sender's own version is not current, by no decision for it."""
        query = select(ConflictRow.sop_instance_uid).where(
            ConflictRow.sop_instance_uid.in_(sop_instance_uids),
            ConflictRow.calling_ae_title == calling_ae_title,
            ConflictRow.kind.in_(SET_ASIDE),
            ConflictRow.decision.is_distinct_from("accepted"),
        )
        return {uid for uid in self._connection.scalars(query) if uid is not None}

    def count_undecided(self) -> int:
        """Count the rows of `undecided`."""
        return self._number(
            "SELECT count(*) FROM (SELECT 1 FROM conflicts WHERE decision IS NULL "
            "GROUP BY kind, study_instance_uid, calling_ae_title) grouped"
        )

    def newest_undecided(self) -> int:
        """Return the id of the last conflict that is not decided, or 0."""
        return int(self._rows("SELECT max(id) AS id FROM conflicts WHERE decision IS NULL")[0]["id"] or 0)

    def undecided(self, limit: int, skip: int = 0) -> list[Row]:
        """Return what is to be decided, newest first: one row for all conflicts of one kind, study and sender.

        ``count`` is their number; ``id``, ``detail`` and ``has_version`` are those of the newest one, and
        ``current_study`` and ``current_series`` are those of the current version of its instance. Patient and date are
        those of that study, or else of the study in conflict.
        """
        return self._rows(
            """
            SELECT newest.id, newest.kind, newest.study_instance_uid, newest.calling_ae_title, grouped.count,
                   newest.detail, newest.found_at, newest.series_instance_uid, newest.sop_instance_uid,
                   newest.path, newest.path IS NOT NULL AS has_version,
                   i.study_instance_uid AS current_study, i.series_instance_uid AS current_series,
                   s.patient_name, s.patient_id, s.study_date
            FROM (SELECT max(id) AS id, count(*) AS count FROM v_conflicts WHERE decision IS NULL
                  GROUP BY kind, study_instance_uid, calling_ae_title) grouped
            JOIN v_conflicts newest ON newest.id = grouped.id
            LEFT JOIN v_images i ON i.sop_instance_uid = newest.sop_instance_uid
            LEFT JOIN v_studies s
                ON s.study_instance_uid = coalesce(i.study_instance_uid, newest.study_instance_uid)
            ORDER BY newest.id DESC LIMIT :limit OFFSET :skip
            """,
            limit=limit,
            skip=skip,
        )
