"""What is read of an index: the documented views (docs/data.md), by queries that are written out.

The search for studies alone is composed: `node.index.look.study_search`, and `node.index.look.finder` for C-FIND.

`node.index.looking` runs them on the driver of SQLite, `node.index.reading` by SQLAlchemy.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from operator import itemgetter
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from node.errors import counted, with_last_line
from node.index.look import hosts, instances, kept, problems, series, studies, work
from node.index.look.series import SeriesFacts
from node.index.rows.about_keys import (
    APPLIED,
    COMPARED,
    RETENTION,
    SCHEMA,
    SCRUB,
    STORE,
    STORE_CHECKSUMS,
    STORE_SPOOLED,
    AppliedPosition,
    RetentionState,
    retention_state,
)
from node.index.rows.backend import Standbys
from node.index.rows.view_rows import Kinds, Newest, PagedViews, Queries, Row, ViewRows, moment

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from node.index.look.files import ReadFiles
    from node.settings.core import Route
    from node.settings.model import Settings

Added = TypeVar("Added")

SubscriberKind = Literal["hook", "route"]


_WITH_SERIES = (
    "LEFT JOIN studies st ON st.study_instance_uid = m.study_instance_uid LEFT JOIN patients p ON p.id = st.patient_id "
    "LEFT JOIN series se ON se.study_id = st.id AND se.series_instance_uid = m.series_instance_uid"
)
"""Of tables: behind a LEFT JOIN, SQLite would make all rows of a view first, and count the instances of each."""


ASK_AGAIN_SECONDS = 3600.0
"""Time without a report after which a destination is asked again whether it keeps what it took."""

MAX_TO_COME = 1000
"""Studies that are not quiet yet, of which the first are shown."""

_TO_COME: Row = dict.fromkeys(
    ("message_id", "series_instance_uid", "series_number", "modality", "series_description", "due_at", "output")
) | {"event": "study-quiet", "state": "waiting", "attempts": 0, "reason": "its series are received or converted"}


def _lane(row: Row) -> tuple[str | None, str | None, str]:
    return row.get("hook"), row.get("route"), row.get("destination", "")


class ReadIndex(ViewRows):
    """One snapshot of an index: facts about it, what is read of all of it, and by noun. Not thread-safe.

    `watermarks`: how far cursors may read; None: to the end.
    """

    def __init__(self, queries: Queries, watermarks: Mapping[str, int] | None = None) -> None:
        super().__init__(queries)
        self.accounts = hosts.AccountViews(queries)
        self.conflicts = problems.ConflictViews(queries)
        self.events = EventViews(queries, watermarks)
        self.exclusions = PagedViews(queries, instances.EXCLUSIONS)
        self.facts = SeriesFacts(queries)
        self.failures = problems.FailureViews(queries)
        self.hooks = self.routes = SubscriberViews(queries)
        self.hosts = self.audit_lines = hosts.HostViews(queries)
        self.instances = instances.InstanceViews(queries)
        self.lost = kept.LostViews(queries)
        self.patients = studies.PatientViews(queries)
        self.problems = problems.ProblemViews(queries)
        self.senders = self.rejections = hosts.SenderViews(queries)
        self.series = series.SeriesViews(queries)
        self.sources = PagedViews(queries, "SELECT * FROM volume_sources")
        self.studies = studies.StudyViews(queries)
        self.trash = self.deletions = kept.TrashViews(queries)
        self.volumes = instances.VolumeViews(queries)
        self.work = self.jobs = work.WorkViews(queries)

    @property
    def connection(self) -> Connection:
        """The connection, for what is read beside a view; a look at a file has none that could be given."""
        return self._queries.connection

    @cached_property
    def files(self) -> ReadFiles:
        """Which files rows name."""
        from node.index.look.files import ReadFiles

        return ReadFiles(self._queries)

    def views(self, kind: Callable[[Queries], Added]) -> Added:
        """Return what reads views of an extension, in this snapshot."""
        return kind(self._queries)

    @property
    def has_newest_schema(self) -> bool:
        """Whether the last migrations of the core and of its own extensions are those of this version."""
        return {row["version_num"] for row in self._rows("SELECT version_num FROM alembic_version")} >= SCHEMA

    @property
    def root(self) -> str:
        """The folder that the paths in the tables are relative to: the one that the database is in."""
        return str(PurePath(self._value(f"SELECT {self._queries.say.root}")))

    def standbys(self) -> Standbys:
        """Return the standbys of the server, and what they mean for commits; a file has none."""
        if self._queries.shared is None:
            return Standbys({})
        from node.index.rows.backend import backend_of

        return backend_of(self.connection).standbys(self.connection)

    def count_levels(self) -> dict[str, int]:
        """Count patients, studies, series and instances."""
        tables = {"patients": "patients", "studies": "studies", "series": "series", "instances": "images"}
        return {level: self._number(f"SELECT count(*) FROM {table}") for level, table in tables.items()}

    def lanes(self, kind: SubscriberKind, rows: Iterable[Row], settings: Settings) -> list[Row]:
        """Return rows of ``v_hooks`` or ``v_routes``; ``due_at`` is when anything happens there next by itself.

        It is None while that is at once, or somebody has to do something first. ``study_quiet_at``: when the first
        message is due that waits for a quiet study.
        """
        quiet = {_lane(one): one["due_at"] for one in reversed(self.quiet_to_come(kind, settings)) if one["due_at"]}
        found = [row | {"study_quiet_at": quiet.get(_lane(row))} for row in rows]
        return [row | {"due_at": _next_of(row, settings.routes)} for row in found]

    def quiet_to_come(
        self, kind: SubscriberKind, settings: Settings, study: str | None = None, **named: str | None
    ) -> Newest:
        """Return the messages that hooks or routes will have once studies are quiet, the next one first.

        They are as rows of ``v_deliveries`` or ``v_route_messages`` will be. Without ``due_at``, series are received or
        converted: the time begins when they end. `kind`: ``hook`` or ``route``. `study`, `named`: of these alone.
        """
        are_open = "FROM series o WHERE o.state IN ('receiving', 'converting')"
        is_open = f"EXISTS (SELECT 1 {are_open} AND o.study_id = st.id)"
        ids = f"SELECT o.study_id {are_open} UNION SELECT id FROM studies WHERE closed_at > '0001-01-01'"  # by indexes
        of_one = f"st.study_instance_uid = :study AND (st.closed_at IS NOT NULL OR {is_open})"
        rows = self._rows(
            f"SELECT h.name AS {kind}, h.destination, st.study_instance_uid, p.patient_name, p.patient_id, "
            f"st.study_date, st.study_description, st.closed_at AS happened_at, {is_open} AS is_open FROM studies st "
            "JOIN patients p ON p.id = st.patient_id JOIN subscribers h ON h.kind = :kind "
            f"AND h.wanted_kinds LIKE '% study-quiet %' WHERE {f'st.id IN ({ids})' if study is None else of_one} "
            f"ORDER BY is_open, st.closed_at LIMIT {MAX_TO_COME}",
            kind=kind,
            study=study,
        )
        found = [_TO_COME | row for row in rows if all(its in (None, row[name]) for name, its in named.items())]
        for row in found:
            if not row.pop("is_open"):
                due_at = _later(row["happened_at"], settings.series.study_quiet_seconds)
                row |= {"due_at": due_at, "reason": "when the study is quiet"}
        return Newest(found, len(found))

    def applied(self, journal: str) -> AppliedPosition:
        """Return the last record of a journal that is in the index."""
        return AppliedPosition.of(self._about(f"{APPLIED}/{journal}"))

    @property
    def scrub(self) -> str | None:
        """How far the background comparison of the archive is; see `node.lifecycle.scrub.scrub_state`."""
        return self._about(SCRUB)

    @property
    def compared(self) -> str | None:
        """The last comparison of all that rows name, in words; see `node.receive.accounting`."""
        return self._about(COMPARED)

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


class EventViews(PagedViews):
    """Rows of ``events`` and ``v_events``; `watermarks` as of `node.index.reading.ReadIndex`."""

    listing = "SELECT * FROM events"
    kinds: ClassVar[Kinds] = {"verdict_before": json.loads}

    def __init__(self, queries: Queries, watermarks: Mapping[str, int] | None = None) -> None:
        super().__init__(queries)
        self._is_below = "1 = 1" if watermarks is None else f"id <= {watermarks['events']:d}"

    def since(self, id: int, limit: int) -> list[Row]:
        """Return at most `limit` events after the event `id`, oldest first."""
        return self._listed(f"AND id > :id AND {self._is_below} ORDER BY id LIMIT :limit", {}, id=id, limit=limit)

    def newest(self) -> int:
        """Return the id of the newest event, or 0 if there are no events."""
        return self._number(f"SELECT coalesce(max(id), 0) FROM events WHERE {self._is_below}")

    def conversions(self, limit: int) -> list[Row]:
        """Return the final events of the last conversions, with series and patient, newest first.

        ``certainty`` is that of the series, if the conversion is its current one.
        """
        return self._rows(
            "SELECT e.kind, e.revision, e.detail, e.why, e.happened_at, e.study_instance_uid, e.series_instance_uid, "
            "se.series_number, se.series_description, se.modality, st.patient_name, st.patient_id, "
            "CASE WHEN se.revision = e.revision THEN se.certainty END AS certainty "
            "FROM (SELECT * FROM v_events WHERE kind || '' IN "  # no column: the index of kinds is left aside
            "('series-converted', 'series-refused', 'series-failed', 'series-unchanged') "
            "ORDER BY id DESC LIMIT :limit) e JOIN v_series se USING (study_instance_uid, series_instance_uid) "
            "JOIN v_studies st USING (study_instance_uid) ORDER BY e.id DESC",
            limit=limit,
        )

    def of_series(self, study_instance_uid: str, series_instance_uid: str, limit: int) -> list[Row]:
        """Return the last events of a series, newest first."""
        source, rest = "SELECT kind, revision, detail, why, happened_at FROM v_events", "ORDER BY id DESC LIMIT :limit"
        return self._rows_of_study(source, study_instance_uid, series_instance_uid, rest, limit=limit)

    def set_aside(self) -> list[Row]:
        """Return key, kind and detail of the events that set a file aside."""
        kinds = "('instance-set-aside', 'journal-damaged')"
        return self._rows(f'SELECT "key", kind, detail FROM events WHERE kind IN {kinds} AND "key" IS NOT NULL')


NEWEST_SENT = 5000
"""Images, the newest, among which a page looks for what was delivered lately."""


class SubscriberViews(ViewRows):
    """Hooks, destinations of routes, and their messages: ``v_hooks``, ``v_deliveries``, ``v_routes`` and so on."""

    def progress(self) -> dict[str, Row]:
        """Return the rows of ``v_hooks``, by name of the hook.

        ``trouble`` is why the last attempt failed of what waits, with the last line that a program printed.
        """
        tried = "state = 'waiting' AND reason IS NOT NULL"
        waiting = self._rows(f"SELECT hook, reason, output FROM v_deliveries WHERE {tried} ORDER BY last_at")
        troubles = {row["hook"]: with_last_line(row["reason"], row["output"]) for row in waiting}
        rows = self._rows("SELECT * FROM v_hooks ORDER BY hook")
        return {row["hook"]: {**row, "trouble": troubles.get(row["hook"])} for row in rows}

    def deliveries(self, limit: int, *, hook: str | None = None, state: str | None = None) -> Newest:
        """Return the last `limit` rows of ``v_deliveries`` with the names of their series, oldest first.

        `hook`, `state`: filters; None matches all.
        """
        around = (
            "SELECT m.*, h.paused, se.series_number, se.modality, se.series_description FROM ({0}) m "
            f"{_WITH_SERIES} LEFT JOIN subscribers h ON h.kind = 'hook' AND h.name = m.hook ORDER BY m.happened_at"
        )
        rows = self._newest(limit, "happened_at DESC", "v_deliveries", around, hook=hook, state=state)
        return Newest((_with_what_holds_it(row, {}) for row in rows), rows.total)

    def destinations(self) -> list[Row]:
        """Return the rows of ``v_routes``."""
        return self._rows("SELECT * FROM v_routes ORDER BY route, destination")

    def sent_of_study(self, study_instance_uid: str) -> list[Row]:
        """Return how many instances of a study each destination has taken and confirmed, as whose, and what is left.

        ``reason`` is why the last message of the study failed, or why the destination cannot be reached. Who may be
        sent to by hand is left out while it has nothing.
        """
        return self._rows(
            """
            SELECT h.name AS route, h.destination, coalesce(s.sent, 0) AS sent, coalesce(s.confirmed, 0) AS confirmed,
                   s.patient_id, s.last_at, coalesce(m.waiting, 0) AS waiting, coalesce(m.given_up, 0) AS given_up,
                   CASE WHEN m.waiting > 0 OR m.given_up > 0 THEN coalesce(h.trouble, m.reason) END AS reason
            FROM subscribers h
            LEFT JOIN (
                SELECT route, destination, patient_id, count(*) AS sent, max(sent_at) AS last_at,
                       sum(CASE WHEN state = 'confirmed' THEN 1 ELSE 0 END) AS confirmed
                FROM v_sent_instances WHERE study_instance_uid = :study AND state <> 'lost'
                GROUP BY route, destination, patient_id) s ON s.route = h.name AND s.destination = h.destination
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

    def messages(self, limit: int, routes: Mapping[str, Route], **wanted: str | None) -> Newest:
        """Return the last `limit` rows of ``v_route_messages``, newest first, with the names of series and patients.

        One that waits for a destination that is paused or held has the reason of that, and when it goes on.

        `routes`: the configuration. `wanted`: filters ``route``, ``destination``, ``state``; None matches all.
        """
        around = (
            "SELECT m.*, h.paused, h.trouble, h.retry_at, se.series_number, se.modality, se.series_description, "
            f"p.patient_name, p.patient_id, st.study_date, st.study_description FROM ({{0}}) m {_WITH_SERIES} "
            "LEFT JOIN subscribers h ON h.kind = 'route' AND h.name = m.route AND h.destination = m.destination "
            "ORDER BY m.happened_at DESC"
        )
        rows = self._newest(limit, "happened_at DESC, message_id", "v_route_messages", around, **wanted)
        return Newest((_with_what_holds_it(row, routes) for row in rows), rows.total)

    def unseen(self, route: str, destination: str, limit: int) -> list[Row]:
        """Return at most `limit` series that a destination may want, as nobody has looked at them yet."""
        return self._rows(
            "SELECT DISTINCT m.series_instance_uid, se.series_number, se.modality, se.series_description, "
            "p.patient_name, p.patient_id FROM subscribers h JOIN owed_events o ON o.subscriber_id = h.id "
            f"JOIN events m ON m.id = o.event_id {_WITH_SERIES} WHERE h.kind = 'route' AND h.name = :route "
            "AND h.destination = :destination AND m.series_instance_uid <> '' LIMIT :limit",
            route=route,
            destination=destination,
            limit=limit,
        )

    def delivered(self, limit: int) -> list[Row]:
        """Return the last series whose instances destinations have taken, with names, the last one first.

        Of each series: ``route``, ``destination``, ``delivered_instances``, ``last_at``. Only the newest images count.
        """
        return self._rows(
            "SELECT d.*, v.series_number, v.modality, v.series_description, n.patient_name, n.patient_id, "
            "n.study_date, n.study_description "
            "FROM (SELECT s.route, s.destination, st.study_instance_uid, se.series_instance_uid, "
            "count(*) AS delivered_instances, max(s.sent_at) AS last_at "
            "FROM (SELECT * FROM sent_instances ORDER BY image_id DESC LIMIT :newest) s "
            "JOIN images i ON i.id = s.image_id JOIN series se ON se.id = i.series_id "
            "JOIN studies st ON st.id = se.study_id "
            "GROUP BY s.route, s.destination, st.study_instance_uid, se.series_instance_uid "
            "ORDER BY last_at DESC LIMIT :limit) d JOIN v_series v USING (study_instance_uid, series_instance_uid) "
            "JOIN v_studies n USING (study_instance_uid) ORDER BY d.last_at DESC",
            newest=NEWEST_SENT,
            limit=limit,
        )


def _held(row: Row, routes: Mapping[str, Route]) -> tuple[str, str | None] | None:
    """Return what holds all messages to a hook or a destination, and until when; None: nothing does.

    It is None as well until somebody goes on, and empty if it is not known.
    """
    if row.get("paused"):
        return f"the {'route' if 'route' in row else 'hook'} is paused", None
    found = [(row["trouble"], row["retry_at"] or "")] if row.get("trouble") and "retry_at" in row else []
    route, now = routes.get(row.get("route") or ""), dt.datetime.now(dt.UTC)
    if route is not None and (seconds := route.seconds_until_open(now)):
        found.append((f"the route sends between {route.between}", _later(now.isoformat(), seconds)))
    return max(found, key=itemgetter(1), default=None)


def _later(text: str, seconds: float) -> str:
    """Return a moment after another one, both as the views have them."""
    return (moment(text) + dt.timedelta(seconds=seconds)).replace(tzinfo=None).isoformat(" ")


def _with_what_holds_it(row: Row, routes: Mapping[str, Route]) -> Row:
    """Return a message with the state of its hook or destination as its reason, if it waits for that."""
    held = _held(row, routes)
    for name in ("paused", "trouble", "retry_at"):
        row.pop(name, None)
    if row["state"] == "waiting" and held is not None:
        reason, until = held
        row |= {"reason": reason, "due_at": until if until is None else max(row["due_at"] or "", until) or None}
    return row


def _next_of(row: Row, routes: Mapping[str, Route]) -> str | None:
    now, (_, until) = dt.datetime.now(dt.UTC).isoformat(" ")[:19], _held(row, routes) or ("", "")
    asked_at = row.get("asked_at") and _later(row["asked_at"], ASK_AGAIN_SECONDS)
    dues = [at for at in (row.get("due_at"), row["study_quiet_at"], asked_at, now * bool(unseen(row))) if at]
    due_at = max(min(dues), until) if dues and until is not None else ""
    return due_at if due_at > now else None


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
