"""Check worklist entries from REST, files and orders: what is kept may be given to a modality (PS3.4 K.6.1.2.2)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from node.dicom.attributes import MAX_TEXT_BYTES, date_of, is_short, time_of
from node.dicom.json_model import NAME_GROUPS, Json, entry_text, json_model, name_groups
from node.errors import UsageError
from node.extensions.worklist.queries import MAX_DEPTH, STEP_SEQUENCE
from node.extensions.worklist.scheduled_rows import ScheduledStep

MAX_ELEMENTS = 1000
"""Elements and items of an entry; real ones have fifty."""

_WIDTHS = {
    "AE": 16, "AS": 4, "DA": 8, "DS": 16, "DT": 26, "IS": 12, "LT": 10240, "ST": 1024, "TM": 16, "UC": 65536, "UI": 64,
    "UR": 8192, "UT": 65536,
}  # fmt: skip
"""Most characters of a value, PS3.5 6.2."""

_INDEXED = frozenset(("CS", "LO", "PN", "SH"))
"""Texts that are compared with those of instances, and as long as theirs may be."""

_NUMBERS = frozenset(("FD", "FL", "SL", "SS", "UL", "US"))
_LINES = frozenset(("LT", "ST", "UT"))
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CONTROL_BUT_LINES = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_UID = re.compile(r"[0-9.]{1,64}")
_DROPPED = frozenset({0x00080005})
"""Specific Character Set (0008,0005): an entry is UTF-8, and an answer says how it is encoded."""

REQUIRED = ("PatientName", "PatientID")
REQUIRED_OF_STEP = ("Modality", "ScheduledStationAETitle", "ScheduledProcedureStepStartDate")
"""Attributes of type 1 in table K.6-1 that nobody but the sender of an entry can know."""


class InvalidEntry(UsageError):
    """A worklist entry breaks a rule; the message names the attribute and the rule, and has no patient data."""


class _TooMany(Exception):
    """A data set has too many elements."""


FIELDS: Mapping[str, str] = {
    "patient_id": "PatientID",
    "patient_name": "PatientName",
    "patient_birth_date": "PatientBirthDate",
    "patient_sex": "PatientSex",
    "accession_number": "AccessionNumber",
    "referring_physician_name": "ReferringPhysicianName",
    "study_instance_uid": "StudyInstanceUID",
    "requested_procedure_id": "RequestedProcedureID",
    "requested_procedure_description": "RequestedProcedureDescription",
}
"""Names of plain fields, and the attributes of an entry that they are."""

FIELDS_OF_STEP: Mapping[str, str] = {
    "scheduled_procedure_step_id": "ScheduledProcedureStepID",
    "modality": "Modality",
    "station_ae_title": "ScheduledStationAETitle",
    "station_name": "ScheduledStationName",
    "start_date": "ScheduledProcedureStepStartDate",
    "start_time": "ScheduledProcedureStepStartTime",
    "description": "ScheduledProcedureStepDescription",
}
"""The same, of the item of its Scheduled Procedure Step Sequence (0040,0100)."""


def step_of(
    fields: Mapping[str, str], attributes: Mapping[str, Any] | None = None, kept: Mapping[str, str] | None = None
) -> ScheduledStep:
    """Return the step that plain fields and attributes describe, with identifiers that it lacks.

    `fields` are values by the names of `FIELDS` and `FIELDS_OF_STEP`. They count more than `attributes`, a data set in
    the DICOM JSON Model; those of `kept` count if neither has a value. Raises InvalidEntry, as all functions here.
    """
    entry = _of_fields(kept or {})
    for part in (checked_data_set(attributes or {}), _of_fields(fields)):
        entry = _merged(entry, part)
    return scheduled_step(completed(checked(entry)))


def _of_fields(fields: Mapping[str, str]) -> Json:
    step = {
        _tag(FIELDS_OF_STEP[name]): element(FIELDS_OF_STEP[name], text)
        for name, text in fields.items()
        if name in FIELDS_OF_STEP
    }
    entry = {_tag(FIELDS[name]): element(FIELDS[name], text) for name, text in fields.items() if name in FIELDS}
    return {**entry, _tag(STEP_SEQUENCE): {"vr": "SQ", "Value": [step]}}


def _merged(entry: Json, other: Json) -> Json:
    """Return an entry with the elements of another that have values, in its step as well."""
    name = _tag(STEP_SEQUENCE)
    steps, others = entry[name]["Value"], other.get(name, {}).get("Value", [])
    if len(steps) > 1 or len(others) != 1:
        several = steps if len(steps) > 1 else others or steps
        return {**entry, **_filled(other), name: {"vr": "SQ", "Value": several}}
    one = [{**step, **_filled(others[0])} for step in steps or [{}]]
    return {**entry, **_filled(other), name: {"vr": "SQ", "Value": one}}


def checked(model: Mapping[str, Any]) -> Json:
    """Return an entry in the DICOM JSON Model, without what a worklist does not carry: private and binary elements."""
    entry = checked_data_set(model)
    steps = entry.get(_tag(STEP_SEQUENCE), {}).get("Value", [])
    if len(steps) != 1:
        raise InvalidEntry(f"{_named(STEP_SEQUENCE)} must have one item: an entry is one step (PS3.4 K.6.1.1)")
    return entry


def checked_data_set(model: object) -> Json:
    """Return a data set in the DICOM JSON Model, without private and binary elements and without invalid values."""
    try:
        return _checked(model, iter(range(MAX_ELEMENTS)), 0)
    except _TooMany:
        raise InvalidEntry(f"a data set must not have more than {MAX_ELEMENTS} elements and items") from None


def _checked(model: object, counter: Iterator[int], depth: int) -> Json:
    if not isinstance(model, Mapping):
        raise InvalidEntry("a data set must be a JSON object of elements by tag (PS3.18 F.2.2)")
    if depth > MAX_DEPTH:
        raise InvalidEntry(f"sequences must not be nested deeper than {MAX_DEPTH}")
    kept: Json = {}
    for name, element in model.items():
        if next(counter, None) is None:
            raise _TooMany
        if not isinstance(name, str) or not re.fullmatch(r"[0-9A-Fa-f]{8}", name) or not isinstance(element, Mapping):
            raise InvalidEntry("elements must be objects, with tags of eight hexadecimal digits (PS3.18 F.2.2)")
        values = element.get("Value", [])
        if not isinstance(values, list):
            raise InvalidEntry(f"{name}: Value must be an array (PS3.18 F.2.2)")
        vr = _carried(int(name, 16))
        if vr == "SQ":
            kept[name.upper()] = {"vr": vr, "Value": [_checked(item, counter, depth + 1) for item in values]}
        elif vr is not None:
            kept[name.upper()] = _element(int(name, 16), vr, values)
    return dict(sorted(kept.items()))


def _carried(tag: int) -> str | None:
    """Return the VR of an attribute that a worklist carries; None for another."""
    if tag in _DROPPED or not dictionary_has_tag(tag) or not tag & 0xFFFF or tag >> 16 in (0, 2):
        return None
    vr = dictionary_VR(tag)
    return vr if vr == "SQ" or vr in _WIDTHS or vr in _INDEXED or vr in _NUMBERS else None


def _element(tag: int, vr: str, values: list[Any]) -> Json:
    if vr in _NUMBERS:
        return {"vr": vr, "Value": [_number(tag, value) for value in values]}
    texts = [_value(tag, vr, value) for value in values]
    return {"vr": vr, "Value": texts} if any(texts) else {"vr": vr}


def _value(tag: int, vr: str, value: Any) -> Any:
    """Return a value of an element as text, a PN as an object of its component groups."""
    if vr == "PN":
        groups = value if isinstance(value, Mapping) else {"Alphabetic": value}
        known = {group: _text(tag, vr, groups[group]) for group in NAME_GROUPS if groups.get(group)}
        return known or None
    return _text(tag, vr, value) or None


def _number(tag: int, value: Any) -> int | float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not -(2**31) <= value < 2**32:
        raise InvalidEntry(f"{_named(tag)}: a value must be a number")
    return value


_RULES: Mapping[str, tuple[Callable[[str], object], str]] = {
    "DA": (date_of, "must be a date YYYYMMDD"),
    "TM": (time_of, "must be a time HHMMSS"),
    "UI": (_UID.fullmatch, "must be a UID of digits and dots (PS3.5 9.1)"),
    "IS": (re.compile(r"[+-]?\d{1,11}").fullmatch, "must be a whole number"),
    "DS": (re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?").fullmatch, "must be a number"),
}


def _text(tag: int, vr: str, value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise InvalidEntry(f"{_named(tag)}: a value must be text or a number")
    text = str(value).strip(" ")
    forbidden = _CONTROL_BUT_LINES if vr in _LINES else _CONTROL
    if forbidden.search(text) or (vr not in _LINES and "\\" in text):
        raise InvalidEntry(f"{_named(tag)}: no control characters or backslashes are allowed (PS3.5 6.2)")
    if vr in _INDEXED and not is_short(text):
        raise InvalidEntry(f"{_named(tag)}: must not be longer than {MAX_TEXT_BYTES} bytes")
    if len(text) > _WIDTHS.get(vr, MAX_TEXT_BYTES):
        raise InvalidEntry(f"{_named(tag)}: must not be longer than {_WIDTHS[vr]} characters (PS3.5 6.2)")
    check, rule = _RULES.get(vr, (bool, ""))
    if text and not check(text):
        raise InvalidEntry(f"{_named(tag)}: {rule}")
    return text


def completed(entry: Json) -> Json:
    """Return an entry with what a modality needs: identifiers that its source left out are generated.

    Raises InvalidEntry if an attribute is missing that only the source can know (`REQUIRED`, `REQUIRED_OF_STEP`).
    """
    (step,) = entry[_tag(STEP_SEQUENCE)]["Value"]
    for keyword, where in [
        *((keyword, entry) for keyword in REQUIRED),
        *((keyword, step) for keyword in REQUIRED_OF_STEP),
    ]:
        if not entry_text(where, keyword):
            raise InvalidEntry(f"{_named(keyword)} is missing (PS3.4 table K.6-1)")
    number = f"S{secrets.token_hex(5).upper()}"
    step = {**_absent(step, ScheduledProcedureStepStartTime="000000", ScheduledProcedureStepID=number), **_filled(step)}
    of_procedure = entry_text(step, "ScheduledProcedureStepID") or number
    added = _absent(entry, StudyInstanceUID=str(generate_uid(None)), RequestedProcedureID=of_procedure)
    return dict(sorted({**added, **_filled(entry), _tag(STEP_SEQUENCE): {"vr": "SQ", "Value": [step]}}.items()))


def _filled(model: Json) -> Json:
    return {name: element for name, element in model.items() if element.get("Value")}


def _absent(model: Json, **texts: str) -> Json:
    """Return elements for the attributes that a data set lacks."""
    return {_tag(keyword): element(keyword, text) for keyword, text in texts.items() if not entry_text(model, keyword)}


def element(keyword: str, text: str) -> Json:
    """Return an element of the DICOM JSON Model with one value."""
    vr = dictionary_VR(tag_for_keyword(keyword) or 0)
    if not text:
        return {"vr": vr}
    if vr == "PN":
        return {"vr": vr, "Value": [name_groups(text)]}
    return {"vr": vr, "Value": [text]}


def model_of(ds: Dataset) -> Json:
    """Return a data set of a file in the DICOM JSON Model."""
    return json_model(ds, lambda path: None)


def scheduled_step(entry: Json) -> ScheduledStep:
    """Return an entry that was `checked`, with the attributes by which the index finds it."""
    (step,) = entry[_tag(STEP_SEQUENCE)]["Value"]
    texts = {name: entry_text(entry, keyword) for name, keyword in FIELDS.items()}
    texts |= {name: entry_text(step, keyword) for name, keyword in FIELDS_OF_STEP.items()}
    start = {"start_date": date_of(texts["start_date"] or ""), "start_time": time_of(texts["start_time"] or "")}
    found: dict[str, Any] = {name: texts[name] for name in ScheduledStep.__slots__ if name in texts}
    return ScheduledStep(**found | start, attributes=entry)


def _tag(keyword: str) -> str:
    return f"{tag_for_keyword(keyword) or 0:08X}"


def _named(attribute: str | int) -> str:
    tag = tag_for_keyword(attribute) or 0 if isinstance(attribute, str) else attribute
    return f"{keyword_for_tag(tag)} ({tag >> 16:04X},{tag & 0xFFFF:04X})"
