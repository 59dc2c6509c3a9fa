"""Text that is burned into pixels, looked for by recognition. It adds refusals and blanks, and never takes one away.

All frames are examined, but for those that look like an earlier one. What cannot be examined whole is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from time import monotonic, process_time

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import ParametricMapStorage, RTDoseStorage, SegmentationStorage

from node.dicom.values import text
from node.errors import ConversionRefused, is_of_system, is_out_of_memory
from node.extensions.deidentify.burned_in import covered, risks_of
from node.extensions.deidentify.deidentification import (
    BurnedInText,
    Deidentification,
    NotDeidentified,
    Rectangle,
    RefusalReason,
)
from node.extensions.deidentify.recognition import lines_in
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
