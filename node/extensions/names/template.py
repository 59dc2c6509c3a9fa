"""The template of ``[storage] names``: a folder for a study, a slash, and what the names of a series begin with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from node.api import TOKENS, NameTemplate, UsageError, modalities_of, name_template, patient_of

KEY = "names"

OF_NO_COLUMN = frozenset({"folder", "station"})
"""Tokens that the index has no value for."""

OF_SERIES = frozenset(
    {"series_number", "series_description", "protocol_name", "series_date", "series_time", "body_part", "manufacturer"}
    | {"model", "series_uid"}
)
"""Tokens that have no value for a study."""


@dataclass(frozen=True, slots=True)
class TreeTemplate:
    """The names of studies and of series, from rows of ``v_studies`` and ``v_series``."""

    folder: NameTemplate
    series: NameTemplate

    def name_of_study(self, study: Mapping[str, Any], series: Sequence[Mapping[str, Any]]) -> str:
        """Return the name of the folder of a study."""
        return self.folder.name_of(_facts(study) | {"modality": modalities_of(series)})

    def name_of_series(self, study: Mapping[str, Any], series: Mapping[str, Any]) -> str:
        """Return what the names of the files of a series begin with."""
        return self.series.name_of({**_facts(study), **series})


def _facts(study: Mapping[str, Any]) -> dict[str, Any]:
    return {**study, "patient_name": patient_of(study)}


def read_template(text: str) -> TreeTemplate:
    """Return the template that a text is; raises UsageError with what is wrong with it."""
    folder, slash, series = text.partition("/")
    if not slash or "/" in series or not folder.strip() or not series.strip():
        raise UsageError(
            f"{KEY} {text!r}: write a name for the folder of a study, one slash, and a name for a series, such as "
            '"{patient_name}_{study_date}/{series_number:03}_{series_description}"'
        )
    templates = name_template(folder, key=KEY), name_template(series, key=KEY)
    for template, refused in zip(templates, (OF_NO_COLUMN | OF_SERIES, OF_NO_COLUMN), strict=True):
        for token in re.findall(r"\{([a-z_]+)", template.text):
            if token in refused:
                known = ", ".join(name for name in TOKENS if name not in refused)
                raise UsageError(f"{KEY} {text!r}: {{{token}}} cannot be used in {template.text!r}; use {known}")
    return TreeTemplate(*templates)
