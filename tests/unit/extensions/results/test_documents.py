"""JSON becomes a structured report, a PDF an Encapsulated PDF, each with its references; files say what they are."""

import datetime as dt
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from node.errors import ResultRefused
from node.extensions.reports.report import read_document
from node.extensions.results.makers import ResultIdentity, ResultMaking, ResultSource
from node.extensions.results.manifest import Manifest, ManifestEntry, left_in
from node.extensions.results.report import make_document, make_report
from node.files.reading import read_instance
from tests import make

UNITS = "mm2 [hnsf'U] % {pixels} 10*6/L g/ml{SUVbw} mm[Hg] umol/(min.mL) ml/min/{1.73_m2} [in_i]"
MEASURED = '{"measurements": [{"name": "x", "value": 1, "unit": "%s"}]}'
UCUM_ML = {"value": "mL", "scheme": "UCUM", "meaning": "mL"}


@pytest.fixture
def making(tmp_path: Path) -> ResultMaking:
    """What asks for a result of three slices."""
    series = make.ct_series(
        3, SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg", TimezoneOffsetFromUTC="+0130"
    )
    series[0].save_as(tmp_path / "sample.dcm", enforce_file_format=True)
    (tmp_path / "made.dcm").touch()
    source = ResultSource(
        str(series[0].StudyInstanceUID),
        str(series[0].SeriesInstanceUID),
        tuple((str(ds.SOPClassUID), str(ds.SOPInstanceUID)) for ds in series),
        tmp_path / "sample.dcm",
    )
    entry = ManifestEntry("report.json", "report", "report", "Befund", "threshold", "1")
    now = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    identity = ResultIdentity("1.2.3", "1.2.3.4", 9001)
    return ResultMaking(entry, tmp_path / "report.json", source, identity, tmp_path / "made.dcm", now)


def test_measurements_are_read_back_with_their_references(making: ResultMaking) -> None:
    lung = {"value": "39607008", "scheme": "SCT", "meaning": "Lung"}
    measured = [{"name": "Länge", "value": 12.5, "unit": "mm", "site": lung}, {"name": lung, "value": 3, "unit": "mL"}]
    measured += [{"name": unit, "value": 1, "unit": unit} for unit in UNITS.split()]
    making.file.write_text("\ufeff" + json.dumps({"measurements": measured}), encoding="utf-8")
    make_report(making)
    groups = read_document(read_instance(making.into)).record["groups"]
    assert [each["value"] for group in groups for each in group["measurements"]] == [12.5, 3.0, *[1.0] * 10]
    assert groups[1]["measurements"][0]["unit"] == UCUM_ML
    assert "39607008" in json.dumps(groups[0])
    found = dcmread(making.into)
    assert (found.PatientName, found.SeriesDescription) == ("Müller^Jörg", "Befund")
    [study] = found.CurrentRequestedProcedureEvidenceSequence
    referenced = [
        str(each.ReferencedSOPInstanceUID) for each in study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    ]
    assert referenced == [uid for _, uid in making.source.instances]


def test_no_measurement_is_nothing_measured(making: ResultMaking) -> None:
    making.file.write_text('{"measurements": []}')
    make_report(making)
    [item] = dcmread(making.into).ContentSequence
    assert item.TextValue == "nothing measured"


def test_other_json_is_a_list_of_texts(making: ResultMaking) -> None:
    making.file.write_text(json.dumps({"verdict": "nodule", "scores": [0.5, 0.7]}))
    make_report(making)
    items = dcmread(making.into).ContentSequence
    reported = {item.ConceptNameCodeSequence[0].CodeMeaning: item.TextValue for item in items}
    assert reported == {"verdict": "nodule", "scores": "[0.5, 0.7]"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[1]", "not a JSON object"),
        ("{", "not JSON in UTF-8"),
        ('{"measurements": [{"name": "x", "value": NaN, "unit": "mm"}]}', "NaN"),
        ('{"measurements": [{"name": "x", "value": 1}]}', "measurements.0.unit: must be given"),
        ("[" * 100_000, "not JSON in UTF-8"),
        ('{"measurements": [{"name": "x", "value": true, "unit": "mm"}]}', "must be a number"),
        ('{"a": [{"b\\u0000": 1}]}', "a control character"),
        ('{"measurements": [], "note": "lost"}', "note"),
        ('{"a": {"b": 1, "b": 2}}', "the file has a field twice"),
        *((MEASURED % unit, "must be a unit of UCUM") for unit in ("HU", "mm Hg", "mm^3", "pixels", "mL/", "µm", "(m")),
        ('{"\\ud800": "x"}', "half of a surrogate pair"),
    ],
)
def test_json_that_is_no_report_is_refused(making: ResultMaking, content: str, reason: str) -> None:
    making.file.write_text(content)
    with pytest.raises(ResultRefused, match=reason):
        make_report(making)


def test_a_pdf_is_encapsulated_as_it_is(making: ResultMaking) -> None:
    pdf = b"%PDF-1.4\n" + bytes(range(256)) + b"\n%%EOF\n"
    making.file.write_bytes(pdf)
    make_document(making)
    found = dcmread(making.into)
    assert (found.ContentTime, found.TimezoneOffsetFromUTC) == ("043405", "+0130")
    assert found.EncapsulatedDocument[: found.EncapsulatedDocumentLength] == pdf
    referenced = [str(item.ReferencedSOPInstanceUID) for item in found.SourceInstanceSequence]
    assert referenced == [uid for _, uid in making.source.instances]
    making.file.write_bytes(pdf[:-20])
    with pytest.raises(ResultRefused, match="not a whole PDF"):
        make_document(making)


def leave(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).touch()
    return folder


def test_files_are_results_by_their_names(tmp_path: Path) -> None:
    folder = leave(tmp_path, "lung.nii.gz", "report.PDF", "a.json", "seg.dcm", ".hidden")
    found = {entry.file: (entry.kind, entry.name) for entry in left_in(folder, None, "hook", [])}
    assert found == {
        "a.json": ("report", "a"), "lung.nii.gz": ("segmentation", "lung"), "report.PDF": ("document", "report"),
        "seg.dcm": ("instance", "seg"),
    }  # fmt: skip
    assert left_in(tmp_path / "missing", None, "hook", []) == []


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"file": "lung.nii.gz", "description": "a\\b"}, "description: must be text in one line, without a backslash"),
        ({"file": "lung.nii.gz", "labels": {"70000": "a"}}, "labels.70000: must be at most 65535"),
        ({"file": "lung.nii.gz", "label": {}}, "label: is unknown"),
    ],
)
def test_a_wrong_entry_of_a_manifest_takes_no_other_along(tmp_path: Path, entry: dict[str, Any], reason: str) -> None:
    folder, refused = leave(tmp_path, "lung.nii.gz", "a.json"), list[str]()
    listed = "\ufeff" + json.dumps({"results": [entry, {"file": "a.json"}]})
    (folder / "results.json").write_text(listed, encoding="utf-8")
    assert [one.file for one in left_in(folder, None, "hook", refused)] == ["a.json"]
    assert refused == [f"results.json: results.0.{reason}"]


def test_a_file_that_is_no_result_takes_no_other_along(tmp_path: Path) -> None:
    leave(tmp_path, "lung.nii.gz", "log.txt", "bad name.pdf")
    (tmp_path / "secret.pdf").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe.pdf")
    with (tmp_path / "report.json").open("wb") as file:
        file.truncate(5_000_000)
    refused: list[str] = []
    assert [entry.file for entry in left_in(tmp_path, None, "hook", refused)] == ["lung.nii.gz"]
    names = ("bad name.pdf", "secret.pdf", "pipe.pdf", "log.txt is not a result", "report.json: the file is larger")
    assert all(any(name in reason for reason in refused) for name in names)
    assert len(refused) == 5

    refused.clear()
    listed = [{"file": name} for name in ("lung.nii", "log.txt", "lung.nii.gz", "lung.nii.gz", "secret.pdf")]
    entries = left_in(tmp_path, Manifest.of({"results": listed}), "hook", refused)
    assert [entry.file for entry in entries] == ["lung.nii.gz"]
    reasons = ("no file 'lung.nii'.*did you mean", "log.txt is not a result", "listed twice", "no file 'secret.pdf'")
    assert all(any(re.search(reason, one) for one in refused) for reason in reasons)
