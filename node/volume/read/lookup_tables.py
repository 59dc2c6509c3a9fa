"""Lookup tables that are part of the stored values: palettes and the Modality LUT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

from node.dicom.values import items, numbers, value
from node.errors import ConversionRefused
from node.volume.model import Array
from node.volume.reasons import Reason


@dataclass(frozen=True, slots=True, eq=False)
class LookupTable:
    """Outputs by stored value. `first` is the stored value of the first entry; values outside take the first or last
    entry.

    `entries` is (entries,) for the Modality LUT, (entries, 3) for a palette.
    """

    first: int
    entries: Array

    def __call__(self, stored: Array) -> Array:
        index = np.clip(stored.astype(np.int64) - self.first, 0, len(self.entries) - 1)
        return self.entries[index]


def palette(ds: Dataset) -> LookupTable:
    """Return the palette of a PALETTE COLOR image as 8-bit RGB; 16-bit entries are reduced to their high byte.

    Plain tables, 8-bit entries in 16-bit words, and segmented tables (PS3.3 C.7.6.3.1.5, C.7.6.3.1.6, C.7.9.2).

    Raises
    ------
    ConversionRefused
        ``contradictory``: the palette is missing, or its data do not match its descriptor.
    """
    entries, first = _descriptor(ds, "RedPaletteColorLookupTableDescriptor", "(0028,1101)")
    try:
        table = apply_color_lut(np.arange(first, first + entries, dtype=np.int64), ds)[:, :3]
    except MemoryError:
        raise
    except Exception as error:  # a broken table makes pydicom raise anything
        raise _refused(
            "the palette in (0028,1101) to (0028,1223) cannot be expanded: its data do not match its descriptor"
        ) from error
    if table.dtype == np.uint16 and table.max(initial=0) > 0xFF:
        table = table >> 8  # otherwise: 8-bit entries in 16-bit words
    return LookupTable(first, table.astype(np.uint8))


def modality_lut(ds: Dataset) -> LookupTable | None:
    """Return the table of Modality LUT Sequence (0028,3000); None if it is absent (PS3.3 C.11.1).

    Raises
    ------
    ConversionRefused
        ``contradictory``: the data do not match the descriptor.
    """
    sequence = items(ds, "ModalityLUTSequence")
    if not sequence:
        return None
    item = sequence[0]
    entries, first = _descriptor(item, "LUTDescriptor", "(0028,3002)")
    data = value(item, "LUTData")
    bits = (numbers(item, "LUTDescriptor", 3) or (0, 0, 16))[2]
    table = _table(data, entries, int(bits), ds)
    if table is None:
        raise _refused(f"(0028,3006) LUT Data does not contain the {entries} entries of (0028,3002) LUT Descriptor")
    return LookupTable(first, table)


def _descriptor(ds: Dataset, keyword: str, tag: str) -> tuple[int, int]:
    """Return the number of entries and the first stored value of a table; 0 entries mean 65536."""
    descriptor = numbers(ds, keyword, 3)
    if descriptor is None or descriptor[0] < 0:
        raise _refused(f"{tag} lookup table descriptor is missing, or is not three numbers")
    return int(descriptor[0]) or 65536, int(descriptor[1])


def _table(data: object, entries: int, bits: int, ds: Dataset) -> Array | None:
    if isinstance(data, bytes):
        order = "<" if ds.original_encoding[1] is not False else ">"
        wide = len(data) >= 2 * entries
        entry_values: Array = np.frombuffer(
            data[: len(data) // 2 * 2 if wide else None], f"{order}u2" if wide else "u1"
        )
    elif isinstance(data, Sequence):
        entry_values = np.asarray(data)
    else:
        return None
    if entry_values.ndim != 1 or len(entry_values) < entries or entry_values.dtype.kind not in "iu":
        return None
    return entry_values[:entries].astype(np.uint8 if bits <= 8 else np.uint16)


def _refused(detail: str) -> ConversionRefused:
    return ConversionRefused(Reason.CONTRADICTORY, detail)
