"""A structure set in a node: converted with its images, whenever they come, change or go."""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom import FileDataset
from pydicom.uid import generate_uid

from node.api import PersonRepository
from node.archive.root import MARKER
from node.conversion.scheduler import Worker
from node.conversion.series import REFERENCE_WAIT, ReferencedSeriesOpen, SeriesDamaged, is_unchanged
from node.index.rows.records import ClaimedSeries
from node.registry import installed, objects_of
from node.settings.section import Convert
from tests import make
from tests.converting import convert_with_all
from tests.integration.conftest import QUICK, Root, flip
from tests.waiting import running, within

SQUARE = [(2.0, 2.0), (8.0, 2.0), (8.0, 10.0), (2.0, 10.0)]


@pytest.fixture
def images() -> list[FileDataset]:
    return make.ct_series(3)


@pytest.fixture
def structures(images: list[FileDataset]) -> FileDataset:
    contours = [make.contour(make.on_slice(image, SQUARE), [image]) for image in images]
    return make.structure_set(images, {"Heart": contours})


def convert_due(root: Root, instances: Sequence[FileDataset] = (), seconds: float = 61) -> list[str]:
    """Take instances, and convert every series that is due later, as the worker does; return their modalities."""
    root.take_all(instances)
    root.clock.move(seconds)
    modalities = []
    while (claimed := root.index.series.claim_due(root.clock())) is not None:
        modalities.append(modality_of(root, claimed))
        try:
            root.convert(claimed, convert_with_all)
        except ReferencedSeriesOpen as error:
            root.index.series.postpone(claimed, str(error), REFERENCE_WAIT, root.clock(), error.references)
            modalities[-1] += " waits"
        assert len(modalities) < 20, "converted for ever"
    return modalities


def modality_of(root: Root, claimed: ClaimedSeries) -> str:
    query = "SELECT modality FROM v_series WHERE series_instance_uid = :uid"
    return str(root.rows(query, uid=claimed.series_instance_uid)[0]["modality"])


def masks(root: Root) -> list[tuple[int, list[int]]]:
    """Return revision and shape of the current masks."""
    found = root.rows("SELECT revision, shape, path FROM v_volumes WHERE kind = 'mask' AND NOT superseded")
    assert all(Path(row["path"]).is_file() for row in found)
    return [(row["revision"], row["shape"]) for row in found]


def take_in_turn(root: Root, images: list[FileDataset], structures: FileDataset) -> None:
    """Have the images converted before the structure set comes, and that one after them."""
    for datasets in (images, [structures]):
        convert_due(root, datasets)


def state(root: Root) -> tuple[str, str]:
    [row] = root.rows("SELECT state, coalesce(error, '') AS error FROM v_series WHERE modality = 'RTSTRUCT'")
    return row["state"], row["error"]


def test_first_images_give_masks_at_once(root: Root, images: list[FileDataset], structures: FileDataset) -> None:
    assert convert_due(root, images) == ["CT"]
    assert convert_due(root, [structures]) == ["RTSTRUCT"]
    assert masks(root) == [(1, "[12, 16, 3]")]
    [source] = root.rows("SELECT * FROM v_sources WHERE series_instance_uid = :uid", uid=structures.SeriesInstanceUID)
    assert source["sop_instance_uid"] == structures.SOPInstanceUID


def test_late_images_make_the_structure_set_due(root: Root, images: list[FileDataset], structures: FileDataset) -> None:
    assert convert_due(root, [structures]) == ["RTSTRUCT"]
    assert state(root) == (
        "refused",
        f"incomplete: refers to series {images[0].SeriesInstanceUID}, which is not here: with it, the masks are made",
    )
    assert convert_due(root, images) == ["CT", "RTSTRUCT"]
    assert masks(root) == [(2, "[12, 16, 3]")]
    assert root.rows("SELECT * FROM v_failures") == []
    assert "series-reopened" in {row["kind"] for row in root.rows("SELECT kind FROM v_events")}


def test_a_structure_set_waits_for_its_images(root: Root, images: list[FileDataset], structures: FileDataset) -> None:
    root.take_all([structures])
    root.clock.move(30)
    assert convert_due(root, images, seconds=31) == ["RTSTRUCT waits"]
    assert state(root)[0] == "receiving"
    assert "which is not converted yet" in state(root)[1]
    assert root.rows("SELECT * FROM v_failures") == []
    root.clock.move(30)
    due = root.rows(query := "SELECT due_at FROM v_series WHERE modality = 'RTSTRUCT'")
    assert root.index.series.release_claim(root.index.series.claim_due(root.clock()), root.clock())
    assert root.rows(query) == due, "a claim that is given up ends no wait"
    assert convert_due(root, seconds=0) == ["CT", "RTSTRUCT"]
    assert masks(root) == [(1, "[12, 16, 3]")]


def test_a_wait_ends_with_the_longest_wait_of_the_structure_set(
    root: Root, images: list[FileDataset], structures: FileDataset
) -> None:
    root.take_all([structures])
    root.clock.move(3000)
    root.take_all(images)
    claimed = root.index.series.claim_due(root.clock(), dt.timedelta(seconds=1000))
    with pytest.raises(ReferencedSeriesOpen) as open_series:
        root.convert(claimed, convert_with_all)
    wait = dt.timedelta(seconds=9)
    root.index.series.postpone(claimed, "open", wait, root.clock(), open_series.value.references)
    again = root.index.series.claim_due(root.clock(), dt.timedelta(seconds=1000))
    assert again.expectation.forced
    assert root.convert(again, convert_with_all)
    assert state(root)[0] == "refused"
    assert "still being received" in state(root)[1]
    assert convert_due(root) == ["CT", "RTSTRUCT"]
    assert len(masks(root)) == 1


@pytest.mark.slow
def test_another_revision_of_the_images_gives_another_revision_of_the_masks(
    root: Root, images: list[FileDataset], structures: FileDataset
) -> None:
    convert_due(root, [*images[:2], structures])
    assert masks(root) == [(1, "[12, 16, 2]")]
    assert convert_due(root, [images[2]]) == ["CT", "RTSTRUCT"]
    assert masks(root) == [(2, "[12, 16, 3]")]


@pytest.mark.slow
def test_masks_of_unchanged_images_stay(root: Root, images: list[FileDataset], structures: FileDataset) -> None:
    take_in_turn(root, images, structures)
    key = structures.StudyInstanceUID, structures.SeriesInstanceUID
    assert root.index.series.reopen([key], root.clock()) == 1
    claimed = root.claim(0)
    assert is_unchanged(claimed, root.archive, QUICK)
    root.index.series.record_unchanged(claimed, root.clock())
    root.take_all([make.ct_series(1, series_uid=images[0].SeriesInstanceUID, study_uid=images[0].StudyInstanceUID)[0]])
    root.clock.move(61)
    assert root.index.series.reopen([key], root.clock()) == 1
    claimed = root.index.series.claim_due(root.clock() + dt.timedelta(seconds=1))
    other = root.index.series.claim_due(root.clock() + dt.timedelta(seconds=1))
    [again] = [each for each in (claimed, other) if each and each.series_instance_uid == key[1]]
    assert not is_unchanged(again, root.archive, QUICK)


def test_a_series_that_changes_while_the_masks_are_made_makes_them_due_again(
    root: Root, images: list[FileDataset], structures: FileDataset
) -> None:
    root.take_all([structures])
    claimed = root.claim()

    def images_arrive_meanwhile(job: Any) -> Any:
        converted = convert_with_all(job)
        if job.referenced:
            root.take_all(images)
            root.clock.move(61)
            assert root.convert(root.index.series.claim_due(root.clock()), convert_with_all)
        return converted

    assert root.convert(claimed, images_arrive_meanwhile)
    assert convert_due(root, seconds=0) == ["RTSTRUCT"]
    assert masks(root) == [(2, "[12, 16, 3]")]


@pytest.mark.slow
@pytest.mark.parametrize("level", ["series", "instance"])
def test_masks_follow_the_deletion_of_their_images(
    root: Root, images: list[FileDataset], structures: FileDataset, level: Any
) -> None:
    take_in_turn(root, images, structures)
    uid = images[0].SeriesInstanceUID if level == "series" else images[0].SOPInstanceUID
    root.delete(level, uid)
    convert_due(root)
    if level == "series":
        assert (masks(root), state(root)[0]) == ([], "refused")
        convert_due(root, images)
        assert masks(root) == [(3, "[12, 16, 3]")]
    else:
        assert masks(root) == [(2, "[12, 16, 2]")]


def test_a_study_with_both_is_deleted_whole(root: Root, images: list[FileDataset], structures: FileDataset) -> None:
    take_in_turn(root, images, structures)
    root.delete("study", images[0].StudyInstanceUID)
    assert root.rows("SELECT * FROM v_series") == []
    assert [path.name for path in (root.folder / "volumes").rglob("*")] == [MARKER]


@pytest.mark.slow
def test_images_of_another_patient_are_refused_until_the_patients_are_merged(root: Root) -> None:
    images = make.ct_series(2, PatientID="OTHER", PatientName="Other^Name")
    contours = [make.contour(make.on_slice(image, SQUARE)) for image in images]
    convert_due(root, images)
    convert_due(root, [make.structure_set(images, {"Heart": contours}, study_uid=generate_uid())])
    assert state(root)[0] == "refused"
    assert "another patient" in state(root)[1]
    assert "OTHER" not in state(root)[1]
    numbers = {row["patient_id"]: row["id"] for row in root.rows("SELECT id, patient_id FROM v_patients")}
    root.index.repository(PersonRepository).merge(numbers["OTHER"], numbers["TEST-1"], root.clock())
    structures = root.rows("SELECT * FROM v_series WHERE modality = 'RTSTRUCT'")
    root.index.series.reopen(
        [(row["study_instance_uid"], row["series_instance_uid"]) for row in structures], root.clock()
    )
    convert_due(root)
    assert masks(root) == [(2, "[12, 16, 2]")]


def test_structure_sets_that_refer_to_each_other_end(root: Root, images: list[FileDataset]) -> None:
    contours = [make.contour(make.on_slice(image, SQUARE)) for image in images]
    first, second = (make.structure_set(images, {"Heart": contours}) for _ in range(2))
    for ds, other in ((first, second), (second, first)):
        [frame] = ds.ReferencedFrameOfReferenceSequence
        frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID = other.SeriesInstanceUID
    convert_due(root, [first, second])
    convert_due(root, [make.corrected(first)])
    assert {row["state"] for row in root.rows("SELECT state FROM v_series")} == {"refused"}


@pytest.mark.slow
def test_a_damaged_image_keeps_the_masks_until_it_is_sent_again(
    root: Root, images: list[FileDataset], structures: FileDataset
) -> None:
    convert_due(root, images)
    [row] = root.rows("SELECT path FROM v_images WHERE sop_instance_uid = :uid", uid=images[1].SOPInstanceUID)
    flip(Path(row["path"]))
    root.take_all([structures])
    claimed = root.claim()
    with pytest.raises(SeriesDamaged) as damaged:
        root.convert(claimed, convert_with_all)
    [(key, _)] = damaged.value.damaged
    assert str(root.archive.path(key)) == row["path"]
    error = damaged.value
    root.index.series.record_damaged(claimed, str(error), error.references, root.clock())
    assert state(root)[0] == "failed"
    assert convert_due(root, [images[1]]) == ["CT", "RTSTRUCT"]
    assert len(masks(root)) == 1


@pytest.mark.slow
def test_a_worker_makes_masks_of_a_study_that_comes_at_once(
    root: Root, images: list[FileDataset], structures: FileDataset
) -> None:
    root.take_all([structures, *images])
    root.clock.move(61)
    convert = Convert(formats=["nifti"], workers=1)
    with running(Worker(root.archive, root.index, convert, root.clock, objects=objects_of(installed())), 20):
        assert within(30, lambda: state(root)[0] == "converted")
    assert masks(root) == [(1, "[12, 16, 3]")]
