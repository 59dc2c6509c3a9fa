"""What the samples of an instance say of their own width and sign, gathered while the frames are read.

Bits Stored (0028,0101), High Bit (0028,0102) and Pixel Representation (0028,0103) decide how samples are read. Samples
that contradict them are reported, and the whole volume decides, because a single frame may be dark.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.volume.reasons import VolumeWarning, WarningKind

Array = NDArray[Any]

BYTE = 0xFF

NEAR_WRAP = 15 / 16
"""Least difference of two neighbouring samples, as a share of the range, that a wrong sign makes of a small one."""

MIN_WRAPS, WRAP_RATIO = 5, 8
"""Fewest such neighbours that are no accident, and how many more they must be than if the sign were the other one."""


@dataclass(slots=True, eq=False)
class Widths:
    """The evidence of one instance, in which all of its frames share.

    `overlay_bits`: bits of a stored word that belong to overlays (PS3.5 8.1.2, retired). `table_doubt`: what
    contradicts the width of a lookup table. `cut`: the largest set of bits beyond Bits Stored that was cut off.
    `wraps`, `wraps_otherwise`: neighbours that are almost the whole range apart, as read and by the other sign.
    `is_sign_denied`: a codestream has samples below zero where the header states none.
    `colour_bits`, `brightest`: bits of a colour sample that is reduced to 8 bits, and the largest one.
    `as_bytes`: colour samples are bytes in words, and are read so.
    """

    overlay_bits: int = 0
    table_doubt: str = ""
    cut: int = 0
    wraps: int = 0
    wraps_otherwise: int = 0
    is_sign_denied: bool = False
    colour_bits: int = 8
    brightest: int = 0
    as_bytes: bool = False
    _lock: Lock = field(default_factory=Lock, repr=False)  # several threads read frames

    def see_cut(self, words: Array, bits: int, shift: int, *, signed: bool) -> None:
        """Look at words of which only `bits` bits from `shift` on are read; the others may repeat the sign."""
        unsigned = words.view(f"u{words.dtype.itemsize}")
        others = unsigned.dtype.type(
            ~(((1 << bits) - 1) << shift | self.overlay_bits) & ((1 << words.dtype.itemsize * 8) - 1)
        )
        lost = unsigned & others
        if signed:
            above = unsigned.dtype.type(int(others) >> (shift + bits) << (shift + bits))
            is_negative = (unsigned >> unsigned.dtype.type(shift + bits - 1)) & unsigned.dtype.type(1) == 1
            lost = np.where(is_negative & (lost & above == above), lost & ~above, lost)
        with self._lock:
            self.cut |= int(np.bitwise_or.reduce(lost, axis=None))

    def see_sign(self, plane: Array, bits: int) -> None:
        """Look at grey samples of `bits` bits, as read: small steps across the end of the range are doubtful."""
        whole = 1 << bits
        if plane.dtype.kind not in "iu" or (bits <= 8 and plane.dtype.kind == "u"):
            return  # pictures of 8 bits have sharp edges
        least, most = int(plane.min()), int(plane.max())
        if most - least <= whole * NEAR_WRAP:
            return
        low = -(whole >> 1) if plane.dtype.kind == "i" else 0
        wraps = _jumps(plane, low, whole, end=low + whole)
        otherwise = _jumps(plane, low, whole, end=low + (whole >> 1))
        with self._lock:
            self.wraps += wraps
            self.wraps_otherwise += otherwise

    def see_denied_sign(self, samples: Array, bits: int) -> None:
        """Look at unsigned samples of `bits` bits that their codestream calls signed: its high bit is a sign or not."""
        if (samples & samples.dtype.type(1 << (bits - 1))).any():
            self.is_sign_denied = True

    def see_colour(self, samples: Array, bits: int) -> None:
        """Look at colour samples of which only the high 8 bits are read."""
        brightest = int(samples.max())
        with self._lock:
            self.colour_bits = bits
            self.brightest = max(self.brightest, brightest)


def _jumps(plane: Array, low: int, whole: int, *, end: int) -> int:
    """Count the neighbours in a row that are almost the whole range apart, if the range ends before `end`.

    Values from `end` on are then below all others. Saturated samples do not count: letters have sharp edges. Only
    samples near the end of the range are compared, because most planes with one saturated voxel have few of these.
    """
    limit = whole * NEAR_WRAP
    rows, columns = np.nonzero((plane >= max(end - whole // 16 - 1, low + 1)) & (plane < min(end, low + whole - 1)))
    count = 0
    for beside in (columns - 1, columns + 1):
        there = (beside >= 0) & (beside < plane.shape[1])
        others = plane[rows[there], beside[there]]
        inner = (others > low) & (others < low + whole - 1)
        upper, lower = (part[inner].astype(np.float64) for part in (plane[rows[there], columns[there]], others))
        count += int(np.count_nonzero(upper - np.where(lower >= end, lower - whole, lower) > limit))
    return count


def read_as_bytes(of_frames: Iterable[Widths | None]) -> bool:
    """Decide whether the colours of a volume are bytes in wider words, and let its frames be read so from now on.

    All samples are then below 256, and reduced to their high bits they would be black.
    """
    widths = _distinct(of_frames)
    brightest = max((own.brightest for own in widths), default=0)
    if not 0 < brightest <= BYTE or any(own.colour_bits <= 8 or own.as_bytes for own in widths):
        return False
    for own in widths:
        own.as_bytes = True
    return True


def width_warnings(of_frames: Iterable[Widths | None], *, is_cyclic: bool) -> list[VolumeWarning]:
    """Return warnings about samples of a volume that contradict their headers; its frames were read.

    `is_cyclic`: the values are phases, whose neighbours may be a whole range apart.
    """
    widths = _distinct(of_frames)
    details = list(dict.fromkeys(own.table_doubt for own in widths if own.table_doubt))
    cut = 0
    for own in widths:
        cut |= own.cut
    if cut:
        details.append(
            f"samples have bits (0x{cut:X}) beyond Bits Stored (0028,0101) and High Bit (0028,0102) that belong to no "
            "overlay: they are left out, and the values are wrong if these bits are part of them"
        )
    wraps, otherwise = sum(own.wraps for own in widths), sum(own.wraps_otherwise for own in widths)
    if wraps >= MIN_WRAPS and wraps > WRAP_RATIO * otherwise and not is_cyclic:
        details.append(
            "neighbouring samples are almost the whole range apart: Pixel Representation (0028,0103) may state the "
            "wrong sign"
        )
    if any(own.is_sign_denied for own in widths):
        details.append(
            "samples are below zero by the codestream, but unsigned by Pixel Representation (0028,0103): they are read "
            "as unsigned"
        )
    if any(own.as_bytes for own in widths):
        bits = max(own.colour_bits for own in widths)
        details.append(f"no colour sample of {bits} bits exceeds 255: they are read as 8 bits")
    return [VolumeWarning(WarningKind.VALUES_DOUBTFUL, detail) for detail in details]


def _distinct(of_frames: Iterable[Widths | None]) -> list[Widths]:
    return list({id(own): own for own in of_frames if own is not None}.values())
