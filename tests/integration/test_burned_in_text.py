"""Text in pixels is looked for where copies without identities are made: it is refused or blanked, and never missed.

They need the extra ``ocr``.
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset, dcmread
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    RLELossless,
    SegmentationStorage,
    UltrasoundMultiFrameImageStorage,
)

from node.children.decoder import Decoder, NotDecoded
from node.children.forwarding import CopyChange, copy_of, forward
from node.children.pseudonyms import PseudonymKey
from node.errors import Withheld
from node.extensions.deidentify.deidentification import BurnedInText, NotDeidentified, RefusalReason
from node.extensions.deidentify.instance import deidentified
from node.extensions.deidentify.profile import Option, Profile
from node.extensions.deidentify.ways import DeidentifyWay
from tests import make
from tests.drawn import Box, anatomy, screen, ultrasound, with_text
from tests.preloaded import run

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("rapidocr") is None or find_spec("onnxruntime") is None, reason="without the extra ocr"
    ),
]
WAY = DeidentifyWay(Profile(frozenset({Option.PIXELS})), PseudonymKey("test", bytes(range(32))))
REFUSE, BLANK = (replace(WAY, burned_in_text=what) for what in (BurnedInText.REFUSE, BurnedInText.BLANK))


def of_pixels(pixels: NDArray[Any], **attributes: Any) -> FileDataset:
    [ds] = make.ct_series(1)
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    make.set_pixels(ds, pixels)
    return ds


def ct(*, lines: int = 2, **attributes: Any) -> tuple[FileDataset, Sequence[Box]]:
    rng = np.random.default_rng(3)
    drawn = with_text(anatomy(256, 256, 5)(rng), rng, 10, 255, lines=lines)
    return of_pixels((drawn.picture * 8).astype(np.int16), **attributes), drawn.boxes


def refusal_of(ds: Dataset, way: DeidentifyWay) -> NotDeidentified:
    with pytest.raises(NotDeidentified) as raised:
        deidentified(ds, way)
    return raised.value


def test_an_image_with_text_is_refused_with_its_place_and_without_what_it_says() -> None:
    ds, boxes = ct()
    error = refusal_of(ds, REFUSE)
    assert error.reason == RefusalReason.BURNED_IN_TEXT
    assert error.detail.startswith("text is seen in frame 1 at [")
    places = [tuple(map(int, sides)) for sides in re.findall(r"\[(\d+), (\d+), (\d+), (\d+)\]", error.detail)]
    for left, top, right, bottom in boxes:
        assert any(
            x <= left + 3 and y <= top + 3 and x + width >= right - 3 and y + height >= bottom - 3
            for x, y, width, height in places
        )
    for words in ("DOE", "Mueller", "GARCIA", "Nguyen", "SMITH", "Ivanova", "Brien", "ID "):
        assert words not in error.detail


def test_text_is_blanked_in_every_frame_and_burned_in_annotation_becomes_no() -> None:
    rng = np.random.default_rng(4)
    plain = [anatomy(200, 256, 5)(rng) for _ in range(3)]
    drawn = with_text(plain[1], rng, 10, 255, lines=2)
    ds = of_pixels(np.stack([plain[0], drawn.picture, plain[2]]).astype(np.uint8), NumberOfFrames=3)
    before = ds.pixel_array.copy()
    new = deidentified(ds, BLANK)
    after = new.pixel_array
    assert len(drawn.boxes) == 2
    for left, top, right, bottom in drawn.boxes:
        assert not after[:, top:bottom, left:right].any()
    assert (after != before).mean() < 0.3
    assert np.array_equal(before[after != 0], after[after != 0])
    assert new.BurnedInAnnotation == "NO"
    assert "113101" in [item.CodeValue for item in new.DeidentificationMethodCodeSequence]


def test_an_image_without_text_stays_as_it_is_and_nobody_claims_more_than_before() -> None:
    for way in (REFUSE, BLANK):
        ds, _ = ct(lines=0)
        before = ds.pixel_array.copy()
        new = deidentified(ds, way)
        assert np.array_equal(new.pixel_array, before)
        assert "BurnedInAnnotation" not in new
        assert "113101" not in [item.CodeValue for item in new.DeidentificationMethodCodeSequence]


def test_what_says_that_nothing_is_burned_in_is_believed_unless_its_kind_is_at_risk() -> None:
    ds, _ = ct(BurnedInAnnotation="NO")
    deidentified(ds, REFUSE)
    ds, _ = ct(SOPClassUID=SegmentationStorage)
    deidentified(ds, REFUSE)
    x_ray, _ = ct(SOPClassUID=DigitalXRayImageStorageForPresentation, Modality="DX")
    assert refusal_of(x_ray, REFUSE).reason == RefusalReason.BURNED_IN_TEXT
    way = replace(REFUSE, allowed=frozenset({RefusalReason.BURNED_IN, RefusalReason.SECONDARY_CAPTURE}))
    ds, _ = ct(BurnedInAnnotation="YES")
    assert refusal_of(ds, way).reason == RefusalReason.BURNED_IN_TEXT
    ds, _ = ct(BurnedInAnnotation="NO", ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"])
    assert refusal_of(ds, way).reason == RefusalReason.BURNED_IN_TEXT


def test_recognition_takes_no_refusal_away() -> None:
    for way in (REFUSE, BLANK):
        assert refusal_of(ct(lines=0, BurnedInAnnotation="YES")[0], way).reason == RefusalReason.BURNED_IN
        assert refusal_of(make.rgb_capture(), way).reason == RefusalReason.SECONDARY_CAPTURE


def test_what_a_rule_or_a_region_blanks_is_not_reported_and_the_rest_is_examined() -> None:
    rng = np.random.default_rng(5)
    picture = ultrasound(rng)
    picture[:40] = with_text(picture[:40], rng, 14, 255, lines=1).picture
    region = make.dataset(RegionLocationMinX0=0, RegionLocationMinY0=40, RegionLocationMaxX1=799)
    region.RegionLocationMaxY1 = 599
    kind = {"SOPClassUID": UltrasoundMultiFrameImageStorage, "Modality": "US", "NumberOfFrames": 1}
    ds = of_pixels(picture.astype(np.uint8)[None], SequenceOfUltrasoundRegions=[region], **kind)
    assert not deidentified(ds, REFUSE).pixel_array[:40].any()

    drawn = with_text(picture, rng, 14, 255, lines=3)
    assert any(top > 60 for _, top, _, _ in drawn.boxes)
    ds = of_pixels(drawn.picture.astype(np.uint8)[None], SequenceOfUltrasoundRegions=[region], **kind)
    assert refusal_of(ds, REFUSE).reason == RefusalReason.BURNED_IN_TEXT


@pytest.mark.parametrize("value", ["dark text", "text in a narrow range", "text beyond the window"])
def test_text_is_seen_whatever_the_window(value: str) -> None:
    rng = np.random.default_rng(6)
    picture = anatomy(256, 256, 2)(rng) + 20
    ink = with_text(picture * 0, rng, 12, 255, lines=2).picture > 127
    pixels = (picture * 8).astype(np.int16)
    window = {"WindowCenter": 800, "WindowWidth": 1600}
    if value == "dark text":
        pixels = 2000 - pixels
        pixels[ink] = 0
    elif value == "text in a narrow range":  # one bright pixel leaves a few grey values for all others
        pixels[ink] = 1600
        pixels[0, 0] = 32000
    else:
        pixels += 3000
        pixels[ink] = 9000
        window = {"WindowCenter": 200, "WindowWidth": 400}
    assert refusal_of(of_pixels(pixels, **window), REFUSE).reason == RefusalReason.BURNED_IN_TEXT


def test_compressed_colours_are_examined_and_blanked() -> None:
    rng = np.random.default_rng(7)
    drawn = with_text(screen(rng)[:400, :600], rng, 12, 255, lines=3)
    capture = make.rgb_capture(400, 600)
    capture.PixelData = np.repeat(np.clip(drawn.picture, 0, 255).astype(np.uint8)[..., None], 3, 2).tobytes()
    capture.compress(RLELossless)
    new = deidentified(capture, replace(BLANK, allowed=frozenset({RefusalReason.SECONDARY_CAPTURE})))
    for left, top, right, bottom in drawn.boxes:
        assert not new.pixel_array[top:bottom, left:right].any()
    assert new.BurnedInAnnotation == "NO"


def test_pixels_that_cannot_be_decoded_are_refused_and_so_is_what_takes_too_long() -> None:
    ds, _ = ct(lines=0)
    ds.PixelData = ds.PixelData[:1000]
    assert refusal_of(ds, REFUSE).reason in (RefusalReason.UNDECODABLE, RefusalReason.UNREADABLE)
    ds, _ = ct(lines=0)
    error = refusal_of(ds, replace(REFUSE, search_seconds=0))
    assert error.reason == RefusalReason.TOO_LARGE
    assert "0 of 1 frames" in error.detail


def test_equal_frames_are_examined_once_and_all_others_to_the_last() -> None:
    rng = np.random.default_rng(8)
    plain = anatomy(128, 128, 5)(rng).astype(np.uint8)
    last = with_text(plain.astype(np.float64), rng, 10, 255, lines=1).picture.astype(np.uint8)
    frames = np.stack([plain] * 300 + [last])
    error = refusal_of(of_pixels(frames, NumberOfFrames=301), replace(REFUSE, search_seconds=30))
    assert "text is seen in frame 301 at [" in error.detail


def test_a_confined_child_examines_and_one_that_dies_leaves_no_copy(tmp_path: Path) -> None:
    for name, lines in (("text", 2), ("plain", 0)):
        ct(lines=lines)[0].save_as(tmp_path / name, enforce_file_format=True)
    into = tmp_path / "copy"

    def copied(decoder: Decoder, name: str, way: DeidentifyWay) -> Dataset:
        into.write_bytes(b"")
        copy_of(
            decoder.run(forward, tmp_path / name, CopyChange(deidentification=way), into=into),
            CopyChange(deidentification=way),
        )
        return dcmread(into)

    with closing(Decoder(workers=1)) as decoder:
        with pytest.raises(Withheld, match="text is seen in frame 1"):
            copied(decoder, "text", REFUSE)
        assert not into.read_bytes()
        assert copied(decoder, "plain", REFUSE).PatientIdentityRemoved == "YES"
        assert copied(decoder, "text", BLANK).BurnedInAnnotation == "NO"
    for limit in ({"memory_bytes": 30_000_000}, {"cpu_seconds": 0}):
        with closing(Decoder(workers=1, **limit)) as decoder, pytest.raises(NotDecoded):
            copied(decoder, "text", REFUSE)
        assert not into.read_bytes()


def test_recognition_starts_no_thread_writes_no_file_and_calls_nobody(tmp_path: Path) -> None:
    program = """
import os, sys
from node.children.serving import use_one_thread
use_one_thread()
import numpy
calls = []
def told(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "subprocess.Popen", "os.mkdir"):
        calls.append((event, *map(str, arguments)))
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        calls.append((event, *map(str, arguments)))
sys.addaudithook(told)
from node.extensions.deidentify.burned_in_text import lines_in
picture = numpy.zeros((300, 300), numpy.uint8)
picture[100:120, 100:200] = 255
lines_in(picture, lambda: None)
print(os.listdir("/proc/self/task") == [str(os.getpid())], calls)
"""
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("XDG_CACHE_HOME", None)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "True []\n"
    assert list(tmp_path.iterdir()) == []


def test_the_command_refuses_and_blanks(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    ct()[0].save_as(tmp_path / "scans" / "1.dcm", enforce_file_format=True)
    done = run("deidentify", tmp_path / "scans", tmp_path / "refused", "--burned-in-text", "refuse")
    assert done.returncode == 1
    assert ": burned-in-text: text is seen in frame 1 at [" in done.stdout
    assert not list((tmp_path / "refused").rglob("*.dcm"))
    done = run("deidentify", tmp_path / "scans", tmp_path / "blanked", "--burned-in-text", "blank")
    assert done.returncode == 0, done.stderr
    [path] = (tmp_path / "blanked").rglob("*.dcm")
    assert dcmread(path).BurnedInAnnotation == "NO"
    assert done.stderr == ""
