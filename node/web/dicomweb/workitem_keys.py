"""Matching of workitems: their keys as a query for series, in which the index matches them, and as states."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastapi import HTTPException
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from node.dicom.keys import InvalidQuery
from node.dicom.matching import Options, Query, read_query
from node.index.read.workitems import State
from node.web.dicomweb import workitem_model
from node.web.dicomweb.qido import attribute_path

STATES: tuple[State, ...] = ("SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED")

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

OWN = ("SOPInstanceUID", "ProcedureStepState")


@dataclass(frozen=True, slots=True)
class WorkitemQuery:
    """What workitems must match.

    Attributes
    ----------
    series : Query
        Of level SERIES.
    states : tuple of str
    uids : tuple of str or None
        None: any.
    is_possible : bool
        False if no workitem can match.
    unsupported, unknown : tuple of str
        Keys that are not matched, and parameters that name no attribute.
    """

    series: Query
    states: tuple[State, ...] = STATES
    uids: tuple[str, ...] | None = None
    is_possible: bool = True
    unsupported: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def read_keys(keys: Iterable[tuple[str, str]], *, fuzzy: bool = False) -> WorkitemQuery:
    """Return the query of attributes with their values (PS3.18 8.3.4.1).

    Raises
    ------
    HTTPException
        400: a value violates its value representation.
    """
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "SERIES"
    states, uids, possible = STATES, None, True
    unsupported, unknown = [], []
    for name, text in keys:
        path = attribute_path(name)
        if path is None:
            unknown.append(name[:64])
            continue
        *above, keyword = [keyword_for_tag(tag) or str(tag) for tag in path]
        full = ".".join((*above, keyword))
        if keyword in OF_SERIES and ".".join(above) in OF_SERIES[keyword]:
            _put(identifier, keyword, text)
        elif full == "ProcedureStepState":
            states = _states(text)
        elif full == "SOPInstanceUID":
            uids = tuple(uid for uid in text.replace("\\", ",").split(",") if uid) or None
        elif full in CONSTANT:
            possible &= text in ("", "*", CONSTANT[full])
        else:
            unsupported.append(full[:64])
    try:
        series = read_query(identifier, options=Options(relational=True, combined_datetime=True, fuzzy=fuzzy))
    except InvalidQuery as error:
        raise HTTPException(400, str(error)) from error
    return WorkitemQuery(series, states, uids, possible, tuple(unsupported), tuple(unknown))


def _put(identifier: Dataset, keyword: str, text: str) -> None:
    tag = tag_for_keyword(keyword) or 0
    vr = dictionary_VR(tag)
    values = (text.replace("\\", ",").split(",")) if vr in ("UI", "CS") else text.split("\\")
    # Patterns and ranges are not valid values of the VR; the query parser checks them.
    identifier.add(DataElement(tag, "PN" if vr == "PN" else "LO", values, validation_mode=IGNORE))


def _states(text: str) -> tuple[State, ...]:
    wanted: Sequence[str] = [value for value in text.replace("\\", ",").split(",") if value]
    if not wanted or "*" in wanted:
        return STATES
    if not set(wanted) <= set(STATES):
        raise HTTPException(400, f"ProcedureStepState must be one of {', '.join(STATES)} (PS3.4 CC.1.1)")
    return tuple(state for state in STATES if state in wanted)
