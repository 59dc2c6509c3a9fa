"""The voxels of a grid of frames: each frame in its place, in a type that holds all of its values."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from node.errors import ConversionRefused
from node.volume import intensities
from node.volume.intensities import FrameRefused, fill
from node.volume.model import Frame
from node.volume.reasons import Reason
from tests.volumes import axial_frame

Scaling = tuple[float, float]


def frames_of(dtype: str, *scalings: Scaling, ends: tuple[float, float] | None = None) -> list[Frame]:
    """Frames of two pixels, the least and the greatest value of a type, each with a slope and an intercept."""
    least, greatest = ends or (np.iinfo(dtype).min, np.iinfo(dtype).max)
    pixels = np.array([[least, greatest]], dtype)
    return [
        axial_frame(
            number, pixels, (0, 0, number), dtype=np.dtype(dtype), slope=float(slope), intercept=float(intercept)
        )
        for number, (slope, intercept) in enumerate(scalings)
    ]


@pytest.mark.parametrize(
    ("dtype", "scalings", "found"),
    [
        ("int16", [(2, -1024), (2, -1024)], "int16"),  # one scaling, real values too wide: as stored
        ("uint16", [(0.5, 0), (0.5, 0)], "uint16"),
        ("uint8", [(1, 0), (2, 0)], "int16"),
        ("uint8", [(1, -100), (1, 0)], "int16"),
        ("uint8", [(1, 0), (128, 127)], "int16"),  # 32767
        ("uint8", [(1, 0), (128, 128)], "int32"),
        ("int8", [(1, 0), (256, 0)], "int16"),  # -32768
        ("int8", [(1, 0), (256, -1)], "int32"),
        ("uint16", [(1, 0), (1, -1)], "int32"),
        ("int16", [(1, 0), (-1, 0)], "int32"),
        ("uint16", [(1, 0), (65537, 0)], "float64"),  # 2**32 - 1
        ("int16", [(1, 0), (65536, 0)], "int32"),  # -2**31
        ("int16", [(1, 0), (65536, -1)], "float64"),
        ("int32", [(1, 0), (2, 0)], "float64"),
        ("uint8", [(1, 0), (0.5, 0)], "float32"),
        ("int16", [(1, 0), (1, 0.5)], "float32"),
        ("int32", [(1, 0), (0.5, 0)], "float64"),
        ("uint8", [(0.5, 0), (1, 0), (2, 0)], "float32"),
    ],
)
def test_the_type_holds_every_value_and_none_wraps(dtype: str, scalings: list[Scaling], found: str) -> None:
    frames = frames_of(dtype, *scalings)
    voxels, slope, intercept = fill([frames])
    assert voxels.dtype == found
    for frame, plane in zip(frames, voxels[0], strict=True):
        expected = frame.read().astype(np.float64) * frame.slope + frame.intercept
        assert np.array_equal(plane.astype(np.float64) * slope + intercept, expected)


@pytest.mark.parametrize(
    ("dtype", "ends", "scaling", "found"),
    [
        ("int16", (-2000, 3071), (1, -1024), "int16"),
        ("uint16", (0, 4095), (1, -1024), "int16"),
        ("uint16", (0, 4095), (2, -4096), "int16"),
        ("uint16", (1024, 65535), (1, -1024), "uint16"),
        ("int16", (-32768, 32767), (-1, -1), "int16"),
        ("int8", (-3, 7), (-2, 0), "int8"),
        ("int64", (-(2**62) - 1, 2**60 + 1), (1, 3), "int64"),
        ("uint64", (2**63 + 1, 2**64 - 9), (1, -(2**40)), "uint64"),
        ("int64", (7, 2**53 + 1), (1, 1), "int64"),
    ],
)
def test_whole_real_values_take_the_place_of_stored_ones(
    dtype: str, ends: tuple[int, int], scaling: Scaling, found: str
) -> None:
    voxels, slope, intercept = fill([frames_of(dtype, scaling, scaling, ends=ends)])
    assert (voxels.dtype, slope, intercept) == (found, 1, 0)
    assert voxels[0, 1, 0].tolist() == [end * scaling[0] + scaling[1] for end in ends]


@pytest.mark.parametrize(
    ("dtype", "ends", "scaling"),
    [
        ("uint8", (0, 255), (1, -1024)),  # would need more bytes
        ("uint16", (1023, 65535), (1, -1024)),
        ("int16", (-32768, 0), (-1, 0)),
        ("int16", (0, 4095), (1, 0.5)),
        ("int16", (0, 4095), (0.5, 0)),
        ("float32", (0, 1), (2, 3)),
    ],
)
def test_other_values_are_as_stored(dtype: str, ends: tuple[float, float], scaling: Scaling) -> None:
    voxels, slope, intercept = fill([frames_of(dtype, scaling, ends=ends)])
    assert (voxels.dtype, (slope, intercept)) == (dtype, scaling)
    assert voxels[0, 0, 0].tolist() == list(ends)


def test_stored_floats_stay_what_they_are() -> None:
    voxels, slope, intercept = fill([frames_of("float32", (2, 0), (1, 0), ends=(-1.5, 2.5))])
    assert (voxels.dtype, slope, intercept) == (np.float32, 1, 0)
    assert voxels[0, :, 0].tolist() == [[-3, 5], [-1.5, 2.5]]


def test_an_intercept_does_not_round_stored_values() -> None:
    voxels, _, _ = fill([frames_of("float32", (1, 0), (1, 1e6), ends=(-0.001, 0.001))])
    assert voxels[0, 1, 0] == pytest.approx([1e6 - 0.001, 1e6 + 0.001], abs=1e-6)
    voxels, _, _ = fill([frames_of("uint16", (0.001, 0), (0.001, 1000), ends=(0, 5))])
    assert voxels[0, 1, 0] == pytest.approx([1000, 1000.005], abs=1e-6)


@pytest.mark.parametrize(("decoded", "found"), [("int16", "int32"), ("int8", "int32"), ("uint8", "uint16")])
def test_a_frame_whose_sign_differs_from_the_data_set_keeps_its_values(decoded: str, found: str) -> None:
    first, other = frames_of("uint16", (1, 0), (1, 0))
    pixels = np.array([[np.iinfo(decoded).min, np.iinfo(decoded).max]], decoded)
    voxels, *_ = fill([[first, axial_frame(2, pixels, (0, 0, 2), dtype=np.dtype("uint16")), other]])
    assert voxels.dtype == found
    assert voxels[0, :, 0].tolist() == [[0, 65535], pixels[0].tolist(), [0, 65535]]


def broken() -> NDArray[Any]:
    raise ConversionRefused(Reason.UNDECODABLE, "the codestream is broken")


@pytest.mark.diagonal
@pytest.mark.parametrize("slope", [1.0, 2.0], ids=["as stored", "scaled"])
@pytest.mark.parametrize("at", [0, 3, 5])
@pytest.mark.parametrize("batch", [1, 1 << 20], ids=["one by one", "together"])
@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (broken, Reason.UNDECODABLE),
        (lambda: np.zeros((1, 3), np.int16), Reason.CONTRADICTORY),
        (lambda: np.zeros((1, 2, 3), np.int16), Reason.CONTRADICTORY),
    ],
    ids=["broken", "of another size", "in colour"],
)
def test_one_frame_that_cannot_be_read_leaves_no_volume(
    read: Callable[[], NDArray[Any]], reason: Reason, at: int, batch: int, slope: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intensities, "TASK_BYTES", batch)
    frames = frames_of("int16", *[(1.0, 0.0)] * 5, (slope, 0.0), ends=(-1, 1))
    frames[at] = replace(frames[at], read=read)
    with pytest.raises(FrameRefused) as refused:
        fill([frames[:3], frames[3:]])
    assert (refused.value.frame, refused.value.reason) == (frames[at], reason)
