"""The links of an index."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Connection, delete, select, update

from node.errors import UsageError
from node.extensions.shares.listed import ShareViews
from node.extensions.shares.tables import ShareRow
from node.index.engine.rows import IndexRepository, ReadRepository, columns_but, on_reader, on_writer
from node.index.engine.sql import insert
from node.index.models.levels import StudyRow
from node.index.nouns.accounts import is_current, moment
from node.index.nouns.records import Share
from node.index.nouns.retention import old_before

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


class ReadShares(ReadRepository, ShareViews):
    """The links, to list them."""
