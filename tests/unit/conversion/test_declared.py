"""What headers declare of times, slices and directions, compared with the dimensions of what was written."""

from typing import Any

import numpy as np
import pytest
from pydicom import FileDataset

from node.completeness import Completeness
from node.volume.assemble import assemble
from tests import truth
from tests.reference.real_series import judged


def declaring(series: truth.Truth, **counts: int) -> truth.Truth:
    def declare(ds: FileDataset, *_: int) -> None:
        for keyword, count in counts.items():
            setattr(ds, keyword, count)

    return series.edited(declare)


def drifting(times: int, slices: int, step_mm: float, **options: Any) -> truth.Truth:
    offsets = np.zeros((times, 3))
    offsets[:, 2] = step_mm * np.arange(times)
    return truth.series(times, slices, offsets_mm=offsets, **options)


def verdict(series: truth.Truth) -> Completeness:
    return judged(series.datasets, assemble(series.datasets))


@pytest.mark.parametrize("images", [5, 30])
@pytest.mark.parametrize("clock", [False, True])
def test_times_that_are_declared_and_written_are_complete(images: int, clock: bool) -> None:
    series = declaring(truth.series(6, 5, clock=clock), ImagesInAcquisition=images, NumberOfTemporalPositions=6)
    assert verdict(series).state == "complete"


@pytest.mark.diagonal
@pytest.mark.parametrize("images", [None, 6, 48])
@pytest.mark.parametrize("step_mm", [truth.SPACING_MM, 3.7])
@pytest.mark.parametrize("clock", [False, True])
def test_times_declared_and_not_written_are_in_the_verdict(images: int | None, step_mm: float, clock: bool) -> None:
    counts = {"NumberOfTemporalPositions": 8} | ({} if images is None else {"ImagesInAcquisition": images})
    found = verdict(declaring(drifting(8, 6, step_mm, clock=clock), **counts))
    assert found.state != "complete" or not assemble(drifting(8, 6, step_mm, clock=clock).datasets).volumes
    if images == 6 and clock:
        assert "8 x 6" in found.reason
        assert "1 x 6" in found.reason


def test_more_times_than_declared_are_suspect_unless_they_are_a_multiple() -> None:
    assert verdict(declaring(truth.series(7, 4, clock=True), NumberOfTemporalPositions=5)).state == "suspect"
    assert "7 times" in verdict(declaring(truth.series(7, 4, clock=True), NumberOfTemporalPositions=5)).reason
    for announced in (1, 3, 6):
        series = declaring(truth.series(6, 4, clock=True), NumberOfTemporalPositions=announced)
        assert verdict(series).state == "complete"


@pytest.mark.parametrize(("step_mm", "state"), [(0.0, "complete"), (0.1, "complete"), (1.0, "suspect")])
def test_a_dynamic_pet_that_falls_apart_is_suspect(step_mm: float, state: str) -> None:
    series = drifting(6, 7, step_mm, modality="PT", clock=True)
    found = verdict(declaring(series, NumberOfTimeSlices=6, NumberOfSlices=7))
    assert found.state == state
    assert state == "complete" or ("6 x 7" in found.reason and "1 x 7" in found.reason)


def test_a_static_pet_with_the_slices_that_it_declares_is_complete() -> None:
    assert verdict(declaring(truth.series(1, 9, modality="PT"), NumberOfSlices=9)).state == "complete"


def test_times_that_inversion_times_divide_are_complete() -> None:
    series = declaring(truth.series(4, 5), NumberOfTemporalPositions=4, ImagesInAcquisition=5)
    series.edited(lambda ds, time, _: setattr(ds, "InversionTime", str(100 * (time + 1))))
    assembly = assemble(series.datasets)
    assert len(assembly.volumes) == 4
    assert judged(series.datasets, assembly).state == "complete"


@pytest.mark.parametrize(("directions", "state"), [(6, "complete"), (7, "suspect")])
def test_fewer_directions_than_the_protocol_of_ge_declares_are_suspect(directions: int, state: str) -> None:
    chosen = np.random.default_rng(5).normal(size=(6, 3))
    chosen /= np.linalg.norm(chosen, axis=1, keepdims=True)
    series = truth.series(7, 4, Manufacturer="GE MEDICAL SYSTEMS")

    def weight(ds: FileDataset, time: int, _: int) -> None:
        block = ds.private_block(0x0019, "GEMS_ACQU_01", create=True)
        block.add_new(0x9E, "LO", "EPI2")
        block.add_new(0xE0, "DS", str(directions))
        ds.DiffusionBValue = 1000.0 if time else 0.0
        if time:
            ds.DiffusionGradientOrientation = chosen[time - 1].tolist()

    found = verdict(series.edited(weight))
    assert found.state == state
    assert state == "complete" or "6 of 7" in found.reason
