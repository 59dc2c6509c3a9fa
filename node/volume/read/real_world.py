"""Real world values of parametric maps: what stored values stand for, and in which unit.

The rescaling of a parametric map is the identity (PS3.3 C.8.32.2); Real World Value Mapping Sequence (0040,9096) gives
its quantity. Other images have such mappings beside their rescaling, and those are not applied. Only MR images of
Philips may have the mapping instead of a rescaling: stored values then have another scale in each series.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom import Dataset

from node.dicom.values import items, number, stated_numbers, text
from node.errors import ConversionRefused
from node.volume.read.meaning import MAPPING, Meaning, shared
from node.volume.reasons import Reason

PARAMETRIC_MAP = "1.2.840.10008.5.1.4.1.1.30"

_TABLE = ("FirstValueMapped", "LUTData")
"""What a table of values has in place of slope and intercept, behind ``RealWorldValue``."""


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
        if factor is not None:
            values = f"{factor:.5g}", f"{offset - factor * intercept:.5g}"
        found.add((*_codes(item, "MeasurementUnitsCodeSequence"), *_quantity(item), values))
    return shared((*meaning.items(), (int(MAPPING), frozenset(found))))


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
