"""Series that are one acquisition, a volume or a slice each, become one volume in time: only if headers prove it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom import FileDataset
from pydicom.uid import generate_uid

from node.conversion.offline import convert_folder, planned
from node.conversion.out_folder import Layout
from node.settings.section import Convert
from node.writers.options import write_options
from tests import truth
from tests.converting import here
from tests.make import dataset, enhanced_mr, saved
from tests.split import by_slice, by_volume, split_series

TIMES, SLICES = 5, 4


def converted(datasets: list[FileDataset], folder: Path, **options: Any) -> tuple[dict[str, Any], Path]:
    saved(datasets, folder / "in")
    made = write_options(Convert(thumbnails=False, formats=("nifti",), **options))
    return convert_folder([folder / "in"], folder / "out", made, here), folder / "out"


def volumes(listing: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in listing["volumes"] if row["kind"] == "volume"]


def numbers_of_its_own(ds: FileDataset, time: int, slice_: int) -> None:
    ds.InstanceNumber, ds.AcquisitionNumber = slice_ + 1, time + 1


def series_numbers_of_its_own(ds: FileDataset, time: int, slice_: int) -> None:
    numbers_of_its_own(ds, time, slice_)
    ds.SeriesNumber = 7 + time


def without_times(ds: FileDataset, time: int, slice_: int) -> None:
    del ds.AcquisitionTime


PROVEN: dict[str, tuple[Callable[..., Any], Callable[[FileDataset, int, int], None] | None, str]] = {
    "a series for each volume": (by_volume, None, "Instance Numbers (0020,0013) count 1-20"),
    "a series for each volume, numbered by itself": (by_volume, numbers_of_its_own, "Acquisition Numbers"),
    "a series and a number for each volume": (by_volume, series_numbers_of_its_own, "their Series Numbers follow"),
    "a series for each volume, without times": (by_volume, without_times, "Series Number (0020,0011) is the same"),
    "a series for each slice": (by_slice, None, "each has one slice at all times"),
}


@pytest.mark.parametrize(("key", "edit", "words"), PROVEN.values(), ids=PROVEN)
def test_series_that_are_one_acquisition_become_one_volume(
    key: Callable[[int, int], int], edit: Callable[..., None] | None, words: str, tmp_path: Path
) -> None:
    series = split_series(TIMES, SLICES, key)
    if edit is not None:
        series.edited(edit)
    uids = list(dict.fromkeys(str(ds.SeriesInstanceUID) for ds in series.datasets))
    listing, out = converted(series.datasets, tmp_path)
    [volume] = volumes(listing)
    assert volume["shape"][:4] == (truth.COLUMNS, truth.ROWS, SLICES, TIMES)
    voxels = np.asanyarray(nib.load(out / volume["path"]).dataobj)
    for time in range(TIMES):
        for slice_ in range(SLICES):
            np.testing.assert_array_equal(voxels[:, :, slice_, time], truth.plane(time, slice_).T)
    fields = json.loads((out / volume["path"]).with_suffix("").with_suffix(".json").read_text())
    assert fields["joined_series"] == uids
    assert words in next(warning["detail"] for warning in fields["warnings"] if warning["name"] == "repaired")
    assert [row["joined_series"] for row in listing["series"]] == [uids]
    assert volume["instances"] == TIMES * SLICES
    plan = planned([tmp_path / "in"], tmp_path / "other", Layout())
    assert [row["instances"] for row in plan["series"]] == [TIMES * SLICES]


def another_place(ds: FileDataset, time: int, slice_: int) -> None:
    ds.ImagePositionPatient = [*ds.ImagePositionPatient[:2], float(ds.ImagePositionPatient[2]) + 3 * (time == 2)]


def another_frame_of_reference(ds: FileDataset, time: int, slice_: int) -> None:
    ds.FrameOfReferenceUID = f"1.2.{time}"


def repeated_scans(ds: FileDataset, time: int, slice_: int) -> None:
    ds.SeriesNumber, ds.InstanceNumber, ds.AcquisitionNumber = 7 + time, slice_ + 1, 1


def an_hour_between(ds: FileDataset, time: int, slice_: int) -> None:
    numbers_of_its_own(ds, time, slice_)
    ds.AcquisitionTime = f"{10 + (time > 2)}15{2 * time:02}"


def at_one_time(ds: FileDataset, time: int, slice_: int) -> None:
    ds.AcquisitionTime = "101500"


def another_echo(ds: FileDataset, time: int, slice_: int) -> None:
    ds.EchoTime = str(10 * (time + 1))


def another_image(ds: FileDataset, time: int, slice_: int) -> None:
    ds.ImageType = ["ORIGINAL", "PRIMARY", "MPMPM"[time], f"X{time}"]


def numbers_that_repeat(ds: FileDataset, time: int, slice_: int) -> None:
    ds.InstanceNumber = slice_ + 1


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    "edit",
    [
        *(another_place, another_frame_of_reference, repeated_scans, an_hour_between, at_one_time, another_echo),
        *(another_image, numbers_that_repeat),
    ],
)
def test_series_that_may_be_several_scans_are_not_joined(edit: Callable[..., None], tmp_path: Path) -> None:
    listing, _ = converted(split_series(TIMES, SLICES, by_volume).edited(edit).datasets, tmp_path)
    assert len(volumes(listing)) == TIMES
    assert all("joined_series" not in row for row in listing["series"])


def test_no_series_are_joined_if_that_is_switched_off(tmp_path: Path) -> None:
    listing, _ = converted(split_series(TIMES, SLICES, by_volume).datasets, tmp_path, repair=False)
    assert len(volumes(listing)) == TIMES


def test_a_lost_volume_of_the_acquisition_is_reported(tmp_path: Path) -> None:
    series = split_series(TIMES, SLICES, by_volume)
    listing, _ = converted([ds for index, ds in enumerate(series.datasets) if index // SLICES != 2], tmp_path)
    assert len(volumes(listing)) == TIMES - 1 or listing["series"][0]["verdict"]["state"] != "complete"


def test_two_volumes_are_joined_only_one_repetition_apart(tmp_path: Path) -> None:
    for name, repetition_ms, count in (("fits", "2000", 1), ("does not", "700", 2)):
        series = split_series(2, SLICES, by_volume, RepetitionTime=repetition_ms)
        (tmp_path / name).mkdir()
        listing, _ = converted(series.datasets, tmp_path / name)
        assert len(volumes(listing)) == count


def test_series_in_two_studies_are_not_joined(tmp_path: Path) -> None:
    series, other = split_series(TIMES, SLICES, by_volume), generate_uid()
    for ds in series.datasets[SLICES:]:
        ds.StudyInstanceUID = other
    listing, _ = converted(series.datasets, tmp_path)
    assert len(volumes(listing)) == 2  # the first alone, and the other four


def enhanced(time: int, **changes: Any) -> FileDataset:
    """One volume of an acquisition, an enhanced image in a series of its own."""
    pixels = np.full((SLICES, 16, 12), 100 * time, np.int16) + np.arange(SLICES, dtype=np.int16)[:, None, None]
    given = {"ProtocolName": "bold", "SeriesDescription": "bold", "SeriesNumber": 7, "InstanceNumber": time + 1}
    given |= {"AcquisitionDateTime": f"2024010210150{2 * time}", "RepetitionTime": "2000", "study_uid": "1.2.3"}
    ds = enhanced_mr(SLICES, pixels=pixels, **(given | changes))
    ds.FrameOfReferenceUID = "1.2.3.4"
    return ds


def timed_frames(ds: FileDataset, time: int) -> None:
    """The numbers and times of an acquisition are in the functional groups, as Siemens' XA has them."""
    del ds.AcquisitionDateTime
    ds.InstanceNumber = 1
    for slice_, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        [content] = group.FrameContentSequence
        content.FrameAcquisitionNumber = time + 1
        content.FrameAcquisitionDateTime = f"2024010210150{2 * time}.{slice_ * 4:02}"


def same_numbers(ds: FileDataset, time: int) -> None:
    ds.InstanceNumber = ds.AcquisitionNumber = 1


def own_echo(ds: FileDataset, time: int) -> None:
    [shared] = ds.SharedFunctionalGroupsSequence
    shared.MREchoSequence = [dataset(EffectiveEchoTime=10.0 * (time + 1))]


def moved_frame(ds: FileDataset, time: int) -> None:
    [place] = ds.PerFrameFunctionalGroupsSequence[-1].PlanePositionSequence
    place.ImagePositionPatient = [*place.ImagePositionPatient[:2], float(place.ImagePositionPatient[2]) + time]


def two_positions(ds: FileDataset, time: int) -> None:
    """A sequence of a vendor that repeats a position: which one is that of the frame is not certain."""
    ds.ReferencedImageSequence = [dataset(ImagePositionPatient=[0, 0, 0])]


@pytest.mark.parametrize(
    ("edit", "options", "words"),
    [
        (lambda ds, time: None, {}, "Instance Numbers (0020,0013) count 1-3 through them"),
        (timed_frames, {}, "Acquisition Numbers (0020,0012) 1-3 are each in one of them only; volumes begin 2 s after"),
        *((edit, {}, None) for edit in (same_numbers, own_echo, moved_frame, two_positions)),
        (lambda ds, time: None, {"repair": False}, None),
    ],
)
def test_enhanced_series_are_joined_by_the_same_proof(
    edit: Callable[[FileDataset, int], None], options: dict[str, Any], words: str | None, tmp_path: Path
) -> None:
    datasets = [enhanced(time) for time in range(3)]
    for time, ds in enumerate(datasets):
        edit(ds, time)
    listing, out = converted(datasets, tmp_path, **options)
    if words is None:
        assert len(volumes(listing)) == 3
        return
    [volume] = volumes(listing)
    voxels = np.asanyarray(nib.load(out / volume["path"]).dataobj)
    np.testing.assert_array_equal(voxels[0, 0], np.add.outer(np.arange(SLICES), 100 * np.arange(3)))
    fields = json.loads((out / volume["path"]).with_suffix("").with_suffix(".json").read_text())
    assert fields["joined_series"] == [ds.SeriesInstanceUID for ds in datasets]
    assert words in next(warning["detail"] for warning in fields["warnings"] if warning["name"] == "repaired")
