"""Volumes that were acquired without excitation: apart from the images of their series, under a name of their own."""

from collections.abc import Callable

import numpy as np
import pytest
from pydicom import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from node.volume.assemble import assemble
from node.volume.model import Volume
from tests import make, truth
from tests.reference.real_series import judged

CREATOR = "SIEMENS MR SDI 02"
NOISE = ["ORIGINAL", "PRIMARY", "M", "NOISE", "ND"]

Mark = Callable[[FileDataset], None]


def by_image_type(ds: FileDataset) -> None:
    ds.ImageType = NOISE


def by_private_text(ds: FileDataset) -> None:
    ds.private_block(0x0021, CREATOR, create=True).add_new(0x75, "CS", NOISE)


def with_noise(times: int, first: int, mark: Mark, **options: object) -> truth.Truth:
    """Return a series whose times from `first` on are noise."""

    def edit(ds: FileDataset, time: int, _: int) -> None:
        if time >= first:
            mark(ds)

    return truth.series(times, 5, Manufacturer="SIEMENS", **options).edited(edit)  # type: ignore[arg-type]


def times_by_suffix(volumes: tuple[Volume, ...]) -> dict[str, int]:
    return {volume.suffix: volume.times for volume in volumes}


@pytest.mark.sample(3)
@pytest.mark.parametrize("mark", [by_image_type, by_private_text])
@pytest.mark.parametrize("clock", [False, True])
@pytest.mark.parametrize("noise", [1, 3])
def test_noise_is_apart_from_the_images_of_its_series(mark: Mark, clock: bool, noise: int) -> None:
    series = with_noise(8, 8 - noise, mark, clock=clock, NumberOfTemporalPositions=8)
    assembly = assemble(series.datasets)
    assert times_by_suffix(assembly.volumes) == {"": 8 - noise, "norf": noise}
    assert list(truth.lies(assembly, series)) == []
    assert judged(series.datasets, assembly).state == "complete"


def test_a_series_of_noise_alone_needs_no_name_for_it() -> None:
    assert times_by_suffix(assemble(with_noise(4, 0, by_image_type).datasets).volumes) == {"": 4}


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("files", [1, 6])
def test_noise_of_an_enhanced_series_is_apart(private: bool, files: int) -> None:
    whole = make.enhanced_mr(4, 6, Manufacturer="Siemens Healthineers")
    groups = list(whole.PerFrameFunctionalGroupsSequence)
    for group in groups[4 * 4 :]:
        if private:
            own = Dataset()
            own.private_block(0x0021, CREATOR, create=True).add_new(0x75, "CS", NOISE)
            group.private_block(0x0021, CREATOR, create=True).add_new(0xFE, "SQ", Sequence([own]))
        else:
            group.MRImageFrameTypeSequence = [make.dataset(FrameType=NOISE)]
    series = [whole]
    if files > 1:
        series = []
        for time in range(files):
            own_groups = slice(4 * time, 4 * time + 4)
            [ds] = [make.enhanced_mr(4, 1, pixels=whole.pixel_array[own_groups], Manufacturer="Siemens Healthineers")]
            ds.PerFrameFunctionalGroupsSequence = groups[own_groups]
            ds.StudyInstanceUID, ds.SeriesInstanceUID = whole.StudyInstanceUID, whole.SeriesInstanceUID
            ds.FrameOfReferenceUID = whole.FrameOfReferenceUID
            ds.SOPInstanceUID, ds.InstanceNumber = generate_uid(), time + 1
            series.append(ds)
    assembly = assemble(series)
    assert times_by_suffix(assembly.volumes) == {"": 4, "norf": 2}
    noise = next(volume for volume in assembly.volumes if volume.suffix)
    np.testing.assert_array_equal(noise.voxels.reshape(8, *noise.voxels.shape[2:]), whole.pixel_array[16:])
