"""What vendors' own elements state: fields of the sidecar, a table for each vendor, and diffusion weightings.

The tables are also the source of the list in docs/sidecar.md. Of weightings, here are rotations into the patient frame,
and what Canon (formerly Toshiba) and Bruker state.
"""

import math
import re
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from node.dicom.values import PrivateTag, held_elements, numbers, private_numbers, private_text, text


class VendorField(NamedTuple):
    """A field: its name, the elements that it comes from, and the function that reads it, None where it is unknown."""

    name: str
    source: str
    read: Callable[[Dataset], Any]


def stated_fields(ds: Dataset, fields: Sequence[VendorField]) -> dict[str, Any]:
    """Return the values of the fields that a data set states; of several fields with one name the first counts.

    A number beyond all bounds is that of damaged bytes.
    """
    stated: dict[str, Any] = {}
    for field in fields:
        content = None if field.name in stated else field.read(ds)
        if content is None or content in ("", [], ()):
            continue
        if not isinstance(content, float) or math.isfinite(content):
            stated[field.name] = content
    return stated


def notation(tag: PrivateTag) -> str:
    """Return a private tag as the vendor documents it: (0043,xx2C)."""
    return f"({tag.group:04X},xx{tag.offset:02X})"


def text_field(name: str, tag: PrivateTag) -> VendorField:
    """Return a field that is the text of an element."""
    return VendorField(name, notation(tag), lambda ds: private_text(ds, tag))


def number_field(name: str, tag: PrivateTag, factor: float = 1.0, digits: int = 9) -> VendorField:
    """Return a field that is a number; see `positive`."""
    return VendorField(name, notation(tag), partial(positive, tag, factor, digits))


def positive(tag: PrivateTag, factor: float, digits: int, ds: Dataset) -> float | None:
    """Return a number above zero, times a factor, with so many significant digits."""
    first = (private_numbers(ds, tag) or (0.0,))[0]
    return rounded(first * factor, digits) if first > 0 else None


def counted(tag: PrivateTag, ds: Dataset) -> int | None:
    """Return a whole number above zero."""
    first = (private_numbers(ds, tag) or (0.0,))[0]
    return int(first) if first > 0 else None


def rounded(number: float, digits: int) -> float:
    """Return a number without the noise of binary fractions."""
    return float(f"{number:.{digits}g}")


_NUMBER = r"([-+]?\d+(?:\.\d+)?)"
_COMMENT = re.compile(rf"b={_NUMBER}\({_NUMBER},{_NUMBER},{_NUMBER}\)")

_GROUP = 0x0177  # of ParaVision's parameters, which Bruker's files hold as text
_PARAMETERS = (0x00, 0x01)  # (0177,xx00) and (0177,xx01), under creators whose names differ between versions
_MATRICES = re.compile(rb"##\$VisuAcqDiffusionBMatrix=\( *(\d+), *3, *3 *\)([^#$]*)")
_REPEATED = re.compile(rb"@(\d+)\*\(([^)]*)\)")
MAX_MATRICES = 1 << 16

Matrix = tuple[float, float, float, float, float, float, float, float, float]


class Gradient(NamedTuple):
    """A b-value in s/mm2, a direction in the patient frame (LPS, any length), and whether it is a trace image.

    `repaired` says how the direction was recovered from a wrong header; empty if it is as stated. `nominal`: the
    b-value that the header states, if the vendor states that of the scan and scales it by the square of the length.
    """

    b_value: float
    direction_lps: tuple[float, ...] | None = None
    isotropic: bool = False
    repaired: str = ""
    nominal: float | None = None


def gradient_of_matrix(matrix: tuple[float, ...]) -> Gradient:
    """Return the weighting of a b-matrix: its trace, and the direction of its largest eigenvector.

    `matrix`: 6 floats, s/mm2; Bxx, Bxy, Bxz, Byy, Byz, Bzz in the patient frame, as in (0018,9602) to (0018,9607) of
    PS3.3 C.8.13.5.9.
    """
    xx, xy, xz, yy, yz, zz = matrix
    sizes, directions = np.linalg.eigh(np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]))
    b_value = max(xx + yy + zz, 0.0)
    if not sizes[2] > 0:
        return Gradient(b_value)
    return Gradient(b_value, tuple(directions[:, 2].tolist()))


def along_image(encoded: Sequence[float], orientation: Sequence[float]) -> tuple[float, ...]:
    """Return a direction along row, column and normal of an image in the patient frame (LPS).

    `encoded`: 3 floats; components along row, column and normal. `orientation`: 6 floats; Image Orientation (Patient)
    (0020,0037).
    """
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    return tuple((encoded[0] * row + encoded[1] * column + encoded[2] * np.cross(row, column)).tolist())


def along_encoding(
    frequency: float, phase: float, slice_: float, orientation: Sequence[float], phase_along_row: bool
) -> tuple[float, ...]:
    """Return a direction along frequency, phase and slice encoding in the patient frame (LPS).

    The sense of these axes differs between coronal planes and the others, as dcm2niix found on phantoms; nothing in the
    header states it. The overall sign is arbitrary.

    `frequency`, `phase`, `slice_`: components of the direction. `orientation`: 6 floats; Image Orientation (Patient)
    (0020,0037). `phase_along_row`: in-plane Phase Encoding Direction (0018,1312) is ``ROW``.
    """
    coronal = int(np.abs(np.cross(orientation[:3], orientation[3:])).argmax()) == 1
    if phase_along_row:
        encoded = (phase, frequency, slice_) if coronal else (phase, -frequency, -slice_)
    else:
        encoded = (frequency, -phase, -slice_) if coronal else (frequency, phase, -slice_)
    return along_image(encoded, orientation)


def gradient_of_comments(ds: Dataset) -> Gradient | None:
    """Return the diffusion weighting that images of version 6 have in Image Comments (0020,4000).

    Frames of enhanced images have it in Frame Comments (0020,9158).

    ``b=1500(0.445,0.000,0.895)``: the direction along phase, frequency and slice encoding. Without In-plane Phase
    Encoding Direction (0018,1312) it is unknown.
    """
    match = _COMMENT.match(text(ds, "ImageComments") or text(ds, "FrameComments"))
    orientation = numbers(ds, "ImageOrientationPatient", 6)
    if not match:
        return None
    b_value, along_phase, along_frequency, along_slice = map(float, match.groups())
    phase = text(ds, "InPlanePhaseEncodingDirection")
    if orientation is None or phase not in ("ROW", "COL"):
        return Gradient(b_value)
    return Gradient(b_value, along_encoding(along_frequency, along_phase, along_slice, orientation, phase == "ROW"))


def b_matrices(ds: Dataset) -> tuple[Matrix, ...]:
    """Return the b-matrices of an acquisition in s/mm2, each with its nine elements row by row; empty if it names none.

    The text is JCAMP-DX, in which ``@3*(0)`` stands for three zeros.
    """
    for tag, element in held_elements(ds).items():
        if tag >> 16 == _GROUP and tag & 0xFF in _PARAMETERS and tag & 0xFF00:
            value = element.value
            text = value.encode("latin-1", "replace") if isinstance(value, str) else value
            if isinstance(text, bytes) and (found := _parsed(text)):
                return found
    return ()


@lru_cache(maxsize=4)
def _parsed(text: bytes) -> tuple[Matrix, ...]:
    match = _MATRICES.search(text)
    if match is None or not 0 < (count := int(match[1][:9])) <= MAX_MATRICES:
        return ()
    words: list[bytes] = []
    for word in _REPEATED.sub(rb" @\1*\2 ", match[2]).split():
        times, _, repeated = word[1:].partition(b"*") if word.startswith(b"@") else (b"1", b"", word)
        words += [repeated] * min(int(times), 9 * count) if times.isdigit() else []
        if len(words) > 9 * count:
            return ()
    try:
        numbers = list(map(float, words))
    except ValueError:
        return ()
    return tuple(zip(*[iter(numbers)] * 9, strict=True)) if len(numbers) == 9 * count else ()
