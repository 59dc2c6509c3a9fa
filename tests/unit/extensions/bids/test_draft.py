"""Proposed rules: they name what they propose, leave out what nothing tells, and name nothing by guess."""

from pathlib import Path

import pytest

from node.children.pseudonyms import PseudonymKey
from node.extensions.bids.draft import Draft, draft
from node.extensions.bids.export import Exporter
from node.extensions.bids.planned import SubjectSeries
from node.extensions.bids.rules import read_rules
from node.extensions.bids.subjects import Pseudonyms
from node.selector import compile_selector
from tests.unit.extensions.bids.builders import EPI, Listed, Scanner, rules_of

PSEUDONYMS = Pseudonyms(PseudonymKey("test", b"k" * 32))


@pytest.fixture
def scanner(tmp_path: Path) -> Scanner:
    (tmp_path / "volumes").mkdir()
    return Scanner(tmp_path / "volumes")


def drafted(*series: SubjectSeries, **options: object) -> Draft:
    return draft(Listed(*series), read_rules(None), **options)


def exported(folder: Path, made: Draft, *series: SubjectSeries) -> tuple[list[str], list[str]]:
    """The names in a data set by the rules of a draft, without subject and session, and why others have none."""
    report = Exporter(Listed(*series), rules_of(made.text, folder), PSEUDONYMS).export(folder / "out", dry_run=True)
    names = [Path(path).name.removesuffix(".nii.gz").split("_", 2)[2] for path in report.change.added]
    return sorted(name for name in names if "." not in name), [one.reason for one in report.skipped]


@pytest.mark.parametrize(
    ("description", "name"),
    [
        ("fMRI_nback_run1_2mm_MB4", "task-nback_bold"),
        ("ep2d_bold_Face Matching", "task-facematching_bold"),
        ("task-stroop_bold_TR2000", "task-stroop_bold"),
        ("BOLD task-motor_acq-highres", "task-motor_acq-highres_bold"),
    ],
)
def test_the_task_is_that_of_the_description(tmp_path: Path, scanner: Scanner, description: str, name: str) -> None:
    series = scanner.series(description, times=5, **EPI)
    made = drafted(series)
    assert (made.proposed, made.undecided) == (1, 0)
    assert exported(tmp_path, made, series) == ([name], [])


def test_runs_of_one_task_are_counted(tmp_path: Path, scanner: Scanner) -> None:
    series = [scanner.series(f"bold_nback_run{run}", times=5, **EPI) for run in (1, 2)]
    assert exported(tmp_path, drafted(*series), *series)[0] == ["task-nback_run-1_bold", "task-nback_run-2_bold"]


def test_what_the_rules_name_needs_no_new_one(tmp_path: Path, scanner: Scanner) -> None:
    series = [
        scanner.series("t1_mprage"),
        scanner.series("localizer"),
        scanner.series("func-bold_task-a", times=3, **EPI),
    ]
    made = drafted(*series)
    assert made.proposed == 0
    assert "#   anat/T1w: t1_mprage" in made.text
    assert "#   left out: localizer" in made.text
    assert exported(tmp_path, made, *series)[0] == ["T1w", "task-a_bold"]


def test_two_descriptions_with_one_name_are_distinguished(tmp_path: Path, scanner: Scanner) -> None:
    series = [scanner.series("t1_mprage_sag"), scanner.series("t1_mprage_sag_ND"), scanner.series("t1_mprage_sag_2")]
    assert exported(tmp_path, drafted(*series), *series)[0] == ["acq-ND_T1w", "run-1_T1w", "run-2_T1w"]
    elsewhere = [scanner.series("t2_tse", study=2), scanner.series("t2_tse_fs", study=3)]
    assert drafted(*elsewhere).proposed == 0


def test_what_nothing_tells_is_left_out_with_the_reason(tmp_path: Path, scanner: Scanner) -> None:
    series = [scanner.series("ep2d_bold", times=5, **EPI), scanner.series("mystery")]
    made = drafted(*series)
    assert (made.proposed, made.undecided) == (2, 2)
    names, reasons = exported(tmp_path, made, *series)
    assert names == []
    assert sorted(reasons) == [
        'rule "ep2d_bold": not decided: func/bold needs task',
        'rule "mystery": not decided: set a suffix instead of skip',
    ]


@pytest.mark.parametrize(
    "description", ['a "quoted" name', "it's", "*", "back\\slash", "\x1b[31mred", "", "%s {task}", "'''\""]
)
def test_any_description_gives_a_file_that_is_read(tmp_path: Path, scanner: Scanner, description: str) -> None:
    series = scanner.series(description)
    made = drafted(series)
    assert made.proposed == 1
    names, [reason] = exported(tmp_path, made, series)
    assert names == []
    assert "not decided" in reason


def test_volumes_of_one_series_that_are_different_have_rules_of_their_own(tmp_path: Path, scanner: Scanner) -> None:
    noise = {"ImageType": ["ORIGINAL", "PRIMARY", "NOISE"]}
    series = scanner.series("bold_nback", "", "norf", times=5, sidecars={"norf": noise}, **EPI)
    assert exported(tmp_path, drafted(series), series)[0] == ["task-nback_bold", "task-nback_noRF"]


def test_only_chosen_series_are_looked_at(scanner: Scanner) -> None:
    series = [scanner.series("bold_nback", times=5, **EPI), scanner.series("bold_stroop", times=5, **EPI)]
    made = drafted(*series, where=compile_selector('series_description == "*stroop"'))
    assert "stroop" in made.text
    assert "nback" not in made.text


OWN = """# ours
[subjects]
map = "subjects.csv"

[[rules]]
name = "ours"
where = 'series_description == "t1_*"'
suffix = "T1w"

[rules.fields]
MagneticFieldStrength = 3
"""


def test_a_draft_has_the_tables_and_rules_of_the_file_that_it_extends(tmp_path: Path, scanner: Scanner) -> None:
    """It takes its place in the next command: other labels, or names that are gone, would be a surprise there."""
    (tmp_path / "subjects.csv").write_text("patient_id,subject\nP1,77\n")
    series = [*(scanner.series(name) for name in ("t1_a", "t1_b")), scanner.series("bold_nback", times=5, **EPI)]
    before = rules_of(OWN, tmp_path)
    made = draft(Listed(*series), before, text=OWN)
    assert made.proposed == 1, "two descriptions with one name by a rule of the file are meant so"
    both = rules_of(made.text, tmp_path)
    assert (both.subjects, both.rules[1][0]) == (before.subjects, before.rules[0][0])
    assert exported(tmp_path, made, *series) == (["run-1_T1w", "run-2_T1w", "task-nback_bold"], [])
    assert draft(Listed(*series), both, text=made.text).proposed == 0
    tables = '[sessions]\nlabels = "none"\n'
    made = draft(Listed(*series), rules_of(tables, tmp_path), text=tables)
    assert rules_of(made.text, tmp_path).sessions.labels == "none"
