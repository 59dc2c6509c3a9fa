"""Where text stands in a picture: RapidOCR with its own models on ONNX Runtime, the optional extra ``ocr``.

Only positions are reported; no text that is read is stored. The models are files of the package: none is fetched. ONNX
Runtime from 1.29 on reports to its maker; the extra has an earlier version, and the reports are switched off as well.

This module loads none of these libraries; `load` does. They start no thread, so a process that has loaded them forks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from math import dist
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

from node.extensions.deidentify.deidentification import Rectangle

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MODELS = {"Det": "PP-OCRv6_det_small", "Cls": "ch_ppocr_mobile_v2.0_cls_mobile", "Rec": "PP-OCRv6_rec_small"}

_TILE, _OVERLAP = 1024, 128
"""Larger pictures are read in squares of this size, which share a strip: the detector would shrink them, and miss small
letters."""

_MIN_SIDE, _MAX_SHAPE = 64, 2
"""Smaller pictures, and those whose sides differ more, are padded: the detector enlarges the shorter side to 736."""

_CONFIDENCE, _CHARACTERS, _IDEOGRAPHS = 0.7, 3, 2
"""What was read is text if it has so many letters and digits, and so many different characters, or ideographs: a row
of heads is read as OOOO."""

_LIKENESS, _MAX_HEIGHT, _MIN_LENGTH = 0.7, 60, 2
"""What cannot be read, such as Cyrillic, is text if the detector is so sure of it, if it is at most so high, in pixels,
and so many times as long. docs/project/benchmarks.md has figures of both rules."""

_CONFIDENCE_BESIDE_TEXT = 0.5
"""Where there is text, what is less sure counts as well."""


@cache
def load() -> Any:
    """Return what reads text; loaded once in a process, and shared by those that it forks."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import cv2
    import numpy as np
    import rapidocr

    cv2.setNumThreads(1)
    folder = Path(rapidocr.__file__).parent / "models"
    options: dict[str, object] = {
        "Global.log_level": "critical",  # its log quotes what was read
        "Global.text_score": 0.0,
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        **{f"{part}.model_path": str(folder / f"{name}.onnx") for part, name in _MODELS.items()},
    }
    reader = rapidocr.RapidOCR(params=options)
    for detects in (False, True):  # the models are loaded with the first picture for each
        reader(np.zeros((64, 64, 3), np.uint8), use_det=detects)
    return reader


def lines_in(picture: NDArray[np.uint8], before_each: Callable[[], None]) -> list[Rectangle]:
    """Return where lines of text stand in a picture.

    `picture`, (rows, columns) or (rows, columns, 3) array of uint8: grey or RGB.
    `before_each`: called before each part of the picture; what it raises ends the search.
    """
    candidates = list(_candidates(picture, before_each))
    if not any(candidate.is_text for candidate in candidates):
        return []
    return [candidate.rectangle for candidate in candidates]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A line that was read. `is_text`: it is text for itself, and not only beside text."""

    rectangle: Rectangle
    is_text: bool


def _candidates(picture: NDArray[np.uint8], before_each: Callable[[], None]) -> Iterator[_Candidate]:
    import cv2

    rows, columns = picture.shape[:2]
    for top in _starts(rows):
        for left in _starts(columns):
            before_each()
            yield from _read(picture[top : top + _TILE, left : left + _TILE], (left, top), 1)
    if max(rows, columns) > _TILE:  # letters as large as a tile, and faint ones
        before_each()
        factor = -(-max(rows, columns) // _TILE)
        size = max(1, columns // factor), max(1, rows // factor)
        yield from _read(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), (0, 0), factor)


def _starts(length: int) -> list[int]:
    """Return where tiles begin that cover a side of a picture."""
    if length <= _TILE:
        return [0]
    count = -(-(length - _OVERLAP) // (_TILE - _OVERLAP))
    return [round(number * (length - _TILE) / (count - 1)) for number in range(count)]


def _read(tile: NDArray[Any], place: tuple[int, int], factor: int) -> Iterator[_Candidate]:
    """Read a part of a picture, which begins at `place` and is smaller by `factor`."""
    import numpy as np

    if not np.ptp(tile):
        return
    rows, columns = tile.shape[:2]
    shape = max(_MIN_SIDE, rows, columns // _MAX_SHAPE), max(_MIN_SIDE, columns, rows // _MAX_SHAPE)
    padded = np.zeros((*shape, 3), np.uint8)
    padded[:rows, :columns] = tile[:, :, ::-1] if tile.ndim == 3 else tile[:, :, None]
    reader = load()
    detected = reader.text_det(padded)
    if detected.boxes is None:
        return
    upright, _ = reader.cls_and_rotate(reader.crop_text_regions(padded, detected.boxes))
    read = reader.recognize_txt(upright)
    for box, likeness, characters, confidence in zip(
        detected.boxes, detected.scores, read.txts, read.scores, strict=True
    ):
        is_text = _is_text(characters, confidence) or (likeness >= _LIKENESS and _is_line(box))
        if is_text or confidence >= _CONFIDENCE_BESIDE_TEXT or likeness >= _LIKENESS:
            left, top, width, height = (factor * side for side in _around(box, rows, columns))
            yield _Candidate((place[0] + left, place[1] + top, width, height), is_text)


def _is_text(characters: str, confidence: float) -> bool:
    letters = [each for each in characters if each.isalnum()]
    ideographs = sum(east_asian_width(each) == "W" for each in letters)
    different = {each for each in characters if not each.isspace()}
    is_long = len(letters) >= _CHARACTERS and len(different) >= _CHARACTERS
    return confidence >= _CONFIDENCE and (is_long or ideographs >= _IDEOGRAPHS)


def _is_line(box: NDArray[Any]) -> bool:
    one, other = dist(box[0], box[1]), dist(box[0], box[3])
    return min(one, other) <= _MAX_HEIGHT and max(one, other) >= _MIN_LENGTH * min(one, other)


def _around(box: NDArray[Any], rows: int, columns: int) -> Rectangle:
    """Return the rectangle around a box of four corners, with a margin for what stands out of a line."""
    (left, top), (right, bottom) = box.min(axis=0), box.max(axis=0)
    margin = 2 + min(right - left, bottom - top) / 8
    first, row = min(columns, max(0, int(left - margin))), min(rows, max(0, int(top - margin)))
    return first, row, min(columns, int(right + margin) + 1) - first, min(rows, int(bottom + margin) + 1) - row
