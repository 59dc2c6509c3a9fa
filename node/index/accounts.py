"""Accounts for HTTP, with their tokens and sessions."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from sqlalchemy import Connection, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from node.errors import UsageError
from node.index.models import AccountRow, TokenRow, WebSessionRow
from node.index.repository import IndexRepository, on_reader, on_writer

MAX_SESSIONS = 20
"""Sessions of one account; a further one ends the oldest."""


class Role(IntEnum):
    """What an account may do; each role includes the lower ones."""

    READ = 1
    WRITE = 2
    ADMIN = 3


class NoSuchAccount(UsageError):
    """There is no such account."""


@dataclass(frozen=True, slots=True)
class KnownAccount:
    """An account, as requests are checked against it."""

    id: int
    name: str
    role: Role
    password_hash: str | None


@dataclass(frozen=True, slots=True)
class ListedAccount:
    """An account, as a person sees it; `tokens` are (label, created at, expires at)."""

    name: str
    role: Role
    has_password: bool
    created_at: dt.datetime
    tokens: tuple[tuple[str, dt.datetime, dt.datetime | None], ...]


_KNOWN = select(AccountRow.id, AccountRow.name, AccountRow.role, AccountRow.password_hash)


class AccountRepository(IndexRepository):
    """The accounts of an index, with their tokens and sessions."""

    @on_reader
    def by_name(self, connection: Connection, name: str) -> KnownAccount | None:
        """Return the account of this name, or None."""
        return _by_name(connection, name)

    @on_reader
    def by_token(self, connection: Connection, sha256: str, now: dt.datetime) -> KnownAccount | None:
        """Return the account of a token, or None if the token is unknown or has expired."""
        query = _KNOWN.join(TokenRow, TokenRow.account_id == AccountRow.id).where(TokenRow.sha256 == sha256)
        row = connection.execute(query.where(or_(TokenRow.expires_at.is_(None), TokenRow.expires_at > now))).first()
        return None if row is None else _known(row)

    @on_reader
    def by_session(
        self, connection: Connection, sha256: str, now: dt.datetime
    ) -> tuple[KnownAccount, dt.datetime] | None:
        """Return the account of a session cookie and when the session ends, or None if it has ended."""
        query = _KNOWN.add_columns(WebSessionRow.expires_at)
        query = query.join(WebSessionRow, WebSessionRow.account_id == AccountRow.id)
        is_open = WebSessionRow.sha256 == sha256, WebSessionRow.expires_at > now
        row = connection.execute(query.where(*is_open)).first()
        return None if row is None else (_known(row), row.expires_at)

    @on_reader
    def any(self, connection: Connection) -> bool:
        """Return whether there is any account."""
        return connection.execute(select(AccountRow.id).limit(1)).first() is not None

    @on_writer
    def set(self, connection: Connection, name: str, role: Role, password_hash: str | None, now: dt.datetime) -> bool:
        """Make an account, or change role and password of the account of this name.

        A change ends the sessions of the account; its tokens stay.

        Returns
        -------
        bool
            Whether the account is new.
        """
        values = {"role": role.name.lower(), "password_hash": password_hash}
        known = _by_name(connection, name)
        if known is None:
            connection.execute(insert(AccountRow).values(name=name, created_at=now, **values))
            return True
        connection.execute(update(AccountRow).where(AccountRow.id == known.id).values(values))
        connection.execute(delete(WebSessionRow).where(WebSessionRow.account_id == known.id))
        return False

    @on_writer
    def set_role(self, connection: Connection, name: str, role: Role) -> None:
        """Change the role of an account, from its next request on.

        Raises
        ------
        NoSuchAccount
        """
        changed = connection.execute(update(AccountRow).where(AccountRow.name == name).values(role=role.name.lower()))
        if changed.rowcount == 0:
            raise _unknown(name)

    @on_writer
    def remove(self, connection: Connection, name: str) -> None:
        """Remove an account with its tokens and sessions.

        Raises
        ------
        NoSuchAccount
        """
        if connection.execute(delete(AccountRow).where(AccountRow.name == name)).rowcount == 0:
            raise _unknown(name)

    @on_writer
    def add_token(
        self,
        connection: Connection,
        name: str,
        label: str,
        sha256: str,
        expires_at: dt.datetime | None,
        now: dt.datetime,
    ) -> None:
        """Keep a token of an account.

        Raises
        ------
        NoSuchAccount
        UsageError
            The account has another token of this label.
        """
        known = _by_name(connection, name)
        if known is None:
            raise _unknown(name)
        row = {"account_id": known.id, "label": label, "sha256": sha256, "created_at": now, "expires_at": expires_at}
        try:
            connection.execute(insert(TokenRow).values(row))
        except IntegrityError:
            raise UsageError(f"{name} has a token {label!r} already: remove it, or take another label") from None

    @on_writer
    def remove_token(self, connection: Connection, name: str, label: str) -> None:
        """Remove a token: requests with it are refused from now on.

        Raises
        ------
        NoSuchAccount
            There is no such account, or it has no such token.
        """
        account_id = select(AccountRow.id).where(AccountRow.name == name).scalar_subquery()
        removed = connection.execute(delete(TokenRow).where(TokenRow.account_id == account_id, TokenRow.label == label))
        if removed.rowcount == 0:
            raise NoSuchAccount(
                f"no account {name!r} has a token {label!r}: `voxelnode account list` lists accounts and tokens"
            )

    @on_writer
    def open_session(
        self, connection: Connection, account_id: int, sha256: str, expires_at: dt.datetime, now: dt.datetime
    ) -> None:
        """Note that a browser logged in; removes sessions that have ended, and the oldest ones beyond the limit."""
        connection.execute(delete(WebSessionRow).where(WebSessionRow.expires_at <= now))
        connection.execute(
            insert(WebSessionRow).values(account_id=account_id, sha256=sha256, created_at=now, expires_at=expires_at)
        )
        of_account = WebSessionRow.account_id == account_id
        kept = select(WebSessionRow.id).where(of_account).order_by(WebSessionRow.id.desc()).limit(MAX_SESSIONS)
        connection.execute(delete(WebSessionRow).where(of_account, WebSessionRow.id.not_in(kept)))

    @on_writer
    def extend_session(self, connection: Connection, sha256: str, expires_at: dt.datetime) -> None:
        """Let a session that is used last longer."""
        connection.execute(update(WebSessionRow).where(WebSessionRow.sha256 == sha256).values(expires_at=expires_at))

    @on_writer
    def close_session(self, connection: Connection, sha256: str) -> None:
        """End a session; one that has ended already is no error."""
        connection.execute(delete(WebSessionRow).where(WebSessionRow.sha256 == sha256))


def list_accounts(connection: Connection) -> list[ListedAccount]:
    """Return every account by name."""
    tokens: dict[int, list[tuple[str, dt.datetime, dt.datetime | None]]] = {}
    query = select(TokenRow.account_id, TokenRow.label, TokenRow.created_at, TokenRow.expires_at).order_by(TokenRow.id)
    for account_id, label, created_at, expires_at in connection.execute(query):
        tokens.setdefault(account_id, []).append((label, created_at, expires_at))
    rows = connection.execute(_KNOWN.add_columns(AccountRow.created_at).order_by(AccountRow.name))
    return [
        ListedAccount(
            row.name,
            Role[row.role.upper()],
            row.password_hash is not None,
            row.created_at,
            tuple(tokens.get(row.id, ())),
        )
        for row in rows
    ]


def _by_name(connection: Connection, name: str) -> KnownAccount | None:
    row = connection.execute(_KNOWN.where(AccountRow.name == name)).first()
    return None if row is None else _known(row)


def _known(row: Any) -> KnownAccount:
    return KnownAccount(row.id, row.name, Role[row.role.upper()], row.password_hash)


def _unknown(name: str) -> NoSuchAccount:
    return NoSuchAccount(f"there is no account {name!r}: `voxelnode account list` lists accounts and tokens")
