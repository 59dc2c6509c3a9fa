"""Diffusion weightings as the vendors' elements give them, and rotations into the patient frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


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
