"""Series whose voxels tell what they are: no volume of a random one lies in silence, and none that once did."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings

from tests.reference.truth_machine import cases, examine
from tests.reference.truth_series import Case

EXAMPLES, LONG_EXAMPLES = 100, 1000

FOUND: dict[str, Case] = {
    "a part of a stack that fell apart lies far from the first, but near another": Case(
        kind="ct-enhanced",
        times=5,
        slices=3,
        labels=("dimensions", "clock", "temporal"),
        numbering="shuffled",
        changes=(("lose", 4), ("drift", 2.5, 0)),
        arrival=9,
    ),
    "instances of one remaining slice have each other's places in the dimensions": Case(
        kind="pt-enhanced",
        times=4,
        slices=2,
        orientation="coronal",
        spacing_mm=1.0,
        labels=("instances", "dimensions", "clock"),
        changes=(("lose-slice", 0), ("lie", "DimensionIndexValues", "exchange", 37)),
    ),
    "the edge of one of two times is lost": Case(
        kind="ct", times=2, slices=6, labels=("clock", "acquisition"), changes=(("lose", 0),)
    ),
    "copies hide which planes of a drifting series are one time": Case(
        kind="dwi", times=4, labels=(), changes=(("copy", False, 24), ("drift", 0.05, 2)), arrival=7
    ),
    "only the diffusion weighting tells the times of a jittering series": Case(
        kind="dwi",
        times=3,
        slices=3,
        orientation="coronal",
        labels=(),
        numbering="none",
        changes=(("jitter", 0.045, 41, True),),
    ),
    "the movement along an oblique normal is more than along each axis": Case(
        kind="dwi-enhanced",
        times=6,
        slices=7,
        orientation="oblique",
        labels=("clock", "dimensions"),
        numbering="shuffled",
        changes=(("jitter", 0.045, 3, True),),
    ),
    "two steps between times, of which one is two repetitions": Case(
        kind="mr", times=5, numbering="none", changes=(("lose-time", 4), ("lose-time", 1))
    ),
    "times of one slice lie so close that they look like slices": Case(
        kind="pt-enhanced",
        times=2,
        slices=1,
        spacing_mm=0.4,
        numbering="backwards",
        changes=(("jitter", 0.02, 70, False),),
    ),
    "a frame without functional group names no stack": Case(
        kind="dwi-enhanced",
        times=4,
        slices=1,
        orientation="oblique",
        labels=("dimensions", "clock"),
        numbering="backwards",
        changes=(("drop", "FrameContentSequence", 16),),
    ),
    "an image has one slice of each of two time slots": Case(
        kind="nm", times=2, slices=2, orientation="sagittal", numbering="backwards", changes=(("lose", 28, 4, 0, 31),)
    ),
    "a tilted series that moves within its planes is torn into single planes": Case(
        kind="ct",
        times=5,
        slices=7,
        orientation="oblique",
        shear_mm=0.3,
        labels=(),
        numbering="none",
        changes=(("drift", 0.6, 0), ("lose", 23, 4, 11, 44)),
        arrival=4,
    ),
    "slices jitter and times drift, so that no time is the first one moved": Case(
        kind="ct",
        times=3,
        slices=3,
        orientation="oblique",
        spacing_mm=5.0,
        labels=("clock", "acquisition"),
        changes=(("jitter", 0.045, 82, False), ("drift", 0.2, 1)),
    ),
    "a moving enhanced series without any label of its times": Case(
        kind="ct-enhanced", times=5, slices=6, labels=(), numbering="shuffled", changes=(("drift", 0.2, 1),)
    ),
    "one of two times of a slice has no number of its echo": Case(
        kind="mr", times=2, slices=1, labels=("acquisition", "clock"), changes=(("drop", "EchoNumbers", 13),)
    ),
    "only weightings tell the times of a moving series, and none tells which is the first": Case(
        kind="dwi",
        times=5,
        slices=7,
        orientation="oblique",
        spacing_mm=5.0,
        labels=(),
        numbering="none",
        changes=(("drift", 2.5, 0), ("drift", 0.004, 0)),
    ),
    "weighted images that state no b-value": Case(
        kind="dwi", times=5, slices=1, labels=("clock",), numbering="backwards", changes=(("drop", "DiffusionBValue"),)
    ),
    "copies hide that a slice of a time was lost": Case(
        kind="pt",
        times=5,
        slices=2,
        orientation="sagittal",
        spacing_mm=0.4,
        labels=(),
        numbering="slices",
        changes=(("copy", False, 57, 9, 10, 22), ("lose", 2)),
    ),
    "a time of one of two components lacks two of its five slices": Case(
        kind="mr",
        times=2,
        slices=5,
        components=2,
        labels=("acquisition", "clock", "temporal"),
        changes=(("lose", 0), ("lose", 0)),
    ),
    "most slices lack the slope that the others have": Case(
        kind="pt",
        slices=7,
        labels=(),
        numbering="restarting",
        changes=(("drop", "RescaleSlope", 34, 40, 31, 53),),
        arrival=8,
    ),
    "no slice has a slope": Case(kind="ct", slices=7, labels=(), changes=(("drop", "RescaleSlope"),)),
    "a lone slice drifts within its plane, each time less than planes of one position may": Case(
        kind="ct", times=6, slices=1, spacing_mm=1.0, labels=(), changes=(("drift", 0.04, 0),)
    ),
    "two times of a slice, moved within the plane, make a stack that is tilted by 88 degrees": Case(
        kind="mr-enhanced",
        times=2,
        slices=1,
        orientation="sagittal",
        spacing_mm=5.0,
        changes=(("drift", 0.6, 0), ("jitter", 0.02, 74, False)),
    ),
    "two times of a slice with one number make a stack of two slices that lie in each other": Case(
        kind="mr",
        times=2,
        slices=1,
        orientation="oblique",
        spacing_mm=5.0,
        labels=("acquisition",),
        numbering="restarting",
        changes=(("drift", 0.4, 2),),
    ),
    "the slices of several enhanced instances lie between each other": Case(
        kind="mr-enhanced",
        times=3,
        slices=3,
        spacing_mm=1.0,
        labels=("clock", "dimensions", "instances"),
        numbering="slices",
        changes=(("jitter", 0.2, 70, False), ("jitter", 0.2, 7, False)),
        arrival=7,
    ),
    "tilted stacks that lie far beside each other": Case(
        kind="pt",
        times=4,
        slices=2,
        orientation="sagittal",
        shear_mm=0.3,
        labels=("acquisition",),
        numbering="restarting",
        changes=(("drift", 2.5, 0),),
    ),
    "two times of a lone slice that jitter make a stack thinner than a slice": Case(
        kind="ct-enhanced",
        times=2,
        slices=1,
        orientation="oblique",
        spacing_mm=1.0,
        numbering="shuffled",
        changes=(("jitter", 0.2, 4, False),),
        arrival=3,
    ),
    "four times of a lone slice that jitter make two times of such a stack": Case(
        kind="mr",
        times=4,
        slices=1,
        orientation="sagittal",
        labels=("acquisition", "clock"),
        numbering="backwards",
        changes=(("jitter", 0.2, 87, True),),
        arrival=7,
    ),
    "times of a lone slice drift evenly, in the order of their numbers": Case(
        kind="ct", times=3, slices=1, changes=(("drift", 0.2, 2),)
    ),
    "two frames of a slice have exchanged all that they say of their times": Case(
        kind="ct-enhanced",
        times=4,
        slices=7,
        orientation="sagittal",
        spacing_mm=0.4,
        labels=("dimensions", "temporal"),
        changes=(("drift", 0.004, 2), ("lie", "FrameContentSequence", "exchange", 12)),
        arrival=5,
    ),
    "one of two counts of times is exchanged between the instances of a slice": Case(
        kind="pt-enhanced",
        times=2,
        slices=1,
        orientation="sagittal",
        labels=("temporal", "dimensions", "instances"),
        numbering="backwards",
        changes=(("lie", "TemporalPositionIndex", "exchange", 13),),
        arrival=6,
    ),
    "the count of times of a lone slice contradicts its clock": Case(
        kind="pt-enhanced",
        times=2,
        slices=1,
        labels=("temporal", "clock"),
        numbering="slices",
        changes=(("lie", "TemporalPositionIndex", "mix", 6),),
    ),
    "two frames of an enhanced instance are left of two times, with a slice between them": Case(
        kind="pt-enhanced",
        times=2,
        slices=3,
        orientation="sagittal",
        spacing_mm=0.4,
        numbering="shuffled",
        changes=(("lose", 0, 16, 14, 15), ("lose", 0, 16, 14, 15)),
    ),
    "two times overlap, and each lacks slices of the other": Case(
        kind="ct-enhanced",
        times=2,
        slices=5,
        orientation="sagittal",
        spacing_mm=1.0,
        labels=("instances", "temporal", "clock"),
        numbering="backwards",
        changes=(("lose", 8, 29, 20, 44),),
        arrival=5,
    ),
    "magnetic resonance of two times that overlap": Case(
        kind="mr-enhanced",
        times=2,
        slices=5,
        orientation="sagittal",
        spacing_mm=1.0,
        labels=("instances", "temporal", "clock"),
        numbering="backwards",
        changes=(("lose", 8, 29, 20, 44),),
        arrival=5,
    ),
    "the first of two times, which lies beside the other, lacks a slice": Case(
        kind="ct",
        times=2,
        slices=3,
        orientation="sagittal",
        spacing_mm=1.0,
        labels=(),
        numbering="echoes",
        changes=(("lose", 30), ("drift", 1.25, 1)),
    ),
    "two frames of a weighting of an enhanced instance are left, with a slice between them": Case(
        kind="dwi-enhanced",
        times=2,
        orientation="sagittal",
        spacing_mm=1.0,
        labels=(),
        numbering="backwards",
        changes=(("drift", 0.6, 2), ("lose", 52, 60, 16, 50)),
        arrival=5,
    ),
    "a frame is stored twice in one instance": Case(
        kind="dwi-enhanced", times=2, slices=1, changes=(("copy", False, 0),)
    ),
    "each of several enhanced instances holds a time, and two of three lack a slice": Case(
        kind="pt-enhanced",
        times=3,
        slices=2,
        orientation="oblique",
        spacing_mm=1.0,
        labels=("instances",),
        changes=(("lose", 5, 6), ("drift", 0.05, 0)),
        arrival=5,
    ),
    "the slices that are left share no count of times": Case(
        kind="pt-enhanced",
        times=4,
        slices=2,
        orientation="coronal",
        spacing_mm=0.4,
        labels=("clock", "dimensions", "instances"),
        numbering="slices",
        changes=(("lose", 22, 28, 51, 9),),
        arrival=8,
    ),
    "times of which nothing tells the order drift within their planes by half a slice": Case(
        kind="ct-enhanced",
        times=3,
        slices=7,
        orientation="sagittal",
        spacing_mm=5.0,
        labels=(),
        numbering="shuffled",
        changes=(("lie", "DimensionIndexValues", "constant", 80), ("drift", 1.25, 0)),
        arrival=5,
    ),
    "slices of each of two weightings were lost, so that no position has both": Case(
        kind="dwi",
        times=2,
        slices=3,
        orientation="coronal",
        spacing_mm=1.0,
        labels=("slice-clock",),
        numbering="restarting",
        changes=(("lose", 0, 1, 23),),
        arrival=4,
    ),
    "frames of each of three weightings of an enhanced instance were lost": Case(
        kind="dwi-enhanced", times=3, slices=3, numbering="backwards", changes=(("lose", 5, 6, 8), ("drift", 0.2, 2))
    ),
    "a weighting has one of the slices of another one, and lies beside it": Case(
        kind="dwi-enhanced",
        times=3,
        slices=3,
        orientation="coronal",
        spacing_mm=0.4,
        labels=("temporal",),
        numbering="slices",
        changes=(("lose", 0, 2, 5, 6, 8), ("drift", 0.2, 0)),
        arrival=1,
    ),
    "a time has one of the slices of another one, and lies beside it": Case(
        kind="mr-enhanced",
        times=2,
        slices=5,
        labels=("dimensions",),
        numbering="slices",
        changes=(("lose", 0, 2, 6, 7, 8, 9), ("drift", 0.2, 1)),
    ),
    "only Dimension Index Values tell that the slices which are left are of two times": Case(
        kind="mr-enhanced", times=2, slices=2, labels=("dimensions",), changes=(("lose", 1, 2),), arrival=5
    ),
    "only Acquisition Numbers tell that the slices which are left are of two times": Case(
        kind="mr",
        times=2,
        slices=3,
        spacing_mm=0.4,
        labels=("acquisition",),
        numbering="none",
        changes=(("lose", 1, 2, 3),),
        arrival=6,
    ),
    "some slices state no thickness": Case(
        kind="ct",
        times=4,
        slices=2,
        spacing_mm=5.0,
        shear_mm=0.3,
        labels=("slice-clock",),
        numbering="slices",
        changes=(("drop", "SliceThickness", 10, 29, 41, 28),),
        arrival=4,
    ),
    "frames of two times that moved by half a slice lie between each other": Case(
        kind="pt-enhanced",
        times=3,
        slices=3,
        orientation="coronal",
        spacing_mm=0.4,
        numbering="shuffled",
        changes=(("lose", 0, 3, 4, 7), ("drift", 0.2, 2)),
        arrival=3,
    ),
    "instances of two times that moved by half a slice lie between each other": Case(
        kind="mr-enhanced",
        times=2,
        slices=2,
        orientation="oblique",
        spacing_mm=0.4,
        labels=("instances",),
        numbering="slices",
        changes=(("lose", 3), ("drift", 0.2, 2)),
        arrival=8,
    ),
    "frames of two times that moved a little lie beside each other, unevenly": Case(
        kind="pt-enhanced",
        times=2,
        spacing_mm=1.0,
        numbering="slices",
        changes=(("lose", 1, 2, 3, 4), ("drift", 0.02, 2)),
        arrival=3,
    ),
    "two weightings lack slices at opposite ends, and moved a little": Case(
        kind="dwi",
        times=2,
        slices=3,
        orientation="coronal",
        spacing_mm=0.4,
        labels=("slice-clock",),
        numbering="shuffled",
        changes=(("lose", 0, 1), ("drift", 0.02, 2)),
        arrival=9,
    ),
    "each Echo Number has all Echo Times": Case(
        kind="mr",
        times=2,
        slices=2,
        echoes=2,
        components=2,
        orientation="coronal",
        spacing_mm=5.0,
        labels=("slice-clock", "acquisition", "clock"),
        numbering="slices",
        changes=(("lie", "EchoTime", "mix", 83), ("drop", "FrameOfReferenceUID", 42, 64, 7)),
    ),
    "Frame Reference Times run against acquisition times": Case(
        kind="pt",
        times=2,
        slices=2,
        spacing_mm=0.4,
        labels=("slice-clock", "frame-reference"),
        numbering="echoes",
        changes=(("lie", "FrameReferenceTime", "mix", 62),),
        arrival=7,
    ),
    "Instance Numbers alone contradict clocks that were exchanged": Case(
        kind="mr", times=2, slices=1, changes=(("lie", "AcquisitionTime", "mix", 1),)
    ),
    "Instance Numbers alone contradict clocks that mix two times": Case(
        kind="ct", times=2, slices=2, numbering="slices", changes=(("lie", "AcquisitionTime", "mix", 1),)
    ),
    "Instance Numbers alone contradict Temporal Position Identifiers": Case(
        kind="pt",
        times=2,
        slices=2,
        labels=("temporal",),
        changes=(("lie", "TemporalPositionIdentifier", "mix", 0),),
    ),
    "Instance Numbers and Image Index contradict Frame Reference Times": Case(
        kind="pt", times=2, slices=1, labels=("frame-reference",), changes=(("lie", "FrameReferenceTime", "mix", 1),)
    ),
    "clocks alone contradict Acquisition Numbers": Case(
        kind="mr",
        times=2,
        slices=2,
        labels=("acquisition", "clock"),
        numbering="none",
        changes=(("lie", "AcquisitionNumber", "mix", 0),),
    ),
    "Acquisition Numbers alone contradict Frame Reference Times": Case(
        kind="ct",
        times=2,
        slices=2,
        labels=("acquisition", "frame-reference"),
        numbering="none",
        changes=(("lie", "FrameReferenceTime", "mix", 0),),
    ),
    "clocks and the order of the frames contradict Temporal Position Indices": Case(
        kind="mr-enhanced",
        times=2,
        slices=2,
        labels=("temporal", "clock"),
        changes=(("lie", "TemporalPositionIndex", "mix", 0),),
    ),
    "clocks and the order of the frames contradict Dimension Index Values": Case(
        kind="mr-enhanced",
        times=2,
        slices=1,
        labels=("dimensions", "clock"),
        changes=(("lie", "DimensionIndexValues", "mix", 1),),
    ),
    "weightings tell the times of a moving series, and another time than that of the least number is the first": Case(
        kind="dwi",
        times=3,
        slices=5,
        orientation="oblique",
        spacing_mm=1.0,
        labels=(),
        numbering="shuffled",
        changes=(("drift", 0.05, 2), ("lie", "DiffusionBValue", "constant", 10)),
        arrival=4,
    ),
    "the first time of one of two slices and the last time of the other were lost": Case(
        kind="mr",
        times=4,
        slices=2,
        orientation="sagittal",
        spacing_mm=0.4,
        labels=("slice-clock",),
        numbering="slices",
        changes=(("lose", 0, 7),),
        arrival=9,
    ),
    "the slices that are left of the second and third time make one, and only the clock runs time by time": Case(
        kind="mr", times=3, slices=3, labels=("slice-clock",), numbering="shuffled", changes=(("lose", 0, 1, 8),)
    ),
    "slices of two times make each of two times": Case(
        kind="mr", times=3, labels=("slice-clock",), numbering="shuffled", changes=(("lose", 0, 9, 10, 11),)
    ),
}
"""Cases that once gave a wrong volume in silence, by what is wrong with them."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("case", FOUND.values(), ids=FOUND)
def test_no_volume_of_a_case_that_was_found_lies(case: Case) -> None:
    assert examine(case) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("examples", [EXAMPLES, pytest.param(LONG_EXAMPLES, marks=pytest.mark.long)])
def test_no_volume_of_a_random_series_lies(examples: int) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def tell_the_truth(case: Case) -> None:
        assert examine(case) == []

    tell_the_truth()
