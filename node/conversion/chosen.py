"""Which series a conversion without a node converts: those that fit one selector and do not fit another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from node.errors import UsageError

if TYPE_CHECKING:
    from node.selector import Facts, Selector

ATTRIBUTES = (
    "patient_id", "patient_name", "patient_birth_date", "patient_sex", "study_instance_uid", "study_date",
    "study_description", "study_id", "accession_number", "referring_physician_name", "series_instance_uid", "modality",
    "series_number", "series_description", "series_date", "laterality", "protocol_name", "manufacturer",
    "manufacturer_model_name", "station_name",
)  # fmt: skip
"""Fields of selectors that are columns of `node.dicom.attributes` as well."""

KNOWN = frozenset((*ATTRIBUTES, "body_part", "instances"))
"""Fields of selectors that are known before the conversion."""


def known_facts(attributes: Mapping[str, Any], instances: int) -> Facts:
    """Return the facts of a series by the names of `KNOWN`, from the columns of `node.dicom.attributes`."""
    facts = {name: attributes.get(name) for name in ATTRIBUTES}
    return {**facts, "body_part": attributes.get("body_part_examined"), "instances": instances}


@dataclass(frozen=True, slots=True)
class Chosen:
    """The series to convert.

    `include`: they must fit it; None: every series does.
    `exclude`: they must not fit it.
    """

    include: Selector | None = None
    exclude: Selector | None = None

    def reason_against(self, attributes: Mapping[str, Any], instances: int) -> str | None:
        """Return why a series is not converted, or None if it is.

        `attributes`: by the columns of `node.dicom.attributes`.
        `instances`: their number.
        """
        facts = known_facts(attributes, instances)
        if self.include is not None and not self.include.matches(facts):
            return "does not fit --include"
        if self.exclude is not None and self.exclude.matches(facts):
            return "fits --exclude"
        return None


def chosen(include: str | None, exclude: str | None) -> Chosen:
    """Compile the two expressions.

    Raises UsageError: one is wrong, or has a field that is known only of series that a node has received or converted.
    """
    return Chosen(_compiled("--include", include), _compiled("--exclude", exclude))


def _compiled(option: str, expression: str | None) -> Selector | None:
    if expression is None:
        return None
    from node.selector import compile_selector  # here, because most conversions have no expression

    try:
        selector = compile_selector(expression)
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from error
    if unknown := sorted(selector.fields - KNOWN):
        raise UsageError(
            f"{option}: {', '.join(unknown)} is not known before a conversion; known are {', '.join(sorted(KNOWN))}"
        )
    return selector
