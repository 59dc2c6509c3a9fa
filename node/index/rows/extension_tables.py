"""The tables that extensions have in the index, beside those of the core (`node.index.rows.models`).

Each extension has migrations of its own, and a row of its own in ``alembic_version``. A revision begins with the name
of its extension, so a row also tells whose tables the index has while the extension is not installed: they stay.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType

from sqlalchemy import Connection, MetaData, Table

from node.index.rows.models.levels import Base
from node.registry import installed, refused, resolve

LEVELS = frozenset({"patients", "studies", "series", "images"})
"""The tables of the core to which those of an extension may refer."""

MAX_REVISION_CHARACTERS = 32
"""Alembic's column has no room for more."""

OF_STUDY_OR_SERIES = """EXISTS (
    SELECT 1 FROM studies st WHERE st.study_instance_uid = t.study_instance_uid AND (
        {of_study} OR EXISTS (
            SELECT 1 FROM series se
            WHERE se.study_id = st.id AND se.series_instance_uid = t.series_instance_uid)))"""

SEEN_WITH_STUDY_OR_SERIES = OF_STUDY_OR_SERIES.format(of_study="t.series_instance_uid = ''")
"""For `IndexTables.seen`: a row is seen with the study that it names by UIDs, or with the series unless that is empty.
"""


@dataclass(frozen=True, slots=True)
class IndexTables:
    """The tables that an extension has in the index.

    `metadata`: foreign keys name tables of its own, patients, studies, series and images; ``ondelete`` of the latter is
        CASCADE or SET NULL. A number that the database gives is called ``id``.
    `migrations`: folder of its migrations by Alembic, which begin with one without `down_revision` and have no
        `depends_on`.
    `revision`: the last of them. Each is called as the extension, with an underscore and a number or a word behind it.
    `seen`: by table, in SQL, which rows (``t``) those see who see their projects only; of other tables, they see
        nothing. The tables that it reads have what they see.
    `views`: the queries of its documented views, by name.
    `forget`: called with the Study Instance UID when the last files of a study, or of a part of it, are deleted, in
        that transaction: deletes the rows that name by UID what is not there any more.
    """

    metadata: MetaData
    migrations: Path
    revision: str
    seen: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    views: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    forget: Callable[[Connection, str], None] | None = None


@cache
def extension_tables() -> Mapping[str, IndexTables]:
    """Return what each installed extension has in the index, by its name, also of those that are switched off.

    Raises UsageError if a table cannot be carried along.
    """
    found: dict[str, IndexTables] = {}
    names = set(Base.metadata.tables)
    for extension in installed():
        if extension.index_tables:
            own = resolve(extension.index_tables)
            if not isinstance(own, IndexTables):
                raise refused(extension, f"{extension.index_tables} is not an instance of IndexTables")
            for mistake in _mistakes(extension.name, own, names):
                raise refused(extension, mistake)
            names |= set(own.metadata.tables)
            found[extension.name] = own
    return MappingProxyType(found)


def _mistakes(name: str, own: IndexTables, taken: set[str]) -> Iterator[str]:
    if owner_of(own.revision) != name or len(own.revision) > MAX_REVISION_CHARACTERS:
        yield f"its revision {own.revision} is not {name}_NUMBER, in {MAX_REVISION_CHARACTERS} characters"
    for table in own.metadata.sorted_tables:
        if table.name in taken:
            yield f"the index has another table {table.name}"
        if table.autoincrement_column is not None and table.autoincrement_column.name != "id":
            yield f"the database numbers the rows of {table.name}, but not in a column id"
        for key in table.foreign_keys:
            other = key.column.table
            if other.metadata is own.metadata:
                continue
            if other.name not in LEVELS:
                yield f"{table.name} refers to {other.name}, and not to patients, studies, series or images"
            if key.ondelete not in ("CASCADE", "SET NULL"):
                yield f"a row of {table.name} would keep its {other.name} from being deleted: ondelete is missing"


def owner_of(revision: str) -> str:
    """Return the name of the extension of a revision; empty: the core."""
    return revision.rpartition("_")[0]


@cache
def every_table() -> Mapping[str, Table]:
    """Return the tables of the core and of the installed extensions, each behind those that it refers to."""
    sets = (Base.metadata, *(own.metadata for own in extension_tables().values()))
    return MappingProxyType({table.name: table for one in sets for table in one.sorted_tables})


def forget_study(connection: Connection, study_instance_uid: str) -> None:
    """Let the extensions delete what names a study, or parts of it, whose last files are deleted."""
    for own in extension_tables().values():
        if own.forget is not None:
            own.forget(connection, study_instance_uid)
