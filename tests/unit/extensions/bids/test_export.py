"""One study of many: only its own patient is looked at, unless others may have the same label."""

import datetime as dt
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from node.children.pseudonyms import PseudonymKey
from node.extensions.bids.command import _print as print_report
from node.extensions.bids.dataset import DatasetUnusable
from node.extensions.bids.export import Exporter
from node.extensions.bids.planned import SubjectSeries
from node.extensions.bids.sources import STILL_OPEN
from node.extensions.bids.subjects import Pseudonyms, SubjectPatient
from node.selector import compile_selector
from tests.unit.extensions.bids.builders import Scanner, rules_of

PSEUDONYMS = Pseudonyms(PseudonymKey("test", b"k" * 32))


class Clinic:
    """A source of many patients, each with one study of the number of the patient, that notes which it is asked for."""

    not_selected = 0

    def __init__(self, folder: Path, patients: int) -> None:
        scanner = Scanner(folder)
        self.series = [replace(scanner.series("t1_mprage", study=n), patient=n) for n in range(1, patients + 1)]
        self.asked: list[int | None] = []
        self.ids: dict[int, str] = {}

    def patients(self, number: int | None = None) -> dict[int, SubjectPatient]:
        self.asked.append(number)
        numbers = {series.patient for series in self.series}
        people = {each: self.ids.get(each, f"P{each}") for each in numbers}
        return {
            each: SubjectPatient(f"\\{patient_id}", patient_id)
            for each, patient_id in people.items()
            if number is None or patient_id == people[number]
        }

    def patient_of(self, study_instance_uid: str) -> int | None:
        return next((each.patient for each in self.series if each.study_instance_uid == study_instance_uid), None)

    def series_of(self, patients: Sequence[int]) -> Iterator[SubjectSeries]:
        yield from (series for series in self.series if series.patient in patients)

    def series_keys(self) -> list[tuple[str, str]]:
        return [(series.study_instance_uid, series.series_instance_uid) for series in self.series]


@pytest.mark.parametrize(("labels", "asked"), [("pseudonym", 2), ("patient_id", None)])
def test_a_study_asks_for_the_patients_that_may_have_its_label(tmp_path: Path, labels: str, asked: int | None) -> None:
    clinic = Clinic(tmp_path, 3)
    exporter = Exporter(clinic, rules_of(f'[subjects]\nlabels = "{labels}"\n', tmp_path), PSEUDONYMS)
    report = exporter.export(tmp_path / "out", "1.2.2")
    assert len(report.change.added) == report.subjects == 1
    assert clinic.asked == [asked]


def test_a_data_set_takes_only_the_key_with_which_it_was_begun(tmp_path: Path) -> None:
    clinic, out = Clinic(tmp_path, 1), tmp_path / "out"
    Exporter(clinic, rules_of("", tmp_path), PSEUDONYMS).export(out)
    before = sorted(out.rglob("*"))
    other = Exporter(clinic, rules_of("", tmp_path), Pseudonyms(PseudonymKey("test", b"o" * 32)))
    with pytest.raises(DatasetUnusable, match="another key: every patient would become a second subject"):
        other.export(out)
    assert sorted(out.rglob("*")) == before
    (out / ".voxelnode.key.json").write_text("[]")
    with pytest.raises(DatasetUnusable, match="damaged"):
        other.export(out, "1.2.1")


def test_a_study_of_another_patient_than_before_updates_both(tmp_path: Path) -> None:
    clinic, out = Clinic(tmp_path, 3), tmp_path / "out"
    clinic.series.append(replace(clinic.series[0], series_instance_uid="1.2.1.9"))
    exporter = Exporter(clinic, rules_of("", tmp_path), PSEUDONYMS, prune=True)
    exporter.export(out)
    one, other = (f"sub-{PSEUDONYMS.subject(chr(92) + patient)}" for patient in ("P1", "P3"))
    assert len([*out.glob(f"{one}/**/*.nii.gz")]) == 2
    clinic.series = [replace(series, patient=3) for series in clinic.series]
    exporter = Exporter(clinic, rules_of("", tmp_path), PSEUDONYMS, prune=True)
    report = exporter.export(out, "1.2.1")
    assert (len(report.change.added), len(report.change.removed)) == (2, 2)
    assert not [*out.glob(f"{one}/**/*.nii.gz")]
    assert len([*out.glob(f"{other}/**/*.nii.gz")]) == 4
    clinic.series = clinic.series[1:3]
    report = Exporter(clinic, rules_of("", tmp_path), PSEUDONYMS, prune=True).export(out, "1.2.1")
    assert len(report.change.removed) == 2


def test_a_run_that_exports_nothing_writes_no_file(tmp_path: Path) -> None:
    """The name of a data set is then that of the run that begins it."""
    clinic, out = Clinic(tmp_path, 2), tmp_path / "out"
    nothing = Exporter(clinic, rules_of("", tmp_path), PSEUDONYMS, compile_selector('series_description == "dwi"'))
    report = nothing.export(out)
    assert (report.volumes, report.skipped, report.not_selected) == (0, [], 2)
    assert not [path for path in out.rglob("*") if path.is_file()]
    report = Exporter(clinic, rules_of('[dataset]\nname = "Memory"\n', tmp_path), PSEUDONYMS).export(out)
    assert (report.volumes, report.kept) == (2, [])
    assert json.loads((out / "dataset_description.json").read_text())["Name"] == "Memory"


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_description_that_stays_as_it_is_is_reported(tmp_path: Path, dry_run: bool) -> None:
    clinic, out = Clinic(tmp_path, 1), tmp_path / "out"
    Exporter(clinic, rules_of('[dataset]\nname = "Memory"\n', tmp_path), PSEUDONYMS).export(out)
    other = rules_of('[dataset]\nname = "Perfusion"\nauthors = ["A. Researcher"]\n', tmp_path)
    assert Exporter(clinic, other, PSEUDONYMS).export(out, dry_run=dry_run).kept == ["Name", "Authors"]
    assert Exporter(clinic, rules_of("", tmp_path), PSEUDONYMS).export(out, dry_run=dry_run).kept == []


def test_series_that_do_not_fit_are_counted_unless_they_are_in_the_data_set(tmp_path: Path) -> None:
    clinic, out = Clinic(tmp_path, 3), tmp_path / "out"
    exporter = Exporter(clinic, rules_of("", tmp_path), PSEUDONYMS, compile_selector("series_number == 1"))
    assert exporter.export(out).not_selected == 2
    later = Exporter(clinic, rules_of("", tmp_path), PSEUDONYMS, compile_selector("series_number == 2"))
    assert (report := later.export(out)).not_selected == 1
    assert report.volumes == 2


def test_a_series_that_may_fit_when_it_is_converted_is_listed_as_open(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path, 3)
    unknown = {"state": "receiving", "weighting": None}
    for at in (0, 1):
        one = clinic.series[at]
        clinic.series[at] = replace(one, problem=STILL_OPEN, volumes=(), facts={**one.facts, **unknown})
    where = 'weighting == "T1" and series_number != 2'
    report = Exporter(clinic, rules_of("", tmp_path), PSEUDONYMS, compile_selector(where)).export(tmp_path / "out")
    assert [(one.series_instance_uid, one.reason) for one in report.skipped] == [("1.2.1.1", STILL_OPEN)]
    assert report.not_selected == 2


def test_people_who_share_a_patient_id_are_no_subject_before_a_table_names_each(tmp_path: Path) -> None:
    """A row that fits both names neither; a study, or another column that only one has, tells them apart."""
    clinic, out = Clinic(tmp_path, 3), tmp_path / "out"
    clinic.ids = {1: "P1", 2: "P1"}
    of_studies = "study_instance_uid, accession_number or study_date"

    def exported(rows: str | None, study: str | None = None) -> tuple[list[str], set[str]]:
        rules = "" if rows is None else '[subjects]\nmap = "subjects.csv"\n'
        (tmp_path / "subjects.csv").write_text(f"patient_id,study_date,study_instance_uid,subject\nP3,,,03\n{rows}")
        exporter = Exporter(clinic, rules_of(rules, tmp_path), PSEUDONYMS)
        report = exporter.export(out, study, dry_run=study is None)
        names = sorted(path.partition("/")[0] for path in report.change.added if path.startswith("sub-"))
        return names, {one.reason for one in report.skipped}

    named, reasons = exported(None)
    assert (len(named), reasons) == (
        1,
        {f"several patients have one label: name each in a table of subjects, by {of_studies}"},
    )
    assert exported(None, study="1.2.1") == ([], reasons), "a route knows of both, too"
    apart = (
        f"several patients have this Patient ID: the table of subjects needs a row of this one alone, by {of_studies}"
    )
    clinic.series = [replace(one, facts={**one.facts, "patient_id": "P1"}) for one in clinic.series]
    for each in clinic.series:
        each.facts["study_instance_uid"] = each.study_instance_uid
    assert exported("P1,,,77\n") == (["sub-03"], {apart})
    assert exported("P1,2026-02-01,,77\n") == (["sub-03", "sub-77"], {apart})
    assert exported("P1,2026-02-01,,77\nP1,2026-02-02,,78\n") == (["sub-03", "sub-77", "sub-78"], set())
    assert exported("P1,,1.2.1,77\nP1,,1.2.2,77\n") == (["sub-03", "sub-77", "sub-77"], set()), "a person says so"
    clinic.series[1].facts["study_date"] = clinic.series[0].facts["study_date"]
    assert exported("P1,2026-02-01,,77\n") == (["sub-03"], {apart}), "the row fits both"
    clinic.series = [clinic.series[0], clinic.series[2]]
    assert exported("P1,,,77\n") == (["sub-03", "sub-77"], set())
    assert exported("P1,2026-02-01,,77\nP1,2026-02-02,,78\n") == (["sub-03", "sub-77"], set())
    _, [reason] = exported("P1,2026-02-01,,77\nP1,2026-02-01,,78\n")
    assert reason.startswith("the rows name several subjects: ")


def test_a_patient_who_gets_a_namesake_keeps_the_files_and_is_listed(tmp_path: Path) -> None:
    clinic, out = Clinic(tmp_path, 2), tmp_path / "out"
    both, clinic.series = clinic.series, clinic.series[:1]
    Exporter(clinic, rules_of("", tmp_path), PSEUDONYMS).export(out)
    clinic.series, clinic.ids = both, {1: "P1", 2: "P1"}
    report = Exporter(clinic, rules_of("", tmp_path), PSEUDONYMS).export(out)
    assert (report.change.removed, [one.reason.partition(":")[0] for one in report.left]) == (
        [],
        ["several patients have one label"],
    )


def test_a_volume_whose_series_is_received_again_is_not_pruned(tmp_path: Path) -> None:
    clinic, out = Clinic(tmp_path, 1), tmp_path / "out"
    Exporter(clinic, rules_of("", tmp_path), PSEUDONYMS).export(out)
    clinic.series = [replace(clinic.series[0], problem=STILL_OPEN)]
    report = Exporter(clinic, rules_of("", tmp_path), PSEUDONYMS, prune=True).export(out)
    assert (report.change.removed, report.left, [one.reason for one in report.skipped]) == ([], [], [STILL_OPEN])
    assert len([*out.rglob("*.nii.gz")]) == 1


def test_a_session_that_is_older_than_one_with_a_lower_number_is_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Numbers stay: another program may know the session by its own."""
    clinic, out = Clinic(tmp_path, 1), tmp_path / "out"
    exporter = Exporter(clinic, rules_of("", tmp_path), PSEUDONYMS)
    assert exporter.export(out).late == {}
    [march] = clinic.series
    for study, moved in ((8, -30), (9, 30)):
        moment = march.study_started + dt.timedelta(days=moved)
        uids = {"study_instance_uid": f"1.2.{study}", "series_instance_uid": f"1.2.{study}.1"}
        clinic.series.append(replace(march, study_started=moment, **uids))
    print_report(exporter.export(out), out, [], dry_run=False, uids=False)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("add ")]
    assert [line.endswith("  (older than ses-01, which keeps its number)") for line in lines] == [True, False]
    assert "/ses-02/" in lines[0]
    assert exporter.export(out).late == {}
