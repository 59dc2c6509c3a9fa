"""What divides the frames of a series into stacks, and how stacks are named."""

import numpy as np
import pytest

from node.volume.arrange.stacks import split
from node.volume.model import Frame
from node.volume.reasons import WarningKind
from tests.make import AXIAL, CORONAL


def frame(orientation=AXIAL, rows=4, pixel_spacing=(1.0, 1.0), colour=False, **split_key):
    return Frame(
        sop_instance_uid="1.2",
        frame_number=1,
        read=lambda: np.zeros((rows, 4)),
        rows=rows,
        columns=4,
        colour=colour,
        position=None if orientation is None else np.zeros(3),
        orientation=None if orientation is None else np.array(orientation),
        pixel_spacing=pixel_spacing,
        split_key=split_key,
    )


def suffixes(*frames):
    return [stack.suffix for stack in split(frames)[0]]


def warned(*frames):
    return [warning.name for warning in split(frames)[1]]


def test_frames_that_agree_are_one_stack_without_a_suffix():
    assert suffixes(frame(), frame(echo_time=None)) == [""]
    assert warned(frame(), frame()) == []


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        (frame(echo_time=30.0), frame(echo_time=30.4), ["e1", "e2"]),
        (frame(echo=(1,)), frame(echo=(2,)), ["e1", "e2"]),
        (frame(component="phase"), frame(component="magnitude"), ["", "ph"]),
        (frame(component="real"), frame(component="imaginary"), ["real", "imag"]),
        (frame(inversion_time=900.0), frame(inversion_time=100.0), ["ti1", "ti2"]),
        (frame(coil_element=("H", 2)), frame(coil_element=("H", 10)), ["c1", "c2"]),
        (frame(coil_element=("H", 2)), frame(coil_element=None), ["", "c1"]),
        (frame(), frame(CORONAL), ["i1", "i2"]),
        (frame(), frame(rows=5), ["", ""]),
        (frame(), frame(pixel_spacing=(1.0, 1.1)), ["", ""]),
        (frame(), frame(colour=True), ["", ""]),
        (frame(), frame(None), ["", "i1"]),
        (frame(derived=False), frame(derived=True), ["", "derived"]),
        (frame(map=False), frame(map=True), ["", "map"]),
        (frame(frame_of_reference="1.2"), frame(frame_of_reference="1.3"), ["", ""]),
    ],
)
def test_what_differs_divides_and_names(one, other, names):
    assert sorted(suffixes(one, other)) == sorted(names)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (frame(echo_time=30.0), frame(echo_time=30.001)),
        (frame(inversion_time=900.0), frame(inversion_time=900.3)),
        (frame(), frame(pixel_spacing=(1.0, 1.00001))),
        (frame(), frame(np.array(AXIAL) + 5e-5)),
    ],
)
def test_what_scanners_round_does_not_divide(one, other):
    assert len(suffixes(one, other)) == 1


def test_several_orientations_and_matrices_are_reported():
    assert warned(frame(), frame(CORONAL)) == [WarningKind.SEVERAL_ORIENTATIONS]
    assert warned(frame(), frame(rows=5)) == [WarningKind.SEVERAL_MATRICES]
    assert warned(frame(), frame(pixel_spacing=(2.0, 2.0))) == [WarningKind.SEVERAL_MATRICES]


def test_an_echo_number_that_differs_with_one_echo_time_divides_too():
    assert len(suffixes(frame(echo_time=5.0, echo=(1,)), frame(echo_time=5.0, echo=(2,)))) == 2
