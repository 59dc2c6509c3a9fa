"""The rows of security keys, and of what each is to sign next."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, delete, func, select, update

from node.errors import UsageError
from node.index.engine.rows import ReadRepository
from node.index.engine.sql import insert
from node.index.engine.writer import IndexRepository, on_writer
from node.index.models import AccountRow, KeyChallengeRow, SecurityKeyRow, WebSessionRow
from node.index.nouns.accounts import NoSuchAccount, factor_added, factor_removed

MAX_KEYS = 50
"""Keys of an account: a browser is told all of them each time."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """What a key says of itself when it is registered; in base64url but for the counter and the host name it is for."""

    rp_id: str
    credential_id: str
    public_key: str
    sign_count: int


@dataclass(frozen=True, slots=True)
class SecurityKey:
    """A key of an account; `label` is what the account calls it."""

    id: int
    label: str
    rp_id: str
    credential_id: str
    public_key: str
    created_at: dt.datetime
    used_at: dt.datetime | None


class KeyRepository(IndexRepository):
    """The security keys of accounts, and the challenges of sessions."""

    @on_writer
    def begin(
        self, connection: Connection, session_sha256: str, purpose: str, challenge: str, expires_at: dt.datetime
    ) -> bool:
        """Note what a key is to sign for a session, in place of what it was to sign before.

        Returns False if the session has ended.
        """
        session = connection.scalar(select(WebSessionRow.id).where(WebSessionRow.sha256 == session_sha256))
        if session is None:
            return False
        values = {"purpose": purpose, "challenge": challenge, "expires_at": expires_at}
        noted = insert(KeyChallengeRow).values(session_id=session, **values)
        connection.execute(noted.on_conflict_do_update(index_elements=[KeyChallengeRow.session_id], set_=values))
        return True

    @on_writer
    def take(self, connection: Connection, session_sha256: str, purpose: str, now: dt.datetime) -> str | None:
        """Return the challenge of a session, which is gone then; None: there is none for this purpose any more."""
        session = select(WebSessionRow.id).where(WebSessionRow.sha256 == session_sha256).scalar_subquery()
        taken = delete(KeyChallengeRow).where(KeyChallengeRow.session_id == session)
        taken = taken.where(KeyChallengeRow.purpose == purpose, KeyChallengeRow.expires_at > now)
        return connection.execute(taken.returning(KeyChallengeRow.challenge)).scalar()

    @on_writer
    def add(
        self,
        connection: Connection,
        account: str,
        label: str,
        key: NewKey,
        codes: Sequence[str],
        now: dt.datetime,
        *,
        must_be_first: bool,
    ) -> bool:
        """Add a key to an account, and end all sessions, which were opened without it.

        `codes` are the digests of recovery codes, for an account without a second factor. Returns whether they were
        taken. Raises UsageError if the account has a factor and must have none, or has a key with this label.
        """
        row = connection.execute(select(AccountRow.id, AccountRow.totp_step).where(AccountRow.name == account)).first()
        if row is None:
            raise NoSuchAccount(f"there is no account {account!r}: somebody has removed it")
        # An app that was begun with the password alone ends. The row is locked by this, so that one key is the first.
        begun = AccountRow.id == row.id, AccountRow.totp_step.is_(None)
        has_app = connection.execute(update(AccountRow).where(*begun).values(totp_secret=None)).rowcount == 0
        keys = connection.execute(select(func.count()).where(SecurityKeyRow.account_id == row.id)).scalar_one()
        if must_be_first and (has_app or keys):
            raise UsageError("the account has a second factor since: sign in again")
        if keys >= MAX_KEYS:
            raise UsageError(f"{account} has {MAX_KEYS} security keys: remove one that is not needed")
        about = {"account_id": row.id, "name": label, "created_at": now, **asdict(key)}
        added = insert(SecurityKeyRow).values(about).on_conflict_do_nothing().returning(SecurityKeyRow.id)
        if connection.execute(added).first() is None:
            raise UsageError(f"there is a security key {label!r}, or the same one under another name")
        is_first = not has_app and not keys
        factor_added(connection, row.id, codes if is_first else ())
        return is_first

    @on_writer
    def use(self, connection: Connection, key: int, sign_count: int, now: dt.datetime) -> bool:
        """Note a use of a key with the counter that it signed.

        Returns False if that is not higher than before, as when there is a copy of the key; one that stays 0 counts
        nothing (WebAuthn 6.1.1).
        """
        counts = SecurityKeyRow.sign_count < sign_count
        if sign_count == 0:
            counts = SecurityKeyRow.sign_count == 0
        used = update(SecurityKeyRow).where(SecurityKeyRow.id == key, counts)
        return connection.execute(used.values(sign_count=sign_count, used_at=now)).rowcount == 1

    @on_writer
    def remove(self, connection: Connection, account: str, label: str, *, may_be_last: bool) -> None:
        """Remove a key and end all sessions of its account; the recovery codes go with the last factor.

        Raises UsageError if the account has no such key, or no other factor although it must have one.
        """
        row = connection.execute(
            select(AccountRow.id, AccountRow.totp_step).where(AccountRow.name == account).with_for_update()
        ).first()
        if row is None:
            raise NoSuchAccount(f"there is no account {account!r}: somebody has removed it")
        of_account = SecurityKeyRow.account_id == row.id
        if connection.execute(delete(SecurityKeyRow).where(of_account, SecurityKeyRow.name == label)).rowcount == 0:
            raise UsageError(f"there is no security key {label!r}: it was removed already")
        has_others = connection.execute(select(SecurityKeyRow.id).where(of_account).limit(1)).first() is not None
        if row.totp_step is None and not has_others and not may_be_last:
            raise UsageError(f"{label!r} is the only second factor by now: begin again")
        factor_removed(connection, row.id)


class ReadKeys(ReadRepository):
    """The security keys of accounts."""

    def of_account(self, account: int) -> list[SecurityKey]:
        """Return the keys of an account, oldest first."""
        query = select(*SecurityKeyRow.__table__.columns).where(SecurityKeyRow.account_id == account)
        return [
            SecurityKey(row.id, row.name, row.rp_id, row.credential_id, row.public_key, row.created_at, row.used_at)
            for row in self._connection.execute(query.order_by(SecurityKeyRow.id))
        ]
