"""Accounts, tokens and sessions of those who ask over HTTP."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from sqlalchemy import Connection, Engine, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from node.errors import UsageError
from node.index.models import AccountRow, TokenRow, WebSessionRow
from node.index.writer import IndexWriter

SESSIONS_OF_ACCOUNT = 20
"""Browsers in which one account is logged in at once; the oldest gives way."""


class Role(IntEnum):
    """What an account may do; each role may do what the lower ones may."""

    READ = 1
    WRITE = 2
    ADMIN = 3


class NoSuchAccount(UsageError):
    """There is no such account."""


@dataclass(frozen=True, slots=True)
class KnownAccount:
    """An account, as the one that asks is compared with it."""

    id: int
    name: str
    role: Role
    password_hash: str | None


@dataclass(frozen=True, slots=True)
class ListedAccount:
    """An account, as a person looks at it; `tokens` are (label, made, end)."""

    name: str
    role: Role
    has_password: bool
    created_at: dt.datetime
    tokens: tuple[tuple[str, dt.datetime, dt.datetime | None], ...]


_KNOWN = select(AccountRow.id, AccountRow.name, AccountRow.role, AccountRow.password_hash)


def account_by_name(connection: Connection, name: str) -> KnownAccount | None:
    """The account of this name."""
    row = connection.execute(_KNOWN.where(AccountRow.name == name)).first()
    return None if row is None else _of(row)


def account_by_token(connection: Connection, sha256: str, now: dt.datetime) -> KnownAccount | None:
    """The account of a token, unless that is over."""
    query = _KNOWN.join(TokenRow, TokenRow.account_id == AccountRow.id).where(TokenRow.sha256 == sha256)
    row = connection.execute(query.where(or_(TokenRow.expires_at.is_(None), TokenRow.expires_at > now))).first()
    return None if row is None else _of(row)


def account_by_session(
    connection: Connection, sha256: str, now: dt.datetime
) -> tuple[KnownAccount, dt.datetime] | None:
    """The account that is logged in where the browser has this cookie, and until when; None if that is over."""
    query = _KNOWN.add_columns(WebSessionRow.expires_at).join(WebSessionRow, WebSessionRow.account_id == AccountRow.id)
    row = connection.execute(query.where(WebSessionRow.sha256 == sha256, WebSessionRow.expires_at > now)).first()
    return None if row is None else (_of(row), row.expires_at)


def list_accounts(connection: Connection) -> list[ListedAccount]:
    """Every account by name."""
    tokens: dict[int, list[tuple[str, dt.datetime, dt.datetime | None]]] = {}
    made = select(TokenRow.account_id, TokenRow.label, TokenRow.created_at, TokenRow.expires_at).order_by(TokenRow.id)
    for account_id, label, created_at, expires_at in connection.execute(made):
        tokens.setdefault(account_id, []).append((label, created_at, expires_at))
    rows = connection.execute(
        select(
            AccountRow.id, AccountRow.name, AccountRow.role, AccountRow.password_hash, AccountRow.created_at
        ).order_by(AccountRow.name)
    )
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


def set_account(connection: Connection, name: str, role: Role, password_hash: str | None, now: dt.datetime) -> bool:
    """Make an account, or change the role and the password of one; returns whether it is new.

    Whoever was logged in is logged out; tokens stay.
    """
    values = {"role": role.name.lower(), "password_hash": password_hash}
    known = account_by_name(connection, name)
    if known is None:
        connection.execute(insert(AccountRow).values(name=name, created_at=now, **values))
        return True
    connection.execute(update(AccountRow).where(AccountRow.id == known.id).values(values))
    connection.execute(delete(WebSessionRow).where(WebSessionRow.account_id == known.id))
    return False


def set_role(connection: Connection, name: str, role: Role) -> None:
    """Let an account do more or less, from its next request on."""
    changed = connection.execute(update(AccountRow).where(AccountRow.name == name).values(role=role.name.lower()))
    if changed.rowcount == 0:
        raise _unknown(name)


def remove_account(connection: Connection, name: str) -> None:
    """Take an account away with its tokens and sessions."""
    if connection.execute(delete(AccountRow).where(AccountRow.name == name)).rowcount == 0:
        raise _unknown(name)


def add_token(
    connection: Connection, name: str, label: str, sha256: str, expires_at: dt.datetime | None, now: dt.datetime
) -> None:
    """Keep a token of an account.

    Raises
    ------
    NoSuchAccount
    UsageError
        The account has another token of this label.
    """
    known = account_by_name(connection, name)
    if known is None:
        raise _unknown(name)
    row = {"account_id": known.id, "label": label, "sha256": sha256, "created_at": now, "expires_at": expires_at}
    try:
        connection.execute(insert(TokenRow).values(row))
    except IntegrityError:
        raise UsageError(f"{name} has a token {label!r} already: remove it, or take another label") from None


def remove_token(connection: Connection, name: str, label: str) -> None:
    """Take a token away: from now on it opens nothing."""
    of_account = select(AccountRow.id).where(AccountRow.name == name).scalar_subquery()
    removed = connection.execute(delete(TokenRow).where(TokenRow.account_id == of_account, TokenRow.label == label))
    if removed.rowcount == 0:
        raise NoSuchAccount(
            f"no account {name!r} has a token {label!r}: `voxelnode account list` tells which there are"
        )


def open_session(
    connection: Connection, account_id: int, sha256: str, expires_at: dt.datetime, now: dt.datetime
) -> None:
    """Note that a browser logged in; sessions that are over go, and so do the oldest of too many."""
    connection.execute(delete(WebSessionRow).where(WebSessionRow.expires_at <= now))
    connection.execute(
        insert(WebSessionRow).values(account_id=account_id, sha256=sha256, created_at=now, expires_at=expires_at)
    )
    kept = (
        select(WebSessionRow.id)
        .where(WebSessionRow.account_id == account_id)
        .order_by(WebSessionRow.id.desc())
        .limit(SESSIONS_OF_ACCOUNT)
    )
    connection.execute(
        delete(WebSessionRow).where(WebSessionRow.account_id == account_id, WebSessionRow.id.not_in(kept))
    )


def extend_session(connection: Connection, sha256: str, expires_at: dt.datetime) -> None:
    """Let a session that is used last longer."""
    connection.execute(update(WebSessionRow).where(WebSessionRow.sha256 == sha256).values(expires_at=expires_at))


def close_session(connection: Connection, sha256: str) -> None:
    """Log a browser out; one that is out already is no error."""
    connection.execute(delete(WebSessionRow).where(WebSessionRow.sha256 == sha256))


def _of(row: Any) -> KnownAccount:
    return KnownAccount(row.id, row.name, Role[row.role.upper()], row.password_hash)


def _unknown(name: str) -> NoSuchAccount:
    return NoSuchAccount(f"there is no account {name!r}: `voxelnode account list` tells which there are")


class Accounts:
    """Those who may ask over HTTP, in one index; safe to use from many threads.

    The functions of this module say what each method does.
    """

    def __init__(self, writer: IndexWriter, reader: Engine) -> None:
        self._writer, self._reader = writer, reader

    def by_name(self, name: str) -> KnownAccount | None:
        with self._reader.connect() as connection:
            return account_by_name(connection, name)

    def by_token(self, sha256: str, now: dt.datetime) -> KnownAccount | None:
        with self._reader.connect() as connection:
            return account_by_token(connection, sha256, now)

    def by_session(self, sha256: str, now: dt.datetime) -> tuple[KnownAccount, dt.datetime] | None:
        with self._reader.connect() as connection:
            return account_by_session(connection, sha256, now)

    def any(self) -> bool:
        """Whether anybody could log in."""
        with self._reader.connect() as connection:
            return connection.execute(select(AccountRow.id).limit(1)).first() is not None

    def set(self, name: str, role: Role, password_hash: str | None, now: dt.datetime) -> bool:
        return self._writer.run(lambda connection: set_account(connection, name, role, password_hash, now))

    def set_role(self, name: str, role: Role) -> None:
        self._writer.run(lambda connection: set_role(connection, name, role))

    def remove(self, name: str) -> None:
        self._writer.run(lambda connection: remove_account(connection, name))

    def add_token(self, name: str, label: str, sha256: str, expires_at: dt.datetime | None, now: dt.datetime) -> None:
        self._writer.run(lambda connection: add_token(connection, name, label, sha256, expires_at, now))

    def remove_token(self, name: str, label: str) -> None:
        self._writer.run(lambda connection: remove_token(connection, name, label))

    def open_session(self, account_id: int, sha256: str, expires_at: dt.datetime, now: dt.datetime) -> None:
        self._writer.run(lambda connection: open_session(connection, account_id, sha256, expires_at, now))

    def extend_session(self, sha256: str, expires_at: dt.datetime) -> None:
        self._writer.run(lambda connection: extend_session(connection, sha256, expires_at))

    def close_session(self, sha256: str) -> None:
        self._writer.run(lambda connection: close_session(connection, sha256))
