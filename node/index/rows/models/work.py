"""The tables of the index itself: its accounts, projects and hosts, what they know of senders and owe to others."""

import datetime as dt
from typing import Any, Literal

from sqlalchemy import (
    JSON,
    CheckConstraint,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    and_,
    exists,
    false,
)
from sqlalchemy.orm import Mapped, mapped_column

from node.index.rows.models.levels import Base, ImageRow, Numbered, SeriesRow, StudyRow, Utc
from node.index.rows.records import Lane
from node.index.rows.sql import NO_ID_TWICE, partial_index


class AboutRow(Base):
    """A fact about the index, such as the last record of the journal that it has."""

    __tablename__ = "about"

    key: Mapped[str] = mapped_column(String(32), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class HostRow(Base):
    """A host of an index that several can share; see `node.index.rules.custody.hosts`."""

    __tablename__ = "hosts"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    roles: Mapped[list[str]] = mapped_column(JSON)
    version: Mapped[str] = mapped_column(String(32))  # of voxelnode
    subscribers: Mapped[list[str]] = mapped_column(JSON)  # in its configuration, as in `hooks`
    is_behind: Mapped[bool] = mapped_column(default=False, server_default=false())  # of what it acknowledged
    not_ready: Mapped[dict[str, str]] = mapped_column(JSON, server_default="{}")  # why, by role
    started_at: Mapped[dt.datetime] = mapped_column(Utc)
    seen_at: Mapped[dt.datetime] = mapped_column(Utc)
    lease_until: Mapped[dt.datetime | None] = mapped_column(Utc)  # None: it has stopped
    drain: Mapped[str | None] = mapped_column(String(8))  # asked: somebody wants it to stop; begun: it does
    left_behind: Mapped[int | None] = mapped_column(Integer)  # what only its disk has, since it stopped
    clock_ahead_seconds: Mapped[float] = mapped_column(Float, server_default="0")  # of the clock of the index
    configuration: Mapped[dict[str, str]] = mapped_column(JSON, server_default="{}")  # digests, by section
    problems: Mapped[dict[str, str]] = mapped_column(JSON, server_default="{}")  # how it differs from other hosts


class LeaseRow(Base):
    """What one host at a time does, and which host that is: while the lease of that host lasts."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(160), primary_key=True)
    host: Mapped[str] = mapped_column(String(63))


class AuditLineRow(Base):
    """A line of the audit log of a host, as it is in its file: a copy for all hosts (see `AuditLineRepository`)."""

    __tablename__ = "audit_lines"

    host: Mapped[str] = mapped_column(String(63), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)  # of a host, without gaps
    at: Mapped[dt.datetime] = mapped_column(Utc, index=True)
    line: Mapped[str] = mapped_column(Text)


class ObjectRemovalRow(Base):
    """An object that no row of images names any more, and that the store may still have."""

    __tablename__ = "object_removals"

    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    ordered_at: Mapped[dt.datetime] = mapped_column(Utc)


class HostRemovalRow(Base):
    """A file or folder that is to be removed from the disk of a host, because no row names it any more.

    It is removed after its object: nothing fetches it again then.
    """

    __tablename__ = "host_removals"

    host: Mapped[str] = mapped_column(String(63), primary_key=True)
    path: Mapped[str] = mapped_column(String(200), primary_key=True)  # relative to the root of the host
    ordered_at: Mapped[dt.datetime] = mapped_column(Utc)


class SenderRow(Base):
    """A sender, and what is learnt of it from its last series; see `node.index.rules.series.waits`."""

    __tablename__ = "senders"

    calling_ae_title: Mapped[str] = mapped_column(String(16), primary_key=True)
    gaps: Mapped[list[float]] = mapped_column(JSON)  # seconds, the oldest first
    quiet_seconds: Mapped[float | None] = mapped_column(Float)
    learnt_at: Mapped[dt.datetime] = mapped_column(Utc)


class OpenAssociationRow(Numbered):
    """A series of which an open association has brought an instance; see `node.index.rules.series.waits`."""

    __tablename__ = "open_associations"
    __table_args__ = (UniqueConstraint("host", "association", "series_id"),)

    host: Mapped[str] = mapped_column(String(63))  # that receives; empty: the only one
    association: Mapped[str] = mapped_column(String(32))
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id", ondelete="CASCADE"), index=True)
    calling_ae_title: Mapped[str] = mapped_column(String(16))
    open_until: Mapped[dt.datetime] = mapped_column(Utc)  # unless more comes
    number: Mapped[int] = mapped_column(Integer)  # what it brought last has the highest
    begun: Mapped[str] = mapped_column(String(32))  # its place: see `node.quiet`


class AwaitedSenderRow(Base):
    """A sender that an open series awaits; see `node.index.rules.series.waits`, and `node.quiet` for the moments."""

    __tablename__ = "awaited_senders"

    series_id: Mapped[int] = mapped_column(ForeignKey("series.id", ondelete="CASCADE"), primary_key=True)
    calling_ae_title: Mapped[str] = mapped_column(String(16), primary_key=True)
    quiet_at: Mapped[dt.datetime | None] = mapped_column(Utc)
    received_at: Mapped[dt.datetime | None] = mapped_column(Utc)
    grace_until: Mapped[dt.datetime | None] = mapped_column(Utc)
    aborted_at: Mapped[dt.datetime | None] = mapped_column(Utc)
    aborted: Mapped[str | None] = mapped_column(Text)


class SubscriberRow(Numbered):
    """A hook, or a destination of a route, and what it wants; see `node.index.rules.work.events`."""

    __tablename__ = "subscribers"
    __table_args__ = (UniqueConstraint("kind", "name", "destination"), NO_ID_TWICE)

    kind: Mapped[str] = mapped_column(String(16))  # hook, route
    name: Mapped[str] = mapped_column(String(64))  # empty: the route of what people send by hand
    destination: Mapped[str] = mapped_column(String(64))  # of a route; else empty
    wanted_kinds: Mapped[str] = mapped_column(Text)  # of events, each between two spaces
    wants_instances: Mapped[bool] = mapped_column()  # messages of single instances
    delivered: Mapped[int] = mapped_column(Integer, default=0)  # messages in total
    delivered_at: Mapped[dt.datetime | None] = mapped_column(Utc)
    paused: Mapped[bool] = mapped_column(default=False, server_default=false())
    # Of destinations of routes only:
    trouble: Mapped[str | None] = mapped_column(Text)  # why the destination cannot be reached
    trouble_since: Mapped[dt.datetime | None] = mapped_column(Utc)
    retry_at: Mapped[dt.datetime | None] = mapped_column(Utc)


class OwedEventRow(Base):
    """An event that a subscriber wants and has no message of yet; inserted and deleted with what it follows from.

    Without foreign keys: these would lock rows of subscribers in each transaction that receives instances.
    """

    __tablename__ = "owed_events"

    subscriber_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    event_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)


class OwedImageRow(Base):
    """An instance that a subscriber wants and has no message of yet; see `OwedEventRow`."""

    __tablename__ = "owed_images"

    subscriber_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    image_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    last_event: Mapped[int] = mapped_column(Integer, default=0, server_default="0")  # the newest one before it


SENT_STATES = ("sent", "owed", "asked", "confirmed", "lost")
"""sent: the destination took it; owed: and is to be asked whether it keeps it; asked: and was asked; confirmed: and
keeps it; lost: and does not keep it."""


class SentInstanceRow(Base):
    """An instance that a destination of a route has taken; see `node.index.rules.work.routes`."""

    __tablename__ = "sent_instances"
    __table_args__ = (
        CheckConstraint("state IN ({})".format(", ".join(f"'{s}'" for s in SENT_STATES)), name="state"),
        partial_index("ix_sent_instances_unconfirmed", ("route", "destination"), "state IN ('owed', 'asked')"),
    )

    image_id: Mapped[int] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), primary_key=True)
    route: Mapped[str] = mapped_column(String(64), primary_key=True)
    destination: Mapped[str] = mapped_column(String(64), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))  # of the stored data set; another one is sent again
    sop_class_uid: Mapped[str] = mapped_column(String(64))  # as sent
    sop_instance_uid: Mapped[str] = mapped_column(String(64))  # as sent
    patient_id: Mapped[str | None] = mapped_column(Text)  # of whom it was when it was sent, before pseudonyms
    identified_at: Mapped[dt.datetime | None] = mapped_column(Utc)  # the decision by which it was sent so
    state: Mapped[str] = mapped_column(String(16))
    sent_at: Mapped[dt.datetime] = mapped_column(Utc)
    transaction_uid: Mapped[str | None] = mapped_column(String(64), index=True)  # of the last request for commitment
    asked_at: Mapped[dt.datetime | None] = mapped_column(Utc)
    asks: Mapped[int] = mapped_column(Integer, default=0)
    confirmed_at: Mapped[dt.datetime | None] = mapped_column(Utc)


class ResultRow(Numbered):
    """An instance that the node stores for a job; the row is there before the instance, which it identifies."""

    __tablename__ = "results"
    __table_args__ = (UniqueConstraint("job_id", "file"),)

    job_id: Mapped[int] = mapped_column(ForeignKey("work.id", ondelete="CASCADE"))
    file: Mapped[str] = mapped_column(String(100))
    kind: Mapped[str] = mapped_column(String(16))  # segmentation, report, document, instance
    sha256: Mapped[str] = mapped_column(String(64))  # of the file that the hook left
    source_series_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64))
    series_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    segments: Mapped[dict[str, int] | None] = mapped_column(JSON(none_as_null=True))  # label of a mask -> number
    stored_at: Mapped[dt.datetime | None] = mapped_column(Utc)  # None: it is on its way


class WorkRow(Numbered):
    """Something that the node owes to a peer or a hook; see `node.index.rules.work.ledger`.

    What only some kinds have is in `payload`; see `node.index.rows.states`.
    """

    __tablename__ = "work"
    __table_args__ = (
        UniqueConstraint("kind", "name", "destination", "key"),
        Index("ix_work_kind_name_destination_outcome_due_at", "kind", "name", "destination", "outcome", "due_at"),
        Index("ix_work_kind_id", "kind", "id"),
        Index("ix_work_state_kind_name_destination_due_at", "state", "kind", "name", "destination", "due_at"),
        CheckConstraint("(state = 'ended') = (outcome IS NOT NULL)", name="outcome"),
        NO_ID_TWICE,  # people and programs name work by it
    )

    kind: Mapped[str] = mapped_column(String(16))  # see `node.index.rows.states.Kind`
    name: Mapped[str] = mapped_column(String(64))  # of the hook, the route or the peer; AE title of the requestor
    destination: Mapped[str] = mapped_column(String(64), default="")  # of a route
    key: Mapped[str] = mapped_column(
        String(64), index=True
    )  # by which others name it; of a commitment: Transaction UID
    event: Mapped[str | None] = mapped_column(String(32))  # that caused it
    cause: Mapped[str | None] = mapped_column(String(36), index=True)  # of a job: its message
    study_instance_uid: Mapped[str | None] = mapped_column(String(64), index=True)
    series_instance_uid: Mapped[str | None] = mapped_column(String(64))  # None: the whole study
    sop_instance_uid: Mapped[str | None] = mapped_column(String(64))
    revision: Mapped[int | None] = mapped_column(Integer)
    happened_at: Mapped[dt.datetime] = mapped_column(Utc)  # the event, or the request
    requested_by: Mapped[str] = mapped_column(String(64))  # an account, an AE title, or a rule of the configuration
    state: Mapped[str] = mapped_column(String(16))
    outcome: Mapped[str | None] = mapped_column(String(16))  # None: it is open
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    due_at: Mapped[dt.datetime | None] = mapped_column(Utc)  # None: at once, while it waits
    tried_at: Mapped[dt.datetime | None] = mapped_column(Utc)  # the last attempt
    percent: Mapped[int | None] = mapped_column(Integer)  # how far it is
    reason: Mapped[str | None] = mapped_column(Text)  # of the outcome or the last failure; may quote hook or peer
    cancelled_by: Mapped[str | None] = mapped_column(String(64))
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[dt.datetime] = mapped_column(Utc)
    changed_at: Mapped[dt.datetime] = mapped_column(Utc)
    ended_at: Mapped[dt.datetime | None] = mapped_column(Utc)
    last_event: Mapped[int | None] = mapped_column(Integer)  # the newest one before it ended


class LabelRow(Numbered):
    """A word that people gave a study, or one of its series; see `node.extensions.labels.marks`."""

    __tablename__ = "labels"
    __table_args__ = (UniqueConstraint("study_instance_uid", "series_instance_uid", "label"), NO_ID_TWICE)

    study_instance_uid: Mapped[str] = mapped_column(String(64))
    series_instance_uid: Mapped[str] = mapped_column(String(64))  # empty: the study has it
    label: Mapped[str] = mapped_column(String(64), index=True)
    given_by: Mapped[str] = mapped_column(String(64))
    given_at: Mapped[dt.datetime] = mapped_column(Utc)


class ProjectRow(Numbered):
    """A project: series that some accounts and peers may see, and no others; see `node.index.rows.scope`."""

    __tablename__ = "projects"
    __table_args__ = (NO_ID_TWICE,)  # nobody gets the rights of a project that is gone

    name: Mapped[str] = mapped_column(String(64), unique=True)
    description: Mapped[str] = mapped_column(String(200), server_default="")
    rule: Mapped[str | None] = mapped_column(Text)  # a selector: the series that it selects are in the project
    called_ae_title: Mapped[str | None] = mapped_column(String(16), index=True)  # new series sent to it are, too
    created_by: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[dt.datetime] = mapped_column(Utc)


class ProjectMemberRow(Base):
    """An account with a role in a project."""

    __tablename__ = "project_members"
    __table_args__ = (CheckConstraint("role IN ('read', 'write', 'manage')", name="role"),)

    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    account: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)
    role: Mapped[str] = mapped_column(String(8))


class LimitedAccountRow(Base):
    """An account that sees its projects only, even if it is in none, or is removed and made again."""

    __tablename__ = "limited_accounts"

    account: Mapped[str] = mapped_column(String(64), primary_key=True)


class ProjectContentRow(Base):
    """A study, or one of its series, that a person or the called AE title put into a project."""

    __tablename__ = "project_contents"

    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True)  # empty: the study, with all of them
    added_by: Mapped[str] = mapped_column(String(64))
    added_at: Mapped[dt.datetime] = mapped_column(Utc)


class ProjectSeriesRow(Base):
    """A series that is in a project, by its contents or by its rule: what every read of a member looks up."""

    __tablename__ = "project_series"

    series_id: Mapped[int] = mapped_column(ForeignKey("series.id", ondelete="CASCADE"), primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True, index=True)
    is_by_rule: Mapped[bool] = mapped_column(primary_key=True)


class AccountRow(Numbered):
    """An account for HTTP. Secrets are stored as hashes only: Argon2 of a password, SHA-256 of random tokens."""

    __tablename__ = "accounts"
    __table_args__ = (CheckConstraint("role IN ('read', 'write', 'admin')", name="role"),)

    name: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str] = mapped_column(String(8))
    password_hash: Mapped[str | None] = mapped_column(String(200))  # None: tokens only
    created_at: Mapped[dt.datetime] = mapped_column(Utc)
    totp_secret: Mapped[str | None] = mapped_column(String(64))  # of the second factor, in base32
    totp_step: Mapped[int | None] = mapped_column(Integer)  # of the last code; None until the first one was right
    groups: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))  # as members of projects; None: none


class RecoveryCodeRow(Numbered):
    """A code that stands once for the second factor of an account."""

    __tablename__ = "recovery_codes"

    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"), index=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)


class TokenRow(Numbered):
    """A secret for scripts, generated by the node: the role of its account or a lower one, all routes or some.

    With a project, which takes the token along when it goes, it shows the series of that one only.
    """

    __tablename__ = "tokens"
    __table_args__ = (UniqueConstraint("account_id", "label"),)

    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"))
    label: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str | None] = mapped_column(String(8))  # None: that of the account
    routes: Mapped[str | None] = mapped_column(String(1000))  # separated by spaces; None: all
    project_id: Mapped[int | None] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[dt.datetime] = mapped_column(Utc)
    expires_at: Mapped[dt.datetime | None] = mapped_column(Utc)
    used_at: Mapped[dt.datetime | None] = mapped_column(Utc)  # to the minute


class WebSessionRow(Numbered):
    """The session of a logged-in browser; `agent` is what the browser said it is."""

    __tablename__ = "web_sessions"

    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"), index=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    address: Mapped[str | None] = mapped_column(String(64))
    agent: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[dt.datetime] = mapped_column(Utc)
    expires_at: Mapped[dt.datetime] = mapped_column(Utc)
    used_at: Mapped[dt.datetime | None] = mapped_column(Utc)  # to the minute
    has_factor: Mapped[bool | None]  # whether a second factor was given; false: it is waited for; None: none was needed


def wants(kind: str) -> ColumnElement[bool]:
    """Return the condition of a subscriber that wants a kind of events."""
    return SubscriberRow.wanted_kinds.like(f"% {kind} %")


JobState = Literal["waiting", "running", "succeeded", "failed", "cancelled", "expired"]

OPEN: tuple[JobState, ...] = ("waiting", "running")
"""States of a job that may still report."""

IS_JOB, IS_OPEN = WorkRow.kind == "job", WorkRow.outcome.is_(None)


SENT_AS_IT_LEAVES = and_(
    SentInstanceRow.sha256 == ImageRow.sha256,
    exists()
    .where(
        SeriesRow.id == ImageRow.series_id,
        StudyRow.id == SeriesRow.study_id,
        StudyRow.identified_at.is_not_distinct_from(SentInstanceRow.identified_at),
    )
    .correlate(ImageRow, SentInstanceRow),
)
"""Whether a destination has taken an instance as it leaves now, in the bytes and the identity of its patient."""


def has_taken(lane: Lane, is_in_state: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(SentInstanceRow.image_id == ImageRow.id, taken_by(lane), SENT_AS_IT_LEAVES, is_in_state)


def taken_by(lane: Lane) -> ColumnElement[bool]:
    """Return the condition of what a destination has taken."""
    return and_(SentInstanceRow.route == lane.name, SentInstanceRow.destination == lane.destination)
