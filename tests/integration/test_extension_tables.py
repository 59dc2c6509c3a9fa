"""Tables that extensions have in the index: those of examples/voxelnode-hello, which somebody else has installed."""

import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table

from node.api import NAMES, Extension, ImageRow, IndexTables, PatientRow, SeriesRow, Settings, StudyRow
from node.control.care import rebuild_index
from node.control.repository import Repository
from node.extensions.projects.export import export
from node.extensions.projects.rows import ProjectRepository
from node.index.rows import extension_tables as own_tables
from node.index.rows.models.work import WorkRow
from node.index.rows.place import FILE_NAME, IndexUnusable, Place, check, left_by_others, place_of, upgrade
from node.index.rows.scope import Scope, within
from node.index.rules.people.accounts import Content
from node.registry import installed, resolve
from node.settings.core import IndexSettings, Storage
from tests.crash.journal import Sent, new_series
from tests.ingest import settings_of, take
from tests.made_once import IN_POSTGRESQL, _name, copy_root, lose_index, put_index_back, save_index
from tests.newer import NEWER, newer
from tests.postgresql import programs, shared
from tests.rows import read_rows, write_rows
from tests.trash import delete

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "extensions.md"
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "voxelnode-hello"

pytestmark = pytest.mark.postgresql


@contextmanager
def hello() -> Iterator[None]:
    """Have the example installed."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(EXAMPLE)
        import voxelnode_hello
        import voxelnode_hello.tables

        with having(voxelnode_hello.EXTENSION, voxelnode_hello.tables.TABLES):
            yield


@contextmanager
def having(extension: Extension, tables: IndexTables) -> Iterator[None]:
    """Have an extension installed, with its tables."""

    def forget() -> None:
        own_tables.extension_tables.cache_clear()
        own_tables.every_table.cache_clear()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(own_tables, "installed", lambda: (*installed(), extension))
        patched.setattr(own_tables, "resolve", lambda at: tables if at == extension.index_tables else resolve(at))
        patched.setattr("node.index.database.upgrade", upgrade)  # not a copy of an index without it
        forget()
        yield
    forget()


def url_of(root: Path) -> str | None:
    return shared().url(_name(root)) if IN_POSTGRESQL else None


def place(root: Path) -> Place:
    return place_of(root, url_of(root))


def greetings(root: Path) -> list[tuple[Any, ...]]:
    """The study, the text and the moment of each greeting."""
    query = (
        "SELECT st.study_instance_uid, g.greeting, g.greeted_at FROM hello_greetings g "
        "JOIN studies st ON st.id = g.study_id ORDER BY 1"
    )
    return [tuple(row.values()) for row in read_rows(root, query)]


def greet(repository: Repository, text: str = "hello") -> None:
    from voxelnode_hello.rows import GreetingRepository

    repository.index.repository(GreetingRepository).greet(text, repository.ingest.now())


def test_the_document_shows_the_tables_of_the_example() -> None:
    [shown] = re.findall(r"^```python\n(class Base.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.M | re.S)
    assert (EXAMPLE / "voxelnode_hello" / "tables.py").read_text(encoding="utf-8").endswith(shown)


@pytest.fixture(scope="module")
def greeted_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Sent]]:
    """A root of three studies. The first was deleted after all were greeted, and the second is in a project."""
    root = tmp_path_factory.mktemp("greeted") / "root"
    sent = [new_series(1, patient_id=f"P{number}")[0] for number in range(3)]
    with Repository(settings_of(root)) as repository:
        take(repository.ingest, sent)
        projects = repository.index.repository(ProjectRepository)
        projects.set("trial", "test", repository.ingest.now())
        projects.add("trial", [Content(sent[1].study_instance_uid)], "test", repository.ingest.now())
    with hello(), Repository(settings_of(root)) as repository:  # the index is older than the extension
        greet(repository)
        assert len(greetings(root)) == 3
        delete(repository, sent[0].study_instance_uid, erases=True)
    return root, sent


@pytest.fixture
def greeted(greeted_once: tuple[Path, list[Sent]], tmp_path: Path) -> tuple[Path, list[Sent]]:
    root, sent = greeted_once
    copy_root(root, tmp_path / "root")
    return tmp_path / "root", sent


@pytest.mark.slow
def test_they_go_with_what_they_name_and_stay_without_their_extension(greeted: tuple[Path, list[Sent]]) -> None:
    root, sent = greeted
    rows = greetings(root)
    assert [row[0] for row in rows] == sorted(one.study_instance_uid for one in sent[1:])
    with Repository(settings_of(root)) as repository:  # not installed
        assert check(place(root)) == []
        assert left_by_others(place(root)) == (["hello"], ["hello_greetings"])
        assert repository.index.software()
    assert greetings(root) == rows
    with hello():
        assert left_by_others(place(root)) == ([], [])
        assert upgrade(place(root)) == ("r0001", "r0001")
        assert check(place(root)) == []
        write_rows(root, "UPDATE alembic_version SET version_num = 'hello_0002' WHERE version_num = 'hello_0001'")
        with pytest.raises(IndexUnusable, match="hello_0002, which the extension hello does not know"):
            upgrade(place(root))
    assert check(place(root)) == []


@pytest.mark.slow
def test_the_node_is_upgraded_without_the_extension(greeted: tuple[Path, list[Sent]], tmp_path: Path) -> None:
    root, _ = greeted
    rows = greetings(root)
    with newer(tmp_path / "newer", 'op.add_column("patients", sa.Column("colour", sa.String(8)))'):
        assert upgrade(place(root)) == ("r0001", NEWER)
        assert left_by_others(place(root)) == (["hello"], ["hello_greetings"])
        with hello():
            assert upgrade(place(root)) == (NEWER, NEWER)
        assert greetings(root) == rows


@pytest.mark.slow
def test_a_rebuild_takes_them_over_with_the_numbers_of_now(greeted: tuple[Path, list[Sent]]) -> None:
    root, _ = greeted
    rows = greetings(root)
    with hello():
        assert rebuild_index(settings_of(root)).salvaged.rows["hello_greetings"] == 2
        assert greetings(root) == rows
        assert check(place(root)) == []


@pytest.mark.slow
def test_a_rebuild_tells_what_it_leaves_of_an_extension_that_is_not_installed(greeted: tuple[Path, list[Sent]]) -> None:
    root, _ = greeted
    rows = greetings(root)
    done = rebuild_index(settings_of(root))
    assert (done.salvaged.not_installed, done.salvaged.left) == (["hello"], {"hello_greetings": 2})
    with hello():
        assert (upgrade(place(root)), greetings(root)) == (("r0001", "r0001"), [])
        assert rebuild_index(settings_of(root)).salvaged.not_installed == []
    if isinstance(done.previous_index, Path):  # put back, as the command says
        os.replace(done.previous_index, root / FILE_NAME)
        with hello():
            assert rebuild_index(settings_of(root)).salvaged.left == {}
            assert greetings(root) == rows


class Somebody(Extension):
    name = "somebody"
    index_tables = "somebody:TABLES"


@pytest.mark.slow
def test_a_rebuild_finds_what_a_row_names_by_number_at_levels(greeted: tuple[Path, list[Sent]], tmp_path: Path) -> None:
    root, sent = greeted
    levels = {"patient": PatientRow, "study": StudyRow, "series": SeriesRow, "image": ImageRow}
    keys = [Column(name, ForeignKey(row.id, ondelete="CASCADE")) for name, row in levels.items()]
    (tmp_path / "somebody_0001.py").write_text(MIGRATION)
    own = tables(NUMBER, *keys, migrations=tmp_path)
    before = "SELECT se.id, se.study_id, st.patient_id FROM series se JOIN studies st ON st.id = se.study_id ORDER BY 1"
    named = (
        "SELECT i.sop_instance_uid, o.patient = st.patient_id AND o.study = st.id AND o.series = se.id AS is_one "
        "FROM of_somebody o JOIN images i ON i.id = o.image JOIN series se ON se.id = i.series_id "
        "JOIN studies st ON st.id = se.study_id ORDER BY o.id"
    )
    with having(Somebody(), own):
        upgrade(place(root))
        insert = (
            "INSERT INTO of_somebody (patient, study, series, image) SELECT st.patient_id, st.id, se.id, i.id "
            "FROM images i JOIN series se ON se.id = i.series_id JOIN studies st ON st.id = se.study_id ORDER BY i.id"
        )
        write_rows(root, insert)
        was = read_rows(root, before)
        rebuild_index(settings_of(root))
        assert read_rows(root, before) != was, "the numbers are others now"
        rows = read_rows(root, named)
        assert [row["sop_instance_uid"] for row in rows] == [one.sop_instance_uid for one in sent[1:]]
        assert all(row["is_one"] for row in rows)
        assert check(place(root)) == []


MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "somebody_0001", None, ("somebody",), None
LEVELS = {"patient": "patients", "study": "studies", "series": "series", "image": "images"}


def upgrade():
    levels = {name: sa.ForeignKey(f"{table}.id", ondelete="CASCADE") for name, table in LEVELS.items()}
    keys = [sa.Column(name, sa.Integer(), key) for name, key in levels.items()]
    op.create_table("of_somebody", sa.Column("id", sa.Integer(), primary_key=True), *keys)
"""


@pytest.mark.slow
def test_a_backup_has_them(greeted: tuple[Path, list[Sent]], tmp_path: Path) -> None:
    root, _ = greeted
    rows = greetings(root)
    save_index(root, tmp_path / "copy")
    lose_index(root)
    put_index_back(root, tmp_path / "copy")
    assert greetings(root) == rows
    with hello(), Repository(settings_of(root)) as repository:
        greet(repository, "hello again")
    assert greetings(root) == rows


@pytest.mark.slow
def test_a_scope_shows_what_their_rule_says_and_an_export_none_of_them(
    greeted: tuple[Path, list[Sent]], tmp_path: Path
) -> None:
    root, sent = greeted
    url = url_of(root)
    with hello(), Repository(settings_of(root)) as repository:
        with within(Scope(projects=("trial",))), repository.index.reading() as index:
            of_project = "SELECT study_instance_uid AS uid FROM studies st JOIN hello_greetings g ON g.study_id = st.id"
            assert index.series._rows(of_project) == [{"uid": sent[1].study_instance_uid}]
            assert index.series._rows("SELECT count(*) AS n FROM hello_greetings") == [{"n": 1}]
        export(root, tmp_path / "of-project", url=url, project="trial")
        export(root, tmp_path / "whole", url=url)
    export(root, tmp_path / "without", url=url)
    for name in ("of-project", "whole", "without"):
        with closing(sqlite3.connect(tmp_path / name / FILE_NAME)) as copy:
            tables = {table for (table,) in copy.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            has_table = "hello_greetings" in tables
            assert has_table or name == "without"
            assert not has_table or copy.execute("SELECT count(*) FROM hello_greetings").fetchone() == (0,), name


@pytest.mark.long
@pytest.mark.sqlite("starts from SQLite")
@pytest.mark.skipif(programs() is None, reason="PostgreSQL is not installed")
def test_an_index_moves_to_postgresql_and_back_with_them(
    greeted: tuple[Path, list[Sent]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from node.extensions.postgresql import engine as postgresql
    from node.extensions.postgresql.copying import copy_index

    monkeypatch.setattr(postgresql, "require_durable", lambda connection: None)
    root, _ = greeted
    rows, url = greetings(root), shared().create("with_greetings")
    with hello():
        assert copy_index(settings_of(root), url)["hello_greetings"] == 2
        (root / FILE_NAME).unlink()
        of_server = Settings(storage=Storage(root=root, reserve_bytes=0), index=IndexSettings(url=url))
        assert check(place_of(root, url)) == []
        assert copy_index(of_server, None)["hello_greetings"] == 2
    assert greetings(root) == rows
    assert "hello_greetings" not in copy_index(settings_of(root), shared().create("without_greetings"))


NUMBER = Column("id", Integer, primary_key=True)


def tables(
    *columns: Any, name: str = "of_somebody", revision: str = "somebody_0001", migrations: Path = Path("migrations")
) -> IndexTables:
    metadata = MetaData(naming_convention=NAMES)
    Table(name, metadata, *columns)
    return IndexTables(metadata, migrations, revision)


@pytest.mark.parametrize(
    ("own", "problem"),
    [
        (lambda: tables(revision="0001"), "its revision 0001 is not somebody_NUMBER"),
        (lambda: tables(name="labels"), "the index has another table labels"),
        (lambda: tables(Column("work", ForeignKey(WorkRow.id, ondelete="CASCADE"))), "refers to work, and not to"),
        (lambda: tables(Column("study", ForeignKey(StudyRow.id))), "would keep its studies from being deleted"),
        (lambda: tables(Column("number", Integer, primary_key=True)), "numbers the rows .* but not in a column id"),
        (lambda: tables(Column("series", ForeignKey(SeriesRow.id, ondelete="SET NULL"))), None),
        (lambda: tables(Column("name", String, primary_key=True)), None),
    ],
)
def test_one_whose_tables_cannot_be_taken_along_is_refused(own: Callable[[], IndexTables], problem: str | None) -> None:
    found = list(own_tables._mistakes("somebody", own(), {"labels"}))
    assert [bool(re.search(problem, one)) for one in found] == [True] if problem else found == []
