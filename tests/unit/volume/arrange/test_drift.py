"""Times at slightly different positions: one series in time, never planes of several times in one stack."""

from collections.abc import Callable

import numpy as np
import pytest
from pydicom import FileDataset

from node.volume.assemble import assemble
from node.volume.geometry import JITTER_TOLERANCE_MM
from node.volume.model import Volume
from node.volume.reasons import WarningKind
from tests import truth
from tests.reference.real_series import judged

Edit = Callable[[FileDataset, int, int], None]


def by_acquisition(ds: FileDataset, time: int, _: int) -> None:
    ds.AcquisitionNumber = time + 1


def by_time(ds: FileDataset, time: int, _: int) -> None:
    ds.AcquisitionTime = f"{101500 + time}.00"


def by_temporal_position(ds: FileDataset, time: int, _: int) -> None:
    ds.TemporalPositionIdentifier = time + 1


def by_nothing(*_: object) -> None:
    pass


LABELS = (by_nothing, by_acquisition, by_time, by_temporal_position)


def of_pet(times: int, slices: int) -> Edit:
    """What a dynamic PET states (PS3.3 C.8.9.1, C.8.9.4)."""

    def edit(ds: FileDataset, time: int, slice_: int) -> None:
        ds.SeriesType = ["DYNAMIC", "IMAGE"]
        ds.NumberOfTimeSlices, ds.NumberOfSlices = times, slices
        ds.ImageIndex = time * slices + slice_ + 1

    return edit


def drifting(times: int, slices: int, step_mm: float, axis: int = 2, **options: object) -> truth.Truth:
    offsets = np.zeros((times, 3))
    offsets[:, axis] = step_mm * np.arange(times)
    return truth.series(times, slices, offsets_mm=offsets, **options)  # type: ignore[arg-type]


def moved(volume: Volume) -> bool:
    return WarningKind.POSITIONS_VARY_IN_TIME in {warning.name for warning in volume.warnings}


def whole(series: truth.Truth) -> Volume:
    assembly = assemble(series.datasets)
    volume = truth.whole(assembly, series)
    assert judged(series.datasets, assembly).state == "complete"
    return volume


@pytest.mark.sample(6)
@pytest.mark.diagonal
@pytest.mark.parametrize(
    ("times", "modality", "step_mm"),
    [
        *((8, "MR", step_mm) for step_mm in (0.002, 0.01, 0.02, 0.03, 0.06, 0.2, 0.3125, 0.5, 1.0)),
        *((2, "MR", step_mm) for step_mm in (0.02, 0.06, 0.3, 0.9)),  # by less than a slice
        *((6, "CT", step_mm) for step_mm in (0.03, 0.2)),
        *((6, "PT", step_mm) for step_mm in (0.01, 0.15)),
    ],
)
@pytest.mark.parametrize("label", LABELS)
def test_a_drifting_series_is_one_series_in_time(times: int, modality: str, step_mm: float, label: Edit) -> None:
    series = drifting(times, 8, step_mm, modality=modality).edited(label)
    assert moved(whole(series)) == ((times - 1) * step_mm > JITTER_TOLERANCE_MM)


@pytest.mark.sample(5)
@pytest.mark.diagonal
@pytest.mark.parametrize(
    ("modality", "limit_mm"),
    [
        *(("MR", limit) for limit in (0.004, 0.01, 0.03, 0.045, 0.05, 0.08, 0.3)),
        *((modality, limit) for modality in ("CT", "PT") for limit in (0.03, 0.3)),
        *(
            pytest.param(modality, limit, marks=pytest.mark.long)
            for modality in ("CT", "PT")
            for limit in (0.004, 0.01, 0.045, 0.05, 0.08)
        ),
    ],
)
@pytest.mark.parametrize("label", LABELS)
def test_times_that_jitter_are_one_series_in_time(modality: str, limit_mm: float, label: Edit) -> None:
    offsets = np.random.default_rng(1).uniform(-limit_mm, limit_mm, (6, 3))
    whole(truth.series(6, 5, offsets_mm=offsets, modality=modality).edited(label))


def test_a_dynamic_pet_may_drift_by_a_slice_if_its_headers_count_times() -> None:
    whole(drifting(8, 6, 0.3, modality="PT").edited(of_pet(8, 6)))


def test_slices_that_are_numbered_time_after_time_may_drift_too() -> None:
    series = drifting(5, 6, 0.2)

    def by_slice(ds: FileDataset, time: int, slice_: int) -> None:
        ds.InstanceNumber = slice_ * 5 + time + 1

    whole(series.edited(by_slice))


# What is not a series in time


def test_packages_of_an_interleaved_stack_stay_one_stack() -> None:
    for packages in (2, 3):
        series = drifting(packages, 5, truth.SPACING_MM / packages).edited(
            lambda ds, *_: setattr(ds, "SliceThickness", f"{truth.SPACING_MM / packages:.6f}")  # noqa: B023
        )
        [volume] = assemble(series.datasets).volumes
        assert volume.voxels.shape[:2] == (1, 5 * packages)


def test_the_distance_that_is_stated_decides_between_packages_and_times() -> None:
    for stated, shape in ((truth.SPACING_MM, (2, 5)), (truth.SPACING_MM / 2, (1, 10))):
        series = drifting(2, 5, truth.SPACING_MM / 2)
        series.edited(lambda ds, *_: setattr(ds, "SpacingBetweenSlices", str(stated)))  # noqa: B023
        [volume] = assemble(series.datasets).volumes
        assert volume.voxels.shape[:2] == shape


def test_two_kernels_of_one_scan_are_not_moved_onto_each_other() -> None:
    series = drifting(2, 6, 0.3, modality="CT").edited(
        lambda ds, time, _: setattr(ds, "ConvolutionKernel", ("B30", "B70")[time])
    )
    assembly = assemble(series.datasets)
    assert not any(map(moved, assembly.volumes))
    assert judged(series.datasets, assembly).state != "complete" or len(assembly.volumes) == 2


# What no rule can tell is at least not called complete


def test_planes_that_no_scanner_puts_so_close_are_suspect() -> None:
    series = drifting(1, 6, 0).edited(lambda ds, *_: setattr(ds, "SliceThickness", "80"))
    assert judged(series.datasets, assemble(series.datasets)).state == "suspect"
