"""Frames that assistants decode are those that the process itself would decode, with the same refusals."""

import importlib.resources
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from node.errors import ConversionRefused
from node.volume.read import decoders
from node.volume.read.decoders import answer_request, use_assistants
from node.volume.read.pixels import frame_reader
from node.volume.read.transfer_syntaxes import LOCKING_SYNTAXES

FILES = Path(str(importlib.resources.files("pydicom"))) / "data" / "test_files"
COMPRESSED = [
    "MR_small_jp2klossless.dcm",
    "JPEG2000.dcm",
    "examples_jpeg2k.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "JPEGLSNearLossless_16.dcm",
    "JPEGLSNearLossless_08.dcm",
    "SC_rgb_gdcm_KY.dcm",
]


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    yield
    decoders._ask = None


class Asked:
    """An assistant in this process, which counts."""

    def __init__(self, answer: Callable[[bytearray], bytes | None] = answer_request) -> None:
        self._answer, self.requests = answer, 0

    def __call__(self, request: bytes, max_answer_bytes: int) -> bytearray | None:
        self.requests += 1
        answer = self._answer(bytearray(request))
        return None if answer is None or len(answer) > max_answer_bytes else bytearray(answer)


@pytest.fixture
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "MIN_BYTES", 1)


@pytest.mark.usefixtures("small_frames")
@pytest.mark.parametrize("name", COMPRESSED)
@pytest.mark.parametrize("answer", [answer_request, lambda request: None, lambda request: b"m"])
def test_a_frame_is_the_same(name: str, answer: Callable[[bytearray], bytes | None]) -> None:
    ds = dcmread(FILES / name)
    assert ds.file_meta.TransferSyntaxUID in LOCKING_SYNTAXES
    alone = frame_reader(ds)(0)
    use_assistants(asked := Asked(answer))
    by_assistant = frame_reader(ds)(0)
    assert asked.requests == 1
    assert by_assistant.dtype == alone.dtype
    np.testing.assert_array_equal(by_assistant, alone)


@pytest.mark.usefixtures("small_frames")
def test_a_refusal_is_the_same() -> None:
    ds = dcmread(FILES / "MR_small_jpeg_ls_lossless.dcm")
    data = bytearray(ds.PixelData)
    data[400:-400] = bytes(len(data) - 800)
    ds.PixelData = bytes(data)
    with pytest.raises(ConversionRefused) as alone:
        frame_reader(ds)(0)
    use_assistants(asked := Asked())
    with pytest.raises(ConversionRefused) as by_assistant:
        frame_reader(ds)(0)
    assert asked.requests == 1
    assert (by_assistant.value.reason, by_assistant.value.detail) == (alone.value.reason, alone.value.detail)


def test_frames_that_are_small_or_decode_beside_others_stay_here() -> None:
    use_assistants(asked := Asked())
    for name in ("MR_small_jp2klossless.dcm", "SC_rgb_jpeg_lossy_gdcm.dcm", "MR_small_RLE.dcm"):
        frame_reader(dcmread(FILES / name))(0)
    assert asked.requests == 0
