"""Accounts for HTTP, with their tokens and sessions, and the projects that they are limited to."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    ScalarSelect,
    Select,
    and_,
    bindparam,
    delete,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from node.errors import UsageError
from node.index.rows.models.work import (
    AccountRow,
    LimitedAccountRow,
    ProjectContentRow,
    ProjectMemberRow,
    ProjectRow,
    ProjectSeriesRow,
    RecoveryCodeRow,
    TokenRow,
    WebSessionRow,
)
from node.index.rows.records import NO_CLIENT, Client, ListedAccount, ListedToken, Role
from node.index.rows.repositories import IndexRepository, on_reader, on_writer, reads
from node.index.rows.sql import insert
from node.registry import shares

__all__ = ["ListedAccount", "ListedToken", "Role"]  # for who asks for accounts

MAX_SESSIONS = 20
"""Sessions per account, and as many that wait for a second factor; opening another one ends the oldest."""


AHEAD = dt.timedelta(hours=1)
"""How far the clock may have been ahead of what it is now."""


def is_current(begun_at: Any, expires_at: Any) -> ColumnElement[bool]:
    """Return the condition that something has begun and has not expired at the `moment` that is its parameters.

    What begins in the future was made while the clock was ahead: nobody knows when its time is over.
    """
    return and_(expires_at > bindparam("now"), begun_at <= bindparam("latest"))


def moment(now: dt.datetime) -> dict[str, dt.datetime]:
    """Return the parameters of `is_current`."""
    return {"now": now, "latest": now + AHEAD}


MAX_STEPS_APART = 2
"""Between the codes of an authenticator app that are right at one moment (`node.web.credentials.SKEW`)."""


class NoSuchAccount(UsageError):
    """No account has this name."""


@dataclass(frozen=True, slots=True)
class KnownAccount:
    """The fields of an account that authenticate and authorize a request."""

    id: int
    name: str
    role: Role
    password_hash: str | None
    totp_secret: str | None = None
    totp_step: int | None = None
    groups: tuple[str, ...] = ()
    """Those of the identity provider, as members of projects."""

    is_limited: bool = False
    """It sees its projects only."""

    @property
    def has_factor(self) -> bool:
        """Whether an authenticator app is set up: a first code of its secret was right."""
        return self.totp_step is not None


@dataclass(frozen=True, slots=True)
class KnownToken:
    """A token that is presented: it grants no more than the role of its account, and these routes; empty: all.

    `project`: the only one whose series it shows; None: those that the account sees.
    """

    account: KnownAccount
    label: str
    role: Role
    routes: tuple[str, ...]
    project: str | None
    used_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class KnownSession:
    """The session of a browser that presents its cookie.

    `has_factor` is False while it waits for its second factor and is good for nothing else, and None if it needed none.
    """

    id: int
    account: KnownAccount
    expires_at: dt.datetime
    used_at: dt.datetime | None
    has_factor: bool | None


# Built once: each request with a token or a cookie runs them, and building them takes longer than running them.
_KNOWN = select(*AccountRow.__table__.columns)

_BY_TOKEN = (
    _KNOWN.add_columns(TokenRow.label, TokenRow.role.label("at_most"), TokenRow.routes, TokenRow.used_at)
    .add_columns(ProjectRow.name.label("project"))
    .join(TokenRow, TokenRow.account_id == AccountRow.id)
    .outerjoin(ProjectRow, ProjectRow.id == TokenRow.project_id)
    .where(TokenRow.sha256 == bindparam("token"))
    .where(or_(TokenRow.expires_at.is_(None), is_current(TokenRow.created_at, TokenRow.expires_at)))
)

_BY_SESSION = (
    _KNOWN.add_columns(WebSessionRow.id.label("session_id"), WebSessionRow.expires_at)
    .add_columns(WebSessionRow.used_at, WebSessionRow.has_factor)
    .join(WebSessionRow, WebSessionRow.account_id == AccountRow.id)
    .where(WebSessionRow.sha256 == bindparam("cookie"))
    .where(is_current(func.coalesce(WebSessionRow.used_at, WebSessionRow.created_at), WebSessionRow.expires_at))
)

_LIMITED = select(LimitedAccountRow.account).where(LimitedAccountRow.account.in_(bindparam("names", expanding=True)))


def _by_name(connection: Connection, name: str) -> KnownAccount | None:
    row = connection.execute(_KNOWN.where(AccountRow.name == name)).first()
    return None if row is None else _known(connection, row)


def _require(connection: Connection, name: str) -> KnownAccount:
    if (known := _by_name(connection, name)) is None:
        raise NoSuchAccount(f"there is no account {name!r}: `voxelnode account list` lists accounts and tokens")
    return known


def _is_limited(connection: Connection, names: Sequence[str]) -> bool:
    return connection.execute(_LIMITED, {"names": list(names)}).first() is not None


class AccountRepository(IndexRepository):
    """The accounts of an index, with their tokens and sessions."""

    by_name = reads(_by_name)

    @on_reader
    def by_token(self, connection: Connection, sha256: str, now: dt.datetime) -> KnownToken | None:
        """Return a token with its account, or None if it is unknown or has expired."""
        row = connection.execute(_BY_TOKEN, {"token": sha256} | moment(now)).first()
        if row is None:
            return None
        account = _known(connection, row)
        role = min(account.role, Role[row.at_most.upper()]) if row.at_most else account.role
        return KnownToken(account, row.label, role, tuple((row.routes or "").split()), row.project, row.used_at)

    @on_writer
    def note_use_of_token(self, connection: Connection, sha256: str, now: dt.datetime) -> None:
        """Note that a token is in use."""
        connection.execute(update(TokenRow).where(TokenRow.sha256 == sha256).values(used_at=now))

    @on_reader
    def by_session(self, connection: Connection, sha256: str, now: dt.datetime) -> KnownSession | None:
        """Return the session of a cookie, or None if it has ended."""
        row = connection.execute(_BY_SESSION, {"cookie": sha256} | moment(now)).first()
        if row is None:
            return None
        return KnownSession(row.session_id, _known(connection, row), row.expires_at, row.used_at, row.has_factor)

    @on_writer
    def note_use_of_session(self, connection: Connection, sha256: str, now: dt.datetime) -> None:
        """Note that a session is in use."""
        connection.execute(update(WebSessionRow).where(WebSessionRow.sha256 == sha256).values(used_at=now))

    @on_writer
    def end_sessions(self, connection: Connection, name: str, session: int | None = None) -> int:
        """End a session of an account, or all; return how many were open."""
        query = delete(WebSessionRow).where(WebSessionRow.account_id == _id_of(name))
        return connection.execute(query if session is None else query.where(WebSessionRow.id == session)).rowcount

    is_limited = reads(_is_limited)

    @on_reader
    def projects_of(self, connection: Connection, names: Sequence[str]) -> frozenset[int]:
        """Return the row ids of the projects of an account and its groups."""
        return frozenset(connection.scalars(_projects_of(names)))

    @on_reader
    def any(self, connection: Connection) -> bool:
        """Return whether any account exists."""
        return connection.execute(select(AccountRow.id).limit(1)).first() is not None

    @on_writer
    def set(
        self,
        connection: Connection,
        name: str,
        role: Role,
        password_hash: str | None,
        now: dt.datetime,
        groups: Sequence[str] = (),
    ) -> bool:
        """Create an account, or change the role, the password and the groups of an existing one.

        A change ends the sessions of the account; its tokens stay valid, and its links while its role may make some.
        An account that a group of it limits stays limited without the group.

        Returns whether the account is new.
        """
        values = {"role": role.name.lower(), "password_hash": password_hash, "groups": list(groups) or None}
        _end_shares(connection, name, role, groups)
        known = _by_name(connection, name)
        if known is None:
            connection.execute(insert(AccountRow).values(name=name, created_at=now, **values))
            return True
        _stay_limited(connection, known, groups)
        _change(connection, known.id, **values)
        _end_sessions(connection, known.id)
        return False

    @on_writer
    def set_role(self, connection: Connection, name: str, role: Role) -> None:
        """Change the role of an account, effective from its next request; its links end below ``write``."""
        known = _require(connection, name)
        _end_shares(connection, name, role, known.groups)
        _change(connection, known.id, role=role.name.lower())

    @on_writer
    def remove(self, connection: Connection, name: str) -> None:
        """Remove an account with its tokens, sessions, links and roles in projects.

        A new one of its name stays limited.
        """
        known = _require(connection, name)
        _end_shares(connection, name, None)
        _stay_limited(connection, known)
        connection.execute(delete(ProjectMemberRow).where(ProjectMemberRow.account == name))
        connection.execute(delete(AccountRow).where(AccountRow.id == known.id))

    @on_writer
    def add_token(
        self,
        connection: Connection,
        name: str,
        label: str,
        sha256: str,
        expires_at: dt.datetime | None,
        now: dt.datetime,
        *,
        role: Role | None = None,
        routes: Sequence[str] = (),
        project: str | None = None,
    ) -> None:
        """Add a token to an account, with a lower role than that of the account, or for some routes or a project only.

        Raises UsageError if the account already has a token with this label, a lower role than `role`, or sees its
        projects only and is no member of `project`.
        """
        known = _require(connection, name)
        if role is not None and role > known.role:
            raise UsageError(f"{name} has the role {known.role.name.lower()}; a token of it has no higher one")
        row = {"account_id": known.id, "label": label, "sha256": sha256, "created_at": now, "expires_at": expires_at}
        row |= {"role": role.name.lower() if role is not None else None, "routes": " ".join(routes) or None}
        row["project_id"] = None if project is None else _project(connection, known, project)
        try:
            connection.execute(insert(TokenRow).values(row))
        except IntegrityError:
            revoke = f"`voxelnode account revoke {name} --label {quote(label)}`"
            raise UsageError(f"{name} already has a token {label!r}: {revoke} removes it; or choose another") from None

    @on_writer
    def remove_token(self, connection: Connection, name: str, label: str) -> None:
        """Remove a token: later requests with it are refused.

        Raises NoSuchAccount if the account does not exist, or has no token with this label.
        """
        its = TokenRow.account_id == _id_of(name), TokenRow.label == label
        if connection.execute(delete(TokenRow).where(*its)).rowcount == 0:
            what = f"no account {name!r} has a token {label!r}"
            raise NoSuchAccount(f"{what}: `voxelnode account list` lists accounts and tokens")

    @on_writer
    def open_session(
        self,
        connection: Connection,
        account_id: int,
        sha256: str,
        expires_at: dt.datetime,
        now: dt.datetime,
        client: Client = NO_CLIENT,
        *,
        has_factor: bool | None = None,
    ) -> None:
        """Open a session for a browser; remove expired sessions, and the oldest ones beyond `MAX_SESSIONS`.

        Sessions that wait for a second factor push out each other only: whoever knows the password alone ends no other.
        """
        connection.execute(delete(WebSessionRow).where(WebSessionRow.expires_at <= now))
        row = {"account_id": account_id, "sha256": sha256, "created_at": now, "expires_at": expires_at, "used_at": now}
        row |= {"address": client.address[:64], "agent": client.agent[:200], "has_factor": has_factor}
        connection.execute(insert(WebSessionRow).values(row))
        waits = WebSessionRow.has_factor
        alike = WebSessionRow.account_id == account_id, waits.is_(False) if has_factor is False else waits.is_not(False)
        newest = select(WebSessionRow.id).where(*alike).order_by(WebSessionRow.id.desc()).limit(MAX_SESSIONS)
        connection.execute(delete(WebSessionRow).where(*alike, WebSessionRow.id.not_in(newest)))

    @on_writer
    def begin_factor(self, connection: Connection, account_id: int, secret: str) -> None:
        """Give an account without an authenticator app the secret of one; a right code will confirm it."""
        row = update(AccountRow).where(AccountRow.id == account_id, AccountRow.totp_step.is_(None))
        connection.execute(row.values(totp_secret=secret))

    @on_writer
    def confirm_factor(
        self, connection: Connection, account_id: int, secret: str, step: int, codes: Sequence[str]
    ) -> bool:
        """Set up an authenticator app whose first code was right, and end all sessions, which were opened without it.

        `codes` are the digests of its recovery codes. Returns False if another app was begun or set up meanwhile.
        """
        is_same = AccountRow.id == account_id, AccountRow.totp_step.is_(None), AccountRow.totp_secret == secret
        if connection.execute(update(AccountRow).where(*is_same).values(totp_step=step)).rowcount == 0:
            return False
        connection.execute(delete(RecoveryCodeRow).where(RecoveryCodeRow.account_id == account_id))
        connection.execute(insert(RecoveryCodeRow), [{"account_id": account_id, "sha256": code} for code in codes])
        _end_sessions(connection, account_id)
        return True

    @on_writer
    def use_step(self, connection: Connection, account_id: int, step: int) -> bool:
        """Note the step of a right code; return False if a code of it, or of a later one, was used before.

        A step that no clock can have reached yet was noted while the clock was ahead: it counts no more.
        """
        is_new = or_(AccountRow.totp_step < step, AccountRow.totp_step > step + MAX_STEPS_APART)
        row = update(AccountRow).where(AccountRow.id == account_id, is_new)
        return connection.execute(row.values(totp_step=step)).rowcount == 1

    @on_writer
    def use_recovery_code(self, connection: Connection, account_id: int, sha256: str) -> bool:
        """Use up a recovery code; return False if the account has no such code."""
        is_code = RecoveryCodeRow.account_id == account_id, RecoveryCodeRow.sha256 == sha256
        return connection.execute(delete(RecoveryCodeRow).where(*is_code)).rowcount == 1

    @on_writer
    def remove_factor(self, connection: Connection, name: str) -> None:
        """Remove the authenticator app of an account with its recovery codes, and end its sessions."""
        known = _require(connection, name)
        _change(connection, known.id, totp_secret=None, totp_step=None)
        connection.execute(delete(RecoveryCodeRow).where(RecoveryCodeRow.account_id == known.id))
        _end_sessions(connection, known.id)

    @on_writer
    def extend_session(self, connection: Connection, sha256: str, expires_at: dt.datetime) -> None:
        """Set a later expiry for a session that is in use."""
        connection.execute(update(WebSessionRow).where(WebSessionRow.sha256 == sha256).values(expires_at=expires_at))

    @on_writer
    def close_session(self, connection: Connection, sha256: str) -> None:
        """End a session; does nothing if it has already ended."""
        connection.execute(delete(WebSessionRow).where(WebSessionRow.sha256 == sha256))


def _id_of(name: str) -> ScalarSelect[int]:
    return select(AccountRow.id).where(AccountRow.name == name).scalar_subquery()


def _change(connection: Connection, account_id: int, **values: Any) -> None:
    connection.execute(update(AccountRow).where(AccountRow.id == account_id).values(values))


def _end_sessions(connection: Connection, account_id: int) -> None:
    connection.execute(delete(WebSessionRow).where(WebSessionRow.account_id == account_id))


def _known(connection: Connection, row: Any) -> KnownAccount:
    role, groups = Role[row.role.upper()], tuple(row.groups or ())
    is_limited = role < Role.ADMIN and _is_limited(connection, (row.name, *groups))
    factor = row.totp_secret, row.totp_step
    return KnownAccount(row.id, row.name, role, row.password_hash, *factor, groups, is_limited)


def _stay_limited(connection: Connection, account: KnownAccount, groups: Sequence[str] = ()) -> None:
    """Limit an account by its own name that is limited by a group which is gone; `groups` are those that it has now."""
    if account.is_limited and not _is_limited(connection, (account.name, *groups)):
        connection.execute(insert(LimitedAccountRow).values(account=account.name))


def _projects_of(names: Sequence[str]) -> Select[int]:
    return select(ProjectMemberRow.project_id).where(ProjectMemberRow.account.in_(names))


def _project(connection: Connection, account: KnownAccount, name: str) -> int:
    """Return the row id of a project that an account sees."""
    query = select(ProjectRow.id).where(ProjectRow.name == name)
    if account.is_limited:
        query = query.where(ProjectRow.id.in_(_projects_of((account.name, *account.groups))))
    project = connection.scalar(query)
    if project is None:
        raise UsageError(f"{account.name} sees no project {name!r}: `voxelnode projects list` lists all")
    return int(project)


def _end_shares(connection: Connection, name: str, role: Role | None, groups: Sequence[str] = ()) -> None:
    """Revoke the links of an account, unless it may make some in a role; `groups` are those that it has now."""
    if role is None or role < Role.WRITE or (role != Role.ADMIN and _is_limited(connection, [name, *groups])):
        shares().end_shares(connection, name)


BY_CALLED_AE_TITLE = "called AE title"
"""Who has added what was sent to the AE title of a project."""


class NoSuchProject(UsageError):
    """No project has this name."""


class Content(NamedTuple):
    """A study, or one of its series if `series` is not empty."""

    study: str
    series: str = ""


def enter_projects(
    connection: Connection, series_id: int, content: Content, called_ae_title: str | None, now: dt.datetime
) -> None:
    """Put a series that was just inserted into the projects that have it, or its study, or the AE title called."""
    if called_ae_title:
        values = literal(content.study), literal(content.series), literal(BY_CALLED_AE_TITLE), literal(now)
        called = select(ProjectRow.id, *values).where(ProjectRow.called_ae_title == called_ae_title)
        names = ["project_id", "study_instance_uid", "series_instance_uid", "added_by", "added_at"]
        connection.execute(insert(ProjectContentRow).from_select(names, called).on_conflict_do_nothing())
    having = select(literal(series_id), ProjectContentRow.project_id, literal(False)).where(
        ProjectContentRow.study_instance_uid == content.study,
        ProjectContentRow.series_instance_uid.in_(("", content.series)),
    )
    insert_series(connection, having.distinct())


def insert_series(connection: Connection, rows: Select[int, int, bool]) -> int:
    """Put series into projects; return how many came."""
    new = insert(ProjectSeriesRow).from_select(["series_id", "project_id", "is_by_rule"], rows)
    return connection.execute(new.on_conflict_do_nothing()).rowcount


def project_id(connection: Connection, name: str) -> int:
    """Return the row id of a project. Raises NoSuchProject."""
    project = connection.scalar(select(ProjectRow.id).where(ProjectRow.name == name))
    if project is None:
        raise NoSuchProject(f"there is no project {name!r}: `voxelnode projects list` lists all")
    return int(project)
