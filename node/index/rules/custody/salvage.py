"""What a new index takes over from the one before it: everything that files and journal do not tell.

Patients, studies, series and instances are read from the files, which are the evidence. The rest is read from the old
index, as far as it can be read: a damaged table in SQLite is read from both ends up to the damage. Rows about an
instance are taken over only if its file is the one that the old index knew: it has the same digest.

So are the rows of installed extensions; a row that names a patient, study, series or instance by its number gets the
number of now.
"""

import datetime as dt
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, product
from types import MappingProxyType
from typing import Any

from sqlalchemy import Boolean, Connection, CursorResult, delete, insert, select, text, update
from sqlalchemy.exc import DataError, IntegrityError

from node.files.acknowledged import Acknowledged
from node.index.rows.about_keys import LEDGER
from node.index.rows.backend import OldIndex, backend_of
from node.index.rows.extension_tables import LEVELS, every_table, extension_tables, owner_of
from node.index.rows.grams import NAME
from node.index.rows.models.history import ConflictRow, VolumeSourceRow
from node.index.rows.models.levels import OPEN_STATES, STORE, ImageRow, SeriesRow, StudyRow
from node.index.rows.repositories import IndexRepository, on_writer, set_about
from node.index.rows.sql import listed_in
from node.index.rows.states import PAYLOADS
from node.index.rules.custody.deletions import NAMING, is_deletable
from node.index.rules.intake.received import DIGEST_CORRECTED
from node.index.rules.people.identifiers import identity_of
from node.index.rules.work.events import EventUids, record_event, uids_of

Row = dict[str, Any]
Values = Mapping[str, Any] | Sequence[Mapping[str, Any]]

HISTORY = (
    "projects", "accounts", "recovery_codes", "tokens", "web_sessions",
    "tombstones", "trash", "lost_instances", "rejections", "events", "senders",
    "performed_steps", "performed_series",
    "labels", "project_members", "limited_accounts", "project_contents",
)  # fmt: skip
"""Tables that are taken over row by row, with the numbers of their rows."""

WORK = ("subscribers", "work", "results")
"""Tables of what is owed to others, which are taken over in the same way."""

_LIMITS = frozenset({"limited_accounts", "project_members"})
"""Tables that say who sees their projects only. If one of them is not read to its end, nobody knows who was limited."""

_LIMIT_ALL = """
    INSERT INTO limited_accounts (account)
    SELECT name FROM accounts WHERE role <> 'admin' UNION SELECT account FROM project_members WHERE true
    ON CONFLICT DO NOTHING
"""

FACTS = ("source", "calling_ae_title", "called_ae_title", "peer", "received_at")
"""How an instance came, in columns of `images`."""

_OF_OUTCOME = ("verdict", "expected_", "missing_", "acknowledged_")
_COLUMNS = (column.key for column in SeriesRow.__table__.columns if column.key.startswith(_OF_OUTCOME))
CLOSED_SERIES = ("state", "last_received_at", "attempts", "error", "why", *_COLUMNS)
"""Columns of a series whose instances have not changed since its outcome was recorded."""

CHUNK_ROWS = 500
"""Rows of one savepoint; if one of them breaks a rule of the schema, each gets one of its own."""

_OLD_IMAGES = """
    CREATE TEMP TABLE old_images (id BIGINT UNIQUE, series_id BIGINT, sop_instance_uid TEXT UNIQUE,
        "key" TEXT PRIMARY KEY, sha256 TEXT, source TEXT, calling_ae_title TEXT, called_ae_title TEXT, peer TEXT,
        received_at TIMESTAMP, UNIQUE (series_id, sop_instance_uid))
"""
_SAME_BYTES = "o.sop_instance_uid = images.sop_instance_uid AND o.sha256 = images.sha256"


class SalvageRepository(IndexRepository):
    """Takes over what an old index has."""

    @on_writer
    def begin(self, connection: Connection, old: OldIndex) -> None:
        """Take over what must be there before deletions are finished and files are indexed, into an empty index."""
        for table in (*HISTORY, *WORK, *_tables_of_extensions(with_numbers=False)):
            rows = _ROWS[table](old) if table in _ROWS else old.rows(table, _names(table))
            _insert(connection, old, table, filter(_HARMLESS.get(table), rows))
        if not _LIMITS.isdisjoint(old.salvaged.unread):
            old.salvaged.limited = _run(connection, _LIMIT_ALL).rowcount
        for row in old.rows("about", ("key", "value")):
            if row["key"].startswith(LEDGER):
                set_about(connection, row["key"], row["value"])
        _insert(connection, old, "patients", _merged_patients(old))
        # Their files are not indexed: other files of the same instances are.
        chosen = (row for row in old.rows("conflicts", _names("conflicts")) if row["key"] is not None)
        _insert(connection, old, "conflicts", chosen)
        _note_left(old)
        backend_of(connection).number_after(connection, {})

    @on_writer
    def finish(
        self, connection: Connection, old: OldIndex, has_file: Callable[[str], bool], has_all: bool, now: dt.datetime
    ) -> None:
        """Take over what is about instances and series, once their files are indexed.

        `has_file`: whether there is a file at a path below the root. `has_all`: whether all files could be read; else
        one that is indexed later may be of any patient.
        """
        _read_images(connection, old)
        _take_over_facts(connection, old)
        _take_over_owed(connection, old)
        _take_over_conversions(connection, old, has_file)
        _take_over_conflicts(connection, old)
        _compare_digests(connection, old, now)
        if has_all:
            _delete_patients_without_studies(connection)
        _take_over_numbered_rows(connection, old)
        newest = _run(connection, "SELECT coalesce(max(id), 0) FROM images").scalar_one()
        backend_of(connection).number_after(connection, {"images": newest})
        _run(connection, "DROP TABLE old_images")


def _names(table: str) -> list[str]:
    return list(every_table()[table].columns.keys())


def _insert(connection: Connection, old: OldIndex, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Insert rows; those that break a rule of the schema are counted as unread."""
    unusable = 0
    rows = iter(rows)
    while chunk := list(islice(rows, CHUNK_ROWS)):
        inserted = _inserted(connection, table, chunk)
        old.salvaged.rows[table] += inserted
        unusable += len(chunk) - inserted
    if unusable:
        old.salvaged.unread.setdefault(table, f"{unusable} rows break a rule of the schema")


def _insertion(table: str, names: Iterable[str]) -> str:
    """Return the SQL that inserts a row, whose values are bound as the old index has them."""
    columns, values = zip(*((f'"{name}"', f":{name}") for name in names), strict=True)
    return f'INSERT INTO "{table}" ({", ".join(columns)}) VALUES ({", ".join(values)}) ON CONFLICT DO NOTHING'


def _with_truths(table: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows in which truths are no numbers, as SQLite has them."""
    truths = [one for one in every_table()[table].columns if isinstance(one.type, Boolean) and one.name in rows[0]]
    values = [dict(row) for row in rows]
    for row, one in product(values, truths):
        row[one.name] = bool(row[one.name]) if row[one.name] is not None or not one.nullable else None
    return values


def _inserted(connection: Connection, table: str, rows: Sequence[Mapping[str, Any]]) -> int:
    """Insert rows, at once if none of them breaks a rule of the schema; return how many were inserted."""
    statement, values = _insertion(table, rows[0]), _with_truths(table, rows)
    count = _executed(connection, statement, values)
    return sum(_executed(connection, statement, one) or 0 for one in values) if count is None else count


def _executed(connection: Connection, statement: str, values: Values) -> int | None:
    """Return how many rows a statement changed; None: it breaks a rule of the schema, and changes nothing."""
    try:
        with connection.begin_nested():
            return _run(connection, statement, values).rowcount
    except (IntegrityError, DataError):  # such as of a row that refers to one that could not be read
        return None


def _run(connection: Connection, statement: str, values: Values = MappingProxyType({})) -> CursorResult[Any]:
    """Run SQL with parameters as ``:name``, once or for each of `values`; these are bound as the old index has them."""
    return connection.execute(text(statement), values)


def _note_left(old: OldIndex) -> None:
    """Note the rows of extensions that are not installed: they stay in the old index."""
    owners = {owner_of(str(row["version_num"])) for row in old.rows("alembic_version", ("version_num",))}
    old.salvaged.not_installed = sorted(owners - {"", *extension_tables()})
    old.salvaged.left.clear()
    if old.salvaged.not_installed:
        for table in old.tables():
            if table not in every_table() and table != "alembic_version" and not table.startswith(NAME):
                old.salvaged.left[table] = sum(1 for _ in old.rows(table, ("id",)))


def _with_originals(old: OldIndex) -> Iterator[Row]:
    """Yield the projects whose members see originals. One that had copies without identities instead, which an index of
    another version may have, goes with its members: they would see who the patients are."""
    for row in old.rows("projects", (*_names("projects"), "pseudonym_key")):
        if row.pop("pseudonym_key") is None:
            yield row


def _is_harmless(tombstone: Mapping[str, Any]) -> bool:
    """Return whether a deletion removes nothing but files of the archive, if it can be read at all."""
    try:
        return all(is_deletable(path) for path in json.loads(tombstone["paths"]))
    except (ValueError, TypeError):
        return False


_HARMLESS: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
    "tombstones": _is_harmless,
    "trash": lambda row: row["kind"] not in NAMING or row["key"] is None or is_deletable(str(row["key"])),
    "work": lambda row: row["kind"] in PAYLOADS,
}
"""Whether a row of a table may be taken over; of another version, there may be work of a kind that nothing does."""


def _merged_patients(old: OldIndex) -> list[dict[str, Any]]:
    """Return the patients that were merged, after those that they were merged into, or got an issuer from a person."""
    rows = list(old.rows("patients", _names("patients")))
    targets = {row["merged_into"] for row in rows} - {None}
    targets |= {row["corrected_patient_id"] for row in old.rows("studies", ("corrected_patient_id",))}
    targets |= {row["id"] for row in rows if row["patient_id"] and row["identity"] != identity_of(row, "")}
    chosen = [row for row in rows if row["id"] in targets and row["merged_into"] is None]
    return chosen + [row for row in rows if row["merged_into"] is not None]


def _read_images(connection: Connection, old: OldIndex) -> None:
    _run(connection, _OLD_IMAGES)
    rows = old.rows("images", names := ("id", "series_id", "sop_instance_uid", "key", "sha256", *FACTS))
    while chunk := list(islice(rows, CHUNK_ROWS)):
        _run(connection, _insertion("old_images", names), chunk)


def _take_over_facts(connection: Connection, old: OldIndex) -> None:
    facts = ", ".join(f"{name} = coalesce(o.{name}, images.{name})" for name in FACTS)
    taken = _run(
        connection, f"UPDATE images SET {facts} FROM old_images o WHERE {_SAME_BYTES} AND images.source = 'recovered'"
    )
    old.salvaged.rows["images"] += taken.rowcount
    old.salvaged.gone = list(_gone(connection, old))


def _gone(connection: Connection, old: OldIndex) -> Iterator[Acknowledged]:
    """Yield the instances of the old index that have no row now."""
    studies = {row["id"]: row["study_instance_uid"] for row in old.rows("studies", ("id", "study_instance_uid"))}
    of_series = {
        row["id"]: (studies.get(row["study_id"], ""), row["series_instance_uid"])
        for row in old.rows("series", ("id", "study_id", "series_instance_uid"))
    }
    is_here = "EXISTS (SELECT 1 FROM images i WHERE i.sop_instance_uid = o.sop_instance_uid)"
    gone = f"SELECT * FROM old_images o WHERE NOT {is_here}"
    for row in _run(connection, gone):
        study, series = of_series.get(row.series_id, ("", ""))
        received_at = dt.datetime.fromisoformat(str(row.received_at)).replace(tzinfo=dt.UTC).isoformat()
        who = row.source, row.calling_ae_title or "", row.peer or ""
        yield Acknowledged(row.sop_instance_uid, study, series, row.sha256, *who, received_at)


def _compare_digests(connection: Connection, old: OldIndex, now: dt.datetime) -> None:
    """Keep the digests of files that are not as the old index knew them: what is received with them takes their place.

    As with `fsck --hash --repair`, the file is believed, unless volumes were made of the instance with the old digest:
    then the file is damaged.
    """
    altered = _run(
        connection,
        'SELECT images.id, images."key", o.sha256 AS sha256, images.sha256 AS of_file, images.sop_instance_uid, '
        "images.calling_ae_title, se.series_instance_uid, st.study_instance_uid FROM images "
        'JOIN old_images o ON o."key" = images."key" AND o.sop_instance_uid = images.sop_instance_uid '
        "JOIN series se ON se.id = images.series_id JOIN studies st ON st.id = se.study_id "
        "WHERE o.sha256 != images.sha256",
    ).all()
    old.salvaged.altered = [row.key for row in altered]
    for row in altered:
        detail = f"the previous index had the SHA-256 {row.sha256}, the file has {row.of_file}"
        uids = uids_of(row)
        sources = select(VolumeSourceRow.sha256).where(VolumeSourceRow.sop_instance_uid == row.sop_instance_uid)
        used = set(connection.scalars(sources))
        if row.sha256 in used and row.of_file not in used:
            damaged = update(ImageRow).where(ImageRow.id == row.id)
            connection.execute(damaged.values(sha256=row.sha256, file_missing=True))
            record_event(connection, "file-damaged", now, detail=f"{detail}: send the instance again", **uids)
            continue
        columns = {"kind": DIGEST_CORRECTED, "sha256": row.sha256, "calling_ae_title": row.calling_ae_title}
        detail += "; the file is believed"
        connection.execute(insert(ConflictRow).values(detail=detail, found_at=now, **columns, **uids))
        record_event(connection, "digest-corrected", now, detail=detail, **uids)


def _take_over_ids(connection: Connection) -> int:
    """Number the instances as before: hooks are owed some of them; return the number after which new ones begin."""
    numbers = "SELECT max(id) AS id FROM old_images UNION ALL SELECT max(id) FROM images"
    base = int(_run(connection, f"SELECT coalesce(max(id), 0) FROM ({numbers}) AS numbers").scalar_one())
    _run(connection, "UPDATE images SET id = -id")
    _run(connection, f"UPDATE images SET id = o.id FROM old_images o WHERE {_SAME_BYTES}")
    _run(connection, "UPDATE images SET id = :base - id WHERE id < 0", {"base": base})
    return base


def _subscribers(old: OldIndex) -> Iterator[Row]:
    """Yield the subscribers, which are owed no instance until all are numbered.

    In an index of another version they may have cursors instead: the last event and instance of which they were told.
    """
    for number, row in enumerate(old.rows("subscribers", _names("subscribers")), start=1):
        yield row | {"id": row["id"] or number, "wanted_kinds": row["wanted_kinds"] or "", "wants_instances": False}


def _trash(old: OldIndex) -> Iterator[Row]:
    """Yield what is in the trash. Of a file in one of another version, no row is there: an undo indexes it again."""
    for row in old.rows("trash", (*_names("trash"), "is_loser")):
        kind = "conflicts" if row.pop("is_loser") else "images"
        yield row | {"kind": row["kind"] or kind}


_ROWS: Mapping[str, Callable[[OldIndex], Iterator[Row]]] = {
    "projects": _with_originals,
    "subscribers": _subscribers,
    "trash": _trash,
}
"""What of a table is taken over, if it is not each row as it is."""


def _take_over_owed(connection: Connection, old: OldIndex) -> None:
    """Owe what the old index did, and the instances that it did not know.

    Instances get their old numbers only if a subscriber wants messages of single ones: all rows are written again.
    """
    owed = "INSERT INTO owed_{0}s (subscriber_id, {0}_id) SELECT :subscriber, id FROM {0}s WHERE id > :after"
    of_lane = "kind = :kind AND name = :name AND destination = :destination"
    columns = "kind", "name", "destination", "wants_instances", "event_id", "image_id"
    rows = list(old.rows("subscribers", columns))
    wanting = [bool(row["wants_instances"]) or row["image_id"] is not None for row in rows]
    base = _take_over_ids(connection) if any(wanting) else 0
    for row, wants in zip(rows, wanting, strict=True):
        wanted = f"UPDATE subscribers SET wants_instances = :wants WHERE {of_lane} RETURNING id"
        subscriber = _run(connection, wanted, row | {"wants": wants}).scalar()
        if subscriber is None:  # its row broke a rule of the schema
            continue
        if row["event_id"] is not None:
            of_study = f"{owed.format('event')} AND study_instance_uid IS NOT NULL"
            _run(connection, of_study, {"subscriber": subscriber, "after": row["event_id"]})
        if wants:
            after = base if row["image_id"] is None else min(base, row["image_id"])
            _run(connection, owed.format("image"), {"subscriber": subscriber, "after": after})
    for table in ("owed_events", "owed_images"):
        _insert(connection, old, table, old.rows(table, _names(table)))
    _run(connection, "DELETE FROM owed_images WHERE NOT EXISTS (SELECT 1 FROM images WHERE id = image_id)")


def _take_over_conversions(connection: Connection, old: OldIndex, has_file: Callable[[str], bool]) -> None:
    """Take over the revisions of series. A series whose instances and volumes are as they were needs no conversion."""
    series = _known_series(connection, old)

    def of_series(table: str) -> Iterator[Row]:
        rows = (row for row in old.rows(table, _names(table)) if row["series_id"] in series)
        return (row | {"series_id": series[row["series_id"]]["new_id"]} for row in rows)

    def of_conversions(table: str) -> Iterator[Row]:
        return (row for row in old.rows(table, _names(table)) if row["conversion_id"] in conversions)

    # An index of another version may lack the count of sidecars that tell another verdict.
    conversions = {row["id"]: row | {"owes_sidecars": row["owes_sidecars"] or 0} for row in of_series("conversions")}
    _insert(connection, old, "conversions", conversions.values())
    volumes, files = list(of_conversions("volumes")), list(of_conversions("revision_files"))
    rows: dict[str, Iterable[Row]] = {"volumes": volumes, "revision_files": files}
    rows |= {table: of_conversions(table) for table in ("volume_sources", "exclusions")}
    for table, some in (rows | {table: of_series(table) for table in ("failures", "series_references")}).items():
        _insert(connection, old, table, some)
    in_store = {row["key"] for row in files if row["place"] == STORE}
    incomplete = {
        its["series_id"]
        for its, path in ((conversions[row["conversion_id"]], row["path"]) for row in volumes)
        if its["files_removed_at"] is None and not its["superseded"] and path not in in_store and not has_file(path)
    }
    for old_id, row in series.items():
        _take_over_series(connection, row, old_id, is_whole=row["new_id"] not in incomplete)
    _take_over_studies(connection, old)


def _known_series(connection: Connection, old: OldIndex) -> dict[int, dict[str, Any]]:
    """Return the series of the old index that exist, by their old numbers, with their new ones as `new_id`."""
    studies = {row["id"]: row["study_instance_uid"] for row in old.rows("studies", ("id", "study_instance_uid"))}
    keys = select(StudyRow.study_instance_uid, SeriesRow.series_instance_uid, SeriesRow.id).join(SeriesRow)
    new = {(study, series): id for study, series, id in connection.execute(keys)}
    rows = old.rows("series", _names("series"))
    found = ((row, new.get((studies.get(row["study_id"], ""), row["series_instance_uid"]))) for row in rows)
    return {row["id"]: row | {"new_id": new_id} for row, new_id in found if new_id is not None}


def _take_over_series(connection: Connection, row: Mapping[str, Any], old_id: int, *, is_whole: bool) -> None:
    """Take over the outcome of a series if it is that of its instances; else only its last revision."""
    new_id = row["new_id"]
    counts = (
        "SELECT (SELECT count(*) FROM images WHERE series_id = :new), (SELECT count(*) FROM old_images "
        "WHERE series_id = :old), (SELECT count(*) FROM images JOIN old_images o ON o.series_id = :old "
        f"AND {_SAME_BYTES} WHERE images.series_id = :new)"
    )
    same = _run(connection, counts, {"new": new_id, "old": old_id}).one()
    names, is_same = ["revision"], len(set(same)) == 1
    if is_whole and is_same and row["state"] not in OPEN_STATES:
        names += CLOSED_SERIES
        _run(connection, "UPDATE series SET due_at = NULL, open_since = NULL WHERE id = :new_id", {"new_id": new_id})
        _run(connection, "DELETE FROM awaited_senders WHERE series_id = :new_id", {"new_id": new_id})
    # What an older index does not have stays as a new row has it.
    changes = ", ".join(f'"{name}" = coalesce(:{name}, "{name}")' for name in (*names, "last_event"))
    values = {name: row[name] for name in (*names, "new_id")} | {"last_event": row["last_event"] if is_same else None}
    _executed(connection, f"UPDATE series SET {changes} WHERE id = :new_id", _with_truths("series", [values])[0])


def _take_over_studies(connection: Connection, old: OldIndex) -> None:
    """Take over when studies became quiet, of those that have no open series now, and their own corrections."""
    decided = ("study_instance_uid", "corrected_patient_id", "identified_at", "decided_by")
    of_study = "WHERE study_instance_uid = :study_instance_uid AND"
    corrected = (
        "UPDATE studies SET named_patient_id = coalesce(named_patient_id, patient_id), corrected_patient_id = "
        ":corrected_patient_id, decided_by = :decided_by, "
        "patient_id = (SELECT coalesce(merged_into, id) FROM patients WHERE id = "
        f":corrected_patient_id) {of_study} EXISTS (SELECT 1 FROM patients WHERE id = :corrected_patient_id)"
    )
    is_decided = "(identified_at IS NOT NULL OR named_patient_id IS NOT NULL)"
    is_open = "EXISTS (SELECT 1 FROM series WHERE study_id = studies.id AND state IN ('receiving', 'converting'))"
    for row in old.rows("studies", decided):
        if row["corrected_patient_id"] is not None:
            _run(connection, corrected, row)
        if row["identified_at"] is not None:
            _run(connection, f"UPDATE studies SET identified_at = :identified_at {of_study} {is_decided}", row)
    for row in old.rows("studies", ("study_instance_uid", "closed_at", "quiet_at")):
        _run(
            connection, f"UPDATE studies SET closed_at = :closed_at, quiet_at = :quiet_at {of_study} NOT {is_open}", row
        )


def _tables_of_extensions(*, with_numbers: bool) -> list[str]:
    """Return the tables of extensions whose rows name patients, studies, series or instances, or the other ones."""
    tables = [table for own in extension_tables().values() for table in own.metadata.sorted_tables]
    naming = set(LEVELS)
    for table in tables:
        naming |= {table.name for key in table.foreign_keys if key.column.table.name in naming}
    return [table.name for table in tables if (table.name in naming) is with_numbers]


def _take_over_numbered_rows(connection: Connection, old: OldIndex) -> None:
    numbers: dict[str, Mapping[int, int]] = {}
    for name in _tables_of_extensions(with_numbers=True):
        keys = [key for key in every_table()[name].foreign_keys if key.column.name == "id"]
        levels = {key.parent.name: key.column.table.name for key in keys if key.column.table.name in LEVELS}
        needed = [key.parent.name for key in keys if key.parent.name in levels and key.ondelete == "CASCADE"]
        for level in {*levels.values()} - numbers.keys():
            numbers[level] = _numbers_of_now(connection, old, level)
        rows = (
            row | {column: numbers[level].get(row[column]) for column, level in levels.items()}
            for row in old.rows(name, _names(name))
            if all(row[column] is None or row[column] in numbers[levels[column]] for column in needed)
        )
        _insert(connection, old, name, rows)


def _numbers_of_now(connection: Connection, old: OldIndex, level: str) -> Mapping[int, int]:
    """Return the numbers that patients, studies, series or instances have now, by those that they had."""
    if level == "images":
        same = _run(connection, f"SELECT o.id AS was, images.id FROM old_images o JOIN images ON {_SAME_BYTES}")
        return {row.was: row.id for row in same}
    if level == "series":
        return {before: row["new_id"] for before, row in _known_series(connection, old).items()}
    names = ("id", "patient_id", "named_patient_id")
    rows = _run(connection, f"SELECT study_instance_uid, {', '.join(names)} FROM studies").mappings()
    studies = {row["study_instance_uid"]: row for row in rows}
    pairs = [
        (row, studies[row["study_instance_uid"]])
        for row in old.rows("studies", (*names, "study_instance_uid"))
        if row["study_instance_uid"] in studies
    ]
    if level == "studies":
        return {before["id"]: now["id"] for before, now in pairs}
    known = {tuple(row) for row in _run(connection, "SELECT id, identity FROM patients")}
    chosen = {row["id"]: row["id"] for row in old.rows("patients", ("id", "identity")) if tuple(row.values()) in known}
    found = {before[name]: now[name] for before, now in pairs for name in names[1:] if before[name] and now[name]}
    return {**chosen, **found}


_OF_STUDIES = ("no-patient-id", "shared-patient-id")
"""Conflicts that a study has once; which of its instances they name depends on which was indexed first."""


def _take_over_conflicts(connection: Connection, old: OldIndex) -> None:
    """Take over the conflicts without files, in the place of those that indexing the files has found again.

    The old ones have what people decided.
    """
    names = [name for name in _names("conflicts") if name != "id"]
    found = [row._asdict() for row in connection.execute(select(ConflictRow.__table__)).all()]
    with_file = {_subject(row) for row in found if row["key"] is not None}
    without = (row for row in old.rows("conflicts", names) if row["key"] is None)
    rows = [row for row in without if _subject(row) not in with_file]
    known = {_subject(row) for row in rows}
    again = [row["id"] for row in found if row["key"] is None and _subject(row) in known]
    connection.execute(delete(ConflictRow).where(listed_in(ConflictRow.id, again)))
    _insert(connection, old, "conflicts", rows)


def _subject(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a conflict is about, by which it is known again."""
    uids = ("study_instance_uid",) if row["kind"] in _OF_STUDIES else EventUids.__annotations__
    return (row["kind"], *(row[name] for name in uids))


def _delete_patients_without_studies(connection: Connection) -> None:
    """Delete patients that no file is of any more, unless somebody has decided who they are, or that others are."""
    named = "SELECT named_patient_id FROM studies WHERE corrected_patient_id IS NOT NULL"
    needed = f"SELECT patient_id FROM studies UNION {named} UNION SELECT merged_into FROM patients"
    is_needed = f"EXISTS (SELECT 1 FROM ({needed}) AS needed WHERE needed.patient_id = patients.id)"
    _run(connection, f"DELETE FROM patients WHERE merged_into IS NULL AND NOT {is_needed}")
