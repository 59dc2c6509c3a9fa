"""Which series a conversion without a node converts: those that fit one selector and do not fit another.

Most conversions have no selector: what compiles and compares them is imported where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from node.errors import UsageError

if TYPE_CHECKING:
    from node.conversion.job import Converted
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


def fields_told() -> frozenset[str]:
    """Return the fields that the conversion tells."""
    from node.selector.fields import FIELDS

    return frozenset({"verdict", "failures", *(name for name, field in FIELDS.items() if field.group == "volume")})


def known_facts(attributes: Mapping[str, Any], instances: int) -> Facts:
    """Return the facts of a series by the names of `KNOWN`, from the columns of `node.dicom.attributes`."""
    facts = {name: attributes.get(name) for name in ATTRIBUTES}
    return {**facts, "body_part": attributes.get("body_part_examined"), "instances": instances}


def told_facts(converted: Converted) -> Facts:
    """Return the facts of a series by the names of `fields_told`, as an index has them of its newest revision."""
    from node.selector.fields import FIELDS, grid_fields

    volumes = [file for file in converted.files if file.kind == "volume"]
    facts: dict[str, Any] = {name: [] if FIELDS[name].several else None for name in fields_told()}
    facts["volumes"] = len({file.stack for file in volumes})
    facts["verdict"] = converted.completeness.state
    facts["failures"] = sorted({refusal.reason.value for refusal in converted.refusals})
    facts["warnings"] = sorted({warning for file in volumes for warning in file.warnings})
    if volumes:
        largest = min(volumes, key=lambda file: (-math.prod(file.shape), file.stack))
        facts |= {name: getattr(largest, name) for name in facts.keys() - {"warnings"} if hasattr(largest, name)}
        facts |= grid_fields(largest.shape, largest.spacing_mm, largest.geometry)
    return facts


@dataclass(frozen=True, slots=True)
class Chosen:
    """The series to convert.

    `include`: they must fit it; None: every series does.
    `exclude`: they must not fit it.
    `is_anonymous`: a reason against a series quotes none of its values.
    """

    include: Selector | None = None
    exclude: Selector | None = None
    is_anonymous: bool = False

    @property
    def told(self) -> frozenset[str]:
        """The fields that the selectors read and that are unknown before the conversion."""
        given = [one for one in (self.include, self.exclude) if one is not None]
        return frozenset().union(*(one.fields for one in given)) & fields_told() if given else frozenset()

    def reason_against(self, facts: Facts, converted: Converted | None = None) -> str | None:
        """Return why a series is not converted, or its volumes are not kept; None if they are.

        `facts`: those of `known_facts`.
        `converted`: the result; None before the conversion, when clauses decide that read nothing it tells.
        """
        include, exclude = self.include, self.exclude
        if converted is not None:
            facts = {**facts, **told_facts(converted)}
        elif self.told:
            from node.selector import clauses_about

            include = clauses_about(include, KNOWN) if include is not None else None
            exclude = exclude if exclude is not None and exclude.fields <= KNOWN else None
        if include is not None and not include.matches(facts):
            against = "does not fit --include"
            if self.is_anonymous:
                return against
            return f"{against}: {', '.join(instead for _, instead in include.why_not(facts))}"
        if exclude is not None and exclude.matches(facts):
            return "fits --exclude"
        return None


def chosen(include: str | None, exclude: str | None) -> Chosen:
    """Compile the two expressions.

    Raises UsageError: one is wrong, or has a field that only a node knows.
    """
    return Chosen(_compiled("--include", include), _compiled("--exclude", exclude))


def _compiled(option: str, expression: str | None) -> Selector | None:
    if expression is None:
        return None
    from node.selector import compile_selector

    try:
        selector = compile_selector(expression)
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from error
    require_told(option, selector)
    return selector


def require_told(place: str, selector: Selector) -> None:
    """Refuse a selector that compares what only a node knows; `place` is named in the message."""
    known = KNOWN | fields_told()
    if unknown := sorted(selector.fields - known):
        there = ", ".join(sorted(known))
        raise UsageError(f"{place}: {', '.join(unknown)} is known only to a node; known without one are {there}")
