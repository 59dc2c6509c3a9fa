"""Bruker: the parameters of ParaVision that its DICOM files hold as text."""

from __future__ import annotations

import re
from functools import lru_cache

from pydicom.dataset import Dataset

from node.dicom.values import held_elements

_GROUP = 0x0177
_PARAMETERS = (0x00, 0x01)  # (0177,xx00) and (0177,xx01), under creators whose names differ between versions
_MATRICES = re.compile(rb"##\$VisuAcqDiffusionBMatrix=\( *(\d+), *3, *3 *\)([^#$]*)")
_REPEATED = re.compile(rb"@(\d+)\*\(([^)]*)\)")
MAX_MATRICES = 1 << 16

Matrix = tuple[float, float, float, float, float, float, float, float, float]


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
