"""Text that is burned into pixels, looked for by recognition. It adds refusals and blanks, and never takes one away.

All frames are examined, but for those that look like an earlier one. What cannot be examined whole is refused.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from functools import cache
from math import dist
from pathlib import Path
from time import monotonic, process_time
from typing import Any
from unicodedata import east_asian_width

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import ParametricMapStorage, RTDoseStorage, SegmentationStorage

from node.dicom.values import text
from node.errors import ConversionRefused, is_of_system, is_out_of_memory
from node.extensions.deidentify.deidentification import (
    BurnedInText,
    Deidentification,
    NotDeidentified,
    Rectangle,
    RefusalReason,
)
from node.extensions.deidentify.pixels import covered, risks_of
from node.volume.display import rendered_frame
from node.volume.read.pixels import FrameReader, frame_reader

_LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
_CALCULATED = frozenset((SegmentationStorage, _LABEL_MAP, ParametricMapStorage, RTDoseStorage))
"""Values that programs calculate, into which no device draws."""

_ROUNDS = 4
"""How often a frame is examined whose text is blanked, until none is seen."""

_LISTED = 5
"""Rectangles that a refusal names."""


def is_examined(ds: Dataset) -> bool:
    """Return whether text is looked for: the pixels are at risk, or nobody says that nothing is burned in."""
    if any(True for _ in risks_of(ds)):
        return True
    return text(ds, "BurnedInAnnotation").upper() != "NO" and text(ds, "SOPClassUID") not in _CALCULATED


def without_text(ds: Dataset, mask: NDArray[np.bool_] | None, how: Deidentification) -> NDArray[np.bool_] | None:
    """Return which pixels of each frame are blanked, with those where text was seen in any frame.

    `mask`: (rows, columns) array of bool or None; what is blanked anyway is not examined. It is returned as it is if no
    text was seen.

    Raises NotDeidentified: ``burned-in-text``: text was seen, and is to be refused, or is seen still where it was
        blanked. ``too-large``: the time did not suffice for all frames. ``undecodable``: a frame cannot be examined.
    """
    try:
        search = _Search(ds, mask, how.search_seconds)
        if how.burned_in_text is BurnedInText.REFUSE:
            search.refuse()
        else:
            search.blank()
    except ConversionRefused as error:
        detail = f"text cannot be looked for, because the pixels cannot be decoded: {error.detail}"
        raise NotDeidentified(RefusalReason.UNDECODABLE, detail) from error
    return search.mask if search.has_found else mask


class _Search:
    """The frames of one instance, and which pixels are blanked in all of them.

    `seconds`: processor time after which it is given up, or twice as much wall time.
    """

    def __init__(self, ds: Dataset, mask: NDArray[np.bool_] | None, seconds: float) -> None:
        self._ds, self._reader, self._seconds = ds, frame_reader(ds), seconds
        self._processor_began, self._began = process_time(), monotonic()
        self._seen: set[bytes] = set()
        self._examined = 0
        self.mask = np.zeros((self._reader.rows, self._reader.columns), bool) if mask is None else mask.copy()
        self.has_found = False

    def refuse(self) -> None:
        """Raise NotDeidentified for the first frame with text."""
        for index in range(self._reader.frames):
            if found := self._lines(index):
                raise NotDeidentified(
                    RefusalReason.BURNED_IN_TEXT,
                    f"text is seen in {_places(index, found)}; add a rule for the device that blanks it, or set "
                    "burned_in_text to blank",
                )
            self._examined += 1

    def blank(self) -> None:
        """Add to the mask until no frame has text."""
        for index in range(self._reader.frames):
            for _ in range(_ROUNDS):
                found = self._lines(index)
                if not found:
                    break
                self.mask |= covered(found, *self.mask.shape)
                self.has_found = True
            else:
                raise NotDeidentified(
                    RefusalReason.BURNED_IN_TEXT,
                    f"text is still seen after it was blanked {_ROUNDS} times, in {_places(index, found)}; add a rule "
                    "for the device that blanks it",
                )
            self._examined += 1

    def _lines(self, index: int) -> list[Rectangle]:
        found = []
        for picture in pictures(self._ds, self._reader, index):
            picture[self.mask] = 0
            digest = hashlib.sha256(picture.data).digest()
            if digest not in self._seen:
                self._seen.add(digest)
                found += self._lines_in(picture)
        return found

    def _lines_in(self, picture: NDArray[np.uint8]) -> list[Rectangle]:
        try:
            return lines_in(picture, self._require_time)
        except NotDeidentified:
            raise
        except Exception as error:  # the libraries raise anything
            if is_out_of_memory(error) or is_of_system(error):
                raise
            detail = f"text cannot be looked for: {type(error).__name__} in its recognition"
            raise NotDeidentified(RefusalReason.UNDECODABLE, detail) from error

    def _require_time(self) -> None:
        used = max(process_time() - self._processor_began, (monotonic() - self._began) / 2)
        if used > self._seconds:
            raise NotDeidentified(
                RefusalReason.TOO_LARGE,
                f"text was looked for in {self._examined} of {self._reader.frames} frames within "
                f"{self._seconds:.0f} s, the limit of processor time; `voxelnode deidentify` has none",
            )


def pictures(ds: Dataset, reader: FrameReader, index: int) -> Iterator[NDArray[np.uint8]]:
    """Yield what a frame looks like: colours or all grey values, and of more than 8 bits also by its window.

    One of these alone would lose letters: a window those beyond it, the whole range those that differ little.
    """
    stored = reader(index)
    if stored.ndim == 3:
        yield np.array(stored, np.uint8, order="C")
        return
    values = np.nan_to_num(stored.astype(np.float64), posinf=0, neginf=0)
    lowest, highest = values.min(), values.max()
    yield np.rint((values - lowest) * (255 / ((highest - lowest) or 1))).astype(np.uint8)
    if stored.dtype.itemsize > 1:
        yield rendered_frame(ds, index + 1, reader, index).pixels.copy(order="C")


def _places(index: int, found: list[Rectangle]) -> str:
    listed = ", ".join(str(list(rectangle)) for rectangle in found[:_LISTED])
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return f"frame {index + 1} at {listed}{more} (left, top, width, height)"


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
    return [rectangle for rectangle, _ in candidates] if any(is_text for _, is_text in candidates) else []


_Candidate = tuple[Rectangle, bool]
"""Where a line was read, and whether it is text for itself, and not only beside text."""


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
            yield (place[0] + left, place[1] + top, width, height), is_text


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
