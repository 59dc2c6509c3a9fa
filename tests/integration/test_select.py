"""Selectors on a real index: the facts of received and converted series, and who asks for them."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

import node
from node.api import Audit, Settings
from node.lifecycle.retention import Retention
from node.receive.ingest import Origin
from node.runtime.metrics import Metrics
from node.selector import compile_selector
from node.selector.fields import FIELDS, grid_fields
from node.settings.core import RetentionSettings
from node.volume.reasons import REMEDIES
from tests import make
from tests.integration.conftest import Root
from tests.preloaded import run


def take(root: Root, series: list[Any], title: str = "CT1") -> tuple[str, str]:
    root.take_all(series, Origin("dicom", title, "VOXELNODE", "127.0.0.1:1"))
    return str(series[0].StudyInstanceUID), str(series[0].SeriesInstanceUID)


def facts(root: Root, key: tuple[str, str], revision: int | None = None) -> dict[str, Any]:
    with root.index.reading() as index:
        found = index.facts.of_series(FIELDS, *key, revision)
    return dict(found)


def selected(root: Root, where: Any) -> list[tuple[str, str]]:
    with root.index.reading() as index:
        return list(index.facts.selected(compile_selector(where)))


def described(series: list[Any], **attributes: Any) -> list[Any]:
    for ds in series:
        for name, value in attributes.items():
            setattr(ds, name, value)
    return series


def test_every_field_has_the_value_of_the_series(root: Root) -> None:
    series = described(
        make.ct_series(4), BodyPartExamined="CHEST", SeriesDescription="Thorax 0.6", PatientAge="018M",
        StudyDate="20251222", PatientBirthDate="20240601", ProtocolName="Lunge",
    )  # fmt: skip
    key = take(root, series, "CT1")
    before = facts(root, key)
    root.convert_due()
    found = facts(root, key)
    assert before["slices"] is None
    assert (before["volumes"], before["warnings"], before["verdict"]) == (0, [], None)
    expected = {
        "modality": "CT", "body_part": "CHEST", "series_description": "Thorax 0.6", "protocol_name": "Lunge",
        "patient_age": 1.5, "patient_birth_date": dt.date(2024, 6, 1), "study_date": dt.date(2025, 12, 22),
        "state": "converted", "verdict": "complete", "revision": 1, "failures": [], "instances": 4, "frames": 4,
        "calling_ae_titles": ["CT1"], "called_ae_titles": ["VOXELNODE"], "sources": ["dicom"],
        "volumes": 1, "columns": 12, "rows": 16, "slices": 4, "times": 1, "geometry": "regular",
        "orientation": "axial", "study_series": 1, "study_instance_uid": key[0], "series_instance_uid": key[1],
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert found["column_spacing_mm"] > 0
    assert found["slice_spacing_mm"] > 0
    assert found["last_received_at"] < root.clock()
    assert found["days_since_study"] > 0


def test_a_field_and_the_column_of_the_catalog_of_its_name_have_one_value(root: Root) -> None:
    stated = {"ScanningSequence": "GR", "SequenceVariant": "MP", "MRAcquisitionType": "3D", "BodyPartExamined": "HEAD"}
    times = {"RepetitionTime": "2300", "EchoTime": "2.98", "InversionTime": "900", "FlipAngle": "9"}
    key = take(root, make.mr_series(4, MagneticFieldStrength="3", SliceThickness="1.5", **stated, **times))
    root.convert_due()
    wanted = 'weighting == "T1" and body_part == "HEAD" and slice_spacing_mm > 0 and echo_time_ms < 3'
    assert selected(root, wanted) == [key]
    found = facts(root, key)
    place = root.index.place
    [row] = node.open(root.folder, {} if isinstance(place, Path) else {"index.url": place.url}).catalog()
    shared = set(row.keys()) & set(FIELDS)
    assert {"weighting", "body_part", "slice_spacing_mm", "repetition_time_ms"} < shared
    assert (row["weighting"], row["body_part"], row["repetition_time_ms"]) == ("T1", "HEAD", 2300.0)
    for name in shared:
        assert row[name] == (found[name].isoformat() if isinstance(found[name], dt.date) else found[name]), name


@pytest.mark.parametrize("kind", ["one slice", "no geometry"])
def test_what_has_no_distance_between_slices_has_no_spacing(root: Root, kind: str) -> None:
    key = take(root, make.ct_series(1) if kind == "one slice" else [make.rgb_capture(frames=3)])
    root.convert_due()
    assert facts(root, key)["volumes"] == 1
    assert facts(root, key)["slice_spacing_mm"] is None
    assert selected(root, "slice_spacing_mm < 3") == []
    place = root.index.place
    [row] = node.open(root.folder, {} if isinstance(place, Path) else {"index.url": place.url}).catalog()
    assert row["slice_spacing_mm"] is None
    assert row["column_spacing_mm"] == facts(root, key)["column_spacing_mm"] > 0


def test_a_spacing_is_the_number_that_people_write(root: Root) -> None:
    """Positions are decimal numbers: 1 mm between them is 0.9999999999999929 mm, or slightly more than 1 mm."""
    key = take(root, make.ct_series(5, spacing=1.0, orientation=make.OBLIQUE, origin=(-101.7, 33.3, 47.1)))
    root.convert_due()
    assert facts(root, key)["slice_spacing_mm"] == 1.0
    assert selected(root, "slice_spacing_mm == 1 and column_spacing_mm <= 0.7") == [key]


@pytest.mark.parametrize(
    ("placed", "nominal"), [(4.00000165, 4), (1.20000567, 1.2), (10.4999981, 10.5), (0.0125, 0.0125)]
)
def test_a_distance_of_positions_has_the_digits_that_they_tell(root: Root, placed: float, nominal: float) -> None:
    key = take(root, make.ct_series(4, spacing=placed))
    root.convert_due()
    both = f"slice_spacing_mm <= {nominal} and slice_spacing_mm >= {nominal}"
    assert selected(root, f"slice_spacing_mm == {nominal} and {both}") == [key]
    place = root.index.place
    catalog = node.open(root.folder, {} if isinstance(place, Path) else {"index.url": place.url}).catalog()
    assert [row["slice_spacing_mm"] for row in catalog] == [nominal]
    [file] = root.rows("SELECT shape, spacing_mm, geometry FROM v_volumes")
    shape, spacing_mm = (json.loads(file[name]) for name in ("shape", "spacing_mm"))
    assert grid_fields(shape, spacing_mm, file["geometry"])["slice_spacing_mm"] == nominal


@pytest.mark.filterwarnings("ignore:Invalid value for VR AS")
@pytest.mark.parametrize("age", ["", "18Y", "ABCY", "045X"])
def test_an_age_that_is_none_is_missing(root: Root, age: str) -> None:
    assert facts(root, take(root, described(make.ct_series(1), PatientAge=age)))["patient_age"] is None


def test_a_revision_has_its_own_volumes_and_only_the_newest_a_verdict(root: Root) -> None:
    whole = make.ct_series(5)
    key = take(root, whole[:4])
    root.convert_due()
    take(root, whole[4:])
    root.convert_due()
    assert (facts(root, key, 1)["slices"], facts(root, key, 1)["verdict"]) == (4, None)
    assert (facts(root, key, 2)["slices"], facts(root, key, 2)["verdict"]) == (5, "complete")
    assert facts(root, key)["slices"] == 5


def test_the_largest_volume_gives_the_geometry_and_all_give_warnings(root: Root) -> None:
    key = take(root, make.ct_series(3))
    take(root, described(make.ct_series(6, SeriesInstanceUID=key[1], StudyInstanceUID=key[0]), Rows=16))
    root.convert_due()
    with root.index.reading() as index:
        files = index.volumes.of_series(*key)
    shapes = [json.loads(row["shape"]) for row in files]
    warnings = {name for row in files for name in json.loads(row["warnings"])}
    assert facts(root, key)["slices"] == max(shape[2] for shape in shapes)
    assert set(facts(root, key)["warnings"]) == warnings


def test_selection_goes_over_more_series_than_one_query_reads(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.index.look.series.CHUNK_ROWS", 2)
    keys = [take(root, make.ct_series(1)) for _ in range(5)]
    assert selected(root, {"modality": "CT"}) == keys[::-1]
    assert selected(root, f'series_instance_uid == "{keys[1][1]}"') == [keys[1]]
    assert selected(root, 'modality == "MR"') == []


@pytest.mark.slow
def test_select_lists_what_fits_and_why_the_rest_does_not(root: Root) -> None:
    fits = take(root, make.ct_series(4))
    other = take(root, make.ct_series(2))
    root.convert_due()
    done = run("select", 'modality == "CT" and slices >= 4', "--why", "--json", "--root", root.folder)
    result = json.loads(done.stdout)
    assert (result["selected"], result["others"]) == (1, 1)
    assert [row["series_instance_uid"] for row in result["series"]] == [fits[1]]
    assert result["clauses"] == {"slices >= 4": 1}
    [reason] = result["why_not"]
    assert (reason["series_instance_uid"], reason["study_instance_uid"]) == (other[1], other[0])
    assert reason["clauses"] == [{"clause": "slices >= 4", "instead": "slices is 2"}]
    shown = run("select", 'modality == "CT" and slices >= 4', "--why", "--root", root.folder).stdout
    assert "1 of 2 series" in shown
    assert "slices is 2" in shown
    for_programs = run("select", 'modality == "CT" and slices >= 4', "--why", "--tsv", "--root", root.folder).stdout
    names, *rows = (line.split("\t") for line in for_programs.splitlines())
    found = [dict(zip(names, row, strict=True)) for row in rows]
    assert [(row["series_instance_uid"], row["why_not"]) for row in found] == [(fits[1], ""), (other[1], "slices is 2")]
    assert names == [*FIELDS, "why_not"]
    assert (found[0]["column_spacing_mm"], found[0]["volumes"], found[0]["study_instance_uid"]) == ("0.5", "1", fits[0])
    wrong = run("select", 'modalty == "CT"', "--root", root.folder)
    assert wrong.returncode == 2
    assert 'at character 1: unknown field "modalty", did you mean "modality"?' in wrong.stderr


@pytest.mark.slow
def test_select_names_series_as_people_do_and_those_that_wait_for_their_conversion_in_one_line(root: Root) -> None:
    fits = make.mr_series(
        3, PatientName="P1", StudyDate="20261103", SeriesNumber=2, SeriesDescription="t1_se", EchoTime=12,
        RepetitionTime=500, ScanningSequence="SE",
    )  # fmt: skip
    other = make.mr_series(
        3, PatientName="P2", StudyDate="20261104", SeriesNumber=5, SeriesDescription="loc", EchoTime=12
    )  # fmt: skip
    take(root, fits)
    take(root, other)
    take(root, make.mr_series(3, PatientName="P5", EchoTime=90))
    root.convert_due()
    take(root, make.mr_series(3, PatientName="P3"))
    take(root, make.ct_series(3, PatientName="P4", StudyDate="20261105"))
    asked = ("select", 'modality == "MR" and weighting == "T1" and echo_time_ms < 20', "--why", "--root", root.folder)
    shown = run(*asked).stdout.splitlines()
    table = shown.index("1 of 5 series")
    assert "2 series do not fit one clause" in shown
    assert "1 series does not fit several clauses: see --json or --tsv" in shown
    assert not [line for line in shown if line.startswith("P5")]
    assert shown[table + 1].endswith("echo time ms  weighting  series")
    assert {"T1", "12.0", str(fits[0].SeriesInstanceUID)} <= set(shown[table + 2].split())
    [line] = [line for line in shown if line.split()[:4] == ["P2", "2026-11-04", "5", "loc"] and "T1" in line]
    assert line.split()[-1] == other[0].SeriesInstanceUID
    open_series = shown.index("1 series may fit, but is not converted yet")
    assert [line.split()[0] for line in shown[open_series + 1 :]] == ["patient", "P3"]
    assert run(*asked[:2], *asked[3:]).stdout.splitlines()[-1] == (
        "1 more may fit, but is not converted yet: see --why"
    )
    [line] = [line for line in shown if line.startswith("P4") and "modality" in line]
    assert 'modality is "CT"' in line
    result = json.loads(run(*asked, "--json").stdout)
    assert (result["not_converted"], result["clauses"]['weighting == "T1"']) == (1, 2)
    assert [row["patient_name"] for row in result["why_not"]] == ["P4", "P3", "P5", "P2"]
    assert result["why_not"][1]["clauses"][0]["instead"] == "not converted yet"
    on_medium = run("export", "--media", root.folder / "cd", "--where", asked[1], "--root", root.folder)
    assert "1 series may fit, but is not converted yet. Its name: voxelnode select " in on_medium.stdout
    assert max(map(len, run(*asked, environment={"COLUMNS": "80"}).stdout.splitlines())) < max(map(len, shown))


def test_a_name_in_the_place_of_a_patient_id_finds_nothing_and_says_so(root: Root) -> None:
    take(root, make.ct_series(1, PatientID="P1", PatientName="Okoye^Chi"))
    none = run("series", "--patient", "Okoye Chi", "--root", root.folder).stdout
    assert none == "0 series. --patient is a Patient ID; for a name: voxelnode info 'Okoye Chi'\n"
    assert run("series", "--modality", "MR", "--root", root.folder).stdout == "0 series\n"
    assert "P1" in run("info", "Okoye Chi", "--root", root.folder).stdout


def test_the_list_of_refused_series_has_each_remedy_once(root: Root) -> None:
    for _ in range(2):
        take(root, described(make.ct_series(2), PixelSpacing=[0.0, 0.0]))
    root.convert_due()
    listed = run("series", "--state", "refused", "--root", root.folder).stdout
    assert listed.count("refused  bad-geometry: ") == 2
    assert listed.count(" ".join(REMEDIES["bad-geometry"].split()[:5])) == 1
    assert max(map(len, listed.splitlines())) <= 80


def test_retention_keeps_studies_with_a_series_that_fits(root: Root) -> None:
    kept, gone = take(root, described(make.ct_series(1), BodyPartExamined="HEAD")), take(root, make.ct_series(1))
    root.clock.move(40 * 86400)
    rules = RetentionSettings(days=30, only_converted=False, keep_where={"body_part": "HEAD"})
    audit = Audit(root.folder, "VOXELNODE", now=root.clock)
    assert (
        Retention(root.archive, root.index, audit, Metrics(), Settings(retention=rules), root.clock).run_once(
            root.clock()
        )
        == 1
    )
    audit.close()
    assert selected(root, 'modality == "CT"') == [kept]
    assert gone not in selected(root, 'modality == "CT"')
