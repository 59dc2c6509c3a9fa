"""Labels and comments in the index: what they are about, what finds them, and when they are forgotten."""

import datetime as dt
import json
from pathlib import Path

import pytest

from node.api import Audit, UsageError
from node.extensions.labels.known import LabelViews
from node.extensions.labels.marks import MarkRepository, NotMarkable, Target
from node.index.look.study_search import StudyFilter
from node.index.rows.records import Level
from node.lifecycle.deletion import Order, delete
from node.selector import compile_selector
from tests import make
from tests.integration.conftest import Root
from tests.preloaded import run
from tests.rows import read_rows

pytestmark = pytest.mark.postgresql

FIRST, SECOND = Target("1.1"), Target("1.2")
SERIES = Target("1.1", "1.1.2")


@pytest.fixture
def two(root: Root) -> Root:
    """Two studies, the first of two series."""
    for study, series in (("1.1", "1.1.1"), ("1.1", "1.1.2"), ("1.2", "1.2.1")):
        root.take(make.instance(study_uid=study, series_uid=series, PatientID=f"P{study}"))
    return root


def change(root: Root, *targets: Target, add: tuple[str, ...] = (), remove: tuple[str, ...] = ()) -> list[Target]:
    repository = root.index.repository(MarkRepository)
    return [one.target for one in repository.change_labels(targets, add, remove, "somebody", root.clock())]


def found(root: Root, label: str) -> list[str]:
    wanted = StudyFilter(label=label)
    with root.index.reading() as index:
        listed = [one.study_instance_uid for one in index.studies.listed(wanted, "name")]
        assert index.studies.matching(wanted).count() == len(listed)
        return listed


def test_only_what_changes_is_reported_and_labels_are_of_one_target(two: Root) -> None:
    assert change(two, FIRST, SERIES, FIRST, add=("a", "b")) == [FIRST, SERIES]
    assert change(two, FIRST, SECOND, add=("a",)) == [SECOND]
    assert change(two, FIRST, SECOND, remove=("b",)) == [FIRST]
    with two.index.reading() as index:
        read = index.views(LabelViews)
        assert [read.labels(*one) for one in (FIRST, SERIES, SECOND)] == [["a"], ["a", "b"], ["a"]]
        assert read.known() == [{"label": "a", "studies": 2, "series": 1}, {"label": "b", "studies": 0, "series": 1}]
        assert {one.labels for one in index.studies.listed(StudyFilter())} == {("a",)}
        selected = {series for _, series in index.facts.selected(compile_selector('labels in ["b", "c"]'))}
    assert selected == {"1.1.2"}


@pytest.mark.parametrize("few", [0, 1000])
def test_a_search_finds_few_and_many(two: Root, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.index.look.study_search.FEW_STUDIES", few)
    change(two, SERIES, SECOND, add=("a",))
    change(two, SECOND, add=("b",))
    assert sorted(found(two, "a")) == ["1.1", "1.2"]
    assert found(two, "b") == ["1.2"]
    assert found(two, "c") == []


def test_a_change_is_done_to_all_or_to_none(two: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.extensions.labels.marks.MAX_LABELS", 2)
    change(two, SECOND, add=("a", "b"))
    with pytest.raises(UsageError, match="more than 2 labels"):
        change(two, FIRST, SECOND, add=("c",))
    with pytest.raises(NotMarkable, match=r"no series 1\.2\.1 in study 1\.1"):
        change(two, SECOND, Target("1.1", "1.2.1"), add=("a",), remove=("b",))
    assert found(two, "c") == []
    assert found(two, "b") == ["1.2"]
    change(two, SECOND, add=("c",), remove=("a",))
    assert found(two, "c") == ["1.2"]


def test_what_has_no_files_any_more_has_no_labels(two: Root) -> None:
    audit = Audit(two.folder, "VOXELNODE")
    change(two, FIRST, SERIES, SECOND, add=("a",))
    repository = two.index.repository(MarkRepository)
    for target in (FIRST, SERIES):
        repository.comment(target, "seen", "somebody", two.clock())

    def count() -> list[int]:
        return [len(read_rows(two.folder, f"SELECT id FROM {table}")) for table in ("labels", "comments")]

    def forget(uid: str, level: Level, hours: int = 0) -> None:
        plan = two.index.deletions.plan(level, uid)
        until = two.clock() + dt.timedelta(hours=hours) if hours else None
        delete(two.archive, two.index, audit, plan, Order("somebody", "by command", trash_until=until), two.clock())

    forget("1.1.2", "series", hours=1)
    forget("1.1", "study", hours=1)
    assert count() == [3, 2], "both are in the trash"
    assert found(two, "a") == ["1.2"]
    with two.index.reading() as index:
        newest, oldest = (entry["number"] for entry in index.trash.all())
    two.index.trash.empty(newest, two.clock())
    assert count() == [3, 2], "a part of the study is still in the trash"
    two.index.trash.empty(oldest, two.clock())
    assert count() == [1, 0]
    forget("1.2", "study")
    assert count() == [0, 0]


@pytest.mark.slow
def test_the_command_gives_lists_and_takes(tmp_path: Path) -> None:
    root = ("--root", tmp_path / "root")
    (tmp_path / "files").mkdir()
    for study, series in (("1.1", "1.1.2"), ("1.2", "1.2.1")):
        make.instance(study_uid=study, series_uid=series).save_as(tmp_path / "files" / study, enforce_file_format=True)
    run("import", tmp_path / "files", *root, check=True)
    given = run("label", "add", "phase  2", "1.1", "1.2", *root, "--json", check=True)
    assert json.loads(given.stdout)["changed"] == 2
    run("label", "add", "checked", "1.1", "--series", "1.1.2", *root, check=True)
    listed = run("label", "list", *root, "--tsv").stdout.splitlines()
    assert [line.split("\t") for line in listed[1:]] == [["checked", "0", "1"], ["phase 2", "2", "0"]]
    assert "taken from 2 of 2 studies" in run("label", "remove", "phase 2", "1.1", "1.2", *root).stdout
    wrong = run("label", "add", "x", "9.9", *root)
    assert wrong.returncode != 0
    assert "9.9: no study here" in wrong.stderr
    assert "Traceback" not in wrong.stderr
