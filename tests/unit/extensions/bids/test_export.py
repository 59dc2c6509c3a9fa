"""One study of many: only its own patient is looked at, unless others may have the same label."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from node.extensions.bids.dataset import DatasetUnusable
from node.extensions.bids.export import Exporter
from node.extensions.bids.plan import SubjectSeries
from node.extensions.bids.subjects import Pseudonyms, SubjectPatient
from node.pseudonyms import PseudonymKey
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

    def patients(self, number: int | None = None) -> dict[int, SubjectPatient]:
        self.asked.append(number)
        numbers = {series.patient for series in self.series}
        return {each: SubjectPatient(f"\\P{each}", f"P{each}") for each in numbers if number in (None, each)}

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
    report = exporter.export_study(tmp_path / "out", "1.2.2")
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
        other.export_study(out, "1.2.1")


def test_a_study_of_another_patient_than_before_updates_both(tmp_path: Path) -> None:
    clinic, out = Clinic(tmp_path, 3), tmp_path / "out"
    clinic.series.append(replace(clinic.series[0], series_instance_uid="1.2.1.9"))
    exporter = Exporter(clinic, rules_of("", tmp_path), PSEUDONYMS, prune=True)
    exporter.export(out)
    one, other = (f"sub-{PSEUDONYMS.subject(chr(92) + patient)}" for patient in ("P1", "P3"))
    assert len([*out.glob(f"{one}/**/*.nii.gz")]) == 2
    clinic.series = [replace(series, patient=3) for series in clinic.series]
    exporter = Exporter(clinic, rules_of("", tmp_path), PSEUDONYMS, prune=True)
    report = exporter.export_study(out, "1.2.1")
    assert (len(report.change.added), len(report.change.removed)) == (2, 2)
    assert not [*out.glob(f"{one}/**/*.nii.gz")]
    assert len([*out.glob(f"{other}/**/*.nii.gz")]) == 4
    clinic.series = clinic.series[1:3]
    report = Exporter(clinic, rules_of("", tmp_path), PSEUDONYMS, prune=True).export_study(out, "1.2.1")
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
