"""Projects in the index: what a caller with a scope reads, by which way a series is in a project, and how it leaves."""

import datetime as dt
import json
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import JSON, Connection, delete, insert, select
from sqlalchemy.types import TypeEngine

from node.api import OpenedRoot, Role, Settings, UsageError, Utc
from node.audit.audit_log import Audit, AuditFailed
from node.extensions.labels.marks import MarkRepository, Target
from node.extensions.projects.rows import ProjectRepository
from node.extensions.projects.rules import ProjectRules, actions, apply_rules
from node.extensions.shares.rows import ShareRepository
from node.index.look.study_search import StudyFilter
from node.index.rows.extension_tables import every_table, extension_tables
from node.index.rows.narrowed import RULES
from node.index.rows.records import Share
from node.index.rows.scope import NOBODY, OutOfScope, Scope, become, current_scope, within
from node.index.rows.views import views
from node.index.rules.people.accounts import Content
from tests import make
from tests.integration.conftest import Root
from tests.preloaded import run
from tests.rows import read_rows

pytestmark = pytest.mark.postgresql

ANNA = Scope("anna")


@pytest.fixture(params=["listed", "too many to be listed"])
def three(root: Root, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Root:
    """Three studies, the first of two series, an account, and a project that it is a member of."""
    if request.param != "listed":
        monkeypatch.setattr("node.index.rows.narrowed.MAX_LISTED", 0)
    for study, series in (("1.1", "1.1.1"), ("1.1", "1.1.2"), ("1.2", "1.2.1"), ("1.3", "1.3.1")):
        instance = make.instance(
            study_uid=study, series_uid=series, sop_instance_uid=f"{series}.9", PatientID=f"P{study}"
        )
        root.take(instance)
    root.index.accounts.set("anna", Role.READ, None, root.clock())
    projects(root).set("trial", "test", root.clock())
    projects(root).set_member("trial", "anna", "read")
    return root


def projects(root: Root) -> ProjectRepository:
    return root.index.repository(ProjectRepository)


def put(root: Root, *contents: Content) -> int:
    return projects(root).add("trial", contents, "test", root.clock())


def seen(root: Root, scope: Scope | None = ANNA) -> set[str]:
    with within(scope), root.index.reading() as index:
        return {row["series_instance_uid"] for row in index.series.page(None, 100)}


def test_a_scope_shows_its_projects_in_every_table_and_view(three: Root) -> None:
    assert put(three, Content("1.1", "1.1.2"), Content("1.2")) == 2
    assert seen(three) == {"1.1.2", "1.2.1"}
    assert seen(three, Scope(projects=("trial", "other"))) == {"1.1.2", "1.2.1"}
    assert seen(three, NOBODY) == seen(three, Scope("ben")) == set()
    assert len(seen(three, None)) == 4
    with within(ANNA), three.index.searching() as index:
        assert {one.study_instance_uid for one in index.studies.listed(StudyFilter())} == {"1.1", "1.2"}
        assert index.count_levels() == {"patients": 2, "studies": 2, "series": 2, "instances": 2}
        assert three.index.large_counts.levels(index).numbers["series"] == 2
    foreign = ("1.1.1", "1.3", "P1.3")
    with within(ANNA), three.index._reader.connect() as connection:
        for name in (*every_table(), *views(connection.dialect)):
            rows = connection.exec_driver_sql(f'SELECT * FROM "{name}"').all()
            texts = {str(value) for row in rows for value in row}
            assert not texts.intersection(foreign), name
            assert not rows or name in RULES[True].keys() | OF_EXTENSIONS or name.startswith("v_"), name


EVERYWHERE = ("1.1", "1.1.1"), ("1.1", "1.1.2"), ("1.2", "1.2.1"), ("1.3", "1.3.1")
"""The series of `three`, with their studies: anna sees the second and the third, and so a part of the first study."""

OF_EXTENSIONS = {table for own in extension_tables().values() for table in own.seen}
"""Tables of extensions with a rule."""

MARKS: dict[str, tuple[str, set[str]]] = {
    "about": ("key", {"store", "indexed"}),
    "projects": ("name", {"trial"}),
    "project_series": ("series_id", {"1.1.2", "1.2.1"}),
    "project_members": ("account", {"anna"}),
    "series": ("series_instance_uid", {"1.1.2", "1.2.1"}),
    "studies": ("study_instance_uid", {"1.1", "1.2"}),
    "patients": ("patient_id", {"P1.1", "P1.2"}),
    "images": ("sop_instance_uid", {"1.1.2.9", "1.2.1.9"}),
    "image_documents": ("document", {"1.1.2", "1.2.1"}),
    "series_documents": ("document", {"1.1.2", "1.2.1"}),
    "series_references": ("series_instance_uid", {"1.1.2", "1.2.1"}),
    "conversions": ("converter", {"1.1.2", "1.2.1"}),
    "revision_files": ("key", {"1.1.2", "1.2.1"}),
    "volumes": ("path", {"1.1.2", "1.2.1"}),
    "volume_sources": ("sop_instance_uid", {"1.1.2", "1.2.1"}),
    "exclusions": ("detail", {"1.1.2", "1.2.1"}),
    "failures": ("detail", {"1.1.2", "1.2.1"}),
    "events": ("detail", {"1.1.2", "1.2.1", "1.2"}),  # of a study that is seen in part, none
    "labels": ("label", {"1.1.2", "1.2.1", "1.1", "1.2"}),
    "comments": ("comment", {"1.1.2", "1.2.1", "1.1", "1.2"}),
    "work": ("key", {"download of anna"}),
}
"""Of each table with a rule: a column whose value tells the rows apart, and its values in the rows that anna sees."""


def filled(table: str, **known: Any) -> dict[str, Any]:
    """A row with something in each column that needs it."""
    needed = [
        column
        for column in every_table()[table].columns
        if not (column.nullable or column.primary_key or column.default or column.server_default)
    ]
    return {column.name: filling(column.type) for column in needed} | known


def filling(kind: TypeEngine[Any]) -> object:
    """The least value of a type."""
    if isinstance(kind, Utc):
        return dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    return {} if isinstance(kind, JSON) else kind.python_type()


def enter_rows(connection: Connection) -> None:
    """Put rows about each series and study of `three`, and of others, into all tables that have a rule."""

    def add(table: str, **known: Any) -> None:
        connection.execute(insert(every_table()[table]).values(filled(table, **known)))

    def id_of(table: str, column: str, value: str) -> int:
        rows = every_table()[table]
        return int(connection.execute(select(rows.c.id).where(rows.c[column] == value)).scalar_one())

    for table in ("about", "image_documents", "series_documents"):
        connection.execute(delete(every_table()[table]))
    for key in ("store", "indexed", "secret"):
        add("about", key=key, value="")
    for name in ("label", "comment"):
        for about in {*EVERYWHERE, *((study, "") for study, _ in EVERYWHERE)}:
            study, series = about
            add(f"{name}s", study_instance_uid=study, series_instance_uid=series, **{name: series or study})
    for kind, name in (("download", "anna"), ("download", "ben"), ("retrieval", "anna")):
        add("work", kind=kind, name=name, key=f"{kind} of {name}", state="waiting", study_instance_uid="1.1")
    add("projects", name="other")
    other = id_of("projects", "name", "other")
    add("project_members", project_id=other, account="ben", role="read")
    for number, (study, series) in enumerate(EVERYWHERE, 1):
        series_id, image = id_of("series", "series_instance_uid", series), f"{series}.9"
        add("project_series", project_id=other, series_id=series_id, is_by_rule=False)
        add("image_documents", image_id=id_of("images", "sop_instance_uid", image), document=series)
        add("series_documents", series_id=series_id, document=series)
        add("series_references", series_id=series_id, series_instance_uid=series)
        add("conversions", id=number, series_id=series_id, converter=series)
        add("revision_files", conversion_id=number, key=series)
        add("volumes", conversion_id=number, path=series)
        add("volume_sources", conversion_id=number, sop_instance_uid=series)
        add("exclusions", conversion_id=number, detail=series)
        add("failures", series_id=series_id, detail=series)
        add("events", study_instance_uid=study, series_instance_uid=series, detail=series)
    for study in ("1.1", "1.2", "1.3"):
        add("events", study_instance_uid=study, detail=study)


def test_a_scope_shows_of_each_table_the_rows_of_what_it_sees_and_no_others(three: Root) -> None:
    put(three, Content("1.1", "1.1.2"), Content("1.2"))
    three.index._writer.run(enter_rows)
    names = {row["id"]: row["series_instance_uid"] for row in read_rows(three.folder, "SELECT * FROM series")}
    assert MARKS.keys() - OF_EXTENSIONS == RULES[True].keys() == RULES[False].keys()
    for table, (column, expected) in MARKS.items():
        query = f'SELECT "{column}" FROM "{table}"'
        everything = {next(iter(row.values())) for row in read_rows(three.folder, query)}
        with within(ANNA), three.index._reader.connect() as connection:
            reported = connection.exec_driver_sql(query).scalars().all()
        assert {names.get(value, value) for value in reported} == expected, table
        assert len(everything) > len(expected), f"nothing of {table} is hidden"


def test_who_sees_what_changes_only_with_a_line_before_it(three: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    change = actions(OpenedRoot(Settings(), three.ingest, Audit(three.folder, "VOXELNODE", now=three.clock)))
    contents = [("1.2", "")]

    with monkeypatch.context() as disk:
        disk.setattr("node.audit.audit_log.os.write", Mock(side_effect=OSError(28, "No space left on device")))
        for name, arguments in {
            "change-project-contents": {"name": "trial", "add": contents},
            "limit-account": {"account": "anna", "is_limited": False},
            "remove-project-member": {"name": "trial", "account": "anna"},
            "remove-project": {"name": "trial"},
        }.items():
            with pytest.raises(AuditFailed):
                change[name](who="test", **arguments)
    assert seen(three) == set()
    change["change-project-contents"](name="trial", who="test", add=contents)
    assert seen(three) == {"1.2.1"}
    with pytest.raises(UsageError):
        change["remove-project-member"](name="trial", account="ben", who="test")
    lines = [json.loads(line) for line in (three.folder / "audit.jsonl").read_text("utf-8").splitlines()]
    assert [(line["detail"], line["outcome"]) for line in lines] == [
        ("ordered: 1 put into project trial, 0 taken out", 0),
        ("done: 1 put into project trial, 0 taken out", 0),
        ("ordered: account ben is no longer a member of project trial", 0),
        ("not done: account ben is no longer a member of project trial", 8),
    ]


def test_a_caller_with_a_scope_changes_nothing_by_accident(three: Root) -> None:
    with within(NOBODY):
        with pytest.raises(OutOfScope):
            put(three, Content("1.3"))
        become(None)
        assert current_scope() is None
        assert put(three, Content("1.3")) == 1
    assert seen(three) == {"1.3.1"}


def test_a_series_is_in_the_projects_of_its_study_and_of_the_title_called(three: Root) -> None:
    assert put(three, Content("1.1")) == 1
    assert put(three, Content("1.1")) == 0
    three.take(make.instance(study_uid="1.1", series_uid="1.1.3", PatientID="P1.1"))
    assert seen(three) == {"1.1.1", "1.1.2", "1.1.3"}
    projects(three).set("called", "test", three.clock(), called_ae_title="VOXELNODE")
    projects(three).set_member("called", "anna", "read")
    three.take(make.instance(study_uid="1.3", series_uid="1.3.2", PatientID="P1.3"))
    assert seen(three) == {"1.1.1", "1.1.2", "1.1.3", "1.3.2"}, "new series only"
    assert projects(three).take("trial", [Content("1.1")]) == 1
    assert seen(three) == {"1.3.2"}
    with pytest.raises(UsageError, match="no study"):
        put(three, Content("1.9"))


def test_a_rule_selects_what_is_new_and_what_is_labelled(three: Root) -> None:
    rules = ProjectRules(three.index)
    projects(three).set("trial", "test", three.clock(), rule='patient_id == "P1.2" or labels == "study"')
    assert seen(three) == set()
    rules.step()
    assert seen(three) == {"1.2.1"}
    three.take(make.instance(study_uid="1.2", series_uid="1.2.2", PatientID="P1.2"))
    rules.step()
    assert seen(three) == {"1.2.1", "1.2.2"}
    marks, target = three.index.repository(MarkRepository), [Target("1.3")]
    marks.change_labels(target, ["study"], [], "test", three.clock())
    rules.step()
    assert seen(three) == {"1.2.1", "1.2.2", "1.3.1"}
    marks.change_labels(target, [], ["study"], "test", three.clock())
    rules.step()
    assert seen(three) == {"1.2.1", "1.2.2"}
    put(three, Content("1.2", "1.2.2"))
    projects(three).set("trial", "test", three.clock(), rule="")
    assert apply_rules(three.index) == 0
    assert seen(three) == {"1.2.2"}, "what was put in by hand stays"


def test_a_rule_that_is_none_any_more_selects_nothing_and_stops_no_other(three: Root) -> None:
    projects(three).set("trial", "test", three.clock(), rule='patient_id == "P1.2"')
    assert apply_rules(three.index) == 1
    projects(three).set("later", "test", three.clock(), rule='patient_id == "P1.3"')
    projects(three).set_member("later", "anna", "read")
    changed = "UPDATE projects SET rule = 'no_such_field == 1' WHERE name = 'trial'"
    three.index._writer.run(lambda connection: connection.exec_driver_sql(changed))
    assert apply_rules(three.index) == 2
    assert seen(three) == {"1.3.1"}


def test_roles_limits_and_projects_end_without_showing_more(three: Root) -> None:
    put(three, Content("1.1"))
    three.index.accounts.set("boss", Role.ADMIN, None, three.clock())
    with pytest.raises(UsageError, match="administrator"):
        projects(three).set_member("trial", "boss", "read")
    with pytest.raises(UsageError, match="no account"):
        projects(three).set_member("trial", "nobody", "read")
    three.index.accounts.remove("anna")
    three.index.accounts.set("anna", Role.WRITE, None, three.clock())
    known = three.index.accounts.by_name("anna")
    assert known.is_limited
    assert seen(three) == set()
    projects(three).set_member("trial", "anna", "read")
    assert seen(three) == {"1.1.1", "1.1.2"}
    projects(three).remove("trial")
    assert seen(three) == set()
    projects(three).limit("anna", is_limited=False)
    known = three.index.accounts.by_name("anna")
    assert not known.is_limited


@pytest.mark.slow
def test_the_commands(tmp_path: Path) -> None:
    root = ("--root", tmp_path / "root")
    (tmp_path / "files").mkdir()
    for study, series in (("1.1", "1.1.2"), ("1.2", "1.2.1")):
        ds = make.instance(study_uid=study, series_uid=series, PatientID=f"P{study}")
        ds.save_as(tmp_path / "files" / study, enforce_file_format=True)
    run("import", tmp_path / "files", *root, check=True)
    run("account", "add", "anna", "--no-password", *root, check=True)

    def command(*words: str) -> str:
        return run("projects", *words, *root, check=True).stdout

    assert "created" in command("set", "trial", "--rule", 'patient_id == "P1.1"', "--called", "TRIAL")
    assert "its projects" in command("member", "trial", "anna")
    assert command("add", "trial", "1.2", "--series", "1.2.1").startswith("1 put")
    [row] = json.loads(command("list", "--json"))
    assert (row["name"], row["series"], row["members"]) == ("trial", 2, [{"account": "anna", "role": "read"}])
    assert command("take", "trial", "1.2", "--series", "1.2.1").startswith("1 taken")
    assert "whole node" in command("limit", "anna", "--whole-node")
    assert "only" in command("limit", "anna")
    command("member", "trial", "anna")
    assert "no longer a member" in command("member", "trial", "anna", "--remove")
    assert "removed" in command("remove", "trial")


def test_a_rule_follows_what_comes_and_goes_beside_a_series_in_its_study(three: Root) -> None:
    rules = ProjectRules(three.index)
    projects(three).set("trial", "test", three.clock(), rule="study_series > 2")
    rules.step()
    assert seen(three) == set()
    three.take(make.instance(study_uid="1.1", series_uid="1.1.3", PatientID="P1.1"))
    rules.step()
    assert seen(three) == {"1.1.1", "1.1.2", "1.1.3"}
    three.delete("series", "1.1.3")
    rules.step()
    assert seen(three) == set()
    three.take(make.instance(study_uid="1.4", series_uid="1.4.1", PatientID="P1.4"))
    projects(three).set("trial", "test", three.clock(), rule='patient_id == "P1.5" or patient_id == "P1.4"')
    rules.step()
    assert seen(three) == {"1.4.1"}
    for study in ("1.4", "1.3"):
        three.delete("study", study)
    three.take(make.instance(study_uid="1.5", series_uid="1.5.1", PatientID="P1.5"))
    rules.step()
    assert seen(three) == {"1.5.1"}, "a row id that was of another series before is looked at"


@pytest.mark.parametrize("limited", ["oidc:anna", "group:bern"])
@pytest.mark.parametrize("signs_in_again", [False, True])
def test_what_limits_an_account_by_any_of_its_names_ends_its_links_and_no_name_lifts_it(
    root: Root, limited: str, signs_in_again: bool
) -> None:
    accounts, shares, now = root.index.accounts, root.index.repository(ShareRepository), root.clock()
    root.take(make.instance(study_uid="1.2", series_uid="1.2.1"))
    groups = () if signs_in_again else ("group:bern", "group:rest")
    accounts.set("oidc:anna", Role.WRITE, None, now, groups)
    for name, role in (("oidc:anna", Role.WRITE), ("oidc:bea", Role.WRITE), ("oidc:cleo", Role.ADMIN)):
        accounts.set(name, role, None, now, groups if name != "oidc:bea" else ("group:rest",))
        shares.make(name, Share(0, "1.2", "", True, None, name, now, now + dt.timedelta(days=1), 0, None))
    projects(root).set("trial", "test", now)
    projects(root).set_member("trial", limited, "write")
    if signs_in_again:
        accounts.set("oidc:anna", Role.WRITE, None, now, ("group:bern", "group:rest"))
    left = [name for name in ("oidc:anna", "oidc:bea", "oidc:cleo") if shares.by_token(name, now)]
    assert left == ["oidc:bea", "oidc:cleo"]
    for role, project in product((None, Role.READ, Role.WRITE), (None, "trial")):
        label = f"{role} {project}"
        accounts.add_token("oidc:anna", label, label, None, now, role=role, project=project)
        token = accounts.by_token(label, now)
        assert token is not None
        assert token.account.is_limited
        assert (token.role, token.project) == (Role.READ if role is Role.READ else Role.WRITE, project)
