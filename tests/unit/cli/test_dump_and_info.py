"""``voxelnode dump`` and ``voxelnode info``."""

import json
import warnings
from itertools import accumulate
from pathlib import Path
from typing import Any
from unicodedata import combining, east_asian_width
from unittest.mock import Mock

import numpy as np
import pytest
from pydicom import Dataset

from node.cli.look.info import _print, plane_of
from node.index.database import Index
from node.index.reading import reading
from node.runtime.metrics import Metrics
from tests import make
from tests.converting import convert_series
from tests.rows import read_rows, write_rows


@pytest.fixture
def series(tmp_path: Path) -> list[Dataset]:
    """A CT of three slices in ``scan``."""
    datasets = make.ct_series(
        3, PatientID="P 1", Manufacturer="Maker", StationName="A\x1b[2JB", SeriesDescription="Thorax"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make.saved(datasets, tmp_path / "scan")
    return datasets


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dump", "absent"), "absent: neither a file nor a SOP Instance UID"),
        (("dump", "1.2.3"), "1.2.3: no instance here"),
        (("info", "1.2.3"), "1.2.3: never received here, or under another UID, ID or name"),
    ],
)
def test_an_unknown_uid_or_file_is_one_line_with_status_2(
    run, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    Index(tmp_path / "here", Metrics()).close()
    root = ("--root", "here")
    status, out, err = run(*arguments, *root)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_each_level_is_shown_with_those_above_it_and_its_children_counted(run, series: list[Dataset]) -> None:
    assert run("import", "scan", "--root", "here")[0] == 0
    ds = series[1]

    def info(uid: str) -> dict:
        status, out, _ = run("info", uid, "--root", "here", "--json")
        assert status == 0
        return json.loads(out)

    found = info(ds.SOPInstanceUID)
    assert found["level"] == "instance"
    assert (found["instance"]["instance_number"], found["instance"]["rows"]) == (2, 16)
    assert Path(found["instance"]["path"]).is_file()
    assert found["series"]["series_description"] == "Thorax"
    assert found["study"]["study_instance_uid"] == ds.StudyInstanceUID
    assert found["patient"]["patient_id"] == "P 1"
    found = info(ds.SeriesInstanceUID)
    assert (found["level"], found["series"]["instances"], found["volumes"]) == ("series", 3, [])
    assert "instance" not in found
    found = info(ds.StudyInstanceUID)
    assert (found["level"], found["study"]["series"], found["study"]["instances"]) == ("study", 1, 3)
    found = info("P 1")
    assert found["level"] == "patient"
    assert found["patients"][0]["studies"] == 1
    assert found["study_instance_uids"] == [ds.StudyInstanceUID]
    fields = [line.split() for line in run("info", ds.SeriesInstanceUID, "--root", "here")[1].splitlines()]
    assert ["series_description", "Thorax"] in fields


def test_a_patient_is_found_by_part_of_the_name_and_a_series_by_the_end_of_its_uid(run, series: list[Dataset]) -> None:
    assert run("import", "scan", "--root", "here")[0] == 0
    uid, name = series[0].SeriesInstanceUID, str(series[0].PatientName)
    first, second = name.split("^")[:2]
    for text in (first.lower(), f"{first} {second}".upper(), second):
        found = json.loads(run("info", text, "--root", "here", "--json")[1])
        assert (found["level"], [patient["patient_name"] for patient in found["patients"]]) == ("patient", [name])
        assert [(study["series"], study["header"]) for study in found["studies"]] == [(1, {"Manufacturer": "Maker"})]
    for text in ("%", "_", "\\", "' OR 1=1", "%%%%"):
        assert run("info", text, "--root", "here")[0] == 2
    for text in (f"..{uid[-8:]}", uid[-8:]):
        found = json.loads(run("info", text, "--root", "here", "--json")[1])
        assert (found["level"], found["series"]["series_instance_uid"]) == ("series", uid)
    assert f"study {series[0].StudyInstanceUID}" in run("info", first, "--root", "here")[1]


def test_info_says_that_it_shows_the_first_patients_only(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make.saved((make.ct_series(1, PatientID=id)[0] for id in ("P-1", "P-2")), tmp_path / "scan")
    run("import", "scan", "--root", "here")
    monkeypatch.setattr("node.cli.look.info.MAX_PATIENTS", 2)
    assert "only the first" not in run("info", "voxel", "--root", "here")[1]
    monkeypatch.setattr("node.cli.look.info.MAX_PATIENTS", 1)
    assert run("info", "voxel", "--root", "here")[1].endswith("only the first 1 patients are shown\n")
    assert json.loads(run("info", "voxel", "--root", "here", "--json")[1])["first_only"] == {"patients": 1}


def test_the_index_is_opened_once_for_all_conflicts_that_are_compared(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = [make.ct_series(1, SeriesDescription=name)[0] for name in ("A", "")]
    for folder, versions in {"first": series, "then": map(make.corrected, series)}.items():
        make.saved(versions, tmp_path / folder)
        run("import", folder, "--root", "here")
    monkeypatch.setattr("node.index.reading.reading", opened := Mock(wraps=reading))
    text = run("conflicts", "--root", "here")[1]
    assert (text.count(": A, now corrected"), text.count(": nothing, now corrected"), opened.call_count) == (1, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("series", "--study", "{}"),
        ("audit", "--uid", "{}"),
        ("reconvert", "{}", "--dry-run"),
        ("delete", "{}", "--dry-run"),
        ("delete", "..7777", "--study", "{}", "--dry-run"),
        ("patient", "correct", "P 1", "--id", "P 2", "--study", "{}", "--dry-run"),
        ("lost", "write-off", "{}", "--reason", "tried", "--yes"),
    ],
    ids=" ".join,
)
def test_commands_know_a_study_by_all_that_people_call_it(run, tmp_path: Path, command: tuple[str, ...]) -> None:
    study = make.ct_series(1, study_uid="1.2.8888", series_uid="1.2.7777", PatientID="P 1", AccessionNumber="ACC 1")
    make.saved(study, tmp_path / "scan")
    run("import", "scan", "--root", "here")
    told = [
        run(*(part.format(name) for part in command), "--root", "here", "--json")
        for name in ("1.2.8888", "..8888", "ACC 1", "P 1")
    ]
    assert told == [told[0]] * 4


def test_the_end_of_two_uids_is_told_to_be_that(run, tmp_path: Path) -> None:
    make.saved((make.ct_series(1, series_uid=uid)[0] for uid in ("1.2.1.7777", "1.2.2.7777")), tmp_path / "scan")
    run("import", "scan", "--root", "here")
    status, _, err = run("info", "..7777", "--root", "here")
    assert (status, "names several: give the UID of one" in err) == (2, True)
    assert run("info", "1.7777", "--root", "here")[0] == 0


def test_the_header_of_a_series_tells_what_the_index_does_not_have(run, tmp_path: Path) -> None:
    about = {"InstitutionName": "Spital \x1b[31m", "PatientAge": "042Y", "PatientWeight": "70.5", "SliceLocation": "-3"}
    *others, ds = make.mr_series(3, **about, SliceThickness="2.5", PatientPosition="HFS")
    enhanced = make.enhanced_mr(4, 1)
    make.saved([*others, ds, enhanced], tmp_path / "some")
    run("import", "some", "--root", "here")

    def header(uid: str) -> dict:
        return json.loads(run("info", uid, "--root", "here", "--json")[1])["header"]

    of_series = header(ds.SeriesInstanceUID)
    assert (of_series["PatientAge"], of_series["PatientWeight"], of_series["PatientPosition"]) == ("042Y", 70.5, "HFS")
    assert (of_series["SliceThickness"], of_series["SliceLocation"], of_series["orientation"]) == (2.5, -3, "axial")
    assert len(of_series["PixelSpacing"]) == 2
    assert len(of_series["ImagePositionPatient"]) == 3
    assert header(ds.SOPInstanceUID) == of_series | {
        "ImagePositionPatient": [float(number) for number in ds.ImagePositionPatient]
    }
    assert header(ds.StudyInstanceUID).keys() == {"InstitutionName", "PatientAge", "PatientWeight"}
    assert header(enhanced.SeriesInstanceUID).keys() >= {"PixelSpacing", "ImagePositionPatient", "orientation"}
    text = run("info", ds.SeriesInstanceUID, "--root", "here")[1]
    assert "  InstitutionName" in text
    assert "\x1b" not in text
    Path(json.loads(run("info", ds.SOPInstanceUID, "--root", "here", "--json")[1])["instance"]["path"]).unlink()
    assert header(ds.SOPInstanceUID) == {"problem": "the file is missing: run `voxelnode fsck`"}


@pytest.mark.parametrize(
    ("cosines", "plane"),
    [
        ((1, 0, 0, 0, 1, 0), "axial"),
        ((1, 0, 0, 0, 0, -1), "coronal"),
        ((0, 1, 0, 0, 0, -1), "sagittal"),
        ((1, 0, 0, 0, 0.9, -0.436), "oblique, nearest to axial"),
    ],
)
def test_a_plane_is_named_as_radiologists_do(cosines: tuple[float, ...], plane: str) -> None:
    assert plane_of(cosines) == plane


LONG_NAME = "Wolfeschlegelsteinhausenbergerdorff^Hubert Blaine"


@pytest.mark.parametrize("name", [LONG_NAME, "漢字" * 20, "Ünï\u0308^" * 10, ""])
def test_tables_have_whole_uids_in_columns_and_fields_for_programs(run, tmp_path: Path, name: str) -> None:
    described = {"PatientName": name, "SeriesDescription": "T1 \x1b[2J" + "x" * 50, "SeriesNumber": 2147483647}
    described["SpecificCharacterSet"] = "ISO_IR 192"
    make.saved([*make.ct_series(1, **described), make.structured_report()], tmp_path / "some")
    run("import", "some", "--root", "here")
    uid = make_failures_and_deliveries(tmp_path / "here")
    for command in (
        ("series", "--uids"),
        ("series", "--uids", "--state", "refused"),
        ("status",),
        ("hooks", "deliveries"),
    ):
        status, out, _ = run(*command, "--root", "here")
        assert status == 0
        assert "\x1b" not in out
        assert uid in out or command[0] == "hooks"
    assert "not-an-image: " not in run("series", "--root", "here")[1], "a document is no problem"
    head, *rows = run("series", "--uids", "--root", "here")[1].splitlines()[1:3]
    assert all(_columns(row, _columns(head, "series")) == uid for row in rows if uid in row)
    as_json = json.loads(run("series", "--root", "here", "--json")[1])["items"]
    names, *lines = [line.split("\t") for line in run("series", "--root", "here", "--tsv")[1].splitlines()]
    assert names == list(as_json[0])
    assert [line[names.index("series_instance_uid")] for line in lines] == [
        row["series_instance_uid"] for row in as_json
    ]
    assert all(len(line) == len(names) for line in lines)


def _columns(line: str, what: int | str) -> Any:
    """Return the text behind a column of a terminal, or the column at which a text begins."""
    widths = [0 if combining(each) else 1 + (east_asian_width(each) in "WF") for each in line]
    if isinstance(what, str):
        return sum(widths[: line.index(what)])
    return line[list(accumulate(widths, initial=0)).index(what) :]


def test_hooks_and_their_messages_are_within_80_columns(run, tmp_path: Path) -> None:
    make.saved(make.ct_series(1, SeriesDescription="T1 " + "y" * 50), tmp_path / "some")
    run("import", "some", "--root", "here")
    make_failures_and_deliveries(tmp_path / "here")
    every = '"instance-stored", "series-quiet", "volume-written", "volume-superseded", "series-failed", "study-quiet"'
    config = tmp_path / "site.toml"
    config.write_text(f'[hooks.pipeline]\nkind = "command"\ncommand = ["true"]\non = [{every}]\n')
    listed = run("hooks", "list", "--root", "here", "--config", str(config))[1]
    sent = run("hooks", "deliveries", "--root", "here")[1]
    assert "not started yet" in listed
    assert "series-converted to a-hook-with-a-long-name: given-up" in sent
    assert all(part in sent for part in ("12 attempts", "answered 500 Internal Server Error", "id m-1"))
    assert max(map(len, (listed + sent).splitlines())) <= 80


def test_the_hook_of_a_program_is_listed_and_retried_while_messages_wait(run, tmp_path: Path) -> None:
    make.saved(make.ct_series(1), tmp_path / "some")
    run("import", "some", "--root", "here")
    make_failures_and_deliveries(tmp_path / "here")
    assert "a-hook-with-a-long-name" not in run("hooks", "list", "--root", "here")[1]
    write_rows(tmp_path / "here", "UPDATE work SET state = 'waiting', outcome = NULL")
    write_rows(
        tmp_path / "here",
        "INSERT INTO subscribers (kind, name, destination, wanted_kinds, wants_instances, delivered, paused) "
        "VALUES ('hook', 'a-hook-with-a-long-name', '', '[]', :no, 0, :no)",
        no=False,
    )
    listed = run("hooks", "list", "--root", "here")[1]
    assert "a-hook-with-a-long-name  not in the configuration" in listed
    assert "1 waiting" in listed
    code, said = run("hooks", "retry", "a-hook-with-a-long-name", "--root", "here")[:2]
    assert (code, "1 message waiting for another attempt" in said) == (0, True)
    assert run("hooks", "retry", "no-such-hook", "--root", "here")[0] == 2


def make_failures_and_deliveries(root: Path) -> str:
    """Give the oldest series a failure and a message to a hook; return its UID."""
    [row] = read_rows(
        root,
        "SELECT series.id, series_instance_uid, study_instance_uid "
        "FROM series JOIN v_series USING (series_instance_uid) ORDER BY 1 LIMIT 1",
    )
    write_rows(root, "UPDATE series SET state = 'refused', verdict = 'incomplete', verdict_reason = 'one is missing'")
    write_rows(
        root,
        "INSERT INTO failures (series_id, revision, stack, reason, detail, failed_at) VALUES "
        "(:series, 1, NULL, 'unsupported-transfer-syntax', 'because of many things', '2026-01-01 12:00:00')",
        series=row["id"],
    )
    write_rows(
        root,
        "INSERT INTO work (kind, name, destination, key, event, study_instance_uid, series_instance_uid, happened_at, "
        "requested_by, state, outcome, attempts, reason, payload, created_at, changed_at) VALUES ('hook', "
        "'a-hook-with-a-long-name', '', 'm-1', 'series-converted', :study, :series, '2026-01-01 12:00:00', 'hook', "
        "'ended', 'failed', 12, 'answered 500 Internal Server Error', '{}', '2026-01-01 12:00:00', "
        "'2026-01-01 12:00:00')",
        study=row["study_instance_uid"],
        series=row["series_instance_uid"],
    )
    return str(row["series_instance_uid"])


def test_an_open_series_is_shown_with_what_its_senders_ask_and_what_was_learnt_of_them(
    run, series: list[Dataset], tmp_path: Path
) -> None:
    run("import", "scan", "--root", "here")
    root, quiet_at = tmp_path / "here", "2026-01-01 12:00:00.000000"
    awaited = "INSERT INTO awaited_senders (series_id, calling_ae_title, quiet_at) SELECT id, 'CT1', :at FROM series"
    write_rows(root, "DELETE FROM awaited_senders")
    write_rows(root, awaited, at=quiet_at)
    gaps = "[7.0, 11.0, 7.0, 7.0, 7.0]"
    write_rows(root, "INSERT INTO senders VALUES ('CT1', :gaps, 22.0, '2026-01-01 12:00:00')", gaps=gaps)
    uid = series[0].SeriesInstanceUID
    [wait] = json.loads(run("info", uid, "--root", "here", "--json")[1])["waits"]
    assert (wait["calling_ae_title"], wait["quiet_at"]) == ("CT1", quiet_at)
    assert (wait["learnt"]["quiet_seconds"], wait["learnt"]["longest_gap_seconds"]) == (22.0, 11.0)
    assert "22.0" in run("info", uid, "--root", "here")[1]
    [sender] = json.loads(run("status", "--root", "here", "--json")[1])["senders"]
    assert (sender["calling_ae_title"], sender["series"], sender["quiet_seconds"]) == ("CT1", 5, 22.0)
    assert "learnt from senders" in run("status", "--root", "here")[1]


@pytest.mark.slow
def test_the_volumes_of_a_series_are_listed(run, series: list[Dataset], tmp_path: Path) -> None:
    import datetime as dt

    from node.archive.filesystem import Archive
    from node.conversion.pipeline import convert
    from node.writers.options import WriteOptions

    run("import", "scan", "--root", "here")
    root = tmp_path / "here"
    index = Index(root, Metrics())
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    claimed = index.series.claim_due(later)
    assert convert_series(claimed, Archive(root), index, WriteOptions(), convert, lambda: later)
    index.close()
    for uid in (series[0].SeriesInstanceUID, series[0].SOPInstanceUID, series[0].StudyInstanceUID):
        volumes = json.loads(run("info", uid, "--root", "here", "--json")[1])["volumes"]
        assert [volume["format"] for volume in volumes] == ["mhd", "nifti", "png"]
        assert volumes[0]["shape"] == [12, 16, 3]
        assert np.allclose(volumes[0]["spacing_mm"], (0.5, 0.75, 2.5))
        assert volumes[0]["affine_lps"][3] == [0, 0, 0, 1]
        assert volumes[2]["affine_lps"] is None
        assert all(Path(volume["path"]).is_file() for volume in volumes)
    assert "volume.nii.gz" in run("info", series[0].SeriesInstanceUID, "--root", "here")[1]


def test_the_studies_of_people_with_one_patient_id_stand_below_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    study = {"study_date": None, "study_description": None, "series": 1}
    people = [{"number": number, "patient_name": name} for number, name in ((4, "Ann"), (6, "Bob"))]
    studies = [
        {"patient": 6, "study_instance_uid": "1.6", **study},
        {"patient": 4, "study_instance_uid": "1.4", **study},
    ]
    _print({"patients": people, "studies": studies})
    reported = capsys.readouterr().out
    assert reported.index("Ann") < reported.index("study 1.4") < reported.index("Bob") < reported.index("study 1.6")
