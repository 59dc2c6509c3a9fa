"""Matching of workitems: of clients, against their attributes; of conversions, by the index as a query for series."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastapi import HTTPException
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from node.dicom.json_model import Json
from node.dicom.key_values import OneOf
from node.dicom.keys import InvalidQuery
from node.dicom.matching import Options, Query, read_query
from node.dicom.values import standard_tag
from node.extensions.dicomweb.searches import Path, attribute_path, put_key
from node.extensions.workitems import workitem_model
from node.extensions.workitems.unified_steps import STATES, State
from node.extensions.worklist.queries import WorklistKey, is_match, read_worklist_query

OF_SERIES = {
    "PatientName": ("",),
    "PatientID": ("",),
    "PatientBirthDate": ("",),
    "PatientSex": ("",),
    "StudyInstanceUID": ("", "ReferencedRequestSequence", "InputInformationSequence"),
    "SeriesInstanceUID": ("", "InputInformationSequence"),
    "AccessionNumber": ("", "ReferencedRequestSequence"),
}
"""Keys that the series of a workitem must match, as in QIDO-RS, and the sequences in which they may be given."""

CONSTANT = {
    "ScheduledProcedureStepPriority": workitem_model.PRIORITY,
    "ProcedureStepLabel": workitem_model.LABEL,
    "WorklistLabel": workitem_model.WORKLIST,
    "ScheduledWorkitemCodeSequence.CodeValue": workitem_model.CODE[0],
    "ScheduledWorkitemCodeSequence.CodingSchemeDesignator": workitem_model.CODE[1],
}
"""Keys with the same value in every workitem."""

OF_CONVERSIONS_UNMATCHED = (
    "ScheduledProcedureStepStartDateTime",
    "ScheduledProcedureStepModificationDateTime",
    "InputReadinessState",
)
"""Keys that are matched for workitems of clients only: conversions have values, but the index does not."""

OWN = ("SOPInstanceUID", "ProcedureStepState")

_AT_TOP = {
    "StudyInstanceUID": "ReferencedRequestSequence",
    "AccessionNumber": "ReferencedRequestSequence",
    "SeriesInstanceUID": "InputInformationSequence",
}
"""Keys that may be given without the sequence in which workitems have them."""


@dataclass(frozen=True, slots=True)
class WorkitemQuery:
    """What workitems must match.

    `keys`: all keys but those of `states` and `uids`. `series`: of level SERIES: what the series of a conversion must
    match. `uids`: None: any. `may_be_conversion`: False if no conversion can match. `unsupported`, `unknown`: keys that
    are not matched, some of them for conversions only; and parameters that name no attribute.
    """

    keys: tuple[WorklistKey, ...]
    series: Query
    states: tuple[State, ...] = STATES
    uids: tuple[str, ...] | None = None
    may_be_conversion: bool = True
    unsupported: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def matches(self, attributes: Json) -> bool:
        """Return whether the attributes of a workitem satisfy `keys`."""
        return is_match(self.keys, attributes)

    @property
    def patient_id(self) -> str | None:
        """The Patient ID that all matches have; None if it is a pattern or not given."""
        found = next((key.matches for key in self.keys if key.keyword == "PatientID"), ())
        match found:
            case (OneOf((value,)),):
                return str(value)
        return None


def read_keys(keys: Iterable[tuple[str, str]], *, fuzzy: bool = False) -> WorkitemQuery:
    """Return the query of attributes with their values (PS3.18 8.3.4.1).

    Raises HTTPException 400: a value violates its value representation.
    """
    of_series, identifier = Dataset(), Dataset()
    of_series.QueryRetrieveLevel = "SERIES"
    states, uids, may_be_conversion = STATES, None, True
    unsupported, unknown = [], []
    for name, text in keys:
        path = attribute_path(name)
        if path is None:
            unknown.append(name[:64])
            continue
        *above, keyword = [keyword_for_tag(tag) or str(tag) for tag in path]
        full = ".".join((*above, keyword))
        if full == "ProcedureStepState":
            states = _states(text)
            continue
        if full == "SOPInstanceUID":
            uids = tuple(uid for uid in text.replace("\\", ",").split(",") if uid) or None
            continue
        put_key(identifier, _whole_path(path, full), _values(keyword, text))
        if keyword in OF_SERIES and ".".join(above) in OF_SERIES[keyword]:
            _put(of_series, keyword, text)
        elif full in OF_CONVERSIONS_UNMATCHED:
            unsupported.append(full)
        else:
            may_be_conversion &= text in ("", "*", CONSTANT.get(full, "*"))
    try:
        options = Options(relational=True, combined_datetime=True, fuzzy=fuzzy)
        series, query = read_query(of_series, options=options), read_worklist_query(identifier, fuzzy=fuzzy)
    except InvalidQuery as error:
        raise HTTPException(400, str(error)) from error
    unsupported += [name[:64] for name in query.unsupported]
    return WorkitemQuery(query.keys, series, states, uids, may_be_conversion, tuple(unsupported), tuple(unknown))


def _whole_path(path: Path, full: str) -> Path:
    return (standard_tag(_AT_TOP[full]), *path) if full in _AT_TOP else path


def _values(keyword: str, text: str) -> list[str]:
    tag = tag_for_keyword(keyword)
    is_list = tag is not None and dictionary_VR(tag) in ("UI", "CS")
    return text.replace("\\", ",").split(",") if is_list else text.split("\\")


def _put(identifier: Dataset, keyword: str, text: str) -> None:
    tag = standard_tag(keyword)
    # Patterns and ranges are not valid values of the VR; the query parser checks them.
    vr = "PN" if dictionary_VR(tag) == "PN" else "LO"
    identifier.add(DataElement(tag, vr, _values(keyword, text), validation_mode=IGNORE))


def _states(text: str) -> tuple[State, ...]:
    wanted: Sequence[str] = [value for value in text.replace("\\", ",").split(",") if value]
    if not wanted or "*" in wanted:
        return STATES
    if not set(wanted) <= set(STATES):
        raise HTTPException(400, f"ProcedureStepState must be one of {', '.join(STATES)} (PS3.4 CC.1.1)")
    return tuple(state for state in STATES if state in wanted)
