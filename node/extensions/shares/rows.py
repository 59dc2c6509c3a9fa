"""The links of an index: rows, and the actions that make and revoke them."""

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Integer, MetaData, String, delete, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from node.association.added import OpenedRoot
from node.audit.audit_log import AuditAction, AuditEvent, AuditMessage, EventType
from node.errors import UsageError, counted, nearest
from node.hookspecs import Action as RootAction
from node.index.rows.extension_tables import IndexTables
from node.index.rows.models.levels import NAMES, StudyRow, Utc
from node.index.rows.records import Share
from node.index.rows.repositories import IndexRepository, columns_but, on_reader, on_writer
from node.index.rows.sql import insert
from node.index.rules.custody.leaving import old_before
from node.index.rules.people.accounts import is_current, moment
from node.registry import deidentifications_of
from node.settings.model import Settings


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMES)


class ShareRow(Base):
    """A link that lets anybody who has it see a study, or one of its series, for a time."""

    __tablename__ = "shares"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64))  # empty: the study
    may_download: Mapped[bool]
    passphrase_hash: Mapped[str | None] = mapped_column(String(255))  # links of before that have one open nothing
    deidentification: Mapped[str | None] = mapped_column(String(64))  # table [deidentify.NAME]; None: as received
    made_by: Mapped[str] = mapped_column(String(64))
    made_at: Mapped[dt.datetime] = mapped_column(Utc)
    expires_at: Mapped[dt.datetime] = mapped_column(Utc)
    uses: Mapped[int] = mapped_column(Integer, default=0)
    used_at: Mapped[dt.datetime | None] = mapped_column(Utc)


def _forget(connection: Connection, study_instance_uid: str) -> None:
    """Delete the links to a study that is not in the index: one that comes again later is not shared by them."""
    study = select(StudyRow.id).where(StudyRow.study_instance_uid == study_instance_uid)
    connection.execute(delete(ShareRow).where(ShareRow.study_instance_uid == study_instance_uid, ~study.exists()))


TABLES = IndexTables(Base.metadata, Path(__file__).with_name("migrations"), "shares_0001", forget=_forget)


MAX_SHARES = 1000
"""Of all studies; those that are over are removed when one is made."""


_COLUMNS = columns_but(ShareRow, "sha256", "passphrase_hash")
"""In the order of `Share`."""


class ShareRepository(IndexRepository):
    """The links of an index."""

    @on_reader
    def by_token(self, connection: Connection, sha256: str, now: dt.datetime) -> Share | None:
        """Return the link of a token, or None if it is unknown, revoked or over."""
        is_open = is_current(ShareRow.made_at, ShareRow.expires_at)
        query = select(*_COLUMNS).where(ShareRow.sha256 == sha256, is_open, ShareRow.passphrase_hash.is_(None))
        row = connection.execute(query, moment(now)).first()
        return None if row is None else Share(*row)

    @on_reader
    def by_number(self, connection: Connection, number: int, made_by: str | None) -> Share:
        """Return a link, if `made_by` is given only one that this account made. Raises UsageError if there is none."""
        return _by_number(connection, number, made_by)

    @on_writer
    def make(self, connection: Connection, sha256: str, share: Share) -> int:
        """Store a new link; return its number. Raises UsageError if there is no such study, or too many links."""
        if over := old_before(connection, share.made_at, dt.timedelta()):
            connection.execute(delete(ShareRow).where(ShareRow.expires_at <= over))
        if connection.execute(select(StudyRow.id).where(StudyRow.study_instance_uid == share.study)).first() is None:
            raise UsageError(f"there is no study {share.study}")
        if len(connection.execute(select(ShareRow.id).limit(MAX_SHARES)).all()) >= MAX_SHARES:
            raise UsageError(f"there are {MAX_SHARES} links already: revoke some")
        row = {
            "sha256": sha256,
            "study_instance_uid": share.study,
            "series_instance_uid": share.series,
            "may_download": share.may_download,
            "deidentification": share.deidentification,
            "made_by": share.made_by,
            "made_at": share.made_at,
            "expires_at": share.expires_at,
            "uses": 0,
        }
        return int(connection.execute(insert(ShareRow).values(row).returning(ShareRow.id)).scalar_one())

    @on_writer
    def note_use(self, connection: Connection, number: int, now: dt.datetime) -> None:
        """Count a use of a link."""
        row = update(ShareRow).where(ShareRow.id == number)
        connection.execute(row.values(uses=ShareRow.uses + 1, used_at=now))

    @on_writer
    def revoke(self, connection: Connection, number: int, made_by: str | None) -> Share:
        """Remove a link, if `made_by` is given only one that this account made; return what it was."""
        share = _by_number(connection, number, made_by)
        connection.execute(delete(ShareRow).where(ShareRow.id == number))
        return share


def end_shares(connection: Connection, account: str) -> None:
    """Delete the links of an account."""
    connection.execute(delete(ShareRow).where(ShareRow.made_by == account))


def _by_number(connection: Connection, number: int, made_by: str | None) -> Share:
    query = select(*_COLUMNS).where(ShareRow.id == number)
    row = connection.execute(query if made_by is None else query.where(ShareRow.made_by == made_by)).first()
    if row is None:
        raise UsageError(f"there is no link {number}: `voxelnode share list` lists them")
    return Share(*row)


MAX_DAYS = 366


def actions(root: OpenedRoot) -> Mapping[str, RootAction]:
    """Return the actions by name."""
    ingest, audit, settings = root.ingest, root.audit, root.settings
    shares = ingest.index.repository(ShareRepository)

    def changed(link: str, what: str, study: str, who: str, change: Callable[[], int]) -> int:
        """Make a change that returns the number of its link, with an audit line before and after it."""
        with ingest.index.reading() as index:
            objects = [{"study_instance_uid": study, "patient_id": index.studies.patient_id(study) or ""}]
        event, kind = AuditEvent.SECURITY_ALERT, EventType.OBJECT_SECURITY_CHANGED
        order = AuditMessage.by(who, event, AuditAction.UPDATE, f"{link}: {what}", objects, kind=kind)
        return audit.change(order, change, lambda number: replace(order, detail=f"link {number}: {what}"))

    def make(
        sha256: str,
        study: str,
        days: int,
        who: str,
        series: str = "",
        download: bool = False,
        deidentification: str | None = None,
    ) -> Mapping[str, Any]:
        if not 1 <= days <= MAX_DAYS:
            raise UsageError(f"a link is for 1 to {MAX_DAYS} days")
        with ingest.index.reading() as index:
            if index.studies.row(study) is None or (series and index.series.row(study, series) is None):
                raise UsageError("there is no such study or series")
        if deidentification is not None:
            _require_deidentification(settings, deidentification, may_download=download)
        now = ingest.now()
        until = now + dt.timedelta(days=days)
        share = Share(0, study, series, download, deidentification, who, now, until, 0, None)
        what = f"{_shown(share)} for {counted(days, 'day')}, {'with' if download else 'without'} download"
        what += f", de-identified by [deidentify.{deidentification}]" if deidentification is not None else ""
        number = changed("new link", what, study, who, lambda: shares.make(sha256, share))
        return {"id": number, "expires_at": share.expires_at.isoformat()}

    def revoke(number: int, who: str, *, any_account: bool = True) -> Mapping[str, Any]:
        made_by = None if any_account else who
        share = shares.by_number(number, made_by)
        what = f"{_shown(share)}, revoked"
        changed(f"link {number}", what, share.study, who, lambda: shares.revoke(number, made_by).id)
        return {"removed": number}

    return {"make-share": make, "revoke-share": revoke}


def _require_deidentification(settings: Settings, name: str, *, may_download: bool) -> None:
    known = deidentifications_of(settings)
    if name not in known:
        raise UsageError(f"there is no de-identification {name!r}{nearest(name, known) if known else ''}")
    if not may_download:
        raise UsageError("a link without identities shows no pictures: it needs the download of copies")


def _shown(share: Share) -> str:
    return f"series {share.series}" if share.series else "study"
