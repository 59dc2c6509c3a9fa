"""Measurements of reports and selections of key objects become JSON files, without patient data."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset, FileDataset
from pydicom.uid import generate_uid

from node.conversion.offline import convert_folder
from node.extensions.reports import report
from node.extensions.reports.report import read_document
from node.writers.options import WriteOptions
from tests import make
from tests.converting import here

DIAMETER = ("81827009", "SCT", "Diameter")
SITE = ("363698007", "SCT", "Finding Site")
TRACKING = ("112039", "DCM", "Tracking Identifier")
DESCRIPTION = ("113012", "DCM", "Key Object Description")

Convert = Callable[[Sequence[FileDataset]], tuple[dict[str, Any], dict[str, dict[str, Any]]]]


@pytest.fixture
def convert(tmp_path: Path) -> Convert:
    """Convert files; return the listing, and each JSON file of a report by its name after that of its series."""

    def converted(datasets: Sequence[FileDataset]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        folder, out = tmp_path / generate_uid(), tmp_path / "out"
        make.saved(datasets, folder)
        listing = convert_folder([folder], out, WriteOptions(formats=("nifti",), thumbnails=False), here)
        reports = [row for row in listing["volumes"] if row["kind"] in ("measurements", "key-objects")]
        paths = [Path(row["path"]) for row in reports]
        return listing, {
            path.name.removeprefix(f"{path.parent.name}_"): json.loads((out / path).read_bytes()) for path in paths
        }

    return converted


def code(value: str, scheme: str, meaning: str) -> dict[str, str]:
    return {"value": value, "scheme": scheme, "meaning": meaning}


def tracked(name: str) -> Dataset:
    return make.content_item("HAS OBS CONTEXT", "TEXT", TRACKING, TextValue=name)


def group_of(record: dict[str, Any]) -> dict[str, Any]:
    [group] = record["groups"]
    return dict(group)


def test_measurements_have_concept_value_unit_and_what_they_are_of(convert: Convert) -> None:
    images = make.ct_series(2)
    uid = generate_uid()
    lung = make.coded("39607008", "SCT", "Lung")
    region = make.content_item(
        "INFERRED FROM",
        "SCOORD",
        None,
        GraphicType="CIRCLE",
        GraphicData=[1.0, 2.0, 3.0, 4.5],
        ContentSequence=[make.image_item(images[1], "SELECTED FROM")],
    )
    content = [
        tracked("Nodule 1"),
        make.content_item("HAS OBS CONTEXT", "UIDREF", ("112040", "DCM", "Tracking Unique Identifier"), UID=uid),
        make.content_item("HAS CONCEPT MOD", "CODE", SITE, ConceptCodeSequence=[lung]),
        make.image_item(images[0], ReferencedSegmentNumber=3),
        make.measured(DIAMETER, "12.5", "mm", region),
        make.measured(DIAMETER, "13", "mm"),
    ]
    ds = make.measurement_report(images, *content)
    listing, files = convert([*images, ds])
    [row] = [row for row in listing["volumes"] if row["kind"] == "measurements"]
    assert (row["format"], row["shape"], row["instances"], row["geometry"]) == ("json", (), 1, "none")
    assert [refusal["reason"] for refusal in listing["refusals"]] == ["not-an-image"]
    record = files["measurements.json"]
    assert (record["format"], record["version"], record["SOPInstanceUID"]) == ("measurements", 1, ds.SOPInstanceUID)
    assert record["title"] == code("126000", "DCM", "Imaging Measurement Report")
    series = {"study_instance_uid": images[0].StudyInstanceUID, "series_instance_uid": images[0].SeriesInstanceUID}
    assert record["series"] == [{**series, "instances": 2}]
    group = group_of(record)
    assert group["path"][-1] == code("125007", "DCM", "Measurement Group")
    assert (group["tracking_identifier"], group["tracking_uid"]) == ("Nodule 1", uid)
    assert group["finding_site"] == [code("39607008", "SCT", "Lung")]
    [image] = group["images"]
    assert image == {
        **series,
        "sop_class_uid": images[0].SOPClassUID,
        "sop_instance_uid": images[0].SOPInstanceUID,
        "segments": [3],
    }
    first, second = group["measurements"]
    assert (first["concept"], first["value"], first["unit"]) == (code(*DIAMETER), 12.5, code("mm", "UCUM", "mm"))
    [circle] = first["regions"]
    assert (circle["type"], circle["points_pixels"]) == ("CIRCLE", [[1.0, 2.0], [3.0, 4.5]])
    assert circle["images"][0]["sop_instance_uid"] == images[1].SOPInstanceUID
    assert second["value"] == 13


def test_key_objects_have_title_description_and_references(convert: Convert) -> None:
    images = make.ct_series(3)
    text = make.content_item("CONTAINS", "TEXT", DESCRIPTION, TextValue="For the tumour board")
    _, files = convert([make.key_objects(images[:2], text)])
    record = files["key_objects.json"]
    assert (record["format"], record["title"]) == ("key-objects", code("113000", "DCM", "Of Interest"))
    assert record["description"] == "For the tumour board"
    assert [each["sop_instance_uid"] for each in record["references"]] == [ds.SOPInstanceUID for ds in images[:2]]
    assert {each["series_instance_uid"] for each in record["references"]} == {images[0].SeriesInstanceUID}


def test_nothing_that_names_the_patient_is_in_a_file(convert: Convert) -> None:
    images = make.ct_series(1)
    person = make.content_item("HAS OBS CONTEXT", "PNAME", ("121008", "DCM", "Person Observer Name"), PersonName="A^B")
    note = make.content_item("CONTAINS", "TEXT", ("121106", "DCM", "Comment"), TextValue="seen by Doctor Smith")
    named = make.measured(("1", "99VOXEL", "Length of Voxel"), "1", "mm")
    day = make.content_item("CONTAINS", "DATE", ("111060", "DCM", "Study Date"), Date="19860311")
    text = make.content_item("CONTAINS", "TEXT", DESCRIPTION, TextValue="Voxel, left lung")
    sets = [
        make.measurement_report(images, tracked("tumour of voxel"), person, note, day, named),
        make.key_objects(images, text),
    ]
    _, files = convert(sets)
    assert len(files) == 2
    written = json.dumps(files)
    for word in ("tumour", "A^B", "Smith", "19860311", "left lung", "Length of Voxel", "TEST-1"):
        assert word not in written
    assert group_of(files["measurements.json"])["measurements"][0]["concept"] == {"value": "1", "scheme": "99VOXEL"}


@pytest.mark.parametrize("value", ["", "nan", "abc"])
def test_a_measurement_without_a_value_has_none(convert: Convert, value: str) -> None:
    images = make.ct_series(1)
    item = make.measured(DIAMETER, "1", "mm")
    item.MeasuredValueSequence[0]["NumericValue"]._value = value
    item.NumericValueQualifierCodeSequence = [make.coded("114000", "DCM", "Not a number")]
    _, files = convert([make.measurement_report(images, item)])
    [measurement] = group_of(files["measurements.json"])["measurements"]
    assert measurement["value"] is None
    assert measurement["qualifier"]["value"] == "114000"


def test_numbers_that_describe_images_are_not_measurements(convert: Convert) -> None:
    images = make.ct_series(1)
    rows = make.measured(("110910", "DCM", "Pixel Data Rows"), "512", "{pixels}")
    rows.RelationshipType = "HAS ACQ CONTEXT"
    listing, files = convert([make.measurement_report(images, rows)])
    assert files == {}
    assert [row["reason"] for row in listing["refusals"]] == ["not-an-image"]


def test_references_by_identifier_are_followed_once_and_may_be_circular(convert: Convert) -> None:
    images = make.ct_series(1)
    to_image, to_itself, to_nothing = Dataset(), Dataset(), Dataset()
    for item, path in ((to_image, [1, 1, 1]), (to_itself, [1, 1, 2]), (to_nothing, [1, 9, 9])):
        item.RelationshipType, item.ReferencedContentItemIdentifier = "INFERRED FROM", path
    number = make.measured(DIAMETER, "3", "mm", to_image, to_itself, to_nothing)
    _, files = convert([make.measurement_report(images, make.image_item(images[0]), number)])
    [measurement] = group_of(files["measurements.json"])["measurements"]
    assert [image["sop_instance_uid"] for image in measurement["images"]] == [images[0].SOPInstanceUID]


def test_several_reports_of_a_series_have_files_of_their_own(convert: Convert) -> None:
    images, series = make.ct_series(1), generate_uid()
    reports = [make.measurement_report(images, make.measured(DIAMETER, "1", "mm"), series_uid=series) for _ in range(2)]
    listing, files = convert(
        [*reports, reports[0], make.structured_report(series_uid=series, study_uid=images[0].StudyInstanceUID)]
    )
    assert sorted(files) == ["measurements_s1.json", "measurements_s2.json"]
    assert {row["reason"] for row in listing["refusals"]} == {"not-an-image"}


def test_a_report_in_a_series_of_images_is_beside_their_volume(convert: Convert) -> None:
    images = make.ct_series(3)
    item = make.measured(DIAMETER, "1", "mm")
    listing, files = convert([*images, make.measurement_report(images, item, series_uid=images[0].SeriesInstanceUID)])
    assert {row["kind"] for row in listing["volumes"]} == {"volume", "measurements"}
    [volume] = [row for row in listing["volumes"] if row["kind"] == "volume"]
    assert volume["warnings"] == ("partly-not-an-image",)
    assert [row["reason"] for row in listing["exclusions"]] == ["not-an-image"]
    assert list(files) == ["measurements.json"]


def test_reports_that_are_too_large_are_refused(convert: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    images = make.ct_series(1)
    numbers = [make.measured(DIAMETER, "1", "mm", make.image_item(images[0], "INFERRED FROM")) for _ in range(9)]
    ds = make.measurement_report(images, *numbers)
    deep = make.measured(DIAMETER, "1", "mm")
    for _ in range(report.MAX_DEPTH):
        deep = make.content_item("CONTAINS", "CONTAINER", None, ContentSequence=[deep])
    listing, _ = convert([make.measurement_report(images, deep)])
    assert [row["reason"] for row in listing["refusals"]] == ["not-an-image", "too-large"]
    for limit in ("MAX_ITEMS", "MAX_RECORDS"):
        with monkeypatch.context() as patch:
            patch.setattr(report, limit, 8)
            listing, files = convert([ds])
            assert files == {}
            assert [row["reason"] for row in listing["refusals"]] == ["not-an-image", "too-large"]
    assert len(group_of(convert([ds])[1]["measurements.json"])["measurements"]) == 9


def numbers_in(item: Dataset) -> Iterator[tuple[str, float]]:
    """Yield concept and value of every measurement below an item, by plain recursion."""
    for child in item.get("ContentSequence", ()):
        if child.get("ValueType") == "NUM" and child.RelationshipType != "HAS ACQ CONTEXT":
            yield child.ConceptNameCodeSequence[0].CodeValue, float(child.MeasuredValueSequence[0].NumericValue)
        yield from numbers_in(child)


@pytest.mark.corpus
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [
        "dcmqi/sr-seg-rwv/sr.dcm",
        "highdicom/ct-and-sr-in-one-series/sr_document.dcm",
        "highdicom/sr-multiple-groups/sr_document_with_multiple_groups.dcm",
    ],
)
def test_every_measurement_of_a_real_report_is_in_its_record(corpus: Path, name: str) -> None:
    ds = pydicom.dcmread(corpus / name)
    expected = sorted(numbers_in(ds))
    document = read_document(ds)
    measurements = [each for group in document.record["groups"] for each in group["measurements"]]
    found = sorted((each["concept"]["value"], each["value"]) for each in measurements)
    assert [concept for concept, _ in found] == [concept for concept, _ in expected]
    assert [value for _, value in found] == pytest.approx([value for _, value in expected])
    assert all(each["unit"]["scheme"] == "UCUM" for each in measurements)
    assert all(group.get("tracking_identifier") for group in document.record["groups"])
