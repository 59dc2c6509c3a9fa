"""When each slice was acquired: believed only if two sources agree."""

import gzip
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import FileDataset

from node.volume.assemble import assemble
from node.volume.model import Volume
from node.volume.reasons import WarningKind
from tests import truth

TR_S = 2.0


def times_of_slices(slices: int, bands: int = 1, *, interleaved: bool = True) -> NDArray[np.float64]:
    """Return when the slices of a volume are excited, in seconds."""
    excitations = slices // bands
    turns = np.arange(excitations)
    if interleaved:
        turns = np.argsort(np.concatenate((turns[::2], turns[1::2])))
    return np.resize(turns, slices) * (TR_S / excitations)


def clocked(clock: NDArray[Any] | Sequence[Any], **attributes: Any) -> truth.Truth:
    """Return a series whose slices have these Acquisition Times: (times, slices) in seconds."""
    clock = np.asarray(clock, float)
    series = truth.series(*clock.shape, **({"RepetitionTime": str(TR_S * 1000)} | attributes))

    def put(ds: FileDataset, time: int, slice_: int) -> None:
        ds.AcquisitionTime = f"1015{clock[time, slice_]:09.6f}"
        ds.AcquisitionNumber = time + 1

    return series.edited(put)


def ge(timer: NDArray[Any], *, order: str = "", bands: int = 1, sequence: str = "EPIRT") -> truth.Truth:
    """Return an echo-planar series of GE with these values of its timer, and the order of slices in its protocol."""
    slices = timer.shape[1]
    series = truth.series(len(timer), slices, Manufacturer="GE MEDICAL SYSTEMS", RepetitionTime=str(TR_S * 1000))

    def put(ds: FileDataset, time: int, slice_: int) -> None:
        ds.AcquisitionTime, ds.AcquisitionNumber = "101500", 1
        ds.private_block(0x0021, "GEMS_RELA_01", create=True).add_new(0x5E, "DS", f"{timer[time, slice_]:.6f}")
        ds.private_block(0x0019, "GEMS_ACQU_01", create=True).add_new(0x9E, "LO", sequence)
        if bands > 1:
            ds.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0xB6, "LO", [str(bands), "0"])
        if order:
            block = bytes(4) + gzip.compress(f'SLICEORDER "{order}"\n'.encode())
            ds.private_block(0x0025, "GEMS_SERS_01", create=True).add_new(0x1B, "OB", block)

    return series.edited(put)


def volume_of(series: truth.Truth) -> Volume:
    return truth.whole(assemble(series.datasets), series)


def doubts(volume: Volume) -> list[str]:
    return [warning.detail for warning in volume.warnings if warning.name is WarningKind.SLICE_TIMING_DOUBTFUL]


def timer(times: int, slices: int, bands: int = 1, **options: Any) -> NDArray[np.float64]:
    return 0.0023 + np.arange(times)[:, None] * TR_S + times_of_slices(slices, bands, **options)


# GE's timer


@pytest.mark.sample(3)
@pytest.mark.parametrize("lost", [1, 4, 11, 12])
@pytest.mark.parametrize("order", ["", "1"])
def test_a_timer_of_0_says_nothing_of_the_slices_of_the_first_time(lost: int, order: str) -> None:
    ticks = timer(3, 12)
    ticks[0, np.random.default_rng(lost).permutation(12)[:lost]] = 0
    volume = volume_of(ge(ticks, order=order))
    assert volume.attributes["SliceTiming"] == pytest.approx(times_of_slices(12), abs=1e-5)
    assert doubts(volume) == []


def test_a_timer_of_0_is_the_time_of_the_first_excitation_if_it_alone_has_it() -> None:
    ticks = timer(3, 12, 2, interleaved=False) - 0.0023
    assert np.count_nonzero(ticks == 0) == 2
    volume = volume_of(ge(ticks[:1].repeat(1, axis=0), bands=2))
    assert volume.attributes["SliceTiming"] == pytest.approx(times_of_slices(12, 2, interleaved=False), abs=1e-5)


def test_a_lone_volume_whose_timer_is_0_for_some_slices_has_no_slice_timing() -> None:
    ticks = timer(1, 12)
    ticks[0, 4:7] = 0
    assert "SliceTiming" not in volume_of(ge(ticks)).attributes
    ticks = timer(1, 12)
    ticks[0, 4] = 0
    volume = volume_of(ge(ticks))
    assert "SliceTiming" not in volume.attributes
    assert doubts(volume) == [], "nobody corrects a lone volume"


@pytest.mark.parametrize(("slices", "bands"), [(45, 3), (12, 2), (12, 3)])
def test_slices_that_were_excited_together_have_one_time(slices: int, bands: int) -> None:
    ticks = timer(3, slices, bands)
    ticks[0, 1::3] = 0
    volume = volume_of(ge(ticks, bands=bands, order="1"))
    assert volume.attributes["SliceTiming"] == pytest.approx(times_of_slices(slices, bands), abs=1e-5)


def test_an_excitation_whose_slices_are_discarded_takes_its_time_too() -> None:
    turns = np.argsort(np.concatenate((np.arange(0, 7, 2), np.arange(1, 7, 2))))
    times = np.resize(turns, 18) * (TR_S / 7)
    volume = volume_of(ge(0.0023 + np.arange(3)[:, None] * TR_S + times, bands=3, order="1"))
    assert volume.attributes["SliceTiming"] == pytest.approx(times, abs=1e-5)


def test_a_timer_that_contradicts_the_slice_order_is_not_believed() -> None:
    volume = volume_of(ge(timer(3, 12), order="0"))
    assert "SliceTiming" not in volume.attributes
    assert "slice order of the protocol" in doubts(volume)[0]


@pytest.mark.parametrize(("bands", "known"), [(1, True), (4, True), (2, False)])
def test_without_a_timer_the_order_of_the_protocol_counts_if_it_means_one_timing(bands: int, known: bool) -> None:
    volume = volume_of(ge(np.zeros((3, 12)), order="1", bands=bands))  # two bands: six excitations, or seven
    expected = times_of_slices(12, bands)
    assert volume.attributes.get("SliceTiming") == (pytest.approx(expected, abs=1e-5) if known else None)


# Clocks of several volumes


@pytest.mark.parametrize("is_one_wrong", [True, False], ids=["one wrong clock", "one time for all slices"])
def test_a_first_volume_that_the_others_contradict_is_not_believed(is_one_wrong: bool) -> None:
    clock = np.arange(5)[:, None] * TR_S + times_of_slices(8)
    clock[0] = clock[0] + 0.7 * (np.arange(8) == 3) if is_one_wrong else 0
    volume = volume_of(clocked(clock))
    assert volume.attributes["SliceTiming"] == pytest.approx(times_of_slices(8), abs=1e-5)
    assert ["first volume" in doubt for doubt in doubts(volume)] == [True] * is_one_wrong


@pytest.mark.diagonal
@pytest.mark.parametrize("wrong_s", [-1.4, -0.3, 0.3, 1.1, 2.0, 15.0])
@pytest.mark.parametrize("times", [2, pytest.param(3, marks=pytest.mark.long), 6])
@pytest.mark.parametrize("slice_", [0, pytest.param(5, marks=pytest.mark.long), 7])
def test_a_wrong_clock_is_never_written(wrong_s: float, times: int, slice_: int) -> None:
    clock = 20 + np.arange(times)[:, None] * TR_S + times_of_slices(8)
    clock[0, slice_] += wrong_s
    volume = volume_of(clocked(clock))
    timing = volume.attributes.get("SliceTiming")
    assert timing is None or timing == pytest.approx(times_of_slices(8), abs=1e-5)
    assert doubts(volume)


@pytest.mark.slow
def test_clocks_of_whole_milliseconds_of_a_fast_scan_are_even_enough() -> None:
    times = np.round(times_of_slices(40, 8) / 2.5e-3 * 0.4) * 2.5e-3
    volume = volume_of(clocked(np.arange(3)[:, None] * 0.8 + times, RepetitionTime="800"))
    assert volume.attributes["SliceTiming"] == pytest.approx(times, abs=1e-5)
    assert doubts(volume) == []


@pytest.mark.parametrize(("times", "known"), [(1, False), (2, True)])
def test_uneven_times_need_a_second_volume(times: int, known: bool) -> None:
    uneven = np.array([0.0, 0.1, 0.2, 0.9, 1.0, 1.1])
    volume = volume_of(clocked(np.arange(times)[:, None] * TR_S + uneven))
    assert volume.attributes.get("SliceTiming") == (pytest.approx(uneven, abs=1e-5) if known else None)
    assert doubts(volume) == []


@pytest.mark.parametrize(
    ("attributes", "is_doubted"),
    [({}, True), ({"MRAcquisitionType": "3D"}, False), ({"ScanningSequence": "GR", "EchoTrainLength": 1}, False)],
)
def test_doubtful_times_of_field_maps_are_left_out_without_a_warning(
    attributes: dict[str, Any], is_doubted: bool
) -> None:
    clock = np.arange(2)[:, None] * TR_S + [[0.0, 0.1, 0.2, 0.9, 1.0, 1.1], [0.0, 0.5, 0.1, 1.0, 1.7, 0.3]]
    volume = volume_of(clocked(clock, **attributes))
    assert "SliceTiming" not in volume.attributes
    assert bool(doubts(volume)) == is_doubted


def test_volumes_that_all_disagree_have_no_slice_timing() -> None:
    random = np.random.default_rng(3)
    clock = np.array([time * TR_S + random.permutation(times_of_slices(8)) for time in range(4)])
    clock += random.uniform(0, 0.1, clock.shape)
    volume = volume_of(clocked(clock))
    assert "SliceTiming" not in volume.attributes
    assert len(doubts(volume)) == 1


def test_data_without_clocks_have_no_slice_timing_and_no_doubt() -> None:
    for series in (truth.series(3, 4, clock=True), truth.series(3, 4), truth.series(1, 4)):
        volume = volume_of(series)
        assert "SliceTiming" not in volume.attributes
        assert doubts(volume) == []
