"""Lookup tables that are part of the stored values, palettes and the Modality LUT; real world values.

A descriptor states how wide the entries are, and the data may contradict it. Entries are then as wide as they are
stored: a table that is cut to its stated width is a sawtooth.

The rescaling of a parametric map is the identity (PS3.3 C.8.32.2); Real World Value Mapping Sequence (0040,9096) gives
its quantity. Other images have such mappings beside their rescaling, and those are not applied. Only MR images of
Philips may have the mapping instead of a rescaling: stored values then have another scale in each series.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from node.dicom.values import items, number, numbers, stated_numbers, text, value
from node.errors import ConversionRefused
from node.volume.model import Array
from node.volume.read.meaning import MAPPING, Meaning, shared
from node.volume.read.pixel_layout import contradictory
from node.volume.reasons import Reason

_COLOURS = ("Red", "Green", "Blue")
_DISCRETE, _LINEAR, _INDIRECT = range(3)
_UNEXPANDED = "the palette in (0028,1101) to (0028,1223) cannot be expanded: its data do not match its descriptor"

PARAMETRIC_MAP = "1.2.840.10008.5.1.4.1.1.30"

_TABLE = ("FirstValueMapped", "LUTData")
"""What a table of values has in place of slope and intercept, behind ``RealWorldValue``."""


@dataclass(frozen=True, slots=True, eq=False)
class LookupTable:
    """Outputs by stored value. `first` is the stored value of the first entry; values outside take the first or last
    entry.

    `entries` is (entries,) for the Modality LUT, (entries, 3) for a palette. `doubt`: what contradicts the stated width
    of the entries, as a sentence; else empty.
    """

    first: int
    entries: Array
    doubt: str = ""

    def __call__(self, stored: Array) -> Array:
        index = np.clip(stored.astype(np.int64) - self.first, 0, len(self.entries) - 1)
        return self.entries[index]


class _Descriptor(NamedTuple):
    """Number of entries, stored value of the first one, and bits of an entry."""

    entries: int
    first: int
    bits: int


def palette(ds: Dataset) -> LookupTable:
    """Return the palette of a PALETTE COLOR image as 8-bit RGB; wider entries are reduced to their high byte.

    Plain tables, 8-bit entries in 16-bit words, and segmented tables (PS3.3 C.7.6.3.1.5, C.7.6.3.1.6, C.7.9.2).

    Raises ConversionRefused ``contradictory``: the palette is missing, or its data do not match its descriptor.
    """
    descriptor = _descriptor(ds, ds, "RedPaletteColorLookupTableDescriptor", "(0028,1101)")
    channels = [_channel(ds, colour, descriptor) for colour in _COLOURS]
    table = np.stack(channels, axis=-1)
    widest = int(table.max())
    doubt = _doubt("(0028,1101) to (0028,1103)", descriptor.bits, widest)
    if widest > 0xFF:
        table = table >> (widest.bit_length() - 8 if doubt else max(descriptor.bits, 9) - 8)
    elif descriptor.bits > 8 and widest:  # 8-bit entries in 16-bit words
        doubt = f"no entry of the palette (0028,1101) exceeds {widest}: they are read as 8 bits, not {descriptor.bits}"
    return LookupTable(descriptor.first, table.astype(np.uint8), doubt)


def modality_lut(ds: Dataset) -> LookupTable | None:
    """Return the table of Modality LUT Sequence (0028,3000); None if it is absent (PS3.3 C.11.1).

    Raises ConversionRefused ``contradictory``: the data do not match the descriptor.
    """
    sequence = items(ds, "ModalityLUTSequence")
    if not sequence:
        return None
    descriptor = _descriptor(sequence[0], ds, "LUTDescriptor", "(0028,3002)")
    table = plain_entries(value(sequence[0], "LUTData"), descriptor.entries, ds)
    if table is None:
        raise contradictory(
            f"(0028,3006) LUT Data does not contain the {descriptor.entries} entries of (0028,3002) LUT Descriptor"
        )
    least, widest = int(table.min()), int(table.max())
    dtype = np.min_scalar_type(least) if least < 0 else np.dtype(np.uint8 if descriptor.bits <= 8 else np.uint16)
    doubt = _doubt("(0028,3002)", descriptor.bits, widest)
    if least < 0:
        doubt = "entries of the Modality LUT (0028,3006) are negative, although they have no sign (PS3.3 C.11.1.1)"
    return LookupTable(descriptor.first, table.astype(np.promote_types(dtype, np.min_scalar_type(widest))), doubt)


def _doubt(tag: str, bits: int, widest: int) -> str:
    if widest < 1 << bits:
        return ""
    return f"the lookup table descriptor {tag} says {bits} bits, but entries reach {widest}: they are read as stored"


def _descriptor(ds: Dataset, image: Dataset, keyword: str, tag: str) -> _Descriptor:
    """Return the descriptor of a table; 0 entries mean 65536.

    The second number has the sign of the pixels, which its value representation may lack (PS3.3 C.11.1.1).
    """
    stated = numbers(ds, keyword, 3)
    if stated is None or not all(map(math.isfinite, stated)) or stated[0] < 0:
        raise contradictory(f"{tag} lookup table descriptor is missing, or is not three numbers")
    entries, first, bits = map(int, stated)
    is_signed = number(image, "PixelRepresentation") == 1
    first -= 65536 if is_signed and first > 0x7FFF else 0
    return _Descriptor(entries or 65536, first, bits if 1 <= bits <= 16 else 16)


def plain_entries(data: object, entries: int, ds: Dataset) -> Array | None:
    """Return the entries of a plain table as they are stored, in bytes or in words; None if there are too few."""
    if isinstance(data, bytes):
        entry_values = _words(data, ds, wide=len(data) >= 2 * entries)
    elif isinstance(data, Sequence):
        entry_values = np.asarray(data)
    else:
        return None
    if entry_values.ndim != 1 or len(entry_values) < entries or entry_values.dtype.kind not in "iu":
        return None
    return entry_values[:entries]


def _words(data: bytes, ds: Dataset, *, wide: bool) -> Array:
    order = "<" if ds.original_encoding[1] is not False else ">"
    return np.frombuffer(data[: len(data) // 2 * 2], f"{order}u2") if wide else np.frombuffer(data, np.uint8)


def _channel(ds: Dataset, colour: str, descriptor: _Descriptor) -> Array:
    """Return the (entries,) of one colour of a palette, from its plain or its segmented table."""
    plain = value(ds, f"{colour}PaletteColorLookupTableData")
    if plain is not None:
        table = plain_entries(plain, descriptor.entries, ds)
        if table is None:
            raise contradictory(_UNEXPANDED)
        return table
    segmented = value(ds, f"Segmented{colour}PaletteColorLookupTableData")
    if not isinstance(segmented, bytes):
        raise contradictory(_UNEXPANDED)
    is_wide = descriptor.bits > 8
    for wide in (is_wide, not is_wide):
        try:
            expanded = _expanded(_words(segmented, ds, wide=wide).tolist(), wide=wide, most=descriptor.entries)
        except (IndexError, ValueError):
            continue
        if len(expanded) == descriptor.entries:
            return np.array(expanded, np.uint16)
    raise contradictory(_UNEXPANDED)


def _expanded(data: Sequence[int], *, wide: bool, most: int) -> list[int]:
    """Return the entries that segments describe (PS3.3 C.7.9.2).

    `wide`: segments are words, not bytes. `most`: a table with more entries is wrong.

    Raises IndexError: a segment is cut off. ValueError: a segment cannot be expanded.
    """
    table: list[int] = []
    at = 0
    while at + 1 < len(data) and len(table) < most:
        at = _expand_segment(data, at, table, wide=wide, most=most)
    if any(data[at:]) or len(table) > most:
        raise ValueError("data are left behind the last segment")
    return table


def _expand_segment(
    data: Sequence[int], at: int, table: list[int], *, wide: bool, most: int, nested: bool = False
) -> int:
    """Append the entries of the segment at `at`, and return where the next one begins."""
    kind, length = data[at], data[at + 1]
    at += 2
    if kind == _DISCRETE:
        if at + length > len(data):
            raise IndexError("the segment is cut off")
        table += data[at : at + length]
        return at + length
    if not table:
        raise ValueError("the first segment is not discrete")
    if kind == _LINEAR:
        end = data[at]
        steps = np.linspace(table[-1], end, length + 1)[1:]
        table += [int(step) for step in np.around(steps)]
        return at + 1
    if kind != _INDIRECT or nested:
        raise ValueError("the type of the segment is unknown")
    parts = 2 if wide else 4
    places = data[at : at + parts]
    offset = sum(part << (16 if wide else 8) * place for place, part in enumerate(places)) // (2 if wide else 1)
    for _ in range(length):
        offset = _expand_segment(data, offset, table, wide=wide, most=most, nested=True)
        if len(table) > most:
            raise ValueError("there are too many entries")
    return at + parts


@dataclass(frozen=True, slots=True)
class RealWorldMapping:
    """``real = stored * slope + intercept``, and the codes of the unit and of what the quantity is."""

    slope: float = 1.0
    intercept: float = 0.0
    quantity: tuple[str, ...] = ()


def real_world_mapping(mappings: Sequence[Dataset]) -> RealWorldMapping:
    """Return the mapping of one frame of a parametric map; without any, stored values are real ones.

    Raises ConversionRefused ``contradictory``: there are several different mappings, or the mapping is no slope and
    intercept.
    """
    found = {_mapping(item) for item in mappings}
    if len(found) > 1:
        raise ConversionRefused(
            Reason.CONTRADICTORY,
            f"(0040,9096) Real World Value Mapping Sequence gives a frame {len(found)} different values; a volume can "
            "hold only one",
        )
    return next(iter(found), RealWorldMapping())


def instead_of_rescale(ds: Dataset, mappings: Sequence[Dataset]) -> tuple[float, float] | None:
    """Return slope and intercept of an MR image of Philips without Rescale Slope (0028,1053); None of any other image.

    `mappings` are the items of Real World Value Mapping Sequence of the image or of its frame; tables of values count
    as none.

    Raises ConversionRefused: ``contradictory``: see `real_world_mapping`.
    """
    if not mappings or text(ds, "Modality") != "MR" or not text(ds, "Manufacturer").upper().startswith("PHILIPS"):
        return None
    linear = [item for item in mappings if number(item, "RealWorldValueSlope")]
    mapping = real_world_mapping(linear)
    return (mapping.slope, mapping.intercept) if linear else None


def units_of(mappings: Sequence[Dataset]) -> tuple[str, ...] | None:
    """Return the codes of the units and quantities of all mappings of one frame; None if it has none."""
    units = {code for item in mappings for code in (*_codes(item, "MeasurementUnitsCodeSequence"), *_quantity(item))}
    return tuple(sorted(units)) or None


def with_mappings(meaning: Meaning, mappings: Sequence[Dataset], slope: float, intercept: float) -> Meaning:
    """Return the meaning of a frame with its mappings, as slopes and intercepts from rescaled to real values.

    `slope`, `intercept`: the rescaling of the frame, which each slice may have for itself, and its mapping with it.
    """
    if not mappings:
        return meaning
    found = set()
    for item in mappings:
        real, offset = number(item, "RealWorldValueSlope"), number(item, "RealWorldValueIntercept") or 0.0
        factor = None if real is None or not slope else real / slope
        values: tuple[object, ...] = tuple(stated_numbers(item, f"RealWorldValue{name}") for name in _TABLE)
        found.add(values if factor is None else (f"{factor:.5g}", f"{offset - factor * intercept:.5g}"))
    return shared((*meaning.items(), ((MAPPING,), frozenset(found))))


def _mapping(item: Dataset) -> RealWorldMapping:
    slope, intercept = number(item, "RealWorldValueSlope"), number(item, "RealWorldValueIntercept")
    if not slope or intercept is None:
        raise ConversionRefused(
            Reason.CONTRADICTORY,
            "(0040,9225) Real World Value Slope or (0040,9224) Real World Value Intercept is missing; tables of values "
            "(0040,9212) are not supported",
        )
    return RealWorldMapping(slope, intercept, (*_codes(item, "MeasurementUnitsCodeSequence"), *_quantity(item)))


def _quantity(item: Dataset) -> tuple[str, ...]:
    """Return the codes of Quantity Definition Sequence (0040,9220), such as that of an ADC and of its model."""
    return tuple(
        code
        for definition in items(item, "QuantityDefinitionSequence")
        for code in (*_codes(definition, "ConceptNameCodeSequence"), *_codes(definition, "ConceptCodeSequence"))
    )


def _codes(item: Dataset, keyword: str) -> tuple[str, ...]:
    return tuple(f"{text(code, 'CodingSchemeDesignator')} {text(code, 'CodeValue')}" for code in items(item, keyword))
